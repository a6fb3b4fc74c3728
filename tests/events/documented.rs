//! `docs/events.md` is right: its tables are read here and compared with the code.

use std::collections::BTreeSet;

use cachelock::{Cache, EventKind, Histogram};
use tracing::Level;

use super::listen::Told;

const PAGE: &str = include_str!("../../docs/events.md");

/// The cells of the table below the heading, without its own two lines.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let start = PAGE
        .find(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("the page has no heading {heading:?}"));
    let rows: Vec<Vec<_>> = PAGE[start..]
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "{heading} has no table");
    rows
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A field's name as `tracing` has it.
fn traced(field: &str) -> String {
    match field {
        "waited" | "remaining" | "held" => format!("{field}_ms"),
        field => field.to_owned(),
    }
}

/// That this event is documented, with this level and these fields.
#[track_caller]
pub(crate) fn check(told: &Told, level: Level) {
    let rows = table("Events");
    let name = format!("`{}`", told.name);
    let row = rows
        .iter()
        .find(|row| row[0] == name)
        .unwrap_or_else(|| panic!("{name} is not documented"));
    let expected = match row[1] {
        "debug" => Level::DEBUG,
        "warn" => Level::WARN,
        "detail: warn" if told.fields.contains_key("detail") => Level::WARN,
        "detail: warn" => Level::DEBUG,
        other => panic!("{name}: no level is {other:?}"),
    };
    assert_eq!(level, expected, "{told:?}");
    let mut allowed = BTreeSet::from(["cache".to_owned()]);
    for field in quoted(row[2]) {
        let always = traced(field.trim_end_matches('?'));
        assert!(
            field.ends_with('?') || told.fields.contains_key(&always),
            "{name} should always have {field}: {told:?}"
        );
        allowed.insert(always);
    }
    for field in told.fields.keys() {
        assert!(
            allowed.contains(field),
            "{name} has the field {field}, which is not documented: {told:?}"
        );
    }
}

#[test]
fn every_event_is_documented_and_no_other() {
    let documented: Vec<_> = table("Events")
        .iter()
        .map(|row| quoted(row[0])[0])
        .collect();
    let kinds: Vec<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(documented, kinds);
}

#[test]
fn every_field_of_an_event_is_explained_and_no_other() {
    let explained: BTreeSet<_> = table("Fields")
        .iter()
        .map(|row| quoted(row[0])[0])
        .collect();
    let mut used = BTreeSet::from(["cache"]);
    for row in table("Events") {
        used.extend(
            quoted(row[2])
                .iter()
                .map(|field| field.trim_end_matches('?')),
        );
    }
    assert_eq!(explained, used);
    for row in table("Fields") {
        let name = quoted(row[0])[0];
        let in_tracing = quoted(row[1]).first().copied().unwrap_or(name);
        assert_eq!(in_tracing, traced(name));
    }
}

#[test]
fn every_number_is_documented_and_no_other() {
    let mut documented: BTreeSet<_> = ["observer_panics"].into();
    for row in table("Counters") {
        documented.extend(quoted(row[1]));
    }
    documented.extend(table("Histograms").iter().map(|row| quoted(row[0])[0]));

    let cache = Cache::open("/nowhere").expect("nothing is touched");
    let fields = format!("{:#?}", cache.metrics());
    let fields: BTreeSet<_> = fields
        .lines()
        .filter(|line| line.starts_with("    ") && !line.starts_with("     "))
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(documented, fields);
}

#[test]
fn the_counters_are_named_after_their_events() {
    let uncounted = ["lock_waiting", "lock_released"];
    let names: Vec<_> = EventKind::ALL
        .iter()
        .map(|kind| kind.name())
        .filter(|name| !uncounted.contains(name))
        .collect();
    let rows = table("Counters");
    let documented: Vec<_> = rows.iter().map(|row| quoted(row[0])[0]).collect();
    assert_eq!(documented, names);
    for (row, name) in rows.iter().zip(names) {
        assert_eq!(quoted(row[2])[0], format!("cachelock_{name}_total"));
    }
}

#[test]
fn the_bounds_are_the_documented_ones() {
    let bounds: Vec<f64> = PAGE
        .lines()
        .find(|line| line.starts_with("`0.0001`"))
        .map(quoted)
        .expect("the page has a line of bounds")
        .iter()
        .map(|bound| bound.parse().expect("a number of seconds"))
        .collect();
    let real: Vec<_> = Histogram::BOUNDS
        .iter()
        .map(|bound| bound.as_secs_f64())
        .collect();
    assert_eq!(bounds, real);
}

/// The names that a recorder for the `metrics` crate gets to hear.
#[cfg(feature = "metrics")]
pub(crate) fn recorded() -> BTreeSet<String> {
    let rows = [table("Counters"), table("Histograms")];
    let [counters, histograms] = &rows;
    let names = counters.iter().map(|row| quoted(row[2])[0]);
    names
        .chain(histograms.iter().map(|row| quoted(row[1])[0]))
        .map(str::to_owned)
        .collect()
}
