//! `prove`: runs the layers and prints the table. `cargo xtask prove` builds what it needs and calls it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cachelock_proof::layer::Guest;
use cachelock_proof::{Layer, Plan, Size, Table, layers};

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
    let layers: Vec<Box<dyn Layer>> = layers::all()
        .into_iter()
        .filter(|layer| only.is_empty() || only.contains(&layer.number()))
        .collect();
    if layers.is_empty() {
        eprintln!("prove: there is no such layer");
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let mut table = Table::default();
    for layer in &layers {
        println!("=== {} {}", layer.number(), layer.name());
        let started = Instant::now();
        let result = layer.run(plan);
        if let Err(broken) = &result {
            println!("{broken}");
        }
        table.add(&**layer, result.as_ref(), started.elapsed());
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

/// The plan, and the layers to run (none: all). `None` for help.
fn arguments(words: impl Iterator<Item = OsString>) -> Result<Option<(Plan, Vec<u32>)>, String> {
    let jobs = std::thread::available_parallelism().map_or(1, Into::into);
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
