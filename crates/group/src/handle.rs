//! Starting a replica, and what the rest of the node holds of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::{EmptyNode, RaftLogReader, ServerState, SnapshotPolicy};
use quorate_machine::Machine;
use quorate_machine::planted::{self, Bug};
use quorate_storage::{Log, Meta};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::applier::{EffectsTaken, Event, Running, Shared, Wanted};
use crate::checkpoint::Checkpoints;
use crate::clock::Clock;
use crate::freshness::Freshness;
use crate::keeper::Keeper;
use crate::log_store::LogStore;
use crate::members::finish_leaving;
use crate::network::{Network, Peers, Sent};
use crate::parking::Parking;
use crate::proposer::{self, Answer, COMMANDS_WAITING_MAX, Outcome, Proposal, ProposeError};
use crate::recovery::last_timeline;
use crate::replica::Replica;
use crate::replica_log::ReplicaLog;
use crate::state_machine::{Gauges, StateMachine};
use crate::types::{OnDisk, Position, Raft};
use crate::volumes::Volumes;

/// How long followers may wait to be told of a commit, where nobody waits for them to apply it.
const COMMIT_PATIENCE: Duration = Duration::from_millis(2);

/// Raft's timing.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A leader that is idle says so this often.
    pub heartbeat: Duration,
    /// A follower that hears nothing for between this and a third more stands for election.
    pub election_timeout: Duration,
    /// A group that is idle for so long is parked; `None` = never.
    pub park_after: Option<Duration>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_timeout: Duration::from_millis(750),
            park_after: None,
        }
    }
}

/// What a replica is made of.
pub struct Spec {
    /// The group's id; 0 is the catalog.
    pub group: u64,
    /// This node's id.
    pub node: u64,
    /// The node's log.
    pub log: Log,
    /// Where checkpoints are kept.
    pub meta: Arc<dyn Meta>,
    /// The way to the other nodes.
    pub peers: Arc<dyn Peers>,
    /// Raft's timing.
    pub timing: Timing,
    /// When entries are cut, checkpoints made, and the log let go.
    pub volumes: Volumes,
    /// Which replicas' owners are told of effects.
    pub effects: EffectsAt,
    /// Starts without timers, until anybody needs the group or [`Replica::stand`] has it led: for one
    /// of many that a node opens when it starts.
    pub rests: bool,
}

/// Where effects are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectsAt {
    /// At the replica that leads, and where they are taken ([`Handle::take_effects`]).
    Leader,
    /// At every replica, as it applies.
    EveryReplica,
}

/// A replica that could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its checkpoint or log could not be read.
    #[error("open the replica's state: {0}")]
    Storage(#[from] io::Error),
    /// Raft refused.
    #[error("start Raft: {0}")]
    Raft(String),
    /// A recovery was cut off between the entry that it writes and the vote: in a term of before, the replica would
    /// take entries of before behind it.
    #[error(
        "a recovery of group {group} was cut off before its end{cure}",
        cure = match group {
            0 => ": run `quorate cluster recover --catalog` again on this node, but only if no other node leads the \
                  catalog by now: two would be of the same timeline. Else replace this node",
            _ => "",
        }
    )]
    RecoveryCutOff {
        /// The group.
        group: u64,
    },
}

/// Who leads a group, as this replica knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The leader's node, if known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// Whether this replica leads.
    pub leads: bool,
}

/// How far a replica is, from its leader's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The replica's node.
    pub node: u64,
    /// Counts for the quorum.
    pub voter: bool,
    /// Last log index that it is known to have on its disk; `None` if it has not answered this leader
    /// yet.
    pub matched: Option<u64>,
    /// Entries that it lacks, as far as is known.
    pub lag: u64,
    /// The last log index that was sent to it; `None` for this node, or if nothing was.
    pub sent: Option<u64>,
    /// Bytes of entries that were sent to it since this replica was opened.
    pub sent_log_bytes: u64,
    /// Bytes that were sent to it in snapshots, since then.
    pub sent_snapshot_bytes: u64,
    /// Whether its node is there.
    pub is_there: bool,
}

/// One replica of a group with machine `M`. Cheap to clone.
pub struct Handle<M: Machine> {
    replica: Replica,
    machine: Shared<M>,
    proposals: mpsc::Sender<Proposal<M>>,
    clock: Clock,
    /// When this replica last came to lead, by the group's clock.
    led_since: Arc<AtomicU64>,
    freshness: Freshness,
    sent: Sent,
    takers: Arc<AtomicUsize>,
    /// Held while members or the leader are changed: a leader that hands over to one which has no vote any
    /// more takes nothing in, and never leads again.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
}

impl<M: Machine> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self {
            replica: self.replica.clone(),
            machine: self.machine.clone(),
            proposals: self.proposals.clone(),
            clock: self.clock.clone(),
            led_since: self.led_since.clone(),
            freshness: self.freshness.clone(),
            sent: self.sent.clone(),
            takers: self.takers.clone(),
            changing: self.changing.clone(),
        }
    }
}

fn raft_config(spec: &Spec, rests: bool, may_lead: bool) -> openraft::Config {
    let election = spec.timing.election_timeout.as_millis() as u64;
    openraft::Config {
        cluster_name: format!("group {}", spec.group),
        heartbeat_interval: spec.timing.heartbeat.as_millis() as u64,
        // A follower waits for the leader's lease, which is the maximum, and then for a random time
        // between the two: together between `election` and a third more.
        election_timeout_min: election / 3,
        election_timeout_max: election * 2 / 3,
        install_snapshot_timeout: 60_000,
        max_payload_entries: 1024,
        // Checkpoints and purges follow bytes, which openraft does not count: the keeper asks.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: 20_000,
        // A restarted leader that led on without an election would reuse (term, index) for other
        // content after losing an unflushed tail: acknowledged writes would be lost.
        enable_leader_restore: Some(planted::is(Bug::WrongLeaderRestore)),
        enable_pre_vote: Some(true),
        enable_tick: !rests,
        enable_elect: may_lead,
        // What is allocated for each group. Commands come gathered into few entries.
        api_batch_capacity: 64,
        log_stage_capacity: Some(16),
        ..openraft::Config::default()
    }
}

impl<M: Machine> Handle<M> {
    /// Starts a replica from what its log and checkpoint hold, and the tasks that serve it.
    ///
    /// # Errors
    /// When its state cannot be read. The node must not run without it.
    pub async fn start(
        spec: Spec,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event<M::Effect>>), StartError> {
        let (event_sender, events) = mpsc::unbounded_channel();
        let machine = Shared::<M>::new();
        let leading = Arc::new(AtomicBool::new(false));
        let gauges = Arc::new(Gauges::new(spec.volumes, spec.node));
        let log = Arc::new(ReplicaLog::new(spec.log.clone(), spec.node, spec.group));
        finish_leaving(&log, &Checkpoints::new(spec.meta.clone(), spec.group)).await?;
        if last_timeline(&log) > log.timeline() {
            return Err(StartError::RecoveryCutOff { group: spec.group });
        }
        let checkpoints = Checkpoints::new(spec.meta.clone(), spec.group);

        let takers = Arc::new(AtomicUsize::new(0));
        let wanted = Wanted {
            always: spec.effects == EffectsAt::EveryReplica,
            leading: leading.clone(),
            takers: takers.clone(),
        };
        let clock = Clock::default();
        let running = Running {
            node: spec.node,
            group: spec.group,
            machine: machine.clone(),
            events: event_sender.clone(),
            wanted,
            clock: clock.clone(),
        };
        #[cfg(feature = "planted")]
        let speculation = running.speculation();
        let state_machine =
            StateMachine::open(Box::new(running), log.clone(), checkpoints.clone(), gauges.clone())
                .await?;
        let commit_patience = match spec.effects {
            EffectsAt::Leader => COMMIT_PATIENCE,
            EffectsAt::EveryReplica => Duration::ZERO,
        };
        let sent = Sent::default();
        let network = Network::new(
            spec.group,
            spec.peers.clone(),
            commit_patience,
            sent.clone(),
            spec.volumes.snapshot_bytes_per_second,
        );
        let mut store = LogStore::new(log.clone());
        let resting = store.read_vote().await?.filter(|_| spec.rests);
        let config = raft_config(&spec, resting.is_some(), log.had().is_none())
            .validate()
            .map_err(|error| StartError::Raft(error.to_string()))?;
        #[cfg(feature = "planted")]
        let store = store.speculating(speculation);
        let raft = Raft::new(spec.node, Arc::new(config), network, store, state_machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;

        let parking = Parking::new(spec.group, raft.clone(), spec.timing, gauges.clone(), resting);
        let parking = Arc::new(parking);
        let (proposals, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
        tokio::spawn(proposer::run::<M>(
            raft.clone(),
            clock.clone(),
            leading.clone(),
            spec.volumes.entry_bytes,
            parking.clone(),
            commands,
        ));
        let replica = Replica {
            group: spec.group,
            node: spec.node,
            raft: raft.clone(),
            log,
            checkpoints,
            peers: spec.peers,
            parking,
        };
        let led_since = Arc::new(AtomicU64::new(0));
        let freshness = Freshness::default();
        let handle = Self {
            replica,
            machine,
            proposals,
            clock: clock.clone(),
            led_since,
            freshness,
            sent,
            takers,
            changing: Arc::default(),
        };
        let keeper = Keeper {
            handle: handle.clone(),
            raft,
            gauges,
            leading: leading.clone(),
            clock,
            cut_off_after: spec.timing.election_timeout * 2,
            events: event_sender,
        };
        tokio::spawn(keeper.run());
        Ok((handle, events))
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.replica.group
    }

    /// This node's id.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.replica.node
    }

    /// The part that answers other replicas.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The leader's time, as it stamps entries.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Queues a command of about `bytes` bytes, encoded; waits while too many are queued. Commands
    /// queued by one caller keep their order. `hold` is kept until the outcome is known: room that
    /// the command takes up. The receiver errs if the outcome cannot be known any more; dropping
    /// it withdraws the command if it has not entered the log.
    ///
    /// # Errors
    /// When the replica has stopped.
    pub async fn submit(
        &self,
        command: M::Command,
        bytes: usize,
        hold: Option<OwnedSemaphorePermit>,
    ) -> Result<oneshot::Receiver<Outcome<M>>, ProposeError> {
        self.submit_noting(command, bytes, hold, None).await
    }

    /// The same, and tells `written` when the command is on this node's own disk, if it gets there
    /// before a majority has it.
    ///
    /// # Errors
    /// See [`Handle::submit`].
    pub async fn submit_noting(
        &self,
        command: M::Command,
        bytes: usize,
        hold: Option<OwnedSemaphorePermit>,
        written: Option<oneshot::Sender<OnDisk>>,
    ) -> Result<oneshot::Receiver<Outcome<M>>, ProposeError> {
        let (reply, outcome) = oneshot::channel();
        let proposal = Proposal { command, bytes, written, reply: Answer { reply, _hold: hold } };
        self.proposals.send(proposal).await.map_err(|_| ProposeError::Stopped)?;
        Ok(outcome)
    }

    /// Proposes a small command and waits for its reply, however long a quorum takes.
    ///
    /// # Errors
    /// When this replica does not lead, or stops leading on the way.
    pub async fn propose(&self, command: M::Command) -> Result<M::Reply, ProposeError> {
        self.propose_small(command).await.map(|applied| applied.reply)
    }

    /// The same, and where in the log it was applied.
    ///
    /// # Errors
    /// See [`Handle::propose`].
    pub async fn propose_small(&self, command: M::Command) -> Outcome<M> {
        const SMALL: usize = 256;
        let outcome = self.submit(command, SMALL, None).await?;
        outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Has the owner told of the effects of what is applied from now on, whether this replica leads or not, and
    /// of [`Event::Restored`].
    pub fn take_effects(&self) -> EffectsTaken {
        EffectsTaken::new(self.takers.clone())
    }

    /// Looks at this replica's machine as of what it has applied. Must not block.
    pub fn read<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&self.machine.lock())
    }

    /// The same, with the index of the last entry with commands that it has applied.
    pub fn read_at<R>(&self, look: impl FnOnce(&M, u64) -> R) -> R {
        let machine = self.machine.lock();
        look(&machine, self.machine.index())
    }

    /// Who leads, as this replica knows.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.replica.leadership()
    }

    /// How long ago this replica heard from a leader on another node; `None` if it has not since it was opened.
    #[must_use]
    pub fn heard_ago(&self) -> Option<Duration> {
        self.replica.parking.heard_ago()
    }

    /// The encoded entry at `index`: from memory, or else from the disk.
    ///
    /// # Errors
    /// When it is not stored here (any more), or cannot be read.
    pub async fn entry(&self, index: u64) -> io::Result<Bytes> {
        self.replica.log.body(index).await.map(|entry| entry.payload)
    }

    /// Makes this group exist with the given voters. Each of them may call it, once; all with the
    /// same voters. False if it exists already.
    ///
    /// # Errors
    /// When Raft refuses.
    pub async fn initialize(&self, voters: &BTreeSet<u64>) -> Result<bool, StartError> {
        use openraft::error::{InitializeError, RaftError};
        let members: BTreeMap<u64, EmptyNode> =
            voters.iter().map(|node| (*node, EmptyNode {})).collect();
        match self.replica.raft.initialize(members).await {
            Ok(()) => Ok(true),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(false),
            Err(error) => Err(StartError::Raft(error.to_string())),
        }
    }

    /// The other voters that are there, so could lead; none unless this replica leads.
    #[must_use]
    pub fn heirs(&self) -> Vec<Progress> {
        let could = |p: &Progress| p.voter && p.node != self.node() && p.is_there;
        self.progress().into_iter().filter(could).collect()
    }

    /// Hands leadership to another voter; false if this replica leads still after `patience`, as when the
    /// other does not catch up. From when Raft begins it takes nothing more in, and a voter that lacks an
    /// entry does not stand: so that one is waited for first.
    pub async fn transfer(&self, to: u64, patience: Duration) -> bool {
        /// Entries under way, which it gets before it is told to stand.
        const NEARLY: u64 = 4;
        /// How long to wait for a moment without any.
        const RATHER: Duration = Duration::from_millis(300);
        let Ok(_alone) = tokio::time::timeout(patience, self.changing.lock()).await else {
            return false;
        };
        let _awake = self.replica.parking.hold();
        let step = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        loop {
            let heir = self.heirs().into_iter().find(|seen| seen.node == to);
            let Some(heir) = heir else { return !self.leadership().leads };
            if heir.lag == 0 || (heir.lag <= NEARLY && waited >= RATHER) {
                break;
            }
            if waited >= patience {
                return false;
            }
            tokio::time::sleep(step).await;
            waited += step;
        }
        if self.replica.raft.trigger().transfer_leader(to).await.is_err() {
            return false;
        }
        while waited < patience && self.leadership().leads {
            tokio::time::sleep(step).await;
            waited += step;
        }
        !self.leadership().leads
    }

    pub(crate) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Notes that this replica leads from now on.
    pub(crate) fn leads_from_now(&self) {
        self.led_since.store(self.now_ms(), Ordering::Release);
    }

    /// When this replica last came to lead, as [`Handle::now_ms`].
    pub(crate) fn led_since_ms(&self) -> u64 {
        self.led_since.load(Ordering::Acquire)
    }

    /// Term of the entry that is stored at `index` and applied, bodies that came with a snapshot
    /// included; `None` if there is none (any more).
    #[must_use]
    pub fn term_at(&self, index: u64) -> Option<u64> {
        let log = &self.replica.log;
        let raft = || log.log.term_of(log.group, index).filter(|_| index <= self.replica.applied());
        log.log.term_of(log.bodies, index).or_else(raft)
    }

    /// Up to where Raft's log is purged here. What [`Handle::term_at`] did not find before is behind it, if it
    /// was ever there.
    #[must_use]
    pub fn purged(&self) -> Option<Position> {
        let log = &self.replica.log;
        let (index, term) = log.log.state(log.group)?.purged?;
        Some(Position { term, index })
    }

    /// Payload bytes of the entries behind `index` in this replica's log; of many, of as many as are
    /// counted without holding up the log.
    #[must_use]
    pub fn bytes_behind(&self, index: u64) -> u64 {
        const COUNTED_MAX: usize = 20_000;
        self.replica.log.log.bytes_from(self.replica.log.group, index + 1, COUNTED_MAX)
    }

    /// The last index of this replica's log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        use openraft_rt::WatchReceiver;
        self.replica.raft.metrics().borrow_watched().last_log_index.unwrap_or(0)
    }

    /// How far each replica is; empty unless this replica leads.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        use openraft_rt::WatchReceiver;
        let metrics = self.replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return Vec::new();
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let replication = metrics.replication.clone().unwrap_or_default();
        metrics
            .membership_config
            .nodes()
            .map(|(node, _)| {
                let matched = replication.get(node).and_then(|id| id.as_ref().map(|id| id.index));
                let sent = self.sent.to(*node);
                Progress {
                    node: *node,
                    voter: voters.contains(node),
                    matched,
                    lag: last.saturating_sub(matched.unwrap_or(0)),
                    // A new leader has sent less than it knows of.
                    sent: (sent.last.map(|sent| sent.min(last)).max(matched))
                        .filter(|_| *node != metrics.id),
                    sent_log_bytes: sent.log_bytes,
                    sent_snapshot_bytes: sent.snapshot_bytes,
                    is_there: *node == metrics.id || self.replica.peers.is_there(*node),
                }
            })
            .collect()
    }

    /// Stops the replica; its state stays.
    pub async fn shutdown(&self) {
        // Nobody is to wait for one that stopped to leave its rest.
        self.replica.wanted();
        if let Err(error) = self.replica.raft.shutdown().await {
            tracing::warn!(group = self.id(), %error, "the replica did not end cleanly");
        }
        self.replica.checkpoints.close().await;
        #[cfg(madsim)]
        if let Some(observer) = crate::sim::World::current().observer() {
            observer.ended(self.node(), self.id());
        }
    }

    /// Stops the replica and forgets its state for ever.
    ///
    /// # Errors
    /// When the log or the checkpoint store fails.
    pub async fn remove(&self) -> io::Result<()> {
        self.shutdown().await;
        // In this order: a log that relies on a checkpoint which is gone counts as damage.
        self.replica.log.remove().await?;
        self.replica.checkpoints.remove().await
    }
}

/// The groups that have anything stored in a node's log, running or not.
#[must_use]
pub fn stored_groups(log: &Log) -> BTreeSet<u64> {
    ReplicaLog::stored(log)
}

/// The node of a replica that does not run.
pub(crate) const NOBODY: u64 = 0;

/// Forgets the state of a group that does not run here, for ever.
///
/// # Errors
/// When the log or the checkpoint store fails.
pub async fn forget(log: &Log, meta: &Arc<dyn Meta>, group: u64) -> io::Result<()> {
    ReplicaLog::new(log.clone(), NOBODY, group).remove().await?;
    Checkpoints::new(meta.clone(), group).remove().await
}

/// The groups whose log was purged behind a checkpoint that is not there: their state is lost on
/// this node.
///
/// # Errors
/// When a checkpoint cannot be read.
pub async fn without_checkpoint(log: &Log, meta: &Arc<dyn Meta>) -> io::Result<Vec<u64>> {
    let mut lost = Vec::new();
    for group in stored_groups(log) {
        let state = log.state(quorate_storage::GroupId(group));
        let relies = state.is_some_and(|state| state.purged.is_some());
        if relies && Checkpoints::new(meta.clone(), group).load().await?.is_none() {
            lost.push(group);
        }
    }
    Ok(lost)
}
