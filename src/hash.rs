//! XXH3 of bytes that are all there, by the same hasher as of those that come in pieces.
//!
//! The functions of the crate for whole slices would be a second implementation, and each guest carries what is built in: 4 KB.

use xxhash_rust::xxh3::Xxh3Default;

/// XXH3-128: of payloads and keys.
pub(crate) fn xxh3_128(bytes: &[u8]) -> u128 {
    hasher(bytes).digest128()
}

/// XXH3-64: of records.
pub(crate) fn xxh3_64(bytes: &[u8]) -> u64 {
    hasher(bytes).digest()
}

fn hasher(bytes: &[u8]) -> Xxh3Default {
    let mut hasher = Xxh3Default::new();
    hasher.update(bytes);
    hasher
}
