//! The cluster: its nodes, and where queues are led.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use quorate_machine::NodeId;
use quorate_machine::catalog::{self, RegisterNode};
use quorate_proto::internal as pb;
use quorate_proto::{reason, v1};
use tonic::{Request, Response, Status};

use super::Services;
use crate::member::Member;
use crate::peers::Directory;
use crate::refusal::Refusal;
use crate::routing::{Place, forwarded, hops, passed_on};

/// How long a node may take to tell of itself.
const IDENTIFY_WAIT: Duration = Duration::from_millis(700);

type Client = v1::cluster_service_client::ClusterServiceClient<tonic::transport::Channel>;

impl Member {
    /// Where a queue is led, asking others if need be.
    pub(crate) fn locate<'a>(
        &'a self,
        queue: &'a str,
        hops: u32,
    ) -> BoxFuture<'a, Result<v1::Leader, Status>> {
        async move {
            match self.place(queue, hops).await? {
                Place::Here(queue) => {
                    let term = queue.handle.leadership().term;
                    self.leader(self.id(), term).ok_or_else(|| Refusal::not_leader(None).into())
                }
                Place::There(node) => {
                    // A node with a replica knows who leads; one without has to be told.
                    let group = self.catalog.read(|catalog| {
                        let name = catalog::QueueName::parse(queue).ok()?;
                        catalog.queue(&name).map(|queue| queue.group.0)
                    });
                    if let Some(local) = group.and_then(|group| self.queues.get(group)) {
                        let leadership = local.handle.leadership();
                        if let Some(leader) = self.leader(node, leadership.term) {
                            return Ok(leader);
                        }
                    }
                    let request = v1::LocateQueueRequest { queue: queue.into() };
                    let mut client = Client::new(self.channel(node)?);
                    let answer = client.locate_queue(forwarded(request, hops)).await;
                    let answer = answer.map_err(passed_on)?;
                    answer.into_inner().leader.ok_or_else(|| Refusal::not_leader(None).into())
                }
            }
        }
        .boxed()
    }

    async fn ask(&self, node: u64) -> Option<pb::IdentifyResponse> {
        if node == self.id() {
            return Some(self.identify());
        }
        let channel = self.connections.channel(node).ok()?;
        let mut client = pb::peer_client::PeerClient::new(channel);
        let asked = client.identify(pb::IdentifyRequest {});
        let answer = tokio::time::timeout(IDENTIFY_WAIT, asked).await.ok()?.ok()?.into_inner();
        (answer.node_id == node).then_some(answer)
    }

    async fn status(&self) -> v1::GetStatusResponse {
        let (nodes, queues) = self.catalog.read(|catalog| {
            let nodes: Vec<catalog::Node> = catalog.nodes().cloned().collect();
            (nodes, catalog.queues().cloned().collect::<Vec<_>>())
        });
        let mut replicas: BTreeMap<NodeId, u64> = BTreeMap::new();
        for node in queues.iter().flat_map(catalog::Queue::holders) {
            *replicas.entry(node).or_default() += 1;
        }
        let lags = self.lags();
        let asked = join_all(nodes.iter().map(|node| self.ask(node.id.0))).await;
        let described = nodes.iter().zip(asked).map(|(node, told)| v1::NodeDescription {
            node_id: node.id.0,
            address: node.address.clone(),
            zone: node.zone.clone(),
            reachable: told.is_some(),
            replicas: replicas.get(&node.id).copied().unwrap_or(0),
            leaders: told.as_ref().map_or(0, |told| told.leaders),
            version: told.as_ref().map_or_else(String::new, |told| told.version.clone()),
            disk_full: told.as_ref().is_some_and(|told| told.disk_full),
            disk_free_bytes: told.as_ref().map_or(0, |told| told.disk_free_bytes),
            process_id: told.as_ref().map_or(0, |told| told.process_id),
            lag: lags.get(&node.id.0).copied().unwrap_or(0),
            draining: node.draining,
            leaving: node.leaving,
        });
        let leadership = self.catalog.leadership();
        let leaderless = |queue: &&catalog::Queue| {
            let local = self.queues.get(queue.group.0);
            local.is_some_and(|local| local.handle.leadership().leader.is_none())
        };
        v1::GetStatusResponse {
            cluster_id: self.cluster_id().into(),
            node_id: self.id(),
            catalog_leader: leadership.leader.and_then(|node| self.leader(node, leadership.term)),
            nodes: described.collect(),
            queues: queues.len() as u64,
            queues_without_leader: queues.iter().filter(leaderless).count() as u64,
        }
    }

    /// Entries that each node lacks, of the groups that this node leads.
    fn lags(&self) -> BTreeMap<u64, u64> {
        let mut lags = BTreeMap::new();
        let queues = self.queues.all();
        let progress = queues.iter().flat_map(|queue| queue.handle.progress());
        for seen in progress.chain(self.catalog.progress()) {
            *lags.entry(seen.node).or_default() += seen.lag;
        }
        lags
    }

    async fn join(
        &self,
        request: v1::JoinClusterRequest,
    ) -> Result<v1::JoinClusterResponse, Refusal> {
        let (taken, next, peers) = self.catalog.read(|catalog| {
            let taken =
                catalog.nodes().find(|node| node.address == request.address).map(|node| node.id);
            let next = catalog.next_node().0;
            let peers =
                catalog.nodes().map(|node| format!("{}={}", node.id.0, node.address)).collect();
            (taken, next, peers)
        });
        if let Some(node) = taken {
            let message = format!("node {} is at {} already", node.0, request.address);
            return Err(Refusal::invalid(message));
        }
        let register = register_of(request, next)?;
        let used = self.catalog.read(catalog::Catalog::min_version).unwrap_or(0);
        if register.version < used {
            let message = format!(
                "the nodes of this cluster use log commands of version {used}, and the program that joins \
                 knows {}; upgrade it",
                register.version
            );
            return Err(Refusal::new(reason::UNSUPPORTED_VERSION, message));
        }
        match self.propose_catalog(catalog::Command::RegisterNode(register)).await? {
            catalog::Reply::Rejected(rejection) => Err(rejection.into()),
            _ => Ok(v1::JoinClusterResponse {
                cluster_id: self.cluster_id().into(),
                node_id: next,
                peers,
            }),
        }
    }
}

/// The registration of a node that asks to join. What no replica could read back must not be
/// proposed: it would stop all of them.
pub(crate) fn register_of(
    request: v1::JoinClusterRequest,
    id: u64,
) -> Result<RegisterNode, Refusal> {
    let texts = [
        ("address", &request.address, RegisterNode::ADDRESS_BYTES_MAX),
        ("zone", &request.zone, RegisterNode::ZONE_BYTES_MAX),
    ];
    for (field, text, max) in texts {
        if text.len() > max {
            return Err(Refusal::invalid(format!("`{field}` is longer than {max} bytes")));
        }
    }
    Ok(RegisterNode {
        id: NodeId(id),
        incarnation: request.incarnation.into(),
        address: request.address,
        zone: request.zone,
        version: request.commands_version.max(1),
        replace: false,
    })
}

#[tonic::async_trait]
impl v1::cluster_service_server::ClusterService for Services {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.node.status().await))
    }

    async fn locate_queue(
        &self,
        request: Request<v1::LocateQueueRequest>,
    ) -> Result<Response<v1::LocateQueueResponse>, Status> {
        let hops = hops(request.metadata());
        let leader = self.node.locate(&request.into_inner().queue, hops).await?;
        let nodes = self
            .node
            .catalog
            .read(|catalog| catalog.nodes().map(|node| node.address.clone()).collect());
        Ok(Response::new(v1::LocateQueueResponse { leader: Some(leader), nodes }))
    }

    async fn join_cluster(
        &self,
        request: Request<v1::JoinClusterRequest>,
    ) -> Result<Response<v1::JoinClusterResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        if !request.address.contains(':') {
            return Err(Refusal::invalid("`address` must be host:port").into());
        }
        if let Some(node) = self.node.catalog_place(hops).await? {
            let mut client = Client::new(self.node.channel(node)?);
            return client.join_cluster(forwarded(request, hops)).await.map_err(passed_on);
        }
        Ok(Response::new(self.node.join(request).await?))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let hops = hops(request.metadata());
        let leader = self.node.transfer(request.into_inner(), hops).await?;
        Ok(Response::new(v1::TransferLeaderResponse { leader: Some(leader) }))
    }

    async fn get_replication(
        &self,
        request: Request<v1::GetReplicationRequest>,
    ) -> Result<Response<v1::GetReplicationResponse>, Status> {
        let hops = hops(request.metadata());
        Ok(Response::new(self.node.replication(&request.into_inner(), hops).await?))
    }

    async fn get_receivers(
        &self,
        request: Request<v1::GetReceiversRequest>,
    ) -> Result<Response<v1::GetReceiversResponse>, Status> {
        let hops = hops(request.metadata());
        Ok(Response::new(self.node.receivers(&request.into_inner(), hops).await?))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        if let Some(node) = self.node.catalog_place(hops).await? {
            let mut client = Client::new(self.node.channel(node)?);
            return client.drain_node(forwarded(request, hops)).await.map_err(passed_on);
        }
        self.node.drain(&request).await?;
        Ok(Response::new(v1::DrainNodeResponse {}))
    }

    async fn change_replicas(
        &self,
        request: Request<v1::ChangeReplicasRequest>,
    ) -> Result<Response<v1::ChangeReplicasResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        if let Some(node) = self.node.catalog_place(hops).await? {
            let mut client = Client::new(self.node.channel(node)?);
            return client.change_replicas(forwarded(request, hops)).await.map_err(passed_on);
        }
        Ok(Response::new(self.node.change_replicas(&request).await?))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        if let Some(node) = self.node.catalog_place(hops).await? {
            let mut client = Client::new(self.node.channel(node)?);
            return client.remove_node(forwarded(request, hops)).await.map_err(passed_on);
        }
        Ok(Response::new(self.node.remove_node(request.node_id).await?))
    }

    async fn recover_queues(
        &self,
        request: Request<v1::RecoverQueuesRequest>,
    ) -> Result<Response<v1::RecoverQueuesResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        if let Some(node) = self.node.catalog_place(hops).await? {
            let mut client = Client::new(self.node.channel(node)?);
            return client.recover_queues(forwarded(request, hops)).await.map_err(passed_on);
        }
        Ok(Response::new(self.node.recover(&request).await?))
    }

    async fn balance_leaders(
        &self,
        _request: Request<v1::BalanceLeadersRequest>,
    ) -> Result<Response<v1::BalanceLeadersResponse>, Status> {
        Ok(Response::new(self.node.balance().await))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_an_address_or_zone_that_no_replica_reads_does_not_join() {
        let join = |address: usize, zone: usize| v1::JoinClusterRequest {
            address: "a".repeat(address),
            zone: "z".repeat(zone),
            incarnation: 1,
            commands_version: 0,
        };
        let (address, zone) = (RegisterNode::ADDRESS_BYTES_MAX, RegisterNode::ZONE_BYTES_MAX);
        assert!(register_of(join(address, zone), 4).is_ok());
        for request in [join(address + 1, 0), join(0, zone + 1)] {
            let refused = register_of(request, 4).map(|_| ()).unwrap_err();
            assert_eq!(refused.reason, quorate_proto::reason::INVALID_ARGUMENT);
        }
    }
}
