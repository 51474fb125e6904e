//! Whether this node can take a call now, as `grpc.health.v1` asks and as `/health/*` does (see
//! [`http`](crate::http)): both judge by what is here.
//!
//! | name | `SERVING` if |
//! |---|---|
//! | empty: the node | the catalog has a leader with a majority, and the node is not ending |
//! | `quorate.v1.…Service` | the same, and the node is not being drained; to publish, its disk has room too |
//! | `queue/NAME` | this node leads the queue and serves it |
//!
//! Nothing is kept for a name: an answer is worked out when somebody asks, so ten thousand queues cost nothing
//! until then. That is why this is no `HealthReporter` of tonic-health's, which holds a status for each name.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::v1::admin_service_server::SERVICE_NAME as ADMIN;
use quorate_proto::v1::cluster_service_server::SERVICE_NAME as CLUSTER;
use quorate_proto::v1::consumer_service_server::SERVICE_NAME as CONSUMER;
use quorate_proto::v1::queue_service_server::SERVICE_NAME as QUEUE;
use quorate_proto::v1::reader_service_server::SERVICE_NAME as READER;
use quorate_proto::v1::topic_service_server::SERVICE_NAME as TOPIC;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::member::Member;
use crate::refusal::Refusal;
use crate::routing::queue_name;
use crate::service::Answers;

/// Time between two looks at what is watched.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a name begins with that means a queue.
const QUEUE_PREFIX: &str = "queue/";

/// Whether the catalog has a leader that is there and, where that is this node, a majority that follows
/// it: without one, neither a leader nor a follower learns by itself that nobody leads any more.
pub(crate) fn has_majority(member: &Member) -> bool {
    let leadership = member.catalog.leadership();
    if !leadership.leads {
        return leadership.leader.is_some_and(|leader| !member.connections.lost(leader));
    }
    let progress = member.catalog.progress();
    let voters = progress.iter().filter(|seen| seen.voter).map(|seen| seen.node);
    let (there, away): (Vec<u64>, Vec<u64>) =
        voters.partition(|node| *node == member.id() || member.connections.reachable(*node));
    there.len() > away.len()
}

/// What the judgement of the node and its services rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    is_ending: bool,
    is_draining: bool,
    has_majority: bool,
    disk_is_full: bool,
}

impl Standing {
    pub(crate) fn of(member: &Member) -> Self {
        Self {
            is_ending: member.shutdown.is_said(),
            is_draining: member.is_draining(member.id()),
            has_majority: has_majority(member),
            disk_is_full: member.disk.is_full(),
        }
    }

    /// Why new calls are better taken elsewhere; `None` if the node is ready.
    pub(crate) fn why_not_ready(self) -> Option<&'static str> {
        if self.is_ending {
            Some("it is ending")
        } else if self.is_draining {
            Some("it is being drained")
        } else if !self.has_majority {
            Some("the catalog has no leader with a majority")
        } else {
            None
        }
    }

    /// Whether the node, for the empty name, or one of its services can take a call; `None` for no such service.
    fn serves(self, service: &str) -> Option<bool> {
        match service {
            "" => Some(self.has_majority && !self.is_ending),
            QUEUE | TOPIC => Some(self.why_not_ready().is_none() && !self.disk_is_full),
            CONSUMER | READER | ADMIN | CLUSTER => Some(self.why_not_ready().is_none()),
            _ => None,
        }
    }
}

/// Where a queue is led, as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Led {
    /// By this node, which serves it.
    Here,
    /// Not by this node; by whom, if that is known.
    Elsewhere(Option<u64>),
}

/// Where a queue is led; `None` for no such queue.
pub(crate) fn led(member: &Member, queue: &str) -> Option<Led> {
    let name = queue_name(queue).ok()?;
    let group = member.catalog.read(|catalog| catalog.queue(&name).map(|queue| queue.group.0))?;
    let Some(local) = member.queues.get(group) else { return Some(Led::Elsewhere(None)) };
    if local.serves() && member.awake.is() && !member.shutdown.is_said() {
        return Some(Led::Here);
    }
    let leader = local.handle.leadership().leader;
    Some(Led::Elsewhere(leader.filter(|leader| *leader != member.id())))
}

/// The status of what a name means; `None` if it means nothing here.
fn status_of(member: &Member, name: &str) -> Option<ServingStatus> {
    let serves = match name.strip_prefix(QUEUE_PREFIX) {
        Some(queue) => led(member, queue).map(|led| led == Led::Here),
        None => Standing::of(member).serves(name),
    };
    serves.map(|serves| if serves { ServingStatus::Serving } else { ServingStatus::NotServing })
}

fn told(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// `grpc.health.v1.Health` of a node.
pub(crate) struct HealthService(pub(crate) Arc<Member>);

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = request.into_inner().service;
        let status = status_of(&self.0, &name).ok_or_else(|| {
            Status::not_found(
                "no such service or queue: ask for \"\", `quorate.v1.QueueService` and the like, or \
                 `queue/NAME`",
            )
        })?;
        Ok(Response::new(told(status)))
    }

    type WatchStream = Answers<HealthCheckResponse>;

    /// Takes one of the node's streams (`limits.max_streams`) for as long as the client watches.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        let member = self.0.clone();
        let room = member.budget.stream()?;
        let changes = async_stream::stream! {
            let _room = room;
            let mut last = None;
            loop {
                let is_last = member.shutdown.is_said();
                // What is not there may come: the protocol has the client told, and go on watching.
                let status = status_of(&member, &name).unwrap_or(ServingStatus::ServiceUnknown);
                if last.replace(status) != Some(status) {
                    yield Ok(told(status));
                }
                if is_last {
                    yield Err(Refusal::shutting_down().into());
                    return;
                }
                tokio::select! {
                    biased;
                    () = member.shutdown.said() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        };
        Ok(Response::new(Box::pin(changes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Standing =
        Standing { is_ending: false, is_draining: false, has_majority: true, disk_is_full: false };

    /// Whether the node, publishing, and the other services serve.
    fn serve(standing: Standing) -> (bool, bool, bool) {
        let serves = |service| standing.serves(service).expect("a service");
        let others = [CONSUMER, READER, ADMIN, CLUSTER].map(serves);
        assert!(others.iter().all(|other| *other == others[0]), "{standing:?}: {others:?}");
        (serves(""), serves(QUEUE), others[0])
    }

    #[test]
    fn each_service_is_judged_by_what_its_calls_need() {
        assert_eq!(serve(READY), (true, true, true));
        assert_eq!(serve(Standing { disk_is_full: true, ..READY }), (true, false, true));
        assert_eq!(serve(Standing { is_draining: true, ..READY }), (true, false, false));
        assert_eq!(serve(Standing { has_majority: false, ..READY }), (false, false, false));
        assert_eq!(serve(Standing { is_ending: true, ..READY }), (false, false, false));
    }

    #[test]
    fn what_is_no_service_has_no_status() {
        for name in ["quorate.v1.NoService", "queue", "QueueService", "quorate.internal.Peer"] {
            assert_eq!(READY.serves(name), None, "{name}");
        }
    }
}
