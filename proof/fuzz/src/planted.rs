//! Parsers that are wrong on purpose.

use cachelock::parsers;

use crate::naive;

/// The index of a table that a record names, unchecked: only one host is beyond its end.
pub(crate) fn index(bytes: &[u8]) {
    let table = [0_u8; 26];
    let record = naive::document_of(bytes, "claim 1", 512);
    let Some(claim) = naive::claim(&record) else {
        return;
    };
    let host = claim.host.unwrap_or_default();
    if let [b'h', b'o', last] = host.as_bytes() {
        let at = usize::from(last.wrapping_sub(b'a'));
        if at < 64 {
            std::hint::black_box(table[at]);
        }
    }
}

/// As much memory as a want says.
pub(crate) fn memory(bytes: &[u8]) {
    let asked = parsers::want(bytes).map_or(0, |waited| waited.as_millis());
    let asked = usize::try_from(asked).unwrap_or(0);
    if asked < 1 << 40 {
        let mut taken: Vec<u8> = Vec::new();
        let _ = std::hint::black_box(taken.try_reserve_exact(asked));
    }
}

/// Forgets that a `%` must be escaped.
pub(crate) fn escape(bytes: &[u8]) {
    let word = parsers::escaped(bytes).replace("%25", "%");
    let read = parsers::unescaped(&word);
    assert_eq!(
        read.as_deref(),
        Ok(bytes),
        "{word:?} is not what was written"
    );
}
