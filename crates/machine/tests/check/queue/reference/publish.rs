//! What the reference makes of a batch: it enters whole or not at all, once, within the limits.

use std::collections::BTreeMap;

use quorate_machine::queue::{Offset, Properties, Publish, Rejection, Reply};

use super::{Batch, Message, Named, Producer, Reference, State, is_held};

impl Reference {
    pub(super) fn publish(&mut self, index: u64, publish: &Publish, ids: &[u64]) -> Reply {
        let merge = std::mem::replace(&mut self.last_publish_accepted, false);
        if publish.count == 0 {
            return Reply::Rejected(Rejection::EmptyBatch);
        }
        if let Some(reply) = self.judge(publish) {
            return reply;
        }
        if let Some(reply) = self.judge_id(publish) {
            return reply;
        }
        let next = Offset(self.messages.len() as u64);
        if publish.expected_next().is_some_and(|expected| expected != next) {
            return Reply::Rejected(Rejection::UnexpectedOffset { next });
        }
        let (count, bytes) = (u64::from(publish.count), publish.frame.len() as u64);
        if !self.settings.priorities && publish.properties.iter().any(|of| of.priority > 0) {
            return Reply::Rejected(Rejection::NoPriorities);
        }
        if let Some(reply) = self.make_room(count, bytes) {
            return reply;
        }
        self.enter(index, publish, ids, merge)
    }

    /// A batch that may enter does.
    pub(super) fn enter(
        &mut self,
        index: u64,
        publish: &Publish,
        ids: &[u64],
        merge: bool,
    ) -> Reply {
        let (count, bytes) = (u64::from(publish.count), publish.frame.len() as u64);
        let first = self.messages.len() as u64;
        // One that something has left of already stays as it is.
        let mut of_last = self.messages.iter().filter(|m| m.batch + 1 == self.batches.len());
        let is_whole = of_last.all(is_held);
        match self.batches.last_mut() {
            Some(last) if merge && is_whole && last.index == index => {
                last.count += count;
                last.bytes += bytes;
            }
            _ => {
                self.batches.push(Batch { index, first, since: self.now, bytes, count, kept: true })
            }
        }
        let batch = self.batches.len() - 1;
        let of_each = publish.properties.iter().flat_map(|of| (0..of.count).map(|_| *of));
        let plain = std::iter::repeat_n(Properties::default(), ids.len());
        let of_each: Vec<Properties> = of_each.chain(plain).take(ids.len()).collect();
        for (&id, of) in ids.iter().zip(of_each) {
            let due = of.due.map(|due| due.0).filter(|&due| due > self.now);
            let state = State::Blocked { due: due.unwrap_or(0) };
            let due = due.filter(|_| self.settings.ttl_ms.is_some());
            let (priority, group) = (of.priority, of.group);
            let expires = of.expires.map(|expires| expires.0);
            let deliveries = 0;
            self.messages.push(Message {
                state,
                deliveries,
                uncharged: 0,
                id,
                priority,
                expires,
                due,
                batch,
                group,
                of: Properties { count: 1, ..of },
                came_back: false,
            });
        }
        self.let_go();
        self.touch_slots_at(first);
        self.remember(publish, first);
        if let Some(id) = publish.message_id() {
            let (id, since) = (id.as_str().to_owned(), self.now);
            self.message_ids.push(Named { id, first, count: publish.count, since });
        }
        self.last_publish_accepted = true;
        published(first, publish.count, false)
    }

    /// The reply to a batch that must not enter for its sequence.
    fn judge(&mut self, publish: &Publish) -> Option<Reply> {
        let p = publish.producer.as_ref()?;
        let rejected = |rejection| Some(Reply::Rejected(rejection));
        let first = || match p.sequence {
            0 => None,
            _ => rejected(Rejection::OutOfOrder { expected: 0 }),
        };
        let Some(known) = self.producers.get_mut(p.id.as_bytes()) else { return first() };
        let (expected, end) = (known.next, p.sequence + u64::from(publish.count));
        if p.epoch < known.epoch {
            return rejected(Rejection::Fenced { epoch: known.epoch });
        }
        if p.epoch > known.epoch {
            return first();
        }
        if p.sequence == expected {
            return None;
        }
        if p.sequence > expected {
            return rejected(Rejection::OutOfOrder { expected });
        }
        let oldest = *known.offsets.keys().next().unwrap();
        if p.sequence < oldest {
            return rejected(Rejection::TooOldToDeduplicate { oldest });
        }
        let first = known.offsets[&p.sequence];
        let dense =
            (p.sequence..end).all(|s| known.offsets.get(&s) == Some(&(first + (s - p.sequence))));
        if !dense {
            return rejected(Rejection::SequenceConflict { expected });
        }
        known.used = self.now;
        Some(published(first, publish.count, true))
    }

    /// The reply to a batch whose id has entered.
    fn judge_id(&mut self, publish: &Publish) -> Option<Reply> {
        let id = publish.message_id()?.as_str();
        let &Named { first, count, .. } = self.message_ids.iter().find(|named| named.id == id)?;
        if count != publish.count {
            return Some(Reply::Rejected(Rejection::MessageIdConflict { count }));
        }
        self.remember(publish, first);
        Some(published(first, count, true))
    }

    fn remember(&mut self, publish: &Publish, first: u64) {
        let Some(p) = &publish.producer else { return };
        let fresh = Producer { epoch: p.epoch, next: 0, used: 0, offsets: BTreeMap::new() };
        let known = self.producers.entry(p.id.as_bytes().to_vec()).or_insert(fresh);
        if p.epoch > known.epoch {
            known.epoch = p.epoch;
            known.offsets.clear();
        }
        let count = u64::from(publish.count);
        known.used = self.now;
        known.next = p.sequence + count;
        known.offsets.extend((0..count).map(|n| (p.sequence + n, first + n)));
        known.forget_beyond(self.settings.dedup_window.max(1) as usize);
    }
}

impl Producer {
    /// Keeps the newest runs; a run lasts while sequence and offset both go up by one.
    fn forget_beyond(&mut self, window: usize) {
        let begins = |(&sequence, &offset): (&u64, &u64)| {
            let before = sequence.checked_sub(1).and_then(|before| self.offsets.get(&before));
            (before.is_none_or(|before| before + 1 != offset)).then_some(sequence)
        };
        let runs: Vec<u64> = self.offsets.iter().filter_map(begins).collect();
        let oldest = runs[runs.len().saturating_sub(window)];
        self.offsets.retain(|&sequence, _| sequence >= oldest);
    }
}

fn published(first: u64, count: u32, duplicate: bool) -> Reply {
    Reply::Published { first_offset: Offset(first), count, duplicate }
}
