//! Measures cachelock beside others: what `cargo xtask bench` runs. Each comparison takes its ways in turns, in one run,
//! and what counts is the median of the rounds' ratios.
//!
//! Where processes are measured, this program starts itself again, in a role that its environment says.

// The operations are public for `benches/alone.rs`; what is here is not.
#![allow(unreachable_pub)]

mod alone;
mod child;
mod crowd;
mod document;
mod guest;
mod handoff;
mod peers;
mod report;
mod run;
mod sample;
mod waiter;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use report::Row;
use run::Run;

/// The comparisons, by the names that `--only` takes a part of.
type Group = (&'static str, fn(&Run) -> Vec<Row>);

const GROUPS: [Group; 9] = [
    ("handoff", handoff::compare),
    ("polling", peers::hand_off),
    ("waiters", crowd::waiters),
    ("refresh", alone::refreshes),
    ("read", alone::reads),
    ("herd", crowd::herd),
    ("threads", alone::threads),
    ("guest", guest::compare),
    ("growth", growth),
];

fn growth(run: &Run) -> Vec<Row> {
    let mut rows = alone::growth(run);
    rows.push(crowd::processes(run));
    rows
}

fn main() -> ExitCode {
    // A failed system call would pay for a backtrace.
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        eprintln!("bench: unset RUST_BACKTRACE: it makes failed calls slow");
        return ExitCode::from(2);
    }
    if let Ok(role) = std::env::var(child::ROLE) {
        let dir = PathBuf::from(std::env::var_os(child::DIR).expect("set with the role"));
        waiter::play(&role, &dir);
        return ExitCode::SUCCESS;
    }
    match Run::parse(std::env::args().skip(1)) {
        Ok(run) => {
            compare(&run);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("bench: {reason}");
            ExitCode::from(2)
        }
    }
}

fn compare(run: &Run) {
    let machine = document::Machine::look(&run.disk);
    println!("{machine}");
    let idle = run.wants("idle").then(|| crowd::Idle::start(run));
    let mut rows = Vec::new();
    for (name, group) in GROUPS {
        if !run.wants(name) {
            continue;
        }
        let began = Instant::now();
        let found = group(run);
        println!(
            "{name} ({:.1} s)\n{}",
            began.elapsed().as_secs_f64(),
            report::table(&found)
        );
        rows.extend(found);
    }
    rows.extend(idle.map(crowd::Idle::finish));
    let table = report::table(&rows);
    let count = report::count(&rows);
    println!("{table}");
    if let Some(path) = &run.write {
        document::write(path, &machine, &table, &count);
    }
    println!("{count}");
}
