//! The kernel lock, between handles, processes and forks.

use super::*;

#[test]
fn the_lock_excludes_another_handle_until_it_is_given_back() {
    let (_temp, dir) = temp_dir();
    let first = create(&*dir, "lock");
    let second = dir.open("lock", Access::Write).unwrap();
    assert!(first.try_lock().unwrap());
    assert!(!second.try_lock().unwrap(), "somebody has it");
    first.unlock().unwrap();
    assert!(second.try_lock().unwrap(), "nobody has it");
    assert!(!first.try_lock().unwrap());
    second.unlock().unwrap();
    second
        .unlock()
        .expect("giving back what one does not have is harmless");
}

#[test]
fn a_blocked_lock_is_had_as_soon_as_it_is_given_back() {
    let (_temp, dir) = temp_dir();
    let first = create(&*dir, "lock");
    let second = dir.open("lock", Access::Write).unwrap();
    first.lock().unwrap();
    let (tell, told) = mpsc::channel();
    let waiter = thread::spawn(move || {
        second.lock().unwrap();
        tell.send(()).unwrap();
        second.unlock().unwrap();
    });
    assert!(told.recv_timeout(QUIET).is_err(), "it waits");
    first.unlock().unwrap();
    told.recv_timeout(PATIENCE).expect("it has the lock");
    waiter.join().unwrap();
}

#[test]
fn a_killed_process_gives_its_lock_back() {
    let (temp, dir) = temp_dir();
    let file = create(&*dir, "lock");
    let mut holder = Player::start("hold the lock", temp.path());
    holder.expect("LOCKED");
    assert!(!file.try_lock().unwrap(), "another process has it");
    let (tell, told) = mpsc::channel();
    let waiter = thread::spawn(move || tell.send(file.lock()));
    assert!(told.recv_timeout(QUIET).is_err(), "it waits");
    holder.signal(Signal::KILL);
    told.recv_timeout(PATIENCE)
        .expect("the kernel freed it")
        .unwrap();
    waiter.join().unwrap().unwrap();
}

pub(super) fn hold_the_lock(place: &Path) {
    let file = native()
        .open_dir(place)
        .unwrap()
        .open("lock", Access::Write)
        .unwrap();
    assert!(file.try_lock().unwrap());
    say("LOCKED");
    thread::sleep(10 * PATIENCE);
}

#[test]
fn a_forked_child_can_neither_give_the_lock_back_nor_share_it() {
    let (_temp, dir) = temp_dir();
    let held = create(&*dir, "lock");
    let other = dir.open("lock", Access::Write).unwrap();
    assert!(held.try_lock().unwrap());

    assert!(
        holds_in_forked_child(|| held.unlock().is_ok()),
        "unlock has nothing to do there"
    );
    assert!(!other.try_lock().unwrap(), "the parent still has the lock");

    let refused = || held.try_lock().is_err() && held.lock().is_err();
    assert!(
        holds_in_forked_child(refused),
        "the kernel would say yes to both parent and child"
    );

    let mut slot = Some(held);
    assert!(
        holds_in_forked_child(|| slot.take().is_some()),
        "dropped in the child"
    );
    assert!(!other.try_lock().unwrap(), "the parent still has the lock");
    assert!(slot.unwrap().unlock().is_ok());
    eventually("the parent gives it back", || other.try_lock().unwrap());
}
