//! What processes did with a cache, each at its own time on one clock, in lines that come back.

use std::path::Path;
use std::{fs, io};

use rustix::time::{ClockId, clock_gettime};

use crate::payload::Origin;

/// Nanoseconds on the clock that all processes of this machine have in common.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A read, from its call to its return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) reader: u64,
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) origin: Origin,
    /// Unknown to who only sees the bytes.
    pub(super) generation: Option<u64>,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Committed { generation: u64 },
    Lost,
}

/// A hold of the lock, for a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) owner: u64,
    /// Whether it has the kernel lock, too.
    pub(super) native: bool,
    /// When it asked for the lock.
    pub(super) asked: u64,
    /// When it had it for certain.
    pub(super) acquired: u64,
    /// When it had it for certain, and had not yet begun to publish.
    pub(super) publishing: u64,
    pub(super) ended: u64,
    /// Unknown of a guest that was overtaken.
    pub(super) epoch: Option<u64>,
    /// Whether it has taken over the lease of another one; unknown of who was not asked.
    pub(super) overtook: Option<bool>,
    pub(super) origin: Origin,
    pub(super) end: End,
}

/// Everything that was done with one cache.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// In nanoseconds.
    pub(super) lease: u64,
    pub(super) reads: Vec<Read>,
    pub(super) holds: Vec<Hold>,
    /// What ought not to have failed.
    pub(super) failures: Vec<String>,
}

impl Read {
    pub(super) fn line(&self) -> String {
        let Read {
            reader,
            began,
            ended,
            origin,
            generation,
        } = self;
        let Origin { writer, number } = origin;
        let generation = generation.unwrap_or(0);
        format!("read {reader} {began} {ended} {writer} {number} {generation}\n")
    }
}

impl Hold {
    pub(super) fn line(&self) -> String {
        let Hold {
            owner,
            native,
            asked,
            acquired,
            publishing,
            ended,
            epoch,
            overtook,
            origin: Origin { writer, number },
            end,
        } = self;
        let native = u64::from(*native);
        let epoch = epoch.unwrap_or(0);
        let overtook = overtook.map_or(2, u64::from);
        let generation = match end {
            End::Committed { generation } => *generation,
            End::Lost => 0,
        };
        format!(
            "hold {owner} {native} {asked} {acquired} {publishing} {ended} {epoch} {overtook} {writer} {number} {generation}\n"
        )
    }
}

/// A failure's line.
pub(super) fn failure(owner: u64, why: &str) -> String {
    format!("failed {owner}: {}\n", why.replace('\n', " "))
}

impl History {
    /// Takes in what a process has written down.
    pub(super) fn add(&mut self, file: &Path) -> io::Result<()> {
        for line in fs::read_to_string(file)?.lines() {
            if self.add_line(line).is_none() {
                self.failures.push(line.to_owned());
            }
        }
        Ok(())
    }

    fn add_line(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        let words: Option<Vec<u64>> = rest.split(' ').map(|word| word.parse().ok()).collect();
        let known = |number: u64| (number != 0).then_some(number);
        match (kind, &words?[..]) {
            ("read", &[reader, began, ended, writer, number, generation]) => {
                self.reads.push(Read {
                    reader,
                    began,
                    ended,
                    origin: Origin { writer, number },
                    generation: known(generation),
                });
            }
            (
                "hold",
                &[
                    owner,
                    native,
                    asked,
                    acquired,
                    publishing,
                    ended,
                    epoch,
                    overtook,
                    writer,
                    number,
                    generation,
                ],
            ) => self.holds.push(Hold {
                owner,
                native: native == 1,
                asked,
                acquired,
                publishing,
                ended,
                epoch: known(epoch),
                overtook: (overtook != 2).then_some(overtook == 1),
                origin: Origin { writer, number },
                end: known(generation)
                    .map_or(End::Lost, |generation| End::Committed { generation }),
            }),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_others_are_failures() {
        let origin = Origin {
            writer: 6,
            number: 7,
        };
        let mut history = History::default();
        for generation in [None, Some(5)] {
            let read = Read {
                reader: 1,
                began: 2,
                ended: 3,
                origin,
                generation,
            };
            assert!(history.add_line(read.line().trim_end()).is_some());
            assert_eq!(history.reads.pop(), Some(read));
        }
        for (native, overtook, epoch, end) in [
            (true, None, None, End::Lost),
            (false, Some(true), Some(9), End::Committed { generation: 8 }),
            (false, Some(false), Some(9), End::Lost),
        ] {
            let hold = Hold {
                owner: 1,
                native,
                asked: 2,
                acquired: 3,
                publishing: 4,
                ended: 5,
                epoch,
                overtook,
                origin,
                end,
            };
            assert!(history.add_line(hold.line().trim_end()).is_some());
            assert_eq!(history.holds.pop(), Some(hold));
        }
        assert_eq!(history.add_line(failure(1, "a\nb").trim_end()), None);
        assert_eq!(history.add_line("read 1 2"), None);
    }
}
