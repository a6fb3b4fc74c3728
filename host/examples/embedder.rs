//! An example of an embedder: runs a guest that imports `cachelock:cache/store`, with one cache.
//!
//! `embedder GUEST.wasm DIR`; build a guest with
//! `cargo build --release --target wasm32-wasip2 -p cachelock-example-guest`.

use cachelock_host::{Caches, Limits};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store, format_err};
use wasmtime_wasi::p2::bindings::sync::Command;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

/// What belongs to one guest.
struct State {
    caches: Caches,
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

fn main() -> wasmtime::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [guest, dir] = &arguments[..] else {
        return Err(format_err!("usage: embedder GUEST.wasm DIR"));
    };

    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    // For the guest's standard library: it gets arguments and its output, and no file.
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
    cachelock_host::add_to_linker(&mut linker, |state: &mut State| &mut state.caches)?;

    let state = State {
        // The guest calls it "greetings", wherever it is.
        caches: Caches::new(Limits::default()).grant("greetings", dir),
        wasi: WasiCtx::builder()
            .args(&["guest", "greetings"])
            .inherit_stdout()
            .inherit_stderr()
            .build(),
        table: ResourceTable::new(),
    };
    let mut store = Store::new(&engine, state);
    let component = Component::from_file(&engine, guest)?;
    let command = Command::instantiate(&mut store, &component, &linker)?;
    // Whatever the guest holds is released with `store`, also when this is a trap.
    let ended = command.wasi_cli_run().call_run(&mut store)?;
    ended.map_err(|()| format_err!("the guest failed"))
}
