//! How far each replica is. What a leader knows of its replicas and what a replica knows of itself are on
//! different nodes: each is asked for its part, and the parts are put together.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_machine::catalog;
use quorate_proto::v1::{self, ReplicaRole, ReplicaState};
use tonic::Status;

use crate::member::Member;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{forwarded, queue_name};

/// Most queues of one answer.
const QUEUES_MAX: usize = 10_000;
/// How long a node may take for its part.
pub(super) const PART_WAIT: Duration = Duration::from_secs(2);
/// Largest part that is taken.
pub(super) const PART_BYTES_MAX: usize = 64 << 20;

impl Member {
    /// All that is known; only this node's part if the question comes from another node.
    pub(super) async fn replication(
        &self,
        request: &v1::GetReplicationRequest,
        hops: u32,
    ) -> Result<v1::GetReplicationResponse, Status> {
        let queues = self.asked_for(&request.queue)?;
        let mut merged = Vec::with_capacity(queues.len());
        for queue in &queues {
            merged.push(self.part(queue).await);
        }
        if hops == 0 {
            let others: Vec<u64> = self.catalog.read(|catalog| {
                let ids = catalog.nodes().map(|node| node.id.0);
                ids.filter(|id| *id != self.id()).collect()
            });
            let parts = join_all(others.into_iter().map(|node| self.ask_part(node, request))).await;
            let mut at: BTreeMap<u64, &mut v1::QueueReplication> =
                merged.iter_mut().map(|queue| (queue.group_id, queue)).collect();
            for part in parts.into_iter().flatten().flat_map(|answer| answer.queues) {
                if let Some(queue) = at.get_mut(&part.group_id) {
                    merge(queue, part);
                }
            }
        }
        Ok(v1::GetReplicationResponse { queues: merged })
    }

    /// The queue of that name, or its shards; for an empty one all, in order of name.
    pub(super) fn asked_for(&self, queue: &str) -> Result<Vec<catalog::Queue>, Refusal> {
        if queue.is_empty() {
            return Ok(self
                .catalog
                .read(|catalog| catalog.queues().take(QUEUES_MAX).cloned().collect()));
        }
        let name = queue_name(queue)?;
        let shards = self.catalog.read(|catalog| {
            let sharded = catalog.sharded(&name)?;
            Some(catalog.shards_of(sharded).cloned().collect())
        });
        if let Some(shards) = shards {
            return Ok(shards);
        }
        let queue = self.catalog.read(|catalog| catalog.queue(&name).cloned());
        Ok(vec![queue.ok_or_else(|| Refusal::queue_not_found(name.as_str()))?])
    }

    async fn ask_part(
        &self,
        node: u64,
        request: &v1::GetReplicationRequest,
    ) -> Option<v1::GetReplicationResponse> {
        let channel = self.connections.channel(node).ok()?;
        let mut client = v1::cluster_service_client::ClusterServiceClient::new(channel)
            .max_decoding_message_size(PART_BYTES_MAX);
        let asked = client.get_replication(forwarded(request.clone(), 0));
        Some(tokio::time::timeout(PART_WAIT, asked).await.ok()?.ok()?.into_inner())
    }

    /// What this node knows of a queue.
    async fn part(&self, queue: &catalog::Queue) -> v1::QueueReplication {
        let replica = |node: u64| v1::ReplicaProgress { node_id: node, ..Default::default() };
        let mut part = v1::QueueReplication {
            queue: queue.name.as_str().into(),
            group_id: queue.group.0,
            replicas: queue.holders().map(|node| replica(node.0)).collect(),
            ..Default::default()
        };
        if let Some(local) = self.queues.get(queue.group.0) {
            self.fill(&local, &mut part).await;
        }
        part
    }

    async fn fill(&self, local: &Queue, part: &mut v1::QueueReplication) {
        let handle = &local.handle;
        let leadership = handle.leadership();
        let limit = handle.read(|machine| u64::from(machine.settings().in_sync_lag_ms));
        if leadership.leads {
            part.leader = self.leader(self.id(), leadership.term);
            part.last_index = handle.last_index();
        }
        for seen in handle.progress() {
            let behind = if seen.lag == 0 { 0 } else { handle.behind_ms(seen.matched).await };
            let mut replica = v1::ReplicaProgress {
                node_id: seen.node,
                sent_index: seen.sent,
                flushed_index: seen.matched,
                sent_log_bytes: seen.sent_log_bytes,
                sent_snapshot_bytes: seen.sent_snapshot_bytes,
                // Of one that has not answered this leader nothing is known.
                lag_entries: seen.matched.map_or(0, |_| seen.lag),
                lag_bytes: match (seen.matched, seen.lag) {
                    (Some(matched), 1..) => handle.bytes_behind(matched),
                    _ => 0,
                },
                lag_ms: Some(behind).filter(|b| *b < u64::MAX && seen.matched.is_some()),
                in_sync: seen.voter && behind <= limit,
                ..Default::default()
            };
            replica.set_role(match (seen.node == self.id(), seen.voter) {
                (true, _) => ReplicaRole::Leader,
                (false, true) => ReplicaRole::Follower,
                (false, false) => ReplicaRole::Observer,
            });
            replica.set_state(match (seen.is_there, behind <= limit) {
                (false, _) => ReplicaState::Away,
                (true, true) => ReplicaState::Streaming,
                (true, false) => ReplicaState::CatchingUp,
            });
            match part.replicas.iter_mut().find(|known| known.node_id == seen.node) {
                Some(known) => *known = replica,
                None => part.replicas.push(replica),
            }
        }
        let own = part.replicas.iter_mut().find(|replica| replica.node_id == self.id());
        if let Some(own) = own {
            own.written_index = Some(handle.last_index());
            own.applied_index = Some(handle.replica().applied());
        }
    }
}

/// Adds what another node knows. The leader of the newest term is right about all replicas, a replica about
/// itself.
fn merge(queue: &mut v1::QueueReplication, part: v1::QueueReplication) {
    let term = |queue: &v1::QueueReplication| queue.leader.as_ref().map(|leader| leader.term);
    let leads = term(&part) > term(queue);
    if leads {
        queue.leader = part.leader;
        queue.last_index = part.last_index;
    }
    for theirs in part.replicas {
        let known = queue.replicas.iter_mut().find(|ours| ours.node_id == theirs.node_id);
        let Some(ours) = known else {
            queue.replicas.push(theirs);
            continue;
        };
        let written_index = theirs.written_index.or(ours.written_index);
        let applied_index = theirs.applied_index.or(ours.applied_index);
        if leads {
            *ours = theirs;
        }
        (ours.written_index, ours.applied_index) = (written_index, applied_index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_leader_is_believed_and_each_replica_about_itself() {
        let of = |term: u64, lag: u64, own: u64| {
            let replica = |node: u64| v1::ReplicaProgress {
                node_id: node,
                lag_entries: if term > 0 { lag } else { 0 },
                applied_index: (node == own).then_some(100 + node),
                ..Default::default()
            };
            v1::QueueReplication {
                leader: (term > 0).then(|| v1::Leader { term, ..Default::default() }),
                replicas: [1, 2, 3].map(replica).to_vec(),
                ..Default::default()
            }
        };
        let parts = [of(0, 0, 1), of(4, 7, 2), of(3, 9, 3)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut merged = parts[order[0]].clone();
            order[1..].iter().for_each(|at| merge(&mut merged, parts[*at].clone()));
            let lags: Vec<_> = merged.replicas.iter().map(|replica| replica.lag_entries).collect();
            let applied: Vec<_> =
                merged.replicas.iter().map(|replica| replica.applied_index).collect();
            assert_eq!(lags, [7, 7, 7], "{order:?}");
            assert_eq!(applied, [Some(101), Some(102), Some(103)], "{order:?}");
            assert_eq!(merged.leader.expect("a leader").term, 4);
        }
    }
}
