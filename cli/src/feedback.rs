//! What the program says on standard error while it works: that it waits, and what it thinks one should know.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cachelock::{Event, EventKind, Observer, WaitingFor};
use serde_json::json;
use tracing::level_filters::LevelFilter;

use crate::config::Settings;
use crate::control::Control;
use crate::exit::Failure;
use crate::line::Line;
use crate::report::{self, ms};

/// How often a wait is reported where lines cannot be redrawn.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Observes the cache for the person at the other end of standard error.
pub(crate) struct Feedback {
    control: Arc<Control>,
    quiet: bool,
    json: bool,
    /// The command ends with the error that an event announces, so the event need not be said.
    says_corrupt: bool,
    wait: Mutex<Wait>,
    /// The last warning: what is seen twice, before the wait and after it, is said once.
    warned: Mutex<String>,
}

struct Wait {
    /// Where a line can be redrawn, and nothing else is written there.
    line: Option<Line>,
    /// How long the wait had lasted at the last report, where it cannot.
    said: Option<Duration>,
}

impl Feedback {
    pub(crate) fn new(settings: &Settings, control: &Arc<Control>, says_corrupt: bool) -> Self {
        // What tracing writes would go into the line.
        let alone = !settings.json() && LevelFilter::current() == LevelFilter::OFF;
        Feedback {
            control: control.clone(),
            quiet: settings.quiet(),
            json: settings.json(),
            says_corrupt,
            wait: Mutex::new(Wait {
                line: alone.then(Line::new).flatten(),
                said: None,
            }),
            warned: Mutex::default(),
        }
    }

    fn waiting(&self, event: &Event<'_>) {
        let mut wait = self.wait();
        let message = waiting_message(event);
        if let Some(line) = &mut wait.line {
            line.show(&report::printable(&message));
            return;
        }
        let waited = event.waited.unwrap_or_default();
        if wait
            .said
            .is_some_and(|said| waited < said.saturating_add(LINE_EVERY))
        {
            return;
        }
        // On the whole seconds, although the first report comes earlier.
        wait.said = Some(Duration::from_secs(waited.as_secs()));
        self.say(event, &message);
    }

    /// The wait is over, or something else is to be written.
    fn clear(&self) {
        if let Some(line) = &mut self.wait().line {
            line.clear();
        }
    }

    fn warn(&self, event: &Event<'_>, message: String) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if *warned != message {
            self.say(event, &message);
            *warned = message;
        }
    }

    fn wait(&self) -> MutexGuard<'_, Wait> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, event: &Event<'_>, message: &str) {
        if self.json {
            let line = json!({
                "event": event.kind.name(),
                "message": message,
                "cache": event.cache.display().to_string(),
                "entry": event.entry,
                "waiting_for": event.waiting_for.map(WaitingFor::name),
                "waited_ms": event.waited.map(ms),
                "remaining_ms": event.remaining.map(ms),
                "epoch": event.epoch,
                "holder": event.holder.map(report::holder),
            });
            report::error_line(&report::json_line(&line));
        } else {
            report::error_line(&format!("cachelock: {message}"));
        }
    }
}

impl Observer for Feedback {
    fn observe(&self, event: &Event<'_>) {
        match event.kind {
            EventKind::LockContended => {}
            EventKind::LockWaiting if !self.quiet => self.waiting(event),
            EventKind::LockWaiting => {}
            EventKind::LeaseLost => {
                self.clear();
                self.lost(event);
            }
            kind => {
                self.clear();
                if !self.quiet
                    && (kind != EventKind::EntryCorrupt || self.says_corrupt)
                    && let Some(message) = warning(event)
                {
                    self.warn(event, message);
                }
            }
        }
    }
}

impl Feedback {
    /// At once and even when it should be quiet: it is the error that the program is going to end with.
    fn lost(&self, event: &Event<'_>) {
        let message = format!(
            "the lease on {} was lost: {}; what is there now stands",
            event.cache.display(),
            event.detail.unwrap_or("it was overtaken")
        );
        if !self.control.lose() {
            return;
        }
        let lost = Failure::Lost;
        if self.json {
            report::json_error(lost.name(), &message, Some(event.cache), lost.code());
        } else {
            report::named_line(lost.name(), &message);
        }
    }
}

/// The numbers and the holder come first: a narrow terminal shows no more.
fn waiting_message(event: &Event<'_>) -> String {
    let waited = event.waited.unwrap_or_default().as_secs();
    let left = match event.remaining {
        Some(remaining) => format!("{} s left", up(remaining)),
        None => "no limit".to_owned(),
    };
    let what = event
        .waiting_for
        .map_or_else(|| "the writer lock".to_owned(), |what| what.to_string());
    let cache = event.cache.display();
    match event.holder {
        Some(holder) => format!("waiting {waited} s, {left}: {holder} has {what} of {cache}"),
        None => format!("waiting {waited} s, {left}, for {what} of {cache}"),
    }
}

/// Whole seconds, rounded up: the last second is not 0.
fn up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// What one should know without asking.
fn warning(event: &Event<'_>) -> Option<String> {
    let cache = event.cache.display();
    let detail = event.detail.unwrap_or("no reason is known");
    Some(match event.kind {
        EventKind::FallbackToLease => {
            format!("warning: no kernel lock for {cache}, so the lease alone is used: {detail}")
        }
        EventKind::LeaseTakenOver => {
            let holder = event
                .holder
                .map_or_else(|| "a dead holder".to_owned(), |holder| holder.to_string());
            // An operator's force waits for nothing.
            let still = match event.held {
                Some(held) if held >= Duration::from_millis(50) => {
                    format!(", which stood still for {:.1} s", held.as_secs_f64())
                }
                _ => String::new(),
            };
            format!("warning: took over the lease on {cache} from {holder}{still}")
        }
        EventKind::HeartbeatFailed => {
            format!("warning: the lease on {cache} may be lost, for its heartbeat failed: {detail}")
        }
        EventKind::EntryCorrupt => {
            let entry = event.entry.unwrap_or_default();
            format!("warning: {entry} of {cache} is corrupt and counts as missing: {detail}")
        }
        EventKind::ServedStale => {
            let entry = event.entry.unwrap_or_default();
            // Served while somebody else refreshes: what was asked for.
            let why = event.detail?;
            format!(
                "warning: {entry} of {cache} could not be refreshed, so the old payload is used: {why}"
            )
        }
        _ => return None,
    })
}
