//! A few processes on one cache, run under a strategy that decides each step.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::platform::memory::{Keep, Op, Process, Runnable, Target, Task, World};
use cachelock::{Cache, Durability, Mutation};

use super::actor::{Actor, Does, Log, SCENE_LEASE, Said};
use crate::sim::OLD;
use crate::support::{builder, publish};
use crate::threads::locked;

const GATE: &str = "/cache/.cachelock/cache.lock";

/// More steps than any run of a scene takes.
const STEPS: u64 = 50_000;

/// Who takes part, whether there is an entry before, and how long each step takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scene {
    pub(super) actors: Vec<Actor>,
    pub(super) old: bool,
    pub(super) step: Duration,
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
    /// Somebody deletes the gate's name.
    Ungate,
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

pub(super) struct Running {
    pub(super) world: World,
    processes: Vec<Arc<Process>>,
    pub(super) caches: Vec<Cache>,
    pub(super) tasks: Vec<(usize, Task<Vec<Said>>)>,
    pub(super) log: Arc<Mutex<Log>>,
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
        world.set_step_time(self.step);
        let mut running = Running {
            processes: Vec::new(),
            caches: Vec::new(),
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
            .and_then(|()| self.check(&running, mutation));
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
            let mut builder = builder(&process)
                .durability(Durability::None)
                .lease(SCENE_LEASE);
            if let Some(mutation) = mutation {
                builder = builder.mutation(mutation);
            }
            let cache = builder.open().expect("nothing is touched");
            let threads = if actor.does == Does::Pair { 2 } else { 1 };
            for thread in 0..threads {
                let (actor, cache, log) = (*actor, cache.clone(), running.log.clone());
                let own = process.clone();
                let label = if thread == 0 { "main" } else { "second" };
                let body = move || actor.work(&own, &cache, who, thread, &log);
                let task = running.world.spawn(&process, label, body);
                running.tasks.push((who, task));
            }
            running.processes.push(process);
            running.caches.push(cache);
        }
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
            Act::Ungate => {
                // Before there is one it changes nothing, and is the same schedule as without.
                if !self.world.exists(GATE) {
                    return;
                }
                self.world.remove(GATE);
                locked(&self.log).ungated = true;
                6
            }
        };
        control.note(1 << 32 | code << 16 | process as u64);
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for actor in &self.actors {
            let kind = if actor.guest { "guest" } else { "native" };
            write!(f, "{kind} {:?}, ", actor.does)?;
        }
        f.write_str(if self.old { "an old entry" } else { "no entry" })?;
        match self.step {
            Duration::ZERO => Ok(()),
            step => write!(f, ", {step:?} a step"),
        }
    }
}
