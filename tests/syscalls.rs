//! How many system calls each operation makes: a number, where a time would depend on the machine.
//!
//! A copy of this program does an operation again and again under `strace`, and makes a call of its own between two of them that
//! no operation makes. What counts is the smallest number of calls between two marks, for an acquire that takes long looks once
//! more where it is. A budget is what the operation takes today. Whoever needs one more call has to say so here, and whoever
//! saves one writes the smaller number down.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use cachelock::{Cache, Durability, Entry};

const TIMES: usize = 40;
/// `getcwd`, which nothing else here calls.
const MARK: &str = "getcwd";

/// What a copy of this program is to do, and where.
const OPERATION: &str = "CACHELOCK_SYSCALLS_OPERATION";
const DIR: &str = "CACHELOCK_SYSCALLS_DIR";

fn publish(entry: &Entry, bytes: &[u8]) {
    let mut refresh = entry.refresh().unwrap();
    refresh.write_all(bytes).unwrap();
    refresh.publish().unwrap();
}

#[test]
#[ignore = "this is the copy that is counted"]
fn in_a_child_process() {
    let of = |name| std::env::var(name).expect("set with the operation");
    if std::env::var_os(OPERATION).is_none() {
        return;
    }
    let operation = of(OPERATION);
    let durability = match operation.as_str() {
        "refresh with Data" => Durability::Data,
        "refresh with Full" => Durability::Full,
        _ => Durability::None,
    };
    let cache = Cache::builder(of(DIR))
        .durability(durability)
        .open()
        .unwrap();
    let entry = cache.entry("entry").unwrap();
    publish(&entry, &[7; 4096]);
    let mut reader = entry.reader();
    for _ in 0..TIMES {
        std::env::current_dir().unwrap();
        match operation.as_str() {
            "read" => assert!(entry.read().unwrap().is_some()),
            "unchanged reread" => assert!(reader.read().unwrap().is_some()),
            "lock and release" => drop(cache.lock().unwrap()),
            _ => publish(&entry, &[7; 4096]),
        }
    }
    std::env::current_dir().unwrap();
}

/// The fewest calls that a copy needs to do `operation` once.
fn calls(operation: &str, dir: &Path) -> usize {
    let log = dir.join("calls");
    let cache = dir.join("cache");
    std::fs::create_dir(&cache).unwrap();
    let status = Command::new("strace")
        // Not what a build without optimization adds, nor what threads and the allocator do when they like.
        .args(["-f", "-qq", "-e", "trace=!fcntl,futex,%memory", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_child_process", "--ignored", "--quiet"])
        .env(OPERATION, operation)
        .env(DIR, &cache)
        .env_remove("RUST_BACKTRACE")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{operation}: {status}");
    let log = std::fs::read_to_string(log).unwrap();
    // A process number, and a call; not the end of one that another thread's has interrupted.
    let names = log.lines().filter_map(|line| {
        let (_, call) = line.split_once(' ')?;
        let (name, _) = call.trim_start().split_once('(')?;
        let is_name = |name: &str| {
            name.bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
        };
        is_name(name).then_some(name)
    });
    let names: Vec<_> = names.skip_while(|name| *name != MARK).collect();
    let between: Vec<_> = names.split(|name| *name == MARK).map(<[_]>::len).collect();
    // Before the first mark is nothing, and after the last the end of the process.
    assert_eq!(between.len(), TIMES + 2, "{operation}: marks are missing");
    // The first one makes what the others find.
    *between[2..=TIMES].iter().min().unwrap()
}

/// Budgets, in system calls.
const BUDGETS: [(&str, usize); 6] = [
    ("lock and release", 41),
    ("refresh", 72),
    ("refresh with Data", 72),
    ("refresh with Full", 76),
    ("read", 8),
    ("unchanged reread", 2),
];

/// What an acquire adds that takes a millisecond, as it does under `strace` on many a machine: it looks at the path and at the
/// control directory once more.
const SLOW: usize = 2;

#[test]
fn operations_keep_to_their_system_calls() {
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "this test needs strace");
        eprintln!("skipped: there is no strace");
        return;
    }
    let mut off = Vec::new();
    for (operation, budget) in BUDGETS {
        let each = calls(operation, tempfile::tempdir().unwrap().path());
        let acquires = !operation.contains("read");
        if each != budget && !(acquires && each == budget + SLOW) {
            off.push(format!(
                "{operation}: {each} system calls, and its budget is {budget}"
            ));
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}
