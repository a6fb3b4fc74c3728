//! What a run has found: its table, for the terminal and for the document, and how many goals were met.

use std::fmt::Write as _;
use std::time::Duration;

use crate::sample::{Ratio, median};

/// What a ratio has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing: it is there to be seen.
    None,
}

impl Goal {
    fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Goal::AtMost(limit) => Some(ratio <= limit),
            Goal::AtLeast(limit) => Some(ratio >= limit),
            Goal::None => None,
        }
    }
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) ours: String,
    /// Another's name and figure.
    pub(crate) other: String,
    pub(crate) ratio: Ratio,
    pub(crate) goal: Goal,
}

impl Row {
    /// Of two ways that were sampled in the same rounds.
    pub(crate) fn of(
        what: impl Into<String>,
        ours: &[Duration],
        (name, theirs): (&str, &[Duration]),
        goal: Goal,
    ) -> Self {
        Row {
            what: what.into(),
            ours: time(median(ours)),
            other: format!("{name}: {}", time(median(theirs))),
            ratio: Ratio::of(ours, theirs),
            goal,
        }
    }

    fn cells(&self) -> [String; 6] {
        let Ratio { median, low, high } = self.ratio;
        let spread = match low == high {
            true => String::new(),
            false => format!("{} to {}", number(low), number(high)),
        };
        let goal = match self.goal {
            Goal::AtMost(limit) => format!("<= {}", number(limit)),
            Goal::AtLeast(limit) => format!(">= {}", number(limit)),
            Goal::None => "reported".to_owned(),
        };
        let verdict = match self.goal.is_met(median) {
            Some(true) => format!("{goal}: met"),
            Some(false) => format!("{goal}: **missed**"),
            None => goal,
        };
        [
            self.what.clone(),
            self.ours.clone(),
            self.other.clone(),
            number(median),
            spread,
            verdict,
        ]
    }
}

/// With three digits that say something.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.5}"),
    }
}

pub(crate) fn time(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    match us {
        us if us < 10.0 => format!("{us:.2} µs"),
        us if us < 1e4 => format!("{us:.0} µs"),
        us if us < 1e7 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

const HEAD: [&str; 6] = ["what", "ours", "the other", "ratio", "middle half", "goal"];

/// The table, as a document has it and a terminal can show it.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut table = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(table, "| {cell:width$} ");
        }
        table.push_str("|\n");
        if index == 0 {
            for width in widths {
                let _ = write!(table, "| {:-<width$} ", "");
            }
            table.push_str("|\n");
        }
    }
    table
}

/// The last line of a run.
pub(crate) fn count(rows: &[Row]) -> String {
    let verdicts: Vec<bool> = rows
        .iter()
        .filter_map(|row| row.goal.is_met(row.ratio.median))
        .collect();
    let met = verdicts.iter().filter(|met| **met).count();
    format!("{met} of {} goals met", verdicts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ratio: f64, goal: Goal) -> Row {
        Row {
            what: "a read".to_owned(),
            ours: "1 µs".to_owned(),
            other: "theirs: 2 µs".to_owned(),
            ratio: Ratio::exact(ratio),
            goal,
        }
    }

    #[test]
    fn goals_are_counted_and_what_is_only_reported_is_not() {
        let rows = [
            row(1.0, Goal::AtMost(1.0)),
            row(1.1, Goal::AtMost(1.0)),
            row(0.9, Goal::AtLeast(0.9)),
            row(0.8, Goal::AtLeast(0.9)),
            row(9.0, Goal::None),
        ];
        assert_eq!(count(&rows), "2 of 4 goals met");
        let table = table(&rows);
        assert_eq!(table.matches(": met").count(), 2, "{table}");
        assert_eq!(table.matches("**missed**").count(), 2, "{table}");
    }

    #[test]
    fn columns_of_the_table_are_aligned() {
        let table = table(&[row(1.0, Goal::None), row(100.0, Goal::AtMost(2.0))]);
        let widths: Vec<_> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }

    #[test]
    fn numbers_keep_the_digits_that_say_something() {
        assert_eq!(number(1.234), "1.23");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(0.0033), "0.00330");
        assert_eq!(time(Duration::from_nanos(1500)), "1.50 µs");
        assert_eq!(time(Duration::from_millis(200)), "200.0 ms");
    }
}
