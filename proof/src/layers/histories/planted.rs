//! Histories made wrong, each in one way that the checker must find.

use super::check::{Kind, commits};
use super::history::{End, History};

/// How a history is made wrong.
pub(super) type Spoil = fn(&mut History) -> Option<()>;

/// The ways, what each must be found as, and what it is called.
pub(super) const SPOILT: [(Kind, &str, Spoil); 8] = [
    (
        Kind::Stale,
        "a history with a read of an old payload",
        stale,
    ),
    (Kind::Early, "a history with a read from the future", early),
    (
        Kind::Backwards,
        "a history whose reader goes back",
        backwards,
    ),
    (
        Kind::Generation,
        "a history with a generation given twice",
        twice,
    ),
    (
        Kind::Uncommitted,
        "a history with a read of a lost publish",
        lost,
    ),
    (Kind::Epoch, "a history with two epochs exchanged", epochs),
    (
        Kind::Fence,
        "a history with a commit after a takeover",
        fence,
    ),
    (
        Kind::Overlap,
        "a history with two native holders at once",
        overlap,
    ),
];

fn stale(history: &mut History) -> Option<()> {
    let origins: Vec<_> = commits(history)
        .iter()
        .map(|(_, hold)| (hold.origin, hold.ended))
        .collect();
    for read in history.reads.iter_mut().rev() {
        let at = origins
            .iter()
            .position(|(origin, _)| *origin == read.origin)?;
        if at > 0 && origins[at].1 < read.began {
            read.origin = origins[at - 1].0;
            read.generation = Some(at as u64);
            return Some(());
        }
    }
    None
}

fn early(history: &mut History) -> Option<()> {
    let (generation, last) = *commits(history).last()?;
    let (origin, publishing) = (last.origin, last.publishing);
    let read = history
        .reads
        .iter_mut()
        .find(|read| read.ended < publishing)?;
    read.origin = origin;
    read.generation = Some(generation);
    Some(())
}

fn backwards(history: &mut History) -> Option<()> {
    let first = history.reads.first()?.clone();
    let is_newer = |read: &&mut super::history::Read| {
        read.reader == first.reader && read.generation > first.generation
    };
    let other = history.reads.iter_mut().rfind(is_newer)?;
    let (origin, generation) = (other.origin, other.generation);
    other.origin = first.origin;
    other.generation = first.generation;
    history.reads[0].origin = origin;
    history.reads[0].generation = generation;
    Some(())
}

fn twice(history: &mut History) -> Option<()> {
    let (generation, hold) = *commits(history).get(2)?;
    let origin = hold.origin;
    let hold = history
        .holds
        .iter_mut()
        .find(|hold| hold.origin == origin)?;
    hold.end = End::Committed {
        generation: generation - 1,
    };
    Some(())
}

fn lost(history: &mut History) -> Option<()> {
    let origin = history.reads.get(history.reads.len() / 2)?.origin;
    let hold = history
        .holds
        .iter_mut()
        .find(|hold| hold.origin == origin)?;
    hold.end = End::Lost;
    Some(())
}

fn epochs(history: &mut History) -> Option<()> {
    let last = history.holds.len().checked_sub(1)?;
    let of = [0, last].map(|at| history.holds[at].epoch);
    history.holds[0].epoch = of[1];
    history.holds[last].epoch = of[0];
    (of[0] != of[1]).then_some(())
}

/// Two native holds of which one came right after the other, by committing and without taking over: their places.
fn neighbours(history: &History) -> Option<(usize, usize)> {
    let place = |epoch: u64| {
        let is_it = |hold: &super::history::Hold| {
            hold.epoch == Some(epoch)
                && hold.native
                && hold.overtook == Some(false)
                && matches!(hold.end, End::Committed { .. })
        };
        history.holds.iter().position(is_it)
    };
    let epochs = history.holds.iter().filter_map(|hold| hold.epoch);
    epochs
        .into_iter()
        .find_map(|epoch| Some((place(epoch)?, place(epoch + 1)?)))
}

fn fence(history: &mut History) -> Option<()> {
    let (before, after) = neighbours(history)?;
    history.holds[before].publishing = history.holds[after].acquired + 1;
    history.holds[before].ended = history.holds[after].acquired + 2;
    Some(())
}

fn overlap(history: &mut History) -> Option<()> {
    let (before, after) = neighbours(history)?;
    history.holds[after].acquired = history.holds[before].publishing - 1;
    Some(())
}
