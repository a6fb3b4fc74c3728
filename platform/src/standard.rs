//! Standard input and output as they are. The standard library takes one that cannot be used (a descriptor of the other direction, say)
//! for one at its end, or for one that takes everything: what is lost then is lost without a word.
//!
//! One that is closed when the process starts is another matter: on unix the standard library puts the null device there before
//! anybody can look.

use std::io::{self, Read, Write};

/// Standard input, without a buffer. Nothing else in the process may read it.
#[derive(Debug)]
pub struct Input;

/// Standard output, without a buffer on unix.
#[derive(Debug)]
pub struct Output;

#[cfg(unix)]
impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(io::stdin(), buf)?)
    }
}

#[cfg(unix)]
impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout(), buf)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(not(unix))]
impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        io::stdin().read(buf)
    }
}

#[cfg(not(unix))]
impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        io::stdout().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
