//! What a holder does, publish and release, in the order of `src/publish.rs` and `src/lock/mod.rs`; and what a reader does.

use cachelock::Mutation;

use super::process::{ABSENT, EMPTY, EMPTYING, LOST, MISSING, Mode, PAYLOAD, Pc, Record, TAG, Tag};
use super::scene::Kind;
use super::state::{Broken, NO_GATE, NOBODY, Says, State};
use super::steps::{How, Steps};

impl Steps<'_> {
    pub(super) fn hold(&mut self) {
        match self.me().pc {
            Pc::StageCreate | Pc::StageCheckClaim | Pc::StageCheckHead => self.create_stage(),
            Pc::CurrentPayload | Pc::CurrentTag => self.find_current(),
            Pc::EmptyLook | Pc::PayloadUnlink => self.empty(),
            Pc::EmptyRename | Pc::TagRename | Pc::PayloadRename => self.rename(),
            Pc::DropStages => self.drop_stages(),
            _ => self.release(),
        }
    }

    /// Where the next stage begins.
    pub(super) fn stage(&self) -> Pc {
        if self.scene.is(Mutation::StageNotChecked) {
            Pc::StageCheckClaim
        } else {
            Pc::StageCreate
        }
    }

    /// On to the stage `which`.
    fn begin_stage(&mut self, how: How, which: u8) {
        let pc = self.stage();
        self.step(how, pc, |next, who| next.processes[who].which = which);
    }

    fn create_stage(&mut self) {
        let me = *self.me();
        let is = |mutation| self.scene.is(mutation);
        let (first, second) = if is(Mutation::CheckReversed) {
            (Pc::StageCheckHead, Pc::StageCheckClaim)
        } else {
            (Pc::StageCheckClaim, Pc::StageCheckHead)
        };
        let checked = match me.which {
            PAYLOAD => Pc::CurrentPayload,
            TAG => Pc::TagRename,
            _ => Pc::EmptyRename,
        };
        let (created, checked) = if is(Mutation::StageNotChecked) {
            (checked, Pc::StageCreate)
        } else {
            (first, checked)
        };
        if me.pc == Pc::StageCreate {
            if me.is(LOST) {
                return self.fails(Pc::DropStages);
            }
            return self.step(How::Goes, created, |next, who| next.create(who, me.which));
        }
        let stands = match me.pc {
            Pc::StageCheckClaim => !self.state.claim(me.epoch + 1).exists(),
            _ => self.state.head == me.epoch,
        };
        let then = if me.pc == first { second } else { checked };
        if stands {
            self.goes(then);
        } else {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.step(How::Fails, Pc::DropStages, |next, who| {
            next.processes[who].flags |= LOST;
        });
    }

    /// Which record the payload is that was opened before, by the tag as it is now.
    pub(super) fn current_record(&self) -> Record {
        let tag = self.state.tag;
        let payload = self.me().opened;
        if self.scene.is(Mutation::PreviousFromNext) {
            return tag.next;
        }
        let wins = self.scene.is(Mutation::PreviousWins);
        tag.record_of(payload, wins).unwrap_or_else(|| {
            let highest = tag.previous.generation.max(tag.next.generation);
            Record {
                content: payload,
                generation: highest + u8::from(payload != MISSING),
            }
        })
    }

    fn find_current(&mut self) {
        let early = self.scene.is(Mutation::StateReadEarly);
        if self.me().pc == Pc::CurrentPayload {
            // The caller could not produce anything, or does not want to.
            self.may_fail(Pc::DropStages);
            return self.step(How::Goes, Pc::CurrentTag, |next, who| {
                next.processes[who].opened = next.payload;
            });
        }
        let current = if early {
            self.me().current
        } else {
            self.current_record()
        };
        let is_value = !matches!(current.content, ABSENT | MISSING);
        for &mode in self.scene.modes {
            if !is_value && matches!(mode, Mode::Same | Mode::NotModified) {
                continue;
            }
            let empties = current.content == ABSENT && mode == Mode::Value;
            let pc = if empties { Pc::EmptyLook } else { self.stage() };
            self.step(How::Goes, pc, |next, who| {
                let me = &mut next.processes[who];
                me.opened = 0;
                me.current = current;
                me.mode = mode;
                me.which = if empties { PAYLOAD } else { TAG };
            });
        }
    }

    /// What its publish makes of the entry.
    fn next_record(&self) -> Record {
        let me = self.me();
        let current = me.current;
        let generation = current.generation + 1;
        let content = match me.mode {
            Mode::Value if self.scene.repeats => 2 + generation % 2,
            Mode::Value => self.state.fresh(self.who),
            Mode::Same => current.content,
            Mode::Absent => ABSENT,
            Mode::NotModified => return current,
        };
        Record {
            content,
            generation,
        }
    }

    /// Makes the payload of what is absent empty: before another value comes, or after it was published as absent.
    fn empty(&mut self) {
        if self.me().pc == Pc::PayloadUnlink {
            let wins = self.scene.is(Mutation::PreviousWins);
            return self.step(How::Goes, Pc::DropStages, |next, who| {
                let before = next.visible(wins);
                next.payload = MISSING;
                next.version = 0;
                settle(next, before, wins);
                let generation = next.processes[who].current.generation + 1;
                next.acknowledged = next.acknowledged.max(generation);
            });
        }
        if matches!(self.state.payload, MISSING | EMPTY) {
            if self.me().mode == Mode::Absent {
                self.published(How::Fails, |_, _| {});
            } else {
                self.begin_stage(How::Fails, TAG);
            }
        } else {
            self.begin_stage(How::Goes, EMPTYING);
        }
    }

    fn rename(&mut self) {
        let me = *self.me();
        let file = match me.pc {
            Pc::TagRename => TAG,
            Pc::PayloadRename => PAYLOAD,
            _ => EMPTYING,
        };
        if me.files & file == 0 {
            return self.lose();
        }
        self.may_fail(Pc::DropStages);
        let record = self.next_record();
        let wins = self.scene.is(Mutation::PreviousWins);
        let counts = self.scene.has_readers();
        let change = move |next: &mut State, who: usize| {
            next.remove(who, file);
            if me.epoch < next.head {
                next.break_rule(Broken::OvertakenPublished);
            }
            if me.epoch < next.fenced {
                next.break_rule(Broken::FencedPublished);
            }
            let before = next.visible(wins);
            match file {
                TAG => {
                    next.tag = Tag {
                        previous: me.current,
                        next: record,
                    };
                    for reader in &mut next.processes {
                        if reader.pc == Pc::ReadTag {
                            reader.passed = (reader.passed + 1).min(2);
                        }
                    }
                }
                PAYLOAD => next.payload = record.content,
                _ => next.payload = EMPTY,
            }
            if counts && file != TAG {
                next.version = next.version.wrapping_add(1);
            }
            settle(next, before, wins);
        };
        match (file, me.mode) {
            (TAG, Mode::Value | Mode::Same) => self.step(How::Goes, Pc::PayloadRename, change),
            (TAG, Mode::Absent) if self.scene.is(Mutation::RemoveByUnlink) => {
                self.step(How::Goes, Pc::PayloadUnlink, change);
            }
            (TAG, Mode::Absent) => self.step(How::Goes, Pc::EmptyLook, change),
            (EMPTYING, Mode::Value) => {
                let pc = self.stage();
                self.step(How::Goes, pc, |next, who| {
                    change(next, who);
                    next.processes[who].which = TAG;
                });
            }
            _ => self.published(How::Goes, change),
        }
    }

    /// The caller is told so, which must show.
    fn published(&mut self, how: How, change: impl FnOnce(&mut State, usize)) {
        let record = self.next_record();
        let wins = self.scene.is(Mutation::PreviousWins);
        self.step(how, Pc::DropStages, |next, who| {
            let held = next.head == next.processes[who].epoch;
            change(next, who);
            if held && next.visible(wins) != Some(record) {
                next.break_rule(Broken::AcknowledgedUndone);
            }
            next.acknowledged = next.acknowledged.max(record.generation);
        });
    }

    /// Unlinks what was not published.
    fn drop_stages(&mut self) {
        let files = self.me().files;
        let file = files & files.wrapping_neg();
        if file == 0 {
            // A fence has unlinked the last of them.
            let mut dropped = *self.state;
            self.dropped(&mut dropped);
            return self.steps_in(&dropped);
        }
        self.step(How::Goes, Pc::DropStages, |next, who| {
            next.remove(who, file);
        });
    }

    /// On to the next publish or to the release.
    pub(super) fn dropped(&self, next: &mut State) {
        let who = self.who;
        let me = &mut next.processes[who];
        let left = me.publishes.saturating_sub(1);
        let again = left > 0 && !me.is(LOST);
        (me.pc, me.publishes, me.which) = if again {
            (self.stage(), left, PAYLOAD)
        } else {
            (Pc::ReleaseLook, 0, 0)
        };
        (me.mode, me.opened) = (Mode::Value, 0);
        if !self.scene.is(Mutation::StateReadEarly) {
            me.current = Tag::NONE.next;
        }
        if !again && self.scene.is(Mutation::GateReleasedFirst) {
            unlock(next, who);
        }
    }

    pub(super) fn after_release(&self) -> Pc {
        let me = self.me();
        if me.gate != NO_GATE && me.is(LOST) {
            Pc::MarkGoneHead
        } else {
            Pc::GateRelease
        }
    }

    fn release(&mut self) {
        let me = *self.me();
        match me.pc {
            Pc::GateProbe => {
                let gate = usize::from(self.state.gate);
                let held = self
                    .state
                    .locked_by
                    .get(gate)
                    .is_some_and(|by| *by != NOBODY);
                self.check(!held, Pc::ReleaseLook, Pc::MarkOpen);
            }
            Pc::ReleaseLook => {
                let reached = self.state.head >= me.epoch;
                self.check(reached, Pc::ReleaseUnlink, Pc::MarkOpen);
            }
            Pc::ReleaseUnlink => {
                let then = self.after_release();
                self.step(How::Goes, then, |next, _| next.unlink_claim(me.epoch));
                self.may_fail(Pc::MarkOpen);
            }
            Pc::MarkGoneHead => self.step(How::Goes, Pc::MarkGoneRead, |next, who| {
                next.processes[who].head = next.head;
            }),
            Pc::MarkGoneRead => {
                let marked = self.state.claim(me.head).says == Says::Passed;
                self.check(marked, Pc::MarkGoneUnlink, Pc::GateRelease);
            }
            Pc::MarkGoneUnlink => {
                self.step(How::Goes, Pc::GateRelease, |next, _| {
                    next.unlink_claim(me.head)
                });
            }
            _ => self.step(How::Goes, Pc::Done, |next, who| next.end_round(who)),
        }
    }

    /// Opens the payload, reads the tag right after, looks whether the entry still is this payload, reads that to its end, compares.
    pub(super) fn read(&mut self) {
        let me = *self.me();
        let late = self.scene.is(Mutation::TagReadLate);
        debug_assert!(self.kind() == Kind::Reader);
        match me.pc {
            Pc::ReadOpen => self.step(How::Goes, Pc::ReadTag, |next, who| {
                // A publish that is between its two renames overlaps, too.
                let halfway = next.visible(false) != Some(next.tag.next);
                let (payload, version) = (next.payload, next.version);
                let acknowledged = next.acknowledged;
                let me = &mut next.processes[who];
                me.passed = u8::from(halfway);
                (me.opened, me.head) = (payload, version);
                me.current.generation = me.current.generation.max(acknowledged);
            }),
            Pc::ReadTag if late => self.goes(Pc::ReadEnd),
            Pc::ReadCheck if self.state.version != me.head => self.read_again(),
            Pc::ReadCheck => self.has_read(me.last_taken),
            _ => self.compare(),
        }
    }

    fn compare(&mut self) {
        let me = *self.me();
        let tag = self.state.tag;
        let late = self.scene.is(Mutation::TagReadLate);
        let compares = !late && !self.scene.is(Mutation::PayloadNotCompared);
        let Some(record) = tag.record_of(me.opened, false) else {
            if compares && self.state.version != me.head {
                return self.read_again();
            }
            let records = [tag.previous, tag.next];
            let [previous, next] =
                records.map(|record| u16::from(record.content) << 8 | u16::from(record.generation));
            let seen = (me.head, previous, next);
            return self.step(How::Fails, Pc::ReadOpen, |next, who| {
                if me.passed <= 1 || me.mismatch() == seen {
                    next.break_rule(Broken::FalseCorruption);
                }
                let me = &mut next.processes[who];
                me.set_mismatch(seen);
                (me.opened, me.head, me.passed) = (0, 0, 0);
            });
        };
        // What is not there cannot be replaced.
        if compares && me.opened != MISSING {
            self.step(How::Goes, Pc::ReadCheck, |next, who| {
                next.processes[who].last_taken = record.generation;
            });
        } else {
            self.has_read(record.generation);
        }
    }

    /// The payload was replaced before the tag was read, or right after.
    fn read_again(&mut self) {
        self.step(How::Fails, Pc::ReadOpen, |next, who| {
            let me = &mut next.processes[who];
            (me.opened, me.head, me.passed, me.last_taken) = (0, 0, 0, 0);
        });
    }

    fn has_read(&mut self, generation: u8) {
        let me = *self.me();
        self.step(How::Goes, Pc::Done, |next, who| {
            if generation < me.current.generation {
                next.break_rule(Broken::ReadTooOld);
            }
            if next
                .visible(false)
                .is_some_and(|now| now.generation < generation)
            {
                next.break_rule(Broken::ReadTooEarly);
            }
            next.end_round(who);
            // The same reader never goes back.
            if next.processes[who].rounds > 0 {
                next.processes[who].current.generation = generation;
            }
        });
    }
}

fn unlock(next: &mut State, who: usize) {
    for lock in &mut next.locked_by {
        if *lock == who as u8 {
            *lock = NOBODY;
        }
    }
}

/// After each rename outside of the control directory: what readers see has moved on by one generation or not at all.
fn settle(next: &mut State, before: Option<Record>, previous_wins: bool) {
    let Some(after) = next.visible(previous_wins) else {
        return next.break_rule(Broken::PayloadUnknown);
    };
    if after.generation < next.acknowledged {
        next.break_rule(Broken::AcknowledgedUndone);
    }
    if let Some(before) = before {
        let same = after == before;
        if !same && after.generation != before.generation + 1 {
            next.break_rule(Broken::Generations);
        }
    }
}
