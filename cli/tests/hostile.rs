//! Objects that do not belong there, at each of our names: links, pipes, devices, directories, other users' files, wrong
//! modes. Whatever the program is asked to do meanwhile, it ends, says which path is wrong, follows nothing and loses
//! nothing; and once the object is gone, all is as before.
//!
//! The program runs as a user of its own, because root passes every test of permission. So these tests need root.
#![cfg(target_os = "linux")]

use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cachelock::{Cache, Verification};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use support::{Ground, NEW, NEXT, OLD, Ran, STRANGER, USER, lacks_root, names};

mod support;

/// What stands at a name of ours.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Thing {
    LinkToNothing,
    LinkToFile,
    LinkToDirectory,
    Pipe,
    Socket,
    Device,
    /// A directory with something in it.
    Directory,
    /// A file where there should be a directory, or another file than there should be.
    File,
    /// A second name of a file outside.
    HardLink,
    /// What stands there, or a new file, with another owner.
    Of(u32),
    /// The same with another mode.
    Mode(u32),
}

use Thing::*;

const THINGS: [Thing; 14] = [
    LinkToNothing,
    LinkToFile,
    LinkToDirectory,
    Pipe,
    Socket,
    Device,
    Directory,
    File,
    HardLink,
    Of(0),
    Of(STRANGER),
    Mode(0o000),
    Mode(0o666),
    Mode(0o400),
];

const OPERATIONS: [&[&str]; 8] = [
    &["read", "FILE"],
    &["status", "FILE"],
    &["get", "FILE", "--", "printf", NEW],
    &["get", "FILE", "--fresh-for", "0", "--", "printf", NEW],
    &["refresh", "FILE", "--", "printf", NEW],
    &["sweep", "DIR"],
    &["break", "DIR"],
    &["lock", "DIR", "--", "true"],
];

/// A case: where stands what, and what the program is asked to do.
struct Case<'a> {
    name: &'a str,
    thing: Thing,
    operation: &'a [&'a str],
}

impl Case<'_> {
    /// Readers need no lock, so what stands at a name of the lock does not concern them.
    fn spares_readers(&self) -> bool {
        let of_lock = self.name.starts_with(".cachelock/") && !self.name.contains("/tags");
        of_lock
            && (self.operation[0] == "read" || self.operation.starts_with(&["get", "FILE", "--"]))
    }
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}, {:?}", self.thing, self.name, self.operation)
    }
}

/// A cache with an old payload, and things outside of it that nobody must touch.
struct Place {
    ground: Ground,
    /// The entry's name in the cache.
    entry: &'static str,
    /// The cache as it is before anything is planted.
    template: PathBuf,
}

impl Place {
    fn new(entry: &'static str) -> Self {
        let ground = Ground::of(USER);
        let place = Place {
            template: ground.path().join("template"),
            ground,
            entry,
        };
        let words = ["refresh", "--cache", "DIR", entry, "--", "printf", OLD];
        let ran = place.ground.run(&words);
        assert_eq!(ran.code(), 0, "{ran}");
        fs::rename(place.ground.cache(), &place.template).expect("it moves");

        let outside = place.outside();
        fs::create_dir_all(outside.join("directory")).expect("a directory");
        fs::write(outside.join("file"), "outside").expect("a file");
        fs::write(outside.join("directory/inner"), "inside outside").expect("a file");
        // Of the program's user, so that following a link would do harm.
        for path in ["", "directory", "file", "directory/inner"] {
            place.ground.own(&outside.join(path));
        }
        place
    }

    /// As at the beginning, before each case.
    fn reset(&self) {
        for path in [self.ground.cache(), self.aside()] {
            remove(&path);
        }
        self.copy(&self.template, &self.ground.cache());
    }

    fn copy(&self, from: &Path, to: &Path) {
        let metadata = fs::metadata(from).expect("it is there");
        if metadata.is_dir() {
            fs::create_dir(to).expect("a directory");
            for name in names(from) {
                self.copy(&from.join(&name), &to.join(&name));
            }
            fs::set_permissions(to, metadata.permissions()).expect("it is ours");
        } else {
            fs::copy(from, to).expect("a copy");
        }
        self.ground.own(to);
    }

    fn aside(&self) -> PathBuf {
        self.ground.path().join("aside")
    }

    fn outside(&self) -> PathBuf {
        self.ground.path().join("outside")
    }

    fn payload(&self) -> PathBuf {
        self.ground.cache().join(self.entry)
    }

    fn run(&self, operation: &[&str]) -> Ran {
        let mut words = vec![operation[0]];
        if operation[1] == "FILE" {
            words.extend(["--cache", "DIR", self.entry]);
        } else {
            words.push(operation[1]);
        }
        if !matches!(operation[0], "read" | "status") {
            words.extend(["--lease", "300ms", "--timeout", "3"]);
        }
        words.extend(&operation[2..]);
        self.ground.run(&words)
    }

    /// Puts `thing` at `path`, in place of what is there.
    fn plant(&self, path: &Path, thing: Thing) {
        let there = fs::symlink_metadata(path).is_ok();
        match thing {
            Of(_) | Mode(_) if !there => {
                fs::write(path, "planted").expect("a file");
                self.ground.own(path);
            }
            Of(_) | Mode(_) => {}
            _ if there => {
                fs::rename(path, self.aside()).expect("it moves aside");
            }
            _ => {}
        }
        let node = |kind, device| {
            mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device).expect("root may do that");
            self.ground.own(path);
        };
        let link = |target: &str| {
            symlink(self.outside().join(target), path).expect("a link");
        };
        match thing {
            LinkToNothing => link("nothing"),
            LinkToFile => link("file"),
            LinkToDirectory => link("directory"),
            Pipe => node(FileType::Fifo, 0),
            Socket => node(FileType::Socket, 0),
            Device => node(FileType::CharacterDevice, makedev(1, 7)),
            Directory => {
                fs::create_dir(path).expect("a directory");
                fs::write(path.join("something"), "planted").expect("a file");
                self.ground.own(&path.join("something"));
                self.ground.own(path);
            }
            File => {
                fs::write(path, "planted").expect("a file");
                self.ground.own(path);
            }
            HardLink => fs::hard_link(self.outside().join("file"), path).expect("a link"),
            Of(user) => chown(path, Some(user), Some(user)).expect("root may do that"),
            Mode(mode) => {
                fs::set_permissions(path, Permissions::from_mode(mode)).expect("so may root")
            }
        }
    }

    /// Everything that could have been touched through a link.
    fn seen_outside(&self) -> Vec<(PathBuf, u32, u32, SystemTime, Vec<u8>)> {
        let outside = self.outside();
        let mut paths = vec![outside.clone(), outside.join("directory")];
        for dir in [outside.clone(), outside.join("directory")] {
            paths.extend(names(&dir).into_iter().map(|name| dir.join(name)));
        }
        let seen = paths.into_iter().map(|path| {
            let metadata = fs::metadata(&path).expect("it is there");
            let bytes = fs::read(&path).unwrap_or_default();
            let modified = metadata.modified().expect("a time");
            (path, metadata.mode(), metadata.uid(), modified, bytes)
        });
        seen.collect()
    }

    /// What was published is not open to everybody because of what stood there before.
    #[track_caller]
    fn assert_private(&self, case: &Case<'_>) {
        let tag = self.ground.control().join("tags").join(self.entry);
        for path in [self.payload(), tag] {
            if let Ok(metadata) = fs::symlink_metadata(&path)
                && metadata.is_file()
            {
                assert_eq!(
                    metadata.mode() & 0o022,
                    0,
                    "{case}: {} is open",
                    path.display()
                );
            }
        }
    }

    /// One object, one operation: what must be true after it, and after the object is gone.
    #[track_caller]
    fn check(&self, path: &Path, case: &Case<'_>) {
        let before = self.seen_outside();
        let ran = self.run(case.operation);
        ran.assert_clear(path);
        assert_eq!(self.seen_outside(), before, "{case}: it reached outside");
        let printed: &[&str] = match case.operation[0] {
            "read" => &["", OLD],
            "get" => &["", OLD, NEW],
            "refresh" | "sweep" | "lock" => &[""],
            _ => &[&ran.stdout.clone()],
        };
        assert!(printed.contains(&&*ran.stdout), "{case}: {ran}");
        if case.spares_readers() {
            assert_eq!((ran.code(), &*ran.stdout), (0, OLD), "{case}: {ran}");
        }
        let publishes = ran.code() == 0 && case.operation.contains(&NEW) && ran.stdout != OLD;
        let displaced = !matches!(case.thing, Of(_) | Mode(_)) && self.payload().starts_with(path);
        if !displaced {
            let payload = fs::read_to_string(self.payload()).expect("the payload is there");
            let expected = if publishes { NEW } else { OLD };
            assert_eq!(payload, expected, "{case}: the payload is another one");
        }
        if case.thing != Mode(0o666) {
            self.assert_private(case);
        }
        remove(path);
        let words = [
            "refresh", "--cache", "DIR", self.entry, "--", "printf", NEXT,
        ];
        let next = self.ground.run(&words);
        assert_eq!(next.code(), 0, "{case}: the next refresh: {next}");
        let cache = Cache::open(self.ground.cache()).expect("nothing is touched");
        let read = cache.entry(self.entry).and_then(|entry| entry.read());
        let read = read.unwrap_or_else(|error| panic!("{case}: {error}"));
        let snapshot = read.unwrap_or_else(|| panic!("{case}: there is no entry"));
        assert_eq!(&snapshot[..], NEXT.as_bytes(), "{case}");
        assert_eq!(
            snapshot.meta().verification,
            Verification::Verified,
            "{case}"
        );
        assert_eq!(
            names(&self.ground.control()),
            ["cache.lock", "head", "tags"],
            "{case}: something is left"
        );
    }
}

/// What a person would do about it.
fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).expect("it can go"),
        Ok(_) => fs::remove_file(path).expect("it can go"),
        Err(_) => {}
    }
}

/// `name` in the cache, with all things and all operations.
fn everything_at(name: &str, entry: &'static str) {
    if lacks_root() {
        return;
    }
    let place = Place::new(entry);
    let path = match name {
        "." => place.ground.cache(),
        name => place.ground.cache().join(name),
    };
    for thing in THINGS {
        // The one link that is followed: the user has named the directory.
        if name == "." && thing == LinkToDirectory {
            continue;
        }
        for operation in OPERATIONS {
            let case = Case {
                name,
                thing,
                operation,
            };
            place.reset();
            place.plant(&path, thing);
            place.check(&path, &case);
        }
    }
}

#[test]
fn a_forged_want_delays_a_refresh_for_a_moment_and_that_is_said() {
    if lacks_root() {
        return;
    }
    let place = Place::new("entry");
    place.reset();
    let want = place.ground.control().join("want-x");
    fs::write(&want, format!("{:020}\n", 1_000_000)).expect("a file");
    place.ground.own(&want);
    let ran = place.ground.run(&["refresh", "FILE", "--", "true"]);
    assert_eq!(ran.code(), 0, "{ran}");
    assert!(ran.stderr.contains("for the lease of"), "{ran}");
    assert!(!want.exists(), "nobody beats it, so it is nobody's");
}

mod nothing_planted_is_followed_waited_for_or_lost_at {
    macro_rules! at {
        ($($test:ident: $name:literal, $entry:literal;)+) => {
            $(
                #[test]
                fn $test() {
                    super::everything_at($name, $entry);
                }
            )+
        };
    }

    // After the one refresh that made the cache `head` is 1, so the next epoch is 2.
    at! {
        the_cache_directory: ".", "entry";
        the_control_directory: ".cachelock", "entry";
        the_gate: ".cachelock/cache.lock", "entry";
        the_head: ".cachelock/head", "entry";
        the_claim_of_the_head: ".cachelock/claim-00000000000000000001", "entry";
        the_next_claim: ".cachelock/claim-00000000000000000002", "entry";
        an_old_next_head: ".cachelock/head-00000000000000000001-x", "entry";
        a_later_next_head: ".cachelock/head-00000000000000000009-x", "entry";
        an_old_stage: ".cachelock/stage-00000000000000000001-x", "entry";
        a_later_stage: ".cachelock/stage-00000000000000000009-x", "entry";
        a_want: ".cachelock/want-x", "entry";
        the_tags: ".cachelock/tags", "entry";
        the_tag: ".cachelock/tags/entry", "entry";
        the_folder_of_a_tag: ".cachelock/tags/folder", "folder/entry";
        the_tag_in_a_folder: ".cachelock/tags/folder/entry", "folder/entry";
        the_payload: "entry", "entry";
        the_folder_of_a_payload: "folder", "folder/entry";
        the_payload_in_a_folder: "folder/entry", "folder/entry";
    }
}
