//! What the simulated disk, clock and scheduler promise to the tests that are built upon them.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cachelock_platform::memory::{
    Fault, Keep, Op, Outcome, PendingOp, Process, Runnable, Stopped, Task, World, native, seeded,
};
use cachelock_platform::{Access, Dir, File, FileKind, Owner, Platform};

const NEW: Access = Access::CreateNew(0o600);
const SECOND: Duration = Duration::from_secs(1);

/// A simulated world with the directory `/cache`.
fn world() -> World {
    let world = World::simulated();
    world.plant_dir("/cache");
    world
}

#[track_caller]
fn open(process: &Process, path: &str) -> Arc<dyn Dir> {
    process
        .open_dir(Path::new(path))
        .expect("the directory is there")
}

#[track_caller]
fn kind<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

/// A task that works in `/cache`.
fn in_cache<T: Send + 'static>(
    world: &World,
    process: &Arc<Process>,
    body: impl FnOnce(&Process, Arc<dyn Dir>) -> T + Send + 'static,
) -> Task<T> {
    let own = process.clone();
    world.spawn(process, "main", move || {
        let dir = open(&own, "/cache");
        body(&own, dir)
    })
}

mod disk {
    use super::*;

    #[test]
    fn create_new_is_exclusive_whatever_has_the_name() {
        let world = world();
        world.plant_symlink("/cache/link", "nowhere");
        world.plant_other("/cache/fifo");
        world.plant_dir("/cache/dir");
        let dir = open(&world.process("a"), "/cache");
        assert!(dir.open("file", NEW).is_ok());
        for name in ["file", "link", "fifo", "dir"] {
            assert_eq!(
                kind(dir.open(name, NEW)),
                ErrorKind::AlreadyExists,
                "{name}"
            );
            assert_eq!(
                kind(dir.create_dir(name, 0o700)),
                ErrorKind::AlreadyExists,
                "{name}"
            );
        }
    }

    #[test]
    fn names_that_are_not_one_plain_segment_are_refused() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        for name in ["", ".", "..", "a/b", "/a", "a\0"] {
            assert_eq!(
                kind(dir.open(name, NEW)),
                ErrorKind::InvalidInput,
                "{name:?}"
            );
            assert_eq!(kind(dir.stat(name)), ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn only_the_users_own_path_follows_links() {
        let world = world();
        world.plant_file("/cache/file", b"x");
        world.plant_symlink("/link", "cache");
        world.plant_symlink("/cache/self", ".");
        world.plant_symlink("/cache/to-file", "file");
        world.plant_symlink("/loop", "loop");
        let a = world.process("a");
        assert!(open(&a, "/link/self/../link").stat("file").is_ok());
        assert!(a.open_dir(Path::new("/loop")).is_err());
        let dir = open(&a, "/cache");
        assert_eq!(kind(dir.open_dir("self")), ErrorKind::NotADirectory);
        assert_eq!(kind(dir.open_dir("file")), ErrorKind::NotADirectory);
        assert_eq!(dir.stat("to-file").unwrap().kind, FileKind::Symlink);
        let refused = kind(dir.open("to-file", Access::Read));
        assert!(
            !matches!(refused, ErrorKind::NotFound | ErrorKind::AlreadyExists),
            "{refused:?}"
        );
    }

    #[test]
    fn a_rename_replaces_and_an_open_file_stays_readable() {
        let world = world();
        world.plant_file("/cache/old", b"old");
        world.plant_file("/cache/new", b"new!");
        let dir = open(&world.process("a"), "/cache");
        let file = dir.open("old", Access::Read).unwrap();
        dir.rename("new", &*dir, "old").unwrap();
        assert_eq!(world.list("/cache"), ["old"]);
        assert_eq!(world.read_file("/cache/old").unwrap(), b"new!");
        let mut buf = [0; 8];
        assert_eq!(file.read_at(&mut buf, 1).unwrap(), 2);
        assert_eq!(&buf[..2], b"ld");
        assert_eq!(file.metadata().unwrap().links, 0);
        assert_ne!(file.metadata().unwrap().id, dir.stat("old").unwrap().id);
    }

    #[test]
    fn what_a_native_displaces_has_the_old_name_and_what_a_guest_does_is_gone() {
        let world = world();
        world.plant_dir("/cache/dir");
        for (process, leaves_old) in [(world.process("a"), true), (world.guest("b"), false)] {
            world.plant_file("/cache/old", b"old");
            world.plant_file("/cache/new", b"new!");
            let dir = open(&process, "/cache");
            assert_eq!(dir.displace("new", &*dir, "old").unwrap(), leaves_old);
            assert_eq!(world.read_file("/cache/old").unwrap(), b"new!");
            let moved = world.read_file("/cache/new");
            assert_eq!(moved, leaves_old.then(|| b"old".to_vec()));
            assert_eq!(
                kind(dir.displace("none", &*dir, "old")),
                ErrorKind::NotFound
            );
            let with_dir = dir.displace("old", &*dir, "dir");
            match leaves_old {
                true => assert!(with_dir.unwrap() && dir.displace("old", &*dir, "dir").unwrap()),
                false => assert_eq!(kind(with_dir), ErrorKind::IsADirectory),
            }
            assert!(!dir.displace("old", &*dir, "nobody").unwrap());
            assert_eq!(world.read_file("/cache/nobody").unwrap(), b"new!");
            let _ = dir.unlink("new");
        }
    }

    #[test]
    fn a_power_cut_keeps_both_of_what_has_changed_places_or_none() {
        for kept in [true, false] {
            let world = world();
            world.plant_file("/cache/old", b"old");
            world.plant_file("/cache/new", b"new!");
            let dir = open(&world.process("a"), "/cache");
            assert!(dir.displace("new", &*dir, "old").unwrap());
            match kept {
                true => world.power_cut_keeping_everything(),
                false => world.power_cut_losing_everything(),
            }
            let expected: [&[u8]; 2] = match kept {
                true => [b"new!", b"old"],
                false => [b"old", b"new!"],
            };
            let found =
                ["old", "new"].map(|name| world.read_file(&format!("/cache/{name}")).unwrap());
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_rename_that_cannot_be_says_why() {
        let world = world();
        world.plant_file("/cache/file", b"");
        world.plant_dir("/cache/dir");
        world.plant_dir("/cache/gone");
        let a = world.process("a");
        let (dir, gone) = (open(&a, "/cache"), open(&a, "/cache/gone"));
        world.remove("/cache/gone");
        assert_eq!(kind(dir.rename("none", &*dir, "x")), ErrorKind::NotFound);
        assert_eq!(kind(dir.rename("file", &*gone, "x")), ErrorKind::NotFound);
        assert_eq!(
            kind(dir.rename("file", &*dir, "dir")),
            ErrorKind::IsADirectory
        );
        assert_eq!(
            kind(dir.rename("dir", &*dir, "file")),
            ErrorKind::NotADirectory
        );
        let other = World::simulated();
        let elsewhere = open(&other.process("a"), "/");
        assert_eq!(
            kind(dir.rename("file", &*elsewhere, "x")),
            ErrorKind::CrossesDevices
        );
        assert_eq!(world.list("/cache"), ["dir", "file"], "nothing was renamed");
    }

    #[test]
    fn a_removed_directory_takes_no_new_names() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        world.remove("/cache");
        assert_eq!(kind(dir.open("x", NEW)), ErrorKind::NotFound);
        assert_eq!(kind(dir.create_dir("x", 0o700)), ErrorKind::NotFound);
        assert_eq!(kind(dir.reopen()), ErrorKind::NotFound);
    }

    #[test]
    fn a_hole_takes_no_space_and_reads_as_zeros() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        let file = dir.open("head", NEW).unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.set_len(1 << 60).unwrap();
        assert_eq!(dir.stat("head").unwrap().len, 1 << 60);
        let mut buf = [7; 4];
        assert_eq!(file.read_at(&mut buf, 1).unwrap(), 4);
        assert_eq!(buf, *b"bc\0\0");
        assert_eq!(file.read_at(&mut buf, (1 << 60) - 1).unwrap(), 1);
        assert_eq!(file.read_at(&mut buf, u64::MAX).unwrap(), 0);
        assert_eq!(kind(file.set_len(1 << 63)), ErrorKind::InvalidInput);
        assert!(
            file.write_at(b"x", 1 << 50).is_err(),
            "that would take the host's memory"
        );
        file.set_len(2).unwrap();
        file.set_len(4).unwrap();
        assert_eq!(world.read_file("/cache/head").unwrap(), b"ab\0\0");
    }

    #[test]
    fn a_file_opened_for_reading_is_not_written_to() {
        let world = world();
        world.plant_file("/cache/file", b"x");
        let file = open(&world.process("a"), "/cache")
            .open("file", Access::Read)
            .unwrap();
        assert!(file.write_at(b"y", 0).is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(world.read_file("/cache/file").unwrap(), b"x");
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_then_says_so() {
        let world = world();
        world.set_capacity(Some(4));
        let file = open(&world.process("a"), "/cache")
            .open("file", NEW)
            .unwrap();
        assert_eq!(file.write_at(b"abcdef", 0).unwrap(), 4);
        assert_eq!(kind(file.write_at(b"ef", 4)), ErrorKind::StorageFull);
        assert_eq!(
            file.write_at(b"ABCD", 0).unwrap(),
            4,
            "what is there can be written over"
        );
        world.set_capacity(None);
        assert_eq!(file.write_at(b"ef", 4).unwrap(), 2);
    }

    #[test]
    fn a_read_only_disk_can_be_read() {
        let world = world();
        world.plant_file("/cache/file", b"x");
        let dir = open(&world.process("a"), "/cache");
        world.set_read_only(true);
        assert_eq!(kind(dir.open("new", NEW)), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(
            kind(dir.open("file", Access::Write)),
            ErrorKind::ReadOnlyFilesystem
        );
        assert_eq!(kind(dir.unlink("file")), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(
            kind(dir.rename("file", &*dir, "x")),
            ErrorKind::ReadOnlyFilesystem
        );
        assert_eq!(
            dir.open("file", Access::Read)
                .unwrap()
                .read_at(&mut [0; 2], 0)
                .unwrap(),
            1
        );
    }

    #[test]
    fn metadata_tells_mode_owner_and_time() {
        let world = world();
        let a = world.process("a");
        let dir = open(&a, "/cache");
        let file = dir.open("file", NEW).unwrap();
        let before = file.metadata().unwrap();
        assert_eq!(
            (before.mode, before.owner, before.shared),
            (Some(0o600), Owner::Me, false)
        );
        file.set_mode(0o666).unwrap();
        world.set_owner("/cache/file", Owner::Other(7));
        world.advance(SECOND);
        file.write_at(b"x", 0).unwrap();
        let after = dir.stat("file").unwrap();
        assert_eq!(
            (after.mode, after.owner, after.shared),
            (Some(0o666), Owner::Other(7), true)
        );
        assert_eq!(
            after.modified.duration_since(before.modified).unwrap(),
            SECOND
        );
        world.set_modified("/cache/file", before.modified);
        world.set_wall_skew(&a, 1000);
        file.touch().unwrap();
        assert_eq!(
            dir.stat("file").unwrap().modified,
            after.modified,
            "the disk's clock counts"
        );
        assert_eq!(
            a.wall().duration_since(after.modified).unwrap().as_secs(),
            1000
        );
    }

    #[test]
    fn inodes_nobody_can_reach_are_forgotten_and_others_are_not() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        let kept = dir.open("kept", NEW).unwrap();
        kept.write_at(b"kept", 0).unwrap();
        dir.unlink("kept").unwrap();
        dir.sync().unwrap();
        for _ in 0..5000 {
            drop(dir.open("x", NEW).unwrap());
            dir.unlink("x").unwrap();
        }
        let mut buf = [0; 4];
        assert_eq!(kept.read_at(&mut buf, 0).unwrap(), 4);
        assert_eq!(&buf, b"kept");
    }
}

mod scheduling {
    use super::*;

    #[test]
    fn run_until_stops_before_the_call_and_asks_once() {
        let world = world();
        let a = world.process("a");
        let task = in_cache(&world, &a, |_, dir| {
            for name in ["one", "two", "three"] {
                drop(dir.open(name, NEW).unwrap());
            }
        });
        let call = world.run_to(&a, |call| call.op == Op::CreateNew);
        assert_eq!(call.to_string(), "a/main: CreateNew /cache/one");
        assert!(world.list("/cache").is_empty(), "stopped before the call");
        let call = world.run_to(&task, |call| call.op == Op::CreateNew);
        assert_eq!(
            call.name, "two",
            "the first call was made, not asked about again"
        );
        assert_eq!(world.list("/cache"), ["one"]);
        assert_eq!(world.run_until(&a, |_| false), Stopped::Finished);
        assert_eq!(world.list("/cache"), ["one", "three", "two"]);
        assert!(task.has_ended());
    }

    #[test]
    fn an_overtaken_rename_finds_nothing() {
        let world = world();
        let (a, b) = (world.process("a"), world.process("b"));
        let publish = in_cache(&world, &a, |_, dir| {
            dir.open("stage-1", NEW)?.write_at(b"a", 0)?;
            dir.rename("stage-1", &*dir, "entry")
        });
        world.run_to(&a, |call| {
            call.is(Op::Rename, "stage-") && call.renames_to("entry")
        });
        let fence = in_cache(&world, &b, |_, dir| dir.unlink("stage-1"));
        world.finish(fence).unwrap();
        assert_eq!(kind(world.finish(publish)), ErrorKind::NotFound);
        assert!(!world.exists("/cache/entry"));
    }

    #[test]
    fn nothing_of_a_task_runs_before_it_is_told_to() {
        let world = world();
        let a = world.process("a");
        let ran = Arc::new(AtomicUsize::new(0));
        let seen = ran.clone();
        let task = world.spawn(&a, "main", move || seen.fetch_add(1, Ordering::SeqCst));
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        assert_eq!(world.finish(task), 0);
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn time_jumps_only_when_all_are_blocked() {
        let world = world();
        let a = world.process("a");
        let waiter = {
            let own = a.clone();
            world.spawn(&a, "waiter", move || {
                let start = own.monotonic();
                assert!(!own.event().wait_until(Some(start + 5 * SECOND)));
                own.monotonic() - start
            })
        };
        let worker = in_cache(&world, &a, |own, dir| {
            for _ in 0..500 {
                dir.list().unwrap();
            }
            let now = own.monotonic();
            own.event().wait_until(Some(now + SECOND));
            own.monotonic() - now
        });
        world.run_to(&worker, |call| {
            call.thread.as_ref() == "main" && call.op == Op::Wait
        });
        assert_eq!(world.now(), Duration::ZERO);
        assert_eq!(world.finish(worker), SECOND);
        assert_eq!(world.finish(waiter), 5 * SECOND);
        assert_eq!(world.now(), 5 * SECOND);
    }

    #[test]
    fn a_deadline_of_a_frozen_process_moves_nothing() {
        let world = world();
        let (a, b) = (world.process("a"), world.process("b"));
        let wait = |seconds| {
            move |own: &Process, _| {
                let deadline = own.monotonic() + seconds * SECOND;
                own.event().wait_until(Some(deadline))
            }
        };
        let short = in_cache(&world, &b, wait(1));
        world.run_to(&b, |call| call.op == Op::Wait);
        let long = in_cache(&world, &a, wait(10));
        assert!(!world.finish(long));
        assert_eq!(world.now(), 10 * SECOND);
        assert!(!world.finish(short));
        assert_eq!(world.now(), 10 * SECOND, "it was over long ago");
    }

    #[test]
    fn an_event_is_sticky_and_one_thread_wakes_another() {
        let world = world();
        let a = world.process("a");
        let event = a.event();
        let (waits, sets) = (event.clone(), event);
        let waiter = world.spawn(&a, "waiter", move || {
            (
                waits.wait_until(None),
                waits.wait_until(Some(Duration::ZERO)),
                waits.wait_until(None),
            )
        });
        assert_eq!(world.run_until(&waiter, |_| false), Stopped::Blocked);
        let setter = in_cache(&world, &a, move |_, dir| {
            sets.set();
            dir.list().unwrap();
            dir.list().unwrap();
            sets
        });
        let sets = world.finish(setter);
        assert_eq!(world.run_until(&a, |_| false), Stopped::Blocked);
        sets.set();
        assert_eq!(world.finish(waiter), (true, false, true));
    }

    #[test]
    fn background_threads_run_with_their_process_and_take_turns() {
        let world = world();
        let a = world.process("a");
        let task =
            in_cache(&world, &a, |own, dir| {
                let beats = dir.clone();
                own.spawn(
                    "beat",
                    Box::new(move || {
                        while beats.open("beat", NEW).is_err() || beats.unlink("beat").is_ok() {}
                    }),
                )
                .unwrap();
                (0..1000).filter(|_| dir.stat("beat").is_ok()).count()
            });
        let beat = world.run_to(&a, |call| call.thread.as_ref() == "beat");
        assert_eq!(beat.op, Op::CreateNew);
        world.finish(task);
        world.run_to(&a, |call| {
            call.thread.as_ref() == "beat" && call.op == Op::Unlink
        });
        world.kill(&a);
    }

    #[test]
    fn a_panic_reaches_the_driver() {
        let world = world();
        let a = world.process("a");
        let message =
            |result: std::thread::Result<()>| *result.unwrap_err().downcast::<String>().unwrap();
        let task = world.spawn(&a, "main", || panic!("no such {}", "luck"));
        let text = message(catch_unwind(AssertUnwindSafe(|| world.finish(task))));
        assert!(text.contains("no such luck"), "{text}");
        let task = in_cache(&world, &a, |own, dir| {
            own.spawn("beat", Box::new(|| panic!("heart attack")))
                .unwrap();
            dir.list().unwrap();
        });
        let text = message(catch_unwind(AssertUnwindSafe(|| world.finish(task))));
        assert!(
            text.contains("heart attack") && text.contains("beat"),
            "{text}"
        );
    }

    #[test]
    #[should_panic(expected = "it is not what was expected")]
    fn a_test_that_fails_beside_a_thread_without_end_ends() {
        let world = world();
        let a = world.process("a");
        let clock = a.clone();
        let task = in_cache(&world, &a, |own, _| {
            let beats = Box::new(move || {
                loop {
                    let next = clock.monotonic() + SECOND;
                    clock.event().wait_until(Some(next));
                }
            });
            own.spawn("beat", beats).unwrap();
            // So that it runs.
            own.event().wait_until(Some(own.monotonic() + SECOND));
        });
        world.finish(task);
        panic!("it is not what was expected");
    }

    #[test]
    fn a_predicates_panic_reaches_the_driver_and_the_world_goes_on() {
        let world = world();
        let a = world.process("a");
        let task = in_cache(&world, &a, |_, dir| dir.list().unwrap().len());
        let run = || {
            world.run_until(&a, |call| {
                if call.op == Op::List {
                    panic!("asked")
                } else {
                    false
                }
            })
        };
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        assert_eq!(world.finish(task), 0);
    }

    /// Two processes race for names; the trace tells who got which.
    fn race(schedule: u64, seed: u64) -> String {
        let world = World::simulated_from(seed);
        world.plant_dir("/cache");
        let racers: Vec<_> = ["a", "b", "c"]
            .map(|name| {
                in_cache(&world, &world.process(name), |own, dir| {
                    for _ in 0..10 {
                        let name = own.random().unwrap() % 8;
                        match dir.open(&name.to_string(), NEW) {
                            Ok(_) => {}
                            Err(_) => dir.unlink(&name.to_string()).unwrap_or_default(),
                        }
                        own.event().wait_until(Some(own.monotonic() + SECOND));
                    }
                })
            })
            .into();
        let tasks: Vec<_> = racers.iter().map(|task| task as _).collect();
        world
            .run_together(&tasks, seeded(schedule), 10_000)
            .unwrap();
        world.trace()
    }

    #[test]
    fn the_same_seeds_make_the_same_trace() {
        assert_eq!(race(1, 1), race(1, 1));
        assert_ne!(race(1, 1), race(2, 1), "another schedule");
        assert_ne!(race(1, 1), race(1, 2), "other random numbers");
    }

    #[test]
    fn a_chooser_can_enumerate_all_interleavings() {
        // Each of two processes appends its letter twice: 4 over 2 orders.
        let mut seen = std::collections::BTreeSet::new();
        let mut script: Vec<usize> = Vec::new();
        loop {
            let world = world();
            world.plant_file("/cache/log", b"");
            let tasks = ["a", "b"].map(|name| {
                let process = world.process(name);
                let file = open(&process, "/cache").open("log", Access::Write).unwrap();
                world.spawn(&process, "main", move || {
                    for _ in 0..2 {
                        // One step: the length is not looked up first.
                        file.write_at(name.as_bytes(), 0).unwrap();
                    }
                })
            });
            let taken = Arc::new(Mutex::new(Vec::new()));
            let (notes, follow) = (taken.clone(), script.clone());
            let order = Arc::new(Mutex::new(String::new()));
            let chooser = move |options: &[Runnable]| {
                let mut notes = notes.lock().unwrap();
                let choice = follow.get(notes.len()).copied().unwrap_or(0);
                notes.push((choice, options.len()));
                choice
            };
            world
                .run_together(&[&tasks[0], &tasks[1]], chooser, 100)
                .unwrap();
            for line in world.trace().lines().filter(|line| line.contains("Write")) {
                order
                    .lock()
                    .unwrap()
                    .push_str(if line.contains(" a/main") { "a" } else { "b" });
            }
            assert!(
                seen.insert(order.lock().unwrap().clone()),
                "each order once"
            );
            let mut taken = taken.lock().unwrap().clone();
            while taken
                .last()
                .is_some_and(|(choice, options)| choice + 1 == *options)
            {
                taken.pop();
            }
            let Some(last) = taken.last_mut() else { break };
            last.0 += 1;
            script = taken.iter().map(|(choice, _)| *choice).collect();
        }
        assert_eq!(seen.len(), 6, "{seen:?}");
    }

    #[test]
    fn a_chooser_may_look_at_the_world_but_not_kill() {
        let world = world();
        let racers = ["a", "b"].map(|name| {
            in_cache(&world, &world.process(name), move |_, dir| {
                drop(dir.open(name, NEW).unwrap());
                dir.list().unwrap().len()
            })
        });
        let (looks, victim) = (world.clone(), world.process("c"));
        let chooser = move |_: &[Runnable]| {
            let names = looks.list("/cache").len();
            let dir = open(&victim, "/cache");
            assert_eq!(
                dir.list().unwrap().len(),
                names,
                "a call from outside is done at once"
            );
            if names > 0 {
                looks.kill(&victim);
            }
            0
        };
        let run = || world.run_together(&[&racers[0], &racers[1]], chooser, 100);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        assert_eq!(
            racers.map(|task| world.finish(task)),
            [1, 2],
            "the world goes on"
        );
    }

    #[test]
    fn a_world_can_be_left_or_killed_at_every_step() {
        for steps in 0..60 {
            let world = world();
            world.plant_file("/cache/lock", b"");
            let processes = ["a", "b"].map(|name| world.process(name));
            let tasks = processes.each_ref().map(|process| {
                in_cache(&world, process, |own, dir| {
                    let (beats, event) = (dir.clone(), own.event());
                    own.spawn(
                        "beat",
                        Box::new(move || while !event.wait_until(None) || beats.list().is_ok() {}),
                    )
                    .unwrap();
                    for _ in 0..5 {
                        let file = dir.open("lock", Access::Write).unwrap();
                        file.lock().unwrap();
                        file.write_at(b"x", 0).unwrap();
                    }
                })
            });
            let finished = world.run_together(&[&tasks[0], &tasks[1]], seeded(steps), steps);
            if steps % 2 == 0 {
                world.kill(&processes[0]);
                let rest = world.process("c");
                world.finish(in_cache(&world, &rest, |_, dir| dir.list().unwrap()));
                if finished.is_err() {
                    world.run_until(&tasks[1], |_| false);
                    assert_ne!(
                        tasks[1].outcome(),
                        Some(Outcome::Killed),
                        "only a was killed"
                    );
                    assert!(tasks[1].has_ended(), "a dead holder blocks nobody");
                }
            }
        }
    }

    #[test]
    fn those_that_cannot_finish_are_reported() {
        let world = world();
        let a = world.process("a");
        let stuck = in_cache(&world, &a, |own, _| own.event().wait_until(None));
        let error = world.run_together(&[&stuck], seeded(0), 100).unwrap_err();
        assert!(error.blocked);
        assert!(
            error.to_string().contains("blocked in a/main: Wait"),
            "{error}"
        );
        let b = world.process("b");
        let busy = in_cache(&world, &b, |_, dir| while dir.list().is_ok() {});
        let error = world.run_together(&[&busy], seeded(0), 100).unwrap_err();
        assert!(!error.blocked);
        assert!(error.to_string().contains("before b/main: List"), "{error}");
    }

    #[test]
    fn a_lock_excludes_and_is_handed_over() {
        let world = world();
        world.plant_file("/cache/lock", b"");
        let (a, b) = (world.process("a"), world.process("b"));
        let hold = |_: &Process, dir: Arc<dyn Dir>| {
            let file = dir.open("lock", Access::Write).unwrap();
            file.lock().unwrap();
            dir.list().unwrap();
            drop(file);
            dir.list().unwrap();
        };
        let (first, second) = (in_cache(&world, &a, hold), in_cache(&world, &b, hold));
        world.run_to(&first, |call| call.op == Op::List);
        assert_eq!(world.lock_holder("/cache/lock").as_deref(), Some("a"));
        assert_eq!(world.run_until(&second, |_| false), Stopped::Blocked);
        world.run_to(&first, |call| call.op == Op::Close);
        assert_eq!(
            world.run_until(&second, |_| false),
            Stopped::Blocked,
            "the drop is a step"
        );
        world.run_to(&first, |call| call.op == Op::List);
        world.finish(second);
        world.finish(first);
        assert_eq!(world.lock_holder("/cache/lock"), None);
    }

    #[test]
    fn two_handles_of_one_process_exclude_each_other() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        let one = dir.open("lock", NEW).unwrap();
        let two = dir.open("lock", Access::Write).unwrap();
        assert!(one.try_lock().unwrap());
        assert!(one.try_lock().unwrap(), "it has it already");
        assert!(!two.try_lock().unwrap());
        two.unlock().unwrap();
        assert!(
            !two.try_lock().unwrap(),
            "nobody gives back what another has"
        );
        one.unlock().unwrap();
        assert!(two.try_lock().unwrap());
        two.close().unwrap();
        assert!(one.try_lock().unwrap());
    }

    #[test]
    fn a_watch_notices_removals_and_renames_until_dropped() {
        let world = world();
        for name in ["one", "two", "three"] {
            world.plant_file(&format!("/cache/{name}"), b"");
        }
        let a = world.process("a");
        let dir = open(&a, "/cache");
        let event = a.event();
        let woken = || event.wait_until(Some(Duration::ZERO));
        let watch = dir.watch(event.clone()).unwrap();
        let file = dir.open("one", Access::Write).unwrap();
        file.write_at(b"beat", 0).unwrap();
        assert!(!woken(), "a beat is no news");
        dir.unlink("one").unwrap();
        assert!(woken());
        dir.rename("two", &*dir, "one").unwrap();
        assert!(woken());
        world.rename("/cache", "/moved");
        assert!(woken());
        drop(watch);
        dir.unlink("three").unwrap();
        assert!(!woken());
    }
}

mod ends {
    use super::*;

    #[test]
    fn a_killed_processs_lock_is_free() {
        let world = world();
        world.plant_file("/cache/lock", b"");
        let (a, b) = (world.process("a"), world.process("b"));
        let lock = |_: &Process, dir: Arc<dyn Dir>| {
            let file = dir.open("lock", Access::Write).unwrap();
            file.lock().unwrap();
            dir.list().unwrap();
            file
        };
        let first = in_cache(&world, &a, lock);
        world.run_to(&a, |call| call.op == Op::List);
        let second = in_cache(&world, &b, lock);
        assert_eq!(world.run_until(&b, |_| false), Stopped::Blocked);
        world.kill(&a);
        assert_eq!(first.outcome().map(|_| ()), Some(()), "killed");
        world.finish(second);
        assert_eq!(
            world.lock_holder("/cache/lock").as_deref(),
            None,
            "the value was dropped with its lock"
        );
    }

    /// Tidies up, or tries to.
    struct Tidy {
        dir: Arc<dyn Dir>,
        event: Arc<dyn cachelock_platform::Event>,
        failed: Arc<Mutex<Vec<String>>>,
    }

    impl Drop for Tidy {
        fn drop(&mut self) {
            let unlinked = self.dir.unlink("claim");
            assert!(!self.event.wait_until(None), "it does not wait");
            self.failed.lock().unwrap().push(format!("{unlinked:?}"));
        }
    }

    #[test]
    fn a_killed_threads_drop_has_no_effect() {
        for stop_at in [Op::CreateNew, Op::Stat, Op::Wait] {
            let world = world();
            let a = world.process("a");
            let failed = Arc::new(Mutex::new(Vec::new()));
            let notes = failed.clone();
            let task = in_cache(&world, &a, move |own, dir| {
                let _tidy = Tidy {
                    dir: dir.clone(),
                    event: own.event(),
                    failed: notes,
                };
                drop(dir.open("claim", NEW).unwrap());
                dir.stat("claim").unwrap();
                own.event().wait_until(None);
            });
            world.run_to(&a, move |call| call.op == stop_at);
            world.kill(&a);
            assert_eq!(task.outcome(), Some(Outcome::Killed));
            assert_eq!(
                world.exists("/cache/claim"),
                stop_at != Op::CreateNew,
                "{stop_at:?}"
            );
            let failed = failed.lock().unwrap();
            assert_eq!(failed.len(), 1, "the thread did unwind");
            assert!(failed[0].contains("killed"), "{failed:?}");
        }
    }

    #[test]
    fn a_blocked_or_unstarted_thread_can_be_killed_and_the_dead_stay_dead() {
        let world = world();
        let a = world.process("a");
        let blocked = in_cache(&world, &a, |own, _| own.event().wait_until(None));
        assert_eq!(world.run_until(&a, |_| false), Stopped::Blocked);
        let unstarted = in_cache(&world, &a, |_, _| ());
        world.kill(&a);
        world.kill(&a);
        assert_eq!(blocked.outcome(), Some(Outcome::Killed));
        assert_eq!(unstarted.outcome(), Some(Outcome::Killed));
        assert!(a.open_dir(Path::new("/")).is_err());
        assert!(a.is_dead());
    }

    #[test]
    fn a_killed_thread_that_catches_its_end_ends_at_the_next_call() {
        let world = world();
        let a = world.process("a");
        let task = in_cache(&world, &a, |_, dir| {
            let again = dir.clone();
            let _ = catch_unwind(AssertUnwindSafe(move || again.list()));
            dir.open("x", NEW).map(drop)
        });
        world.run_to(&a, |call| call.op == Op::List);
        world.kill(&a);
        assert_eq!(
            task.outcome()
                .map(|outcome| matches!(outcome, Outcome::Killed)),
            Some(true)
        );
        assert!(world.list("/cache").is_empty());
    }

    #[test]
    fn a_power_cut_loses_unsynced_bytes_and_names() {
        let world = world();
        world.plant_file("/cache/entry", b"old");
        let dir = open(&world.process("a"), "/cache");
        let stage = dir.open("stage", NEW).unwrap();
        stage.write_at(b"synced", 0).unwrap();
        stage.sync().unwrap();
        stage.write_at(b"NOT", 0).unwrap();
        dir.sync().unwrap();
        dir.rename("stage", &*dir, "entry").unwrap();
        dir.open("new", NEW).unwrap().write_at(b"x", 0).unwrap();
        world.power_cut_losing_everything();
        assert_eq!(world.list("/cache"), ["entry", "stage"]);
        assert_eq!(world.read_file("/cache/entry").unwrap(), b"old");
        assert_eq!(world.read_file("/cache/stage").unwrap(), b"synced");
    }

    #[test]
    fn a_name_can_survive_without_its_bytes() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        dir.open("stage", NEW)
            .unwrap()
            .write_at(b"bytes", 0)
            .unwrap();
        dir.rename("stage", &*dir, "entry").unwrap();
        world.power_cut(|pending| match &pending.op {
            PendingOp::Rename { to } if to == "entry" => Keep::Keep,
            _ => Keep::Lose,
        });
        assert_eq!(world.list("/cache"), ["entry"]);
        assert_eq!(world.read_file("/cache/entry").unwrap(), b"");
    }

    #[test]
    fn a_write_can_be_torn_zeroed_or_noise() {
        let after = |keep: Keep| {
            let world = world();
            let dir = open(&world.process("a"), "/cache");
            let file = dir.open("file", NEW).unwrap();
            dir.sync().unwrap();
            file.write_at(b"abcd", 0).unwrap();
            world.power_cut(move |_| keep);
            world.read_file("/cache/file").unwrap()
        };
        assert_eq!(after(Keep::Keep), b"abcd");
        assert_eq!(after(Keep::Lose), b"");
        assert_eq!(after(Keep::Torn(2)), b"ab");
        assert_eq!(after(Keep::Zeros), b"\0\0\0\0");
        assert_eq!(
            (after(Keep::Garbage).len(), after(Keep::Garbage) == b"abcd"),
            (4, false)
        );
    }

    #[test]
    fn a_rename_between_directories_survives_as_a_whole_by_a_sync_of_either() {
        for synced in ["/cache", "/cache/control"] {
            let world = world();
            world.plant_dir("/cache/control");
            let a = world.process("a");
            let (dir, control) = (open(&a, "/cache"), open(&a, "/cache/control"));
            control.open("stage", NEW).unwrap().sync().unwrap();
            control.rename("stage", &*dir, "entry").unwrap();
            open(&a, synced).sync().unwrap();
            // What is older than the synced rename must not come back over it.
            world.power_cut_keeping_everything();
            assert_eq!(world.list("/cache"), ["control", "entry"], "{synced}");
            assert!(world.list("/cache/control").is_empty(), "{synced}");
        }
    }

    #[test]
    fn after_a_failed_sync_the_bytes_are_lost_although_the_next_succeeds() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        let file = dir.open("file", NEW).unwrap();
        dir.sync().unwrap();
        file.write_at(b"lost", 0).unwrap();
        world.inject(
            |call| call.op == Op::SyncFile,
            Fault::Error(ErrorKind::StorageFull),
            1,
        );
        assert_eq!(kind(file.sync()), ErrorKind::StorageFull);
        file.write_at(b"!", 4).unwrap();
        file.sync().unwrap();
        world.power_cut_losing_everything();
        assert_eq!(world.read_file("/cache/file").unwrap(), b"\0\0\0\0!");
    }

    #[test]
    fn what_is_old_enough_was_written_back_by_itself() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        let file = dir.open("file", NEW).unwrap();
        for number in 0..10_000_u32 {
            file.write_at(&number.to_be_bytes(), 0).unwrap();
            drop(dir.open("x", NEW).unwrap());
            dir.unlink("x").unwrap();
        }
        world.power_cut_losing_everything();
        let bytes = world
            .read_file("/cache/file")
            .expect("the oldest name was written back");
        let number = u32::from_be_bytes(bytes.try_into().unwrap());
        assert!((1000..9999).contains(&number), "{number}");
    }

    #[test]
    fn an_image_is_what_a_power_cut_would_leave_and_the_world_goes_on() {
        let world = world();
        let a = world.process("a");
        let dir = open(&a, "/cache");
        let file = dir.open("file", NEW).unwrap();
        file.write_at(b"bytes", 0).unwrap();
        let what: Vec<PendingOp> = world.pending().into_iter().map(|one| one.op).collect();
        assert_eq!(
            what,
            [PendingOp::Create, PendingOp::Write { offset: 0, len: 5 }]
        );
        let names_only = |pending: &cachelock_platform::memory::Pending| match pending.op {
            PendingOp::Create => Keep::Keep,
            _ => Keep::Lose,
        };
        world.advance(SECOND);
        let image = world.image(0, names_only);
        assert_eq!(image.read_file("/cache/file").unwrap(), b"");
        assert!(image.pending().is_empty(), "what is left is durable");
        assert_eq!(image.now(), world.now());
        let there = image.process("a");
        assert_ne!(there.identity().boot, a.identity().boot);
        assert_ne!(there.random().unwrap(), a.random().unwrap());
        open(&there, "/cache").unlink("file").unwrap();
        assert_eq!(
            world.read_file("/cache/file").unwrap(),
            b"bytes",
            "it is another disk"
        );
        file.sync().unwrap();
        assert_eq!(world.pending().len(), 1, "the handle is still good");
    }

    #[test]
    fn a_reboot_keeps_the_disk_and_changes_the_boot() {
        let world = world();
        let a = world.process("a");
        let dir = open(&a, "/cache");
        let file = dir.open("file", NEW).unwrap();
        file.try_lock().unwrap();
        let boot = a.identity().boot;
        assert_eq!(boot, world.process("b").identity().boot, "one machine");
        world.reboot();
        assert!(dir.list().is_err(), "nobody is left");
        let c = world.process("c");
        assert_ne!(c.identity().boot, boot);
        assert!(
            open(&c, "/cache")
                .open("file", Access::Write)
                .unwrap()
                .try_lock()
                .unwrap()
        );
    }
}

mod environment {
    use super::*;

    #[test]
    fn faults_hit_what_they_are_meant_for_as_often_as_told() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        world.inject(
            |call| call.is(Op::CreateNew, "claim-"),
            Fault::Error(ErrorKind::StorageFull),
            2,
        );
        assert!(dir.open("stage", NEW).is_ok());
        assert_eq!(kind(dir.open("claim-1", NEW)), ErrorKind::StorageFull);
        assert_eq!(kind(dir.open("claim-1", NEW)), ErrorKind::StorageFull);
        assert!(!world.exists("/cache/claim-1"), "it had no effect");
        let file = dir.open("claim-1", NEW).unwrap();
        world.inject(|call| call.op == Op::Write, Fault::Short(2), 1);
        assert_eq!(file.write_at(b"abcd", 0).unwrap(), 2);
        assert_eq!(file.write_at(b"cd", 2).unwrap(), 2);
        world.inject(|_| true, Fault::Error(ErrorKind::PermissionDenied), 100);
        assert_eq!(kind(dir.list()), ErrorKind::PermissionDenied);
        world.clear_faults();
        assert!(dir.list().is_ok());
    }

    #[test]
    fn a_failed_close_closes() {
        let world = world();
        let dir = open(&world.process("a"), "/cache");
        let file = dir.open("lock", NEW).unwrap();
        assert!(file.try_lock().unwrap());
        world.inject(
            |call| call.op == Op::Close,
            Fault::Error(ErrorKind::StorageFull),
            1,
        );
        assert_eq!(kind(file.close()), ErrorKind::StorageFull);
        assert_eq!(world.lock_holder("/cache/lock"), None);
    }

    #[test]
    fn a_guest_is_told_what_it_cannot_do() {
        let world = world();
        let guest = world.guest("g");
        assert_eq!(guest.identity(), cachelock_platform::Identity::default());
        assert_eq!(
            kind(guest.spawn("x", Box::new(|| ()))),
            ErrorKind::Unsupported
        );
        assert_eq!(guest.default_mode(), None);
        let dir = open(&guest, "/cache");
        assert!(!dir.file_system().unwrap().kernel_locks);
        assert!(dir.watch(guest.event()).is_err());
        let file = dir.open("file", NEW).unwrap();
        assert_eq!(kind(file.try_lock()), ErrorKind::Unsupported);
        assert_eq!(kind(file.lock()), ErrorKind::Unsupported);
        file.set_mode(0o600).unwrap();
        assert_eq!(
            (
                file.metadata().unwrap().mode,
                file.metadata().unwrap().owner
            ),
            (None, Owner::Unknown)
        );
        assert_eq!(
            world.metadata("/cache/file").unwrap().mode,
            Some(0o644),
            "a native sees what it made"
        );
        file.set_len(1 << 20).unwrap();
        assert_eq!(file.read_at(&mut vec![0; 1 << 20], 0).unwrap(), 1 << 16);
    }

    #[test]
    fn each_process_has_its_own_clocks_slot_and_number() {
        let world = world();
        let (a, b) = (world.process("a"), world.process("b"));
        assert_ne!(a.monotonic(), b.monotonic(), "origins differ");
        assert_ne!(a.process_id(), b.process_id());
        assert!(Arc::ptr_eq(&a.slot(), &a.slot()) && !Arc::ptr_eq(&a.slot(), &b.slot()));
        let (monotonic, wall) = (a.monotonic(), a.wall());
        world.step_wall(-3600);
        assert_eq!(wall.duration_since(a.wall()).unwrap().as_secs(), 3600);
        assert_eq!(a.monotonic(), monotonic);
        world.suspend(SECOND);
        assert_eq!(a.monotonic() - monotonic, SECOND);
        world.set_wall_skew(&b, 5);
        assert_eq!(b.wall().duration_since(a.wall()).unwrap().as_secs(), 5);
        assert_ne!(a.random().unwrap(), a.random().unwrap());
    }

    #[test]
    fn the_librarys_state_goes_when_the_process_or_the_world_does() {
        let held = Arc::new(());
        let world = world();
        let (a, b) = (world.process("a"), world.process("b"));
        for process in [&a, &b] {
            // As the library does, state that refers to its own process.
            let _ = process
                .slot()
                .set(Arc::new((process.clone(), held.clone())));
        }
        world.kill(&a);
        assert_eq!(Arc::strong_count(&held), 2);
        drop((a, b));
        drop(world);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_path_is_made_absolute_from_the_root() {
        let world = world();
        let a = world.process("a");
        assert_eq!(a.absolute(Path::new("cache")).unwrap(), Path::new("/cache"));
        assert_eq!(
            a.absolute(Path::new("/x/../y")).unwrap(),
            Path::new("/x/../y")
        );
        assert!(a.absolute(Path::new("")).is_err());
        a.create_dir_all(Path::new("one/two/three")).unwrap();
        a.create_dir_all(Path::new("/one/two")).unwrap();
        assert!(a.open_dir(Path::new("/one/two/three")).is_ok());
        assert_eq!(
            kind(a.open_dir(Path::new("/one/none"))),
            ErrorKind::NotFound
        );
    }
}

mod live {
    use super::*;

    fn lock_file(process: &Process) -> Box<dyn File> {
        process.create_dir_all(Path::new("/cache")).unwrap();
        let dir = open(process, "/cache");
        dir.open("lock", NEW)
            .or_else(|_| dir.open("lock", Access::Write))
            .unwrap()
    }

    #[test]
    fn a_lock_blocks_and_is_handed_over() {
        let world = World::live();
        let (a, b) = (world.process("a"), world.process("b"));
        let held = lock_file(&a);
        held.lock().unwrap();
        let order = Arc::new(AtomicUsize::new(0));
        let seen = order.clone();
        let waiter = std::thread::spawn(move || {
            let file = lock_file(&b);
            assert!(!file.try_lock().unwrap());
            file.lock().unwrap();
            seen.load(Ordering::SeqCst)
        });
        std::thread::sleep(Duration::from_millis(30));
        order.store(1, Ordering::SeqCst);
        drop(held);
        assert_eq!(waiter.join().unwrap(), 1, "it got the lock after the drop");
    }

    #[test]
    fn a_killed_processs_lock_is_free() {
        let world = World::live();
        let (a, b) = (world.process("a"), world.process("b"));
        let held = lock_file(&a);
        held.lock().unwrap();
        let waiter = std::thread::spawn(move || lock_file(&b).lock().is_ok());
        world.kill(&a);
        assert!(waiter.join().unwrap());
        assert!(held.try_lock().is_err(), "the dead make no calls");
    }

    #[test]
    fn waits_are_real_and_end_by_the_event() {
        let a = World::live().process("a");
        let event = a.event();
        let start = Instant::now();
        let deadline = a.monotonic() + Duration::from_millis(20);
        while a.monotonic() < deadline {
            assert!(!event.wait_until(Some(deadline)));
        }
        assert!(start.elapsed() >= Duration::from_millis(20));
        let sets = event.clone();
        a.spawn("setter", Box::new(move || sets.set())).unwrap();
        assert!(event.wait_until(None));
    }

    #[test]
    fn the_native_platform_is_one_process() {
        let (one, two) = (native(), native());
        assert_eq!(one.process_id(), two.process_id());
        one.create_dir_all(Path::new("/native")).unwrap();
        assert!(two.open_dir(Path::new("/native")).is_ok());
        assert_ne!(one.random().unwrap(), two.random().unwrap());
    }
}
