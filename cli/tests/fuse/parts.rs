//! Writers and readers in processes of their own: copies of this binary that play a part.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};

use cachelock::{Cache, Entry, Verification};

use super::*;

/// Which part a copy of this binary plays, and on which cache.
const ROLE: &str = "CACHELOCK_TEST_ROLE";
const CACHE: &str = "CACHELOCK_TEST_CACHE";

const REFRESHES: u8 = 25;
const SHORTEST: usize = 100_000;

/// One character, repeated: mixed, torn and empty reads show. The lengths differ, too.
pub(super) fn payload_of(n: u8) -> String {
    let len = SHORTEST + usize::from(n) * 7919 % SHORTEST;
    char::from(b' ' + n % 95).to_string().repeat(len)
}

#[track_caller]
fn check(payload: &[u8]) {
    assert!(payload.len() >= SHORTEST, "only {} bytes", payload.len());
    let whole = payload.iter().all(|byte| *byte == payload[0]);
    assert!(whole, "a mixed read");
}

/// Eight callers want a missing entry, in turn by one way to it and by the next.
#[track_caller]
pub(super) fn assert_fetched_once(dir: &Path, ways: &[Place]) {
    let count = dir.join("count");
    let script = format!("echo x >> {}; sleep 0.2; echo payload", count.display());
    let get = ["get", "FILE", "--timeout", "60", "--", "sh", "-c", &script];
    let herd: Vec<Child> = (0..8).map(|n| ways[n % ways.len()].start(&get)).collect();
    for child in herd {
        let out = child.wait_with_output().expect("it ends");
        let said = stderr(&out);
        assert_eq!((code(&out), &*stdout(&out)), (0, "payload\n"), "{said}");
    }
    let fetched = fs::read_to_string(count).expect("somebody fetched it");
    assert_eq!(fetched, "x\n", "only one did");
}

pub(super) struct Part {
    name: String,
    child: Child,
}

impl Part {
    pub(super) fn start(role: &str, place: &Place, dir: &Path) -> Self {
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "parts::role", "--nocapture"])
            .env(ROLE, role)
            .env(CACHE, &place.cache)
            .current_dir(dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        Part {
            name: format!("{role} of {}", place.cache.display()),
            child,
        }
    }

    /// What it has said, when it has come to a good end.
    #[track_caller]
    fn finish(mut self) -> String {
        let mut said = String::new();
        let mut output = self.child.stdout.take().expect("a pipe");
        output.read_to_string(&mut said).expect("text");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{} failed: {status}\n{said}", self.name);
        said
    }
}

/// Waits for the writers, then ends the readers. Returns the generations that were published; none may be there twice.
#[track_caller]
pub(super) fn finish(dir: &Path, writers: Vec<Part>, readers: Vec<Part>) -> BTreeSet<u64> {
    let mut generations = BTreeSet::new();
    for writer in writers {
        let said = writer.finish();
        for line in said.lines() {
            if let Some(generation) = line.strip_prefix("published ") {
                let is_new = generations.insert(generation.parse().expect("a number"));
                assert!(is_new, "the generation {generation} was given twice");
            }
        }
    }
    fs::write(dir.join("done"), "").expect("writable");
    for reader in readers {
        let said = reader.finish();
        assert!(said.contains("\nread "), "it reads at all: {said}");
    }
    generations
}

/// Not a test of its own: what the copies do.
#[test]
fn role() {
    let (Ok(role), Ok(cache)) = (std::env::var(ROLE), std::env::var(CACHE)) else {
        return;
    };
    let cache = Cache::builder(cache)
        .timeout(Duration::from_secs(60))
        .open()
        .expect("a cache");
    let entry = cache.entry("entry").expect("a name");
    match role.strip_prefix("writer ") {
        Some(number) => write(&entry, number.parse().expect("a number")),
        None => read(&entry, &role),
    }
}

fn write(entry: &Entry, writer: u8) {
    for n in 0..REFRESHES {
        let mut refresh = entry.refresh().expect("its turn");
        let payload = payload_of(writer * REFRESHES + n);
        refresh.write_all(payload.as_bytes()).expect("a write");
        let published = refresh.publish().expect("a publish");
        println!("\npublished {}", published.generation);
    }
}

fn read(entry: &Entry, role: &str) {
    let mut reader = entry.reader();
    let mut last = 0;
    while !Path::new("done").exists() {
        let snapshot = match role {
            "plain" => {
                check(&fs::read(entry.path()).expect("an entry"));
                continue;
            }
            "plain through FUSE" => {
                match fs::read(entry.path()) {
                    Ok(payload) => check(&payload),
                    // FUSE itself loses a name for a moment when a file is renamed to it. That is not half of anything.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                }
                continue;
            }
            "reader" => reader.read(),
            _ => entry.read(),
        };
        let snapshot = snapshot.expect("a whole entry").expect("an entry");
        check(&snapshot);
        assert_eq!(snapshot.meta().verification, Verification::Verified);
        let generation = snapshot.meta().generation.expect("verified");
        assert!(generation >= last, "from {last} back to {generation}");
        last = generation;
    }
    println!("\nread {last}");
}
