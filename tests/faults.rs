//! Kills, errors and power cuts at every single call of a refresh.
//!
//! A refresh makes some dozens of calls to the system. Each of these tests runs it again and again and hits the first call,
//! then the second, and so on, until a run comes through untouched; so no call is forgotten when the library changes.

use std::io::ErrorKind as IoError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cachelock::platform::FileSystem;
use cachelock::platform::memory::{
    Call, Fault, Keep, Op, Pending, PendingOp, Process, Stopped, World,
};
use cachelock::{Cache, Durability, ErrorKind};

use support::{builder, publish, read, residue};

mod support;

const OLD: &[u8] = b"the old payload";
const NEW: &[u8] = b"the new payload, which is longer";
const NEXT: &[u8] = b"next";

/// More calls than any refresh makes: a test that gets here loops for ever.
const TOO_MANY: usize = 500;

/// What is there before the refresh that is hit.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    /// Not even the directory.
    Nothing,
    /// A published entry.
    Entry,
}

impl Before {
    const ALL: [Before; 2] = [Before::Nothing, Before::Entry];

    fn world(self, durability: Durability) -> World {
        let world = World::simulated();
        if self == Before::Entry {
            let process = world.process("first");
            let cache = cache(&process, durability);
            let task = world.spawn(&process, "main", move || publish(&cache, OLD));
            world
                .finish(task)
                .expect("nothing disturbs the first publish");
        }
        world
    }

    fn generation(self) -> u64 {
        match self {
            Before::Nothing => 0,
            Before::Entry => 1,
        }
    }
}

fn cache(process: &Arc<Process>, durability: Durability) -> Cache {
    builder(process)
        .durability(durability)
        .open()
        .expect("nothing is touched")
}

/// Runs a refresh of `process` and stops before its `n`-th call; `true` if it ended before that. `stop` is what to do there.
fn runs_through(world: &World, process: &Arc<Process>, n: usize, durability: Durability) -> bool {
    assert!(
        n < TOO_MANY,
        "a refresh makes endlessly many calls\n{}",
        world.trace()
    );
    let cache = cache(process, durability);
    let task = world.spawn(process, "main", move || publish(&cache, NEW));
    let mut calls = 0;
    let stopped = world.run_until(&task, move |_| {
        calls += 1;
        calls > n
    });
    if stopped != Stopped::Finished {
        return false;
    }
    world.finish(task).expect("nobody disturbed this refresh");
    true
}

/// Asserts that the entry is whole: as it was, or new.
#[track_caller]
fn assert_old_or_new(world: &World, before: Before, why: &str) -> u64 {
    let found = read(world, "reader").unwrap_or_else(|error| {
        panic!("{why}: the entry is not whole: {error}\n{}", world.trace())
    });
    match (found, before) {
        (None, Before::Nothing) => 0,
        (Some((bytes, Some(1))), Before::Entry) if bytes == OLD => 1,
        (Some((bytes, Some(generation))), _)
            if bytes == NEW && generation == before.generation() + 1 =>
        {
            generation
        }
        (found, _) => panic!(
            "{why}: the entry is neither old nor new but {found:?}\n{}",
            world.trace()
        ),
    }
}

/// Asserts that another process can refresh now, within a second, and that nothing is left lying about after it.
#[track_caller]
fn assert_next_refresh_works(world: &World, generation: u64, why: &str) {
    let begun = world.now();
    let process = world.process("next");
    let cache = cache(&process, Durability::Data);
    let task = world.spawn(&process, "main", move || publish(&cache, NEXT));
    match world.finish(task) {
        Ok(published) => assert_eq!(
            published.generation,
            generation + 1,
            "{why}: a generation was skipped or repeated\n{}",
            world.trace()
        ),
        Err(error) => panic!("{why}: the next refresh failed: {error}\n{}", world.trace()),
    }
    let took = world.now() - begun;
    assert!(
        took < Duration::from_secs(1),
        "{why}: the next refresh took {took:?}\n{}",
        world.trace()
    );
    let found = read(world, "last reader").expect("the next refresh replaced everything");
    assert_eq!(found, Some((NEXT.to_vec(), Some(generation + 1))), "{why}");
    assert_eq!(
        residue(world),
        [""; 0],
        "{why}: something was left behind\n{}",
        world.trace()
    );
}

#[test]
fn killed_at_any_call_a_refresh_delays_and_spoils_nothing() {
    for before in Before::ALL {
        for durability in [Durability::Data, Durability::Full] {
            for n in 0.. {
                let world = before.world(durability);
                let process = world.process("victim");
                if runs_through(&world, &process, n, durability) {
                    break;
                }
                world.kill(&process);
                let why = format!("killed before call {n}, {before:?}, {durability}");
                let generation = assert_old_or_new(&world, before, &why);
                assert_next_refresh_works(&world, generation, &why);
            }
        }
    }
}

#[test]
fn killed_at_any_call_a_guest_delays_others_by_its_lease_at_most() {
    for n in 0.. {
        let world = Before::Entry.world(Durability::Data);
        let process = world.guest("victim");
        if runs_through(&world, &process, n, Durability::Data) {
            break;
        }
        world.kill(&process);
        let why = format!("killed before call {n}");
        let generation = assert_old_or_new(&world, Before::Entry, &why);
        let begun = world.now();
        let other = world.process("other");
        let cache = cache(&other, Durability::Data);
        let task = world.spawn(&other, "main", move || publish(&cache, NEXT));
        let published = world.finish(task).expect("a guest's lease expires");
        assert_eq!(published.generation, generation + 1, "{why}");
        let took = world.now() - begun;
        assert!(
            took <= support::LEASE + support::LEASE / 4,
            "{why}: it took {took:?} to get past a dead guest\n{}",
            world.trace()
        );
        assert_eq!(residue(&world), [""; 0], "{why}\n{}", world.trace());
    }
}

/// Makes the `n`-th call of the process "victim" fail, and those after it up to `times`; tells whether it came to that.
fn fail_call(world: &World, n: usize, times: usize, kind: IoError) -> Arc<AtomicBool> {
    let hit = Arc::new(AtomicBool::new(false));
    let (seen, calls) = (hit.clone(), AtomicUsize::new(0));
    world.inject(
        move |call: &Call| {
            if &*call.process != "victim" || matches!(call.op, Op::Wait | Op::Start) {
                return false;
            }
            let matches = calls.fetch_add(1, Ordering::SeqCst) >= n;
            seen.fetch_or(matches, Ordering::SeqCst);
            matches
        },
        Fault::Error(kind),
        times,
    );
    hit
}

/// Whether an error of this kind tells what happened when the system said `injected`.
fn is_clear(found: ErrorKind, injected: IoError) -> bool {
    match injected {
        IoError::StorageFull => found == ErrorKind::StorageFull,
        IoError::PermissionDenied => found == ErrorKind::Permission,
        _ => found == ErrorKind::Io,
    }
}

#[test]
fn an_error_at_any_call_is_reported_and_spoils_nothing() {
    for before in Before::ALL {
        for (kind, times) in [
            (IoError::StorageFull, 1),
            (IoError::PermissionDenied, 1),
            (IoError::Other, 1),
            (IoError::StorageFull, usize::MAX),
            (IoError::Other, usize::MAX),
        ] {
            for n in 0.. {
                assert!(n < TOO_MANY, "a refresh makes endlessly many calls");
                let world = before.world(Durability::Full);
                let process = world.process("victim");
                let hit = fail_call(&world, n, times, kind);
                let cache = cache(&process, Durability::Full);
                let task = world.spawn(&process, "main", move || publish(&cache, NEW));
                let result = world.finish(task);
                if !hit.load(Ordering::SeqCst) {
                    result.expect("nobody disturbed this refresh");
                    break;
                }
                world.clear_faults();
                let why = format!("{kind:?} at call {n}, {times} times, {before:?}");
                let generation = assert_old_or_new(&world, before, &why);
                match result {
                    Ok(published) => assert_eq!(
                        published.generation,
                        generation,
                        "{why}: acknowledged and not there\n{}",
                        world.trace()
                    ),
                    Err(error) if error.kind() == ErrorKind::NotDurable => assert_eq!(
                        generation,
                        before.generation() + 1,
                        "{why}: it says that it is published, only not durable: {error}"
                    ),
                    Err(error) => {
                        assert!(
                            is_clear(error.kind(), kind),
                            "{why}: that does not say what happened: {error}\n{}",
                            world.trace()
                        );
                        assert_eq!(
                            generation,
                            before.generation(),
                            "{why}: it failed and published all the same\n{}",
                            world.trace()
                        );
                    }
                }
                assert_next_refresh_works(&world, generation, &why);
            }
        }
    }
}

#[test]
fn a_claim_or_a_head_that_could_not_be_made_is_an_error_and_tried_no_further() {
    for (op, prefix) in [
        (Op::Write, "claim-"),
        (Op::SetMode, "claim-"),
        (Op::SetLen, "head-"),
        (Op::Rename, "head-"),
    ] {
        let why = format!("{op:?} of {prefix}");
        let world = Before::Entry.world(Durability::Data);
        let process = world.process("victim");
        let fails = move |call: &Call| call.is(op, prefix);
        world.inject(fails, Fault::Error(IoError::StorageFull), 1);
        let cache = cache(&process, Durability::Data);
        let task = world.spawn(&process, "main", move || publish(&cache, NEW));
        let error = world.finish(task).expect_err(&why);
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{why}: {error}");
        assert_next_refresh_works(&world, 1, &why);
    }
}

#[test]
fn claims_and_heads_are_synced_where_other_machines_look_and_nowhere_else() {
    for remote in [false, true] {
        let world = World::simulated();
        if remote {
            world.set_file_system(FileSystem {
                name: "nfs".into(),
                kernel_locks: false,
                remote: true,
            });
        }
        let synced = Arc::new(AtomicUsize::new(0));
        let counter = synced.clone();
        let counts = move |call: &Call| {
            let ours = call.name.starts_with("claim-") || call.name.starts_with("head-");
            counter.fetch_add(
                usize::from(ours && call.op == Op::SyncFile),
                Ordering::SeqCst,
            );
            false
        };
        world.inject(counts, Fault::Error(IoError::Other), 1);
        publish_as(&world, "holder", Durability::None, NEW);
        let expected = if remote { 2 } else { 0 };
        assert_eq!(synced.load(Ordering::SeqCst), expected, "remote: {remote}");
    }
}

/// What a power cut takes.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// All that was not synced.
    Everything,
    /// Bytes and lengths, but no names: file systems that write names first.
    Data,
    /// Names, but no bytes.
    Names,
    /// The second half of each write.
    Halves,
    /// Nothing: the machine fell over after all was written back.
    Nothing,
}

impl Cut {
    const ALL: [Cut; 5] = [
        Cut::Everything,
        Cut::Data,
        Cut::Names,
        Cut::Halves,
        Cut::Nothing,
    ];

    fn decide(self, pending: &Pending) -> Keep {
        let lost = |lost: bool| if lost { Keep::Lose } else { Keep::Keep };
        let of_data = matches!(pending.op, PendingOp::Write { .. } | PendingOp::SetLen(_));
        match (self, &pending.op) {
            (Cut::Everything, _) => Keep::Lose,
            (Cut::Data, _) => lost(of_data),
            (Cut::Names, _) => lost(!of_data),
            (Cut::Halves, PendingOp::Write { len, .. }) => Keep::Torn(len / 2),
            (Cut::Halves | Cut::Nothing, _) => Keep::Keep,
        }
    }
}

/// Asserts that the bytes under the entry's name are the old ones or the new ones.
#[track_caller]
fn assert_payload_is_whole(world: &World, before: Before, why: &str) {
    let found = world.read_file("/cache/entry");
    let whole = match &found {
        None => before == Before::Nothing,
        Some(bytes) => bytes == NEW || (bytes == OLD && before == Before::Entry),
    };
    assert!(whole, "{why}: the payload is {found:?}\n{}", world.trace());
}

#[test]
fn a_power_cut_at_any_call_leaves_no_torn_entry() {
    for cut in Cut::ALL {
        for before in Before::ALL {
            for durability in [Durability::Data, Durability::Full] {
                for n in 0.. {
                    let world = before.world(Durability::Full);
                    let process = world.process("victim");
                    let acknowledged = runs_through(&world, &process, n, durability);
                    world.power_cut(|pending| cut.decide(pending));
                    let why = format!("{cut:?} lost before call {n}, {before:?}, {durability}");
                    // `Data` does not sync the tag. Where a name lasts without its bytes, the payload is whole and cannot
                    // be verified.
                    let spares_tags =
                        durability == Durability::Full || !matches!(cut, Cut::Data | Cut::Halves);
                    assert_payload_is_whole(&world, before, &why);
                    let corrupt = read(&world, "reader").is_err_and(|error| error.is_corrupt());
                    if corrupt && !spares_tags {
                        if acknowledged {
                            break;
                        }
                        continue;
                    }
                    let generation = assert_old_or_new(&world, before, &why);
                    if acknowledged && durability == Durability::Full {
                        assert_eq!(
                            generation,
                            before.generation() + 1,
                            "{why}: an acknowledged publish is gone\n{}",
                            world.trace()
                        );
                    }
                    assert_next_refresh_works(&world, generation, &why);
                    if acknowledged {
                        break;
                    }
                }
            }
        }
    }
}

/// Publishes as a process of its own, which lives on.
#[track_caller]
fn publish_as(world: &World, name: &str, durability: Durability, bytes: &'static [u8]) {
    let process = world.process(name);
    let cache = cache(&process, durability);
    let task = world.spawn(&process, "main", move || publish(&cache, bytes));
    world.finish(task).expect("nothing disturbs it");
}

fn lose_if(lost: bool) -> Keep {
    if lost { Keep::Lose } else { Keep::Keep }
}

#[test]
fn a_tag_that_lasts_never_speaks_of_a_payload_that_does_not() {
    // A holder is killed, and with it only the process, when it has renamed its payload and not yet synced that.
    let world = Before::Entry.world(Durability::Full);
    let dies = world.process("dies");
    let victim = cache(&dies, Durability::Full);
    let task = world.spawn(&dies, "main", move || publish(&victim, NEW));
    world.run_to(&task, |call| {
        call.renames_to("entry") && &*call.dir == "/cache/.cachelock"
    });
    world.run_to(&task, |call| call.renames_to("entry"));
    world.run_to(&task, |call| call.op == Op::SyncDir);
    world.kill(&dies);
    // The next one's tag names that payload as the one before. The power fails before its own payload is there.
    let next = world.process("next");
    let second = cache(&next, Durability::Full);
    let task = world.spawn(&next, "main", move || publish(&second, NEXT));
    world.run_to(&task, |call| call.renames_to("entry"));
    world.run_to(&task, |call| {
        call.renames_to("entry") && call.name.ends_with("-0")
    });
    for lost in [false, true] {
        let image = world.image(1, |_| lose_if(lost));
        let found = read(&image, "reader").expect("the entry is whole");
        assert_eq!(found, Some((NEW.to_vec(), Some(2))), "lost: {lost}");
    }
}

#[test]
fn a_full_publish_survives_where_others_have_made_the_directories_without_a_sync() {
    let world = World::simulated();
    publish_as(&world, "hasty", Durability::None, OLD);
    publish_as(&world, "careful", Durability::Full, NEW);
    world.power_cut_losing_everything();
    let found = read(&world, "reader").expect("the entry is whole");
    assert_eq!(found, Some((NEW.to_vec(), Some(2))));
}

#[test]
fn an_absent_entry_is_never_an_empty_one_whatever_a_power_cut_takes() {
    let world = World::simulated();
    publish_as(&world, "first", Durability::Data, OLD);
    let process = world.process("second");
    let cache = cache(&process, Durability::Data);
    let task = world.spawn(&process, "main", move || {
        let refresh = cache.entry("entry")?.refresh()?;
        Ok::<_, cachelock::Error>(refresh.publish_absent(Duration::from_secs(60))?)
    });
    while world.run_until(&task, |_| true) != Stopped::Finished {
        for lost in ["", ".cachelock", "tags", "stage-", "entry"] {
            let names = |pending: &Pending| lose_if(pending.name.starts_with(lost));
            let bytes = |pending: &Pending| {
                lose_if(
                    matches!(pending.op, PendingOp::Write { .. }) || names(pending) == Keep::Lose,
                )
            };
            for image in [
                world.image(1, |pending| names(pending)),
                world.image(1, |pending| bytes(pending)),
            ] {
                match read(&image, "reader") {
                    Ok(found) => assert_ne!(
                        found.map(|(bytes, _)| bytes),
                        Some(Vec::new()),
                        "{lost:?} lost\n{}",
                        world.trace()
                    ),
                    Err(error) => assert!(error.is_corrupt(), "{error}"),
                }
            }
        }
    }
}

/// What a power cut leaves of refreshes in a row that the disk has heard nothing of, so many of them done: of the last one the
/// names of this kind.
fn outlived(before: u64, kind: &str) -> World {
    let world = World::simulated();
    for number in 0..before {
        publish_as(&world, &format!("before {number}"), Durability::Data, OLD);
    }
    let process = world.process("last");
    let cache = cache(&process, Durability::Data);
    let task = world.spawn(&process, "main", move || publish(&cache, NEW));
    world.run_to(&task, |call| call.renames_to("entry"));
    let survives = format!("{kind}-{:020}", before + 1);
    let image = world.image(1, |pending| {
        let made = pending.op == PendingOp::Create;
        let ours = ["cache", ".cachelock", &survives];
        lose_if(!made || !ours.iter().any(|name| pending.name.starts_with(name)))
    });
    assert!(!residue(&image).is_empty(), "{survives} survives");
    image
}

#[test]
fn names_that_outlive_their_claims_in_a_power_cut_are_swept_by_the_next_refresh() {
    // It has the first epoch again: theirs, or an earlier one.
    for (before, kind) in [
        (0, "claim"),
        (0, "stage"),
        (0, "head"),
        (2, "stage"),
        (2, "head"),
    ] {
        assert_next_refresh_works(&outlived(before, kind), 0, kind);
    }
}

#[test]
fn a_claim_that_outlives_the_head_in_a_power_cut_is_waited_for_once() {
    for guests in [false, true] {
        let world = outlived(2, "claim");
        let mut took = Vec::new();
        for (generation, left) in [(1, true), (2, false), (3, false)] {
            let name = format!("{generation}");
            let process = match guests {
                true => world.guest(&name),
                false => world.process(&name),
            };
            let begun = world.now();
            let cache = cache(&process, Durability::Data);
            let task = world.spawn(&process, "main", move || publish(&cache, NEXT));
            let published = world.finish(task).expect("nobody is in the way for ever");
            assert_eq!(published.generation, generation);
            assert_eq!(!residue(&world).is_empty(), left, "{:?}", residue(&world));
            took.push(world.now() - begun);
        }
        let most = support::LEASE + support::LEASE / 4;
        assert!(took[0].is_zero() && took[1] <= most, "{took:?}");
        assert!(took[2].is_zero(), "{took:?}");
    }
}

#[test]
fn an_error_after_the_tag_of_an_absent_entry_is_not_told_as_a_failure_to_publish() {
    let mut published = 0;
    for n in 0.. {
        assert!(n < TOO_MANY, "a refresh makes endlessly many calls");
        let world = Before::Entry.world(Durability::Full);
        let process = world.process("victim");
        let hit = fail_call(&world, n, 1, IoError::Other);
        let cache = cache(&process, Durability::Full);
        let task = world.spawn(&process, "main", move || {
            let refresh = cache.entry("entry")?.refresh()?;
            Ok::<_, cachelock::Error>(refresh.publish_absent(Duration::from_secs(60))?)
        });
        let result = world.finish(task);
        if !hit.load(Ordering::SeqCst) {
            result.expect("nobody disturbed this refresh");
            break;
        }
        world.clear_faults();
        let is_absent = read(&world, "reader").expect("it is whole").is_none();
        let said = match &result {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::NotDurable,
        };
        assert_eq!(said, is_absent, "call {n}: {result:?}\n{}", world.trace());
        published += u32::from(result.is_err() && said);
    }
    assert!(published > 0, "no error came after the tag");
}

#[test]
fn an_error_while_it_releases_costs_a_lease_only_holder_nothing() {
    for n in 0.. {
        assert!(n < TOO_MANY, "a refresh makes endlessly many calls");
        let world = Before::Entry.world(Durability::Data);
        let process = world.guest("victim");
        let hit = fail_call(&world, n, 1, IoError::Other);
        let cache = cache(&process, Durability::Data);
        let task = world.spawn(&process, "main", move || publish(&cache, NEW));
        let _ = world.finish(task);
        if !hit.load(Ordering::SeqCst) {
            break;
        }
        world.clear_faults();
        let why = format!("an error at call {n}");
        let found = read(&world, "reader").expect("it is whole");
        let generation = found.and_then(|(_, generation)| generation);
        assert_next_refresh_works(&world, generation.expect("it has a tag"), &why);
    }
}

#[test]
fn a_guest_that_is_overtaken_while_it_reads_the_old_payload_says_so() {
    let world = World::simulated();
    // Its tag's two records have one length, so only the hash tells which of them the payload is.
    publish_as(&world, "first", Durability::Data, b"one length");
    publish_as(&world, "second", Durability::Data, b"same again");
    let process = world.guest("victim");
    let victim = cache(&process, Durability::Data);
    let task = world.spawn(&process, "main", move || publish(&victim, NEW));
    world.run_to(&task, |call| {
        call.op == Op::Read && &*call.dir == "/cache" && call.name == "entry"
    });
    let other = world.process("other");
    let breaks = cache(&other, Durability::Data);
    let taker = world.spawn(&other, "main", move || {
        breaks.break_lock()?;
        publish(&breaks, NEXT)
    });
    world.finish(taker).expect("it needs nobody's leave");
    let error = world.finish(task).expect_err("it was overtaken");
    assert!(error.is_lease_lost(), "{error}\n{}", world.trace());
}
