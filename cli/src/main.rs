//! The program `cachelock`: caches the output of commands in files that many processes share.

mod args;
mod command;
mod commands;
mod config;
mod control;
mod exit;
mod feedback;
mod help;
mod input;
mod line;
mod producer;
mod report;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind as ClapError;

use crate::args::Args;
use crate::control::Control;
use crate::exit::Failure;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refused(&error),
    };
    start_tracing(args.tracing());
    let control = Control::new();
    let code = match commands::run(&args, &control) {
        Ok(code) => code,
        Err(failure) => {
            report::failure(&failure, config::json(args.output.json), &control);
            failure.code()
        }
    };
    ExitCode::from(code)
}

/// What clap has to say: a mistake in the arguments, or the help that was asked for.
fn refused(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && config::json(json_flag()) {
        let failure = Failure::Usage(error.to_string().trim_end().to_owned());
        report::json_failure(&failure);
        return ExitCode::from(failure.code());
    }
    // Nobody is left to tell if this fails.
    let _ = error.print();
    match error.kind() {
        ClapError::DisplayHelp | ClapError::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(exit::USAGE),
    }
}

/// `--json` as far as it can be told from arguments that clap refuses.
fn json_flag() -> Option<bool> {
    std::env::args_os()
        .skip(1)
        .take_while(|argument| argument != "--")
        .filter_map(|argument| {
            let rest = argument.to_str()?.strip_prefix("--json")?;
            match rest.strip_prefix('=') {
                Some(value) => config::parse_bool(value).ok(),
                None => rest.is_empty().then_some(true),
            }
        })
        .last()
}

/// `-v`, `-vv`, or the filter in `CACHELOCK_LOG`.
fn start_tracing(verbose: u8) {
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let filter = match (std::env::var("CACHELOCK_LOG"), verbose) {
        // Set to nothing counts as not set, as everywhere.
        (Ok(filter), _) if !filter.is_empty() => filter,
        (_, 0) => return,
        (_, 1) => "cachelock=debug".to_owned(),
        (_, _) => "trace".to_owned(),
    };
    let targets: Targets = match filter.parse() {
        Ok(targets) => targets,
        Err(error) => {
            eprintln!("cachelock: no tracing: CACHELOCK_LOG: {error}");
            return;
        }
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let started = tracing_subscriber::registry()
        .with(lines)
        .with(targets)
        .try_init();
    if let Err(error) = started {
        eprintln!("cachelock: no tracing: {error}");
    }
}
