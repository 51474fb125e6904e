//! Purging: dropping messages on purpose, all of them or those before an offset, dead ones too.
//!
//! Nobody is to read what was purged: retained messages go too, and a slot that needed any is lost. Batches go as
//! a whole; of one that goes on beyond the offset, what is held before it is dropped, and its bytes are there for
//! as long as the rest is.

use super::Queue;
use super::ids::Offset;
use super::reply::Reply;

impl Queue {
    pub(super) fn purge(&mut self) -> Reply {
        let waiting = self.ready.clear() + self.delayed.clear();
        let count = waiting + self.leased.clear() + self.dead.clear();
        self.backlog.clear();
        self.retained.clear();
        self.slots.all_gone(self.ready.next());
        self.merge = false;
        self.consumers.release_all();
        self.gone.purged += count;
        Reply::Purged { count }
    }

    pub(super) fn purge_before(&mut self, Offset(before): Offset) -> Reply {
        let mut spans = self.delayed.take_before(before);
        spans.extend(self.dead.take_before(before));
        while let Some(span) = self.ready.take_before(before) {
            spans.push(span);
        }
        for (session, span) in self.leased.take_before(before) {
            self.consumers.release(session, span.count);
            spans.push(span);
        }
        let whole = self.readable(0).map(|batch| batch.end()).take_while(|&end| end <= before);
        let bound = whole.last().unwrap_or(0);
        self.slots.all_gone(bound);
        for span in &spans {
            self.leave(*span);
        }
        while self.retained.oldest().is_some_and(|batch| batch.end() <= bound) {
            self.retained.pop_oldest();
        }
        self.retained.shrink();
        self.merge = false;
        let count = spans.iter().map(|span| span.count).sum();
        self.gone.purged += count;
        Reply::Purged { count }
    }
}
