//! Each input of the corpus, and so each that has ever failed, on each target.

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

use cachelock_fuzz::{PLANTED, TARGETS, Target};

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = target.corpus();
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let read = |path: PathBuf| (path.clone(), fs::read(path).expect("a readable input"));
    let inputs = files.map(|file| read(file.expect("a listing").path()));
    inputs.collect()
}

#[test]
fn no_input_that_has_been_kept_breaks_a_promise() {
    let mut inputs = Vec::new();
    for target in TARGETS {
        let own = corpus(target);
        assert!(!own.is_empty(), "{} has nothing to begin with", target.name);
        inputs.extend(own);
    }
    for target in TARGETS {
        for (path, input) in &inputs {
            let run = catch_unwind(|| (target.run)(input));
            assert!(run.is_ok(), "{} fails on {path:?}", target.name);
        }
    }
}

#[test]
fn the_planted_defects_are_not_in_the_corpus() {
    for (target, _) in PLANTED {
        for (path, input) in corpus(target) {
            let run = catch_unwind(|| (target.run)(&input));
            assert!(run.is_ok(), "{} is given away by {path:?}", target.name);
        }
    }
}
