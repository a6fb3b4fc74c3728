//! Processes that layers start, stop and watch.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Child;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// Makes the system end this process with the thread that has started it. False if that one has ended already.
#[must_use]
pub fn ends_with_parent() -> bool {
    let parent = getppid();
    let dies = set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have died before that.
    dies.is_ok() && getppid() == parent
}

/// Sends `signal` to a child that was not waited for yet.
///
/// # Errors
/// As the system says.
pub fn signal(child: &Child, signal: Signal) -> io::Result<()> {
    Ok(kill_process(Pid::from_child(child), signal)?)
}

/// The process number in a claim's record.
#[must_use]
pub fn pid_in(claim: &Path) -> Option<u32> {
    let record = fs::read_to_string(claim).ok()?;
    let pid = record.lines().find_map(|line| line.strip_prefix("pid "))?;
    pid.trim().parse().ok()
}
