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

/// Whether there is such a process, and it is neither stopped nor dead and not yet waited for.
#[must_use]
pub fn goes_on(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !"TtZX".contains(state))
}

/// The process that has made the last claim in a control directory, as far as its record tells.
#[must_use]
pub fn last_claimer(control: &Path) -> Option<u32> {
    let names = fs::read_dir(control).ok()?.flatten();
    let claims = names
        .map(|name| name.file_name())
        .filter(|name| name.to_string_lossy().starts_with("claim-"));
    pid_in(&control.join(claims.max()?))
}

/// The process number in a claim's record.
#[must_use]
pub fn pid_in(claim: &Path) -> Option<u32> {
    let record = fs::read_to_string(claim).ok()?;
    let pid = record.lines().find_map(|line| line.strip_prefix("pid "))?;
    pid.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_process_goes_on_until_it_is_stopped_or_killed() {
        let mut child = Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("it is there");
        let pid = child.id();
        let until = |expected| {
            (0..1000).any(|_| {
                thread::sleep(Duration::from_millis(5));
                goes_on(pid) == expected
            })
        };
        assert!(until(true), "it was started");
        signal(&child, Signal::STOP).expect("our child");
        assert!(until(false), "it was stopped");
        signal(&child, Signal::CONT).expect("our child");
        assert!(until(true), "it goes on");
        signal(&child, Signal::KILL).expect("our child");
        assert!(until(false), "nobody has waited for it yet");
        child.wait().expect("our child");
        assert!(!goes_on(pid));
    }
}
