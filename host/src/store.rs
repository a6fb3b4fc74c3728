//! The interface on the library: what each call of a guest does.

// What is generated from `wit/` re-exports the resources.
#![allow(unreachable_pub)]

use std::io::{Read, Write};
use std::sync::Arc;

use cachelock::{Begun, Cache, PublishError, Published, Refresh, Stream, Timeout, Validators};
use wasmtime::component::Resource;

use crate::bindings::cachelock::cache::store as wit;
use crate::convert::{self, Failure};
use crate::{Caches, Grant, LEASE};

/// The most that one `read` of a snapshot returns.
const PIECE_MAX: u32 = 1024 * 1024;
/// Many times what can be kept about a payload.
const VALIDATORS_GIVEN: usize = 4096;

/// A cache that the guest has opened.
pub struct OpenCache {
    grant: Arc<Grant>,
    cache: Cache,
}

/// A payload that the guest is reading.
pub struct OpenSnapshot {
    grant: Arc<Grant>,
    stream: Stream,
}

/// A refresh of the guest.
pub struct OpenRefresh {
    grant: Arc<Grant>,
    /// `None` once it has ended.
    refresh: Option<Refresh>,
    written: u64,
}

impl OpenRefresh {
    fn usable(&mut self) -> Result<&mut Refresh, Failure> {
        Ok(self.refresh.as_mut().ok_or_else(convert::ended)?)
    }
}

impl Caches {
    fn snapshot(
        &mut self,
        grant: Arc<Grant>,
        stream: Stream,
    ) -> Result<Resource<OpenSnapshot>, Failure> {
        Ok(self.table.push(OpenSnapshot { grant, stream })?)
    }

    fn open_refresh(
        &mut self,
        grant: Arc<Grant>,
        refresh: Refresh,
    ) -> Result<Resource<OpenRefresh>, Failure> {
        if self.refreshes >= self.limits.open_refreshes {
            let text = "too many refreshes are open; end one of them".into();
            return Err(wit::Error::Limit(text).into());
        }
        let refresh = self.table.push(OpenRefresh {
            grant,
            refresh: Some(refresh),
            written: 0,
        })?;
        self.refreshes += 1;
        Ok(refresh)
    }

    /// What could be published again stays.
    fn finish(
        &mut self,
        refresh: &Resource<OpenRefresh>,
        publish: impl FnOnce(Refresh) -> Result<Published, PublishError>,
    ) -> Result<wit::Published, Failure> {
        let open = self.table.get_mut(refresh)?;
        let refresh = open.refresh.take().ok_or_else(convert::ended)?;
        let published = publish(refresh).map_err(|failed| {
            open.refresh = failed.refresh.map(|refresh| *refresh);
            open.grant.error(&failed.error)
        });
        if open.refresh.is_none() {
            self.refreshes -= 1;
        }
        let published = published?;
        Ok(wit::Published {
            generation: published.generation,
            length: published.len,
        })
    }
}

impl wit::Host for Caches {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<wit::Error> {
        match failure {
            Failure::Error(error) => Ok(error),
            Failure::Trap(trap) => Err(trap),
        }
    }
}

impl wit::HostCache for Caches {
    fn open(
        &mut self,
        name: String,
        options: wit::Options,
    ) -> Result<Resource<OpenCache>, Failure> {
        let Some(grant) = self.grants.get(&name) else {
            let text = format!("no cache {name:?} was granted to this guest");
            return Err(wit::Error::Permission(text).into());
        };
        let limits = &self.limits;
        let timeout = match options.timeout.map_or(Timeout::DEFAULT, convert::timeout) {
            Timeout::TryOnce => Timeout::TryOnce,
            Timeout::After(timeout) => timeout.min(limits.timeout).into(),
            Timeout::Infinite => limits.timeout.into(),
        };
        let lease = options.lease.map_or(LEASE, convert::millis);
        let cache = Cache::builder(&grant.dir)
            .timeout(timeout)
            .lease(lease.min(limits.lease))
            .durability(
                options
                    .durability
                    .map(convert::durability)
                    .unwrap_or_default(),
            )
            .cancel(self.cancel.clone())
            .open()
            .map_err(|error| grant.error(&error))?;
        let grant = grant.clone();
        Ok(self.table.push(OpenCache { grant, cache })?)
    }

    fn read(
        &mut self,
        cache: Resource<OpenCache>,
        entry: String,
    ) -> Result<Option<Resource<OpenSnapshot>>, Failure> {
        let open = self.table.get(&cache)?;
        let grant = open.grant.clone();
        let stream = open.cache.entry(&entry).and_then(|entry| entry.open());
        match stream.map_err(|error| grant.error(&error))? {
            Some(stream) => self.snapshot(grant, stream).map(Some),
            None => Ok(None),
        }
    }

    fn begin(
        &mut self,
        cache: Resource<OpenCache>,
        entry: String,
        policy: wit::Policy,
    ) -> Result<wit::Begun, Failure> {
        let open = self.table.get(&cache)?;
        let grant = open.grant.clone();
        let policy = convert::policy(policy);
        let begun = open
            .cache
            .entry(&entry)
            .and_then(|entry| entry.begin(&policy));
        match begun.map_err(|error| grant.error(&error))? {
            Begun::Fresh(stream) => self.snapshot(grant, stream).map(wit::Begun::Fresh),
            Begun::Stale(stream, _) => self.snapshot(grant, stream).map(wit::Begun::Stale),
            Begun::Absent => Ok(wit::Begun::Absent),
            Begun::Refresh(refresh) => self.open_refresh(grant, refresh).map(wit::Begun::Refresh),
        }
    }

    fn refresh(
        &mut self,
        cache: Resource<OpenCache>,
        entry: String,
    ) -> Result<Resource<OpenRefresh>, Failure> {
        let open = self.table.get(&cache)?;
        let grant = open.grant.clone();
        let refresh = open.cache.entry(&entry).and_then(|entry| entry.refresh());
        let refresh = refresh.map_err(|error| grant.error(&error))?;
        self.open_refresh(grant, refresh)
    }

    fn drop(&mut self, cache: Resource<OpenCache>) -> wasmtime::Result<()> {
        self.table.delete(cache)?;
        Ok(())
    }
}

impl wit::HostSnapshot for Caches {
    fn metadata(&mut self, snapshot: Resource<OpenSnapshot>) -> wasmtime::Result<wit::Metadata> {
        Ok(convert::metadata(self.table.get(&snapshot)?.stream.meta()))
    }

    fn read(&mut self, snapshot: Resource<OpenSnapshot>, length: u32) -> Result<Vec<u8>, Failure> {
        let open = self.table.get_mut(&snapshot)?;
        let left = open.stream.meta().len.min(length.min(PIECE_MAX).into());
        let mut bytes = vec![0; left as usize];
        let read = open.stream.read(&mut bytes);
        bytes.truncate(read.map_err(|error| open.grant.io_error(error))?);
        Ok(bytes)
    }

    fn drop(&mut self, snapshot: Resource<OpenSnapshot>) -> wasmtime::Result<()> {
        self.table.delete(snapshot)?;
        Ok(())
    }
}

impl wit::HostRefresh for Caches {
    fn previous(
        &mut self,
        refresh: Resource<OpenRefresh>,
    ) -> Result<Option<Resource<OpenSnapshot>>, Failure> {
        let open = self.table.get_mut(&refresh)?;
        let grant = open.grant.clone();
        let previous = open.usable()?.previous();
        match previous.map_err(|error| grant.error(&error))? {
            Some(stream) => self.snapshot(grant, stream).map(Some),
            None => Ok(None),
        }
    }

    fn expect_length(
        &mut self,
        refresh: Resource<OpenRefresh>,
        length: u64,
    ) -> Result<(), Failure> {
        self.table.get_mut(&refresh)?.usable()?.expect_len(length);
        Ok(())
    }

    fn set_validators(
        &mut self,
        refresh: Resource<OpenRefresh>,
        validators: wit::Validators,
    ) -> Result<(), Failure> {
        // Sorting them takes longer than that they are many, and no fuel is counted meanwhile.
        let given = validators.len();
        if given > VALIDATORS_GIVEN {
            let text = format!("{given} validators are more than anything could keep");
            return Err(wit::Error::Limit(text).into());
        }
        let open = self.table.get_mut(&refresh)?;
        let set = open
            .usable()?
            .set_validators(Validators::from_iter(validators));
        Ok(set.map_err(|error| open.grant.error(&error))?)
    }

    fn write(&mut self, refresh: Resource<OpenRefresh>, bytes: Vec<u8>) -> Result<(), Failure> {
        let most = self.limits.payload_len;
        let open = self.table.get_mut(&refresh)?;
        let refresh = open.refresh.as_mut().ok_or_else(convert::ended)?;
        let written = open.written.saturating_add(bytes.len() as u64);
        if written > most {
            let text = format!("the payload is longer than the {most} bytes that the host allows");
            return Err(wit::Error::Limit(text).into());
        }
        refresh
            .write_all(&bytes)
            .map_err(|error| open.grant.io_error(error))?;
        open.written = written;
        Ok(())
    }

    fn restart(&mut self, refresh: Resource<OpenRefresh>) -> Result<(), Failure> {
        let open = self.table.get_mut(&refresh)?;
        let restarted = open.usable()?.restart();
        restarted.map_err(|error| open.grant.error(&error))?;
        open.written = 0;
        Ok(())
    }

    fn heartbeat(&mut self, refresh: Resource<OpenRefresh>) -> Result<(), Failure> {
        let open = self.table.get_mut(&refresh)?;
        let beaten = open.usable()?.heartbeat();
        Ok(beaten.map_err(|error| open.grant.error(&error))?)
    }

    fn heartbeat_due(&mut self, refresh: Resource<OpenRefresh>) -> Result<Option<u64>, Failure> {
        let due = self.table.get_mut(&refresh)?.usable()?.heartbeat_due();
        Ok(due.map(convert::until))
    }

    fn publish(&mut self, refresh: Resource<OpenRefresh>) -> Result<wit::Published, Failure> {
        self.finish(&refresh, Refresh::publish)
    }

    fn publish_not_modified(
        &mut self,
        refresh: Resource<OpenRefresh>,
    ) -> Result<wit::Published, Failure> {
        self.finish(&refresh, Refresh::publish_not_modified)
    }

    fn publish_absent(
        &mut self,
        refresh: Resource<OpenRefresh>,
        valid_for: u64,
    ) -> Result<wit::Published, Failure> {
        self.finish(&refresh, |refresh| {
            refresh.publish_absent(convert::millis(valid_for))
        })
    }

    fn abandon(&mut self, refresh: Resource<OpenRefresh>) -> Result<(), Failure> {
        let open = self.table.get_mut(&refresh)?;
        let refresh = open.refresh.take().ok_or_else(convert::ended)?;
        self.refreshes -= 1;
        Ok(refresh
            .abandon()
            .map_err(|error| open.grant.error(&error))?)
    }

    fn drop(&mut self, refresh: Resource<OpenRefresh>) -> wasmtime::Result<()> {
        if self.table.delete(refresh)?.refresh.is_some() {
            self.refreshes -= 1;
        }
        Ok(())
    }
}
