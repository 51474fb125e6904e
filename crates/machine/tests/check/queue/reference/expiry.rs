//! Until when the reference delivers a message.

use quorate_machine::queue::Cause;

use super::{Message, Reference, State};

impl Reference {
    /// From when on a message is not delivered.
    pub(super) fn expires(&self, message: &Message) -> Option<u64> {
        let published = self.batches[message.batch].since.max(self.ttl_since);
        let by_queue = self.settings.ttl_ms.map(|ttl| message.due.unwrap_or(published) + ttl);
        [message.expires, by_queue].into_iter().flatten().min()
    }

    /// When it must have been seen to.
    pub(super) fn expires_at_latest(&self, message: &Message) -> Option<u64> {
        let slack = self.settings.ttl_ms.map_or(0, |ttl| (ttl / 10).min(1_000));
        let by_queue = self.settings.ttl_ms.map(|_| self.expires(message).unwrap() + slack);
        [message.expires, by_queue].into_iter().flatten().min()
    }

    /// What waits and has outlived its time is gone.
    pub(super) fn expire(&mut self) {
        for at in 0..self.messages.len() {
            let message = &self.messages[at];
            let waits = matches!(message.state, State::Ready | State::Delayed { .. });
            if waits && self.expires(message).is_some_and(|expires| expires <= self.now) {
                self.die(at, Cause::Expired);
            }
        }
    }

    /// A time to live counts from when there is one, or from when a message that waits for its time for the first
    /// time is due.
    pub(super) fn ttl_configured(&mut self, before: Option<u64>) {
        if before.is_some() == self.settings.ttl_ms.is_some() {
            return;
        }
        self.ttl_since = self.now;
        for message in &mut self.messages {
            message.due = match message.state {
                State::Delayed { due } if message.deliveries == 0 => Some(due),
                State::Blocked { due } if due > self.now => Some(due),
                _ => None,
            };
        }
    }
}
