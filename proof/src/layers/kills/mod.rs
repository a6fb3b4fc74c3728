//! Layer 6: writers killed at random moments, and each time a full check.
//!
//! Four processes of the real library refresh one entry over and over, under two threads that read. One of the four is killed
//! with `SIGKILL`, and then, while the others go on:
//!
//! - the entry is the whole payload of one writer, by its bytes and by the library's own check;
//! - its generation is not lower than the last that was acknowledged to anybody or seen by anybody, and no generation has two
//!   payloads;
//! - the next acquire comes at once, or behind others that live: no quarter of a lease passes in which nobody publishes and no
//!   holder lives, so nobody has waited for the dead one to expire;
//! - whoever then holds the lock, the checker or a writer, finds nothing in the control directory but its own.
//!
//! Half of the kills come amid the others. For the other half all four are stopped, and the one that holds the lock, if there is
//! one, goes on alone until it is killed. So its residue can be looked at before anybody removes it, which tells the phase that
//! was hit. One kill in fifty is of the program.
//!
//! On a ground of its own, with a short lease, writers are frozen in place of being killed: the others go on after the lease at
//! most, and one that wakes up again publishes nothing over them.

mod freezes;
mod ground;
mod phase;
mod readers;
mod writer;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::layer::{Broken, Control, Count, Layer, Outcome, Plan};
use crate::place::{Kind, Place};
use crate::random::Random;
use crate::threads::joined;

use crate::payload::{Origin, make};
use ground::{Fault, FaultKind, Ground, Setup, Waited};
use phase::Phase;
use writer::Style;

/// The name of a writer's process among the parts of `prove`.
pub(crate) const PART: &str = "writer-to-kill";

/// See [`writer::run`].
pub(crate) fn part(words: &[String]) -> ExitCode {
    writer::run(words)
}

/// So long that no live holder loses it on a busy machine, and that nobody can wait it out unnoticed.
const LEASE: Duration = Duration::from_secs(20);

/// Of the payloads that the program publishes.
const OF_PROGRAM: u64 = 1 << 40;

/// What must be hit: one of each.
const PHASES: [&[Phase]; 5] = [
    &[Phase::EmptyClaim, Phase::Claim, Phase::NextHead],
    &[Phase::Stage],
    &[Phase::Tag],
    &[Phase::BetweenRenames],
    &[Phase::Published],
];

/// See the module.
#[derive(Debug)]
pub struct Kills;

impl Layer for Kills {
    fn number(&self) -> u32 {
        6
    }

    fn waits(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "kills"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let program = plan.program.as_deref();
        let program = program
            .ok_or_else(|| Broken("it kills the program, too: --program FILE".to_owned()))?;
        let kills = plan.size.pick(300, 20_000, 200_000);
        let freezes = plan.size.pick(4, 40, 400);
        // The end of one ground is the end of the other.
        let failed = AtomicBool::new(false);
        let failed = &failed;
        let (tmpfs, ext4, frozen, controls) = thread::scope(|scope| {
            let on = |kind, seed| {
                scope.spawn(move || kill_on(kind, kills / 2, plan.seed ^ seed, program, failed))
            };
            let (tmpfs, ext4) = (on(Kind::Tmpfs, 0), on(Kind::Ext4, 1));
            let frozen = scope.spawn(|| freezes::freeze(freezes, plan.seed ^ 2));
            let controls = scope.spawn(|| controls(plan));
            (tmpfs.join(), ext4.join(), frozen.join(), controls.join())
        });
        let mut outcome = Outcome {
            controls: joined(controls)?,
            ..Outcome::default()
        };
        for (kind, tally) in [(Kind::Tmpfs, tmpfs), (Kind::Ext4, ext4)] {
            let tally = joined(tally)?;
            tally.show(kind);
            let name = kind.name();
            let what = format!("kills on {name}, each with a full check");
            let count = Count::new(what, tally.kills, kills / 2);
            outcome.counts.push(count);
            let what = format!("phases of a refresh hit on {name}");
            let count = Count::new(what, tally.hit() as u64, PHASES.len() as u64);
            outcome.counts.push(count);
        }
        let what = "frozen holders overtaken";
        let count = Count::new(what, joined(frozen)?, freezes);
        outcome.counts.push(count);
        Ok(outcome)
    }
}

/// What came of a ground.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    of_program: u64,
    phases: BTreeMap<Phase, u64>,
    /// How long the next acquire took, with nobody else who wanted the lock; and among the others.
    alone: Vec<Waited>,
    among: Vec<Waited>,
    reads: u64,
    generations: u64,
}

impl Tally {
    /// How many of [`PHASES`] were hit.
    fn hit(&self) -> usize {
        let is_hit =
            |phases: &&&[Phase]| phases.iter().any(|phase| self.phases.contains_key(phase));
        PHASES.iter().filter(is_hit).count()
    }

    fn show(&self, kind: Kind) {
        let Tally {
            kills,
            of_program,
            reads,
            generations,
            ..
        } = self;
        println!(
            "{}: {kills} kills, {of_program} of them of the program, in {generations} generations, under {reads} reads",
            kind.name()
        );
        let phases = Phase::ALL.map(|phase| {
            let times = self.phases.get(&phase).copied().unwrap_or(0);
            format!("{phase:?} {times}")
        });
        println!("  left behind: {}", phases.join(", "));
        for (what, waits) in [("alone", &self.alone), ("among the others", &self.among)] {
            let [median, high, most] = at(waits, [50, 99, 100]);
            println!(
                "  the next acquire, {what}: {:.1?} (median), {:.1?} (99 %), {:.1?} (most, {:.1?} of it without a sign of life)",
                median.whole, high.whole, most.whole, most.idle
            );
        }
    }
}

/// What so many of a hundred did not wait longer than.
fn at<const N: usize>(waits: &[Waited], percents: [usize; N]) -> [Waited; N] {
    let mut waits = waits.to_vec();
    waits.sort();
    let nth = |percent| (waits.len().max(1) - 1) * percent / 100;
    percents.map(|percent| waits.get(nth(percent)).copied().unwrap_or_default())
}

/// A wait for anything but the kernel, for which a dead native is no holder, takes longer: the shortest is one of 250 ms.
const SOON: Duration = Duration::from_millis(20);

fn kill_on(
    kind: Kind,
    kills: u64,
    seed: u64,
    program: &Path,
    failed: &AtomicBool,
) -> Result<Tally, Broken> {
    let place = Place::on(kind)?;
    let setup = Setup {
        style: Style::Right,
        lease: LEASE,
        alone: true,
        seed,
    };
    let mut tally = Tally::default();
    let killed = kill(
        place.path(),
        setup,
        kills,
        Some(program),
        failed,
        &mut tally,
    );
    killed.map_err(|fault| {
        failed.store(true, Ordering::Relaxed);
        let (name, after) = (kind.name(), tally.kills);
        let broken = format!("seed {seed}: {name}, after {after} kills: {fault}");
        println!("{broken}");
        Broken(broken)
    })?;
    let [Waited { whole: usual, .. }] = at(&tally.alone, [50]);
    if usual > SOON {
        let name = kind.name();
        let why = format!("on {name} the next acquire usually waits, alone, for {usual:?}");
        return Err(Broken(why));
    }
    Ok(tally)
}

/// Kills as many as `kills` on a new ground in `dir`.
fn kill(
    dir: &Path,
    setup: Setup,
    kills: u64,
    program: Option<&Path>,
    failed: &AtomicBool,
    tally: &mut Tally,
) -> Result<(), Fault> {
    let mut ground = Ground::new(dir, setup)?;
    // A few more, should chance have left out a phase.
    while tally.kills < kills || (tally.kills < 10 * kills && tally.hit() < PHASES.len()) {
        if failed.load(Ordering::Relaxed) {
            break;
        }
        let program = program.filter(|_| ground.random.one_in(50));
        // Beyond the end of a refresh that has begun, too.
        let most = 4 * ground.refresh.as_nanos() as u64;
        let wait = Duration::from_nanos(ground.random.below(most.max(1)));
        let victim = ground.random.below(ground.writers.len() as u64) as usize;
        if let Some(program) = program {
            kill_program(&mut ground, program, tally.kills)?;
            tally.of_program += 1;
        } else if ground.random.one_in(2) {
            thread::sleep(wait);
            ground.replace(victim, |_, _| Ok(()))?;
        } else {
            let (phase, waited) = kill_watched(&mut ground, victim, wait)?;
            *tally.phases.entry(phase).or_default() += 1;
            tally.alone.extend(waited);
        }
        ground.look()?;
        let waited = ground.publish(true)?;
        tally.among.push(at_once(setup.lease, waited)?);
        tally.kills += 1;
    }
    tally.reads = ground.reads();
    tally.generations = ground.floor;
    Ok(())
}

fn at_once(lease: Duration, waited: Waited) -> Result<Waited, Fault> {
    let Waited { whole, idle } = waited;
    if whole.min(idle) < lease / 4 {
        return Ok(waited);
    }
    let text =
        format!("the next acquire waited for {whole:?}, {idle:?} of it without a sign of life");
    Err(FaultKind::Slow.with(text))
}

/// Kills the holder while the others stand still: what it has left, and how long the next acquire took, if the checker made it
/// before the others could.
fn kill_watched(
    ground: &mut Ground,
    victim: usize,
    wait: Duration,
) -> Result<(Phase, Option<Waited>), Fault> {
    for writer in &ground.writers {
        writer.signal(Signal::STOP)?;
    }
    for writer in &ground.writers {
        writer.wait_stopped()?;
    }
    let victim = ground.holder().unwrap_or(victim);
    ground.writers[victim].signal(Signal::CONT)?;
    thread::sleep(wait);
    let pid = ground.writers[victim].pid();
    let found = ground.replace(victim, |ground, number| {
        ground.take_log()?;
        let phase = Phase::of(ground, pid, number)?;
        // An empty claim may be that of one that stands still; then nobody knows who has the kernel lock.
        let mut waited = None;
        let recovers = ground.random.one_in(2);
        if recovers && !matches!(phase, Phase::Outside | Phase::EmptyClaim) {
            waited = Some(at_once(ground.lease(), ground.publish(true)?)?);
        }
        Ok((phase, waited))
    })?;
    for (index, writer) in ground.writers.iter().enumerate() {
        if index != victim {
            writer.signal(Signal::CONT)?;
        }
    }
    Ok(found)
}

/// Kills the program somewhere in a refresh of its own.
fn kill_program(ground: &mut Ground, program: &Path, number: u64) -> Result<(), Fault> {
    let mut child = Command::new(program)
        .args(["refresh", "--quiet", "--lease", "20s", "--timeout", "1m"])
        .arg(ground.entry.path())
        .env("CACHELOCK_CONFIG", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let writer = OF_PROGRAM;
    if let Some(mut input) = child.stdin.take() {
        // All of it fits into the pipe, whenever it is read.
        let _ = input.write_all(&make(Origin { writer, number }));
    }
    thread::sleep(Duration::from_micros(ground.random.below(6000)));
    child.kill()?;
    let status = child.wait()?;
    match status.code() {
        None | Some(0) => Ok(()),
        Some(_) => Err(FaultKind::Failed.with(format!("the program ended with {status}"))),
    }
}

/// Planted defects: writers that are wrong, and what must come of it within so many kills.
fn controls(plan: &Plan) -> Result<Vec<Control>, Broken> {
    const KILLS: u64 = 3000;
    let mut controls = Vec::new();
    for (style, kind, expected, defect) in [
        (
            Style::InPlace,
            Kind::Tmpfs,
            FaultKind::Torn,
            "a writer that writes in place",
        ),
        (
            Style::Littering,
            Kind::Tmpfs,
            FaultKind::Stray,
            "a writer with temporary files that nobody else removes",
        ),
        (
            Style::WithoutGate,
            Kind::Tmpfs,
            FaultKind::Slow,
            "a writer without the kernel lock",
        ),
        (
            Style::PreviousFromNext,
            // Where it takes a while to replace a file.
            Kind::Ext4,
            FaultKind::Torn,
            "Mutation::PreviousFromNext",
        ),
        (
            Style::StateReadEarly,
            Kind::Tmpfs,
            FaultKind::Generation,
            "Mutation::StateReadEarly",
        ),
    ] {
        let place = Place::on(kind)?;
        let gated = style != Style::WithoutGate;
        let setup = Setup {
            style,
            // One that is waited out.
            lease: if gated { LEASE } else { LEASE / 10 },
            // Who has no gate leaves wants, rightly.
            alone: gated,
            seed: Random::new(plan.seed).draw(),
        };
        let mut tally = Tally::default();
        let never = AtomicBool::new(false);
        let found = kill(place.path(), setup, KILLS, None, &never, &mut tally);
        let caught = matches!(&found, Err(fault) if fault.kind == expected);
        match found {
            Err(fault) => println!("planted: {defect}: after {} kills: {fault}", tally.kills),
            Ok(()) => println!("planted: {defect}: not noticed within {KILLS} kills"),
        }
        controls.push(Control::new(defect, caught));
    }
    controls.push(freezes::control(plan.seed)?);
    Ok(controls)
}
