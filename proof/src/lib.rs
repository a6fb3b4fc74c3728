//! Shows what cachelock promises, by layers that can fail. `cargo xtask prove` builds and runs them all; `docs/reliability.md`
//! has the figures of the last run and what each layer cannot show.
//!
//! A [`Layer`] counts what it has tried and compares that with a target; it fails when something broke a promise, when it
//! tried less than the target, or when its *positive control*, a planted defect, was not caught. The table that is printed has
//! one line for each count.

pub mod layer;
pub mod payload;
pub mod place;
pub mod process;
pub mod program;
pub mod random;
mod sim;
mod table;
mod threads;

pub mod layers;

// Shared with the tests of the library.
#[path = "../../tests/support/mod.rs"]
mod support;

pub use layer::{Broken, Control, Count, Layer, Outcome, Plan, Size};
pub use table::Table;
pub use threads::unpanicked;
