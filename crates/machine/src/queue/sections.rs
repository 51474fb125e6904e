//! What a checkpoint says beyond what every queue has: a section for each behaviour that is in use.
//!
//! ```text
//! section   = tag u8 | what the tag says; each there if there is something to say, by ascending tag
//! 1 priorities    run*        run = first (difference to the one before) | priority u8
//!                             each a run of returned, delayed or lease that is not of priority 0
//! 2 expiry        expired | dropped | judged | since | life*
//!                             life = first (difference to the end before) | count | flags u8 | expires if flag 1 is set
//!                                    | due if flag 2 is; flag 4: it has lapsed
//! 3 groups  = head* | blocked*
//! head      = offset (difference to the one before) | group u64
//! blocked   = group u64 | first | count | due? | priority u8
//! 4 message ids   message id*, the oldest first
//! message id = id | first (difference to the one before) | count | since (difference)
//! 5 dead      = next | dead_lettered | died*, in the order of dying
//! died      = number (difference to the end of the one before) | first | count | attempts | cause u8
//! 6 sources   = source*, in the order of groups
//! source    = group | timeline | next
//! 7 consumers = flags u8 (1 the queue is paused) | extra* | unstarted* | uncharged*
//! extra     = session | flags u8 (1 it is paused, 2 it tells what it has started), not 0
//! unstarted = session | first (of a lease)
//! uncharged = first | count | times
//! 8 receivers = count | (session | wants | until) ...
//! 9 seeks     = replayed, not 0
//! 10 filters  = tagged* | filter* | waiting*
//! tagged    = first (difference to the end before) | count | tag u64
//! filter    = session | values u8 | (length u32, UTF-8)*
//! waiting   = session, of those with a filter, the next one first
//! ```

use std::collections::BTreeMap;

use bytes::BufMut;

use super::Queue;
use super::codec;
use super::command::{Attach, PRIORITY_MAX};
use super::consumers::{Consumer, Consumers, Receiver};
use super::dead::{Cause, Dead, Died};
use super::groups::{Blocked, Groups};
use super::ids::{MessageId, Session};
use super::leased::{self, Leased};
use super::lives::Life;
use super::message_ids::{Entered, MessageIds};
use super::ready::{Ready, Span};
use super::retry::UNCHARGED_MAX;
use super::snapshot::{DIVIDED, Decoded, OVERFLOW, OVERLAP, read_span, write_span};
use super::sources::{Source, Sources};
use super::tags::tag_of;
use crate::Millis;
use crate::wire::{
    self, DecodeError, ascending, counter, item_count, put_varint, varint, varint32,
};

/// Tags of the sections.
const PRIORITIES: u8 = 1;
const EXPIRY: u8 = 2;
const GROUPS: u8 = 3;
const MESSAGE_IDS: u8 = 4;
const DEAD: u8 = 5;
const SOURCES: u8 = 6;
const CONSUMERS: u8 = 7;
const RECEIVERS: u8 = 8;
const SEEKS: u8 = 9;
const FILTERS: u8 = 10;

/// Flags of a consumer, of which the queue has the first.
const PAUSED: u8 = 1;
const TELLS: u8 = 2;

/// Flags of a life.
const EXPIRES: u8 = 1;
const DUE: u8 = 2;
const LAPSED: u8 = 4;

/// Tag and contents.
pub(super) type Section = (u8, Vec<u8>);

/// The sections that have something to say.
pub(super) fn all(queue: &Queue) -> Vec<Section> {
    let sections = [
        (PRIORITIES, priorities_section(queue)),
        (EXPIRY, expiry_section(queue)),
        (GROUPS, write_groups(&queue.groups)),
        (MESSAGE_IDS, (queue.message_ids.len() > 0).then(|| message_ids(&queue.message_ids))),
        (DEAD, (queue.dead.next() > 0).then(|| dead(queue))),
        (SOURCES, (queue.sources.len() > 0).then(|| sources(&queue.sources))),
        (CONSUMERS, write_extras(queue)),
        (RECEIVERS, write_receivers(&queue.consumers)),
        (SEEKS, write_seeks(queue.gone.replayed)),
        (FILTERS, write_filters(queue)),
    ];
    sections.into_iter().filter_map(|(tag, section)| Some((tag, section?))).collect()
}

fn read_section(tag: u8, buf: &mut &[u8], queue: &mut Queue) -> Decoded<()> {
    match tag {
        PRIORITIES => read_priorities(buf, queue)?,
        EXPIRY => read_expiry(buf, queue)?,
        GROUPS => queue.groups = read_groups(buf, &queue.ready)?,
        MESSAGE_IDS => queue.message_ids = read_message_ids(buf)?,
        DEAD => read_dead(buf, queue)?,
        SOURCES => read_sources(buf, &mut queue.sources)?,
        CONSUMERS => read_extras(buf, queue)?,
        RECEIVERS => read_receivers(buf, &mut queue.consumers)?,
        SEEKS => queue.gone.replayed = counter(buf, "replayed messages")?,
        FILTERS => read_filters(buf, queue)?,
        kind => return Err(DecodeError::UnknownKind { what: "section", kind }),
    }
    Ok(())
}

fn write_filters(queue: &Queue) -> Option<Vec<u8>> {
    let (tags, consumers) = (&queue.ready.tags, &queue.consumers);
    if tags.is_empty() && consumers.filtered() == 0 {
        return None;
    }
    let mut out = Vec::with_capacity(16 + tags.iter().len() * 12);
    put_varint(&mut out, tags.iter().len() as u64);
    let mut end = 0;
    for (first, count, tag) in tags.iter() {
        put_varint(&mut out, first - end);
        put_varint(&mut out, count);
        out.put_u64_le(tag);
        end = first + count;
    }
    put_varint(&mut out, consumers.filtered() as u64);
    for (session, consumer) in consumers.iter().filter(|(_, of)| !of.filter.is_empty()) {
        out.put_u128_le(session.0);
        codec::put_filter(&mut out, &consumer.filter);
    }
    put_varint(&mut out, consumers.filtered_turn().len() as u64);
    consumers.filtered_turn().iter().for_each(|session| out.put_u128_le(session.0));
    Some(out)
}

/// Reads tags and filters; that those are of messages that are held is proven by `check`.
fn read_filters(buf: &mut &[u8], queue: &mut Queue) -> Decoded<()> {
    let (runs, mut end) = (item_count(buf, 10)?, 0u64);
    for _ in 0..runs {
        let (skipped, count, tag) = (varint(buf)?, varint(buf)?, wire::u64(buf)?);
        let first = end.checked_add(skipped).ok_or(OVERLAP)?;
        end = first.checked_add(count).filter(|_| count > 0).ok_or(OVERLAP)?;
        queue.ready.tags.insert(first, count, tag);
    }
    if queue.ready.tags.iter().len() != runs {
        return Err(DIVIDED);
    }
    let (filters, mut last) = (item_count(buf, 21)?, None);
    for _ in 0..filters {
        let session = Session(wire::u128(buf)?);
        ascending(last.as_ref(), &session, "filter")?;
        last = Some(session);
        let filter = codec::filter(buf)?;
        let header = queue.settings.filter_header.as_ref();
        let tags = header.map(|of| filter.iter().map(|value| tag_of(of, value.as_bytes())));
        let tags = tags.map(Iterator::collect).unwrap_or_default();
        if header.is_none() || !queue.consumers.restore_filter(session, filter, tags) {
            return Err(DecodeError::Invalid { what: "filter", why: "nobody can have it" });
        }
    }
    for _ in 0..item_count(buf, 16)? {
        if !queue.consumers.restore_filtered_turn(Session(wire::u128(buf)?)) {
            return Err(DecodeError::Invalid { what: "filter", why: "its consumer cannot wait" });
        }
    }
    Ok(())
}

fn write_seeks(replayed: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    put_varint(&mut out, replayed);
    (replayed > 0).then_some(out)
}

fn write_groups(groups: &Groups) -> Option<Vec<u8>> {
    if groups.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(16 + groups.records() * 16);
    put_varint(&mut out, groups.heads().len() as u64);
    let mut before = 0;
    for (offset, group) in groups.heads() {
        put_varint(&mut out, offset - before);
        out.put_u64_le(group);
        before = offset;
    }
    put_varint(&mut out, groups.blocked().len() as u64);
    for (group, first, Blocked { count, due, priority }) in groups.blocked() {
        out.put_u64_le(group);
        put_varint(&mut out, first);
        put_varint(&mut out, count);
        wire::put_option(&mut out, due, |out, due| put_varint(out, due.0));
        out.put_u8(priority);
    }
    Some(out)
}

/// Reads groups whose messages are within the queue; that they fit to all else is proven by `check`.
fn read_groups(buf: &mut &[u8], ready: &Ready) -> Decoded<Groups> {
    let mut groups = Groups::default();
    let (mut offset, mut least) = (0u64, 0);
    for _ in 0..item_count(buf, 9)? {
        let distance = varint(buf)?;
        offset = offset.saturating_add(distance);
        let group = wire::u64(buf)?;
        if distance < least || offset >= ready.next() || groups.head(group).is_some() {
            return Err(DecodeError::Invalid { what: "group", why: "its head cannot be one" });
        }
        groups.lead(group, offset);
        least = 1;
    }
    let (runs, mut last) = (item_count(buf, 12)?, None);
    for _ in 0..runs {
        let group = wire::u64(buf)?;
        let (first, count) = (varint(buf)?, varint(buf)?);
        let due = wire::option(buf, "due flag", varint)?.map(Millis);
        let priority = wire::u8(buf)?;
        if priority > PRIORITY_MAX {
            return Err(DecodeError::Invalid { what: "group", why: "it has no such priority" });
        }
        let end = first.checked_add(count).filter(|&end| count > 0 && end <= ready.cursor());
        let end = end.filter(|_| count <= ready.cursor() - groups.len());
        let end =
            end.ok_or(DecodeError::Invalid { what: "group", why: "a run is out of range" })?;
        if last.is_some_and(|last| (group, first) < last) {
            return Err(OVERLAP);
        }
        last = Some((group, end));
        groups.block(group, first, Blocked { count, due, priority });
    }
    if groups.blocked().len() == runs { Ok(groups) } else { Err(DIVIDED) }
}

/// What is said of consumers and their leases beyond what every queue has; nothing, if that is all.
fn write_extras(queue: &Queue) -> Option<Vec<u8>> {
    let flags = |consumer: &Consumer| {
        (if consumer.paused { PAUSED } else { 0 }) | (if consumer.tells_starts { TELLS } else { 0 })
    };
    let extras = queue.consumers.iter().map(|(session, consumer)| (session, flags(consumer)));
    let extras: Vec<_> = extras.filter(|(_, flags)| *flags != 0).collect();
    if extras.is_empty() && queue.uncharged.is_empty() && !queue.paused {
        return None;
    }
    let mut out = vec![if queue.paused { PAUSED } else { 0 }];
    put_varint(&mut out, extras.len() as u64);
    for (session, flags) in extras {
        out.put_u128_le(session.0);
        out.put_u8(flags);
    }
    let unstarted = queue.leased.iter().filter(|(_, _, lease)| !lease.started);
    let unstarted: Vec<_> = unstarted.collect();
    put_varint(&mut out, unstarted.len() as u64);
    for (session, first, _) in unstarted {
        out.put_u128_le(session.0);
        put_varint(&mut out, first);
    }
    put_varint(&mut out, queue.uncharged.iter().len() as u64);
    for (first, count, times) in queue.uncharged.iter() {
        put_varint(&mut out, first);
        put_varint(&mut out, count);
        out.put_u8(times);
    }
    Some(out)
}

fn read_extras(buf: &mut &[u8], queue: &mut Queue) -> Decoded<()> {
    queue.paused = match wire::u8(buf)? {
        0 => false,
        PAUSED => true,
        kind => return Err(DecodeError::UnknownKind { what: "queue flag", kind }),
    };
    let mut last = None;
    for _ in 0..item_count(buf, 17)? {
        let (session, flags) = (Session(wire::u128(buf)?), wire::u8(buf)?);
        ascending(last.as_ref(), &session, "session")?;
        last = Some(session);
        if flags == 0 || flags & !(PAUSED | TELLS) != 0 {
            return Err(DecodeError::UnknownKind { what: "consumer flag", kind: flags });
        }
        if !queue.consumers.restore_flags(session, flags & PAUSED != 0, flags & TELLS != 0) {
            return Err(DecodeError::Invalid { what: "consumer flag", why: "it is nobody's" });
        }
    }
    let mut last = None;
    for _ in 0..item_count(buf, 17)? {
        let lease = (Session(wire::u128(buf)?), varint(buf)?);
        ascending(last.as_ref(), &lease, "lease")?;
        last = Some(lease);
        if !queue.leased.unstart(lease.0, lease.1) {
            return Err(DecodeError::Invalid { what: "lease", why: "there is none" });
        }
    }
    let (count, mut end) = (item_count(buf, 3)?, 0);
    for _ in 0..count {
        let (first, count, times) = (varint(buf)?, varint(buf)?, wire::u8(buf)?);
        let cursor = queue.ready.cursor();
        let fits = first.checked_add(count).is_some_and(|end| end <= cursor);
        if first < end || count == 0 || !fits || !(1..=UNCHARGED_MAX).contains(&times) {
            return Err(DecodeError::Invalid { what: "uncharged", why: "it is out of range" });
        }
        end = first + count;
        queue.uncharged.set(Span { first, count, attempts: 0, priority: 0 }, times);
    }
    if queue.uncharged.iter().len() == count { Ok(()) } else { Err(DIVIDED) }
}

fn dead(queue: &Queue) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, queue.dead.next());
    put_varint(&mut out, queue.gone.dead_lettered);
    put_varint(&mut out, queue.dead.iter().len() as u64);
    let mut end = 0;
    for died in queue.dead.iter() {
        put_varint(&mut out, died.seq - end);
        write_span(&mut out, died.span);
        out.put_u8(died.cause.number());
        end = died.end();
    }
    out
}

fn read_dead(buf: &mut &[u8], queue: &mut Queue) -> Decoded<()> {
    let (next, cursor) = (counter(buf, "number of the dead")?, queue.ready.cursor());
    queue.gone.dead_lettered = varint(buf)?;
    let (mut dead, mut end) = (Dead::new(next), 0u64);
    let count = item_count(buf, 5)?;
    for _ in 0..count {
        let seq = end.checked_add(varint(buf)?).ok_or(OVERFLOW)?;
        let span = read_span(buf, cursor)?;
        let cause = wire::u8(buf)?;
        let cause = Cause::from_number(cause)
            .ok_or(DecodeError::UnknownKind { what: "cause", kind: cause })?;
        end = seq.checked_add(span.count).ok_or(OVERFLOW)?;
        if end > next {
            return Err(DecodeError::Invalid { what: "dead", why: "there are more than numbers" });
        }
        dead.restore(Died { seq, span, cause });
    }
    if dead.iter().len() != count {
        return Err(DIVIDED);
    }
    queue.dead = dead;
    Ok(())
}

fn sources(sources: &Sources) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, sources.len() as u64);
    for (group, Source { timeline, next }) in sources.iter() {
        [group, timeline, next].into_iter().for_each(|number| put_varint(&mut out, number));
    }
    out
}

fn read_sources(buf: &mut &[u8], sources: &mut Sources) -> Decoded<()> {
    for _ in 0..item_count(buf, 3)? {
        let (group, timeline, next) = (varint(buf)?, varint(buf)?, varint(buf)?);
        ascending(sources.iter().next_back().map(|(last, _)| last).as_ref(), &group, "source")?;
        if next == 0 {
            return Err(DecodeError::Invalid { what: "source", why: "nothing came from it" });
        }
        sources.insert(group, Source { timeline, next });
    }
    Ok(())
}

pub(super) fn read(buf: &mut &[u8], queue: &mut Queue) -> Decoded<()> {
    let (count, mut last) = (item_count(buf, 1)?, None);
    for _ in 0..count {
        let tag = wire::u8(buf)?;
        ascending(last.as_ref(), &tag, "section")?;
        last = Some(tag);
        read_section(tag, buf, queue)?;
    }
    queue.ready.index_by_tag();
    if all(queue).len() == count {
        return Ok(());
    }
    Err(DecodeError::Invalid { what: "section", why: "it says nothing" })
}

/// Runs of messages with a priority, wherever they are.
fn priorities_section(queue: &Queue) -> Option<Vec<u8>> {
    let delayed = queue.delayed.iter().map(|(_, span)| span);
    let leased = queue.leased.iter().map(|(_, first, lease)| leased::span(first, &lease));
    let all = queue.ready.urgent().chain(delayed).chain(leased);
    let mut runs: Vec<Span> = all.filter(|span| span.priority > 0).collect();
    runs.sort_unstable_by_key(|span| span.first);
    let mut out = Vec::with_capacity(runs.len() * 3);
    put_varint(&mut out, runs.len() as u64);
    let mut last = 0;
    for span in &runs {
        put_varint(&mut out, span.first - std::mem::replace(&mut last, span.first));
        out.put_u8(span.priority);
    }
    (!runs.is_empty()).then_some(out)
}

fn read_priorities(buf: &mut &[u8], queue: &mut Queue) -> Decoded<()> {
    let leased: BTreeMap<u64, Session> =
        queue.leased.iter().map(|(session, first, _)| (first, session)).collect();
    let mut last: Option<u64> = None;
    for _ in 0..item_count(buf, 2)? {
        let first = last.unwrap_or(0).checked_add(varint(buf)?).ok_or(OVERLAP)?;
        ascending(last.as_ref(), &first, "priority")?;
        last = Some(first);
        let priority = wire::u8(buf)?;
        let is_one = (1..=PRIORITY_MAX).contains(&priority);
        let of_lease = |leases: &mut Leased| {
            leased.get(&first).is_some_and(|&by| leases.set_priority(by, first, priority))
        };
        let is_of_a_run = is_one
            && (queue.ready.set_priority(first, priority)
                || queue.delayed.set_priority(first, priority)
                || of_lease(&mut queue.leased));
        if !is_of_a_run {
            return Err(DecodeError::Invalid { what: "priority", why: "it is of no run" });
        }
    }
    Ok(())
}

/// What there is about times to live, and what left without a count in the layout before.
fn expiry_section(queue: &Queue) -> Option<Vec<u8>> {
    let (expiry, gone) = (&queue.expiry, &queue.gone);
    let numbers = [gone.expired, gone.dropped, expiry.judged, expiry.since.0];
    if expiry.lives.is_empty() && numbers == [0; 4] {
        return None;
    }
    let mut out = Vec::with_capacity(32 + expiry.lives.len() * 12);
    numbers.into_iter().for_each(|number| put_varint(&mut out, number));
    put_varint(&mut out, expiry.lives.len() as u64);
    let mut end = 0;
    for (first, life) in expiry.lives.iter() {
        put_varint(&mut out, first - end);
        put_varint(&mut out, life.count);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let times = flag(life.expires.is_some(), EXPIRES) | flag(life.due.is_some(), DUE);
        out.put_u8(times | flag(life.lapsed, LAPSED));
        for time in [life.expires, life.due].into_iter().flatten() {
            put_varint(&mut out, time.0);
        }
        end = first + life.count;
    }
    Some(out)
}

fn read_expiry(buf: &mut &[u8], queue: &mut Queue) -> Decoded<()> {
    queue.gone.expired = varint(buf)?;
    queue.gone.dropped = varint(buf)?;
    queue.expiry.judged = varint(buf)?;
    queue.expiry.since = Millis(varint(buf)?);
    let mut end = 0u64;
    for _ in 0..item_count(buf, 4)? {
        let (skipped, count, flags) = (varint(buf)?, varint(buf)?, wire::u8(buf)?);
        let first = end.checked_add(skipped).ok_or(OVERLAP)?;
        end = first.checked_add(count).ok_or(OVERLAP)?;
        if count == 0 || flags & (EXPIRES | DUE) == 0 || flags > (EXPIRES | DUE | LAPSED) {
            return Err(DecodeError::Invalid { what: "life", why: "it says nothing" });
        }
        let mut time = |flag| (flags & flag != 0).then(|| varint(buf).map(Millis)).transpose();
        let (expires, due) = (time(EXPIRES)?, time(DUE)?);
        let life = Life { count, expires, due, lapsed: flags & LAPSED != 0 };
        queue.expiry.lives.insert(first, life);
    }
    Ok(())
}

fn write_receivers(consumers: &Consumers) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let receivers = consumers.iter().filter_map(|(session, of)| Some((session, of.receiver?)));
    let receivers: Vec<_> = receivers.collect();
    if receivers.is_empty() {
        return None;
    }
    put_varint(&mut out, receivers.len() as u64);
    for (session, Receiver { wants, until }) in receivers {
        out.put_u128_le(session.0);
        put_varint(&mut out, wants.into());
        put_varint(&mut out, until.0);
    }
    Some(out)
}

fn read_receivers(buf: &mut &[u8], consumers: &mut Consumers) -> Decoded<()> {
    let mut last = None;
    for _ in 0..item_count(buf, 18)? {
        let session = Session(wire::u128(buf)?);
        let receiver = Receiver { wants: varint32(buf)?, until: Millis(varint(buf)?) };
        ascending(last.as_ref(), &session, "receiver")?;
        last = Some(session);
        let fits = receiver.wants <= Attach::PREFETCH_MAX
            && (receiver.wants > 0 || receiver == Receiver::default());
        let known = consumers.get(session).filter(|consumer| fits && consumer.grace.is_none());
        known.ok_or(DecodeError::Invalid { what: "receiver", why: "it cannot be" })?;
        consumers.set_receiver(session, receiver);
    }
    Ok(())
}

fn message_ids(ids: &MessageIds) -> Vec<u8> {
    let mut out = Vec::with_capacity(ids.len() * 32);
    put_varint(&mut out, ids.len() as u64);
    let (mut first, mut since) = (0, 0);
    for (id, entered) in ids.iter() {
        wire::put_bytes(&mut out, id.as_str().as_bytes());
        put_varint(&mut out, entered.first - first);
        put_varint(&mut out, entered.count.into());
        put_varint(&mut out, entered.since.0 - since);
        (first, since) = (entered.first, entered.since.0);
    }
    out
}

fn read_message_ids(buf: &mut &[u8]) -> Decoded<MessageIds> {
    let mut ids = MessageIds::default();
    let (mut first, mut since, mut end) = (0u64, 0u64, 0);
    for _ in 0..item_count(buf, 8)? {
        let id = wire::string(buf, "message id", MessageId::BYTES_MAX)?;
        let id = MessageId::new(&id)
            .map_err(|_| DecodeError::Invalid { what: "message id", why: "it is empty" })?;
        first = first.checked_add(varint(buf)?).ok_or(OVERFLOW)?;
        let count = varint32(buf)?;
        since = since.checked_add(varint(buf)?).ok_or(OVERFLOW)?;
        if count == 0 || first < end {
            return Err(DecodeError::Invalid { what: "message id", why: "its batch overlaps" });
        }
        end = first.checked_add(count.into()).ok_or(OVERFLOW)?;
        if !ids.record(id, Entered { first, count, since: Millis(since) }) {
            return Err(DecodeError::Invalid { what: "message id", why: "it is there twice" });
        }
    }
    Ok(ids)
}
