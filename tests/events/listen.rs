//! Events as observers and `tracing` subscribers hear them, in a form in which they can be compared.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use cachelock::Event;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

/// An event as somebody was told it: its name, and its fields in words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) fields: BTreeMap<String, String>,
}

impl Told {
    pub(crate) fn by_observer(event: &Event<'_>) -> Self {
        let ms =
            |duration: Option<Duration>| duration.map(|duration| duration.as_millis().to_string());
        let fields = [
            ("cache", Some(event.cache.display().to_string())),
            ("entry", event.entry.map(str::to_owned)),
            (
                "backend",
                event.backend.map(|backend| backend.name().to_owned()),
            ),
            (
                "waiting_for",
                event.waiting_for.map(|what| what.name().to_owned()),
            ),
            ("waited_ms", ms(event.waited)),
            ("remaining_ms", ms(event.remaining)),
            ("held_ms", ms(event.held)),
            ("epoch", event.epoch.map(|epoch| epoch.to_string())),
            (
                "generation",
                event.generation.map(|generation| generation.to_string()),
            ),
            ("holder", event.holder.map(|holder| holder.to_string())),
            ("detail", event.detail.map(str::to_owned)),
        ];
        Told {
            name: event.kind.name().to_owned(),
            fields: fields
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect(),
        }
    }

    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .unwrap_or_else(|| panic!("{self:?} has no field {name}"))
    }

    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.field(name).parse().expect("a number")
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What every cache of this test program has said through `tracing`.
static TRACED: Mutex<Vec<(Told, Level)>> = Mutex::new(Vec::new());

struct Collect;

impl Subscriber for Collect {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "cachelock"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut told = Told::default();
        event.record(&mut told);
        lock(&TRACED).push((told, *event.metadata().level()));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields
            .insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        if field.name() == "message" {
            self.name = value;
        } else {
            self.fields.insert(field.name().to_owned(), value);
        }
    }
}

/// From now on everything that is said through `tracing` is kept.
pub(crate) fn begin() {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        tracing::subscriber::set_global_default(Collect).expect("nobody else listens");
    });
}

/// What was said through `tracing` about the cache in this directory.
pub(crate) fn traced(cache: &str) -> Vec<(Told, Level)> {
    let mut traced = lock(&TRACED).clone();
    traced.retain(|(told, _)| told.fields.get("cache").is_some_and(|path| path == cache));
    traced
}
