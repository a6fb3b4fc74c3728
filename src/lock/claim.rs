//! The record in a claim file: who holds the lease of an epoch, and that the holder is alive.
//!
//! Observers compare raw bytes over time; what the record *says* decides only how long they wait (the lease's length,
//! released or not) and whether a native holder can be known to be dead (kind, boot, gate). Its times are for people.
//! It always has [`RECORD_LEN`] bytes, so that a beat rewrites it in place and never cuts it.

use std::fmt;
use std::time::{Duration, SystemTime};

use cachelock_platform::{FileId, GUEST, cut};

use crate::text::{self, Writer};
use crate::time;

/// The length of every complete record. One sector: no system that we know writes less at once.
pub(crate) const RECORD_LEN: usize = 512;

/// What is read of a claim at most: a record, and a byte that shows that it is longer than that.
pub(crate) const RECORD_READ: usize = RECORD_LEN + 1;

/// No recorded lease holds others up for longer: 10 minutes.
pub(crate) const LEASE_MAX: Duration = Duration::from_secs(600);

const FORMAT: &str = "claim 1";

/// The longest host name that is recorded, in bytes before escaping; a record must stay within its length.
const HOST_MAX: usize = 64;

/// How a holder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With the kernel lock on this gate file: whoever has that lock knows that the holder is dead.
    Gated(FileId),
    /// With the lease alone: a guest, or a native where kernel locks cannot be trusted. Only expiry tells.
    LeaseOnly,
    /// As lease-only, by somebody who waited for the gate for a whole lease and saw its holder stand still.
    Bypass,
}

/// A claim's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) epoch: u64,
    pub(crate) nonce: u128,
    pub(crate) kind: Kind,
    pub(crate) released: bool,
    pub(crate) beat: u64,
    pub(crate) lease: Duration,
    pub(crate) since: SystemTime,
    pub(crate) pid: Option<u32>,
    pub(crate) boot: Option<u128>,
    pub(crate) host: Option<String>,
}

impl Claim {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(FORMAT);
        writer.line("state", if self.released { "released" } else { "held" });
        writer.number("epoch", self.epoch);
        writer.hex("nonce", self.nonce);
        writer.number("beat", self.beat);
        writer.number("lease_ms", time::millis(self.lease));
        writer.number("since_ms", time::to_unix_ms(self.since));
        match self.kind {
            Kind::Gated(gate) if !GUEST => {
                writer.line("gate", &format!("{}:{}", gate.device, gate.inode));
            }
            Kind::Gated(_) | Kind::LeaseOnly => {}
            Kind::Bypass => writer.line("bypass", "yes"),
        }
        if let Some(pid) = self.pid {
            writer.number("pid", pid);
        }
        if let Some(boot) = self.boot {
            writer.hex("boot", boot);
        }
        if let Some(host) = &self.host {
            writer.line("host", &plain_host(host));
        }
        let mut bytes = writer.finish().into_bytes();
        debug_assert!(
            bytes.len() < RECORD_LEN,
            "a record of {} bytes",
            bytes.len()
        );
        bytes.resize(RECORD_LEN - 1, b' ');
        bytes.push(b'\n');
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() != RECORD_LEN {
            return Err(format!("it does not have {RECORD_LEN} bytes"));
        }
        let mut state = None;
        let mut epoch = None;
        let mut nonce = None;
        let mut lease = None;
        let mut claim = Claim {
            epoch: 0,
            nonce: 0,
            kind: Kind::LeaseOnly,
            released: false,
            beat: 0,
            lease: Duration::ZERO,
            since: SystemTime::UNIX_EPOCH,
            pid: None,
            boot: None,
            host: None,
        };
        text::parse(bytes, FORMAT, &mut |key, value| {
            match key {
                "state" => state = Some(value),
                "epoch" => epoch = Some(text::number(key, value)?),
                "nonce" => nonce = Some(text::hex(key, value)?),
                "beat" => claim.beat = text::number(key, value)?,
                "lease_ms" => lease = Some(Duration::from_millis(text::number(key, value)?)),
                "since_ms" => claim.since = time::from_unix_ms(text::number(key, value)?),
                "gate" => claim.kind = Kind::Gated(gate_id(value)?),
                "bypass" => claim.kind = Kind::Bypass,
                "pid" => claim.pid = Some(text::number(key, value)?),
                "boot" => claim.boot = Some(text::hex(key, value)?),
                "host" => claim.host = Some(plain_host(&text::unescape(value)?)),
                _ => {}
            }
            Ok(())
        })?;
        claim.released = match state {
            Some("held") => false,
            Some("released") => true,
            _ => return Err("its state is neither held nor released".into()),
        };
        claim.epoch = epoch.ok_or("its epoch is missing")?;
        claim.nonce = nonce.ok_or("its nonce is missing")?;
        claim.lease = lease.ok_or("its lease is missing")?.min(LEASE_MAX);
        Ok(claim)
    }

    pub(crate) fn holder(&self) -> Holder {
        Holder {
            pid: self.pid,
            host: self.host.clone(),
            since: self.since,
            gated: matches!(self.kind, Kind::Gated(_)),
            epoch: self.epoch,
            lease: self.lease,
        }
    }
}

/// A host name is ASCII by its standard; anything else is cut to what surely fits and moves no terminal's cursor.
fn plain_host(host: &str) -> String {
    let plain = host.chars().filter(char::is_ascii_graphic);
    plain.take(HOST_MAX).collect()
}

fn gate_id(value: &str) -> Result<FileId, String> {
    let (device, inode) = cut(value, b':').ok_or("its gate is not a device and an inode")?;
    Ok(FileId {
        device: text::number("gate", device)?,
        inode: text::number("gate", inode)?,
    })
}

/// Who holds the lease, as its record says. For people: nothing may be decided by it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The holder's process number on its machine; `None` for a guest in a sandbox.
    pub pid: Option<u32>,
    /// The holder's machine.
    pub host: Option<String>,
    /// When it acquired, by its own wall clock.
    pub since: SystemTime,
    /// Whether it also has the kernel lock.
    pub gated: bool,
    /// Its epoch.
    pub epoch: u64,
    /// How long it may stand still before others take over.
    pub lease: Duration,
}

impl fmt::Display for Holder {
    /// `process 4711 on host build-3 since 2026-11-23 09:14:07 UTC`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("a sandboxed guest")?,
        }
        if let Some(host) = &self.host {
            write!(f, " on host {host}")?;
        }
        write!(f, " since {}", time::utc(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Claim {
        Claim {
            epoch: u64::MAX,
            nonce: u128::MAX,
            kind: Kind::Gated(FileId {
                device: u64::MAX,
                inode: u128::MAX,
            }),
            released: false,
            beat: u64::MAX,
            lease: LEASE_MAX,
            since: time::from_unix_ms(u64::MAX >> 12),
            pid: Some(u32::MAX),
            boot: Some(u128::MAX),
            host: Some("h".repeat(HOST_MAX)),
        }
    }

    #[test]
    fn the_largest_record_fits_and_comes_back() {
        let claim = sample();
        let bytes = claim.encode();
        assert_eq!(bytes.len(), RECORD_LEN);
        assert_eq!(Claim::decode(&bytes).as_ref(), Ok(&claim));
        let hostile = Claim {
            host: Some("é\n ".repeat(500)),
            ..claim
        };
        assert_eq!(hostile.encode().len(), RECORD_LEN);
    }

    #[test]
    fn the_lease_of_a_record_is_capped() {
        let claim = Claim {
            lease: Duration::from_secs(1_000_000),
            ..sample()
        };
        assert_eq!(Claim::decode(&claim.encode()).unwrap().lease, LEASE_MAX);
    }

    #[test]
    fn a_forged_host_cannot_write_to_a_terminal() {
        let claim = Claim {
            host: Some("hhh".to_owned()),
            ..sample()
        };
        let text = String::from_utf8(claim.encode()).unwrap();
        let body = text
            .split("check ")
            .next()
            .unwrap()
            .replace("host ", "host %1b[2J%0aroot:");
        let check = xxhash_rust::xxh3::xxh3_64(body.as_bytes());
        let mut forged = format!("{body}check {check:016x}\n").into_bytes();
        forged.resize(RECORD_LEN, b' ');
        let holder = Claim::decode(&forged).unwrap().holder().to_string();
        assert!(holder.contains("on host [2Jroot:hhh"), "{holder:?}");
        assert!(!holder.contains(char::is_control), "{holder:?}");
    }

    #[test]
    fn torn_records_are_unreadable_and_not_misread() {
        let held = sample().encode();
        let released = Claim {
            released: true,
            ..sample()
        }
        .encode();
        for cut in 1..RECORD_LEN {
            let mut torn = held[..cut].to_vec();
            torn.extend_from_slice(&released[cut..]);
            // Torn within the padding it is still one of the two.
            if let Ok(claim) = Claim::decode(&torn) {
                let whole = claim == sample()
                    || claim
                        == Claim {
                            released: true,
                            ..sample()
                        };
                assert!(whole, "torn at {cut} was read as {claim:?}");
            }
        }
        assert!(Claim::decode(&[]).is_err());
        assert!(Claim::decode(&[0; RECORD_LEN]).is_err());
    }
}
