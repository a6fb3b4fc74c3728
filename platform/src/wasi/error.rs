//! From WASI's error codes to kinds of errors.

use std::io;

use wasi::filesystem::types::ErrorCode;

use crate::{Quoted, failure};

/// The result of `call`, which is made again when it was interrupted.
pub(super) fn call<T>(call: impl Fn() -> Result<T, ErrorCode>) -> io::Result<T> {
    loop {
        match call() {
            Err(ErrorCode::Interrupted) => {}
            result => return result.map_err(error),
        }
    }
}

/// What `code` is called in Rust. The hosts' own numbers are not to be had, and they would mean something else on each.
pub(super) fn error(code: ErrorCode) -> io::Error {
    use io::ErrorKind as Kind;

    let kind = match code {
        ErrorCode::Access => Kind::PermissionDenied,
        // Not the file's mode but the host, most often.
        ErrorCode::NotPermitted => {
            return failure(
                Kind::PermissionDenied,
                "the WASI host does not permit it, as where it grants a directory for reading only",
            );
        }
        ErrorCode::Exist => Kind::AlreadyExists,
        ErrorCode::NoEntry => Kind::NotFound,
        ErrorCode::NotDirectory => Kind::NotADirectory,
        ErrorCode::IsDirectory => Kind::IsADirectory,
        ErrorCode::NotEmpty => Kind::DirectoryNotEmpty,
        ErrorCode::ReadOnly => Kind::ReadOnlyFilesystem,
        ErrorCode::InsufficientSpace => Kind::StorageFull,
        ErrorCode::Quota => Kind::QuotaExceeded,
        ErrorCode::FileTooLarge => Kind::FileTooLarge,
        ErrorCode::CrossDevice => Kind::CrossesDevices,
        ErrorCode::Unsupported => Kind::Unsupported,
        ErrorCode::Busy => Kind::ResourceBusy,
        ErrorCode::TextFileBusy => Kind::ExecutableFileBusy,
        ErrorCode::NameTooLong => Kind::InvalidFilename,
        ErrorCode::Invalid => Kind::InvalidInput,
        ErrorCode::InsufficientMemory => Kind::OutOfMemory,
        ErrorCode::WouldBlock => Kind::WouldBlock,
        // `ELOOP`: these calls follow no links.
        ErrorCode::Loop => {
            return failure(Kind::Other, "a symbolic link, which is not followed here");
        }
        // Some hosts have no other word for these.
        ErrorCode::Io => {
            return failure(
                Kind::Other,
                "the WASI host says \"io\": the disk failed or is full, or its file system is read-only",
            );
        }
        other => {
            return failure(
                Kind::Other,
                format!("the WASI host says {}", Quoted(other.name())),
            );
        }
    };
    kind.into()
}

/// Whether a rename or an unlink may succeed later. Hosts on Windows say so when somebody has the file open.
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy | io::ErrorKind::ExecutableFileBusy
    )
}

pub(super) fn unsupported(what: &'static str) -> io::Error {
    failure(io::ErrorKind::Unsupported, what)
}
