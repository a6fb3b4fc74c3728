//! Writers and readers in processes of their own, all at once: no read is torn, and no generation goes back.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use cachelock::{Cache, Verification};

const WRITERS: u8 = 4;
const REFRESHES: u8 = 25;
const READERS: usize = 4;
const PAYLOAD: usize = 1 << 20;

/// Which part a re-executed copy of this binary plays.
const ROLE: &str = "CACHELOCK_TEST_ROLE";
const DIR: &str = "CACHELOCK_TEST_DIR";

/// One byte, repeated: mixed, torn and empty reads show.
#[track_caller]
fn check(payload: &[u8]) {
    assert_eq!(payload.len(), PAYLOAD, "a read of the wrong length");
    assert!(
        payload.iter().all(|byte| *byte == payload[0]),
        "a mixed read"
    );
}

/// Not a test of its own: what the copies do.
#[test]
fn role() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else {
        return;
    };
    let dir = Path::new(&dir);
    let done = || dir.join("done").exists();
    let cache = Cache::builder(dir.join("cache"))
        .timeout(Duration::from_secs(60))
        .open()
        .unwrap();
    let entry = cache.entry("entry").unwrap();
    let mut reads = 0_u64;
    match role.split_at(1) {
        ("w", number) => {
            let writer: u8 = number.parse().unwrap();
            for n in 0..REFRESHES {
                let mut refresh = entry.refresh().unwrap();
                std::io::Write::write_all(&mut refresh, &vec![1 + writer * REFRESHES + n; PAYLOAD])
                    .unwrap();
                refresh.publish().unwrap();
            }
        }
        ("c", number) => {
            let mut reader = entry.reader();
            let mut last = 0;
            while !done() {
                // Half of them through a reader, half without memory.
                let snapshot = if number == "0" {
                    reader.read()
                } else {
                    entry.read()
                }
                .unwrap()
                .expect("an entry");
                check(&snapshot);
                assert_eq!(snapshot.meta().verification, Verification::Verified);
                let generation = snapshot.meta().generation.unwrap();
                assert!(
                    generation >= last,
                    "the generation went from {last} to {generation}"
                );
                last = generation;
                reads += 1;
            }
            println!("{reads} verified reads");
        }
        _ => {
            while !done() {
                check(&std::fs::read(entry.path()).unwrap());
                reads += 1;
            }
            println!("{reads} plain reads");
        }
    }
}

fn start(dir: &Path, role: String) -> (String, Child) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, &role)
        .env(DIR, dir);
    (role, command.spawn().unwrap())
}

#[test]
fn a_hundred_refreshes_under_eight_readers_are_never_seen_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path().join("cache")).unwrap();
    let entry = cache.entry("entry").unwrap();
    let mut first = entry.refresh().unwrap();
    std::io::Write::write_all(&mut first, &vec![255; PAYLOAD]).unwrap();
    first.publish().unwrap();

    let readers: Vec<_> = (0..READERS)
        .flat_map(|n| [format!("c{n}"), format!("p{n}")])
        .map(|role| start(dir.path(), role))
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| start(dir.path(), format!("w{n}")))
        .collect();
    for (role, mut writer) in writers {
        assert!(writer.wait().unwrap().success(), "the writer {role} failed");
    }
    std::fs::write(dir.path().join("done"), "").unwrap();
    for (role, mut reader) in readers {
        assert!(reader.wait().unwrap().success(), "the reader {role} failed");
    }
    let last = entry.read().unwrap().expect("the last refresh");
    let published = 1 + u64::from(WRITERS) * u64::from(REFRESHES);
    assert_eq!(
        last.meta().generation,
        Some(published),
        "each refresh is one generation"
    );
}
