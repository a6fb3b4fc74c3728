//! `cachelock-example-http DIR URL`: prints what URL stands for, from the cache in DIR or from its server.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use cachelock_example_http::HttpCache;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, url] = &arguments[..] else {
        eprintln!("usage: cachelock-example-http DIR URL");
        return ExitCode::from(2);
    };
    match HttpCache::open(dir, Duration::from_secs(600)).map(|cache| cache.get(url)) {
        Ok(Ok(Some(body))) => match std::io::stdout().write_all(&body) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
        Ok(Ok(None)) => failed(&"there is no such thing"),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("cachelock-example-http: {error}");
    ExitCode::FAILURE
}
