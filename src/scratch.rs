//! A file that a producer in another process may write to, under the same rules as a stage: nobody has to clean it up.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::refresh::Refresh;
use crate::stage::Stage;

/// A small file for a producer that is another program, to hand back what is not the payload; see [`Refresh::scratch`].
#[must_use = "the file is removed when this is dropped"]
pub struct Scratch {
    stage: Stage,
}

impl Refresh {
    /// A new, empty file that belongs to this refresh: for a producer that is another program, to leave word in. On unix
    /// only this user may read it. It is removed when it is dropped, and keeps the lock until then; what a killed holder leaves, the
    /// next one removes.
    ///
    /// It is in the control directory, so it must not be renamed, and a program that outlives the holder may find it gone.
    ///
    /// ```
    /// let dir = std::env::temp_dir().join("cachelock-doc-scratch");
    /// let refresh = cachelock::Cache::open(&dir)?.entry("x")?.refresh()?;
    /// let scratch = refresh.scratch()?;
    /// std::fs::write(scratch.path(), "etag=v1")?; // done by the other program
    /// assert_eq!(scratch.read(1024)?, b"etag=v1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost), or what the system says.
    pub fn scratch(&self) -> Result<Scratch> {
        let mut stage = Stage::create(self.hold(), false)?;
        // Closed: others write to it, and a guest's open file would be in everybody's way.
        stage.seal()?;
        Ok(Scratch { stage })
    }
}

impl Scratch {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.stage.hold().control.path(self.stage.name())
    }

    /// What it holds now; nothing if the producer has removed it.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if that is more than `limit` bytes;
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if a later holder has removed it;
    /// [`NotAFile`](crate::ErrorKind::NotAFile) if it was replaced
    /// by something else; what the system says.
    pub fn read(&self, limit: usize) -> Result<Vec<u8>> {
        let hold = self.stage.hold();
        match hold
            .control
            .read(self.stage.name(), limit.saturating_add(1))?
        {
            Some(bytes) if bytes.len() > limit => Err(Error::limit(
                &self.path(),
                format!("what was left there has more than {limit} bytes"),
            )),
            Some(bytes) => Ok(bytes),
            None => match hold.lease.overtaken_by()? {
                Some(reason) => Err(hold.lease.lose(reason)),
                // The producer itself has removed it.
                None => Ok(Vec::new()),
            },
        }
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Scratch").field(&self.path()).finish()
    }
}
