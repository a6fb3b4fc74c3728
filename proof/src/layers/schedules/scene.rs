//! A few processes on one cache, run under a strategy that decides each step, and what must hold afterwards.

use std::collections::HashSet;
use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::platform::memory::{Keep, Op, Outcome, Process, Runnable, Target, Task, World};
use cachelock::{Cache, Durability, Error, GetError, Mutation, Policy};

use crate::sim::{Found, NEXT, OLD, find, next_refresh};
use crate::support::{LEASE, builder, publish, residue};
use crate::threads::locked;

/// More steps than any run of a scene takes.
const STEPS: u64 = 50_000;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Publishes so many times.
    Publish(usize),
    /// The same from each of two threads, which queue up.
    Pair,
    /// Gets the entry, and publishes it if it is missing.
    Get,
    /// Reads so many times.
    Read(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Actor {
    pub(super) guest: bool,
    pub(super) does: Does,
}

/// Who takes part, and whether there is an entry before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scene {
    pub(super) actors: Vec<Actor>,
    pub(super) old: bool,
}

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// The thread with this index among the options makes its step.
    Go(usize),
    /// The process that would go on is killed.
    Kill,
    /// The process that would go on stands still.
    Freeze,
    /// This process, which stood still, wakes up and goes on.
    Thaw(usize),
    /// The wall clock is set by so many seconds.
    Clock(i64),
}

/// A step, as a strategy sees it.
pub(super) struct View<'a> {
    pub(super) options: &'a [Runnable],
    /// Who goes on if nothing intervenes: whoever made the last step, else the first who can.
    pub(super) default: usize,
    /// For each process whether it stands still.
    pub(super) frozen: &'a [bool],
    /// Whether a process besides that of `default` is under way and does not stand still.
    pub(super) others: bool,
}

pub(super) trait Strategy: Send {
    fn act(&mut self, view: &View<'_>) -> Act;
}

/// What the callers note, outside of the simulation.
#[derive(Default)]
struct Log {
    holds: Option<usize>,
    /// Who has stood still at some time.
    stood_still: HashSet<usize>,
    overlap: Option<String>,
    produced: usize,
}

/// What came of one task.
#[derive(Debug, Clone)]
enum Said {
    Published(u64, Vec<u8>),
    Read(Found),
    /// It published, and was given what others have published since.
    Surpassed(Found),
    /// Overtaken, or out of time.
    Gave(String, Vec<u8>),
    Wrong(String),
}

/// The run under way.
struct Control {
    strategy: Box<dyn Strategy>,
    /// A fingerprint of who has made each step, and of what intervened.
    schedule: u64,
    /// The thread that made the last step.
    last: usize,
    /// The process that goes on after waking up.
    woken: Option<usize>,
    frozen: Vec<bool>,
    ended: Vec<bool>,
    intervenes: Option<(Act, usize)>,
}

impl Control {
    fn note(&mut self, what: u64) {
        self.schedule = (self.schedule ^ what)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }

    fn choose(&mut self, options: &[Runnable]) -> Option<usize> {
        // That a wait begins nobody can notice.
        let begins = |one: &Runnable| one.call.op == Op::Wait && !one.resumes;
        if let Some(index) = options.iter().position(begins) {
            self.note(options[index].thread as u64);
            return Some(index);
        }
        let woken = self.woken.take();
        let goes_on = |one: &Runnable| match woken {
            Some(process) => process_of(one) == process,
            None => one.thread == self.last,
        };
        let default = options.iter().position(goes_on).unwrap_or(0);
        let process = process_of(&options[default]);
        let is_other = |other: usize| other != process && !self.frozen[other] && !self.ended[other];
        let view = View {
            options,
            default,
            frozen: &self.frozen,
            others: (0..self.frozen.len()).any(is_other),
        };
        match self.strategy.act(&view) {
            Act::Go(index) => {
                self.last = options[index].thread;
                self.note(self.last as u64);
                Some(index)
            }
            act => {
                self.intervenes = Some((act, process));
                None
            }
        }
    }
}

/// The number of the process, which is its name.
pub(super) fn process_of(one: &Runnable) -> usize {
    usize::from(one.call.process.as_bytes()[0] - b'0')
}

/// How a run went: the fingerprint of its schedule, or what broke, with the calls if they were traced.
pub(super) type Ran = Result<u64, String>;

/// Worlds to begin in.
pub(super) struct Starts {
    nothing: World,
    old: World,
}

impl Starts {
    pub(super) fn new() -> Self {
        let nothing = World::simulated();
        nothing.plant_dir("/cache");
        let world = World::simulated();
        let first = world.process("first");
        let cache = builder(&first).open().expect("nothing is touched");
        let task = world.spawn(&first, "main", move || publish(&cache, OLD));
        world.finish(task).expect("nothing disturbs it");
        Starts {
            nothing: nothing.image(0, |_| Keep::Keep),
            old: world.image(0, |_| Keep::Keep),
        }
    }
}

struct Running {
    world: World,
    processes: Vec<Arc<Process>>,
    tasks: Vec<(usize, Task<Vec<Said>>)>,
    log: Arc<Mutex<Log>>,
}

impl Scene {
    /// Runs once and checks.
    pub(super) fn run(
        &self,
        starts: &Starts,
        seed: u64,
        mutation: Option<Mutation>,
        strategy: Box<dyn Strategy>,
        traced: bool,
    ) -> Ran {
        let start = if self.old {
            &starts.old
        } else {
            &starts.nothing
        };
        let world = start.image(seed, |_| Keep::Keep);
        world.set_traced(traced);
        let mut running = Running {
            processes: Vec::new(),
            tasks: Vec::new(),
            log: Arc::default(),
            world,
        };
        self.enter(&mut running, mutation);
        let control = Arc::new(Mutex::new(Control {
            strategy,
            schedule: 0,
            last: usize::MAX,
            woken: None,
            frozen: vec![false; self.actors.len()],
            ended: vec![false; self.actors.len()],
            intervenes: None,
        }));
        let checked = running
            .run(&control)
            .and_then(|()| self.check(&mut running));
        let schedule = locked(&control).schedule;
        checked.map(|()| schedule).map_err(|why| match traced {
            true => format!("{why}\n{}", crate::sim::last_calls(&running.world)),
            false => why,
        })
    }

    fn enter(&self, running: &mut Running, mutation: Option<Mutation>) {
        for (who, actor) in self.actors.iter().enumerate() {
            let name = who.to_string();
            let process = match actor.guest {
                true => running.world.guest(&name),
                false => running.world.process(&name),
            };
            // Short, for whoever can only poll polls until a lease expires.
            let mut builder = builder(&process)
                .durability(Durability::None)
                .lease(LEASE / 5);
            if let Some(mutation) = mutation {
                builder = builder.mutation(mutation);
            }
            let cache = builder.open().expect("nothing is touched");
            let threads = if actor.does == Does::Pair { 2 } else { 1 };
            for thread in 0..threads {
                let (cache, log, does) = (cache.clone(), running.log.clone(), actor.does);
                let label = if thread == 0 { "main" } else { "second" };
                let body = move || match does {
                    Does::Publish(times) => (0..times)
                        .map(|time| publishes(&cache, who, format!("{who} {time}"), &log))
                        .collect(),
                    Does::Pair => {
                        vec![publishes(
                            &cache,
                            who,
                            format!("{who} thread {thread}"),
                            &log,
                        )]
                    }
                    Does::Get => vec![gets(&cache, who, &log)],
                    Does::Read(times) => (0..times).map(|_| reads(&cache)).collect(),
                };
                let task = running.world.spawn(&process, label, body);
                running.tasks.push((who, task));
            }
            running.processes.push(process);
        }
    }

    /// What must hold whatever the schedule was.
    fn check(&self, running: &mut Running) -> Result<(), String> {
        let stood_still = locked(&running.log).stood_still.clone();
        if let Some(overlap) = locked(&running.log).overlap.take() {
            return Err(overlap);
        }
        let mut published: Vec<(u64, Vec<u8>)> = Vec::new();
        let (mut refused, mut read) = (Vec::new(), Vec::new());
        let mut killed = 0;
        // Publishes whose generation nobody was told.
        let mut unheard = 0;
        if self.old {
            published.push((1, OLD.to_vec()));
        }
        for (who, task) in &running.tasks {
            match task.outcome() {
                Some(Outcome::Returned(said)) => {
                    let mut seen = 0;
                    for said in said {
                        match said {
                            Said::Published(generation, bytes) => {
                                published.push((generation, bytes))
                            }
                            // Whoever goes on all the time is never overtaken, and waits for no dead one for so long.
                            Said::Gave(why, _) if !stood_still.contains(who) => {
                                return Err(format!("{who} never stood still, and: {why}"));
                            }
                            Said::Gave(_, bytes) => refused.push(bytes),
                            Said::Read(found) => {
                                if let Found::Value(_, Some(generation)) = found {
                                    if generation < seen {
                                        return Err(format!(
                                            "{who} read {generation} after {seen}"
                                        ));
                                    }
                                    seen = generation;
                                }
                                read.push(found);
                            }
                            Said::Surpassed(found) => {
                                unheard += 1;
                                read.push(found);
                            }
                            Said::Wrong(why) => return Err(format!("{who}: {why}")),
                        }
                    }
                }
                Some(Outcome::Killed) => {
                    killed += 1;
                    unheard += 2;
                }
                Some(Outcome::Panicked(why)) => return Err(format!("{who} panicked: {why}")),
                None => return Err(format!("{who} has not ended")),
            }
        }
        published.sort();
        for pair in published.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(format!("generation {} was given twice", pair[0].0));
            }
        }
        let last = published.last().cloned();
        let found = find(&running.world).map_err(|error| format!("it cannot be read: {error}"))?;
        let generation = match (&found, &last) {
            (Found::Missing, None) => 0,
            (Found::Value(bytes, Some(generation)), _)
                if last.as_ref() == Some(&(*generation, bytes.clone())) =>
            {
                *generation
            }
            // Somebody was killed who had published and not heard of it.
            (Found::Value(_, Some(generation)), _)
                if killed > 0 && *generation > last.as_ref().map_or(0, |last| last.0) =>
            {
                *generation
            }
            _ => {
                return Err(format!(
                    "the last publish is {last:?}, and {found:?} is read"
                ));
            }
        };
        if usize::try_from(generation).unwrap_or(0) > published.len() + unheard {
            return Err(format!("generation {generation} after {published:?}"));
        }
        for found in read.into_iter().chain([found.clone()]) {
            let fine = match &found {
                Found::Missing => !self.old,
                Found::Value(bytes, Some(generation)) => {
                    !refused.contains(bytes)
                        && (published.contains(&(*generation, bytes.clone())) || unheard > 0)
                }
                _ => false,
            };
            if !fine {
                return Err(format!("{found:?} was read, where {published:?}"));
            }
        }
        let gets = self.actors.iter().any(|actor| actor.does == Does::Get);
        let produced = locked(&running.log).produced;
        if gets && stood_still.is_empty() && produced > killed + usize::from(!self.old) {
            return Err(format!("it was fetched {produced} times"));
        }
        self.recover(running, &found, killed > 0, !stood_still.is_empty())
    }

    /// The next one gets the lock in time, and nothing is left after it.
    fn recover(
        &self,
        running: &Running,
        found: &Found,
        killed: bool,
        stood_still: bool,
    ) -> Result<(), String> {
        let left = residue(&running.world);
        if left.is_empty() && !killed {
            return Ok(());
        }
        if !killed && !stood_still && left.iter().any(|name| !name.starts_with("claim-")) {
            return Err(format!("{left:?} was left"));
        }
        let guests = self.actors.iter().any(|actor| actor.guest);
        let limit = match guests || stood_still {
            true => LEASE + LEASE / 2,
            false => Duration::from_millis(300),
        };
        debug_assert_ne!(OLD, NEXT);
        next_refresh(&running.world, found, limit)
    }
}

impl Running {
    fn run(&mut self, control: &Arc<Mutex<Control>>) -> Result<(), String> {
        loop {
            let mut active: Vec<&dyn Target> = Vec::new();
            let mut sleeping = false;
            {
                let mut control = locked(control);
                for who in 0..self.processes.len() {
                    let of =
                        |task: &&(usize, Task<Vec<Said>>)| task.0 == who && !task.1.has_ended();
                    let tasks: Vec<_> = self.tasks.iter().filter(of).collect();
                    control.ended[who] = tasks.is_empty();
                    match control.frozen[who] {
                        true => sleeping |= !tasks.is_empty(),
                        false => active.extend(tasks.iter().map(|task| &task.1 as &dyn Target)),
                    }
                }
                if active.is_empty() {
                    if !sleeping {
                        return Ok(());
                    }
                    control.frozen.fill(false);
                    continue;
                }
            }
            let asked = control.clone();
            let choose = move |options: &[Runnable]| locked(&asked).choose(options);
            match self.world.run_some(&active, choose, STEPS) {
                Ok(true) => {}
                Ok(false) => self.intervene(control),
                Err(unfinished) if unfinished.blocked && sleeping => {
                    locked(control).frozen.fill(false);
                }
                Err(unfinished) => return Err(unfinished.to_string()),
            }
        }
    }

    fn intervene(&mut self, control: &Mutex<Control>) {
        let mut control = locked(control);
        let (act, process) = control.intervenes.take().expect("somebody intervened");
        let code = match act {
            Act::Go(_) => unreachable!("that is no intervention"),
            Act::Kill => {
                self.world.kill(&self.processes[process]);
                let mut log = locked(&self.log);
                log.holds = log.holds.filter(|holder| *holder != process);
                1
            }
            Act::Freeze => {
                control.frozen[process] = true;
                locked(&self.log).stood_still.insert(process);
                2
            }
            Act::Thaw(process) => {
                control.frozen[process] = false;
                control.woken = Some(process);
                3
            }
            Act::Clock(seconds) => {
                self.world.step_wall(seconds);
                4 + u64::from(seconds > 0)
            }
        };
        control.note(1 << 32 | code << 16 | process as u64);
    }
}

fn publishes(cache: &Cache, who: usize, bytes: String, log: &Mutex<Log>) -> Said {
    let bytes = bytes.into_bytes();
    let publish = || -> Result<u64, Error> {
        let mut refresh = cache.entry("entry")?.refresh()?;
        refresh.write_all(&bytes).expect("it stays in the buffer");
        let held = held(who, log, || refresh.check_held());
        held?;
        Ok(refresh.publish()?.generation)
    };
    match publish() {
        Ok(generation) => Said::Published(generation, bytes),
        Err(error) => failed(&error, bytes),
    }
}

/// Something while the lock is held. Where nobody stood still, nobody else may hold it then.
fn held<R>(who: usize, log: &Mutex<Log>, work: impl FnOnce() -> R) -> R {
    {
        let mut log = locked(log);
        if let (Some(other), true) = (log.holds.replace(who), log.stood_still.is_empty()) {
            log.overlap = Some(format!("{who} and {other} hold the lock"));
        }
    }
    let result = work();
    let mut log = locked(log);
    log.holds = log.holds.filter(|holder| *holder != who);
    result
}

fn failed(error: &Error, bytes: Vec<u8>) -> Said {
    match error.is_lease_lost() || error.is_timeout() {
        true => Said::Gave(error.to_string(), bytes),
        false => Said::Wrong(error.to_string()),
    }
}

fn gets(cache: &Cache, who: usize, log: &Mutex<Log>) -> Said {
    let bytes = format!("{who} got").into_bytes();
    let mut produced = false;
    let got = cache
        .entry("entry")
        .map_err(GetError::Cache)
        .and_then(|entry| {
            entry.get_or_refresh(&Policy::any_age(), |refresh| {
                produced = true;
                locked(log).produced += 1;
                refresh.write_all(&bytes)
            })
        });
    match got {
        Ok(Some(snapshot)) => {
            let generation = snapshot.meta().generation;
            match (produced, generation) {
                (true, Some(generation)) if snapshot[..] == bytes[..] => {
                    Said::Published(generation, bytes)
                }
                (true, _) => Said::Surpassed(Found::Value(snapshot.to_vec(), generation)),
                _ => Said::Read(Found::Value(snapshot.to_vec(), generation)),
            }
        }
        Ok(None) => Said::Wrong("it got nothing".to_owned()),
        Err(GetError::Cache(error)) => failed(&error, bytes),
        Err(GetError::Produce(error)) => Said::Gave(error.to_string(), bytes),
    }
}

fn reads(cache: &Cache) -> Said {
    match cache.entry("entry").and_then(|entry| entry.read()) {
        Ok(None) => Said::Read(Found::Missing),
        Ok(Some(read)) => Said::Read(Found::Value(read.to_vec(), read.meta().generation)),
        Err(error) => Said::Wrong(error.to_string()),
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for actor in &self.actors {
            let kind = if actor.guest { "guest" } else { "native" };
            write!(f, "{kind} {:?}, ", actor.does)?;
        }
        f.write_str(if self.old { "an old entry" } else { "no entry" })
    }
}
