//! What a simulated thread asks of the platform, as the driver sees it before it happens and in the trace afterwards.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Which call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// A new thread begins. [`World::run_until`](super::World::run_until) does not ask about it.
    Start,
    /// [`Platform::open_dir`](crate::Platform::open_dir) (the name is the path) or [`Dir::open_dir`](crate::Dir::open_dir).
    OpenDir,
    /// [`Platform::create_dir_all`](crate::Platform::create_dir_all); the name is the path.
    CreateDirAll,
    /// [`Platform::spawn`](crate::Platform::spawn); the name is the new thread's.
    Spawn,
    /// [`Event::wait_until`](crate::Event::wait_until).
    Wait,
    /// [`Dir::file_system`](crate::Dir::file_system).
    FileSystem,
    /// [`Dir::reopen`](crate::Dir::reopen).
    Reopen,
    /// [`Dir::create_dir`](crate::Dir::create_dir).
    CreateDir,
    /// [`Dir::open`](crate::Dir::open) with [`Access::CreateNew`](crate::Access::CreateNew).
    CreateNew,
    /// [`Dir::open`](crate::Dir::open) with [`Access::Read`](crate::Access::Read).
    OpenRead,
    /// [`Dir::open`](crate::Dir::open) with [`Access::Write`](crate::Access::Write).
    OpenWrite,
    /// [`Dir::rename`](crate::Dir::rename); [`Call::to`] is the new name.
    Rename,
    /// [`Dir::unlink`](crate::Dir::unlink).
    Unlink,
    /// [`Dir::list`](crate::Dir::list).
    List,
    /// [`Dir::stat`](crate::Dir::stat).
    Stat,
    /// [`Dir::sync`](crate::Dir::sync).
    SyncDir,
    /// [`Dir::watch`](crate::Dir::watch).
    Watch,
    /// [`Dir::metadata`](crate::Dir::metadata) or [`File::metadata`](crate::File::metadata).
    Metadata,
    /// [`File::read_at`](crate::File::read_at).
    Read,
    /// [`File::write_at`](crate::File::write_at).
    Write,
    /// [`File::set_len`](crate::File::set_len).
    SetLen,
    /// [`File::sync`](crate::File::sync).
    SyncFile,
    /// [`File::set_mode`](crate::File::set_mode).
    SetMode,
    /// [`File::touch`](crate::File::touch).
    Touch,
    /// [`File::close`](crate::File::close), and the drop of a file that has a kernel lock.
    Close,
    /// [`File::try_lock`](crate::File::try_lock).
    TryLock,
    /// [`File::lock`](crate::File::lock).
    Lock,
    /// [`File::unlock`](crate::File::unlock).
    Unlock,
}

/// One call of one simulated thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The process's name.
    pub process: Arc<str>,
    /// The thread's label; `driver` for a call made from outside of the simulation.
    pub thread: Arc<str>,
    /// Which call.
    pub op: Op,
    /// The directory it works in, by the path it was opened with; empty where there is none.
    pub dir: Arc<str>,
    /// The name of the file, the directory or the new thread; empty where there is none.
    pub name: String,
    /// The new name of a rename.
    pub to: Option<String>,
}

impl Call {
    /// Whether it is `op` on something whose name begins with `prefix`.
    #[must_use]
    pub fn is(&self, op: Op, prefix: &str) -> bool {
        self.op == op && self.name.starts_with(prefix)
    }

    /// Whether it renames something to exactly `to`.
    #[must_use]
    pub fn renames_to(&self, to: &str) -> bool {
        self.op == Op::Rename && self.to.as_deref() == Some(to)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}: {:?}", self.process, self.thread, self.op)?;
        let separator = if self.dir.is_empty() || self.dir.ends_with('/') || self.name.is_empty() {
            ""
        } else {
            "/"
        };
        if !self.dir.is_empty() || !self.name.is_empty() {
            write!(f, " {}{separator}{}", self.dir, self.name)?;
        }
        if let Some(to) = &self.to {
            write!(f, " -> {to}")?;
        }
        Ok(())
    }
}

/// The calls made so far, the newest last.
#[derive(Default)]
pub(super) struct Trace {
    calls: VecDeque<(Duration, Arc<Call>, Result<&'static str, io::ErrorKind>)>,
    pub(super) off: bool,
}

impl Trace {
    /// Older calls than these are forgotten: a long simulation would fill the memory.
    const LIMIT: usize = 20_000;

    pub(super) fn push(
        &mut self,
        at: Duration,
        call: Arc<Call>,
        outcome: Result<&'static str, io::ErrorKind>,
    ) {
        if self.off {
            return;
        }
        if self.calls.len() == Self::LIMIT {
            self.calls.pop_front();
        }
        self.calls.push_back((at, call, outcome));
    }

    /// The last `lines` calls as text, one a line.
    pub(super) fn text(&self, lines: usize) -> String {
        let mut text = String::new();
        for (at, call, outcome) in self
            .calls
            .iter()
            .skip(self.calls.len().saturating_sub(lines))
        {
            let (mark, outcome) = match outcome {
                Ok("") => ("", String::new()),
                Ok(word) => (" = ", (*word).to_owned()),
                Err(kind) => (" ! ", format!("{kind:?}")),
            };
            text.push_str(&format!(
                "{:>12.6} {call}{mark}{outcome}\n",
                at.as_secs_f64()
            ));
        }
        text
    }
}
