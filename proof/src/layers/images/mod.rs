//! Layer 3: every disk that a power cut may leave, at every call of a refresh and of a recovery.
//!
//! A scenario runs one refresh and stops before each of its calls. There each pending change of the simulated disk survives
//! or is lost, each on its own: names apart from bytes, blocks of a write apart from each other, and a block as it was, as
//! zeros, as noise or half-written. Where a point has more combinations than the bound, those are drawn by seed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cachelock::platform::memory::{Keep, Process, Stopped, World};
use cachelock::{Cache, Durability, Mutation};

use crate::random::Random;
use crate::sim::{
    BLOCK, Found, NEW, NEXT, OLD, Work, find, fingerprint, last_calls, refresh_after_power_cut,
    shown,
};
use crate::support::{ENTRY, LEASE, builder, publish_at};
use crate::threads::each;
use crate::{Broken, Control, Count, Layer, Outcome, Plan, Size};

mod ways;

use ways::{Ways, describe, ways_of};

/// The layer.
#[derive(Debug)]
pub(super) struct Images;

/// What is there when the refresh that is cut off begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Not even the directory.
    Nothing,
    /// An entry that has long been written back.
    Old,
    /// An entry that was published just now with this durability, so that two generations are in flight.
    Fresh(Durability),
    /// An entry that the same process has published just now, which knows what of it lasts; and after that, maybe, somebody
    /// else with this durability.
    Own(Option<Durability>),
    /// What a refresh left that was killed before this call of it, the first one of all or one of an old entry.
    Killed(usize, bool),
    /// What a power cut left before this call of a refresh of an old entry, drawn by seed.
    Cut(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scenario {
    /// Its place in the list: where its randomness starts.
    number: usize,
    before: Before,
    work: Work,
    guest: bool,
    durability: Durability,
    entry: &'static str,
}

impl Scenario {
    fn payload(&self) -> String {
        format!("/cache/{}", self.entry)
    }
}

/// What an entry has been, in order. A power cut may leave any of these from `floor` on.
struct Versions {
    all: Vec<Found>,
    floor: usize,
    /// Whether nobody can tell if the payload is whole: `Data` does not sync the tag.
    unverified: bool,
}

/// What was seen.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    images: u64,
    points: u64,
    sampled: u64,
    old: u64,
    new: u64,
    missing: u64,
    unverified: u64,
}

impl Tally {
    fn sum(tallies: &[Tally]) -> Tally {
        tallies.iter().fold(Tally::default(), |sum, one| Tally {
            images: sum.images + one.images,
            points: sum.points + one.points,
            sampled: sum.sampled + one.sampled,
            old: sum.old + one.old,
            new: sum.new + one.new,
            missing: sum.missing + one.missing,
            unverified: sum.unverified + one.unverified,
        })
    }
}

/// One exploration: the seed, the most combinations at one point, and the planted defect.
struct Run {
    seed: u64,
    bound: usize,
    mutation: Option<Mutation>,
}

impl Layer for Images {
    fn number(&self) -> u32 {
        3
    }

    fn name(&self) -> &'static str {
        "crash images"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let bound = usize::try_from(plan.size.pick(24, 150, 20_000)).unwrap_or(usize::MAX);
        let run = Run {
            seed: plan.seed,
            bound,
            mutation: None,
        };
        let tallies = each(plan.jobs, &scenarios(plan.size), |scenario| {
            run.all(*scenario)
        })?;
        let sum = Tally::sum(&tallies);
        println!(
            "{} images: {} read as old, {} as new, {} as missing, {} whole without a tag to verify them (Data only); \
             {} of {} points had more combinations than the bound ({bound}, of a recovery at most {RECOVERY_BOUND}) and got that many, drawn",
            sum.images, sum.old, sum.new, sum.missing, sum.unverified, sum.sampled, sum.points
        );
        let controls = [
            (Mutation::NoSync, Durability::Data),
            (Mutation::NoSync, Durability::Full),
            (Mutation::NoDirectorySync, Durability::Full),
            (Mutation::TagAfterPayload, Durability::Full),
        ];
        let controls = controls.map(|(mutation, durability)| {
            let run = Run {
                seed: plan.seed,
                bound: 60,
                mutation: Some(mutation),
            };
            let caught = run.all(Scenario {
                number: 0,
                before: Before::Old,
                work: Work::Value,
                guest: false,
                durability,
                entry: ENTRY,
            });
            Control::new(
                format!("{mutation:?} under {durability:?}"),
                caught.is_err(),
            )
        });
        Ok(Outcome {
            counts: vec![
                Count::new(
                    "disks after a power cut",
                    sum.images,
                    plan.size.pick(3_000, 100_000, 1_000_000),
                ),
                Count::new(
                    "points of refreshes and recoveries",
                    sum.points,
                    plan.size.pick(2_000, 120_000, 120_000),
                ),
            ],
            controls: controls.into(),
        })
    }
}

/// The bound for recoveries, of which there are several hundred: at least what loses or keeps each change alone.
const RECOVERY_BOUND: usize = 64;

/// More calls than any refresh makes.
const TOO_MANY: usize = 2000;

/// An entry in folders that only it makes.
const DEEP: &str = "folder/below/entry";

fn scenarios(size: Size) -> Vec<Scenario> {
    let mut all = Vec::new();
    let works = [Work::Value, Work::Absent, Work::NotModified];
    let natives_and_guests = [false, true];
    for durability in [Durability::Data, Durability::Full] {
        let mut add = |before, work, guest, entry| {
            let number = all.len();
            all.push(Scenario {
                number,
                before,
                work,
                guest,
                durability,
                entry,
            });
        };
        let others = [
            Before::Nothing,
            Before::Old,
            Before::Fresh(Durability::Data),
            Before::Fresh(Durability::Full),
            Before::Own(None),
            Before::Own(Some(Durability::Data)),
            Before::Own(Some(Durability::Full)),
        ];
        for guest in natives_and_guests {
            for before in others {
                for work in works {
                    if (before, work) != (Before::Nothing, Work::NotModified) {
                        add(before, work, guest, ENTRY);
                    }
                }
                add(before, Work::Value, guest, DEEP);
            }
        }
        // A recovery is cut off, too: of what every point of a refresh has left.
        let step = if size == Size::Short { 40 } else { 1 };
        for entry in [ENTRY, DEEP] {
            let calls = |old| calls_of_a_refresh(durability, entry, old);
            for call in (0..=calls(false)).step_by(step) {
                add(Before::Killed(call, false), Work::Value, false, entry);
            }
            for call in (0..=calls(true)).step_by(step) {
                add(Before::Killed(call, true), Work::Value, false, entry);
                add(Before::Cut(call), Work::Value, false, entry);
                if entry == ENTRY {
                    add(Before::Killed(call, true), Work::Value, true, entry);
                }
            }
        }
    }
    all
}

/// How many calls the refresh makes that is killed before a recovery.
fn calls_of_a_refresh(durability: Durability, entry: &'static str, old: bool) -> usize {
    let run = Run {
        seed: 0,
        bound: 0,
        mutation: None,
    };
    let before = if old { Before::Old } else { Before::Nothing };
    let begun = run.begin(Scenario {
        number: 0,
        before,
        work: Work::Value,
        guest: false,
        durability,
        entry,
    });
    let (world, _) = begun.expect("nothing is cut off");
    let process = world.process("counted");
    let cache = run.cache(&process, durability);
    let task = world.spawn(&process, "main", move || publish_at(&cache, entry, NEXT));
    (0..TOO_MANY)
        .find(|_| world.run_until(&task, |_| true) == Stopped::Finished)
        .expect("a refresh ends")
}

impl Run {
    fn cache(&self, process: &Arc<Process>, durability: Durability) -> Cache {
        let mut builder = builder(process).durability(durability);
        if let Some(mutation) = self.mutation {
            builder = builder.mutation(mutation);
        }
        builder.open().expect("nothing is touched")
    }

    /// Every point of the scenario, and the end of it.
    fn all(&self, scenario: Scenario) -> Result<Tally, Broken> {
        let (world, mut versions) = self.begin(scenario)?;
        let process = match scenario.guest {
            true => world.guest("victim"),
            false => world.process("victim"),
        };
        let cache = self.cache(&process, scenario.durability);
        if let Before::Own(after) = scenario.before {
            self.publish_before(&world, scenario, &process, &cache, after, &mut versions);
        }
        let Scenario { work, entry, .. } = scenario;
        let task = world.spawn(&process, "main", move || work.run(&cache, entry));
        versions.all.push(match work {
            Work::Value => Found::Value(NEW.to_vec(), None),
            Work::Absent => Found::Missing,
            Work::NotModified => versions.all.last().expect("there is one").clone(),
        });
        let mut tally = Tally::default();
        let mut seen = HashSet::new();
        let mut last = None;
        for point in 0.. {
            assert!(point < TOO_MANY, "a refresh makes endlessly many calls");
            let ended = world.run_until(&task, |_| true) == Stopped::Finished;
            if ended {
                let done = matches!(
                    task.outcome(),
                    Some(cachelock::platform::memory::Outcome::Returned(Ok(_)))
                );
                if !done {
                    return Err(self.broken(&world, scenario, point, "the refresh fails", ""));
                }
                if scenario.durability == Durability::Full {
                    versions.floor = versions.all.len() - 1;
                    versions.unverified = false;
                }
            }
            tally.points += 1;
            let pending = world.pending();
            // Nothing has changed since the last point.
            if last.as_ref() != Some(&pending) || ended {
                let random = Random::at(self.seed, &[scenario.number, point]);
                let bound = match scenario.before {
                    Before::Killed(..) | Before::Cut(_) => self.bound.min(RECOVERY_BOUND),
                    _ => self.bound,
                };
                let ways = Ways::new(&pending, bound, random);
                tally.sampled += u64::from(ways.sampled);
                for way in ways {
                    let mut index = 0;
                    let image = world.image(self.seed, |_| {
                        index += 1;
                        way[index - 1]
                    });
                    if !seen.insert((versions.floor, fingerprint(&image))) {
                        continue;
                    }
                    tally.images += 1;
                    self.check(&image, scenario, &versions, &mut tally)
                        .map_err(|why| {
                            let lost = describe(&pending, &way);
                            self.broken(&world, scenario, point, &why, &lost)
                        })?;
                }
                last = Some(pending);
            }
            if ended {
                return Ok(tally);
            }
        }
        unreachable!("it ends by returning")
    }

    /// The world as it is before the refresh that is cut off.
    fn begin(&self, scenario: Scenario) -> Result<(World, Versions), Broken> {
        let Scenario { before, entry, .. } = scenario;
        let seed = Random::at(self.seed, &[scenario.number]).draw();
        let world = World::simulated_from(seed);
        let mut versions = Versions {
            all: vec![Found::Missing],
            floor: 0,
            unverified: scenario.durability == Durability::Data,
        };
        let first = |durability| {
            let process = world.process("first");
            let cache = self.cache(&process, durability);
            let task = world.spawn(&process, "main", move || publish_at(&cache, entry, OLD));
            world.finish(task).expect("nothing disturbs it");
        };
        match before {
            Before::Nothing | Before::Own(_) | Before::Killed(_, false) => {}
            Before::Old | Before::Killed(_, true) | Before::Cut(_) => {
                // Not with the defect: that shall show in what is cut off.
                first(Durability::Full);
                versions.all = vec![Found::Value(OLD.to_vec(), None)];
            }
            Before::Fresh(durability) => {
                first(durability);
                versions.all.push(Found::Value(OLD.to_vec(), None));
                versions.floor = usize::from(durability == Durability::Full);
                versions.unverified |= durability == Durability::Data;
            }
        }
        let world = match before {
            // All is written back, by another boot.
            Before::Nothing | Before::Old => world.image(seed, |_| Keep::Keep),
            Before::Fresh(_) | Before::Own(_) => world,
            Before::Killed(call, _) | Before::Cut(call) => {
                let world = world.image(seed, |_| Keep::Keep);
                world.set_max_io(BLOCK);
                let dies = world.process("dies");
                let cache = self.cache(&dies, scenario.durability);
                let task = world.spawn(&dies, "main", move || publish_at(&cache, entry, NEXT));
                let mut calls = 0;
                world.run_until(&task, move |_| {
                    calls += 1;
                    calls > call
                });
                versions.all.push(Found::Value(NEXT.to_vec(), None));
                if task.has_ended() && scenario.durability == Durability::Full {
                    versions.floor = 1;
                }
                world.kill(&dies);
                match before {
                    Before::Cut(_) => {
                        let mut random = Random::at(seed, &[call]);
                        let cut = world.image(seed, |pending| {
                            let ways = ways_of(pending);
                            ways[random.pick(ways.len())]
                        });
                        let found = self
                            .look(&cut, &versions, scenario)
                            .map_err(|why| self.broken(&world, scenario, 0, &why, ""))?;
                        let raw = cut.read_file(&scenario.payload());
                        versions.floor = 0;
                        versions.all = match (found, raw) {
                            (Found::Corrupt, Some(raw)) => vec![Found::Value(raw, None)],
                            (Found::Value(bytes, _), _) => vec![Found::Value(bytes, None)],
                            (found, _) => vec![found],
                        };
                        cut
                    }
                    _ => world,
                }
            }
        };
        world.set_max_io(BLOCK);
        Ok((world, versions))
    }

    /// A publish by the process itself, and one by another with the durability `after`.
    fn publish_before(
        &self,
        world: &World,
        scenario: Scenario,
        process: &Arc<Process>,
        cache: &Cache,
        after: Option<Durability>,
        versions: &mut Versions,
    ) {
        let entry = scenario.entry;
        let mut done = |cache: Cache, process: &Arc<Process>, bytes: &'static [u8], durability| {
            let task = world.spawn(process, "before", move || publish_at(&cache, entry, bytes));
            world.finish(task).expect("nothing disturbs it");
            versions.all.push(Found::Value(bytes.to_vec(), None));
            match durability {
                Durability::Full => {
                    versions.floor = versions.all.len() - 1;
                    // What is cut off does not sync its tag either.
                    versions.unverified = scenario.durability == Durability::Data;
                }
                _ => versions.unverified = true,
            }
        };
        done(cache.clone(), process, OLD, scenario.durability);
        if let Some(durability) = after {
            let other = world.process("other");
            done(self.cache(&other, durability), &other, NEXT, durability);
        }
    }

    /// What is read, if that is allowed.
    fn look(
        &self,
        image: &World,
        versions: &Versions,
        scenario: Scenario,
    ) -> Result<Found, String> {
        let allowed = &versions.all[versions.floor..];
        let raw = image.read_file(&scenario.payload());
        let whole = |bytes: &Vec<u8>| {
            let is = |found: &Found| matches!(found, Found::Value(value, _) if value == bytes);
            allowed.iter().any(is)
        };
        // A known-absent entry's payload is emptied after its tag is there, or stays what it was.
        let emptied = scenario.work == Work::Absent
            && raw.as_ref().is_none_or(|bytes| {
                bytes.is_empty()
                    || versions
                        .all
                        .iter()
                        .any(|one| matches!(one, Found::Value(value, _) if value == bytes))
            });
        let fine = match &raw {
            None => allowed.contains(&Found::Missing),
            Some(bytes) => whole(bytes),
        };
        if !fine && !emptied {
            let raw = raw.map_or("missing".to_owned(), |raw| shown(&raw));
            return Err(format!("the payload is {raw}"));
        }
        let found =
            find(image, scenario.entry).map_err(|error| format!("it cannot be read: {error}"))?;
        let fine = match &found {
            Found::Missing => allowed.contains(&Found::Missing),
            Found::Value(bytes, _) => whole(bytes),
            Found::Corrupt => versions.unverified,
        };
        match fine {
            true => Ok(found),
            false => Err(format!("{found:?} is read")),
        }
    }

    fn check(
        &self,
        image: &World,
        scenario: Scenario,
        versions: &Versions,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let found = self.look(image, versions, scenario)?;
        match &found {
            Found::Missing => tally.missing += 1,
            Found::Corrupt => tally.unverified += 1,
            Found::Value(bytes, _) if bytes == NEW => tally.new += 1,
            Found::Value(..) => tally.old += 1,
        }
        // What is left of a native's claim is dead at once, or after 250 ms if it cannot be read; a guest's has to expire.
        let limit = match scenario.guest {
            true => LEASE * 2,
            false => Duration::from_millis(600),
        };
        refresh_after_power_cut(image, scenario.entry, &found, limit)
    }

    fn broken(
        &self,
        world: &World,
        scenario: Scenario,
        point: usize,
        why: &str,
        lost: &str,
    ) -> Broken {
        Broken(format!(
            "{why}\n{scenario:?}, power cut before call {point}, seed {}, {:?}\n{lost}{}",
            self.seed,
            self.mutation,
            last_calls(world)
        ))
    }
}
