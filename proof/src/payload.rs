//! Payloads that say who wrote them, and that show it when a byte of them is another's or missing.

use crate::random::Random;

/// Who wrote a payload, and which of that writer's it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The writer.
    pub writer: u64,
    /// The number among its payloads.
    pub number: u64,
}

const HEADER: usize = 24;

/// The payload of `origin`, of a length of its own.
#[must_use]
pub fn make(origin: Origin) -> Vec<u8> {
    let mut random = Random::new(origin.writer.rotate_left(32) ^ origin.number);
    // Small ones and large ones equally often, and now and then one that the library writes, hashes and reads in several pieces.
    let most = match random.below(31) {
        30 => 700 << 10,
        n => [1 << 10, 8 << 10, 48 << 10][n as usize % 3],
    };
    let len = HEADER as u64 + random.below(most);
    let mut bytes = Vec::with_capacity(len as usize + 8);
    for word in [origin.writer, origin.number, len] {
        bytes.extend(word.to_le_bytes());
    }
    while (bytes.len() as u64) < len {
        bytes.extend(random.draw().to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// Whose payload `bytes` are, or why they are nobody's.
///
/// # Errors
/// They are no whole payload.
pub fn origin_of(bytes: &[u8]) -> Result<Origin, String> {
    let word = |n: usize| {
        let word = bytes.get(8 * n..8 * n + 8)?;
        word.try_into().ok().map(u64::from_le_bytes)
    };
    let (Some(writer), Some(number)) = (word(0), word(1)) else {
        return Err(format!("it has only {} bytes", bytes.len()));
    };
    let origin = Origin { writer, number };
    let whole = make(origin);
    if bytes == whole {
        return Ok(origin);
    }
    let same = bytes.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    Err(format!(
        "it has {} bytes of {} and is {origin:?}'s up to byte {same}",
        bytes.len(),
        whole.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_its_origin_unless_it_is_cut_or_mixed() {
        for number in 0..100 {
            let origin = Origin { writer: 7, number };
            let bytes = make(origin);
            assert_eq!(origin_of(&bytes), Ok(origin));
            for cut in [0, 8, 16, bytes.len() - 1] {
                assert!(origin_of(&bytes[..cut]).is_err(), "cut to {cut}");
            }
            let other = make(Origin { writer: 8, number });
            let half = bytes.len().min(other.len()) / 2;
            let mixed = [&bytes[..half], &other[half..]].concat();
            assert!(
                half < HEADER || origin_of(&mixed).is_err(),
                "mixed at {half}"
            );
        }
    }
}
