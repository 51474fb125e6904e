//! Where a call is to be carried out: here, or at another node that the call is forwarded to.
//!
//! A call may be forwarded twice: once by a node that has no replica of the queue, to one that has,
//! which knows the leader.

use std::sync::Arc;
use std::time::Duration;

use quorate_machine::NodeId;
use quorate_machine::catalog::QueueName;
use quorate_proto::v1;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::member::Member;
use crate::queue::Queue;
use crate::refusal::Refusal;

/// Metadata key with the number of times that a call was forwarded.
pub(crate) const HOPS: &str = "quorate-hops";
const HOPS_MAX: u32 = 2;
/// Time between two looks for a leader.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Metadata key of a consume stream that is forwarded for its settles: the node that makes its deliveries.
const DELIVER_AT: &str = "quorate-deliver-at";

pub(crate) fn deliver_at(metadata: &MetadataMap) -> Option<u64> {
    metadata.get(DELIVER_AT)?.to_str().ok()?.parse().ok()
}

/// A consumer's stream as it is forwarded by a node that makes its deliveries.
pub(crate) fn forwarded_from<T>(node: u64, message: T, hops: u32) -> Request<T> {
    let mut request = forwarded(message, hops);
    request.metadata_mut().insert(DELIVER_AT, node.into());
    request
}

/// Where a call goes.
pub(crate) enum Place {
    /// This node leads the queue.
    Here(Arc<Queue>),
    /// Another node leads it, or knows more.
    There(u64),
}

pub(crate) fn hops(metadata: &MetadataMap) -> u32 {
    metadata.get(HOPS).and_then(|hops| hops.to_str().ok()).and_then(|h| h.parse().ok()).unwrap_or(0)
}

/// The request as it is forwarded.
pub(crate) fn forwarded<T>(message: T, hops: u32) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HOPS, (hops + 1).into());
    request
}

/// What the failure of a forwarded call is told as: where the other node gave no reason of ours, it was
/// not reached, or the way to it broke, and the caller is to know which of the two.
pub(crate) fn passed_on(status: Status) -> Status {
    if status.get_details_error_info().is_some() {
        return status;
    }
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => {}
        _ => return status,
    }
    let mut refusal = match never_sent(&status) {
        true => Refusal::not_leader(None),
        false => Refusal::unknown_outcome(),
    };
    refusal.message = format!("{}: {}", status.message(), refusal.message);
    refusal.into()
}

/// The simulated transport does not tell that a connection was never made.
#[cfg(madsim)]
fn never_sent(_: &Status) -> bool {
    false
}

#[cfg(not(madsim))]
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}

pub(crate) fn queue_name(name: &str) -> Result<QueueName, Refusal> {
    QueueName::parse(name).map_err(|error| Refusal::invalid(error.to_string()))
}

impl Member {
    /// Where a call for a queue goes, waiting for an election in progress.
    pub(crate) async fn place(&self, name: &str, hops: u32) -> Result<Place, Refusal> {
        let name = queue_name(name)?;
        let look = self.look_for(&name, hops);
        match tokio::time::timeout(self.config.limits.request_timeout(), look).await {
            Ok(place) => place,
            Err(_) => Err(Refusal::no_quorum(&format!("find the leader of queue `{name}`"))),
        }
    }

    async fn look_for(&self, name: &QueueName, hops: u32) -> Result<Place, Refusal> {
        loop {
            if self.shutdown.is_said() {
                return Err(Refusal::shutting_down());
            }
            if self.awake.is()
                && let Some(place) = self.look_once(name, hops)?
            {
                return Ok(place);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn look_once(&self, name: &QueueName, hops: u32) -> Result<Option<Place>, Refusal> {
        let known = self
            .catalog
            .read(|catalog| catalog.queue(name).map(|queue| (queue.group, queue.replicas.clone())));
        let Some((group, replicas)) = known else { return self.unknown_queue(name, hops) };
        let Some(queue) = self.queues.get(group.0) else {
            let others = replicas.iter().filter(|node| node.0 != self.id());
            let there = others.copied().find(|node| self.connections.reachable(node.0));
            return there.map(|node| self.forward_to(node.0, hops)).transpose();
        };
        if queue.serves() {
            return Ok(Some(Place::Here(queue)));
        }
        queue.handle.replica().wanted();
        let leader = queue.handle.leadership().leader.filter(|leader| *leader != self.id());
        leader.map(|leader| self.forward_to(leader, hops)).transpose()
    }

    /// This node's replica of a queue, if it has one.
    pub(crate) fn replica_of(&self, name: &str) -> Option<Arc<Queue>> {
        let name = QueueName::parse(name).ok()?;
        let group = self.catalog.read(|catalog| Some(catalog.queue(&name)?.group))?;
        self.queues.get(group.0)
    }

    /// Where a queue is read: here, if there is a replica, or at another node that has one.
    pub(crate) async fn place_to_read(&self, name: &str, hops: u32) -> Result<Place, Refusal> {
        let name = queue_name(name)?;
        let known = self.catalog.read(|catalog| {
            catalog.queue(&name).map(|queue| (queue.group, queue.members().collect::<Vec<_>>()))
        });
        if let Some((group, replicas)) = known {
            if let Some(queue) = self.queues.get(group.0).filter(|_| self.awake.is()) {
                return Ok(Place::Here(queue));
            }
            let mut others = replicas.iter().filter(|node| node.0 != self.id());
            if let Some(node) = others.find(|node| self.connections.reachable(node.0)) {
                return self.forward_to(node.0, hops);
            }
        }
        // The catalog or the replica is on its way, or the queue is not there.
        self.place(name.as_str(), hops).await
    }

    /// This node's catalog may be behind: its leader's is not.
    fn unknown_queue(&self, name: &QueueName, hops: u32) -> Result<Option<Place>, Refusal> {
        if let Some(sharded) = self.catalog.read(|catalog| catalog.sharded(name).cloned()) {
            return Err(Refusal::sharded(&sharded));
        }
        let leadership = self.catalog.leadership();
        match leadership.leader {
            Some(leader) if leader == self.id() => Err(Refusal::queue_not_found(name.as_str())),
            Some(leader) if hops == 0 => self.forward_to(leader, hops).map(Some),
            Some(_) => Err(Refusal::queue_not_found(name.as_str())),
            None => Ok(None),
        }
    }

    fn forward_to(&self, node: u64, hops: u32) -> Result<Place, Refusal> {
        if hops >= HOPS_MAX {
            return Err(Refusal::not_leader(self.leader(node, 0)));
        }
        Ok(Place::There(node))
    }

    /// The catalog's leader, waiting for an election in progress; `None` = this node.
    pub(crate) async fn catalog_place(&self, hops: u32) -> Result<Option<u64>, Refusal> {
        let look = async {
            loop {
                if self.shutdown.is_said() {
                    return Err(Refusal::shutting_down());
                }
                let leadership = self.catalog.leadership();
                match leadership.leader {
                    Some(_) if leadership.leads => return Ok(None),
                    Some(leader) if leader != self.id() && hops < HOPS_MAX => {
                        return Ok(Some(leader));
                    }
                    Some(leader) if leader != self.id() => {
                        return Err(Refusal::not_leader(self.leader(leader, leadership.term)));
                    }
                    _ => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        };
        match tokio::time::timeout(self.config.limits.request_timeout(), look).await {
            Ok(place) => place,
            Err(_) => Err(Refusal::no_quorum("find the catalog's leader")),
        }
    }

    /// A node as a leader hint, if its address is known.
    pub(crate) fn leader(&self, node: u64, term: u64) -> Option<v1::Leader> {
        let address = self.address_of(node)?;
        Some(v1::Leader { node_id: node, address, term })
    }

    /// host:port of a node.
    pub(crate) fn address_of(&self, node: u64) -> Option<String> {
        if node == self.id() {
            return Some(self.config.advertised());
        }
        self.catalog
            .read(|catalog| catalog.node(NodeId(node)).map(|node| node.address.clone()))
            .or_else(|| self.addresses.get(node))
    }

    /// A channel to another node, for forwarding a client's call.
    pub(crate) fn channel(&self, node: u64) -> Result<tonic::transport::Channel, Status> {
        self.connections.channel(node).map_err(|error| {
            let mut refusal = Refusal::not_leader(None);
            refusal.message = format!("{error}; retry");
            refusal.into()
        })
    }

    /// What a proposal's refusal for leadership says, with the new leader if it is known.
    pub(crate) fn redirect(&self, queue: &Queue, error: quorate_group::ProposeError) -> Refusal {
        match error {
            quorate_group::ProposeError::NotLeader { leader } => {
                let leader =
                    leader.or(queue.handle.leadership().leader).filter(|l| *l != self.id());
                let term = queue.handle.leadership().term;
                Refusal::not_leader(leader.and_then(|leader| self.leader(leader, term)))
            }
            error => error.into(),
        }
    }
}
