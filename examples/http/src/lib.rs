//! Metadata fetched by HTTP and shared by many processes: fresh for some minutes, revalidated with its `ETag`, served stale
//! while somebody fetches and when the server is down, and "404" remembered.
//!
//! This is what a package manager or a language server does with its index, in one page.

use std::io;
use std::path::Path;
use std::time::Duration;

use cachelock::{Cache, GetError, Policy, Produced, Refresh, Snapshot, Validators};
use ureq::Agent;
use ureq::http::{StatusCode, header};

/// How long "there is no such thing" is believed.
const ABSENT_FOR: Duration = Duration::from_secs(60);

/// A cache of what HTTP servers say.
pub struct HttpCache {
    cache: Cache,
    policy: Policy,
    agent: Agent,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum FetchError {
    /// The server could not be reached.
    Http(Box<ureq::Error>),
    /// The server answered with this.
    Status(StatusCode),
    /// The answer could not be kept.
    Io(io::Error),
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FetchError::Http(error) => write!(f, "cannot fetch: {error}"),
            FetchError::Status(status) => write!(f, "the server answers {status}"),
            FetchError::Io(error) => write!(f, "cannot keep the answer: {error}"),
        }
    }
}

impl std::error::Error for FetchError {}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> Self {
        FetchError::Io(error)
    }
}

impl From<cachelock::Error> for FetchError {
    fn from(error: cachelock::Error) -> Self {
        FetchError::Io(error.into())
    }
}

impl HttpCache {
    /// The cache in `dir`, with answers fresh for `fresh_for`.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn open(dir: impl AsRef<Path>, fresh_for: Duration) -> cachelock::Result<Self> {
        let config = Agent::config_builder()
            // Every status is an answer here, and a server that hangs must not hold the lock for ever.
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Ok(HttpCache {
            cache: Cache::open(dir)?,
            policy: Policy::fresh_for(fresh_for)
                .stale_for(fresh_for)
                .error_for(Duration::from_secs(7 * 86_400)),
            agent: config.into(),
        })
    }

    /// What `url` stands for, from the cache or from its server; `None` if there is no such thing.
    ///
    /// # Errors
    /// The server's or the cache's, if there is no older answer either.
    pub fn get(&self, url: &str) -> Result<Option<Snapshot>, GetError<FetchError>> {
        // Any text can be a key, so the URL need not be made into a file name.
        let entry = self.cache.entry_for_key(url)?;
        entry.get_or_refresh(&self.policy, |refresh| self.fetch(url, refresh))
    }

    fn fetch(&self, url: &str, refresh: &mut Refresh) -> Result<Produced, FetchError> {
        let mut request = self.agent.get(url);
        let previous = refresh.previous()?;
        if let Some(etag) = previous
            .as_ref()
            .and_then(|previous| previous.meta().validators.get("etag"))
        {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let mut response = request
            .call()
            .map_err(|error| FetchError::Http(Box::new(error)))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => return Ok(Produced::NotModified),
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Produced::Absent(ABSENT_FOR)),
            status => return Err(FetchError::Status(status)),
        }
        // A connection that breaks must not publish half of a body.
        if let Some(len) = response.body().content_length() {
            refresh.expect_len(len);
        }
        let etag = response
            .headers()
            .get(header::ETAG)
            .and_then(|etag| etag.to_str().ok());
        if let Some(etag) = etag {
            refresh.set_validators(Validators::from([("etag".to_owned(), etag.to_owned())]))?;
        }
        io::copy(&mut response.body_mut().as_reader(), refresh)?;
        Ok(Produced::New)
    }
}
