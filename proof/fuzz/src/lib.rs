//! What cachelock's parsers are fuzzed with: one target for each format on disk, for names, keys, settings and the
//! program's configuration file.
//!
//! A target panics if a promise is broken: if the library parses what a second, plain parser does not or makes something
//! else of it; if what it writes is not read back as it was; if a name that it takes leads out of the cache. Whatever crashes,
//! reads out of bounds, takes too much memory or too long is noticed by what runs the target.
//!
//! `corpus/NAME/` has inputs to begin with, and each that has ever failed; `tests/corpus.rs` runs them all.

use std::path::PathBuf;

mod naive;
mod planted;
mod settings;
mod targets;

/// Of the program, which is no library. It is told where to read.
#[path = "../../../cli/src"]
#[allow(dead_code, reason = "the program uses all of it")]
mod program {
    pub(crate) mod config;
}

/// One way to use a parser.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of the folder of its corpus.
    pub name: &'static str,
    /// Tries one input.
    pub run: fn(&[u8]),
    /// The longest inputs that are worth trying, in bytes.
    pub longest: usize,
}

/// What the library must pass.
pub const TARGETS: &[Target] = &[
    Target::of("key", targets::key, 64),
    Target::of("validators", targets::validators, 64),
    Target::of("tag", targets::tag, 640),
    Target::of("claim", targets::claim, 512),
    Target::of("name", targets::name, 320),
    Target::of("setting", targets::setting, 32),
    Target::of("configuration", settings::configuration, 128),
    Target::of("control", targets::control, 72),
    Target::of("want", targets::want, 24),
];

/// Planted defects: targets that must fail, and how.
pub const PLANTED: &[(Target, &str)] = &[
    (
        Target::of("planted-index", planted::index, 512),
        "index out of bounds",
    ),
    (
        Target::of("planted-memory", planted::memory, 512),
        "out-of-memory",
    ),
    (
        Target::of("planted-escape", planted::escape, 64),
        "is not what was written",
    ),
];

impl Target {
    /// The folder of the inputs to begin with.
    #[must_use]
    pub fn corpus(&self) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "corpus", self.name]
            .iter()
            .collect()
    }

    const fn of(name: &'static str, run: fn(&[u8]), longest: usize) -> Self {
        Self { name, run, longest }
    }
}

/// The target with this name, planted defects included.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    let planted = PLANTED.iter().map(|(target, _)| target);
    TARGETS
        .iter()
        .chain(planted)
        .find(|target| target.name == name)
        .copied()
}
