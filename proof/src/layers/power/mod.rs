//! Layer 7: power cuts on a real ext4, whose device records each write.
//!
//! `qemu-storage-daemon` serves a disk through FUSE and writes down what is written to it, and when it is flushed. On an ext4
//! on that device one entry is published some times, while a neighbour on the same file system syncs at random moments. Each
//! prefix of the recorded writes is a disk that a power cut may leave, and so is each prefix without some of the writes
//! since the last flush. Each such disk is mounted, which replays its journal, and looked at by a new process:
//!
//! - with durability `data` the payload is a whole one, or missing;
//! - with `full` it is verified, and not older than the last publish that was acknowledged before the cut;
//! - what is verified has the generation that it was published with;
//! - the next refresh works, and leaves nothing.
//!
//! All of it happens in namespaces of its own, on a tmpfs that is mounted there: when the process ends, in whatever way, nothing
//! is left mounted, attached or stored.

mod log;
mod look;
mod record;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::layer::{Broken, Control, Count, Layer, Outcome, Plan, Size};
use crate::layers;
use crate::random::Random;
use crate::threads::{locked, together};

use log::Cut;
use look::{Raw, Read, Seen};
use record::{Mounted, Published, Recording, Style, other, record};

/// The names of this layer's processes among the parts of `prove`.
pub(crate) const PART: &str = "power-cuts";
pub(crate) const LOOK: &str = "look-after-power-cut";

/// The process that looks at one disk.
pub(crate) fn look(words: &[String]) -> ExitCode {
    look::run(words)
}

/// How many disks of a recording are looked at at the same time.
const AT_ONCE: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct Power;

impl Layer for Power {
    fn number(&self) -> u32 {
        7
    }

    fn waits(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "power cuts"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        if !rustix::process::geteuid().is_root() {
            let text = "power cuts are tried on file systems of their own: be root";
            return Err(Broken(text.to_owned()));
        }
        let target = plan.size.pick(30, 1000, 10_000);
        let sum = Mutex::new(Tally::default());
        let next = AtomicU64::new(0);
        // Each recording gives some hundred images; without a bound one that gives none would go on for ever.
        let most = 4 + target / 15;
        let work = |_| -> Result<(), Broken> {
            loop {
                let recording = next.fetch_add(1, Ordering::Relaxed);
                if locked(&sum).images() >= target || recording >= most {
                    return Ok(());
                }
                let style = [Style::Data, Style::Full][(recording % 2) as usize];
                let seed = seed_of(plan.seed, recording);
                let limit = match plan.size {
                    Size::Short => target.div_ceil(2),
                    _ => u64::MAX,
                };
                match Found::of(style, seed, limit)? {
                    Found::Fine(tally) => locked(&sum).add(&tally),
                    Found::Fault(text) => {
                        let text = format!(
                            "seed {}, {style:?}, recording {recording}: {text}",
                            plan.seed
                        );
                        println!("{text}");
                        // The others need not go on.
                        next.store(most, Ordering::Relaxed);
                        return Err(Broken(text));
                    }
                }
            }
        };
        // The system ends those processes with the thread that has started them.
        together(plan.jobs, work)?;
        let sum = *locked(&sum);
        sum.show();
        Ok(Outcome {
            counts: vec![Count::new(
                "images of a disk, each mounted",
                sum.images(),
                target,
            )],
            controls: controls(plan)?,
        })
    }
}

fn seed_of(seed: u64, recording: u64) -> u64 {
    Random::new(seed ^ recording.rotate_left(40)).draw() >> 1
}

/// Planted defects: ways to publish of which less is promised than is asked for here.
fn controls(plan: &Plan) -> Result<Vec<Control>, Broken> {
    /// Each records anew.
    const TRIES: u64 = 5;
    let mut controls = Vec::new();
    for (style, defect) in [
        (
            Style::Plain,
            "a file that is written and renamed without a sync",
        ),
        (Style::NoneForData, "durability none, judged as data"),
        (Style::DataForFull, "durability data, judged as full"),
        (Style::NoSync, "Mutation::NoSync with durability full"),
    ] {
        let mut caught = false;
        for recording in 0..TRIES {
            if let Found::Fault(text) = Found::of(style, seed_of(!plan.seed, recording), u64::MAX)?
            {
                println!("planted: {defect}: {text}");
                caught = true;
                break;
            }
        }
        if !caught {
            println!("planted: {defect}: not noticed in {TRIES} recordings");
        }
        controls.push(Control::new(defect, caught));
    }
    Ok(controls)
}

/// What was seen on the disks of a recording.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    prefixes: u64,
    subsets: u64,
    new: u64,
    old: u64,
    missing: u64,
    unverified: u64,
}

impl Tally {
    fn fields(&mut self) -> [&mut u64; 6] {
        let Tally {
            prefixes,
            subsets,
            new,
            old,
            missing,
            unverified,
        } = self;
        [prefixes, subsets, new, old, missing, unverified]
    }

    fn add(&mut self, other: &Tally) {
        let mut other = *other;
        for (sum, one) in self.fields().into_iter().zip(other.fields()) {
            *sum += *one;
        }
    }

    fn images(&self) -> u64 {
        self.prefixes + self.subsets
    }

    fn show(&self) {
        let Tally {
            prefixes,
            subsets,
            new,
            old,
            missing,
            unverified,
        } = self;
        println!(
            "{prefixes} prefixes of the writes and {subsets} without some that were not flushed: on {new} the newest payload that had been begun, \
             on {old} an older one, on {missing} none; {unverified} payloads were whole, but their tag was lost (data only)"
        );
    }
}

/// What came of one recording.
enum Found {
    Fine(Tally),
    Fault(String),
}

impl Found {
    /// Records, and looks at up to `limit` of its disks, in a process with namespaces of its own.
    fn of(style: Style, seed: u64, limit: u64) -> Result<Self, Broken> {
        let broken = |error: io::Error| Broken(format!("a recording of power cuts: {error}"));
        // It ends with this process, and all that it has started and mounted ends with it.
        let out = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--propagation",
                "private",
            ])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(std::env::current_exe().map_err(broken)?)
            .args([layers::PART, PART, &format!("{style:?}")])
            .args([seed.to_string(), limit.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(broken)?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        match said.trim_end().split_once(' ') {
            Some(("fault", text)) => Ok(Found::Fault(text.to_owned())),
            Some(("fine", numbers)) => {
                let mut tally = Tally::default();
                for (field, number) in tally.fields().into_iter().zip(numbers.split(' ')) {
                    *field = number.parse().map_err(|_| broken(other(said.clone())))?;
                }
                Ok(Found::Fine(tally))
            }
            _ => Err(broken(other(format!("{}, {said}", out.status)))),
        }
    }
}

/// The process in the namespaces.
pub(crate) fn part(words: &[String]) -> ExitCode {
    let done = orders(words).ok_or_else(|| other(format!("no orders: {words:?}")));
    match done.and_then(|(style, seed, limit)| cut_power(style, seed, limit)) {
        Ok(Ok(mut tally)) => {
            let numbers = tally.fields().map(|field| field.to_string());
            println!("fine {}", numbers.join(" "));
            ExitCode::SUCCESS
        }
        Ok(Err(fault)) => {
            println!("fault {}", fault.replace('\n', " "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn orders(words: &[String]) -> Option<(Style, u64, u64)> {
    let [style, seed, limit] = words else {
        return None;
    };
    let style = Style::ALL
        .into_iter()
        .find(|of| format!("{of:?}") == *style);
    Some((style?, seed.parse().ok()?, limit.parse().ok()?))
}

/// What was seen, or the first broken promise.
fn cut_power(style: Style, seed: u64, limit: u64) -> io::Result<Result<Tally, String>> {
    // Seen by nobody else, and gone with this process.
    let dir = Path::new("/mnt");
    record::system(dir, &["mount", "-t", "tmpfs", "tmpfs", "/mnt"])?;
    let recording = record(dir, style, seed)?;
    let mut random = Random::new(seed);
    let begin = recording.published.first().map_or(0, |first| first.began);
    let mut cuts = recording.log.cuts(begin, &mut random);
    while cuts.len() as u64 > limit {
        let left_out = random.below(cuts.len() as u64) as usize;
        cuts.remove(left_out);
    }
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(0);
    // Most of the time is waiting: for mounts, and for claims that were made and are empty.
    let work = |thread| -> Result<(), Broken> {
        let image = format!("image-{thread}");
        while let Some(cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one = recording.look_at(dir, &image, style, cut, seed);
            match one {
                Ok(one) => locked(&tally).add(&one),
                Err(why) => {
                    next.store(cuts.len(), Ordering::Relaxed);
                    let images = locked(&tally).images();
                    return Err(Broken(format!("after {images} images: {why}")));
                }
            }
        }
        Ok(())
    };
    let looked = together(AT_ONCE, work);
    let tally = *locked(&tally);
    Ok(looked.map(|_| tally).map_err(|Broken(why)| why))
}

impl Recording {
    /// What a new process sees on the disk after `cut`, in the file `image`, and whether that is right.
    fn look_at(
        &self,
        dir: &Path,
        image: &str,
        style: Style,
        cut: &Cut,
        writer: u64,
    ) -> Result<Tally, String> {
        let look = || -> io::Result<Seen> {
            let mut disk = File::create(dir.join(image))?;
            disk.set_len(record::DISK)?;
            self.log.write_image(&self.base, cut, &mut disk)?;
            drop(disk);
            let mounted = Mounted::new(dir, image)?;
            let seen = look_at(&mounted.at, writer)?;
            mounted.end()?;
            // Another one, whatever the system still has of this one.
            fs::remove_file(dir.join(image))?;
            Ok(seen)
        };
        let seen = look().map_err(|error| format!("{error} at {cut:?}"))?;
        judge(style, &self.published, cut, &seen)
            .map_err(|why| format!("{why}: {seen:?} at {cut:?}"))
    }
}

/// What a new process sees.
fn look_at(at: &Path, writer: u64) -> io::Result<Seen> {
    let out = Command::new(std::env::current_exe()?)
        .args([layers::PART, LOOK])
        .arg(at)
        .arg(writer.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    Seen::parse(&said).ok_or_else(|| other(format!("who looks says: {said}")))
}

/// Whether what was seen is what is promised after `cut`.
fn judge(style: Style, published: &[Published], cut: &Cut, seen: &Seen) -> Result<Tally, String> {
    let begun = published.iter().filter(|one| one.began < cut.len).count() as u64;
    let acknowledged = published.iter().filter(|one| one.acknowledged <= cut.len);
    let acknowledged = acknowledged.count() as u64;
    let mut tally = Tally::default();
    match cut.lost.is_empty() {
        true => tally.prefixes = 1,
        false => tally.subsets = 1,
    }
    match seen.raw {
        Raw::Torn => return Err("the payload is not whole".to_owned()),
        Raw::Missing => tally.missing = 1,
        Raw::Whole(number) if number > begun => {
            return Err(format!(
                "payload {number} is there, and only {begun} were begun"
            ));
        }
        Raw::Whole(number) if number == begun => tally.new = 1,
        Raw::Whole(_) => tally.old = 1,
    }
    let number = match seen.raw {
        Raw::Whole(number) => number,
        _ => 0,
    };
    if style.is_full() && number < acknowledged {
        return Err(format!(
            "publish {acknowledged} was acknowledged, and {number} is there"
        ));
    }
    if style == Style::Plain {
        return Ok(tally);
    }
    match (seen.raw, seen.read) {
        (Raw::Missing, Read::Missing) => {}
        (Raw::Whole(number), Read::Verified(generation)) if number == generation => {}
        (Raw::Whole(_), Read::Corrupt | Read::Untagged) if !style.is_full() => {
            tally.unverified = 1;
        }
        _ => return Err("the tag is another's".to_owned()),
    }
    match (&seen.next, seen.read) {
        (Err(why), _) => Err(why.clone()),
        (Ok(next), Read::Verified(generation)) if *next != generation + 1 => {
            Err(format!("{next} was published over {generation}"))
        }
        _ => Ok(tally),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cut_may_leave_depends_on_when_it_comes_and_on_the_durability() {
        let published = [(0, 10), (20, 30)].map(|(began, acknowledged)| Published {
            began,
            acknowledged,
        });
        let judged = |style, len, raw, read| {
            let cut = Cut {
                made: 1,
                len,
                lost: [].into(),
            };
            let next = match read {
                Read::Verified(generation) => Ok(generation + 1),
                _ => Ok(1),
            };
            judge(style, &published, &cut, &Seen { raw, read, next }).is_ok()
        };
        let (data, full) = (Style::Data, Style::Full);
        let whole = |number| (Raw::Whole(number), Read::Verified(number));
        for (style, len, (raw, read), right) in [
            (full, 5, (Raw::Missing, Read::Missing), true),
            (full, 5, whole(1), true),
            (full, 10, (Raw::Missing, Read::Missing), false),
            (full, 10, whole(1), true),
            (full, 10, whole(2), false),
            (full, 25, whole(2), true),
            (full, 30, whole(1), false),
            (full, 30, (Raw::Whole(2), Read::Corrupt), false),
            (data, 30, (Raw::Whole(2), Read::Corrupt), true),
            (data, 30, (Raw::Missing, Read::Missing), true),
            (data, 30, whole(1), true),
            (data, 30, (Raw::Whole(1), Read::Verified(2)), false),
            (data, 30, (Raw::Torn, Read::Corrupt), false),
            (Style::Plain, 30, (Raw::Torn, Read::Untagged), false),
        ] {
            assert_eq!(
                judged(style, len, raw, read),
                right,
                "{style:?} {len} {raw:?} {read:?}"
            );
        }
    }

    #[test]
    fn the_next_refresh_works_and_is_one_generation_higher() {
        let published = [Published {
            began: 0,
            acknowledged: 10,
        }];
        let cut = Cut {
            made: 1,
            len: 10,
            lost: [].into(),
        };
        for (next, right) in [
            (Ok(2), true),
            (Ok(1), false),
            (Err("why".to_owned()), false),
        ] {
            let (raw, read) = (Raw::Whole(1), Read::Verified(1));
            let seen = Seen { raw, read, next };
            assert_eq!(
                judge(Style::Full, &published, &cut, &seen).is_ok(),
                right,
                "{seen:?}"
            );
        }
    }
}
