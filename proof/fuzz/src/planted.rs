//! Parsers that are wrong on purpose.

use cachelock::parsers;

use crate::naive;

/// An index that a few hosts make too large.
pub(crate) fn index(bytes: &[u8]) {
    let record = naive::document_of(bytes, "claim 1", 512);
    std::hint::black_box(parsers::planted_index(&record));
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
