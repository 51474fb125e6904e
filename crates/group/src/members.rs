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
        forget_but_vote(&replica.log, &replica.checkpoints).await
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
    forget_but_vote(&stored, &Checkpoints::new(meta.clone(), group)).await
}

/// Goes on with what a crash has interrupted.
pub(crate) async fn finish_leaving(log: &ReplicaLog, checkpoints: &Checkpoints) -> io::Result<()> {
    match checkpoints.is_leaving().await? {
        true => forget_but_vote(log, checkpoints).await,
        false => Ok(()),
    }
}

async fn forget_but_vote(log: &ReplicaLog, checkpoints: &Checkpoints) -> io::Result<()> {
    checkpoints.begin_to_leave().await?;
    // In this order: a log that relies on a checkpoint which is gone counts as damage.
    log.reset().await?;
    checkpoints.remove().await?;
    checkpoints.has_left().await
}
