//! Layer 5: the real program, native and as a guest, with something injected at its system calls.
//!
//! `strace` kills the program before a call, or makes the call fail. Which calls there are is told by runs in which nothing
//! fails: the calls of the main thread from the one that reaches the cache on, each by its name and by how many of that name
//! the thread has made. Only those count that several such runs have in common. The main thread is the one that acquires,
//! publishes, releases and recovers; a kill ends the others with it, at whatever they are.
//!
//! The runs are refreshes: of an old entry, also without durability, where files change places; of one whose last holder was
//! killed between its two renames, with and without the kernel lock; one that waits for the lease of a dead guest, and one that
//! waits for a live holder, which nothing that befalls the run may disturb. After each of them:
//!
//! - the injection has hit, or a run in which nothing fails does not make that call any more either; few may be of these;
//! - the payload is the old one or the new one, as the program said, by its bytes and by `read`;
//! - an error has one of the documented exit codes, names a path in the cache, and says what to do if that is known;
//! - the next refresh works, at once or after the short lease of a dead guest, and nothing is left.

mod holder;
mod scene;
mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::layer::{Broken, Control, Count, Layer, Outcome, Plan, Size};
use crate::place::{Kind, Place};
use crate::random::Random;
use crate::threads::{locked, together};

use scene::{Before, Ended, Injected, NEW, Programs, Runner, Scene, Stage};
use trace::Point;

const ERRORS: [&str; 7] = [
    "ENOSPC",
    "EIO",
    "EACCES",
    "EMFILE",
    "ENOLCK",
    "EOPNOTSUPP",
    "EINTR",
];

/// How often one that has not hit is tried: other threads decide how often the main one waits for them.
const TRIES: usize = 3;

/// See the module.
#[derive(Debug)]
pub struct Injection;

/// One injection.
#[derive(Debug, Clone)]
struct Case {
    scene: Scene,
    point: Point,
    injected: Injected,
}

impl Layer for Injection {
    fn number(&self) -> u32 {
        5
    }

    fn waits(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "injection"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let programs = programs(plan)?;
        let place = Place::on(Kind::Tmpfs)?;
        let cases = cases(plan, place.path(), &programs)?;
        // And each that is planned: one that is not done breaks the layer.
        let target = plan.size.pick(60, 600, 6000);
        let some = plan.size.pick(1, 60, 600);
        let done = inject_all(plan, place.path(), &programs, &cases)?;
        for (kind, times) in &done {
            println!("{kind}: {times}");
        }
        let counted = |word: &str| -> u64 {
            let of = done.iter().filter(|(kind, _)| kind.contains(word));
            of.map(|(_, times)| times).sum()
        };
        Ok(Outcome {
            counts: vec![
                Count::new("injections at system calls", counted(""), target),
                Count::new("of them kills", counted("Kill"), some),
                Count::new("of them into guests", counted("Guest"), some),
            ],
            controls: controls(place.path(), &programs)?,
        })
    }
}

fn programs(plan: &Plan) -> Result<Programs, Broken> {
    let (Some(native), Some(guest)) = (&plan.program, &plan.guest) else {
        let needs = "it needs --program FILE, --wasmtime FILE and --guest FILE";
        return Err(Broken(needs.to_owned()));
    };
    let strace = std::process::Command::new("strace").arg("-V").output();
    strace.map_err(|error| Broken(format!("it needs strace: {error}")))?;
    let absolute = |path: &Path| {
        fs::canonicalize(path).map_err(|error| Broken(format!("{}: {error}", path.display())))
    };
    Ok(Programs {
        native: absolute(native)?,
        guest: crate::layer::Guest {
            wasmtime: absolute(&guest.wasmtime)?,
            program: absolute(&guest.program)?,
        },
    })
}

/// All injections of this plan, in an order that the seed decides.
fn cases(plan: &Plan, dir: &Path, programs: &Programs) -> Result<Vec<Case>, Broken> {
    let all = [
        (Runner::Native, Before::Entry),
        (Runner::Native, Before::DeadNative),
        (Runner::Native, Before::DeadGuest),
        (Runner::Native, Before::DyingGuest),
        (Runner::Native, Before::Held),
        (Runner::Guest, Before::Entry),
        (Runner::Guest, Before::DeadGuest),
    ];
    let durabilities: &[&str] = match plan.size {
        Size::Long => &["full", "data", "none"],
        // `data` makes no call that `full` does not make.
        _ => &["full", "none"],
    };
    let mut random = Random::new(plan.seed);
    let mut cases = Vec::new();
    for durability in durabilities {
        for (runner, before) in all {
            // What a recovery does does not depend on it, but for how the files change in the end.
            if *durability != "full" && plan.size != Size::Long && before != Before::Entry {
                continue;
            }
            let scene = Scene {
                runner,
                before,
                durability,
            };
            let broken = |why: String| Broken(format!("{scene:?}: {why}"));
            let dir = dir.join(format!("dry-{}", cases.len()));
            let stage = Stage::set(dir, scene, programs).map_err(broken)?;
            let points = stage.points().map_err(broken)?;
            println!("{scene:?}: {} calls", points.len());
            if points.len() < 40 {
                return Err(broken(format!("so few calls are no refresh: {points:?}")));
            }
            for point in points {
                let mut add = |injected| {
                    cases.push(Case {
                        scene,
                        point: point.clone(),
                        injected,
                    });
                };
                add(Injected::Kill);
                if !point.is_of_files() {
                    continue;
                }
                // All of them for each call of a plain refresh, else some, or all.
                let first = random.below(ERRORS.len() as u64) as usize;
                let some = match (plan.size, before, *durability) {
                    (Size::Long, ..) | (_, Before::Entry, "full") => ERRORS.len(),
                    _ => 2,
                };
                for n in 0..some {
                    add(Injected::Error(ERRORS[(first + n * 3) % ERRORS.len()]));
                }
            }
        }
    }
    random.shuffle(&mut cases);
    if plan.size == Size::Short {
        cases.truncate(70);
    }
    Ok(cases)
}

/// How many injections there were of each kind.
type Done = BTreeMap<String, u64>;

fn inject_all(
    plan: &Plan,
    dir: &Path,
    programs: &Programs,
    cases: &[Case],
) -> Result<Done, Broken> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Done::new());
    let found = Mutex::new(Vec::new());
    let gone = AtomicUsize::new(0);
    let work = |worker: usize| -> Result<(), Broken> {
        let mut stages: BTreeMap<Scene, Stage> = BTreeMap::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !stages.contains_key(&case.scene) {
                let dir = dir.join(format!("{worker}-{}", stages.len()));
                let stage = Stage::set(dir, case.scene, programs).map_err(Broken)?;
                stages.insert(case.scene, stage);
            }
            match inject(&stages[&case.scene], case) {
                Ok(Hit::Well) => {}
                Ok(Hit::Gone) => {
                    println!("not made any more: {case:?}");
                    gone.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Err(why) => {
                    println!("{why}");
                    locked(&found).push(why);
                    continue;
                }
            }
            let kind = match case.injected {
                Injected::Kill => format!("{:?}, Kill", case.scene.runner),
                Injected::Error(error) => format!("{:?}, {error}", case.scene.runner),
            };
            *locked(&done).entry(kind).or_default() += 1;
        }
        Ok(())
    };
    // Some of them only wait for a lease.
    together(plan.jobs * 2, work)?;
    Broken::first_of(&locked(&found), plan.seed)?;
    let (gone, all) = (gone.into_inner(), cases.len());
    if gone > all / GONE {
        let why = format!("{gone} of {all} calls were not made any more");
        return Err(Broken(why));
    }
    Ok(std::mem::take(&mut locked(&done)))
}

fn inject(stage: &Stage, case: &Case) -> Result<Hit, String> {
    for _ in 0..TRIES {
        match stage.inject(case.injected, &case.point, |_| {})? {
            Ended::Well => return Ok(Hit::Well),
            Ended::NeverFired => {}
        }
    }
    // Who waits for a lease looks more often or less. So the last of its calls are there at one time and not at another.
    match stage.points()?.contains(&case.point) {
        true => Err(format!("never hit: {case:?}")),
        false => Ok(Hit::Gone),
    }
}

/// What came of a case.
#[derive(Debug, PartialEq, Eq)]
enum Hit {
    /// It hit, and all was well.
    Well,
    /// A run in which nothing fails does not make this call either, at this time.
    Gone,
}

/// Of so many cases one may be gone.
const GONE: usize = 20;

/// Planted defects.
fn controls(dir: &Path, programs: &Programs) -> Result<Vec<Control>, Broken> {
    let scene = |runner| Scene {
        runner,
        before: Before::Entry,
        durability: "data",
    };
    let set =
        |name: &str, runner| Stage::set(dir.join(name), scene(runner), programs).map_err(Broken);
    let native = set("control", Runner::Native)?;
    let points = native.points().map_err(Broken)?;
    let release = points.iter().rfind(|point| point.call == "unlinkat");
    let release = release.ok_or_else(|| Broken("a release unlinks nothing".to_owned()))?;
    let never = Case {
        scene: scene(Runner::Native),
        point: Point {
            ordinal: 10_000,
            ..release.clone()
        },
        injected: Injected::Error("EIO"),
    };
    let unnoticed = inject(&native, &never) == Ok(Hit::Well);

    // Behind the program's back, and no length changes.
    let tear = |entry: &Path| drop(fs::write(entry, NEW.replace('o', "0")));
    let torn = native.inject(Injected::Kill, release, tear);

    let in_place = set("in-place", Runner::InPlace)?;
    let points = in_place.points().map_err(Broken)?;
    let mut harmed = Vec::new();
    for point in &points {
        if let Err(why) = in_place.inject(Injected::Kill, point, |_| {}) {
            harmed.push(why);
        }
    }
    println!(
        "planted: cp in the program's place, killed at {} calls: {} times noticed, first: {}",
        points.len(),
        harmed.len(),
        harmed.first().map_or("-", |why| why)
    );
    Ok(vec![
        Control::new("an injection that never hits", !unnoticed),
        Control::new(
            "a payload torn behind the program's back",
            torn.is_err_and(|why| why.contains("the payload is")),
        ),
        Control::new(
            "cp in the program's place, killed in the middle",
            harmed.iter().any(|why| why.contains("the payload is \"\"")),
        ),
    ])
}
