//! Where the batches of one caller come from and go to: checks, the quorum, and the receipt that the ack
//! level asks for.
//!
//! ```text
//! batch ─► checks ─► Handle::submit ─┬─► on this node's disk ──────────► ACCEPTED
//!                                    └─► a majority has it, applied ──┬─► QUORUM
//!                                                                     └─► all in sync have it ─► ALL
//! ```

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate_group::{Applied, OnDisk, Outcome, Position};
use quorate_machine::Millis;
use quorate_machine::frame::{self as frames, FrameError};
use quorate_machine::queue::{
    self as machine, Command, Condition, MessageId, Offset, ProducerId, Properties, Reply,
};
use quorate_proto::frame::{FrameError as FrameRefused, GROUP_KEY_HEADER, MAX_GROUP_KEY_BYTES};
use quorate_proto::v1::{self, AckLevel};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Streaming;

use crate::member::{BEHAVIOUR_VERSION, Member, PROPERTIES_VERSION};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::telemetry::Publishing;

/// A batch on its way through the quorum.
pub(super) struct Underway {
    id: u64,
    outcome: Result<Submitted, Refusal>,
}

/// A batch that was queued, and until when its outcome is waited for.
pub(super) struct Submitted {
    level: AckLevel,
    sequence: u64,
    count: u32,
    /// Of its frame.
    bytes: u64,
    /// For a batch whose receipt may be given before its outcome is known.
    written: Option<oneshot::Receiver<OnDisk>>,
    /// Until when the queue takes the batch for certain.
    remembered: Option<Remembered>,
    outcome: oneshot::Receiver<Outcome<machine::Queue>>,
    deadline: Instant,
    /// For a batch with sampled messages.
    trace: Option<Box<Publishing>>,
}

/// Where the batches of one stream come from and go to.
pub(super) struct Publisher {
    node: Arc<Member>,
    queue: Arc<Queue>,
    producer: Option<(ProducerId, u32)>,
    /// Where the caller's last batch left off, if it is sure to enter.
    chain: Mutex<Option<Link>>,
}

/// The end of a caller's batches so far. One that goes on from there, in the log of the same term, enters if
/// those before it do.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link {
    term: u64,
    next_sequence: u64,
}

/// Why the receipt of a batch may be given before its outcome is known.
#[derive(Clone, Copy)]
struct Remembered {
    /// Until when, by the leader's clock, the queue remembers the producer for certain.
    until_ms: u64,
    /// The settings that say so.
    settings: u64,
}

/// On what a batch enters, as a request has it.
pub(crate) fn condition_of(
    message_id: &str,
    expected_next: Option<u64>,
) -> Result<Option<Box<Condition>>, Refusal> {
    let id = (!message_id.is_empty()).then(|| MessageId::new(message_id)).transpose();
    let message_id = id.map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(Condition::of(message_id, expected_next.map(Offset)))
}

/// What a caller asks for, where it leaves it to us.
pub(super) fn level_of(ack: i32) -> Result<AckLevel, Refusal> {
    match AckLevel::try_from(ack) {
        Ok(AckLevel::Unspecified) => Ok(AckLevel::Quorum),
        Ok(level) => Ok(level),
        Err(_) => Err(Refusal::new(
            quorate_proto::reason::UNSUPPORTED_VERSION,
            format!("ack level {ack} is not known to this node"),
        )),
    }
}

/// What the properties of a run of messages take in the log, at most.
const PROPERTY_BYTES: usize = 38;
/// The longest delay and time to live of a message, in milliseconds: 366 days.
const DELAY_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// The properties of a batch of `count` messages, with times by the leader's clock, at which it is `now_ms`; empty if
/// its messages are plain.
pub(crate) fn properties_of(
    properties: &[v1::Properties],
    count: u32,
    now_ms: u64,
) -> Result<Vec<Properties>, Refusal> {
    let all: u64 = properties.iter().map(|of| u64::from(of.count)).sum();
    if !properties.is_empty() && all != u64::from(count) {
        let message = format!("`properties` are of {all} messages, and there are {count}");
        return Err(Refusal::invalid(message));
    }
    let mut runs: Vec<Properties> = Vec::new();
    for &v1::Properties { count, delay_ms, deliver_at_ms, ttl_ms, priority, ref group_key } in
        properties
    {
        if count == 0 {
            return Err(Refusal::invalid("`properties` are of one message or more"));
        }
        let due_ms = match (delay_ms, deliver_at_ms) {
            (0, due_ms) => due_ms,
            // This millisecond has begun: never early.
            (delay_ms, 0) => now_ms.saturating_add(delay_ms).saturating_add(1),
            _ => return Err(Refusal::invalid("give `delay_ms` or `deliver_at_ms`, not both")),
        };
        if due_ms > now_ms.saturating_add(DELAY_MS_MAX + 1) {
            let message = format!(
                "a message is for {} days from now; at most 366 are allowed",
                (due_ms - now_ms) / (24 * 3_600_000)
            );
            return Err(Refusal::invalid(message));
        }
        if ttl_ms > DELAY_MS_MAX {
            let message = "a message lives for 366 days at most; leave `ttl_ms` out for one that does not expire";
            return Err(Refusal::invalid(message));
        }
        let Some(priority) = u8::try_from(priority).ok().filter(|it| *it <= machine::PRIORITY_MAX)
        else {
            let message = format!("a priority is within 0 and 9, not {priority}");
            return Err(Refusal::invalid(message));
        };
        let due = Some(Millis(due_ms)).filter(|due| due.0 > now_ms);
        // From when it may be delivered; this millisecond has begun.
        let from = due.unwrap_or(Millis(now_ms + 1));
        let expires = (ttl_ms > 0).then(|| from.plus(ttl_ms));
        let group = (!group_key.is_empty()).then(|| machine::group_of(group_key));
        add(&mut runs, Properties { count, due, expires, priority, group, tag: None });
    }
    Ok(unless_plain(runs))
}

fn add(runs: &mut Vec<Properties>, run: Properties) {
    match runs.last_mut() {
        Some(last) if Properties { count: run.count, ..*last } == run => last.count += run.count,
        _ => runs.push(run),
    }
}

fn unless_plain(runs: Vec<Properties>) -> Vec<Properties> {
    let plain = |run: &Properties| Properties { count: 0, ..*run } == Properties::default();
    if runs.iter().all(plain) { Vec::new() } else { runs }
}

/// Properties with what each message has in the header that consumers filter by.
fn tagged(properties: Vec<Properties>, frame: &v1::Frame, header: &str) -> Vec<Properties> {
    let mut values = frames::header(&frame.messages, header).peekable();
    let plain = [Properties { count: frame.count, ..Properties::default() }];
    let given = if properties.is_empty() { &plain } else { &properties[..] };
    let each = given.iter().flat_map(|of| (0..of.count).map(|_| Properties { count: 1, ..*of }));
    let mut runs = Vec::new();
    for (at, of) in (0..).zip(each) {
        let value = values.next_if(|(found, _)| *found == at);
        let tag = value.map(|(_, value)| machine::tag_of(header, value));
        add(&mut runs, Properties { tag, ..of });
    }
    unless_plain(runs)
}

/// Refuses a batch in which keys and headers say different things of a message: consumers are to see what it was
/// ordered by. Batches without keys are not looked at.
pub(crate) fn check_keys(frame: &v1::Frame, properties: &[v1::Properties]) -> Result<(), Refusal> {
    if properties.iter().all(|of| of.group_key.is_empty()) {
        return Ok(());
    }
    let mut headers = frames::header(&frame.messages, GROUP_KEY_HEADER).peekable();
    let keys = properties.iter().flat_map(|of| (0..of.count).map(|_| of.group_key.as_str()));
    for (at, key) in (0..frame.count).zip(keys) {
        if key.len() > MAX_GROUP_KEY_BYTES {
            let error = FrameRefused::GroupKeyLength { at, bytes: key.len() };
            return Err(Refusal::invalid(error.to_string()));
        }
        let header = headers.next_if(|(found, _)| *found == at);
        let said = header.map_or(&b""[..], |(_, value)| value);
        if said != key.as_bytes() {
            return Err(Refusal::invalid(format!(
                "message {at} of the batch has another `{GROUP_KEY_HEADER}` header than its `group_key` \
                 {key:?}; both have to be the same"
            )));
        }
    }
    Ok(())
}

pub(crate) fn producer_of(
    producer: Option<v1::Producer>,
) -> Result<Option<(ProducerId, u32)>, Refusal> {
    let Some(producer) = producer else { return Ok(None) };
    let id = ProducerId::new(producer.id).map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(Some((id, producer.epoch)))
}

impl Publisher {
    pub(super) fn new(
        node: Arc<Member>,
        queue: Arc<Queue>,
        producer: Option<(ProducerId, u32)>,
    ) -> Self {
        Self { node, queue, producer, chain: Mutex::new(None) }
    }

    /// Checks a batch and queues it for the quorum; waits while the node holds too much.
    pub(super) async fn submit(
        &self,
        sequence: u64,
        frame: v1::Frame,
        properties: &[v1::Properties],
        condition: Option<Box<Condition>>,
        ack: i32,
    ) -> Result<Submitted, Refusal> {
        let trace = self.node.telemetry.arrived(&self.queue, &frame);
        let mut outcome = self.take_in(sequence, frame, properties, condition, ack).await;
        if let Some(mut trace) = trace {
            match &mut outcome {
                Ok(submitted) => {
                    trace.submitted();
                    submitted.trace = Some(trace);
                }
                Err(refusal) => trace.answered(&Err(refusal.clone())),
            }
        }
        outcome
    }

    async fn take_in(
        &self,
        sequence: u64,
        frame: v1::Frame,
        properties: &[v1::Properties],
        condition: Option<Box<Condition>>,
        ack: i32,
    ) -> Result<Submitted, Refusal> {
        if self.node.disk.is_full() {
            return Err(Refusal::disk_full());
        }
        self.check(&frame)?;
        let properties = match properties.is_empty() {
            true => Vec::new(),
            false => {
                check_keys(&frame, properties)?;
                properties_of(properties, frame.count, self.queue.handle.now_ms())?
            }
        };
        let header = self.queue.handle.read(|machine| machine.settings().filter_header.clone());
        let properties = match header {
            Some(header) => tagged(properties, &frame, &header),
            None => properties,
        };
        self.check_properties(&properties)?;
        if condition.is_some() {
            self.node.expect_known(BEHAVIOUR_VERSION, "message ids and expected offsets")?;
        }
        let level = level_of(ack)?;
        if level == AckLevel::All {
            self.check_in_sync().await?;
        }
        let remembered = match level {
            // What is not plain may be too much for the queue, and what has a condition may not meet it.
            AckLevel::Accepted if properties.is_empty() && condition.is_none() => self.remembered(),
            _ => None,
        };
        let (write, written) = remembered.map(|_| oneshot::channel()).unzip();
        let count = frame.count;
        let id = condition.as_ref().and_then(|condition| condition.message_id.as_ref());
        let id_bytes = id.map_or(0, |id| id.as_str().len());
        let bytes = frame.messages.len() + properties.len() * PROPERTY_BYTES + id_bytes;
        let memory = self.node.budget.memory(bytes).await?;
        let producer = self.producer.clone();
        let producer = producer.map(|(id, epoch)| machine::Producer { id, epoch, sequence });
        let counts = &self.node.counts;
        counts.published.add(count.into());
        let frame_bytes = frame.messages.len() as u64;
        counts.published_bytes.add(frame_bytes);
        let command = Command::Publish(machine::Publish {
            producer,
            condition,
            properties,
            ..machine::Publish::plain(frame.count, frame.messages)
        });
        let limit = self.node.config.limits.request_timeout();
        let deadline = Instant::now() + limit;
        let submit = self.queue.handle.submit_noting(command, bytes, Some(memory), write);
        match tokio::time::timeout(limit, submit).await {
            Ok(outcome) => {
                let outcome = outcome?;
                Ok(Submitted {
                    level,
                    sequence,
                    count,
                    bytes: frame_bytes,
                    written,
                    remembered,
                    outcome,
                    deadline,
                    trace: None,
                })
            }
            Err(_) => Err(Refusal::not_taken()),
        }
    }

    /// Until when, by the leader's clock, nothing but the loss of this node can keep a batch out that goes on
    /// where the caller's last one left off: only then may its receipt come before the queue has decided. None
    /// if something can: a queue with limits may be full; and a producer that the queue does not remember
    /// may leave a gap.
    fn remembered(&self) -> Option<Remembered> {
        self.queue.handle.read(|machine| {
            let settings = machine.settings();
            let is_crowded = machine.dead() > machine::DEAD_MAX / 2;
            if settings.max_messages.is_some() || settings.max_bytes.is_some() || is_crowded {
                return None;
            }
            let until_ms = match &self.producer {
                None => u64::MAX,
                Some((id, epoch)) => {
                    let used = machine.producer_used(id, *epoch)?;
                    used.0.saturating_add(settings.dedup_age_ms)
                }
            };
            Some(Remembered { until_ms, settings: settings.version })
        })
    }

    /// Notes where a batch is; whether it goes on from the caller's last one, in the same leader's log.
    fn link(&self, sequence: u64, count: u32, position: Position) -> bool {
        let term = position.term;
        let next = sequence.checked_add(count.into());
        let next = next.map(|next_sequence| Link { term, next_sequence });
        let before = std::mem::replace(&mut *self.chain(), next);
        before == Some(Link { term, next_sequence: sequence })
    }

    fn chain(&self) -> MutexGuard<'_, Option<Link>> {
        self.chain.lock().expect("no panic while held")
    }

    /// Limits of the queue for level ALL: how far behind a voter in sync may be, and how many it takes.
    fn in_sync_limits(&self) -> (Duration, usize) {
        let voters = self.queue.handle.progress().iter().filter(|replica| replica.voter).count();
        self.queue.handle.read(|machine| {
            let settings = machine.settings();
            let lag = Duration::from_millis(settings.in_sync_lag_ms.into());
            (lag, settings.in_sync_needed(voters))
        })
    }

    async fn check_in_sync(&self) -> Result<(), Refusal> {
        let (lag, needed) = self.in_sync_limits();
        let in_sync = self.queue.handle.in_sync(lag).await.len();
        if in_sync < needed {
            return Err(match self.queue.handle.leadership().leads {
                true => Refusal::not_enough_in_sync(in_sync, needed, None),
                false => Refusal::not_leader(None),
            });
        }
        Ok(())
    }

    /// Whether all nodes know what sets the messages apart, and the queue takes it.
    fn check_properties(&self, properties: &[Properties]) -> Result<(), Refusal> {
        if properties.is_empty() {
            return Ok(());
        }
        self.node.expect_known(PROPERTIES_VERSION, "messages for later")?;
        let is_newer =
            |of: &Properties| of.expires.is_some() || of.priority > 0 || of.group.is_some();
        if properties.iter().any(is_newer) {
            self.node
                .expect_known(BEHAVIOUR_VERSION, "times to live, priorities and group keys")?;
        }
        let urgent = properties.iter().any(|of| of.priority > 0);
        if urgent && !self.queue.handle.read(|machine| machine.settings().priorities) {
            return Err(machine::Rejection::NoPriorities.into());
        }
        Ok(())
    }

    fn check(&self, frame: &v1::Frame) -> Result<(), Refusal> {
        let limits = &self.node.config.limits;
        if frame.layout != u32::from(frames::LAYOUT) {
            let message = format!("frame layout {} is not known to this node", frame.layout);
            return Err(Refusal::new(quorate_proto::reason::UNSUPPORTED_VERSION, message));
        }
        if frame.messages.len() > limits.max_frame_bytes as usize {
            let bytes = frame.messages.len() as u64;
            let limit = limits.max_frame_bytes.into();
            return Err(Refusal::message_too_large(bytes, limit, "max_frame_bytes"));
        }
        if frame.count == 0 {
            return Err(Refusal::invalid("a batch has at least one message"));
        }
        frames::validate(&frame.messages, frame.count, limits.max_message_bytes).map_err(|error| {
            match error {
                FrameError::TooLarge { bytes, limit, .. } => {
                    Refusal::message_too_large(bytes, limit, "max_message_bytes")
                }
                error => Refusal::invalid(error.to_string()),
            }
        })
    }

    /// Waits for what the batch's level asks for.
    pub(super) async fn receipt(&self, mut submitted: Submitted) -> Result<v1::Receipt, Refusal> {
        let mut trace = submitted.trace.take();
        let receipt = self.wait_for(submitted, trace.as_deref_mut()).await;
        if let Some(mut trace) = trace {
            trace.answered(&receipt);
        }
        let counts = &self.node.counts;
        match &receipt {
            Ok(receipt) => match receipt.level() {
                AckLevel::Accepted => counts.accepted.add(receipt.count.into()),
                AckLevel::All => counts.all.add(receipt.count.into()),
                AckLevel::Quorum | AckLevel::Unspecified => {
                    counts.quorum.add(receipt.count.into());
                }
            },
            Err(_) => {
                counts.failed.add(1);
                *self.chain() = None;
            }
        }
        receipt
    }

    async fn wait_for(
        &self,
        mut submitted: Submitted,
        trace: Option<&mut Publishing>,
    ) -> Result<v1::Receipt, Refusal> {
        let deadline = submitted.deadline;
        let written = submitted.written.take();
        let Submitted { level, sequence, count, bytes, remembered, .. } = submitted;
        let early = async {
            // One that does not go on from the last batch may be refused: the queue decides.
            let OnDisk { position, stamped_ms } = written?.await.ok()?;
            let goes_on = self.link(sequence, count, position) || self.producer.is_none();
            let Remembered { until_ms, settings } = remembered?;
            // Other settings may be ahead of it in the log, by which it is refused.
            let holds = stamped_ms < until_ms && self.queue.keeps_settings(settings);
            (goes_on && holds).then_some(position)
        };
        let outcome = submitted.outcome;
        let first = async {
            tokio::pin!(outcome);
            tokio::select! {
                biased;
                outcome = &mut outcome => Ok(outcome),
                Some(position) = early => Err(position),
            }
        };
        match tokio::time::timeout(left(deadline), first).await {
            Ok(Err(position)) => {
                let level = AckLevel::Accepted;
                Ok(v1::Receipt { position: Some(self.position(position)), ..receipt(count, level) })
            }
            Ok(Ok(Ok(Ok(Applied { reply, position })))) => match reply {
                Reply::Published { first_offset, count, duplicate } => {
                    if let Some(trace) = trace {
                        trace.committed();
                    }
                    self.link(sequence, count, position);
                    if duplicate {
                        // What it repeats may end before what the queue has of this producer.
                        *self.chain() = None;
                    }
                    let receipt = v1::Receipt {
                        first_offset: first_offset.0,
                        duplicate,
                        position: Some(self.position(position)),
                        ..receipt(count, AckLevel::Quorum)
                    };
                    match level {
                        AckLevel::All => self.wait_for_all(receipt, position, deadline).await,
                        _ => Ok(receipt),
                    }
                }
                Reply::Rejected(rejection) => Err(Refusal::of_batch(rejection, count, bytes)),
                _ => Err(Refusal::unknown_outcome()),
            },
            Ok(Ok(Ok(Err(error)))) => Err(self.node.redirect(&self.queue, error)),
            Ok(Ok(Err(_))) => Err(Refusal::unknown_outcome()),
            Err(_) => {
                let limit = self.node.config.limits.request_timeout();
                let mut refusal = Refusal::unknown_outcome();
                refusal.message =
                    format!("no majority confirmed within {limit:?}; {}", refusal.message);
                Err(refusal)
            }
        }
    }

    fn position(&self, Position { term, index }: Position) -> v1::LogPosition {
        v1::LogPosition { group: self.queue.handle.id(), term, index }
    }

    async fn wait_for_all(
        &self,
        receipt: v1::Receipt,
        position: Position,
        deadline: Instant,
    ) -> Result<v1::Receipt, Refusal> {
        let (lag, needed) = self.in_sync_limits();
        let all = self.queue.handle.all_in_sync(position.index, lag, needed);
        match tokio::time::timeout(left(deadline), all).await {
            Ok(Ok(in_sync)) => Ok(v1::Receipt { level: AckLevel::All.into(), in_sync, ..receipt }),
            // The next leader answers the same sequence.
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let in_sync = self.queue.handle.in_sync(lag).await.len();
                Err(Refusal::not_enough_in_sync(in_sync, needed, Some(receipt.first_offset)))
            }
        }
    }

    pub(super) async fn answer(&self, underway: Underway) -> v1::PublishStreamResponse {
        use v1::publish_stream_response::Response;
        let id = underway.id;
        let receipt = match underway.outcome {
            Ok(outcome) => self.receipt(outcome).await,
            Err(refusal) => Err(refusal),
        };
        let response = match receipt {
            Ok(receipt) => Response::Receipt(v1::PublishReceipt { id, receipt: Some(receipt) }),
            Err(refusal) => {
                Response::Failure(v1::PublishFailure { id, failure: Some(refusal.into_failure()) })
            }
        };
        v1::PublishStreamResponse { response: Some(response) }
    }

    pub(super) fn opened(&self) -> v1::PublishStreamResponse {
        use v1::publish_stream_response::Response;
        let term = self.queue.handle.leadership().term;
        let opened = v1::PublishOpened {
            leader: self.node.leader(self.node.id(), term),
            max_message_bytes: self.node.config.limits.max_message_bytes.into(),
            max_frame_bytes: self.node.config.limits.max_frame_bytes.into(),
        };
        v1::PublishStreamResponse { response: Some(Response::Opened(opened)) }
    }

    /// Reads batches until the client ends, and queues them. After a batch that did not enter, no
    /// later one of the stream may: their order would change.
    pub(super) async fn read(
        self: Arc<Self>,
        mut requests: Streaming<v1::PublishStreamRequest>,
        underway: mpsc::Sender<Underway>,
    ) {
        use v1::publish_stream_request::Request;
        let mut refused: Option<Refusal> = None;
        loop {
            let request = tokio::select! {
                biased;
                () = self.node.shutdown.said() => return,
                request = requests.message() => request,
            };
            let next = match request {
                Ok(Some(v1::PublishStreamRequest { request: Some(Request::Batch(batch)) })) => {
                    let v1::PublishBatch { sequence, frame, properties, ack, .. } = batch;
                    let frame = frame.unwrap_or_default();
                    let condition = condition_of(&batch.message_id, batch.expected_next_offset);
                    let outcome = match (&refused, condition) {
                        (Some(refusal), _) => Err(refusal.clone()),
                        (None, Err(refusal)) => Err(refusal),
                        (None, Ok(condition)) => {
                            self.submit(sequence, frame, &properties, condition, ack).await
                        }
                    };
                    if let Err(refusal) = &outcome {
                        refused.get_or_insert_with(|| refusal.clone().for_followers());
                    }
                    Underway { id: batch.id, outcome }
                }
                Ok(Some(_)) => {
                    let refusal =
                        Refusal::invalid("a publish stream takes one `open`, then batches");
                    Underway { id: 0, outcome: Err(refusal) }
                }
                Ok(None) | Err(_) => return,
            };
            if underway.send(next).await.is_err() {
                return;
            }
        }
    }
}

fn receipt(count: u32, level: AckLevel) -> v1::Receipt {
    v1::Receipt { count, level: level.into(), ..<_>::default() }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn of(delay_ms: u64, deliver_at_ms: u64, ttl_ms: u64, priority: u32) -> v1::Properties {
        let group_key = String::new();
        v1::Properties { count: 1, delay_ms, deliver_at_ms, ttl_ms, priority, group_key }
    }

    #[test]
    fn a_time_to_live_counts_from_when_a_message_may_be_delivered() {
        let expires = |properties| {
            let runs = properties_of(&[properties], 1, NOW).expect("good properties");
            runs[0].expires.map(|expires| expires.0 - NOW)
        };
        assert_eq!(expires(of(0, 0, 500, 0)), Some(501), "this millisecond has begun");
        assert_eq!(expires(of(200, 0, 500, 0)), Some(701));
        assert_eq!(expires(of(0, NOW + 200, 500, 0)), Some(700));
        assert_eq!(expires(of(0, NOW - 200, 500, 0)), Some(501), "what is due counts from now");
        assert_eq!(expires(of(0, 0, 0, 9)), None);
    }

    #[test]
    fn neighbours_that_are_alike_are_one_run_and_plain_ones_have_none() {
        let plain = || of(0, 0, 0, 0);
        assert_eq!(properties_of(&[plain(), of(0, 1, 0, 0)], 2, NOW).expect("good"), []);
        let all = [plain(), plain(), of(0, 0, 7, 1), of(0, 0, 7, 1), of(0, 0, 7, 2)];
        let runs = properties_of(&all, 5, NOW).expect("good");
        let runs: Vec<_> = runs.iter().map(|run| (run.count, run.priority)).collect();
        assert_eq!(runs, [(2, 0), (2, 1), (1, 2)]);
    }

    #[test]
    fn what_no_queue_takes_is_refused() {
        for wrong in [of(0, 0, DELAY_MS_MAX + 1, 0), of(0, 0, 0, 10), of(0, 0, 0, 256 + 1)] {
            let refusal = properties_of(&[wrong], 1, NOW).expect_err("wrong");
            assert_eq!(refusal.reason, quorate_proto::reason::INVALID_ARGUMENT);
        }
    }
}
