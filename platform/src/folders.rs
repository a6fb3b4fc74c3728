//! Folders of the user, where the target has its own place for them.

use std::env;
use std::path::PathBuf;

/// The folder for the user's configuration files, as the environment names it; `None` where it names none, as in many
/// sandboxes. It need not exist.
///
/// | target | folder |
/// | --- | --- |
/// | Windows | `%APPDATA%` |
/// | macOS, iOS | `$XDG_CONFIG_HOME`, else `$HOME/Library/Application Support` |
/// | anything else, a WASI guest too | `$XDG_CONFIG_HOME`, else `$HOME/.config` |
///
/// Only the environment counts, so that a run without `HOME` reads nobody's files. As the XDG specification demands,
/// a relative path is ignored.
#[must_use]
pub fn config_dir() -> Option<PathBuf> {
    cfg_if::cfg_if! {
        if #[cfg(windows)] {
            absolute("APPDATA")
        } else if #[cfg(any(target_os = "macos", target_os = "ios"))] {
            xdg_or("Library/Application Support")
        } else {
            xdg_or(".config")
        }
    }
}

#[cfg(not(windows))]
fn xdg_or(below_home: &str) -> Option<PathBuf> {
    absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(below_home)))
}

fn absolute(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os(variable)?);
    path.is_absolute().then_some(path)
}
