//! When an entry is good enough: fresh, stale but usable, or not to be used any more.
//!
//! The words and the arithmetic are those of RFC 5861 ("HTTP Cache-Control Extensions for Stale Content"): an entry is
//! fresh for some time, and the windows in which a stale one may still be served begin when that time ends.
//!
//! ```text
//! checked        + fresh_for            + fresh_for + stale_for
//!    |--- fresh ------|--- stale: one refreshes, ----|--- stale: whoever wants it waits ---->
//!                     |    the others take it        |
//!                     |--- served if refreshing fails, for error_for ---|
//! ```

use std::time::{Duration, SystemTime};

/// When an entry is good enough to be returned as it is, and what may be done with one that is not.
///
/// ```
/// use cachelock::Policy;
/// use std::time::Duration;
///
/// const HOUR: Duration = Duration::from_secs(3600);
/// let policy = Policy::fresh_for(HOUR)
///     // For another day one caller refreshes while the others go on with what is there.
///     .stale_for(24 * HOUR)
///     // For a week the old entry is better than none, should the source be down.
///     .error_for(7 * 24 * HOUR);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    fresh_for: Option<Duration>,
    stale_for: Duration,
    error_for: Duration,
    early: Option<f64>,
}

/// What a [`Policy`] says of one entry at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// Fresh, and this caller was drawn to refresh it before it gets stale.
    Early,
    Stale {
        /// Whether it may be served while somebody else refreshes it.
        while_revalidating: bool,
        /// Whether it may be served when refreshing it fails.
        if_error: bool,
    },
}

impl Policy {
    /// Whatever is there is fresh, however old.
    #[must_use]
    pub fn any_age() -> Self {
        Self::default()
    }

    /// Fresh for this long after it was last known to be right. An entry from the future is old: a clock was set back.
    #[must_use]
    pub fn fresh_for(duration: Duration) -> Self {
        Policy {
            fresh_for: Some(duration),
            ..Self::default()
        }
    }

    /// Stale-while-revalidate: for this long after it ceased to be fresh, one caller refreshes the entry and all others are
    /// given the old payload at once, without waiting. 0 by default: everybody waits for the refresh.
    #[must_use]
    pub fn stale_for(mut self, duration: Duration) -> Self {
        self.stale_for = duration;
        self
    }

    /// Stale-if-error: for this long after it ceased to be fresh, the old payload is served when refreshing it fails: the
    /// producer fails, the lock cannot be had in time or at all, or the payload cannot be published. 0 by default: the caller
    /// gets the error.
    #[must_use]
    pub fn error_for(mut self, duration: Duration) -> Self {
        self.error_for = duration;
        self
    }

    /// Early refresh: a caller may be drawn by chance to refresh the entry before it gets stale, the likelier the closer that
    /// is and the longer the payload took to produce, so that a busy entry never gets stale for all at once. `beta` is 1 for
    /// the optimum, more for earlier; off by default, and for `beta` 0 or less. Give an [`error_for`](Self::error_for) as well:
    /// when the producer of one who was drawn has failed, the entry may not be fresh any more.
    ///
    /// This is XFetch, from Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", PVLDB
    /// 8(8), 2015.
    #[must_use]
    pub fn early(mut self, beta: f64) -> Self {
        self.early = (beta > 0.0 && beta.is_finite()).then_some(beta);
        self
    }

    /// What to do with an entry that was last known to be right at `checked`, and took `took` to produce. `chance` draws from
    /// (0, 1].
    pub(crate) fn judge(
        &self,
        checked: SystemTime,
        took: Option<Duration>,
        now: SystemTime,
        chance: impl FnOnce() -> f64,
    ) -> Freshness {
        let Some(fresh_for) = self.fresh_for else {
            return Freshness::Fresh;
        };
        let Ok(age) = now.duration_since(checked) else {
            // Nobody knows how old it is, so it is in no window.
            return Freshness::Stale {
                while_revalidating: false,
                if_error: false,
            };
        };
        let Some(over) = age.checked_sub(fresh_for) else {
            let left = (fresh_for - age).as_secs_f64();
            let early = match (self.early, took) {
                (Some(beta), Some(took)) => took.as_secs_f64() * beta * -ln(chance()) >= left,
                _ => false,
            };
            return if early {
                Freshness::Early
            } else {
                Freshness::Fresh
            };
        };
        Freshness::Stale {
            while_revalidating: over < self.stale_for,
            if_error: over < self.error_for,
        }
    }
}

/// The natural logarithm of a number in (0, 1], good to six digits: to draw lots by, that is plenty. The one of `std` brings
/// a table of 4 KB into each guest.
fn ln(x: f64) -> f64 {
    // x is m * 2^e, with m in [1, 2).
    let bits = x.to_bits();
    let e = (bits >> 52) as i64 - 1023;
    let m = f64::from_bits(bits & (u64::MAX >> 12) | 1_f64.to_bits());
    // ln m = 2 artanh z, whose series converges fast: z is below 1/3.
    let z = (m - 1.0) / (m + 1.0);
    let (mut artanh, mut power) = (0.0, z);
    for n in 0..6 {
        artanh += power / f64::from(2 * n + 1);
        power *= z * z;
    }
    e as f64 * std::f64::consts::LN_2 + 2.0 * artanh
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_good_to_six_digits() {
        for n in 1..=1000 {
            let x = f64::from(n) / 1000.0;
            assert!((ln(x) - x.ln()).abs() < 1e-6, "of {x}: {}", ln(x));
        }
        assert!((ln(0.5_f64.powi(53)) - 0.5_f64.powi(53).ln()).abs() < 1e-6);
        assert_eq!(ln(1.0), 0.0, "nobody is drawn");
    }

    const CHECKED: Duration = Duration::from_secs(1_000_000);

    fn judge(policy: &Policy, age: i64, chance: f64) -> Freshness {
        let at = |offset: i64| {
            SystemTime::UNIX_EPOCH
                + Duration::from_secs(CHECKED.as_secs().strict_add_signed(offset))
        };
        policy.judge(at(0), Some(Duration::from_secs(2)), at(age), || chance)
    }

    fn stale(while_revalidating: bool, if_error: bool) -> Freshness {
        Freshness::Stale {
            while_revalidating,
            if_error,
        }
    }

    #[test]
    fn the_windows_begin_when_freshness_ends() {
        let secs = Duration::from_secs;
        let policy = Policy::fresh_for(secs(10))
            .stale_for(secs(5))
            .error_for(secs(20));
        for (age, expected) in [
            (0, Freshness::Fresh),
            (9, Freshness::Fresh),
            (10, stale(true, true)),
            (14, stale(true, true)),
            (15, stale(false, true)),
            (29, stale(false, true)),
            (30, stale(false, false)),
        ] {
            assert_eq!(judge(&policy, age, 1.0), expected, "at {age} s");
        }
    }

    #[test]
    fn nothing_from_the_future_is_fresh_or_in_a_window() {
        let year = Duration::from_secs(365 * 86_400);
        let policy = Policy::fresh_for(year).stale_for(year).error_for(year);
        assert_eq!(judge(&policy, -1, 1.0), stale(false, false));
        assert_eq!(
            judge(&Policy::any_age(), -1, 1.0),
            Freshness::Fresh,
            "who does not ask for an age does not get one"
        );
    }

    #[test]
    fn early_refreshes_get_likelier_towards_the_end() {
        let policy = Policy::fresh_for(Duration::from_secs(10)).early(1.0);
        // 2 s x -ln(chance): 1.39 s at one half, 9.2 s at one hundredth.
        assert_eq!(judge(&policy, 0, 0.01), Freshness::Fresh);
        assert_eq!(judge(&policy, 1, 0.01), Freshness::Early);
        assert_eq!(judge(&policy, 8, 0.5), Freshness::Fresh);
        assert_eq!(judge(&policy, 9, 0.5), Freshness::Early);
        assert_eq!(judge(&policy, 9, 1.0), Freshness::Fresh);
        for off in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let policy = Policy::fresh_for(Duration::from_secs(10)).early(off);
            assert_eq!(judge(&policy, 9, 1e-9), Freshness::Fresh, "beta {off}");
        }
    }
}
