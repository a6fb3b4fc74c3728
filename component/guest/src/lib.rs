//! What a guest sees of cachelock: the interface in `wit/`, as Rust. It does not say who implements it.

mod bindings {
    // Generated code calls the host, and says nothing of what `wit/` says.
    #![allow(unsafe_code, missing_docs, unreachable_pub)]

    wit_bindgen::generate!({
        path: "../../wit",
        world: "client",
    });
}

pub use bindings::cachelock::cache::store;

use store::{Error, Snapshot};

/// All of a payload.
///
/// # Errors
/// What the cache says while it is read.
pub fn bytes(snapshot: &Snapshot) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    loop {
        let piece = snapshot.read(64 * 1024)?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        bytes.extend(piece);
    }
}
