//! Starts everybody who takes part, at once, and collects what they report.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::history::{Freeze, History, Hold, Locks, Sighting, Span};
use crate::part::{self, Eyes, Part, payload};
use crate::roles::{GUESTS, PART, now};
use crate::support::{self, given};

/// For starts and ends of processes, on a machine that has better things to do.
const LIMIT: Duration = Duration::from_secs(60);

/// The guest on the component.
static GUEST: LazyLock<PathBuf> = LazyLock::new(|| support::compiled("stress-guest.wasm"));

/// What which crew says.
type Line = (usize, String);

/// Somebody who reports under an id of its own.
struct Member {
    name: String,
    locks: Locks,
    writes: bool,
}

/// A process, with one member or two.
struct Crew {
    child: Child,
    stdin: ChildStdin,
    /// What is to be added to its clock; a process that reads the machine's clock has 0.
    offset: (i64, i64),
    members: Vec<u32>,
}

/// A program that is started again and again.
struct Series {
    id: u32,
    /// It publishes its input, and prints the generation as JSON; else it prints the payload.
    writes: bool,
    command: Box<dyn Fn() -> Command + Send>,
}

/// Processes that are stopped whenever they have just taken the lock, one after the other.
pub(crate) struct Freezing {
    /// Any of whose writers.
    pub(crate) victims: Vec<u32>,
    pub(crate) pause: Duration,
    pub(crate) every: Duration,
}

pub(crate) struct Run {
    dir: TempDir,
    time: Duration,
    lease: Duration,
    /// For how long writers hold.
    work: Duration,
    members: Vec<Member>,
    crews: Vec<Crew>,
    series: Vec<Series>,
    lines: (Sender<Line>, Receiver<Line>),
    readers: Vec<JoinHandle<()>>,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) history: History,
    /// What members complained of, and which have not come to an end.
    pub(crate) wrong: Vec<String>,
    members: Vec<Member>,
    counts: BTreeMap<u32, u64>,
    title: String,
    /// How well the clocks of guests are known, in nanoseconds.
    clocks: i64,
    pub(crate) dir: TempDir,
}

impl Run {
    pub(crate) fn new(time: Duration, lease: Duration, work: Duration) -> Self {
        Run {
            dir: tempfile::tempdir().expect("a temporary directory"),
            time,
            lease,
            work,
            members: Vec::new(),
            crews: Vec::new(),
            series: Vec::new(),
            lines: channel(),
            readers: Vec::new(),
        }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn member(&mut self, name: &str, locks: Locks, writes: bool) -> u32 {
        self.members.push(Member {
            name: name.to_owned(),
            locks,
            writes,
        });
        u32::try_from(self.members.len()).expect("a few")
    }

    fn part(&self, verb: &str, id: u32, cache: String) -> Part {
        let millis = |time: Duration| u64::try_from(time.as_millis()).expect("minutes");
        Part {
            verb: verb.to_owned(),
            id,
            cache,
            run_ms: millis(self.time),
            lease_ms: millis(self.lease),
            work_ms: millis(self.work),
        }
    }

    /// A native process: `write`, `read`, or what else `roles` knows.
    pub(crate) fn native(&mut self, name: &str, verb: &str) -> u32 {
        let id = self.member(name, Locks::Gate, verb == "write");
        self.start_role(verb, vec![id], "");
        id
    }

    /// A program wasmtime, with the guest on the component in it.
    pub(crate) fn wasmtime(&mut self, name: &str, verb: &str) -> u32 {
        let id = self.member(name, Locks::Lease, verb == "write");
        let _ = std::fs::create_dir(self.cache());
        let mut grant = self.cache().into_os_string();
        grant.push("::/cache");
        let mut command = Command::new(given("CACHELOCK_TEST_WASMTIME"));
        command
            .args(["run", "--allow-precompiled", "--dir"])
            .arg(grant)
            .arg(&*GUEST)
            .args(self.part(verb, id, "/cache".into()).words());
        self.start(command, vec![id]);
        id
    }

    /// One process that hosts guests that write, each of which has a name and locks in one way or the other.
    pub(crate) fn host(&mut self, guests: &[(&str, Locks)]) -> Vec<u32> {
        let _ = std::fs::create_dir(self.cache());
        let ids: Vec<_> = guests
            .iter()
            .map(|(name, locks)| self.member(name, *locks, true))
            .collect();
        let locks: Vec<_> = guests
            .iter()
            .map(|(_, locks)| match locks {
                Locks::Gate => "gate",
                Locks::Lease => "lease",
            })
            .collect();
        self.start_role("host", ids.clone(), &locks.join(" "));
        ids
    }

    /// A program that is started again and again: it prints the payload, or publishes its input and says so as JSON.
    pub(crate) fn series(
        &mut self,
        name: &str,
        verb: &str,
        command: impl Fn() -> Command + Send + 'static,
    ) {
        let writes = verb == "write";
        // It is not known exactly when it holds, so this is of no importance.
        let id = self.member(name, Locks::Lease, writes);
        let command = Box::new(command);
        self.series.push(Series {
            id,
            writes,
            command,
        });
    }

    fn start_role(&mut self, verb: &str, members: Vec<u32>, guests: &str) {
        let cache = self.cache().into_os_string().into_string().expect("UTF-8");
        let part = self.part(verb, members[0], cache);
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command
            .args(["--exact", "in_a_child_process", "--ignored", "--nocapture"])
            .env(PART, part.words().join(" "))
            .env(GUESTS, guests);
        self.start(command, members);
    }

    fn start(&mut self, mut command: Command, members: Vec<u32>) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let index = self.crews.len();
        let stdout = child.stdout.take().expect("a pipe");
        let sender = self.lines.0.clone();
        self.readers.push(thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send((index, line));
            }
        }));
        let stdin = child.stdin.take().expect("a pipe");
        self.crews.push(Crew {
            child,
            stdin,
            offset: (0, 0),
            members,
        });
    }

    /// The next line of `crew` that begins with `verb`. For the time before the start, when nobody else speaks unasked.
    fn line(&self, crew: usize, verb: &str) -> String {
        loop {
            let next = self.lines.1.recv_timeout(LIMIT);
            let (from, line) = next.unwrap_or_else(|_| panic!("{verb:?} does not come"));
            if from == crew && line.starts_with(verb) {
                return line;
            }
            assert!(!line.starts_with("wrong"), "{line}");
        }
    }

    /// How far the clock of `crew` is behind ours, at least and at most.
    fn compare_clocks(&mut self, crew: usize) -> (i64, i64) {
        let (mut least, mut most) = (i64::MIN, i64::MAX);
        for _ in 0..50 {
            let asked = now();
            self.crews[crew]
                .stdin
                .write_all(b"clock\n")
                .expect("it listens");
            let line = self.line(crew, "clock ");
            let heard = now();
            let theirs: i64 = line["clock ".len()..].trim().parse().expect("a number");
            least = least.max(asked as i64 - theirs);
            most = most.min(heard as i64 - theirs);
        }
        assert!(least <= most, "the clock does not go as ours does");
        (least, most)
    }

    /// Lets them all start, and waits until all are done.
    pub(crate) fn go(mut self, title: &str, freezing: Option<&Freezing>) -> Outcome {
        let mut waiting = self.crews.len();
        while waiting > 0 {
            let next = self.lines.1.recv_timeout(LIMIT);
            let (_, line) = next.expect("all get ready");
            assert!(!line.starts_with("wrong"), "{line}");
            waiting -= usize::from(line == "ready");
        }
        for crew in 0..self.crews.len() {
            let (least, most) = self.compare_clocks(crew);
            let is_native = (least..=most).contains(&0);
            // Others have clocks that began with them, and this machine has run for longer.
            self.crews[crew].offset = if is_native { (0, 0) } else { (least, most) };
        }
        for crew in &mut self.crews {
            crew.stdin.write_all(b"go\n").expect("it listens");
        }
        let started = Instant::now();
        let until = started + self.time;
        for (index, series) in std::mem::take(&mut self.series).into_iter().enumerate() {
            let sender = self.lines.0.clone();
            let index = self.crews.len() + index;
            self.readers.push(thread::spawn(move || {
                let report = |line| {
                    let _ = sender.send((index, line));
                };
                match series.writes {
                    true => series.write(until, report),
                    false => series.read(until, report),
                }
            }));
        }
        let mut collected = Collected {
            history: History {
                lease: self.lease.as_nanos() as u64,
                ..History::default()
            },
            wrong: Vec::new(),
            counts: BTreeMap::new(),
        };
        self.listen(&mut collected, until, freezing);
        self.end(collected, title)
    }

    /// Until the last one has closed its output.
    fn listen(&mut self, collected: &mut Collected, until: Instant, freezing: Option<&Freezing>) {
        // The one that is left would keep the channel open.
        self.lines.0 = channel().0;
        let mut ice = Ice {
            next: Instant::now() + Duration::from_millis(500),
            turn: 0,
            frozen: None,
        };
        loop {
            let patience = ice.patience();
            match self.lines.1.recv_timeout(patience) {
                Ok((crew, line)) => {
                    if let Some(freezing) = freezing {
                        ice.consider(self, freezing, &line, crew, until);
                    }
                    for line in line.lines() {
                        collected.take(line, &self.members, self.offset(crew));
                    }
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    assert!(ice.frozen.is_some(), "somebody does not come to an end");
                }
            }
            ice.thaw(self, &mut collected.history.freezes, freezing);
        }
    }

    fn offset(&self, crew: usize) -> (i64, i64) {
        self.crews.get(crew).map_or((0, 0), |crew| crew.offset)
    }

    fn signal(&self, crew: usize, signal: Signal) {
        let id = i32::try_from(self.crews[crew].child.id()).expect("a process number");
        kill_process(Pid::from_raw(id).expect("not 0"), signal).expect("it is ours");
    }

    fn end(mut self, mut collected: Collected, title: &str) -> Outcome {
        for crew in &mut self.crews {
            let status = crew.child.wait().expect("it is ours");
            if !status.success() {
                let names: Vec<_> = crew.members.iter().map(|id| id.to_string()).collect();
                let line = format!("the process of {} ended with {status}", names.join(" and "));
                collected.wrong.push(line);
            }
        }
        for reader in std::mem::take(&mut self.readers) {
            reader.join().expect("it only listens");
        }
        for id in (1..).take(self.members.len()) {
            if !collected.counts.contains_key(&id) {
                collected.wrong.push(format!("{id} has not come to an end"));
            }
        }
        Outcome {
            history: collected.history,
            wrong: collected.wrong,
            counts: collected.counts,
            members: std::mem::take(&mut self.members),
            title: format!("{title}, for {} s", self.time.as_secs()),
            clocks: self
                .crews
                .iter()
                .map(|crew| crew.offset.1 - crew.offset.0)
                .max()
                .unwrap_or(0),
            dir: std::mem::replace(&mut self.dir, tempfile::tempdir().expect("another one")),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // If the test has failed before they came to an end.
        for crew in &mut self.crews {
            let _ = crew.child.kill();
            let _ = crew.child.wait();
        }
    }
}

impl Series {
    fn read(&self, until: Instant, report: impl Fn(String)) {
        let mut eyes = Eyes::new(self.id);
        while Instant::now() < until {
            let began = now();
            let out = (self.command)().output().expect("it runs");
            let times = [began, now()];
            let said = String::from_utf8_lossy(&out.stderr);
            let line = match out.status.success() {
                true => eyes.saw(None, Some(&out.stdout), times),
                false if said.contains("there is no entry") => eyes.saw(None, None, times),
                false => Some(eyes.wrong(&said)),
            };
            if let Some(line) = line {
                report(line);
            }
        }
        report(eyes.close());
    }

    fn write(&self, until: Instant, report: impl Fn(String)) {
        let mut number = 0;
        while Instant::now() < until {
            number += 1;
            let asked = now();
            let mut command = (self.command)();
            let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = pipes.stderr(Stdio::piped()).spawn().expect("it runs");
            let mut stdin = child.stdin.take().expect("a pipe");
            // It may have ended with an error, which tells more.
            let _ = stdin.write_all(&payload(self.id, number));
            drop(stdin);
            let out = child.wait_with_output().expect("our child");
            let ended = now();
            let said = String::from_utf8_lossy(&out.stderr);
            let printed: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            let outcome = match printed["generation"].as_u64() {
                Some(generation) => generation.to_string(),
                None if said.contains("lease-lost") => "lost".to_owned(),
                None => {
                    report(part::wrong(self.id, &said));
                    continue;
                }
            };
            report(format!(
                "ran {} {number} {asked} {ended} {outcome}",
                self.id
            ));
        }
        report(format!("done {} {number}", self.id));
    }
}

/// Who is frozen now, and who is next.
struct Ice {
    next: Instant,
    turn: usize,
    frozen: Option<(usize, u64, Instant)>,
}

impl Ice {
    /// How long there is to wait for a line.
    fn patience(&self) -> Duration {
        match self.frozen {
            Some(_) => Duration::from_millis(20),
            None => LIMIT,
        }
    }

    /// Freezes the next victim if this is its line, and says that it has the lock.
    fn consider(
        &mut self,
        run: &Run,
        freezing: &Freezing,
        line: &str,
        crew: usize,
        until: Instant,
    ) {
        let now_is = Instant::now();
        if self.frozen.is_some() || now_is < self.next || !line.starts_with("took ") {
            return;
        }
        // It must have time to learn what has happened to it.
        if now_is + freezing.pause + Duration::from_secs(1) > until {
            return;
        }
        let victim = freezing.victims[self.turn % freezing.victims.len()];
        if run
            .crews
            .get(crew)
            .is_some_and(|crew| crew.members.contains(&victim))
        {
            let from = now();
            run.signal(crew, Signal::STOP);
            self.frozen = Some((crew, from, now_is));
            self.turn += 1;
        }
    }

    fn thaw(&mut self, run: &Run, freezes: &mut Vec<Freeze>, freezing: Option<&Freezing>) {
        let (Some((crew, from, since)), Some(freezing)) = (self.frozen, freezing) else {
            return;
        };
        if since.elapsed() >= freezing.pause {
            run.signal(crew, Signal::CONT);
            freezes.push(Freeze {
                writers: run.crews[crew].members.clone(),
                from,
                to: now(),
            });
            self.frozen = None;
            self.next = Instant::now() + freezing.every;
        }
    }
}

struct Collected {
    history: History,
    wrong: Vec<String>,
    counts: BTreeMap<u32, u64>,
}

impl Collected {
    fn take(&mut self, line: &str, members: &[Member], offset: (i64, i64)) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<_> = rest.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().expect("a number");
        let id = |index: usize| words[index].parse::<u32>().expect("a number");
        let time = |index: usize| {
            let theirs = i64::try_from(number(index)).expect("a time");
            let ours = |offset| u64::try_from(theirs + offset).expect("a time since the start");
            Span {
                earliest: ours(offset.0),
                latest: ours(offset.1),
            }
        };
        match verb {
            "ran" => {
                let anywhen = Span {
                    earliest: time(2).earliest,
                    latest: time(3).latest,
                };
                self.history.holds.push(Hold {
                    writer: id(0),
                    locks: members[id(0) as usize - 1].locks,
                    number: number(1),
                    asked: time(2),
                    acquired: anywhen,
                    closing: anywhen,
                    ended: time(3),
                    published: words[4].parse().ok(),
                });
            }
            "held" => self.history.holds.push(Hold {
                writer: id(0),
                locks: members[id(0) as usize - 1].locks,
                number: number(1),
                asked: time(2),
                acquired: time(3),
                closing: time(4),
                ended: time(5),
                published: words[6].parse().ok(),
            }),
            "read" => self.history.sightings.push(Sighting {
                reader: id(0),
                generation: words[1].parse().ok(),
                writer: id(2),
                number: number(3),
                ended: time(4),
                began: time(5),
            }),
            "done" => {
                self.counts.insert(id(0), number(1));
            }
            "wrong" => self.wrong.push(rest.to_owned()),
            // What the test harness says in a child.
            _ => {}
        }
    }
}

impl Outcome {
    /// How often it has published, and how often it has lost its lease.
    pub(crate) fn publishes(&self, writer: u32) -> (usize, usize) {
        let holds = self.history.holds.iter();
        let own = holds.filter(|hold| hold.writer == writer);
        let (published, lost): (Vec<_>, Vec<_>) = own.partition(|hold| hold.published.is_some());
        (published.len(), lost.len())
    }

    /// How many different payloads each reader has seen.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (&str, usize)> {
        let readers = (1..)
            .zip(&self.members)
            .filter(|(_, member)| !member.writes);
        readers.map(|(id, member)| {
            let sightings = self.history.sightings.iter();
            let own = sightings.filter(|seen| seen.reader == id);
            (&*member.name, own.count())
        })
    }

    pub(crate) fn writers(&self) -> impl Iterator<Item = (u32, &str)> {
        let members = (1..).zip(&self.members);
        members.filter_map(|(id, member)| member.writes.then_some((id, &*member.name)))
    }

    /// What each has done.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        let ms = |nanos: u64| format!("{:.1}", nanos as f64 / 1e6);
        let published = self.history.published().count();
        let overlaps = self.history.overlaps().len();
        let frozen = self.history.freezes.len();
        let _ = writeln!(
            table,
            "\n{}: {published} generations; {frozen} freezes, after which {overlaps} holds overlap\n\
             clocks are known to {} µs\n\n{:<36} {:>9} {:>5} {:>14} {:>14} {:>14}",
            self.title,
            self.clocks / 1000,
            "writer",
            "published",
            "lost",
            "median wait ms",
            "longest ms",
            "median held ms"
        );
        for (id, name) in self.writers() {
            let (published, lost) = self.publishes(id);
            let holds = self.history.holds.iter().filter(|hold| hold.writer == id);
            let (mut waits, mut helds): (Vec<_>, Vec<_>) = holds
                .filter(|hold| hold.published.is_some())
                .map(|hold| {
                    let waited = hold.acquired.latest.saturating_sub(hold.asked.latest);
                    let held = hold.closing.latest.saturating_sub(hold.acquired.latest);
                    (waited, held)
                })
                .unzip();
            waits.sort_unstable();
            helds.sort_unstable();
            let middle = |times: &[u64]| ms(times.get(times.len() / 2).copied().unwrap_or(0));
            let longest = ms(waits.last().copied().unwrap_or(0));
            let _ = writeln!(
                table,
                "{name:<36} {published:>9} {lost:>5} {:>14} {longest:>14} {:>14}",
                middle(&waits),
                middle(&helds)
            );
        }
        let _ = writeln!(
            table,
            "\n{:<36} {:>9} {:>14}",
            "reader", "reads", "payloads seen"
        );
        for (id, member) in (1..).zip(&self.members) {
            if !member.writes {
                let sightings = self.history.sightings.iter();
                let seen = sightings.filter(|seen| seen.reader == id).count();
                let reads = self.counts.get(&id).copied().unwrap_or(0);
                let _ = writeln!(table, "{:<36} {reads:>9} {seen:>14}", member.name);
            }
        }
        table
    }
}
