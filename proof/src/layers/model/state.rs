//! What the model knows between two file operations: the control directory, one entry, and the processes.

use std::hash::{Hash, Hasher};

use super::process::{Pc, Process, Record, Tag};

/// How many processes a scene may have.
pub(super) const MOST: usize = 3;
/// Epochs are below this.
pub(super) const EPOCHS: usize = 8;
/// In place of a process: none that lives.
pub(super) const NOBODY: u8 = 3;
/// In place of a gate: there is none of that name.
pub(super) const NO_GATE: u8 = 2;

/// In a set of all files: what dead processes have left.
pub(super) const LEFT: u16 = 1 << 15;

/// What a claim's file says to whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Says {
    /// There is no such file.
    Absent,
    /// Created, not yet written.
    Empty,
    /// The same, by somebody who has the gate.
    Marked,
    /// Held without the gate.
    Lease,
    /// Held with the first gate or with the one that has replaced it.
    Gated(Gate),
    /// Held by somebody who went past the gate.
    Bypass,
    Released,
    /// Released by an operator, for those who wait for the gate.
    Passed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Gate {
    First,
    Second,
}

impl Says {
    pub(super) fn gated(gate: u8) -> Self {
        Says::Gated(if gate == 0 { Gate::First } else { Gate::Second })
    }

    pub(super) fn gate(self) -> Option<u8> {
        match self {
            Says::Gated(gate) => Some(gate as u8),
            _ => None,
        }
    }

    pub(super) fn is_unwritten(self) -> bool {
        matches!(self, Says::Empty | Says::Marked)
    }

    pub(super) fn is_free(self) -> bool {
        matches!(self, Says::Absent | Says::Released | Says::Passed)
    }

    fn code(self) -> u8 {
        match self {
            Says::Absent => 0,
            Says::Empty => 1,
            Says::Marked => 2,
            Says::Lease => 3,
            Says::Gated(Gate::First) => 4,
            Says::Gated(Gate::Second) => 5,
            Says::Bypass => 6,
            Says::Released => 7,
            Says::Passed => 8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) says: Says,
    /// Who has created this file: what a handle compares.
    pub(super) maker: u8,
    /// Whose nonce is in the record.
    pub(super) nonce: u8,
}

impl Claim {
    pub(super) const ABSENT: Claim = Claim {
        says: Says::Absent,
        maker: NOBODY,
        nonce: NOBODY,
    };

    pub(super) fn exists(self) -> bool {
        self.says != Says::Absent
    }

    fn code(self) -> u8 {
        self.says.code() | self.maker << 4 | self.nonce << 6
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Broken {
    Nothing,
    HeadWentBack,
    OvertakenPublished,
    FencedPublished,
    PayloadUnknown,
    Generations,
    AcknowledgedUndone,
    ClaimUnlinkedEarly,
    LiveJudgedDead,
    FalseCorruption,
    ReadTooOld,
    ReadTooEarly,
    Starved,
    TwoHold,
    LiveCollected,
}

/// Everything between two operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) head: u8,
    pub(super) claims: [Claim; EPOCHS],
    /// The gate that has the name, and who has the kernel lock on each.
    pub(super) gate: u8,
    pub(super) locked_by: [u8; 2],
    pub(super) gate_deleted: bool,
    /// Epochs of which dead processes have left stages or next heads, each a bit.
    pub(super) left: u8,
    pub(super) payload: u8,
    /// How often the payload was replaced; counted for readers only.
    pub(super) version: u8,
    pub(super) tag: Tag,
    /// The highest epoch whose fence was done, and the highest generation that was acknowledged.
    pub(super) fenced: u8,
    pub(super) acknowledged: u8,
    pub(super) broken: Broken,
    pub(super) processes: [Process; MOST],
}

impl State {
    /// All of it, packed: what is hashed.
    pub(super) fn words(&self) -> [u64; 3 + 3 * MOST] {
        let mut words = [0; 3 + 3 * MOST];
        words[0] = u64::from_le_bytes(self.claims.map(Claim::code));
        words[1] = u64::from_le_bytes([
            self.head,
            self.gate,
            self.locked_by[0],
            self.locked_by[1],
            self.gate_deleted as u8,
            self.left,
            self.payload,
            self.version,
        ]);
        let [a, b, c, d] = self.tag.bytes();
        words[2] = u64::from_le_bytes([
            a,
            b,
            c,
            d,
            self.fenced,
            self.acknowledged,
            self.broken as u8,
            0,
        ]);
        for (at, process) in self.processes.iter().enumerate() {
            words[3 + 3 * at..][..3].copy_from_slice(&process.words());
        }
        words
    }

    /// A number that is spread evenly, to pick samples by.
    pub(super) fn sample(&self) -> u64 {
        self.words().iter().fold(0, |sum: u64, word| {
            (sum ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        })
    }

    pub(super) fn break_rule(&mut self, broken: Broken) {
        if self.broken == Broken::Nothing {
            self.broken = broken;
        }
    }

    pub(super) fn claim(&self, epoch: u8) -> Claim {
        self.claims
            .get(epoch as usize)
            .copied()
            .unwrap_or(Claim::ABSENT)
    }

    /// The claim that whoever looks now would wait for.
    pub(super) fn last(&self) -> u8 {
        let mut last = self.head;
        while self.claim(last + 1).exists() {
            last += 1;
        }
        last
    }

    pub(super) fn unlink_claim(&mut self, epoch: u8) {
        if self.claim(epoch).exists() {
            self.claims[epoch as usize] = Claim::ABSENT;
            if self.head < epoch {
                self.break_rule(Broken::ClaimUnlinkedEarly);
            }
        }
    }

    /// The files that there are, of epochs for which `of` holds.
    pub(super) fn files(&self, of: impl Fn(u8) -> bool) -> u16 {
        let mut files = 0;
        for (who, process) in self.processes.iter().enumerate() {
            if of(process.epoch) {
                files |= u16::from(process.files) << (4 * who);
            }
        }
        files
    }

    pub(super) fn create(&mut self, who: usize, file: u8) {
        let epoch = self.processes[who].epoch;
        self.processes[who].files |= file;
        for other in &mut self.processes {
            // A scan that is under way may see it or not.
            if other.pc == Pc::ScanEnd && epoch < other.epoch {
                other.maybe |= u16::from(file) << (4 * who);
            }
        }
    }

    /// Unlinks or renames away `file` of `who`; tells whether it was there.
    pub(super) fn remove(&mut self, who: usize, file: u8) -> bool {
        let was_there = self.processes[who].files & file != 0;
        self.processes[who].files &= !file;
        self.forget(u16::from(file) << (4 * who));
        was_there
    }

    /// Unlinks a file of somebody else that is not of an earlier epoch, and so must be nobody's any more.
    pub(super) fn collect(&mut self, file: u16) {
        let at = file.trailing_zeros() as usize;
        if self.remove(at / 4, 1 << (at % 4)) {
            self.break_rule(Broken::LiveCollected);
        }
    }

    /// These names are gone: seen or not, nothing comes of it.
    fn forget(&mut self, files: u16) {
        for other in &mut self.processes {
            match other.pc {
                Pc::ScanEnd | Pc::FenceUnlink => {
                    other.sure &= !files;
                    other.maybe &= !files;
                }
                Pc::HeadCreate
                | Pc::HeadCheckClaim
                | Pc::HeadCheckHead
                | Pc::HeadRename
                | Pc::Collect => other.sure &= !files,
                _ => {}
            }
        }
    }

    /// The process is gone, and its gate with it. What it has made stays.
    pub(super) fn crash(&mut self, who: usize) {
        let process = self.processes[who];
        if process.files != 0 {
            self.left |= 1 << process.epoch;
            let files = u16::from(process.files) << (4 * who);
            for other in &mut self.processes {
                if other.pc == Pc::FenceUnlink && other.sure & files != 0 {
                    other.sure |= LEFT;
                }
            }
            self.forget(files);
            self.processes[who].files = 0;
        }
        self.end_round(who);
    }

    /// The next round begins anew.
    pub(super) fn end_round(&mut self, who: usize) {
        for lock in &mut self.locked_by {
            if *lock == who as u8 {
                *lock = NOBODY;
            }
        }
        for claim in &mut self.claims {
            if claim.maker == who as u8 {
                claim.maker = NOBODY;
            }
            if claim.nonce == who as u8 {
                claim.nonce = NOBODY;
            }
        }
        for other in &mut self.processes {
            other.older &= !(1 << who);
        }
        let rounds = self.processes[who].rounds - 1;
        self.processes[who] = Process {
            rounds,
            pc: if rounds == 0 { Pc::Done } else { Pc::Idle },
            ..Process::IDLE
        };
    }

    /// The number of the content that `who` publishes next: no other has it.
    pub(super) fn fresh(&self, who: usize) -> u8 {
        let process = &self.processes[who];
        2 + ((who as u8 * 8 + process.rounds) * 4 + process.publishes)
    }

    /// What a reader of this moment sees.
    pub(super) fn visible(&self, previous_wins: bool) -> Option<Record> {
        self.tag.record_of(self.payload, previous_wins)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for word in self.words() {
            hasher.write_u64(word);
        }
    }
}
