//! What `strace` has recorded of a run.

use std::collections::BTreeMap;

/// The calls that reach the file system, the kernel's locks, or what watches a directory.
const OF_FILES: [&str; 33] = [
    "open",
    "openat",
    "openat2",
    "mkdir",
    "mkdirat",
    "read",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "rename",
    "renameat",
    "renameat2",
    "unlinkat",
    "fchmod",
    "flock",
    "fcntl",
    "newfstatat",
    "fstat",
    "statx",
    "fstatfs",
    "getdents64",
    "utimensat",
    "lseek",
    "close",
    "inotify_init1",
    "inotify_add_watch",
];

/// Those that a signal can interrupt, on a local file system.
const INTERRUPTIBLE: [&str; 7] = [
    "open", "openat", "read", "pread64", "pwrite64", "fsync", "flock",
];

/// One call of a process's main thread: its name, and how many of that name the thread has made, this one among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) call: String,
    pub(super) ordinal: usize,
}

impl Point {
    pub(super) fn is_of_files(&self) -> bool {
        OF_FILES.contains(&&*self.call)
    }

    pub(super) fn is_interruptible(&self) -> bool {
        INTERRUPTIBLE.contains(&&*self.call)
    }
}

/// The name and the rest of a line that shows a call, also of one that has not returned.
fn call_in(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once('(')?;
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (!name.is_empty() && name.bytes().all(is_name)).then_some((name, rest))
}

/// The calls of the main thread from the first that `begins` recognizes, but for the end of the process itself.
pub(super) fn points(log: &str, begins: impl Fn(&str, &str) -> bool) -> Vec<Point> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut reached = false;
    let mut points = Vec::new();
    for (name, rest) in log.lines().filter_map(call_in) {
        let count = counts.entry(name).or_default();
        *count += 1;
        reached |= begins(name, rest);
        if reached && name != "exit_group" {
            points.push(Point {
                call: name.to_owned(),
                ordinal: *count,
            });
        }
    }
    points
}

/// Whether `strace` has made a call fail.
pub(super) fn has_failed_one(log: &str) -> bool {
    log.lines().any(|line| line.ends_with("(INJECTED)"))
}

/// Whether the process was killed.
pub(super) fn was_killed(log: &str) -> bool {
    log.ends_with("+++ killed by SIGKILL +++\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
execve(\"/bin/x\", [\"x\"], 0x7ffe /* 9 vars */) = 0
openat(AT_FDCWD, \"/etc/x\", O_RDONLY) = 3
--- SIGCHLD {si_signo=SIGCHLD} ---
openat(AT_FDCWD, \"/c\", O_RDONLY) = 3
close(3) = 0
futex(0x1, FUTEX_WAIT) = ? ERESTARTSYS (To be restarted)
openat(3, \"a(b\", O_RDONLY) = -1 EIO (Input/output error) (INJECTED)
exit_group(0) = ?
+++ exited with 0 +++
";

    #[test]
    fn calls_are_counted_from_the_start_and_named_from_where_it_matters() {
        let found = points(LOG, |_, rest| rest.contains("\"/c\""));
        let found: Vec<_> = found
            .iter()
            .map(|point| (&*point.call, point.ordinal))
            .collect();
        assert_eq!(
            found,
            [("openat", 2), ("close", 1), ("futex", 1), ("openat", 3)]
        );
    }

    #[test]
    fn what_was_injected_shows() {
        assert!(has_failed_one(LOG));
        assert!(!was_killed(LOG));
        assert!(was_killed(
            &LOG.replace("exited with 0", "killed by SIGKILL")
        ));
        assert!(!has_failed_one(
            LOG.split("(INJECTED)").next().unwrap_or_default()
        ));
    }
}
