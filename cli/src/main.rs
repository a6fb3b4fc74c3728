//! The program `cachelock`: caches the output of commands in files that many processes share.

mod args;
mod command;
mod commands;
mod control;
mod exit;
mod feedback;
mod input;
mod line;
mod report;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind as ClapError;

use crate::args::{Args, Output};
use crate::control::Control;
use crate::exit::Failure;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refused(&error),
    };
    start_tracing(&args.output);
    let control = Control::new();
    control.listen();
    let code = match commands::run(&args, &control) {
        Ok(code) => code,
        Err(failure) => {
            report::failure(&failure, &args.output, &control);
            failure.code()
        }
    };
    ExitCode::from(code)
}

/// What clap has to say: a mistake in the arguments, or the help that was asked for.
fn refused(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os()
        .skip(1)
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json");
    if wants_json && error.use_stderr() {
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

/// `-v`, `-vv`, or the filter in `CACHELOCK_LOG`.
fn start_tracing(output: &Output) {
    use tracing_subscriber::EnvFilter;

    let filter = match (std::env::var("CACHELOCK_LOG"), output.verbose) {
        (Ok(filter), _) => filter,
        (Err(_), 0) => return,
        (Err(_), 1) => "cachelock=debug".to_owned(),
        (Err(_), _) => "trace".to_owned(),
    };
    let started = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
    if let Err(error) = started {
        eprintln!("cachelock: no tracing: {error}");
    }
}
