//! What a person sees while the program waits: in a real terminal, by tmux, and where lines cannot be redrawn.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{PROGRAM, Place, code, eventually, has, json, stderr, timed_out_after};

/// A terminal with a shell in it, on a tmux server of its own.
struct Terminal<'a> {
    place: &'a Place,
    socket: String,
}

impl<'a> Terminal<'a> {
    fn new(place: &'a Place, columns: u16) -> Self {
        // A name of its own: the server before may not have ended yet.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tmux-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = place.beside(&name).display().to_string();
        let terminal = Terminal { place, socket };
        let columns = columns.to_string();
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            "20",
            "env",
            "PS1=$ ",
            "sh",
        ]);
        eventually("the shell is ready", || terminal.lines() == ["$"]);
        terminal
    }

    /// tmux with `words`; what it prints.
    #[track_caller]
    fn tmux(&self, words: &[&str]) -> String {
        let out = self.try_tmux(words);
        assert!(out.status.success(), "tmux {words:?}: {}", stderr(&out));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn try_tmux(&self, words: &[&str]) -> Output {
        // The server keeps the environment of whoever starts it.
        let mut command = Command::new("tmux");
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CACHELOCK_") {
                command.env_remove(name);
            }
        }
        command
            .env("CACHELOCK_CONFIG", "")
            .env_remove("TMUX")
            .current_dir(self.place.dir.path())
            .arg("-S")
            .arg(&self.socket)
            .args(words)
            .output()
            .expect("tmux runs")
    }

    /// Types `script`, by a name that fits any terminal.
    fn run(&self, script: &str) {
        fs::write(self.place.beside("s"), script).expect("writable");
        self.keys(&["sh ./s; echo code $?", "Enter"]);
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The screen, without the blanks at the ends.
    fn lines(&self) -> Vec<String> {
        let screen = self.tmux(&["capture-pane", "-p"]);
        let lines = screen.trim_end().lines();
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    /// The line that says that the program waits.
    fn waiting(&self) -> Option<String> {
        let mut lines = self.lines().into_iter();
        lines.find(|line| line.starts_with("waiting "))
    }

    #[track_caller]
    fn assert_nothing_is_left(&self, code: u8) {
        let expected = ["$ sh ./s; echo code $?", &format!("code {code}"), "$"];
        let mut last = Vec::new();
        eventually("the shell is back", || {
            last = self.lines();
            last.last().is_some_and(|line| line == "$") && last.len() > 1
        });
        assert_eq!(
            last, expected,
            "only what was typed and its answer are left"
        );
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        self.try_tmux(&["kill-server"]);
    }
}

fn refresh(place: &Place, timeout: &str) -> String {
    let entry = place.entry();
    format!(
        "exec {PROGRAM} refresh {} --timeout {timeout} -- true",
        entry.display()
    )
}

/// `waiting 3 s, 17 s left: ...` as its two numbers.
fn numbers(line: &str) -> (u64, u64) {
    let parse = || {
        let (elapsed, rest) = line.strip_prefix("waiting ")?.split_once(" s, ")?;
        let (left, _) = rest.split_once(" s left")?;
        Some((elapsed.parse().ok()?, left.parse().ok()?))
    };
    parse().unwrap_or_else(|| panic!("elapsed and remaining in {line:?}"))
}

#[test]
fn a_terminal_shows_one_line_that_counts_and_then_is_gone() {
    if !has("tmux") {
        return;
    }
    let place = Place::new();
    let holder = place.hold();
    let terminal = Terminal::new(&place, 200);
    terminal.run(&refresh(&place, "60"));
    let mut seen = Vec::new();
    eventually("it counts to 3", || {
        let waiting: Vec<_> = terminal
            .lines()
            .into_iter()
            .filter(|line| line.starts_with("waiting "))
            .collect();
        assert!(waiting.len() < 2, "more than one line: {waiting:?}");
        if let Some(line) = waiting.first() {
            let process = format!("left: process {} on host ", holder.id());
            let cache = format!(" has the writer lock of {}", place.cache().display());
            for part in [&*process, " since 20", &cache] {
                assert!(line.contains(part), "{part:?} in {line:?}");
            }
            let (elapsed, left) = numbers(line);
            assert_eq!(elapsed + left, 60, "the timeout, in {line:?}");
            if seen.last() != Some(&elapsed) {
                seen.push(elapsed);
            }
        }
        seen.last().is_some_and(|elapsed| *elapsed >= 3)
    });
    assert!(seen.is_sorted() && seen.len() >= 3, "it counts: {seen:?}");
    holder.release();
    terminal.assert_nothing_is_left(0);
}

#[test]
fn a_line_that_is_too_long_is_cut_and_its_end_leaves_nothing() {
    if !has("tmux") {
        return;
    }
    let place = Place::new();
    for columns in [40, 41, 60, 80] {
        let holder = place.hold();
        let terminal = Terminal::new(&place, columns);
        terminal.run(&refresh(&place, "60"));
        let mut line = String::new();
        eventually("it waits and has counted", || {
            line = terminal.waiting().unwrap_or_default();
            !line.is_empty() && numbers(&line).0 >= 1
        });
        assert!(line.len() <= usize::from(columns) - 3, "{line:?}");
        let process = format!("process {}", holder.id());
        assert!(line.contains(&process), "{process} in {line:?}");
        assert_eq!(terminal.lines().len(), 2, "{:?}", terminal.lines());
        if columns == 60 {
            holder.release();
            terminal.assert_nothing_is_left(0);
        } else {
            terminal.keys(&["C-c"]);
            terminal.assert_nothing_is_left(130);
        }
    }
}

#[test]
fn after_a_timeout_only_the_error_is_left() {
    if !has("tmux") {
        return;
    }
    let place = Place::new();
    let _holder = place.hold();
    let terminal = Terminal::new(&place, 500);
    terminal.run(&refresh(&place, "1.5"));
    eventually("it waits", || terminal.waiting().is_some());
    eventually("it has ended", || {
        terminal.lines().last().is_some_and(|line| line == "$")
    });
    let lines = terminal.lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(timed_out_after(&lines[1]) >= 1.5, "{lines:?}");
    assert_eq!(lines[2], "code 75");
}

#[test]
fn a_terminal_that_cannot_redraw_gets_whole_lines() {
    if !has("tmux") {
        return;
    }
    let place = Place::new();
    let holder = place.hold();
    let terminal = Terminal::new(&place, 500);
    let command = refresh(&place, "60");
    terminal.run(&format!("export TERM=dumb\n{command}"));
    eventually("it waits", || terminal.lines().len() == 2);
    let lines = terminal.lines();
    assert!(
        lines[1].starts_with("cachelock: waiting 0 s, 60 s left: "),
        "{lines:?}"
    );
    holder.release();
    eventually("it has ended", || terminal.lines().len() == 4);
    assert_eq!(terminal.lines()[1..3], [&*lines[1], "code 0"]);
}

#[test]
fn quiet_writes_nothing_to_the_terminal_but_the_error() {
    if !has("tmux") {
        return;
    }
    let place = Place::new();
    let _holder = place.hold();
    let terminal = Terminal::new(&place, 500);
    // All that is ever written there, also what is gone again.
    let log = place.beside("log");
    terminal.tmux(&["pipe-pane", &format!("cat > {}", log.display())]);
    let command = refresh(&place, "1.5");
    for (option, expected) in [("", true), ("-q", false)] {
        fs::write(&log, "").expect("writable");
        terminal.run(&command.replace(" refresh ", &format!(" {option} refresh ")));
        let mut written = String::new();
        eventually("it has ended", || {
            written = fs::read_to_string(&log).expect("a log");
            written.contains("code 75")
        });
        assert!(written.contains("cachelock: timed out"), "{written:?}");
        assert_eq!(written.contains("waiting 0 s"), expected, "{written:?}");
    }
}

/// How long after it began to wait the program said so, by a trace of it.
#[track_caller]
fn delay(trace: &str) -> Duration {
    let time_of = |what: &str, is: &dyn Fn(&str) -> bool| {
        let line = trace.lines().find(|line| is(line));
        let line = line.unwrap_or_else(|| panic!("no {what} in:\n{trace}"));
        let time = line.split_whitespace().nth(1).expect("a time");
        time.parse::<f64>().expect("seconds")
    };
    let began = time_of("refused lock", &|line| {
        line.contains("flock(") && line.contains("EAGAIN")
    });
    let said = time_of("report", &|line| {
        line.contains("write(2, ") && line.contains("waiting 0 s, ")
    });
    Duration::from_secs_f64(said - began)
}

/// A busy machine can only add to a delay, so the least of some shows what the program does.
#[track_caller]
fn assert_prompt(mut attempt: impl FnMut() -> Duration) {
    const WITHIN: Duration = Duration::from_millis(100);

    let mut delays = Vec::new();
    while delays.len() < 5 && delays.iter().all(|delay| *delay >= WITHIN) {
        delays.push(attempt());
    }
    println!("{delays:?}");
    assert!(delays.iter().any(|delay| *delay < WITHIN), "{delays:?}");
}

const STRACE: [&str; 7] = [
    "strace",
    "-f",
    "-ttt",
    "-e",
    "trace=flock,write",
    "-s",
    "60",
];

#[test]
fn a_wait_is_reported_within_100_ms() {
    if !has("strace") || !has("tmux") {
        return;
    }
    let place = Place::new();
    let _holder = place.hold();
    let log = place.beside("trace");
    let read = || fs::read_to_string(&log).expect("a trace");
    assert_prompt(|| {
        let mut command = Command::new(STRACE[0]);
        command.args(&STRACE[1..]).arg("-o").arg(&log).arg(PROGRAM);
        command.args(["refresh", "--timeout", "1"]);
        command.arg(place.entry()).args(["--", "true"]);
        let out = command
            .env("CACHELOCK_CONFIG", "")
            .output()
            .expect("strace runs");
        assert_eq!(code(&out), 75, "{}", stderr(&out));
        delay(&read())
    });
    let command = refresh(&place, "1").replace("exec ", "");
    let script = format!("{} -o {} {command}", STRACE.join(" "), log.display());
    assert_prompt(|| {
        let terminal = Terminal::new(&place, 500);
        terminal.run(&script);
        eventually("it has ended", || {
            terminal.lines().iter().any(|line| line == "code 75")
        });
        delay(&read())
    });
}

#[test]
fn where_lines_cannot_be_redrawn_there_is_one_at_once_and_every_5_s() {
    let place = Place::new();
    let _holder = place.hold();
    let wait = ["refresh", "FILE", "--timeout", "11", "--", "true"];
    let plain = place.start(&wait);
    let as_json = place.start(&[&["--json"], &wait[..]].concat());
    let out = plain.wait_with_output().expect("it ends");
    assert_eq!(code(&out), 75);
    let said = stderr(&out);
    assert!(!said.contains(['\r', '\u{1b}']), "{said:?}");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    let counts: Vec<_> = lines[..3]
        .iter()
        .filter_map(|line| line.strip_prefix("cachelock: "))
        .map(numbers)
        .collect();
    assert_eq!(counts, [(0, 11), (5, 6), (10, 1)]);
    assert!(timed_out_after(lines[3]) >= 11.0, "{said}");

    let out = as_json.wait_with_output().expect("it ends");
    let said = stderr(&out);
    let events: Vec<_> = said.lines().map(json).collect();
    assert_eq!(events.len(), 4, "{said}");
    for (event, seconds) in events.iter().zip([0, 5, 10]) {
        assert_eq!(event["event"], "lock_waiting");
        let [waited, left] = ["waited_ms", "remaining_ms"].map(|name| event[name].as_u64());
        assert_eq!(waited.map(|ms| ms / 1000), Some(seconds), "{event}");
        // Each is cut to whole milliseconds.
        let sum = waited.zip(left).map(|(waited, left)| waited + left);
        assert!(matches!(sum, Some(10_999 | 11_000)), "{event}");
    }
    assert_eq!(events[3]["error"], "timeout");
}
