//! What `cachelock-bench` measures inside of a guest, whose directory is the first that it was granted.
//!
//! - `compare ROUNDS`: the library beside the bare calls, alternating; prints a line for each round of each comparison:
//!   its name and both times in nanoseconds.
//! - `wait`: for each line of its input takes the lock, says so, and releases it.

use std::cell::Cell;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use cachelock::{Cache, Durability};
use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};

const KIB: usize = 1024;

fn main() {
    let (bare, path) = get_directories().swap_remove(0);
    let cache = Cache::builder(&path)
        .durability(Durability::None)
        .timeout(Duration::from_secs(60))
        .open()
        .unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["compare", rounds] => compare(&cache, &bare, rounds.parse().unwrap()),
        ["wait"] => wait(&cache),
        _ => panic!("compare ROUNDS or wait"),
    }
}

fn compare(cache: &Cache, bare: &Descriptor, rounds: usize) {
    for (name, len) in [("4 KiB", 4 * KIB), ("1 MiB", 1024 * KIB)] {
        let payload = vec![7; len];
        refresh(cache, "read", &payload);
        let entry = cache.entry("read").unwrap();
        alternate(
            rounds,
            &format!("verified read of {name}"),
            || assert_eq!(entry.read().unwrap().unwrap().len(), len),
            || assert_eq!(read(bare, "read", len), len),
        );
    }
    let payload = vec![7; 4 * KIB];
    refresh(cache, "read", &payload);
    let tags = bare
        .open_at(
            PathFlags::empty(),
            ".cachelock/tags",
            OpenFlags::DIRECTORY,
            DescriptorFlags::READ,
        )
        .unwrap();
    alternate(
        rounds,
        "payload of 4 KiB and tag, bare",
        || read_both(bare, &tags),
        || assert_eq!(read(bare, "read", 4 * KIB), 4 * KIB),
    );
    alternate(
        rounds,
        "refresh of 4 KiB, no sync",
        || refresh(cache, "ours", &payload),
        || replace(bare, "bare", &payload),
    );
    let folder = |dir: &Descriptor, name| {
        dir.create_directory_at(name).unwrap();
        let flags = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
        dir.open_at(PathFlags::empty(), name, OpenFlags::DIRECTORY, flags)
            .unwrap()
    };
    let control = folder(bare, "files");
    let tags = folder(&control, "tags");
    let made = Cell::new(0);
    alternate(
        rounds,
        "its files alone, no sync",
        || {
            files(
                bare,
                &control,
                &tags,
                &payload,
                made.replace(made.get() + 1),
            )
        },
        || replace(bare, "bare", &payload),
    );
}

fn alternate(rounds: usize, name: &str, ours: impl Fn(), bare: impl Fn()) {
    let timed = |way: &dyn Fn()| {
        let began = Instant::now();
        way();
        began.elapsed().as_nanos()
    };
    for round in 0..rounds {
        let (ours, bare) = if round % 2 == 0 {
            let ours = timed(&ours);
            (ours, timed(&bare))
        } else {
            let bare = timed(&bare);
            (timed(&ours), bare)
        };
        println!("{name}\t{ours}\t{bare}");
    }
}

fn refresh(cache: &Cache, name: &str, payload: &[u8]) {
    let mut refresh = cache.entry(name).unwrap().refresh().unwrap();
    refresh.write_all(payload).unwrap();
    refresh.publish().unwrap();
}

/// Open, read, close.
fn read(dir: &Descriptor, name: &str, len: usize) -> usize {
    let flags = DescriptorFlags::READ;
    let file = dir
        .open_at(PathFlags::empty(), name, OpenFlags::empty(), flags)
        .unwrap();
    let mut bytes = Vec::with_capacity(len);
    loop {
        let left = (len + 1 - bytes.len()) as u64;
        let (piece, ended) = file.read(left, bytes.len() as u64).unwrap();
        bytes.extend_from_slice(&piece);
        if ended || piece.is_empty() {
            return bytes.len();
        }
    }
}

/// What a verified read of a small payload cannot do without: both files are looked at, lest one is a FIFO, opened, read and
/// closed; and the payload is asked whether it was replaced before the tag was read.
fn read_both(dir: &Descriptor, tags: &Descriptor) {
    let open = |dir: &Descriptor| {
        let seen = dir.stat_at(PathFlags::empty(), "read").unwrap();
        let flags = DescriptorFlags::READ;
        let file = dir.open_at(PathFlags::empty(), "read", OpenFlags::empty(), flags);
        (file.unwrap(), seen.size)
    };
    let [payload, tag] = [dir, tags].map(open);
    let read = |(file, len): &(Descriptor, u64)| {
        assert_eq!(file.read(*len, 0).unwrap().0.len() as u64, *len);
    };
    read(&tag);
    assert_eq!(payload.0.stat().unwrap().link_count, 1);
    read(&payload);
}

/// Create, write, close, rename.
fn replace(dir: &Descriptor, name: &str, payload: &[u8]) {
    create(dir, "bare.new", payload);
    dir.rename_at("bare.new", dir, name).unwrap();
}

fn create(dir: &Descriptor, name: &str, bytes: &[u8]) -> Descriptor {
    let create = OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
    let flags = DescriptorFlags::WRITE;
    let file = dir
        .open_at(PathFlags::empty(), name, create, flags)
        .unwrap();
    let mut written = 0;
    while written < bytes.len() {
        written += file.write(&bytes[written..], written as u64).unwrap() as usize;
    }
    file
}

/// The files that a refresh makes, renames and removes, and nothing else: no look, no check.
fn files(dir: &Descriptor, control: &Descriptor, tags: &Descriptor, payload: &[u8], made: u64) {
    let name = |what: &str| format!("{what}-{made:020}");
    let [claim, head, stage, tag] = ["claim", "head", "stage", "tag"].map(name);
    create(control, &claim, &[b' '; 512]);
    create(control, &head, &[]).set_size(made).unwrap();
    control.rename_at(&head, control, "head").unwrap();
    create(control, &stage, payload);
    // As long as one of a short name.
    create(control, &tag, &[b' '; 340]);
    control.rename_at(&tag, tags, "entry").unwrap();
    control.rename_at(&stage, dir, "files-entry").unwrap();
    control.unlink_file_at(&claim).unwrap();
}

fn wait(cache: &Cache) {
    for line in std::io::stdin().lock().lines() {
        line.unwrap();
        let lock = cache.lock().unwrap();
        println!("locked");
        std::io::stdout().flush().unwrap();
        drop(lock);
    }
}
