//! Names are single segments, and what they stand for is told apart.

use super::*;

#[test]
fn a_name_that_is_not_one_plain_segment_is_refused_by_every_call() {
    let (_temp, dir) = temp_dir();
    create(&*dir, "good");
    for name in ["", ".", "..", "a/b", "/", "/etc/passwd", "../x", "a\0b"] {
        assert_eq!(
            kind_of(dir.open(name, Access::Read)),
            ErrorKind::InvalidInput,
            "{name:?}"
        );
        assert_eq!(
            kind_of(dir.open(name, Access::CreateNew(0o600))),
            ErrorKind::InvalidInput,
            "{name:?}"
        );
        assert_eq!(
            kind_of(dir.open_dir(name)),
            ErrorKind::InvalidInput,
            "{name:?}"
        );
        assert_eq!(
            kind_of(dir.create_dir(name, 0o700)),
            ErrorKind::InvalidInput,
            "{name:?}"
        );
        assert_eq!(kind_of(dir.stat(name)), ErrorKind::InvalidInput, "{name:?}");
        assert_eq!(
            kind_of(dir.unlink(name)),
            ErrorKind::InvalidInput,
            "{name:?}"
        );
        assert_eq!(
            kind_of(dir.rename(name, &*dir, "x")),
            ErrorKind::InvalidInput,
            "{name:?}"
        );
        assert_eq!(
            kind_of(dir.rename("good", &*dir, name)),
            ErrorKind::InvalidInput,
            "{name:?}"
        );
    }
    assert_eq!(dir.list().unwrap(), ["good"], "nothing was changed");
}

#[test]
fn a_symbolic_link_is_never_followed() {
    let (temp, dir) = temp_dir();
    dir.create_dir("real-dir", 0o755).unwrap();
    create(&*dir, "real");
    symlink("real", temp.path().join("link")).unwrap();
    symlink("real-dir", temp.path().join("dir-link")).unwrap();
    symlink("nowhere", temp.path().join("dangling")).unwrap();

    for link in ["link", "dir-link", "dangling"] {
        for access in [Access::Read, Access::Write] {
            let error = dir.open(link, access).err().expect("a link is not opened");
            assert!(
                !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists),
                "{link}: {error:?} could be taken for something else"
            );
            assert!(
                error.to_string().contains("symbolic link"),
                "{link}: {error} does not say why"
            );
        }
        assert_eq!(
            kind_of(dir.open(link, Access::CreateNew(0o600))),
            ErrorKind::AlreadyExists,
            "{link}"
        );
        assert_eq!(
            kind_of(dir.open_dir(link)),
            ErrorKind::NotADirectory,
            "{link}"
        );
        assert_eq!(dir.stat(link).unwrap().kind, FileKind::Symlink, "{link}");
    }
    assert!(
        !temp.path().join("nowhere").exists(),
        "nothing was created through the dangling link"
    );
    dir.unlink("link").unwrap();
    assert_eq!(
        dir.stat("real").unwrap().kind,
        FileKind::File,
        "unlink took the link, not its target"
    );
}

#[test]
fn the_users_own_path_may_lead_through_links() {
    let (temp, dir) = temp_dir();
    dir.create_dir("real", 0o755).unwrap();
    symlink("real", temp.path().join("link")).unwrap();
    let through = native().open_dir(&temp.path().join("link")).unwrap();
    assert_eq!(through.metadata().unwrap().id, dir.stat("real").unwrap().id);
}

#[test]
fn a_fifo_does_not_block_and_is_no_file() {
    let (temp, dir) = temp_dir();
    let status = Command::new("mkfifo")
        .arg(temp.path().join("fifo"))
        .status()
        .unwrap();
    assert!(status.success());
    for access in [Access::Read, Access::Write] {
        let fifo = dir.open("fifo", access).expect("opened without a peer");
        assert_eq!(fifo.metadata().unwrap().kind, FileKind::Other);
    }
    assert_eq!(kind_of(dir.open_dir("fifo")), ErrorKind::NotADirectory);
}

#[test]
fn a_socket_is_an_error_that_does_not_read_as_unsupported() {
    let (temp, dir) = temp_dir();
    let _socket = std::os::unix::net::UnixListener::bind(temp.path().join("socket")).unwrap();
    let error = dir.open("socket", Access::Write).err().expect("no file");
    assert!(!matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::AlreadyExists
    ));
    assert!(error.to_string().contains("socket"), "{error}");
}

#[test]
fn a_directory_is_told_from_a_file() {
    let (_temp, dir) = temp_dir();
    dir.create_dir("sub", 0o755).unwrap();
    create(&*dir, "file");
    assert_eq!(kind_of(dir.open_dir("file")), ErrorKind::NotADirectory);
    assert_eq!(
        kind_of(dir.open("sub", Access::Write)),
        ErrorKind::IsADirectory
    );
    assert_eq!(
        dir.open("sub", Access::Read)
            .unwrap()
            .metadata()
            .unwrap()
            .kind,
        FileKind::Directory
    );
    assert!(matches!(
        kind_of(dir.unlink("sub")),
        ErrorKind::IsADirectory | ErrorKind::PermissionDenied
    ));
    assert_eq!(
        kind_of(dir.create_dir("sub", 0o755)),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind_of(dir.create_dir("file", 0o755)),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind_of(dir.open("nothing", Access::Read)),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind_of(dir.open("nothing", Access::Write)),
        ErrorKind::NotFound
    );
    assert_eq!(kind_of(dir.open_dir("nothing")), ErrorKind::NotFound);
}
