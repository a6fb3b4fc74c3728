//! The block writes of a device as they were recorded, and the disks that a power cut may leave of them.
//!
//! The format is that of Linux's dm-log-writes: a first sector, then for each entry a sector that describes it, and its data.

use std::collections::BTreeSet;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;

use crate::random::Random;

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Where it goes on the disk, in bytes.
    at: usize,
    /// Where its bytes are in the log.
    data: Range<usize>,
    /// How long the log was with it in it.
    end: usize,
    /// Whether all that came before it is on the disk for good.
    flushes: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// A moment, and which of the writes before it that were not flushed have reached the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// How many entries had been made.
    pub(super) made: usize,
    /// How long the log was then.
    pub(super) len: u64,
    /// Of these, the ones that are lost.
    pub(super) lost: BTreeSet<usize>,
}

impl Log {
    /// # Errors
    /// These bytes are no such log, or a part of one.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let word = |at: usize| -> Result<u64, String> {
            let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
            word.map(u64::from_le_bytes)
                .ok_or_else(|| format!("the log ends before byte {at}"))
        };
        let size = |at: usize| -> Result<usize, String> {
            usize::try_from(word(at)?).map_err(|error| error.to_string())
        };
        if word(0)? != MAGIC {
            return Err("it is no log of block writes".to_owned());
        }
        let sector = word(24)? as u32;
        if sector as usize != SECTOR {
            return Err(format!("its sectors have {sector} bytes"));
        }
        let mut entries = Vec::new();
        let mut next = SECTOR;
        for _ in 0..word(16)? {
            let (at, sectors, flags) = (size(next)?, size(next + 8)?, word(next + 16)?);
            let data = next + SECTOR..next + SECTOR + sectors * SECTOR;
            if flags & (DISCARD | FUA) != 0 {
                return Err(format!(
                    "an entry of a kind that nobody makes here: {flags}"
                ));
            }
            if data.end > bytes.len() {
                return Err("the log ends within an entry".to_owned());
            }
            next = data.end;
            entries.push(Entry {
                at: at * SECTOR,
                data,
                end: next,
                flushes: flags & FLUSH != 0,
            });
        }
        Ok(Self { bytes, entries })
    }

    /// Every prefix of the log that ends after `begin` bytes, and as many with some unflushed writes lost, as `random` draws them.
    pub(super) fn cuts(&self, begin: u64, random: &mut Random) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut unflushed = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.flushes {
                unflushed.clear();
                continue;
            }
            unflushed.push(index);
            if (entry.end as u64) < begin {
                continue;
            }
            let (made, len) = (index + 1, entry.end as u64);
            let none = BTreeSet::new();
            cuts.push(Cut {
                made,
                len,
                lost: none,
            });
            // Of one write, both ways are prefixes.
            if unflushed.len() > 1 {
                let lost = unflushed.iter().copied().filter(|_| random.one_in(2));
                let lost: BTreeSet<usize> = lost.collect();
                if !lost.is_empty() {
                    cuts.push(Cut { made, len, lost });
                }
            }
        }
        cuts
    }

    /// Makes of `disk`, which is empty, what is there after `cut` of one that began as `base`.
    pub(super) fn write_image(
        &self,
        base: &[u8],
        cut: &Cut,
        disk: &mut (impl Write + Seek),
    ) -> io::Result<()> {
        let mut put = |at: usize, bytes: &[u8]| {
            disk.seek(SeekFrom::Start(at as u64))?;
            disk.write_all(bytes)
        };
        // Most of it is empty, and stays a hole.
        for (index, block) in base.chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                put(index * BLOCK, block)?;
            }
        }
        for (index, entry) in self.entries[..cut.made].iter().enumerate() {
            if !cut.lost.contains(&index) {
                put(entry.at, &self.bytes[entry.data.clone()])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A log of writes of one sector each, `(sector, fill)`; `None` is a flush.
    fn log(of: &[Option<(u64, u8)>]) -> Log {
        let sector = |words: [u64; 4]| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.resize(SECTOR, 0);
            bytes
        };
        let mut bytes = sector([MAGIC, 1, of.len() as u64, SECTOR as u64]);
        for entry in of {
            match entry {
                Some((at, fill)) => {
                    bytes.extend(sector([*at, 1, 0, 0]));
                    bytes.extend([*fill; SECTOR]);
                }
                None => bytes.extend(sector([0, 0, FLUSH, 0])),
            }
        }
        Log::parse(bytes).expect("it is one")
    }

    #[test]
    fn prefixes_are_all_there_and_only_unflushed_writes_are_lost() {
        let log = log(&[
            Some((0, 1)),
            Some((1, 2)),
            None,
            Some((0, 3)),
            Some((1, 4)),
            Some((2, 5)),
        ]);
        let base = vec![0; 3 * SECTOR];
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            for cut in log.cuts(0, &mut Random::new(seed)) {
                let mut image = Cursor::new(base.clone());
                log.write_image(&base, &cut, &mut image)
                    .expect("it has room");
                let image = image.into_inner();
                seen.insert([0, 1, 2].map(|sector| image[sector * SECTOR]));
            }
        }
        let before = [[1, 0, 0], [1, 2, 0], [0, 2, 0], [0, 0, 0]];
        let after = (0..8u8).map(|bits| {
            let is_there = |bit: u8| bits & (1 << bit) != 0;
            [
                if is_there(0) { 3 } else { 1 },
                if is_there(1) { 4 } else { 2 },
                if is_there(2) { 5 } else { 0 },
            ]
        });
        assert_eq!(seen, before.into_iter().chain(after).collect());
    }

    #[test]
    fn only_what_comes_after_the_beginning_is_cut() {
        let log = log(&[Some((0, 1)), None, Some((0, 2)), Some((0, 3))]);
        let begin = log.entries[2].end as u64;
        let cuts = log.cuts(begin, &mut Random::new(1));
        assert!(cuts.iter().all(|cut| cut.made > 2), "{cuts:?}");
        assert!(cuts.iter().any(|cut| cut.made == 3), "{cuts:?}");
    }

    #[test]
    fn what_is_no_log_is_said() {
        assert!(Log::parse(vec![0; 4096]).is_err());
        let whole = log(&[Some((0, 1))]).bytes;
        assert!(Log::parse(whole[..whole.len() - 1].to_vec()).is_err());
    }
}
