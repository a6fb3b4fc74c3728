//! What the layers that run the library on the simulated disk have in common.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use cachelock::platform::FileKind;
use cachelock::platform::memory::World;
use cachelock::{Cache, Error, Mutation, Published, Snapshot};

use crate::support::{LEASE, builder, publish_at, residue};

/// The payloads of these layers. Lengths differ, and `NEW` takes several writes on a disk that writes [`BLOCK`] bytes at once.
pub(crate) const OLD: &[u8] = b"the old payload";
pub(crate) const NEW: &[u8] = &[b'n'; 1300];
pub(crate) const NEXT: &[u8] = b"next";

/// What the simulated disk writes at once, so that a longer write can be torn in the middle. A claim's record is one block.
pub(crate) const BLOCK: usize = 512;

/// A fingerprint of all that is below `/cache`: names, kinds, bytes.
pub(crate) fn fingerprint(world: &World) -> u64 {
    fn walk(world: &World, path: &str, hasher: &mut DefaultHasher) {
        for name in world.list(path) {
            let path = format!("{path}/{name}");
            path.hash(hasher);
            let metadata = world.metadata(&path);
            match metadata.map(|metadata| metadata.kind) {
                Some(FileKind::Directory) => walk(world, &path, hasher),
                _ => world.read_file(&path).hash(hasher),
            }
        }
    }
    let mut hasher = DefaultHasher::new();
    walk(world, "", &mut hasher);
    hasher.finish()
}

/// What a reader finds, as a checker compares it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// No entry, or one that is known to be absent.
    Missing,
    /// These bytes, and their generation if they have a tag.
    Value(Vec<u8>, Option<u64>),
    /// It says that the entry is corrupt.
    Corrupt,
}

impl Found {
    pub(crate) fn of(read: Option<Snapshot>) -> Self {
        read.map_or(Found::Missing, |read| {
            Found::Value(read.to_vec(), read.meta().generation)
        })
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Missing => f.write_str("nothing"),
            Found::Value(bytes, generation) => {
                write!(f, "{} (generation {generation:?})", shown(bytes))
            }
            Found::Corrupt => f.write_str("corrupt"),
        }
    }
}

/// Bytes for a report.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(24)];
    format!("{} bytes, \"{}\"", bytes.len(), head.escape_ascii())
}

/// What a process that has not been there before reads.
pub(crate) fn find(world: &World, entry: &str) -> Result<Found, Error> {
    let cache = builder(&world.process("reader")).open()?;
    match cache.entry(entry)?.read() {
        Ok(read) => Ok(Found::of(read)),
        Err(error) if error.is_corrupt() => Ok(Found::Corrupt),
        Err(error) => Err(error),
    }
}

/// Lets another process refresh, which must succeed within `limit` and leave nothing lying about. `before`: what was there.
pub(crate) fn next_refresh(
    world: &World,
    entry: &str,
    before: &Found,
    limit: Duration,
) -> Result<(), String> {
    next_refresh_with(world, entry, before, limit, None)
}

/// The same with a defect.
pub(crate) fn next_refresh_with(
    world: &World,
    entry: &str,
    before: &Found,
    limit: Duration,
    mutation: Option<Mutation>,
) -> Result<(), String> {
    let (found, left) = refresh(world, entry, before, limit, mutation)?;
    all_go(world, entry, &found, left, limit, mutation)
}

/// The same after a power cut. It may have left claims above the head, which stay until the head has passed them.
pub(crate) fn refresh_after_power_cut(
    world: &World,
    entry: &str,
    before: &Found,
    limit: Duration,
) -> Result<(), String> {
    let (mut found, mut left) = refresh(world, entry, before, limit, None)?;
    for _ in 0..3 {
        if left.is_empty() || left.iter().any(|name| !name.starts_with("claim-")) {
            break;
        }
        (found, left) = refresh(world, entry, &found, limit, None)?;
    }
    all_go(world, entry, &found, left, limit, None)
}

/// Nothing is left, or the want of a dead waiter that nobody has given way to, for it had waited for no longer. It stops nobody,
/// and is swept when it is three leases old.
fn all_go(
    world: &World,
    entry: &str,
    found: &Found,
    left: Vec<String>,
    limit: Duration,
    mutation: Option<Mutation>,
) -> Result<(), String> {
    let wants = left.iter().all(|name| name.starts_with("want-"));
    let left = match wants && !left.is_empty() {
        true => {
            world.advance(LEASE * 4);
            refresh(world, entry, found, limit, mutation)?.1
        }
        false => left,
    };
    if left.is_empty() {
        return Ok(());
    }
    Err(format!("the next refresh left {left:?}"))
}

/// One refresh: what is there then, and what is left in the control directory.
fn refresh(
    world: &World,
    entry: &str,
    before: &Found,
    limit: Duration,
    mutation: Option<Mutation>,
) -> Result<(Found, Vec<String>), String> {
    let begun = world.now();
    let process = world.process("next");
    let cache = match mutation {
        Some(mutation) => builder(&process).mutation(mutation),
        None => builder(&process),
    };
    let cache = cache.open().map_err(|e| e.to_string())?;
    let name = entry.to_owned();
    let task = world.spawn(&process, "main", move || publish_at(&cache, &name, NEXT));
    let published = world
        .finish(task)
        .map_err(|error| format!("the next refresh fails: {error}"))?;
    let took = world.now() - begun;
    if took > limit {
        return Err(format!("the next refresh took {took:?}, not {limit:?}"));
    }
    if let Found::Value(_, Some(generation)) = before
        && published.generation != generation + 1
    {
        return Err(format!(
            "generation {generation} is followed by {}",
            published.generation
        ));
    }
    let found = find(world, entry).map_err(|error| error.to_string())?;
    if found != Found::Value(NEXT.to_vec(), Some(published.generation)) {
        return Err(format!("the next refresh published, and {found:?} is read"));
    }
    Ok((found, residue(world)))
}

/// What a process does that is killed, cut off or given errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// Publishes [`NEW`].
    Value,
    /// Publishes that there is nothing.
    Absent,
    /// Publishes that what is there is still right.
    NotModified,
}

impl Work {
    pub(crate) fn run(self, cache: &Cache, entry: &str) -> Result<Published, Error> {
        match self {
            Work::Value => publish_at(cache, entry, NEW),
            Work::Absent => {
                let refresh = cache.entry(entry)?.refresh()?;
                Ok(refresh.publish_absent(Duration::from_secs(60))?)
            }
            Work::NotModified => Ok(cache.entry(entry)?.refresh()?.publish_not_modified()?),
        }
    }
}

/// The last calls of a world, for a report.
pub(crate) fn last_calls(world: &World) -> String {
    let trace = world.trace();
    let skip = trace.lines().count().saturating_sub(160);
    let mut text = String::new();
    for line in trace.lines().skip(skip) {
        let _ = writeln!(text, "{line}");
    }
    text
}
