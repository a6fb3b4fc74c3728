//! Permission bits, owners, and who else may write.

use super::*;

#[test]
fn permission_bits_are_exact_under_a_strange_umask() {
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o777)).unwrap();
    Player::play_to_the_end("create under a strange umask", temp.path());
}

pub(super) fn create_under_a_strange_umask(place: &Path) {
    become_nobody();
    let dir = native().open_dir(place).unwrap();
    for umask in [0o000_u32, 0o022, 0o077, 0o277, 0o777] {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(
            umask as rustix::fs::RawMode,
        ));
        assert_eq!(
            native().default_mode(),
            Some(0o666 & !umask),
            "umask {umask:o}"
        );
        for mode in [0o600, 0o644, 0o666, 0o444, 0o000] {
            let name = format!("file-{umask:o}-{mode:o}");
            let file = dir.open(&name, Access::CreateNew(mode)).expect(&name);
            assert_eq!(mode_of(&place.join(&name)), mode, "{name}");
            assert_eq!(file.metadata().unwrap().mode, Some(mode), "{name}");
            assert_eq!(
                file.write_at(b"written", 0).unwrap(),
                7,
                "{name}: its creator may write to it"
            );
        }
        for mode in [0o755, 0o700, 0o500, 0o000] {
            let name = format!("dir-{umask:o}-{mode:o}");
            dir.create_dir(&name, mode).expect(&name);
            assert_eq!(mode_of(&place.join(&name)), mode, "{name}");
        }
        // With less than that its creator could not create the second one.
        if umask & 0o300 == 0 {
            let first = place.join(format!("all-{umask:o}"));
            let second = first.join("second");
            native().create_dir_all(&second).expect("two directories");
            for dir in [first, second] {
                assert_eq!(mode_of(&dir), 0o755 & !umask, "{dir:?}");
            }
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_can_only_be_searched_serves_names() {
    let temp = tempfile::tempdir().unwrap();
    let sub = temp.path().join("sub");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("file"), "text").unwrap();
    fs::set_permissions(sub.join("file"), PermissionsExt::from_mode(0o644)).unwrap();
    fs::set_permissions(&sub, PermissionsExt::from_mode(0o111)).unwrap();
    fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).unwrap();
    Player::play_to_the_end("use a directory that can only be searched", temp.path());
    fs::set_permissions(&sub, PermissionsExt::from_mode(0o755)).unwrap();
}

pub(super) fn use_a_directory_that_can_only_be_searched(place: &Path) {
    become_nobody();
    for dir in [
        native().open_dir(&place.join("sub")).unwrap(),
        native().open_dir(place).unwrap().open_dir("sub").unwrap(),
    ] {
        assert_eq!(dir.metadata().unwrap().kind, FileKind::Directory);
        assert!(dir.file_system().is_ok());
        let file = dir
            .open("file", Access::Read)
            .expect("the file may be read");
        assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 4);
        assert_eq!(
            kind_of(dir.list()),
            ErrorKind::PermissionDenied,
            "but not the directory"
        );
        assert_eq!(kind_of(dir.sync()), ErrorKind::PermissionDenied);
        assert_eq!(
            kind_of(dir.open("new", Access::CreateNew(0o600))),
            ErrorKind::PermissionDenied
        );
    }
}

#[test]
fn metadata_tells_owner_and_who_else_may_write() {
    let (temp, dir) = temp_dir();
    for (mode, shared) in [
        (0o700, false),
        (0o755, false),
        (0o777, true),
        (0o1777, true),
        (0o702, true),
    ] {
        fs::set_permissions(temp.path(), PermissionsExt::from_mode(mode)).unwrap();
        let metadata = dir.metadata().unwrap();
        assert_eq!(metadata.kind, FileKind::Directory);
        assert_eq!(metadata.mode, Some(mode));
        assert_eq!(metadata.owner, Owner::Me);
        assert_eq!(metadata.shared, shared, "{mode:o}");
    }
    if geteuid().is_root() {
        // Our own private group, and then somebody else's.
        fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o775)).unwrap();
        std::os::unix::fs::chown(temp.path(), Some(0), Some(0)).unwrap();
        let private = rustix::process::getegid().is_root();
        assert_eq!(dir.metadata().unwrap().shared, !private);
        std::os::unix::fs::chown(temp.path(), Some(0), Some(4321)).unwrap();
        assert!(
            dir.metadata().unwrap().shared,
            "a group of others may write"
        );
        std::os::unix::fs::chown(temp.path(), Some(4321), Some(4321)).unwrap();
        let metadata = dir.metadata().unwrap();
        assert_eq!(metadata.owner, Owner::Other(4321));
        assert!(metadata.shared, "a private group, but not ours");
    }
}
