//! Two processes under all schedules with few interventions.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use cachelock::Mutation;

use super::actor::{Actor, Does};
use super::explore::{Before, Intervention, Kinds, Told};
use super::scene::{Scene, Starts};
use crate::threads::{each, unpanicked};
use crate::{Broken, Size};

/// All schedules of a scene with a few interventions.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) scene: Scene,
    kinds: Kinds,
    before: Before,
    /// The most interventions.
    most: usize,
    mutation: Option<Mutation>,
}

impl Search {
    fn run(
        &self,
        starts: &Starts,
        interventions: &[Intervention],
    ) -> Result<(u64, Vec<u8>), Broken> {
        let (told, possible) = Told::new(interventions.to_vec(), self.kinds, self.before);
        let ran = unpanicked(|| {
            let ran = self
                .scene
                .run(starts, 0, self.mutation, Box::new(told), false);
            ran.map_err(Broken)
        });
        let schedule = ran.map_err(|broken| self.broken(starts, interventions, broken))?;
        let possible = possible.lock().map(|possible| possible.clone());
        Ok((schedule, possible.unwrap_or_default()))
    }

    /// The same once more, now with a trace.
    fn broken(&self, starts: &Starts, interventions: &[Intervention], first: Broken) -> Broken {
        if self.mutation.is_some() {
            return first;
        }
        let (told, _) = Told::new(interventions.to_vec(), self.kinds, self.before);
        let again = self.scene.run(starts, 0, None, Box::new(told), true);
        let why = again.err().unwrap_or(first.0);
        Broken(format!(
            "{why}\n{}: interventions {interventions:?} of {:?}",
            self.scene, self.kinds
        ))
    }

    /// Whether it shows this defect.
    pub(super) fn shows(&self, mutation: Mutation, starts: &Starts) -> bool {
        let search = Search {
            mutation: Some(mutation),
            ..self.clone()
        };
        let below = search.below(starts, &mut Vec::new(), &mut Vec::new());
        below.is_err()
    }

    /// Runs them all in `jobs` threads: how many runs that took. Their fingerprints go to `seen`.
    pub(super) fn exhaust(&self, jobs: usize, seen: &mut HashSet<u64>) -> Result<usize, Broken> {
        let (first, possible) = self.run(&Starts::new(), &[])?;
        let tops = after(&[], &possible);
        let batches: Vec<&[Intervention]> = tops.chunks(8).collect();
        let found = each(jobs, &batches, |batch| {
            let (starts, mut found) = (Starts::new(), Vec::new());
            for top in *batch {
                self.below(&starts, &mut vec![*top], &mut found)?;
            }
            Ok(found)
        })?;
        let runs = 1 + found.iter().map(Vec::len).sum::<usize>();
        seen.insert(first);
        seen.extend(found.into_iter().flatten());
        Ok(runs)
    }

    /// All schedules that begin with these interventions and have at most as many as are allowed.
    fn below(
        &self,
        starts: &Starts,
        interventions: &mut Vec<Intervention>,
        seen: &mut Vec<u64>,
    ) -> Result<(), Broken> {
        let (schedule, possible) = self.run(starts, interventions)?;
        seen.push(schedule);
        if interventions.len() == self.most {
            return Ok(());
        }
        for next in after(interventions, &possible) {
            interventions.push(next);
            let below = self.below(starts, interventions, seen);
            interventions.pop();
            below?;
        }
        Ok(())
    }
}

/// The interventions that may follow.
fn after(interventions: &[Intervention], possible: &[u8]) -> Vec<Intervention> {
    let first = interventions.last().map_or(0, |(step, _)| step + 1);
    let steps = (first..possible.len())
        .flat_map(|step| (0..usize::from(possible[step])).map(move |which| (step, which)));
    steps.collect()
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Search {
            scene, kinds, most, ..
        } = self;
        let before = match self.before {
            Before::Any => "any step",
            Before::Telling => "a telling step",
        };
        write!(f, "{scene}: at most {most} of {kinds:?}, before {before}")
    }
}

const ONCE: Does = Does::Publish(1);
const HOLDS: Does = Does::Hold(3);

fn native(does: Does) -> Actor {
    actor(false, does)
}

fn guest(does: Does) -> Actor {
    actor(true, does)
}

fn actor(guest: bool, does: Does) -> Actor {
    Actor { guest, does }
}

fn old(one: Actor, other: Actor) -> Scene {
    Scene {
        actors: vec![one, other],
        old: true,
        step: Duration::ZERO,
    }
}

fn missing(one: Actor, other: Actor) -> Scene {
    Scene {
        old: false,
        ..old(one, other)
    }
}

/// Those that show the defects; each of these has been seen to be needed for one. They are part of every run.
pub(super) fn narrow() -> Vec<Search> {
    use Before::{Any, Telling};
    let all = [
        (old(native(ONCE), native(ONCE)), Kinds::Sleeps, Telling, 1),
        (old(native(ONCE), native(ONCE)), Kinds::Switches, Any, 1),
        (
            old(guest(Does::Again), guest(Does::Again)),
            Kinds::Sleeps,
            Telling,
            1,
        ),
        (missing(guest(ONCE), guest(ONCE)), Kinds::All, Telling, 1),
        (missing(guest(ONCE), guest(ONCE)), Kinds::Sleeps, Telling, 2),
        (
            old(guest(Does::Absent), guest(ONCE)),
            Kinds::Sleeps,
            Telling,
            2,
        ),
        (
            missing(native(ONCE), native(ONCE)),
            Kinds::Ungates,
            Telling,
            2,
        ),
        (old(native(ONCE), native(ONCE)), Kinds::All, Telling, 2),
        (old(guest(HOLDS), guest(ONCE)), Kinds::Switches, Telling, 1),
        (
            old(native(Does::Read(2)), native(Does::Back)),
            Kinds::Kills,
            Any,
            2,
        ),
    ];
    let search = |(scene, kinds, before, most)| Search {
        scene,
        kinds,
        before,
        most,
        mutation: None,
    };
    all.map(search).into()
}

/// All of a run. Those of one scene come one after the other.
pub(super) fn searches(size: Size) -> Vec<Search> {
    let mut all = narrow();
    let mut add = |scene, kinds, before, most| {
        all.push(Search {
            scene,
            kinds,
            before,
            most,
            mutation: None,
        });
    };
    let (short, long) = (size == Size::Short, size == Size::Long);
    let most = if short { 1 } else { 2 };
    // Where two threads, or beats, make so many more steps that two interventions take as long as in several other scenes.
    let fewer = if long { 2 } else { 1 };
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        let (one, other) = (actor(a, ONCE), actor(b, ONCE));
        let (gets, reads) = (|guest| actor(guest, Does::Get), actor(b, Does::Read(2)));
        for scene in [
            missing(one, other),
            missing(gets(a), gets(b)),
            old(one, reads),
            old(one, other),
        ] {
            add(scene, Kinds::All, Before::Any, most);
        }
        if long {
            for scene in [
                old(one, other),
                missing(one, other),
                missing(gets(a), gets(b)),
            ] {
                add(scene, Kinds::Freezes, Before::Any, 3);
            }
        }
        let holds = old(actor(a, HOLDS), other);
        add(holds, Kinds::All, Before::Any, fewer);
        if long || (!short && a && !b) {
            add(old(one, other), Kinds::All, Before::Telling, 3);
        }
        if a != b || long {
            let absent = old(actor(a, Does::Absent), other);
            add(absent, Kinds::All, Before::Any, most);
        }
    }
    for other in [native(ONCE), guest(ONCE)] {
        let pair = old(native(Does::Pair), other);
        add(pair, Kinds::All, Before::Any, fewer);
    }
    all.sort_by_key(|search| search.scene.to_string());
    all
}
