//! Where a message is, and why it is not delivered: asked of the queue's leader, with a majority behind it; without one, of
//! whatever replica is here, and said so. A question in an emergency is to be answered with what there is.
//!
//! ```text
//!  the leader, wherever it is ── proven by a majority ─► its machine, the body from its log ─► confirmed
//!        └ none, or not proven in time ─► the replica here, if any, and who holds the queue ─► not confirmed
//! ```

use std::time::Duration;

use quorate_machine::NodeId;
use quorate_machine::queue::{
    ConsumerInfo, Explanation, Holder, Kept, Obstacle, Offset, Place, Settings, Standing, Waiting,
    Way,
};
use quorate_proto::frame::{Headers, MessageView, message_bytes, messages};
use quorate_proto::v1::explain_message_response::Place as Told;
use quorate_proto::{reason, v1};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use super::Services;
use super::consumers::session_bytes;
use crate::member::Member;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place as Where, forwarded, hops, passed_on, queue_name};

/// How long a leader is looked for, and its proof waited for; less by [`HOP`] for each time that the call was forwarded, so
/// that who forwarded it hears what the replica there has. A client gives a node five seconds.
const PATIENCE: Duration = Duration::from_millis(3_000);
const HOP: Duration = Duration::from_millis(750);
/// Time between two attempts.
const ASK_EVERY: Duration = Duration::from_millis(50);

impl Services {
    pub(super) async fn message_explained(
        &self,
        request: Request<v1::ExplainMessageRequest>,
    ) -> Result<Response<v1::ExplainMessageResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        queue_name(&request.queue)?;
        let deadline = Instant::now() + PATIENCE.saturating_sub(HOP * hops.min(3));
        loop {
            let asked = self.explained_at_leader(&request, hops);
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match timeout(left, asked).await {
                Ok(Ok(answer)) => return Ok(Response::new(answer)),
                Ok(Err(status)) if !is_for_want_of_a_leader(&status) => return Err(status),
                // Who forwarded it has an outdated view, and is to look again.
                Ok(Err(status)) if hops > 0 && is_elsewhere(&status) => return Err(status),
                Ok(Err(status)) => status.message().to_owned(),
                Err(_) => "no majority of the queue's replicas answered in time".to_owned(),
            };
            if Instant::now() + ASK_EVERY >= deadline {
                return Ok(Response::new(self.node.explain_alone(&request, why).await?));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn explained_at_leader(
        &self,
        request: &v1::ExplainMessageRequest,
        hops: u32,
    ) -> Result<v1::ExplainMessageResponse, Status> {
        match self.node.place(&request.queue, hops).await? {
            Where::Here(queue) => Ok(self.node.explain_here(&queue, request.offset).await?),
            Where::There(node) => {
                let request = forwarded(request.clone(), hops);
                let answer = self.admin(node)?.explain_message(request).await;
                Ok(answer.map_err(passed_on)?.into_inner())
            }
        }
    }
}

/// Whether a leader with a majority is what the answer lacks.
fn is_for_want_of_a_leader(status: &Status) -> bool {
    let info = status.get_details_error_info();
    let lacking = [reason::NO_QUORUM, reason::NOT_LEADER, reason::UNKNOWN_OUTCOME];
    info.is_some_and(|info| lacking.contains(&info.reason.as_str()))
}

/// Whether the queue is led, but by another node.
fn is_elsewhere(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == reason::NOT_LEADER)
}

impl Member {
    /// The answer of the leader, once it is known that it leads.
    async fn explain_here(
        &self,
        queue: &Queue,
        offset: u64,
    ) -> Result<v1::ExplainMessageResponse, Refusal> {
        let limit = self.config.limits.request_timeout();
        match timeout(limit, queue.handle.complete_as_of(Instant::now())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(self.redirect(queue, error)),
            Err(_) => return Err(Refusal::no_quorum("explain a message")),
        }
        let answer = self.explain_from(queue, offset).await;
        Ok(v1::ExplainMessageResponse { confirmed: true, ..answer })
    }

    /// What is known without a leader, and who holds the queue.
    async fn explain_alone(
        &self,
        request: &v1::ExplainMessageRequest,
        why: String,
    ) -> Result<v1::ExplainMessageResponse, Refusal> {
        let known = self.known(&queue_name(&request.queue)?);
        let known = known.ok_or_else(|| Refusal::no_quorum("find the queue"))?;
        let answer = match self.replica_of(&request.queue) {
            Some(queue) => self.explain_from(&queue, request.offset).await,
            None => v1::ExplainMessageResponse {
                queue: request.queue.clone(),
                offset: request.offset,
                group_id: known.group.0,
                now_ms: self.catalog.now_ms(),
                ..Default::default()
            },
        };
        let voters = &known.replicas;
        let presence = |node: NodeId| v1::ReplicaPresence {
            voter: voters.contains(&node),
            ..self.presence(node)
        };
        let replicas = known.holders().map(presence).collect();
        Ok(v1::ExplainMessageResponse { unconfirmed: why, replicas, ..answer })
    }

    fn presence(&self, node: NodeId) -> v1::ReplicaPresence {
        let reachable = self.is_there(node);
        let away = self.connections.away_for(node.0).filter(|_| !reachable);
        let zone = self.catalog.read(|catalog| catalog.node(node).map(|node| node.zone.clone()));
        v1::ReplicaPresence {
            node_id: node.0,
            address: self.address_of(node.0).unwrap_or_default(),
            zone: zone.unwrap_or_default(),
            reachable,
            away_ms: away.map(|away| u64::try_from(away.as_millis()).unwrap_or(u64::MAX)),
            voter: false,
        }
    }

    /// What this node's replica knows.
    async fn explain_from(&self, queue: &Queue, offset: u64) -> v1::ExplainMessageResponse {
        let (explained, settings) = queue
            .handle
            .read(|machine| (machine.explain(Offset(offset)), machine.settings().clone()));
        let message = self.body_of(queue, &explained).await;
        let dead_letter = settings.dead_letter.as_ref().map_or("", |name| name.as_str());
        let mut told = v1::ExplainMessageResponse {
            queue: queue.name.as_str().into(),
            offset,
            group_id: queue.handle.id(),
            node_id: self.id(),
            now_ms: queue.handle.now_ms(),
            first_offset: explained.first_held.0,
            next_offset: explained.next.0,
            facts: Some(facts(&explained, &settings, message.as_ref())),
            place: Some(place(explained.place, dead_letter)),
            ..Default::default()
        };
        if let Some(Told::Dead(dead)) = &mut told.place {
            dead.waits = match dead_letter {
                "" => "the queue has no dead-letter queue any more; set one, or purge".to_owned(),
                _ => queue.stuck().unwrap_or_default(),
            };
        }
        told
    }

    /// The message itself, if it is in the log still: it may have been let go of since, which is no fault here.
    async fn body_of(&self, queue: &Queue, explained: &Explanation) -> Option<MessageView> {
        let frame = queue.frame(explained.run?).await.ok()?;
        messages(&frame).ok()?.next()
    }
}

fn facts(
    explained: &Explanation,
    settings: &Settings,
    message: Option<&MessageView>,
) -> v1::MessageFacts {
    let bytes = |message: &MessageView| {
        let headers: Vec<_> = message.headers.iter().collect();
        message_bytes(&headers, &message.body) as u64
    };
    let key = |headers: &Headers| headers.group_key().unwrap_or_default();
    v1::MessageFacts {
        published_at_ms: explained.published.map(|at| at.0),
        bytes: message.map(bytes),
        headers: message.map(|message| message.headers.len() as u32),
        group_key: message.map(|message| key(&message.headers)),
        priority: explained.priority.map(u32::from),
        expires_at_ms: explained.expires.map(|at| at.0),
        own_expires_at_ms: explained.own_expires.map(|at| at.0),
        deliveries: explained.deliveries,
        max_deliveries: settings.max_deliveries,
    }
}

fn place(place: Place, dead_letter: &str) -> Told {
    use v1::blocked_message::Head;
    let dead_letter = dead_letter.to_owned();
    match place {
        Place::Unpublished => Told::Unpublished(v1::UnpublishedMessage {}),
        Place::Free(Standing::Ready(waiting)) => Told::Ready(ready(waiting)),
        Place::Free(Standing::Delayed { due }) => {
            Told::Delayed(v1::DelayedMessage { due_ms: due.0 })
        }
        Place::Free(Standing::Leased(holder)) => Told::Leased(leased(holder)),
        Place::Blocked { head, ahead, due, standing } => Told::Blocked(v1::BlockedMessage {
            head_offset: head.0,
            ahead,
            due_ms: due.map_or(0, |due| due.0),
            head: Some(match standing {
                Standing::Ready(waiting) => Head::Ready(ready(waiting)),
                Standing::Delayed { due } => Head::Delayed(v1::DelayedMessage { due_ms: due.0 }),
                Standing::Leased(holder) => Head::Leased(leased(holder)),
            }),
        }),
        Place::Dead { cause, ahead } => {
            let cause = cause.as_str().to_owned();
            Told::Dead(v1::DeadMessage { cause, dead_letter, ahead, waits: String::new() })
        }
        Place::Left { kept, ways } => {
            let way = |(way, messages)| v1::WayGone { by: gone_by(way).into(), messages };
            let ways = ways.into_iter().map(way).collect();
            Told::Gone(v1::GoneMessage { ways, kept: kept.map(kept_of), dead_letter })
        }
    }
}

fn ready(waiting: Waiting) -> v1::ReadyMessage {
    let Waiting { ahead, ahead_by_priority, obstacles, crowd, active } = waiting;
    let mut ready = v1::ReadyMessage {
        ahead,
        ahead_by_priority,
        consumers: crowd.all,
        consumers_away: crowd.away,
        consumers_paused: crowd.paused,
        consumers_full: crowd.full,
        consumers_filtered: crowd.filtered,
        active: active.map(holder_of),
        ..Default::default()
    };
    obstacles.into_iter().for_each(|obstacle| ready.push_obstacles(obstacle_of(obstacle)));
    ready
}

fn obstacle_of(obstacle: Obstacle) -> v1::DeliveryObstacle {
    use v1::DeliveryObstacle as Told;
    match obstacle {
        Obstacle::QueuePaused => Told::QueuePaused,
        Obstacle::TooManyDead => Told::TooManyDead,
        Obstacle::ExpiryBehind => Told::ExpiryBehind,
        Obstacle::NoConsumer => Told::NoConsumer,
        Obstacle::ConsumersAway => Told::ConsumersAway,
        Obstacle::ConsumersPaused => Told::ConsumersPaused,
        Obstacle::FilteredOut => Told::FilteredOut,
        Obstacle::CreditUsed => Told::CreditUsed,
        Obstacle::ActiveFull => Told::ActiveFull,
        Obstacle::OthersHold => Told::OthersHold,
    }
}

fn gone_by(way: Way) -> v1::GoneBy {
    match way {
        Way::Acked => v1::GoneBy::Ack,
        Way::Rejected => v1::GoneBy::Reject,
        Way::Exhausted => v1::GoneBy::Exhaustion,
        Way::Expired => v1::GoneBy::Expiry,
        Way::Dropped => v1::GoneBy::Overflow,
        Way::DeadLettered => v1::GoneBy::DeadLetter,
        Way::Purged => v1::GoneBy::Purge,
    }
}

fn leased(holder: Holder) -> v1::LeasedMessage {
    v1::LeasedMessage {
        token: holder.token.0,
        until_ms: holder.deadline.0,
        started: holder.started,
        holder: Some(holder_of(holder.consumer)),
    }
}

fn holder_of(consumer: ConsumerInfo) -> v1::MessageHolder {
    v1::MessageHolder {
        session: session_bytes(consumer.session),
        node_id: consumer.node.0,
        leased: consumer.leased,
        prefetch: consumer.prefetch,
        connected: consumer.connected,
        paused: consumer.paused,
        name: consumer.name,
    }
}

fn kept_of(kept: Kept) -> v1::KeptMessage {
    v1::KeptMessage {
        readable: kept.readable,
        held_with: kept.held,
        until_ms: kept.until.map_or(0, |until| until.0),
        slots: kept.slots.iter().map(|slot| slot.as_str().to_owned()).collect(),
    }
}
