//! Time to live: messages that nobody took in time are not delivered any more, and leave.
//!
//! ```text
//!   of a message   until `Properties::expires`            judged one record after the other (`lives`)
//!   of the queue   ttl_ms from the batch's `since` on,    judged batch by batch: all before the cursor have been
//!                  or from the due time on                judged one record after the other
//! ```
//!
//! Whichever ends first counts. Messages that are ready or delayed go when their time comes. Those that a consumer holds are
//! its own: they are judged when it gives them back. So are those behind another of their group, when it is their turn. Times of batches go up with offsets, so the queue's time to live
//! costs nothing a message. It counts at the earliest from when it was switched on: what is in the queue then
//! is not gone at once.

use super::Queue;
use super::backlog::Batch;
use super::dead::Cause;
use super::delayed::DUE_MAX;
use super::lives::{Life, Lives};
use super::ready::Span;
use crate::Millis;
use crate::planted::{self, Bug};

/// How much later than its time a batch may go when nothing else happens, so that many of them cost one tick: this
/// part of the time to live, and at most so many milliseconds. None of it is delivered meanwhile.
const SLACK_PART: u64 = 10;
const SLACK_MS_MAX: u64 = 1_000;

/// What the queue knows about times to live.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// Times of messages.
    pub lives: Lives,
    /// All before this offset have been judged by the queue's time to live, and were leased or blocked if they are still
    /// there.
    pub judged: u64,
    /// When the queue's time to live was switched on.
    pub since: Millis,
}

impl Queue {
    /// Lets go of what has outlived its time. At most [`DUE_MAX`] runs and batches in one step.
    pub(super) fn expire(&mut self) {
        let ttl_ms = self.settings.ttl_ms;
        if ttl_ms.is_none() && self.expiry.lives.is_empty() {
            return;
        }
        let mut left = DUE_MAX;
        // Once more for what is let go on behind them: it is to be judged too.
        loop {
            let mut over = self.take_over(&mut left);
            if over.is_empty() {
                return;
            }
            over.sort_unstable_by_key(|span| span.first);
            over.into_iter().for_each(|span| self.die(span, Cause::Expired));
        }
    }

    /// Takes what has outlived its time out of its place, as many runs and batches as are `left`.
    fn take_over(&mut self, left: &mut usize) -> Vec<Span> {
        let (mut over, ttl_ms) = (Vec::new(), self.settings.ttl_ms);
        while *left > 0
            && let Some((first, life)) = self.expiry.lives.pop(self.now, ttl_ms)
        {
            *left -= 1;
            self.take_range(first, first + life.count, &mut over);
        }
        while let Some(ttl_ms) = ttl_ms.filter(|_| *left > 0) {
            let batch = self.backlog.from(self.expiry.judged).next().copied();
            let Some(batch) = batch.filter(|batch| self.expires(batch, ttl_ms) <= self.now) else {
                // Not to look at the records of what has gone again.
                let next = batch.map_or(self.ready.next(), |batch| batch.first);
                self.expiry.judged = self.expiry.judged.max(next);
                break;
            };
            *left -= 1;
            self.expire_batch(&batch, &mut over);
        }
        over
    }

    /// When the messages of a batch have outlived the queue's time to live.
    pub(super) fn expires(&self, batch: &Batch, ttl_ms: u64) -> Millis {
        let ttl_ms = if planted::is(Bug::ExpireTtlEarly) { ttl_ms / 2 } else { ttl_ms };
        batch.since.max(self.expiry.since).plus(ttl_ms)
    }

    /// Judges those messages of a batch whose time counts from when they were published.
    fn expire_batch(&mut self, batch: &Batch, over: &mut Vec<Span>) {
        let mut at = batch.first.max(self.expiry.judged);
        while at < batch.end() {
            let (end, life) = self.life_at(at, batch.end());
            if life.is_none_or(|life| life.due.is_none()) {
                self.take_range(at, end, over);
            }
            at = end;
        }
        self.expiry.judged = batch.end();
    }

    /// Takes those of `from..to` that nobody holds.
    fn take_range(&mut self, from: u64, to: u64, taken: &mut Vec<Span>) {
        self.ready.cut(from, to, taken);
        self.delayed.cut(from, to, taken);
    }

    /// The record of the message at `at`, and up to where it is that of the messages after it, at most `to`.
    fn life_at(&self, at: u64, to: u64) -> (u64, Option<Life>) {
        match self.expiry.lives.from(at) {
            Some((first, life)) if first <= at => (to.min(first + life.count), Some(life)),
            Some((first, _)) => (to.min(first), None),
            None => (to, None),
        }
    }

    /// Until when the message at `at`, which is held and not dead, is delivered.
    pub(super) fn expires_at(&self, at: u64) -> Option<Millis> {
        let (_, life) = self.life_at(at, at + 1);
        let by_queue = self.settings.ttl_ms.and_then(|ttl_ms| match life.and_then(|it| it.due) {
            Some(due) => Some(due.plus(ttl_ms)),
            None => Some(self.expires(self.backlog.from(at).next()?, ttl_ms)),
        });
        self.own_expiry(at).into_iter().chain(by_queue).min()
    }

    /// The same by its own time to live alone.
    pub(super) fn own_expiry(&self, at: u64) -> Option<Millis> {
        self.life_at(at, at + 1).1.and_then(|life| life.expires)
    }

    /// Whether the message at `at` has outlived its time, and up to where that goes for those after it, at most `to`.
    fn verdict(&self, at: u64, to: u64) -> (u64, bool) {
        let (to, life) = self.life_at(at, to);
        if life.and_then(|life| life.expires).is_some_and(|expires| expires <= self.now) {
            return (to, true);
        }
        let Some(ttl_ms) = self.settings.ttl_ms else {
            return (to, false);
        };
        if let Some(due) = life.and_then(|life| life.due) {
            return (to, due.plus(ttl_ms) <= self.now);
        }
        let batch = self.backlog.from(at).next().expect("a message that is held has a batch");
        (to.min(batch.end()), self.expires(batch, ttl_ms) <= self.now)
    }

    /// Judges messages that a consumer gives back: lets go of those that have outlived their time, and returns the
    /// others.
    pub(super) fn outlived(&mut self, span: Span) -> Vec<Span> {
        if self.settings.ttl_ms.is_none() && self.expiry.lives.is_empty() {
            return vec![span];
        }
        let mut verdicts: Vec<(Span, bool)> = Vec::new();
        let mut at = span.first;
        while at < span.end() {
            let (end, is_over) = self.verdict(at, span.end());
            match verdicts.last_mut().filter(|(_, last)| *last == is_over) {
                Some((last, _)) => last.count += end - at,
                None => verdicts.push((Span { first: at, count: end - at, ..span }, is_over)),
            }
            at = end;
        }
        for &(part, is_over) in &verdicts {
            if is_over {
                self.die(part, Cause::Expired);
            } else {
                self.in_time(part);
            }
        }
        let alive = verdicts.into_iter().filter(|(_, is_over)| !is_over);
        alive.map(|(part, _)| part).collect()
    }

    /// Whether the message at `at` has outlived its time.
    pub(super) fn is_over(&self, at: u64) -> bool {
        self.verdict(at, at + 1).1
    }

    /// Messages go to their place in time: theirs are waited for again, as the time to live may have become longer since
    /// they were judged.
    pub(super) fn in_time(&mut self, span: Span) {
        if self.settings.ttl_ms.is_some() || !self.expiry.lives.is_empty() {
            self.expiry.lives.revive(span.first, span.end());
            // Those that count from when they were due have a record, and need no second look at their batch.
            let mut at = span.first;
            while at < span.end() {
                let (end, life) = self.life_at(at, span.end());
                if life.is_none_or(|life| life.due.is_none()) {
                    self.expiry.judged = self.expiry.judged.min(at);
                    break;
                }
                at = end;
            }
        }
    }

    /// Notes the times of new messages.
    pub(super) fn note_life(
        &mut self,
        first: u64,
        count: u64,
        expires: Option<Millis>,
        due: Option<Millis>,
    ) {
        let due = due.filter(|_| self.settings.ttl_ms.is_some());
        if expires.is_some() || due.is_some() {
            self.expiry.lives.insert(first, Life { count, expires, due, lapsed: false });
        }
    }

    /// The queue's time to live was `before` until now. Where there was none, it counts from now on, or from when
    /// messages for later are due.
    pub(super) fn ttl_configured(&mut self, before: Option<u64>) {
        match (before, self.settings.ttl_ms) {
            (None, Some(_)) => {
                self.expiry.since = self.now;
                let never_delivered = self.delayed.iter().filter(|(_, span)| span.attempts == 0);
                for (due, span) in never_delivered {
                    self.expiry.lives.set_due(span.first, span.end(), due);
                }
                for (_, first, run) in self.groups.blocked() {
                    if let Some(due) = run.due.filter(|&due| due > self.now) {
                        self.expiry.lives.set_due(first, first + run.count, due);
                    }
                }
            }
            (Some(_), None) => {
                self.expiry.lives.clear_dues();
                (self.expiry.judged, self.expiry.since) = (0, Millis(0));
            }
            _ => {}
        }
    }

    /// When the next messages have outlived their time: those with a time of their own, those of the next batch.
    fn next_expiries(&self) -> (Option<Millis>, Option<Millis>) {
        let ttl_ms = self.settings.ttl_ms;
        let batch = ttl_ms.and_then(|ttl_ms| {
            let batch = self.backlog.from(self.expiry.judged).next()?;
            Some(self.expires(batch, ttl_ms))
        });
        (self.expiry.lives.next(ttl_ms), batch)
    }

    /// Whether more have outlived their time than one step lets go of. Nothing is handed out until they are gone.
    pub(super) fn is_expiry_behind(&self) -> bool {
        let (own, batch) = self.next_expiries();
        own.into_iter().chain(batch).any(|time| time <= self.now)
    }

    /// When messages are to go at the latest.
    pub(super) fn expiry_deadline(&self) -> Option<Millis> {
        let (own, batch) = self.next_expiries();
        let slack_ms = self.settings.ttl_ms.map_or(0, |ttl| (ttl / SLACK_PART).min(SLACK_MS_MAX));
        // What is late already is not put off.
        let batch = batch.map(|time| if time <= self.now { time } else { time.plus(slack_ms) });
        own.into_iter().chain(batch).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attach, Command, Effect, Properties, Publish, Session, Settings};
    use super::*;
    use crate::{At, Machine, NodeId};

    /// Lets the queue do all that is due at `now`, and gives how many were delivered in each entry.
    fn ticks(queue: &mut Queue, mut index: u64, now: u64) -> Vec<(u64, usize)> {
        let mut entries = Vec::new();
        while entries.is_empty() || queue.next_deadline().is_some_and(|due| due.0 <= now) {
            let (at, mut effects) = (At { index, now: Millis(now) }, Vec::new());
            let before = queue.stats().expired;
            queue.apply(at, 0, Command::Tick, &mut effects);
            let once = queue.stats().expired - before;
            assert!(once <= DUE_MAX as u64, "{once} in one step");
            queue.finish(at, &mut effects);
            let delivered = effects.iter().map(|effect| match effect {
                Effect::Deliver { runs, .. } => runs.iter().map(|run| run.count as usize).sum(),
                Effect::Closed { .. } => 0,
            });
            entries.push((queue.stats().expired - before, delivered.sum()));
            index += 1;
        }
        entries
    }

    fn apply(queue: &mut Queue, index: u64, now: u64, command: Command) {
        let at = At { index, now: Millis(now) };
        queue.apply(at, 0, command, &mut Vec::new());
    }

    fn attach() -> Command {
        let (session, node, name) = (Session(1), NodeId(1), String::new());
        let (prefetch, lease_ms, tells_starts) = (9, None, false);
        Command::Attach(Attach {
            session,
            node,
            name,
            prefetch,
            lease_ms,
            tells_starts,
            filter: Vec::new(),
        })
    }

    const MANY: usize = 2 * DUE_MAX + 10;

    #[test]
    fn many_that_expire_at_once_go_in_steps_and_none_of_them_is_delivered_meanwhile() {
        let mut queue = Queue::new();
        // Every other one, so that no two are neighbours of one time.
        let expires = |at: usize| (at < MANY).then(|| Millis(1_000 - at as u64 % 2));
        let properties = (0..=MANY).map(|at| Properties {
            count: 1,
            expires: expires(at),
            ..Properties::default()
        });
        let frame = vec![0; 6 * (MANY + 1)].into();
        let publish = Publish::plain(MANY as u32 + 1, frame);
        let publish = Publish { properties: properties.collect(), ..publish };
        apply(&mut queue, 1, 1, Command::Publish(publish));
        apply(&mut queue, 2, 1, attach());
        let step = 2 * DUE_MAX as u64;
        assert_eq!(ticks(&mut queue, 3, 1_000), [(step, 0), (10, 1)]);
    }

    #[test]
    fn so_do_many_batches() {
        let mut queue = Queue::new();
        let settings = Settings { ttl_ms: Some(100), ..Settings::default() };
        apply(&mut queue, 1, 1, Command::Configure(Box::new(settings)));
        for index in 0..MANY as u64 {
            let publish = Publish::plain(1, vec![0; 6].into());
            apply(&mut queue, 2 + index, 1, Command::Publish(publish));
        }
        let publish = Publish::plain(1, vec![0; 6].into());
        apply(&mut queue, 1 << 20, 2, Command::Publish(publish));
        assert_eq!(queue.next_deadline(), Some(Millis(1 + 100 + 10)));
        assert!(!queue.is_expiry_behind());
        let mut late = queue;
        let step = 2 * DUE_MAX as u64;
        late.expire();
        // The attach is in the entry that the time is over in.
        let at = At { index: 1 << 21, now: Millis(101) };
        let mut effects = Vec::new();
        late.apply(at, 0, attach(), &mut effects);
        late.finish(at, &mut effects);
        assert_eq!((late.stats().expired, effects.len()), (step, 0));
        assert_eq!(ticks(&mut late, at.index + 1, 101), [(10, 1)]);
    }
}
