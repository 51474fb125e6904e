//! What each replica has received, as it knows itself: every node is asked for its own replicas, and what does not
//! answer is told as such. The other end of [`replication`](super::replication).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use quorate_group::{Receiving, Reception};
use quorate_machine::NodeId;
use quorate_machine::catalog;
use quorate_proto::v1::{self, ReceiverState, ReplicaRole};
use tonic::Status;

use super::replication::{PART_BYTES_MAX, PART_WAIT};
use crate::member::Member;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::forwarded;

impl Member {
    /// The replicas of all nodes, or of one; only this node's own if the question comes from another node.
    pub(super) async fn receivers(
        &self,
        request: &v1::GetReceiversRequest,
        hops: u32,
    ) -> Result<v1::GetReceiversResponse, Status> {
        if hops > 0 {
            return Ok(self.own_receivers(&request.queue));
        }
        let queues = self.asked_for(&request.queue)?;
        let known: Vec<u64> =
            self.catalog.read(|catalog| catalog.nodes().map(|node| node.id.0).collect());
        let asked: Vec<u64> = match request.node_id {
            0 => known,
            node if known.contains(&node) => vec![node],
            node => return Err(Refusal::invalid(format!("there is no node {node}")).into()),
        };
        let parts = asked.iter().map(|node| self.ask_receivers(*node, request));
        let parts: BTreeMap<u64, Option<v1::GetReceiversResponse>> =
            asked.iter().copied().zip(join_all(parts).await).collect();
        Ok(v1::GetReceiversResponse { receivers: merged(&queues, parts), led_groups: Vec::new() })
    }

    async fn ask_receivers(
        &self,
        node: u64,
        request: &v1::GetReceiversRequest,
    ) -> Option<v1::GetReceiversResponse> {
        if node == self.id() {
            return Some(self.own_receivers(&request.queue));
        }
        let channel = self.connections.channel(node).ok()?;
        let mut client = v1::cluster_service_client::ClusterServiceClient::new(channel)
            .max_decoding_message_size(PART_BYTES_MAX);
        let asked = client.get_receivers(forwarded(request.clone(), 0));
        Some(tokio::time::timeout(PART_WAIT, asked).await.ok()?.ok()?.into_inner())
    }

    /// This node's replicas, whatever its catalog says of them.
    fn own_receivers(&self, queue: &str) -> v1::GetReceiversResponse {
        let mut part = v1::GetReceiversResponse::default();
        let local = self.queues.all();
        for local in local.iter().filter(|l| queue.is_empty() || l.name.as_str() == queue) {
            let seen = local.handle.reception();
            match seen.leads {
                true => part.led_groups.push(local.handle.id()),
                false => part.receivers.push(self.receiver(local, &seen)),
            }
        }
        part
    }

    fn receiver(&self, local: &Queue, seen: &Reception) -> v1::Receiver {
        let leader = seen.leader.filter(|leader| *leader != self.id());
        let node_heard = leader.and_then(|leader| self.connections.silent_for(leader));
        let mut receiver = v1::Receiver {
            queue: local.name.as_str().into(),
            group_id: local.handle.id(),
            node_id: self.id(),
            leader: leader.and_then(|leader| self.leader(leader, seen.term)),
            term: seen.term,
            received_index: seen.received,
            flushed_index: seen.flushed,
            committed_index: seen.committed,
            applied_index: seen.applied,
            received_log_bytes: seen.log_bytes,
            received_snapshot_bytes: seen.snapshot_bytes,
            transfer_bytes: seen.transfer_bytes,
            heard_ms: seen.heard.map(millis),
            node_heard_ms: node_heard.map(millis),
            staleness_ms: seen.staleness.map(millis),
            ..Default::default()
        };
        receiver.set_role(if seen.voter { ReplicaRole::Follower } else { ReplicaRole::Observer });
        receiver.set_state(match seen.state {
            Receiving::Streaming => ReceiverState::Streaming,
            Receiving::CatchingUp => ReceiverState::CatchingUp,
            Receiving::Snapshot => ReceiverState::Snapshot,
            Receiving::Parked => ReceiverState::Parked,
            Receiving::Away => ReceiverState::Away,
        });
        receiver
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the nodes that were asked have answered, with a row for each replica that the catalog knows there and nobody
/// has told of. A replica that leads has none.
fn merged(
    queues: &[catalog::Queue],
    parts: BTreeMap<u64, Option<v1::GetReceiversResponse>>,
) -> Vec<v1::Receiver> {
    let mut led = BTreeSet::new();
    let mut told = BTreeMap::new();
    let mut silent = BTreeSet::new();
    let asked: BTreeSet<u64> = parts.keys().copied().collect();
    for (node, part) in parts {
        let Some(part) = part else {
            silent.insert(node);
            continue;
        };
        led.extend(part.led_groups.into_iter().map(|group| (group, node)));
        told.extend(part.receivers.into_iter().map(|row| ((row.group_id, node), row)));
    }
    let mut rows = Vec::new();
    for queue in queues {
        let group = queue.group.0;
        let holders: BTreeSet<u64> =
            queue.holders().map(|node| node.0).filter(|node| asked.contains(node)).collect();
        for node in holders {
            let row = match told.remove(&(group, node)) {
                Some(row) => row,
                None if led.contains(&(group, node)) => continue,
                None => unknown(queue, node, silent.contains(&node)),
            };
            rows.push(row);
        }
    }
    rows
}

fn unknown(queue: &catalog::Queue, node: u64, silent: bool) -> v1::Receiver {
    let mut row = v1::Receiver {
        queue: queue.name.as_str().into(),
        group_id: queue.group.0,
        node_id: node,
        ..Default::default()
    };
    row.set_state(if silent { ReceiverState::Unreachable } else { ReceiverState::None });
    row.set_role(match queue.observers.contains(&NodeId(node)) {
        true => ReplicaRole::Observer,
        false => ReplicaRole::Follower,
    });
    row
}

#[cfg(test)]
mod tests {
    use quorate_machine::catalog::{GroupId, QueueName};

    use super::super::placed;
    use super::*;

    fn queue(name: &str, group: u64, replicas: &[u64], observers: &[u64]) -> catalog::Queue {
        let name = QueueName::parse(name).unwrap();
        catalog::Queue { name, group: GroupId(group), ..placed(replicas, observers) }
    }

    fn part(node: u64, leads: &[u64], follows: &[u64]) -> v1::GetReceiversResponse {
        let row = |group: &u64| {
            let mut row =
                v1::Receiver { group_id: *group, node_id: node, term: 4, ..Default::default() };
            row.set_state(ReceiverState::Streaming);
            row
        };
        let receivers = follows.iter().map(row).collect();
        v1::GetReceiversResponse { receivers, led_groups: leads.into() }
    }

    #[test]
    fn who_leads_has_no_row_and_who_is_silent_has_one_that_says_so() {
        use ReceiverState::{None as Nothing, Streaming, Unreachable};
        let queues = [queue("a", 7, &[1, 2, 3], &[4]), queue("b", 5, &[1, 2, 4], &[])];
        let parts = BTreeMap::from([
            (1, Some(part(1, &[7], &[5]))),
            (2, Some(part(2, &[], &[7]))),
            (3, None),
            (4, Some(part(4, &[5], &[99]))),
        ]);
        let rows = merged(&queues, parts.clone());
        let shown: Vec<_> =
            rows.iter().map(|row| (row.group_id, row.node_id, row.state())).collect();
        assert_eq!(
            shown,
            [
                (7, 2, Streaming),
                (7, 3, Unreachable),
                (7, 4, Nothing),
                (5, 1, Streaming),
                (5, 2, Nothing)
            ]
        );
        assert_eq!(rows[2].role(), ReplicaRole::Observer);
        let one = parts.into_iter().filter(|(node, _)| *node == 3).collect();
        assert_eq!(merged(&queues, one).len(), 1, "only the node that was asked");
    }
}
