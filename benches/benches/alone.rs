//! Each operation by itself, for whoever works on one of them: `cargo bench -p cachelock-bench`. What is compared, and
//! with which goals, is the matter of `cargo xtask bench`.

use std::path::Path;

use cachelock::{Durability, Entry};
use cachelock_bench::{KIB, MIB, cache, refresh};
use divan::Bencher;
use tempfile::TempDir;

fn main() {
    divan::main();
}

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn entry(dir: &Path, durability: Durability, len: usize) -> Entry {
    let entry = cache(dir, durability).entry("entry").unwrap();
    refresh(&entry, &vec![7; len]);
    entry
}

#[divan::bench(args = [4 * KIB, MIB, 64 * MIB])]
fn read(bencher: Bencher<'_, '_>, len: usize) {
    let dir = dir();
    let entry = entry(dir.path(), Durability::None, len);
    bencher.bench_local(|| entry.read().unwrap());
}

#[divan::bench]
fn unchanged_reread(bencher: Bencher<'_, '_>) {
    let dir = dir();
    let mut reader = entry(dir.path(), Durability::None, MIB).reader();
    bencher.bench_local(|| reader.read().unwrap());
}

#[divan::bench(args = [Durability::None, Durability::Data, Durability::Full])]
fn refresh_4_kib(bencher: Bencher<'_, '_>, durability: Durability) {
    let dir = dir();
    let entry = entry(dir.path(), durability, 4 * KIB);
    let payload = vec![7; 4 * KIB];
    bencher.bench_local(|| refresh(&entry, &payload));
}

#[divan::bench]
fn lock_and_release(bencher: Bencher<'_, '_>) {
    let dir = dir();
    let cache = cache(dir.path(), Durability::None);
    bencher.bench_local(|| drop(cache.lock().unwrap()));
}
