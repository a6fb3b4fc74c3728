//! What all who take part in the stress have in common, natives and guests: how they are told what to do, what a payload
//! looks like, and the lines in which they report.
//!
//! A part is started, says `ready`, and answers each line `clock` with the time on its clock, until a line `go` or the end of its
//! input. Times are in nanoseconds; who compares them finds out from those answers how the clocks are apart.
//!
//! | line | says |
//! | --- | --- |
//! | `took ID NUMBER` | the lock was acquired |
//! | `held ID NUMBER ASKED ACQUIRED CLOSING ENDED OUTCOME` | a refresh has ended: with a generation, or `lost` |
//! | `read ID GENERATION WRITER NUMBER ENDED BEGAN` | a payload was seen: when the first read of it ended, and the last one began |
//! | `done ID COUNT` | so many refreshes or reads |
//! | `wrong ID TEXT` | what must not happen |
#![allow(dead_code, reason = "no kind of part needs all of it")]

use std::io::BufRead;

/// Of one payload.
pub(crate) const LEN: usize = 256 * 1024;
/// Of the piece that a payload repeats.
const PIECE: usize = 32;

/// What one part is to do, in the words of its command line.
#[derive(Clone)]
pub(crate) struct Part {
    /// `write`, `read`, and whatever else a kind of process can do.
    pub(crate) verb: String,
    /// Which part of all this is.
    pub(crate) id: u32,
    /// The cache, as this part finds it.
    pub(crate) cache: String,
    /// For how long.
    pub(crate) run_ms: u64,
    pub(crate) lease_ms: u64,
    /// For how long a writer works on each payload.
    pub(crate) work_ms: u64,
}

impl Part {
    pub(crate) fn words(&self) -> [String; 6] {
        [
            self.verb.clone(),
            self.id.to_string(),
            self.cache.clone(),
            self.run_ms.to_string(),
            self.lease_ms.to_string(),
            self.work_ms.to_string(),
        ]
    }

    pub(crate) fn parse(words: &[String]) -> Self {
        let [verb, id, cache, numbers @ ..] = words else {
            panic!("not a part: {words:?}");
        };
        let number = |index: usize| numbers[index].parse().expect("a number");
        Part {
            verb: verb.clone(),
            id: id.parse().expect("a number"),
            cache: cache.clone(),
            run_ms: number(0),
            lease_ms: number(1),
            work_ms: number(2),
        }
    }
}

/// Waits for the common start, and tells the time until then. Returns when the part is over.
pub(crate) fn start(run_ms: u64, now: fn() -> u64) -> u64 {
    println!("ready");
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    while input.read_line(&mut line).is_ok_and(|read| read > 0) && line != "go\n" {
        println!("clock {}", now());
        line.clear();
    }
    now() + run_ms * 1_000_000
}

/// A payload that tells its writer and number in each of its pieces.
pub(crate) fn payload(writer: u32, number: u64) -> Vec<u8> {
    let piece = format!("writer {writer:03} number {number:012}\n");
    assert_eq!(piece.len(), PIECE - 1, "what is left is the blank");
    format!(" {piece}").repeat(LEN / PIECE).into_bytes()
}

/// Whose payload this is: its writer and number. An error if it is not one payload, whole.
pub(crate) fn origin(bytes: &[u8]) -> Result<(u32, u64), String> {
    if bytes.len() != LEN {
        return Err(format!("{} bytes are no payload", bytes.len()));
    }
    if bytes[PIECE..] != bytes[..LEN - PIECE] {
        let at = (PIECE..LEN)
            .find(|at| bytes[*at] != bytes[at - PIECE])
            .unwrap_or(PIECE);
        let [before, after] = [
            &bytes[at / PIECE * PIECE - PIECE..],
            &bytes[at / PIECE * PIECE..],
        ]
        .map(|bytes| String::from_utf8_lossy(&bytes[..PIECE]).into_owned());
        return Err(format!(
            "a mix: at {at} {before:?} is followed by {after:?}"
        ));
    }
    let piece = std::str::from_utf8(&bytes[..PIECE]).unwrap_or_default();
    let number = |from: usize, to: usize| piece.get(from..to)?.parse::<u64>().ok();
    match (number(8, 11), number(19, 31)) {
        (Some(writer), Some(number)) => Ok((writer as u32, number)),
        _ => Err(format!("not a payload: {piece:?}")),
    }
}

/// One refresh of a writer.
pub(crate) struct Refreshed {
    pub(crate) number: u64,
    pub(crate) asked: u64,
    /// Not before the lock was had.
    pub(crate) acquired: u64,
    /// Not after it was given back, if it was published.
    pub(crate) closing: u64,
    pub(crate) ended: u64,
    /// `None`: the lease was lost.
    pub(crate) generation: Option<u64>,
}

impl Refreshed {
    pub(crate) fn report(&self, id: u32) {
        let Refreshed {
            number,
            asked,
            acquired,
            closing,
            ended,
            generation,
        } = self;
        let outcome = generation.map_or("lost".to_owned(), |generation| generation.to_string());
        println!("held {id} {number} {asked} {acquired} {closing} {ended} {outcome}");
    }
}

/// What one reader has seen. A payload that is seen again and again is reported once.
pub(crate) struct Eyes {
    id: u32,
    pub(crate) reads: u64,
    seen: Option<Seen>,
}

struct Seen {
    generation: Option<u64>,
    origin: (u32, u64),
    first_ended: u64,
    last_began: u64,
}

impl Eyes {
    pub(crate) fn new(id: u32) -> Self {
        Eyes {
            id,
            reads: 0,
            seen: None,
        }
    }

    /// A read from `began` to `ended` has found this. Returns what there is to report.
    #[must_use = "the report is to be printed"]
    pub(crate) fn saw(
        &mut self,
        generation: Option<u64>,
        bytes: Option<&[u8]>,
        [began, ended]: [u64; 2],
    ) -> Option<String> {
        self.reads += 1;
        let Some(bytes) = bytes else {
            // As long as nothing was ever published.
            return self
                .seen
                .as_ref()
                .map(|_| self.wrong("the entry is missing"));
        };
        let origin = match origin(bytes) {
            Ok(origin) => origin,
            Err(error) => return Some(self.wrong(&error)),
        };
        match &mut self.seen {
            Some(seen) if (seen.generation, seen.origin) == (generation, origin) => {
                seen.last_began = began;
                None
            }
            _ => {
                let seen = Seen {
                    generation,
                    origin,
                    first_ended: ended,
                    last_began: began,
                };
                let before = self.seen.replace(seen)?;
                Some(self.line(&before))
            }
        }
    }

    /// What is left to report.
    pub(crate) fn close(self) -> String {
        let last = self.seen.as_ref().map(|seen| self.line(seen) + "\n");
        last.unwrap_or_default() + &format!("done {} {}", self.id, self.reads)
    }

    pub(crate) fn wrong(&self, text: &str) -> String {
        wrong(self.id, text)
    }

    fn line(&self, seen: &Seen) -> String {
        let generation = seen
            .generation
            .map_or("-".to_owned(), |generation| generation.to_string());
        let (writer, number) = seen.origin;
        let Seen {
            first_ended,
            last_began,
            ..
        } = seen;
        format!(
            "read {} {generation} {writer} {number} {first_ended} {last_began}",
            self.id
        )
    }
}

pub(crate) fn wrong(id: u32, text: &str) -> String {
    format!("wrong {id} {}", text.replace('\n', " "))
}
