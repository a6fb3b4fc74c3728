//! Samples of several ways, taken in turns, and what their ratios are.

use std::time::{Duration, Instant};

/// Takes `rounds` samples of each of the ways, alternating; each round begins with another one, so that no way always
/// follows the same. A tenth more is taken first and thrown away. Returns the samples of each way, by round.
pub(crate) fn alternate<const N: usize>(
    rounds: usize,
    ways: [&mut dyn FnMut() -> Duration; N],
) -> [Vec<Duration>; N] {
    let warm_up = rounds.div_ceil(10);
    let mut samples = [(); N].map(|()| Vec::with_capacity(rounds));
    for round in 0..warm_up + rounds {
        for turn in 0..N {
            let index = (round + turn) % N;
            let time = ways[index]();
            if round >= warm_up {
                samples[index].push(time);
            }
        }
    }
    samples
}

pub(crate) fn timed(way: impl FnOnce()) -> Duration {
    let began = Instant::now();
    way();
    began.elapsed()
}

pub(crate) fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

/// The ratios of one run's rounds: their median, and the quarters that the middle half lies between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Ratio {
    /// Of each round's first sample to its second one.
    pub(crate) fn of(ours: &[Duration], theirs: &[Duration]) -> Self {
        let ratio = |(ours, theirs): (&Duration, &Duration)| {
            ours.as_secs_f64() / theirs.as_secs_f64().max(1e-9)
        };
        Self::middle(ours.iter().zip(theirs).map(ratio).collect())
    }

    /// What is no sample but a fact.
    pub(crate) fn exact(value: f64) -> Self {
        Self::middle(vec![value])
    }

    fn middle(mut ratios: Vec<f64>) -> Self {
        ratios.sort_by(f64::total_cmp);
        let at = |quarter: usize| ratios[(ratios.len() - 1) * quarter / 4];
        Ratio {
            median: at(2),
            low: at(1),
            high: at(3),
        }
    }
}

/// Sums by round: what one way would take that does all of these.
pub(crate) fn sums(parts: &[(f64, &[Duration])]) -> Vec<Duration> {
    let rounds = parts.iter().map(|(_, part)| part.len()).min().unwrap_or(0);
    (0..rounds)
        .map(|round| {
            parts
                .iter()
                .map(|(times, part)| part[round].mul_f64(*times))
                .sum()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn ways_take_turns_and_none_is_always_first() {
        let order = std::cell::RefCell::new(Vec::new());
        let mut first = || {
            order.borrow_mut().push('a');
            MS
        };
        let mut second = || {
            order.borrow_mut().push('b');
            MS * 2
        };
        let samples = alternate(3, [&mut first, &mut second]);
        assert_eq!(samples, [vec![MS; 3], vec![MS * 2; 3]]);
        assert_eq!(order.into_inner().iter().collect::<String>(), "abbaabba");
    }

    #[test]
    fn a_ratio_is_of_samples_of_one_round() {
        // The machine became ten times slower meanwhile, and the ratio stays.
        let ours = [MS * 2, MS * 20, MS * 200];
        let theirs = [MS, MS * 10, MS * 100];
        let ratio = Ratio::of(&ours, &theirs);
        assert_eq!((ratio.low, ratio.median, ratio.high), (2.0, 2.0, 2.0));
    }

    #[test]
    fn the_spread_is_that_of_the_middle_half() {
        let theirs = [MS; 5];
        let ours = [MS, MS * 2, MS * 3, MS * 4, MS * 100];
        let ratio = Ratio::of(&ours, &theirs);
        assert_eq!((ratio.low, ratio.median, ratio.high), (2.0, 3.0, 4.0));
    }

    #[test]
    fn sums_are_taken_round_by_round() {
        let sums = sums(&[(1.5, &[MS * 2, MS * 4]), (1.0, &[MS, MS])]);
        assert_eq!(sums, [MS * 4, MS * 7]);
    }
}
