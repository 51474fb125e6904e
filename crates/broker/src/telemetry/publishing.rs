//! The `publish` spans of a batch: one for each of its sampled messages, from its arrival at the leader's node to its
//! receipt.
//!
//! ```text
//! arrived ──► submitted ──────────────────► committed ─────────────────► answered
//!      checks, memory,     gathered, written, a      level ALL: the others
//!      room in the line    majority has it, applied
//! ```
//! The stages are events of the span rather than spans of their own, so that a message takes one of the rate.

use std::sync::Arc;

use quorate_proto::otlp::common::v1::KeyValue;
use quorate_proto::v1;

use super::span::{Operation, event, failed, message_id, number, numbers, span, text, truth};
use super::{STREAM_ENDED, TraceParent, Tracer, now};
use crate::queue::Queue;
use crate::refusal::Refusal;

/// A batch with sampled messages, on its way to its receipt.
pub(crate) struct Publishing {
    tracer: Arc<Tracer>,
    queue: Arc<Queue>,
    /// Positions in the batch, ascending.
    messages: Vec<(u32, TraceParent)>,
    count: u32,
    arrived: u64,
    submitted: Option<u64>,
    committed: Option<u64>,
}

impl Publishing {
    pub(super) fn begin(
        tracer: &Arc<Tracer>,
        queue: &Arc<Queue>,
        frame: &v1::Frame,
    ) -> Option<Box<Self>> {
        let messages = tracer.sampled(&frame.messages);
        if messages.is_empty() {
            return None;
        }
        Some(Box::new(Self {
            tracer: tracer.clone(),
            queue: queue.clone(),
            messages,
            count: frame.count,
            arrived: now(),
            submitted: None,
            committed: None,
        }))
    }

    /// It is in line to become part of an entry.
    pub(crate) fn submitted(&mut self) {
        self.submitted = Some(now());
    }

    /// A majority has it, and it is applied.
    pub(crate) fn committed(&mut self) {
        self.committed = Some(now());
    }

    /// Its receipt or failure is on its way to the client.
    pub(crate) fn answered(&mut self, answer: &Result<v1::Receipt, Refusal>) {
        match answer {
            Ok(receipt) => self.tell(Ok(receipt)),
            Err(refusal) => self.tell(Err((refusal.reason, &refusal.message))),
        }
    }

    fn tell(&mut self, answer: Result<&v1::Receipt, (&str, &str)>) {
        let end = now();
        for (at, parent) in std::mem::take(&mut self.messages) {
            let queue = self.queue.name.as_str();
            let mut span = span(Operation::PUBLISH, queue, parent, (self.arrived, end));
            let stages = [("submitted", self.submitted), ("committed", self.committed)];
            let stages = stages.into_iter().filter_map(|(name, at)| Some(event(name, at?)));
            span.events.extend(stages);
            if self.count > 1 {
                span.attributes.push(number("messaging.batch.message_count", self.count));
            }
            match answer {
                Ok(receipt) => confirmed(&mut span.attributes, receipt, at),
                Err((reason, message)) => failed(&mut span, reason, message),
            }
            self.tracer.tell(span);
        }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if !self.messages.is_empty() {
            let why = "the stream ended before the receipt: it may have entered";
            self.tell(Err((STREAM_ENDED, why)));
        }
    }
}

fn confirmed(attributes: &mut Vec<KeyValue>, receipt: &v1::Receipt, at: u32) {
    let level = match receipt.level() {
        v1::AckLevel::Accepted => "accepted",
        v1::AckLevel::All => "all",
        v1::AckLevel::Quorum | v1::AckLevel::Unspecified => "quorum",
    };
    attributes.push(text("quorate.ack_level", level));
    // Before the queue has decided there is no offset.
    if receipt.level() != v1::AckLevel::Accepted {
        attributes.push(message_id(receipt.first_offset + u64::from(at)));
        attributes.push(truth("quorate.duplicate", receipt.duplicate));
    }
    if let Some(position) = &receipt.position {
        attributes.push(number("quorate.group", position.group));
        attributes.push(number("quorate.term", position.term));
        attributes.push(number("quorate.index", position.index));
    }
    if !receipt.in_sync.is_empty() {
        attributes.push(numbers("quorate.in_sync", &receipt.in_sync));
    }
}
