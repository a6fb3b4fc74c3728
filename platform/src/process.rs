//! Child processes and signals: what the program `cachelock` needs from its target and the library does not.
//!
//! The library never touches signals and never starts a process. Every function here exists on every target; what the
//! target cannot do is [`Unsupported`](io::ErrorKind::Unsupported), or, where that is said, nothing.

use std::io;
use std::process::{Child, Command, ExitStatus};

/// A request to end, as a person or the system makes it. Windows has events of the console for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Termination {
    /// `SIGINT`, on Windows too: Ctrl-C.
    Interrupt,
    /// `SIGTERM`: the polite `kill`. On Windows Ctrl-Break, the one event that a program can send to another.
    Terminate,
    /// `SIGHUP`: the terminal is gone. On Windows its window is being closed, or the session ends.
    Hangup,
}

impl Termination {
    /// The exit code by which a shell learns of it: 128 and the signal's number.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::Hangup => 129,
        }
    }

    /// Whether the programs that this one has started may have got it, too: a terminal sends Ctrl-C, and that it is gone, to all
    /// programs in its foreground; `kill` sends to one alone. On Windows each event is for all that share the console.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        cfg!(windows) || matches!(self, Self::Interrupt | Self::Hangup)
    }
}

/// Whether this target can start programs at all.
///
/// # Errors
/// `Unsupported`, and why.
pub fn can_start() -> io::Result<()> {
    backend::can_start()
}

/// Starts `command`. The child is killed when this process dies, however it dies, where the system offers that: by
/// `SIGKILL` on Linux, by a job object on Windows. Elsewhere the child goes on, and the program says so in its documentation.
///
/// Limits:
/// - It covers the child, but not what the child starts in turn, and not a child that is set-user-id.
/// - On Linux the kernel watches the *thread* that calls this. Let it be one that lives as long as the process does, best the
///   main thread.
/// - On Windows a child outlives this process if that dies in the very moment between the start and the next call.
///
/// # Errors
/// As [`Command::spawn`].
pub fn start(command: &mut Command) -> io::Result<Child> {
    backend::start(command)
}

/// Calls `handler` in a background thread for each request to end this process, instead of ending it. [`termination`] tells of one
/// that the thread has not heard of yet.
///
/// A signal that is ignored when this is called stays ignored: `nohup` and a shell's background jobs mean it. Equal
/// requests in quick succession may be reported as one. The signals remain caught for the life of the process.
///
/// # Errors
/// `Unsupported` on WASI; what the system says when it refuses a thread or a descriptor. After an error the signals
/// do what they did before.
pub fn on_termination(handler: impl FnMut(Termination) + Send + 'static) -> io::Result<()> {
    backend::on_termination(handler)
}

/// The last request to end this process, from the moment in which it has arrived. A signal for a whole group of processes has
/// arrived here before one of the others can have ended because of it. Always `None` without [`on_termination`], and outside unix.
#[must_use]
pub fn termination() -> Option<Termination> {
    backend::termination()
}

/// Has the end of this process's children be told to it. A parent that ignored `SIGCHLD` has left that to this process as well, and
/// then no child can be waited for.
pub fn hear_of_children() {
    backend::hear_of_children();
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) an error of that write, in place of this process's sudden end.
/// What this process starts has the system's default again. Does nothing where there is no such limit.
///
/// # Errors
/// What the system says. After an error such a write still ends the process.
pub fn outlive_file_size_limit() -> io::Result<()> {
    backend::outlive_file_size_limit()
}

/// Asks `child` to end (`SIGTERM`). A child that has ended already is success.
///
/// Do not call it once the child has been waited for: its number may be another process's by then.
///
/// # Errors
/// `Unsupported` outside unix, where a child can only be killed; what the system says.
pub fn terminate(child: &Child) -> io::Result<()> {
    backend::terminate(child)
}

/// Calls `handler` in a background thread once `child` has ended. It must still be waited for, which then does not block.
///
/// # Errors
/// `Unsupported` on WASI and where a unix cannot wait for a child without taking its status; what the system says when it
/// refuses a thread.
pub fn on_exit(child: &Child, handler: impl FnOnce() + Send + 'static) -> io::Result<()> {
    backend::on_exit(child, handler)
}

/// Whether this process was given no standard input: it is the null device, which also stands in where it was closed at the
/// start. `false` where that cannot be told.
#[must_use]
pub fn has_null_input() -> bool {
    backend::has_null_input()
}

/// The exit code that passes on how a child has ended: its own; 128 and the number of the signal that killed it; on Windows 130
/// if Ctrl-C ended it, and 1 for a code that does not fit.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    match status.code().map(u8::try_from) {
        Some(Ok(code)) => code,
        _ => backend::odd_exit_code(status),
    }
}

#[cfg(windows)]
use crate::windows::process as backend;

#[cfg(unix)]
mod backend {
    use std::io;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, ExitStatus};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, LazyLock, mpsc};
    use std::thread;

    use rustix::fs::FileType;
    use rustix::io::Errno;
    use rustix::process::{Pid, Signal, kill_process};
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;

    use super::Termination;

    pub(super) fn can_start() -> io::Result<()> {
        Ok(())
    }

    pub(super) fn start(command: &mut Command) -> io::Result<Child> {
        die_with_parent(command);
        command.spawn()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[allow(unsafe_code, reason = "code between fork and exec")]
    fn die_with_parent(command: &mut Command) {
        use std::os::unix::process::CommandExt;

        use rustix::process::{getpid, getppid, set_parent_process_death_signal};

        let parent = getpid();
        let arm = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // A parent that died before the call above sends no signal any more. Then there is nobody to report to,
            // and the error makes the child exit before it becomes the command.
            if getppid() != Some(parent) {
                return Err(Errno::SRCH.into());
            }
            Ok(())
        };
        // SAFETY: the closure makes two system calls and nothing else: it takes no lock and does not allocate (an
        // `io::Error` from an error number is a plain value), so it is sound in the child of a threaded process.
        unsafe { command.pre_exec(arm) };
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn die_with_parent(_command: &mut Command) {}

    pub(super) fn on_termination(
        mut handler: impl FnMut(Termination) + Send + 'static,
    ) -> io::Result<()> {
        let mut wanted = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if !is_ignored(signal)? {
                wanted.push(signal);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        // The thread comes first: if it cannot be had, no signal must be caught and then go unheard.
        let (give, take) = mpsc::channel::<Signals>();
        thread::Builder::new()
            .name("cachelock-signals".to_owned())
            .spawn(move || {
                let Ok(mut signals) = take.recv() else {
                    return;
                };
                for signal in signals.forever() {
                    handler(meaning(signal));
                }
            })?;
        // The thread waits for just this, so the send cannot fail.
        let _ = give.send(Signals::new(&wanted)?);
        for signal in wanted {
            // Without it the thread hears of the signal all the same, a little later.
            let _ = signal_hook::flag::register_usize(signal, ARRIVED.clone(), signal as usize);
        }
        Ok(())
    }

    const fn meaning(signal: libc::c_int) -> Termination {
        match signal {
            SIGINT => Termination::Interrupt,
            SIGTERM => Termination::Terminate,
            _ => Termination::Hangup,
        }
    }

    /// The last signal that has arrived, as its handler notes it; 0 for none.
    static ARRIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

    pub(super) fn termination() -> Option<Termination> {
        match ARRIVED.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(meaning(signal as libc::c_int)),
        }
    }

    #[allow(
        unsafe_code,
        reason = "no safe call sets a signal's disposition to the default"
    )]
    pub(super) fn hear_of_children() {
        if is_ignored(SIGCHLD).unwrap_or(false) {
            // SAFETY: no handler is given, and nobody else changes this signal's disposition.
            unsafe { libc::signal(SIGCHLD, libc::SIG_DFL) };
        }
    }

    /// Whether `signal` is ignored now, as it is when whoever started this process wanted that.
    #[allow(unsafe_code, reason = "no safe call asks for a signal's disposition")]
    fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
        let mut current = std::mem::MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: no new action is given (null), and `current` is writable and of the type that the call fills in.
        let status = unsafe { libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has succeeded and so has filled in `current`.
        let current = unsafe { current.assume_init() };
        Ok(current.sa_sigaction == libc::SIG_IGN)
    }

    pub(super) fn outlive_file_size_limit() -> io::Result<()> {
        if is_ignored(SIGXFSZ)? {
            return Ok(());
        }
        // A handler, because a child would inherit that the signal is ignored.
        signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
    }

    pub(super) fn terminate(child: &Child) -> io::Result<()> {
        match kill_process(Pid::from_child(child), Signal::TERM) {
            Err(Errno::SRCH) => Ok(()),
            result => Ok(result?),
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    pub(super) fn on_exit(
        child: &Child,
        handler: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        use rustix::io::retry_on_intr;
        use rustix::process::{WaitId, WaitIdOptions, waitid};

        let child = Pid::from_child(child);
        thread::Builder::new()
            .name("cachelock-child".to_owned())
            .spawn(move || {
                // Fails only for a child that was waited for meanwhile.
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                let _ = retry_on_intr(|| waitid(WaitId::Pid(child), options));
                handler();
            })
            .map(drop)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    pub(super) fn on_exit(
        _child: &Child,
        _handler: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn has_null_input() -> bool {
        let (Ok(input), Ok(null)) = (
            rustix::fs::fstat(io::stdin()),
            rustix::fs::stat("/dev/null"),
        ) else {
            return false;
        };
        FileType::from_raw_mode(input.st_mode) == FileType::CharacterDevice
            && input.st_rdev == null.st_rdev
    }

    pub(super) fn odd_exit_code(status: ExitStatus) -> u8 {
        let code = status.signal().and_then(|signal| u8::try_from(signal).ok());
        code.map_or(1, |signal| 128_u8.saturating_add(signal))
    }
}

#[cfg(not(any(unix, windows)))]
mod backend {
    use std::io;
    use std::process::{Child, Command, ExitStatus};

    use super::Termination;

    fn unsupported(what: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{what} is not supported on this target"),
        )
    }

    pub(super) fn can_start() -> io::Result<()> {
        if cfg!(target_family = "wasm") {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a program in WebAssembly cannot start others; give the payload on standard input",
            ));
        }
        Ok(())
    }

    pub(super) fn start(command: &mut Command) -> io::Result<Child> {
        command.spawn()
    }

    pub(super) fn on_termination(
        _handler: impl FnMut(Termination) + Send + 'static,
    ) -> io::Result<()> {
        Err(unsupported("catching requests to end"))
    }

    pub(super) const fn termination() -> Option<Termination> {
        None
    }

    pub(super) const fn hear_of_children() {}

    pub(super) fn outlive_file_size_limit() -> io::Result<()> {
        Ok(())
    }

    pub(super) fn terminate(_child: &Child) -> io::Result<()> {
        Err(unsupported("asking a child process to end"))
    }

    pub(super) fn on_exit(
        _child: &Child,
        _handler: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        Err(unsupported("hearing of a child's end"))
    }

    pub(super) fn has_null_input() -> bool {
        false
    }

    pub(super) fn odd_exit_code(_status: ExitStatus) -> u8 {
        1
    }
}
