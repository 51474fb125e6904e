//! Queues that move to other nodes, and nodes that leave.
//!
//! The catalog says where a queue is to be; the node that leads the queue changes the members of its group
//! until they are those, and tells the catalog. Until then the nodes that held it before keep their
//! replicas: some of them may still be needed for a majority.
//!
//! ```text
//!  PlaceQueue ─► is_moving, leaving = who held it and is not to ─► QueuePlaced ─► leaving is let go
//!                     ▲ a further PlaceQueue adds to `leaving` │
//!                     └────────────────────────────────────────┘
//! ```

use std::collections::BTreeSet;

use super::command::{Change, PlaceQueue, Queue, Rejection, Reply};
use super::{Catalog, Done, GroupId};
use crate::{At, NodeId};

impl Catalog {
    pub(super) fn place_queue(&mut self, at: At, place: PlaceQueue) -> Result<Done, Rejection> {
        let PlaceQueue { group, moved, replicas, observers } = place;
        let known = self.by_group(group).ok_or(Rejection::NotFound)?;
        if known.moved != moved {
            return Err(Rejection::PlacementChanged { moved: known.moved });
        }
        if known.is_recovering {
            return Err(Rejection::Recovering { survivor: known.replicas[0] });
        }
        let (replicas, observers) = (in_order(replicas), in_order(observers));
        self.check_placement(known, &replicas, &observers)?;
        if (&known.replicas, &known.observers) == (&replicas, &observers) {
            return Ok((Reply::Placed { moved }, None));
        }
        let mut queue = self.queues.remove(&known.name.clone()).expect("it was found by its group");
        self.loads.remove(&queue);
        let held: Vec<NodeId> = queue.holders().collect();
        if replicas.len() >= usize::from(queue.voters_wanted)
            || replicas.len() < queue.replicas.len()
        {
            queue.voters_wanted = 0;
        }
        (queue.replicas, queue.observers) = (replicas, observers);
        let leaves =
            |node: &NodeId| !queue.replicas.contains(node) && !queue.observers.contains(node);
        queue.leaving = in_order(held.into_iter().filter(leaves).collect());
        // Two changes of one entry must differ.
        queue.moved = at.index.max(moved + 1);
        queue.is_moving = true;
        if !queue.replicas.contains(&queue.preferred_leader) {
            queue.preferred_leader = self.preferred_leader(&queue.replicas);
        }
        let (name, moved) = (queue.name.clone(), queue.moved);
        self.insert(queue);
        Ok((Reply::Placed { moved }, Some(Change::QueueMoved { name, group })))
    }

    fn check_placement(
        &self,
        known: &Queue,
        replicas: &[NodeId],
        observers: &[NodeId],
    ) -> Result<(), Rejection> {
        if !matches!(replicas.len(), 1 | 3 | 5) {
            return Err(Rejection::InvalidReplicas { replicas: replicas.len() as u8 });
        }
        if observers.len() > PlaceQueue::OBSERVERS_MAX {
            return Err(Rejection::TooManyObservers { limit: PlaceQueue::OBSERVERS_MAX as u32 });
        }
        if let Some(&id) = replicas.iter().find(|node| observers.contains(node)) {
            return Err(Rejection::TwoRoles { id });
        }
        // What it has already may stay: it is for others to move it.
        let has: BTreeSet<NodeId> = known.members().collect();
        for &id in replicas.iter().chain(observers).filter(|node| !has.contains(node)) {
            let node = self.nodes.get(&id).ok_or(Rejection::UnknownNode { id })?;
            if node.leaving {
                return Err(Rejection::NodeLeaving { id });
            }
        }
        Ok(())
    }

    pub(super) fn queue_placed(&mut self, group: GroupId, moved: u64) -> Result<Done, Rejection> {
        let name = self.by_group.get(&group).ok_or(Rejection::NotFound)?.clone();
        let queue = self.queues.get_mut(&name).expect("every queue has a group of its own");
        if queue.moved != moved {
            return Err(Rejection::PlacementChanged { moved: queue.moved });
        }
        if queue.is_recovering {
            return Err(Rejection::Recovering { survivor: queue.replicas[0] });
        }
        if !std::mem::take(&mut queue.is_moving) {
            return Ok((Reply::Done, None));
        }
        let left = std::mem::take(&mut queue.leaving);
        self.loads.release(&left);
        self.moving.remove(&group);
        Ok((Reply::Done, Some(Change::QueueMoved { name, group })))
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Result<Done, Rejection> {
        if self.removed.contains(&id) {
            return Ok((Reply::Done, None));
        }
        let others = self.nodes.values().filter(|node| node.id != id && !node.leaving).count();
        let node = self.nodes.get_mut(&id).ok_or(Rejection::UnknownNode { id })?;
        if others == 0 {
            return Err(Rejection::LastNode { id });
        }
        let is_news = !std::mem::replace(&mut node.leaving, true);
        node.draining = true;
        Ok((Reply::Done, is_news.then_some(Change::Node(id))))
    }

    pub(super) fn retire_node(&mut self, id: NodeId) -> Result<Done, Rejection> {
        if self.removed.contains(&id) {
            return Ok((Reply::Done, None));
        }
        let node = self.nodes.get(&id).ok_or(Rejection::UnknownNode { id })?;
        let replicas = self.loads.replicas(id);
        if !node.leaving || replicas > 0 {
            return Err(Rejection::NodeInUse { id, replicas });
        }
        self.nodes.remove(&id);
        self.removed.insert(id);
        Ok((Reply::Done, Some(Change::Node(id))))
    }

    fn preferred_leader(&self, replicas: &[NodeId]) -> NodeId {
        let nodes = replicas.iter().filter_map(|id| self.nodes.get(id));
        self.loads.preferred_leader(nodes).unwrap_or(replicas[0])
    }

    /// Who is to take the place of `node` among the voters of a queue: of the candidates that may take it, the
    /// one that a new replica would be placed on; one of its observers only if there is no other. Voters are
    /// spread over zones as far as they go.
    #[must_use]
    pub fn substitute(&self, queue: &Queue, node: NodeId, candidates: &[NodeId]) -> Option<NodeId> {
        let stay = queue.replicas.iter().filter(|id| **id != node);
        let zones = stay.filter_map(|id| self.nodes.get(id)).map(|node| node.zone.as_str());
        let zones: Vec<&str> = zones.collect();
        let best = |observes: bool| {
            let known = candidates.iter().filter_map(|id| self.nodes.get(id));
            let eligible = known.filter(|candidate| {
                !candidate.draining
                    && !candidate.leaving
                    && !queue.replicas.contains(&candidate.id)
                    && queue.observers.contains(&candidate.id) == observes
            });
            self.loads.best(&eligible.collect::<Vec<_>>(), &zones)
        };
        best(false).or_else(|| best(true)).map(|node| node.id)
    }
}

pub(super) fn in_order(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}
