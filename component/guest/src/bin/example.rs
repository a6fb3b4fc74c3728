//! An example of a guest: prints the greeting of the cache that it is given, and makes it once in an hour, whoever asks.
//!
//! `example-guest CACHE`, where CACHE is what the host calls it.

use std::io::Write;
use std::process::ExitCode;

use cachelock_example_guest::bytes;
use cachelock_example_guest::store::{Begun, Cache, Error, Options, Policy};

const HOUR: u64 = 60 * 60 * 1000;

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("usage: example-guest CACHE");
        return ExitCode::FAILURE;
    };
    match greeting(&name) {
        Ok(greeting) => match std::io::stdout().write_all(&greeting) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn greeting(name: &str) -> Result<Vec<u8>, Error> {
    let options = Options {
        timeout: None,
        lease: None,
        durability: None,
    };
    let policy = Policy {
        fresh_for: Some(HOUR),
        stale_for: None,
        error_for: Some(24 * HOUR),
    };
    let cache = Cache::open(name, options)?;
    match cache.begin("greeting", policy)? {
        Begun::Fresh(snapshot) | Begun::Stale(snapshot) => bytes(&snapshot),
        Begun::Absent => Ok(Vec::new()),
        Begun::Refresh(refresh) => {
            // Only one caller in all processes and guests is here. A real one would ask a server.
            let greeting = b"hello from a guest\n".to_vec();
            refresh.write(&greeting)?;
            refresh.publish()?;
            Ok(greeting)
        }
    }
}
