//! How a publish ended, as its caller sees it.

use std::fmt;
use std::io;
use std::time::SystemTime;

use crate::error::Error;
use crate::refresh::Refresh;

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The entry's new generation: 1 for the first publish into an empty cache, then one more each time.
    pub generation: u64,
    /// The payload's length in bytes.
    pub len: u64,
    /// When it was published, by this machine's wall clock.
    pub written: SystemTime,
}

/// A publish that did not succeed.
///
/// As long as it has the [`refresh`](Self::refresh) it holds the lock: turn it into its [`error`](Self::error) before it is kept for
/// later, or boxed and returned to somebody who asks again.
///
/// ```
/// use std::io::Write;
///
/// let dir = std::env::temp_dir().join("cachelock-doc-publisherror");
/// let entry = cachelock::Cache::open(&dir)?.entry("x")?;
/// let mut refresh = entry.refresh()?;
/// refresh.expect_len(2);
/// refresh.write_all(b"{")?;
/// let failed = refresh.publish().expect_err("one byte is missing");
/// let mut refresh = failed.refresh.expect("the stage is as it was");
/// refresh.write_all(b"}")?;
/// refresh.publish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PublishError {
    /// What went wrong.
    pub error: Error,
    /// The refresh with its stage, and the lock, to be published again without producing again; `None` if that cannot succeed.
    pub refresh: Option<Box<Refresh>>,
    /// Set if the payload *was* published and only its durability is in doubt.
    pub published: Option<Published>,
}

impl fmt::Debug for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<PublishError> for Error {
    fn from(failed: PublishError) -> Self {
        failed.error
    }
}

impl From<PublishError> for io::Error {
    fn from(failed: PublishError) -> Self {
        failed.error.into()
    }
}
