//! A writer: a process that refreshes one entry over and over, and writes down what was acknowledged to it. It is started
//! to be killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cachelock::{Cache, Durability, Entry, Locking, Mutation};

use crate::payload::{Origin, make};
use crate::process::ends_with_parent;

/// How a writer writes. All but the first are planted defects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Right,
    /// Does not wait for its kernel lock to be gone, for it has none: after its death its lease must expire.
    WithoutGate,
    /// Writes over the payload.
    InPlace,
    /// Has a temporary file of its own, which nobody but itself removes.
    Littering,
    /// With [`Mutation::PreviousFromNext`], and with syncs between its renames, so that kills hit there.
    PreviousFromNext,
    /// With [`Mutation::StateReadEarly`].
    StateReadEarly,
    /// With [`Mutation::GateWaitBlind`].
    GateWaitBlind,
}

impl Style {
    pub(super) const ALL: [Style; 7] = [
        Style::Right,
        Style::WithoutGate,
        Style::InPlace,
        Style::Littering,
        Style::PreviousFromNext,
        Style::StateReadEarly,
        Style::GateWaitBlind,
    ];

    fn mutation(self) -> Option<Mutation> {
        match self {
            Style::PreviousFromNext => Some(Mutation::PreviousFromNext),
            Style::StateReadEarly => Some(Mutation::StateReadEarly),
            Style::GateWaitBlind => Some(Mutation::GateWaitBlind),
            _ => None,
        }
    }
}

/// What a writer is told.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    /// The directory with the cache and the log in it.
    pub(super) dir: PathBuf,
    pub(super) writer: u64,
    pub(super) lease: Duration,
    pub(super) style: Style,
    /// Whether nobody is ever overtaken: then a holder finds nothing but its own in the control directory.
    pub(super) alone: bool,
}

pub(super) fn cache_in(dir: &Path) -> PathBuf {
    dir.join("cache")
}

pub(super) fn log_in(dir: &Path) -> PathBuf {
    dir.join("log")
}

pub(super) const ENTRY: &str = "entry";

impl Orders {
    pub(super) fn words(&self) -> Vec<String> {
        vec![
            self.dir.display().to_string(),
            self.writer.to_string(),
            self.lease.as_millis().to_string(),
            format!("{:?}", self.style),
            self.alone.to_string(),
        ]
    }

    fn parse(words: &[String]) -> Option<Self> {
        let [dir, writer, lease, style, alone] = words else {
            return None;
        };
        let named = |of: &Style| format!("{of:?}") == *style;
        Some(Self {
            dir: dir.into(),
            writer: writer.parse().ok()?,
            lease: Duration::from_millis(lease.parse().ok()?),
            style: Style::ALL.into_iter().find(named)?,
            alone: alone.parse().ok()?,
        })
    }
}

/// What a line of the log says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// This was published, as this generation.
    Acknowledged { origin: Origin, generation: u64 },
    /// A lease was lost.
    Lost { writer: u64 },
    /// Something was left in the control directory for the next holder to find.
    Stray { writer: u64, name: String },
    /// A writer has given up.
    Failed { writer: u64, why: String },
}

impl Said {
    fn line(&self) -> String {
        match self {
            Said::Acknowledged { origin, generation } => {
                format!("ack {} {} {generation}\n", origin.writer, origin.number)
            }
            Said::Lost { writer } => format!("lost {writer}\n"),
            Said::Stray { writer, name } => format!("stray {writer} {name}\n"),
            Said::Failed { writer, why } => {
                format!("failed {writer} {}\n", why.replace('\n', " "))
            }
        }
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        let (writer, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let writer = writer.parse().ok()?;
        Some(match kind {
            "ack" => {
                let (number, generation) = rest.split_once(' ')?;
                let number = number.parse().ok()?;
                Said::Acknowledged {
                    origin: Origin { writer, number },
                    generation: generation.parse().ok()?,
                }
            }
            "lost" => Said::Lost { writer },
            "stray" => Said::Stray {
                writer,
                name: rest.to_owned(),
            },
            "failed" => Said::Failed {
                writer,
                why: rest.to_owned(),
            },
            _ => return None,
        })
    }
}

/// What stands in the control directory although nobody but the holder of `epoch` is at work: no name of its own, none that
/// stays.
pub(super) fn strays(cache: &Path, epoch: u64) -> io::Result<Vec<String>> {
    let own = [format!("claim-{epoch:020}"), format!("stage-{epoch:020}-")];
    let mut strays = Vec::new();
    for entry in fs::read_dir(cache.join(".cachelock"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let stays = ["cache.lock", "head", "tags"].contains(&&*name);
        if !stays && !own.iter().any(|own| name.starts_with(own)) {
            strays.push(name);
        }
    }
    Ok(strays)
}

/// The process: never ends by itself, unless something is wrong.
pub(super) fn run(words: &[String]) -> ExitCode {
    if !ends_with_parent() {
        return ExitCode::FAILURE;
    }
    let Some(orders) = Orders::parse(words) else {
        eprintln!("no orders: {words:?}");
        return ExitCode::from(2);
    };
    let mut log = match OpenOptions::new().append(true).open(log_in(&orders.dir)) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(why) = write(&orders, &mut log) {
        let writer = orders.writer;
        say(&mut log, &Said::Failed { writer, why });
    }
    ExitCode::FAILURE
}

/// What a whole line ends with. Where a line goes over the end of a page, a kill may cut it there.
const END: &str = " .";

/// The whole lines of a log.
pub(super) fn whole_lines(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter_map(|line| line.strip_suffix(END))
}

/// One call, and a line of its own even after one that was cut.
fn say(log: &mut File, said: &Said) {
    let line = format!("\n{}{END}\n", said.line().trim_end());
    if let Err(error) = log.write_all(line.as_bytes()) {
        eprintln!("the log: {error}");
    }
}

fn write(orders: &Orders, log: &mut File) -> Result<(), String> {
    let mut builder = Cache::builder(cache_in(&orders.dir))
        .timeout(Duration::from_secs(30))
        .lease(orders.lease);
    if orders.style == Style::WithoutGate {
        builder = builder.locking(Locking::Lease);
    }
    // Half of them have files change places, the others sync.
    if orders.style == Style::Right && orders.writer.is_multiple_of(2) {
        builder = builder.durability(Durability::None);
    }
    if orders.style == Style::PreviousFromNext {
        builder = builder.durability(Durability::Full);
    }
    if let Some(mutation) = orders.style.mutation() {
        builder = builder.mutation(mutation);
    }
    let cache = builder.open().map_err(|error| error.to_string())?;
    let entry = cache.entry(ENTRY).map_err(|error| error.to_string())?;
    let writer = orders.writer;
    for number in 0.. {
        let origin = Origin { writer, number };
        let refreshed = match orders.style {
            Style::InPlace => write_in_place(&cache, &entry, origin).map(|()| None),
            _ => refresh(orders, &entry, origin, log).map(Some),
        };
        match refreshed {
            Ok(Some(generation)) => say(log, &Said::Acknowledged { origin, generation }),
            Ok(None) => {}
            Err(error) if is_lease_lost(&error) => say(log, &Said::Lost { writer }),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn is_lease_lost(error: &io::Error) -> bool {
    let ours = error.get_ref();
    let ours = ours.and_then(|error| error.downcast_ref::<cachelock::Error>());
    ours.is_some_and(cachelock::Error::is_lease_lost)
}

fn refresh(orders: &Orders, entry: &Entry, origin: Origin, log: &mut File) -> io::Result<u64> {
    let cache = cache_in(&orders.dir);
    let mut refresh = entry.refresh()?;
    if orders.alone {
        for name in strays(&cache, refresh.epoch()).unwrap_or_default() {
            let writer = orders.writer;
            say(log, &Said::Stray { writer, name });
        }
    }
    let litter = cache.join(format!(".cachelock/temporary-{}", origin.writer));
    if orders.style == Style::Littering {
        let _ = fs::write(&litter, make(origin));
    }
    // In pieces that reach the disk, so that there is time to be killed between them.
    let payload = make(origin);
    for piece in payload.chunks(payload.len().div_ceil(3)) {
        refresh.write_all(piece)?;
        refresh.flush()?;
    }
    let published = refresh.publish()?;
    if orders.style == Style::Littering {
        let _ = fs::remove_file(&litter);
    }
    Ok(published.generation)
}

/// As a program would that knows only of the lock.
fn write_in_place(cache: &Cache, entry: &Entry, origin: Origin) -> io::Result<()> {
    let _lock = cache.lock()?;
    let mut file = File::create(entry.path())?;
    let payload = make(origin);
    for piece in payload.chunks(payload.len().div_ceil(3)) {
        file.write_all(piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_kill_has_cut_says_nothing() {
        let log = "\nack 1 2 3 .\n\nack 28\nack 4 5 6 .\n\nlost 7\n";
        let lines: Vec<_> = whole_lines(log).collect();
        assert_eq!(lines, ["ack 1 2 3", "ack 4 5 6"]);
    }

    #[test]
    fn orders_and_what_is_said_come_back() {
        for style in Style::ALL {
            let orders = Orders {
                dir: "/a b/c".into(),
                writer: u64::MAX,
                lease: Duration::from_millis(1234),
                style,
                alone: true,
            };
            let back = Orders::parse(&orders.words()).expect("they are whole");
            assert_eq!(format!("{back:?}"), format!("{orders:?}"));
        }
        let writer = 3;
        let number = 4;
        let origin = Origin { writer, number };
        for said in [
            Said::Acknowledged {
                origin,
                generation: 5,
            },
            Said::Lost { writer },
            Said::Stray {
                writer,
                name: "a b".to_owned(),
            },
            Said::Failed {
                writer,
                why: "some reason".to_owned(),
            },
        ] {
            assert_eq!(Said::parse(said.line().trim_end()), Some(said));
        }
    }
}
