//! One process, nobody to wait for: refreshes, reads, growth.

use std::fs;
use std::hint::black_box;
use std::io::{Read, Seek};
use std::path::Path;
use std::time::Duration;

use cachelock::{Durability, Entry, Policy};
use cachelock_bench::{
    Files, KIB, MIB, atomic_write_file, cacache_read, cacache_write, cache, plain_replace, refresh,
    tempfile_under_fs4,
};

use xxhash_rust::xxh3::xxh3_128;

use crate::report::{Goal, Row};
use crate::run::Run;
use crate::sample::{alternate, timed};

pub(crate) fn refreshes(run: &Run) -> Vec<Row> {
    let mut rows = Vec::new();
    let payload = vec![7; 4 * KIB];
    for (place, scratch) in run.places() {
        let dirs = run.dirs(&scratch, ["ours", "tempfile", "cacache", "files"]);
        let [ours, theirs, cacache, files] = dirs.paths();
        let entry = cache(ours, Durability::None).entry("entry").unwrap();
        let mut files = Files::new(files, Durability::None);
        let [ours, theirs, cacache, files] = alternate(
            run.rounds(1000),
            [
                &mut || timed(|| refresh(&entry, &payload)),
                &mut || timed(|| tempfile_under_fs4(theirs, &payload)),
                &mut || timed(|| cacache_write(cacache, &payload)),
                &mut || timed(|| files.refresh(&payload)),
            ],
        );
        let goal = match &*place {
            "ext" => Goal::AtMost(2.2),
            _ => Goal::None,
        };
        let what = format!("refresh of 4 KiB, no sync, {place}");
        rows.push(Row::of(&what, &ours, ("tempfile and fs4", &theirs), goal));
        rows.push(Row::of(&what, &ours, ("cacache", &cacache), Goal::None));
        let bare = format!("its files alone, no sync, {place}");
        rows.push(Row::of(
            &bare,
            &files,
            ("tempfile and fs4", &theirs),
            Goal::None,
        ));
    }
    for (name, durability, limit) in [
        ("Data", Durability::Data, 1.1),
        ("Full", Durability::Full, 1.7),
    ] {
        let dirs = run.dirs(&run.disk, ["ours", "theirs", "files"]);
        let [ours, theirs, files] = dirs.paths();
        let entry = cache(ours, durability).entry("entry").unwrap();
        let mut files = Files::new(files, durability);
        let [ours, theirs, files] = alternate(
            run.rounds(200),
            [
                &mut || timed(|| refresh(&entry, &payload)),
                &mut || timed(|| atomic_write_file(theirs, &payload)),
                &mut || timed(|| files.refresh(&payload)),
            ],
        );
        for (what, samples, goal) in [
            (
                format!("refresh of 4 KiB, {name}"),
                ours,
                Goal::AtMost(limit),
            ),
            (
                format!("its files and syncs alone, {name}"),
                files,
                Goal::None,
            ),
        ] {
            rows.push(Row::of(
                what,
                &samples,
                ("atomic-write-file", &theirs),
                goal,
            ));
        }
    }
    rows.push(throughput(run));
    rows
}

/// Of large payloads: the ratio is of what is written in the same time.
fn throughput(run: &Run) -> Row {
    let payload = vec![7; 64 * MIB];
    let dirs = run.dirs(&run.disk, ["ours", "theirs"]);
    let [ours, theirs] = dirs.paths();
    let entry = cache(ours, Durability::Data).entry("entry").unwrap();
    let [ours, theirs] = alternate(
        run.rounds(12),
        [&mut || timed(|| refresh(&entry, &payload)), &mut || {
            timed(|| plain_replace(theirs, &payload, true))
        }],
    );
    let row = Row::of("", &ours, ("write, fsync, rename", &theirs), Goal::None);
    Row {
        what: "refresh of 64 MiB, Data: throughput".to_owned(),
        ratio: crate::sample::Ratio::of(&theirs, &ours),
        goal: Goal::AtLeast(0.9),
        ..row
    }
}

fn published(dir: &Path, len: usize) -> Entry {
    let entry = cache(dir, Durability::None).entry("entry").unwrap();
    refresh(&entry, &vec![7; len]);
    entry
}

pub(crate) fn reads(run: &Run) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, len, limit, rounds) in [
        ("4 KiB", 4 * KIB, 2.0, 4000),
        ("1 MiB", MIB, 1.2, 1000),
        ("64 MiB", 64 * MIB, 1.15, 20),
    ] {
        let dirs = run.dirs(&run.disk, ["ours", "cacache"]);
        let [ours, cacache] = dirs.paths();
        let entry = published(ours, len);
        let path = entry.path();
        cacache_write(cacache, &vec![7; len]);
        let [ours, plain, cacache] = alternate(
            run.rounds(rounds),
            [
                &mut || timed(|| drop(black_box(entry.read().unwrap()))),
                &mut || timed(|| drop(black_box(fs::read(&path).unwrap()))),
                &mut || timed(|| assert_eq!(black_box(cacache_read(cacache)), len)),
            ],
        );
        let what = format!("verified read of {name}");
        let goal = Goal::AtMost(limit);
        rows.push(Row::of(&what, &ours, ("std::fs::read", &plain), goal));
        rows.push(Row::of(&what, &ours, ("cacache", &cacache), Goal::None));
    }
    rows.extend(parts(run));
    for (name, len) in [("4 KiB", 4 * KIB), ("64 MiB", 64 * MIB)] {
        rows.push(reread(run, name, len));
    }
    rows
}

/// What a verified read cannot do without: a copy out of the system's memory, and a hash of what was copied.
fn parts(run: &Run) -> [Row; 2] {
    let dirs = run.dirs(&run.disk, ["file"]);
    let path = dirs.paths()[0].join("file");
    fs::write(&path, vec![7; MIB]).unwrap();
    let mut file = fs::File::open(&path).unwrap();
    let mut warm = vec![0; MIB];
    let bytes = vec![7; MIB];
    let [copy, hash, plain] = alternate(
        run.rounds(1000),
        [
            &mut || {
                file.rewind().unwrap();
                timed(|| file.read_exact(black_box(&mut warm)).unwrap())
            },
            &mut || timed(|| assert_ne!(xxh3_128(black_box(&bytes)), 0)),
            &mut || timed(|| drop(black_box(fs::read(&path).unwrap()))),
        ],
    );
    [
        ("copy of 1 MiB into warm memory", copy),
        ("hash of 1 MiB", hash),
    ]
    .map(|(what, part)| Row::of(what, &part, ("std::fs::read", &plain), Goal::None))
}

fn reread(run: &Run, name: &str, len: usize) -> Row {
    const TIMES: u32 = 50;
    let dirs = run.dirs(&run.disk, ["ours"]);
    let [dir] = dirs.paths();
    let entry = published(dir, len);
    let mut reader = entry.reader();
    reader.read().unwrap();
    let [payload, tag] = [entry.path(), dir.join(".cachelock/tags/entry")];
    let [ours, stats] = alternate(
        run.rounds(1000),
        [
            &mut || {
                timed(|| (0..TIMES).for_each(|_| drop(black_box(reader.read().unwrap())))) / TIMES
            },
            &mut || {
                let stat = |path| assert!(black_box(fs::metadata(path)).is_ok());
                timed(|| (0..TIMES).for_each(|_| [&payload, &tag].into_iter().for_each(stat)))
                    / TIMES
            },
        ],
    );
    Row::of(
        format!("unchanged reread of {name}"),
        &ours,
        ("two stats", &stats),
        Goal::AtMost(1.1),
    )
}

/// 64 threads that all miss one entry: what they wait for is the producer of one of them.
pub(crate) fn threads(run: &Run) -> Vec<Row> {
    const THREADS: usize = 64;
    const PRODUCER: Duration = Duration::from_millis(200);
    let mut runs = 0;
    let mut times = Vec::new();
    let rounds = run.rounds(10);
    for _ in 0..rounds {
        let dirs = run.dirs(&run.disk, ["ours"]);
        let [dir] = dirs.paths();
        let cache = cache(dir, Durability::None);
        let produced = std::sync::atomic::AtomicUsize::new(0);
        let ready = std::sync::Barrier::new(THREADS + 1);
        times.push(std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let entry = cache.entry("entry").unwrap();
                        ready.wait();
                        let got = entry.get_or_refresh(&Policy::any_age(), |refresh| {
                            produced.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            std::thread::sleep(PRODUCER);
                            std::io::Write::write_all(refresh, &[7; 4 * KIB])
                        });
                        assert!(got.unwrap().is_some());
                    })
                })
                .collect();
            ready.wait();
            timed(|| {
                threads
                    .into_iter()
                    .for_each(|thread| thread.join().unwrap())
            })
        }));
        runs += produced.into_inner();
    }
    assert_eq!(runs, rounds, "each herd runs its producer once");
    let alone = vec![PRODUCER; rounds];
    vec![Row::of(
        "64 threads miss one entry; one producer ran",
        &times,
        ("the producer", &alone),
        Goal::AtMost(1.05),
    )]
}

pub(crate) fn growth(run: &Run) -> Vec<Row> {
    let mut rows = entries(run);
    rows.extend(lengths(run));
    rows
}

/// The same refresh and the same read, beside no other entry and beside very many.
fn entries(run: &Run) -> Vec<Row> {
    let many = if run.quick { 5_000 } else { 100_000 };
    let dirs = run.dirs(&run.disk, ["one", "many"]);
    let [one, crowded] = dirs.paths();
    let (one, entry) = (published(one, 4 * KIB), published(crowded, 4 * KIB));
    let tag = fs::read(crowded.join(".cachelock/tags/entry")).unwrap();
    for number in 0..many {
        let name = format!("entry-{number}");
        fs::write(crowded.join(&name), [7; 8]).unwrap();
        fs::write(crowded.join(".cachelock/tags").join(&name), &tag).unwrap();
    }
    let payload = vec![7; 4 * KIB];
    let [alone, beside] = alternate(
        run.rounds(500),
        [&mut || timed(|| refresh(&one, &payload)), &mut || {
            timed(|| refresh(&entry, &payload))
        }],
    );
    let [alone_read, beside_read] = alternate(
        run.rounds(2000),
        [&mut || timed(|| drop(one.read().unwrap())), &mut || {
            timed(|| drop(entry.read().unwrap()))
        }],
    );
    let flat = Goal::AtMost(1.25);
    vec![
        Row::of(
            format!("refresh beside {many} entries"),
            &beside,
            ("beside none", &alone),
            flat,
        ),
        Row::of(
            format!("read beside {many} entries"),
            &beside_read,
            ("beside none", &alone_read),
            flat,
        ),
    ]
}

/// What a byte costs in a small and in the largest payload, written without sync, and read in pieces. A refresh of 4 KiB is
/// mostly its fixed part, so the smallest is 16 MiB.
fn lengths(run: &Run) -> Vec<Row> {
    let (small, large) = (16, if run.quick { 64 } else { 1024 });
    let dirs = run.dirs(&run.disk, ["small", "large"]);
    let [small_dir, large_dir] = dirs.paths();
    let piece = vec![7; MIB];
    let write = |entry: &Entry, pieces: u32| {
        let write = || {
            let mut refresh = entry.refresh().unwrap();
            (0..pieces).for_each(|_| std::io::Write::write_all(&mut refresh, &piece).unwrap());
            refresh.publish().unwrap();
        };
        timed(write) / pieces
    };
    let read = |entry: &Entry, pieces: u32| {
        let mut piece = vec![0; MIB];
        let mut read = || {
            let mut stream = entry.open().unwrap().unwrap();
            while stream.read(&mut piece).unwrap() > 0 {}
        };
        timed(&mut read) / pieces
    };
    let entry = |dir| cache(dir, Durability::None).entry("entry").unwrap();
    let (few, many) = (entry(small_dir), entry(large_dir));
    let rounds = run.rounds(5);
    let [few_written, many_written] = alternate(
        rounds,
        [&mut || write(&few, small), &mut || write(&many, large)],
    );
    let [few_read, many_read] = alternate(
        rounds,
        [&mut || read(&few, small), &mut || read(&many, large)],
    );
    let names = (format!("a MiB of {large}"), format!("a MiB of {small}"));
    let linear = Goal::AtMost(1.5);
    vec![
        Row::of(
            format!("refresh, {}", names.0),
            &many_written,
            (&names.1, &few_written),
            linear,
        ),
        Row::of(
            format!("read in pieces, {}", names.0),
            &many_read,
            (&names.1, &few_read),
            linear,
        ),
    ]
}
