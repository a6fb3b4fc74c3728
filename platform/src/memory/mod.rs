//! A simulated disk, clock and process table.
//!
//! A [`World`] is one disk and what happens on it; a [`Process`] of it is a [`Platform`]. There are two kinds of world:
//!
//! - [`World::live`]: calls execute at once, from any thread; clocks, threads and waits are the host's. [`native`] is
//!   one process of one such world, for targets that have no files.
//! - [`World::simulated`]: nothing happens but what the test, the *driver*, lets happen. Exactly one simulated thread
//!   runs at any time, and each call is a step before which the thread can be stopped, killed, or overtaken by others. So
//!   every interleaving of the library's steps can be written down as a test, found by a seed, or enumerated.
//!
//! # What is a step
//!
//! Every call that touches the disk, a kernel lock or a watch, every wait and every spawn. It executes atomically, when
//! its thread has the turn. Clocks, randomness, identities, [`Event::set`](crate::Event::set) and the making of events
//! are none, nor is the drop of a handle, unless it gives a kernel lock back.
//!
//! Between two steps a thread runs on. It must not wait there for another simulated thread by other means than the
//! platform, a mutex held across a call for example: the driver says so after a minute.
//!
//! With the cargo feature `coroutines` simulated threads are no threads of the system, and a world belongs to the thread that
//! made it. Nothing else is different, but that switches cost next to nothing.
//!
//! # Time
//!
//! Time stands still while anybody of those that the driver runs can do something (but for
//! [`World::set_step_time`]). When all of them wait, it jumps to the first deadline. Each process's monotonic clock has
//! an origin of its own; the disk's clock is the world's wall clock, from which a process's may be skewed.
//!
//! # Power cuts
//!
//! Each file's content and each directory's names have a volatile and a durable state. At a power cut the test chooses
//! for each change since the last sync whether it survives. What this allows and what is not modelled: see
//! [`World::power_cut`], [`Pending`], [`Keep`]; changes survive each on its own, in any combination, and are applied in
//! order; a rename is one change; modes, owners and times are durable at once.
//!
//! # Example
//!
//! ```
//! use std::path::Path;
//! use cachelock_platform::memory::{Op, World};
//! use cachelock_platform::{Access, Platform};
//!
//! let world = World::simulated();
//! world.plant_dir("/cache");
//! let a = world.process("a");
//! let work = a.clone();
//! let task = world.spawn(&a, "main", move || {
//!     let dir = work.open_dir(Path::new("/cache"))?;
//!     dir.open("stage", Access::CreateNew(0o600))?.close()?;
//!     dir.rename("stage", &*dir, "entry")
//! });
//! world.run_to(&a, |call| call.is(Op::Rename, "stage"));
//! world.remove("/cache/stage");
//! assert!(world.finish(task).is_err(), "the rename finds nothing");
//! ```

use std::sync::{Arc, OnceLock};

use crate::Platform;

mod access;
mod call;
mod content;
mod dirs;
mod disk;
mod durable;
mod files;
mod host;
mod process;
mod random;
mod run;
mod scheduler;
mod state;
mod step;
mod threads;
mod world;

/// Whether all simulated threads of a world are coroutines of one thread of the system, whose thread-local values they share: so
/// with the cargo feature `coroutines`, which another package of a workspace may ask for.
pub const IS_ONE_THREAD: bool = cfg!(feature = "coroutines");

cfg_if::cfg_if! {
    if #[cfg(feature = "coroutines")] {
        mod coroutines;
        use coroutines as carriers;
    } else {
        mod pool;
        use pool as carriers;
    }
}

pub use call::{Call, Op};
pub use durable::{Keep, Pending, PendingOp};
pub use process::Process;
pub use run::{Outcome, Stopped, Target, Task, Unfinished, seeded};
pub use state::Fault;
pub use threads::Runnable;
pub use world::World;

/// The platform of a target without files: a process of a live world that is as old as the program.
#[must_use]
pub fn native() -> Arc<dyn Platform> {
    static NATIVE: OnceLock<Arc<Process>> = OnceLock::new();
    NATIVE
        .get_or_init(|| World::global().process("native"))
        .clone()
}
