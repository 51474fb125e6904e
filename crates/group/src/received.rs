//! What a replica that does not lead has received, as it knows itself: the other end of
//! [`Handle::progress`], as PostgreSQL's `pg_stat_wal_receiver` is that of `pg_stat_replication`.
//!
//! Counted is with an atomic addition for each append that carries entries, and a store for each flush; the rest
//! is put together when somebody asks, so a group that nobody asks about costs nothing but [`Received`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use openraft::EntryPayload;
use openraft_rt::WatchReceiver;
use quorate_machine::Machine;

use crate::handle::Handle;
use crate::types::Entry;

/// Entries that a replica may lack of what it knows to be committed, and still count as streaming: those under way.
const UNDER_WAY: u64 = 8;

/// What a replica counts. There is one for each group of a node.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Bytes of entries, since the replica was opened.
    log_bytes: AtomicU64,
    /// Bytes of states and bodies in snapshots, since then.
    snapshot_bytes: AtomicU64,
    /// Bytes of the transfers under way.
    transfer_bytes: AtomicU64,
    /// Behind the last entry that is on this node's disk.
    flushed: AtomicU64,
    /// Snapshots that are being taken in.
    transfers: AtomicU32,
}

/// A snapshot that is being taken in, until it is dropped.
pub(crate) struct Transfer<'a>(&'a Received);

impl Received {
    /// Of a replica whose log ends on the disk with the entry at `flushed`.
    pub(crate) fn from(flushed: Option<u64>) -> Self {
        let received = Self::default();
        received.flushed(flushed);
        received
    }

    /// Entries were sent to this replica. Ones that it has already count too, as they do where they are sent.
    pub(crate) fn entries(&self, entries: &[Entry]) {
        if !entries.is_empty() {
            self.log_bytes.fetch_add(bytes_of(entries), Ordering::Relaxed);
        }
    }

    /// What is on this node's disk ends with the entry at `last`. In the order of the log's operations.
    pub(crate) fn flushed(&self, last: Option<u64>) {
        self.flushed.store(last.map_or(0, |last| last + 1), Ordering::Relaxed);
    }

    pub(crate) fn begin_transfer(&self) -> Transfer<'_> {
        if self.transfers.fetch_add(1, Ordering::Relaxed) == 0 {
            self.transfer_bytes.store(0, Ordering::Relaxed);
        }
        Transfer(self)
    }
}

impl Transfer<'_> {
    pub(crate) fn took(&self, bytes: usize) {
        self.0.snapshot_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.0.transfer_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.0.transfers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of the commands in entries: what is counted where they are sent and where they are received.
pub(crate) fn bytes_of(entries: &[Entry]) -> u64 {
    let bytes = entries.iter().map(|entry| match &entry.payload {
        EntryPayload::Normal(payload) => payload.commands.len() as u64,
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    });
    bytes.sum()
}

/// What a replica that does not lead is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiving {
    /// It takes in entries as they come.
    Streaming,
    /// It lacks more than some entries under way of what it knows to be committed.
    CatchingUp,
    /// It is being sent a snapshot.
    Snapshot,
    /// The group is idle and needs no messages, or was opened and nobody has needed it since.
    Parked,
    /// It has heard of no leader for longer than the election timeout.
    Away,
}

/// What a replica knows of what it has received. Indexes are `None` before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reception {
    /// The node that it follows, if it knows one.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// Whether this replica leads: then the rest tells of its own log.
    pub leads: bool,
    /// Whether it has a vote, as far as it knows.
    pub voter: bool,
    /// What it is doing.
    pub state: Receiving,
    /// Last entry of its log, on disk or not yet.
    pub received: Option<u64>,
    /// Last entry on its disk, or behind it in a snapshot that is.
    pub flushed: Option<u64>,
    /// Last entry that it knows to be committed, whether it has that or not.
    pub committed: Option<u64>,
    /// Last entry that it has applied.
    pub applied: Option<u64>,
    /// Bytes of entries that came in since this replica was opened.
    pub log_bytes: u64,
    /// Bytes that came in snapshots, since then.
    pub snapshot_bytes: u64,
    /// Bytes so far of the snapshot that is coming in.
    pub transfer_bytes: Option<u64>,
    /// How long ago its leader, on another node, was heard of in this group; `None` = not since it was opened. A parked
    /// group has no messages.
    pub heard: Option<Duration>,
    /// How old its state is at most, as known by the last read that asked the leader.
    pub staleness: Option<Duration>,
}

fn state(
    transfer: bool,
    parked: bool,
    heard: Option<Duration>,
    patience: Duration,
    lacks: u64,
) -> Receiving {
    match heard {
        _ if transfer => Receiving::Snapshot,
        _ if parked => Receiving::Parked,
        Some(heard) if heard <= patience && lacks > UNDER_WAY => Receiving::CatchingUp,
        Some(heard) if heard <= patience => Receiving::Streaming,
        _ => Receiving::Away,
    }
}

impl<M: Machine> Handle<M> {
    /// What this replica has received. Asks nobody, and wakes nothing.
    #[must_use]
    pub fn reception(&self) -> Reception {
        let replica = self.replica();
        let leadership = replica.leadership();
        let (voter, received, committed, applied) = {
            let metrics = replica.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voter = metrics.membership_config.voter_ids().any(|id| id == replica.node);
            let index = |id: &Option<crate::types::LogId>| id.as_ref().map(|id| id.index);
            let committed = index(&metrics.cluster_committed).max(index(&metrics.local_committed));
            (voter, metrics.last_log_index, committed, index(&metrics.last_applied))
        };
        let log = &replica.log;
        let counted = &log.received;
        let purged = log.log.state(log.group).and_then(|state| state.purged);
        let flushed = counted.flushed.load(Ordering::Relaxed).checked_sub(1);
        let transfer = counted.transfers.load(Ordering::Relaxed) > 0;
        let heard = replica.parking.heard_ago();
        let parked = replica.is_parked() || replica.is_resting();
        let lacks = committed.map_or(0, |to| to.saturating_sub(received.unwrap_or(0)));
        Reception {
            leader: leadership.leader,
            term: leadership.term,
            leads: leadership.leads,
            voter,
            state: state(transfer, parked, heard, replica.parking.patience(), lacks),
            received,
            flushed: flushed.max(purged.map(|(index, _)| index)),
            committed,
            applied,
            log_bytes: counted.log_bytes.load(Ordering::Relaxed),
            snapshot_bytes: counted.snapshot_bytes.load(Ordering::Relaxed),
            transfer_bytes: transfer.then(|| counted.transfer_bytes.load(Ordering::Relaxed)),
            heard,
            staleness: self.freshness().age(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Payload, log_id};

    #[test]
    fn a_replica_is_in_one_state_and_only_an_awake_one_can_be_away() {
        const PATIENCE: Duration = Duration::from_millis(750);
        let (fresh, old) = (Some(Duration::from_millis(100)), Some(PATIENCE * 2));
        let of = |transfer, parked, heard, lacks| state(transfer, parked, heard, PATIENCE, lacks);
        assert_eq!(of(false, false, fresh, 0), Receiving::Streaming);
        assert_eq!(of(false, false, fresh, UNDER_WAY), Receiving::Streaming);
        assert_eq!(of(false, false, fresh, UNDER_WAY + 1), Receiving::CatchingUp);
        assert_eq!(of(false, false, old, UNDER_WAY + 1), Receiving::Away);
        assert_eq!(of(false, false, None, 0), Receiving::Away, "it has never heard of one");
        assert_eq!(of(false, true, old, 0), Receiving::Parked, "an idle group is no fault");
        assert_eq!(of(true, false, old, 50), Receiving::Snapshot);
    }

    #[test]
    fn bytes_are_those_of_commands_and_of_each_transfer() {
        let received = Received::from(None);
        let normal = |bytes: usize| EntryPayload::Normal(Payload::new(vec![0; bytes].into()));
        let entry = |index, payload| openraft::Entry { log_id: log_id(1, index), payload };
        received.entries(&[entry(1, normal(100)), entry(2, EntryPayload::Blank)]);
        received.entries(&[entry(3, normal(50))]);
        assert_eq!(received.log_bytes.load(Ordering::Relaxed), 150);
        for bytes in [700, 30] {
            let transfer = received.begin_transfer();
            transfer.took(bytes);
            assert_eq!(received.transfer_bytes.load(Ordering::Relaxed), bytes as u64, "anew");
        }
        assert_eq!(received.snapshot_bytes.load(Ordering::Relaxed), 730);
        assert_eq!(received.transfers.load(Ordering::Relaxed), 0);
    }

    /// There may be ten thousand groups on a node.
    #[test]
    fn a_group_grows_by_forty_bytes() {
        assert_eq!(size_of::<Received>(), 40);
    }
}
