//! Who leads on purpose: switchover, draining a node, and evening leaders out.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use quorate_group::Handle;
use quorate_machine::catalog::{self, Catalog};
use quorate_machine::{Machine, NodeId};
use quorate_proto::{reason, v1};
use tokio::time::Instant;
use tonic::Status;

use crate::member::Member;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place, forwarded, passed_on};

/// Longest wait for one leadership to change hands.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(3);
/// Leaderships that are handed over at a time.
const AT_A_TIME: usize = 64;
/// Time between two looks for the new leader.
const LOOK_EVERY: Duration = Duration::from_millis(5);

type Client = v1::cluster_service_client::ClusterServiceClient<tonic::transport::Channel>;

/// Hands over all that is led here, a few groups at a time, those in use first; to nodes that are being
/// drained only if `even_drained` and nobody else is there.
pub(crate) async fn hand_over(member: &Member, even_drained: bool) {
    let led = member.queues.all().into_iter().filter(|queue| queue.handle.leadership().leads);
    let (parked, used): (Vec<_>, Vec<_>) =
        led.partition(|queue| queue.handle.replica().is_parked());
    let mut handing = Vec::new();
    for queue in used.into_iter().chain(parked) {
        handing.push(async move {
            if let Some(heir) = heir(member, &queue.handle, even_drained) {
                queue.handle.transfer(heir, HAND_OVER).await;
            }
        });
    }
    let queues = stream::iter(handing).buffer_unordered(AT_A_TIME).collect::<()>();
    let catalog = async {
        if let Some(heir) = heir(member, &member.catalog, even_drained) {
            member.catalog.transfer(heir, HAND_OVER).await;
        }
    };
    futures_util::join!(catalog, queues);
}

/// Who is to lead next: the voter that has most, rather one that is not being drained. None if this node does
/// not lead.
fn heir<M: Machine>(member: &Member, group: &Handle<M>, even_drained: bool) -> Option<u64> {
    let heirs = group.heirs().into_iter().map(|heir| (!member.is_draining(heir.node), heir));
    let heirs = heirs.filter(|(undrained, _)| *undrained || even_drained);
    heirs.max_by_key(|(undrained, heir)| (*undrained, heir.matched)).map(|(_, heir)| heir.node)
}

impl Member {
    /// Whether a node is to lead nothing.
    pub(crate) fn is_draining(&self, node: u64) -> bool {
        self.catalog.read(|catalog| catalog.node(NodeId(node)).is_some_and(|node| node.draining))
    }

    /// Hands over a queue that is led here.
    async fn hand_queue_over(&self, queue: &Queue, to: u64) -> Result<(), Refusal> {
        let to = match to {
            to if to == self.id() => return Ok(()),
            0 => heir(self, &queue.handle, true).ok_or_else(|| {
                let message = "no other replica of the queue is there to lead it";
                Refusal::new(reason::NOT_ENOUGH_NODES, message).retry(HAND_OVER)
            })?,
            to => to,
        };
        let voters = queue.handle.progress();
        if !voters.iter().any(|voter| voter.voter && voter.node == to) {
            let nodes: Vec<String> = voters.iter().map(|voter| voter.node.to_string()).collect();
            return Err(Refusal::invalid(format!(
                "node {to} has no vote in queue {}; those that have are {}",
                queue.name,
                nodes.join(", ")
            )));
        }
        if !queue.handle.heirs().iter().any(|heir| heir.node == to) {
            let message = format!("node {to} is not there to lead; see `quorate cluster status`");
            return Err(Refusal::new(reason::NOT_ENOUGH_NODES, message).retry(HAND_OVER));
        }
        match queue.handle.transfer(to, HAND_OVER).await {
            true => Ok(()),
            false => Err(Refusal::no_quorum(&format!("hand queue {} over to {to}", queue.name))),
        }
    }

    /// Hands a queue over, wherever it is led, and tells who leads then.
    pub(crate) async fn transfer(
        &self,
        request: v1::TransferLeaderRequest,
        hops: u32,
    ) -> Result<v1::Leader, Status> {
        match self.place(&request.queue, hops).await? {
            Place::Here(queue) => {
                self.hand_queue_over(&queue, request.node_id).await?;
                Ok(self.leader_of(&queue, request.node_id).await?)
            }
            Place::There(node) => {
                let mut client = Client::new(self.channel(node)?);
                let answer = client.transfer_leader(forwarded(request, hops)).await;
                let answer = answer.map_err(passed_on)?.into_inner();
                answer.leader.ok_or_else(|| Refusal::not_leader(None).into())
            }
        }
    }

    /// Who leads a queue with a replica here, waiting for the one that was asked to; 0 = any.
    async fn leader_of(&self, queue: &Queue, wanted: u64) -> Result<v1::Leader, Refusal> {
        let look = async {
            loop {
                let now = queue.handle.leadership();
                let leader = now.leader.filter(|leader| wanted == 0 || *leader == wanted);
                if let Some(leader) = leader.and_then(|leader| self.leader(leader, now.term)) {
                    return leader;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let doing = || format!("see who leads queue {}", queue.name);
        let found = tokio::time::timeout(HAND_OVER, look).await;
        found.map_err(|_| Refusal::no_quorum(&doing()))
    }

    /// Marks a node in the catalog, which is led here.
    pub(crate) async fn drain(&self, request: &v1::DrainNodeRequest) -> Result<(), Refusal> {
        let (id, draining) = (NodeId(request.node_id), request.draining);
        match self.propose_catalog(catalog::Command::DrainNode { id, draining }).await? {
            catalog::Reply::Rejected(rejection) => Err(rejection.into()),
            _ => Ok(()),
        }
    }

    /// Gives each queue to its preferred leader, if that one may lead.
    pub(crate) async fn balance(&self) -> v1::BalanceLeadersResponse {
        // What was drained or undrained before is to count; without a catalog, what is known does.
        let current = self.catalog.complete_as_of(Instant::now());
        let _ = tokio::time::timeout(HAND_OVER, current).await;
        let wanted: Vec<(String, u64, u64)> = self.catalog.read(|catalog| {
            let drained = |id: NodeId| Catalog::node(catalog, id).is_none_or(|node| node.draining);
            catalog
                .queues()
                .filter(|queue| !drained(queue.preferred_leader))
                .map(|q| (q.name.as_str().to_owned(), q.group.0, q.preferred_leader.0))
                .collect()
        });
        let moved = stream::iter(wanted).map(|(queue, group, to)| async move {
            let known = self.queues.get(group).and_then(|local| local.handle.leadership().leader);
            let leader = match known {
                Some(leader) => leader,
                None => self.locate(&queue, 0).await.map_or(0, |leader| leader.node_id),
            };
            if leader == to {
                return v1::BalanceLeadersResponse::default();
            }
            let request = v1::TransferLeaderRequest { queue, node_id: to };
            let done = self.transfer(request, 0).await.is_ok();
            v1::BalanceLeadersResponse { moved: done.into(), left: (!done).into() }
        });
        let sum = |sum: v1::BalanceLeadersResponse, one: v1::BalanceLeadersResponse| {
            let (moved, left) = (sum.moved + one.moved, sum.left + one.left);
            std::future::ready(v1::BalanceLeadersResponse { moved, left })
        };
        moved.buffer_unordered(AT_A_TIME).fold(v1::BalanceLeadersResponse::default(), sum).await
    }
}
