//! What the WASI backend owes, seen from inside of a guest: `cargo xtask test wasi`. The host grants `/scratch`.
#![cfg(target_os = "wasi")]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cachelock_platform::{Access, Dir, File, FileId, FileKind, Filling, native};
use wasi::filesystem::preopens::get_directories;

/// A directory of its own, whose files are removed afterwards.
struct Place {
    dir: Arc<dyn Dir>,
    path: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let random = native().random().expect("there is randomness");
        let path = Path::new("/scratch").join(format!("{name}-{random:x}"));
        native().create_dir_all(&path).expect("it is granted");
        let dir = native().open_dir(&path).expect("it was just made");
        Place { dir, path }
    }

    #[track_caller]
    fn write(&self, name: &str, bytes: &[u8]) {
        let file = self.dir.open(name, Access::CreateNew(0o600));
        let written = file.expect("it is new").write_at(bytes, 0);
        assert_eq!(written.expect("it takes bytes"), bytes.len());
    }

    /// A symbolic link from `name` to `to`.
    fn link(&self, name: &str, to: &str) {
        let below = self.path.strip_prefix("/scratch").expect("it is in there");
        let name = below.join(name);
        for (directory, granted) in get_directories() {
            if granted == "/scratch" {
                let made = directory.symlink_at(to, name.to_str().expect("ASCII"));
                made.expect("the host makes links");
            }
        }
    }

    #[track_caller]
    fn kind_of_error(&self, name: &str, access: Access) -> ErrorKind {
        match self.dir.open(name, access) {
            Ok(_) => panic!("{name} was opened"),
            Err(error) => error.kind(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays is in the way of nobody: the name is random.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// All that is read of `file` from `offset` on, in pieces of at most `most` bytes.
#[track_caller]
fn rest(file: &dyn File, mut offset: u64, most: usize) -> Vec<u8> {
    let mut rest = Vec::new();
    let mut piece = vec![0; most];
    loop {
        let read = file.read_at(&mut piece, offset).expect("readable");
        if read == 0 {
            return rest;
        }
        rest.extend_from_slice(&piece[..read]);
        offset += read as u64;
    }
}

#[test]
fn a_file_is_read_to_its_end_in_whatever_pieces_the_host_gives() {
    let place = Place::new("whole");
    let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    place.write("file", &bytes);
    let file = place.dir.open("file", Access::Read).expect("it is there");
    assert!(rest(&*file, 0, bytes.len() + 1) == bytes, "other bytes");
    let mut filling = Filling::new(bytes.len()).expect("there is memory");
    while !filling.is_full() {
        let read = filling.read_from(&*file, 1 << 20).expect("readable");
        assert!(!read.is_empty(), "it ends too early");
    }
    assert!(filling.finish()[..] == bytes, "other bytes");
}

#[test]
fn a_file_that_is_read_stays_the_same_and_may_not_be_kept() {
    let place = Place::new("replaced");
    place.write("file", b"old old!");
    place.write("other", b"new, and longer");
    let file = place.dir.open("file", Access::Read).expect("it is there");
    assert!(!file.is_pinned(), "it would be in the way on Windows");
    let was = file.metadata().expect("it is open");
    let glance = file.glance().expect("it was looked at");
    assert_eq!(glance.id, FileId::UNKNOWN, "that would take a call");
    assert_eq!((glance.len, glance.modified), (was.len, was.modified));
    let renamed = place.dir.rename("other", &*place.dir, "file");
    renamed.expect("nothing is in the way");
    assert_eq!(rest(&*file, 4, 3), b"old!");
    let is = file.metadata().expect("it is open");
    assert_eq!((is.id, is.len), (was.id, was.len));
    assert_ne!(place.dir.stat("file").expect("it is there").id, was.id);
    place.dir.unlink("file").expect("it is there");
    assert_eq!(rest(&*file, 0, 9), b"old old!");
}

#[test]
fn what_was_unlinked_can_be_neither_written_nor_synced_and_is_not_made_again() {
    let place = Place::new("unlinked");
    place.write("file", b"bytes");
    let file = place.dir.open("file", Access::Write).expect("it is there");
    place.dir.unlink("file").expect("it is there");
    for failed in [
        file.write_at(b"more", 0).map(drop),
        file.set_len(1),
        file.sync(),
        file.touch(),
        file.metadata().map(drop),
    ] {
        assert_eq!(failed.expect_err("it is gone").kind(), ErrorKind::NotFound);
    }
    assert_eq!(place.dir.list().expect("readable"), [""; 0]);
}

#[test]
fn a_new_file_is_made_once() {
    let place = Place::new("new");
    let new = Access::CreateNew(0o600);
    place.write("file", b"first");
    assert_eq!(place.kind_of_error("file", new), ErrorKind::AlreadyExists);
    place.link("link", "nowhere");
    assert_eq!(place.kind_of_error("link", new), ErrorKind::AlreadyExists);
    for access in [Access::Read, Access::Write] {
        let missing = place.kind_of_error("missing", access);
        assert_eq!(missing, ErrorKind::NotFound);
    }
}

#[test]
fn links_are_not_followed_in_names_and_are_in_paths() {
    let place = Place::new("links");
    place.write("file", b"bytes");
    place.dir.create_dir("folder", 0o755).expect("it is new");
    place.link("to-file", "file");
    place.link("to-folder", "folder");
    let meant = [ErrorKind::NotFound, ErrorKind::AlreadyExists];
    for access in [Access::Read, Access::Write] {
        let kind = place.kind_of_error("to-file", access);
        assert!(!meant.contains(&kind), "{kind:?} means something else");
    }
    let kind = |name| place.dir.stat(name).expect("it is there").kind;
    assert_eq!(kind("to-file"), FileKind::Symlink);
    assert_eq!(kind("file"), FileKind::File);
    for name in ["to-folder", "file"] {
        let error = place.dir.open_dir(name).map(drop).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::NotADirectory, "{name}: {error}");
    }
    let followed = native().open_dir(&place.path.join("to-folder"));
    assert!(followed.is_ok(), "the path is the user's own");
}

#[test]
fn a_directory_is_the_same_by_whatever_way_and_another_one_is_not() {
    let place = Place::new("identity");
    place.dir.create_dir("folder", 0o755).expect("it is new");
    let id = |dir: &dyn Dir| dir.metadata().expect("open").id;
    let folder = place.dir.open_dir("folder").expect("it is there");
    let by_path = native().open_dir(&place.path.join("folder"));
    let before = id(&*folder);
    folder
        .open("file", Access::CreateNew(0o600))
        .expect("it is new");
    assert_eq!(id(&*folder), before, "what is in it does not count");
    assert_eq!(id(&*by_path.expect("it is there")), before);
    assert_eq!(id(&*folder.reopen().expect("it is there")), before);
    assert_eq!(place.dir.stat("folder").expect("it is there").id, before);
    assert_ne!(id(&*place.dir), before);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let place = Place::new("names");
    for name in ["", ".", "..", "a/b", "../x", "a\\b", "a\0b"] {
        let error = place.dir.stat(name).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}: {error}");
    }
}

#[test]
fn a_path_is_below_what_was_granted_or_is_refused() {
    let platform = native();
    assert!(platform.open_dir(Path::new("/scratch")).is_ok());
    assert!(platform.open_dir(Path::new("/scratch/./.")).is_ok());
    for path in ["/", "/elsewhere", "/scratchy", "/scratch/.."] {
        let error = platform.open_dir(Path::new(path)).map(drop);
        let kind = error.expect_err(path).kind();
        assert_eq!(kind, ErrorKind::PermissionDenied, "{path}");
        let made = platform.create_dir_all(&Path::new(path).join("new"));
        assert!(made.is_err(), "something was made at {path}");
    }
    let missing = platform.open_dir(Path::new("/scratch/missing")).map(drop);
    let kind = missing.expect_err("nobody made it").kind();
    assert_eq!(kind, ErrorKind::NotFound);
}

#[test]
fn a_path_is_made_absolute_without_a_current_directory() {
    let absolute = |path: &str| native().absolute(Path::new(path));
    for (path, expected) in [
        ("/scratch/x", "/scratch/x"),
        ("scratch/x", "/scratch/x"),
        ("./scratch//x", "/scratch/x"),
    ] {
        assert_eq!(absolute(path).expect("absolute"), Path::new(expected));
    }
    assert!(absolute("").is_err(), "an empty path is a mistake");
}

#[test]
fn what_a_guest_has_not_is_unsupported() {
    let platform = native();
    let spawned = platform.spawn("task", Box::new(|| {}));
    let place = Place::new("unsupported");
    place.write("file", b"");
    let file = place.dir.open("file", Access::Write).expect("it is there");
    for lacking in [
        spawned,
        file.try_lock().map(drop),
        file.lock(),
        place.dir.watch(platform.event()).map(drop),
    ] {
        let kind = lacking.expect_err("it cannot be").kind();
        assert_eq!(kind, ErrorKind::Unsupported);
    }
    let file_system = place.dir.file_system().expect("it says so");
    assert!(!file_system.kernel_locks, "{file_system:?}");
    assert_eq!(platform.identity().pid, None);
}

#[test]
fn a_wait_lasts_until_its_deadline_unless_the_event_is_set() {
    let platform = native();
    let event = platform.event();
    let began = platform.monotonic();
    let pause = Duration::from_millis(30);
    assert!(!event.wait_until(Some(began + pause)), "nobody has set it");
    assert!(platform.monotonic() >= began + pause, "too early");
    event.set();
    assert!(event.wait_until(None), "it is set");
    assert!(!event.wait_until(Some(platform.monotonic())), "only once");
}
