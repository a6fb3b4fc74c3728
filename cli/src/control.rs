//! What can end a run from outside: a signal, or the loss of the lease. Both act at once, whatever the main thread waits
//! for.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cachelock::CancelToken;
use cachelock::platform::process::{self, Termination};

use crate::exit::Failure;
use crate::input::Message;

/// Shared by the main thread, the signals' thread and the heartbeat's.
#[derive(Default)]
pub(crate) struct Control {
    cancel: CancelToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    termination: Option<Termination>,
    lost: bool,
    /// Nothing is held that a sudden end would leave behind.
    idle: bool,
    bell: Option<Sender<Message>>,
}

impl Control {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Catches requests to end, and what would end it in the middle of a write, where there are any.
    pub(crate) fn listen(self: &Arc<Self>) {
        let control = self.clone();
        let listening = process::on_termination(move |termination| control.terminate(termination));
        if let Err(error) = listening {
            tracing::debug!("signals are not caught: {error}");
        }
        process::hear_of_children();
        if let Err(error) = process::outlive_file_size_limit() {
            tracing::debug!("a file that grows too large ends this process: {error}");
        }
    }

    fn terminate(&self, termination: Termination) {
        {
            let mut state = self.state();
            if state.idle {
                std::process::exit(termination.exit_code().into());
            }
            state.termination.get_or_insert(termination);
            ring(&state);
        }
        self.cancel.cancel();
    }

    /// The lease is lost. Whether this is the first to say so.
    pub(crate) fn lose(&self) -> bool {
        let mut state = self.state();
        ring(&state);
        !std::mem::replace(&mut state.lost, true)
    }

    /// Whether the loss of the lease was noticed, and so said.
    pub(crate) fn is_lost(&self) -> bool {
        self.state().lost
    }

    /// Ends waits for the lock.
    pub(crate) fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// From now on nothing is held, and a signal may end the process wherever it is.
    ///
    /// # Errors
    /// A signal has come before.
    pub(crate) fn idle(&self) -> Result<(), Failure> {
        self.state().idle = true;
        self.check_terminated()
    }

    /// Whether to stop, and why.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.check_terminated()?;
        if self.is_lost() {
            return Err(Failure::Lost);
        }
        Ok(())
    }

    fn check_terminated(&self) -> Result<(), Failure> {
        // The signals' thread may be late: COMMAND, which the signal was for as well, may have ended because of it by now.
        let termination = self.state().termination.or_else(process::termination);
        match termination {
            Some(termination) => Err(Failure::Terminated(termination)),
            None => Ok(()),
        }
    }

    /// Whom to wake when there is something to [`check`](Self::check).
    pub(crate) fn wake(&self, bell: Sender<Message>) {
        self.state().bell = Some(bell);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ring(state: &State) {
    if let Some(bell) = &state.bell {
        // Nobody listens any more: then nobody needs to be woken.
        let _ = bell.send(Message::Wake);
    }
}
