//! How many system calls each operation makes: a number, where a time would depend on the machine.
//!
//! A copy of this program does an operation a few times, and another copy does it many times more. What `strace` counts more
//! of is theirs alone: nothing of the start of a process is in it. A budget is what the operation takes today. Whoever needs
//! one more call has to say so here, and whoever saves one writes the smaller number down.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use cachelock::{Cache, Durability, Entry};

const FEW: u32 = 5;
const MORE: u32 = 100;

/// What a copy of this program is to do, how often, and where.
const OPERATION: &str = "CACHELOCK_SYSCALLS_OPERATION";
const TIMES: &str = "CACHELOCK_SYSCALLS_TIMES";
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
    for _ in 0..of(TIMES).parse().unwrap() {
        match operation.as_str() {
            "read" => assert!(entry.read().unwrap().is_some()),
            "unchanged reread" => assert!(reader.read().unwrap().is_some()),
            "lock and release" => drop(cache.lock().unwrap()),
            _ => publish(&entry, &[7; 4096]),
        }
    }
}

/// The calls of a copy that does `operation` so many times.
fn calls(operation: &str, times: u32, dir: &Path) -> u32 {
    let log = dir.join("calls");
    let cache = dir.join("cache");
    std::fs::create_dir(&cache).unwrap();
    let status = Command::new("strace")
        .args(["-f", "-qq", "-c", "-U", "calls,name"])
        // Not what a build without optimization adds, nor what threads and the allocator do when they like.
        .args(["-e", "trace=!fcntl,futex,%memory", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_child_process", "--ignored", "--quiet"])
        .env(OPERATION, operation)
        .env(TIMES, times.to_string())
        .env(DIR, &cache)
        .env_remove("RUST_BACKTRACE")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{operation}: {status}");
    let table = std::fs::read_to_string(log).unwrap();
    let total = table.lines().find(|line| line.ends_with(" total"));
    let total = total.unwrap_or_else(|| panic!("no total:\n{table}"));
    total.split_whitespace().next().unwrap().parse().unwrap()
}

/// Budgets, in system calls.
const BUDGETS: [(&str, u32); 6] = [
    ("lock and release", 70),
    ("refresh", 135),
    ("refresh with Data", 136),
    ("refresh with Full", 140),
    ("read", 12),
    ("unchanged reread", 4),
];

#[test]
fn operations_keep_to_their_system_calls() {
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "this test needs strace");
        eprintln!("skipped: there is no strace");
        return;
    }
    let mut off = Vec::new();
    for (operation, budget) in BUDGETS {
        let count = |times| calls(operation, times, tempfile::tempdir().unwrap().path());
        let more = count(FEW + MORE) - count(FEW);
        // Rounded: a call now and then, of a thread that wakes up meanwhile, is none of each.
        let each = (more + MORE / 2) / MORE;
        if each != budget {
            off.push(format!(
                "{operation}: {each} system calls, and its budget is {budget}"
            ));
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}
