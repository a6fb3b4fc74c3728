//! `completions` and `man`: what others can make of the definitions in [`args`](crate::args).

use std::io::{self, Write};

use clap::{ArgAction, Command, CommandFactory as _};
pub(crate) use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::Args;
use crate::exit::{self, Failure};
use crate::report;

pub(super) fn completions(shell: &Shell) -> Result<u8, Failure> {
    let mut command = with_flags(Args::command());
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut command, name, &mut script);
    if *shell == Shell::Bash {
        let text = String::from_utf8_lossy(&script);
        let text = text.replace("complete -F _cachelock ", "complete -F _cachelock_line ");
        script = format!("{BASH_LINE}{text}").into_bytes();
    }
    report::bytes(&script)?;
    Ok(exit::OK)
}

/// What is made for bash takes the words of COMMAND for its own.
const BASH_LINE: &str = r#"# What follows `--` is the line of another command.
_cachelock_line() {
    local at
    for ((at = 1; at < COMP_CWORD; at++)); do
        if [[ "${COMP_WORDS[at]}" == -- ]]; then
            if declare -F _command_offset >/dev/null; then
                _command_offset $((at + 1))
            elif ((COMP_CWORD == at + 1)); then
                COMPREPLY=($(compgen -c -- "${COMP_WORDS[COMP_CWORD]}"))
            else
                COMPREPLY=()
            fi
            return
        fi
    done
    _cachelock "$@"
}

"#;

/// An option that is good without a value is completed as a flag: the scripts would have the next word be its value.
fn with_flags(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.is_require_equals_set() {
        true => arg
            .num_args(0)
            .require_equals(false)
            .action(ArgAction::SetTrue),
        false => arg,
    });
    let names: Vec<_> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, with_flags)
    })
}

pub(super) fn page() -> Result<u8, Failure> {
    let mut page = Vec::new();
    write_page(&mut page).map_err(|error| Failure::Io("make the manual page", error))?;
    report::bytes(&page)?;
    Ok(exit::OK)
}

/// One page for all: a person looks in one place, and whoever installs it has one file.
fn write_page(page: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let man = Man::new(with_usage(command.clone()));
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    Roff::new().control("SH", ["COMMANDS"]).to_writer(page)?;
    for sub in command.get_subcommands() {
        let name = format!("cachelock {}", sub.get_name());
        Roff::new().control("SS", [&*name]).to_writer(page)?;
        // The options that every command takes are said above.
        let own = with_usage(sub.clone()).mut_args(|arg| {
            let is_common = arg.is_global_set() || arg.get_id() == "help";
            arg.hide(is_common)
        });
        let has_options = own.get_arguments().any(|arg| !arg.is_hide_set());
        let man = Man::new(own);
        body(page, |section| man.render_synopsis_section(section))?;
        Roff::new().control("PP", []).to_writer(page)?;
        body(page, |section| man.render_description_section(section))?;
        if has_options {
            body(page, |section| man.render_options_section(section))?;
        }
        notes(page, sub, |roff, heading| {
            roff.control("PP", []).text([bold(heading)]);
        })?;
    }
    notes(page, &command, |roff, heading| {
        roff.control("SH", [&*heading.to_uppercase()]);
    })
}

/// The usage as `--help` has it. One made of the options would leave out the `--` before COMMAND.
fn with_usage(mut command: Command) -> Command {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    command.override_usage(usage)
}

/// A section without its heading.
fn body(
    page: &mut Vec<u8>,
    section: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut text = Vec::new();
    section(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let after_heading = text
        .split_once(".SH ")
        .and_then(|(_, rest)| rest.split_once('\n'));
    page.write_all(after_heading.map_or("", |(_, body)| body).as_bytes())
}

/// What [`help`](crate::help) has for `command`, line by line as it stands there.
fn notes(
    page: &mut Vec<u8>,
    command: &Command,
    heading: impl Fn(&mut Roff, &str),
) -> io::Result<()> {
    let text = command.get_after_long_help().map(ToString::to_string);
    let mut roff = Roff::new();
    for line in text.unwrap_or_default().lines() {
        match line.strip_suffix(':') {
            Some(name) if !line.starts_with(' ') => {
                roff.control("fi", []);
                heading(&mut roff, name);
                roff.control("nf", []);
            }
            _ => {
                roff.text([roman(line)]);
            }
        }
    }
    roff.control("fi", []);
    roff.to_writer(page)
}
