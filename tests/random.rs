//! Random schedules: whatever the order of their calls, writers exclude each other's publishes.

use std::time::Duration;

use cachelock::platform::memory::{Target, Task, World, seeded};
use cachelock::{Error, Published};

use support::{builder, publish, read, residue};

mod support;

const SEEDS: u64 = 300;
const REFRESHES: u64 = 2;
const STEPS: u64 = 200_000;

type Publishes = Vec<Result<Published, Error>>;

/// Two natives and a guest, each of which refreshes the entry several times.
fn writers(world: &World) -> Vec<(String, Task<Publishes>)> {
    let processes = [world.process("a"), world.process("b"), world.guest("guest")];
    processes
        .into_iter()
        .map(|process| {
            let name = process.name().to_owned();
            let cache = builder(&process).open().expect("nothing is touched");
            let bytes = name.clone();
            let task = world.spawn(&process, "main", move || {
                (0..REFRESHES)
                    .map(|n| publish(&cache, format!("{bytes} {n}").as_bytes()))
                    .collect()
            });
            (name, task)
        })
        .collect()
}

fn run(seed: u64) {
    let world = World::simulated_from(seed);
    let writers = writers(&world);
    let tasks: Vec<&dyn Target> = writers
        .iter()
        .map(|(_, task)| task as &dyn Target)
        .collect();
    if let Err(unfinished) = world.run_together(&tasks, seeded(seed), STEPS) {
        panic!("seed {seed}: {unfinished}\n{}", world.trace());
    }
    let mut published = Vec::new();
    for (name, task) in writers {
        for (n, result) in world.finish(task).into_iter().enumerate() {
            match result {
                Ok(one) => published.push((one.generation, format!("{name} {n}"))),
                Err(error) => panic!("seed {seed}: {name} {n}: {error}\n{}", world.trace()),
            }
        }
    }
    published.sort();
    let generations: Vec<u64> = published
        .iter()
        .map(|(generation, _)| *generation)
        .collect();
    let expected: Vec<u64> = (1..=3 * REFRESHES).collect();
    assert_eq!(
        generations,
        expected,
        "seed {seed}: generations repeat or skip\n{}",
        world.trace()
    );
    let (generation, bytes) = published.pop().expect("there were publishes");
    let found = read(&world, "reader")
        .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", world.trace()));
    assert_eq!(
        found,
        Some((bytes.into_bytes(), Some(generation))),
        "seed {seed}: the last acknowledged publish is not what is read\n{}",
        world.trace()
    );
    assert_eq!(
        residue(&world),
        [""; 0],
        "seed {seed}: something was left behind\n{}",
        world.trace()
    );
}

#[test]
fn every_acknowledged_publish_is_a_generation_of_its_own_and_the_last_one_stands() {
    for seed in 0..SEEDS {
        run(seed);
    }
}

/// The same when each call takes so long that leases expire under live holders again and again.
#[test]
fn wrong_guesses_about_who_is_dead_cost_publishes_and_never_data() {
    let (mut done, mut lost) = (0, 0);
    for seed in 0..SEEDS {
        let world = World::simulated_from(seed);
        world.set_step_time(Duration::from_millis(40));
        let writers = writers(&world);
        let tasks: Vec<&dyn Target> = writers
            .iter()
            .map(|(_, task)| task as &dyn Target)
            .collect();
        if let Err(unfinished) = world.run_together(&tasks, seeded(seed), STEPS) {
            panic!("seed {seed}: {unfinished}\n{}", world.trace());
        }
        world.set_step_time(Duration::ZERO);
        let mut published = Vec::new();
        for (name, task) in writers {
            for (n, result) in world.finish(task).into_iter().enumerate() {
                match result {
                    Ok(one) => published.push((one.generation, format!("{name} {n}"))),
                    Err(error) if error.is_lease_lost() || error.is_timeout() => lost += 1,
                    Err(error) => panic!("seed {seed}: {name} {n}: {error}\n{}", world.trace()),
                }
            }
        }
        published.sort();
        done += published.len();
        for (expected, (generation, who)) in (1..).zip(&published) {
            assert_eq!(
                *generation,
                expected,
                "seed {seed}: {who} repeats or skips a generation\n{}",
                world.trace()
            );
        }
        let found = read(&world, "reader")
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", world.trace()));
        let last = published
            .pop()
            .map(|(generation, bytes)| (bytes.into_bytes(), Some(generation)));
        assert_eq!(
            found,
            last,
            "seed {seed}: the last acknowledged publish is not what is read\n{}",
            world.trace()
        );
    }
    assert!(
        done > 0 && lost > 0,
        "{done} published and {lost} overtaken: too harmless"
    );
}
