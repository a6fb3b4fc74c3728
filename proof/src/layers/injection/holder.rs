//! A live holder, which a run waits for.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// For how long it waits at most until the run waits for it.
const MOST: Duration = Duration::from_millis(500);

/// How long the run waits then.
const MORE: Duration = Duration::from_millis(30);

/// `cachelock lock`, with a command that has said that it runs, and ends with its input.
pub(super) struct Holder {
    child: Child,
    input: Option<ChildStdin>,
}

impl Holder {
    /// `lock`: the program and its words up to the command.
    pub(super) fn start(lock: &mut Command) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("the holder: {error}");
        let mut child = lock
            .args(["--", "sh", "-c", "echo; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let input = child.stdin.take();
        let output = child.stdout.take().expect("it is piped");
        let holder = Holder { child, input };
        let mut line = String::new();
        match BufReader::new(output)
            .read_line(&mut line)
            .map_err(failed)?
        {
            0 => Err("the holder does not get the lock".to_owned()),
            _ => Ok(holder),
        }
    }

    /// Gives the lock back once `is_awaited`, or when `work` is done without it. It must have kept it until then.
    pub(super) fn during<R>(
        mut self,
        is_awaited: impl Fn() -> bool + Sync,
        work: impl FnOnce() -> R,
    ) -> Result<R, String> {
        let input = self.input.take();
        let (begun, ended) = (Instant::now(), AtomicBool::new(false));
        let done = thread::scope(|scope| {
            scope.spawn(|| {
                let goes_on = || !ended.load(Ordering::Relaxed) && begun.elapsed() < MOST;
                while goes_on() && !is_awaited() {
                    thread::sleep(Duration::from_millis(2));
                }
                thread::sleep(MORE);
                drop(input);
            });
            let done = work();
            ended.store(true, Ordering::Relaxed);
            done
        });
        let status = self.child.wait().map_err(|error| error.to_string())?;
        // The command could not read a line.
        match status.code() {
            Some(1) => Ok(done),
            _ => Err(format!("the holder ends with {status}")),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
