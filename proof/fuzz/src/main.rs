//! `fuzz`: libFuzzer over the target that `CACHELOCK_TARGET` names.

#![no_main]

use std::sync::OnceLock;

use cachelock_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("CACHELOCK_TARGET").unwrap_or_default();
        let target = target(&name).unwrap_or_else(|| panic!("CACHELOCK_TARGET={name} is no target"));
        TARGET.get_or_init(|| target);
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(bytes);
        }
    }
);
