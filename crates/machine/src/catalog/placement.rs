//! Which nodes hold a new queue.
//!
//! Replicas are picked one by one: of the candidates that are not being drained, or else of all, one
//! that hosts the fewest replicas, among equals one in the zone that this queue uses least so far,
//! among those the lowest id. The replica that is the preferred leader of the fewest queues becomes
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
    pub replicas: u64,
    pub leaders: u64,
}

/// The load of every node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Loads(BTreeMap<NodeId, Load>);

impl Loads {
    /// Counts a queue.
    pub fn add(&mut self, queue: &Queue) {
        for &node in &queue.replicas {
            self.0.entry(node).or_default().replicas += 1;
        }
        self.0.entry(queue.preferred_leader).or_default().leaders += 1;
    }

    /// Counts a queue no more.
    pub fn remove(&mut self, queue: &Queue) {
        for node in &queue.replicas {
            if let Some(load) = self.0.get_mut(node) {
                load.replicas -= 1;
            }
        }
        if let Some(load) = self.0.get_mut(&queue.preferred_leader) {
            load.leaders -= 1;
        }
    }

    fn of(&self, node: NodeId) -> Load {
        self.0.get(&node).copied().unwrap_or_default()
    }

    /// Chooses `count` of the candidates, at least 1; none if they are too few.
    pub fn place(&self, candidates: &[&Node], count: usize) -> Option<Placement> {
        let mut candidates = candidates.to_vec();
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        let mut replicas = Vec::with_capacity(count);
        while replicas.len() < count {
            let rank = |node: &Node| {
                let in_zone = zones.get(node.zone.as_str()).copied().unwrap_or_default();
                (node.draining, self.of(node.id).replicas, in_zone, node.id)
            };
            let best = (0..candidates.len()).min_by_key(|&at| rank(candidates[at]))?;
            let chosen = candidates.swap_remove(best);
            *zones.entry(&chosen.zone).or_default() += 1;
            replicas.push(chosen);
        }
        replicas.sort_unstable_by_key(|node| node.id);
        let lightest = |node: &&&Node| (node.draining, self.of(node.id).leaders, node.id);
        let preferred_leader = replicas.iter().min_by_key(lightest)?.id;
        let replicas = replicas.iter().map(|node| node.id).collect();
        Some(Placement { replicas, preferred_leader })
    }
}
