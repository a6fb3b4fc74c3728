//! Reads beside what may happen meanwhile, and what is said of what was read.

use std::io::ErrorKind as IoError;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cachelock::platform::memory::{Call, Fault, Op, Process, Stopped, Task, World};
use cachelock::{Cache, Entry, Error, ErrorKind, Lookup, Published, Verification};

use support::{builder, make_remote, on_payload, publish, renames_payload};

mod support;

const TAG: &str = "/cache/.cachelock/tags/entry";

fn on_tag(call: &Call, op: Op) -> bool {
    call.op == op && &*call.dir == "/cache/.cachelock/tags" && call.name == "entry"
}

/// Another process publishes.
fn publish_another(world: &World, bytes: &[u8]) {
    let (other, bytes) = (world.process("other"), bytes.to_vec());
    let cache = builder(&other).open().expect("nothing is touched");
    let task = world.spawn(&other, "main", move || publish(&cache, &bytes));
    world.finish(task).expect("nobody disturbs it");
}

/// Another process publishes that there is nothing: until when.
fn publish_absence(world: &World) -> SystemTime {
    const VALID_FOR: Duration = Duration::from_secs(60);
    let other = world.process("other");
    let cache = builder(&other).open().expect("nothing is touched");
    let task = world.spawn(&other, "main", move || {
        let refresh = cache.entry("entry")?.refresh()?;
        Ok::<_, Error>(refresh.publish_absent(VALID_FOR)?.written)
    });
    world.finish(task).expect("nobody disturbs it") + VALID_FOR
}

/// The entry as a reader has it.
fn entry(world: &World) -> Entry {
    let cache: Cache = builder(&world.process("reader"))
        .open()
        .expect("nothing is touched");
    cache.entry("entry").expect("a name")
}

#[test]
fn as_many_publishes_as_there_may_be_during_a_read_make_nothing_corrupt() {
    let world = World::simulated();
    publish_another(&world, b"0");
    let entry = entry(&world);
    let reader = world.process("reader");
    let task = world.spawn(&reader, "main", move || entry.read());
    for round in 1..=5_u8 {
        world.run_to(&task, |call| on_tag(call, Op::OpenRead));
        // The opened payload is in neither of its records then.
        publish_another(&world, &[round, 1]);
        publish_another(&world, &[round, 2]);
        world.run_to(&task, |call| on_payload(call, Op::OpenRead));
    }
    let found = world.finish(task).expect("not corrupt").expect("published");
    assert_eq!(found.as_ref(), [5, 2]);
    assert_eq!(found.meta().generation, Some(11));
}

/// As where another kernel or a server remembers files for others, and mixes them for a moment.
#[test]
fn a_payload_is_corrupt_only_when_two_attempts_have_seen_the_same() {
    for (tags, is_corrupt) in [(&[1][..], false), (&[1, 2], false), (&[1, 1], true)] {
        let world = World::simulated();
        publish_another(&world, b"payload");
        let right = world.read_file(TAG).expect("it is there");
        let entry = entry(&world);
        let task = world.spawn(&world.process("reader"), "main", move || entry.read());
        let mut said = tags.iter().map(|wrong| vec![*wrong]).chain([right]);
        while world.run_until(&task, |call| on_tag(call, Op::OpenRead)) != Stopped::Finished {
            world.plant_file(TAG, &said.next().expect("it reads no more tags than these"));
            world.set_modified(TAG, SystemTime::UNIX_EPOCH);
            // Made, so that the next one is another.
            world.run_until(&task, |call| call.op == Op::Read);
        }
        assert_eq!(said.next().is_none(), !is_corrupt, "{tags:?}");
        match world.finish(task) {
            Err(error) => assert!(error.is_corrupt() && is_corrupt, "{tags:?}: {error}"),
            Ok(found) => assert_eq!(found.expect("published").as_ref(), b"payload"),
        }
    }
}

/// A payload that somebody else has put there, while the first tag is in place and the next payload is not.
#[test]
fn what_no_tag_spoke_of_is_whole_while_it_is_replaced() {
    let world = World::simulated();
    world.plant_file("/cache/entry", b"foreign");
    let modified = world
        .metadata("/cache/entry")
        .expect("just put there")
        .modified;
    let writer = world.process("writer");
    let writes = publish_half(&world, &writer, b"ours");
    let found = entry(&world).read().expect("whole").expect("it is there");
    assert_eq!(&found[..], b"foreign");
    let meta = found.meta();
    assert_eq!(meta.verification, Verification::Verified);
    assert_eq!((meta.written, meta.checked), (modified, modified));
    assert_eq!(
        world.finish(writes).expect("nobody disturbs it").generation,
        2
    );
}

/// A guest looks at a name before it opens it. What it then has may be another file.
#[test]
fn what_a_guest_replaces_is_the_file_that_it_has_opened() {
    let world = World::simulated();
    publish_another(&world, b"first");
    let writer = world.guest("writer");
    let cache = builder(&writer).open().expect("nothing is touched");
    let task = world.spawn(&writer, "main", move || publish(&cache, b"second"));
    world.run_to(&task, |call| on_payload(call, Op::OpenRead));
    world.plant_file("/cache/entry", b"foreign");
    world.run_to(&task, renames_payload());
    let found = entry(&world).read().expect("whole").expect("it is there");
    assert_eq!(&found[..], b"foreign");
    let published = world.finish(task).expect("nobody disturbs it");
    assert_eq!(published.generation, 3);
}

/// A holder of the lock that publishes these bytes, before it renames the payload.
fn publish_half(
    world: &World,
    process: &Arc<Process>,
    bytes: &'static [u8],
) -> Task<Result<Published, Error>> {
    let cache = builder(process).open().expect("nothing is touched");
    let task = world.spawn(process, "main", move || publish(&cache, bytes));
    world.run_to(&task, renames_payload());
    task
}

/// The bytes of an older payload come again: the tag speaks of them already, and the entry is not there yet.
#[test]
fn a_reader_never_has_a_generation_that_is_not_published_yet() {
    for (guest, remote, early) in [
        (false, false, false),
        (false, false, true),
        (false, true, false),
        (true, false, false),
        (true, false, true),
        (true, true, false),
    ] {
        let world = World::simulated();
        if remote {
            make_remote(&world);
        }
        publish_another(&world, b"A");
        let reader = match guest {
            true => world.guest("reader"),
            false => world.process("reader"),
        };
        let cache = builder(&reader).open().expect("nothing is touched");
        let entry = cache.entry("entry").expect("a name");
        let task = world.spawn(&reader, "main", move || entry.read());
        // Right after the payload was opened, or right before the tag is.
        if early {
            world.run_to(&task, |call| on_payload(call, Op::OpenRead));
            world.run_until(&task, |_| true);
        } else {
            world.run_to(&task, |call| on_tag(call, Op::OpenRead));
        }
        publish_another(&world, b"B");
        let dies = world.process("dies");
        publish_half(&world, &dies, b"A");
        world.kill(&dies);
        let found = world.finish(task).expect("whole").expect("published");
        let said = (found.as_ref(), found.meta().generation);
        assert_eq!(
            said,
            (&b"B"[..], Some(2)),
            "guest: {guest}, remote: {remote}, early: {early}"
        );
    }
}

/// A holder may have died between its two renames, and the next one has not made its second one yet.
#[test]
fn what_was_absent_stays_so_until_there_is_a_new_payload() {
    for had_payload in [true, false] {
        let world = World::simulated();
        if had_payload {
            publish_another(&world, b"payload");
        }
        let known_until = publish_absence(&world);
        let assert_absent = || {
            let until = entry(&world).known_absent_until().expect("readable");
            assert_eq!(until, Some(known_until));
            assert!(entry(&world).read().expect("readable").is_none());
        };
        assert_absent();
        let dies = world.process("dies");
        publish_half(&world, &dies, b"never seen");
        assert_absent();
        world.kill(&dies);
        let next = publish_half(&world, &world.process("next"), b"new");
        assert_absent();
        let published = world.finish(next).expect("nobody disturbs it");
        assert_eq!(published.generation, if had_payload { 3 } else { 2 });
    }
}

/// Two times that are the same are no proof that a file is the same.
#[test]
fn a_guest_takes_no_half_of_a_payload_for_one_that_it_has_seen_before() {
    let world = World::simulated();
    publish_another(&world, b"AAAAA");
    let reader = world.guest("reader");
    let cache = builder(&reader).open().expect("nothing is touched");
    let entry = cache.entry("entry").expect("a name");
    let task = world.spawn(&reader, "main", move || entry.read());
    world.run_to(&task, |call| on_tag(call, Op::Stat));
    publish_another(&world, b"BBBBBBB");
    publish_another(&world, b"CCCCC");
    let slow = publish_half(&world, &world.process("slow"), b"DDDDDDDDDD");
    // Its second attempt: it has looked at the name, and not yet opened it.
    world.run_to(&task, |call| on_payload(call, Op::OpenRead));
    world.finish(slow).expect("nobody disturbs it");
    let found = world.finish(task).expect("not corrupt").expect("published");
    assert_eq!(&found[..], b"DDDDDDDDDD");
}

#[test]
fn a_payload_that_vanishes_while_it_is_read_is_opened_again_and_other_errors_are_told() {
    for (error, expected) in [
        (IoError::NotFound, None),
        (IoError::PermissionDenied, Some(ErrorKind::Permission)),
        (IoError::Other, Some(ErrorKind::Io)),
    ] {
        let world = World::simulated();
        publish_another(&world, b"payload");
        world.inject(|call| on_payload(call, Op::Read), Fault::Error(error), 1);
        let read = entry(&world).read();
        match expected {
            None => assert_eq!(&read.expect("again").expect("published")[..], b"payload"),
            Some(kind) => {
                let error = read.expect_err("it cannot be read");
                assert_eq!(error.kind(), kind, "{error}");
                assert_eq!(error.path(), Some("/cache/entry".as_ref()), "{error}");
            }
        }
    }
}

#[test]
fn a_payload_that_is_replaced_without_end_is_an_error_at_last() {
    let world = World::simulated();
    publish_another(&world, b"payload");
    // Its name never stands for what was opened.
    let looks = |call: &Call| on_payload(call, Op::Stat);
    for (times, succeeds) in [(10_000, true), (10_001, false)] {
        world.inject(looks, Fault::Error(IoError::NotFound), times);
        let read = entry(&world).read();
        match succeeds {
            true => assert_eq!(&read.expect("at last").expect("published")[..], b"payload"),
            false => {
                let error = read.expect_err("somebody is at work there");
                assert!(error.to_string().contains("all the time"), "{error}");
            }
        }
    }
}

#[test]
fn how_far_a_payload_was_verified_is_said() {
    let world = World::simulated();
    publish_another(&world, b"payload");
    let entry = entry(&world);
    let said = || {
        let found = entry.read().expect("readable").expect("published");
        assert_eq!(&found[..], b"payload");
        (found.meta().verification, found.meta().generation)
    };
    assert_eq!(said(), (Verification::Verified, Some(1)));
    let forbidden = Fault::Error(IoError::PermissionDenied);
    world.inject(|call| on_tag(call, Op::OpenRead), forbidden, usize::MAX);
    assert_eq!(said(), (Verification::Unverified, None));
    world.clear_faults();
    world.remove("/cache/.cachelock/tags/entry");
    assert_eq!(said(), (Verification::Untagged, None));
}

#[test]
fn until_when_an_entry_is_known_to_be_absent_is_said() {
    let world = World::simulated();
    let absent = |world: &World| entry(world).known_absent_until().expect("readable");
    assert_eq!(absent(&world), None, "there is no cache");
    let found = entry(&world).lookup().expect("readable");
    assert!(matches!(found, Lookup::Missing), "{found:?}");
    publish_another(&world, b"payload");
    assert_eq!(absent(&world), None);
    let found = entry(&world).lookup().expect("readable");
    assert!(
        matches!(&found, Lookup::Value(stream) if stream.meta().len == 7),
        "{found:?}"
    );
    let until = publish_absence(&world);
    assert_eq!(absent(&world), Some(until));
    let found = entry(&world).lookup().expect("readable");
    assert!(matches!(found, Lookup::Absent { until: said } if said == until));
    assert!(entry(&world).read().expect("readable").is_none());
}

#[test]
fn a_reader_that_finds_nothing_looks_whether_its_directory_was_replaced() {
    let world = World::simulated();
    let reader = entry(&world);
    let reads = || reader.read().expect("whole").map(|found| found.to_vec());
    publish_another(&world, b"old");
    assert_eq!(reads().as_deref(), Some(&b"old"[..]));
    world.rename("/cache", "/aside");
    world.remove("/aside/entry");
    assert_eq!(reads(), None);
    publish_another(&world, b"new");
    assert_eq!(reads().as_deref(), Some(&b"new"[..]));
}

/// Each call costs, a guest's above all.
#[test]
fn a_payload_is_written_and_hashed_256_kib_at_a_time() {
    let world = World::simulated();
    publish_another(&world, &[7; 1 << 20]);
    let trace = world.trace();
    // The tag's is one of them.
    let writes = trace.matches(": Write /cache/.cachelock/stage-");
    assert_eq!(writes.count(), 5, "{trace}");
    let before = world.trace().len();
    let stream = entry(&world).open().expect("whole").expect("published");
    assert_eq!(stream.meta().len, 1 << 20);
    let trace = world.trace();
    let reads = trace[before..].matches(": Read /cache/entry");
    assert_eq!(reads.count(), 4, "{}", &trace[before..]);
}

#[test]
fn what_has_not_changed_is_not_opened_again() {
    let world = World::simulated();
    publish_another(&world, b"payload");
    let mut reader = entry(&world).reader();
    let mut reads = || {
        let before = world.trace().len();
        let found = reader.read().expect("whole").expect("published");
        let opens = world.trace()[before..].contains(": OpenRead ");
        (found.to_vec(), opens)
    };
    assert_eq!(reads(), (b"payload".to_vec(), true));
    assert_eq!(reads(), (b"payload".to_vec(), false));
    publish_another(&world, b"changed");
    assert_eq!(reads(), (b"changed".to_vec(), true));
    // Nor what has no tag.
    world.remove(TAG);
    assert_eq!(reads(), (b"changed".to_vec(), true));
    assert_eq!(reads(), (b"changed".to_vec(), false));
}

/// Which calls a look at the tag makes.
fn calls_on_tag(world: &World, look: impl FnOnce()) -> Vec<String> {
    let before = world.trace().len();
    look();
    let trace = &world.trace()[before..];
    let of_tag = trace.lines().filter(|line| line.ends_with("/tags/entry"));
    of_tag
        .filter_map(|line| line.split(' ').rev().nth(1))
        .map(str::to_owned)
        .collect()
}

/// Not after it was read, when some file systems speak of the file that has its name by then: a `Reader` would take what it has read
/// for that one's. Nor not at all where this look alone tells the system that what it remembers is old.
#[test]
fn a_tag_is_looked_at_before_it_is_read_if_that_matters() {
    let world = World::simulated();
    publish_another(&world, b"payload");
    let remote = World::simulated();
    make_remote(&remote);
    publish_another(&remote, b"payload");
    let read = |world: &World| {
        let entry = entry(world);
        calls_on_tag(world, || {
            entry.read().expect("whole").expect("published");
        })
    };
    let reread = || {
        entry(&world)
            .reader()
            .read()
            .expect("whole")
            .expect("published");
    };
    assert_eq!(read(&world), ["OpenRead", "Read"]);
    assert_eq!(read(&remote), ["OpenRead", "Metadata", "Read"]);
    let calls = calls_on_tag(&world, reread);
    assert_eq!(calls, ["OpenRead", "Metadata", "Read"]);
}

#[test]
fn the_way_to_a_tag_is_opened_anew_when_there_is_none_at_its_end() {
    let world = World::simulated();
    publish_another(&world, b"before");
    let entry = entry(&world);
    entry.read().expect("whole").expect("published");
    world.rename("/cache/.cachelock", "/cache/elsewhere");
    world.remove("/cache/elsewhere/tags/entry");
    publish_another(&world, b"after");
    let found = entry.read().expect("whole").expect("published");
    assert_eq!(found.as_ref(), b"after");
    assert_eq!(found.meta().verification, Verification::Verified);
}

/// By somebody who knows nothing of publishing, and never rests.
#[test]
fn a_payload_that_is_another_at_each_look_is_corrupt_in_the_end() {
    let world = World::simulated();
    publish_another(&world, b"payload");
    let entry = entry(&world);
    let task = world.spawn(&world.process("reader"), "main", move || entry.read());
    let mut looks = 0;
    while world.run_until(&task, |call| on_payload(call, Op::OpenRead)) != Stopped::Finished {
        looks += 1;
        assert!(looks <= 200, "it reads for ever");
        world.advance(Duration::from_millis(1));
        world.plant_file("/cache/entry", b"strange");
        // Made, so that the next one is another.
        world.run_until(&task, |call| call.op == Op::Read);
    }
    let error = world.finish(task).expect_err("it was never the payload");
    assert!(error.is_corrupt(), "{error}");
    assert_eq!(looks, 100);
}

/// What was replaced while it was read, however often, makes nothing corrupt that mismatches once.
#[test]
fn a_mismatch_after_many_publishes_is_no_more_corrupt_than_another() {
    let world = World::simulated();
    publish_another(&world, b"0");
    let entry = entry(&world);
    let task = world.spawn(&world.process("reader"), "main", move || entry.read());
    for round in 1..=120_u8 {
        world.run_to(&task, |call| on_tag(call, Op::OpenRead));
        publish_another(&world, &[round]);
        world.run_to(&task, |call| on_payload(call, Op::OpenRead));
    }
    let right = world.read_file(TAG).expect("it is there");
    world.plant_file(TAG, b"wrong");
    world.run_to(&task, |call| on_tag(call, Op::OpenRead));
    world.run_to(&task, |call| on_payload(call, Op::OpenRead));
    world.plant_file(TAG, &right);
    let found = world.finish(task).expect("not corrupt").expect("published");
    assert_eq!(found.as_ref(), [120]);
}

/// A large payload is read from its file while the caller takes it, which keeps it as it was; a guest has no such file.
#[test]
fn a_stream_is_the_payload_that_was_opened_whoever_publishes_meanwhile() {
    let large = || [&[b'o'; 300_000][..], b"end"].concat();
    for (guest, bytes, takes) in [
        (false, large(), true),
        (false, b"small".to_vec(), false),
        (true, large(), false),
        (true, b"small".to_vec(), false),
    ] {
        let world = World::simulated();
        publish_another(&world, &bytes);
        let process = match guest {
            true => world.guest("reader"),
            false => world.process("reader"),
        };
        let cache = builder(&process).open().expect("nothing is touched");
        let entry = cache.entry("entry").expect("a name");
        let mut stream = entry.open().expect("whole").expect("published");
        publish_another(&world, &vec![b'n'; bytes.len()]);
        let before = world.trace().len();
        let mut found = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut found).expect("it is kept");
        assert!(found == bytes, "guest: {guest}, {} bytes", bytes.len());
        let read = world.trace()[before..].contains(": Read ");
        assert_eq!(read, takes, "guest: {guest}, {} bytes", bytes.len());
    }
}
