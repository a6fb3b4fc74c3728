//! Reading one entry again and again, for the price of two stats while nothing changes.

use cachelock_platform::{File, Metadata};

use crate::cache::Entry;
use crate::control::found;
use crate::error::{Error, Result};
use crate::found_tag::{FoundTag, Glance, TagState, kept};
use crate::payload::known;
use crate::read::{Snapshot, Whole, look};

impl Entry {
    /// A reader that remembers what it read last.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            entry: self.clone(),
            last: None,
        }
    }
}

/// Reads one entry again and again: as long as it has not changed, that costs one stat of the payload and one of the tag,
/// whatever its size, and returns the same shared bytes. For an entry in folders the way to both is opened again, too; and where
/// no file can be kept open (in a guest, on old versions of Windows) the tag is read.
///
/// ```
/// use std::io::Write;
/// use std::sync::Arc;
///
/// let dir = std::env::temp_dir().join("cachelock-doc-reader");
/// let entry = cachelock::Cache::open(&dir)?.entry("x")?;
/// let mut refresh = entry.refresh()?;
/// refresh.write_all(b"payload")?;
/// refresh.publish()?;
///
/// let mut reader = entry.reader();
/// let first = reader.read()?.expect("published").bytes();
/// let second = reader.read()?.expect("published").bytes();
/// assert!(Arc::ptr_eq(&first, &second));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    entry: Entry,
    last: Option<Last>,
}

struct Last {
    snapshot: Snapshot,
    /// Open, so that no other file can have its identity; `None` if it must not stay open.
    _payload: Option<Box<dyn File>>,
    payload: Metadata,
    tag: FoundTag,
}

impl std::fmt::Debug for Last {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Last")
            .field("snapshot", self.snapshot.meta())
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// As [`Entry::read`].
    ///
    /// # Errors
    /// As [`Entry::read`].
    pub fn read(&mut self) -> Result<Option<Snapshot>> {
        if let Some(last) = &self.last
            && self.is_unchanged(last)?
        {
            return Ok(Some(last.snapshot.clone()));
        }
        self.last = None;
        let look = self.entry.of_key(look::<Whole>(&self.entry, Glance::Yes))?;
        let Some((snapshot, file, metadata)) = look.found.value() else {
            return Ok(None);
        };
        let payload = known(&*file, metadata)
            .map_err(|error| Error::io("look at", self.entry.path(), error))?;
        self.last = Some(Last {
            snapshot: snapshot.clone(),
            _payload: kept(file),
            payload,
            tag: look.tag,
        });
        Ok(Some(snapshot))
    }

    /// Identity, length and time of both files. The tag's, too: a refresh may extend an entry's life without touching its
    /// payload. Where no open file keeps identities from being given away, the tag is read instead: no two publishes write the
    /// same, and under one tag the payload is replaced once at most, by a file that was there beside it.
    fn is_unchanged(&self, last: &Last) -> Result<bool> {
        let same =
            |a: &Metadata, b: &Metadata| (a.id, a.len, a.modified) == (b.id, b.len, b.modified);
        let entry = &self.entry;
        let Some(root) = entry.cache.root()? else {
            return Ok(false);
        };
        let Some(folder) = root.folder(entry.cx(), &entry.name)? else {
            return Ok(false);
        };
        if !folder
            .stat(entry.name.file())
            .is_ok_and(|now| same(&now, &last.payload))
        {
            return Ok(false);
        }
        if let Some((None, _)) = &last.tag.seen {
            let now = FoundTag::read(entry.cx(), &root, &entry.name, Glance::No)?;
            return Ok(now.bytes == last.tag.bytes);
        }
        let Ok(tags) = root.tag_folder(entry.cx(), &entry.name, false) else {
            return Ok(false);
        };
        let now = tags
            .map(|tags| found(tags.stat(entry.name.file())))
            .transpose();
        let Ok(now) = now.map(Option::flatten) else {
            return Ok(false);
        };
        Ok(match (&last.tag.seen, now) {
            (Some((_, before)), Some(now)) => same(before, &now),
            (None, None) => matches!(last.tag.state, TagState::None),
            _ => false,
        })
    }
}
