//! Consuming: one consumer's stream, where the queue is led.
//!
//! ```text
//!  client ── settles ──► reader task ──► the group ──► outcomes ─┐
//!  the queue's effects ──► inlet ── bodies from the log ─────────┴──► answers to the client
//! ```
//! Reading and answering are apart, so that a client that is slow to read is still heard. Where the client is a
//! follower that makes the deliveries itself (`at_follower`), nothing comes in by the inlet but the end.

use std::ops::RangeInclusive;
use std::sync::Arc;

use futures_util::stream::FuturesOrdered;
use futures_util::{StreamExt, TryStreamExt};
use quorate_group::{Applied, Outcome};
use quorate_machine::NodeId;
use quorate_machine::queue::{
    self as machine, Attach, Attachment, Command, Offset, Reply, Session, SettleItem, SettleKind,
    Token,
};
use quorate_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::inlet::Inlet;
use super::queue::FIRST_MESSAGE;
use super::{Answers, Services, requests};
use crate::member::{BEHAVIOUR_VERSION, FILTERS_VERSION, Member};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place, deliver_at, forwarded, hops, passed_on};
use crate::telemetry::{Deliveries, Settling};

/// Settle requests of one stream that may wait for their outcome.
pub(super) const SETTLES_IN_FLIGHT: usize = 1024;
/// Shortest lease that a consumer may ask for, in milliseconds.
const LEASE_MS_MIN: u32 = 100;
/// Longest name of a consumer, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// What a replica that makes deliveries may lag, in milliseconds.
const MAX_LAG_MS: RangeInclusive<u32> = 100..=3_600_000;

/// A consumer's attachment, for as long as its stream lives; when that ends, whichever way, the
/// machine is told.
pub(super) struct Attached {
    pub node: Arc<Member>,
    pub queue: Arc<Queue>,
    pub session: Session,
    pub attachment: Attachment,
    /// Log index of the attach. What was leased to the session before it is repeated by it.
    pub since: u64,
    /// The node that makes its deliveries.
    pub delivered_by: u64,
    /// It is to tell which messages it has begun to handle.
    pub tells_starts: bool,
    /// What is told of its deliveries.
    pub traces: Arc<Deliveries>,
    /// There is nothing to tell the machine of.
    pub is_over: bool,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.is_over || self.node.shutdown.is_said() {
            return;
        }
        let (queue, session, attachment) = (self.queue.clone(), self.session, self.attachment);
        tokio::spawn(async move { queue.disconnect(session, attachment).await });
    }
}

enum Underway {
    Settle { id: u64, outcome: Result<Awaited, Refusal>, trace: Option<Settling> },
    Detached,
}

pub(super) fn session_of(bytes: &[u8]) -> Result<Session, Refusal> {
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| Refusal::invalid("`session` must be 16 random bytes"))?;
    Ok(Session(u128::from_be_bytes(bytes)))
}

/// A consumer's name and, unless it is 0, the length of its leases.
pub(super) fn check_consumer(name: &str, lease_ms: u32) -> Result<Option<u32>, Refusal> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Refusal::invalid(format!("`name` is longer than {NAME_BYTES_MAX} bytes")));
    }
    let lease_ms = (lease_ms > 0).then_some(lease_ms);
    let leases = LEASE_MS_MIN..=machine::LEASE_MS_MAX;
    if lease_ms.is_some_and(|lease| !leases.contains(&lease)) {
        let (min, max) = (leases.start(), leases.end());
        return Err(Refusal::invalid(format!("`lease_ms` must be within {min} and {max}")));
    }
    Ok(lease_ms)
}

/// The values of a filter, if they are no more and no longer than the log takes.
pub(super) fn check_filter(values: &[String]) -> Result<Vec<String>, Refusal> {
    let is_short = |value: &String| value.len() <= Attach::FILTER_VALUE_BYTES_MAX;
    match values.len() <= Attach::FILTER_VALUES_MAX && values.iter().all(is_short) {
        true => Ok(values.to_vec()),
        false => Err(machine::Rejection::InvalidFilter.into()),
    }
}

pub(crate) fn attach_of(attach: &v1::Attach, node: u64) -> Result<Attach, Refusal> {
    let filter = check_filter(&attach.filter)?;
    let lease_ms = check_consumer(&attach.name, attach.lease_ms)?;
    if attach.max_lag_ms > 0 && !MAX_LAG_MS.contains(&attach.max_lag_ms) {
        let (min, max) = (MAX_LAG_MS.start(), MAX_LAG_MS.end());
        return Err(Refusal::invalid(format!("`max_lag_ms` must be 0, or within {min} and {max}")));
    }
    Ok(Attach {
        session: session_of(&attach.session)?,
        node: NodeId(node),
        name: attach.name.clone(),
        prefetch: attach.prefetch,
        lease_ms,
        tells_starts: attach.tells_starts,
        filter,
    })
}

pub(crate) fn item_of(item: &v1::SettleItem) -> Result<SettleItem, Refusal> {
    let kind = match item.kind() {
        v1::SettleKind::Ack => SettleKind::Ack,
        v1::SettleKind::Nack => SettleKind::Nack { delay_ms: item.delay_ms },
        v1::SettleKind::Reject => SettleKind::Reject,
        v1::SettleKind::Extend if item.delay_ms >= LEASE_MS_MIN => {
            SettleKind::Extend { lease_ms: item.delay_ms.min(machine::LEASE_MS_MAX) }
        }
        v1::SettleKind::Extend => {
            return Err(Refusal::invalid(format!("an extension is at least {LEASE_MS_MIN} ms")));
        }
        v1::SettleKind::Return => SettleKind::Return,
        v1::SettleKind::Start => SettleKind::Start,
        v1::SettleKind::Unspecified => return Err(Refusal::invalid("a settle needs its `kind`")),
    };
    if item.count == 0 {
        return Err(Refusal::invalid("a settle's `count` is at least 1"));
    }
    if item.first_offset.checked_add(item.count.into()).is_none() {
        return Err(Refusal::invalid("a settle's offsets go beyond the largest one"));
    }
    let (token, first) = (Token(item.token), Offset(item.first_offset));
    Ok(SettleItem { kind, token, first, count: item.count })
}

/// What a settle that was taken in waits for.
type Awaited = oneshot::Receiver<Outcome<machine::Queue>>;

/// Takes in what a session settles, in the order of the calls.
pub(super) async fn submit(
    node: &Member,
    queue: &Queue,
    session: Session,
    items: &[v1::SettleItem],
) -> Result<Awaited, Refusal> {
    const ITEM_BYTES: usize = 32;
    if items.len() > SettleItem::ITEMS_MAX {
        let max = SettleItem::ITEMS_MAX;
        return Err(Refusal::invalid(format!("a settle has at most {max} items")));
    }
    let items = items.iter().map(item_of).collect::<Result<Vec<_>, _>>()?;
    let is_new = |item: &SettleItem| matches!(item.kind, SettleKind::Return | SettleKind::Start);
    if items.iter().any(is_new) {
        node.expect_known(BEHAVIOUR_VERSION, "RETURN and START")?;
    }
    let bytes = ITEM_BYTES * (items.len() + 1);
    let command = Command::Settle { session, items };
    let limit = node.config.limits.request_timeout();
    match tokio::time::timeout(limit, queue.handle.submit(command, bytes, None)).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Refusal::not_taken()),
    }
}

/// What has become of it: the ranges whose leases were lost.
pub(super) async fn settled(
    node: &Member,
    queue: &Queue,
    outcome: Result<Awaited, Refusal>,
) -> Result<Vec<v1::OffsetRange>, Refusal> {
    match tokio::time::timeout(node.config.limits.request_timeout(), outcome?).await {
        Ok(Ok(Ok(Applied { reply: Reply::Settled(settled), .. }))) => Ok(settled
            .lost
            .into_iter()
            .map(|(first, count)| v1::OffsetRange { first_offset: first.0, count })
            .collect()),
        Ok(Ok(Ok(Applied { reply: Reply::Rejected(rejection), .. }))) => Err(rejection.into()),
        Ok(Ok(Err(error))) => Err(node.redirect(queue, error)),
        _ => Err(Refusal::unknown_outcome()),
    }
}

impl Attached {
    /// Reads what the client settles until it ends, or nobody wants to hear more of it: then what was read is taken in first.
    async fn read(
        self: Arc<Self>,
        mut requests: Streaming<v1::ConsumeRequest>,
        underway: mpsc::Sender<Underway>,
        mut unwanted: oneshot::Receiver<()>,
    ) {
        use v1::consume_request::Request;
        while let Ok(Some(request)) = tokio::select! {
            biased;
            _ = &mut unwanted => return,
            request = requests.message() => request,
        } {
            let next = match request.request {
                Some(Request::Settle(settle)) => {
                    let trace = self.traces.settling(&settle.items);
                    let outcome =
                        submit(&self.node, &self.queue, self.session, &settle.items).await;
                    Underway::Settle { id: settle.id, outcome, trace }
                }
                Some(Request::Detach(_)) => {
                    self.traces.given_back();
                    let (session, attachment) = (self.session, self.attachment);
                    let detach = Command::Detach { session, attachment };
                    let limit = self.node.config.limits.request_timeout();
                    let detached = self.queue.handle.propose(detach);
                    if !matches!(tokio::time::timeout(limit, detached).await, Ok(Ok(_))) {
                        tracing::debug!(queue = %self.queue.name, "detach: its grace ends it");
                    }
                    Underway::Detached
                }
                Some(Request::Attach(_)) | None => {
                    let refusal =
                        Refusal::invalid("a consume stream takes one `attach`, then settles");
                    Underway::Settle { id: 0, outcome: Err(refusal), trace: None }
                }
            };
            let ends = matches!(next, Underway::Detached);
            if underway.send(next).await.is_err() || ends {
                return;
            }
        }
    }

    async fn answer(
        &self,
        id: u64,
        outcome: Result<Awaited, Refusal>,
        trace: Option<Settling>,
    ) -> v1::ConsumeResponse {
        let outcome = settled(&self.node, &self.queue, outcome).await;
        if let Some(trace) = trace {
            trace.settled(&outcome);
        }
        let settled = match outcome {
            Ok(lost) => v1::Settled { id, lost, failure: None },
            Err(refusal) => {
                v1::Settled { id, lost: Vec::new(), failure: Some(refusal.into_failure()) }
            }
        };
        v1::ConsumeResponse { response: Some(v1::consume_response::Response::Settled(settled)) }
    }
}

#[tonic::async_trait]
impl v1::consumer_service_server::ConsumerService for Services {
    type ConsumeStream = Answers<v1::ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        use v1::consume_request::Request as Kind;
        let hops = hops(request.metadata());
        let deliver_at = deliver_at(request.metadata());
        let permit = self.node.budget.stream()?;
        let mut rest = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE, rest.message()).await;
        let first =
            first.map_err(|_| Refusal::invalid("the stream's first message did not come"))??;
        let Some(v1::ConsumeRequest { request: Some(Kind::Attach(attach)) }) = first else {
            return Err(
                Refusal::invalid("the first message of a consume stream is `attach`").into()
            );
        };
        let queue = match self.node.place(&attach.queue, hops).await? {
            Place::Here(queue) => queue,
            // It was led here when it was forwarded; its first node finds the leader.
            Place::There(_) if deliver_at.is_some() => return Err(Refusal::not_leader(None).into()),
            Place::There(node) => {
                if let Some(queue) = self.may_deliver(&attach).await {
                    return self.deliver_here(queue, node, attach, rest, hops, permit).await;
                }
                let mut client = consumers_of(self.node.channel(node)?);
                let first = v1::ConsumeRequest { request: Some(Kind::Attach(attach)) };
                let request = forwarded(requests(first, rest), hops);
                let answers = client.consume(request).await.map_err(passed_on)?;
                let answers = answers.into_inner().map_err(passed_on);
                return Ok(Response::new(Box::pin(answers)));
            }
        };
        let (attached, lease_ms, inlet) = self.attach(queue, &attach, deliver_at).await?;
        let attached = Arc::new(attached);
        let (sender, underway) = mpsc::channel(SETTLES_IN_FLIGHT);
        let (wanted, unwanted) = oneshot::channel();
        // The reader ends with the client's half of the stream, or when the answers end.
        tokio::spawn(attached.clone().read_until_closed(rest, sender, unwanted));
        let answers = async_stream::stream! {
            let _permit = permit;
            yield Ok(attached.hello(lease_ms));
            for await answer in answers(attached, inlet, underway, wanted) {
                yield answer;
            }
        };
        Ok(Response::new(Box::pin(answers)))
    }

    async fn receive(
        &self,
        request: Request<v1::ReceiveRequest>,
    ) -> Result<Response<v1::ReceiveResponse>, Status> {
        let hops = hops(request.metadata());
        let _permit = self.node.budget.stream()?;
        let request = request.into_inner();
        match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => Ok(Response::new(self.receive_here(queue, &request).await?)),
            Place::There(node) => {
                let mut client = consumers_of(self.node.channel(node)?);
                client.receive(forwarded(request, hops)).await.map_err(passed_on)
            }
        }
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let session = session_of(&request.session)?;
        match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => {
                let outcome = submit(&self.node, &queue, session, &request.items).await;
                let lost = settled(&self.node, &queue, outcome).await?;
                Ok(Response::new(v1::SettleResponse { lost }))
            }
            Place::There(node) => {
                let mut client = consumers_of(self.node.channel(node)?);
                client.settle(forwarded(request, hops)).await.map_err(passed_on)
            }
        }
    }
}

/// The consumer service of another node.
fn consumers_of(channel: Channel) -> v1::consumer_service_client::ConsumerServiceClient<Channel> {
    v1::consumer_service_client::ConsumerServiceClient::new(channel)
        .max_decoding_message_size(crate::peers::MESSAGE_BYTES_MAX)
}

impl Services {
    async fn attach(
        &self,
        queue: Arc<Queue>,
        attach: &v1::Attach,
        deliver_at: Option<u64>,
    ) -> Result<(Attached, u32, Inlet), Refusal> {
        // A node that is no replica, as far as is known here, gets what this one delivers.
        let has_replica = |node: &u64| self.has_replica(&queue, *node);
        let deliver_at = deliver_at.filter(has_replica).unwrap_or(self.node.id());
        let mut command = attach_of(attach, deliver_at)?;
        if !command.filter.is_empty() {
            self.node.expect_known(FILTERS_VERSION, "consumers that filter")?;
        }
        // Nobody is asked to tell what the queue makes no use of, or some node would not understand.
        let charges = || queue.handle.read(|machine| machine.settings().charges());
        let may_tell = command.tells_starts && self.node.knows(BEHAVIOUR_VERSION);
        let tells_starts = may_tell && charges();
        command.tells_starts = tells_starts;
        let lease_ms = command.lease_ms;
        let traces = Arc::new(self.node.telemetry.deliveries(&queue, &command));
        let (node, session) = (self.node.clone(), command.session);
        let mut inlet = Inlet::open(node, queue.clone(), session, command.prefetch, traces.clone());
        // In a task of its own: a caller that does not wait to the end leaves no session behind
        // that nobody disconnects.
        let command = Command::Attach(command);
        let attaching =
            attached(self.node.clone(), queue.clone(), traces, session, deliver_at, command);
        let limit = self.node.config.limits.request_timeout();
        match tokio::time::timeout(limit, tokio::spawn(attaching)).await {
            Ok(Ok(attached)) => {
                let attached = attached?;
                // It was not there yet when they changed.
                if tells_starts != (may_tell && charges()) {
                    return Err(Refusal::settings_changed());
                }
                inlet.attached_at(attached.since, Some(attached.attachment));
                let default = || queue.handle.read(|machine| machine.settings().lease_ms);
                Ok((attached, lease_ms.unwrap_or_else(default), inlet))
            }
            Ok(Err(_)) => Err(Refusal::unknown_outcome()),
            Err(_) => Err(Refusal::no_quorum("attach the consumer")),
        }
    }

    fn has_replica(&self, queue: &Queue, node: u64) -> bool {
        self.node.catalog.read(|catalog| {
            catalog.queue(&queue.name).is_some_and(|queue| queue.members().any(|m| m.0 == node))
        })
    }
}

/// Attaches a session to the stream that was opened for it. If nobody takes what it returns, the
/// session is disconnected.
pub(super) async fn attached(
    node: Arc<Member>,
    queue: Arc<Queue>,
    traces: Arc<Deliveries>,
    session: Session,
    delivered_by: u64,
    command: Command,
) -> Result<Attached, Refusal> {
    let tells_starts = matches!(&command, Command::Attach(attach) if attach.tells_starts);
    let refusal = match queue.handle.propose_small(command).await {
        Ok(Applied { position, reply: Reply::Attached { attachment, .. } }) => {
            return Ok(Attached {
                node,
                queue,
                session,
                attachment,
                since: position.index,
                delivered_by,
                tells_starts,
                traces,
                is_over: false,
            });
        }
        Ok(Applied { reply: Reply::Rejected(rejection), .. }) => rejection.into(),
        Ok(_) => Refusal::unknown_outcome(),
        Err(error) => node.redirect(&queue, error),
    };
    Err(refusal)
}

impl Attached {
    fn hello(&self, lease_ms: u32) -> v1::ConsumeResponse {
        let term = self.queue.handle.leadership().term;
        let leader = self.node.leader(self.node.id(), term);
        let (delivered_by, attached_at) = (self.delivered_by, self.since);
        let (tell_starts, may_return) = (self.tells_starts, self.node.knows(BEHAVIOUR_VERSION));
        let handle = &self.queue.handle;
        let (group, timeline) = (handle.id(), handle.replica().timeline());
        let attached = v1::Attached {
            leader,
            lease_ms,
            delivered_by,
            attached_at,
            tell_starts,
            may_return,
            group,
            timeline,
        };
        v1::ConsumeResponse { response: Some(v1::consume_response::Response::Attached(attached)) }
    }

    async fn read_until_closed(
        self: Arc<Self>,
        requests: Streaming<v1::ConsumeRequest>,
        underway: mpsc::Sender<Underway>,
        unwanted: oneshot::Receiver<()>,
    ) {
        let closed = underway.clone();
        tokio::select! {
            biased;
            () = closed.closed() => {}
            () = self.node.shutdown.said() => {}
            () = self.clone().read(requests, underway, unwanted) => {}
        }
    }
}

/// What the client is told, until one side ends. A session that goes on in another stream is told what became of its settles
/// first, or it would take their outcome for unknown.
fn answers(
    attached: Arc<Attached>,
    mut inlet: Inlet,
    mut underway: mpsc::Receiver<Underway>,
    wanted: oneshot::Sender<()>,
) -> impl futures_util::Stream<Item = Result<v1::ConsumeResponse, Status>> + Send {
    async_stream::stream! {
        // In the order of the requests, while deliveries go on.
        let mut settling = FuturesOrdered::new();
        let (mut wanted, mut parting) = (Some(wanted), None::<Refusal>);
        loop {
            tokio::select! {
                biased;
                Some(answer) = settling.next(), if !settling.is_empty() => yield Ok(answer),
                next = underway.recv(), if settling.len() < SETTLES_IN_FLIGHT => match next {
                    Some(Underway::Settle { id, outcome, trace }) => {
                        settling.push_back(attached.answer(id, outcome, trace));
                    }
                    Some(Underway::Detached) | None => {
                        while let Some(answer) = settling.next().await {
                            yield Ok(answer);
                        }
                        if let Some(refusal) = parting {
                            yield Err(refusal.into());
                        }
                        return;
                    }
                },
                delivered = inlet.next(), if parting.is_none() => {
                    parting = delivered.as_ref().err().filter(|refusal| refusal.goes_on()).cloned();
                    if parting.is_some() {
                        drop(wanted.take());
                        continue;
                    }
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
    }
}
