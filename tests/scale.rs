//! What must not grow: the cost of a refresh with the number of entries, the memory with the size of a payload.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use cachelock::{Cache, Durability};

/// The highest resident size of this process so far, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("Linux has it");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const ROLE: &str = "CACHELOCK_TEST_STREAM";

/// Not a test of its own: a process for itself, so that its peak of memory is its own.
#[test]
fn role() {
    let Ok(dir) = std::env::var(ROLE) else { return };
    const GIB: u64 = 1 << 30;
    let before = peak_kib();
    let entry = Cache::builder(dir)
        .durability(Durability::None)
        .open()
        .unwrap()
        .entry("large")
        .unwrap();
    let mut refresh = entry.refresh().unwrap();
    refresh.expect_len(GIB);
    let piece = vec![7; 64 * 1024];
    for _ in 0..GIB / piece.len() as u64 {
        refresh.write_all(&piece).unwrap();
    }
    assert_eq!(refresh.publish().unwrap().len, GIB);
    let mut stream = entry.open().unwrap().expect("it was published");
    let mut buffer = vec![0; 64 * 1024];
    let mut len = 0;
    loop {
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        len += read as u64;
    }
    assert_eq!(len, GIB);
    let grown = peak_kib() - before;
    println!("1 GiB through refresh and read took {grown} KiB of memory");
    assert!(grown <= 16 * 1024, "{grown} KiB");
}

#[test]
fn a_payload_of_one_gib_streams_through_in_16_mib_of_memory() {
    if std::env::var_os(ROLE).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, dir.path());
    assert!(command.status().unwrap().success());
}

#[test]
fn a_refresh_costs_the_same_beside_a_hundred_thousand_entries() {
    if std::env::var_os(ROLE).is_some() {
        return;
    }
    let (few, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |dir: &std::path::Path| {
        Cache::builder(dir)
            .durability(Durability::None)
            .open()
            .unwrap()
            .entry("entry")
            .unwrap()
    };
    let refresh = |entry: &cachelock::Entry| {
        let began = Instant::now();
        let mut refresh = entry.refresh().unwrap();
        refresh.write_all(b"payload").unwrap();
        refresh.publish().unwrap();
        began.elapsed()
    };
    let (few, many) = (open(few.path()), (open(many.path()), many));
    refresh(&few);
    refresh(&many.0);
    let tags = many.1.path().join(".cachelock/tags");
    for n in 0..100_000 {
        std::fs::write(many.1.path().join(format!("other-{n}")), "").unwrap();
        std::fs::write(tags.join(format!("other-{n}")), "").unwrap();
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let times: (Vec<_>, Vec<_>) = (0..200).map(|_| (refresh(&few), refresh(&many.0))).unzip();
    let (few, many) = (median(times.0), median(times.1));
    println!("a refresh beside 1 entry takes {few:?}, beside 100,000 {many:?}");
    assert!(
        many < few * 2,
        "{few:?} beside one entry, {many:?} beside 100,000"
    );
}
