//! Two keys with one hash, and so with one file, when holders die, sleep or may not read: nobody gets another key's bytes.

use std::io::{ErrorKind as IoError, Write};
use std::sync::Arc;

use cachelock::platform::memory::{Call, Fault, Op, Process, Stopped, Target, World, seeded};
use cachelock::{Entry, Error, ErrorKind, GetError, Policy, Published};

use hell::colliding;
use support::{builder, residue};

#[path = "support/hell.rs"]
mod hell;
mod support;

/// More calls than any refresh makes: a test that gets here loops for ever.
const TOO_MANY: usize = 500;

/// The entry for the `n`-th of many keys that share a file, as this process has it.
fn entry(process: &Arc<Process>, n: u32) -> Entry {
    let cache = builder(process).open().expect("nothing is touched");
    cache.entry_for_key(colliding(n)).expect("it is short")
}

fn publish(entry: &Entry, bytes: &[u8]) -> Result<Published, Error> {
    let mut refresh = entry.refresh()?;
    refresh
        .write_all(bytes)
        .expect("so few bytes stay in the buffer");
    Ok(refresh.publish()?)
}

/// Publishes in a process of its own, undisturbed.
#[track_caller]
fn published(world: &World, n: u32, bytes: &'static [u8]) -> u64 {
    let process = world.process("publisher");
    let entry = entry(&process, n);
    let task = world.spawn(&process, "main", move || publish(&entry, bytes));
    match world.finish(task) {
        Ok(published) => published.generation,
        Err(error) => panic!("{error}\n{}", world.trace()),
    }
}

/// What a process that has not been there before reads.
#[track_caller]
fn read(world: &World, n: u32) -> Option<Vec<u8>> {
    let entry = entry(&world.process("reader"), n);
    let read = entry.read();
    let read = read.unwrap_or_else(|error| panic!("key {n}: {error}\n{}", world.trace()));
    read.map(|snapshot| snapshot.to_vec())
}

/// A publish that is killed before the first call for which `stop` holds; `true` if it made none.
fn is_killed_before(
    world: &World,
    n: u32,
    bytes: &'static [u8],
    stop: impl FnMut(&Call) -> bool + Send + 'static,
) -> bool {
    let victim = world.process("victim");
    let entry = entry(&victim, n);
    let task = world.spawn(&victim, "main", move || publish(&entry, bytes));
    if world.run_until(&task, stop) == Stopped::Finished {
        world.finish(task).expect("nobody disturbed this refresh");
        return false;
    }
    world.kill(&victim);
    true
}

const ONE: &[u8] = b"one's";

#[test]
fn a_holder_for_another_key_may_die_at_any_call() {
    // Of one length, so that it does not tell them apart; and the same bytes, which are another key's all the same.
    for other in [b"2nd's", ONE] {
        for n in 0.. {
            assert!(n < TOO_MANY, "a refresh makes endlessly many calls");
            let world = World::simulated();
            assert_eq!(published(&world, 1, ONE), 1);
            let mut calls = 0;
            let killed = is_killed_before(&world, 2, other, move |_| {
                calls += 1;
                calls > n
            });
            // The file is whole at each moment, so it is always somebody's.
            let generation = match (read(&world, 1), read(&world, 2)) {
                (Some(bytes), None) if bytes == ONE && killed => 1,
                (None, Some(bytes)) if bytes == other => 2,
                found => panic!("killed before call {n}: {found:?}\n{}", world.trace()),
            };
            assert_eq!(
                published(&world, 3, b"third"),
                generation + 1,
                "killed before call {n}: a generation was skipped or repeated\n{}",
                world.trace()
            );
            let found = [1, 2, 3].map(|n| read(&world, n));
            assert_eq!(found, [None, None, Some(b"third".to_vec())], "call {n}");
            assert_eq!(residue(&world), [""; 0], "call {n}: left behind");
            if !killed {
                assert!(n > 10, "a refresh of {n} calls was not hit");
                break;
            }
        }
    }
}

#[test]
fn a_payload_keeps_its_key_however_many_holders_die_between_their_renames() {
    let world = World::simulated();
    assert_eq!(published(&world, 1, ONE), 1);
    for n in 2..5 {
        let file = entry(&world.process("looker"), 1);
        let (_, file) = file.name().rsplit_once('/').expect("it is in a folder");
        let file = file.to_owned();
        let mut renames = 0;
        let killed = is_killed_before(&world, n, b"other", move |call| {
            renames += usize::from(call.renames_to(&file));
            renames == 2
        });
        assert!(killed, "it made no second rename\n{}", world.trace());
        assert_eq!(read(&world, 1).as_deref(), Some(ONE), "{}", world.trace());
        assert_eq!(read(&world, n), None, "{}", world.trace());
    }
    assert_eq!(published(&world, 1, b"again"), 2);
}

#[test]
fn a_tag_that_may_not_be_read_is_an_error_and_not_a_miss() {
    let world = World::simulated();
    published(&world, 1, ONE);
    let entry = entry(&world.process("reader"), 1);
    let is_tag = |call: &Call| call.op == Op::OpenRead && call.dir.contains("/tags/");
    world.inject(is_tag, Fault::Error(IoError::PermissionDenied), 1);
    let error = entry.read().expect_err("nobody can say whose it is");
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    for part in ["tag", "key \"", entry.name(), "mode"] {
        assert!(error.to_string().contains(part), "{error:?}: no {part:?}");
    }
    assert_eq!(error.path(), Some(&*entry.path()));
    assert_eq!(entry.read().expect("readable").as_deref(), Some(ONE));
}

#[test]
fn a_caller_whose_payload_another_key_has_replaced_is_not_told_that_it_is_absent() {
    let world = World::simulated();
    let process = world.process("slow");
    let slow = entry(&process, 1);
    let file = slow.path();
    let task = world.spawn(&process, "main", move || {
        slow.get_or_refresh(&Policy::any_age(), |refresh| refresh.write_all(ONE))
    });
    // The gate is free again, so it has published; and it does not yet read.
    let mut released = false;
    world.run_to(&task, move |call| {
        std::mem::replace(&mut released, call.op == Op::Unlock)
    });
    assert_eq!(read(&world, 1).as_deref(), Some(ONE), "it was published");
    published(&world, 2, b"other");
    let error = match world.finish(task) {
        Err(GetError::Cache(error)) => error,
        answer => panic!("{answer:?}\n{}", world.trace()),
    };
    assert_eq!(error.path(), Some(&*file));
    for part in ["gone again", "ask again", "key \""] {
        assert!(error.to_string().contains(part), "{error:?}: no {part:?}");
    }
}

/// Random schedules of writers that share a file, each for its own key.
#[test]
fn in_any_order_of_calls_each_key_reads_its_own_bytes_or_none() {
    const SEEDS: u64 = 150;
    const REFRESHES: u32 = 3;
    let (mut own, mut none) = (0, 0);
    for seed in 0..SEEDS {
        let world = World::simulated_from(seed);
        let processes = [world.process("a"), world.process("b"), world.guest("guest")];
        let tasks = [0, 1, 2].map(|n: u32| {
            let process = &processes[n as usize];
            let entry = entry(process, n);
            world.spawn(process, "main", move || {
                let mut reader = entry.reader();
                (0..REFRESHES)
                    .map(|_| {
                        let published = publish(&entry, format!("of key {n}").as_bytes())?;
                        let mut reads = Vec::new();
                        // Long enough for another to replace it.
                        for _ in 0..4 {
                            for read in [entry.read()?, reader.read()?] {
                                reads.push(read.map(|snapshot| snapshot.to_vec()));
                            }
                        }
                        Ok((published.generation, reads))
                    })
                    .collect::<Result<Vec<_>, Error>>()
            })
        });
        let targets = tasks.each_ref().map(|task| task as &dyn Target);
        if let Err(unfinished) = world.run_together(&targets, seeded(seed), 200_000) {
            panic!("seed {seed}: {unfinished}\n{}", world.trace());
        }
        let mut generations = Vec::new();
        for (n, task) in tasks.into_iter().enumerate() {
            let results = world.finish(task);
            let results =
                results.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", world.trace()));
            for (generation, reads) in results {
                generations.push(generation);
                for read in reads {
                    match read {
                        None => none += 1,
                        Some(bytes) if bytes == format!("of key {n}").as_bytes() => own += 1,
                        Some(bytes) => {
                            panic!("seed {seed}: key {n} got {bytes:?}\n{}", world.trace())
                        }
                    }
                }
            }
        }
        generations.sort_unstable();
        let expected: Vec<u64> = (1..=u64::from(3 * REFRESHES)).collect();
        assert_eq!(generations, expected, "seed {seed}\n{}", world.trace());
    }
    assert!(own > 0 && none > 0, "{own} own, {none} none: too harmless");
}
