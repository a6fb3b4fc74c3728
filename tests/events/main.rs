//! What observers, `tracing`, counters and histograms are told, on the memory platform.

mod documented;
mod listen;
mod metrics;
mod observers;
mod scenarios;
mod stage;
#[path = "../support/mod.rs"]
mod support;
