//! The resource `refresh`: there until it is published or abandoned.

use std::cell::RefCell;

use cachelock::{Produced, Refresh, Validators};

use crate::bindings::exports::cachelock::cache::store as wit;
use crate::{convert, snapshot};

/// `None` once it has ended.
pub(crate) struct RefreshResource(RefCell<Option<Refresh>>);

pub(crate) fn resource(refresh: Refresh) -> wit::Refresh {
    wit::Refresh::new(RefreshResource(RefCell::new(Some(refresh))))
}

impl RefreshResource {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut Refresh) -> Result<T, wit::Error>,
    ) -> Result<T, wit::Error> {
        act(self.0.borrow_mut().as_mut().ok_or_else(convert::ended)?)
    }

    fn take(&self) -> Result<Refresh, wit::Error> {
        self.0.borrow_mut().take().ok_or_else(convert::ended)
    }

    /// What could be published again stays.
    fn finish(&self, produced: Produced) -> Result<wit::Published, wit::Error> {
        match self.take()?.finish(produced) {
            Ok(published) => Ok(wit::Published {
                generation: published.generation,
                length: published.len,
            }),
            Err(failed) => {
                *self.0.borrow_mut() = failed.refresh.map(|refresh| *refresh);
                Err(convert::error(failed.error))
            }
        }
    }
}

impl wit::GuestRefresh for RefreshResource {
    #[inline(never)]
    fn previous(&self) -> Result<Option<wit::Snapshot>, wit::Error> {
        self.with(|refresh| Ok(refresh.previous().map_err(convert::error)?.map(snapshot)))
    }

    #[inline(never)]
    fn expect_length(&self, length: u64) -> Result<(), wit::Error> {
        self.with(|refresh| {
            refresh.expect_len(length);
            Ok(())
        })
    }

    #[inline(never)]
    fn set_validators(&self, validators: wit::Validators) -> Result<(), wit::Error> {
        let validators: Validators = validators.into_iter().collect();
        self.with(|refresh| refresh.set_validators(validators).map_err(convert::error))
    }

    #[inline(never)]
    fn write(&self, bytes: Vec<u8>) -> Result<(), wit::Error> {
        self.with(|refresh| refresh.add(&bytes).map_err(convert::error))
    }

    #[inline(never)]
    fn restart(&self) -> Result<(), wit::Error> {
        self.with(|refresh| refresh.restart().map_err(convert::error))
    }

    #[inline(never)]
    fn heartbeat(&self) -> Result<(), wit::Error> {
        self.with(|refresh| refresh.heartbeat().map_err(convert::error))
    }

    #[inline(never)]
    fn heartbeat_due(&self) -> Result<Option<u64>, wit::Error> {
        self.with(|refresh| Ok(refresh.heartbeat_due().map(convert::until)))
    }

    #[inline(never)]
    fn publish(&self) -> Result<wit::Published, wit::Error> {
        self.finish(Produced::New)
    }

    #[inline(never)]
    fn publish_not_modified(&self) -> Result<wit::Published, wit::Error> {
        self.finish(Produced::NotModified)
    }

    #[inline(never)]
    fn publish_absent(&self, valid_for: u64) -> Result<wit::Published, wit::Error> {
        self.finish(Produced::Absent(convert::millis(valid_for)))
    }

    #[inline(never)]
    fn abandon(&self) -> Result<(), wit::Error> {
        self.take()?.abandon().map_err(convert::error)
    }
}
