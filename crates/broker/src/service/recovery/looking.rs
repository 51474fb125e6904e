//! Looking: what the nodes that are reached have of some queues, whom they reach, and for how long the others are gone.
//! Nothing is decided here, and nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use quorate_group::Peers;
use quorate_machine::NodeId;
use quorate_machine::catalog::{self, GroupId};
use quorate_proto::internal as pb;

use crate::member::Member;

/// How long a node that is not reached is waited for: longer than the longest pause between two attempts.
const CONNECT_WAIT: Duration = Duration::from_millis(2_500);
/// How long a node may take to tell what it has.
const HOLDINGS_WAIT: Duration = Duration::from_secs(5);

/// What the nodes say that they have.
#[derive(Default)]
pub(super) struct Told {
    /// By node, of those that answered, and group.
    pub held: BTreeMap<u64, BTreeMap<u64, pb::Holding>>,
    /// By node, of those that answered: which others they reach.
    pub reached: BTreeMap<u64, BTreeSet<u64>>,
    /// Nodes that were asked, and did not answer in time or failed.
    pub silent: BTreeSet<u64>,
}

impl Told {
    pub fn of(&self, node: NodeId, group: GroupId) -> Option<&pb::Holding> {
        self.held.get(&node.0).and_then(|held| held.get(&group.0))
    }

    pub fn answered(&self, node: u64) -> bool {
        self.held.contains_key(&node)
    }

    /// A node that answered, and reaches one that did not: that one is not lost, but only cut off from here, and may
    /// be led with others that are.
    pub fn reached_by(&self, node: u64) -> Option<u64> {
        let reaches =
            |(by, reached): (&u64, &BTreeSet<u64>)| reached.contains(&node).then_some(*by);
        self.reached.iter().find_map(reaches).filter(|_| !self.answered(node))
    }
}

impl Member {
    /// Nodes that are not reached may just not be connected yet, after a start.
    pub(super) async fn wait_for_holders(&self, queues: &[catalog::Queue]) {
        let holders = queues.iter().flat_map(catalog::Queue::holders);
        let missing: BTreeSet<u64> =
            holders.filter(|node| !self.is_there(*node)).map(|node| node.0).collect();
        let until_there = missing.iter().map(|node| self.connections.until_there(*node));
        let _ = tokio::time::timeout(CONNECT_WAIT, join_all(until_there)).await;
    }

    /// Asks the nodes that are reached what they have, and all of them, holders or not, whom they reach.
    pub(super) async fn ask_nodes(&self, queues: &[catalog::Queue]) -> Told {
        let nodes: Vec<NodeId> =
            self.catalog.read(|catalog| catalog.nodes().map(|node| node.id).collect());
        let nodes = nodes.into_iter().filter(|node| self.is_there(*node));
        let mut groups: BTreeMap<u64, Vec<u64>> = nodes.map(|node| (node.0, Vec::new())).collect();
        for queue in queues {
            for node in queue.holders().filter(|node| self.is_there(*node)) {
                groups.entry(node.0).or_default().push(queue.group.0);
            }
        }
        let asked = groups.into_iter().map(|(node, groups)| async move {
            let told = tokio::time::timeout(HOLDINGS_WAIT, self.ask_for_holdings(node, groups));
            match told.await {
                Ok(Ok(held)) => (node, Some(held)),
                Ok(Err(error)) => {
                    tracing::warn!(node, error, "ask a node what it has of queues");
                    (node, None)
                }
                Err(_) => {
                    tracing::warn!(node, "ask a node what it has of queues: no answer in time");
                    (node, None)
                }
            }
        });
        let mut told = Told::default();
        for (node, answer) in join_all(asked).await {
            match answer {
                Some(pb::HoldingsResponse { replicas, reached }) => {
                    let held = replicas.into_iter().map(|held| (held.group, held)).collect();
                    told.held.insert(node, held);
                    told.reached.insert(node, reached.into_iter().collect());
                }
                None => {
                    told.silent.insert(node);
                }
            }
        }
        told
    }

    /// A node that is there, or was when it was asked, and that does not tell what it has of a queue: it may have the
    /// most, or be led.
    pub(super) fn does_not_tell(&self, queue: &catalog::Queue, told: &Told) -> Option<NodeId> {
        let is_unknown = |node: &NodeId| match told.answered(node.0) {
            true => told.of(*node, queue.group).is_some_and(|held| held.unreadable),
            // It may have come back meanwhile.
            false => told.silent.contains(&node.0) || self.is_there(*node),
        };
        queue.holders().find(is_unknown)
    }

    /// For how long a node is gone, in both directions; `None` if that is not known.
    pub(super) fn gone_for(&self, node: u64) -> Option<Duration> {
        let connected = [self.connections.away_for(node), self.versions.said_ago(node)];
        gone_at_least(self.absences.gone_for(node), connected)
    }

    async fn ask_for_holdings(
        &self,
        node: u64,
        groups: Vec<u64>,
    ) -> Result<pb::HoldingsResponse, String> {
        if node == self.id() {
            let replicas = self.holdings_of(groups).await;
            return Ok(pb::HoldingsResponse { replicas, reached: self.reached() });
        }
        let channel = self.connections.channel(node).map_err(|error| error.to_string())?;
        let mut client = pb::peer_client::PeerClient::new(channel);
        let request = pb::HoldingsRequest { hello: Some(self.hello()), groups };
        let answer = client.holdings(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }
}

/// The looks at who is there miss one that was back for a moment in between; its connections do not.
fn gone_at_least(by_looks: Option<Duration>, connected: [Option<Duration>; 2]) -> Option<Duration> {
    by_looks.map(|gone| connected.into_iter().flatten().fold(gone, Duration::min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_another_node_reaches_is_not_lost() {
        let mut told = Told::default();
        let reaches = |node: u64, others: &[u64]| (node, others.iter().copied().collect());
        // The catalog's leader, 4, and holder 3 reach each other; 1 and 2 are reached by 5 only.
        told.held.extend([3, 4, 5].map(|node| (node, BTreeMap::new())));
        told.reached.extend([reaches(3, &[4]), reaches(4, &[3, 5]), reaches(5, &[1, 2, 4])]);
        assert_eq!([1, 2, 3].map(|node| told.reached_by(node)), [Some(5), Some(5), None]);
        told.reached.extend([reaches(5, &[4])]);
        assert_eq!([1, 2, 3].map(|node| told.reached_by(node)), [None; 3]);
    }

    #[test]
    fn a_node_is_gone_since_it_was_connected_last_also_if_no_look_saw_it() {
        let s = |s| Some(Duration::from_secs(s));
        assert_eq!(gone_at_least(s(12), [None, None]), s(12));
        assert_eq!(gone_at_least(s(12), [s(3), None]), s(3), "it was back between two looks");
        assert_eq!(gone_at_least(s(12), [s(11), s(1)]), s(1), "it reaches this node");
        assert_eq!(gone_at_least(s(2), [s(40), s(40)]), s(2));
        assert_eq!(gone_at_least(None, [s(40), s(40)]), None, "this node leads for a moment only");
    }
}
