//! The tests in memory as a part of the library's own test program, for `cargo mutants`: one program is built for each small
//! defect, in place of the library and some twenty of them. Elsewhere this file is not compiled.

#![allow(
    clippy::duplicate_mod,
    reason = "each of these files is a program elsewhere, and has what it shares with others in it"
)]

// A macro, for `cargo mutants` should look for nothing to change in tests.
macro_rules! together {
    ($($name:ident $path:literal)*) => { $(#[path = $path] mod $name;)* };
}

together! {
    ages "../ages.rs"
    beats "../beats.rs"
    clocks "../clocks.rs"
    conformance "../conformance.rs"
    corrupt "../corrupt.rs"
    durable "../durable.rs"
    events "../events/main.rs"
    fairness "../fairness.rs"
    faults "../faults.rs"
    freshness "../freshness.rs"
    gate "../gate.rs"
    heartbeat "../heartbeat.rs"
    keys "../keys.rs"
    late "../late.rs"
    lost "../lost.rs"
    patience "../patience.rs"
    random "../random.rs"
    reads "../reads.rs"
    renames "../renames.rs"
    replay "../replay.rs"
    retry "../retry.rs"
    stampede "../stampede.rs"
    strange "../strange.rs"
    turns "../turns.rs"
}
