//! The layers, one module each.

use crate::Layer;

/// All layers, in the order of their numbers.
#[must_use]
pub fn all() -> Vec<Box<dyn Layer>> {
    vec![]
}
