//! Texts that are taken apart at a byte. Quicker than to search for a character in what is as short as a name or a line, and a
//! guest is 1 KB smaller without that search.

use crate::GUEST;

/// What stands before the first such byte, which is ASCII, and what follows it; `None` if there is none.
///
/// ```
/// use cachelock_platform::cut;
///
/// assert_eq!(cut("key=a=b", b'='), Some(("key", "a=b")));
/// assert_eq!(cut("key", b'='), None);
/// ```
#[must_use]
pub fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let at = find(text.as_bytes(), at)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Where the first such byte is. Eight at a time, but in guests, which are to be small: a byte that is `wanted` is 0 once all are
/// compared, and the lowest bit that the subtraction borrows for is of the first such byte ("Hacker's Delight", 6-1).
fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    let mut start = 0;
    if !GUEST {
        let (words, _) = bytes.as_chunks::<8>();
        for word in words {
            let differs = u64::from_le_bytes(*word) ^ u64::from_le_bytes([wanted; 8]);
            let is_zero = differs.wrapping_sub(LOWEST) & !differs & (LOWEST << 7);
            if is_zero != 0 {
                return Some(start + (is_zero.trailing_zeros() / 8) as usize);
            }
            start += 8;
        }
    }
    let rest = bytes.get(start..)?.iter();
    let at = rest.copied().position(|byte| byte == wanted)?;
    Some(start + at)
}

/// The lowest bit of each byte.
const LOWEST: u64 = u64::from_le_bytes([1; 8]);

/// What stands before each such byte, which is ASCII: of a path the directories on the way, from the top.
///
/// ```
/// use cachelock_platform::prefixes;
///
/// assert!(prefixes("a/b/c", b'/').eq(["a", "a/b"]));
/// ```
pub fn prefixes(text: &str, at: u8) -> impl Iterator<Item = &str> {
    let found = text
        .bytes()
        .enumerate()
        .filter(move |(_, byte)| *byte == at);
    found.filter_map(|(end, _)| text.get(..end))
}

/// What is between such bytes, which are ASCII. Of `n` of them there are `n + 1` parts, some of which may be empty.
///
/// ```
/// use cachelock_platform::parts;
///
/// assert!(parts("a//b/", b'/').eq(["a", "", "b", ""]));
/// ```
pub fn parts(text: &str, at: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (part, after) = match cut(text, at) {
            Some((part, after)) => (part, Some(after)),
            None => (text, None),
        };
        rest = after;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_such_byte_is_found_whatever_is_around_it() {
        // What a borrow from a byte before could be taken for it, and what has its lower bits.
        let near = |wanted: u8| [wanted, wanted ^ 1, wanted ^ 0x80];
        for wanted in [b'\n', b' ', b'=', b'/'] {
            let mut texts = vec![Vec::new()];
            for length in 0..9 {
                let longest = texts.iter().filter(|text| text.len() == length);
                let longer =
                    |text: &Vec<u8>| near(wanted).map(|byte| [&text[..], &[byte]].concat());
                let more: Vec<_> = longest.flat_map(longer).collect();
                texts.extend(more);
            }
            for text in texts {
                let expected = text.iter().position(|byte| *byte == wanted);
                assert_eq!(find(&text, wanted), expected, "{wanted} in {text:?}");
                let later = [&[b'x'; 8], &text[..]].concat();
                let expected = expected.map(|at| at + 8);
                assert_eq!(find(&later, wanted), expected, "{wanted} in {later:?}");
            }
        }
    }
}
