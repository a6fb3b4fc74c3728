//! `prove`: runs the layers and prints the table. `cargo xtask prove` builds what it needs and calls it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use cachelock_proof::layer::Guest;
use cachelock_proof::{Broken, Layer, Outcome, Plan, Size, Table, layers, unpanicked};

/// The simulated processes allocate all the time, and on several threads: a quarter less time than with the system's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Shows what cachelock promises, layer by layer

Usage: prove [--short | --long] [--layer N[,N...]] [--seed N] [--jobs N] [--program FILE] [--wasmtime FILE --guest FILE]
             [--fuzzer FILE]

--short         what every merge is tested with; --long: the sizes for a release
--layer N       only these layers
--seed N        where everything random starts; without it, from the clock
--jobs N        how many threads or processes may compute at a time (default: one for each processor)
--program FILE  the program `cachelock`, for layers that run it
--wasmtime FILE --guest FILE  the runtime, and the program compiled for it
--fuzzer FILE   the program `fuzz`, built for libFuzzer

Exit codes: 0; 1 when a promise was broken, a count fell short or a planted defect was not caught; 2 for a usage error
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map_while(|word| word.into_string().ok())
        .collect();
    if let Some(ended) = layers::part(&words) {
        return ended;
    }
    match arguments(std::env::args_os().skip(1)) {
        Ok(Some((plan, only))) => run(&plan, &only),
        Ok(None) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("prove: {reason}\n\n{}", HELP.trim_end());
            ExitCode::from(2)
        }
    }
}

fn run(plan: &Plan, only: &[u32]) -> ExitCode {
    let mut layers = layers::all();
    let is_one = |number: &&u32| layers.iter().any(|layer| layer.number() == **number);
    if let Some(number) = only.iter().find(|number| !is_one(number)) {
        eprintln!("prove: there is no layer {number}");
        return ExitCode::from(2);
    }
    layers.retain(|layer| only.is_empty() || only.contains(&layer.number()));
    println!("seed {}", plan.seed);
    let began = Instant::now();
    let (waiting, computing): (Vec<_>, Vec<_>) = layers
        .iter()
        .map(|layer| &**layer)
        .partition(|layer| layer.waits());
    let (mut ended, computed) = thread::scope(|scope| {
        let waiting = scope.spawn(|| lane(&waiting, plan));
        let computed = lane(&computing, plan);
        (waiting.join().expect("it catches panics"), computed)
    });
    ended.extend(computed);
    ended.sort_by_key(|(layer, ..)| layer.number());
    let mut table = Table::default();
    for (layer, result, took) in ended {
        table.add(layer, result.as_ref(), took);
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "\n{table}\nseed {}, {:?}, {} jobs, {seconds:.1} s",
        plan.seed, plan.size, plan.jobs
    );
    if table.fell_short() {
        println!("=== FAILED");
        return ExitCode::FAILURE;
    }
    println!("=== OK");
    ExitCode::SUCCESS
}

/// A layer, what came of it, and how long it took.
type Ended<'l> = (&'l dyn Layer, Result<Outcome, Broken>, Duration);

/// Runs `layers` one after the other. There are two lanes, of layers that compute and of those that mostly wait for processes,
/// disks and leases: together they leave no processor idle.
fn lane<'l>(layers: &[&'l dyn Layer], plan: &Plan) -> Vec<Ended<'l>> {
    let run = |layer: &&'l dyn Layer| {
        let (number, name) = (layer.number(), layer.name());
        println!("=== {number} {name}");
        let started = Instant::now();
        let result = unpanicked(|| layer.run(plan));
        let took = started.elapsed();
        match &result {
            Err(broken) => println!("=== {number} {name}: {broken}"),
            Ok(_) => println!(
                "=== {number} {name}: ended after {:.1} s",
                took.as_secs_f64()
            ),
        }
        (*layer, result, took)
    };
    layers.iter().map(run).collect()
}

/// The plan, and the layers to run (none: all). `None` for help.
fn arguments(words: impl Iterator<Item = OsString>) -> Result<Option<(Plan, Vec<u32>)>, String> {
    let jobs = thread::available_parallelism().map_or(1, Into::into);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut plan = Plan {
        size: Size::Standard,
        // Short, since it may have to be typed.
        seed: now.as_millis() as u64 % 1_000_000_000,
        jobs,
        program: None,
        guest: None,
        fuzzer: None,
    };
    let (mut only, mut wasmtime, mut guest) = (Vec::new(), None, None);
    let mut words = words;
    while let Some(word) = words.next() {
        let word = word.to_string_lossy().into_owned();
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--short" => plan.size = Size::Short,
            "--long" => plan.size = Size::Long,
            "--seed" => plan.seed = number(&value()?)?,
            "--jobs" => plan.jobs = number::<usize>(&value()?)?.max(1),
            "--program" => plan.program = Some(value()?.into()),
            "--fuzzer" => plan.fuzzer = Some(value()?.into()),
            "--wasmtime" => wasmtime = Some(PathBuf::from(value()?)),
            "--guest" => guest = Some(PathBuf::from(value()?)),
            "--layer" => {
                for one in value()?.to_string_lossy().split(',') {
                    only.push(number(one.as_ref())?);
                }
            }
            _ => return Err(format!("what is {word:?}?")),
        }
    }
    plan.guest = match (wasmtime, guest) {
        (Some(wasmtime), Some(program)) => Some(Guest { wasmtime, program }),
        (None, None) => None,
        _ => return Err("--wasmtime and --guest go together".to_owned()),
    };
    Ok(Some((plan, only)))
}

fn number<T: std::str::FromStr>(word: &std::ffi::OsStr) -> Result<T, String> {
    let parsed = word.to_str().and_then(|word| word.parse().ok());
    parsed.ok_or(format!("{word:?} is no number"))
}
