//! A replica's part in who leads, beyond Raft's own timers: parking (see [`parking`](crate::parking)),
//! and taking over from a node that is gone.

use std::time::Duration;

use futures_util::future::join_all;
use openraft::ServerState;
use openraft::raft::{TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft_rt::WatchReceiver;
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;

use crate::parking::Next;
use crate::replica::Replica;
use crate::types::{LogId, Types, Vote, term_of};
use crate::wire::{self, WireError};

/// Longest wait for a replica's answer to being asked to park.
const ASK_LIMIT: Duration = Duration::from_millis(300);
/// No node has this id.
const NOBODY: u64 = 0;

/// A leader whose group could be parked.
#[derive(PartialEq)]
struct Quiet {
    vote: Vote,
    last: LogId,
    /// The replicas that have to be parked with it: those whose nodes are there.
    others: Vec<u64>,
}

impl Replica {
    /// Whether it is parked: it has no timers, since its group is idle and fully replicated.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.parking.is_parked()
    }

    /// Whether it rests: opened, and nobody has needed it yet; see [`Spec::rests`](crate::Spec).
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.parking.is_resting()
    }

    /// What this replica has proposed since it leads came with that, and nobody has used the group yet:
    /// it parks soon.
    pub fn settle(&self) {
        self.parking.settle();
    }

    /// A client needs the group: a replica that rests has its timers from now on.
    pub fn wanted(&self) {
        if self.parking.is_resting() {
            self.parking.touch();
        }
    }

    /// The voters whose nodes are there, this one among them; empty if this replica is none of the
    /// voters, or they are no majority.
    #[must_use]
    pub fn electors(&self) -> Vec<u64> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        if !voters.contains(&self.node) {
            return Vec::new();
        }
        let all = voters.len();
        let there = |voter: &u64| *voter == self.node || self.peers.is_there(*voter);
        let electors: Vec<u64> = voters.into_iter().filter(there).collect();
        if electors.len() * 2 > all { electors } else { Vec::new() }
    }

    /// Asks the other voters whether this replica, which rests, may lead. If not, it goes on resting.
    pub async fn stand(&self) {
        if self.parking.is_resting() && self.may_lead() {
            let _ = self.raft.trigger().elect(true).await;
        }
    }

    /// The node came or went: a leader with a replica there looks after it again.
    pub fn node_changed(&self, node: u64) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let concerned = metrics.membership_config.nodes().any(|(known, _)| *known == node);
        if concerned && metrics.state == ServerState::Leader {
            self.parking.hope();
        }
    }

    /// The group's other voters than `without`, if this replica is one of them and `without` leads as
    /// far as it knows: those who may take over.
    #[must_use]
    pub fn heirs(&self, without: u64) -> Vec<u64> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        // Whom it followed before it rested is no leader any more.
        let follows = metrics.current_leader == Some(without) && !self.parking.is_resting();
        if !follows || self.node == without {
            return Vec::new();
        }
        let voters: Vec<u64> =
            metrics.membership_config.voter_ids().filter(|voter| *voter != without).collect();
        if voters.contains(&self.node) { voters } else { Vec::new() }
    }

    /// The process that leads is gone, as far as this node knows: its lease does not keep this replica
    /// from voting for another, for the rest of the term. Should the leader be heard of all the same,
    /// that does. Whoever asks still has to win over a majority, of which each
    /// goes by what it knows itself; Raft's safety does not rest on leases.
    pub async fn end_lease(&self, of: u64) {
        let vote = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_leader == Some(of)).then_some(metrics.vote)
        };
        if let Some(vote) = vote {
            let released = TransferLeaderRequest::new(vote, NOBODY, None);
            let _ = self.raft.handle_transfer_leader(released).await;
        }
    }

    /// Asks the other voters whether this replica may lead, if `from` still leads as far as it knows and
    /// was not heard of in the meantime; and wakes it.
    pub async fn take_over(&self, from: u64) {
        let leads_on = self.peers.is_there(from) && self.parking.heard_lately();
        if !leads_on && self.may_lead() && !self.heirs(from).is_empty() {
            let _ = self.raft.trigger().elect(true).await;
            self.parking.touch();
        }
    }

    /// Whether it has as much of the log as it ever had.
    pub(crate) fn may_lead(&self) -> bool {
        self.log.had().is_none()
    }

    /// The answer to a vote or pre-vote for one that has less than this replica once had.
    pub(crate) fn refuse_for_less(
        &self,
        request: &VoteRequest<Types>,
    ) -> Option<VoteResponse<Types>> {
        let had = self.log.had()?;
        let theirs = request.last_log_id.as_ref().map(|id| (term_of(id), id.index));
        let vote = self.raft.server_metrics().borrow_watched().vote;
        (theirs < Some(had)).then(|| VoteResponse::new(vote, None, false))
    }

    /// The answer to a pre-vote that needs no look at Raft's state: as long as the leader's node is
    /// there and the leader was heard of, or the two are parked, nobody else is to lead.
    pub(crate) fn refuse_pre_vote(
        &self,
        request: &VoteRequest<Types>,
    ) -> Option<VoteResponse<Types>> {
        if self.parking.is_resting() {
            return None;
        }
        let (vote, leader, last) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let last = metrics.last_applied.filter(|id| metrics.last_log_index == Some(id.index));
            (metrics.vote, metrics.current_leader?, last)
        };
        let parked = self.parking.is_parked();
        if leader == request.vote.leader_id.voted_for {
            // A leader that asks for votes does not lead any more.
            self.parking.touch();
            return None;
        }
        if leader == self.node {
            // Its heartbeats tell the asker. While it is awake, Raft knows whether a majority answers.
            self.parking.touch();
            return parked.then(|| VoteResponse::new(vote, last, false));
        }
        let led = self.peers.is_there(leader) && (parked || self.parking.heard_lately());
        led.then(|| VoteResponse::new(vote, last, false))
    }

    /// The leader asks this replica to park.
    pub(crate) fn park(&self, request: pb::ParkRequest) -> Result<pb::ParkAnswer, WireError> {
        let (vote, last, renewal) = wire::park_from(request)?;
        let leader = vote.leader_id.voted_for;
        let agrees = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let follows = matches!(metrics.state, ServerState::Follower | ServerState::Learner);
            let applied = metrics.last_applied.as_ref();
            follows
                && vote.committed
                && metrics.vote == vote
                && metrics.last_log_index == Some(last.index)
                && applied.map(wire::id_to) == Some(wire::id_to(&last))
        };
        if !agrees || !self.peers.is_there(leader) {
            return Ok(pb::ParkAnswer { parked: false });
        }
        self.parking.park(vote, renewal);
        // Whoever is told now that the leader's node went finds this replica parked; whoever was told
        // before did not.
        if !self.peers.is_there(leader) {
            self.parking.touch();
        }
        let now = self.raft.server_metrics().borrow_watched().vote;
        self.parking.follow(&now);
        Ok(pb::ParkAnswer { parked: self.parking.is_parked() })
    }

    /// Parks the group if it has been idle for long enough; returns when to look again.
    pub(crate) async fn keep_parked(&self, leads: bool) -> Duration {
        match self.parking.next(leads) {
            Next::Wait(wait) => return wait,
            Next::Overdue => {
                tracing::warn!(
                    group = self.group,
                    node = self.node,
                    "parked, and not confirmed: awake"
                );
                self.parking.touch();
                return Duration::ZERO;
            }
            Next::Ask => {}
        }
        if self.quiet().is_none() {
            self.parking.give_up(false);
            return Duration::ZERO;
        }
        let attempt = self.parking.begin();
        let Some(quiet) = self.quiet() else {
            self.parking.give_up(false);
            return Duration::ZERO;
        };
        let request = wire::park_to(&quiet.vote, &quiet.last, self.parking.asked_for());
        let asked = quiet.others.iter().map(|node| self.ask_to_park(*node, request));
        let agreed = join_all(asked).await.into_iter().all(|parked| parked);
        // A node that came or went meanwhile may not have found the leader parked.
        if agreed
            && self.parking.complete(&attempt, quiet.vote)
            && self.quiet().as_ref() == Some(&quiet)
        {
            tracing::debug!(group = self.group, node = self.node, "parked");
        } else {
            self.parking.give_up(!agreed);
        }
        Duration::ZERO
    }

    async fn ask_to_park(&self, node: u64, request: pb::ParkRequest) -> bool {
        let asked = self.peers.call(node, self.group, Body::Park(request));
        let answer = tokio::time::timeout(ASK_LIMIT, asked).await;
        matches!(answer, Ok(Ok(Body::Parked(answer))) if answer.parked)
    }

    /// The leader's state, if nothing is under way: all that is in the log is committed, applied, and
    /// on every replica whose node is there, which are a majority.
    fn quiet(&self) -> Option<Quiet> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_applied?;
        let membership = metrics.membership_config.membership();
        let replication = metrics.replication.as_ref()?;
        let simple = membership.get_joint_config().len() == 1;
        let settled = metrics.last_log_index == Some(last.index);
        if metrics.state != ServerState::Leader || !metrics.vote.committed || !simple || !settled {
            return None;
        }
        let others: Vec<u64> = membership
            .nodes()
            .map(|(node, _)| *node)
            .filter(|node| *node != self.node && self.peers.is_there(*node))
            .collect();
        let matched = |node: &u64| {
            let matched = replication.get(node).and_then(|id| id.as_ref());
            matched.is_some_and(|id| id.index == last.index)
        };
        let voters: Vec<u64> = membership.voter_ids().collect();
        let present =
            voters.iter().filter(|voter| **voter == self.node || others.contains(voter)).count();
        let quiet = others.iter().all(matched) && present * 2 > voters.len();
        quiet.then_some(Quiet { vote: metrics.vote, last, others })
    }
}
