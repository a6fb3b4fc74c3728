//! What `wit/` says, in Rust.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "client",
    with: {
        "cachelock:cache/store.cache": crate::store::OpenCache,
        "cachelock:cache/store.refresh": crate::store::OpenRefresh,
        "cachelock:cache/store.snapshot": crate::store::OpenSnapshot,
    },
    imports: { default: trappable },
    trappable_error_type: {
        "cachelock:cache/store.error" => crate::convert::Failure,
    },
});
