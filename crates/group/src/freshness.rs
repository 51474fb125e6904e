//! How old a replica's state is at most, without clocks that agree.
//!
//! A replica asks the leader for its *read index*: how far the log was committed when the leader last proved
//! that it leads. Once the replica has applied that far, its state has everything that was committed before
//! it asked, by its own clock (Ongaro's dissertation, section 6.4). One answer serves all readers
//! that are content with it; those that are not share the next one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::raft::AppendEntriesRequest;
use openraft_rt::WatchReceiver;
use quorate_machine::Machine;
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;
use tokio::time::Instant;

use crate::handle::Handle;
use crate::proposer::ProposeError;
use crate::replica::{Replica, took_in};
use crate::types::Vote;
use crate::wire;

/// How long a leader waits to be proven.
const PROOF_LIMIT: Duration = Duration::from_secs(1);

/// As of when a replica's state is known to be complete.
#[derive(Clone, Default)]
pub(crate) struct Freshness(Arc<Inner>);

#[derive(Default)]
struct Inner {
    as_of: Mutex<Option<Instant>>,
    /// Who asks the leader.
    turn: tokio::sync::Mutex<()>,
}

impl Freshness {
    fn get(&self, since: Instant) -> Option<Instant> {
        self.0.as_of.lock().expect("no panic while held").filter(|as_of| *as_of >= since)
    }

    /// How old the replica's state is at most; `None` = no read has asked the leader yet.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.0.as_of.lock().expect("no panic while held").map(|as_of| as_of.elapsed())
    }

    fn set(&self, as_of: Instant) {
        *self.0.as_of.lock().expect("no panic while held") = Some(as_of);
    }
}

impl<M: Machine> Handle<M> {
    /// Waits until this replica has applied everything that was committed before `since`, as far as is known
    /// without asking again, and tells as of when its state is complete: that, or later.
    ///
    /// # Errors
    /// When no leader answers. Callers set the limit.
    pub async fn complete_as_of(&self, since: Instant) -> Result<Instant, ProposeError> {
        let freshness = self.freshness();
        if let Some(as_of) = freshness.get(since) {
            return Ok(as_of);
        }
        let _turn = freshness.0.turn.lock().await;
        if let Some(as_of) = freshness.get(since) {
            return Ok(as_of);
        }
        let asked = Instant::now();
        let index = self.read_index().await?;
        self.applied_at_least(index).await?;
        freshness.set(asked);
        Ok(asked)
    }

    async fn read_index(&self) -> Result<u64, ProposeError> {
        let replica = self.replica();
        let leadership = replica.leadership();
        let leader = match leadership.leader {
            Some(_) if leadership.leads => return replica.read_index().await,
            Some(leader) if leader != self.node() => leader,
            _ => {
                replica.wanted();
                return Err(ProposeError::NotLeader { leader: None });
            }
        };
        match replica.peers.call(leader, self.id(), Body::ReadIndex(pb::Done {})).await {
            // The leader that this replica knows may lead after a recovery by now.
            Ok(Body::ReadIndexed(answer)) if answer.timeline == replica.timeline() => {
                Ok(answer.index)
            }
            _ => Err(ProposeError::Unknown),
        }
    }

    /// Waits until this replica has applied the entry at `index`, however long that takes.
    ///
    /// # Errors
    /// When the replica has stopped.
    pub async fn applied_at_least(&self, index: u64) -> Result<(), ProposeError> {
        let mut metrics = self.replica().raft.metrics();
        loop {
            let applied = metrics.borrow_and_update().last_applied.map_or(0, |id| id.index);
            if applied >= index {
                return Ok(());
            }
            metrics.changed().await.map_err(|_| ProposeError::Stopped)?;
        }
    }

    /// Waits until this replica has applied something beyond `index`, at most for `limit`.
    ///
    /// # Errors
    /// When the replica has stopped.
    pub async fn applied_beyond(&self, index: u64, limit: Duration) -> Result<(), ProposeError> {
        let applied = self.applied_at_least(index + 1);
        tokio::time::timeout(limit, applied).await.unwrap_or(Ok(()))
    }
}

impl Replica {
    /// How far the log is committed, as this replica knows if it is proven to lead.
    ///
    /// openraft's own proof is not relied upon. An answer to an append counts there for every later request that ends
    /// at the same entry, so one that comes late, from before another leader was elected, can count for a request sent
    /// since (`InflightAppendQueue::drain_acked` in 0.10.0-alpha.37): a leader that was cut off told its readers that
    /// they were up to date. It gives the index; the proof is a round of requests that follows it.
    pub(crate) async fn read_index(&self) -> Result<u64, ProposeError> {
        use openraft::LinearizerOption;
        use openraft::error::{LinearizableReadError, RaftError};
        let _awake = self.parking.hold();
        // From before the index: if this replica leads in a later term by then, the old one is not confirmed.
        let vote = self.raft.metrics().borrow_watched().vote;
        if !vote.committed || vote.leader_id.voted_for != self.node {
            // A candidate is asked, or one that has just won.
            return Err(ProposeError::NotLeader { leader: None });
        }
        match self.raft.get_read_linearizer(LinearizerOption::new(None, true)).await {
            Ok(linearizer) => {
                let proof = tokio::time::timeout(PROOF_LIMIT, self.prove_leadership(vote));
                proof.await.unwrap_or(Err(ProposeError::Unknown))?;
                Ok(linearizer.read_log_id().index())
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(ProposeError::NotLeader { leader: to.leader_id })
            }
            Err(RaftError::APIError(_)) => Err(ProposeError::Unknown),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
        }
    }

    /// Asks the voters whether they follow this leader still; of each configuration that is in force, more than half
    /// must.
    async fn prove_leadership(&self, vote: Vote) -> Result<(), ProposeError> {
        let configs = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().get_joint_config().clone()
        };
        let beat = AppendEntriesRequest {
            vote,
            prev_log_id: None,
            leader_commit: None,
            entries: Vec::new(),
        };
        let beat = wire::append_to(&beat);
        let voters: BTreeSet<u64> = configs.iter().flatten().copied().collect();
        let others = voters.into_iter().filter(|node| *node != self.node);
        let mut asked: FuturesUnordered<_> = others
            .map(|node| {
                let answer = self.peers.call(node, self.group, Body::Append(beat.clone()));
                async move { (node, answer.await) }
            })
            .collect();
        let mut following = BTreeSet::from([self.node]);
        loop {
            let is_majority =
                |config: &BTreeSet<u64>| config.intersection(&following).count() > config.len() / 2;
            if configs.iter().all(is_majority) {
                return Ok(());
            }
            match asked.next().await {
                Some((node, Ok(answer))) if took_in(&answer) => drop(following.insert(node)),
                Some(_) => {}
                None => return Err(ProposeError::Unknown),
            }
        }
    }
}
