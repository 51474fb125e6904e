//! Batches that their client gave an id enter once.
//!
//! An id is remembered with the place of its batch from when that entered, and is not refreshed when it is
//! repeated: so ids are as old as their batches, and what goes first is what is first in the queue.
//!
//! Bounded two ways: by count (`message_id_window`, at most [`MESSAGE_IDS_MAX`]) and by age (`dedup_age_ms`).
//! A purge forgets no id: a message that was dropped must not come back with the retry of its publish.

use std::collections::{BTreeMap, VecDeque};

use super::dedup::EVICTION_SLACK_MS;
use super::ids::{MessageId, Offset};
use super::reply::Rejection;
use super::settings::Settings;
use crate::Millis;
use crate::planted::{self, Bug};

/// Most ids that a queue remembers, whatever its settings say: they are in memory, and part of every checkpoint. At their
/// longest they take 19 MiB of it.
pub const MESSAGE_IDS_MAX: u32 = 1 << 17;

/// Where the batch of an id went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entered {
    /// Offset of its first message.
    pub first: u64,
    /// Messages that it came with.
    pub count: u32,
    /// When it entered.
    pub since: Millis,
}

/// All ids that are remembered.
#[derive(Debug, Default)]
pub(super) struct MessageIds {
    known: BTreeMap<MessageId, Entered>,
    /// The ids by age, the oldest first; by offset too, as both go up.
    by_age: VecDeque<MessageId>,
}

impl MessageIds {
    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// All, the oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&MessageId, Entered)> {
        self.by_age.iter().map(|id| (id, self.known[id]))
    }

    /// Where a batch went that has this id, if one has entered; changes nothing.
    ///
    /// # Errors
    /// If it had another number of messages: it was another batch.
    pub fn judge(&self, id: &MessageId, count: u32) -> Result<Option<Offset>, Rejection> {
        match self.known.get(id) {
            Some(entered) if entered.count != count => {
                Err(Rejection::MessageIdConflict { count: entered.count })
            }
            entered => Ok(entered.map(|entered| Offset(entered.first))),
        }
    }

    /// Remembers a batch that has entered under an id that is not known; false if it is.
    pub fn record(&mut self, id: MessageId, entered: Entered) -> bool {
        let is_new = !self.known.contains_key(&id);
        if is_new {
            self.by_age.push_back(id.clone());
            self.known.insert(id, entered);
        }
        is_new
    }

    /// Forgets what is beyond the window or has the age.
    pub fn evict(&mut self, now: Millis, settings: &Settings) {
        let age_ms = settings.dedup_age_ms;
        let age_ms = if planted::is(Bug::ForgetMessageIds) { 1_000 } else { age_ms };
        while self.len() > settings.message_ids_max()
            || self.oldest().is_some_and(|since| since.plus(age_ms) <= now)
        {
            let oldest = self.by_age.pop_front().expect("every id has an age");
            self.known.remove(&oldest);
        }
        if self.by_age.capacity() > 1024 && self.by_age.len() < self.by_age.capacity() / 4 {
            self.by_age.shrink_to(self.by_age.len() * 2);
        }
    }

    /// When an id is to be forgotten at the latest.
    pub fn next_deadline(&self, age_ms: u64) -> Option<Millis> {
        self.oldest().map(|since| since.plus(age_ms).plus(EVICTION_SLACK_MS))
    }

    fn oldest(&self) -> Option<Millis> {
        self.by_age.front().map(|id| self.known[id].since)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Condition, Publish, Queue};
    use super::*;
    use crate::{At, Machine};

    /// However long the ids are, and whatever the settings ask for, the snapshot has room for them.
    #[test]
    fn as_many_ids_as_there_can_be_fit_into_a_snapshot() {
        let mut queue = Queue::new();
        let settings = Settings { message_id_window: u32::MAX, ..Settings::default() };
        let mut apply = |index, command| {
            let at = At { index, now: Millis(index << 20) };
            queue.apply(at, 0, command, &mut Vec::new())
        };
        apply(1, Command::Configure(Box::new(Settings { dedup_age_ms: u64::MAX, ..settings })));
        for n in 0..u64::from(MESSAGE_IDS_MAX) + 5 {
            let id = MessageId::new(&format!("{n:0>128}")).unwrap();
            let plain = Publish::plain(1, bytes::Bytes::from_static(&[2, 0, 0, 0, 0, 0]));
            apply(
                2 + n,
                Command::Publish(Publish { condition: Condition::of(Some(id), None), ..plain }),
            );
        }
        apply(1 << 40, Command::Purge);
        assert_eq!(queue.message_ids.len(), MESSAGE_IDS_MAX as usize);
        let oldest = queue.message_ids.iter().next().unwrap().1;
        assert_eq!(oldest.first, 5, "the oldest ones went");
        let snapshot = queue.snapshot();
        assert!(snapshot.len() < 20 << 20, "{}", snapshot.len());
        assert_eq!(Queue::restore(&snapshot).unwrap().hash(), queue.hash());
    }
}
