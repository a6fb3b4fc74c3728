//! What a component has for debuggers alone: the linker names each function, type and instance in it, whatever cargo strips.
//!
//! A component is a header and a row of sections: a byte that says what it is, its length, and so many bytes. A section whose
//! byte is 0 is a custom one, and begins with its name (component-model, `design/mvp/Binary.md`).

const HEADER: usize = 8;
/// How the header ends: of a module it is another.
const LAYER: [u8; 2] = [1, 0];
const CUSTOM: u8 = 0;
const NAMES: &[u8] = b"component-name";

/// The same component without the names. `None` if it is none that this can read.
pub(super) fn without_names(component: &[u8]) -> Option<Vec<u8>> {
    let (header, mut rest) = component.split_at_checked(HEADER)?;
    if !header.starts_with(b"\0asm") || !header.ends_with(&LAYER) {
        return None;
    }
    let mut stripped = header.to_vec();
    while let Some((kind, after)) = rest.split_first() {
        let (content, next) = sized(after)?;
        let is_names = *kind == CUSTOM && sized(content)?.0 == NAMES;
        if !is_names {
            stripped.extend(&rest[..rest.len() - next.len()]);
        }
        rest = next;
    }
    Some(stripped)
}

/// What a length says that stands before it, and what follows.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut len = 0_usize;
    // A length has 32 bits, seven in each byte.
    for (at, byte) in bytes.iter().enumerate().take(5) {
        len |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes[at + 1..].split_at_checked(len);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(sections: &[&[u8]]) -> Vec<u8> {
        [b"\0asm\x0d\0\x01\0", &*sections.concat()].concat()
    }

    #[test]
    fn only_the_names_go() {
        let names: &[u8] = b"\0\x11\x0ecomponent-name..";
        let other: &[u8] = b"\0\x0a\x09producers";
        // A module that has such a section itself keeps it: it is inside of a section of another kind.
        let long = [b"\x01\x80\x01".as_slice(), names, &[7; 128 - 19]].concat();
        let whole = component(&[names, other, &long, names]);
        assert_eq!(without_names(&whole), Some(component(&[other, &long])));
        assert_eq!(
            without_names(&component(&[other])),
            Some(component(&[other]))
        );
    }

    #[test]
    fn what_is_no_component_is_not_touched() {
        for bytes in [
            b"".as_slice(),
            b"\0asm\x0d\0\x01",
            b"not a component",
            b"\0asm\x01\0\0\0",
            &component(&[b"\x01\x05four"]),
            &component(&[b"\x01\xff\xff\xff\xff\xff\x01"]),
        ] {
            assert_eq!(without_names(bytes), None, "{bytes:?}");
        }
    }
}
