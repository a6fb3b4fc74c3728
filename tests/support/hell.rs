//! Keys and names that try to be somebody else's, or to break what they are given to. The same ones for the same seed.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::HashSet;

/// The longest key that an entry can have.
pub(crate) const KEY_MAX: usize = 16 * 1024;

/// Random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Different keys that have one XXH3-128 and so one file; another one for each `n`.
///
/// In the loop over long inputs a lane adds `low * high` of (input ^ secret) and, to its neighbour, the input. With `low` = 0
/// in two stripes their `high` halves count by their sum alone.
pub(crate) fn colliding(n: u32) -> Vec<u8> {
    let mut key = vec![b'k'; 256];
    let mut lane = |at: usize, secret: [u8; 4], high: u32| {
        key[at..at + 4].copy_from_slice(&secret);
        key[at + 4..at + 8].copy_from_slice(&high.to_le_bytes());
    };
    // The first bytes of the default secret, and those that the second stripe meets.
    lane(0, [0xb8, 0xfe, 0x6c, 0x39], n);
    lane(64, [0x7c, 0x01, 0x81, 0x2c], n.wrapping_neg());
    key
}

/// Segments of names and keys that mean something somewhere.
const EVIL: [&str; 80] = [
    "a",
    "b",
    "A",
    "b.txt",
    "x~1",
    "",
    ".",
    "..",
    "...",
    ". .",
    ".. ",
    "~",
    "-rf",
    "*",
    "?",
    "$HOME",
    "%2e%2e",
    "%00",
    "CON",
    "con.txt",
    "Aux",
    "nul ",
    "PRN.a.b",
    "COM1",
    "com1 .txt",
    "COM\u{b9}",
    "COM0",
    "com10",
    "LPT9.x",
    "CONIN$",
    "a:b",
    "C:",
    "a::$DATA",
    "a\\b",
    "\\\\?\\C:",
    "\0",
    "a\0b",
    "\n",
    "a\rb",
    "\t",
    "\u{1b}[2J",
    "\u{7f}",
    "\u{85}",
    "\u{202e}gpj",
    "\u{feff}",
    "\u{2028}",
    "x.",
    "x ",
    " x",
    "x. ",
    "\u{e9}",
    "e\u{301}",
    "\u{212b}",
    "A\u{30a}",
    "Stra\u{df}e",
    "STRASSE",
    "\u{130}",
    "i\u{307}",
    "\u{fb01}",
    "fi",
    "\u{1f980}",
    "\u{10ffff}",
    "\u{fffd}",
    ".cachelock",
    ".CACHELOCK",
    ".CacheLock",
    ".cachelock.",
    ".cachelock ",
    ".cacheloc\u{212a}",
    ".cache\u{200c}lock",
    "\u{feff}.cachelock",
    "CACHEL~1",
    "cachel~12",
    "cachelock-keys",
    "tags",
    "head",
    "cache.lock",
    "claim-1",
    "stage-1",
    ".hidden",
];

/// `count` different keys from hell.
pub(crate) fn keys(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let mut seen = HashSet::new();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut add = |keys: &mut Vec<Vec<u8>>, key: Vec<u8>| {
        if key.len() <= KEY_MAX && seen.insert(key.clone()) {
            keys.push(key);
        }
    };
    for evil in EVIL {
        add(&mut keys, evil.into());
    }
    for byte in 0..=u8::MAX {
        add(&mut keys, vec![byte]);
        add(&mut keys, vec![byte; KEY_MAX - usize::from(byte)]);
    }
    add(&mut keys, (0..=u8::MAX).collect());
    // Prefixes of each other, and some that differ in their last byte only.
    let long = random.bytes(KEY_MAX);
    for len in (0..1100).chain(KEY_MAX - 50..=KEY_MAX) {
        add(&mut keys, long[..len].into());
    }
    for last in 0..=u8::MAX {
        add(&mut keys, [&long[..KEY_MAX - 1], &[last]].concat());
    }
    while keys.len() < count {
        let key = match random.below(4) {
            0 => name(&mut random).into_bytes(),
            1 => {
                let len = 1 << random.below(12);
                let len = random.below(len);
                random.bytes(len)
            }
            2 => [&**random.of(&keys), random.of(&EVIL).as_bytes()].concat(),
            _ => almost(random.of(&keys).clone(), &mut random),
        };
        add(&mut keys, key);
    }
    keys.truncate(count);
    keys
}

/// Another key that something sloppy might take for this one.
fn almost(mut key: Vec<u8>, random: &mut Random) -> Vec<u8> {
    if key.is_empty() {
        return key;
    }
    let at = random.below(key.len());
    match random.below(5) {
        0 => key[at] ^= 1 << random.below(8),
        1 => key.make_ascii_uppercase(),
        2 => key.insert(at, 0),
        3 => drop(key.remove(at)),
        _ => key = String::from_utf8_lossy(&key).to_lowercase().into_bytes(),
    }
    key
}

/// `count` names from hell, some of them twice.
pub(crate) fn names(seed: u64, count: usize) -> Vec<String> {
    let mut random = Random(seed);
    let alone = EVIL.iter().map(|&evil| evil.to_owned());
    let beside = ["a/b", "a/b/c", "b.txt/x", "sub/a", "sub"].map(str::to_owned);
    let mut names: Vec<String> = alone.chain(beside).collect();
    names.resize_with(count, || name(&mut random));
    names
}

fn name(random: &mut Random) -> String {
    let depth = match random.below(50) {
        0 => random.below(400),
        1..10 => 3,
        10..30 => 2,
        _ => 1,
    };
    let segments: Vec<String> = (0..depth).map(|_| segment(random)).collect();
    let mut name = segments.join("/");
    if random.one_in(40) {
        name.insert(0, '/');
    }
    if random.one_in(40) {
        name.push('/');
    }
    name
}

fn segment(random: &mut Random) -> String {
    match random.below(8) {
        0 => random.of(&EVIL).to_string(),
        1 => format!("{}{}", random.of(&EVIL), random.of(&EVIL)),
        // About the longest: 255 bytes fit.
        2 if random.one_in(4) => {
            let unit = *random.of(&["x", "\u{e9}", "\u{1f980}"]);
            unit.repeat((250 + random.below(10)) / unit.len())
        }
        2 | 3 => {
            let len = 1 + random.below(12);
            (0..len).map(|_| character(random)).collect()
        }
        _ => format!("{:x}", random.below(4096)),
    }
}

fn character(random: &mut Random) -> char {
    let limit = *random.of(&[0x80, 0x300, 0x3000, 0x11_0000]);
    // Surrogates are none.
    u32::try_from(random.below(limit))
        .ok()
        .and_then(char::from_u32)
        .unwrap_or('\u{fffd}')
}
