//! Becoming the holder, from the claim to the rename of `head`, or giving up, in the order of `src/lock/attempt.rs`.

use cachelock::Mutation;

use super::process::{BYPASSED, GIVING_UP, HEAD_FILE, PAYLOAD, Pc, WANT};
use super::scene::{Expiry, Kind};
use super::state::{Broken, Claim, EPOCHS, LEFT, NO_GATE, NOBODY, Says, State};
use super::steps::{How, Steps, forget_sight};

impl Steps<'_> {
    /// Step 2.
    pub(super) fn claim(&mut self) {
        let me = *self.me();
        if me.pc == Pc::WriteRecord {
            return self.write_record();
        }
        let epoch = me.last + 1;
        if epoch > self.epochs || usize::from(epoch) >= EPOCHS {
            return;
        }
        if self.state.claim(epoch).exists() {
            return self.step(How::Fails, Pc::Look, |next, who| {
                forget_sight(&mut next.processes[who]);
            });
        }
        let says = if me.gate == NO_GATE {
            Says::Empty
        } else {
            Says::Marked
        };
        self.step(How::Goes, Pc::WriteRecord, |next, who| {
            next.claims[epoch as usize] = Claim {
                says,
                maker: who as u8,
                nonce: NOBODY,
            };
            forget_sight(&mut next.processes[who]);
            next.processes[who].epoch = epoch;
        });
    }

    pub(super) fn write_record(&mut self) {
        let me = *self.me();
        let fence = if self.is(Mutation::HeadBeforeFence) {
            Pc::HeadCreate
        } else {
            Pc::ScanBegin
        };
        let says = self.record();
        if self.writes_by_name() && !self.state.claim(me.epoch).exists() {
            return self.fails(Pc::GiveUpFile);
        }
        let maker = (!self.writes_by_name()).then_some(self.who as u8);
        self.step(How::Goes, fence, |next, who| {
            write_claim(next, who, maker, says);
        });
        self.may_fail(Pc::GiveUpFile);
    }

    /// What its claim says while it is held.
    pub(super) fn record(&self) -> Says {
        let me = self.me();
        match self.kind() {
            _ if me.gate != NO_GATE => Says::gated(me.gate),
            Kind::Operator => Says::Bypass,
            _ if me.is(BYPASSED) => Says::Bypass,
            _ => Says::Lease,
        }
    }

    /// Guests keep no file open between calls.
    pub(super) fn writes_by_name(&self) -> bool {
        self.kind() == Kind::Guest
    }

    /// Step 3: scans that are not atomic, until one shows nothing of an earlier epoch.
    pub(super) fn fence(&mut self) {
        let me = *self.me();
        let one = self.is(Mutation::FenceOneEpoch);
        let stale = |epoch: u8| epoch < me.epoch && (!one || epoch + 1 == me.epoch);
        match me.pc {
            Pc::ScanBegin => {
                let there = self.state.files(stale);
                self.step(How::Goes, Pc::ScanEnd, |next, who| {
                    next.processes[who].sure = there;
                    next.processes[who].maybe = there;
                });
            }
            Pc::ScanEnd => {
                let left = (0..EPOCHS as u8)
                    .any(|epoch| stale(epoch) && self.state.left & 1 << epoch != 0);
                let maybe = me.maybe & self.state.files(stale) & !me.sure;
                // Whatever came meanwhile may have been seen or not: each subset of it.
                let mut seen = maybe;
                loop {
                    let found = me.sure | seen | if left { LEFT } else { 0 };
                    self.scanned(found);
                    if seen == 0 {
                        break;
                    }
                    seen = (seen - 1) & maybe;
                }
            }
            _ => {
                let mut todo = me.sure;
                while todo != 0 {
                    let file = todo & todo.wrapping_neg();
                    todo &= !file;
                    self.unlink_stale(file, stale);
                }
                if me.sure == 0 {
                    // Others have unlinked them all.
                    let mut done = *self.state;
                    done.processes[self.who].pc = Pc::ScanBegin;
                    self.steps_in(&done);
                } else {
                    // What cannot be unlinked fails the acquire.
                    self.may_fail(Pc::GiveUpFile);
                }
            }
        }
    }

    fn scanned(&mut self, found: u16) {
        let then = match found {
            0 if self.is(Mutation::HeadBeforeFence) => Pc::Collect,
            0 => Pc::HeadCreate,
            _ => Pc::FenceUnlink,
        };
        let (later_files, later_claims) = self.later();
        self.step(How::Goes, then, |next, who| {
            let me = &mut next.processes[who];
            (me.sure, me.maybe) = (found, 0);
            if found == 0 {
                // The listing that is collected by.
                (me.sure, me.maybe) = (later_files, later_claims);
                next.fenced = next.fenced.max(me.epoch);
            }
        });
    }

    /// What a listing shows of others that is of its own epoch or a later one, and the later claims, each a bit. All that is
    /// there at its end: of what is gone by then, nobody has anything.
    fn later(&self) -> (u16, u16) {
        let me = self.me();
        if self.is(Mutation::HeadNotChecked) || self.is(Mutation::HeadBeforeFence) {
            return (0, 0);
        }
        let files = self.state.files(|epoch| epoch >= me.epoch) & !(0xf << (4 * self.who));
        let claims = match self.is(Mutation::LaterClaimsCollected) {
            true => (me.epoch + 1..EPOCHS as u8)
                .filter(|epoch| self.state.claim(*epoch).exists())
                .fold(0, |claims, epoch| claims | 1 << epoch),
            false => 0,
        };
        (files, claims)
    }

    fn unlink_stale(&mut self, file: u16, stale: impl Fn(u8) -> bool) {
        self.step(How::Goes, Pc::FenceUnlink, |next, who| {
            if file == LEFT {
                for epoch in (0..EPOCHS as u8).filter(|epoch| stale(*epoch)) {
                    next.left &= !(1 << epoch);
                }
                next.processes[who].sure &= !LEFT;
            } else {
                let at = file.trailing_zeros() as usize;
                next.remove(at / 4, 1 << (at % 4));
            }
        });
    }

    /// Step 4.
    pub(super) fn become_holder(&mut self) {
        let me = *self.me();
        match me.pc {
            Pc::HeadCreate => {
                let checks = if self.is(Mutation::HeadNotChecked) {
                    Pc::HeadRename
                } else {
                    Pc::HeadCheckClaim
                };
                self.step(How::Goes, checks, |next, who| next.create(who, HEAD_FILE));
            }
            Pc::HeadCheckClaim => {
                let absent = !self.state.claim(me.epoch + 1).exists();
                self.check(absent, Pc::HeadCheckHead, Pc::GiveUpFile);
            }
            Pc::HeadCheckHead => {
                let lower = self.state.head < me.epoch;
                self.check(lower, Pc::HeadRename, Pc::GiveUpFile);
            }
            _ if me.files & HEAD_FILE == 0 => self.fails(Pc::GiveUpFile),
            _ => {
                let then = if self.is(Mutation::HeadBeforeFence) {
                    Pc::ScanBegin
                } else {
                    Pc::Collect
                };
                let (fair, others) = (self.scene.fair, self.scene.parts.len() as u8 - 1);
                let alone = self.scene.expiry == Expiry::Dead;
                self.step(How::Goes, then, |next, who| {
                    next.remove(who, HEAD_FILE);
                    let mut others_hold = next.processes.iter().enumerate();
                    if alone && others_hold.any(|(other, held)| other != who && held.holds()) {
                        next.break_rule(Broken::TwoHold);
                    }
                    if next.head >= me.epoch {
                        next.break_rule(Broken::HeadWentBack);
                    }
                    next.head = me.epoch;
                    if fair {
                        acquired(next, who, others);
                    }
                });
                self.may_fail(Pc::GiveUpFile);
            }
        }
    }

    /// After acquiring. A listing may have missed a claim, so each may stay.
    pub(super) fn collect(&mut self) {
        let epoch = self.me().epoch;
        for earlier in 0..epoch {
            if self.state.claim(earlier).exists() {
                self.step(How::Goes, Pc::Collect, |next, _| next.unlink_claim(earlier));
            }
        }
        let (files, claims) = (self.me().sure, self.me().maybe);
        for later in (0..EPOCHS).filter(|epoch| claims & 1 << epoch != 0) {
            self.step(How::Goes, Pc::Collect, |next, who| {
                next.processes[who].maybe &= !(1 << later);
                // What comes of it is to be found, not that it is against the rules.
                next.claims[later] = Claim::ABSENT;
            });
        }
        for file in (0..16).map(|bit| 1 << bit).filter(|file| files & file != 0) {
            self.step(How::Goes, Pc::Collect, |next, _| next.collect(file));
        }
        let mut collected = *self.state;
        let me = &mut collected.processes[self.who];
        (me.sure, me.maybe) = (0, 0);
        (me.pc, me.which) = match self.kind() {
            Kind::Operator => (Pc::GateProbe, 0),
            _ if me.publishes == 0 => (Pc::ReleaseLook, 0),
            _ => (self.stage(), PAYLOAD),
        };
        self.steps_in(&collected);
    }

    pub(super) fn give_up(&mut self) {
        let me = *self.me();
        match me.pc {
            Pc::GiveUpFile => self.step(How::Goes, Pc::GiveUpLook, |next, who| {
                next.remove(who, HEAD_FILE);
            }),
            Pc::GiveUpLook => {
                let reached = self.state.head >= me.epoch || self.is(Mutation::LoserUnlinks);
                if reached {
                    self.goes(Pc::GiveUpUnlink);
                } else {
                    self.step(How::Fails, Pc::MarkOpen, |next, who| {
                        next.processes[who].flags |= GIVING_UP;
                    });
                }
            }
            _ => {
                let early = self.is(Mutation::LoserUnlinks);
                self.step(How::Goes, Pc::Look, |next, who| {
                    if early {
                        // What comes of it is to be found, not that it is against the rules.
                        next.claims[me.epoch as usize] = Claim::ABSENT;
                    } else {
                        next.unlink_claim(me.epoch);
                    }
                    next.processes[who].epoch = 0;
                });
            }
        }
    }

    /// Marks its claim as released and leaves it.
    pub(super) fn mark(&mut self) {
        let me = *self.me();
        let claim = self.state.claim(me.epoch);
        let then = self.after_mark();
        let done = |next: &mut State, who: usize| {
            let me = &mut next.processes[who];
            if me.is(GIVING_UP) {
                me.flags &= !GIVING_UP;
                me.epoch = 0;
            }
            me.last = 0;
        };
        if me.pc == Pc::MarkOpen {
            let ours =
                claim.exists() && (claim.says.is_unwritten() || claim.nonce == self.who as u8);
            if ours {
                self.step(How::Goes, Pc::MarkWrite, |next, who| {
                    next.processes[who].last = claim.maker;
                });
            } else {
                self.step(How::Fails, then, done);
            }
            return;
        }
        let maker = (!self.writes_by_name()).then_some(me.last);
        let says = if self.record() == Says::Bypass {
            Says::Passed
        } else {
            Says::Released
        };
        self.step(How::Goes, then, |next, who| {
            write_claim(next, who, maker, says);
            done(next, who);
        });
        if self.scene.errors {
            // The claim stays as it was, and must expire.
            self.step(How::Fails, then, done);
        }
    }

    fn after_mark(&self) -> Pc {
        if self.me().is(GIVING_UP) {
            Pc::Look
        } else {
            self.after_release()
        }
    }
}

/// Writes the record of `who`, through a handle on the file that `maker` has made, or by name.
pub(super) fn write_claim(next: &mut State, who: usize, maker: Option<u8>, says: Says) {
    let epoch = next.processes[who].epoch;
    let claim = &mut next.claims[epoch as usize];
    if claim.exists() && maker.is_none_or(|maker| maker == claim.maker) {
        claim.says = says;
        claim.nonce = who as u8;
    }
}

/// `who` has the lease: it waits no longer, and has passed all whose wants are up.
fn acquired(next: &mut State, who: usize, others: u8) {
    let me = &mut next.processes[who];
    me.flags &= !WANT;
    (me.passed, me.taken, me.last_taken, me.older) = (0, 0, 0, 0);
    let mut starved = false;
    for (at, other) in next.processes.iter_mut().enumerate() {
        other.older &= !(1 << who);
        if at != who && other.is(WANT) {
            other.passed += 1;
            starved |= other.passed > others;
        }
    }
    if starved {
        next.break_rule(Broken::Starved);
    }
}
