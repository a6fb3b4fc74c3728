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
    let control = Control::new();
    let tracing = args.tracing().map_or(Ok(()), start_tracing);
    let code = match tracing.and_then(|()| commands::run(&args, &control)) {
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
    let printed = error.print();
    match error.kind() {
        ClapError::DisplayHelp | ClapError::DisplayVersion => match report::heard(printed) {
            Ok(_) => ExitCode::SUCCESS,
            Err(failure) => {
                report::named_line(failure.name(), &failure.to_string());
                ExitCode::from(failure.code())
            }
        },
        // Nobody is left to tell if that failed.
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

/// A filter for what is said of what happens.
const LOG_VARIABLE: &str = "CACHELOCK_LOG";

/// `-v`, `-vv`, or that filter.
fn start_tracing(verbose: u8) -> Result<(), Failure> {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    // Set to nothing counts as not set, as everywhere.
    let variable = std::env::var_os(LOG_VARIABLE).filter(|filter| !filter.is_empty());
    let targets: Targets = match (variable, verbose) {
        (Some(filter), _) => filter
            .to_string_lossy()
            .parse()
            .map_err(|error| Failure::Usage(format!("{LOG_VARIABLE}={filter:?}: {error}")))?,
        (None, 0) => return Ok(()),
        (None, 1) => Targets::new().with_target("cachelock", LevelFilter::DEBUG),
        (None, _) => Targets::new().with_default(LevelFilter::TRACE),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(console::colors_enabled_stderr());
    let started = tracing_subscriber::registry()
        .with(lines)
        .with(targets)
        .try_init();
    started.map_err(|error| Failure::Usage(format!("cannot say what happens: {error}")))
}
