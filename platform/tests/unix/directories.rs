//! Directories: rename, list, create, and the file system they are on.

use super::*;

#[test]
fn a_rename_between_directories_moves_and_replaces() {
    let (temp, dir) = temp_dir();
    dir.create_dir("control", 0o755).unwrap();
    dir.create_dir("folder", 0o755).unwrap();
    let control = dir.open_dir("control").unwrap();
    fs::write(temp.path().join("entry"), "old").unwrap();
    fs::write(temp.path().join("control/stage"), "new").unwrap();

    control.rename("stage", &*dir, "entry").unwrap();
    assert_eq!(fs::read(temp.path().join("entry")).unwrap(), b"new");
    assert_eq!(
        kind_of(control.rename("stage", &*dir, "entry")),
        ErrorKind::NotFound,
        "it is gone"
    );
    assert_eq!(
        fs::read(temp.path().join("entry")).unwrap(),
        b"new",
        "and nothing was renamed"
    );

    create(&*control, "stage");
    assert_eq!(
        kind_of(control.rename("stage", &*dir, "folder")),
        ErrorKind::IsADirectory
    );
    assert_eq!(
        control.list().unwrap(),
        ["stage"],
        "after an error nothing was renamed"
    );

    // A directory handle stays on its directory.
    fs::rename(temp.path().join("control"), temp.path().join("elsewhere")).unwrap();
    control.rename("stage", &*dir, "again").unwrap();
    assert!(temp.path().join("again").exists());

    fs::remove_dir(temp.path().join("elsewhere")).unwrap();
    assert_eq!(
        kind_of(dir.rename("again", &*control, "stage")),
        ErrorKind::NotFound,
        "the target is gone"
    );
    assert!(temp.path().join("again").exists());
}

/// Where the system cannot let two files change places, what is displaced is gone.
#[test]
fn what_is_displaced_is_replaced_whether_it_keeps_a_name_or_not() {
    let (temp, dir) = temp_dir();
    dir.create_dir("control", 0o755).unwrap();
    dir.create_dir("folder", 0o755).unwrap();
    let control = dir.open_dir("control").unwrap();
    let [entry, stage] = ["entry", "control/stage"].map(|name| temp.path().join(name));
    fs::write(&entry, "old").unwrap();
    fs::write(&stage, "new").unwrap();
    let leaves_old = control.displace("stage", &*dir, "entry").unwrap();
    assert_eq!(fs::read(&entry).unwrap(), b"new");
    assert_eq!(fs::read(&stage).ok(), leaves_old.then(|| b"old".to_vec()));

    let _ = fs::remove_file(&stage);
    let gone = control.displace("stage", &*dir, "entry");
    assert_eq!(kind_of(gone), ErrorKind::NotFound, "it was fenced");
    assert_eq!(fs::read(&entry).unwrap(), b"new");
    fs::write(&stage, "first").unwrap();
    match control.displace("stage", &*dir, "folder") {
        Err(error) => assert_eq!(error.kind(), ErrorKind::IsADirectory),
        Ok(leaves_old) => {
            assert!(leaves_old && stage.is_dir(), "once more changes them back");
            assert!(control.displace("stage", &*dir, "folder").unwrap());
        }
    }
    assert!(temp.path().join("folder").is_dir());
    assert!(!control.displace("stage", &*dir, "another").unwrap());
    assert_eq!(fs::read(temp.path().join("another")).unwrap(), b"first");
}

#[test]
#[cfg(target_os = "linux")]
fn a_rename_to_another_file_system_says_so() {
    let (_temp, dir) = temp_dir();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let other = native().open_dir(other.path()).unwrap();
    if other.metadata().unwrap().id.device == dir.metadata().unwrap().id.device {
        return;
    }
    create(&*dir, "file");
    assert_eq!(
        kind_of(dir.rename("file", &*other, "file")),
        ErrorKind::CrossesDevices
    );
    assert_eq!(dir.list().unwrap(), ["file"]);
}

#[test]
fn a_listing_has_every_name_once_even_when_two_list_at_once() {
    let (temp, dir) = temp_dir();
    assert!(dir.list().unwrap().is_empty(), "neither . nor ..");
    // More than one buffer full.
    let expected: BTreeSet<String> = (0..3000)
        .map(|n| format!("a-rather-long-name-for-a-file-{n}"))
        .collect();
    for name in &expected {
        create(&*dir, name);
    }
    let _ = fs::write(temp.path().join(OsStr::from_bytes(b"not\xffutf8")), "");
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let names = dir.list().unwrap();
                    assert_eq!(
                        names.len(),
                        expected.len(),
                        "each once, and none that is not UTF-8"
                    );
                    assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), expected);
                }
            });
        }
    });
    assert_eq!(dir.reopen().unwrap().list().unwrap().len(), expected.len());
    assert_eq!(
        dir.reopen().unwrap().metadata().unwrap().id,
        dir.metadata().unwrap().id
    );
}

#[test]
fn all_that_create_the_same_directories_at_once_succeed() {
    let temp = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = temp.path().join(format!("{round}/a/b/c/d"));
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    native()
                        .create_dir_all(&path)
                        .expect("somebody else's is as good")
                });
            }
        });
        assert!(path.is_dir());
    }
    fs::write(temp.path().join("file"), "").unwrap();
    assert!(
        native().create_dir_all(&temp.path().join("file")).is_err(),
        "a file is no directory"
    );
    assert_eq!(
        kind_of(native().open_dir(&temp.path().join("file"))),
        ErrorKind::NotADirectory
    );
    assert_eq!(
        kind_of(native().open_dir(&temp.path().join("nothing"))),
        ErrorKind::NotFound
    );
}

#[test]
fn file_systems_are_named_and_only_known_ones_are_trusted() {
    let of = |path: &str| {
        native()
            .open_dir(Path::new(path))
            .unwrap()
            .file_system()
            .unwrap()
    };
    assert!(!of("/").name.is_empty());
    if cfg!(target_os = "linux") {
        let shm = of("/dev/shm");
        assert_eq!(
            (shm.name.as_str(), shm.kernel_locks, shm.remote),
            ("tmpfs", true, false)
        );
        let proc = of("/proc");
        assert_eq!(
            (proc.name.as_str(), proc.kernel_locks, proc.remote),
            ("0x9fa0", false, true)
        );
    }
}
