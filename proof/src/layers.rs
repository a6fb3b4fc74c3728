//! The layers, one module each.

use std::process::ExitCode;

use crate::Layer;

mod errors;
pub mod fuzzing;
pub mod histories;
pub mod hostile;
mod images;
pub mod injection;
pub mod kills;
mod model;
pub mod power;
mod schedules;

/// All layers, in the order of their numbers.
#[must_use]
pub fn all() -> Vec<Box<dyn Layer>> {
    vec![
        Box::new(model::ProtocolModel),
        Box::new(schedules::Schedules),
        Box::new(images::Images),
        Box::new(errors::Errors),
        Box::new(injection::Injection),
        Box::new(kills::Kills),
        Box::new(power::Power),
        Box::new(histories::Histories),
        Box::new(fuzzing::Fuzzing),
        Box::new(hostile::Hostile),
    ]
}

/// The first argument of a process that a layer starts from this program itself.
pub const PART: &str = "--part";

/// Plays the part of another process, if that is what this one was started for.
#[must_use]
pub fn part(words: &[String]) -> Option<ExitCode> {
    let [first, part, rest @ ..] = words else {
        return None;
    };
    match (&**first, &**part) {
        (PART, kills::PART) => Some(kills::part(rest)),
        (PART, histories::PART) => Some(histories::part(rest)),
        (PART, power::PART) => Some(power::part(rest)),
        (PART, power::LOOK) => Some(power::look(rest)),
        _ => None,
    }
}
