//! What a layer is, and what it reports.

use std::fmt;
use std::path::PathBuf;

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// What every merge is tested with: seconds for each layer.
    Short,
    /// All layers within ten minutes on two cores.
    Standard,
    /// Before a release.
    Long,
}

impl Size {
    /// The target for this size.
    #[must_use]
    pub fn pick(self, short: u64, standard: u64, long: u64) -> u64 {
        match self {
            Size::Short => short,
            Size::Standard => standard,
            Size::Long => long,
        }
    }
}

/// What a layer is told.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How much to try.
    pub size: Size,
    /// Where everything random starts: the same seed repeats the run on any machine.
    pub seed: u64,
    /// How many threads or processes may compute at a time.
    pub jobs: usize,
    /// The program `cachelock`, built without deliberate defects, for layers that run it.
    pub program: Option<PathBuf>,
    /// The same as a guest, and the `wasmtime` that runs it.
    pub guest: Option<Guest>,
    /// The program `fuzz`, built with AddressSanitizer and for libFuzzer.
    pub fuzzer: Option<PathBuf>,
}

/// What runs the program as a guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The runtime.
    pub wasmtime: PathBuf,
    /// The program for it, compiled for this machine.
    pub program: PathBuf,
}

/// One layer of the proof.
pub trait Layer: Sync {
    /// Its number in `docs/reliability.md`, from 1.
    fn number(&self) -> u32;

    /// Whether it waits more than it computes, and so runs beside those that compute.
    fn waits(&self) -> bool {
        false
    }

    /// Its name, a word or two.
    fn name(&self) -> &'static str;

    /// Runs it. What it finds comes as soon as it is found.
    ///
    /// # Errors
    /// A promise was broken, or the layer could not run. Too small a count and a control that was not caught are no errors
    /// here; the table finds them.
    fn run(&self, plan: &Plan) -> Result<Outcome, Broken>;
}

/// What a layer has tried.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What was counted, each against its target.
    pub counts: Vec<Count>,
    /// The planted defects.
    pub controls: Vec<Control>,
}

/// A number that a layer must reach.
#[derive(Debug, Clone)]
pub struct Count {
    /// What is counted.
    pub what: String,
    /// How many there were.
    pub counted: u64,
    /// How many there must be.
    pub target: u64,
}

impl Count {
    /// A count of `what`.
    #[must_use]
    pub fn new(what: impl Into<String>, counted: u64, target: u64) -> Self {
        let what = what.into();
        Self {
            what,
            counted,
            target,
        }
    }
}

/// A planted defect.
#[derive(Debug, Clone)]
pub struct Control {
    /// What was planted.
    pub defect: String,
    /// Whether the layer noticed.
    pub caught: bool,
}

impl Control {
    /// A planted `defect`, which was noticed or not.
    #[must_use]
    pub fn new(defect: impl Into<String>, caught: bool) -> Self {
        let defect = defect.into();
        Self { defect, caught }
    }
}

/// A broken promise, or why a layer could not run: what happened, where, and the seed that repeats it.
#[derive(Debug, Clone)]
pub struct Broken(pub String);

impl Broken {
    /// The first of what a run with `seed` has found, if it has found anything.
    pub(crate) fn first_of(found: &[String], seed: u64) -> Result<(), Broken> {
        let Some(first) = found.first() else {
            return Ok(());
        };
        let times = found.len();
        Err(Broken(format!(
            "seed {seed}: {times} of them, first: {first}"
        )))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}
