//! Runs guests, joined with the component or on the host's locks, and what both implementations of the interface must do.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use cachelock::Cache;
use cachelock_host::Caches;
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, plug};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::sync::Command as Program;
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

pub(crate) struct State {
    pub(crate) caches: Caches,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::default);

/// What `cargo xtask test wasi` puts into the environment.
#[track_caller]
pub(crate) fn given(name: &str) -> OsString {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test wasi`"))
}

/// A file that was built for guests.
#[track_caller]
pub(crate) fn built(name: &str) -> PathBuf {
    let path = Path::new(&given("CACHELOCK_TEST_GUESTS")).join(name);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// The guest in the file `guest` joined with the component, compiled for the program wasmtime.
pub(crate) fn compiled(guest: &str) -> PathBuf {
    let joined = Path::new(env!("CARGO_TARGET_TMPDIR")).join(guest);
    fs::write(&joined, self::joined(guest)).expect("it is ours");
    let compiled = joined.with_extension("cwasm");
    let mut compile = Command::new(given("CACHELOCK_TEST_WASMTIME"));
    compile.arg("compile").arg(&joined).arg("-o").arg(&compiled);
    assert!(compile.status().expect("wasmtime runs").success());
    compiled
}

/// A guest that has run, with all that it still holds.
pub(crate) struct Guest {
    pub(crate) lines: Vec<String>,
    pub(crate) trapped: bool,
    /// Not every test looks into it, but what it holds is held until it goes.
    pub(crate) store: Store<State>,
}

/// Lets `component` go through `steps`, separated by blanks.
#[track_caller]
pub(crate) fn run(
    component: &Component,
    caches: Caches,
    wasi: &mut WasiCtxBuilder,
    steps: &str,
) -> Guest {
    let out = MemoryOutputPipe::new(1 << 20);
    wasi.arg("steps-guest")
        .args(&steps.split_whitespace().collect::<Vec<_>>())
        .stdout(out.clone());
    let (store, ended) = run_command(component, caches, wasi);
    let out = String::from_utf8(out.contents().to_vec()).expect("text");
    Guest {
        lines: out.lines().map(str::to_owned).collect(),
        trapped: ended.is_err(),
        store,
    }
}

/// Runs a command to its end, which may be a trap.
#[track_caller]
pub(crate) fn run_command(
    component: &Component,
    caches: Caches,
    wasi: &mut WasiCtxBuilder,
) -> (Store<State>, wasmtime::Result<Result<(), ()>>) {
    let mut linker = Linker::new(&ENGINE);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker).expect("WASI is linked");
    cachelock_host::add_to_linker(&mut linker, |state: &mut State| &mut state.caches)
        .expect("the caches are linked");
    let state = State {
        caches,
        wasi: wasi.build(),
        table: ResourceTable::new(),
    };
    let mut store = Store::new(&ENGINE, state);
    let program =
        Program::instantiate(&mut store, component, &linker).expect("the guest finds its imports");
    let ended = program.wasi_cli_run().call_run(&mut store);
    (store, ended)
}

/// The guest in the file `guest`, with its import plugged into what the component exports.
pub(crate) fn joined(guest: &str) -> Vec<u8> {
    let mut graph = CompositionGraph::new();
    let mut register = |name: &str, file| {
        let bytes = fs::read(built(file)).expect("readable");
        let package =
            Package::from_bytes(name, None, bytes, graph.types_mut()).expect("a component");
        graph.register_package(package).expect("each is there once")
    };
    let guest = register("guest", guest);
    let provider = register("provider", "cachelock_component.wasm");
    plug(&mut graph, vec![provider], guest).expect("the component exports what the guest imports");
    graph
        .encode(EncodeOptions::default())
        .expect("it can be encoded")
}

/// Asserts that a guest that waits in `refresh` refreshes what somebody else has just refreshed. `run` lets a guest go through
/// steps; `names` is what it calls the caches in `a` and `b` below `dir`.
#[track_caller]
pub(crate) fn assert_refreshes_in_any_case(
    dir: &Path,
    names: [&str; 2],
    run: impl FnOnce(&str) -> Guest,
) {
    let [a, b] = ["a", "b"].map(|name| Cache::open(dir.join(name)).expect("touches nothing"));
    let entry = a.entry("e").expect("a name");
    let refresh = entry.refresh().expect("nobody else is there");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let ready = b.entry("ready").expect("a name");
            let began = Instant::now();
            while ready.read().expect("readable").is_none() {
                assert!(began.elapsed() < Duration::from_secs(60), "no guest begins");
                std::thread::sleep(Duration::from_millis(5));
            }
            // So that it waits by then.
            std::thread::sleep(Duration::from_millis(300));
            refresh.publish().expect("nobody has overtaken it");
        });
        let [a, b] = names;
        let guest = run(&format!(
            "open={b} begin=ready publish open={a} refresh=e write=newer publish read=e"
        ));
        let lines = [
            "ok",
            "ok refresh",
            "ok 1 0",
            "ok",
            "ok refresh",
            "ok",
            "ok 2 5",
            "ok 2 newer",
        ];
        assert_lines(&guest, &lines);
    });
}

/// The guest's lines are these; an error is given by its case.
#[track_caller]
pub(crate) fn assert_lines(guest: &Guest, expected: &[&str]) {
    let lines: Vec<&str> = guest.lines.iter().map(|line| short(line)).collect();
    assert_eq!(lines, expected, "all that it said: {:#?}", guest.lines);
}

/// `Error::Timeout("...")` is `Timeout`.
pub(crate) fn short(line: &str) -> &str {
    match line.strip_prefix("Error::") {
        Some(error) => error.split_once('(').map_or(error, |(case, _)| case),
        None => line,
    }
}
