//! What the platform makes of a file system that forgets and remembers at the wrong moments.

use cachelock::platform::{Access, File, native};

use super::*;

#[test]
fn what_the_kernel_remembers_of_a_name_is_not_repeated() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount(dir);
        let file = mirror.plain.join("file");
        fs::write(&file, "1").expect("writable");
        let dir = native().open_dir(&mirror.fuse).expect("a directory");
        assert_eq!(dir.stat("file").expect("it is there").len, 1);
        fs::write(&file, "22").expect("writable");
        assert_eq!(dir.stat("file").expect("it is there").len, 2, "in place");
        fs::write(mirror.plain.join("next"), "333").expect("writable");
        fs::rename(mirror.plain.join("next"), &file).expect("in one directory");
        assert_eq!(dir.stat("file").expect("it is there").len, 3, "replaced");
        fs::remove_file(&file).expect("it is there");
        let gone = dir.stat("file").map_err(|error| error.kind());
        assert_eq!(gone, Err(std::io::ErrorKind::NotFound), "removed");
    });
}

#[test]
fn a_name_is_found_while_files_are_renamed_to_it() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount(dir);
        let (name, next) = (mirror.fuse.join("name"), mirror.fuse.join("next"));
        fs::write(&name, "").expect("writable");
        let dir = native().open_dir(&mirror.fuse).expect("a directory");
        thread::scope(|scope| {
            let renames = scope.spawn(|| {
                for _ in 0..3000 {
                    fs::write(&next, "").expect("writable");
                    fs::rename(&next, &name).expect("in one directory");
                }
            });
            while !renames.is_finished() {
                dir.stat("name").expect("it is always there");
                drop(dir.open("name", Access::Read).expect("it always is"));
            }
        });
    });
}

#[test]
fn an_open_file_is_read_and_not_the_one_that_had_its_name_before() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount(dir);
        let (file, next) = (mirror.plain.join("file"), mirror.plain.join("next"));
        fs::write(&file, "old".repeat(1000)).expect("writable");
        let dir = native().open_dir(&mirror.fuse).expect("a directory");
        let old = dir.open("file", Access::Read).expect("it is there");
        fs::write(&next, "new".repeat(1000)).expect("writable");
        fs::rename(&next, &file).expect("in one directory");
        let new = dir.open("file", Access::Read).expect("it is there");
        // The old one first: what the kernel keeps of it must not be taken for the new one.
        assert_starts(&*old, "old");
        assert_starts(&*new, "new");
    });
}

#[track_caller]
fn assert_starts(file: &dyn File, with: &str) {
    let mut bytes = [0; 3];
    file.read_at(&mut bytes, 0).expect("readable");
    assert_eq!(std::str::from_utf8(&bytes), Ok(with));
}
