//! Which nodes hold a queue, and which nodes there are: what operators ask for. The changes themselves are
//! made by [`moves`](crate::moves) and [`healing`](crate::healing). All of this runs where the catalog is led.

use std::collections::BTreeSet;

use quorate_machine::NodeId;
use quorate_machine::catalog::{self, Command, PlaceQueue, Rejection, Reply};
use quorate_proto::{reason, v1};
use tonic::Status;

use crate::member::{MOVES_VERSION, Member};
use crate::refusal::Refusal;
use crate::routing::queue_name;

/// How often a change is decided anew when another came between.
const ATTEMPTS: usize = 5;

impl Member {
    /// Says which nodes are to hold a queue from now on.
    pub(super) async fn change_replicas(
        &self,
        request: &v1::ChangeReplicasRequest,
    ) -> Result<v1::ChangeReplicasResponse, Status> {
        let name = queue_name(&request.queue)?;
        self.expect_known(MOVES_VERSION, "queues that move")?;
        // A group that was never led has no members yet that could be changed.
        if self.known(&name).is_some() {
            self.locate(name.as_str(), 0).await?;
        }
        for _ in 0..ATTEMPTS {
            let known = self.known(&name);
            let known = known.ok_or_else(|| self.no_queue(&name))?;
            let place = changed(&known, request)?;
            if !known.is_moving && !self.has_majority(&known.replicas) {
                let doing = format!("move queue {name}");
                return Err(Refusal::no_quorum(&doing).into());
            }
            if !self.has_majority(&place.replicas) {
                let message = format!(
                    "most of the nodes that are to vote in queue {name} are not there; see `quorate \
                     cluster status`"
                );
                return Err(Refusal::new(reason::NOT_ENOUGH_NODES, message).into());
            }
            let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
            let (voters, observers) = (ids(&place.replicas), ids(&place.observers));
            match self.propose_catalog(Command::PlaceQueue(place)).await? {
                Reply::Placed { moved } => {
                    return Ok(v1::ChangeReplicasResponse { voters, observers, placement: moved });
                }
                Reply::Rejected(Rejection::PlacementChanged { .. }) => {}
                Reply::Rejected(rejection) => return Err(Refusal::from(rejection).into()),
                _ => return Err(Refusal::unknown_outcome().into()),
            }
        }
        Err(Refusal::unknown_outcome().into())
    }

    /// Says that a node is to leave.
    pub(super) async fn remove_node(&self, node: u64) -> Result<v1::RemoveNodeResponse, Refusal> {
        self.expect_known(MOVES_VERSION, "nodes that leave")?;
        self.check_removal(NodeId(node))?;
        match self.propose_catalog(Command::RemoveNode { id: NodeId(node) }).await? {
            Reply::Rejected(rejection) => Err(rejection.into()),
            _ => {
                let replicas = self.catalog.read(|catalog| {
                    let queues = catalog.queues();
                    queues.filter(|queue| queue.holders().any(|id| id.0 == node)).count()
                });
                Ok(v1::RemoveNodeResponse { replicas: replicas as u64 })
            }
        }
    }

    /// Whether a node is reached, from here.
    pub(crate) fn is_there(&self, node: NodeId) -> bool {
        node.0 == self.id() || self.connections.reachable(node.0)
    }

    /// Whether most of these nodes are reached, from here.
    pub(crate) fn has_majority(&self, voters: &[NodeId]) -> bool {
        voters.iter().filter(|node| self.is_there(**node)).count() * 2 > voters.len()
    }

    /// Refuses if a queue of the node has nowhere to go, or cannot move: the removal would never end.
    fn check_removal(&self, id: NodeId) -> Result<(), Refusal> {
        let (stuck, lost) = self.catalog.read(|catalog| {
            let others = catalog.nodes().map(|node| node.id).filter(|other| *other != id);
            let others: Vec<NodeId> = others.filter(|other| self.is_there(*other)).collect();
            let votes = || catalog.queues().filter(|queue| queue.replicas.contains(&id));
            let stuck = votes().find(|queue| catalog.substitute(queue, id, &others).is_none());
            let lost = votes().find(|queue| !self.has_majority(&queue.replicas));
            (stuck.cloned(), lost.cloned())
        });
        if let Some(lost) = lost {
            let doing = format!(
                "node {} has a vote in queue `{}`, which cannot move: bring its nodes back, or delete it",
                id.0, lost.name
            );
            return Err(Refusal::no_quorum(&doing).with("queue", lost.name.as_str()));
        }
        let Some(stuck) = stuck else { return Ok(()) };
        let message = format!(
            "queue `{}` has {} voters, one of them on node {}, and no other node is there to take its \
             place; start another node (`quorate cluster join`), or have the queue do with fewer \
             (`quorate queue replica remove`)",
            stuck.name,
            stuck.replicas.len(),
            id.0
        );
        Err(Refusal::new(reason::NOT_ENOUGH_NODES, message).with("queue", stuck.name.as_str()))
    }
}

/// The placement that a queue is to have after a change.
fn changed(
    known: &catalog::Queue,
    request: &v1::ChangeReplicasRequest,
) -> Result<PlaceQueue, Refusal> {
    let mut named = BTreeSet::new();
    let all = request.voters.iter().chain(&request.observers).chain(&request.remove);
    if let Some(twice) = all.copied().find(|node| !named.insert(*node)) {
        return Err(Refusal::invalid(format!("node {twice} is named twice")));
    }
    let holds: BTreeSet<u64> = known.holders().map(|node| node.0).collect();
    if let Some(stranger) = request.remove.iter().find(|node| !holds.contains(node)) {
        let message = format!("node {stranger} does not hold queue {}", known.name);
        return Err(Refusal::invalid(message));
    }
    let with = |now: &[NodeId], added: &[u64]| -> Vec<NodeId> {
        let stay = now.iter().copied().filter(|node| !named.contains(&node.0));
        let all: BTreeSet<NodeId> = stay.chain(added.iter().copied().map(NodeId)).collect();
        all.into_iter().collect()
    };
    let replicas = with(&known.replicas, &request.voters);
    let observers = with(&known.observers, &request.observers);
    if !matches!(replicas.len(), 1 | 3 | 5) {
        return Err(Refusal::invalid(format!(
            "queue {} would have {} voters, and can have 1, 3 or 5: name another node to vote or to be \
             removed in the same call, or have it as an observer",
            known.name,
            replicas.len()
        )));
    }
    let needed = known.settings.min_in_sync as usize;
    if needed > replicas.len() {
        return Err(Refusal::invalid(format!(
            "queue {} has `min_in_sync` {needed}, more than the {} voters that it would have: no publish that \
             asks for all of them could be confirmed",
            known.name,
            replicas.len()
        )));
    }
    let most = PlaceQueue::OBSERVERS_MAX;
    if observers.len() > most {
        let message = format!("queue {} would have more than {most} observers", known.name);
        return Err(Refusal::invalid(message));
    }
    Ok(PlaceQueue { group: known.group, moved: known.moved, replicas, observers })
}

#[cfg(test)]
mod tests {

    use super::super::placed;
    use super::*;

    fn queue(replicas: &[u64], observers: &[u64]) -> catalog::Queue {
        catalog::Queue { moved: 7, ..placed(replicas, observers) }
    }

    /// What comes of a change, or the reason for refusing it.
    fn change(
        voters: &[u64],
        observers: &[u64],
        remove: &[u64],
    ) -> Result<(Vec<u64>, Vec<u64>), String> {
        let queue = queue(&[1, 2, 3], &[4]);
        let request = v1::ChangeReplicasRequest {
            queue: "orders".into(),
            voters: voters.into(),
            observers: observers.into(),
            remove: remove.into(),
        };
        let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
        let placed = changed(&queue, &request).map_err(|refusal| refusal.message)?;
        assert_eq!((placed.group, placed.moved), (queue.group, queue.moved));
        Ok((ids(placed.replicas), ids(placed.observers)))
    }

    #[test]
    fn nodes_that_are_not_named_stay_as_they_are() {
        assert_eq!(change(&[5], &[], &[2]), Ok((vec![1, 3, 5], vec![4])));
        assert_eq!(
            change(&[4, 5], &[], &[]),
            Ok((vec![1, 2, 3, 4, 5], vec![])),
            "an observer votes"
        );
        assert_eq!(change(&[4], &[1], &[]), Ok((vec![2, 3, 4], vec![1])), "they change roles");
        assert_eq!(change(&[], &[9], &[4]), Ok((vec![1, 2, 3], vec![9])));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_helps() {
        let refused = |outcome: Result<_, String>, why: &str| {
            let message = outcome.unwrap_err();
            assert!(message.contains(why), "{message}");
        };
        refused(change(&[5], &[], &[]), "4 voters");
        refused(change(&[], &[], &[1, 2, 3]), "0 voters");
        refused(change(&[5], &[5], &[]), "named twice");
        refused(change(&[], &[], &[9]), "does not hold");
    }
}
