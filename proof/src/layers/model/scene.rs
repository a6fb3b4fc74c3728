//! Who takes part in a model, what may happen to them, and how far it goes.

use super::process::{MISSING, Mode, Pc, Process, Tag};
use super::state::{Broken, Claim, EPOCHS, MOST, NO_GATE, NOBODY, Says, State};
use cachelock::Mutation;

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// With the gate.
    Native,
    /// With the lease alone; handles are names.
    Guest,
    /// Somebody who breaks the lock: takes the lease by force, past the gate, and releases it.
    Operator,
    Reader,
}

/// One process of a scene.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) kind: Kind,
    /// How often it acquires (a reader: reads).
    pub(super) rounds: u8,
}

/// When a claim counts as expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// At any time, whoever is alive: the worst guess that there is.
    Any,
    /// When its maker is dead.
    Dead,
}

/// A bounded model.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) parts: Vec<Part>,
    /// How often each holder publishes.
    pub(super) publishes: u8,
    /// What with.
    pub(super) modes: &'static [Mode],
    /// The bytes of every second payload are the same.
    pub(super) repeats: bool,
    /// The last epoch that may be claimed.
    pub(super) epochs: u8,
    pub(super) expiry: Expiry,
    pub(super) crashes: bool,
    /// Operations fail: an unlink, a rename; and callers give up what they have begun.
    pub(super) errors: bool,
    /// Guests beat their claims, which takes two operations.
    pub(super) beats: bool,
    /// Somebody deletes the gate's name, once.
    pub(super) gate_deleted: bool,
    /// A power cut has left the claims of these epochs, and stages and next heads of the same, each a bit; no head.
    pub(super) power_cut: u8,
    /// Wants are counted, and all have time: nobody may be passed more often than there are others.
    pub(super) fair: bool,
    pub(super) mutation: Option<Mutation>,
    /// Of this many states one is tried for whether a lone process acquires from there; 0: none.
    pub(super) lone: u64,
}

pub(super) const fn part(kind: Kind, rounds: u8) -> Part {
    Part { kind, rounds }
}

impl Scene {
    pub(super) fn new(name: &'static str, parts: &[Part], epochs: u8) -> Self {
        assert!(parts.len() <= MOST && usize::from(epochs) + 2 <= EPOCHS);
        Scene {
            name,
            parts: parts.to_vec(),
            publishes: 1,
            modes: &[Mode::Value],
            repeats: false,
            epochs,
            expiry: Expiry::Any,
            crashes: true,
            errors: false,
            beats: false,
            gate_deleted: false,
            power_cut: 0,
            fair: false,
            mutation: None,
            lone: 32,
        }
    }

    pub(super) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(super) fn has_readers(&self) -> bool {
        self.parts.iter().any(|part| part.kind == Kind::Reader)
    }

    pub(super) fn first(&self) -> State {
        let mut processes = [Process {
            pc: Pc::Done,
            ..Process::IDLE
        }; MOST];
        for (process, part) in processes.iter_mut().zip(&self.parts) {
            process.pc = Pc::Idle;
            process.rounds = part.rounds;
        }
        let claims = std::array::from_fn(|epoch| match self.power_cut >> epoch & 1 {
            1 => Claim {
                says: Says::Lease,
                ..Claim::ABSENT
            },
            _ => Claim::ABSENT,
        });
        State {
            head: 0,
            claims,
            gate: NO_GATE,
            locked_by: [NOBODY; 2],
            gate_deleted: false,
            left: self.power_cut,
            payload: MISSING,
            version: 0,
            tag: Tag::NONE,
            fenced: 0,
            acknowledged: 0,
            broken: Broken::Nothing,
            processes,
        }
    }
}
