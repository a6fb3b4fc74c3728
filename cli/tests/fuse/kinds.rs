//! Each kind of file system is known for what it is, and locked accordingly.

use super::*;

#[test]
fn each_kind_of_file_system_is_known_for_what_it_is() {
    apart(&[&FUSE[..], &["mkfs.ext4"]].concat(), |dir| {
        let tmpfs = dir.join("tmpfs");
        mount(&["-t", "tmpfs", "none"], &tmpfs);

        let image = dir.join("image");
        let file = fs::File::create(&image).expect("a file");
        file.set_len(16 << 20).expect("a sparse file");
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        assert!(made.expect("mkfs.ext4 runs").success());
        let ext = dir.join("ext");
        mount(&["-o", "loop", image.to_str().expect("UTF-8")], &ext);

        // Its layers must not be on an overlay themselves, as a container's root is.
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| tmpfs.join(name));
        for layer in [&lower, &upper, &work] {
            fs::create_dir(layer).expect("a directory");
        }
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let overlay = dir.join("overlay");
        mount(&["-t", "overlay", "none", "-o", &layers], &overlay);

        let mirror_dir = dir.join("mirror");
        fs::create_dir(&mirror_dir).expect("a directory");
        let mirror = Mirror::mount(&mirror_dir);

        for (at, kind, kernel_locks) in [
            (&tmpfs, "tmpfs", true),
            (&ext, "ext", true),
            (&overlay, "overlay", true),
            (&mirror.fuse, "fuse", false),
        ] {
            let place = Place::in_dir(at);
            place.publish("payload");
            let status = place.status();
            assert_eq!(status["file_system"], kind);
            assert_eq!(status["kernel_locks"], kernel_locks, "{kind}");
            let backend = if kernel_locks { "gate" } else { "lease" };
            assert_eq!(status["backend"], backend, "{kind}");
            let has_gate = place.cache.join(".cachelock/cache.lock").exists();
            assert_eq!(has_gate, kernel_locks, "{kind}");
            place.assert_holds("payload");
        }
        drop(mirror);
        for mounted in [overlay, ext, tmpfs] {
            let unmounted = Command::new("umount").arg(&mounted).status();
            assert!(unmounted.expect("umount runs").success(), "{mounted:?}");
        }
    });
}

#[track_caller]
fn mount(arguments: &[&str], at: &Path) {
    fs::create_dir(at).expect("a directory");
    let status = Command::new("mount").args(arguments).arg(at).status();
    assert!(status.expect("mount runs").success(), "{arguments:?}");
}
