//! The machine that a run was made on, and the document that keeps its table.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::file_system;

/// What a document has between these is a run's.
const BEGIN: &str = "<!-- a run's table begins -->";
const END: &str = "<!-- a run's table ends -->";

/// Peers, as the lock file names them.
const PEERS: [&str; 6] = [
    "atomic-write-file",
    "cacache",
    "fd-lock",
    "fs4",
    "fslock",
    "tempfile",
];

/// Where and with what a run was made.
pub(crate) struct Machine(String);

impl Machine {
    pub(crate) fn look(disk: &Path) -> Self {
        let line = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let compiler = Command::new("rustc").arg("--version").output();
        let compiler = compiler.map_or_else(
            |_| "an unknown rustc".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        );
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
        let lock = fs::read_to_string(lock).unwrap_or_default();
        let peers: Vec<_> = PEERS
            .iter()
            .filter_map(|peer| Some(format!("{peer} {}", version(&lock, peer)?)))
            .collect();
        Machine(format!(
            "{cores} processors ({}), Linux {}, {} (ext2, 3 or 4 are all called ext) on the disk; load when it began: {}. Built by {compiler}. Beside: {}; \
             filelock {} and proper-lockfile {} where they are named.",
            model(),
            line("/proc/sys/kernel/osrelease"),
            file_system(disk),
            line("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(", "),
            peers.join(", "),
            std::env::var("CACHELOCK_BENCH_FILELOCK").unwrap_or_else(|_| "of any version".into()),
            std::env::var("CACHELOCK_BENCH_PROPER_LOCKFILE")
                .unwrap_or_else(|_| "of any version".into()),
        ))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    name.map_or("an unknown model", |name| {
        name.trim_start_matches([' ', '\t', ':'])
    })
    .to_owned()
}

/// The version of a package in the text of a lock file.
fn version<'t>(lock: &'t str, package: &str) -> Option<&'t str> {
    let (_, rest) = lock.split_once(&format!("\nname = \"{package}\"\nversion = \""))?;
    rest.split('"').next()
}

/// Puts the table into the document at `path`.
pub(crate) fn write(path: &Path, machine: &Machine, table: &str, count: &str) {
    let text = fs::read_to_string(path).unwrap();
    let new = replaced(&text, &format!("{machine}\n\n{table}\n{count}.\n"));
    fs::write(path, new.expect("the document has a place for the table")).unwrap();
}

fn replaced(text: &str, run: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{run}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_run_is_replaced_in_the_document() {
        let old = format!("before {BEGIN}\nold\n{END} after");
        let new = replaced(&old, "new\n").unwrap();
        assert_eq!(new, format!("before {BEGIN}\n\nnew\n\n{END} after"));
        assert_eq!(
            replaced(&new, "new\n").unwrap(),
            new,
            "it can be done again"
        );
        assert!(replaced("nothing", "new").is_none());
    }

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n";
        assert_eq!(version(lock, "a"), Some("1.2.3"));
        assert_eq!(version(lock, "b"), None);
    }
}
