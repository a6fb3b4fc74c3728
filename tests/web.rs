//! What a page or a worker meets beyond the conformance suite: one thread, which whoever waits has.
#![cfg(all(target_family = "wasm", target_os = "unknown"))]

use std::io::{self, Write};
use std::time::Duration;

use cachelock::platform::memory::World;
use cachelock::platform::{Platform, native};
use cachelock::{Cache, CancelToken, Locking, Policy, Timeout};
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Nobody runs meanwhile, the one who holds included.
fn let_pass(platform: &dyn Platform, time: Duration) {
    let until = platform.monotonic() + time;
    while platform.monotonic() < until {}
}

#[test]
fn a_page_gets_what_it_has_fetched_until_that_is_too_old() -> Result<(), cachelock::Error> {
    let entry = Cache::open("/a page")?.entry("index.json")?;
    let policy = Policy::fresh_for(Duration::from_secs(60));
    for answer in ["first", "never fetched"] {
        let got = entry
            .get_or_refresh(&policy, |refresh| refresh.write_all(answer.as_bytes()))
            .expect("nothing is in the way");
        assert_eq!(got.as_deref(), Some(&b"first"[..]));
    }
    let_pass(&*native(), Duration::from_millis(30));
    let policy = Policy::fresh_for(Duration::from_millis(20));
    let got = entry
        .get_or_refresh(&policy, |refresh| refresh.write_all(b"second"))
        .expect("nothing is in the way");
    assert_eq!(got.as_deref(), Some(&b"second"[..]));
    Ok(())
}

#[test]
fn whatever_the_timeout_a_held_lock_is_told_at_once() -> Result<(), cachelock::Error> {
    let cache = Cache::open("/held")?;
    let held = cache.lock()?;
    let before = native().monotonic();
    for timeout in [
        Timeout::TryOnce,
        Timeout::DEFAULT,
        Timeout::After(Duration::from_secs(3600)),
        Timeout::Infinite,
    ] {
        let other = Cache::builder("/held").timeout(timeout).open()?;
        let error = other.lock().expect_err("it is held");
        assert!(error.is_timeout(), "{timeout}: {error}");
        let remedy = "nobody lets go while this thread waits";
        assert!(error.to_string().contains(remedy), "{timeout}: {error}");
    }
    let took = native().monotonic() - before;
    assert!(took < Duration::from_secs(5), "it has waited for {took:?}");
    drop(held);
    cache.lock().map(drop)
}

#[test]
fn a_cancelled_caller_is_told_so() -> Result<(), cachelock::Error> {
    let _held = Cache::open("/cancelled")?.lock()?;
    let token = CancelToken::new();
    let other = Cache::builder("/cancelled").cancel(token.clone()).open()?;
    assert!(other.lock().is_err_and(|error| error.is_timeout()));
    token.cancel();
    assert!(other.lock().is_err_and(|error| error.is_cancelled()));
    Ok(())
}

#[test]
fn what_is_stale_is_served_while_its_refresh_is_under_way() -> Result<(), cachelock::Error> {
    let entry = Cache::open("/stale")?.entry("entry")?;
    let mut first = entry.refresh()?;
    first.write_all(b"old").expect("the stage takes bytes");
    first.publish()?;
    // As between the callbacks of a request.
    let mut under_way = entry.refresh()?;
    under_way.write_all(b"new").expect("the stage takes bytes");
    let hour = Duration::from_secs(3600);
    let policy = Policy::fresh_for(Duration::ZERO).stale_for(hour);
    let got = entry.get_or_refresh(&policy, |_| Err::<(), _>(io::Error::other("asked twice")));
    assert_eq!(got.expect("stale").as_deref(), Some(&b"old"[..]));
    under_way.publish()?;
    assert_eq!(entry.read()?.as_deref(), Some(&b"new"[..]));
    Ok(())
}

#[test]
fn nobody_beats_in_the_background_so_the_holder_is_told_when() -> Result<(), cachelock::Error> {
    let cache = Cache::builder("/beats").lease(Duration::from_millis(150));
    let refresh = cache.open()?.entry("entry")?.refresh()?;
    let due = refresh.heartbeat_due().expect("nobody else beats");
    assert!(due <= Duration::from_millis(150), "{due:?}");
    let_pass(&*native(), due);
    assert_eq!(refresh.heartbeat_due(), Some(Duration::ZERO));
    refresh.heartbeat()?;
    assert!(refresh.heartbeat_due() > Some(Duration::ZERO));
    refresh.publish()?;
    Ok(())
}

#[test]
fn a_holder_that_has_stood_still_is_overtaken_by_a_later_try() -> Result<(), cachelock::Error> {
    let world = World::live();
    let lease = Duration::from_millis(100);
    let open = |name| {
        Cache::builder("/cache")
            .platform(world.process(name))
            .locking(Locking::Lease)
            .lease(lease)
            .open()
    };
    let (one, other) = (open("one")?, open("other")?);
    let mut asleep = one.entry("entry")?.refresh()?;
    asleep.write_all(b"late").expect("the stage takes bytes");
    assert!(other.lock().is_err_and(|error| error.is_timeout()));
    let_pass(&*native(), lease * 4);
    let awake = other.entry("entry")?.refresh()?;
    let failed = asleep.publish().expect_err("it was overtaken");
    assert!(failed.error.is_lease_lost(), "{failed}");
    awake.publish()?;
    Ok(())
}
