//! Layer 1: a model of the lease protocol, all of whose states are searched.
//!
//! A *scene* has two or three processes: natives with a gate, guests without one, operators that break the lock, readers. Each
//! step is one file operation ([`steps`], [`attempt`], [`hold`]), and any process may take the next one. So each may stand
//! still at every step. It may also die at every step; a claim may be taken for expired at any time, whoever is alive; and
//! a listing may or may not show what came or went meanwhile. After each step the promises are looked at ([`check`]), and from
//! a sample of the states each process is run alone ([`lone`]).
//!
//! The model is of the rules and not of the code: layer 2 runs the code itself. Steps that show in no file are not in it,
//! nor is time, but for the waits of a process that is alone.
//!
//! Small scenes are searched to the end. What is too large is searched near its beginning, or along random walks. Each
//! defect of `cachelock::Mutation` is planted, too, and must break a promise.

mod attempt;
mod check;
mod hold;
mod lone;
mod process;
mod scene;
mod scenes;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use crate::layer::{Broken, Control, Count, Layer, Outcome, Plan};
use check::{Found, Search, Taken, Violation, search};
use process::Pc;
use scene::Scene;
use steps::How;

/// The layer.
pub(super) struct ProtocolModel;

impl Layer for ProtocolModel {
    fn number(&self) -> u32 {
        1
    }

    fn name(&self) -> &'static str {
        "model"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let controls = controls();
        let taken = Taken::default();
        let (mut transitions, mut alone) = (0, 0);
        for (scene, how) in scenes::searched(plan) {
            let found = search(&scene, how, plan.jobs);
            say(&scene, how, &found);
            if let Some(violation) = found.broken {
                let Violation { rule, trace, .. } = violation;
                let name = scene.name;
                return Err(Broken(format!("\"{rule}\" does not hold: {name}\n{trace}")));
            }
            taken.add(&found.taken);
            transitions += found.transitions;
            alone += found.alone;
        }
        let never = never_taken(&taken);
        if !never.is_empty() {
            return Err(Broken(format!("no scene has these steps: {never}")));
        }
        let target = plan.size.pick(2_000_000, 50_000_000, 500_000_000);
        let states = plan.size.pick(20_000, 300_000, 3_000_000);
        Ok(Outcome {
            counts: vec![
                Count::new("transitions without a violation", transitions, target),
                Count::new(
                    "states from which each process was run alone",
                    alone,
                    states,
                ),
            ],
            controls,
        })
    }
}

fn controls() -> Vec<Control> {
    let mut controls = Vec::new();
    for (mutation, scene) in scenes::controls() {
        let scene = Scene {
            mutation: Some(mutation),
            ..scene
        };
        // One thread: the trace is a shortest one, and each run finds the same.
        let found = search(&scene, Search::All, 1);
        let says = match &found.broken {
            Some(Violation { rule, steps, .. }) => format!("{steps} steps against \"{rule}\""),
            None => "NOT CAUGHT".to_owned(),
        };
        println!(
            "{mutation:?}: {says} ({}, {} transitions, {:.1} s)",
            scene.name,
            found.transitions,
            found.took.as_secs_f64()
        );
        controls.push(Control::new(
            format!("{mutation:?}"),
            found.broken.is_some(),
        ));
    }
    controls
}

fn say(scene: &Scene, how: Search, found: &Found) {
    let extent = match (how, found.states) {
        (Search::Near(most), Some(states)) if found.transitions >= most => {
            format!("the first {states} states")
        }
        (_, Some(states)) => format!("all {states} states"),
        (_, None) => "on random walks".to_owned(),
    };
    println!(
        "{}: {} transitions, {extent}, up to {} steps deep, {:.1} s",
        scene.name,
        found.transitions,
        found.depth,
        found.took.as_secs_f64()
    );
}

/// What the rules have and no search took: a rule that is never used was not checked.
fn never_taken(taken: &Taken) -> String {
    let defects = [
        Pc::Idle,
        Pc::EarlyPayload,
        Pc::EarlyTag,
        Pc::PayloadUnlink,
        Pc::ReadEnd,
    ];
    let pcs = Pc::ALL
        .iter()
        .filter(|pc| !defects.contains(pc) && !taken.pc(**pc))
        .map(|pc| format!("{pc:?}"));
    let hows = How::ALL
        .iter()
        .filter(|how| !taken.how(**how))
        .map(|how| format!("{how:?}"));
    pcs.chain(hows).collect::<Vec<_>>().join(", ")
}
