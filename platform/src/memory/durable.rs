//! What of the simulated disk survives a power cut.
//!
//! Every change is first volatile: a *data operation* of one file (a write, a change of length) or a *name operation*
//! (a name made, removed, or renamed). [`File::sync`](crate::File::sync) makes one file's data operations durable,
//! [`Dir::sync`](crate::Dir::sync) the name operations that touch one directory. A rename is one operation, also between
//! two directories: it survives as a whole or not at all, and a sync of either directory is enough.
//!
//! At a power cut every operation that is still pending survives or does not, each on its own and by the test's choice,
//! and those that do are applied in their order. That allows more than any one real file system does: names without
//! their data, a rename without the creation before it, a later write without an earlier one.
//!
//! Not modelled: modes, owners and modification times (durable at once); a loss of what was synced; a name that is torn.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::content::Content;
use super::disk::{Body, Disk, Ino, ROOT};
use super::random::Random;

/// A name and what it is set to.
pub(super) type NameSet = (Ino, String, Option<Ino>);

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Debug, Clone)]
pub(super) struct DataOp {
    seq: u64,
    change: Change,
    /// A failed sync has marked it clean: later syncs pass it by, as Linux does.
    forgotten: bool,
}

#[derive(Debug, Clone)]
pub(super) struct NameOp {
    seq: u64,
    sets: Vec<NameSet>,
}

/// More pending operations than these, of one file or of all names, and the oldest become durable on their own, as a
/// kernel writes back by and by. Only a bound on the memory of long simulations.
const WRITE_BACK: usize = 4096;

/// A change that was not durable when the power was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The name of the file, the last it had; for a [`PendingOp::Rename`] the old one.
    pub name: String,
    /// What was done.
    pub op: PendingOp,
}

/// See [`Pending`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PendingOp {
    /// Bytes written to a file.
    Write {
        /// Where.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// A file cut or extended.
    SetLen(u64),
    /// A name given to a new file or directory.
    Create,
    /// A name removed.
    Remove,
    /// A name changed.
    Rename {
        /// The new name.
        to: String,
    },
}

/// What becomes of a [`Pending`] change. For all but writes, anything but [`Keep::Lose`] is [`Keep::Keep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It survives.
    Keep,
    /// It is as if it had never been.
    Lose,
    /// Only so many of a write's first bytes survive.
    Torn(usize),
    /// Zeros stand where the bytes were written.
    Zeros,
    /// Noise stands where the bytes were written.
    Garbage,
}

impl Disk {
    /// Notes a change of names that was just done.
    pub(super) fn log_names(&mut self, sets: Vec<NameSet>) {
        self.next_op += 1;
        self.pending.push(NameOp {
            seq: self.next_op,
            sets,
        });
        if !self.tracks {
            self.commit_name(self.pending.len() - 1);
        } else if self.pending.len() > WRITE_BACK {
            (0..WRITE_BACK / 2).for_each(|_| self.commit_name(0));
        }
    }

    /// Notes a change of a file's content that was just done.
    pub(super) fn log_data(&mut self, ino: Ino, change: impl FnOnce() -> Change) {
        let (seq, tracks) = (self.next_op + 1, self.tracks);
        self.next_op = seq;
        let Body::File(body) = &mut self.get_mut(ino).body else {
            return;
        };
        if !tracks {
            // Without power cuts nobody looks at `durable`; a copy would only cost memory. What a test plants goes
            // through `make_durable`.
            return;
        }
        body.pending.push(DataOp {
            seq,
            change: change(),
            forgotten: false,
        });
        if body.pending.len() > WRITE_BACK {
            let oldest: Vec<DataOp> = body.pending.drain(..WRITE_BACK / 2).collect();
            oldest
                .iter()
                .for_each(|op| apply(&mut body.durable, &op.change, Keep::Keep, op.seq));
        }
    }

    /// Makes the operation at `index` durable ahead of those before it.
    fn commit_name(&mut self, index: usize) {
        let op = self.pending.remove(index);
        for (dir, name, ino) in op.sets {
            // An older operation on the same name must not come back over this one.
            for older in &mut self.pending[..index] {
                older.sets.retain(|set| set.0 != dir || set.1 != name);
            }
            self.set_durable(dir, name, ino);
        }
    }

    fn set_durable(&mut self, dir: Ino, name: String, ino: Option<Ino>) {
        // The directory itself may be gone for good.
        let Some(Body::Dir(body)) = self.inodes.get_mut(&dir).map(|inode| &mut inode.body) else {
            return;
        };
        match ino {
            Some(ino) => drop(body.durable.insert(name, ino)),
            None => drop(body.durable.remove(&name)),
        }
    }

    pub(super) fn sync_dir(&mut self, dir: Ino) {
        let mut index = 0;
        while index < self.pending.len() {
            if self.pending[index].sets.iter().any(|set| set.0 == dir) {
                self.commit_name(index);
            } else {
                index += 1;
            }
        }
        self.pending.retain(|op| !op.sets.is_empty());
    }

    pub(super) fn sync_file(&mut self, ino: Ino) {
        let Body::File(body) = &mut self.get_mut(ino).body else {
            return;
        };
        for op in body.pending.extract_if(.., |op| !op.forgotten) {
            apply(&mut body.durable, &op.change, Keep::Keep, op.seq);
        }
    }

    /// What a failed sync does: later ones succeed without writing these bytes.
    pub(super) fn fail_sync(&mut self, ino: Ino) {
        if let Body::File(body) = &mut self.get_mut(ino).body {
            body.pending.iter_mut().for_each(|op| op.forgotten = true);
        }
    }

    /// Makes one file's content durable whatever happened to it: a test planted it.
    pub(super) fn make_durable(&mut self, ino: Ino) {
        if let Body::File(body) = &mut self.get_mut(ino).body {
            body.durable = body.now.clone();
            body.pending.clear();
        }
    }

    /// Inodes that a power cut could bring back.
    pub(super) fn durably_named(&self) -> BTreeSet<Ino> {
        let durable = self.inodes.values().filter_map(|inode| match &inode.body {
            Body::Dir(body) => Some(body.durable.values().copied()),
            _ => None,
        });
        let pending = self
            .pending
            .iter()
            .flat_map(|op| &op.sets)
            .flat_map(|(dir, _, ino)| [Some(*dir), *ino]);
        durable.flatten().chain(pending.flatten()).collect()
    }

    /// What is not durable, the oldest first, as [`Disk::power_cut`] asks about it.
    pub(super) fn pending(&self) -> Vec<Pending> {
        let mut pending = Vec::new();
        for inode in self.inodes.values() {
            if let Body::File(body) = &inode.body {
                let op = |op: &DataOp| {
                    let name = inode.name.clone();
                    (
                        op.seq,
                        Pending {
                            name,
                            op: data_op(&op.change),
                        },
                    )
                };
                pending.extend(body.pending.iter().map(op));
            }
        }
        let name = |op: &NameOp| Some((op.seq, name_op(&op.sets)?));
        pending.extend(self.pending.iter().filter_map(name));
        pending.sort_by_key(|(seq, _)| *seq);
        pending.into_iter().map(|(_, pending)| pending).collect()
    }

    /// Another disk with the same on it. Nobody has a handle on that one.
    pub(super) fn copy(&self) -> Self {
        let mut copy = self.clone();
        for inode in copy.inodes.values_mut() {
            inode.pin = Arc::default();
        }
        copy.touched.clear();
        copy
    }

    /// Cuts the power: `decide` is asked about each pending change, the oldest first. Afterwards all is durable. Only
    /// for a world whose processes are all dead.
    pub(super) fn power_cut(&mut self, decide: &mut dyn FnMut(&Pending) -> Keep) {
        enum Lost {
            Data(Ino, DataOp),
            Name(NameOp),
        }
        let mut lost = Vec::new();
        for (&ino, inode) in &mut self.inodes {
            if let Body::File(body) = &mut inode.body {
                lost.extend(
                    body.pending
                        .drain(..)
                        .map(|op| (op.seq, Lost::Data(ino, op))),
                );
            }
        }
        lost.extend(self.pending.drain(..).map(|op| (op.seq, Lost::Name(op))));
        lost.sort_by_key(|(seq, _)| *seq);

        for (seq, op) in lost {
            match op {
                Lost::Data(ino, op) => {
                    let pending = Pending {
                        name: self.get(ino).name.clone(),
                        op: data_op(&op.change),
                    };
                    let keep = decide(&pending);
                    if let Body::File(body) = &mut self.get_mut(ino).body {
                        apply(&mut body.durable, &op.change, keep, seq);
                    }
                }
                Lost::Name(op) => {
                    let Some(pending) = name_op(&op.sets) else {
                        continue;
                    };
                    if decide(&pending) != Keep::Lose {
                        op.sets
                            .into_iter()
                            .for_each(|(dir, name, ino)| self.set_durable(dir, name, ino));
                    }
                }
            }
        }
        self.restart();
    }

    /// The volatile state becomes the durable one.
    fn restart(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.links = 0;
            match &mut inode.body {
                Body::File(body) => body.now = body.durable.clone(),
                Body::Dir(body) => body.now = body.durable.clone(),
                Body::Symlink(_) | Body::Other => {}
            }
        }
        self.get_mut(ROOT).links = 1;
        let mut reached = vec![ROOT];
        while let Some(ino) = reached.pop() {
            let Body::Dir(body) = &self.get(ino).body else {
                continue;
            };
            for (name, child) in body.now.clone() {
                let inode = self.get_mut(child);
                inode.links += 1;
                inode.name = name;
                // A directory with two names (a rename half survived in two steps) is walked once.
                if inode.links == 1 {
                    reached.push(child);
                }
            }
        }
        self.inodes.retain(|_, inode| inode.links > 0);
        self.touched.clear();
    }
}

fn data_op(change: &Change) -> PendingOp {
    match change {
        Change::Write { offset, bytes } => PendingOp::Write {
            offset: *offset,
            len: bytes.len(),
        },
        Change::SetLen(len) => PendingOp::SetLen(*len),
    }
}

fn name_op(sets: &[NameSet]) -> Option<Pending> {
    let (name, op) = match sets {
        [] => return None,
        [(_, name, Some(_))] => (name, PendingOp::Create),
        [(_, name, None)] => (name, PendingOp::Remove),
        [(_, name, _), (_, to, _), ..] => (name, PendingOp::Rename { to: to.clone() }),
    };
    Some(Pending {
        name: name.clone(),
        op,
    })
}

fn apply(content: &mut Content, change: &Change, keep: Keep, seed: u64) {
    let (offset, bytes) = match change {
        _ if keep == Keep::Lose => return,
        Change::SetLen(len) => return content.set_len(*len),
        Change::Write { offset, bytes } => (*offset, bytes),
    };
    match keep {
        Keep::Torn(count) => content.write(offset, &bytes[..count.min(bytes.len())]),
        Keep::Zeros => content.write(offset, &vec![0; bytes.len()]),
        Keep::Garbage => {
            let mut random = Random::new(seed);
            content.write(
                offset,
                &bytes
                    .iter()
                    .map(|_| random.next() as u8)
                    .collect::<Vec<_>>(),
            );
        }
        Keep::Keep | Keep::Lose => content.write(offset, bytes),
    }
}
