use std::collections::BTreeMap;
use std::fs;

use super::*;

/// A configuration directory, and an environment.
struct World {
    dir: tempfile::TempDir,
    variables: BTreeMap<&'static str, OsString>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("cachelock")).expect("writable");
        World {
            dir,
            variables: BTreeMap::new(),
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(USUAL_FILE)
    }

    fn with_file(self, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.file(), text).expect("writable");
        self
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    fn settings(&self, flags: Flags) -> Result<Settings, Error> {
        let environment = |name: &str| self.variables.get(name).cloned();
        resolve(
            flags,
            &environment,
            Some(self.dir.path().to_owned()),
            &file::read,
        )
    }

    #[track_caller]
    fn error(&self) -> String {
        let error = self.settings(Flags::default()).expect_err("a mistake");
        error.to_string()
    }
}

/// One value for each place.
fn flags() -> Flags {
    Flags {
        timeout: Some(Timeout::TryOnce),
        locking: Some(Locking::Auto),
        lease: Some(Duration::from_secs(1)),
        durability: Some(Durability::None),
        allow_shared: Some(false),
        quiet: Some(true),
        json: Some(false),
    }
}

const VARIABLES: [(&str, &str); 7] = [
    ("CACHELOCK_TIMEOUT", "2s"),
    ("CACHELOCK_LOCKING", "auto"),
    ("CACHELOCK_LEASE", "2"),
    ("CACHELOCK_DURABILITY", "data"),
    ("CACHELOCK_ALLOW_SHARED", "Yes"),
    ("CACHELOCK_QUIET", "off"),
    ("CACHELOCK_JSON", "1"),
];

const FILE: &str = "\
# What is set here is the least important.
lock_timeout = 3
locking = 'lease'

lease = \"3s\"
durability = \"full\"
allow_shared = true
quiet = true
";

/// Values and sources, in the order of [`ALL`].
fn summary(settings: &Settings) -> Vec<(String, Source)> {
    let list = settings.list();
    list.into_iter()
        .map(|(_, value, source)| (value.to_string(), source.clone()))
        .collect()
}

#[test]
fn a_flag_comes_before_the_environment_and_that_before_the_file_and_that_before_the_default() {
    let values = [
        // flag, environment, file, default
        ["\"0\"", "\"2s\"", "\"3s\"", "\"10s\""],
        ["\"auto\"", "\"auto\"", "\"lease\"", "\"auto\""],
        ["\"1s\"", "\"2s\"", "\"3s\"", "\"5s\""],
        ["\"none\"", "\"data\"", "\"full\"", "\"data\""],
        ["false", "true", "true", "false"],
        ["true", "false", "true", "false"],
        ["false", "true", "false", "false"],
    ];
    let lines = [2, 3, 5, 6, 7, 8];
    for combination in 0..8 {
        let [by_flag, by_variable, by_file] = [4, 2, 1].map(|bit| combination & bit != 0);
        let mut world = World::new();
        if by_variable {
            for (name, value) in VARIABLES {
                world = world.with(name, value);
            }
        }
        if by_file {
            world = world.with_file(FILE);
        }
        let flags = if by_flag { flags() } else { Flags::default() };
        let settings = world.settings(flags).expect("no mistake");
        assert_eq!(settings.file_exists, by_file);
        for (index, (found, names)) in summary(&settings).into_iter().zip(ALL).enumerate() {
            let in_file = lines.get(index).filter(|_| by_file);
            let expected = match (by_flag, by_variable, in_file) {
                (true, _, _) => (values[index][0], Source::Flag(names.flag)),
                (_, true, _) => (values[index][1], Source::Variable(names.variable)),
                (_, _, Some(line)) => {
                    let path = world.file();
                    (values[index][2], Source::File { path, line: *line })
                }
                _ => (values[index][3], Source::Default),
            };
            let found = (&*found.0, found.1);
            assert_eq!(found, expected, "{} of {combination:03b}", names.flag);
        }
    }
}

#[test]
fn empty_variables_count_as_not_set() {
    let mut world = World::new().with_file(FILE);
    for (name, _) in VARIABLES {
        world = world.with(name, "");
    }
    let settings = world.settings(Flags::default()).expect("no mistake");
    let from_file = summary(&settings)
        .iter()
        .filter(|(_, source)| matches!(source, Source::File { .. }))
        .count();
    assert_eq!(from_file, 6, "{settings:?}");
}

#[test]
fn a_mistake_in_the_environment_names_the_variable_even_below_a_flag() {
    for (name, _) in VARIABLES {
        let world = World::new().with(name, "soon");
        let error = world.settings(flags()).expect_err("a mistake");
        let message = error.to_string();
        assert!(
            message.contains(name) && message.contains("\"soon\""),
            "{message}"
        );
        assert_eq!(error.path, None);
    }
}

#[test]
fn a_mistake_in_the_file_names_file_line_and_key() {
    for (line, says) in [
        (
            "lock_timeout = 'soon'",
            "`lock_timeout`: \"soon\" is not a duration",
        ),
        (
            "lock_timeout = -1",
            "`lock_timeout`: \"-1\" is not a duration",
        ),
        (
            "lock_timeout = 1.5",
            "`lock_timeout`: the number 1.5 is neither",
        ),
        ("lock_timeout = true", "`lock_timeout`: true is neither"),
        (
            "lock_timeout = 99999999999999999999",
            "`lock_timeout`: the number 99999999999999999999",
        ),
        ("lease = ['5s']", "`lease`: a list is neither"),
        ("lease.of = 1", "`lease`: a table is neither"),
        (
            "lease = 2026-11-27",
            "`lease`: the time 2026-11-27 is neither",
        ),
        ("locking = 'gate'", "`locking`: \"gate\" is none of"),
        (
            "durability = 2",
            "`durability`: the number 2 is not a string",
        ),
        (
            "quiet = 'yes'",
            "`quiet`: the string \"yes\" is neither true nor false",
        ),
        (
            "allow_shared = 1",
            "`allow_shared`: the number 1 is neither",
        ),
        (
            "timeout = 1",
            "there is no setting `timeout`; `lock_timeout` is the nearest",
        ),
        (
            "allow-shared = true",
            "no setting `allow-shared`; `allow_shared` is the nearest",
        ),
        (
            "zzz = 1",
            "no setting `zzz`; there are lock_timeout, locking, lease,",
        ),
        (
            "json = true",
            "`json` cannot be set in a file, only with --json or CACHELOCK_JSON",
        ),
        ("[lock]", "there is no setting `lock`"),
        (r#""new\nline" = 1"#, r"there is no setting `new\nline`"),
        ("lease =", ""),
        ("lease = '5s'\nlease = '6s'", "duplicate key"),
    ] {
        let world = World::new().with_file(format!("# one\n\n{line}\n\n"));
        let message = world.error();
        let at = if says == "duplicate key" { 4 } else { 3 };
        let place = format!("{}, line {at}: ", world.file().display());
        assert!(message.starts_with(&place), "{line}: {message}");
        assert!(message.contains(says), "{line}: {message}");
        assert!(!message.contains('\n'), "{line}: {message}");
    }
}

#[test]
fn the_first_unknown_key_is_named() {
    let world = World::new().with_file("zzz = 1\naaa = 2\n");
    assert!(world.error().contains("line 1: there is no setting `zzz`"));
}

#[test]
fn what_is_no_text_or_no_file_is_an_error() {
    let world = World::new().with_file(b"lease = '5s'\n# \xff\n");
    assert!(world.error().ends_with("line 2: it is not UTF-8"));

    let world = World::new().with_file(vec![b'#'; (1 << 20) + 1]);
    assert!(world.error().contains("more than 1048576 bytes"));

    let world = World::new();
    fs::create_dir(world.file()).expect("writable");
    let message = world.error();
    assert!(message.contains("it is a directory"), "{message}");
    assert!(message.contains("CACHELOCK_CONFIG"), "{message}");
}

#[test]
fn a_file_that_is_named_must_be_there_and_the_usual_one_need_not() {
    let world = World::new();
    let settings = world.settings(Flags::default()).expect("no mistake");
    assert_eq!(
        (settings.file, settings.file_exists),
        (Some(world.file()), false)
    );

    let nowhere = world.dir.path().join("nowhere");
    let world = world.with(FILE_VARIABLE, &nowhere.display().to_string());
    let message = world.error();
    assert!(message.contains("CACHELOCK_CONFIG names it"), "{message}");

    let world = World::new().with_file("nonsense").with(FILE_VARIABLE, "");
    let settings = world.settings(Flags::default()).expect("nothing is read");
    assert_eq!(settings.file, None);

    let world = World::new().with_file("nonsense");
    let named = world.dir.path().join("named");
    fs::write(&named, "lease = '7s'").expect("writable");
    let world = world.with(FILE_VARIABLE, &named.display().to_string());
    let settings = world.settings(Flags::default()).expect("the other is read");
    assert_eq!(settings.lease.value, Duration::from_secs(7));
}

#[test]
fn without_a_home_there_are_defaults() {
    let settings = resolve(Flags::default(), &|_| None, None, &file::read).expect("no mistake");
    assert_eq!(settings.file, None);
    // A home that is a file, as for users without one.
    let world = World::new().with_file("");
    let settings = resolve(Flags::default(), &|_| None, Some(world.file()), &file::read);
    assert!(!settings.expect("no mistake").file_exists);
}
