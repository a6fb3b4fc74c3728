//! Layer 4: every error of the system at every call, alone and two together.
//!
//! A case is some work of the library, in which one or two calls meet a fault each: an error that such a call can answer, or
//! a read or write that does less than asked for. In some cases another process holds the lock when the work begins, or wants
//! it while the work has it; no fault hits that one. Afterwards: what the work said is clear and true, the entry is whole, the
//! other process has published in time, an acknowledged publish outlives a power cut, and the next refresh succeeds and leaves
//! nothing.

use std::collections::HashSet;

use cachelock::platform::memory::Op;
use cachelock::{Durability, Mutation};

use crate::random::Random;
use crate::sim::Work;
use crate::threads::each;
use crate::{Broken, Control, Count, Layer, Outcome, Plan};

mod case;
mod faults;
mod scenario;

use case::{Calls, Case};
use faults::faults;
use scenario::{Company, Job, Scenario, before, scenarios};

/// The layer.
#[derive(Debug)]
pub(super) struct Errors;

/// All cases with one fault.
fn singles(scenario: Scenario, mutation: Option<Mutation>) -> Result<(u64, Calls), Broken> {
    let before = &before(scenario);
    let case = |hits| Case {
        scenario,
        before,
        hits,
        mutation,
    };
    let calls = case(Vec::new()).run()?.calls;
    let mut count = 0;
    for (number, (op, _)) in calls.iter().enumerate() {
        for fault in faults(*op) {
            let seen = case(vec![(number, fault)]).run()?;
            if seen.hits != 1 {
                return Err(Broken(format!(
                    "{scenario:?}: call {number} was never made"
                )));
            }
            count += 1;
        }
    }
    Ok((count, calls))
}

/// `count` different pairs of faults, drawn by seed. The second is at a call that the first has led to.
fn pairs(scenario: Scenario, calls: &Calls, count: u64, mut random: Random) -> Result<u64, Broken> {
    let before = &before(scenario);
    let mut tried = HashSet::new();
    let mut done = 0;
    let mut draws = 0;
    while done < count && draws < 20 * count {
        draws += 1;
        let first = random.pick(calls.len());
        let second = first + 1 + random.pick((calls.len() - first).min(24) + 4);
        let (one, other) = (faults(calls[first].0), calls.get(second));
        // Beyond the calls of an undisturbed run nobody knows what comes: an error that any call may answer.
        let two = other.map_or_else(|| faults(Op::Stat), |(op, _)| faults(*op));
        if one.is_empty() || two.is_empty() {
            continue;
        }
        let (a, b) = (random.pick(one.len()), random.pick(two.len()));
        if !tried.insert((first, second, a, b)) {
            continue;
        }
        let case = Case {
            scenario,
            before,
            hits: vec![(first, one[a]), (second, two[b])],
            mutation: None,
        };
        done += u64::from(case.run()?.hits == 2);
    }
    Ok(done)
}

impl Layer for Errors {
    fn number(&self) -> u32 {
        4
    }

    fn name(&self) -> &'static str {
        "errors"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let scenarios = scenarios(plan.size);
        let ran = each(plan.jobs, &scenarios, |scenario| {
            singles(*scenario, None).map(|(count, calls)| (*scenario, count, calls))
        })?;
        let single: u64 = ran.iter().map(|(_, count, _)| count).sum();
        let target = plan.size.pick(1_000, 50_000, 500_000);
        // The longer the work, the more pairs there are.
        let weight: u64 = ran.iter().map(|(_, count, _)| count).sum();
        let numbered: Vec<_> = ran.iter().enumerate().collect();
        let drawn = each(
            plan.jobs,
            &numbered,
            |(number, (scenario, count, calls))| {
                // More than that, for short work has not so many.
                let share = target * 5 / 4 * count / weight + 1;
                pairs(*scenario, calls, share, Random::at(plan.seed, &[*number]))
                    .map_err(|broken| Broken(format!("{broken}\nseed {}", plan.seed)))
            },
        )?;
        let caught = singles(
            Scenario {
                job: Job::Publish(Work::Value),
                guest: false,
                old: true,
                residue: false,
                durability: Durability::Full,
                company: Company::Nobody,
            },
            Some(Mutation::SyncErrorSwallowed),
        );
        let all = plan.size.pick(1_000, 10_000, 10_000);
        Ok(Outcome {
            counts: vec![
                Count::new("single errors, all of them", single, all),
                Count::new("pairs of errors", drawn.iter().sum(), target),
            ],
            controls: vec![Control::new("SyncErrorSwallowed", caught.is_err())],
        })
    }
}
