//! Which schedules are run: all with a few interventions, or drawn ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cachelock::platform::memory::{Call, Op};

use super::scene::{Act, Strategy, View, process_of};
use crate::random::Random;
use crate::threads::locked;

/// What may intervene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    /// Another thread goes on.
    Switches,
    /// Or one is killed.
    Kills,
    /// Or somebody deletes the gate.
    Ungates,
    /// A process stands still, or wakes up.
    Sleeps,
    /// Both: threads go on, processes stand still and wake up.
    Freezes,
    /// All that, and one is killed, or the clock is set.
    All,
}

/// Before which steps something may intervene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// Any.
    Any,
    /// Those by which processes tell each other something: changes of names, listings, looks at claims and their records.
    Telling,
}

impl Before {
    fn includes(self, call: &Call) -> bool {
        match call.op {
            _ if self == Before::Any => true,
            Op::CreateNew | Op::Rename | Op::Unlink | Op::List => true,
            Op::Stat | Op::Write => call.name.starts_with("claim-"),
            _ => false,
        }
    }
}

/// One intervention: at which step, and which of those that were possible there.
pub(super) type Intervention = (usize, usize);

/// How many interventions were possible at each step.
pub(super) type Possible = Arc<Mutex<Vec<u8>>>;

/// Intervenes as told, and nowhere else. Without interventions whoever goes on goes on.
pub(super) struct Told {
    interventions: Vec<Intervention>,
    kinds: Kinds,
    before: Before,
    possible: Possible,
    step: usize,
}

impl Told {
    pub(super) fn new(
        interventions: Vec<Intervention>,
        kinds: Kinds,
        before: Before,
    ) -> (Self, Possible) {
        let possible = Possible::default();
        let told = Told {
            interventions,
            kinds,
            before,
            possible: possible.clone(),
            step: 0,
        };
        (told, possible)
    }
}

/// All that could intervene at this step.
fn possible(view: &View<'_>, kinds: Kinds) -> Vec<Act> {
    let mut acts = Vec::with_capacity(8);
    if kinds != Kinds::Sleeps {
        let switches = (0..view.options.len()).filter(|index| *index != view.default);
        acts.extend(switches.map(Act::Go));
    }
    if matches!(kinds, Kinds::Sleeps | Kinds::Freezes | Kinds::All) {
        if view.others {
            acts.push(Act::Freeze);
        }
        let frozen = (0..view.frozen.len()).filter(|process| view.frozen[*process]);
        acts.extend(frozen.map(Act::Thaw));
    }
    match kinds {
        Kinds::All => acts.extend([Act::Kill, Act::Clock(3600), Act::Clock(-3600)]),
        Kinds::Kills => acts.push(Act::Kill),
        Kinds::Ungates => acts.push(Act::Ungate),
        Kinds::Switches | Kinds::Sleeps | Kinds::Freezes => {}
    }
    acts
}

impl Strategy for Told {
    fn act(&mut self, view: &View<'_>) -> Act {
        let step = self.step;
        self.step += 1;
        let acts = match self.before.includes(&view.options[view.default].call) {
            true => possible(view, self.kinds),
            false => Vec::new(),
        };
        locked(&self.possible).push(u8::try_from(acts.len()).unwrap_or(u8::MAX));
        match self.interventions.iter().find(|(at, _)| *at == step) {
            Some((_, which)) => acts[*which],
            None => Act::Go(view.default),
        }
    }
}

/// How a drawn schedule goes on.
#[derive(Debug, Clone, Copy)]
enum Habit {
    /// Whoever has the highest priority goes on, until it is given the lowest.
    Priorities,
    /// Anybody; but whoever goes on stays on for so many of eight steps.
    Anybody(usize),
}

/// A drawn schedule.
pub(super) struct Drawn {
    random: Random,
    habit: Habit,
    priorities: HashMap<usize, u64>,
    /// Steps at which the one that goes on gets the lowest priority.
    changes: Vec<usize>,
    /// Interventions to come, and at which step.
    plans: Vec<(usize, Plan)>,
    step: usize,
    lowest: u64,
}

#[derive(Debug, Clone, Copy)]
enum Plan {
    Kill,
    /// Stands still, and wakes up after so many steps of others.
    Freeze(usize),
    Thaw(usize),
    Clock(i64),
}

impl Drawn {
    /// `steps`: about how many steps such a run has.
    pub(super) fn new(mut random: Random, steps: usize) -> Self {
        let habit = match random.pick(4) {
            0 => Habit::Anybody(0),
            1 => Habit::Anybody([4, 6, 7][random.pick(3)]),
            _ => Habit::Priorities,
        };
        let mut plans = Vec::new();
        for _ in 0..random.pick(4) {
            let plan = match random.pick(5) {
                0 => Plan::Kill,
                1 => Plan::Clock([3600, -3600, 2][random.pick(3)]),
                _ => Plan::Freeze(random.pick(steps)),
            };
            plans.push((random.pick(steps), plan));
        }
        let changes = (0..1 + random.pick(5))
            .map(|_| random.pick(steps))
            .collect();
        Drawn {
            habit,
            priorities: HashMap::new(),
            changes,
            plans,
            step: 0,
            lowest: u64::from(u32::MAX),
            random,
        }
    }

    fn intervenes(&mut self, view: &View<'_>) -> Option<Act> {
        let due = self.plans.iter().position(|(at, _)| *at <= self.step)?;
        let (_, plan) = self.plans.swap_remove(due);
        match plan {
            Plan::Kill => Some(Act::Kill),
            Plan::Clock(seconds) => Some(Act::Clock(seconds)),
            Plan::Freeze(_) if !view.others => None,
            Plan::Freeze(steps) => {
                let process = process_of(&view.options[view.default]);
                self.plans.push((self.step + steps, Plan::Thaw(process)));
                Some(Act::Freeze)
            }
            Plan::Thaw(process) => view.frozen[process].then_some(Act::Thaw(process)),
        }
    }
}

impl Strategy for Drawn {
    fn act(&mut self, view: &View<'_>) -> Act {
        self.step += 1;
        if let Some(act) = self.intervenes(view) {
            return act;
        }
        match self.habit {
            Habit::Anybody(stays) if self.random.pick(8) < stays => Act::Go(view.default),
            Habit::Anybody(_) => Act::Go(self.random.pick(view.options.len())),
            Habit::Priorities => {
                let step = self.step;
                if self.changes.contains(&step) {
                    self.lowest -= 1;
                    let thread = view.options[view.default].thread;
                    self.priorities.insert(thread, self.lowest);
                }
                let (random, priorities) = (&mut self.random, &mut self.priorities);
                let mut priority = |index: &usize| {
                    let drawn = || u64::from(u32::MAX) + (random.draw() >> 32);
                    *priorities
                        .entry(view.options[*index].thread)
                        .or_insert_with(drawn)
                };
                let highest = (0..view.options.len()).max_by_key(|index| priority(index));
                Act::Go(highest.unwrap_or(view.default))
            }
        }
    }
}
