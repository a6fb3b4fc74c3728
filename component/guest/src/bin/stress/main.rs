//! A guest that takes part in the stress of natives and guests that share one entry: see `part.rs`, and `host/tests/mixed`, which
//! starts it.

mod part;

use std::thread;
use std::time::Duration;

use cachelock_example_guest::bytes;
use cachelock_example_guest::store::{Cache, Durability, Error, Options};

use part::{Eyes, Part, Refreshed, payload, start};

/// As the host has it.
fn now() -> u64 {
    wasi::clocks::monotonic_clock::now()
}

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let part = Part::parse(&words);
    let options = Options {
        timeout: Some(60_000),
        lease: Some(part.lease_ms),
        durability: Some(Durability::None),
    };
    let cache = Cache::open(&part.cache, options).expect("opening touches nothing");
    let until = start(part.run_ms, now);
    let failed = match &*part.verb {
        "write" => write(&part, &cache, until),
        "read" => read(&part, &cache, until),
        verb => panic!("a guest cannot {verb}"),
    };
    if let Err(error) = failed {
        println!("{}", part::wrong(part.id, &error.to_string()));
    }
}

fn read(part: &Part, cache: &Cache, until: u64) -> Result<(), Error> {
    let mut eyes = Eyes::new(part.id);
    while now() < until {
        let began = now();
        let snapshot = cache.read("entry")?;
        let generation = snapshot
            .as_ref()
            .and_then(|found| found.metadata().generation);
        if snapshot.is_some() && generation.is_none() {
            println!("{}", eyes.wrong("the payload is not verified"));
        }
        let payload = snapshot.as_ref().map(bytes).transpose()?;
        let times = [began, now()];
        if let Some(report) = eyes.saw(generation, payload.as_deref(), times) {
            println!("{report}");
        }
    }
    println!("{}", eyes.close());
    Ok(())
}

fn write(part: &Part, cache: &Cache, until: u64) -> Result<(), Error> {
    let mut number = 0;
    while now() < until {
        number += 1;
        let payload = payload(part.id, number);
        let asked = now();
        let refresh = match cache.refresh("entry") {
            Err(Error::LeaseLost(_)) => continue,
            refresh => refresh?,
        };
        let acquired = now();
        println!("took {} {number}", part.id);
        let written = refresh.write(&payload);
        thread::sleep(Duration::from_millis(part.work_ms));
        let closing = now();
        let published = match written.and_then(|()| refresh.publish()) {
            Err(Error::LeaseLost(_)) => None,
            published => Some(published?),
        };
        let generation = published.map(|published| published.generation);
        let ended = now();
        Refreshed {
            number,
            asked,
            acquired,
            closing,
            ended,
            generation,
        }
        .report(part.id);
    }
    println!("done {} {number}", part.id);
    Ok(())
}
