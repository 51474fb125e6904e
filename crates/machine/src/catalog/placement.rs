//! Which nodes hold a queue.
//!
//! Replicas are picked one by one: of the candidates that are not being drained, or else of all, one in
//! the zone that this queue uses least so far, among equals one that hosts the fewest replicas, among
//! those the lowest id. So a queue is spread over as many zones as there are, whatever that means for the
//! load of a zone with few nodes. The replica that is the preferred leader of the fewest queues becomes
//! that of this one, if it is not being drained.

use std::collections::BTreeMap;

use super::command::{Node, Queue};
use crate::NodeId;

/// The nodes chosen for a queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// In order of their ids.
    pub replicas: Vec<NodeId>,
    /// One of them.
    pub preferred_leader: NodeId,
}

/// What a node carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Replicas that it holds, is to hold, or may still hold.
    pub replicas: u64,
    pub leaders: u64,
}

/// What a candidate is judged by, the better one being the smaller: the rules, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub draining: bool,
    /// Replicas of the queue that its zone has already.
    pub in_zone: u32,
    /// Replicas that it carries.
    pub replicas: u64,
    pub id: NodeId,
}

/// A node that was chosen, and by what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pick<'a> {
    pub node: &'a Node,
    pub rank: Rank,
}

/// The load of every node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Loads(BTreeMap<NodeId, Load>);

impl Loads {
    /// Counts a queue.
    pub fn add(&mut self, queue: &Queue) {
        for node in queue.holders() {
            self.0.entry(node).or_default().replicas += 1;
        }
        self.0.entry(queue.preferred_leader).or_default().leaders += 1;
    }

    /// Counts a queue no more.
    pub fn remove(&mut self, queue: &Queue) {
        self.release(&queue.holders().collect::<Vec<_>>());
        if let Some(load) = self.0.get_mut(&queue.preferred_leader) {
            load.leaders -= 1;
        }
    }

    /// Counts one replica less at each of the nodes.
    pub fn release(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            if let Some(load) = self.0.get_mut(node) {
                load.replicas -= 1;
            }
        }
    }

    pub fn of(&self, node: NodeId) -> Load {
        self.0.get(&node).copied().unwrap_or_default()
    }

    /// Replicas of a node.
    pub fn replicas(&self, node: NodeId) -> u64 {
        self.of(node).replicas
    }

    /// Chooses `count` of the candidates, at least 1; none if they are too few.
    pub fn place(&self, candidates: &[&Node], count: usize) -> Option<Placement> {
        let picks = self.pick(candidates, count)?;
        let mut replicas: Vec<&Node> = picks.iter().map(|pick| pick.node).collect();
        replicas.sort_unstable_by_key(|node| node.id);
        let preferred_leader = self.preferred_leader(replicas.iter().copied())?;
        let replicas = replicas.iter().map(|node| node.id).collect();
        Some(Placement { replicas, preferred_leader })
    }

    /// The same, in the order in which they are chosen.
    pub fn pick<'a>(&self, candidates: &[&'a Node], count: usize) -> Option<Vec<Pick<'a>>> {
        let mut candidates = candidates.to_vec();
        let mut picks: Vec<Pick<'a>> = Vec::with_capacity(count);
        while picks.len() < count {
            let zones: Vec<&str> = picks.iter().map(|pick| pick.node.zone.as_str()).collect();
            let best = self.best(&candidates, &zones)?;
            candidates.retain(|candidate| candidate.id != best.id);
            picks.push(Pick { node: best, rank: self.rank(best, &zones) });
        }
        Some(picks)
    }

    /// The best of the candidates beside replicas in these zones.
    pub fn best<'a>(&self, candidates: &[&'a Node], zones: &[&str]) -> Option<&'a Node> {
        candidates.iter().copied().min_by_key(|node| self.rank(node, zones))
    }

    /// How good a node is beside replicas in these zones.
    pub fn rank(&self, node: &Node, zones: &[&str]) -> Rank {
        let in_zone = zones.iter().filter(|zone| **zone == node.zone).count() as u32;
        let (draining, replicas) = (node.draining, self.of(node.id).replicas);
        Rank { draining, in_zone, replicas, id: node.id }
    }

    /// Which of a queue's nodes is to lead it.
    pub fn preferred_leader<'a>(&self, nodes: impl Iterator<Item = &'a Node>) -> Option<NodeId> {
        let lightest = |node: &&Node| (node.draining, self.of(node.id).leaders, node.id);
        nodes.min_by_key(lightest).map(|node| node.id)
    }
}
