//! The table of a run.

use std::fmt;
use std::time::Duration;

use crate::{Broken, Layer, Outcome};

/// What came of each layer.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
    fell_short: bool,
}

#[derive(Debug)]
struct Row {
    layer: String,
    counted: String,
    target: String,
    result: String,
    seconds: String,
}

impl Table {
    /// Adds what came of `layer`.
    pub fn add(&mut self, layer: &dyn Layer, result: Result<&Outcome, &Broken>, took: Duration) {
        let name = format!("{} {}", layer.number(), layer.name());
        let seconds = format!("{:.1}", took.as_secs_f64());
        match result {
            Err(broken) => self.row(&name, "", "", &format!("BROKEN: {broken}"), &seconds),
            // A layer that has counted nothing has shown nothing.
            Ok(outcome) if outcome.counts.is_empty() => {
                self.row(&name, "nothing", "", "SHORT", &seconds);
            }
            Ok(outcome) => {
                for count in &outcome.counts {
                    let reached = count.counted >= count.target && count.counted > 0;
                    let result = if reached { "ok" } else { "SHORT" };
                    let counted = format!("{} {}", grouped(count.counted), count.what);
                    self.row(&name, &counted, &grouped(count.target), result, &seconds);
                }
            }
        }
        let Ok(outcome) = result else { return };
        let controls = &outcome.controls;
        let caught = controls.iter().filter(|control| control.caught).count();
        let missed: Vec<&str> = controls
            .iter()
            .filter(|control| !control.caught)
            .map(|control| control.defect.as_str())
            .collect();
        let result = match (caught, missed.is_empty()) {
            (0, true) => "NO CONTROL".to_owned(),
            (_, true) => "ok".to_owned(),
            (_, false) => format!("MISSED: {}", missed.join(", ")),
        };
        let counted = format!("{caught} planted defects caught");
        self.row(&name, &counted, &controls.len().to_string(), &result, "");
    }

    /// Whether anything broke, fell short, or went unnoticed.
    #[must_use]
    pub fn fell_short(&self) -> bool {
        self.fell_short
    }

    fn row(&mut self, layer: &str, counted: &str, target: &str, result: &str, seconds: &str) {
        self.fell_short |= result != "ok";
        self.rows.push(Row {
            layer: layer.to_owned(),
            counted: counted.to_owned(),
            target: target.to_owned(),
            // One line each: a trace has been printed where it was found.
            result: result.lines().next().unwrap_or_default().to_owned(),
            seconds: seconds.to_owned(),
        });
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| layer | counted | target | result | seconds |")?;
        writeln!(f, "| --- | --- | ---: | --- | ---: |")?;
        for row in &self.rows {
            let Row {
                layer,
                counted,
                target,
                result,
                seconds,
            } = row;
            writeln!(
                f,
                "| {layer} | {counted} | {target} | {result} | {seconds} |"
            )?;
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Control, Count, Plan};

    struct Tried;

    impl Layer for Tried {
        fn number(&self) -> u32 {
            1
        }
        fn name(&self) -> &'static str {
            "tried"
        }
        fn run(&self, _: &Plan) -> Result<Outcome, Broken> {
            Ok(Outcome::default())
        }
    }

    fn fell_short(counts: Vec<Count>, controls: Vec<Control>) -> bool {
        let outcome = Outcome { counts, controls };
        let mut table = Table::default();
        table.add(&Tried, Ok(&outcome), Duration::ZERO);
        table.fell_short()
    }

    #[test]
    fn a_layer_passes_only_with_its_counts_reached_and_its_defects_caught() {
        let count = |counted| vec![Count::new("things", counted, 10)];
        let control = |caught| vec![Control::new("a defect", caught)];
        assert!(!fell_short(count(10), control(true)));
        assert!(fell_short(count(9), control(true)), "too few");
        assert!(fell_short(count(10), control(false)), "not caught");
        assert!(fell_short(count(10), vec![]), "no control");
        assert!(fell_short(vec![], control(true)), "nothing counted");
        assert!(
            fell_short(vec![Count::new("things", 0, 0)], control(true)),
            "none of none is nothing"
        );
        let mut table = Table::default();
        table.add(&Tried, Err(&Broken("why".to_owned())), Duration::ZERO);
        assert!(table.fell_short(), "broken");
    }

    #[test]
    fn numbers_are_grouped() {
        let shown: Vec<String> = [0, 999, 1000, 12_345, 1_234_567]
            .map(grouped)
            .into_iter()
            .collect();
        assert_eq!(shown, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }
}
