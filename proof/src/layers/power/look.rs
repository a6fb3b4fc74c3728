//! What is there after a power cut, seen by a process of its own: it knows nothing of what was before.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cachelock::{Cache, Durability, Verification};

use super::record::{ENTRY, LEASE, cache_in};
use crate::payload::{Origin, make, origin_of};

/// Longer than a lease: the holder before is dead, if there was one.
const SOON: Duration = Duration::from_secs(10);

/// What the payload's file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raw {
    Missing,
    Whole(u64),
    Torn,
}

/// What the library says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Missing,
    Untagged,
    Corrupt,
    /// With this generation.
    Verified(u64),
}

/// What was seen, in words that come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) raw: Raw,
    pub(super) read: Read,
    /// What the next refresh has published, or why it could not.
    pub(super) next: Result<u64, String>,
}

impl Seen {
    fn line(&self) -> String {
        let raw = match self.raw {
            Raw::Missing => "missing -".to_owned(),
            Raw::Torn => "torn -".to_owned(),
            Raw::Whole(number) => format!("whole {number}"),
        };
        let read = match self.read {
            Read::Missing => "missing -".to_owned(),
            Read::Untagged => "untagged -".to_owned(),
            Read::Corrupt => "corrupt -".to_owned(),
            Read::Verified(generation) => format!("verified {generation}"),
        };
        let next = match &self.next {
            Ok(generation) => format!("next {generation}"),
            Err(why) => format!("not {}", why.replace('\n', " ")),
        };
        format!("{raw} {read} {next}")
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.trim_end().splitn(6, ' ');
        let mut pair = || Some((words.next()?, words.next()?));
        let raw = match pair()? {
            ("missing", _) => Raw::Missing,
            ("torn", _) => Raw::Torn,
            ("whole", number) => Raw::Whole(number.parse().ok()?),
            _ => return None,
        };
        let read = match pair()? {
            ("missing", _) => Read::Missing,
            ("untagged", _) => Read::Untagged,
            ("corrupt", _) => Read::Corrupt,
            ("verified", generation) => Read::Verified(generation.parse().ok()?),
            _ => return None,
        };
        let next = match pair()? {
            ("next", generation) => Ok(generation.parse().ok()?),
            ("not", why) => Err(why.to_owned()),
            _ => return None,
        };
        Some(Self { raw, read, next })
    }
}

/// The process: looks at the file system in the directory that it is told, and prints what it sees.
pub(super) fn run(words: &[String]) -> ExitCode {
    let [dir, writer] = words else {
        return ExitCode::from(2);
    };
    let Ok(writer) = writer.parse() else {
        return ExitCode::from(2);
    };
    match look(Path::new(dir), writer) {
        Ok(seen) => {
            println!("{}", seen.line());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn look(dir: &Path, writer: u64) -> Result<Seen, Box<dyn std::error::Error>> {
    let dir = cache_in(dir);
    let raw = match fs::read(dir.join(ENTRY)) {
        Ok(bytes) => match origin_of(&bytes) {
            Ok(origin) if origin.writer == writer => Raw::Whole(origin.number),
            _ => Raw::Torn,
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Raw::Missing,
        Err(error) => return Err(error.into()),
    };
    let cache = Cache::builder(&dir)
        .lease(LEASE)
        .timeout(2 * SOON)
        .durability(Durability::None)
        .open()?;
    let entry = cache.entry(ENTRY)?;
    let read = match entry.read() {
        Ok(None) => Read::Missing,
        Ok(Some(snapshot)) => match (snapshot.meta().verification, snapshot.meta().generation) {
            (Verification::Verified, Some(generation)) => {
                // The library and the file say the same, for nobody else is here.
                match origin_of(&snapshot) {
                    Ok(origin) if raw == Raw::Whole(origin.number) => Read::Verified(generation),
                    _ => return Err("what is read is not what is there".into()),
                }
            }
            _ => Read::Untagged,
        },
        Err(error) if error.is_corrupt() => Read::Corrupt,
        Err(error) => return Err(error.into()),
    };
    let next = refresh(&cache, &dir).map_err(|error| error.to_string());
    Ok(Seen { raw, read, next })
}

/// The next refresh: it works, soon, and leaves nothing.
fn refresh(cache: &Cache, dir: &Path) -> Result<u64, Box<dyn std::error::Error>> {
    const NEXT: Origin = Origin {
        writer: u64::MAX,
        number: 0,
    };
    let payload = make(NEXT);
    let entry = cache.entry(ENTRY)?;
    let began = Instant::now();
    let mut refresh = entry.refresh()?;
    std::io::Write::write_all(&mut refresh, &payload)?;
    let published = refresh.publish()?;
    if began.elapsed() > SOON {
        return Err(format!("the next refresh took {:?}", began.elapsed()).into());
    }
    let snapshot = entry.read()?.ok_or("nothing is there after a refresh")?;
    let meta = snapshot.meta();
    if snapshot[..] != payload[..] || meta.verification != Verification::Verified {
        return Err("what the next refresh has published is not there".into());
    }
    let mut strays = Vec::new();
    for entry in fs::read_dir(dir.join(".cachelock"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !["cache.lock", "head", "tags"].contains(&&*name) {
            strays.push(name);
        }
    }
    if !strays.is_empty() {
        return Err(format!("the next refresh leaves {}", strays.join(", ")).into());
    }
    Ok(published.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_comes_back() {
        for raw in [Raw::Missing, Raw::Torn, Raw::Whole(7)] {
            for read in [
                Read::Missing,
                Read::Untagged,
                Read::Corrupt,
                Read::Verified(8),
            ] {
                for next in [Ok(9), Err("why it could not".to_owned())] {
                    let seen = Seen { raw, read, next };
                    assert_eq!(Seen::parse(&seen.line()), Some(seen));
                }
            }
        }
    }
}
