//! Where a kill has hit, told by what it has left.

use std::fs;

use super::ground::{Fault, Ground};
use crate::payload::origin_of;
use crate::process::pid_in;

/// In the order in which a refresh passes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Nothing is left: it waited, or was between two refreshes.
    Outside,
    /// A claim without a record.
    EmptyClaim,
    /// A claim, and `head` is lower.
    Claim,
    /// The same with a next head.
    NextHead,
    /// It is the holder and has no stage yet, or none any more and nothing published.
    Holding,
    /// A stage of a payload.
    Stage,
    /// And one of a tag.
    Tag,
    /// The tag was renamed, the payload not yet.
    BetweenRenames,
    /// Published, and not yet released.
    Published,
}

impl Phase {
    pub(super) const ALL: [Phase; 9] = [
        Phase::Outside,
        Phase::EmptyClaim,
        Phase::Claim,
        Phase::NextHead,
        Phase::Holding,
        Phase::Stage,
        Phase::Tag,
        Phase::BetweenRenames,
        Phase::Published,
    ];

    /// What the process `pid`, the writer `number`, has left. Nobody else may be at work.
    pub(super) fn of(ground: &Ground, pid: u32, number: u64) -> Result<Phase, Fault> {
        let dir = ground.control_dir();
        let names = ground.control()?;
        let Some(claim) = names.iter().rfind(|name| name.starts_with("claim-")) else {
            return Ok(Phase::Outside);
        };
        let path = dir.join(claim);
        if fs::metadata(&path)?.len() == 0 {
            return Ok(Phase::EmptyClaim);
        }
        if pid_in(&path) != Some(pid) {
            return Ok(Phase::Outside);
        }
        let digits = claim.trim_start_matches("claim-");
        let has = |prefix: String| names.iter().any(|name| name.starts_with(&prefix));
        let ends = |end: &str| {
            let stage = format!("stage-{digits}-");
            let mut stages = names.iter().filter(|name| name.starts_with(&stage));
            stages.any(|name| name.ends_with(end))
        };
        let head = fs::metadata(dir.join("head")).map_or(0, |head| head.len());
        if digits.parse().is_ok_and(|epoch: u64| head < epoch) {
            return Ok(match has(format!("head-{digits}-")) {
                true => Phase::NextHead,
                false => Phase::Claim,
            });
        }
        if ends("-1") {
            return Ok(Phase::Tag);
        }
        let read = ground.entry.read().ok().flatten();
        let generation = read.as_ref().and_then(|read| read.meta().generation);
        if ends("-0") {
            let tag = fs::read_to_string(dir.join("tags/entry"))?;
            let lines = tag.lines();
            let next = lines
                .filter_map(|line| line.strip_prefix("generation ")?.parse().ok())
                .max();
            return Ok(match next > generation {
                true => Phase::BetweenRenames,
                false => Phase::Stage,
            });
        }
        let origin = read.and_then(|read| origin_of(&read).ok());
        let is_its =
            origin.is_some_and(|origin| origin.writer == number && !ground.acknowledged(origin));
        Ok(match is_its {
            true => Phase::Published,
            false => Phase::Holding,
        })
    }
}
