//! The layers, one module each.

use crate::Layer;

mod errors;
mod images;
mod schedules;

/// All layers, in the order of their numbers.
#[must_use]
pub fn all() -> Vec<Box<dyn Layer>> {
    vec![
        Box::new(schedules::Schedules),
        Box::new(images::Images),
        Box::new(errors::Errors),
    ]
}
