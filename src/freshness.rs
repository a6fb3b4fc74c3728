//! Refreshing only what needs it: look, wait, look again under the lock.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::cache::Entry;
use crate::error::{Error, Result};
use crate::events::{Event, EventKind};
use crate::read::{Found, Meta, Snapshot, Stream};
use crate::refresh::Refresh;

/// When an entry is good enough to be returned as it is.
///
/// ```
/// use cachelock::Policy;
/// use std::time::Duration;
///
/// let policy = Policy::fresh_for(Duration::from_secs(600));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    fresh_for: Option<Duration>,
}

impl Policy {
    /// Whatever is there is fresh, however old.
    #[must_use]
    pub fn any_age() -> Self {
        Self::default()
    }

    /// Fresh for this long after it was last known to be right. An entry from the future is old: a clock was set back.
    #[must_use]
    pub fn fresh_for(duration: Duration) -> Self {
        Policy {
            fresh_for: Some(duration),
        }
    }

    fn is_fresh(&self, checked: SystemTime, now: SystemTime) -> bool {
        let Some(fresh_for) = self.fresh_for else {
            return true;
        };
        now.duration_since(checked).is_ok_and(|age| age < fresh_for)
    }
}

/// How a call that wants a fresh entry goes on; see [`Entry::begin`].
#[derive(Debug)]
#[must_use = "a refresh that is dropped publishes nothing"]
pub enum Begun {
    /// The entry is fresh, or became so while this caller waited.
    Fresh(Stream),
    /// The entry is known not to exist at its source.
    Absent,
    /// It is this caller's to refresh: it holds the lock.
    Refresh(Refresh),
}

/// Why [`Entry::get_or_refresh`] has nothing to return.
#[derive(Debug)]
pub enum GetError<E> {
    /// The cache's error.
    Cache(Error),
    /// The producer's error. The old entry stays.
    Produce(E),
}

impl<E> From<Error> for GetError<E> {
    fn from(error: Error) -> Self {
        GetError::Cache(error)
    }
}

impl<E: fmt::Display> fmt::Display for GetError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GetError::Cache(error) => error.fmt(f),
            GetError::Produce(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for GetError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GetError::Cache(error) => error.source(),
            GetError::Produce(error) => error.source(),
        }
    }
}

/// What a caller saw before it waited, to tell whether somebody else has refreshed since.
#[derive(PartialEq, Eq)]
struct Seen(Option<(Option<u64>, u128, SystemTime)>);

impl Seen {
    fn of(found: &Found<Stream>) -> Self {
        let identity = |meta: &Meta| (meta.generation, meta.hash, meta.written);
        Seen(match found {
            Found::Value(stream) => Some(identity(stream.meta())),
            Found::Missing => None,
            Found::Absent { checked, .. } => Some((None, 0, *checked)),
        })
    }
}

impl Entry {
    /// The entry if it is fresh by `policy`, else the lock and a refresh to write it to.
    ///
    /// Of all callers in all processes one gets the refresh; the others wait and get what it published. A corrupt entry counts
    /// as missing.
    ///
    /// # Errors
    /// As [`Cache::lock`](crate::Cache::lock), and what the system says while reading.
    pub fn begin(&self, policy: &Policy) -> Result<Begun> {
        let first = self.look_or_missing()?;
        let seen = Seen::of(&first);
        let fresh = |found| self.if_fresh(policy, found);
        if let Some(begun) = fresh(first) {
            return Ok(begun);
        }
        let satisfied = RefCell::new(None);
        let hold = self.cache.acquire(false, &mut |_| {
            let found = self.look_or_missing()?;
            let refreshed = Seen::of(&found) != seen;
            // What somebody published while this caller waited is as fresh as what it would fetch itself.
            let begun = if refreshed {
                self.if_fresh(&Policy::any_age(), found)
            } else {
                fresh(found)
            };
            Ok(satisfied.replace(begun).is_some() || satisfied.borrow().is_some())
        })?;
        match (hold, satisfied.into_inner()) {
            (None, Some(begun)) => {
                self.cx.emit(&Event {
                    entry: Some(self.name()),
                    ..Event::new(EventKind::RefreshSkipped, &self.cx.path)
                });
                Ok(begun)
            }
            (Some(hold), _) => Ok(Begun::Refresh(Refresh::begin(self.clone(), hold.into())?)),
            (None, None) => unreachable!("acquire is satisfied only by the look above"),
        }
    }

    /// The entry if it is fresh by `policy`; otherwise `produce` writes it, once among all callers of all processes.
    ///
    /// `None` if the entry is known not to exist at its source.
    ///
    /// ```
    /// use cachelock::{Cache, Policy};
    /// use std::io::{self, Write};
    /// use std::time::Duration;
    ///
    /// let dir = std::env::temp_dir().join("cachelock-doc-get");
    /// let entry = Cache::open(&dir)?.entry("answer")?;
    /// let policy = Policy::fresh_for(Duration::from_secs(3600));
    /// let answer = entry.get_or_refresh(&policy, |refresh| refresh.write_all(b"42"))?;
    /// assert_eq!(answer.as_deref(), Some(&b"42"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GetError::Produce`] with the producer's error; [`GetError::Cache`] as for [`Entry::begin`] and
    /// [`Refresh::publish`], and if what was just published is gone before it could be read.
    pub fn get_or_refresh<E>(
        &self,
        policy: &Policy,
        produce: impl FnOnce(&mut Refresh) -> Result<(), E>,
    ) -> Result<Option<Snapshot>, GetError<E>> {
        match self.begin(policy)? {
            Begun::Fresh(stream) => Ok(Some(stream.into_snapshot().map_err(|error| {
                Error::io("read", self.path(), error).of_key(self.key.as_ref())
            })?)),
            Begun::Absent => Ok(None),
            Begun::Refresh(mut refresh) => {
                produce(&mut refresh).map_err(GetError::Produce)?;
                refresh.publish().map_err(Error::from)?;
                Ok(self.read_back()?)
            }
        }
    }

    fn look_or_missing(&self) -> Result<Found<Stream>> {
        match self.look() {
            Err(error) if error.is_corrupt() => Ok(Found::Missing),
            found => found,
        }
    }

    fn if_fresh(&self, policy: &Policy, found: Found<Stream>) -> Option<Begun> {
        let now = self.cx.platform.wall();
        match found {
            Found::Missing => None,
            Found::Absent { checked, valid_for } => Policy::fresh_for(valid_for)
                .is_fresh(checked, now)
                .then_some(Begun::Absent),
            Found::Value(stream) => policy
                .is_fresh(stream.meta().checked, now)
                .then_some(Begun::Fresh(stream)),
        }
    }
}
