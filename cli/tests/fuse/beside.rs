//! Some callers use the mount, with the lease alone, and others the directory itself, with the gate.
//!
//! The mount replaces files as one expects (`hard_remove`). What `libfuse` does otherwise, moving an open file out of the
//! way before another takes its name, is no replacement for those who do not use the mount: for a moment there is nothing.

use super::parts::{self, Part};
use super::*;

#[test]
fn natives_and_callers_on_the_mount_lose_no_refresh_of_each_other() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount_with(dir, &["-o", "hard_remove"]);
        let (plain, fuse) = (mirror.plain(), mirror.fuse());
        plain.publish(&parts::payload_of(0));
        assert_eq!(plain.status()["kernel_locks"], true, "these have a gate");
        assert_eq!(fuse.status()["kernel_locks"], false, "and these have none");

        // Those who do not verify what they read get from the mount what the kernel remembers, whole or not.
        let readers = [("verified", &plain), ("reader", &plain), ("plain", &plain)]
            .into_iter()
            .chain([("verified", &fuse), ("reader", &fuse)])
            .map(|(role, place)| Part::start(role, place, dir));
        let readers = readers.collect();
        let writers = [(1, &plain), (2, &fuse), (3, &plain), (4, &fuse)]
            .map(|(n, place)| Part::start(&format!("writer {n}"), place, dir));
        let generations = parts::finish(dir, writers.into(), readers);
        assert_eq!(generations, (2..=101).collect(), "none is lost");
        // An epoch that is given twice means that `head` has gone back, whether or not it did harm this time.
        assert_eq!(plain.status()["epoch"], 101, "each has an epoch of its own");
        plain.assert_clean();
    });
}

#[test]
fn callers_on_both_sides_fetch_a_missing_entry_once() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount_with(dir, &["-o", "hard_remove"]);
        parts::assert_fetched_once(dir, &[mirror.plain(), mirror.fuse()]);
    });
}
