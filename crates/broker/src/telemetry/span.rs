//! What a span says: OTLP's record, by the semantic conventions for messaging (version 1.45, in development), with
//! names of our own under `quorate.` for what they have no word for.

use bytes::Bytes;
use quorate_proto::otlp::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};
use quorate_proto::otlp::trace::v1::span::{Event, SpanKind};
use quorate_proto::otlp::trace::v1::status::StatusCode;
use quorate_proto::otlp::trace::v1::{Span, SpanFlags, Status};

use super::TraceParent;

/// The conventions that the names below are from.
pub(super) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.45.0";

/// What is done with a message, in the conventions' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    /// `messaging.operation.name`, and the first word of the span's name.
    name: &'static str,
    /// `messaging.operation.type`, of the client's operation that this is the broker's side of.
    kind: &'static str,
    span: SpanKind,
}

impl Operation {
    pub(super) const PUBLISH: Self = Self { name: "publish", kind: "send", span: SpanKind::Server };
    /// Handed over for somebody to work on later, which is what the kind is for.
    pub(super) const DELIVER: Self =
        Self { name: "deliver", kind: "receive", span: SpanKind::Producer };
    pub(super) const ACK: Self = Self::settle("ack");
    pub(super) const NACK: Self = Self::settle("nack");
    pub(super) const REJECT: Self = Self::settle("reject");
    /// A message that a consumer gives back as it ends.
    pub(super) const RELEASE: Self = Self::settle("release");
    /// A lease that ended by itself.
    pub(super) const EXPIRE: Self = Self::settle("expire");

    /// Internal: most of its time is the consumer's, so it would spoil the figures that are made of calls.
    const fn settle(name: &'static str) -> Self {
        Self { name, kind: "settle", span: SpanKind::Internal }
    }
}

/// A new span's id.
pub(super) fn id() -> [u8; 8] {
    // Zero is no id.
    ((crate::random::random() as u64).max(1)).to_be_bytes()
}

/// A span of a message at `queue` whose parent is in another process, from `start` to now or `end`.
pub(super) fn span(
    operation: Operation,
    queue: &str,
    parent: TraceParent,
    (start, end): (u64, u64),
) -> Span {
    let known = SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32;
    Span {
        trace_id: Bytes::copy_from_slice(&parent.trace),
        span_id: Bytes::copy_from_slice(&id()),
        parent_span_id: Bytes::copy_from_slice(&parent.span),
        flags: u32::from(parent.flags) | known,
        name: format!("{} {queue}", operation.name),
        kind: operation.span.into(),
        start_time_unix_nano: start,
        // The clock may have been set back.
        end_time_unix_nano: end.max(start),
        attributes: vec![
            text("messaging.system", "quorate"),
            text("messaging.destination.name", queue),
            text("messaging.operation.name", operation.name),
            text("messaging.operation.type", operation.kind),
        ],
        ..Span::default()
    }
}

/// A span whose parent is one of ours.
pub(super) fn local(mut span: Span) -> Span {
    span.flags &= !(SpanFlags::ContextIsRemoteMask as u32);
    span
}

/// It did not end well: why, for programs and for people.
pub(super) fn failed(span: &mut Span, reason: &str, message: impl Into<String>) {
    span.attributes.push(text("error.type", reason));
    span.status = Some(Status { message: message.into(), code: StatusCode::Error.into() });
}

pub(super) fn event(name: &str, at: u64) -> Event {
    Event { time_unix_nano: at, name: name.into(), ..Event::default() }
}

/// The name of a message: its place in the queue.
pub(super) fn message_id(offset: u64) -> KeyValue {
    text("messaging.message.id", offset.to_string())
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.into()))
}

/// Larger ones than the format has do not occur.
pub(super) fn number(key: &str, value: impl Into<u64>) -> KeyValue {
    attribute(key, int(value.into()))
}

pub(super) fn truth(key: &str, value: bool) -> KeyValue {
    attribute(key, any_value::Value::BoolValue(value))
}

pub(super) fn numbers(key: &str, values: &[u64]) -> KeyValue {
    let values = values.iter().map(|value| AnyValue { value: Some(int(*value)) }).collect();
    attribute(key, any_value::Value::ArrayValue(ArrayValue { values }))
}

fn int(value: u64) -> any_value::Value {
    any_value::Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
