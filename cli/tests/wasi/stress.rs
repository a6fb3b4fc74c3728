//! Many of both kinds at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::{Ground, finish, generation_of};

const GUESTS: usize = 8;
const NATIVES: usize = 3;
const ROUNDS: usize = 6;
/// More than is read at once.
const LEN: usize = 300 * 1024;

/// A payload that tells its writer and number in each of its pieces.
fn payload(writer: usize, number: usize) -> String {
    let piece = format!("writer {writer:>3} number {number:>6}\n");
    piece.repeat(LEN / piece.len())
}

/// Whether it is one payload, whole.
#[track_caller]
fn assert_whole(read: &str, who: &str) {
    let first = read.lines().next().unwrap_or_default();
    assert!(
        read.len() == payload(0, 0).len(),
        "{who}: {} bytes",
        read.len()
    );
    assert!(
        read.lines().all(|line| line == first),
        "{who}: a mix of payloads"
    );
}

#[test]
fn of_guests_and_natives_that_refresh_one_entry_no_publish_is_lost_and_no_read_is_torn() {
    let ground = Ground::new();
    let ground = &ground;
    let published = Mutex::new(BTreeMap::new());
    let done = AtomicBool::new(false);
    let reads = [AtomicU64::new(0), AtomicU64::new(0)];
    thread::scope(|scope| {
        let writers: Vec<_> = (0..GUESTS + NATIVES)
            .map(|writer| {
                let published = &published;
                scope.spawn(move || {
                    for number in 0..ROUNDS {
                        let words = ["refresh", "FILE", "--json", "--timeout", "55"];
                        let mut command = match writer < GUESTS {
                            true => ground.guest(&words),
                            false => ground.native(&words),
                        };
                        let payload = payload(writer, number);
                        let generation = generation_of(&finish(&mut command, &payload));
                        let mut published = published.lock().expect("no writer has panicked");
                        let before = published.insert(generation, (writer, number));
                        assert_eq!(before, None, "generation {generation} twice");
                    }
                })
            })
            .collect();
        for (kind, read) in reads.iter().enumerate() {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let words = ["read", "FILE"];
                    let mut command = [Ground::guest, Ground::native][kind](ground, &words);
                    let ran = command.output().expect("it runs");
                    if ran.status.success() {
                        let payload = String::from_utf8(ran.stdout).expect("ASCII");
                        assert_whole(&payload, ["guest", "native"][kind]);
                        read.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let said = String::from_utf8_lossy(&ran.stderr);
                        assert!(said.contains("there is no entry"), "{said}");
                    }
                }
            });
        }
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a writer has failed");
    });
    let [guests, natives] = reads.map(AtomicU64::into_inner);
    println!("read {guests} times by guests and {natives} times by natives");
    assert!(guests > 0 && natives > 0, "nobody has read anything");
    let published = published.into_inner().expect("no writer has panicked");
    let total = ((GUESTS + NATIVES) * ROUNDS) as u64;
    assert!(
        published.keys().copied().eq(1..=total),
        "not every acknowledged publish is the next generation: {published:?}"
    );
    let (writer, number) = published[&total];
    ground.assert_reads(&payload(writer, number));
    ground.assert_clean();
}
