//! What a process knows of itself.

use super::*;

#[test]
fn the_platform_is_one_object_and_knows_its_process() {
    assert!(Arc::ptr_eq(&native(), &native()));
    assert_eq!(native().name(), "unix");
    let identity = native().identity();
    assert_eq!(identity.pid, Some(std::process::id()));
    assert_eq!(identity, native().identity());
    assert!(identity.host.is_some());
    assert!(!cfg!(target_os = "linux") || identity.boot.is_some());
    assert_ne!(native().random().unwrap(), native().random().unwrap());
    assert!(native().absolute(Path::new("a/b")).unwrap().is_absolute());
    assert!(native().absolute(Path::new("")).is_err());
    let (tell, told) = mpsc::channel();
    native()
        .spawn(
            "named",
            Box::new(move || {
                tell.send(thread::current().name().map(str::to_owned))
                    .unwrap()
            }),
        )
        .unwrap();
    assert_eq!(
        told.recv_timeout(PATIENCE).unwrap().as_deref(),
        Some("named")
    );
}

#[test]
fn a_forked_child_has_a_number_and_a_slot_of_its_own() {
    let slot = native().slot();
    let state = slot.get_or_init(|| Arc::new("the parent's"));
    assert!(state.is::<&str>());
    assert!(Arc::ptr_eq(&slot, &native().slot()));
    let pid = native().process_id();
    // Asked for once before the fork: a first time under way in another thread would never end in the child.
    assert_eq!(native().identity().pid, Some(pid));
    assert!(holds_in_forked_child(|| {
        let theirs = native().slot();
        native().process_id() != pid
            && native().identity().pid != Some(pid)
            && theirs.get().is_none()
            && Arc::ptr_eq(&theirs, &native().slot())
    }));
    assert!(
        Arc::ptr_eq(&slot, &native().slot()),
        "the parent's is untouched"
    );
}
