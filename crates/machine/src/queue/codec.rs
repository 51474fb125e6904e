//! The persisted form of the queue's commands. The road back from a run to its bytes is next door, in `bodies`.
//!
//! ```text
//! command   = version u8 | kind u8 | fields            integers little-endian
//! 1 Configure      settings
//! 2 Publish        producer? | count u32 | layout u8 | frame (length u32, bytes)
//!     producer     id (length u32, bytes) | epoch u32 | sequence u64
//! 3 Attach         session u128 | node u64 | name (length u32, UTF-8) | prefetch u32
//!                  | flags u8 | lease_ms u32 if flag 1 is set          flag 2: it tells what it has started
//!                  | filter if flag 4 is set: values u8, not 0 | (length u32, UTF-8)*
//! 4 Detach         session u128 | attachment u64
//! 5 Disconnect     session u128 | attachment u64
//! 6 Settle         session u128 | items u32 | item*
//!     item         kind u8 | argument u32 | token u64 | first u64 | count u32
//!     kind         1 ack, 2 nack (argument: delay), 3 reject, 4 extend (lease), 5 return, 6 start
//! 7 Tick   8 Purge   9 LeaderChanged  node u64
//! 10 CreateSlot    slot | from u8 | offset u64 | max_retained_bytes u64 | max_idle_ms u64
//!     from         1 first, 2 next, 3 offset; the offset is 0 but for 3
//! 11 AdvanceSlot   slot | made at u64 | offset u64
//! 12 DropSlot      slot
//! 13 PublishWith   producer? | count u32 | layout u8 | properties (length u32, property*) | frame
//!     property     count u32 | flags u8 | due u64 if flag 1 is set | expires u64 if flag 2 is | priority u8 if flag 4 is
//!                  | group u64 if flag 8 is | tag u64 if flag 16 is; instead of 2, where there are any
//! 14 PublishIf     producer? | id? (length u32, UTF-8) | expected next offset? u64 | count u32 | layout u8
//!                  | properties (length u32, property*) | frame          instead of 2 and 13, with an id or an
//!                                                                        expected offset
//! 15 PublishMoved  source u64 | timeline u64 | first u64 | count u32 | layout u8 | frame
//! 16 Moved         to u64
//! 17 ControlConsumer   target u8 | session u128 if it is 1, name (length u32, UTF-8) if it is 2 | what u8
//!     target       1 session, 2 name, 3 everyone        what   1 pause, 2 resume, 3 kick
//! 18 PurgeBefore   offset u64
//! 19 Receive       session u128 | node u64 | name (length u32, UTF-8) | count u32
//!                  | flags u8 | lease_ms u32 if flag 1 is set | filter if flag 4 is, as in 3 | wait_ms u32
//! 20 Seek          to u64 | runs (length u32, run*)        run   first u64 | property
//! slot             length u32, name
//! x?               0, or 1 and x
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::command::{
    Again, Attach, Command, Condition, Producer, Properties, Publish, PublishMoved, Receive,
    SettleItem, SettleKind,
};
use super::control::{Control, Target};
use super::ids::{Attachment, MessageId, Offset, ProducerId, Session, Token};
use super::seeking::SEEK_RUNS_MAX;
use super::settings::Settings;
use super::slots::{CreateSlot, SlotName, SlotStart};
use crate::wire::{self, DecodeError};
use crate::{Millis, NodeId};

/// Version of the command encoding.
pub(super) const VERSION: u8 = 1;

const CONFIGURE: u8 = 1;
pub(super) const PUBLISH: u8 = 2;
const ATTACH: u8 = 3;
const DETACH: u8 = 4;
const DISCONNECT: u8 = 5;
const SETTLE: u8 = 6;
const TICK: u8 = 7;
const PURGE: u8 = 8;
const LEADER_CHANGED: u8 = 9;
const CREATE_SLOT: u8 = 10;
const ADVANCE_SLOT: u8 = 11;
const DROP_SLOT: u8 = 12;
pub(super) const PUBLISH_WITH: u8 = 13;
pub(super) const PUBLISH_IF: u8 = 14;
pub(super) const PUBLISH_MOVED: u8 = 15;
const MOVED: u8 = 16;
const CONTROL_CONSUMER: u8 = 17;
const PURGE_BEFORE: u8 = 18;
const RECEIVE: u8 = 19;
const SEEK: u8 = 20;

/// The length of the consumer's leases follows.
const HAS_LEASE: u8 = 1;
/// The consumer tells which messages it has begun to handle.
const TELLS_STARTS: u8 = 2;
/// The values follow that the consumer filters by.
const HAS_FILTER: u8 = 4;

const ONE_SESSION: u8 = 1;
const NAMED: u8 = 2;
const EVERYONE: u8 = 3;

const PAUSE: u8 = 1;
const RESUME: u8 = 2;
const KICK: u8 = 3;

/// The messages have a due time.
const HAS_DUE: u8 = 1;
/// They have a time from which on they are not delivered.
const HAS_EXPIRES: u8 = 2;
/// They have a priority.
const HAS_PRIORITY: u8 = 4;
/// The messages are of a group.
const HAS_GROUP: u8 = 8;
/// They have a header that consumers filter by.
const HAS_TAG: u8 = 16;

const FROM_FIRST: u8 = 1;
const FROM_NEXT: u8 = 2;
const FROM_OFFSET: u8 = 3;

const ACK: u8 = 1;
const NACK: u8 = 2;
const REJECT: u8 = 3;
const EXTEND: u8 = 4;
const RETURN: u8 = 5;
const START: u8 = 6;

/// Most bytes of encoded [`Properties`].
const PROPERTY_BYTES: usize = 4 + 1 + 8 + 8 + 1 + 8 + 8;

/// Bytes of an encoded [`SettleItem`].
const ITEM_BYTES: usize = 1 + 4 + 8 + 8 + 4;

/// Appends a command.
pub(super) fn encode(command: &Command, out: &mut BytesMut) {
    out.put_u8(VERSION);
    match command {
        Command::Configure(settings) => {
            out.put_u8(CONFIGURE);
            settings.encode(out);
        }
        Command::Publish(publish) => encode_publish(publish, out),
        Command::Attach(attach) => encode_attach(attach, out),
        Command::Receive(receive) => encode_receive(receive, out),
        Command::Detach { session, attachment } => {
            encode_session(DETACH, *session, *attachment, out);
        }
        Command::Disconnect { session, attachment } => {
            encode_session(DISCONNECT, *session, *attachment, out);
        }
        Command::Settle { session, items } => encode_settle(*session, items, out),
        Command::Tick => out.put_u8(TICK),
        Command::Purge => out.put_u8(PURGE),
        Command::PurgeBefore { before } => {
            out.put_u8(PURGE_BEFORE);
            out.put_u64_le(before.0);
        }
        Command::Seek { to, again } => {
            out.put_u8(SEEK);
            out.put_u64_le(to.0);
            let bytes: usize = again.iter().map(|run| 8 + property_bytes(&run.of)).sum();
            out.put_u32_le(bytes as u32);
            for run in again {
                out.put_u64_le(run.first.0);
                encode_property(&run.of, out);
            }
        }
        Command::LeaderChanged { node } => {
            out.put_u8(LEADER_CHANGED);
            out.put_u64_le(node.0);
        }
        Command::CreateSlot(create) => encode_create_slot(create, out),
        Command::AdvanceSlot { name, made_at, to } => {
            out.put_u8(ADVANCE_SLOT);
            put_slot_name(out, name);
            out.put_u64_le(*made_at);
            out.put_u64_le(to.0);
        }
        Command::DropSlot { name } => {
            out.put_u8(DROP_SLOT);
            put_slot_name(out, name);
        }
        Command::ControlConsumer { target, what } => encode_control(target, *what, out),
        Command::PublishMoved(moved) => encode_moved(moved, out),
        Command::Moved { to } => {
            out.put_u8(MOVED);
            out.put_u64_le(*to);
        }
    }
}

fn encode_control(target: &Target, what: Control, out: &mut BytesMut) {
    out.put_u8(CONTROL_CONSUMER);
    match target {
        Target::Session(session) => {
            out.put_u8(ONE_SESSION);
            out.put_u128_le(session.0);
        }
        Target::Named(name) => {
            out.put_u8(NAMED);
            wire::put_bytes(out, name.as_bytes());
        }
        Target::Everyone => out.put_u8(EVERYONE),
    }
    out.put_u8(match what {
        Control::Pause => PAUSE,
        Control::Resume => RESUME,
        Control::Kick => KICK,
    });
}

fn encode_create_slot(create: &CreateSlot, out: &mut BytesMut) {
    out.put_u8(CREATE_SLOT);
    put_slot_name(out, &create.name);
    put_slot_start(out, create.from);
    out.put_u64_le(create.max_retained_bytes);
    out.put_u64_le(create.max_idle_ms);
}

/// Appends a slot's name.
pub(super) fn put_slot_name(out: &mut impl BufMut, name: &SlotName) {
    wire::put_bytes(out, name.as_str().as_bytes());
}

/// Appends where a slot begins.
pub(super) fn put_slot_start(out: &mut impl BufMut, from: SlotStart) {
    let (kind, offset) = match from {
        SlotStart::First => (FROM_FIRST, 0),
        SlotStart::Next => (FROM_NEXT, 0),
        SlotStart::Offset(offset) => (FROM_OFFSET, offset.0),
    };
    out.put_u8(kind);
    out.put_u64_le(offset);
}

/// Reads what [`put_slot_name`] wrote.
pub(super) fn slot_name(buf: &mut impl Buf) -> Result<SlotName, DecodeError> {
    let name = wire::string(buf, "slot name", SlotName::LENGTH_MAX)?;
    SlotName::parse(&name)
        .map_err(|_| DecodeError::Invalid { what: "slot name", why: "no slot may have it" })
}

/// Reads what [`put_slot_start`] wrote.
pub(super) fn slot_start(buf: &mut impl Buf) -> Result<SlotStart, DecodeError> {
    match (wire::u8(buf)?, wire::u64(buf)?) {
        (FROM_FIRST, 0) => Ok(SlotStart::First),
        (FROM_NEXT, 0) => Ok(SlotStart::Next),
        (FROM_OFFSET, offset) => Ok(SlotStart::Offset(Offset(offset))),
        (FROM_FIRST | FROM_NEXT, _) => {
            Err(DecodeError::Invalid { what: "start of a slot", why: "it takes no offset" })
        }
        (kind, _) => Err(DecodeError::UnknownKind { what: "start of a slot", kind }),
    }
}

fn encode_publish(publish: &Publish, out: &mut BytesMut) {
    let properties = &publish.properties;
    out.reserve(publish.frame.len() + ProducerId::BYTES_MAX + properties.len() * PROPERTY_BYTES);
    let is_conditional = publish.condition.is_some();
    out.put_u8(match properties.is_empty() {
        _ if is_conditional => PUBLISH_IF,
        true => PUBLISH,
        false => PUBLISH_WITH,
    });
    wire::put_option(out, publish.producer.as_ref(), |out, producer| {
        wire::put_bytes(out, producer.id.as_bytes());
        out.put_u32_le(producer.epoch);
        out.put_u64_le(producer.sequence);
    });
    if let Some(condition) = &publish.condition {
        let id = condition.message_id.as_ref();
        wire::put_option(out, id, |out, id| wire::put_bytes(out, id.as_str().as_bytes()));
        wire::put_option(out, condition.expected_next, |out, Offset(next)| out.put_u64_le(next));
    }
    out.put_u32_le(publish.count);
    out.put_u8(publish.layout);
    if is_conditional || !properties.is_empty() {
        let bytes: usize = properties.iter().map(property_bytes).sum();
        out.put_u32_le(bytes as u32);
        properties.iter().for_each(|of| encode_property(of, out));
    }
    wire::put_bytes(out, &publish.frame);
}

fn flags(of: &Properties) -> u8 {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    flag(of.due.is_some(), HAS_DUE)
        | flag(of.expires.is_some(), HAS_EXPIRES)
        | flag(of.priority > 0, HAS_PRIORITY)
        | flag(of.group.is_some(), HAS_GROUP)
        | flag(of.tag.is_some(), HAS_TAG)
}

fn encode_moved(moved: &PublishMoved, out: &mut BytesMut) {
    out.reserve(moved.frame.len() + 64);
    out.put_u8(PUBLISH_MOVED);
    out.put_u64_le(moved.source);
    out.put_u64_le(moved.timeline);
    out.put_u64_le(moved.first);
    out.put_u32_le(moved.count);
    out.put_u8(moved.layout);
    wire::put_bytes(out, &moved.frame);
}

/// Bytes of encoded properties; a batch has a run for each message at most.
fn property_bytes(of: &Properties) -> usize {
    let times = usize::from(of.due.is_some()) + usize::from(of.expires.is_some());
    let hashes = usize::from(of.group.is_some()) + usize::from(of.tag.is_some());
    4 + 1 + 8 * (times + hashes) + usize::from(of.priority > 0)
}

fn encode_property(of: &Properties, out: &mut BytesMut) {
    out.put_u32_le(of.count);
    out.put_u8(flags(of));
    for time in [of.due, of.expires].into_iter().flatten() {
        out.put_u64_le(time.0);
    }
    if of.priority > 0 {
        out.put_u8(of.priority);
    }
    for hash in [of.group, of.tag].into_iter().flatten() {
        out.put_u64_le(hash);
    }
}

fn encode_attach(attach: &Attach, out: &mut BytesMut) {
    out.put_u8(ATTACH);
    out.put_u128_le(attach.session.0);
    out.put_u64_le(attach.node.0);
    wire::put_bytes(out, attach.name.as_bytes());
    out.put_u32_le(attach.prefetch);
    put_wishes(out, attach.lease_ms, attach.tells_starts, &attach.filter);
}

/// What a consumer asks for beyond what all do.
fn put_wishes(out: &mut BytesMut, lease_ms: Option<u32>, tells_starts: bool, filter: &[String]) {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let has_lease = flag(lease_ms.is_some(), HAS_LEASE) | flag(tells_starts, TELLS_STARTS);
    out.put_u8(has_lease | flag(!filter.is_empty(), HAS_FILTER));
    if let Some(lease_ms) = lease_ms {
        out.put_u32_le(lease_ms);
    }
    if !filter.is_empty() {
        put_filter(out, filter);
    }
}

/// Appends the values of a filter, which is not empty. Whoever proposes one has seen that it is not longer than
/// [`filter`] reads: an entry that holds it cannot be read.
pub(super) fn put_filter(out: &mut impl BufMut, filter: &[String]) {
    out.put_u8(u8::try_from(filter.len()).expect("a filter has at most 16 values"));
    filter.iter().for_each(|value| wire::put_bytes(out, value.as_bytes()));
}

/// Reads what [`put_filter`] wrote.
pub(super) fn filter(buf: &mut impl Buf) -> Result<Vec<String>, DecodeError> {
    let count = usize::from(wire::u8(buf)?);
    if !(1..=Attach::FILTER_VALUES_MAX).contains(&count) {
        return Err(DecodeError::Invalid { what: "filter", why: "no filter has so many values" });
    }
    let value = |_| wire::string(buf, "filter value", Attach::FILTER_VALUE_BYTES_MAX);
    (0..count).map(value).collect()
}

fn encode_receive(receive: &Receive, out: &mut BytesMut) {
    out.put_u8(RECEIVE);
    out.put_u128_le(receive.session.0);
    out.put_u64_le(receive.node.0);
    wire::put_bytes(out, receive.name.as_bytes());
    out.put_u32_le(receive.count);
    put_wishes(out, receive.lease_ms, false, &receive.filter);
    out.put_u32_le(receive.wait_ms);
}

fn encode_session(kind: u8, session: Session, attachment: Attachment, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u128_le(session.0);
    out.put_u64_le(attachment.0);
}

fn encode_settle(session: Session, items: &[SettleItem], out: &mut BytesMut) {
    out.reserve(items.len() * ITEM_BYTES + 32);
    out.put_u8(SETTLE);
    out.put_u128_le(session.0);
    out.put_u32_le(u32::try_from(items.len()).expect("a settle has at most ITEMS_MAX items"));
    for item in items {
        let (kind, argument) = match item.kind {
            SettleKind::Ack => (ACK, 0),
            SettleKind::Nack { delay_ms } => (NACK, delay_ms),
            SettleKind::Reject => (REJECT, 0),
            SettleKind::Extend { lease_ms } => (EXTEND, lease_ms),
            SettleKind::Return => (RETURN, 0),
            SettleKind::Start => (START, 0),
        };
        // Into the buffer as a whole: each piece of its own is a look whether there is room.
        let mut bytes = [0; ITEM_BYTES];
        let mut fields = &mut bytes[..];
        fields.put_u8(kind);
        fields.put_u32_le(argument);
        fields.put_u64_le(item.token.0);
        fields.put_u64_le(item.first.0);
        fields.put_u32_le(item.count);
        out.put_slice(&bytes);
    }
}

/// Reads a whole command; a frame shares the memory of `buf`.
pub(super) fn decode(buf: &mut Bytes) -> Result<Command, DecodeError> {
    wire::expect_version(buf, "queue command", VERSION)?;
    let command = match wire::u8(buf)? {
        CONFIGURE => Command::Configure(Settings::decode(buf)?.into()),
        kind @ (PUBLISH | PUBLISH_WITH | PUBLISH_IF) => {
            Command::Publish(decode_publish(buf, kind, decode_properties)?)
        }
        ATTACH => Command::Attach(decode_attach(buf)?),
        RECEIVE => Command::Receive(decode_receive(buf)?),
        DETACH => Command::Detach { session: session(buf)?, attachment: attachment(buf)? },
        DISCONNECT => Command::Disconnect { session: session(buf)?, attachment: attachment(buf)? },
        SETTLE => Command::Settle { session: session(buf)?, items: decode_items(buf)? },
        TICK => Command::Tick,
        PURGE => Command::Purge,
        PURGE_BEFORE => Command::PurgeBefore { before: Offset(wire::u64(buf)?) },
        SEEK => Command::Seek { to: Offset(wire::u64(buf)?), again: decode_again(buf)? },
        LEADER_CHANGED => Command::LeaderChanged { node: NodeId(wire::u64(buf)?) },
        CREATE_SLOT => Command::CreateSlot(CreateSlot {
            name: slot_name(buf)?,
            from: slot_start(buf)?,
            max_retained_bytes: wire::u64(buf)?,
            max_idle_ms: wire::u64(buf)?,
        }),
        ADVANCE_SLOT => Command::AdvanceSlot {
            name: slot_name(buf)?,
            made_at: wire::u64(buf)?,
            to: Offset(wire::u64(buf)?),
        },
        DROP_SLOT => Command::DropSlot { name: slot_name(buf)? },
        CONTROL_CONSUMER => decode_control(buf)?,
        PUBLISH_MOVED => Command::PublishMoved(decode_moved(buf)?),
        MOVED => Command::Moved { to: wire::u64(buf)? },
        kind => return Err(DecodeError::UnknownKind { what: "queue command", kind }),
    };
    wire::expect_end(buf)?;
    Ok(command)
}

fn decode_control(buf: &mut impl Buf) -> Result<Command, DecodeError> {
    let target = match wire::u8(buf)? {
        ONE_SESSION => Target::Session(session(buf)?),
        NAMED => Target::Named(wire::string(buf, "consumer name", Attach::NAME_BYTES_MAX)?),
        EVERYONE => Target::Everyone,
        kind => return Err(DecodeError::UnknownKind { what: "consumers", kind }),
    };
    let what = match wire::u8(buf)? {
        PAUSE => Control::Pause,
        RESUME => Control::Resume,
        KICK => Control::Kick,
        kind => return Err(DecodeError::UnknownKind { what: "control of consumers", kind }),
    };
    Ok(Command::ControlConsumer { target, what })
}

fn session(buf: &mut impl Buf) -> Result<Session, DecodeError> {
    wire::u128(buf).map(Session)
}

fn attachment(buf: &mut impl Buf) -> Result<Attachment, DecodeError> {
    wire::u64(buf).map(Attachment)
}

/// Reads a publish of any kind; `properties` makes of the encoded ones what is wanted of them.
pub(super) fn decode_publish<B: Buf>(
    buf: &mut B,
    kind: u8,
    properties: impl FnOnce(Bytes) -> Result<Vec<Properties>, DecodeError>,
) -> Result<Publish, DecodeError> {
    let producer = wire::option(buf, "producer flag", |buf| {
        let id = wire::bytes(buf, "producer id", ProducerId::BYTES_MAX)?;
        let id = ProducerId::new(id)
            .map_err(|_| DecodeError::Invalid { what: "producer id", why: "it is empty" })?;
        Ok(Producer { id, epoch: wire::u32(buf)?, sequence: wire::u64(buf)? })
    })?;
    let condition = match kind {
        PUBLISH_IF => Some(decode_condition(buf)?),
        _ => None,
    };
    let count = wire::u32(buf)?;
    let layout = wire::u8(buf)?;
    let properties = match kind {
        PUBLISH => Vec::new(),
        _ => properties(encoded_properties(buf, kind)?)?,
    };
    let limit = buf.remaining();
    let frame = wire::bytes(buf, "frame", limit)?;
    Ok(Publish { producer, condition, count, layout, properties, frame })
}

pub(super) fn decode_moved(buf: &mut impl Buf) -> Result<PublishMoved, DecodeError> {
    Ok(PublishMoved {
        source: wire::u64(buf)?,
        timeline: wire::u64(buf)?,
        first: wire::u64(buf)?,
        count: wire::u32(buf)?,
        layout: wire::u8(buf)?,
        frame: {
            let limit = buf.remaining();
            wire::bytes(buf, "frame", limit)?
        },
    })
}

fn decode_condition(buf: &mut impl Buf) -> Result<Box<Condition>, DecodeError> {
    let message_id = wire::option(buf, "message id flag", |buf| {
        let id = wire::string(buf, "message id", MessageId::BYTES_MAX)?;
        MessageId::new(&id)
            .map_err(|_| DecodeError::Invalid { what: "message id", why: "it is empty" })
    })?;
    let expected_next = wire::option(buf, "expected offset flag", wire::u64)?.map(Offset);
    Condition::of(message_id, expected_next).ok_or(OLDER_PUBLISH)
}

const OLDER_PUBLISH: DecodeError =
    DecodeError::Invalid { what: "publish", why: "it has an older form" };

pub(super) fn decode_properties(mut encoded: Bytes) -> Result<Vec<Properties>, DecodeError> {
    let mut properties = Vec::new();
    while encoded.has_remaining() {
        properties.push(decode_property(&mut encoded)?);
    }
    Ok(properties)
}

fn decode_again(buf: &mut impl Buf) -> Result<Vec<Again>, DecodeError> {
    let limit = SEEK_RUNS_MAX * (8 + PROPERTY_BYTES);
    let mut encoded = wire::bytes(buf, "runs that come back", limit)?;
    let mut again = Vec::new();
    while encoded.has_remaining() {
        let first = Offset(wire::u64(&mut encoded)?);
        again.push(Again { first, of: decode_property(&mut encoded)? });
    }
    Ok(again)
}

fn decode_property(buf: &mut Bytes) -> Result<Properties, DecodeError> {
    let count = wire::u32(buf)?;
    let flags = wire::u8(buf)?;
    if flags & !(HAS_DUE | HAS_EXPIRES | HAS_PRIORITY | HAS_GROUP | HAS_TAG) != 0 {
        return Err(DecodeError::UnknownKind { what: "property", kind: flags });
    }
    let mut properties = Properties { count, ..Properties::default() };
    if flags & HAS_DUE != 0 {
        properties.due = Some(Millis(wire::u64(buf)?));
    }
    if flags & HAS_EXPIRES != 0 {
        properties.expires = Some(Millis(wire::u64(buf)?));
    }
    if flags & HAS_PRIORITY != 0 {
        properties.priority = wire::u8(buf)?;
    }
    if flags & HAS_GROUP != 0 {
        properties.group = Some(wire::u64(buf)?);
    }
    if flags & HAS_TAG != 0 {
        properties.tag = Some(wire::u64(buf)?);
    }
    match self::flags(&properties) == flags {
        true => Ok(properties),
        false => Err(DecodeError::Invalid { what: "property", why: "it says nothing" }),
    }
}

fn encoded_properties(buf: &mut impl Buf, kind: u8) -> Result<Bytes, DecodeError> {
    let limit = buf.remaining();
    let encoded = wire::bytes(buf, "properties", limit)?;
    match encoded.is_empty() && kind == PUBLISH_WITH {
        true => Err(OLDER_PUBLISH),
        false => Ok(encoded),
    }
}

fn decode_receive(buf: &mut impl Buf) -> Result<Receive, DecodeError> {
    let Attach { session, node, name, prefetch: count, lease_ms, tells_starts, filter } =
        decode_attach(buf)?;
    if tells_starts {
        return Err(DecodeError::Invalid { what: "receive", why: "a receiver tells no starts" });
    }
    Ok(Receive { session, node, name, count, lease_ms, wait_ms: wire::u32(buf)?, filter })
}

fn decode_attach(buf: &mut impl Buf) -> Result<Attach, DecodeError> {
    let session = session(buf)?;
    let node = NodeId(wire::u64(buf)?);
    let name = wire::string(buf, "consumer name", Attach::NAME_BYTES_MAX)?;
    let prefetch = wire::u32(buf)?;
    let flags = wire::u8(buf)?;
    if flags & !(HAS_LEASE | TELLS_STARTS | HAS_FILTER) != 0 {
        return Err(DecodeError::UnknownKind { what: "attach flag", kind: flags });
    }
    let lease_ms = (flags & HAS_LEASE != 0).then(|| wire::u32(buf)).transpose()?;
    let tells_starts = flags & TELLS_STARTS != 0;
    let filter = if flags & HAS_FILTER != 0 { filter(buf)? } else { Vec::new() };
    Ok(Attach { session, node, name, prefetch, lease_ms, tells_starts, filter })
}

fn decode_items(buf: &mut impl Buf) -> Result<Vec<SettleItem>, DecodeError> {
    let count = wire::u32(buf)? as usize;
    if count > SettleItem::ITEMS_MAX {
        let (length, limit) = (count as u64, SettleItem::ITEMS_MAX as u64);
        return Err(DecodeError::TooLong { what: "settle items", length, limit });
    }
    if buf.remaining() < count * ITEM_BYTES {
        return Err(DecodeError::Truncated { needed: count * ITEM_BYTES, left: buf.remaining() });
    }
    (0..count).map(|_| decode_item(buf)).collect()
}

fn decode_item(buf: &mut impl Buf) -> Result<SettleItem, DecodeError> {
    let kind = wire::u8(buf)?;
    let argument = wire::u32(buf)?;
    let kind = match kind {
        ACK | REJECT | RETURN | START if argument != 0 => {
            return Err(DecodeError::Invalid { what: "settle item", why: "it takes no argument" });
        }
        ACK => SettleKind::Ack,
        NACK => SettleKind::Nack { delay_ms: argument },
        REJECT => SettleKind::Reject,
        EXTEND => SettleKind::Extend { lease_ms: argument },
        RETURN => SettleKind::Return,
        START => SettleKind::Start,
        kind => return Err(DecodeError::UnknownKind { what: "settle item", kind }),
    };
    let token = Token(wire::u64(buf)?);
    Ok(SettleItem { kind, token, first: Offset(wire::u64(buf)?), count: wire::u32(buf)? })
}
