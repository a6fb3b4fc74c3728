//! Processes that may have little: few descriptors, no threads, no watches on directories, no large files. What fails says
//! what was missing, the old entry stays whole, and a process that has more finds nothing in its way.
//!
//! The limits are set by `prlimit` and the program runs as a user of its own, so these tests need root.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{
    Ground, LIMIT, NEW, OLD, Ran, Running, USER, eventually, lacks_root, lacks_tool, run,
};

mod support;

const OPERATIONS: [&[&str]; 8] = [
    &["read", "FILE"],
    &["status", "FILE"],
    &["get", "FILE", "--", "printf", NEW],
    &["get", "FILE", "--fresh-for", "0", "--", "printf", NEW],
    &[
        "refresh",
        "FILE",
        "--durability",
        "full",
        "--",
        "printf",
        NEW,
    ],
    &["sweep", "DIR"],
    &["break", "DIR"],
    &["lock", "DIR", "--", "true"],
];

/// Runs all operations under `limit`. A failure names `cause`; tells how many there were.
fn under(ground: &Ground, limit: &str, cause: &str) -> usize {
    let mut failures = 0;
    for operation in OPERATIONS {
        ground.publish(OLD);
        let ran = run(ground
            .wrapped(&["prlimit", limit, "--"], operation)
            .stdin(Stdio::null()));
        assert_clear(ground, &ran, cause);
        failures += usize::from(ran.code() != 0);
        let publishes = ran.code() == 0 && operation.contains(&NEW) && ran.stdout != OLD;
        let payload = fs::read_to_string(ground.entry()).expect("it is there");
        assert_eq!(payload, if publishes { NEW } else { OLD }, "{limit}: {ran}");
        if matches!(operation[0], "read" | "get") && ran.code() == 0 {
            assert_eq!(ran.stdout, payload, "{limit}: {ran}");
        }
        ground.assert_next_refresh_works(&format!("{limit}, {operation:?}"));
    }
    failures
}

#[track_caller]
fn assert_clear(ground: &Ground, ran: &Ran, cause: &str) {
    assert!(ran.code() == 0 || ran.stderr.contains(cause), "{ran}");
    // COMMAND may be what could not be started, and that is no path of ours.
    if ran.code() != 126 {
        // In the cache, or the configuration file, which is read first.
        ran.assert_clear(ground.path());
    }
}

#[test]
fn too_few_descriptors_are_said() {
    if lacks_root() || lacks_tool("prlimit") {
        return;
    }
    let ground = Ground::of(USER);
    ground.publish(OLD);
    let mut tested = 0;
    for limit in 3..=64 {
        let limit = format!("--nofile={limit}:{limit}");
        let starts = run(&mut ground.wrapped(&["prlimit", &limit, "--"], &["--version"]));
        // Below that the system cannot load the program.
        if starts.code() != 0 {
            continue;
        }
        if under(&ground, &limit, "Too many open files") == 0 {
            assert!(tested > 3, "{limit} was enough for everything");
            return;
        }
        tested += 1;
    }
    panic!("a refresh needs more than 64 descriptors");
}

#[test]
fn no_threads_and_no_processes_are_said_and_standard_input_needs_none() {
    if lacks_root() || lacks_tool("prlimit") {
        return;
    }
    let ground = Ground::of(USER);
    ground.publish(OLD);
    let failures = under(&ground, "--nproc=1:1", "Resource temporarily unavailable");
    assert_eq!(failures, 3, "what runs a COMMAND fails, and nothing else");

    let words = ["refresh", "FILE"];
    let mut command = ground.wrapped(&["prlimit", "--nproc=1:1", "--"], &words);
    let mut alone = Running::start(command.stdin(Stdio::piped()));
    let mut input = alone.child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, NEW.as_bytes()).expect("it reads");
    drop(input);
    let ran = alone.finish_within(LIMIT);
    assert_eq!(ran.code(), 0, "{ran}");
    assert_eq!(
        fs::read_to_string(ground.entry()).expect("it is there"),
        NEW
    );
}

#[test]
fn a_wait_that_would_need_a_thread_says_so_where_there_is_none() {
    if lacks_root() || lacks_tool("prlimit") {
        return;
    }
    let ground = Ground::of(USER);
    ground.publish(OLD);
    let words = ["lock", "DIR", "--", "cat"];
    let mut holder = Running::start(ground.command(&words).stdin(Stdio::piped()));
    let status = || ground.run(&["status", "DIR", "--json"]).stdout;
    eventually("it is locked", || status().contains("\"locked\":true"));
    let sweep = |timeout| {
        let words = ["sweep", "DIR", "--timeout", timeout];
        run(&mut ground.wrapped(&["prlimit", "--nproc=1:1", "--"], &words))
    };
    let ran = sweep("0");
    assert_eq!(ran.code(), 75, "to try needs no thread: {ran}");
    let ran = sweep("5");
    assert_eq!(ran.code(), 74, "{ran}");
    ran.assert_clear(&ground.control().join("cache.lock"));
    assert!(
        ran.stderr.contains("raise the limit of their number"),
        "{ran}"
    );
    drop(holder.child.stdin.take());
    assert_eq!(
        holder.finish_within(LIMIT).code(),
        0,
        "the holder ends well"
    );
    ground.assert_next_refresh_works(&"afterwards");
}

#[test]
fn a_file_that_may_not_be_so_large_is_an_error_and_no_sudden_end() {
    if lacks_root() || lacks_tool("prlimit") {
        return;
    }
    let ground = Ground::of(USER);
    ground.publish(OLD);
    // A claim has 512 bytes, `head` as many as there were epochs.
    for (bytes, fails) in [(0, true), (1, true), (511, true), (1_000_000, false)] {
        let limit = format!("--fsize={bytes}:{bytes}");
        let failures = under(&ground, &limit, "File too large");
        assert_eq!(failures > 0, fails, "{limit}: {failures} operations failed");
    }
    let limit = ["prlimit", "--fsize=100000:100000", "--"];
    let words = ["refresh", "FILE", "--", "head", "-c", "200000", "/dev/zero"];
    let ran = run(&mut ground.wrapped(&limit, &words));
    assert_eq!(ran.code(), 74, "{ran}");
    assert!(ran.stderr.contains("may not make so large a file"), "{ran}");
    // COMMAND lives by the system's rules again.
    let outgrows = format!(
        "head -c 200000 /dev/zero > {}",
        ground.path().join("large").display()
    );
    let words = ["refresh", "FILE", "--", "sh", "-c", &outgrows];
    let ran = run(&mut ground.wrapped(&limit, &words));
    assert_eq!(ran.code(), 128 + 25, "SIGXFSZ ends COMMAND: {ran}");
    ground.assert_next_refresh_works(&"afterwards");
}

#[test]
fn a_waiter_that_cannot_watch_the_directory_looks_itself() {
    if lacks_root() || lacks_tool("strace") || lacks_tool("unshare") {
        return;
    }
    let ground = Ground::of(0);
    ground.publish(OLD);
    let words = [
        "lock",
        "DIR",
        "--locking",
        "lease",
        "--lease",
        "2m",
        "--",
        "cat",
    ];
    let mut holder = Running::start(ground.command(&words).stdin(Stdio::piped()));
    eventually("the lease is held", || {
        let status = ground.run(&["status", "DIR", "--json"]).stdout;
        status.contains("\"lease_ms\":120000")
    });

    // A user namespace has limits of its own.
    let log = ground.path().join("log");
    let no_watches = format!(
        "echo 0 > /proc/sys/user/max_inotify_instances && exec strace -f -qq -e trace=inotify_init1 -o {} \"$@\"",
        log.display()
    );
    let wrapper = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        &no_watches,
        "sh",
    ];
    let words = ["refresh", "FILE", "--timeout", "1m", "--", "printf", NEW];
    let waiter = Running::start(ground.wrapped(&wrapper, &words).stdin(Stdio::null()));
    eventually("it is refused a watch", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("EMFILE"))
    });

    drop(holder.child.stdin.take());
    assert_eq!(
        holder.finish_within(LIMIT).code(),
        0,
        "the holder ends well"
    );
    let released = Instant::now();
    let ran = waiter.finish_within(LIMIT);
    assert_eq!(ran.code(), 0, "{ran}");
    // With a watch it would look by itself every 15 s, an eighth of the lease.
    assert!(released.elapsed() < Duration::from_secs(5), "{ran}");
    ground.assert_next_refresh_works(&"afterwards");
}
