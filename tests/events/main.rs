//! What observers, `tracing`, counters and histograms are told, on the memory platform.

mod documented;
#[cfg(feature = "metrics")]
mod facade;
mod listen;
mod metrics;
mod observers;
mod scenarios;
mod stage;
#[path = "../support/mod.rs"]
mod support;
