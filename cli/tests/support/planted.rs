//! What may stand at our names although it does not belong there, and what nobody must touch because of it. The proof plants
//! the same.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// The user that the program is run as: root passes every test of permission.
pub(crate) const USER: u32 = 12_345;
/// Another one.
pub(crate) const STRANGER: u32 = 12_346;

/// What stands at a name of ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Thing {
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

pub(crate) const THINGS: [Thing; 14] = [
    Thing::LinkToNothing,
    Thing::LinkToFile,
    Thing::LinkToDirectory,
    Thing::Pipe,
    Thing::Socket,
    Thing::Device,
    Thing::Directory,
    Thing::File,
    Thing::HardLink,
    Thing::Of(0),
    Thing::Of(STRANGER),
    Thing::Mode(0o000),
    Thing::Mode(0o666),
    Thing::Mode(0o400),
];

impl Thing {
    /// Whether it takes the place of what is there, and does not change it.
    pub(crate) fn displaces(self) -> bool {
        !matches!(self, Thing::Of(_) | Thing::Mode(_))
    }

    /// Puts it at `path`. What is there is moved to `aside`; `owner` gets what is made; links lead to `outside`.
    pub(crate) fn plant(self, path: &Path, aside: &Path, outside: &Path, owner: u32) {
        let there = fs::symlink_metadata(path).is_ok();
        if self.displaces() && there {
            fs::rename(path, aside).expect("it moves aside");
        } else if !self.displaces() && !there {
            fs::write(path, "planted").expect("a file");
            own(path, owner);
        }
        let node = |kind, device| {
            mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device).expect("root may do that");
            own(path, owner);
        };
        let link = |target: &str| {
            symlink(outside.join(target), path).expect("a link");
            own(path, owner);
        };
        match self {
            Thing::LinkToNothing => link("nothing"),
            Thing::LinkToFile => link("file"),
            Thing::LinkToDirectory => link("directory"),
            Thing::Pipe => node(FileType::Fifo, 0),
            Thing::Socket => node(FileType::Socket, 0),
            Thing::Device => node(FileType::CharacterDevice, makedev(1, 7)),
            Thing::Directory => {
                fs::create_dir(path).expect("a directory");
                fs::write(path.join("something"), "planted").expect("a file");
                own(&path.join("something"), owner);
                own(path, owner);
            }
            Thing::File => {
                fs::write(path, "planted").expect("a file");
                own(path, owner);
            }
            Thing::HardLink => fs::hard_link(outside.join("file"), path).expect("a link"),
            Thing::Of(user) => chown(path, Some(user), Some(user)).expect("root may do that"),
            Thing::Mode(mode) => {
                fs::set_permissions(path, Permissions::from_mode(mode)).expect("so may root");
            }
        }
    }
}

/// Where it stands, and the entry's name there. After the one refresh that made the cache `head` is 1, so the next epoch is 2.
pub(crate) const PLACES: [(&str, &str); 18] = [
    (".", "entry"),
    (".cachelock", "entry"),
    (".cachelock/cache.lock", "entry"),
    (".cachelock/head", "entry"),
    (".cachelock/claim-00000000000000000001", "entry"),
    (".cachelock/claim-00000000000000000002", "entry"),
    (".cachelock/head-00000000000000000001-x", "entry"),
    (".cachelock/head-00000000000000000009-x", "entry"),
    (".cachelock/stage-00000000000000000001-x", "entry"),
    (".cachelock/stage-00000000000000000009-x", "entry"),
    (".cachelock/want-x", "entry"),
    (".cachelock/tags", "entry"),
    (".cachelock/tags/entry", "entry"),
    (".cachelock/tags/folder", "folder/entry"),
    (".cachelock/tags/folder/entry", "folder/entry"),
    ("entry", "entry"),
    ("folder", "folder/entry"),
    ("folder/entry", "folder/entry"),
];

/// What the program is asked to do meanwhile; `NEW` stands for the new payload.
pub(crate) const OPERATIONS: [&[&str]; 8] = [
    &["read", "FILE"],
    &["status", "FILE"],
    &["get", "FILE", "--", "printf", "NEW"],
    &["get", "FILE", "--fresh-for", "0", "--", "printf", "NEW"],
    &["refresh", "FILE", "--", "printf", "NEW"],
    &["sweep", "DIR"],
    &["break", "DIR"],
    &["lock", "DIR", "--", "true"],
];

/// A case: where stands what, and what the program is asked to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) entry: &'static str,
    pub(crate) thing: Thing,
    pub(crate) operation: &'static [&'static str],
}

impl Case {
    /// All of them at one name.
    pub(crate) fn all_at(
        (name, entry): (&'static str, &'static str),
    ) -> impl Iterator<Item = Case> {
        let things = THINGS.into_iter();
        // The one link that is followed: the user has named the directory.
        let things = things.filter(move |thing| name != "." || *thing != Thing::LinkToDirectory);
        things.flat_map(move |thing| {
            OPERATIONS.map(|operation| Case {
                name,
                entry,
                thing,
                operation,
            })
        })
    }

    /// Where it stands in `cache`.
    pub(crate) fn path(&self, cache: &Path) -> PathBuf {
        match self.name {
            "." => cache.to_owned(),
            name => cache.join(name),
        }
    }

    /// The program's arguments, with FILE and DIR for the entry and the cache.
    pub(crate) fn words(&self, cache: &Path, new: &str) -> Vec<String> {
        let cache = cache.display().to_string();
        let mut words: Vec<String> = vec![self.operation[0].to_owned()];
        match self.operation[1] {
            "FILE" => words.extend(["--cache".to_owned(), cache, self.entry.to_owned()]),
            _ => words.push(cache),
        }
        if !matches!(self.operation[0], "read" | "status") {
            words.extend(["--lease", "300ms", "--timeout", "3"].map(str::to_owned));
        }
        let rest = self.operation[2..].iter();
        words.extend(rest.map(|word| if *word == "NEW" { new } else { word }.to_owned()));
        words
    }

    /// Readers need no lock, so what stands at a name of the lock does not concern them.
    pub(crate) fn spares_readers(&self) -> bool {
        let of_lock = self.name.starts_with(".cachelock/") && !self.name.contains("/tags");
        of_lock
            && (self.operation[0] == "read" || self.operation.starts_with(&["get", "FILE", "--"]))
    }

    /// What it may print.
    pub(crate) fn may_print(&self, printed: &str, old: &str, new: &str) -> bool {
        match self.operation[0] {
            "read" => ["", old].contains(&printed),
            "get" => ["", old, new].contains(&printed),
            "refresh" | "sweep" | "lock" => printed.is_empty(),
            _ => true,
        }
    }
}

/// Has `command` run as `user`.
pub(crate) fn run_as(command: &mut Command, user: u32) {
    command.uid(user).gid(user);
}

/// Whether `path` is a file that others may write to.
pub(crate) fn is_open(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path);
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o022 != 0)
}

/// Gives `path`, and not what it may lead to, to `user`.
pub(crate) fn own(path: &Path, user: u32) {
    lchown(path, Some(user), Some(user)).expect("root may do that");
}

/// What a person would do about it.
pub(crate) fn remove(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A directory is moved there.
    let aside = path.with_file_name(format!("stray-{name}"));
    for path in [path, &aside] {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).expect("it can go"),
            Ok(_) => fs::remove_file(path).expect("it can go"),
            Err(_) => {}
        }
    }
}

/// A copy for `owner`, with the modes of what is copied.
pub(crate) fn copy(from: &Path, to: &Path, owner: u32) {
    let metadata = fs::metadata(from).expect("it is there");
    if metadata.is_dir() {
        fs::create_dir(to).expect("a directory");
        for entry in fs::read_dir(from).expect("it is a directory") {
            let name = entry.expect("a name").file_name();
            copy(&from.join(&name), &to.join(&name), owner);
        }
        fs::set_permissions(to, metadata.permissions()).expect("it is ours");
    } else {
        fs::copy(from, to).expect("a copy");
    }
    own(to, owner);
}

/// Makes what nobody must touch, of the program's user, so that following a link would do harm.
pub(crate) fn make_outside(outside: &Path, user: u32) {
    fs::create_dir_all(outside.join("directory")).expect("a directory");
    fs::write(outside.join("file"), "outside").expect("a file");
    fs::write(outside.join("directory/inner"), "inside outside").expect("a file");
    for path in ["", "directory", "file", "directory/inner"] {
        own(&outside.join(path), user);
    }
}

/// A file or directory outside: its path, mode, owner, time and bytes.
pub(crate) type Seen = (PathBuf, u32, u32, SystemTime, Vec<u8>);

/// Everything that could have been touched through a link.
pub(crate) fn seen(outside: &Path) -> Vec<Seen> {
    let mut paths = vec![outside.to_owned(), outside.join("directory")];
    for dir in [outside.to_owned(), outside.join("directory")] {
        for entry in fs::read_dir(&dir).expect("it is there") {
            paths.push(entry.expect("a name").path());
        }
    }
    paths.sort();
    let seen = paths.into_iter().map(|path| {
        let metadata = fs::metadata(&path).expect("it is there");
        let bytes = fs::read(&path).unwrap_or_default();
        let modified = metadata.modified().expect("a time");
        (path, metadata.mode(), metadata.uid(), modified, bytes)
    });
    seen.collect()
}
