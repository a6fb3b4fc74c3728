//! A holder whose files are changed by somebody who asks nobody is told what has happened to them.

use cachelock::platform::memory::World;
use cachelock::{Error, Refresh};

use support::{LEASE, begin, builder, publish};

mod support;

const CONTROL: &str = "/cache/.cachelock";
const HEAD: &str = "/cache/.cachelock/head";
const CLAIM: &str = "/cache/.cachelock/claim-00000000000000000003";
const NEXT_CLAIM: &str = "/cache/.cachelock/claim-00000000000000000004";

/// Does `damage` to a holder of the third epoch, which then does what notices it.
#[track_caller]
fn assert_told(
    damage: impl FnOnce(&World),
    notices: impl FnOnce(&mut Refresh) -> Result<(), Error>,
    reason: &str,
) {
    let world = World::simulated();
    let process = world.guest("holder");
    let cache = builder(&process).open().expect("nothing is touched");
    let mut refresh = world.finish(world.spawn(&process, "main", move || {
        publish(&cache, b"first")?;
        publish(&cache, b"second")?;
        begin(&cache, b"third")
    }));
    let refresh = refresh.as_mut().expect("nobody is in the way");
    assert_eq!(refresh.epoch(), 3);
    damage(&world);
    let error = notices(refresh).expect_err("it has lost its lease");
    assert!(error.is_lease_lost(), "{error}");
    assert!(error.to_string().contains(reason), "{error}");
    let again = refresh.add(&[0; 1 << 20]).expect_err("it stays lost");
    assert!(again.is_lease_lost(), "{again}");
}

#[test]
fn a_look_tells_what_became_of_the_head() {
    let look = |refresh: &mut Refresh| refresh.check_held();
    assert_told(
        |world| world.remove(HEAD),
        look,
        "its head file was deleted",
    );
    let older = "its head file was replaced by an older one";
    assert_told(|world| world.plant_file(HEAD, &[0; 2]), look, older);
    let taken = "a later holder has taken over";
    assert_told(|world| world.plant_file(HEAD, &[0; 4]), look, taken);
    assert_told(|world| world.plant_file(NEXT_CLAIM, b""), look, taken);
}

#[test]
fn a_beat_tells_what_became_of_the_claim() {
    let beat = |world: &World| world.advance(LEASE / 2);
    let heartbeat = |refresh: &mut Refresh| refresh.heartbeat();
    let deleted = |world: &World| {
        world.remove(CLAIM);
        beat(world);
    };
    assert_told(deleted, heartbeat, "its claim was deleted");
    let overtaken = |world: &World| {
        world.remove(CLAIM);
        world.plant_file(HEAD, &[0; 4]);
        beat(world);
    };
    assert_told(overtaken, heartbeat, "a later holder has taken over");
}

#[test]
fn a_new_stage_tells_what_became_of_its_directory() {
    let restart = |refresh: &mut Refresh| refresh.restart();
    let deleted = "its control directory was deleted or moved";
    assert_told(|world| world.remove(CONTROL), restart, deleted);
    let replaced = |world: &World| {
        world.remove(CONTROL);
        world.plant_dir(CONTROL);
    };
    let by_another = "its control directory was replaced by another";
    assert_told(replaced, restart, by_another);
    let moved = "the cache directory was deleted or moved";
    assert_told(|world| world.remove("/cache"), restart, moved);
    assert_told(
        |world| world.remove("/cache"),
        |refresh| refresh.check_held(),
        moved,
    );
}
