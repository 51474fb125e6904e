//! openraft's state machine: applies entries to the group's machine, and makes and installs
//! checkpoints.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use quorate_machine::planted::{self, Bug};
use tokio::sync::Notify;

use crate::applier::Applier;
use crate::checkpoint::{Checkpoint, Checkpoints, SnapshotData};
use crate::replica_log::ReplicaLog;
use crate::types::{LogId, Replies, SnapshotMeta, StoredMembership, Types};
use crate::volumes::Volumes;

pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotData>;

/// What the state machine lets the group's keeper see.
pub(crate) struct Gauges {
    pub(crate) volumes: Volumes,
    /// Unix milliseconds of the machine's next deadline; `u64::MAX` = none.
    pub(crate) deadline_ms: AtomicU64,
    /// Bytes and entries applied since the last checkpoint.
    pub(crate) bytes: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) applied: AtomicU64,
    /// Where in the log the recent megabytes lie.
    recent: Mutex<Recent>,
    pub(crate) checkpointed: AtomicU64,
    /// Rung when one of them asks for attention.
    pub(crate) bell: Notify,
}

/// Steps in which [`Recent`] measures.
const STEPS: u64 = 8;

/// Log indexes at steps of an eighth of the bytes that are kept, over the last of those.
#[derive(Default)]
struct Recent {
    steps: VecDeque<u64>,
    bytes: u64,
}

impl Recent {
    fn add(&mut self, index: u64, bytes: u64, kept_bytes: u64) {
        let step = (kept_bytes / STEPS).max(1);
        self.bytes += bytes;
        while self.bytes >= step {
            self.bytes -= step;
            self.steps.push_back(index);
        }
        while self.steps.len() as u64 > STEPS {
            self.steps.pop_front();
        }
    }

    /// The newest index that has as many bytes behind it as are kept, or 0.
    fn passed(&self) -> u64 {
        let full = self.steps.len() as u64 == STEPS;
        self.steps.front().filter(|_| full).copied().unwrap_or(0)
    }
}

impl Gauges {
    pub(crate) fn new(volumes: Volumes, node: u64) -> Self {
        let volumes = volumes.of_node(node);
        Self {
            volumes,
            deadline_ms: AtomicU64::new(u64::MAX),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            recent: Mutex::default(),
            checkpointed: AtomicU64::new(0),
            bell: Notify::new(),
        }
    }

    /// Up to where Raft's log may go: covered by a checkpoint, and far enough behind that a
    /// follower that was away for a moment goes on from its own position.
    pub(crate) fn purge_point(&self) -> u64 {
        let applied = self.applied.load(Ordering::Acquire);
        let passed = self.recent.lock().expect("no panic while held").passed();
        let behind = passed.max(applied.saturating_sub(self.volumes.kept_entries));
        behind.min(self.checkpointed.load(Ordering::Acquire))
    }

    pub(crate) fn checkpoint_due(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.volumes.checkpoint_bytes
            || self.entries.load(Ordering::Relaxed) >= self.volumes.checkpoint_entries
    }
}

/// The one that applies.
pub struct StateMachine {
    applier: Box<dyn Applier>,
    log: Arc<ReplicaLog>,
    checkpoints: Checkpoints,
    gauges: Arc<Gauges>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl StateMachine {
    /// Starts from the last checkpoint, or from nothing.
    pub(crate) async fn open(
        mut applier: Box<dyn Applier>,
        log: Arc<ReplicaLog>,
        checkpoints: Checkpoints,
        gauges: Arc<Gauges>,
    ) -> io::Result<Self> {
        let (mut applied, mut membership) = (None, StoredMembership::default());
        if let Some(checkpoint) = checkpoints.load().await? {
            applier.restore(&checkpoint.state, checkpoint.index()).map_err(io::Error::other)?;
            applied = checkpoint.meta.last_log_id;
            membership = checkpoint.meta.last_membership;
            let index = applied.as_ref().map_or(0, |id| id.index);
            gauges.checkpointed.store(index, Ordering::Relaxed);
            gauges.applied.store(index, Ordering::Relaxed);
            log.checkpointed(index, applier.live());
            #[cfg(madsim)]
            tell_restored(&log, index);
        }
        Ok(Self { applier, log, checkpoints, gauges, applied, membership })
    }

    fn apply_one(
        &mut self,
        payload: EntryPayload<crate::Payload, u64, openraft::EmptyNode>,
        id: LogId,
    ) -> io::Result<Replies> {
        let index = id.index;
        let expected = self.applied.as_ref().map_or(0, |id| id.index + 1);
        if index != expected {
            return Err(io::Error::other(format!(
                "apply: entry {index} came where {expected} was due"
            )));
        }
        self.applied = Some(id);
        #[cfg(madsim)]
        self.tell_world(&payload, &id);
        match payload {
            EntryPayload::Blank => Ok(Replies(Box::new(()))),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(self.applied, membership);
                Ok(Replies(Box::new(())))
            }
            EntryPayload::Normal(payload) => {
                let bytes = payload.commands.len() as u64;
                self.gauges.bytes.fetch_add(bytes, Ordering::Relaxed);
                let mut recent = self.gauges.recent.lock().expect("no panic while held");
                recent.add(index, bytes, self.gauges.volumes.kept_bytes);
                drop(recent);
                self.applier.apply(index, payload.commands).map_err(|error| {
                    io::Error::other(format!("apply the entry at index {index}: {error}"))
                })
            }
        }
    }

    #[cfg(madsim)]
    fn tell_world(
        &self,
        payload: &EntryPayload<crate::Payload, u64, openraft::EmptyNode>,
        id: &LogId,
    ) {
        let Some(observer) = crate::sim::World::current().observer() else { return };
        let body = match payload {
            EntryPayload::Normal(payload) => &payload.commands[..],
            EntryPayload::Blank | EntryPayload::Membership(_) => &[],
        };
        let (node, group) = (self.log.node, self.log.group.0);
        observer.applied(node, group, crate::types::term_of(id), id.index, body);
    }

    /// Rings the keeper's bell if it has something to do sooner than it knows.
    fn note_progress(&self, entries: u64) {
        self.gauges.entries.fetch_add(entries, Ordering::Relaxed);
        self.gauges
            .applied
            .store(self.applied.as_ref().map_or(0, |id| id.index), Ordering::Release);
        let deadline = self.applier.next_deadline_ms().unwrap_or(u64::MAX);
        let before = self.gauges.deadline_ms.swap(deadline, Ordering::AcqRel);
        if deadline < before || self.gauges.checkpoint_due() {
            self.gauges.bell.notify_one();
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        let mut applied = self.applied;
        if let Some(id) = applied.as_mut().filter(|_| planted::is(Bug::ApplyTwice)) {
            id.index = id.index.saturating_sub(1);
        }
        Checkpoint {
            meta: SnapshotMeta { last_log_id: applied, last_membership: self.membership.clone() },
            state: Bytes::from(self.applier.snapshot()),
        }
    }
}

#[cfg(madsim)]
fn tell_restored(log: &ReplicaLog, index: u64) {
    if let Some(observer) = crate::sim::World::current().observer() {
        observer.restored(log.node, log.group.0, index);
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut count = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let replies = self.apply_one(entry.payload, entry.log_id)?;
            if let Some(responder) = responder {
                responder.send(replies);
            }
            count += 1;
        }
        self.note_progress(count);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.gauges.bytes.store(0, Ordering::Relaxed);
        self.gauges.entries.store(0, Ordering::Relaxed);
        Builder {
            checkpoint: self.checkpoint(),
            live: self.applier.live(),
            log: self.log.clone(),
            checkpoints: self.checkpoints.clone(),
            gauges: self.gauges.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let checkpoint = Checkpoint { meta: meta.clone(), state: snapshot.state };
        self.applier.restore(&checkpoint.state, checkpoint.index()).map_err(io::Error::other)?;
        self.checkpoints.save(&checkpoint, self.applier.live(), &self.log).await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.gauges.checkpointed.fetch_max(checkpoint.index(), Ordering::AcqRel);
        #[cfg(madsim)]
        tell_restored(&self.log, checkpoint.index());
        self.note_progress(0);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let current = self.checkpoints.current(&self.log).await?;
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Makes a checkpoint durable, beside the state machine that goes on.
pub struct Builder {
    checkpoint: Checkpoint,
    live: Vec<std::ops::RangeInclusive<u64>>,
    log: Arc<ReplicaLog>,
    checkpoints: Checkpoints,
    gauges: Arc<Gauges>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        self.checkpoints.save(&self.checkpoint, self.live.clone(), &self.log).await?;
        self.gauges.checkpointed.fetch_max(self.checkpoint.index(), Ordering::AcqRel);
        self.gauges.bell.notify_one();
        let data = SnapshotData::local(self.checkpoint.state.clone(), &self.log, self.live.clone());
        Ok(Snapshot { meta: self.checkpoint.meta.clone(), snapshot: data })
    }
}
