//! Deliberate defects, for the tests that show that the tests can fail.
//!
//! Each is a change to the lease protocol that looks harmless and is not. A test replays the trace that it breaks on:
//! with the rules as they are the trace passes, with this one defect it fails. The cargo feature `mutations` turns the
//! switch on; without it [`Context::mutated`](crate::context::Context::mutated) is `false` at compile time.

#![cfg_attr(
    not(feature = "mutations"),
    expect(unreachable_pub, reason = "public in test builds only")
)]

/// One change to the rules, named as in `docs/architecture.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// A stage is checked before it is created, but not after.
    StageNotChecked,
    /// `head` is renamed without the check.
    HeadNotChecked,
    /// The check looks at `head` first and at the next claim then.
    CheckReversed,
    /// Only the stages of the epoch before are fenced.
    FenceOneEpoch,
    /// `head` is renamed before the fence.
    HeadBeforeFence,
    /// Whoever gives up unlinks its claim although `head` is lower.
    LoserUnlinks,
    /// An entry is removed by unlinking it.
    RemoveByUnlink,
    /// The new tag's `previous` is the old tag's `next`, whatever the payload is.
    PreviousFromNext,
    /// The state of tag and payload is read before acquiring.
    StateReadEarly,
    /// `previous` wins when a payload matches both records.
    PreviousWins,
    /// The gate is released before the claim.
    GateReleasedFirst,
    /// The gate's identity is not compared.
    GateNotCompared,
    /// A waiter at the gate does not look at `head` and claim.
    GateWaitBlind,
    /// An unreadable record waits out a whole lease.
    EmptyWaitsLease,
    /// The tag is read after the payload was read to its end.
    TagReadLate,
    /// Once the tag was read, nobody looks whether the entry still is the payload that was opened.
    PayloadNotCompared,
    /// A holder unlinks the claims above its own that its fence has listed, for a power loss must have left them.
    LaterClaimsCollected,
    /// Whoever finds the lease free takes it, whoever else has waited longer.
    NoCourtesy,
    /// A holder never rewrites its claim.
    NoBeat,
    /// The payload's stage is renamed without a sync, whatever the durability.
    NoSync,
    /// No directory is synced, whatever the durability.
    NoDirectorySync,
    /// The payload is renamed before its tag.
    TagAfterPayload,
    /// A stage whose sync has failed is published all the same.
    SyncErrorSwallowed,
}
