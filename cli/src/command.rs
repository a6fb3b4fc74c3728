//! Running COMMAND: its output goes to whoever wants it, and signals and a lost lease end it at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use cachelock::platform::process;
use cachelock::{Refresh, WriteLock};

use crate::control::Control;
use crate::exit::Failure;
use crate::input::{self, Message, Pieces};

/// How long COMMAND has before it is asked to end, if it may have been told by whoever told this program: its clean-up must not be
/// cut short by a second signal.
const TOLD: Duration = Duration::from_secs(1);
/// How long COMMAND has between the request to end and the end.
const GRACE: Duration = Duration::from_secs(2);
/// How often to look whether COMMAND has ended, when nothing says so and that is all there is to wait for.
const LOOK_SOON: Duration = Duration::from_millis(1);
const LOOK_LATEST: Duration = Duration::from_millis(20);
/// How often to look whether the lock is still held: the heartbeat of a long lease notices only after a third of it.
pub(crate) const CHECK_EVERY: Duration = Duration::from_millis(100);

/// What COMMAND's environment has that this program's own has not, and what it has not.
#[derive(Default)]
pub(crate) struct Environment {
    pub(crate) set: BTreeMap<OsString, OsString>,
    pub(crate) remove: Vec<OsString>,
}

/// What COMMAND runs for.
pub(crate) trait Work {
    /// Looks whether the lock is still held. A loss is said by the observer, and [`Control::check`] knows of it then.
    fn check_held(&self) -> cachelock::Result<()>;

    /// Takes a piece of what COMMAND prints, if that is not the program's own output.
    fn take(&mut self, piece: &[u8]) -> Result<(), Failure>;
}

impl Work for WriteLock {
    fn check_held(&self) -> cachelock::Result<()> {
        self.check_held()
    }

    fn take(&mut self, _piece: &[u8]) -> Result<(), Failure> {
        Ok(())
    }
}

impl Work for Refresh {
    fn check_held(&self) -> cachelock::Result<()> {
        self.check_held()
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.write_all(piece)
            .map_err(|error| Failure::io("write the payload", error))?;
        // What is too long already need not be waited for.
        Ok(self.check_len()?)
    }
}

/// Looks now and then whether the lock is still held.
pub(crate) struct Checks {
    next: Instant,
}

impl Checks {
    pub(crate) fn new() -> Self {
        Checks {
            next: Instant::now() + CHECK_EVERY,
        }
    }

    /// Looks if it is time to.
    pub(crate) fn look(&mut self, work: &dyn Work) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + CHECK_EVERY;
            // Any other error is for the next beat or the publish to say.
            let _ = work.check_held();
        }
    }
}

/// Runs `command` with the program's own input and output. Returns how it has ended, or why it was ended.
pub(crate) fn run(
    command: &[OsString],
    control: &Control,
    lock: &mut WriteLock,
) -> Result<ExitStatus, Failure> {
    let (bell, messages) = mpsc::channel();
    control.wake(bell.clone());
    control.check()?;
    let child = start(command, &Environment::default(), Stdio::inherit())?;
    let mut running = Running::new(child, messages, None);
    let rings = process::on_exit(&running.child, move || {
        // Nobody listens any more if this program was ended.
        let _ = bell.send(Message::Wake);
    });
    running.rings = rings.is_ok();
    running.finish(control, lock)
}

/// Runs `command` and gives its standard output to `refresh`. Any end but success is a failure.
pub(crate) fn produce(
    command: &[OsString],
    environment: &Environment,
    control: &Control,
    refresh: &mut Refresh,
) -> Result<(), Failure> {
    let (bell, messages) = mpsc::channel();
    control.wake(bell.clone());
    control.check()?;
    let mut child = start(command, environment, Stdio::piped())?;
    let output = child.stdout.take();
    let mut running = Running::new(child, messages, None);
    if let Some(output) = output {
        // If this fails, dropping `running` ends the child.
        let pieces = input::read_in_background(output, bell)
            .map_err(|error| Failure::Io("read from COMMAND", error))?;
        running.pieces = Some(pieces);
    }
    let status = running.finish(control, refresh)?;
    control.check()?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Failed(name(command), status))
    }
}

fn name(command: &[OsString]) -> String {
    command.first().map_or_else(String::new, |program| {
        program.to_string_lossy().into_owned()
    })
}

/// Whether COMMAND can be started at all: to be asked before anybody waits for it.
pub(crate) fn check(command: &[OsString]) -> Result<(), Failure> {
    process::can_start().map_err(|error| Failure::NotStarted(name(command), error))
}

/// On the main thread: the child dies with the thread that has started it.
fn start(words: &[OsString], environment: &Environment, output: Stdio) -> Result<Child, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::Usage("no COMMAND is given".to_owned()));
    };
    check(words)?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(output);
    for name in &environment.remove {
        command.env_remove(name);
    }
    command.envs(&environment.set);
    process::start(&mut command).map_err(|error| Failure::NotStarted(name(words), error))
}

struct Running {
    child: Child,
    messages: Receiver<Message>,
    /// While its output is read.
    pieces: Option<Pieces>,
    /// Whether its end is a message.
    rings: bool,
    status: Option<ExitStatus>,
    /// Why it must end, when it is asked to, and when it is killed.
    stopping: Option<Failure>,
    ask_at: Option<Instant>,
    kill_at: Option<Instant>,
}

impl Running {
    fn new(child: Child, messages: Receiver<Message>, pieces: Option<Pieces>) -> Self {
        Running {
            child,
            messages,
            pieces,
            rings: false,
            status: None,
            stopping: None,
            ask_at: None,
            kill_at: None,
        }
    }

    /// Until the child has ended and, if it did well, all its output is taken. Others may have inherited the output: what
    /// they write belongs to it as it would in a pipe of the shell, but they cannot hold up a failure.
    fn finish(mut self, control: &Control, work: &mut dyn Work) -> Result<ExitStatus, Failure> {
        let mut pause = LOOK_SOON;
        let mut checks = Checks::new();
        loop {
            if self.stopping.is_none() {
                checks.look(work);
            }
            if self.stopping.is_none()
                && let Err(reason) = control.check()
            {
                self.stop(reason);
            }
            if control.is_lost() {
                // There is no second left.
                self.ask_at = self.ask_at.map(|at| at.min(Instant::now()));
            }
            if is_due(&mut self.ask_at) {
                self.ask();
            }
            if is_due(&mut self.kill_at) {
                // It may have ended just now.
                let _ = self.child.kill();
            }
            if self.status.is_none() {
                self.status = self
                    .child
                    .try_wait()
                    .map_err(|error| Failure::Io("wait for COMMAND", error))?;
            }
            if let Some(status) = self.status {
                if let Some(reason) = self.stopping.take() {
                    return Err(reason);
                }
                if self.pieces.is_none() || !status.success() {
                    return Ok(status);
                }
            }
            let wait = if self.pieces.is_some() || self.rings {
                CHECK_EVERY
            } else {
                pause = (pause * 2).min(LOOK_LATEST);
                pause / 2
            };
            match self.messages.recv_timeout(wait) {
                Ok(message) => self.take(message, work),
                Err(RecvTimeoutError::Timeout) => {}
                // Not while `control` has the bell; then it is a pause.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
            }
        }
    }

    fn take(&mut self, message: Message, work: &mut dyn Work) {
        let failed = match message {
            Message::Data(piece) => {
                // What comes after a failure is thrown away, so that the child can go on to its end.
                let taken = match self.stopping {
                    None => work.take(&piece),
                    Some(_) => Ok(()),
                };
                if let Some(pieces) = &self.pieces {
                    pieces.give_back(piece);
                }
                taken
            }
            Message::End(result) => {
                self.pieces = None;
                result.map_err(|error| Failure::Io("read from COMMAND", error))
            }
            Message::Wake => Ok(()),
        };
        if let (Err(reason), None) = (failed, &self.stopping) {
            self.stop(reason);
        }
    }

    fn stop(&mut self, reason: Failure) {
        let told = matches!(&reason, Failure::Terminated(termination) if termination.is_shared());
        let patience = if told { TOLD } else { Duration::ZERO };
        self.ask_at = Some(Instant::now() + patience);
        self.stopping = Some(reason);
    }

    /// Asks the child to end.
    fn ask(&mut self) {
        if self.status.is_some() {
            return;
        }
        match process::terminate(&self.child) {
            Ok(()) => self.kill_at = Some(Instant::now() + GRACE),
            Err(error) => {
                if error.kind() != io::ErrorKind::Unsupported {
                    tracing::debug!("cannot ask COMMAND to end: {error}");
                }
                // It may have ended just now.
                let _ = self.child.kill();
            }
        }
    }
}

/// Whether it is time, and that for the first time.
fn is_due(at: &mut Option<Instant>) -> bool {
    at.take_if(|at| Instant::now() >= *at).is_some()
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Both fail only for a child that is gone.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
