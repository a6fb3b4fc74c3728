//! What `wit/` says, in Rust.

// Generated code calls the host, and is made for all to see.
#![allow(unsafe_code, unreachable_pub)]

wit_bindgen::generate!({
    path: "../wit",
    world: "provider",
});

use crate::Component;
export!(Component with_types_in self);
