//! What a process may do next: each file operation of the writer lock, in the order of `src/lock/`. What a holder does is in
//! [`hold`](super::hold).

use cachelock::Mutation;

use super::attempt::write_claim;
use super::process::{BEATING, BYPASSED, GIVING_UP, LOST, Pc, Process, WANT};
use super::scene::{Expiry, Kind, Scene};
use super::state::{Broken, Claim, NO_GATE, NOBODY, Says, State};

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum How {
    Goes,
    /// It finds what ends this way.
    Fails,
    Waits,
    /// It leaves a free lease to others.
    GivesWay,
    /// It takes a claim for expired.
    Expires,
    /// It knows that a claim's maker is dead.
    FindsDead,
    /// It goes past the gate.
    Passes,
    Crashes,
    Beats,
    /// Somebody deletes the gate's name.
    Deletes,
}

impl How {
    pub(super) const ALL: [How; 10] = [
        How::Goes,
        How::Fails,
        How::Waits,
        How::GivesWay,
        How::Expires,
        How::FindsDead,
        How::Passes,
        How::Crashes,
        How::Beats,
        How::Deletes,
    ];
}

/// One step, and the state after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) who: u8,
    pub(super) pc: Pc,
    pub(super) how: How,
    pub(super) next: State,
}

/// All steps of one process in one state.
pub(super) struct Steps<'a> {
    pub(super) scene: &'a Scene,
    pub(super) state: &'a State,
    pub(super) who: usize,
    /// The last epoch that may be claimed.
    pub(super) epochs: u8,
    pub(super) out: &'a mut Vec<Step>,
}

impl Steps<'_> {
    pub(super) fn me(&self) -> &Process {
        &self.state.processes[self.who]
    }

    pub(super) fn kind(&self) -> Kind {
        self.scene.parts[self.who].kind
    }

    pub(super) fn is(&self, mutation: Mutation) -> bool {
        self.scene.is(mutation)
    }

    /// A step to `pc`, with whatever else `change` changes.
    pub(super) fn step(&mut self, how: How, pc: Pc, change: impl FnOnce(&mut State, usize)) {
        let mut next = *self.state;
        next.processes[self.who].pc = pc;
        change(&mut next, self.who);
        self.settle(&mut next);
        self.out.push(Step {
            who: self.who as u8,
            pc: self.me().pc,
            how,
            next,
        });
    }

    /// What shows in no file happens at once: it would only multiply the states.
    fn settle(&self, next: &mut State) {
        let who = self.who;
        let me = &mut next.processes[who];
        match me.pc {
            Pc::Claim => me.head = 0,
            Pc::FenceUnlink if me.sure == 0 => me.pc = Pc::ScanBegin,
            Pc::GiveUpFile => (me.sure, me.maybe) = (0, 0),
            Pc::DropStages if me.files == 0 => self.dropped(next),
            Pc::GateRelease if me.gate == NO_GATE => next.end_round(who),
            _ => {}
        }
    }

    /// The steps of this process in another state, into which it gets without a step.
    pub(super) fn steps_in(&mut self, state: &State) {
        Steps {
            scene: self.scene,
            state,
            who: self.who,
            epochs: self.epochs,
            out: self.out,
        }
        .own();
    }

    pub(super) fn goes(&mut self, pc: Pc) {
        self.step(How::Goes, pc, |_, _| {});
    }

    pub(super) fn fails(&mut self, pc: Pc) {
        self.step(How::Fails, pc, |_, _| {});
    }

    pub(super) fn check(&mut self, holds: bool, then: Pc, otherwise: Pc) {
        if holds {
            self.goes(then);
        } else {
            self.fails(otherwise);
        }
    }

    /// The operation may fail for a reason of its own.
    pub(super) fn may_fail(&mut self, then: Pc) {
        if self.scene.errors {
            self.fails(then);
        }
    }

    /// What the process itself does, and what may happen to it.
    pub(super) fn all(&mut self) {
        self.own();
        let me = *self.me();
        let lives = !matches!(me.pc, Pc::Idle | Pc::Done);
        if self.scene.crashes && lives && self.kind() != Kind::Reader {
            self.step(How::Crashes, Pc::Done, |next, who| next.crash(who));
        }
    }

    /// What the process itself does.
    pub(super) fn own(&mut self) {
        let me = *self.me();
        if me.is(BEATING) {
            return self.beat_write();
        }
        self.beat_read();
        match me.pc {
            Pc::Done => {}
            Pc::Idle => self.begin(),
            Pc::EarlyPayload | Pc::EarlyTag => self.look_early(),
            Pc::GateOpen | Pc::GateTry | Pc::GateWait | Pc::GateConfirm => self.gate(),
            Pc::Look | Pc::Probe | Pc::ReadClaim | Pc::StatMark => self.look(),
            Pc::Claim | Pc::WriteRecord => self.claim(),
            Pc::ScanBegin | Pc::ScanEnd | Pc::FenceUnlink => self.fence(),
            Pc::HeadCreate | Pc::HeadCheckClaim | Pc::HeadCheckHead | Pc::HeadRename => {
                self.become_holder();
            }
            Pc::Collect => self.collect(),
            Pc::GiveUpFile | Pc::GiveUpLook | Pc::GiveUpUnlink => self.give_up(),
            Pc::MarkOpen | Pc::MarkWrite => self.mark(),
            Pc::ReadOpen | Pc::ReadTag | Pc::ReadEnd | Pc::ReadCheck => self.read(),
            _ => self.hold(),
        }
    }

    fn begin(&mut self) {
        let pc = match self.kind() {
            Kind::Reader => Pc::ReadOpen,
            _ if self.is(Mutation::StateReadEarly) => Pc::EarlyPayload,
            Kind::Native => Pc::GateOpen,
            Kind::Guest | Kind::Operator => Pc::Look,
        };
        let publishes = match self.kind() {
            Kind::Native | Kind::Guest => self.scene.publishes,
            Kind::Operator | Kind::Reader => 0,
        };
        let mut begun = *self.state;
        begun.processes[self.who].pc = pc;
        begun.processes[self.who].publishes = publishes;
        if self.scene.fair {
            begun.processes[self.who].older = waiting(self.state);
        }
        self.steps_in(&begun);
    }

    fn look_early(&mut self) {
        if self.me().pc == Pc::EarlyPayload {
            return self.step(How::Goes, Pc::EarlyTag, |next, who| {
                next.processes[who].opened = next.payload;
            });
        }
        let pc = if self.kind() == Kind::Native {
            Pc::GateOpen
        } else {
            Pc::Look
        };
        let current = self.current_record();
        self.step(How::Goes, pc, |next, who| {
            next.processes[who].current = current;
            next.processes[who].opened = 0;
        });
    }

    fn gate(&mut self) {
        let me = *self.me();
        let free = |state: &State| state.locked_by[me.gate as usize] == NOBODY;
        let lock = |next: &mut State, who: usize| next.locked_by[me.gate as usize] = who as u8;
        match me.pc {
            Pc::GateOpen => self.step(How::Goes, Pc::GateTry, |next, who| {
                if next.gate == NO_GATE {
                    next.gate = u8::from(next.gate_deleted);
                }
                next.processes[who].gate = next.gate;
            }),
            Pc::GateTry if free(self.state) => self.step(How::Goes, Pc::GateConfirm, lock),
            Pc::GateTry => self.fails(Pc::GateWait),
            Pc::GateWait if free(self.state) => self.step(How::Goes, Pc::GateConfirm, lock),
            Pc::GateWait => {
                if self.is(Mutation::GateWaitBlind) {
                    return;
                }
                if self.state.gate != me.gate {
                    return self.step(How::Fails, Pc::GateOpen, |next, who| {
                        next.processes[who].gate = NO_GATE;
                    });
                }
                if self.scene.expiry == Expiry::Any {
                    self.step(How::Passes, Pc::Look, |next, who| {
                        next.processes[who].gate = NO_GATE;
                        next.processes[who].flags |= BYPASSED;
                    });
                }
            }
            _ if self.state.gate == me.gate || self.is(Mutation::GateNotCompared) => {
                self.goes(Pc::Look);
            }
            _ => self.step(How::Fails, Pc::GateOpen, |next, who| {
                next.locked_by[me.gate as usize] = NOBODY;
                next.processes[who].gate = NO_GATE;
            }),
        }
    }

    /// Step 1: the head, the claims after it by name, what the last one says.
    fn look(&mut self) {
        let me = *self.me();
        let claim = self.state.claim(me.last);
        match me.pc {
            Pc::Look => self.step(How::Goes, Pc::Probe, |next, who| {
                next.processes[who].head = next.head;
                next.processes[who].last = next.head;
            }),
            Pc::Probe if self.state.claim(me.last + 1).exists() => {
                self.step(How::Goes, Pc::Probe, |next, who| {
                    next.processes[who].last += 1;
                });
            }
            Pc::Probe => self.fails(Pc::ReadClaim),
            Pc::StatMark if claim.says == Says::Marked => {
                let guess = self.state.gate_deleted;
                self.finds_dead(claim, guess);
            }
            Pc::StatMark => self.taken(claim),
            _ if claim.says == Says::Absent && me.last != me.head => self.fails(Pc::Look),
            _ if claim.says.is_free() => self.free(),
            _ if me.gate == NO_GATE => self.taken(claim),
            _ if claim.says.is_unwritten() => self.goes(Pc::StatMark),
            _ => match claim.says.gate() {
                Some(gate) if gate == me.gate || self.is(Mutation::GateNotCompared) => {
                    self.finds_dead(claim, false);
                }
                _ => self.taken(claim),
            },
        }
    }

    fn free(&mut self) {
        let me = *self.me();
        if !self.scene.fair {
            // Courtesy depends on times that this does not know: it may be due or not.
            self.step(How::GivesWay, Pc::Look, |next, who| {
                forget_sight(&mut next.processes[who]);
            });
            return self.goes(Pc::Claim);
        }
        let due = (0..self.scene.parts.len())
            .any(|other| me.older & 1 << other != 0 && self.state.processes[other].is(WANT));
        if due && !self.is(Mutation::NoCourtesy) {
            self.step(How::GivesWay, Pc::Look, |next, who| {
                forget_sight(&mut next.processes[who]);
            });
        } else {
            self.goes(Pc::Claim);
        }
    }

    fn taken(&mut self, claim: Claim) {
        let dead = claim.exists() && claim.maker == NOBODY;
        if self.scene.expiry == Expiry::Any || dead {
            self.step(How::Expires, Pc::Claim, |_, _| {});
        }
        let fair = self.scene.fair;
        self.step(How::Waits, Pc::Look, |next, who| {
            let me = &mut next.processes[who];
            if fair && me.taken < 2 && me.last_taken != me.last {
                me.last_taken = me.last;
                me.taken += 1;
                if me.taken == 2 {
                    me.flags |= WANT;
                }
            }
            forget_sight(me);
        });
    }

    /// `guess`: it may be wrong, as a lease that expires may.
    fn finds_dead(&mut self, claim: Claim, guess: bool) {
        self.step(How::FindsDead, Pc::Claim, |next, who| {
            // Its own is what it could not mark as given up.
            if ![NOBODY, who as u8].contains(&claim.maker) && !guess {
                next.break_rule(Broken::LiveJudgedDead);
            }
        });
    }

    fn beat_read(&mut self) {
        let me = *self.me();
        let holds = matches!(
            me.pc,
            Pc::StageCreate
                | Pc::StageCheckClaim
                | Pc::StageCheckHead
                | Pc::CurrentPayload
                | Pc::TagRename
                | Pc::PayloadRename
        );
        if !self.scene.beats || self.kind() != Kind::Guest || !holds || me.is(LOST) {
            return;
        }
        let claim = self.state.claim(me.epoch);
        let foreign = claim.nonce != self.who as u8 && !claim.says.is_unwritten();
        let lost = !claim.exists() || foreign;
        self.step(How::Beats, me.pc, |next, who| {
            next.processes[who].flags |= if lost { LOST } else { BEATING };
        });
    }

    fn beat_write(&mut self) {
        self.step(How::Beats, self.me().pc, |next, who| {
            next.processes[who].flags &= !BEATING;
            if next.claim(next.processes[who].epoch).exists() {
                write_claim(next, who, None, Says::Lease);
            } else {
                next.processes[who].flags |= LOST;
            }
        });
    }
}

/// What was seen matters no longer.
pub(super) fn forget_sight(process: &mut Process) {
    (process.head, process.last) = (0, 0);
}

/// Who waits, each a bit.
fn waiting(state: &State) -> u8 {
    let mut waiting = 0;
    for (who, process) in state.processes.iter().enumerate() {
        let waits = match process.pc as u8 {
            pc if pc <= Pc::Idle as u8 => false,
            pc if pc <= Pc::HeadRename as u8 => true,
            pc if pc <= Pc::Collect as u8 => false,
            pc if pc <= Pc::GiveUpUnlink as u8 => true,
            _ => process.is(GIVING_UP),
        };
        waiting |= u8::from(waits) << who;
    }
    waiting
}
