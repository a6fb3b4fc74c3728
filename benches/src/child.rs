//! Processes that take orders: a line each, answered by a line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// What a copy of this program is to do, in its environment.
pub(crate) const ROLE: &str = "CACHELOCK_BENCH_ROLE";
pub(crate) const DIR: &str = "CACHELOCK_BENCH_DIR";

/// The clock that all processes of a machine share.
pub(crate) fn now() -> Duration {
    cachelock::platform::native().monotonic()
}

/// Answers an order with a time.
pub(crate) fn say(time: Duration) {
    println!("{}", time.as_nanos());
}

/// This program again, on that processor if one is named.
pub(crate) fn copy(role: &str, dir: &Path, processor: Option<usize>) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match processor {
        None => Command::new(program),
        Some(processor) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &processor.to_string()]).arg(program);
            command
        }
    };
    command.env(ROLE, role).env(DIR, dir);
    command
}

/// The processors that this process may run on, by their numbers, as far as `taskset` can tell.
pub(crate) fn processors() -> Vec<usize> {
    let own = std::process::id().to_string();
    let output = Command::new("taskset").args(["-cp", &own]).output();
    let Ok(output) = output else {
        return Vec::new();
    };
    // "pid 1234's current affinity list: 0,2-5"
    let text = String::from_utf8_lossy(&output.stdout);
    let list = text.rsplit(' ').next().unwrap_or_default().trim();
    let ends = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(ends).flatten().collect()
}

/// A process that was started to take orders. It ends with its orders.
pub(crate) struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Worker {
            child,
            orders,
            answers,
        }
    }

    pub(crate) fn order(&mut self, order: &str) {
        let orders = self
            .orders
            .as_mut()
            .expect("it takes orders until it is dropped");
        writeln!(orders, "{order}").unwrap();
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "a process ended before it answered");
        line
    }

    pub(crate) fn answer(&mut self) -> Duration {
        Duration::from_nanos(self.line().trim().parse().unwrap())
    }

    /// Has it wait that way for `hold`, then releases; from the beginning of that to its acquire.
    pub(crate) fn hand_off(
        &mut self,
        way: &str,
        hold: Duration,
        release: impl FnOnce(),
    ) -> Duration {
        self.order(way);
        std::thread::sleep(hold);
        let released = now();
        release();
        self.answer().saturating_sub(released)
    }
}

impl Worker {
    /// What its threads have taken of the processors so far.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |task: std::path::PathBuf| -> Option<u64> {
            // Time on a processor, time in its queue, turns; all nanoseconds.
            let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        let nanos = tasks.filter_map(|task| of(task.ok()?.path()));
        Duration::from_nanos(nanos.sum())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}
