//! What a producer wants to remember about a payload.

use std::fmt;
use std::ops::Index;

/// Small facts about a payload that a producer wants back at its next run: an `ETag`, a `Last-Modified`, a revision. A map,
/// sorted by keys.
///
/// ```
/// use cachelock::Validators;
///
/// let mut validators = Validators::from([("revision".to_owned(), "17".to_owned())]);
/// validators.insert("etag".to_owned(), "\"a1\"".to_owned());
/// assert_eq!(validators.get("revision").map(String::as_str), Some("17"));
/// assert_eq!(validators["etag"], "\"a1\"");
/// assert!(validators.keys().eq(["etag", "revision"]));
/// ```
// A vector, for they are few, and a tree is 4 KB of a guest.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Validators(Vec<(String, String)>);

impl Validators {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Validators(Vec::new())
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(known, _)| known.as_str().cmp(key))
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&String> {
        Some(&self.0[self.find(key).ok()?].1)
    }

    /// Whether `key` has a value.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// Gives `key` this value, and returns the one that it had.
    pub fn insert(&mut self, key: String, value: String) -> Option<String> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Removes `key`, and returns the value that it had.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        let at = self.find(key).ok()?;
        Some(self.0.remove(at).1)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All keys with their values.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.iter())
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(_, value)| value)
    }
}

/// Panics if the key has no value.
impl Index<&str> for Validators {
    type Output = String;

    fn index(&self, key: &str) -> &String {
        match self.get(key) {
            Some(value) => value,
            None => panic!("there is no validator {key:?}"),
        }
    }
}

impl fmt::Debug for Validators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

/// What [`Validators::iter`] returns.
#[derive(Debug, Clone)]
pub struct Iter<'a>(std::slice::Iter<'a, (String, String)>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a String, &'a String);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Validators {
    type Item = (&'a String, &'a String);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for Validators {
    type Item = (String, String);
    type IntoIter = std::vec::IntoIter<(String, String)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The last value of a key stands.
impl Extend<(String, String)> for Validators {
    fn extend<T: IntoIterator<Item = (String, String)>>(&mut self, more: T) {
        for (key, value) in more {
            self.insert(key, value);
        }
    }
}

impl FromIterator<(String, String)> for Validators {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(all: T) -> Self {
        let mut validators = Self::new();
        validators.extend(all);
        validators
    }
}

impl<const N: usize> From<[(String, String); N]> for Validators {
    fn from(all: [(String, String); N]) -> Self {
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_a_map_as_that_of_the_standard_library() {
        let pairs = [("b", "1"), ("a", "2"), ("c", "3"), ("a", "4"), ("", "5")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut map = BTreeMap::new();
        let mut validators = Validators::new();
        for (key, value) in pairs.clone() {
            assert_eq!(
                validators.insert(key.clone(), value.clone()),
                map.insert(key, value)
            );
        }
        assert_eq!(validators, Validators::from(pairs));
        assert_eq!(format!("{validators:?}"), format!("{map:?}"));
        assert!(validators.iter().eq(map.iter()));
        assert!(validators.values().eq(map.values()));
        assert_eq!(validators.len(), map.len());
        for key in ["", "a", "b", "c", "d"] {
            assert_eq!(validators.get(key), map.get(key), "{key}");
            assert_eq!(validators.contains_key(key), map.contains_key(key), "{key}");
            assert_eq!(validators.remove(key), map.remove(key), "{key}");
            assert!(validators.keys().eq(map.keys()), "{key}");
        }
        assert!(validators.is_empty());
    }
}
