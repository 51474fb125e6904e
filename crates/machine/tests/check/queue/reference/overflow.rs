//! What makes room for a batch.

use quorate_machine::queue::{Limit, Rejection, Reply, Settings};

use super::{Reference, State};

impl Reference {
    /// The reply to a batch for which there is no room, and for which none can be made.
    pub(super) fn make_room(&mut self, count: u64, bytes: u64) -> Option<Reply> {
        let full = self.full(count, bytes)?;
        let mut before = Vec::new();
        while self.settings.drop_head && self.full(count, bytes).is_some() {
            let ready = (0..).zip(&self.messages).filter(|(_, m)| m.state == State::Ready);
            let least = ready.min_by_key(|(at, message)| (message.priority, *at));
            let Some((at, _)) = least else { break };
            self.messages[at].state = State::Dropped;
            before.push(at);
        }
        if self.full(count, bytes).is_none() {
            before.into_iter().for_each(|at| self.left(at));
            return None;
        }
        before.into_iter().for_each(|at| self.messages[at].state = State::Ready);
        Some(full)
    }

    pub(super) fn full(&self, count: u64, bytes: u64) -> Option<Reply> {
        let Settings { max_messages, max_bytes, .. } = self.settings;
        does_not_fit(Limit::MaxMessages, max_messages, self.held(), count)
            .or_else(|| does_not_fit(Limit::MaxBytes, max_bytes, self.bytes(), bytes))
    }
}

fn does_not_fit(limit: Limit, max: Option<u64>, held: u64, more: u64) -> Option<Reply> {
    let max = max.filter(|max| held + more > *max)?;
    Some(Reply::Rejected(Rejection::QueueFull { limit, max, held }))
}
