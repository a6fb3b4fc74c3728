//! The guest of the tests: does what its arguments say, one after the other, and prints a line for each, which is `ok` with
//! what it got, or the error.
//!
//! | step | does |
//! | --- | --- |
//! | `lease=MILLIS` | for the caches that are opened from then on |
//! | `open=NAME[,TIMEOUT]` | opens the cache that the other steps use |
//! | `begin=ENTRY[,FRESH_FOR]` | begins; the steps below act on the newest refresh |
//! | `refresh=ENTRY` | begins in any case |
//! | `etag=TEXT`, `expect=LENGTH`, `write=TEXT`, `fill=LENGTH`, `beat`, `restart` | of a refresh |
//! | `previous` | the etag of what is to be replaced |
//! | `publish`, `keep`, `absent=VALID_FOR`, `abandon` | the ends of a refresh |
//! | `drop` | drops the newest refresh |
//! | `read=ENTRY` | prints generation and payload, or its length if that is long |
//! | `await=ENTRY` | waits until somebody has published it |
//! | `verified=ENTRY,READS` | reads so often, and prints how many of the payloads were verified |
//! | `trap` | ends as a guest with a bug does |

use cachelock_example_guest::bytes;
use cachelock_example_guest::store::{
    Begun, Cache, Error, Options, Policy, Published, Refresh, Snapshot,
};

#[derive(Default)]
struct Guest {
    lease: Option<u64>,
    cache: Option<Cache>,
    refreshes: Vec<Refresh>,
}

fn main() {
    let mut guest = Guest::default();
    for step in std::env::args().skip(1) {
        let (verb, argument) = step.split_once('=').unwrap_or((&step, ""));
        match guest.step(verb, argument) {
            Ok(text) => println!("{}", format!("ok {text}").trim_end()),
            Err(error) => println!("{error:?}"),
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn of(published: Published) -> String {
    format!("{} {}", published.generation, published.length)
}

impl Guest {
    fn step(&mut self, verb: &str, argument: &str) -> Result<String, Error> {
        let (name, count) = match argument.split_once(',') {
            Some((name, count)) => (name, Some(number(count))),
            None => (argument, None),
        };
        match verb {
            "lease" => {
                self.lease = Some(number(argument));
                Ok(String::new())
            }
            "open" => {
                let options = Options {
                    timeout: count,
                    lease: self.lease,
                    durability: None,
                };
                self.cache = Some(Cache::open(name, options)?);
                Ok(String::new())
            }
            "begin" => self.begin(name, count),
            "refresh" => {
                let refresh = self.cache().refresh(name)?;
                self.refreshes.push(refresh);
                Ok("refresh".into())
            }
            "read" => match self.cache().read(name)? {
                Some(snapshot) => text(&snapshot),
                None => Ok("none".into()),
            },
            "await" => {
                while self.cache().read(name)?.is_none() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Ok(String::new())
            }
            "verified" => {
                let mut verified = 0;
                for _ in 0..count.expect("how many reads") {
                    let snapshot = self.cache().read(name)?.expect("a payload");
                    verified += u64::from(snapshot.metadata().generation.is_some());
                }
                Ok(verified.to_string())
            }
            "drop" => {
                self.refreshes.pop().expect("a refresh");
                Ok(String::new())
            }
            "trap" => panic!("as it was told"),
            _ => self.refresh(verb, argument),
        }
    }

    fn cache(&self) -> &Cache {
        self.cache.as_ref().expect("an open cache")
    }

    fn begin(&mut self, name: &str, fresh_for: Option<u64>) -> Result<String, Error> {
        let policy = Policy {
            fresh_for,
            stale_for: None,
            error_for: None,
        };
        match self.cache().begin(name, policy)? {
            Begun::Fresh(snapshot) => Ok(format!("fresh {}", text(&snapshot)?)),
            Begun::Stale(snapshot) => Ok(format!("stale {}", text(&snapshot)?)),
            Begun::Absent => Ok("absent".into()),
            Begun::Refresh(refresh) => {
                self.refreshes.push(refresh);
                Ok("refresh".into())
            }
        }
    }

    fn refresh(&self, verb: &str, argument: &str) -> Result<String, Error> {
        let refresh = self.refreshes.last().expect("a refresh");
        match verb {
            "etag" => refresh.set_validators(&[("etag".into(), argument.into())])?,
            "expect" => refresh.expect_length(number(argument))?,
            "write" => refresh.write(argument.as_bytes())?,
            "fill" => refresh.write(&vec![b'x'; number(argument) as usize])?,
            "beat" => refresh.heartbeat()?,
            "restart" => refresh.restart()?,
            "abandon" => refresh.abandon()?,
            "publish" => return refresh.publish().map(of),
            "keep" => return refresh.publish_not_modified().map(of),
            "absent" => return refresh.publish_absent(number(argument)).map(of),
            "previous" => {
                let validators = refresh
                    .previous()?
                    .map(|before| before.metadata().validators);
                return Ok(format!("{validators:?}"));
            }
            _ => panic!("there is no step {verb}"),
        }
        Ok(String::new())
    }
}

/// A payload as it is printed.
fn text(snapshot: &Snapshot) -> Result<String, Error> {
    let metadata = snapshot.metadata();
    let bytes = bytes(snapshot)?;
    assert_eq!(bytes.len() as u64, metadata.length, "all of it was read");
    let generation = metadata.generation.unwrap_or(0);
    Ok(if bytes.len() < 100 {
        format!("{generation} {}", String::from_utf8_lossy(&bytes))
    } else {
        format!("{generation} {} bytes", bytes.len())
    })
}
