//! Why a queue's replicas are where they are: the rules of [`placement`](super::placement), asked again now.
//!
//! The catalog keeps no history, so this does not tell what was thought when a replica was placed. It tells what
//! holds today: which nodes placement would choose if the queue was made now, which rule keeps each other node
//! out, and which rule the present placement breaks, with who would mend it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::command::{Node, Queue};
use super::placement::{Pick, Rank};
use super::{Catalog, QueueName};
use crate::NodeId;

/// A queue's placement, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The queue as the catalog wants it.
    pub queue: Queue,
    /// All nodes of the cluster, and those that hold the queue and are none any more, by id.
    pub nodes: Vec<Explained>,
    /// Where the voters would be if the queue was made now, in order of ids; empty if too few nodes are there.
    pub anew: Vec<NodeId>,
    /// Why the preferred leader is that one.
    pub leader: LeaderReason,
    /// Rules that the placement breaks.
    pub findings: Vec<Finding>,
}

/// One node, from the view of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The node.
    pub id: NodeId,
    /// Its zone.
    pub zone: String,
    /// What it is to the queue.
    pub role: Role,
    /// Replicas of other queues that it carries.
    pub replicas: u64,
    /// Other queues of which it is the preferred leader.
    pub leaders: u64,
    /// Why it is there, or is not.
    pub reason: Reason,
}

/// What a node is to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds a replica that votes.
    Voter,
    /// It holds a replica without a vote.
    Observer,
    /// It held one, and goes when it is not needed for a majority any more.
    Leaving,
    /// It holds none.
    None,
}

/// Why a node holds a queue, or does not. Where several are true, the rule that decides first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Placement would choose it now.
    Chosen {
        /// It would be the first, second … to be chosen.
        pick: u32,
        /// Replicas of the queue that its zone would have by then.
        in_zone: u32,
    },
    /// Placement would choose these now, but replicas stay where they are.
    Stays {
        /// Those that would be chosen and do not vote.
        rather: Vec<NodeId>,
    },
    /// An observer: no rule places those, an operator does.
    ByOperator,
    /// It held the queue; its replica is let go of when the members of the group are changed.
    Goes,
    /// It is not there, so it is no candidate.
    NotThere,
    /// It is to leave the cluster, and gets nothing.
    LeavesCluster,
    /// It is being drained, and gets a replica only where there are too few other nodes.
    Drained,
    /// Its zone has more of the queue's replicas than that of the node chosen before it.
    ZoneUsed {
        /// Chosen nodes in its zone.
        by: Vec<NodeId>,
    },
    /// It carries more replicas than the node that was chosen last.
    MoreLoaded {
        /// That node.
        than: NodeId,
        /// Replicas that that one carries.
        carries: u64,
    },
    /// It is as good as the node that was chosen last, which has the lower id.
    HigherId {
        /// That node.
        than: NodeId,
    },
    /// Too few nodes are there, so nothing would be chosen.
    TooFewNodes,
}

/// Why the preferred leader is that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderReason {
    /// Of the voters it is the preferred leader of the fewest other queues, or the first of those.
    Fewest,
    /// It stays, though another would be chosen now.
    Stays {
        /// That one.
        rather: NodeId,
    },
    /// It is being drained, so it is not to lead until that is taken back.
    Drained,
}

/// A rule that the placement breaks. `to`: the node that is to take the place; none if nobody can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A zone has two voters or more beyond what another zone has, where a node could take one.
    ZoneCrowded {
        /// The node whose replica would move.
        node: NodeId,
        /// Where to.
        to: NodeId,
    },
    /// A voter's node is not there. It is replaced when it has been gone for long enough.
    NotThere {
        /// The node.
        node: NodeId,
        /// Who would take its place.
        to: Option<NodeId>,
    },
    /// A voter's node is to leave the cluster.
    LeavesCluster {
        /// The node.
        node: NodeId,
        /// Who takes its place.
        to: Option<NodeId>,
    },
    /// Most voters are not there: the queue confirms nothing and cannot be moved.
    NoMajority,
}

impl Catalog {
    /// Explains where a queue is, with those nodes taken for being there that `there` names; `None` for no such
    /// queue.
    #[must_use]
    pub fn explain(&self, name: &QueueName, there: &[NodeId]) -> Option<Explanation> {
        let queue = self.queue(name)?;
        // As if it was not there yet: it is no load to itself.
        let mut loads = self.loads.clone();
        loads.remove(queue);
        let there: BTreeSet<NodeId> = there.iter().copied().collect();
        let known = self.nodes.values().filter(|node| there.contains(&node.id));
        let candidates: Vec<&Node> = known.filter(|node| !node.leaving).collect();
        let picks = loads.pick(&candidates, queue.replicas.len()).unwrap_or_default();
        let mut anew: Vec<NodeId> = picks.iter().map(|pick| pick.node.id).collect();
        anew.sort_unstable();
        let mut ids: BTreeSet<NodeId> = self.nodes.keys().copied().collect();
        ids.extend(queue.holders());
        let look = Look { queue, there: &there, picks: &picks };
        let explained = |id: NodeId| {
            let node = self.nodes.get(&id);
            let load = loads.of(id);
            let rank = |zones: &[&str]| node.map(|node| loads.rank(node, zones));
            Explained {
                id,
                zone: node.map_or_else(String::new, |node| node.zone.clone()),
                role: look.role(id),
                replicas: load.replicas,
                leaders: load.leaders,
                reason: look.reason(id, node, rank),
            }
        };
        let voters = queue.replicas.iter().filter_map(|id| self.nodes.get(id));
        let rather = loads.preferred_leader(voters);
        let drained = self.nodes.get(&queue.preferred_leader).is_some_and(|node| node.draining);
        let leader = match rather {
            _ if drained => LeaderReason::Drained,
            Some(rather) if rather != queue.preferred_leader => LeaderReason::Stays { rather },
            _ => LeaderReason::Fewest,
        };
        Some(Explanation {
            queue: queue.clone(),
            nodes: ids.into_iter().map(explained).collect(),
            anew,
            leader,
            findings: self.findings(queue, &there),
        })
    }

    fn findings(&self, queue: &Queue, there: &BTreeSet<NodeId>) -> Vec<Finding> {
        let candidates: Vec<NodeId> = there.iter().copied().collect();
        let mut findings = Vec::new();
        let voting = queue.replicas.iter();
        let is_led =
            voting.clone().filter(|id| there.contains(id)).count() * 2 > queue.replicas.len();
        if !is_led {
            findings.push(Finding::NoMajority);
        }
        for &node in voting {
            // Without a majority nothing takes a place.
            let to = self.substitute(queue, node, &candidates).filter(|_| is_led);
            if self.nodes.get(&node).is_none_or(|node| node.leaving) {
                findings.push(Finding::LeavesCluster { node, to });
            } else if !there.contains(&node) {
                findings.push(Finding::NotThere { node, to });
            }
        }
        // What is lost comes first: who replaces it may be the one that would spread the rest.
        if findings.is_empty() {
            findings.extend(self.crowded(queue, &candidates));
        }
        findings
    }

    /// The voter whose move to another zone would spread the queue better, as the rule has it.
    fn crowded(&self, queue: &Queue, candidates: &[NodeId]) -> Option<Finding> {
        let zone = |id: &NodeId| self.nodes.get(id).map(|node| node.zone.as_str());
        let in_zone = |of: Option<&str>| queue.replicas.iter().filter(|id| zone(id) == of).count();
        // Those of the most crowded zone first; of them, rather one that is not to lead, and that carries most.
        let mut voters: Vec<NodeId> = queue.replicas.clone();
        voters.sort_by_key(|id| {
            let leads = *id == queue.preferred_leader;
            (Reverse(in_zone(zone(id))), leads, Reverse(self.loads.replicas(*id)), *id)
        });
        voters.into_iter().find_map(|node| {
            let to = self.substitute(queue, node, candidates)?;
            let better = in_zone(zone(&to)) + 1 < in_zone(zone(&node));
            better.then_some(Finding::ZoneCrowded { node, to })
        })
    }
}

/// What the judgement of each node rests on.
struct Look<'a> {
    queue: &'a Queue,
    there: &'a BTreeSet<NodeId>,
    picks: &'a [Pick<'a>],
}

impl Look<'_> {
    fn role(&self, id: NodeId) -> Role {
        match id {
            id if self.queue.replicas.contains(&id) => Role::Voter,
            id if self.queue.observers.contains(&id) => Role::Observer,
            id if self.queue.leaving.contains(&id) => Role::Leaving,
            _ => Role::None,
        }
    }

    fn reason(
        &self,
        id: NodeId,
        node: Option<&Node>,
        rank: impl Fn(&[&str]) -> Option<Rank>,
    ) -> Reason {
        let role = self.role(id);
        match role {
            Role::Observer => return Reason::ByOperator,
            Role::Leaving => return Reason::Goes,
            Role::Voter | Role::None => {}
        }
        let Some(node) = node.filter(|node| !node.leaving) else { return Reason::LeavesCluster };
        if !self.there.contains(&id) {
            return Reason::NotThere;
        }
        if let Some(at) = self.picks.iter().position(|pick| pick.node.id == id) {
            return Reason::Chosen { pick: at as u32 + 1, in_zone: self.picks[at].rank.in_zone };
        }
        if role == Role::Voter && !self.picks.is_empty() {
            let chosen = self.picks.iter().map(|pick| pick.node.id);
            let mut rather: Vec<NodeId> =
                chosen.filter(|id| !self.queue.replicas.contains(id)).collect();
            rather.sort_unstable();
            return Reason::Stays { rather };
        }
        // By the rule that put it behind the one that was chosen last.
        let Some((last, before)) = self.picks.split_last() else { return Reason::TooFewNodes };
        let zones: Vec<&str> = before.iter().map(|pick| pick.node.zone.as_str()).collect();
        let Some(rank) = rank(&zones) else { return Reason::LeavesCluster };
        let than = last.node.id;
        if rank.draining != last.rank.draining {
            Reason::Drained
        } else if rank.in_zone != last.rank.in_zone {
            let by = before.iter().filter(|pick| pick.node.zone == node.zone);
            Reason::ZoneUsed { by: by.map(|pick| pick.node.id).collect() }
        } else if rank.replicas != last.rank.replicas {
            Reason::MoreLoaded { than, carries: last.rank.replicas }
        } else {
            Reason::HigherId { than }
        }
    }
}
