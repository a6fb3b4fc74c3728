//! Times as numbers on disk and as words for people.

use std::time::{Duration, SystemTime};

/// Milliseconds since 1970 in UTC; times before that are 0.
pub(crate) fn to_unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, millis)
}

/// The inverse of [`to_unix_ms`]; what the system's type cannot hold becomes 1970.
pub(crate) fn from_unix_ms(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(ms))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1000);
    seconds.saturating_add(duration.subsec_millis().into())
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(duration.subsec_nanos().into())
}

/// `1.50 s`
///
/// By whole numbers: what formats a float is 40 KB large, and nothing else in a guest needs it.
pub(crate) fn seconds(duration: Duration) -> String {
    let hundredths = millis(duration).saturating_add(5) / 10;
    format!("{}.{:02} s", hundredths / 100, hundredths % 100)
}

/// `2026-11-23 09:14:07 UTC`
///
/// The calendar is the proleptic Gregorian one, by Howard Hinnant's `civil_from_days`.
pub(crate) fn utc(time: SystemTime) -> String {
    let seconds = to_unix_ms(time) / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_to_hundredths() {
        for (ms, text) in [
            (0, "0.00 s"),
            (4, "0.00 s"),
            (5, "0.01 s"),
            (1_500, "1.50 s"),
            (59_995, "60.00 s"),
        ] {
            assert_eq!(seconds(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn known_moments_are_named_right() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_795_425_247_000, "2026-11-23 09:14:07 UTC"),
            (4_107_542_399_000, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(from_unix_ms(ms)), text);
        }
        assert_eq!(
            to_unix_ms(from_unix_ms(u64::MAX)),
            to_unix_ms(from_unix_ms(u64::MAX)),
            "no panic"
        );
    }
}
