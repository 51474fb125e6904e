//! What the reference keeps for readers, and what its slots are worth: all looked up anew each time.

use quorate_machine::Millis;
use quorate_machine::queue::{
    CreateSlot, Offset, Rejection, Reply, Settings, SlotInfo, SlotName, SlotStart, SlotState,
};

use super::{Batch, Reference};

#[derive(Clone, Debug)]
pub struct Slot {
    asked: CreateSlot,
    pub made_at: u64,
    pub position: u64,
    touched: u64,
    lost_from: Option<u64>,
}

impl Slot {
    fn needs(&self, batch: &Batch) -> bool {
        self.lost_from.is_none() && self.position < batch.first + batch.count
    }
}

impl Reference {
    /// When a slot will have stayed for too long where there is something to read.
    pub fn idle_at(&self, slot: &Slot) -> Option<u64> {
        let is_at_end = slot.position == self.messages.len() as u64;
        let limited = slot.asked.max_idle_ms > 0 && slot.lost_from.is_none() && !is_at_end;
        limited.then(|| slot.touched + slot.asked.max_idle_ms)
    }

    /// Slots at the end have something to read from now on.
    pub(super) fn touch_slots_at(&mut self, first: u64) {
        let now = self.now;
        self.slots.values_mut().filter(|slot| slot.position == first).for_each(|s| s.touched = now);
    }

    /// Lets go of settled batches that neither the settings nor a slot keeps: old ones, and the oldest beyond
    /// the bytes.
    pub(super) fn trim(&mut self) {
        let mut bytes = self.settled_bytes(0);
        let holding: Vec<Slot> =
            self.slots.values().filter(|slot| self.holds(slot)).cloned().collect();
        for at in self.settled() {
            let batch = &self.batches[at];
            if !self.is_beyond(batch, bytes) || holding.iter().any(|slot| slot.needs(batch)) {
                continue;
            }
            let (first, count) = (batch.first, batch.count);
            bytes -= batch.bytes;
            self.batches[at].kept = false;
            self.lose_slots(first, first + count);
        }
    }

    /// Slots that needed one of these messages are lost.
    pub(super) fn lose_slots(&mut self, first: u64, end: u64) {
        for slot in self.slots.values_mut() {
            if slot.lost_from.is_none() && slot.position < end {
                slot.lost_from = Some(slot.position.max(first));
            }
        }
    }

    /// Batches that are there although nothing of them is held.
    fn settled(&self) -> Vec<usize> {
        let held = self.held_batches();
        let all = 0..self.batches.len();
        all.filter(|at| self.batches[*at].kept && !held.contains(at)).collect()
    }

    fn settled_bytes(&self, from: u64) -> u64 {
        let batches = self.settled().into_iter().map(|at| &self.batches[at]);
        batches.filter(|batch| batch.first + batch.count > from).map(|batch| batch.bytes).sum()
    }

    fn is_beyond(&self, batch: &Batch, bytes: u64) -> bool {
        let Settings { retain_ms, retain_bytes, .. } = self.settings;
        let is_old = retain_ms.is_some_and(|age| batch.since + age <= self.now);
        is_old || retain_bytes.is_some_and(|max| bytes > max) || !self.settings.retains()
    }

    fn holds(&self, slot: &Slot) -> bool {
        let fits = self.settled_bytes(slot.position) <= slot.asked.max_retained_bytes;
        slot.lost_from.is_none() && fits && self.idle_at(slot).is_none_or(|at| at > self.now)
    }

    pub(super) fn is_needed(&self, batch: &Batch) -> bool {
        self.slots.values().any(|slot| slot.needs(batch))
    }

    /// From here on all batches are there.
    pub(super) fn gapless_from(&self) -> u64 {
        let held = self.held_batches();
        let there = |at: usize| self.batches[at].kept || held.contains(&at);
        let missing = (0..self.batches.len()).rev().find(|at| !there(*at));
        missing.map_or(0, |at| self.batches[at].first + self.batches[at].count)
    }

    pub(super) fn create_slot(&mut self, index: u64, create: &CreateSlot) -> Reply {
        if let Some(slot) = self.slots.get(&create.name) {
            if slot.asked != *create {
                return Reply::Rejected(Rejection::SlotExists);
            }
            return Reply::SlotCreated { slot: self.slot_info(slot), created: false };
        }
        if self.slots.len() == 64 {
            return Reply::Rejected(Rejection::TooManySlots { limit: 64 });
        }
        let (first, next) = (self.gapless_from(), self.messages.len() as u64);
        let position = match create.from {
            SlotStart::First => first,
            SlotStart::Next => next,
            SlotStart::Offset(Offset(offset)) if offset < first || offset > next => {
                let (first, next) = (Offset(first), Offset(next));
                return Reply::Rejected(Rejection::SlotNotReadable { first, next });
            }
            SlotStart::Offset(Offset(offset)) => offset,
        };
        let asked = create.clone();
        let slot = Slot { asked, made_at: index, position, touched: self.now, lost_from: None };
        self.slots.insert(create.name.clone(), slot.clone());
        Reply::SlotCreated { slot: self.slot_info(&slot), created: true }
    }

    pub(super) fn advance_slot(&mut self, name: &SlotName, made_at: u64, to: u64) -> Reply {
        let (now, next) = (self.now, self.messages.len() as u64);
        let Some(slot) = self.slots.get_mut(name) else {
            return Reply::Rejected(Rejection::SlotNotFound);
        };
        if made_at > 0 && slot.made_at != made_at {
            return Reply::Rejected(Rejection::SlotNotFound);
        }
        let refused = match slot.lost_from {
            Some(from) => Some(Rejection::SlotLost { from: Offset(from) }),
            None if to < slot.position => {
                Some(Rejection::SlotBehind { position: Offset(slot.position) })
            }
            None if to > next => Some(Rejection::SlotBeyondEnd { next: Offset(next) }),
            None => None,
        };
        if let Some(rejection) = refused {
            return Reply::Rejected(rejection);
        }
        (slot.position, slot.touched) = (to, now);
        let slot = slot.clone();
        Reply::SlotAdvanced { slot: self.slot_info(&slot) }
    }

    pub(super) fn drop_slot(&mut self, name: &SlotName) -> Reply {
        match self.slots.remove(name) {
            Some(_) => Reply::Done,
            None => Reply::Rejected(Rejection::SlotNotFound),
        }
    }

    pub fn slot_infos(&self) -> Vec<SlotInfo> {
        self.slots.values().map(|slot| self.slot_info(slot)).collect()
    }

    fn slot_info(&self, slot: &Slot) -> SlotInfo {
        let is_lost = slot.lost_from.is_some();
        let retained_bytes = if is_lost { 0 } else { self.settled_bytes(slot.position) };
        let needed = self.settled().into_iter().map(|at| &self.batches[at]);
        let mut needed = needed.filter(|batch| slot.needs(batch)).peekable();
        // Of those the oldest would go first.
        let would_go = needed.peek().is_some_and(|batch| self.is_beyond(batch, retained_bytes));
        let state = match slot.lost_from {
            Some(_) => SlotState::Lost,
            None if !self.holds(slot) => SlotState::Unreserved,
            None if would_go => SlotState::Extended,
            None => SlotState::Reserved,
        };
        SlotInfo {
            name: slot.asked.name.clone(),
            made_at: slot.made_at,
            position: Offset(slot.position),
            state,
            retained_bytes,
            lag: self.messages.len() as u64 - slot.position,
            max_retained_bytes: slot.asked.max_retained_bytes,
            max_idle_ms: slot.asked.max_idle_ms,
            waiting_since: (slot.position < self.messages.len() as u64)
                .then_some(Millis(slot.touched)),
            lost_from: slot.lost_from.map(Offset),
        }
    }
}
