//! Many callers ask for one missing entry at once: one of them produces it, whether they are threads or processes, natives or
//! guests, simulated or real.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use cachelock::platform::Platform;
use cachelock::platform::memory::{Op, Process, Target, Task, World, seeded};
use cachelock::{Cache, Entry, GetError, Locking, Policy, Timeout};

use support::{builder, residue};

mod support;

const STEPS: u64 = 1_000_000;
const BYTES: &[u8] = b"produced once";

/// Asks for the entry; `produced` is told when that makes this caller produce it.
fn ask(entry: &Entry, produced: impl FnOnce()) -> Vec<u8> {
    let answer = entry.get_or_refresh(&Policy::any_age(), |refresh| {
        produced();
        refresh.write_all(BYTES)
    });
    match answer {
        Ok(snapshot) => snapshot.expect("it was produced").to_vec(),
        Err(GetError::Cache(error)) => panic!("{error}"),
        Err(GetError::Produce(error)) => panic!("{error}"),
    }
}

/// A simulated thread that asks; producing takes 300 ms.
fn asks(
    world: &World,
    process: &Arc<Process>,
    label: &str,
    produced: &Arc<AtomicUsize>,
) -> Task<Vec<u8>> {
    let mut builder = builder(process);
    if process.name().contains("lease") {
        builder = builder.locking(Locking::Lease);
    }
    let cache = builder.open().expect("good settings");
    let (own, produced) = (process.clone(), produced.clone());
    world.spawn(process, label, move || {
        let entry = cache.entry("entry").expect("a good name");
        ask(&entry, || {
            produced.fetch_add(1, Ordering::SeqCst);
            let until = own.monotonic() + Duration::from_millis(300);
            own.event().wait_until(Some(until));
        })
    })
}

#[track_caller]
fn assert_all_get_it(world: &World, tasks: Vec<Task<Vec<u8>>>, seed: u64) {
    let targets: Vec<&dyn Target> = tasks.iter().map(|task| task as &dyn Target).collect();
    if let Err(unfinished) = world.run_together(&targets, seeded(seed), STEPS) {
        panic!("seed {seed}: {unfinished}");
    }
    for task in tasks {
        assert_eq!(world.finish(task), BYTES, "seed {seed}");
    }
    assert_eq!(residue(world), [""; 0], "seed {seed}");
}

#[test]
fn of_64_simulated_threads_of_one_process_one_produces() {
    for seed in 0..20 {
        let world = World::simulated_from(seed);
        let process = world.process("process");
        let produced = Arc::default();
        let tasks = (0..64)
            .map(|n| asks(&world, &process, &format!("thread {n}"), &produced))
            .collect();
        assert_all_get_it(&world, tasks, seed);
        let produced = produced.load(Ordering::SeqCst);
        assert_eq!(produced, 1, "seed {seed}: {produced} produced");
        assert!(
            world.now() < Duration::from_millis(310),
            "seed {seed}: they waited for {:?}, and producing took 300 ms",
            world.now()
        );
    }
}

#[test]
fn of_simulated_natives_and_guests_one_produces() {
    for seed in 0..20 {
        let world = World::simulated_from(seed);
        let processes = [
            world.process("native"),
            world.process("another native"),
            world.process("native with the lease alone"),
            world.guest("guest"),
            world.guest("another guest"),
        ];
        let produced = Arc::default();
        let tasks = (0..40)
            .map(|n| {
                let process = &processes[n % processes.len()];
                asks(&world, process, &format!("thread {n}"), &produced)
            })
            .collect();
        assert_all_get_it(&world, tasks, seed);
        let produced = produced.load(Ordering::SeqCst);
        assert_eq!(produced, 1, "seed {seed}: {produced} produced");
    }
}

#[test]
fn if_the_producer_dies_one_other_takes_its_place() {
    for seed in 0..20 {
        let world = World::simulated_from(seed);
        let dies = world.process("dies");
        let produced = Arc::default();
        let first = asks(&world, &dies, "main", &produced);
        world.run_to(&first, |call| {
            call.op == Op::Wait && &*call.thread == "main"
        });
        let others = [world.process("native"), world.guest("guest")];
        let tasks: Vec<_> = (0..32)
            .map(|n| asks(&world, &others[n % 2], &format!("thread {n}"), &produced))
            .collect();
        // They have come, at least, and it lives so long.
        let mut targets: Vec<&dyn Target> = vec![&first];
        targets.extend(tasks.iter().map(|task| task as &dyn Target));
        let started = world.run_together(&targets, seeded(seed), 600);
        assert!(started.is_err(), "seed {seed}: it has produced already");
        world.kill(&dies);
        assert_all_get_it(&world, tasks, seed);
        let produced = produced.load(Ordering::SeqCst);
        assert_eq!(
            produced,
            2,
            "seed {seed}: the one that died, and {} more",
            produced - 1
        );
    }
}

#[test]
fn of_64_threads_of_this_process_one_produces() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for round in 0..5 {
        let produced = AtomicUsize::new(0);
        let barrier = Barrier::new(64);
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    let cache = Cache::builder(dir.path())
                        .timeout(Timeout::Infinite)
                        .open()
                        .expect("good settings");
                    let entry = cache.entry(&format!("entry {round}"));
                    let entry = entry.expect("a good name");
                    barrier.wait();
                    let bytes = ask(&entry, || {
                        produced.fetch_add(1, Ordering::SeqCst);
                    });
                    assert_eq!(bytes, BYTES);
                });
            }
        });
        let produced = produced.into_inner();
        assert_eq!(produced, 1, "round {round}: {produced} produced");
    }
}

const ROLE: &str = "CACHELOCK_TEST_STAMPEDE";
const PROCESSES: usize = 8;
const THREADS: usize = 8;

/// One of the processes: says that it is there, waits for the word, and asks with each of its threads.
#[test]
#[ignore = "the other tests start it as a child process"]
fn in_a_child_process() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (locking, dir) = role.split_once(' ').expect("a way of locking and a path");
    let cache = Cache::builder(dir)
        .locking(locking.parse().expect("a way of locking"))
        .timeout(Timeout::Infinite)
        .open()
        .expect("good settings");
    let barrier = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let entry = cache.entry("entry").expect("a good name");
                barrier.wait();
                let bytes = ask(&entry, || {
                    println!("produces");
                    thread::sleep(Duration::from_millis(100));
                });
                assert_eq!(bytes, BYTES);
            });
        }
        println!("ready");
        io::stdin()
            .read_exact(&mut [0])
            .expect("the parent gives the word");
        barrier.wait();
    });
}

fn child(locking: Locking, dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("its own path"))
        .args(["--exact", "in_a_child_process", "--ignored", "--nocapture"])
        .env(ROLE, format!("{locking} {}", dir.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("its own binary can be run");
    let mut said = Vec::new();
    while !said.ends_with(b"ready\n") {
        let mut byte = [0];
        let output = child.stdout.as_mut().expect("it is piped");
        let read = output.read(&mut byte).expect("it can be read");
        assert_eq!(read, 1, "it ended: {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    child
}

#[test]
fn of_8_threads_in_each_of_8_processes_one_produces() {
    for guests in [0, 3, PROCESSES] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut children: Vec<Child> = (0..PROCESSES)
            .map(|n| match n < guests {
                true => child(Locking::Lease, dir.path()),
                false => child(Locking::Auto, dir.path()),
            })
            .collect();
        for child in &mut children {
            let mut input = child.stdin.take().expect("it is piped");
            input.write_all(b"!").expect("it waits for that");
        }
        let mut produced = 0;
        for child in children {
            let output = child.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}: {said}", output.status);
            produced += said.matches("produces").count();
        }
        assert_eq!(
            produced, 1,
            "{guests} of the {PROCESSES} processes with the lease alone"
        );
    }
}
