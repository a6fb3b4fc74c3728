//! What one run is asked to do, and where.

use std::path::{Path, PathBuf};

use cachelock::platform;
use tempfile::TempDir;

/// What was asked for, and what others have built or fetched.
pub(crate) struct Run {
    pub(crate) quick: bool,
    /// Only the groups whose names hold this.
    pub(crate) only: Option<String>,
    /// The document that gets the table.
    pub(crate) write: Option<PathBuf>,
    /// A directory on the disk, for all that is measured there.
    pub(crate) disk: PathBuf,
    pub(crate) tools: Tools,
}

/// What is measured and is no crate. A group whose tools are missing says so and is left out.
#[derive(Default)]
pub(crate) struct Tools {
    pub(crate) wasmtime: Option<PathBuf>,
    pub(crate) guest: Option<PathBuf>,
    pub(crate) component: Option<PathBuf>,
    pub(crate) program: Option<PathBuf>,
    /// Where pip has put `filelock`, and npm `proper-lockfile`.
    pub(crate) python: Option<PathBuf>,
    pub(crate) node: Option<PathBuf>,
}

const MEMORY: &str = "/dev/shm";

impl Run {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut run = Run {
            quick: false,
            only: None,
            write: None,
            disk: std::env::temp_dir(),
            tools: Tools::default(),
        };
        while let Some(word) = words.next() {
            if word == "--quick" {
                run.quick = true;
                continue;
            }
            let tools = &mut run.tools;
            let path = match word.as_str() {
                "--only" => {
                    run.only = Some(words.next().ok_or("--only wants a name")?);
                    continue;
                }
                "--scratch" => &mut Some(PathBuf::new()),
                "--write" => &mut run.write,
                "--wasmtime" => &mut tools.wasmtime,
                "--guest" => &mut tools.guest,
                "--component" => &mut tools.component,
                "--program" => &mut tools.program,
                "--python" => &mut tools.python,
                "--node" => &mut tools.node,
                _ => return Err(format!("{word}: not known")),
            };
            let value = words.next().ok_or(format!("{word} wants a path"))?;
            *path = Some(value.clone().into());
            if word == "--scratch" {
                run.disk = value.into();
            }
        }
        Ok(run)
    }

    pub(crate) fn wants(&self, group: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| group.contains(only.as_str()))
    }

    /// Of those that a long run takes.
    pub(crate) fn rounds(&self, long: usize) -> usize {
        if self.quick { (long / 10).max(2) } else { long }
    }

    /// The file systems to measure on where both count, by their names.
    pub(crate) fn places(&self) -> Vec<(String, PathBuf)> {
        let mut places = vec![(file_system(&self.disk), self.disk.clone())];
        if Path::new(MEMORY).is_dir() && file_system(Path::new(MEMORY)) != places[0].0 {
            places.push((file_system(Path::new(MEMORY)), MEMORY.into()));
        }
        places
    }

    /// Directories for ways that must not share one, removed when dropped.
    pub(crate) fn dirs<const N: usize>(&self, under: &Path, names: [&str; N]) -> Dirs<N> {
        let whole = tempfile::Builder::new()
            .prefix("cachelock-bench-")
            .tempdir_in(under)
            .unwrap();
        let paths = names.map(|name| {
            let path = whole.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        });
        Dirs {
            paths,
            _whole: whole,
        }
    }
}

pub(crate) fn file_system(path: &Path) -> String {
    let dir = platform::native().open_dir(path).unwrap();
    dir.file_system().unwrap().name.to_string()
}

pub(crate) struct Dirs<const N: usize> {
    paths: [PathBuf; N],
    _whole: TempDir,
}

impl<const N: usize> Dirs<N> {
    pub(crate) fn paths(&self) -> [&Path; N] {
        std::array::from_fn(|index| &*self.paths[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Run, String> {
        Run::parse(words.split(' ').map(str::to_owned))
    }

    #[test]
    fn a_run_is_what_its_words_say() {
        let run = parse("--quick --only read --scratch /x --node /n").unwrap();
        assert!(run.quick && run.wants("read") && !run.wants("refresh"));
        assert_eq!(run.disk, Path::new("/x"));
        assert_eq!(run.tools.node.as_deref(), Some(Path::new("/n")));
        assert_eq!((run.rounds(1000), run.rounds(5)), (100, 2));
    }

    #[test]
    fn what_is_not_known_or_not_whole_is_refused() {
        assert!(parse("--fast").is_err());
        assert!(parse("--only").is_err());
        assert!(parse("--node").is_err());
    }
}
