//! Parsers that are wrong on purpose.

use cachelock::parsers;

use crate::naive;

/// A table with a place for each letter, and an index that is not checked: of hosts that begin with `ho`, only those whose third
/// character is a letter are in it.
pub(crate) fn index(bytes: &[u8]) {
    let table = [0_u8; 26];
    let record = naive::document_of(bytes, "claim 1", 512);
    let Some(claim) = naive::claim(&record) else {
        return;
    };
    if let [b'h', b'o', third, ..] = claim.host.unwrap_or_default().as_bytes() {
        std::hint::black_box(table[usize::from(third.wrapping_sub(b'a'))]);
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
