//! Waiting: timeouts, cancellation, and saying what is waited for. Every wait of the library goes through [`Waiter`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cachelock_platform as platform;
use cachelock_platform::Monotonic;

use crate::cancel::CancelToken;
use crate::context::Context;
use crate::error::{Error, Result, WaitingFor};
use crate::events::{Event, EventKind};
use crate::lock::Holder;

/// How long a caller is willing to wait for the lock, renames that somebody's open file delays included.
///
/// Parses from `0`, a number of seconds, a number with a unit (as [`parse_duration`] takes it), or `infinite`:
///
/// ```
/// use cachelock::Timeout;
/// use std::time::Duration;
///
/// assert_eq!("10".parse(), Ok(Timeout::After(Duration::from_secs(10))));
/// assert_eq!("1.5s".parse(), Ok(Timeout::After(Duration::from_millis(1500))));
/// assert_eq!("0".parse(), Ok(Timeout::TryOnce));
/// assert_eq!("infinite".parse(), Ok(Timeout::Infinite));
/// assert!("soon".parse::<Timeout>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// Do not wait: try once.
    TryOnce,
    /// Wait for this long.
    After(Duration),
    /// Wait for ever.
    Infinite,
}

impl Timeout {
    /// 10 s: longer than the default lease, so that a waiter outlives a holder that died without the kernel's notice.
    pub const DEFAULT: Timeout = Timeout::After(Duration::from_secs(10));

    fn budget(self, platform: &dyn platform::Platform) -> Option<Duration> {
        match self {
            // Nobody could change anything meanwhile.
            _ if !platform.can_wait() => Some(Duration::ZERO),
            Timeout::TryOnce => Some(Duration::ZERO),
            Timeout::After(budget) => Some(budget),
            Timeout::Infinite => None,
        }
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Timeout::DEFAULT
    }
}

impl From<Duration> for Timeout {
    fn from(duration: Duration) -> Self {
        if duration.is_zero() {
            Timeout::TryOnce
        } else {
            Timeout::After(duration)
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Timeout::TryOnce => f.write_str("0"),
            Timeout::After(duration) => write!(f, "{}s", duration.as_secs_f64()),
            Timeout::Infinite => f.write_str("infinite"),
        }
    }
}

/// A text that is no [`Timeout`] or no duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseDurationError {
    text: String,
    is_too_long: bool,
}

impl fmt::Display for ParseDurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong = match self.is_too_long {
            true => "is more than 100 years",
            false => "is not a duration such as `10`, `1.5s`, `250ms`, `10m`, `1h` or `7d`",
        };
        write!(f, "{:?} {wrong}", self.text)
    }
}

impl std::error::Error for ParseDurationError {}

impl FromStr for Timeout {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, ParseDurationError> {
        if text.trim().eq_ignore_ascii_case("infinite") {
            return Ok(Timeout::Infinite);
        }
        parse_duration(text).map(Timeout::from)
    }
}

/// A duration as the program and its configuration take it: a bare number is seconds; units are `ms`, `s`, `m` or `min`, `h`,
/// `d` and `w`. Fractions are allowed, signs and exponents are not.
///
/// # Errors
/// A text that is no duration, or one of more than 100 years.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let wrong = |is_too_long| ParseDurationError {
        text: text.into(),
        is_too_long,
    };
    let error = || wrong(false);
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let seconds_per_unit = match unit.trim_start() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return Err(error()),
    };
    let number: f64 = number.parse().map_err(|_| error())?;
    let seconds = number * seconds_per_unit;
    if seconds > 100.0 * 366.0 * 86_400.0 {
        return Err(wrong(true));
    }
    // Rounded to what the unit can mean, so that 0.1 s is 100 ms and not a nanosecond less.
    Ok(Duration::from_micros((seconds * 1e6).round() as u64))
}

/// When a wait is reported first: long enough that brief waits are silent, early enough that a person sees a cause.
const FIRST_REPORT: Duration = Duration::from_millis(50);
/// How often from then on.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The pause between two attempts at what somebody's open file forbids, on average.
const RETRY: Duration = Duration::from_millis(2);

/// One caller's wait, from its first look to the lock: one budget, one event that everything wakes, one voice.
pub(crate) struct Waiter<'a> {
    cx: &'a Context,
    event: Arc<dyn platform::Event>,
    started: Monotonic,
    budget: Option<Duration>,
    cancel: Option<CancelToken>,
    what: WaitingFor,
    /// What somebody has open.
    file: Option<PathBuf>,
    holder: Option<Holder>,
    contended: bool,
    /// Only tries: that somebody else has the lock is what it wants to know, and no news.
    tries: bool,
    next_report: Monotonic,
}

impl<'a> Waiter<'a> {
    pub(crate) fn new(cx: &'a Context, timeout: Timeout, cancel: Option<&CancelToken>) -> Self {
        let started = cx.platform.monotonic();
        let event = cx.platform.event();
        if let Some(cancel) = cancel {
            cancel.wake(&event);
        }
        Waiter {
            cx,
            event,
            started,
            budget: timeout.budget(&*cx.platform),
            cancel: cancel.cloned(),
            what: WaitingFor::Thread,
            file: None,
            holder: None,
            contended: false,
            tries: false,
            next_report: started.saturating_add(FIRST_REPORT),
        }
    }

    /// One try, of which nobody is told.
    pub(crate) fn trying(cx: &'a Context) -> Self {
        Waiter {
            tries: true,
            ..Self::new(cx, Timeout::TryOnce, cx.options.cancel.as_ref())
        }
    }

    /// For renames that must be repeated, within what is left of the budget.
    pub(crate) fn for_retries(cx: &'a Context, left: Option<Duration>) -> Self {
        Self::new(
            cx,
            left.map_or(Timeout::Infinite, Timeout::After),
            cx.options.cancel.as_ref(),
        )
    }

    /// What wakes this waiter.
    pub(crate) fn event(&self) -> &Arc<dyn platform::Event> {
        &self.event
    }

    pub(crate) fn now(&self) -> Monotonic {
        self.cx.platform.monotonic()
    }

    pub(crate) fn waited(&self) -> Duration {
        self.now().saturating_sub(self.started)
    }

    /// Whether it had to wait at all.
    pub(crate) fn has_paused(&self) -> bool {
        self.contended
    }

    /// What is left of the budget; `None`: no limit.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.budget
            .map(|budget| budget.saturating_sub(self.waited()))
    }

    /// What is left for renames that must be repeated. A try has not used up anything.
    pub(crate) fn left_for_renames(&self) -> Option<Duration> {
        if self.tries {
            self.cx.options.timeout.budget(&*self.cx.platform)
        } else {
            self.remaining()
        }
    }

    /// Whether the caller came to wait for at least `duration`. That does not change while it waits: time that a suspended
    /// machine has slept through makes nobody impatient.
    pub(crate) fn came_for(&self, duration: Duration) -> bool {
        self.budget.is_none_or(|budget| budget >= duration)
    }

    /// What [`Waiter::pause`] waits for from now on.
    pub(crate) fn waits_for(&mut self, what: WaitingFor) {
        self.what = what;
        self.file = None;
    }

    /// Waits for a moment, because somebody has `file` open and so forbids a rename or an unlink of it. Not all who do so should
    /// come back in the same moment.
    pub(crate) fn pause_for_handle(&mut self, file: PathBuf) -> Result<()> {
        self.what = WaitingFor::Replace;
        self.file = Some(file);
        let random = self.cx.platform.random().unwrap_or_default();
        let spread = Duration::from_nanos(random as u64 % RETRY.as_nanos() as u64);
        self.pause(self.now() + RETRY / 2 + spread)
    }

    /// What is waited for belongs to this.
    fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(&self.cx.path)
    }

    pub(crate) fn held_by(&mut self, holder: Option<Holder>) {
        self.holder = holder;
    }

    /// Fails if the wait is cancelled, without waiting.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match &self.cancel {
            Some(cancel) if cancel.is_cancelled() => {
                let waited = self.waited();
                self.say(EventKind::LockCancelled, waited);
                Err(Error::cancelled(self.path(), self.what, waited))
            }
            _ => Ok(()),
        }
    }

    /// Whether the budget is used up.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    /// Says that the budget is used up, and returns the error for it.
    pub(crate) fn time_out(&mut self) -> Error {
        let waited = self.waited();
        self.contend(waited);
        self.say(EventKind::LockTimeout, waited);
        Error::timeout(
            self.path(),
            self.what,
            waited,
            self.budget.filter(|_| self.cx.platform.can_wait()),
            self.holder.clone(),
        )
    }

    /// Waits until something wakes this waiter or the clock reaches `until`. The caller then looks again at what it waits
    /// for: a wake may have no cause.
    ///
    /// Fails when the budget was used up *before* this call, so that each caller looks once more after its deadline.
    pub(crate) fn pause(&mut self, until: Monotonic) -> Result<()> {
        self.check_cancelled()?;
        if self.is_out_of_time() {
            return Err(self.time_out());
        }
        let now = self.now();
        let waited = now.saturating_sub(self.started);
        self.contend(waited);
        if now >= self.next_report {
            self.say(EventKind::LockWaiting, waited);
            self.next_report = report_after(self.next_report, now);
        }
        let deadline = self
            .budget
            .map(|budget| self.started.saturating_add(budget));
        let until = until
            .min(self.next_report)
            .min(deadline.unwrap_or(Monotonic::MAX));
        self.event.wait_until(Some(until));
        self.check_cancelled()
    }

    /// Says, once, that the lock is not free.
    fn contend(&mut self, waited: Duration) {
        if !std::mem::replace(&mut self.contended, true) {
            self.say(EventKind::LockContended, waited);
        }
    }

    fn say(&self, kind: EventKind, waited: Duration) {
        if self.tries {
            return;
        }
        self.cx.emit(&Event {
            waiting_for: Some(self.what),
            waited: Some(waited),
            remaining: self.budget.map(|budget| budget.saturating_sub(waited)),
            holder: self.holder.as_ref(),
            ..Event::new(kind, &self.cx.path)
        });
    }
}

/// When to report after `now`, if the last report was due at `due`. By steps from there: the wake that brings a report is a
/// little late each time, and reports that drift skip a second in the end. What was slept through is not made up for.
fn report_after(due: Monotonic, now: Monotonic) -> Monotonic {
    let steps = now.saturating_sub(due).as_secs() / REPORT_EVERY.as_secs() + 1;
    due.saturating_add(REPORT_EVERY.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_do_not_drift_and_a_long_sleep_is_followed_by_one() {
        let ms = Duration::from_millis;
        for (due, now, next) in [
            (50, 50, 1050),
            (50, 58, 1050),
            (1050, 1500, 2050),
            (1050, 2049, 2050),
            (1050, 2050, 3050),
            (50, 3_600_049, 3_600_050),
        ] {
            assert_eq!(report_after(ms(due), ms(now)), ms(next), "at {now}");
        }
    }

    #[test]
    fn durations_are_parsed_as_documented() {
        for (text, ms) in [
            ("10", 10_000),
            ("0.1", 100),
            ("250ms", 250),
            (" 2 m ", 120_000),
            ("1h", 3_600_000),
            ("1w", 604_800_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        assert_eq!(
            parse_duration("25050505.0505"),
            Ok(Duration::from_micros(25_050_505_050_500)),
            "no nanosecond more"
        );
        for text in [
            "",
            "s",
            "-1",
            "1e3",
            "1 fortnight",
            "1..2",
            "99999999w",
            "١s",
            "1s2",
            "nan",
            "inf",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!("0ms".parse(), Ok(Timeout::TryOnce));
        assert_eq!(Timeout::DEFAULT.to_string(), "10s");
    }
}
