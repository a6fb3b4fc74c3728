//! From a state with everybody else frozen: does one process alone acquire, and how long does it wait?

use cachelock::Mutation;

use super::process::Pc;
use super::scene::{Kind, Scene};
use super::state::{EPOCHS, Says, State};
use super::steps::{How, Step, Steps};

/// Waits are counted in units of 250 ms: what an unreadable record is respected for, and a lease of 5 s.
const UNREADABLE: u32 = 1;
const LEASE: u32 = 20;

/// More steps than the longest way to the lease has.
const STEPS: u32 = 400;

/// Whether `who` acquires from `state`, and waits for no longer than what stands in its way must be respected for.
fn acquires(scene: &Scene, state: &State, who: usize) -> bool {
    let mut run = Run {
        scene,
        state: *state,
        who,
        waited: 0,
        allowed: 0,
        paid: None,
        steps: Vec::new(),
    };
    run.acquires()
}

/// Whether `who` acquires from `state` after all, and so does a new process in its place.
pub(super) fn both_acquire(scene: &Scene, state: &State, who: usize) -> bool {
    let process = &state.processes[who];
    if scene.parts[who].kind == Kind::Reader {
        return true;
    }
    let mut anew = *state;
    anew.processes[who].rounds = 2;
    let mut goes_on = anew;
    if matches!(process.pc, Pc::Idle | Pc::Done) {
        goes_on.processes[who].pc = Pc::Idle;
        return acquires(scene, &goes_on, who);
    }
    anew.crash(who);
    acquires(scene, &goes_on, who) && acquires(scene, &anew, who)
}

struct Run<'a> {
    scene: &'a Scene,
    state: State,
    who: usize,
    waited: u32,
    /// What the longest of its obstacles may cost: it must not pay twice.
    allowed: u32,
    /// What it has seen stand still already.
    paid: Option<(u8, u8, Says)>,
    steps: Vec<Step>,
}

impl Run<'_> {
    fn acquires(&mut self) -> bool {
        for _ in 0..STEPS {
            let me = &mut self.state.processes[self.who];
            if me.pc == Pc::Claim && usize::from(me.last) + 1 >= EPOCHS {
                // The model ends here, not the protocol.
                return true;
            }
            if me.pc == Pc::Done {
                (me.pc, me.rounds) = (Pc::Idle, 1);
            }
            let Some(step) = self.next() else {
                return false;
            };
            match step.how {
                How::Expires | How::Passes => self.wait(step.how),
                _ => {}
            }
            self.state = step.next;
            if step.pc == Pc::HeadRename && step.how == How::Goes {
                return self.waited <= self.allowed;
            }
        }
        false
    }

    /// The first step that leads on.
    fn next(&mut self) -> Option<Step> {
        self.steps.clear();
        let mut steps = Steps {
            scene: self.scene,
            state: &self.state,
            who: self.who,
            epochs: EPOCHS as u8 - 1,
            out: &mut self.steps,
        };
        steps.own();
        // It looks again for as long as it must: what it takes for expired is what stands in the way now.
        let (me, last) = (&self.state.processes[self.who], self.state.last());
        let stale =
            (me.head, me.last) != (self.state.head, last) || self.state.claim(last).says.is_free();
        let leads_on = |how| match how {
            How::GivesWay | How::Beats => false,
            How::Expires => !stale,
            How::Waits => stale,
            _ => true,
        };
        self.steps
            .iter()
            .find(|step| leads_on(step.how))
            .or_else(|| self.steps.iter().find(|step| step.how == How::Beats))
            .cloned()
    }

    fn wait(&mut self, how: How) {
        let last = self.state.last();
        let says = self.state.claim(last).says;
        let sight = (self.state.head, last, says);
        if self.paid.replace(sight) == Some(sight) {
            return;
        }
        debug_assert!(how == How::Passes || !says.is_free());
        let bound = if says.is_unwritten() {
            UNREADABLE
        } else {
            LEASE
        };
        // A claim that a power cut has left is met only after what was in the way before it, and is paid for besides.
        if self.scene.power_cut >> last & 1 == 1 && self.state.head < last {
            self.allowed += bound;
        } else {
            self.allowed = self.allowed.max(bound);
        }
        self.waited += match bound {
            UNREADABLE if self.scene.is(Mutation::EmptyWaitsLease) => LEASE,
            bound => bound,
        };
    }
}
