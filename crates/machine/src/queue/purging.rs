//! Purging: what is held is dropped, all of it or what is before an offset, in whatever place it is.

use super::Queue;
use super::ids::Offset;
use super::reply::Reply;
use crate::planted::{self, Bug};

impl Queue {
    pub(super) fn purge(&mut self) -> Reply {
        let waiting = self.ready.clear() + self.delayed.clear() + self.groups.clear();
        let count = waiting + self.leased.clear() + self.dead.clear();
        self.backlog.clear();
        self.expiry.lives.clear();
        self.uncharged.clear();
        self.retained.clear();
        self.slots.all_gone(self.ready.next());
        self.merge = false;
        self.consumers.release_all(self.settings.single_active);
        self.gone.purged += count;
        Reply::Purged { count }
    }

    pub(super) fn purge_before(&mut self, Offset(before): Offset) -> Reply {
        let before = if planted::is(Bug::PurgeOneMore) { before + 1 } else { before };
        let mut spans = self.dead.take_before(before);
        self.ready.cut(0, before, &mut spans);
        self.delayed.cut(0, before, &mut spans);
        self.groups.take_before(before, &mut spans);
        for (session, span) in self.leased.take_before(before) {
            self.consumers.release(session, span.count, self.settings.single_active);
            spans.push(span);
        }
        // What waited for the first of them goes on first.
        spans.sort_unstable_by_key(|span| span.first);
        let whole = self.readable(0).map(|batch| batch.end()).take_while(|&end| end <= before);
        let bound = whole.last().unwrap_or(0);
        self.slots.all_gone(bound);
        for span in &spans {
            self.leave_from(*span, bound);
        }
        while self.retained.oldest().is_some_and(|batch| batch.end() <= bound) {
            self.retained.pop_oldest();
        }
        self.merge = false;
        let count = spans.iter().map(|span| span.count).sum();
        self.gone.purged += count;
        Reply::Purged { count }
    }
}
