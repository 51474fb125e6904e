//! The `deliver` spans of a consumer's stream, and what became of each delivery: `ack`, `nack`, `reject`, `release` or
//! `expire`.
//!
//! ```text
//! delivered ─► held, by offset ─┬─► settling ─► settled                       ack, nack, reject
//!                               ├─► its lease ended: looked at each second    expire, an error
//!                               ├─► the consumer detached                     release
//!                               └─► the stream broke                          expire, an error
//! ```
//! What is held is bounded by the consumer's prefetch, and gone with its stream: a consumer that goes on at another
//! node is delivered to anew there. The `deliver` span is the parent of what follows it, so each attempt is a branch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use quorate_machine::queue::{Attach, Offset, Run, Session, Token};
use quorate_proto::otlp::trace::v1::Span;
use quorate_proto::reason::LEASE_LOST;
use quorate_proto::v1::{self, SettleKind};

use super::span::{Operation, event, failed, local, message_id, number, span, text};
use super::{STREAM_ENDED, TraceParent, Tracer, now};
use crate::queue::Queue;
use crate::refusal::Refusal;

/// Leases that should be over are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is told of a consumer's deliveries, or nothing.
pub(crate) struct Deliveries(Option<Arc<Stream>>);

struct Stream {
    tracer: Arc<Tracer>,
    queue: Arc<Queue>,
    session: Session,
    consumer: String,
    prefetch: usize,
    lease_nanos: u64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    deliveries: BTreeMap<u64, Delivery>,
    /// Whether a task looks for leases that are over.
    watched: bool,
}

/// A sampled message in the consumer's hands.
#[derive(Clone, Copy)]
struct Delivery {
    /// The `deliver` span.
    span: TraceParent,
    token: Token,
    attempt: u32,
    delivered: u64,
}

/// Sampled deliveries that a settle request decides.
pub(crate) struct Settling {
    stream: Arc<Stream>,
    deliveries: Vec<(u64, Operation, Delivery)>,
    received: u64,
}

impl Deliveries {
    pub(super) fn new(tracer: Option<&Arc<Tracer>>, queue: &Arc<Queue>, attach: &Attach) -> Self {
        let Some(tracer) = tracer else { return Self(None) };
        let default = || queue.handle.read(|machine| machine.settings().lease_ms);
        Self(Some(Arc::new(Stream {
            tracer: tracer.clone(),
            queue: queue.clone(),
            session: attach.session,
            consumer: attach.name.clone(),
            prefetch: attach.prefetch as usize,
            lease_nanos: u64::from(attach.lease_ms.unwrap_or_else(default)) * 1_000_000,
            held: Mutex::default(),
        })))
    }

    /// When a delivery begins; 0 if nothing is told of it.
    pub(crate) fn now(&self) -> u64 {
        if self.0.is_some() { now() } else { 0 }
    }

    /// A run of messages is handed to the stream, since `begun`.
    pub(crate) fn delivered(&self, begun: u64, token: Token, run: Run, frame: &v1::Frame) {
        let Some(stream) = &self.0 else { return };
        let sampled = stream.tracer.sampled(&frame.messages);
        if !sampled.is_empty() {
            stream.delivered(begun, token, run, sampled);
        }
    }

    /// The client has asked to settle; which of the deliveries that are told of it decides.
    pub(crate) fn settling(&self, items: &[v1::SettleItem]) -> Option<Settling> {
        let stream = self.0.as_ref()?;
        let mut held = stream.held();
        if held.deliveries.is_empty() {
            return None;
        }
        let mut deliveries = Vec::new();
        for item in items {
            let Some(operation) = operation(item.kind()) else { continue };
            let end = item.first_offset.saturating_add(item.count.into());
            // Each is taken out by the first item that names it, as the queue does.
            let named = held.deliveries.range(item.first_offset..end);
            let named = named.filter(|(_, delivery)| delivery.token.0 == item.token);
            let before = deliveries.len();
            deliveries.extend(named.map(|(offset, delivery)| (*offset, operation, *delivery)));
            for (offset, _, _) in &deliveries[before..] {
                held.deliveries.remove(offset);
            }
        }
        drop(held);
        let settling = Settling { stream: stream.clone(), deliveries, received: now() };
        (!settling.deliveries.is_empty()).then_some(settling)
    }
}

impl Deliveries {
    /// The consumer ends on purpose, and gives back what it has not settled.
    pub(crate) fn given_back(&self) {
        let Some(stream) = &self.0 else { return };
        let left = std::mem::take(&mut stream.held().deliveries);
        let admitted = stream.tracer.admit(left.len() as u32) as usize;
        for (offset, delivery) in left.into_iter().take(admitted) {
            let span = stream.ended(Operation::RELEASE, offset, delivery);
            stream.tracer.tell(span);
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        let Some(stream) = &self.0 else { return };
        let left = std::mem::take(&mut stream.held().deliveries);
        for (offset, delivery) in left {
            let why = "the consumer's stream ended before it settled";
            stream.expired(offset, delivery, STREAM_ENDED, why);
        }
    }
}

/// None for what decides nothing: an extension.
fn operation(kind: SettleKind) -> Option<Operation> {
    match kind {
        SettleKind::Ack => Some(Operation::ACK),
        SettleKind::Nack => Some(Operation::NACK),
        SettleKind::Reject => Some(Operation::REJECT),
        SettleKind::Return => Some(Operation::NACK),
        SettleKind::Extend | SettleKind::Start | SettleKind::Unspecified => None,
    }
}

impl Stream {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no panic while held")
    }

    fn delivered(
        self: &Arc<Self>,
        begun: u64,
        token: Token,
        run: Run,
        sampled: Vec<(u32, TraceParent)>,
    ) {
        let delivered = now();
        let mut superseded = Vec::new();
        let mut held = self.held();
        for (at, parent) in sampled {
            let offset = run.first_offset.0 + u64::from(at);
            let mut span =
                span(Operation::DELIVER, self.queue.name.as_str(), parent, (begun, delivered));
            self.describe(&mut span, offset, token, run.attempt);
            let own = span.span_id.as_ref().try_into().expect("an id has 8 bytes");
            let span_of = TraceParent { span: own, ..parent };
            self.tracer.tell(span);
            if held.deliveries.len() < self.prefetch || held.deliveries.contains_key(&offset) {
                let delivery = Delivery { span: span_of, token, attempt: run.attempt, delivered };
                let before = held.deliveries.insert(offset, delivery);
                superseded.extend(before.map(|before| (offset, before)));
            }
        }
        let watch = !held.deliveries.is_empty() && !std::mem::replace(&mut held.watched, true);
        drop(held);
        for (offset, before) in superseded.into_iter().filter(|(_, before)| before.token != token) {
            self.expired(offset, before, LEASE_LOST, "delivered again, since its lease ended");
        }
        if watch {
            tokio::spawn(watch_leases(Arc::downgrade(self)));
        }
    }

    fn describe(&self, span: &mut Span, offset: u64, token: Token, attempt: u32) {
        let session = format!("{:032x}", self.session.0);
        span.attributes.push(message_id(offset));
        // What a consumer is called may be shared; its session is not.
        span.attributes.push(text("messaging.client.id", session));
        span.attributes.push(text("quorate.consumer", self.consumer.as_str()));
        span.attributes.push(number("quorate.group", self.queue.handle.id()));
        span.attributes.push(number("quorate.token", token.0));
        span.attributes.push(number("quorate.attempt", attempt));
    }

    /// What became of a delivery.
    fn ended(&self, operation: Operation, offset: u64, delivery: Delivery) -> Span {
        let queue = self.queue.name.as_str();
        let span = span(operation, queue, delivery.span, (delivery.delivered, now()));
        let mut span = local(span);
        self.describe(&mut span, offset, delivery.token, delivery.attempt);
        span
    }

    fn expired(&self, offset: u64, delivery: Delivery, reason: &str, why: &str) {
        if self.tracer.admit(1) == 1 {
            let mut span = self.ended(Operation::EXPIRE, offset, delivery);
            failed(&mut span, reason, why);
            self.tracer.tell(span);
        }
    }

    /// Tells of leases that are over; false if nothing is held any more.
    fn look(&self) -> bool {
        let due = now().saturating_sub(self.lease_nanos);
        let held = self.held();
        let old = held.deliveries.iter().filter(|(_, delivery)| delivery.delivered <= due);
        let old: Vec<_> = old.map(|(offset, delivery)| (*offset, delivery.token)).collect();
        drop(held);
        // They may have been extended: the queue knows.
        let over = self.queue.handle.read(|machine| {
            let held = |(offset, token): &(u64, Token)| {
                machine.holds(self.session, *token, Offset(*offset))
            };
            old.into_iter().filter(|lease| !held(lease)).collect::<Vec<_>>()
        });
        for (offset, token) in over {
            let mut held = self.held();
            // Its settle may have come since, or its next delivery.
            let is_same = held.deliveries.get(&offset).is_some_and(|held| held.token == token);
            let delivery = if is_same { held.deliveries.remove(&offset) } else { None };
            drop(held);
            if let Some(delivery) = delivery {
                self.expired(offset, delivery, LEASE_LOST, "its lease ended before it was settled");
            }
        }
        let mut held = self.held();
        held.watched = !held.deliveries.is_empty();
        held.watched
    }
}

async fn watch_leases(stream: Weak<Stream>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match stream.upgrade() {
            Some(stream) if stream.look() => {}
            _ => return,
        }
    }
}

impl Settling {
    /// The outcome is known: which runs of messages were not the consumer's any more, or why nothing was decided.
    pub(crate) fn settled(mut self, outcome: &Result<Vec<v1::OffsetRange>, Refusal>) {
        match outcome {
            Ok(lost) => self.tell(Ok(lost)),
            Err(refusal) if refusal.retry_after.is_some() => self.put_back(),
            Err(refusal) => self.tell(Err((refusal.reason, &refusal.message))),
        }
    }

    /// The same, as the leader's node has answered it.
    pub(crate) fn answered(mut self, settled: &v1::Settled) {
        match &settled.failure {
            None => self.tell(Ok(&settled.lost)),
            Some(failure) if failure.retry_after_ms > 0 => self.put_back(),
            Some(failure) => self.tell(Err((&failure.reason, &failure.message))),
        }
    }

    /// Nothing was decided, and the client asks again.
    fn put_back(&mut self) {
        let mut held = self.stream.held();
        for (offset, _, delivery) in std::mem::take(&mut self.deliveries) {
            held.deliveries.entry(offset).or_insert(delivery);
        }
        let watch = !held.deliveries.is_empty() && !std::mem::replace(&mut held.watched, true);
        drop(held);
        if watch {
            tokio::spawn(watch_leases(Arc::downgrade(&self.stream)));
        }
    }

    fn tell(&mut self, outcome: Result<&[v1::OffsetRange], (&str, &str)>) {
        let deliveries = std::mem::take(&mut self.deliveries);
        let admitted = self.stream.tracer.admit(deliveries.len() as u32) as usize;
        for (offset, operation, delivery) in deliveries.into_iter().take(admitted) {
            let mut span = self.stream.ended(operation, offset, delivery);
            span.events.push(event("settle received", self.received));
            let is_it = |lost: &v1::OffsetRange| {
                (lost.first_offset..lost.first_offset + u64::from(lost.count)).contains(&offset)
            };
            match outcome {
                Ok(lost) if lost.iter().any(is_it) => {
                    failed(&mut span, LEASE_LOST, "its lease had ended when it was settled");
                }
                Ok(_) => {}
                Err((reason, message)) => failed(&mut span, reason, message),
            }
            self.stream.tracer.tell(span);
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if !self.deliveries.is_empty() {
            let why = "the stream ended before the outcome was known: it may be settled";
            self.tell(Err((STREAM_ENDED, why)));
        }
    }
}
