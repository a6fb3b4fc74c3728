//! What was recorded of a stress, and what must be true of it.
//!
//! Who holds is recorded by whoever holds: a time not before the lock was had, and one not after it was given back. Both may be
//! known only as a [`Span`], where a clock had to be translated. So an overlap that is found is one, and what is missed is an
//! overlap that lies in the moments between the lock itself and the record of it, or in a span. Should somebody publish in
//! such a moment, the generations tell.

use std::collections::{BTreeMap, BTreeSet};

/// A time in nanoseconds, as well as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) earliest: u64,
    pub(crate) latest: u64,
}

impl Span {
    fn is_surely_before(self, other: Span) -> bool {
        self.latest < other.earliest
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locks {
    /// With the kernel lock, and the lease.
    Gate,
    /// With the lease alone.
    Lease,
}

/// From an acquire to a publish, or to the notice that the lease is lost.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    pub(crate) writer: u32,
    pub(crate) locks: Locks,
    pub(crate) number: u64,
    pub(crate) asked: Span,
    pub(crate) acquired: Span,
    /// If it was published: the lock was held until then.
    pub(crate) closing: Span,
    pub(crate) ended: Span,
    /// The generation; `None` if the lease was lost.
    pub(crate) published: Option<u64>,
}

impl Hold {
    fn name(&self) -> String {
        format!("hold {} of writer {}", self.number, self.writer)
    }
}

/// A payload that a reader has seen, once or several times in a row.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    pub(crate) reader: u32,
    /// `None` for a reader that knows nothing of generations.
    pub(crate) generation: Option<u64>,
    pub(crate) writer: u32,
    pub(crate) number: u64,
    /// The end of the first read.
    pub(crate) ended: Span,
    /// The beginning of the last read.
    pub(crate) began: Span,
}

/// These writers stood still.
#[derive(Debug, Clone)]
pub(crate) struct Freeze {
    pub(crate) writers: Vec<u32>,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    /// Of everybody, in nanoseconds.
    pub(crate) lease: u64,
    pub(crate) holds: Vec<Hold>,
    /// Those of one reader in their order.
    pub(crate) sightings: Vec<Sighting>,
    pub(crate) freezes: Vec<Freeze>,
}

impl History {
    /// What should not have happened.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.each_publish_is_the_next_generation(&mut found);
        self.holds_overlap_only_after_an_expiry(&mut found);
        self.who_lost_was_overtaken(&mut found);
        self.readers_see_what_was_published_in_its_order(&mut found);
        found
    }

    pub(crate) fn published(&self) -> impl Iterator<Item = (u64, &Hold)> {
        let holds = self.holds.iter();
        holds.filter_map(|hold| Some((hold.published?, hold)))
    }

    fn each_publish_is_the_next_generation(&self, found: &mut Vec<String>) {
        let mut published: Vec<_> = self.published().collect();
        published.sort_by_key(|(generation, _)| *generation);
        for (expected, (generation, hold)) in (1..).zip(&published) {
            if *generation != expected {
                found.push(format!(
                    "{} was acknowledged as generation {generation}, and {expected} is nobody's",
                    hold.name()
                ));
                // All that follow would be off, too.
                break;
            }
        }
        for pair in published.windows(2) {
            let [(generation, before), (_, after)] = pair else {
                continue;
            };
            if after.acquired.is_surely_before(before.closing) {
                found.push(format!(
                    "{} got the lock before {} had published generation {generation}, and published the next one",
                    after.name(),
                    before.name()
                ));
            }
        }
        let mut numbers = BTreeSet::new();
        for hold in &self.holds {
            if !numbers.insert((hold.writer, hold.number)) {
                found.push(format!("{} is there twice", hold.name()));
            }
        }
    }

    /// The holds that surely overlap, each pair in the order in which they got the lock, as far as that is known.
    pub(crate) fn overlaps(&self) -> Vec<(&Hold, &Hold)> {
        let mut holds: Vec<_> = self.holds.iter().collect();
        holds.sort_by_key(|hold| (hold.acquired.earliest, hold.acquired.latest));
        let mut pairs = Vec::new();
        for (index, first) in holds.iter().enumerate() {
            let later = holds[index + 1..].iter();
            let overlapping = later
                .take_while(|hold| hold.acquired.earliest < first.closing.earliest)
                .filter(|hold| {
                    hold.acquired.is_surely_before(first.closing)
                        && first.acquired.is_surely_before(hold.closing)
                });
            pairs.extend(overlapping.map(|second| (*first, *second)));
        }
        pairs
    }

    fn holds_overlap_only_after_an_expiry(&self, found: &mut Vec<String>) {
        for (first, second) in self.overlaps() {
            self.judge_overlap(first, second, found);
        }
    }

    /// `first` still had the lock, as far as it knew, when `second` got it.
    fn judge_overlap(&self, first: &Hold, second: &Hold, found: &mut Vec<String>) {
        let who = format!("{} overlaps {}", second.name(), first.name());
        let order_is_known = first.acquired.is_surely_before(second.acquired);
        let lost = first.published.is_none() || (!order_is_known && second.published.is_none());
        if !lost {
            found.push(format!("{who}, and neither has lost the lease"));
            return;
        }
        // A claim is written before the lock is had, and beaten each third of a lease; a tenth is for slow machines.
        let frozen = self.frozen(first, second.acquired);
        let beaten = frozen.map_or(0, |from| from.saturating_sub(self.lease / 3));
        let alive = beaten.max(first.acquired.earliest);
        if second.acquired.latest + self.lease / 10 < alive + self.lease {
            found.push(format!("{who}, and the lease cannot have expired"));
        }
        if (first.locks, second.locks) == (Locks::Gate, Locks::Gate) && frozen.is_none() {
            found.push(format!("{who}: both have the kernel lock"));
        }
    }

    /// Since when the writer of `hold` had stood still at the time `at`, in that hold.
    fn frozen(&self, hold: &Hold, at: Span) -> Option<u64> {
        let freezes = self.freezes.iter().filter(|freeze| {
            freeze.writers.contains(&hold.writer)
                && freeze.to > hold.acquired.earliest
                && freeze.from < at.latest
        });
        freezes.map(|freeze| freeze.from).min()
    }

    fn who_lost_was_overtaken(&self, found: &mut Vec<String>) {
        for lost in self.holds.iter().filter(|hold| hold.published.is_none()) {
            let overtakes = |hold: &&Hold| {
                (hold.writer, hold.number) != (lost.writer, lost.number)
                    && hold.acquired.latest > lost.acquired.earliest
                    && hold.acquired.earliest < lost.ended.latest
            };
            if !self.holds.iter().any(|hold| overtakes(&hold)) {
                found.push(format!("{} lost the lease to nobody", lost.name()));
            }
        }
    }

    fn readers_see_what_was_published_in_its_order(&self, found: &mut Vec<String>) {
        let by_origin: BTreeMap<_, _> = self
            .published()
            .map(|(generation, hold)| ((hold.writer, hold.number), (generation, hold)))
            .collect();
        // When each generation was surely there at the latest, with all before it.
        let mut acknowledged: Vec<_> = self
            .published()
            .map(|(generation, hold)| (hold.ended.latest, generation))
            .collect();
        acknowledged.sort_unstable();
        let mut highest = 0;
        for (_, generation) in &mut acknowledged {
            highest = highest.max(*generation);
            *generation = highest;
        }
        let mut last = BTreeMap::new();
        for seen in &self.sightings {
            let Sighting {
                reader,
                writer,
                number,
                ..
            } = seen;
            let who = format!("reader {reader} saw payload {number} of writer {writer}");
            let Some((generation, hold)) = by_origin.get(&(*writer, *number)).copied() else {
                found.push(format!("{who}, which was never published"));
                continue;
            };
            if seen.generation.is_some_and(|said| said != generation) {
                found.push(format!(
                    "{who} as generation {:?}, and it is {generation}",
                    seen.generation
                ));
            }
            let before = last.insert(reader, generation).unwrap_or(0);
            if generation <= before {
                found.push(format!(
                    "{who}, generation {generation}, after generation {before}"
                ));
            }
            if seen.ended.is_surely_before(hold.acquired) {
                found.push(format!("{who} before it was written"));
            }
            let index = acknowledged.partition_point(|(when, _)| *when < seen.began.earliest);
            let newest = index
                .checked_sub(1)
                .map_or(0, |index| acknowledged[index].1);
            if generation < newest {
                found.push(format!(
                    "{who}, generation {generation}, after {newest} was acknowledged"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 1000;
    const NATIVES: [u32; 2] = [1, 2];

    fn at(time: u64) -> Span {
        Span {
            earliest: time,
            latest: time,
        }
    }

    fn hold(writer: u32, number: u64, [from, to]: [u64; 2], published: Option<u64>) -> Hold {
        let locks = match NATIVES.contains(&writer) {
            true => Locks::Gate,
            false => Locks::Lease,
        };
        Hold {
            writer,
            locks,
            number,
            asked: at(from - 5),
            acquired: at(from),
            closing: at(to),
            ended: at(to + 1),
            published,
        }
    }

    fn sighting(
        reader: u32,
        generation: Option<u64>,
        (writer, number): (u32, u64),
        [ended, began]: [u64; 2],
    ) -> Sighting {
        Sighting {
            reader,
            generation,
            writer,
            number,
            ended: at(ended),
            began: at(began),
        }
    }

    /// Two natives and a guest one after the other, seen by two readers.
    fn fine() -> History {
        History {
            lease: LEASE,
            holds: vec![
                hold(1, 1, [100, 110], Some(1)),
                hold(3, 1, [120, 130], Some(2)),
                hold(2, 1, [140, 150], Some(3)),
                hold(1, 2, [160, 170], Some(4)),
            ],
            sightings: vec![
                sighting(10, Some(1), (1, 1), [112, 128]),
                sighting(11, None, (1, 1), [109, 129]),
                sighting(10, Some(2), (3, 1), [131, 145]),
                sighting(10, Some(4), (1, 2), [171, 999]),
                sighting(11, None, (2, 1), [149, 166]),
                sighting(11, None, (1, 2), [169, 999]),
            ],
            freezes: Vec::new(),
        }
    }

    /// Writer `first` freezes in its hold, is overtaken by `second`, and finds that out.
    fn frozen(first: u32, second: u32) -> History {
        let mut history = fine();
        history.holds.extend([
            hold(first, 9, [1000, 4000], None),
            hold(second, 9, [2010, 2020], Some(5)),
            hold(3, 10, [2030, 2040], Some(6)),
        ]);
        history.sightings.clear();
        history.freezes.push(Freeze {
            writers: vec![first],
            from: 1005,
            to: 3990,
        });
        history
    }

    #[track_caller]
    fn assert_found(history: &History, expected: &[&str]) {
        let found = history.violations();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found:?} is not: {expected:?}");
        }
    }

    #[test]
    fn what_is_right_is_found_right() {
        assert_found(&fine(), &[]);
        assert_found(&frozen(2, 3), &[]);
        assert_found(&frozen(4, 3), &[]);
        assert_found(&frozen(1, 2), &[]);
    }

    #[test]
    fn a_generation_that_is_missing_or_given_twice_is_found() {
        let mut history = fine();
        history.sightings.clear();
        history.holds[2].published = Some(2);
        assert_found(
            &history,
            &["acknowledged as generation 2, and 3 is nobody's"],
        );
        history = fine();
        history.sightings.clear();
        history.holds.remove(1);
        assert_found(
            &history,
            &["acknowledged as generation 3, and 2 is nobody's"],
        );
        history = fine();
        history.holds[3].number = 1;
        history.sightings.clear();
        assert_found(&history, &["hold 1 of writer 1 is there twice"]);
    }

    #[test]
    fn generations_in_another_order_than_the_holds_are_found() {
        let mut history = fine();
        history.sightings.clear();
        history.holds[1].published = Some(3);
        history.holds[2].published = Some(2);
        let wrong = "got the lock before hold 1 of writer 2 had published generation 2";
        assert_found(&history, &[wrong]);
    }

    #[test]
    fn an_overlap_is_found_unless_it_lies_in_what_is_not_known() {
        let mut history = fine();
        history.holds[1].closing = at(145);
        let [order, overlap] = [
            "before hold 1 of writer 3 had published",
            "hold 1 of writer 2 overlaps hold 1 of writer 3, and neither has lost the lease",
        ];
        assert_found(&history, &[order, overlap]);
        history.holds[1].closing.earliest = 140;
        assert_found(&history, &[]);
        history.holds[1].closing.earliest = 145;
        history.holds[2].acquired.latest = 145;
        assert_found(&history, &[]);
    }

    #[test]
    fn an_overlap_of_one_who_lost_the_lease_too_early_is_found() {
        let mut history = frozen(4, 3);
        history.holds[5].acquired = at(1880);
        assert_found(&history, &["the lease cannot have expired"]);
        // It beats each third of its lease until it freezes, so that it cannot be taken for dead that early.
        history = frozen(4, 3);
        history.freezes[0].from = 1500;
        assert_found(&history, &["cannot have expired", "cannot have expired"]);
    }

    #[test]
    fn natives_that_overlap_are_found_unless_one_of_them_was_frozen() {
        let mut history = frozen(1, 2);
        history.freezes.clear();
        assert_found(&history, &["both have the kernel lock"]);
        history.freezes = frozen(3, 2).freezes;
        assert_found(&history, &["both have the kernel lock"]);
    }

    #[test]
    fn a_frozen_holder_that_publishes_all_the_same_is_found() {
        let mut history = frozen(4, 3);
        history.holds[4].published = Some(7);
        let neither = "neither has lost the lease";
        let order = "got the lock before hold 10 of writer 3 had published";
        assert_found(&history, &[order, neither, neither]);
    }

    #[test]
    fn a_lease_that_is_lost_to_nobody_is_found() {
        let mut history = fine();
        history.holds.push(hold(3, 2, [180, 190], None));
        assert_found(&history, &["hold 2 of writer 3 lost the lease to nobody"]);
    }

    #[test]
    fn readers_that_see_what_they_should_not_are_found() {
        let with = |reader, generation, origin, times| {
            let mut history = fine();
            history
                .sightings
                .push(sighting(reader, generation, origin, times));
            history
        };
        let never = with(12, None, (7, 1), [500, 500]);
        assert_found(
            &never,
            &["payload 1 of writer 7, which was never published"],
        );
        let lost = {
            let mut history = frozen(4, 3);
            let seen = sighting(12, None, (4, 9), [4100, 4100]);
            history.sightings.push(seen);
            history
        };
        assert_found(&lost, &["payload 9 of writer 4, which was never published"]);
        let another = with(12, Some(2), (1, 2), [500, 500]);
        assert_found(&another, &["as generation Some(2), and it is 4"]);
        let backwards = with(10, Some(3), (2, 1), [165, 165]);
        assert_found(&backwards, &["generation 3, after generation 4"]);
        let early = with(12, None, (1, 2), [159, 500]);
        assert_found(&early, &["before it was written"]);
        let stale = with(12, Some(3), (2, 1), [152, 172]);
        assert_found(&stale, &["generation 3, after 4 was acknowledged"]);
    }
}
