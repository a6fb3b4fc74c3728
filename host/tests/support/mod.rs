//! Runs the guest `steps-guest`, and what both implementations of the interface must do.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use cachelock::Cache;
use cachelock_host::Caches;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::sync::Command;
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

/// A file that was built for guests. `cargo xtask test wasi` builds it, and says where.
#[track_caller]
pub(crate) fn built(name: &str) -> PathBuf {
    let dir = std::env::var_os("CACHELOCK_TEST_GUESTS")
        .expect("CACHELOCK_TEST_GUESTS is the directory with what was built for wasm32-wasip2");
    let path = Path::new(&dir).join(name);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// A guest that has run, with all that it still holds.
pub(crate) struct Guest {
    pub(crate) lines: Vec<String>,
    pub(crate) trapped: bool,
    /// Not every test looks into it, but what it holds is held until it goes.
    #[allow(dead_code)]
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
    let mut linker = Linker::new(&ENGINE);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker).expect("WASI is linked");
    cachelock_host::add_to_linker(&mut linker, |state: &mut State| &mut state.caches)
        .expect("the caches are linked");
    let out = MemoryOutputPipe::new(1 << 20);
    let state = State {
        caches,
        wasi: wasi
            .arg("steps-guest")
            .args(&steps.split_whitespace().collect::<Vec<_>>())
            .stdout(out.clone())
            .build(),
        table: ResourceTable::new(),
    };
    let mut store = Store::new(&ENGINE, state);
    let command =
        Command::instantiate(&mut store, component, &linker).expect("the guest finds its imports");
    let trapped = command.wasi_cli_run().call_run(&mut store).is_err();
    let out = String::from_utf8(out.contents().to_vec()).expect("text");
    Guest {
        lines: out.lines().map(str::to_owned).collect(),
        trapped,
        store,
    }
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
fn short(line: &str) -> &str {
    match line.strip_prefix("Error::") {
        Some(error) => error.split_once('(').map_or(error, |(case, _)| case),
        None => line,
    }
}
