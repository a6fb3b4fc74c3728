//! What may become of the changes that a power cut meets.

use cachelock::platform::memory::{Keep, Pending, PendingOp};

use crate::random::Random;

pub(super) fn describe(pending: &[Pending], way: &[Keep]) -> String {
    let line = |(pending, keep): (&Pending, &Keep)| {
        format!("  {keep:?}: {:?} {}\n", pending.op, pending.name)
    };
    pending.iter().zip(way).map(line).collect()
}

/// What may become of one change.
pub(super) fn ways_of(pending: &Pending) -> Vec<Keep> {
    match pending.op {
        PendingOp::Write { len, .. } => vec![
            Keep::Keep,
            Keep::Lose,
            Keep::Zeros,
            Keep::Garbage,
            Keep::Torn(len / 2),
        ],
        _ => vec![Keep::Keep, Keep::Lose],
    }
}

/// All combinations of what may become of each change, or so many drawn ones.
pub(super) struct Ways {
    of: Vec<Vec<Keep>>,
    pub(super) sampled: bool,
    at: usize,
    count: usize,
    random: Random,
}

impl Ways {
    pub(super) fn new(pending: &[Pending], bound: usize, random: Random) -> Self {
        let of: Vec<_> = pending.iter().map(ways_of).collect();
        let all = of
            .iter()
            .try_fold(1_usize, |all, ways| all.checked_mul(ways.len()));
        let all = all.filter(|all| *all <= bound);
        Ways {
            of,
            sampled: all.is_none(),
            at: 0,
            count: all.unwrap_or(bound),
            random,
        }
    }
}

impl Iterator for Ways {
    type Item = Vec<Keep>;

    fn next(&mut self) -> Option<Vec<Keep>> {
        let mut at = self.at;
        if at == self.count {
            return None;
        }
        self.at += 1;
        let changes = self.of.len();
        let random = &mut self.random;
        let mut counted = |ways: &Vec<Keep>| {
            let way = ways[at % ways.len()];
            at /= ways.len();
            way
        };
        let at = self.at - 1;
        Some(match self.sampled {
            false => self.of.iter().map(&mut counted).collect(),
            // First the extremes: all kept or all lost but one.
            true if at < 2 * changes => {
                let (most, one) = match at % 2 {
                    0 => (Keep::Keep, Keep::Lose),
                    _ => (Keep::Lose, Keep::Keep),
                };
                let is = |change| if change == at / 2 { one } else { most };
                (0..changes).map(is).collect()
            }
            true => {
                // Some keep most, some lose most.
                let odds = 1 + random.pick(7);
                let mut draw = |ways: &Vec<Keep>| match random.pick(8) < odds {
                    true => Keep::Keep,
                    false => ways[1 + random.pick(ways.len() - 1)],
                };
                self.of.iter().map(&mut draw).collect()
            }
        })
    }
}
