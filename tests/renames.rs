//! The renames of a publish: what may stand in their way, what is said of it, and what the new files are like.

use std::io::ErrorKind as IoError;
use std::sync::Arc;
use std::time::Duration;

use cachelock::platform::memory::{Call, Fault, Op, Process, World};
use cachelock::{Cache, Durability, Error, ErrorKind, Published};

use support::{begin, builder, publish, read, renames_payload, residue};

mod support;

const PAYLOAD: &str = "/cache/entry";
const TAG: &str = "/cache/.cachelock/tags/entry";

/// A world where a process of this name has published, and may do so again.
fn published() -> (World, Arc<Process>, Cache) {
    let world = World::simulated();
    let process = world.process("publisher");
    let cache = builder(&process).open().expect("nothing is touched");
    let first = cache.clone();
    let task = world.spawn(&process, "main", move || publish(&first, b"old"));
    world.finish(task).expect("nobody is in the way");
    (world, process, cache)
}

/// One more publish, of the payload `new`.
fn again(
    (world, process, cache): &(World, Arc<Process>, Cache),
    how: impl FnOnce(&Cache) -> Result<Published, Error> + Send + 'static,
) -> Result<Published, Error> {
    let cache = cache.clone();
    world.finish(world.spawn(process, "main", move || how(&cache)))
}

#[test]
fn a_folder_that_vanishes_once_is_made_again_and_twice_is_an_error() {
    for times in [1, 2] {
        let scene = published();
        let (world, ..) = &scene;
        world.inject(renames_payload(), Fault::Error(IoError::NotFound), times);
        let result = again(&scene, |cache| publish(cache, b"new"));
        match times {
            1 => assert_eq!(result.expect("the stage is there").generation, 2),
            _ => {
                let error = result.expect_err("somebody is at work there");
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                assert_eq!(error.path(), Some(PAYLOAD.as_ref()), "{error}");
            }
        }
        assert_eq!(residue(world), [""; 0]);
    }
}

#[test]
fn a_rename_across_file_systems_names_both_paths() {
    let scene = published();
    let across = Fault::Error(IoError::CrossesDevices);
    scene.0.inject(renames_payload(), across, 1);
    let error = again(&scene, |cache| publish(cache, b"new")).expect_err("it cannot be done");
    let text = error.to_string();
    for part in [PAYLOAD, "/cache/.cachelock/stage-", "two file systems"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
}

#[test]
fn a_directory_that_takes_the_name_at_the_last_moment_is_told() {
    for (place, moment, kind, durability) in [
        (TAG, 0, ErrorKind::Io, Durability::Data),
        (PAYLOAD, 1, ErrorKind::NotAFile, Durability::Data),
        // Where what is there changes places with the new file.
        (TAG, 0, ErrorKind::Io, Durability::None),
        (PAYLOAD, 1, ErrorKind::NotAFile, Durability::None),
    ] {
        let (world, process, _) = published();
        let cache = builder(&process).durability(durability).open();
        let cache = cache.expect("good settings");
        let task = world.spawn(&process, "main", move || {
            let refresh = begin(&cache, b"new").expect("nobody is in the way");
            refresh.publish()
        });
        let mut renames = 0;
        world.run_to(&task, move |call| {
            renames += usize::from(call.renames_to("entry"));
            renames > moment
        });
        world.remove(place);
        world.plant_dir(&format!("{place}/kept"));
        let failed = world.finish(task).expect_err("a directory is no file");
        let error = &failed.error;
        assert_eq!(error.kind(), kind, "{place}: {error}");
        assert_eq!(error.path(), Some(place.as_ref()), "{place}: {error}");
        assert_eq!(world.list(place), ["kept"], "{place}");
        world.remove(place);
        let refresh = failed.refresh.expect("it can be published as it is");
        let task = world.spawn(&process, "main", move || refresh.publish());
        world.finish(task).expect("nothing is in the way any more");
        assert_eq!(residue(&world), [""; 0], "{place}");
    }
}

/// What changes places with the new file goes with the next holder at the latest.
#[test]
fn what_was_replaced_and_cannot_be_removed_is_no_failure() {
    let (world, process, _) = published();
    let cache = builder(&process).durability(Durability::None).open();
    let scene = (world, process, cache.expect("good settings"));
    let world = &scene.0;
    let removes = |call: &Call| call.is(Op::Unlink, "stage-");
    world.inject(removes, Fault::Error(IoError::PermissionDenied), usize::MAX);
    let result = again(&scene, |cache| publish(cache, b"new"));
    assert_eq!(result.expect("both are in place").generation, 2);
    let found = read(world, "reader").expect("whole");
    assert_eq!(found, Some((b"new".to_vec(), Some(2))));
    assert_eq!(residue(world).len(), 2, "the old payload and the old tag");
    world.clear_faults();
    again(&scene, |cache| publish(cache, b"newer")).expect("nobody is in the way");
    assert_eq!(residue(world), [""; 0]);
}

#[test]
fn what_is_written_in_pieces_by_the_file_system_is_whole() {
    let scene = published();
    let writes = |call: &Call| call.is(Op::Write, "stage-");
    scene.0.inject(writes, Fault::Short(3), usize::MAX);
    again(&scene, |cache| publish(cache, b"new payload")).expect("nobody is in the way");
    let found = read(&scene.0, "reader").expect("whole");
    assert_eq!(found, Some((b"new payload".to_vec(), Some(2))));
}

#[test]
fn a_new_file_has_the_old_ones_permissions_and_no_special_bits() {
    let scene = published();
    let (world, ..) = &scene;
    let mode = |path: &str| world.metadata(path).expect("it is there").mode;
    assert_eq!((mode(PAYLOAD), mode(TAG)), (Some(0o644), Some(0o644)));
    world.set_mode(PAYLOAD, 0o4640);
    world.set_mode(TAG, 0o2604);
    again(&scene, |cache| publish(cache, b"new")).expect("nobody is in the way");
    // A tag is for whoever may read the payload, and for nobody else.
    assert_eq!((mode(PAYLOAD), mode(TAG)), (Some(0o640), Some(0o640)));
    let absent = |cache: &Cache| {
        let refresh = cache.entry("entry")?.refresh()?;
        Ok(refresh.publish_absent(Duration::from_secs(60))?)
    };
    again(&scene, absent).expect("nobody is in the way");
    assert_eq!(mode(PAYLOAD), Some(0o640), "an empty one, too");
    // One that is too long to be read, too.
    world.plant_file(TAG, &vec![b'x'; 1 << 20]);
    world.set_mode(TAG, 0o600);
    again(&scene, |cache| publish(cache, b"newer")).expect("nobody is in the way");
    assert_eq!(mode(TAG), Some(0o640));
    // And for whoever publishes the next one.
    world.set_mode(PAYLOAD, 0o001);
    again(&scene, |cache| publish(cache, b"newest")).expect("nobody is in the way");
    assert_eq!((mode(PAYLOAD), mode(TAG)), (Some(0o001), Some(0o600)));
}

#[test]
fn a_payload_of_another_length_than_was_said_is_refused_and_may_be_completed() {
    let scene = published();
    let result = again(&scene, |cache| {
        let mut refresh = begin(cache, b"ne")?;
        refresh.expect_len(3);
        refresh.check_len()?;
        let failed = refresh.publish().expect_err("it is too short");
        assert_eq!(failed.error.kind(), ErrorKind::LengthMismatch, "{failed}");
        let mut refresh = failed.refresh.expect("nothing is spoilt");
        refresh.add(b"w")?;
        refresh.check_len()?;
        refresh.expect_len(2);
        let too_long = refresh.check_len().expect_err("it will not get shorter");
        assert_eq!(too_long.kind(), ErrorKind::LengthMismatch, "{too_long}");
        refresh.expect_len(3);
        Ok(refresh.publish()?)
    });
    let published = result.expect("now it has its length");
    assert_eq!((published.len, published.generation), (3, 2));
    let found = read(&scene.0, "reader").expect("whole");
    assert_eq!(found, Some((b"new".to_vec(), Some(2))));
}

#[test]
fn absent_has_no_length_and_what_is_absent_already_needs_one_rename() {
    let scene = published();
    let absent = |cache: &Cache| {
        let refresh = cache.entry("entry")?.refresh()?;
        Ok(refresh.publish_absent(Duration::from_secs(60))?)
    };
    assert_eq!(again(&scene, absent).expect("nobody is there").len, 0);
    scene
        .0
        .inject(renames_payload(), Fault::Error(IoError::Other), 1);
    let published = again(&scene, absent).expect("the payload is empty already");
    assert_eq!((published.len, published.generation), (0, 3));
}

#[test]
fn what_comes_after_the_tag_of_an_absent_entry_is_told_and_no_failure() {
    let absent = |cache: &Cache| {
        let refresh = cache.entry("entry")?.refresh()?;
        Ok(refresh.publish_absent(Duration::from_secs(60))?)
    };
    let scene = published();
    let full = Fault::Error(IoError::StorageFull);
    scene.0.inject(renames_payload(), full, 1);
    let error = again(&scene, absent).expect_err("the payload is as it was");
    assert_eq!(error.kind(), ErrorKind::NotDurable, "{error}");
    assert!(error.to_string().contains("read the file alone"), "{error}");
    assert_eq!(read(&scene.0, "reader").expect("no error"), None);
    // Overtaken, and published all the same: nobody is told to do it again.
    let (world, process, cache) = published();
    let task = world.spawn(&process, "main", move || absent(&cache));
    world.run_to(&task, renames_payload());
    let operator = world.process("operator");
    let force = builder(&operator).open().expect("nothing is touched");
    let broken = world.spawn(&operator, "main", move || force.break_lock());
    world.finish(broken).expect("force waits for nobody");
    let published = world.finish(task).expect("its tag was in place");
    assert_eq!(published.generation, 2);
    assert_eq!(read(&world, "reader").expect("no error"), None);
}

#[test]
fn nothing_is_published_where_the_path_does_not_lead_any_more() {
    for replaced in [false, true] {
        let scene = published();
        let world = scene.0.clone();
        let error = again(&scene, move |cache| {
            let refresh = begin(cache, b"new")?;
            world.rename("/cache", "/moved");
            if replaced {
                world.plant_dir("/cache");
            }
            Ok(refresh.publish()?)
        });
        let error = error.expect_err("nobody would see it");
        assert!(error.is_lease_lost(), "{error}");
        assert!(error.to_string().contains("moved or replaced"), "{error}");
        let old = scene.0.read_file("/moved/entry");
        assert_eq!(old.as_deref(), Some(&b"old"[..]), "replaced: {replaced}");
        assert!(!scene.0.exists(PAYLOAD), "replaced: {replaced}");
    }
}

#[test]
fn files_and_directories_are_synced_as_the_durability_says() {
    for (durability, files, dirs) in [
        (Durability::None, 0, false),
        (Durability::Data, 1, false),
        (Durability::Full, 2, true),
    ] {
        let (world, process, _) = published();
        let (file, dir) = <(Arc<Counter>, Arc<Counter>)>::default();
        let counters = (file.clone(), dir.clone());
        let counts = move |call: &Call| {
            counters.0.count(call.is(Op::SyncFile, "stage-"));
            counters.1.count(call.op == Op::SyncDir);
            false
        };
        world.inject(counts, Fault::Error(IoError::Other), 1);
        let cache = builder(&process).durability(durability).open();
        let cache = cache.expect("good settings");
        again(&(world, process, cache), |cache| publish(cache, b"new"))
            .expect("nobody is in the way");
        assert_eq!(file.get(), files, "{durability}");
        assert_eq!(dir.get() > 0, dirs, "{durability}");
    }
}

#[derive(Default)]
struct Counter(std::sync::atomic::AtomicUsize);

impl Counter {
    fn count(&self, whether: bool) {
        self.0
            .fetch_add(usize::from(whether), std::sync::atomic::Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}
