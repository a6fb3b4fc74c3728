//! Refreshing only what needs it: look, wait, look again under the lock.
//!
//! | the entry is | this caller |
//! | --- | --- |
//! | fresh | takes it |
//! | stale, within `stale_for` | tries the lock once: refreshes if it is free, else takes the old payload at once |
//! | missing or too old | waits for the lock, and looks again: most often somebody has refreshed meanwhile |
//!
//! When waiting or refreshing fails, `error_for` decides whether the old payload is better than the error.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::cache::Entry;
use crate::context::TELLS;
use crate::error::{Error, Result};
use crate::events::{Event, EventKind};
use crate::lock::{Acquired, How, Look};
use crate::meta::Meta;
use crate::policy::{Freshness, Policy};
use crate::publish::publish;
use crate::published::{PublishError, Published};
use crate::read::{Found, Snapshot};
use crate::refresh::Refresh;
use crate::stream::Stream;

/// How a call that wants a fresh entry goes on; see [`Entry::begin`].
#[derive(Debug)]
#[must_use = "a refresh that is dropped publishes nothing"]
pub enum Begun {
    /// The entry is fresh, or became so while this caller waited.
    Fresh(Stream),
    /// The entry is stale, and the policy lets it be served: somebody else is refreshing it, or this error kept this caller
    /// from doing so.
    Stale(Stream, Option<Error>),
    /// The entry is known not to exist at its source.
    Absent,
    /// It is this caller's to refresh: it holds the lock.
    Refresh(Refresh),
}

impl Begun {
    fn generation(&self) -> Option<u64> {
        match self {
            Begun::Fresh(stream) | Begun::Stale(stream, _) => stream.meta().generation,
            Begun::Absent | Begun::Refresh(_) => None,
        }
    }
}

/// What a producer has found out; `()` is [`Produced::New`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Produced {
    /// A new payload: what was written to the refresh.
    New,
    /// The payload that is there is still right. Its freshness starts anew, its bytes are not touched.
    NotModified,
    /// The entry does not exist at its source. That is believed for this long.
    Absent(Duration),
}

impl From<()> for Produced {
    fn from((): ()) -> Self {
        Produced::New
    }
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
struct Seen(Option<(Option<u64>, u128, SystemTime, SystemTime)>);

impl Seen {
    fn of(found: &Found<Stream>) -> Self {
        // `checked` moves when a producer says "not modified", too.
        let identity = |meta: &Meta| (meta.generation, meta.hash, meta.written, meta.checked);
        Seen(match found {
            Found::Value(stream) => Some(identity(stream.meta())),
            Found::Missing => None,
            Found::Absent { checked, .. } => Some((None, 0, *checked, *checked)),
        })
    }
}

/// What a policy makes of what was found.
enum Verdict {
    /// There is nothing to do.
    Done(Begun),
    /// Worth a refresh if nobody else is at it; this is returned otherwise.
    Try(Begun),
    /// There is nothing to return without a refresh. A payload that is too old is kept for its producer.
    Must(Option<Stream>),
}

impl Entry {
    /// The entry if it is fresh by `policy`, else the lock and a refresh to write it to.
    ///
    /// Of all callers in all processes one gets the refresh; the others wait and get what it published, or get the old
    /// payload at once where the policy has a [`stale_for`](Policy::stale_for). A corrupt entry counts as missing.
    ///
    /// Whoever cannot produce the payload should ask [`Entry::stale_if_error`], as [`Entry::get_or_refresh`] does.
    ///
    /// ```
    /// use cachelock::{Begun, Cache, Policy};
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    ///
    /// let dir = std::env::temp_dir().join("cachelock-doc-begin");
    /// let entry = Cache::open(&dir)?.entry("log")?;
    /// match entry.begin(&Policy::fresh_for(Duration::from_secs(60)))? {
    ///     Begun::Fresh(mut stream) | Begun::Stale(mut stream, _) => {
    ///         std::io::copy(&mut stream, &mut std::io::sink())?; // in pieces, with constant memory
    ///     }
    ///     Begun::Absent => println!("known not to exist"),
    ///     Begun::Refresh(mut refresh) => {
    ///         refresh.write_all(b"produced in pieces")?;
    ///         refresh.publish()?;
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::lock`](crate::Cache::lock), and what the system says while reading.
    pub fn begin(&self, policy: &Policy) -> Result<Begun> {
        let first = self.look_or_missing()?;
        let seen = Seen::of(&first);
        let (fallback, early) = match self.judge(policy, first) {
            Verdict::Done(begun) => return Ok(begun),
            Verdict::Try(fallback) => {
                let early = matches!(fallback, Begun::Fresh(_));
                (Some(fallback), early)
            }
            Verdict::Must(_) => (None, false),
        };

        let satisfied = RefCell::new(None);
        let previous = RefCell::new(None);
        let mut look = |_: &_| {
            let found = self.look_or_missing()?;
            let refreshed = Seen::of(&found) != seen;
            // What somebody published while this caller waited is as fresh as what it would fetch itself.
            let verdict = if refreshed {
                Self::as_it_is(found)
            } else {
                self.judge(policy, found)
            };
            match verdict {
                Verdict::Done(begun) if refreshed || !early => {
                    *satisfied.borrow_mut() = Some(begun)
                }
                Verdict::Done(Begun::Fresh(stream))
                | Verdict::Try(Begun::Fresh(stream) | Begun::Stale(stream, _)) => {
                    *previous.borrow_mut() = Some(stream);
                }
                Verdict::Must(stream) => *previous.borrow_mut() = stream,
                Verdict::Done(_) | Verdict::Try(_) => {}
            }
            Ok(satisfied.borrow().is_some())
        };
        let acquired = match fallback {
            Some(fallback) => match self.acquire_or(fallback, &mut look)? {
                Ok(acquired) => acquired,
                Err(fallback) => return Ok(fallback),
            },
            None => match self.cache.acquire(How::Wait, &mut look) {
                Ok(acquired) => acquired,
                Err(error) if error.is_cancelled() => return Err(error),
                Err(error) => return self.begin_stale(policy, error),
            },
        };
        match (acquired, satisfied.into_inner()) {
            (Acquired::Satisfied { waited }, Some(begun)) => {
                self.cx().emit(&Event {
                    entry: Some(self.name()),
                    waited,
                    generation: begun.generation(),
                    ..Event::new(EventKind::RefreshSkipped, &self.cx().path)
                });
                Ok(begun)
            }
            (Acquired::Held(hold), _) => match Refresh::begin(self.clone(), hold) {
                Ok(refresh) => {
                    let previous = previous.into_inner();
                    Ok(Begun::Refresh(refresh.with_previous(previous)))
                }
                Err(error) => self.begin_stale(policy, error),
            },
            (Acquired::Satisfied { .. }, None) => {
                unreachable!("acquire is satisfied only by the look above")
            }
        }
    }

    /// No refresh can be had: an older payload, or the error.
    fn begin_stale(&self, policy: &Policy, error: Error) -> Result<Begun> {
        match self.stale_if_error(policy, &error) {
            Some(stream) => Ok(Begun::Stale(stream, Some(error))),
            None => Err(error),
        }
    }

    /// The lock if it is free, else `fallback`.
    fn acquire_or(&self, fallback: Begun, look: &mut Look<'_>) -> Result<Result<Acquired, Begun>> {
        let error = match self.cache.acquire(How::Try, look) {
            Ok(acquired) => return Ok(Ok(acquired)),
            Err(error) => error,
        };
        // It was drawn, and need not wait for what is fresh.
        let Begun::Stale(stream, _) = fallback else {
            return Ok(Err(fallback));
        };
        if error.is_cancelled() {
            return Err(error);
        }
        if error.is_timeout() {
            self.say_stale(None);
            return Ok(Err(Begun::Stale(stream, None)));
        }
        self.say_stale(Some(&error));
        Ok(Err(Begun::Stale(stream, Some(error))))
    }

    /// After a refresh has failed: the payload that is there, if it is fresh (it was to be refreshed early, or somebody else
    /// has done it) or `policy` lets it be served all the same. Then `why` is told to observers, with the event
    /// `served_stale`.
    pub fn stale_if_error(&self, policy: &Policy, why: &dyn fmt::Display) -> Option<Stream> {
        // The error that led here says more than another one now.
        let Ok(Found::Value(stream)) = self.look() else {
            return None;
        };
        match self.freshness(policy, stream.meta()) {
            Freshness::Fresh | Freshness::Early => {}
            Freshness::Stale { if_error: true, .. } => self.say_stale(Some(why)),
            Freshness::Stale { .. } => return None,
        }
        Some(stream)
    }

    /// The entry if it is fresh by `policy`; otherwise `produce` makes it, once among all callers of all processes.
    ///
    /// The producer writes a new payload, or answers [`Produced::NotModified`] or [`Produced::Absent`]. What it wants to
    /// remember for its next run it gives to [`Refresh::set_validators`], and finds it in [`Refresh::previous`] then.
    ///
    /// `None` if the entry is known not to exist at its source.
    ///
    /// ```
    /// use cachelock::{Cache, Policy, Produced, Validators};
    /// use std::io::{self, Write};
    /// use std::time::Duration;
    ///
    /// /// Stands for a request with `If-None-Match`.
    /// fn fetch(known: Option<&str>) -> Option<(&'static str, &'static [u8])> {
    ///     (known != Some("v1")).then_some(("v1", b"42"))
    /// }
    ///
    /// let dir = std::env::temp_dir().join("cachelock-doc-get");
    /// let entry = Cache::open(&dir)?.entry("answer")?;
    /// let policy = Policy::fresh_for(Duration::from_secs(3600)).error_for(Duration::from_secs(86_400));
    /// let answer = entry.get_or_refresh(&policy, |refresh| -> io::Result<Produced> {
    ///     let previous = refresh.previous()?;
    ///     let etag = previous.as_ref().and_then(|previous| previous.meta().validators.get("etag"));
    ///     let Some((etag, body)) = fetch(etag.map(String::as_str)) else {
    ///         return Ok(Produced::NotModified);
    ///     };
    ///     refresh.write_all(body)?;
    ///     refresh.set_validators(Validators::from([("etag".into(), etag.into())]))?;
    ///     Ok(Produced::New)
    /// })?;
    /// assert_eq!(answer.as_deref(), Some(&b"42"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GetError::Produce`] with the producer's error; [`GetError::Cache`] as for [`Entry::begin`] and
    /// [`Refresh::publish`], and if what was just published is gone before it could be read. None of these within the
    /// policy's [`error_for`](Policy::error_for), while there is a payload; a cancelled wait is always an error.
    pub fn get_or_refresh<A: Into<Produced>, E>(
        &self,
        policy: &Policy,
        produce: impl FnOnce(&mut Refresh) -> Result<A, E>,
    ) -> Result<Option<Snapshot>, GetError<E>> {
        let mut refresh = match self.begin(policy)? {
            Begun::Fresh(stream) | Begun::Stale(stream, _) => {
                return Ok(Some(stream.into_snapshot()?));
            }
            Begun::Absent => return Ok(None),
            Begun::Refresh(refresh) => refresh,
        };
        let error = match produce(&mut refresh) {
            Ok(answer) => match self.finish(refresh, answer.into()) {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) if error.is_cancelled() => return Err(error.into()),
                Err(error) => GetError::Cache(error),
            },
            Err(error) => {
                drop(refresh);
                GetError::Produce(error)
            }
        };
        let why: &dyn fmt::Display = match &error {
            GetError::Cache(error) => error,
            GetError::Produce(_) => &"the producer failed",
        };
        match self.stale_if_error(policy, why) {
            Some(stream) => Ok(Some(stream.into_snapshot()?)),
            None => Err(error),
        }
    }

    /// Publishes the answer; returns what the entry is then.
    fn finish(&self, refresh: Refresh, produced: Produced) -> Result<Option<Snapshot>> {
        refresh.finish(produced)?;
        match produced {
            Produced::Absent(_) => Ok(None),
            Produced::New | Produced::NotModified => self.read_back(),
        }
    }

    fn say_stale(&self, why: Option<&dyn fmt::Display>) {
        let detail = why.filter(|_| TELLS).map(ToString::to_string);
        self.cx().emit(&Event {
            entry: Some(self.name()),
            detail: detail.as_deref(),
            ..Event::new(EventKind::ServedStale, &self.cx().path)
        });
    }

    fn look_or_missing(&self) -> Result<Found<Stream>> {
        match self.look() {
            Err(error) if error.is_corrupt() => Ok(Found::Missing),
            found => found,
        }
    }

    fn freshness(&self, policy: &Policy, meta: &Meta) -> Freshness {
        let platform = &self.cx().platform;
        // 53 bits, as many as a double holds; from (0, 1]. Without randomness nobody is drawn.
        let chance = || {
            let bits = platform.random().map_or(u64::MAX, |random| random as u64) >> 11;
            (bits + 1) as f64 / (1_u64 << 53) as f64
        };
        policy.judge(meta.checked, meta.took, platform.wall(), chance)
    }

    fn judge(&self, policy: &Policy, found: Found<Stream>) -> Verdict {
        match found {
            Found::Missing => Verdict::Must(None),
            Found::Absent { checked, valid_for } => {
                match Policy::fresh_for(valid_for).judge(
                    checked,
                    None,
                    self.cx().platform.wall(),
                    || 1.0,
                ) {
                    Freshness::Fresh | Freshness::Early => Verdict::Done(Begun::Absent),
                    Freshness::Stale { .. } => Verdict::Must(None),
                }
            }
            Found::Value(stream) => match self.freshness(policy, stream.meta()) {
                Freshness::Fresh => Verdict::Done(Begun::Fresh(stream)),
                Freshness::Early => Verdict::Try(Begun::Fresh(stream)),
                Freshness::Stale {
                    while_revalidating: true,
                    ..
                } => Verdict::Try(Begun::Stale(stream, None)),
                Freshness::Stale { .. } => Verdict::Must(Some(stream)),
            },
        }
    }

    /// The verdict on what was published just now.
    fn as_it_is(found: Found<Stream>) -> Verdict {
        match found {
            Found::Missing => Verdict::Must(None),
            Found::Absent { .. } => Verdict::Done(Begun::Absent),
            Found::Value(stream) => Verdict::Done(Begun::Fresh(stream)),
        }
    }
}

impl Refresh {
    /// Publishes what a producer has answered: [`Refresh::publish`], [`Refresh::publish_not_modified`] or
    /// [`Refresh::publish_absent`].
    ///
    /// # Errors
    /// As those.
    pub fn finish(self, produced: Produced) -> Result<Published, PublishError> {
        publish(self, produced)
    }
}
