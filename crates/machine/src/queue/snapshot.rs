//! The queue's state as bytes: what a checkpoint keeps, and what the state hash is of.
//!
//! ```text
//! snapshot  = version u8 | settings | now | next | cursor | acked | rejected | exhausted | purged
//!             | returned* | delayed* | lease* | batch* | attachments | consumer* | turn*
//!             | producer* | retained* | slot* | section* | checksum u64
//! x*        = count | x ...              integers are varints, but session ids (u128) and groups (u64)
//! returned  = first | count | attempts
//! delayed   = count | (earliest due | run ...) if there are any
//!             run = first (difference to the end before) | count | attempts | due (difference to the earliest)
//! lease     = session | first | count | attempt | token | deadline
//! batch     = index | first | since (differences to the batch before) | ordinal | count
//!             | remaining | bytes
//! retained  = index | first | since (differences to the one before) | ordinal | count | bytes
//! consumer  = session | name | node | prefetch | lease_ms? | attachment | grace?
//! turn      = session
//! producer  = id | epoch | used | run*   run = sequence | offset | count
//! slot      = name | from u8 | offset u64 | max_retained_bytes | max_idle_ms | made at | position | touched
//!             | lost_from?
//! section   = tag u8 | what the tag says; see `sections`
//! ```
//!
//! Only what cannot be computed is written. The same state always gives the same bytes: every
//! collection is ordered, and records that are merely not cleared away yet are left out.

use std::collections::{BTreeMap, VecDeque};

use bytes::BufMut;

use super::Queue;
use super::backlog::{Backlog, Batch};
use super::codec;
use super::command::Attach;
use super::consumers::{Consumer, Consumers};
use super::dedup::{Dedup, Remembered, SequenceRun};
use super::delayed::Delayed;
use super::ids::{Attachment, ProducerId, Session, Token};
use super::leased::{self, Lease, Leased};
use super::ready::{Ready, Span};
use super::retained::Retained;
use super::sections;
use super::settings::Settings;
use super::slots::{CreateSlot, SLOTS_MAX, Slot, Slots};
use crate::digest::digest;
use crate::planted::{self, Bug};
use crate::wire::{
    self, DecodeError, SnapshotError, ascending, counter, item_count, put_varint, varint, varint32,
};
use crate::{Millis, NodeId};

/// Version of the snapshot layout. Version 1 has no retained batches, version 2 no slots, version 3 no sections, version 4
/// no delayed messages; each is written while it says all. Before version 5, delayed was `run = due | first | count |
/// attempts` by due time, which is read still.
const VERSION: u8 = 5;

pub(super) type Decoded<T> = Result<T, DecodeError>;

/// The state with its checksum.
pub(super) fn write(queue: &Queue) -> Vec<u8> {
    wire::seal(state(queue))
}

/// Digest of the state.
pub(super) fn hash(queue: &Queue) -> u64 {
    digest(&state(queue))
}

/// The state that [`write`] wrote, proven to be consistent.
pub(super) fn read(bytes: &[u8]) -> Result<Queue, SnapshotError> {
    let (version, mut rest) = wire::unseal(bytes, "queue snapshot", 1..=VERSION)?;
    let queue = read_state(&mut rest, version)?;
    wire::expect_end(&rest)?;
    queue.check().map_err(SnapshotError::Inconsistent)?;
    Ok(queue)
}

fn state(queue: &Queue) -> Vec<u8> {
    // About what is needed, so that it is not copied as it grows.
    let runs = queue.leased.runs() * 40 + queue.delayed.runs() * 8 + queue.ready.runs() * 6;
    let mut out = Vec::with_capacity(256 + queue.backlog.len() * 12 + runs);
    let sections = sections::all(queue);
    let version = version(queue, &sections);
    out.put_u8(version);
    queue.settings.encode(&mut out);
    let gone = &queue.gone;
    for number in [
        queue.now.0,
        queue.ready.next(),
        queue.ready.cursor(),
        gone.acked,
        gone.rejected,
        gone.exhausted,
        gone.purged,
    ] {
        put_varint(&mut out, number);
    }
    write_returned(&mut out, &queue.ready);
    write_delayed(&mut out, &queue.delayed);
    write_leases(&mut out, &queue.leased);
    write_batches(&mut out, &queue.backlog);
    write_consumers(&mut out, &queue.consumers);
    write_producers(&mut out, &queue.dedup);
    if version >= 2 {
        write_retained(&mut out, &queue.retained);
    }
    if version >= 3 {
        write_slots(&mut out, &queue.slots);
    }
    if version >= 4 {
        put_varint(&mut out, sections.len() as u64);
        for (tag, section) in sections {
            out.put_u8(tag);
            out.put_slice(&section);
        }
    }
    out
}

/// The lowest version of the layout that has room for all.
fn version(queue: &Queue, sections: &[sections::Section]) -> u8 {
    match queue.delayed.len() {
        0 => version_but_for_delayed(queue, sections),
        _ => VERSION,
    }
}

/// The same as programs that knew no version 5 chose it.
fn version_but_for_delayed(queue: &Queue, sections: &[sections::Section]) -> u8 {
    match (sections.len(), queue.slots.len(), queue.retained.len()) {
        (0, 0, 0) => 1,
        (0, 0, _) => 2,
        (0, ..) => 3,
        _ => 4,
    }
}

fn read_state(buf: &mut &[u8], version: u8) -> Decoded<Queue> {
    let mut queue = Queue { settings: Settings::decode(buf)?, ..Queue::default() };
    queue.now = Millis(varint(buf)?);
    let (next, cursor) = (counter(buf, "next offset")?, varint(buf)?);
    if cursor > next {
        return Err(DecodeError::Invalid { what: "cursor", why: "it is beyond the end" });
    }
    queue.ready = Ready::new(cursor, next);
    queue.gone.acked = varint(buf)?;
    queue.gone.rejected = varint(buf)?;
    queue.gone.exhausted = varint(buf)?;
    queue.gone.purged = varint(buf)?;
    read_returned(buf, &mut queue.ready)?;
    match version {
        5.. => read_delayed(buf, cursor, &mut queue.delayed)?,
        _ => read_delayed_by_due(buf, cursor, &mut queue.delayed)?,
    }
    queue.leased = read_leases(buf, cursor)?;
    queue.backlog = read_batches(buf)?;
    queue.consumers = read_consumers(buf, &queue.leased)?;
    queue.dedup = read_producers(buf)?;
    if version >= 2 {
        queue.retained = read_retained(buf)?;
    }
    if version >= 3 {
        queue.slots = read_slots(buf, &queue.retained)?;
    }
    if version >= 4 {
        sections::read(buf, &mut queue)?;
    }
    if queue.ready.is_divided() || queue.delayed.is_divided() {
        return Err(DIVIDED);
    }
    let lowest = if version < 5 { version_but_for_delayed } else { self::version };
    if version != lowest(&queue, &sections::all(&queue)) {
        return Err(DecodeError::Invalid { what: "queue snapshot", why: "it has an older form" });
    }
    if planted::is(Bug::ReuseOffsets) && queue.backlog.len() == 0 {
        (queue.ready, queue.gone) = (Ready::new(0, 0), Default::default());
    }
    Ok(queue)
}

fn write_returned(out: &mut Vec<u8>, ready: &Ready) {
    put_varint(out, ready.runs() as u64);
    let mut returned: Vec<Span> = ready.returned().chain(ready.urgent()).collect();
    returned.sort_unstable_by_key(|span| span.first);
    for span in returned {
        write_span(out, span);
    }
}

fn read_returned(buf: &mut &[u8], ready: &mut Ready) -> Decoded<()> {
    let mut end = 0;
    for _ in 0..item_count(buf, 3)? {
        let span = read_span(buf, ready.cursor())?;
        if span.first < end {
            return Err(OVERLAP);
        }
        end = span.end();
        ready.restore(span);
    }
    Ok(())
}

/// By offset, as they lie in memory: of a million in order of their times, each would be looked for.
fn write_delayed(out: &mut Vec<u8>, delayed: &Delayed) {
    put_varint(out, delayed.runs() as u64);
    let Some(earliest) = delayed.next_deadline() else { return };
    put_varint(out, earliest.0);
    let mut end = 0;
    for (due, span) in delayed.iter() {
        write_span(out, Span { first: span.first - end, ..span });
        put_varint(out, due.0 - earliest.0);
        end = span.end();
    }
}

fn read_delayed(buf: &mut &[u8], cursor: u64, delayed: &mut Delayed) -> Decoded<()> {
    let runs = item_count(buf, 4)?;
    let (earliest, mut end) = (varint(buf)?, 0u64);
    for _ in 0..runs {
        let (skipped, count, attempts) = (varint(buf)?, varint(buf)?, varint32(buf)?);
        let first = end.checked_add(skipped).ok_or(OVERLAP)?;
        end = first.checked_add(count).filter(|end| count > 0 && *end <= cursor).ok_or(OVERLAP)?;
        let due = earliest.checked_add(varint(buf)?).ok_or(NOT_EARLIEST)?;
        delayed.restore(Millis(due), Span { first, count, attempts, priority: 0 });
    }
    match delayed.next_deadline() == Some(Millis(earliest)) {
        true => Ok(()),
        false => Err(NOT_EARLIEST),
    }
}

const NOT_EARLIEST: DecodeError =
    DecodeError::Invalid { what: "delayed", why: "nothing is due at the earliest time" };

fn read_delayed_by_due(buf: &mut &[u8], cursor: u64, delayed: &mut Delayed) -> Decoded<()> {
    let mut end = (Millis(0), 0);
    for _ in 0..item_count(buf, 4)? {
        let due = Millis(varint(buf)?);
        let span = read_span(buf, cursor)?;
        // Runs of one due time follow each other; those of others are compared by `check`.
        if (due, span.first) < end || span.count > cursor - delayed.len() {
            return Err(OVERLAP);
        }
        end = (due, span.end());
        if !delayed.restore(due, span) {
            return Err(OVERLAP);
        }
    }
    Ok(())
}

pub(super) const OVERLAP: DecodeError =
    DecodeError::Invalid { what: "run", why: "it overlaps another" };
pub(super) const DIVIDED: DecodeError =
    DecodeError::Invalid { what: "run", why: "it is one with its neighbour" };

pub(super) fn write_span(out: &mut Vec<u8>, span: Span) {
    put_varint(out, span.first);
    put_varint(out, span.count);
    put_varint(out, span.attempts.into());
}

/// Reads a run of messages before the cursor.
pub(super) fn read_span(buf: &mut &[u8], cursor: u64) -> Decoded<Span> {
    let (first, count, attempts) = (varint(buf)?, varint(buf)?, varint32(buf)?);
    match first.checked_add(count) {
        Some(end) if count > 0 && end <= cursor => Ok(Span { first, count, attempts, priority: 0 }),
        _ => Err(DecodeError::Invalid { what: "run", why: "it is empty or out of range" }),
    }
}

fn write_leases(out: &mut Vec<u8>, leased: &Leased) {
    put_varint(out, leased.runs() as u64);
    for (session, first, lease) in leased.iter() {
        out.put_u128_le(session.0);
        write_span(out, leased::span(first, &lease));
        put_varint(out, lease.token.0);
        put_varint(out, lease.deadline.0);
    }
}

fn read_leases(buf: &mut &[u8], cursor: u64) -> Decoded<Leased> {
    let mut leased = Leased::default();
    let mut last = None;
    for _ in 0..item_count(buf, 21)? {
        let session = Session(wire::u128(buf)?);
        let Span { first, count, attempts: attempt, priority } = read_span(buf, cursor)?;
        let (token, deadline) = (Token(varint(buf)?), Millis(varint(buf)?));
        let Ok(count) = u32::try_from(count) else {
            return Err(DecodeError::Invalid { what: "lease", why: "it is too long" });
        };
        let lease = Lease { count, attempt, token, deadline, priority, started: true };
        if u64::from(count) > cursor - leased.len()
            || leased.overlapping(session, first, first + 1).is_some()
        {
            return Err(OVERLAP);
        }
        ascending(last.as_ref(), &(session, first), "lease")?;
        last = Some((session, first));
        leased.insert(session, first, lease);
    }
    Ok(leased)
}

fn write_batches(out: &mut Vec<u8>, backlog: &Backlog) {
    put_varint(out, backlog.len() as u64);
    let mut place = Place::default();
    for batch in backlog.iter() {
        place.write(out, batch);
        for number in [batch.ordinal, batch.count, batch.remaining, batch.bytes] {
            put_varint(out, number.into());
        }
    }
}

/// Where a batch is, as the difference to the one before.
#[derive(Default)]
struct Place {
    index: u64,
    first: u64,
    since: u64,
}

impl Place {
    fn write(&mut self, out: &mut Vec<u8>, batch: &Batch) {
        put_varint(out, batch.index - self.index);
        put_varint(out, batch.first - self.first);
        put_varint(out, batch.since.0 - self.since);
        *self = Self { index: batch.index, first: batch.first, since: batch.since.0 };
    }

    fn read(&mut self, buf: &mut &[u8]) -> Decoded<()> {
        for place in [&mut self.index, &mut self.first, &mut self.since] {
            *place = place.checked_add(varint(buf)?).ok_or(OVERFLOW)?;
        }
        wire::check_counter(self.index, "log index").map(|_| ())
    }

    fn batch(&self, ordinal: u32, count: u32, remaining: u32, bytes: u32) -> Decoded<Batch> {
        self.first.checked_add(count.into()).ok_or(OVERFLOW)?;
        let Self { index, first, since } = *self;
        Ok(Batch { index, first, since: Millis(since), ordinal, count, remaining, bytes })
    }
}

pub(super) const OVERFLOW: DecodeError =
    DecodeError::Invalid { what: "batch", why: "its position exceeds 64 bits" };

fn write_retained(out: &mut Vec<u8>, retained: &Retained) {
    put_varint(out, retained.len() as u64);
    let mut place = Place::default();
    for batch in retained.iter() {
        place.write(out, batch);
        for number in [batch.ordinal, batch.count, batch.bytes] {
            put_varint(out, number.into());
        }
    }
}

fn read_retained(buf: &mut &[u8]) -> Decoded<Retained> {
    let mut retained = Retained::default();
    let (mut place, mut end) = (Place::default(), 0);
    for _ in 0..item_count(buf, 6)? {
        place.read(buf)?;
        let [ordinal, count, bytes] = [varint32(buf)?, varint32(buf)?, varint32(buf)?];
        let batch = place.batch(ordinal, count, 0, bytes)?;
        if count == 0 || batch.first < end {
            return Err(DecodeError::Invalid { what: "retained", why: "it is empty or overlaps" });
        }
        end = batch.end();
        retained.insert(batch);
    }
    Ok(retained)
}

fn write_slots(out: &mut Vec<u8>, slots: &Slots) {
    put_varint(out, slots.len() as u64);
    for (name, slot) in slots.iter() {
        codec::put_slot_name(out, name);
        codec::put_slot_start(out, slot.from);
        let bounds = [slot.max_retained_bytes, slot.max_idle_ms];
        let place = [slot.made_at, slot.position, slot.touched.0];
        bounds.into_iter().chain(place).for_each(|number| put_varint(out, number));
        wire::put_option(out, slot.lost_from, put_varint);
    }
}

fn read_slots(buf: &mut &[u8], retained: &Retained) -> Decoded<Slots> {
    let mut slots = Slots::default();
    let count = item_count(buf, 20)?;
    if count > SLOTS_MAX {
        let (length, limit) = (count as u64, SLOTS_MAX as u64);
        return Err(DecodeError::TooLong { what: "slots", length, limit });
    }
    for _ in 0..count {
        let name = codec::slot_name(buf)?;
        ascending(slots.iter().next_back().map(|(last, _)| last), &name, "slot")?;
        let create = CreateSlot {
            name,
            from: codec::slot_start(buf)?,
            max_retained_bytes: varint(buf)?,
            max_idle_ms: varint(buf)?,
        };
        let (made_at, position, touched) = (varint(buf)?, varint(buf)?, Millis(varint(buf)?));
        let mut slot = Slot::new(&create, made_at, position, touched, retained);
        slot.lost_from = wire::option(buf, "lost flag", varint)?;
        slot.count(retained);
        slots.insert(create.name, slot);
    }
    Ok(slots)
}

fn read_batches(buf: &mut &[u8]) -> Decoded<Backlog> {
    let count = item_count(buf, 7)?;
    let mut batches = VecDeque::with_capacity(count);
    let mut place = Place::default();
    for _ in 0..count {
        place.read(buf)?;
        let [ordinal, count, remaining, bytes] =
            [varint32(buf)?, varint32(buf)?, varint32(buf)?, varint32(buf)?];
        if remaining == 0 || remaining > count {
            return Err(DecodeError::Invalid {
                what: "batch",
                why: "it has more left than it had",
            });
        }
        batches.push_back(place.batch(ordinal, count, remaining, bytes)?);
    }
    Ok(Backlog::from_batches(batches))
}

fn write_consumers(out: &mut Vec<u8>, consumers: &Consumers) {
    put_varint(out, consumers.attachments());
    put_varint(out, consumers.len() as u64);
    for (session, consumer) in consumers.iter() {
        out.put_u128_le(session.0);
        wire::put_bytes(out, consumer.name.as_bytes());
        put_varint(out, consumer.node.0);
        put_varint(out, consumer.prefetch.into());
        wire::put_option(out, consumer.lease_ms, |out, ms| put_varint(out, ms.into()));
        put_varint(out, consumer.attachment.0);
        wire::put_option(out, consumer.grace, |out, until| put_varint(out, until.0));
    }
    put_varint(out, consumers.turn().len() as u64);
    for session in consumers.turn() {
        out.put_u128_le(session.0);
    }
}

fn read_consumers(buf: &mut &[u8], leased: &Leased) -> Decoded<Consumers> {
    let attachments = counter(buf, "attachments")?;
    let mut sessions = BTreeMap::new();
    for _ in 0..item_count(buf, 25)? {
        let session = Session(wire::u128(buf)?);
        ascending(sessions.last_key_value().map(|(last, _)| last), &session, "session")?;
        sessions.insert(session, read_consumer(buf)?);
    }
    for (session, _, lease) in leased.iter() {
        let consumer: Option<&mut Consumer> = sessions.get_mut(&session);
        let leased = consumer.and_then(|consumer| {
            consumer.leased = consumer.leased.checked_add(lease.count)?;
            Some(())
        });
        leased.ok_or(DecodeError::Invalid { what: "lease", why: "it belongs to no session" })?;
    }
    let count = item_count(buf, 16)?;
    let mut turn = VecDeque::with_capacity(count);
    for _ in 0..count {
        let session = Session(wire::u128(buf)?);
        match sessions.get_mut(&session) {
            Some(consumer) if !consumer.in_turn => consumer.in_turn = true,
            _ => return Err(DecodeError::Invalid { what: "turn", why: "it names no session" }),
        }
        turn.push_back(session);
    }
    Ok(Consumers::from_parts(sessions, turn, attachments))
}

fn read_consumer(buf: &mut &[u8]) -> Decoded<Consumer> {
    let name = wire::string(buf, "consumer name", Attach::NAME_BYTES_MAX)?;
    let (node, prefetch) = (NodeId(varint(buf)?), varint32(buf)?);
    if !(1..=Attach::PREFETCH_MAX).contains(&prefetch) {
        return Err(DecodeError::Invalid { what: "prefetch", why: "no consumer may have it" });
    }
    Ok(Consumer {
        name,
        node,
        prefetch,
        lease_ms: wire::option(buf, "lease flag", varint32)?,
        leased: 0,
        attachment: Attachment(varint(buf)?),
        grace: wire::option(buf, "grace flag", varint)?.map(Millis),
        paused: false,
        tells_starts: false,
        in_turn: false,
        receiver: None,
        filter: Vec::new(),
        tags: Vec::new(),
    })
}

fn write_producers(out: &mut Vec<u8>, dedup: &Dedup) {
    if planted::is(Bug::LoseDeduplication) {
        return put_varint(out, 0);
    }
    put_varint(out, dedup.len() as u64);
    for (id, known) in dedup.iter() {
        wire::put_bytes(out, id.as_bytes());
        put_varint(out, known.epoch.into());
        put_varint(out, known.used.0);
        put_varint(out, known.runs.len() as u64);
        for run in &known.runs {
            for number in [run.sequence, run.offset, run.count] {
                put_varint(out, number);
            }
        }
    }
}

fn read_producers(buf: &mut &[u8]) -> Decoded<Dedup> {
    let mut producers = BTreeMap::new();
    for _ in 0..item_count(buf, 8)? {
        let id = wire::bytes(buf, "producer id", ProducerId::BYTES_MAX)?;
        let id = ProducerId::new(id)
            .map_err(|_| DecodeError::Invalid { what: "producer id", why: "it is empty" })?;
        ascending(producers.last_key_value().map(|(last, _)| last), &id, "producer")?;
        let (epoch, used) = (varint32(buf)?, Millis(varint(buf)?));
        producers.insert(id, Remembered { epoch, used, runs: read_sequences(buf)? });
    }
    Ok(Dedup::from_producers(producers))
}

fn read_sequences(buf: &mut &[u8]) -> Decoded<VecDeque<SequenceRun>> {
    let count = item_count(buf, 3)?;
    let mut runs = VecDeque::with_capacity(count);
    for _ in 0..count {
        let run = SequenceRun { sequence: varint(buf)?, offset: varint(buf)?, count: varint(buf)? };
        let fits = run.count > 0
            && run.sequence.checked_add(run.count).is_some()
            && run.offset.checked_add(run.count).is_some();
        if !fits || runs.back().is_some_and(|last: &SequenceRun| last.end() != run.sequence) {
            return Err(DecodeError::Invalid { what: "producer", why: "its sequence has gaps" });
        }
        runs.push_back(run);
    }
    if runs.is_empty() {
        return Err(DecodeError::Invalid { what: "producer", why: "it has no sequence" });
    }
    Ok(runs)
}

#[cfg(test)]
mod tests;
