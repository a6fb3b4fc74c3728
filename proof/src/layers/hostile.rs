//! Layer 10: objects that do not belong there, planted by a second user at each name that the library uses.
//!
//! The table is that of the program's own tests (`cli/tests/hostile.rs`), where a user's own mistake is planted; here the objects
//! belong to somebody else. For each object at each name and each operation, as an ordinary user:
//!
//! - the program ends, with a documented exit code, and an error names the path;
//! - nothing outside of the cache has changed: content, mode, owner, time, and no new name;
//! - what it prints is the old payload or the new one, and the payload in the cache is what it says;
//! - with the object gone the next refresh works and leaves nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, chmod};
use rustix::process::geteuid;

use crate::layer::{Broken, Control, Count, Layer, Outcome, Plan, Size};
use crate::place::{Kind, Place};
use crate::program::Ran;
use crate::random::Random;
use crate::threads::{locked, together};

use planted::{Case, PLACES, STRANGER, THINGS, Thing, USER};

#[allow(dead_code, reason = "the tests use another part of it")]
#[path = "../../../cli/tests/support/planted.rs"]
mod planted;

const OLD: &str = "the old payload";
const NEW: &str = "the new one";
const NEXT: &str = "and the next";

/// No run may take longer.
const LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Hostile;

impl Layer for Hostile {
    fn number(&self) -> u32 {
        10
    }

    fn waits(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "hostile"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let program = plan.program.as_deref();
        let program =
            program.ok_or_else(|| Broken("it runs the program: --program FILE".to_owned()))?;
        if !geteuid().is_root() {
            let why = "it could not run: only root can plant another user's objects";
            return Err(Broken(why.to_owned()));
        }
        let place = Place::on(Kind::Tmpfs)?;
        let program = reachable(place.path(), program).map_err(Broken)?;
        let cases = cases(plan);
        let pairs = pairs(&cases);
        let done = check_all(plan, place.path(), &program, &cases)?;
        let all = (THINGS.len() * planted::OPERATIONS.len()) as u64;
        Ok(Outcome {
            counts: vec![
                Count::new("objects x names x operations", done, cases.len() as u64),
                Count::new("objects x operations", pairs, plan.size.pick(40, all, all)),
            ],
            controls: controls(place.path(), &program)?,
        })
    }
}

/// A copy of the program that every user may run.
fn reachable(dir: &Path, program: &Path) -> Result<PathBuf, String> {
    let copy = dir.join("cachelock");
    let failed = |error: std::io::Error| format!("{}: {error}", program.display());
    fs::copy(program, &copy).map_err(failed)?;
    for path in [&copy, dir] {
        let mode = chmod(path, Mode::from_raw_mode(0o755));
        mode.map_err(|error| failed(error.into()))?;
    }
    Ok(copy)
}

/// All of them, or some that the seed draws.
fn cases(plan: &Plan) -> Vec<Case> {
    let mut cases: Vec<Case> = PLACES.into_iter().flat_map(Case::all_at).collect();
    let mut random = Random::new(plan.seed);
    random.shuffle(&mut cases);
    if plan.size == Size::Short {
        cases.truncate(150);
    }
    cases
}

/// How many objects are there during how many operations.
fn pairs(cases: &[Case]) -> u64 {
    let pair = |case: &Case| format!("{:?} {:?}", case.thing, case.operation);
    let mut pairs: Vec<_> = cases.iter().map(pair).collect();
    pairs.sort();
    pairs.dedup();
    pairs.len() as u64
}

fn check_all(plan: &Plan, dir: &Path, program: &Path, cases: &[Case]) -> Result<u64, Broken> {
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let found = Mutex::new(Vec::new());
    let work = |worker: usize| -> Result<(), Broken> {
        let mut grounds: BTreeMap<&str, Ground> = BTreeMap::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !grounds.contains_key(case.entry) {
                let dir = dir.join(format!("{worker}-{}", grounds.len()));
                let ground = Ground::new(dir, program, case.entry).map_err(Broken)?;
                grounds.insert(case.entry, ground);
            }
            match grounds[case.entry].check(case, &Doing::Program) {
                Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                Err(why) => {
                    println!("{why}");
                    locked(&found).push(why);
                }
            }
        }
        Ok(())
    };
    // Some of them only wait.
    together(plan.jobs * 2, work)?;
    Broken::first_of(&locked(&found), plan.seed)?;
    Ok(done.into_inner())
}

/// What runs while the object is there.
enum Doing {
    Program,
    /// A planted defect: this in the program's place, with the payload's path for PAYLOAD.
    Other(&'static [&'static str], Duration),
}

/// A cache of the user's, and things outside of it that nobody must touch.
struct Ground {
    dir: PathBuf,
    program: PathBuf,
    entry: &'static str,
}

impl Ground {
    fn new(dir: PathBuf, program: &Path, entry: &'static str) -> Result<Self, String> {
        fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        planted::own(&dir, USER);
        let program = program.to_owned();
        let ground = Ground {
            dir,
            program,
            entry,
        };
        let first = ground.refresh(OLD)?;
        if first.code() != 0 {
            return Err(format!("the first refresh: {first}"));
        }
        fs::rename(ground.cache(), ground.dir.join("template"))
            .map_err(|error| format!("the template: {error}"))?;
        planted::make_outside(&ground.outside(), USER);
        Ok(ground)
    }

    fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    fn outside(&self) -> PathBuf {
        self.dir.join("outside")
    }

    fn payload(&self) -> PathBuf {
        self.cache().join(self.entry)
    }

    /// As at the beginning, before each case.
    fn reset(&self) {
        for name in ["cache", "aside", "outside"] {
            planted::remove(&self.dir.join(name));
        }
        planted::make_outside(&self.outside(), USER);
        planted::copy(&self.dir.join("template"), &self.cache(), USER);
    }

    /// Runs it as the user.
    fn run(&self, program: &Path, words: &[String], limit: Duration) -> Result<Ran, String> {
        let mut command = Command::new(program);
        command.args(words);
        planted::run_as(&mut command, USER);
        // Where every user may be.
        command.current_dir("/").env("CACHELOCK_CONFIG", "");
        command.env_remove("RUST_BACKTRACE");
        Ran::of(&mut command, None, limit)
    }

    fn refresh(&self, payload: &str) -> Result<Ran, String> {
        let cache = self.cache().display().to_string();
        let words = [
            "refresh", "--cache", &cache, self.entry, "--", "printf", payload,
        ];
        self.run(&self.program, &words.map(str::to_owned), LIMIT)
    }

    /// One object, one operation.
    fn check(&self, case: &Case, doing: &Doing) -> Result<(), String> {
        self.reset();
        let path = case.path(&self.cache());
        let outside = self.outside();
        case.thing
            .plant(&path, &self.dir.join("aside"), &outside, STRANGER);
        let before = planted::seen(&outside);
        let ran = match doing {
            Doing::Program => self.run(&self.program, &case.words(&self.cache(), NEW), LIMIT),
            Doing::Other(words, limit) => {
                let payload = self.payload().display().to_string();
                let words = words.iter().map(|word| match *word {
                    "PAYLOAD" => payload.clone(),
                    word => word.to_owned(),
                });
                let words: Vec<_> = words.collect();
                self.run(Path::new(&words[0]), &words[1..], *limit)
            }
        };
        let after = planted::seen(&outside);
        let judged = ran.and_then(|ran| {
            let judged = match before == after {
                true => self.judge(case, &path, &ran),
                false => Err("it reached outside".to_owned()),
            };
            judged.map_err(|why| format!("{why}: {ran}"))
        });
        planted::remove(&path);
        let judged = judged.and_then(|()| self.is_as_before());
        judged.map_err(|why| format!("{case:?}: {why}"))
    }

    fn judge(&self, case: &Case, path: &Path, ran: &Ran) -> Result<(), String> {
        ran.is_clear(path)?;
        if !case.may_print(&ran.stdout, OLD, NEW) {
            return Err("it prints what it must not".to_owned());
        }
        if case.spares_readers() && (ran.code(), &*ran.stdout) != (0, OLD) {
            return Err("a reader is disturbed by what is at a name of the lock".to_owned());
        }
        let publishes = ran.code() == 0 && case.operation.contains(&"NEW") && ran.stdout != OLD;
        if !(case.thing.displaces() && self.payload().starts_with(path)) {
            let payload = fs::read_to_string(self.payload());
            let payload = payload.map_err(|error| format!("the payload: {error}"))?;
            if payload != if publishes { NEW } else { OLD } {
                return Err(format!("the payload is {payload:?}"));
            }
        }
        let tag = self.cache().join(".cachelock/tags").join(self.entry);
        for path in [self.payload(), tag] {
            if planted::is_open(&path) && case.thing != Thing::Mode(0o666) {
                return Err(format!("{} is open to everybody", path.display()));
            }
        }
        Ok(())
    }

    /// With the object gone.
    fn is_as_before(&self) -> Result<(), String> {
        let next = self.refresh(NEXT)?;
        if next.code() != 0 {
            return Err(format!("the next refresh: {next}"));
        }
        let payload = fs::read_to_string(self.payload());
        if payload.as_deref().ok() != Some(NEXT) {
            return Err(format!("after the next refresh the payload is {payload:?}"));
        }
        let cache = cachelock::Cache::builder(self.cache()).allow_shared(true);
        let read = cache
            .open()
            .and_then(|cache| cache.entry(self.entry)?.read());
        match read {
            Ok(Some(read)) if read.meta().verification == cachelock::Verification::Verified => {}
            other => return Err(format!("after the next refresh a read says {other:?}")),
        }
        let names = fs::read_dir(self.cache().join(".cachelock"));
        let names = names.and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let names = names.map_err(|error| format!("the control directory: {error}"))?;
        let mut names: Vec<_> = names.iter().map(fs::DirEntry::file_name).collect();
        names.sort();
        match names == ["cache.lock", "head", "tags"] {
            true => Ok(()),
            false => Err(format!("after the next refresh there is {names:?}")),
        }
    }
}

/// Planted defects: programs that follow, wait, or say nothing.
fn controls(dir: &Path, program: &Path) -> Result<Vec<Control>, Broken> {
    // Nobody writes into the pipe, so it can be told soon.
    let limit = |thing| match thing {
        Thing::Pipe => Duration::from_secs(1),
        _ => LIMIT,
    };
    let ground = Ground::new(dir.join("control"), program, "entry").map_err(Broken)?;
    let mut controls = Vec::new();
    for (thing, words, expected, defect) in [
        (
            Thing::LinkToFile,
            &["cp", "/proc/version", "PAYLOAD"][..],
            "it reached outside",
            "cp follows a link",
        ),
        (
            Thing::LinkToNothing,
            &["sh", "-c", "echo new | tee \"$0\"", "PAYLOAD"],
            "it reached outside",
            "tee makes what a link leads to",
        ),
        (
            Thing::HardLink,
            &["cp", "/proc/version", "PAYLOAD"],
            "it reached outside",
            "cp writes into a second name",
        ),
        (
            Thing::Pipe,
            &["cat", "PAYLOAD"],
            "does not end",
            "cat waits at a pipe",
        ),
        (
            Thing::Directory,
            &["sh", "-c", "exit 1"],
            "no message names",
            "a failure that is not explained",
        ),
    ] {
        let case = Case {
            name: "entry",
            entry: "entry",
            thing,
            operation: &["refresh", "FILE"],
        };
        let found = ground.check(&case, &Doing::Other(words, limit(thing)));
        let found = found.err().unwrap_or_default();
        println!("planted: {defect}: {found}");
        controls.push(Control::new(defect, found.contains(expected)));
    }
    Ok(controls)
}
