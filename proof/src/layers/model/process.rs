//! One process between two file operations, and what the entry is to it.

use super::state::NO_GATE;

/// Contents of a payload, each with a number of its own; [`State::fresh`] gives them to stages.
pub(super) const MISSING: u8 = 0;
/// What a payload becomes whose entry is known to be absent.
pub(super) const EMPTY: u8 = 1;
/// In a record only: known absent.
pub(super) const ABSENT: u8 = u8::MAX;

/// The files that a process can make besides its claim, each a bit.
pub(super) const HEAD_FILE: u8 = 1;
pub(super) const PAYLOAD: u8 = 2;
pub(super) const TAG: u8 = 4;
/// The stage that empties a payload.
pub(super) const EMPTYING: u8 = 8;
/// One of the two records of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) content: u8,
    pub(super) generation: u8,
}

impl Record {
    const MISSING: Record = Record {
        content: MISSING,
        generation: 0,
    };

    /// Whether a payload may be what this record says.
    fn fits(self, payload: u8) -> bool {
        match self.content {
            ABSENT => payload == MISSING || payload == EMPTY,
            content => content == payload,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) previous: Record,
    pub(super) next: Record,
}

impl Tag {
    pub(super) const NONE: Tag = Tag {
        previous: Record::MISSING,
        next: Record::MISSING,
    };

    /// The record that a payload is; `None` if it is neither.
    pub(super) fn record_of(self, payload: u8, previous_wins: bool) -> Option<Record> {
        if self.next.content == ABSENT {
            return Some(self.next);
        }
        match (self.next.fits(payload), self.previous.fits(payload)) {
            (true, true) if previous_wins => Some(self.previous),
            (true, _) => Some(self.next),
            (false, true) => Some(self.previous),
            (false, false) => None,
        }
    }

    pub(super) fn bytes(self) -> [u8; 4] {
        [
            self.previous.content,
            self.previous.generation,
            self.next.content,
            self.next.generation,
        ]
    }
}

/// What a process does next. Each is one file operation, or a choice that shows in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Pc {
    Done,
    Idle,
    /// With the defect that looks at the entry before the lock is had.
    EarlyPayload,
    EarlyTag,
    GateOpen,
    GateTry,
    GateWait,
    GateConfirm,
    Look,
    Probe,
    ReadClaim,
    StatMark,
    Claim,
    WriteRecord,
    ScanBegin,
    ScanEnd,
    FenceUnlink,
    HeadCreate,
    HeadCheckClaim,
    HeadCheckHead,
    HeadRename,
    Collect,
    GiveUpFile,
    GiveUpLook,
    GiveUpUnlink,
    MarkOpen,
    MarkWrite,
    /// These three concern the stage in [`Process::which`].
    StageCreate,
    StageCheckClaim,
    StageCheckHead,
    CurrentPayload,
    CurrentTag,
    EmptyLook,
    EmptyRename,
    TagRename,
    PayloadRename,
    /// With the defect that removes an entry by unlinking it.
    PayloadUnlink,
    DropStages,
    GateProbe,
    ReleaseLook,
    ReleaseUnlink,
    MarkGoneHead,
    MarkGoneRead,
    MarkGoneUnlink,
    GateRelease,
    ReadOpen,
    ReadTag,
    ReadEnd,
    ReadCheck,
}

impl Pc {
    pub(super) const ALL: [Pc; 49] = [
        Pc::Done,
        Pc::Idle,
        Pc::EarlyPayload,
        Pc::EarlyTag,
        Pc::GateOpen,
        Pc::GateTry,
        Pc::GateWait,
        Pc::GateConfirm,
        Pc::Look,
        Pc::Probe,
        Pc::ReadClaim,
        Pc::StatMark,
        Pc::Claim,
        Pc::WriteRecord,
        Pc::ScanBegin,
        Pc::ScanEnd,
        Pc::FenceUnlink,
        Pc::HeadCreate,
        Pc::HeadCheckClaim,
        Pc::HeadCheckHead,
        Pc::HeadRename,
        Pc::Collect,
        Pc::GiveUpFile,
        Pc::GiveUpLook,
        Pc::GiveUpUnlink,
        Pc::MarkOpen,
        Pc::MarkWrite,
        Pc::StageCreate,
        Pc::StageCheckClaim,
        Pc::StageCheckHead,
        Pc::CurrentPayload,
        Pc::CurrentTag,
        Pc::EmptyLook,
        Pc::EmptyRename,
        Pc::TagRename,
        Pc::PayloadRename,
        Pc::PayloadUnlink,
        Pc::DropStages,
        Pc::GateProbe,
        Pc::ReleaseLook,
        Pc::ReleaseUnlink,
        Pc::MarkGoneHead,
        Pc::MarkGoneRead,
        Pc::MarkGoneUnlink,
        Pc::GateRelease,
        Pc::ReadOpen,
        Pc::ReadTag,
        Pc::ReadEnd,
        Pc::ReadCheck,
    ];
}

/// How a refresh ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mode {
    /// With bytes that nobody has published yet.
    Value,
    /// With the bytes that are there.
    Same,
    Absent,
    NotModified,
}

pub(super) const LOST: u8 = 1;
/// A guest's beat has read the claim and is about to write it.
pub(super) const BEATING: u8 = 2;
/// What is marked `released` is a claim that is given up.
pub(super) const GIVING_UP: u8 = 4;
/// It has gone past the gate.
pub(super) const BYPASSED: u8 = 8;
/// A want of its is up.
pub(super) const WANT: u8 = 16;

/// One process, or rather one slot: whoever crashes is followed by another with one round less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pc: Pc,
    /// How many rounds are left, this one included.
    pub(super) rounds: u8,
    /// How many publishes are left in this round.
    pub(super) publishes: u8,
    pub(super) flags: u8,
    /// The gate that it has open, or has.
    pub(super) gate: u8,
    /// The head that it saw.
    pub(super) head: u8,
    /// The last claim that it saw. While it marks a claim: who made that. A reader's: see [`Process::mismatch`].
    pub(super) last: u8,
    pub(super) epoch: u8,
    /// Its files.
    pub(super) files: u8,
    /// The stage that it is at.
    pub(super) which: u8,
    pub(super) mode: Mode,
    /// The payload that it has read.
    pub(super) opened: u8,
    /// The record that this was.
    pub(super) current: Record,
    /// During a scan: what was there from its beginning. During the fence: what is still to be unlinked.
    pub(super) sure: u16,
    /// During a scan: what was there at any time and still is.
    pub(super) maybe: u16,
    /// Who had been waiting already when it began to wait, each a bit.
    pub(super) older: u8,
    /// How many others have acquired since its want is up; how many publishes overlap a reader's look.
    pub(super) passed: u8,
    /// How many epochs it has found taken, and the last of them; a reader's generation.
    pub(super) taken: u8,
    pub(super) last_taken: u8,
}

impl Process {
    pub(super) const IDLE: Process = Process {
        pc: Pc::Idle,
        rounds: 0,
        publishes: 0,
        flags: 0,
        gate: NO_GATE,
        head: 0,
        last: 0,
        epoch: 0,
        files: 0,
        which: 0,
        mode: Mode::Value,
        opened: 0,
        current: Record::MISSING,
        sure: 0,
        maybe: 0,
        older: 0,
        passed: 0,
        taken: 0,
        last_taken: 0,
    };

    /// Whether it has the lease and does not know of having lost it.
    pub(super) fn holds(&self) -> bool {
        let holds = match self.pc as u8 {
            pc if pc < Pc::Collect as u8 => false,
            pc if pc == Pc::Collect as u8 => true,
            pc if pc <= Pc::GiveUpUnlink as u8 => false,
            pc if pc <= Pc::MarkWrite as u8 => !self.is(GIVING_UP),
            pc => pc <= Pc::ReleaseUnlink as u8,
        };
        holds && !self.is(LOST)
    }

    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A reader's last mismatch: the payload's version and the tag.
    pub(super) fn mismatch(&self) -> (u8, u16, u16) {
        (self.last, self.sure, self.maybe)
    }

    pub(super) fn set_mismatch(&mut self, (last, sure, maybe): (u8, u16, u16)) {
        (self.last, self.sure, self.maybe) = (last, sure, maybe);
    }

    pub(super) fn words(&self) -> [u64; 3] {
        let [sure, sure_high] = self.sure.to_le_bytes();
        let [maybe, maybe_high] = self.maybe.to_le_bytes();
        [
            u64::from_le_bytes([
                self.pc as u8,
                self.rounds,
                self.publishes,
                self.flags,
                self.gate,
                self.head,
                self.last,
                self.epoch,
            ]),
            u64::from_le_bytes([
                self.files,
                self.which,
                self.mode as u8,
                self.opened,
                self.current.content,
                self.current.generation,
                sure,
                sure_high,
            ]),
            u64::from_le_bytes([
                maybe,
                maybe_high,
                self.older,
                self.passed,
                self.taken,
                self.last_taken,
                0,
                0,
            ]),
        ]
    }
}
