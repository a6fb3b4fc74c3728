//! Becoming the holder: steps 2 to 4 of acquiring, from the claim to the rename of `head`.

use std::io;
use std::time::Duration;

use super::claim::{Claim, Kind, RECORD_READ};
use super::expiry::{self, Sight};
use super::lease::Lease;
use super::want;
use crate::context::TELLS;
use crate::control::{self, Control, HEAD};
use crate::error::{Error, Result};
use crate::events::{Event, EventKind};
use crate::mutation::Mutation;
use crate::wait::Waiter;

/// Epochs are lengths of a file, so they end where file offsets do.
const EPOCH_MAX: u64 = i64::MAX as u64;

/// A claim of ours that is not the holder's yet.
pub(super) struct Attempt<'a> {
    control: &'a Control,
    claim: Claim,
}

pub(super) struct Acquired {
    pub(super) lease: Lease,
    waited_out: Option<Claim>,
    removed: usize,
}

impl<'a> Attempt<'a> {
    /// Step 2: claims the epoch after the last one; `None` if somebody else did.
    pub(super) fn start(control: &'a Control, kind: Kind, sight: &Sight) -> Result<Option<Self>> {
        let cx = &control.cx;
        let epoch = sight.last + 1;
        if epoch >= EPOCH_MAX {
            let reason =
                "its epochs are used up; delete the control directory while nobody uses the cache";
            return Err(Error::limit(&control.path(HEAD), reason));
        }
        let name = control::claim(epoch);
        let gated = matches!(kind, Kind::Gated(_));
        let mode = if gated {
            control::UNWRITTEN_GATED
        } else {
            control::PRIVATE
        };
        let Some(file) = control.create_new(&name, mode)? else {
            return Ok(None);
        };
        let identity = cx.platform.identity();
        let nonce = cx
            .platform
            .random()
            .map_err(|error| control.failed("draw a random name for", &name, error));
        let claim = Claim {
            epoch,
            nonce: *nonce.as_ref().unwrap_or(&0),
            kind,
            released: false,
            beat: 0,
            lease: cx.options.lease,
            since: cx.platform.wall(),
            pid: identity.pid,
            boot: identity.boot,
            host: identity.host,
        };
        let attempt = Attempt { control, claim };
        let mut written = nonce.and_then(|_| control.write(&*file, &name, &attempt.claim.encode()));
        if gated && written.is_ok() {
            written = file
                .set_mode(control::PRIVATE)
                .map_err(|error| control.failed("set the mode of", &name, error));
        }
        drop(file);
        match written {
            Ok(()) => Ok(Some(attempt)),
            Err(error) => {
                attempt.give_up();
                // Where files are opened by name for each call: others have left this epoch behind, and removed the claim.
                if super::is_gone(&error) {
                    return Ok(None);
                }
                Err(error)
            }
        }
    }

    /// Steps 3 and 4; `None` if overtaken meanwhile. Waits for whoever has one of the files open where that is in the way.
    pub(super) fn finish(self, waiter: &mut Waiter<'_>) -> Result<Option<Acquired>> {
        match self.become_holder(waiter) {
            Ok(Some(names)) => {
                let (removed, waited_out) = self.collect(&names);
                let lease = Lease::new(self.control.clone(), self.claim);
                Ok(Some(Acquired {
                    lease,
                    waited_out,
                    removed,
                }))
            }
            Ok(None) => {
                self.give_up();
                Ok(None)
            }
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    /// The fence, the next head, the check, the rename. Returns the last listing, or `None` if overtaken.
    fn become_holder(&self, waiter: &mut Waiter<'_>) -> Result<Option<Vec<String>>> {
        let control = self.control;
        let cx = &control.cx;
        let late_fence = cx.mutated(Mutation::HeadBeforeFence);
        let mut names = if late_fence {
            Vec::new()
        } else {
            self.fence(waiter)?
        };
        let name = control::next_head(self.claim.epoch, self.claim.nonce);
        let file = control.create_unique(&name)?;
        let mut made = file.set_len(self.claim.epoch);
        if control.is_remote() && made.is_ok() {
            made = file.sync();
        }
        drop(file);
        match made {
            Ok(()) => {}
            // Fenced; seen here where files are opened by name for each call.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(control.failed("make", &name, error)),
        }
        if !cx.mutated(Mutation::HeadNotChecked)
            && (control.exists(&control::claim(self.claim.epoch + 1))?
                || control.head()? >= self.claim.epoch)
        {
            return Ok(None);
        }
        let rename = || control.dir.rename(&name, &*control.dir, HEAD);
        match control.patiently(HEAD, waiter, rename)? {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(control.failed("rename the next head to", HEAD, error));
            }
        }
        if late_fence {
            names = self.fence(waiter)?;
        }
        Ok(Some(names))
    }

    /// Step 3: removes what earlier epochs could still rename. Returns the listing that showed none of it, the names that
    /// were removed added at its end.
    fn fence(&self, waiter: &mut Waiter<'_>) -> Result<Vec<String>> {
        let one_epoch = self.control.cx.mutated(Mutation::FenceOneEpoch);
        let is_stale = |name: &str| match control::kind_of(name) {
            control::Kind::Fenced(epoch) if one_epoch => epoch + 1 == self.claim.epoch,
            control::Kind::Fenced(epoch) => epoch < self.claim.epoch,
            _ => false,
        };
        let mut removed = Vec::new();
        loop {
            let mut names = self.control.list()?;
            let stale: Vec<_> = names
                .iter()
                .filter(|name| is_stale(name))
                .cloned()
                .collect();
            if stale.is_empty() {
                names.append(&mut removed);
                return Ok(names);
            }
            for name in stale {
                self.control.take_away(&name, waiter)?;
                removed.push(name);
            }
        }
    }

    /// After acquiring: the claims of earlier epochs, abandoned wants, and what a power loss has left. Best effort; the next
    /// holder tries again.
    fn collect(&self, names: &[String]) -> (usize, Option<Claim>) {
        let control = self.control;
        let mut removed = 0;
        let mut last: Option<Claim> = None;
        // Stages and next heads of this epoch or a later one have outlived, in a power loss, the claims and the head that they
        // came after. Their makers are dead: the names were there before the check has found no next claim and a head below
        // this epoch, and a claim goes only when the head has reached it. So without the check nothing could be told. And
        // they have a nonce: nobody makes them again. A later claim that a power loss has left has none, and somebody may
        // have claimed that epoch since the listing; it stays until the head has passed it.
        let unchecked = control.cx.mutated(Mutation::HeadNotChecked)
            || control.cx.mutated(Mutation::HeadBeforeFence);
        let later_claims = control.cx.mutated(Mutation::LaterClaimsCollected);
        let ours = control::next_head(self.claim.epoch, self.claim.nonce);
        for name in names {
            match control::kind_of(name) {
                control::Kind::Claim(epoch) if epoch < self.claim.epoch => {
                    let bytes = control.read(name, RECORD_READ).ok().flatten();
                    let claim = bytes.and_then(|bytes| Claim::decode(&bytes).ok());
                    if claim.as_ref().is_some_and(|claim| {
                        last.as_ref().is_none_or(|last| claim.epoch > last.epoch)
                    }) {
                        last = claim;
                    }
                    removed += usize::from(control.unlink(name).unwrap_or(false));
                }
                control::Kind::Fenced(epoch) if epoch < self.claim.epoch => removed += 1,
                control::Kind::Fenced(_) if !unchecked && *name != ours => {
                    removed += usize::from(control.unlink(name).unwrap_or(false));
                }
                control::Kind::Claim(epoch) if later_claims && epoch > self.claim.epoch => {
                    let _ = control.unlink(name);
                }
                _ => {}
            }
        }
        want::sweep(control, self.claim.epoch, control.cx.options.lease, names);
        (removed, last)
    }

    /// Leaves no file that could be renamed, and no epoch that could be claimed again.
    fn give_up(mut self) {
        let control = self.control;
        let _ = control.unlink(&control::next_head(self.claim.epoch, self.claim.nonce));
        let reached = control.head().is_ok_and(|head| head >= self.claim.epoch);
        // An error here leaves a claim that expires: nobody is blocked for longer than that.
        if reached || control.cx.mutated(Mutation::LoserUnlinks) {
            let _ = control.unlink(&control::claim(self.claim.epoch));
        } else {
            let _ = expiry::mark_released(control, &mut self.claim);
        }
    }
}

impl Acquired {
    pub(super) fn announce(&self, overtakes: Option<Duration>) {
        if !TELLS {
            return;
        }
        let control = self.lease.control();
        let event = |kind| Event {
            epoch: Some(self.lease.epoch),
            ..Event::new(kind, &control.cx.path)
        };
        let holder = self.waited_out.as_ref().map(Claim::holder);
        if let Some(stood_still) = overtakes {
            control.cx.emit(&Event {
                held: Some(stood_still),
                holder: holder.as_ref(),
                ..event(EventKind::LeaseTakenOver)
            });
        }
        if self.removed > 0 {
            let detail = format!("removed {} stray files", self.removed);
            control.cx.emit(&Event {
                detail: Some(&detail),
                ..event(EventKind::Recovered)
            });
        }
    }
}
