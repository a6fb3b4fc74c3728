//! Objects that do not belong there, at each of our names: links, pipes, devices, directories, other users' files, wrong
//! modes. Whatever the program is asked to do meanwhile, it ends, says which path is wrong, follows nothing and loses
//! nothing; and once the object is gone, all is as before.
//!
//! The program runs as a user of its own, because root passes every test of permission. So these tests need root.
#![cfg(target_os = "linux")]

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use cachelock::{Cache, Verification};

use support::planted::{self, Case, PLACES, Thing};
use support::{Ground, NEW, NEXT, OLD, Ran, USER, lacks_root, names};

mod support;

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}, {:?}", self.thing, self.name, self.operation)
    }
}

/// A cache with an old payload, and things outside of it that nobody must touch.
struct Place {
    ground: Ground,
    /// The entry's name in the cache.
    entry: &'static str,
    /// The cache as it is before anything is planted.
    template: PathBuf,
}

impl Place {
    fn new(entry: &'static str) -> Self {
        let ground = Ground::of(USER);
        let place = Place {
            template: ground.path().join("template"),
            ground,
            entry,
        };
        let words = ["refresh", "--cache", "DIR", entry, "--", "printf", OLD];
        let ran = place.ground.run(&words);
        assert_eq!(ran.code(), 0, "{ran}");
        fs::rename(place.ground.cache(), &place.template).expect("it moves");
        planted::make_outside(&place.outside(), USER);
        place
    }

    /// As at the beginning, before each case.
    fn reset(&self) {
        for path in [self.ground.cache(), self.aside()] {
            planted::remove(&path);
        }
        planted::copy(&self.template, &self.ground.cache(), USER);
    }

    fn aside(&self) -> PathBuf {
        self.ground.path().join("aside")
    }

    fn outside(&self) -> PathBuf {
        self.ground.path().join("outside")
    }

    fn payload(&self) -> PathBuf {
        self.ground.cache().join(self.entry)
    }

    fn run(&self, case: &Case) -> Ran {
        let words = case.words(&self.ground.cache(), NEW);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.ground.run(&words)
    }

    /// What was published is not open to everybody because of what stood there before.
    #[track_caller]
    fn assert_private(&self, case: &Case) {
        let tag = self.ground.control().join("tags").join(self.entry);
        for path in [self.payload(), tag] {
            let open = planted::is_open(&path);
            assert!(!open, "{case}: {} is open", path.display());
        }
    }

    /// One object, one operation: what must be true after it, and after the object is gone.
    #[track_caller]
    fn check(&self, path: &Path, case: &Case) {
        let before = planted::seen(&self.outside());
        let ran = self.run(case);
        ran.assert_clear(path);
        let after = planted::seen(&self.outside());
        assert_eq!(after, before, "{case}: it reached outside");
        assert!(case.may_print(&ran.stdout, OLD, NEW), "{case}: {ran}");
        if case.spares_readers() {
            assert_eq!((ran.code(), &*ran.stdout), (0, OLD), "{case}: {ran}");
        }
        let publishes = ran.code() == 0 && case.operation.contains(&"NEW") && ran.stdout != OLD;
        let displaced = case.thing.displaces() && self.payload().starts_with(path);
        if !displaced {
            let payload = fs::read_to_string(self.payload()).expect("the payload is there");
            let expected = if publishes { NEW } else { OLD };
            assert_eq!(payload, expected, "{case}: the payload is another one");
        }
        if case.thing != Thing::Mode(0o666) {
            self.assert_private(case);
        }
        planted::remove(path);
        let words = [
            "refresh", "--cache", "DIR", self.entry, "--", "printf", NEXT,
        ];
        let next = self.ground.run(&words);
        assert_eq!(next.code(), 0, "{case}: the next refresh: {next}");
        let cache = Cache::open(self.ground.cache()).expect("nothing is touched");
        let read = cache.entry(self.entry).and_then(|entry| entry.read());
        let read = read.unwrap_or_else(|error| panic!("{case}: {error}"));
        let snapshot = read.unwrap_or_else(|| panic!("{case}: there is no entry"));
        assert_eq!(&snapshot[..], NEXT.as_bytes(), "{case}");
        assert_eq!(
            snapshot.meta().verification,
            Verification::Verified,
            "{case}"
        );
        assert_eq!(
            names(&self.ground.control()),
            ["cache.lock", "head", "tags"],
            "{case}: something is left"
        );
    }
}

/// The place with this number, with all things and all operations.
fn everything_at(number: usize) {
    if lacks_root() {
        return;
    }
    let place = Place::new(PLACES[number].1);
    for case in Case::all_at(PLACES[number]) {
        let path = case.path(&place.ground.cache());
        place.reset();
        let (aside, outside) = (place.aside(), place.outside());
        case.thing.plant(&path, &aside, &outside, USER);
        place.check(&path, &case);
    }
}

#[test]
fn a_forged_want_delays_a_refresh_for_a_moment_and_that_is_said() {
    if lacks_root() {
        return;
    }
    let place = Place::new("entry");
    place.reset();
    let want = place.ground.control().join("want-x");
    fs::write(&want, format!("{:020}\n", 1_000_000)).expect("a file");
    place.ground.own(&want);
    let ran = place.ground.run(&["refresh", "FILE", "--", "true"]);
    assert_eq!(ran.code(), 0, "{ran}");
    assert!(ran.stderr.contains("for the lease of"), "{ran}");
    assert!(!want.exists(), "nobody beats it, so it is nobody's");
}

mod nothing_planted_is_followed_waited_for_or_lost_at {
    macro_rules! at {
        ($($number:literal: $test:ident;)+) => {
            $(
                #[test]
                fn $test() {
                    super::everything_at($number);
                }
            )+

            #[test]
            fn each_of_our_names() {
                assert_eq!([$($number),+].len(), super::PLACES.len());
            }
        };
    }

    at! {
        0: the_cache_directory;
        1: the_control_directory;
        2: the_gate;
        3: the_head;
        4: the_claim_of_the_head;
        5: the_next_claim;
        6: an_old_next_head;
        7: a_later_next_head;
        8: an_old_stage;
        9: a_later_stage;
        10: a_want;
        11: the_tags;
        12: the_tag;
        13: the_folder_of_a_tag;
        14: the_tag_in_a_folder;
        15: the_payload;
        16: the_folder_of_a_payload;
        17: the_payload_in_a_folder;
    }
}
