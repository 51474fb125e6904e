//! Replication slots: named read positions that hold the log back until they have moved on.
//!
//! A slot *needs* every message from its position on, settled or not. What is settled of that stays in
//! `Retained` as long as the slot *holds* it: while the bytes there are within the slot's bound, and what it
//! waits at has not been there for too long. A slot that holds nothing back any more loses nothing by that alone: it is lost
//! when a batch that it needs is let go of, and says so for ever after.
//!
//! ```text
//!          within bound, not idle                beyond bound, or idle           a batch it needs goes
//!  create ───────► reserved ◄─────► extended ◄───────────────► unreserved ─────────────────► lost ──► drop
//!                  the queue would   only the slot       advance
//!                  keep it anyway    keeps it
//! ```
//!
//! How batches go, and what the slots have to say to it, is in `holding`.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use super::backlog::Batch;
use super::ids::Offset;
use super::retained::Retained;
use crate::Millis;

/// Most slots of a queue.
pub const SLOTS_MAX: usize = 64;

/// Bound of a slot whose creator does not say one: 1 GiB.
pub const SLOT_RETAINED_BYTES_DEFAULT: u64 = 1 << 30;

/// Name of a slot, unique in its queue: 1 to [`SlotName::LENGTH_MAX`] characters of `A-Z a-z 0-9 . _ -`, the
/// first a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a slot name has 1 to {max} characters of A-Z a-z 0-9 . _ - and begins with a letter or a digit, unlike {name:?}",
    max = SlotName::LENGTH_MAX
)]
pub struct SlotNameError {
    /// The name.
    pub name: String,
}

impl SlotName {
    /// The longest name.
    pub const LENGTH_MAX: usize = 128;

    /// Checks a name.
    ///
    /// # Errors
    /// When it breaks the rule.
    pub fn parse(name: &str) -> Result<Self, SlotNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && name.len() <= Self::LENGTH_MAX && name.chars().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(SlotNameError { name: name.chars().take(Self::LENGTH_MAX).collect() })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where a slot begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStart {
    /// At the first offset from which on no message is missing.
    First,
    /// Behind the last message.
    Next,
    /// At this offset, if no message is missing from there on.
    Offset(Offset),
}

/// A slot to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSlot {
    /// Its name.
    pub name: SlotName,
    /// Where it begins.
    pub from: SlotStart,
    /// Most bytes of settled batches that it holds back.
    pub max_retained_bytes: u64,
    /// It holds nothing back once it had something to read and was not moved for so long, in milliseconds; 0:
    /// however long.
    pub max_idle_ms: u64,
}

/// What a slot is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// All that it needs would be there without it.
    Reserved,
    /// Something that it needs is there only because of the slots.
    Extended,
    /// It is beyond its bound, or idle for too long, and holds nothing back; all that it needs is still there.
    Unreserved,
    /// Something that it needed is gone.
    Lost,
}

/// A slot as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its name.
    pub name: SlotName,
    /// Log index of the entry that made it: tells it from another one of the name, before it or after.
    pub made_at: u64,
    /// The first message that it needs.
    pub position: Offset,
    /// What it is worth.
    pub state: SlotState,
    /// Bytes of retained batches from its position on; 0 once it is lost.
    pub retained_bytes: u64,
    /// Messages between its position and the end of the queue.
    pub lag: u64,
    /// Most bytes that it holds back.
    pub max_retained_bytes: u64,
    /// How long it may stay where there is something to read, in milliseconds; 0: for ever.
    pub max_idle_ms: u64,
    /// Since when there is something to read where it is; none at the end of the queue.
    pub waiting_since: Option<Millis>,
    /// Of a lost slot, the first message that it needed and that is gone.
    pub lost_from: Option<Offset>,
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// As it was asked for, so that asking again is no conflict.
    pub from: SlotStart,
    pub max_retained_bytes: u64,
    pub max_idle_ms: u64,
    pub made_at: u64,
    pub position: u64,
    /// When it was made or moved last; or, if that left it at the end of the queue, when the next message came.
    pub touched: Millis,
    pub lost_from: Option<u64>,
    /// Bytes of retained batches that it needs; computed, not persisted.
    pub pinned: u64,
}

impl Slot {
    /// A slot at a position, with what is retained from there on.
    pub fn new(
        create: &CreateSlot,
        made_at: u64,
        position: u64,
        touched: Millis,
        retained: &Retained,
    ) -> Self {
        let mut slot = Self {
            from: create.from,
            max_retained_bytes: create.max_retained_bytes,
            max_idle_ms: create.max_idle_ms,
            made_at,
            position,
            touched,
            lost_from: None,
            pinned: 0,
        };
        slot.count(retained);
        slot
    }

    /// Counts anew what is retained for it.
    pub fn count(&mut self, retained: &Retained) {
        self.pinned = match self.lost_from {
            None => retained.from(self.position).map(|batch| u64::from(batch.bytes)).sum(),
            Some(_) => 0,
        };
    }

    /// Whether it was asked for like this.
    pub fn is_as(&self, create: &CreateSlot) -> bool {
        (self.from, self.max_retained_bytes, self.max_idle_ms)
            == (create.from, create.max_retained_bytes, create.max_idle_ms)
    }

    pub fn needs(&self, batch: &Batch) -> bool {
        self.lost_from.is_none() && self.position < batch.end()
    }

    /// Whether it holds back what it needs, in a queue that ends at `next`.
    pub fn holds(&self, now: Millis, next: u64) -> bool {
        let is_idle = self.idle_at(next).is_some_and(|at| at <= now);
        self.lost_from.is_none() && self.pinned <= self.max_retained_bytes && !is_idle
    }

    /// When it will have been idle for too long. Where there is nothing to read it is not idle.
    fn idle_at(&self, next: u64) -> Option<Millis> {
        let can_be = self.max_idle_ms > 0 && self.position < next;
        can_be.then(|| self.touched.plus(self.max_idle_ms))
    }

    fn lose(&mut self, offset: u64) {
        self.lost_from = Some(offset);
        self.pinned = 0;
    }
}

/// The slots of a queue, by name.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: BTreeMap<SlotName, Slot>,
}

impl Slots {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&SlotName, &Slot)> + DoubleEndedIterator {
        self.slots.iter()
    }

    pub fn get(&self, name: &SlotName) -> Option<&Slot> {
        self.slots.get(name)
    }

    pub fn get_mut(&mut self, name: &SlotName) -> Option<&mut Slot> {
        self.slots.get_mut(name)
    }

    pub fn insert(&mut self, name: SlotName, slot: Slot) {
        self.slots.insert(name, slot);
    }

    pub fn remove(&mut self, name: &SlotName) -> Option<Slot> {
        self.slots.remove(name)
    }

    /// Whether a slot that is not lost needs a batch.
    pub fn need(&self, batch: &Batch) -> bool {
        self.slots.values().any(|slot| slot.needs(batch))
    }

    /// Whether a slot holds a batch back.
    pub fn hold(&self, batch: &Batch, now: Millis, next: u64) -> bool {
        self.slots.values().any(|slot| slot.needs(batch) && slot.holds(now, next))
    }

    /// A message is at `first` from now on: slots there have something to read.
    pub fn published(&mut self, first: u64, now: Millis) {
        for slot in self.slots.values_mut().filter(|slot| slot.position == first) {
            slot.touched = now;
        }
    }

    /// A batch is retained from now on.
    pub fn retained(&mut self, batch: &Batch) {
        for slot in self.slots.values_mut().filter(|slot| slot.needs(batch)) {
            slot.pinned += u64::from(batch.bytes);
        }
    }

    /// A batch is not retained any more, as some of it is held again.
    pub fn held_again(&mut self, batch: &Batch) {
        for slot in self.slots.values_mut().filter(|slot| slot.needs(batch)) {
            slot.pinned -= u64::from(batch.bytes);
        }
    }

    /// A batch is gone: slots that needed it are lost.
    pub fn gone(&mut self, batch: &Batch) {
        for slot in self.slots.values_mut().filter(|slot| slot.needs(batch)) {
            slot.lose(slot.position.max(batch.first));
        }
    }

    /// All messages before `next` are gone: slots that needed any are lost.
    pub fn all_gone(&mut self, next: u64) {
        let slots = self.slots.values_mut();
        for slot in slots.filter(|slot| slot.lost_from.is_none() && slot.position < next) {
            slot.lose(slot.position);
        }
    }

    /// When the next slot will have been idle for too long.
    pub fn next_deadline(&self, now: Millis, next: u64) -> Option<Millis> {
        let live = self.slots.values().filter(|slot| slot.lost_from.is_none());
        live.filter_map(|slot| slot.idle_at(next)).filter(|&at| at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["a", "0", "warehouse.eu-west_1", &"x".repeat(128)] {
            assert_eq!(SlotName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", ".a", "a/b", "aé", &"x".repeat(129)] {
            assert!(SlotName::parse(name).is_err(), "{name}");
        }
    }
}
