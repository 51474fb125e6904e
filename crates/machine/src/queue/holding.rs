//! What is kept of messages that have left, and when it goes: by the queue's settings, and by its slots.
//!
//! ```text
//!                 a batch's last message leaves
//!   backlog ───────────────────────────────────────► retained ──── oldest first ────► gone
//!              neither settings nor slots want it        │   beyond the settings,
//!           └──────────────► gone                        │   and no slot holds it
//!                                                        └── more than RETAINED_MAX, or purged
//! ```
//!
//! A batch leaves for good on these ways only, and each of them tells the slots: one that needed it is lost
//! from then on. So for every other slot all messages from its position on are there, which `check` proves.

use super::Queue;
use super::backlog::Batch;
use super::ids::Offset;
use super::ready::Span;
use super::reply::{Rejection, Reply};
use super::retained::RETAINED_MAX;
use super::slots::{CreateSlot, SLOTS_MAX, Slot, SlotInfo, SlotName, SlotStart, SlotState};
use crate::Millis;
use crate::planted::{self, Bug};

impl Queue {
    /// Messages leave the queue; a batch that they were the last of may be retained.
    pub(super) fn leave(&mut self, span: Span) {
        self.leave_from(span, 0);
    }

    /// As [`leave`](Self::leave); no batch is retained that ends at `from` or before.
    pub(super) fn leave_from(&mut self, span: Span, from: u64) {
        let is_plain = self.groups.is_empty() && self.uncharged.is_empty();
        let is_plain = is_plain && self.expiry.lives.is_empty();
        if !is_plain || !self.ready.tags.is_empty() {
            self.forget(span);
        }
        let Self { settings, retained, slots, .. } = self;
        self.backlog.remove(span.first, span.count, |batch| {
            if batch.end() > from && (settings.retains() || slots.need(&batch)) {
                slots.retained(&batch);
                retained.insert(batch);
            }
        });
    }

    /// Forgets what is known of messages that were set apart; what waited for them goes on.
    #[cold]
    fn forget(&mut self, span: Span) {
        self.expiry.lives.forget(span.first, span.end());
        self.ready.tags.forget(span.first, span.end());
        self.unblock(span);
        self.uncharged.forget(span);
    }

    /// Lets go of what neither the settings nor a slot keeps.
    pub(super) fn trim(&mut self) {
        while let Some(oldest) = self.retained.oldest() {
            let is_crowded = self.retained.len() > RETAINED_MAX;
            let is_held = self.slots.hold(oldest, self.now, self.ready.next())
                && !planted::is(Bug::TrimPastSlots);
            let is_wanted = is_held || !self.is_beyond(oldest, self.retained.bytes());
            if is_wanted && !is_crowded {
                break;
            }
            let gone = self.retained.pop_oldest();
            if let Some(gone) = gone.filter(|_| !planted::is(Bug::TrimPastSlots)) {
                self.slots.gone(&gone);
            }
        }
    }

    /// When the oldest retained batch is to go at the latest. One that a slot holds waits for the slot.
    pub(super) fn retention_deadline(&self) -> Option<Millis> {
        let oldest = self.retained.oldest()?;
        let is_held = self.slots.hold(oldest, self.now, self.ready.next());
        self.retained.next_deadline(self.settings.retain_ms).filter(|_| !is_held)
    }

    /// Whether the settings do not keep a batch, with `bytes` retained from it on.
    fn is_beyond(&self, batch: &Batch, bytes: u64) -> bool {
        let (age, most) = (self.settings.retain_ms, self.settings.retain_bytes);
        let is_old = age.is_some_and(|age| batch.since.plus(age) <= self.now);
        !self.settings.retains() || is_old || most.is_some_and(|most| bytes > most)
    }

    pub(super) fn create_slot(&mut self, index: u64, create: CreateSlot) -> Reply {
        if let Some(slot) = self.slots.get(&create.name) {
            if !slot.is_as(&create) {
                return Reply::Rejected(Rejection::SlotExists);
            }
            let slot = self.slot_info(&create.name, slot);
            return Reply::SlotCreated { slot, created: false };
        }
        if self.slots.len() >= SLOTS_MAX {
            return Reply::Rejected(Rejection::TooManySlots { limit: SLOTS_MAX as u32 });
        }
        let (first, next) = (self.gapless_from(), self.ready.next());
        let position = match create.from {
            SlotStart::First => first,
            SlotStart::Next => next,
            SlotStart::Offset(Offset(offset)) if (first..=next).contains(&offset) => offset,
            SlotStart::Offset(_) => {
                let (first, next) = (Offset(first), Offset(next));
                return Reply::Rejected(Rejection::SlotNotReadable { first, next });
            }
        };
        let slot = Slot::new(&create, index, position, self.now, &self.retained);
        let info = self.slot_info(&create.name, &slot);
        self.slots.insert(create.name, slot);
        Reply::SlotCreated { slot: info, created: true }
    }

    pub(super) fn advance_slot(&mut self, name: &SlotName, made_at: u64, to: Offset) -> Reply {
        let (now, next) = (self.now, self.ready.next());
        let meant = |slot: &&mut Slot| made_at == 0 || made_at == slot.made_at;
        let Some(slot) = self.slots.get_mut(name).filter(meant) else {
            return Reply::Rejected(Rejection::SlotNotFound);
        };
        if let Some(from) = slot.lost_from {
            return Reply::Rejected(Rejection::SlotLost { from: Offset(from) });
        }
        if to.0 < slot.position {
            let position = Offset(slot.position);
            return Reply::Rejected(Rejection::SlotBehind { position });
        }
        if to.0 > next {
            return Reply::Rejected(Rejection::SlotBeyondEnd { next: Offset(next) });
        }
        let passed = self.retained.from(slot.position).take_while(|batch| batch.end() <= to.0);
        slot.pinned -= passed.map(|batch| u64::from(batch.bytes)).sum::<u64>();
        slot.position = to.0;
        slot.touched = now;
        match self.slot(name) {
            Some(slot) => Reply::SlotAdvanced { slot },
            None => Reply::Rejected(Rejection::SlotNotFound),
        }
    }

    pub(super) fn drop_slot(&mut self, name: &SlotName) -> Reply {
        match self.slots.remove(name) {
            Some(_) => Reply::Done,
            None => Reply::Rejected(Rejection::SlotNotFound),
        }
    }

    /// A slot as of the last entry.
    #[must_use]
    pub fn slot(&self, name: &SlotName) -> Option<SlotInfo> {
        self.slots.get(name).map(|slot| self.slot_info(name, slot))
    }

    /// All slots, by name, as of the last entry.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotInfo> {
        self.slots.iter().map(|(name, slot)| self.slot_info(name, slot)).collect()
    }

    fn slot_info(&self, name: &SlotName, slot: &Slot) -> SlotInfo {
        SlotInfo {
            name: name.clone(),
            made_at: slot.made_at,
            position: Offset(slot.position),
            state: self.slot_state(slot),
            retained_bytes: slot.pinned,
            lag: self.ready.next() - slot.position,
            max_retained_bytes: slot.max_retained_bytes,
            max_idle_ms: slot.max_idle_ms,
            waiting_since: (slot.position < self.ready.next()).then_some(slot.touched),
            lost_from: slot.lost_from.map(Offset),
        }
    }

    fn slot_state(&self, slot: &Slot) -> SlotState {
        let mut retained = self.retained.from(slot.position);
        match slot.lost_from {
            Some(_) => SlotState::Lost,
            None if !slot.holds(self.now, self.ready.next()) => SlotState::Unreserved,
            // If the settings keep the oldest of what it needs, they keep all of it.
            None if retained.next().is_some_and(|oldest| self.is_beyond(oldest, slot.pinned)) => {
                SlotState::Extended
            }
            None => SlotState::Reserved,
        }
    }

    /// The first offset from which on every message is in a batch that is there.
    pub(super) fn gapless_from(&self) -> u64 {
        let (mut first, mut end) = (0, 0);
        for batch in self.readable(0) {
            if batch.first != end {
                first = batch.first;
            }
            end = batch.end();
        }
        if end == self.ready.next() { first } else { self.ready.next() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Attach, Command, Publish, Session, Settings, SettleItem, SettleKind, Token,
    };
    use super::*;
    use crate::{At, Machine, NodeId};

    /// However much a slot may hold back, it is part of every snapshot and has an end.
    #[test]
    fn a_slot_is_lost_where_there_are_too_many_batches() {
        let mut queue = Queue::new();
        let session = Session(1);
        let name = SlotName::parse("slot").unwrap();
        let mut index = 0;
        let mut apply = |queue: &mut Queue, command| {
            index += 1;
            let at = At { index, now: Millis(0) };
            queue.apply(at, 0, command, &mut Vec::new());
            queue.finish(at, &mut Vec::new());
        };
        apply(
            &mut queue,
            Command::CreateSlot(CreateSlot {
                name: name.clone(),
                from: SlotStart::First,
                max_retained_bytes: u64::MAX,
                max_idle_ms: 0,
            }),
        );
        let settings = Settings { lease_ms: u32::MAX, ..Settings::default() };
        apply(&mut queue, Command::Configure(Box::new(settings)));
        apply(
            &mut queue,
            Command::Attach(Attach {
                session,
                node: NodeId(1),
                name: String::new(),
                prefetch: 1,
                lease_ms: None,
                tells_starts: false,
                filter: Vec::new(),
            }),
        );
        let batches = RETAINED_MAX as u64 + 2;
        for offset in 0..batches {
            let frame = bytes::Bytes::from_static(&[0; 6]);
            apply(&mut queue, Command::Publish(Publish::plain(1, frame)));
            let token = Token(4 + 2 * offset);
            let item = SettleItem { kind: SettleKind::Ack, token, first: Offset(offset), count: 1 };
            if offset == RETAINED_MAX as u64 {
                let slot = queue.slot(&name).unwrap();
                assert_eq!((slot.state, slot.lag), (SlotState::Extended, offset + 1));
            }
            apply(&mut queue, Command::Settle { session, items: vec![item] });
        }
        let slot = queue.slot(&name).unwrap();
        assert_eq!((slot.state, slot.lost_from), (SlotState::Lost, Some(Offset(0))));
        assert_eq!(queue.stats().acked, batches);
        assert_eq!(queue.retained.len(), 0, "nothing else wants what it held");
        queue.check().unwrap();
    }
}
