//! Why a queue's replicas are where they are: the catalog's explanation, with who is there as this node sees it and
//! what the queue's leader is about to do.

use std::time::Duration;

use quorate_machine::NodeId;
use quorate_machine::catalog::{self, Explained, Explanation, Finding, LeaderReason, Reason, Role};
use quorate_proto::v1::{
    self, PlacedRole, PlacementFindingKind, PlacementReason, PlacementStep, PreferredLeaderReason,
};
use tonic::Status;

use crate::member::Member;
use crate::moves::{self, Step};
use crate::routing::{forwarded, queue_name};

/// How long the leader may take to be found, and to answer.
const LEADER_WAIT: Duration = Duration::from_secs(2);

impl Member {
    /// The whole explanation; only the next step of a move, as the leader knows it, if the question comes from
    /// another node.
    pub(super) async fn explain_placement(
        &self,
        request: &v1::ExplainPlacementRequest,
        hops: u32,
    ) -> Result<v1::ExplainPlacementResponse, Status> {
        let name = queue_name(&request.name)?;
        let explained = self.catalog.read(|catalog| {
            let nodes = catalog.nodes().map(|node| node.id);
            let there: Vec<NodeId> = nodes.filter(|node| self.is_there(*node)).collect();
            catalog.explain(&name, &there)
        });
        let explained = explained.ok_or_else(|| self.no_queue(&name))?;
        let mut told = v1::ExplainPlacementResponse {
            name: name.as_str().into(),
            node_id: self.id(),
            ..Default::default()
        };
        note_step(&mut told, moves::outlook(self, &explained.queue));
        if hops > 0 {
            return Ok(told);
        }
        told.leader = self.leader_within(&explained.queue).await;
        self.tell(&explained, &mut told);
        let leader = told.leader.as_ref().map(|leader| leader.node_id);
        if let Some(leader) = leader.filter(|leader| told.moving && *leader != self.id())
            && let Some(theirs) = self.ask_step(leader, request).await
        {
            (told.step, told.step_nodes) = (theirs.step, theirs.step_nodes);
        }
        if !told.moving {
            (told.step, told.step_nodes) = (PlacementStep::Unspecified.into(), Vec::new());
        }
        Ok(told)
    }

    async fn leader_within(&self, queue: &catalog::Queue) -> Option<v1::Leader> {
        if let Some(local) = self.queues.get(queue.group.0) {
            let now = local.handle.leadership();
            if let Some(leader) = now.leader {
                return self.leader(leader, now.term);
            }
        }
        let found = self.locate(queue.name.as_str(), 0);
        tokio::time::timeout(LEADER_WAIT, found).await.ok()?.ok()
    }

    async fn ask_step(
        &self,
        leader: u64,
        request: &v1::ExplainPlacementRequest,
    ) -> Option<v1::ExplainPlacementResponse> {
        let channel = self.connections.channel(leader).ok()?;
        let mut client = v1::admin_service_client::AdminServiceClient::new(channel);
        let asked = client.explain_placement(forwarded(request.clone(), 0));
        Some(tokio::time::timeout(LEADER_WAIT, asked).await.ok()?.ok()?.into_inner())
    }

    fn tell(&self, explained: &Explanation, told: &mut v1::ExplainPlacementResponse) {
        let queue = &explained.queue;
        told.nodes = explained.nodes.iter().map(|node| self.placed_node(node)).collect();
        told.anew = ids(&explained.anew);
        told.preferred_leader = queue.preferred_leader.0;
        let reason = match explained.leader {
            LeaderReason::Fewest => PreferredLeaderReason::Fewest,
            LeaderReason::Drained => PreferredLeaderReason::Drained,
            LeaderReason::Stays { rather } => {
                told.rather_leader = rather.0;
                PreferredLeaderReason::Stays
            }
        };
        told.set_preferred_leader_reason(reason);
        (told.moving, told.placement) = (queue.is_moving, queue.moved);
        told.findings = explained.findings.iter().map(finding).collect();
    }

    fn placed_node(&self, node: &Explained) -> v1::PlacedNode {
        let (draining, leaving) = self.catalog.read(|catalog| {
            catalog.node(node.id).map_or((false, true), |node| (node.draining, node.leaving))
        });
        let reachable = self.is_there(node.id);
        let away = self.connections.away_for(node.id.0).filter(|_| !reachable);
        let mut told = v1::PlacedNode {
            node_id: node.id.0,
            zone: node.zone.clone(),
            reachable,
            away_ms: away.map(|away| u64::try_from(away.as_millis()).unwrap_or(u64::MAX)),
            draining,
            leaving,
            replicas: node.replicas,
            leaders: node.leaders,
            ..Default::default()
        };
        told.set_role(match node.role {
            Role::Voter => PlacedRole::Voter,
            Role::Observer => PlacedRole::Observer,
            Role::Leaving => PlacedRole::Leaving,
            Role::None => PlacedRole::None,
        });
        let kind = match &node.reason {
            Reason::Chosen { pick, in_zone } => {
                (told.pick, told.in_zone) = (*pick, *in_zone);
                PlacementReason::Chosen
            }
            Reason::Stays { rather } => {
                told.others = ids(rather);
                PlacementReason::Stays
            }
            Reason::ByOperator => PlacementReason::ByOperator,
            Reason::Goes => PlacementReason::Goes,
            Reason::NotThere => PlacementReason::NotThere,
            Reason::LeavesCluster => PlacementReason::LeavesCluster,
            Reason::Drained => PlacementReason::Drained,
            Reason::ZoneUsed { by } => {
                told.others = ids(by);
                PlacementReason::ZoneUsed
            }
            Reason::MoreLoaded { than, carries } => {
                (told.others, told.others_replicas) = (vec![than.0], *carries);
                PlacementReason::MoreLoaded
            }
            Reason::HigherId { than } => {
                told.others = vec![than.0];
                PlacementReason::HigherId
            }
            Reason::TooFewNodes => PlacementReason::TooFewNodes,
        };
        told.set_reason(kind);
        told
    }
}

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

fn note_step(told: &mut v1::ExplainPlacementResponse, outlook: Option<(Step, Vec<u64>)>) {
    let Some((step, nodes)) = outlook else { return };
    told.step_nodes = nodes;
    told.set_step(match step {
        Step::Wait => PlacementStep::Wait,
        Step::Add(_) => PlacementStep::Add,
        Step::HandOver(_) => PlacementStep::HandOver,
        Step::Vote(_) => PlacementStep::Vote,
        Step::Remove(_) => PlacementStep::Remove,
        Step::Done => PlacementStep::Done,
    });
}

fn finding(finding: &Finding) -> v1::PlacementFinding {
    use PlacementFindingKind as Kind;
    let or_none = |to: &Option<NodeId>| to.map_or(0, |to| to.0);
    let (kind, node_id, to) = match finding {
        Finding::ZoneCrowded { node, to } => (Kind::ZoneCrowded, node.0, to.0),
        Finding::NotThere { node, to } => (Kind::NotThere, node.0, or_none(to)),
        Finding::LeavesCluster { node, to } => (Kind::LeavesCluster, node.0, or_none(to)),
        Finding::NoMajority => (Kind::NoMajority, 0, 0),
    };
    v1::PlacementFinding { kind: kind.into(), node_id, to }
}
