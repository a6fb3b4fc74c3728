//! What a live world takes from its host: the clocks, waiting and randomness. Everything else in [`memory`](super) is
//! the same on every target.
//!
//! | module | host |
//! | --- | --- |
//! | `system` | an operating system, through `std` |
//! | `web` | the JavaScript around `wasm32-unknown-unknown`, where `std` has no clock, no threads and no randomness |

cfg_if::cfg_if! {
    if #[cfg(all(target_family = "wasm", target_os = "unknown"))] {
        mod web;
        pub(super) use web::{CAN_WAIT, monotonic, random, wait, wall};
    } else {
        mod system;
        pub(super) use system::{CAN_WAIT, monotonic, random, wait, wall};
    }
}
