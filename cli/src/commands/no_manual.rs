//! In place of `manual` in a build without the feature of that name: a guest, which no shell completes and no `man` shows.

use crate::exit::Failure;

pub(crate) type Shell = String;

pub(super) fn completions(_: &str) -> Result<u8, Failure> {
    Err(missing())
}

pub(super) fn page() -> Result<u8, Failure> {
    Err(missing())
}

fn missing() -> Failure {
    let reason =
        "this build, for guests, has no completions and no manual page; a native one prints them";
    Failure::Usage(reason.to_owned())
}
