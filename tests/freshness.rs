//! Refreshing only what needs it: what is served while somebody else refreshes, when refreshing fails, and what a
//! producer may answer. Two processes on one simulated disk, whose clock the tests step.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::platform::memory::{Call, Fault, Op, Process, World};
use cachelock::platform::{Access, Dir, Platform};
use cachelock::{
    Begun, Cache, CancelToken, Entry, ErrorKind, Event, EventKind, GetError, Policy, Produced,
    Published, Refresh, Timeout, Validators, Verification,
};

const HOUR: Duration = Duration::from_secs(3600);
/// An hour, and one second.
const STALE: i64 = 3601;

/// The kind and the detail of an event.
type Told = (EventKind, Option<String>);

/// The caller whose behaviour is at stake, somebody else, and what the caller's observer was told.
struct Scene {
    world: World,
    cache: Cache,
    entry: Entry,
    other: Entry,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Scene {
    fn new() -> Self {
        Self::with_timeout(Timeout::Infinite)
    }

    fn with_timeout(timeout: Timeout) -> Self {
        let world = World::live();
        let told = Arc::new(Mutex::new(Vec::new()));
        let to = told.clone();
        let cache = builder(&world.process("caller"))
            .timeout(timeout)
            .observer(move |event: &Event<'_>| {
                let detail = event.detail.map(str::to_owned);
                to.lock().unwrap().push((event.kind, detail));
            })
            .open()
            .unwrap();
        let other = builder(&world.process("other")).open().unwrap();
        Scene {
            entry: cache.entry("entry").unwrap(),
            other: other.entry("entry").unwrap(),
            world,
            cache,
            told,
        }
    }

    /// The scene with an entry that ceased to be fresh a second ago, if it is fresh for an hour.
    fn stale() -> Self {
        let scene = Self::new();
        scene.published();
        scene
    }

    fn published(&self) {
        publish(&self.other, b"old");
        self.world.step_wall(STALE);
    }

    /// The cache's directory, past the library.
    fn dir(&self) -> Arc<dyn Dir> {
        self.world
            .process("looks")
            .open_dir("/cache".as_ref())
            .unwrap()
    }

    fn told(&self, kind: EventKind) -> Vec<Option<String>> {
        let told = self.told.lock().unwrap();
        let of_kind = told.iter().filter(|(told, _)| *told == kind);
        of_kind.map(|(_, detail)| detail.clone()).collect()
    }
}

fn builder(process: &Arc<Process>) -> cachelock::CacheBuilder {
    // Short, for the one test that waits for it.
    Cache::builder("/cache")
        .lease(Duration::from_millis(500))
        .platform(process.clone())
}

#[track_caller]
fn publish(entry: &Entry, bytes: &[u8]) -> Published {
    let mut refresh = entry.refresh().expect("the lock is free");
    refresh.write_all(bytes).expect("the stage takes bytes");
    refresh.publish().expect("nothing is in the way")
}

#[track_caller]
fn stale_bytes(begun: Begun) -> (Vec<u8>, Option<ErrorKind>) {
    match begun {
        Begun::Stale(stream, error) => (
            stream.into_snapshot().unwrap().to_vec(),
            error.map(|error| error.kind()),
        ),
        begun => panic!("it should be served stale: {begun:?}"),
    }
}

#[track_caller]
fn refresh_of(begun: Begun) -> Refresh {
    match begun {
        Begun::Refresh(refresh) => refresh,
        begun => panic!("it should be this caller's to refresh: {begun:?}"),
    }
}

fn validators(etag: &str) -> Validators {
    Validators::from([("etag".to_owned(), etag.to_owned())])
}

#[test]
fn while_somebody_refreshes_others_are_served_the_old_payload_at_once() {
    let scene = Scene::stale();
    let policy = Policy::fresh_for(HOUR).stale_for(HOUR);
    let held = refresh_of(scene.other.begin(&policy).unwrap());
    // The timeout is infinite: a wait would never end.
    assert_eq!(
        stale_bytes(scene.entry.begin(&policy).unwrap()),
        (b"old".to_vec(), None)
    );
    assert_eq!(scene.told(EventKind::ServedStale), [None]);
    for kind in [EventKind::LockContended, EventKind::LockTimeout] {
        assert!(
            scene.told(kind).is_empty(),
            "{kind:?} is no news to a caller that only tries"
        );
    }
    drop(held);
    let mut refresh = refresh_of(scene.entry.begin(&policy).unwrap());
    refresh.write_all(b"new").unwrap();
    refresh.publish().unwrap();
    assert_eq!(scene.other.read().unwrap().as_deref(), Some(&b"new"[..]));
}

#[test]
fn beyond_its_window_a_stale_payload_is_waited_for() {
    let scene = Scene::with_timeout(Timeout::After(Duration::from_millis(30)));
    scene.published();
    scene.world.step_wall(STALE);
    let policy = Policy::fresh_for(HOUR).stale_for(HOUR);
    let held = scene.other.refresh().unwrap();
    let error = scene
        .entry
        .begin(&policy)
        .expect_err("it is held, and too old to be served");
    assert!(error.is_timeout(), "{error}");
    let lenient = policy.error_for(3 * HOUR);
    assert_eq!(
        stale_bytes(scene.entry.begin(&lenient).unwrap()),
        (b"old".to_vec(), Some(ErrorKind::Timeout)),
        "stale-if-error covers a wait that times out"
    );
    let told = scene.told(EventKind::ServedStale);
    assert!(
        matches!(&told[..], [Some(why)] if why.contains("timed out")),
        "an observer learns why: {told:?}"
    );
    drop(held);
}

#[test]
fn when_the_producer_fails_the_old_payload_is_served_as_long_as_the_policy_allows() {
    let scene = Scene::stale();
    let fails = |_: &mut Refresh| Err::<(), _>("the source is down");
    let strict = Policy::fresh_for(HOUR).stale_for(HOUR);
    let error = scene.entry.get_or_refresh(&strict, fails);
    assert!(
        matches!(error, Err(GetError::Produce("the source is down"))),
        "without error_for it is the producer's error: {error:?}"
    );
    let lenient = Policy::fresh_for(HOUR).error_for(HOUR);
    let served = scene
        .entry
        .get_or_refresh(&lenient, fails)
        .unwrap()
        .unwrap();
    assert_eq!(&served[..], b"old");
    assert_eq!(served.meta().generation, Some(1));
    scene.world.step_wall(STALE);
    let error = scene.entry.get_or_refresh(&lenient, fails);
    assert!(
        matches!(error, Err(GetError::Produce(_))),
        "it is too old now: {error:?}"
    );
    assert_eq!(
        scene.entry.read().unwrap().as_deref(),
        Some(&b"old"[..]),
        "nothing is lost"
    );
}

#[test]
fn without_a_payload_there_is_nothing_to_serve() {
    let scene = Scene::new();
    let policy = Policy::fresh_for(HOUR).stale_for(HOUR).error_for(HOUR);
    let error = scene
        .entry
        .get_or_refresh(&policy, |_| Err::<(), _>("down"));
    assert!(matches!(error, Err(GetError::Produce("down"))), "{error:?}");
}

#[test]
fn a_disk_that_became_read_only_serves_what_it_has() {
    let scene = Scene::stale();
    scene.world.set_read_only(true);
    let strict = Policy::fresh_for(HOUR);
    let error = scene
        .entry
        .begin(&strict)
        .expect_err("it cannot be refreshed");
    assert!(error.is_permission(), "{error}");
    for policy in [strict.clone().stale_for(HOUR), strict.error_for(HOUR)] {
        assert_eq!(
            stale_bytes(scene.entry.begin(&policy).unwrap()),
            (b"old".to_vec(), Some(ErrorKind::Permission)),
            "{policy:?}"
        );
    }
    let told = scene.told(EventKind::ServedStale);
    assert!(
        told.iter().all(Option::is_some),
        "that is no silent downgrade: {told:?}"
    );
}

#[test]
fn a_cancelled_caller_gets_nothing_stale() {
    let world = World::live();
    let other = builder(&world.process("other"))
        .open()
        .unwrap()
        .entry("entry")
        .unwrap();
    publish(&other, b"old");
    world.step_wall(STALE);
    let token = CancelToken::new();
    let caller = builder(&world.process("caller"))
        .cancel(token.clone())
        .open()
        .unwrap();
    let entry = caller.entry("entry").unwrap();
    token.cancel();
    let policy = Policy::fresh_for(HOUR).stale_for(HOUR).error_for(HOUR);
    let error = entry.begin(&policy).expect_err("it was cancelled");
    assert!(error.is_cancelled(), "{error}");
    // What is fresh needs no wait, although somebody is drawn to refresh it.
    let drawn = Policy::fresh_for(2 * HOUR).early(1e9);
    assert!(matches!(entry.begin(&drawn), Ok(Begun::Fresh(_))));
}

#[test]
fn an_overtaken_refresh_serves_what_the_newer_holder_has_published() {
    let scene = Scene::stale();
    let policy = Policy::fresh_for(HOUR).error_for(HOUR);
    let answer = scene.entry.get_or_refresh(&policy, |refresh| {
        let operator = builder(&scene.world.process("operator")).open().unwrap();
        operator.break_lock().unwrap();
        publish(&scene.other, b"newer");
        refresh.write_all(b"overtaken")
    });
    assert_eq!(answer.unwrap().as_deref(), Some(&b"newer"[..]));
    assert_eq!(scene.told(EventKind::LeaseLost).len(), 1);
}

#[test]
fn not_modified_makes_the_same_payload_fresh_again() {
    let scene = Scene::new();
    let mut refresh = scene.other.refresh().unwrap();
    refresh.write_all(b"body").unwrap();
    refresh.set_validators(validators("v1")).unwrap();
    let first = refresh.publish().unwrap();
    scene.world.step_wall(STALE);
    let policy = Policy::fresh_for(HOUR);
    let before = scene.dir().stat("entry").unwrap();

    let answer = scene.entry.get_or_refresh(&policy, |refresh| {
        let previous = refresh.previous()?.expect("there is one");
        assert_eq!(previous.meta().validators, validators("v1"));
        assert_eq!(&previous.into_snapshot()?[..], b"body");
        refresh.write_all(b"thrown away")?;
        Ok::<_, std::io::Error>(Produced::NotModified)
    });
    let answer = answer.unwrap().unwrap();
    assert_eq!(&answer[..], b"body");
    assert_eq!(
        answer.meta().generation,
        Some(first.generation),
        "the content is no other"
    );
    assert_eq!(
        answer.meta().validators,
        validators("v1"),
        "they stay unless set anew"
    );
    assert_eq!(answer.meta().verification, Verification::Verified);
    assert!(answer.meta().checked > answer.meta().written);
    let after = scene.dir().stat("entry").unwrap();
    assert_eq!(
        (before.id, before.modified),
        (after.id, after.modified),
        "its bytes are not touched"
    );

    let again = scene
        .other
        .get_or_refresh(&policy, |_| Err::<(), _>("asked all the same"));
    assert!(again.is_ok(), "it is fresh for another hour: {again:?}");
    scene.world.step_wall(STALE);
    let mut refresh = refresh_of(scene.other.begin(&policy).unwrap());
    refresh.set_validators(validators("v2")).unwrap();
    refresh.finish(Produced::NotModified).unwrap();
    let kept = scene.entry.read().unwrap().unwrap();
    assert_eq!(kept.meta().validators, validators("v2"));
    assert_eq!(
        publish(&scene.other, b"next").generation,
        first.generation + 1
    );
}

#[test]
fn a_producer_in_another_process_leaves_word_in_a_scratch_file() {
    let scene = Scene::new();
    let refresh = scene.entry.refresh().unwrap();
    let scratch = refresh.scratch().unwrap();
    assert_eq!(scratch.read(10).unwrap(), b"");
    let control = scene
        .world
        .process("producer")
        .open_dir("/cache/.cachelock".as_ref())
        .unwrap();
    let path = scratch.path();
    let name = path.file_name().unwrap().to_str().unwrap();
    control
        .open(name, Access::Write)
        .unwrap()
        .write_at(b"etag=v1\n", 0)
        .unwrap();
    assert_eq!(scratch.read(10).unwrap(), b"etag=v1\n");
    assert_eq!(scratch.read(7).unwrap_err().kind(), ErrorKind::Limit);
    control.unlink(name).unwrap();
    assert_eq!(scratch.read(10).unwrap(), b"", "its producer may remove it");
    let operator = builder(&scene.world.process("operator")).open().unwrap();
    let overtaken = refresh.scratch().unwrap();
    operator.break_lock().unwrap();
    assert!(overtaken.read(10).unwrap_err().is_lease_lost());
    drop((scratch, overtaken, refresh));
    // What the operator has left for those who wait at the gate goes with the next lock.
    operator.sweep().unwrap();
    assert_eq!(
        scene.world.list("/cache/.cachelock"),
        ["cache.lock", "head"]
    );
}

#[test]
fn not_modified_satisfies_whoever_waited() {
    let scene = Scene::stale();
    let policy = Policy::fresh_for(HOUR);
    let refresh = refresh_of(scene.other.begin(&policy).unwrap());
    let waiter = std::thread::spawn({
        let (entry, policy) = (scene.entry.clone(), policy.clone());
        move || entry.get_or_refresh(&policy, |_| Err::<(), _>("fetched again"))
    });
    while scene.told(EventKind::LockContended).is_empty() {
        std::thread::yield_now();
    }
    refresh.finish(Produced::NotModified).unwrap();
    let answer = waiter
        .join()
        .unwrap()
        .expect("somebody has asked the source already");
    assert_eq!(answer.as_deref(), Some(&b"old"[..]));
    assert_eq!(scene.told(EventKind::RefreshSkipped).len(), 1);
}

#[test]
fn nothing_or_something_corrupt_cannot_be_kept() {
    let scene = Scene::new();
    let keep = |entry: &Entry| {
        let refresh = entry.refresh().unwrap();
        refresh
            .publish_not_modified()
            .expect_err("there is nothing whole")
            .error
            .kind()
    };
    assert_eq!(keep(&scene.entry), ErrorKind::Missing);
    publish(&scene.entry, b"whole");
    let dir = scene.dir();
    for damage in [&b"who"[..], b"wrong", b"longer than it was"] {
        let file = dir.open("entry", Access::Write).unwrap();
        file.set_len(0).unwrap();
        file.write_at(damage, 0).unwrap();
        drop(file);
        assert_eq!(keep(&scene.entry), ErrorKind::Missing, "{damage:?}");
        let error = scene.entry.read().expect_err("still corrupt");
        assert!(error.is_corrupt(), "{error}");
    }
}

#[test]
fn what_somebody_removed_or_damaged_since_the_producer_looked_cannot_be_kept() {
    for damage in [None, Some(&b"other"[..]), Some(b"as long")] {
        let scene = Scene::new();
        publish(&scene.other, b"a whole");
        let mut refresh = scene.entry.refresh().unwrap();
        assert!(refresh.previous().unwrap().is_some());
        let dir = scene.dir();
        dir.unlink("entry").unwrap();
        if let Some(damage) = damage {
            let file = dir.open("entry", Access::CreateNew(0o644)).unwrap();
            file.write_at(damage, 0).unwrap();
        }
        let failed = refresh.publish_not_modified();
        let error = failed.expect_err("it is not what it was").error;
        assert_eq!(error.kind(), ErrorKind::Missing, "{damage:?}: {error}");
    }
}

#[test]
fn a_fresh_payload_is_returned_although_its_early_refresh_failed() {
    let scene = Scene::new();
    let mut slow = scene.other.refresh().unwrap();
    slow.write_all(b"fresh").unwrap();
    std::thread::sleep(Duration::from_millis(2));
    slow.publish().unwrap();
    scene.world.step_wall(3500);
    let eager = Policy::fresh_for(HOUR).early(1e12);
    let mut asked = false;
    let answer = scene.entry.get_or_refresh(&eager, |_| {
        asked = true;
        Err::<(), _>("down")
    });
    assert_eq!(answer.unwrap().as_deref(), Some(&b"fresh"[..]));
    assert!(asked, "it was drawn to refresh early");
    assert!(
        scene.told(EventKind::ServedStale).is_empty(),
        "it is not stale"
    );
}

#[test]
fn a_refresh_that_cannot_even_begin_has_failed() {
    let scene = Scene::stale();
    let full = Fault::Error(std::io::ErrorKind::StorageFull);
    let stages = |call: &Call| call.is(Op::CreateNew, "stage-");
    scene.world.inject(stages, full, usize::MAX);
    let error = scene
        .entry
        .begin(&Policy::fresh_for(HOUR))
        .expect_err("no stage");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let lenient = Policy::fresh_for(HOUR).error_for(HOUR);
    assert_eq!(
        stale_bytes(scene.entry.begin(&lenient).unwrap()),
        (b"old".to_vec(), Some(ErrorKind::StorageFull))
    );
}

#[test]
fn absent_is_believed_for_its_time_and_then_asked_again() {
    let scene = Scene::stale();
    let policy = Policy::fresh_for(HOUR).stale_for(HOUR).error_for(HOUR);
    let gone = |_: &mut Refresh| Ok::<_, &str>(Produced::Absent(HOUR));
    assert!(scene.entry.get_or_refresh(&policy, gone).unwrap().is_none());
    assert!(matches!(scene.other.begin(&policy), Ok(Begun::Absent)));
    assert!(scene.other.read().unwrap().is_none());
    scene.world.step_wall(STALE);
    let mut refresh = refresh_of(scene.other.begin(&policy).unwrap());
    assert!(
        refresh.previous().unwrap().is_none(),
        "what was absent has no payload"
    );
    refresh.write_all(b"back").unwrap();
    assert_eq!(refresh.publish().unwrap().generation, 3);
    assert_eq!(scene.entry.read().unwrap().as_deref(), Some(&b"back"[..]));
}

#[test]
fn absent_for_no_time_satisfies_whoever_waited() {
    let scene = Scene::new();
    let refresh = scene.other.refresh().unwrap();
    let waiter = std::thread::spawn({
        let entry = scene.entry.clone();
        move || entry.get_or_refresh(&Policy::any_age(), |_| Err::<(), _>("asked again"))
    });
    while scene.told(EventKind::LockContended).is_empty() {
        std::thread::yield_now();
    }
    refresh.publish_absent(Duration::ZERO).unwrap();
    assert!(
        matches!(waiter.join().unwrap(), Ok(None)),
        "the answer is as new as one of its own"
    );
}

#[test]
fn who_is_drawn_refreshes_early_and_never_waits_for_it() {
    let scene = Scene::new();
    let mut slow = scene.other.refresh().unwrap();
    slow.write_all(b"old").unwrap();
    std::thread::sleep(Duration::from_millis(2));
    slow.publish().unwrap();
    assert!(scene.entry.read().unwrap().unwrap().meta().took >= Some(Duration::from_millis(2)));
    scene.world.step_wall(3500);
    let eager = Policy::fresh_for(HOUR).early(1e12);
    let held = refresh_of(scene.other.begin(&eager).unwrap());
    let begun = scene.entry.begin(&eager).unwrap();
    assert!(
        matches!(begun, Begun::Fresh(_)),
        "it is fresh, and somebody is at it: {begun:?}"
    );
    assert!(
        scene.told(EventKind::ServedStale).is_empty(),
        "nothing stale was served"
    );
    drop(held);
    let plain = scene.entry.begin(&Policy::fresh_for(HOUR)).unwrap();
    assert!(
        matches!(plain, Begun::Fresh(_)),
        "off unless asked for: {plain:?}"
    );
}

#[test]
fn an_entry_from_the_future_is_refreshed_and_not_served() {
    let scene = Scene::new();
    publish(&scene.other, b"tomorrow");
    scene.world.step_wall(-86_400);
    let year = HOUR * 24 * 365;
    let policy = Policy::fresh_for(year).stale_for(year).error_for(year);
    drop(refresh_of(scene.entry.begin(&policy).unwrap()));
    let error = scene
        .entry
        .get_or_refresh(&policy, |_| Err::<(), _>("down"));
    assert!(
        matches!(error, Err(GetError::Produce(_))),
        "its age is unknown: {error:?}"
    );
    publish(&scene.entry, b"today");
    assert!(matches!(scene.other.begin(&policy), Ok(Begun::Fresh(_))));
}

#[test]
fn one_lock_may_publish_an_answer_for_each_of_several_entries() {
    let scene = Scene::stale();
    let lock = scene.cache.lock().unwrap();
    let second = scene.cache.entry("second").unwrap();
    lock.refresh(&scene.entry)
        .unwrap()
        .finish(Produced::NotModified)
        .unwrap();
    lock.refresh(&second)
        .unwrap()
        .finish(Produced::Absent(HOUR))
        .unwrap();
    drop(lock);
    assert!(matches!(
        scene.other.begin(&Policy::fresh_for(HOUR)),
        Ok(Begun::Fresh(_))
    ));
    assert!(matches!(
        second.begin(&Policy::any_age()),
        Ok(Begun::Absent)
    ));
}
