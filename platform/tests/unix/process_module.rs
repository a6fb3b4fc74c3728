//! The public module `process`.

use super::*;

#[test]
#[cfg(target_os = "linux")]
fn a_child_dies_with_its_parent() {
    let mut parent = Player::start("start a child that dies with me", Path::new("/"));
    let pid: i32 = parent.expect("CHILD").parse().unwrap();
    let child = Pid::from_raw(pid).unwrap();
    rustix::process::test_kill_process(child).expect("it runs");
    parent.signal(Signal::KILL);
    // It may stay a zombie for as long as whoever inherits it likes.
    eventually("the child is dead", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| {
            stat.rsplit(')')
                .next()
                .unwrap()
                .trim_start()
                .starts_with(['Z', 'X'])
        })
    });
}

pub(super) fn start_a_child_that_dies_with_me() {
    let mut child = process::start(&mut sleep(300)).unwrap();
    say(&format!("CHILD {}", child.id()));
    child.wait().unwrap();
}

fn sleep(seconds: u32) -> Command {
    let mut command = Command::new("sleep");
    command
        .arg(seconds.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// `command` started with default dispositions, whatever this test runs under.
#[allow(unsafe_code, reason = "code between fork and exec")]
fn with_default_signals(mut command: Command) -> Command {
    let reset = || {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the default disposition runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(reset) };
    command
}

#[test]
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn the_end_of_a_child_is_told_and_its_status_is_still_there() {
    let mut child = sleep(300).spawn().unwrap();
    let (tell, told) = mpsc::channel();
    process::on_exit(&child, move || tell.send(()).unwrap()).unwrap();
    assert!(told.try_recv().is_err(), "it runs");
    child.kill().unwrap();
    told.recv_timeout(Duration::from_secs(20))
        .expect("it has ended");
    let status = child.try_wait().unwrap();
    let status = status.expect("waiting for it takes no time");
    assert_eq!(process::exit_code(status), 137);
}

#[test]
fn a_request_to_end_reaches_the_handler() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let this = Command::new(std::env::current_exe().unwrap());
        let mut player = Player::start_with(
            with_default_signals(this),
            "exit on request",
            Path::new("/"),
        );
        player.expect("READY");
        if signal == Signal::TERM {
            process::terminate(&player.child).unwrap();
        } else {
            player.signal(signal);
        }
        let status = player.child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{signal:?}: {status}");
        assert_eq!(i32::from(process::exit_code(status)), code);
    }
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let mut shell = with_default_signals(Command::new("sh"));
    shell
        .args(["-c", r#"trap "" HUP INT; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap());
    let mut player = Player::start_with(shell, "exit on request", Path::new("/"));
    player.expect("READY");
    player.signal(Signal::HUP);
    player.signal(Signal::INT);
    thread::sleep(QUIET);
    assert!(
        player.child.try_wait().unwrap().is_none(),
        "neither ends it nor reaches the handler"
    );
    process::terminate(&player.child).unwrap();
    assert_eq!(
        player.child.wait().unwrap().code(),
        Some(143),
        "the others still work"
    );
}

pub(super) fn exit_on_request() {
    process::on_termination(|request| std::process::exit(request.exit_code().into())).unwrap();
    say("READY");
    thread::sleep(10 * PATIENCE);
}

#[test]
fn a_child_that_does_not_catch_the_request_is_ended_by_it() {
    let mut child = with_default_signals(sleep(300)).spawn().unwrap();
    process::terminate(&child).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    assert_eq!(
        process::exit_code(status),
        Termination::Terminate.exit_code()
    );
}

#[test]
fn exit_codes_are_passed_on() {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
    ] {
        let status = Command::new("sh").args(["-c", script]).status().unwrap();
        assert_eq!(process::exit_code(status), code, "{script}");
    }
}
