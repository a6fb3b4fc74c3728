//! Standard input and output as they are. The standard library takes one that cannot be used (a descriptor of the other direction, say)
//! for one at its end, or for one that takes everything: what is lost then is lost without a word.
//!
//! One that is closed when the process starts is another matter: on unix the standard library puts the null device there before
//! anybody can look.

use std::io::{self, Read, Write};

/// Standard input. Nothing else in the process may read it.
///
/// # Errors
/// No more descriptors can be had.
pub fn input() -> io::Result<impl Read + Send + 'static> {
    backend::input()
}

/// Standard output, without a buffer.
///
/// # Errors
/// No more descriptors can be had.
pub fn output() -> io::Result<impl Write> {
    backend::output()
}

#[cfg(unix)]
mod backend {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd as _;

    pub(super) fn input() -> io::Result<File> {
        Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
    }

    pub(super) fn output() -> io::Result<File> {
        Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
    }
}

#[cfg(not(unix))]
mod backend {
    use std::io;

    pub(super) fn input() -> io::Result<io::Stdin> {
        Ok(io::stdin())
    }

    pub(super) fn output() -> io::Result<io::Stdout> {
        Ok(io::stdout())
    }
}
