//! Whether a history is one that the promises allow.

use std::collections::HashMap;
use std::fmt;

use super::history::{End, History, Hold};
use crate::payload::Origin;

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something failed, or read as corrupt.
    Failed,
    /// A read of what nobody was told to have committed.
    Uncommitted,
    /// A read that ended before its commit began.
    Early,
    /// A read of something older than a commit that had ended before it began.
    Stale,
    /// A reader that has read something older than before.
    Backwards,
    /// A generation that was given twice, or to nobody, or to somebody else.
    Generation,
    /// An epoch that was given twice, or is lower than an earlier one.
    Epoch,
    /// A commit that began after a later epoch's holder had the lock.
    Fence,
    /// Two natives that held the lock at once, and none had taken over.
    Overlap,
    /// A lease that was taken over before it can have expired.
    Hasty,
    /// A lease that was lost to nobody.
    Lost,
}

/// One of them, and where.
#[derive(Debug, Clone)]
pub(super) struct Anomaly {
    pub(super) kind: Kind,
    text: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

/// All that is wrong with `history`.
pub(super) fn check(history: &History) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let mut say = |kind: Kind, text: String| found.push(Anomaly { kind, text });
    for failure in &history.failures {
        say(Kind::Failed, failure.clone());
    }
    check_reads(history, &mut say);
    check_holds(history, &mut say);
    found
}

/// How often a lease was taken over, as far as those that did it say.
pub(super) fn takeovers(history: &History) -> u64 {
    let overtook = history
        .holds
        .iter()
        .filter(|hold| hold.overtook == Some(true));
    overtook.count() as u64
}

/// The commits, each with its generation.
pub(super) fn commits(history: &History) -> Vec<(u64, &Hold)> {
    let commits = history.holds.iter().filter_map(|hold| match hold.end {
        End::Committed { generation } => Some((generation, hold)),
        End::Lost => None,
    });
    let mut commits: Vec<_> = commits.collect();
    commits.sort_by_key(|(generation, hold)| (*generation, hold.publishing));
    commits
}

fn check_reads(history: &History, say: &mut impl FnMut(Kind, String)) {
    let commits = commits(history);
    for (index, (generation, hold)) in commits.iter().enumerate() {
        // A history begins with an empty cache.
        if *generation != index as u64 + 1 {
            let text = format!("after {index} commits, generation {generation}: {hold:?}");
            say(Kind::Generation, text);
            break;
        }
    }
    let by_origin: HashMap<Origin, (u64, &Hold)> = commits
        .iter()
        .map(|(generation, hold)| (hold.origin, (*generation, *hold)))
        .collect();
    // By when they ended: the highest generation until then.
    let mut ended: Vec<(u64, u64)> = commits
        .iter()
        .map(|(generation, hold)| (hold.ended, *generation))
        .collect();
    ended.sort_unstable();
    let mut highest = 0;
    for (_, generation) in &mut ended {
        highest = highest.max(*generation);
        *generation = highest;
    }
    let mut reads: Vec<_> = history.reads.iter().collect();
    reads.sort_by_key(|read| (read.reader, read.began));
    let mut before: Option<(u64, u64)> = None;
    for read in reads {
        let Some((generation, commit)) = by_origin.get(&read.origin) else {
            say(Kind::Uncommitted, format!("{read:?}"));
            continue;
        };
        let generation = *generation;
        if read.generation.is_some_and(|said| said != generation) {
            say(Kind::Generation, format!("{read:?} is of {generation}"));
        }
        if read.ended < commit.publishing {
            say(Kind::Early, format!("{read:?} of {commit:?}"));
        }
        let until = ended.partition_point(|(ended, _)| *ended < read.began);
        let newest = until.checked_sub(1).map_or(0, |last| ended[last].1);
        if generation < newest {
            let text = format!("{read:?} is of {generation} and {newest} had been committed");
            say(Kind::Stale, text);
        }
        if let Some((reader, last)) = before
            && reader == read.reader
            && generation < last
        {
            let text = format!("{read:?} is of {generation}, and this reader had read {last}");
            say(Kind::Backwards, text);
        }
        before = Some((read.reader, generation));
    }
}

fn check_holds(history: &History, say: &mut impl FnMut(Kind, String)) {
    let mut holds: Vec<(u64, &Hold)> = history
        .holds
        .iter()
        .filter_map(|hold| Some((hold.epoch?, hold)))
        .collect();
    holds.sort_by_key(|(epoch, hold)| (*epoch, hold.acquired));
    let nobody_unknown = holds.len() == history.holds.len();
    // Who of these epochs, or of later ones, had the lock first.
    let mut first = vec![u64::MAX; holds.len() + 1];
    for (index, (_, hold)) in holds.iter().enumerate().rev() {
        first[index] = first[index + 1].min(hold.acquired);
    }
    // In the order of epochs: who asked last, what was committed last, and since when no lease can have begun.
    let (mut asked, mut committed, mut free) = (0, 0, 0);
    for (index, (epoch, hold)) in holds.iter().enumerate() {
        let later = &holds[index + 1..];
        if later.first().is_some_and(|(next, _)| next == epoch) {
            say(Kind::Epoch, format!("{epoch} is given twice: {hold:?}"));
        }
        // Somebody with a lower epoch asked only after this one had the lock.
        if hold.acquired < asked {
            say(
                Kind::Epoch,
                format!("{epoch} came before a lower one: {hold:?}"),
            );
        }
        asked = asked.max(hold.asked);
        // No hold of this epoch can have begun earlier.
        let began = hold.asked.max(free);
        match hold.end {
            End::Committed { generation } => {
                if generation < committed {
                    let text = format!("{generation} after {committed}: {hold:?}");
                    say(Kind::Generation, text);
                }
                committed = committed.max(generation);
                free = free.max(hold.publishing);
            }
            End::Lost if nobody_unknown && later.is_empty() => {
                say(Kind::Lost, format!("{hold:?}"));
            }
            End::Lost => {}
        }
        let first = first[index + 1];
        if matches!(hold.end, End::Committed { .. }) && first < hold.publishing {
            say(Kind::Fence, format!("{hold:?} with a holder since {first}"));
        }
        if hold.native && first < hold.publishing {
            let expires = began + history.lease;
            overlap(hold, expires, later, nobody_unknown, say);
        }
    }
}

/// Two natives hold the lock at once only if the lease of the first one had expired, which it cannot before `expires`.
fn overlap(
    hold: &Hold,
    expires: u64,
    later: &[(u64, &Hold)],
    nobody_unknown: bool,
    say: &mut impl FnMut(Kind, String),
) {
    let overlaps = |next: &Hold| next.native && next.acquired < hold.publishing;
    let Some(at) = later.iter().position(|(_, next)| overlaps(next)) else {
        return;
    };
    let (_, native) = later[at];
    // Whoever came between them may be the one that has taken over.
    let mut between = later[..=at].iter().map(|(_, next)| *next);
    match between.find(|next| next.overtook != Some(false)) {
        None if nobody_unknown => say(Kind::Overlap, format!("{hold:?} and {native:?}")),
        None => {}
        Some(taker) if taker.acquired < expires => {
            let text = format!("{hold:?} cannot expire before {expires}, and {taker:?}");
            say(Kind::Hasty, text);
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Read;
    use super::*;

    /// The hold of epoch and generation `n`, from `10 n` to `10 n + 9`.
    fn hold(n: u64) -> Hold {
        Hold {
            owner: n % 3,
            native: true,
            asked: 10 * n,
            acquired: 10 * n + 2,
            publishing: 10 * n + 6,
            ended: 10 * n + 8,
            epoch: Some(n),
            overtook: Some(false),
            origin: Origin {
                writer: n % 3,
                number: n,
            },
            end: End::Committed { generation: n },
        }
    }

    fn read(reader: u64, began: u64, ended: u64, n: u64) -> Read {
        Read {
            reader,
            began,
            ended,
            origin: hold(n).origin,
            generation: Some(n),
        }
    }

    fn history() -> History {
        History {
            lease: 5,
            holds: (1..=5).map(hold).collect(),
            reads: vec![
                read(7, 19, 21, 1),
                read(7, 24, 27, 1),
                read(7, 25, 27, 2),
                read(8, 29, 49, 3),
                read(8, 49, 50, 4),
            ],
            failures: vec![],
        }
    }

    #[track_caller]
    fn finds(change: impl FnOnce(&mut History), expected: &[Kind]) {
        let mut history = history();
        change(&mut history);
        let found = check(&history);
        let kinds: Vec<Kind> = found.iter().map(|anomaly| anomaly.kind).collect();
        assert_eq!(kinds, expected, "{found:?}");
    }

    #[test]
    fn what_is_right_is_right() {
        finds(|_| {}, &[]);
        // A read and a commit at the same time: either is right.
        finds(|history| history.reads.push(read(9, 46, 47, 3)), &[]);
        finds(|history| history.reads.push(read(9, 46, 47, 4)), &[]);
        // Who sees only bytes.
        finds(|history| history.reads[0].generation = None, &[]);
    }

    #[test]
    fn wrong_reads_are_found() {
        finds(
            |history| history.reads.push(read(9, 30, 35, 4)),
            &[Kind::Early],
        );
        finds(
            |history| history.reads.push(read(9, 39, 40, 2)),
            &[Kind::Stale],
        );
        finds(
            |history| {
                history.reads.push(read(9, 46, 47, 4));
                history.reads.push(read(9, 47, 48, 3));
            },
            &[Kind::Backwards],
        );
        finds(
            |history| history.reads.push(read(9, 39, 40, 3).with_generation(2)),
            &[Kind::Generation],
        );
        finds(
            |history| history.reads.push(read(9, 58, 60, 6)),
            &[Kind::Uncommitted],
        );
        finds(
            |history| history.failures.push("corrupt".to_owned()),
            &[Kind::Failed],
        );
    }

    impl Read {
        fn with_generation(mut self, generation: u64) -> Self {
            self.generation = Some(generation);
            self
        }
    }

    #[test]
    fn wrong_generations_are_found() {
        finds(
            |history| history.holds[4].end = End::Committed { generation: 4 },
            &[Kind::Generation],
        );
        finds(
            |history| history.holds[4].end = End::Committed { generation: 6 },
            &[Kind::Generation],
        );
    }

    #[test]
    fn wrong_epochs_are_found() {
        finds(|history| history.holds[4].epoch = Some(4), &[Kind::Epoch]);
        finds(
            |history| {
                history.holds[3].epoch = Some(5);
                history.holds[4].epoch = Some(4);
            },
            &[Kind::Fence, Kind::Overlap, Kind::Epoch, Kind::Generation],
        );
    }

    #[test]
    fn a_commit_after_a_takeover_is_found() {
        finds(
            |history| {
                history.reads.pop();
                history.holds[3].publishing = 53;
                history.holds[3].ended = 54;
                history.holds[4].overtook = Some(true);
            },
            &[Kind::Fence],
        );
    }

    #[test]
    fn natives_that_hold_at_once_are_found_unless_a_lease_had_expired() {
        let lost = |history: &mut History| {
            history.holds.insert(4, hold(5));
            history.holds[5] = Hold {
                epoch: Some(6),
                ..hold(5)
            };
            // Epoch 5 is lost, from 50 until after 6 came.
            history.holds[4].end = End::Lost;
            history.holds[4].origin.number = 100;
            history.holds[4].publishing = 80;
            history.holds[5].asked = 51;
            history.holds[5].acquired = 56;
        };
        finds(lost, &[Kind::Overlap]);
        finds(
            |history| {
                lost(history);
                history.holds[5].overtook = Some(true);
            },
            &[],
        );
        finds(
            |history| {
                lost(history);
                history.holds[5].overtook = Some(true);
                history.holds[5].acquired = 54;
            },
            &[Kind::Hasty],
        );
        finds(
            |history| {
                lost(history);
                history.holds[4].native = false;
            },
            &[],
        );
    }

    #[test]
    fn a_lease_is_lost_to_somebody() {
        finds(|history| history.holds[4].end = End::Lost, &[Kind::Lost]);
    }
}
