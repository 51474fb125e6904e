//! The gRPC services: thin over the node, one file each.

pub(crate) mod admin;
pub(crate) mod at_follower;
pub(crate) mod cluster;
pub(crate) mod consumer;
pub(crate) mod consumers;
mod explaining;
mod inlet;
mod pattern;
mod placement;
pub(crate) mod publisher;
pub(crate) mod queue;
pub(crate) mod reader;
mod receipts;
mod receive;
mod receivers;
mod recovery;
mod replicas;
mod replication;
pub(crate) mod seeking;
mod sharded;
pub(crate) mod slots;
pub(crate) mod topics;
pub(crate) mod updating;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tonic::Status;

use crate::member::Member;

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// All services of one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    node: Arc<Member>,
}

impl Services {
    pub(crate) fn new(node: Arc<Member>) -> Self {
        Self { node }
    }
}

/// The messages of a client's stream as they are forwarded: it ends where the client's breaks.
fn requests<T: Send + 'static>(
    first: T,
    mut rest: tonic::Streaming<T>,
) -> impl Stream<Item = T> + Send + 'static {
    async_stream::stream! {
        yield first;
        while let Ok(Some(next)) = rest.message().await {
            yield next;
        }
    }
}

/// The queue `orders` as group 1 on these nodes, for tests: nothing has moved, the first voter is to lead.
#[cfg(test)]
fn placed(replicas: &[u64], observers: &[u64]) -> quorate_machine::catalog::Queue {
    use quorate_machine::catalog::{GroupId, Queue, QueueName};
    use quorate_machine::queue::Settings;
    use quorate_machine::{Millis, NodeId};
    let ids = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect();
    Queue {
        name: QueueName::parse("orders").expect("a good name"),
        group: GroupId(1),
        settings: Settings::default(),
        replicas: ids(replicas),
        observers: ids(observers),
        leaving: Vec::new(),
        moved: 0,
        is_moving: false,
        timeline: 0,
        is_recovering: false,
        forks: Vec::new(),
        voters_wanted: 0,
        preferred_leader: NodeId(replicas[0]),
        created_at: Millis(0),
    }
}
