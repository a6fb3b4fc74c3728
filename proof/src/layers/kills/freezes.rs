//! Writers that are frozen in place of being killed.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::ground::{Fault, FaultKind, Ground, Setup};
use super::writer::Style;
use crate::layer::{Broken, Control};
use crate::place::{Kind, Place};

/// So short that many can be waited out.
const LEASE: Duration = Duration::from_millis(300);

/// After which a frozen holder has held the others up for too long, on however busy a machine.
const LATE: Duration = Duration::from_secs(3);

/// Freezes as many holders as `freezes`, one after the other. How many were overtaken.
pub(super) fn freeze(freezes: u64, seed: u64) -> Result<u64, Broken> {
    let mut waits = Vec::new();
    let frozen = freeze_all(Style::Right, freezes, seed, &mut waits)?;
    let overtaken = waits.len();
    frozen.map_err(|fault| {
        let text = format!("seed {seed}: frozen writers, after {overtaken}: {fault}");
        Broken(text)
    })?;
    waits.sort();
    println!(
        "frozen holders: {overtaken}, with a lease of {LEASE:?}; the others went on after {:.0?} (median), {:.0?} (most)",
        waits[overtaken / 2],
        waits[overtaken - 1],
    );
    Ok(overtaken as u64)
}

/// A planted defect: writers that never look whether the one that has the gate stands still.
pub(super) fn control(seed: u64) -> Result<Control, Broken> {
    let defect = "Mutation::GateWaitBlind";
    let mut waits = Vec::new();
    let found = freeze_all(Style::GateWaitBlind, 20, seed, &mut waits)?;
    match &found {
        Err(fault) => println!("planted: {defect}: after {} freezes: {fault}", waits.len()),
        Ok(()) => println!("planted: {defect}: not noticed"),
    }
    let caught = matches!(found, Err(fault) if fault.kind == FaultKind::Slow);
    Ok(Control::new(defect, caught))
}

fn freeze_all(
    style: Style,
    freezes: u64,
    seed: u64,
    waits: &mut Vec<Duration>,
) -> Result<Result<(), Fault>, Broken> {
    let place = Place::on(Kind::Tmpfs)?;
    let setup = Setup {
        style,
        lease: LEASE,
        alone: false,
        seed,
    };
    let mut run = || -> Result<(), Fault> {
        let mut ground = Ground::new(place.path(), setup)?;
        while (waits.len() as u64) < freezes {
            waits.extend(freeze_one(&mut ground)?);
        }
        Ok(())
    };
    Ok(run())
}

/// Freezes a writer. If it is the holder: how long the others were held up.
fn freeze_one(ground: &mut Ground) -> Result<Option<Duration>, Fault> {
    let victim = ground.random.below(ground.writers.len() as u64) as usize;
    thread::sleep(Duration::from_micros(ground.random.below(1000)));
    ground.writers[victim].signal(Signal::STOP)?;
    ground.writers[victim].wait_stopped()?;
    let frozen = Instant::now();
    let holds = ground.holder() == Some(victim);
    let number = ground.writers[victim].number();
    // What it has published is published; what counts is what comes after that.
    let before = ground.look()?.0;
    let passed = loop {
        let (generation, _) = ground.look()?;
        if generation > before + 1 {
            break frozen.elapsed();
        }
        if frozen.elapsed() > LATE {
            let text = format!(
                "a frozen writer holds the others up for {:?}",
                frozen.elapsed()
            );
            return Err(FaultKind::Slow.with(text));
        }
        thread::sleep(Duration::from_millis(1));
    };
    if ground.random.one_in(2) {
        ground.replace(victim, |_, _| Ok(()))?;
    } else {
        ground.heard.clear();
        ground.writers[victim].signal(Signal::CONT)?;
        if holds {
            // It is told that its lease is lost, unless it had published before, and goes on like the others.
            let woken = Instant::now();
            while !ground.heard.contains(&number) {
                ground.look()?;
                if woken.elapsed() > LATE {
                    let text = "a frozen holder was overtaken, woke up, and is not heard of again";
                    return Err(FaultKind::Generation.with(text));
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    ground.look()?;
    ground.publish(false)?;
    Ok(holds.then_some(passed))
}
