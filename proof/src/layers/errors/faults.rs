//! What a call of the system may answer, and what the library makes of it.

use std::io::ErrorKind as Io;

use cachelock::ErrorKind;
use cachelock::platform::memory::{Fault, Op};

/// What a call may answer, besides what it should.
pub(super) fn faults(op: Op) -> Vec<Fault> {
    let errors = |kinds: &[Io]| kinds.iter().copied().map(Fault::Error).collect::<Vec<_>>();
    // EIO, and no more descriptors: errors that only have a number.
    let any = [
        Fault::Raw(5),
        Fault::Error(Io::PermissionDenied),
        Fault::Error(Io::TimedOut),
    ];
    let opens = [Fault::Raw(24), Fault::Raw(12)];
    let full = [Io::StorageFull, Io::QuotaExceeded, Io::ReadOnlyFilesystem];
    let mut all = any.to_vec();
    match op {
        Op::Start | Op::Wait => return Vec::new(),
        Op::OpenDir | Op::OpenRead | Op::Reopen => all.extend(opens),
        Op::OpenWrite => {
            all.extend(opens);
            all.extend(errors(&[Io::ReadOnlyFilesystem]));
        }
        Op::CreateNew => {
            all.extend(opens);
            all.extend(errors(&full));
        }
        Op::CreateDir | Op::CreateDirAll | Op::SetMode | Op::Touch | Op::Close => {
            all.extend(errors(&full));
        }
        Op::Write | Op::SetLen => {
            all.extend(errors(&full));
            all.extend(errors(&[Io::FileTooLarge]));
            all.push(Fault::Short(1));
        }
        Op::Rename => {
            all.extend(errors(&full));
            all.extend(errors(&[Io::CrossesDevices]));
        }
        Op::Unlink => all.extend(errors(&[Io::ReadOnlyFilesystem])),
        Op::Read => all.push(Fault::Short(1)),
        Op::SyncFile => all.extend(errors(&[Io::StorageFull, Io::QuotaExceeded])),
        Op::SyncDir => all.extend(errors(&[Io::StorageFull, Io::Unsupported])),
        Op::Watch => all.extend(errors(&[Io::Unsupported])),
        Op::TryLock | Op::Lock | Op::Unlock => all.extend(errors(&[Io::Unsupported])),
        Op::Spawn => all.extend(errors(&[Io::WouldBlock, Io::Unsupported])),
        _ => {}
    }
    all
}

/// Whether an error of this kind tells what happened when the system said `fault`.
pub(super) fn is_clear(found: ErrorKind, fault: Fault) -> bool {
    let Fault::Error(kind) = fault else {
        return matches!(fault, Fault::Raw(_)) && found == ErrorKind::Io;
    };
    match kind {
        Io::StorageFull | Io::QuotaExceeded => found == ErrorKind::StorageFull,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => found == ErrorKind::Permission,
        Io::Unsupported => found == ErrorKind::NoLock,
        _ => found == ErrorKind::Io,
    }
}
