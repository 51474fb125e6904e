//! Who belongs to a group: changing it step by step, and leaving it.
//!
//! A replica begins as a learner, which gets the log and has no vote. Voters are changed all at once, over a
//! joint configuration that needs a majority of the old ones and of the new (section 4.3 of Ongaro's
//! dissertation, "Consensus: Bridging Theory and Practice"), so that no step in between has an even number
//! of them. What is to be done next is for the caller to say, who looks at [`Handle::members`] again after
//! each step; a step that the leader did not live to finish is seen there too.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use openraft::{ChangeMembers, EmptyNode};
use openraft_rt::WatchReceiver;
use quorate_machine::Machine;
use quorate_storage::{Log, Meta};

use crate::checkpoint::Checkpoints;
use crate::handle::{Handle, NOBODY, StartError};
use crate::recovery;
use crate::replica_log::ReplicaLog;

/// Who belongs to a group, as one of its replicas knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The voters: one set, or the old and the new while they are being changed.
    pub voters: Vec<BTreeSet<u64>>,
    /// All members, voters or not.
    pub all: BTreeSet<u64>,
    /// Whether a majority has it in its log, as far as this replica has applied. Until then the next change
    /// would be refused.
    pub is_committed: bool,
}

impl Members {
    /// All that have a vote, also while that changes.
    #[must_use]
    pub fn voting(&self) -> BTreeSet<u64> {
        self.voters.iter().flatten().copied().collect()
    }
}

impl<M: Machine> Handle<M> {
    /// Who belongs to the group, as this replica knows.
    #[must_use]
    pub fn members(&self) -> Members {
        let metrics = self.replica().raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let applied = metrics.last_applied.as_ref().map(|id| id.index);
        let since = stored.log_id().as_ref().map(|id| id.index);
        Members {
            voters: stored.membership().get_joint_config().clone(),
            all: stored.nodes().map(|(node, _)| *node).collect(),
            is_committed: since.is_some() && since <= applied,
        }
    }

    /// Has a node follow this group without counting for its quorum. Returns once it is in the
    /// membership; it catches up by itself.
    ///
    /// # Errors
    /// When this replica does not lead, or another change is under way.
    pub async fn add_learner(&self, node: u64) -> Result<(), StartError> {
        let change = ChangeMembers::AddNodes([(node, EmptyNode {})].into());
        self.change(change).await
    }

    /// Makes these the voters, of members that have caught up; those who were before stay as learners.
    ///
    /// # Errors
    /// When this replica does not lead, or another change is under way.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), StartError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Has these nodes, which have no vote, follow this group no more.
    ///
    /// # Errors
    /// When this replica does not lead, or another change is under way.
    pub async fn remove_learners(&self, nodes: BTreeSet<u64>) -> Result<(), StartError> {
        self.change(ChangeMembers::RemoveNodes(nodes)).await
    }

    async fn change(&self, change: ChangeMembers<u64, EmptyNode>) -> Result<(), StartError> {
        let _alone = self.changing.lock().await;
        let replica = self.replica();
        let _awake = replica.parking.hold();
        replica.parking.awake().await;
        let changed = replica.raft.change_membership(change, true).await;
        changed.map(|_| ()).map_err(|error| StartError::Raft(error.to_string()))
    }

    /// Forgets the state of this replica, which was shut down, but for its vote and for how much it had: should it
    /// come to this node again, it must not vote a second time in a term, nor have one lead that knows nothing of
    /// what it once had. (A replica that was cut off since long before may think still that the two are a
    /// majority.) To be called once no configuration that has this node as a member is in force.
    ///
    /// # Errors
    /// When the log or the checkpoint store fails.
    pub async fn leave(&self) -> io::Result<()> {
        let replica = self.replica();
        forget_but_vote(&replica.log, &replica.checkpoints, SAME_TIMELINE).await
    }
}

/// Whether a group has entries or bodies on this node, or had some that a checkpoint stands for.
#[must_use]
pub fn has_more_than_vote(log: &Log, group: u64) -> bool {
    let stored = ReplicaLog::new(log.clone(), NOBODY, group);
    [stored.group, stored.bodies].into_iter().any(|group| {
        let state = log.state(group);
        state.is_some_and(|state| state.purged.is_some()) || !log.indexes(group).is_empty()
    })
}

/// Forgets what a group that does not run here, and is not to, has left on this node; see [`Handle::leave`].
///
/// # Errors
/// When the log or the checkpoint store fails.
pub async fn leave(log: &Log, meta: &Arc<dyn Meta>, node: u64, group: u64) -> io::Result<()> {
    let stored = ReplicaLog::new(log.clone(), node, group);
    forget_but_vote(&stored, &Checkpoints::new(meta.clone(), group), SAME_TIMELINE).await
}

/// Every replica is on this one, or on a later one.
const SAME_TIMELINE: u64 = 0;

/// Goes on with what a crash has interrupted.
pub(crate) async fn finish_leaving(log: &ReplicaLog, checkpoints: &Checkpoints) -> io::Result<()> {
    match checkpoints.is_leaving().await? {
        Some(timeline) => forget_but_vote(log, checkpoints, timeline).await,
        None => Ok(()),
    }
}

/// Marks a replica as leaving; [`finish_leaving`] does the rest.
pub(crate) async fn begin_to_leave(checkpoints: &Checkpoints, timeline: u64) -> io::Result<()> {
    checkpoints.begin_to_leave(timeline).await
}

/// What is left is on `timeline`, if it was on an earlier one.
pub(crate) async fn forget_but_vote(
    log: &ReplicaLog,
    checkpoints: &Checkpoints,
    timeline: u64,
) -> io::Result<()> {
    checkpoints.begin_to_leave(timeline).await?;
    // In this order: a log that relies on a checkpoint which is gone counts as damage.
    log.reset().await?;
    // Behind the log: one with a history of before and a vote of now would be taken for one of now.
    if log.timeline() < timeline {
        log.save_vote(&recovery::vote_of(timeline)).await?;
    }
    checkpoints.remove().await?;
    checkpoints.has_left().await
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use bytes::Bytes;
    use quorate_storage::{Entry, GroupId, Options, SimDisk, SimMeta, Writer};

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::codec;
    use crate::types::{SnapshotMeta, Vote, log_id};

    const QUEUE: u64 = 1;

    struct Node {
        log: Log,
        writer: Writer,
        meta: Arc<dyn Meta>,
    }

    impl Node {
        fn new() -> Self {
            let (log, writer) =
                Log::open(Arc::new(SimDisk::new(1)), Options::default()).expect("an empty log");
            Self { log, writer, meta: Arc::new(SimMeta::new(1)) }
        }

        fn append(&mut self, term: u64, indexes: std::ops::RangeInclusive<u64>) {
            let entry = |index| Entry { index, term, payload: Bytes::from_static(b"entry") };
            self.log.append(GroupId(QUEUE), indexes.map(entry).collect(), Box::new(|_| {}));
            while self.writer.step() {}
        }

        /// With the log's writer at work.
        async fn done<T>(&mut self, work: impl Future<Output = T>) -> T {
            let mut work = std::pin::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => return done,
                    () = tokio::task::yield_now() => {}
                }
                while self.writer.step() {}
            }
        }

        fn replica(&self) -> (ReplicaLog, Checkpoints) {
            let log = ReplicaLog::new(self.log.clone(), 1, QUEUE);
            (log, Checkpoints::new(self.meta.clone(), QUEUE))
        }

        /// With a history: a vote in term 3, entries up to 9, and a checkpoint of some.
        async fn with_history() -> Self {
            let mut node = Self::new();
            let vote = codec::encode_vote(&Vote::new_committed(3, 1));
            node.log.save_vote(GroupId(QUEUE), vote, Box::new(|_| {}));
            node.append(2, 0..=9);
            let (log, checkpoints) = node.replica();
            let checkpoint = Checkpoint {
                meta: SnapshotMeta { last_log_id: Some(log_id(2, 5)), ..SnapshotMeta::default() },
                state: Bytes::from_static(b"state"),
            };
            checkpoints.save(&checkpoint, Vec::new(), &log).await.expect("a checkpoint");
            node
        }
    }

    #[tokio::test]
    async fn a_replica_that_has_left_keeps_its_vote_and_how_much_it_had() {
        let mut node = Node::with_history().await;
        let vote = node.log.state(GroupId(QUEUE)).expect("known").vote;
        let (log, checkpoints) = node.replica();
        assert_eq!(log.had(), None, "it has what it had");
        node.done(forget_but_vote(&log, &checkpoints, SAME_TIMELINE)).await.expect("left");
        assert!(!has_more_than_vote(&node.log, QUEUE));
        assert!(checkpoints.load().await.expect("a look").is_none());
        // As the next start sees it.
        let (log, _) = node.replica();
        let state = node.log.state(GroupId(QUEUE)).expect("known");
        assert_eq!((state.vote, state.last, state.purged), (vote, None, None));
        assert_eq!(log.had(), Some((2, 9)));
        node.append(2, 0..=8);
        assert_eq!(log.had(), Some((2, 9)), "one is missing");
        assert_eq!(node.replica().0.had(), Some((2, 9)), "after a start in between, too");
        node.append(3, 9..=9);
        assert_eq!(log.had(), None, "an entry of a later term stands for as much");
    }

    #[tokio::test]
    async fn a_replica_that_leaves_twice_keeps_the_most_that_it_had() {
        let mut node = Node::with_history().await;
        for _ in 0..2 {
            let (log, checkpoints) = node.replica();
            node.done(forget_but_vote(&log, &checkpoints, SAME_TIMELINE)).await.expect("left");
            node.append(2, 0..=3);
        }
        assert_eq!(node.replica().0.had(), Some((2, 9)));
    }

    #[tokio::test]
    async fn what_a_crash_has_left_of_a_replica_that_was_leaving_is_not_used() {
        let mut node = Node::with_history().await;
        let (log, checkpoints) = node.replica();
        checkpoints.begin_to_leave(SAME_TIMELINE).await.expect("a mark");
        node.done(log.reset()).await.expect("reset");
        // Here the node ends: a checkpoint is there whose messages are gone.
        let (log, checkpoints) = node.replica();
        assert!(checkpoints.load().await.expect("a look").is_some());
        node.done(finish_leaving(&log, &checkpoints)).await.expect("finished");
        assert!(checkpoints.load().await.expect("a look").is_none());
        assert_eq!(log.had(), Some((2, 9)));
        // Once: what comes then is the replica's next life.
        node.append(2, 0..=9);
        let (log, checkpoints) = node.replica();
        node.done(finish_leaving(&log, &checkpoints)).await.expect("nothing to do");
        assert!(has_more_than_vote(&node.log, QUEUE));
    }
}
