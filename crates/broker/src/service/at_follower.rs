//! Consuming at a follower: its own replica makes the deliveries, while leases and settles are the leader's.
//!
//! ```text
//!  client ── settles ──────────────► the leader's node, which attaches the session to this one
//!         ◄── outcomes ─────────────┘
//!         ◄── bodies from the log here ◄── inlet ◄── effects of what is applied here
//! ```
//! So a consumer costs the leader no more than its settles. Every replica decides alike what is leased to whom; a
//! delivery is made where the session is attached. The replica may lag: the client says how much, and one that
//! lags more hands it back to the leader.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use quorate_group::ProposeError;
use quorate_proto::{reason, v1};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};
use tonic_types::StatusExt;

use super::consumer::{SETTLES_IN_FLIGHT, attach_of};
use super::inlet::Inlet;
use super::{Answers, Services};
use crate::member::Member;
use crate::outlet::Unread;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{forwarded_from, passed_on};
use crate::telemetry::{Deliveries, Settling};

/// How long a replica that is not known to be fresh enough is waited for, before the leader delivers.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest time between two looks at a replica's lag and leader.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When a consumer that was handed back may ask again, if the leader is not known.
const ASK_AFTER: Duration = Duration::from_millis(20);

impl Services {
    /// The replica here, if it may make the deliveries to a consumer that attaches.
    pub(super) async fn may_deliver(&self, attach: &v1::Attach) -> Option<Arc<Queue>> {
        if attach.max_lag_ms == 0 {
            return None;
        }
        let queue = self.node.replica_of(&attach.queue)?;
        let now = Instant::now();
        let since = now.checked_sub(max_lag(attach)).unwrap_or(now);
        let known = tokio::time::timeout(PATIENCE, queue.handle.complete_as_of(since)).await;
        // The answer may have taken longer to come than it is good for.
        let is_fresh = matches!(known, Ok(Ok(as_of)) if as_of.elapsed() <= max_lag(attach));
        is_fresh.then_some(queue)
    }

    pub(super) async fn deliver_here(
        &self,
        queue: Arc<Queue>,
        leader: u64,
        attach: v1::Attach,
        rest: Streaming<v1::ConsumeRequest>,
        hops: u32,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<Answers<v1::ConsumeResponse>>, Status> {
        use v1::consume_response::Response as Kind;
        let command = attach_of(&attach, self.node.id())?;
        let max_lag = max_lag(&attach);
        let traces = Arc::new(self.node.telemetry.deliveries(&queue, &command));
        let (node, session) = (self.node.clone(), command.session);
        let mut inlet = Inlet::open(node, queue.clone(), session, command.prefetch, traces.clone());
        let settles = Arc::new(Settles { traces, underway: Mutex::default() });
        // What was open when a leader took up office was closed then.
        if queue.handle.leadership().leader != Some(leader) {
            return Err(Refusal::not_leader(None).into());
        }
        let channel = self.node.channel(leader)?;
        let mut client = v1::consumer_service_client::ConsumerServiceClient::new(channel)
            .max_decoding_message_size(crate::peers::MESSAGE_BYTES_MAX);
        // Held as long as there are answers: a client may keep its half of the stream open after they ended, and the
        // session would be leased messages for ever.
        let (answering, ended) = oneshot::channel::<()>();
        let request =
            forwarded_from(self.node.id(), requests(attach, rest, settles.clone(), ended), hops);
        let attaching = async {
            let mut upstream = client.consume(request).await?.into_inner();
            let first = upstream.message().await?;
            Ok::<_, Status>((upstream, first))
        };
        let limit = self.node.config.limits.request_timeout();
        let attaching = tokio::time::timeout(limit, attaching).await;
        let (upstream, first) = attaching
            .map_err(|_| Refusal::no_quorum("attach the consumer"))?
            .map_err(from_leader)?;
        let Some(v1::ConsumeResponse { response: Some(Kind::Attached(attached)) }) = &first else {
            return Err(Refusal::not_leader(None).into());
        };
        inlet.attached_at(attached.attached_at, None);
        let (sender, mut passed) = mpsc::channel(1);
        tokio::spawn(pass(upstream, sender, inlet.unread(), answering));
        let mut lagging = watch_lag(self.node.clone(), queue, leader, max_lag);
        let answers = async_stream::stream! {
            let _permit = permit;
            yield Ok(first.unwrap_or_default());
            loop {
                tokio::select! {
                    biased;
                    answer = passed.recv() => match answer {
                        Some(Ok(answer)) => {
                            settles.answered(&answer);
                            yield Ok(without_leader(answer));
                        }
                        None => {
                            if let Err(refusal) = inlet.check() {
                                yield Err(refusal.into());
                            }
                            return;
                        }
                        Some(Err(status)) => {
                            yield Err(from_leader(status));
                            return;
                        }
                    },
                    refusal = &mut lagging => {
                        let stopped = |_| Refusal::shutting_down();
                        yield Err(refusal.unwrap_or_else(stopped).into());
                        return;
                    }
                    delivered = inlet.next() => {
                        let mut answers = std::pin::pin!(inlet.answers(delivered));
                        while let Some(answer) = answers.next().await {
                            let ends = answer.is_err();
                            yield answer;
                            if ends {
                                return;
                            }
                        }
                    }
                }
            }
        };
        Ok(Response::new(Box::pin(answers)))
    }
}

fn max_lag(attach: &v1::Attach) -> Duration {
    Duration::from_millis(attach.max_lag_ms.into())
}

/// A consumer whose leader has changed attaches again here, rather than at the new leader as all others would.
fn from_leader(status: Status) -> Status {
    let status = passed_on(status);
    let is_led_elsewhere =
        status.get_details_error_info().is_some_and(|info| info.reason == reason::NOT_LEADER);
    match is_led_elsewhere {
        true => Refusal::not_leader(None).into(),
        false => status,
    }
}

/// The same for a settle that the leader could not have replicated.
fn without_leader(mut answer: v1::ConsumeResponse) -> v1::ConsumeResponse {
    if let Some(v1::consume_response::Response::Settled(settled)) = &mut answer.response
        && let Some(failure) = &mut settled.failure
    {
        failure.leader = None;
    }
    answer
}

/// What is told of the settles of a client, as they pass.
struct Settles {
    traces: Arc<Deliveries>,
    /// Those that have no answer yet, by id, in the order of their answers. A client may repeat an id.
    underway: Mutex<VecDeque<(u64, Settling)>>,
}

impl Settles {
    fn requested(&self, request: &v1::ConsumeRequest) {
        use v1::consume_request::Request;
        match &request.request {
            Some(Request::Settle(settle)) => {
                let Some(settling) = self.traces.settling(&settle.items) else { return };
                let mut underway = self.underway.lock().expect("no panic while held");
                if underway.len() < SETTLES_IN_FLIGHT {
                    underway.push_back((settle.id, settling));
                }
            }
            Some(Request::Detach(_)) => self.traces.given_back(),
            Some(Request::Attach(_)) | None => {}
        }
    }

    fn answered(&self, answer: &v1::ConsumeResponse) {
        if let Some(v1::consume_response::Response::Settled(settled)) = &answer.response {
            let mut underway = self.underway.lock().expect("no panic while held");
            let at = underway.iter().position(|(id, _)| *id == settled.id);
            let settling = at.and_then(|at| underway.remove(at));
            drop(underway);
            settling.into_iter().for_each(|(_, settling)| settling.answered(settled));
        }
    }
}

/// Passes the leader's answers on, in a task of its own: the call to the leader is given up, and so the session
/// disconnected, when the client leaves too much unread, for which its answers do not get to an end. The requests end with
/// it, without which the call would go on.
async fn pass(
    mut upstream: Streaming<v1::ConsumeResponse>,
    answers: mpsc::Sender<Result<v1::ConsumeResponse, Status>>,
    unread: Arc<Unread>,
    _answering: oneshot::Sender<()>,
) {
    let passing = async {
        while let Some(answer) = upstream.message().await.transpose() {
            let ends = answer.is_err();
            if answers.send(answer).await.is_err() || ends {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = unread.overrun() => {}
        () = answers.closed() => {}
        () = passing => {}
    }
}

/// A client's requests as they are forwarded: they end when the client's do, or its answers are given up.
fn requests(
    attach: v1::Attach,
    mut rest: Streaming<v1::ConsumeRequest>,
    settles: Arc<Settles>,
    mut ended: oneshot::Receiver<()>,
) -> impl Stream<Item = v1::ConsumeRequest> + Send {
    async_stream::stream! {
        let request = Some(v1::consume_request::Request::Attach(attach));
        yield v1::ConsumeRequest { request };
        loop {
            tokio::select! {
                biased;
                _ = &mut ended => return,
                next = rest.message() => match next {
                    Ok(Some(next)) => {
                        settles.requested(&next);
                        yield next;
                    }
                    Ok(None) | Err(_) => return,
                },
            }
        }
    }
}

/// Looks after a replica's lag in a task of its own: a client that is slow to read must not hold up the question that
/// all readers of the queue share. The receiver is told once the replica lags too much.
fn watch_lag(
    node: Arc<Member>,
    queue: Arc<Queue>,
    leader: u64,
    max_lag: Duration,
) -> oneshot::Receiver<Refusal> {
    let (mut told, refusal) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = told.closed() => {}
            () = node.shutdown.said() => {}
            refusal = lags(&node, &queue, leader, max_lag) => drop(told.send(refusal)),
        }
    });
    refusal
}

/// Returns once the replica here lags more than `max_lag`, or follows another leader than the one that the
/// stream's settles go to.
async fn lags(node: &Member, queue: &Queue, leader: u64, max_lag: Duration) -> Refusal {
    // As of when the replica was complete, as far as is known.
    let mut as_of = Instant::now();
    loop {
        tokio::time::sleep((max_lag / 4).min(LOOK_EVERY)).await;
        if queue.handle.leadership().leader.is_some_and(|now| now != leader) {
            return Refusal::not_leader(None);
        }
        // One that is parked has all that there is.
        if queue.handle.replica().is_parked() {
            as_of = Instant::now();
            continue;
        }
        // Half of what is allowed, so that what is known is renewed before it is too old.
        let now = Instant::now();
        let since = now.checked_sub(max_lag / 2).unwrap_or(now);
        let left = (as_of + max_lag).saturating_duration_since(now).max(max_lag / 4);
        match tokio::time::timeout(left, queue.handle.complete_as_of(since)).await {
            Ok(Ok(known)) => as_of = as_of.max(known),
            Ok(Err(ProposeError::Stopped)) => return Refusal::not_leader(None),
            Ok(Err(_)) | Err(_) => {}
        }
        if as_of.elapsed() > max_lag {
            return handed_back(node, queue, leader, max_lag);
        }
    }
}

fn handed_back(node: &Member, queue: &Queue, leader: u64, max_lag: Duration) -> Refusal {
    tracing::info!(node = node.id(), queue = %queue.name, ?max_lag, "lags: a consumer goes to the leader");
    let message = format!(
        "the replica of queue `{}` at node {} lags more than {max_lag:?}; attach at the leader, or allow more \
         (max_lag_ms)",
        queue.name,
        node.id()
    );
    let leader = node.leader(leader, queue.handle.leadership().term);
    Refusal { leader, ..Refusal::new(reason::STALENESS_EXCEEDED, message).retry(ASK_AFTER) }
}
