//! What the Windows backend owes: `cargo xtask test windows` runs it under Wine.
#![cfg(windows)]

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use cachelock_platform::{Access, Dir, File, FileKind, Owner, native};

const NEW: Access = Access::CreateNew(0o600);
/// What a reader shares that keeps others from replacing what it reads: reading and writing.
const WITHOUT_DELETION: u32 = 1 | 2;

struct Place {
    dir: Arc<dyn Dir>,
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = native().open_dir(temp.path()).expect("it was just made");
        Place { dir, temp }
    }

    fn path(&self) -> &Path {
        self.temp.path()
    }

    #[track_caller]
    fn write(&self, name: &str, bytes: &[u8]) -> Box<dyn File> {
        let file = self.dir.open(name, NEW).expect("it is new");
        assert_eq!(file.write_at(bytes, 0).expect("writable"), bytes.len());
        file
    }

    #[track_caller]
    fn read(&self, name: &str) -> String {
        let file = self.dir.open(name, Access::Read).expect("it is there");
        read(&*file)
    }
}

#[track_caller]
fn read(file: &dyn File) -> String {
    let mut bytes = [0; 64];
    let len = file.read_at(&mut bytes, 0).expect("readable");
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

#[track_caller]
fn kind_of<T>(result: std::io::Result<T>) -> ErrorKind {
    result.map(drop).expect_err("it cannot be").kind()
}

#[test]
fn names_that_lead_elsewhere_or_to_a_stream_are_refused() {
    let place = Place::new();
    for name in ["", ".", "..", "a/b", "a\\b", "..\\x", "a:b", "a\0b"] {
        let kind = kind_of(place.dir.open(name, NEW));
        assert_eq!(kind, ErrorKind::InvalidInput, "{name:?}");
        let kind = kind_of(place.dir.stat(name));
        assert_eq!(kind, ErrorKind::InvalidInput, "{name:?}");
    }
    assert_eq!(place.dir.list().expect("readable"), [""; 0]);
}

#[test]
fn names_are_unicode_of_any_length_and_mean_nothing_but_themselves() {
    let place = Place::new();
    let long = "x".repeat(200);
    let mut path = place.path().to_owned();
    // Beyond what Win32 takes without being asked to.
    for _ in 0..3 {
        path.push(&long);
    }
    native().create_dir_all(&path).expect("no path is too long");
    let dir = native().open_dir(&path).expect("it was just made");
    let mut names = vec!["\u{1f980} größe".to_owned(), long, "claim-1.".to_owned()];
    for name in &names {
        dir.open(name, NEW).expect("it is new");
    }
    let mut listed = dir.list().expect("readable");
    listed.sort();
    names.sort();
    assert_eq!(listed, names);
    for name in &names {
        dir.unlink(name).expect("it is there");
    }
    assert_eq!(dir.list().expect("readable"), [""; 0]);
}

#[test]
fn a_file_is_made_once_and_never_cut() {
    let place = Place::new();
    place.write("file", b"bytes");
    assert_eq!(
        kind_of(place.dir.open("file", NEW)),
        ErrorKind::AlreadyExists
    );
    place.dir.open("file", Access::Write).expect("it is there");
    assert_eq!(place.read("file"), "bytes");
    for access in [Access::Read, Access::Write] {
        assert_eq!(
            kind_of(place.dir.open("missing", access)),
            ErrorKind::NotFound
        );
    }
    place.dir.create_dir("folder", 0o755).expect("it is new");
    let again = place.dir.create_dir("folder", 0o755);
    assert_eq!(kind_of(again), ErrorKind::AlreadyExists);
    assert_eq!(
        kind_of(place.dir.open_dir("file")),
        ErrorKind::NotADirectory
    );
    assert_eq!(kind_of(place.dir.unlink("folder")), ErrorKind::IsADirectory);
}

#[test]
fn a_rename_replaces_a_file_and_no_directory() {
    let place = Place::new();
    place.dir.create_dir("folder", 0o755).expect("it is new");
    let folder = place.dir.open_dir("folder").expect("it is there");
    for bytes in [b"old", b"new"] {
        place.write("from", bytes);
        let renamed = place.dir.rename("from", &*folder, "to");
        renamed.expect("nothing is in the way");
    }
    let to = folder.open("to", Access::Read).expect("it is there");
    assert_eq!(read(&*to), "new");
    assert_eq!(place.dir.list().expect("readable"), ["folder"]);
    place.write("from", b"");
    let over = place.dir.rename("from", &*place.dir, "folder");
    assert_eq!(kind_of(over), ErrorKind::IsADirectory);
    let missing = place.dir.rename("missing", &*folder, "to");
    assert_eq!(kind_of(missing), ErrorKind::NotFound);
}

/// What makes an overtaken holder harmless.
#[test]
fn what_was_unlinked_cannot_be_renamed_though_it_is_open() {
    let place = Place::new();
    let stage = place.write("stage", b"late");
    place.write("entry", b"old");
    place.dir.unlink("stage").expect("open handles share that");
    let renamed = place.dir.rename("stage", &*place.dir, "entry");
    assert_eq!(kind_of(renamed), ErrorKind::NotFound);
    assert_eq!(place.read("entry"), "old");
    assert_eq!(read(&*stage), "late", "the handle stays good");
    drop(stage);
    assert_eq!(place.dir.list().expect("readable"), ["entry"]);
}

#[test]
fn an_open_file_loses_its_name_at_once_and_the_name_can_be_had_anew() {
    let place = Place::new();
    let old = place.write("file", b"old");
    place.dir.unlink("file").expect("open handles share that");
    assert_eq!(kind_of(place.dir.stat("file")), ErrorKind::NotFound);
    assert_eq!(kind_of(place.dir.unlink("file")), ErrorKind::NotFound);
    let new = place.write("file", b"new");
    assert_eq!((read(&*old), read(&*new)), ("old".into(), "new".into()));
    let id = |file: &dyn File| file.metadata().expect("open").id;
    assert_ne!(id(&*old), id(&*new));
}

#[test]
fn a_reader_that_does_not_share_deletion_is_in_the_way_and_that_can_be_told() {
    let place = Place::new();
    place.write("entry", b"old");
    place.write("stage", b"new");
    let open = OpenOptions::new()
        .read(true)
        .share_mode(WITHOUT_DELETION)
        .open(place.path().join("entry"));
    let reader = open.expect("it is there");
    for error in [
        place.dir.rename("stage", &*place.dir, "entry"),
        place.dir.unlink("entry"),
    ] {
        let error = error.expect_err("somebody reads it");
        assert!(native().is_busy(&error), "{error}");
    }
    assert_eq!(place.read("entry"), "old");
    drop(reader);
    let renamed = place.dir.rename("stage", &*place.dir, "entry");
    renamed.expect("nobody reads it");
    assert_eq!(place.read("entry"), "new");
    let missing = place.dir.unlink("missing").expect_err("nobody made it");
    assert!(!native().is_busy(&missing), "{missing}");
}

#[test]
fn a_kept_handle_is_in_nobodys_way_or_says_that_it_must_not_be_kept() {
    let place = Place::new();
    place.write("entry", b"old");
    place.write("stage", b"new");
    let kept = place.dir.open("entry", Access::Read).expect("it is there");
    let renamed = place.dir.rename("stage", &*place.dir, "entry");
    assert_eq!(renamed.is_ok(), kept.is_pinned(), "{renamed:?}");
    assert_eq!(read(&*kept), "old");
}

#[test]
fn a_lock_excludes_other_handles_until_it_is_given_back() {
    let place = Place::new();
    let holder = place.write("gate", b"");
    let open = || place.dir.open("gate", Access::Write).expect("it is there");
    assert!(holder.try_lock().expect("there are locks"));
    assert!(!open().try_lock().expect("there are locks"), "two hold it");
    let other = open();
    let given_back = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            other.lock().expect("there are locks");
            assert!(given_back.load(Ordering::SeqCst), "two hold it");
            other.unlock().expect("it is held");
        });
        thread::sleep(Duration::from_millis(100));
        given_back.store(true, Ordering::SeqCst);
        holder.unlock().expect("it is held");
    });
    assert!(holder.try_lock().expect("there are locks"));
    drop(holder);
    assert!(open().try_lock().expect("there are locks"), "it was closed");
}

#[test]
fn a_directory_is_the_same_by_whatever_way_and_another_one_is_not() {
    let place = Place::new();
    place.dir.create_dir("folder", 0o755).expect("it is new");
    let id = |dir: &dyn Dir| dir.metadata().expect("open").id;
    let folder = place.dir.open_dir("folder").expect("it is there");
    let before = id(&*folder);
    let by_path = native().open_dir(&place.path().join("folder"));
    assert_eq!(id(&*by_path.expect("it is there")), before);
    assert_eq!(id(&*folder.reopen().expect("it is there")), before);
    assert_eq!(place.dir.stat("folder").expect("it is there").id, before);
    assert_ne!(id(&*place.dir), before);
    folder.open("file", NEW).expect("it is new");
    let moved = place.dir.rename("folder", &*place.dir, "moved");
    moved.expect("nobody has a file in it open");
    assert_eq!(
        folder.list().expect("readable"),
        ["file"],
        "the handle stays on it"
    );
}

#[test]
fn what_is_known_of_a_file_is_true() {
    let place = Place::new();
    let file = place.write("file", b"12345");
    let metadata = file.metadata().expect("open");
    assert_eq!((metadata.kind, metadata.len), (FileKind::File, 5));
    assert_eq!((metadata.links, metadata.owner), (1, Owner::Me));
    assert!(!metadata.shared, "others may not write to it");
    let named = place.dir.stat("file").expect("it is there");
    assert_eq!((named.id, named.len), (metadata.id, 5));
    let age = SystemTime::now().duration_since(metadata.modified);
    let age = age.unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{age:?}");
    let old = SystemTime::now() - Duration::from_secs(3600);
    OpenOptions::new()
        .write(true)
        .open(place.path().join("file"))
        .and_then(|file| file.set_modified(old))
        .expect("it is ours");
    file.touch().expect("it is ours");
    let touched = place.dir.stat("file").expect("it is there").modified;
    assert!(touched > old + Duration::from_secs(3000), "{touched:?}");
    file.set_len(100_000).expect("there is room");
    assert_eq!(file.metadata().expect("open").len, 100_000);
    file.sync().expect("it can be synced");
    file.close().expect("nothing is left to fail");
    fs::hard_link(place.path().join("file"), place.path().join("second"))
        .expect("the file system has links");
    assert_eq!(place.dir.stat("file").expect("it is there").links, 2);
}

#[test]
fn a_directory_can_be_synced_or_says_that_it_cannot() {
    let place = Place::new();
    if let Err(error) = place.dir.sync() {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    let file_system = place.dir.file_system().expect("it has one");
    assert_eq!(file_system.name, "ntfs", "Wine says so of all its drives");
    assert!(file_system.kernel_locks && !file_system.remote);
}

#[test]
fn a_path_must_lead_to_a_directory() {
    let place = Place::new();
    place.write("file", b"");
    let open = |name: &str| kind_of(native().open_dir(&place.path().join(name)));
    assert_eq!(open("missing"), ErrorKind::NotFound);
    assert_eq!(open("missing\\deeper"), ErrorKind::NotFound);
    assert_eq!(open("file"), ErrorKind::NotADirectory);
    let watched = place.dir.watch(native().event());
    assert_eq!(kind_of(watched), ErrorKind::Unsupported);
}

#[test]
fn a_wait_lasts_until_its_deadline_unless_the_event_is_set() {
    let platform = native();
    let event = platform.event();
    let began = platform.monotonic();
    let pause = Duration::from_millis(30);
    assert!(!event.wait_until(Some(began + pause)), "nobody has set it");
    assert!(platform.monotonic() >= began + pause, "too early");
    let setter = event.clone();
    platform
        .spawn("setter", Box::new(move || setter.set()))
        .expect("there are threads");
    assert!(event.wait_until(None), "it was set");
    assert!(!event.wait_until(Some(platform.monotonic())), "only once");
}

#[test]
fn a_process_has_a_number_and_randomness_and_no_boot() {
    let identity = native().identity();
    assert_eq!(identity.pid, Some(std::process::id()));
    assert_eq!(identity.boot, None);
    assert_ne!(
        native().random().expect("there is randomness"),
        native().random().expect("there is more")
    );
}
