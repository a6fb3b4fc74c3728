//! Standard input, waited for no longer than one can.

use std::io;
use std::time::Duration;

/// Reads what there is on standard input, at most `buf.len()` bytes, and waits for it no longer than `patience`. `None`: there
/// was nothing, perhaps before that time. `Some(0)`: there will be nothing more.
///
/// For a thread that has something else to do from time to time. Where the target has no such wait (outside of unix and
/// WASI), it waits for as long as it takes. Nothing else in the process may read standard input.
///
/// # Errors
/// What the system says.
pub fn read(buf: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
    backend::read(buf, patience)
}

#[cfg(unix)]
mod backend {
    use std::io;
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;

    pub(super) fn read(buf: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
        let stdin = io::stdin();
        let patience = patience.try_into().ok();
        let mut read = || {
            // Its end and its errors count as something to read.
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut fds, patience.as_ref())? {
                0 => Ok(None),
                _ => rustix::io::read(stdin.as_fd(), &mut *buf).map(Some),
            }
        };
        match read() {
            Err(Errno::INTR | Errno::AGAIN) => Ok(None),
            read => Ok(read?),
        }
    }
}

#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod backend {
    use std::io;
    use std::sync::OnceLock;
    use std::time::Duration;

    use wasi::cli::stdin::get_stdin;
    use wasi::clocks::monotonic_clock::subscribe_duration;
    use wasi::io::poll::poll;
    use wasi::io::streams::{InputStream, StreamError};

    pub(super) fn read(buf: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
        static STDIN: OnceLock<InputStream> = OnceLock::new();
        let stdin = STDIN.get_or_init(get_stdin);
        let timeout = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let ready = poll(&[&stdin.subscribe(), &subscribe_duration(timeout)]);
        if !ready.contains(&0) {
            return Ok(None);
        }
        match stdin.read(buf.len() as u64) {
            // Nothing after all, although the host said so.
            Ok(bytes) if bytes.is_empty() => Ok(None),
            Ok(bytes) => {
                buf[..bytes.len()].copy_from_slice(&bytes);
                Ok(Some(bytes.len()))
            }
            Err(StreamError::Closed) => Ok(Some(0)),
            Err(StreamError::LastOperationFailed(error)) => {
                Err(io::Error::other(error.to_debug_string()))
            }
        }
    }
}

#[cfg(not(any(unix, all(target_os = "wasi", target_env = "p2"))))]
mod backend {
    use std::io::{self, Read as _};
    use std::time::Duration;

    pub(super) fn read(buf: &mut [u8], _patience: Duration) -> io::Result<Option<usize>> {
        match io::stdin().lock().read(buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            read => read.map(Some),
        }
    }
}
