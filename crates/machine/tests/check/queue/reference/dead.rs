//! What the reference makes of messages that end without an ack, and of those that come from another queue.

use quorate_machine::queue::{Cause, Publish, PublishMoved, Rejection, Reply};

use super::{Reference, State};

impl Reference {
    /// A message ends without an ack.
    pub(super) fn die(&mut self, at: usize, cause: Cause) {
        self.messages[at].state = match (&self.settings.dead_letter, cause) {
            (_, Cause::Dropped) => State::Dropped,
            (Some(_), cause) => {
                self.died += 1;
                State::Dead { seq: self.died - 1, cause }
            }
            (None, Cause::Rejected) => State::Rejected,
            (None, Cause::Exhausted) => State::Exhausted,
            (None, Cause::Expired) => State::Expired,
        };
        self.left(at);
    }

    /// Who waited for this one waits for no other, but dies too if its time is over.
    pub(super) fn left(&mut self, at: usize) {
        let Some(group) = self.messages[at].group else { return };
        self.next_of(group);
    }

    pub(super) fn deadline(&self, at: usize) -> Option<u64> {
        match self.messages[at].state {
            State::Leased { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    /// Number, offset, deliveries, cause and id of each dead message, in order.
    pub fn dead(&self) -> Vec<(u64, u64, u32, Cause, u64)> {
        let dead = (0u64..).zip(&self.messages).filter_map(|(offset, m)| match m.state {
            State::Dead { seq, cause } => Some((seq, offset, m.deliveries, cause, m.id)),
            _ => None,
        });
        let mut dead: Vec<_> = dead.collect();
        dead.sort_unstable_by_key(|&(seq, ..)| seq);
        dead
    }

    pub(super) fn moved(&mut self, to: u64) -> Reply {
        if to > self.died {
            return Reply::Rejected(Rejection::NotDead { next: self.died });
        }
        let mut count = 0;
        for message in &mut self.messages {
            if matches!(message.state, State::Dead { seq, .. } if seq < to) {
                message.state = State::DeadLettered;
                count += 1;
            }
        }
        Reply::Moved { count }
    }

    pub(super) fn publish_moved(&mut self, index: u64, moved: &PublishMoved, ids: &[u64]) -> Reply {
        let publish = Publish::plain(moved.count, moved.frame.clone());
        let end = moved.first + u64::from(moved.count);
        if moved.count > 0
            && let Some(&(timeline, next)) = self.sources.get(&moved.source)
        {
            let refused = match () {
                () if moved.timeline < timeline => {
                    Reply::Rejected(Rejection::SourceRecovered { timeline })
                }
                () if moved.timeline > timeline || moved.first >= next => Reply::Done,
                () if end <= next => Reply::AlreadyMoved,
                () => Reply::Rejected(Rejection::MovedInPart { next }),
            };
            if refused != Reply::Done {
                self.last_publish_accepted = false;
                return refused;
            }
        }
        let merge = std::mem::replace(&mut self.last_publish_accepted, false);
        if moved.count == 0 {
            return Reply::Rejected(Rejection::EmptyBatch);
        }
        // Nothing makes room for it.
        if let Some(full) = self.full(moved.count.into(), moved.frame.len() as u64) {
            return full;
        }
        self.sources.insert(moved.source, (moved.timeline, end));
        self.enter(index, &publish, ids, merge)
    }
}
