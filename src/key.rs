//! Keys: entries for any bytes, in files that are named by a hash.
//!
//! A name must be a path that means the same on every system, and a URL, a package's coordinates or a command line is none.
//! Escaped it would be too long for a file system or differ in case alone, so such a key is hashed.
//!
//! The hash (XXH3-128) is fast, and whoever wants to can find two keys with the same one. So it only says where to look.
//! Each record of a tag carries the key that it was published for, and whoever asks for a key gets a payload only if its
//! record has that key. All else is a miss for it: another key's payload, one without a tag, one that was published
//! by name. Two keys with one hash replace each other, in one file with one count of generations, and neither ever gets the
//! other's bytes.

use std::fmt::{self, Write};
use std::io;
use std::sync::Arc;

use cachelock_platform::Escaped;
use xxhash_rust::xxh3::xxh3_128;

use crate::cache::{Cache, Entry};
use crate::error::{Error, Result};
use crate::found_tag::TagState;
use crate::name::EntryName;
use crate::tag::Record;

/// The folder of all entries for keys. Nobody calls an entry so by chance, and a person who sees it knows whose it is.
const FOLDER: &str = "cachelock-keys";

/// The longest key, in bytes: a tag holds two of them.
pub(crate) const KEY_MAX: usize = 16 * 1024;

/// So much of a key is shown to people, in characters.
const SHOWN_MAX: usize = 64;

/// What an entry is asked for by. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(Arc<[u8]>);

impl Key {
    /// A key as a tag has it: as long as that lets it be.
    pub(crate) fn of_tag(bytes: Vec<u8>) -> Self {
        Key(bytes.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where its payload is, fanned out: directories with very many names are slow on some file systems.
    fn name(&self) -> Result<EntryName> {
        let hash = format!("{:032x}", xxh3_128(&self.0));
        EntryName::new(&format!("{FOLDER}/{}/{hash}", &hash[..2]))
    }
}

/// For people: escaped and shortened.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = String::new();
        for chunk in self.0.utf8_chunks() {
            write!(shown, "{}", Escaped(chunk.valid()))?;
            for byte in chunk.invalid() {
                write!(shown, "\\x{byte:02x}")?;
            }
            // One more shows that it goes on.
            if let Some((cut, _)) = shown.char_indices().nth(SHOWN_MAX) {
                shown.truncate(cut);
                return write!(f, "key \"{shown}\"... of {} bytes", self.0.len());
            }
        }
        write!(f, "key \"{shown}\"")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Cache {
    /// The entry for `key`: any bytes, up to 16 KiB of them. For what is no good file name, such as a URL; see
    /// [`Cache::entry`] for what is.
    ///
    /// The payload's file is `cachelock-keys/<hh>/<hash>` in the cache directory: the XXH3-128 of the key in hexadecimal, in a
    /// folder of its first two digits. The key itself is kept in the entry's tag and compared at each read, so keys
    /// with the same hash cost each other a refresh, and none ever gets the payload of another: it counts as missing. So
    /// does a payload whose tag names no key, for instance a file that something else has put there.
    ///
    /// [`Cache::entry`] with the name of such a file is an entry without a key. It reads whatever is there, for whichever key,
    /// and what is published through it is no key's: missing for all of them.
    ///
    /// ```
    /// use cachelock::{Cache, Policy};
    /// use std::io::Write;
    ///
    /// let dir = std::env::temp_dir().join("cachelock-doc-key");
    /// let cache = Cache::open(&dir)?;
    /// let url = "https://example.org/index?page=2";
    /// let page = cache.entry_for_key(url)?.get_or_refresh(&Policy::any_age(), |refresh| {
    ///     let key = refresh.entry().key().expect("it was asked for by one");
    ///     refresh.write_all(&[b"the page at ", key].concat())
    /// })?;
    /// assert_eq!(page.as_deref(), Some(&b"the page at https://example.org/index?page=2"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) for a key of more than 16 KiB.
    ///
    /// Reads fail with [`Permission`](crate::ErrorKind::Permission) where there is a payload whose tag this user may not read:
    /// nobody can say whose it is.
    pub fn entry_for_key(&self, key: impl AsRef<[u8]>) -> Result<Entry> {
        let key = Key(key.as_ref().into());
        if key.0.len() > KEY_MAX {
            let reason = format!("the {key} is longer than the {KEY_MAX} that can be kept");
            return Err(Error::limit(self.path(), reason));
        }
        Ok(Entry {
            cache: self.clone(),
            name: key.name()?,
            key: Some(key),
        })
    }
}

impl Entry {
    /// The key that the entry was asked for by; `None` for one that was asked for by name.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_ref().map(Key::as_bytes)
    }

    /// Whether this entry may have what this record describes. Without a key it may have everything.
    pub(crate) fn may_have(&self, record: Option<&Record>, tag: &TagState) -> Result<bool> {
        let Some(key) = &self.key else {
            return Ok(true);
        };
        // It may well be there, so it is not missing; and no refresh would replace such a tag.
        if matches!(tag, TagState::Forbidden) {
            let forbidden = io::Error::from(io::ErrorKind::PermissionDenied);
            return Err(Error::io("read the tag of", self.path(), forbidden));
        }
        Ok(record.is_some_and(|record| record.key.as_ref() == Some(key)))
    }

    /// Adds the key to an error that has only the hash of it in its path.
    pub(crate) fn of_key<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.of_key(self.key.as_ref()))
    }
}

impl Error {
    /// Tells the key, too, where the path only has its hash.
    pub(crate) fn of_key(mut self, key: Option<&Key>) -> Self {
        self.0.key = key.cloned();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> String {
        Key::of_tag(bytes.into()).to_string()
    }

    #[test]
    fn a_key_names_one_file_for_ever() {
        // Other versions and other languages must find the same one.
        for (key, name) in [
            (
                &b""[..],
                "cachelock-keys/99/99aa06d3014798d86001c324468d497f",
            ),
            (b"a", "cachelock-keys/a9/a96faf705af16834e6c632b61e964e1f"),
        ] {
            let found = Key::of_tag(key.into()).name().expect("a good name");
            assert_eq!(found.as_str(), name, "{key:?}");
        }
    }

    #[test]
    fn a_key_is_shown_escaped_and_shortened() {
        assert_eq!(shown(b""), r#"key """#);
        assert_eq!(shown("größe".as_bytes()), r#"key "größe""#);
        assert_eq!(shown(b"a\"\\\n\0\xff/.."), r#"key "a\"\\\n\0\xff/..""#);
        let exact = "x".repeat(SHOWN_MAX);
        assert_eq!(shown(exact.as_bytes()), format!("key \"{exact}\""));
        for long in [&b"x"[..], b"\xff", "ß".as_bytes(), b"\n"] {
            let long = shown(&long.repeat(KEY_MAX / long.len()));
            assert!(long.ends_with("... of 16384 bytes"), "{long}");
            assert!(long.chars().count() < SHOWN_MAX + 40, "{long}");
        }
    }
}
