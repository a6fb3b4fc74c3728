//! The model as the checker wants it, what must hold in each state, and one run over a scene.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use std::collections::HashSet;

use stateright::{Checker, Chooser, HasDiscoveries, Model, Property};

use super::lone;
use super::process::Pc;
use super::scene::Scene;
use super::state::{Broken, NO_GATE, NOBODY, State};
use super::steps::{How, Step, Steps};

const PCS: usize = Pc::ALL.len();
const HOWS: usize = How::ALL.len();

/// Which steps were ever taken: a rule that is never used is not checked.
pub(super) struct Taken([[AtomicBool; HOWS]; PCS]);

impl Default for Taken {
    fn default() -> Self {
        Taken(std::array::from_fn(|_| {
            std::array::from_fn(|_| AtomicBool::new(false))
        }))
    }
}

impl Taken {
    fn note(&self, step: &Step) {
        let taken = &self.0[step.pc as usize][step.how as usize];
        if !taken.load(Ordering::Relaxed) {
            taken.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn add(&self, other: &Taken) {
        for (all, new) in self.0.iter().flatten().zip(other.0.iter().flatten()) {
            all.fetch_or(new.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(super) fn pc(&self, pc: Pc) -> bool {
        let taken = |one: &AtomicBool| one.load(Ordering::Relaxed);
        self.0[pc as usize].iter().any(taken)
    }

    pub(super) fn how(&self, how: How) -> bool {
        let taken = |row: &[AtomicBool; HOWS]| row[how as usize].load(Ordering::Relaxed);
        self.0.iter().any(taken)
    }
}

pub(super) struct Protocol {
    scene: Scene,
    taken: Taken,
    alone: AtomicU64,
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.scene.first()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken != Broken::Nothing {
            return;
        }
        for who in 0..self.scene.parts.len() {
            Steps {
                scene: &self.scene,
                state,
                who,
                epochs: self.scene.epochs,
                out: steps,
            }
            .all();
        }
        if self.scene.gate_deleted && !state.gate_deleted && state.gate != NO_GATE {
            let next = State {
                gate: NO_GATE,
                gate_deleted: true,
                ..*state
            };
            steps.push(Step {
                who: NOBODY,
                pc: Pc::Done,
                how: How::Deletes,
                next,
            });
        }
        for step in steps {
            self.taken.note(step);
        }
    }

    fn next_state(&self, _: &State, step: Step) -> Option<State> {
        Some(step.next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! rule {
            ($says:literal, $broken:ident) => {
                Property::always($says, |_: &Self, state: &State| {
                    state.broken != Broken::$broken
                })
            };
        }
        vec![
            rule!("head never goes back", HeadWentBack),
            rule!(
                "once a newer acquire has returned, no earlier epoch publishes",
                OvertakenPublished
            ),
            rule!(
                "after its fence, no earlier epoch publishes",
                FencedPublished
            ),
            rule!("the payload is one of its tag's records", PayloadUnknown),
            rule!("generations never repeat, skip or go back", Generations),
            rule!("an acknowledged publish stands", AcknowledgedUndone),
            rule!(
                "a claim is unlinked only when head has reached it",
                ClaimUnlinkedEarly
            ),
            rule!("no live holder of the gate is judged dead", LiveJudgedDead),
            rule!("nobody's files are collected but dead ones'", LiveCollected),
            rule!("unless a guess was wrong, one holds at a time", TwoHold),
            rule!("a whole payload is not called corrupt", FalseCorruption),
            rule!(
                "no read is older than what was acknowledged before it",
                ReadTooOld
            ),
            rule!(
                "no read is of a generation that is not there yet",
                ReadTooEarly
            ),
            rule!(
                "whoever asks for its turn is passed once by each other at most",
                Starved
            ),
            Property::always(
                "a lone process acquires, and waits no longer than it must",
                lone,
            ),
        ]
    }
}

/// From a sample of the states.
fn lone(model: &Protocol, state: &State) -> bool {
    let scene = &model.scene;
    if scene.lone == 0 || !state.sample().is_multiple_of(scene.lone) {
        return true;
    }
    model.alone.fetch_add(1, Ordering::Relaxed);
    (0..scene.parts.len()).all(|who| lone::both_acquire(scene, state, who))
}

/// How a scene is searched.
#[derive(Debug, Clone, Copy)]
pub(super) enum Search {
    /// Everything, breadth first.
    All,
    /// Everything near the beginning, until so many transitions were made.
    Near(u64),
    /// Random walks from the beginning to the end, until so many transitions were made.
    Walks(u64, u64),
}

/// Walks on to states that the walk has not seen, for a wait leads back to where it began; and dies seldom.
#[derive(Clone)]
struct Walker;

struct Walk {
    random: u64,
    seen: HashSet<u64>,
}

impl Walk {
    /// SplitMix64: the same on all machines and in all versions.
    fn next(&mut self) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize >> 1
    }
}

impl Chooser<Protocol> for Walker {
    type State = Walk;

    fn new_state(&self, seed: u64) -> Walk {
        Walk {
            random: seed,
            seen: HashSet::new(),
        }
    }

    fn choose_initial_state(&self, _: &mut Walk, _: &[State]) -> usize {
        0
    }

    fn choose_action(&self, walk: &mut Walk, state: &State, steps: &[Step]) -> usize {
        walk.seen.insert(state.sample());
        let first = walk.next() % steps.len();
        let dies = walk.next().is_multiple_of(8);
        let leads_on = |at: &usize| {
            let step = &steps[*at];
            !walk.seen.contains(&step.next.sample()) && (dies || step.how != How::Crashes)
        };
        let at = |offset| (first + offset) % steps.len();
        (0..steps.len()).map(at).find(leads_on).unwrap_or(first)
    }
}

/// What came of a search.
pub(super) struct Found {
    pub(super) transitions: u64,
    /// Different states; of random walks they are not known.
    pub(super) states: Option<u64>,
    pub(super) depth: usize,
    pub(super) alone: u64,
    pub(super) taken: Taken,
    pub(super) took: Duration,
    pub(super) broken: Option<Violation>,
}

/// A promise that was broken, and the way there.
pub(super) struct Violation {
    pub(super) rule: &'static str,
    pub(super) steps: usize,
    pub(super) trace: String,
}

/// Searches `scene` for a broken promise.
pub(super) fn search(scene: &Scene, search: Search, jobs: usize) -> Found {
    let started = Instant::now();
    let model = Protocol {
        scene: scene.clone(),
        taken: Taken::default(),
        alone: AtomicU64::new(0),
    };
    let checker = model
        .checker()
        .threads(jobs)
        .finish_when(HasDiscoveries::AnyFailures);
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    match search {
        Search::All => collect(&checker.spawn_bfs().join(), started, true),
        Search::Near(most) => {
            let checker = checker.target_state_count(count(most));
            collect(&checker.spawn_bfs().join(), started, true)
        }
        Search::Walks(most, seed) => {
            let checker = checker.target_state_count(count(most));
            let walks = checker.spawn_simulation(seed, Walker);
            collect(&walks.join(), started, false)
        }
    }
}

fn collect(checker: &impl Checker<Protocol>, started: Instant, unique: bool) -> Found {
    let model = checker.model();
    let taken = Taken::default();
    taken.add(&model.taken);
    // The nearest, and always the same of those that are as near.
    let broken = checker
        .discoveries()
        .into_iter()
        .map(|(rule, path)| (path.into_actions(), rule))
        .min_by_key(|(steps, rule)| (steps.len(), *rule));
    Found {
        transitions: checker.state_count() as u64,
        states: unique.then(|| checker.unique_state_count() as u64),
        depth: checker.max_depth(),
        alone: model.alone.load(Ordering::Relaxed),
        taken,
        took: started.elapsed(),
        broken: broken.map(|(steps, rule)| Violation {
            rule,
            steps: steps.len(),
            trace: trace(&steps),
        }),
    }
}

/// The steps, numbered, and the state that they lead to.
fn trace(steps: &[Step]) -> String {
    let mut trace = String::new();
    for (number, Step { who, pc, how, .. }) in (1..).zip(steps) {
        let _ = match *who {
            NOBODY => writeln!(trace, "{number:4} {how:?}"),
            _ => writeln!(trace, "{number:4} {who} {pc:?} {how:?}"),
        };
    }
    if let Some(last) = steps.last() {
        let _ = write!(trace, "{:?}", last.next);
    }
    trace
}
