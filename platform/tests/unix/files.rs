//! Open files.

use super::*;

#[test]
fn of_many_that_create_one_name_one_succeeds() {
    let (_temp, dir) = temp_dir();
    let created: usize = thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| match dir.open("claim", Access::CreateNew(0o600)) {
                    Ok(_) => 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                        0
                    }
                })
            })
            .collect();
        tries.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(created, 1);
}

#[test]
fn a_file_is_read_written_cut_and_touched_in_place() {
    let (temp, dir) = temp_dir();
    let file = create(&*dir, "file");
    assert_eq!(file.write_at(b"hello", 3).unwrap(), 5);
    assert_eq!(file.metadata().unwrap().len, 8);
    let mut buf = [9; 16];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8);
    assert_eq!(&buf[..8], b"\0\0\0hello", "the gap is zeros");
    assert_eq!(file.read_at(&mut buf, 8).unwrap(), 0, "the end");
    file.set_len(1 << 40).unwrap();
    assert_eq!(
        dir.stat("file").unwrap().len,
        1 << 40,
        "a length takes no space"
    );
    file.set_len(0).unwrap();
    file.sync().unwrap();
    dir.sync().unwrap();
    file.set_mode(0o640).unwrap();
    assert_eq!(mode_of(&temp.path().join("file")), 0o640);

    let past = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 123_456_789);
    fs::File::open(temp.path().join("file"))
        .unwrap()
        .set_modified(past)
        .unwrap();
    assert_eq!(file.metadata().unwrap().modified, past, "to the nanosecond");
    file.touch().unwrap();
    let age = SystemTime::now()
        .duration_since(file.metadata().unwrap().modified)
        .unwrap_or_default();
    assert!(age < PATIENCE, "touched {age:?} ago");

    let reader = dir.open("file", Access::Read).unwrap();
    assert!(reader.write_at(b"x", 0).is_err(), "open for reading only");
}

#[test]
fn what_is_read_into_new_memory_is_the_file_however_large() {
    let (_temp, dir) = temp_dir();
    let file = create(&*dir, "file");
    // Small, and so large that it comes in huge pages, whose ends are not those of the file.
    for len in [0, 5, 4096, (9 << 20) + 3] {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        file.set_len(0).unwrap();
        let mut written = 0;
        while written < len {
            written += file.write_at(&bytes[written..], written as u64).unwrap();
        }
        let mut filling = Filling::new(len).unwrap();
        while !filling.is_full() {
            let read = filling.read_from(&*file, 1 << 20).unwrap();
            assert!(!read.is_empty(), "{len} bytes end too early");
        }
        assert!(filling.finish()[..] == bytes, "{len} bytes are others");
    }
}

#[test]
fn a_handle_stays_on_its_file_and_identity_follows_the_file() {
    let (temp, dir) = temp_dir();
    let file = create(&*dir, "one");
    let id = file.metadata().unwrap().id;
    create(&*dir, "two");
    assert_ne!(dir.stat("two").unwrap().id, id, "two files");
    dir.rename("one", &*dir, "two").unwrap();
    assert_eq!(
        dir.stat("two").unwrap().id,
        id,
        "one file under another name"
    );
    fs::hard_link(temp.path().join("two"), temp.path().join("three")).unwrap();
    assert_eq!(file.metadata().unwrap().links, 2);
    dir.unlink("two").unwrap();
    dir.unlink("three").unwrap();
    assert_eq!(file.metadata().unwrap().links, 0);
    assert_eq!(
        file.write_at(b"still", 0).unwrap(),
        5,
        "the handle is good without a name"
    );
}

#[test]
fn close_succeeds_and_gives_the_descriptor_back() {
    let (temp, dir) = temp_dir();
    let file = create(&*dir, "file");
    file.write_at(b"text", 0).unwrap();
    file.close().expect("nothing to report");
    assert_eq!(fs::read(temp.path().join("file")).unwrap(), b"text");
    if cfg!(target_os = "linux") {
        assert_eq!(descriptors_of(&temp.path().join("file")), [0; 0], "closed");
    }
}

/// This process's descriptors on the file at `path`.
fn descriptors_of(path: &Path) -> Vec<i32> {
    let path = fs::canonicalize(path).unwrap();
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path))
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn close_reports_what_the_system_says() {
    let temp = tempfile::tempdir().unwrap();
    Player::play_to_the_end("close a descriptor that is gone", temp.path());
}

#[allow(
    unsafe_code,
    reason = "the one error of close that can be had anywhere"
)]
pub(super) fn close_a_descriptor_that_is_gone(place: &Path) {
    let file = create(&*native().open_dir(place).unwrap(), "file");
    let [descriptor] = descriptors_of(&place.join("file"))[..] else {
        panic!("one descriptor");
    };
    // SAFETY: nothing uses the descriptor any more but the close below, and no other thread of this process opens one
    // meanwhile.
    assert_eq!(unsafe { libc::close(descriptor) }, 0);
    let error = file
        .close()
        .expect_err("the second close fails, and is heard");
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}
