//! Messages that ended without an ack and wait to be moved to the queue's dead-letter queue.
//!
//! ```text
//!            end(cause)                    Moved { to }
//!   held ───────────────► dead ═══════════════════════════► dead_lettered
//!            │             runs, in the order of dying
//!            └─► gone, if there is no dead-letter queue, or to make room
//! ```
//!
//! Each message is numbered as it dies: the first that ever died here is 0, the next 1. The numbers are what makes the
//! move happen once ([`sources`](super::sources)): whoever leads this queue publishes what is dead to the other one,
//! with its numbers, and says here up to which number the other one has it. A message keeps its number and a number is
//! never given again: where some were purged, those between are missing.
//!
//! What is dead is held: it counts for the limits, its bodies stay in the log, and readers see it.

use std::collections::VecDeque;

use super::Queue;
use super::effect::Run;
use super::ready::Span;
use super::reply::{Rejection, Reply};
use crate::planted::{self, Bug};

/// Runs of dead messages from which on nothing more is published or handed out: each is part of every checkpoint. A run
/// grows as long as neighbours die one after the other, of one cause, after equally many deliveries.
pub const DEAD_MAX: u64 = 1 << 20;

/// Why a message ended without an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A consumer rejected it.
    Rejected,
    /// It was delivered `max_deliveries` times.
    Exhausted,
    /// Nobody took it in time.
    Expired,
    /// It made room for newer ones.
    Dropped,
}

impl Cause {
    /// How it is called in headers and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Rejected => 1,
            Self::Exhausted => 2,
            Self::Expired => 3,
            Self::Dropped => 4,
        }
    }

    /// The cause that something is dead for; what was dropped never is.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        let all = [Self::Rejected, Self::Exhausted, Self::Expired];
        all.into_iter().find(|cause| cause.number() == number)
    }
}

/// Neighbouring messages of one batch that are dead, as whoever moves them sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadRun {
    /// Number of the first; those of the others follow.
    pub seq: u64,
    /// Where they are; `attempt` is how often they were delivered.
    pub run: Run,
    /// Why they ended.
    pub cause: Cause,
}

/// Messages that died one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Died {
    /// Number of the first; those of the others follow.
    pub seq: u64,
    pub span: Span,
    pub cause: Cause,
}

impl Died {
    /// The number after the last.
    pub fn end(&self) -> u64 {
        self.seq + self.span.count
    }

    /// Takes the first messages, at most so many.
    fn cut(&mut self, most: u64) -> Span {
        let Span { first, count, .. } = self.span;
        let taken = Span { count: count.min(most), ..self.span };
        self.seq += taken.count;
        self.span = Span { first: first + taken.count, count: count - taken.count, ..taken };
        taken
    }
}

/// All that is dead, in the order of dying.
#[derive(Debug, Default)]
pub(super) struct Dead {
    runs: VecDeque<Died>,
    count: u64,
    next: u64,
}

impl Dead {
    /// Nothing is dead, and `next` is the number that the next will have.
    pub fn new(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// How many are dead.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// The number that the next one will have; also how many there were.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of the first, or the next one if nothing is dead.
    #[cfg(test)]
    pub fn first(&self) -> u64 {
        self.runs.front().map_or(self.next, |first| first.seq)
    }

    /// In the order of dying.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Died> {
        self.runs.iter().copied()
    }

    /// Whether no more may die than what is on its way to that.
    pub fn is_full(&self) -> bool {
        self.runs.len() as u64 >= DEAD_MAX
    }

    /// Adds messages that have just died.
    pub fn append(&mut self, span: Span, cause: Cause) {
        let seq = self.next;
        self.next = seq.checked_add(span.count).expect("there are fewer than offsets");
        self.restore(Died { seq, span, cause });
    }

    /// Adds messages that have their numbers already.
    pub fn restore(&mut self, died: Died) {
        let Died { seq, span, cause } = died;
        self.count += span.count;
        match self.runs.back_mut() {
            Some(last)
                if (last.span.end(), last.end()) == (span.first, seq)
                    && (last.span.attempts, last.cause) == (span.attempts, cause) =>
            {
                last.span.count += span.count;
            }
            _ => self.runs.push_back(died),
        }
    }

    /// Takes the first run, and of it those with numbers below `to`.
    fn pop_below(&mut self, to: u64) -> Option<Span> {
        let first = self.runs.front_mut()?;
        let most = to.checked_sub(first.seq).filter(|&most| most > 0)?;
        let taken = first.cut(most);
        if first.span.count == 0 {
            self.runs.pop_front();
        }
        self.count -= taken.count;
        Some(taken)
    }

    /// Takes all messages before the offset `before`, run by run.
    pub fn take_before(&mut self, before: u64) -> Vec<Span> {
        let mut taken = Vec::new();
        self.runs.retain_mut(|run| {
            let most = before.saturating_sub(run.span.first);
            if most > 0 {
                taken.push(run.cut(most));
            }
            run.span.count > 0
        });
        self.count -= taken.iter().map(|span| span.count).sum::<u64>();
        taken
    }

    /// Drops all and says how many there were; numbers go on.
    pub fn clear(&mut self) -> u64 {
        let count = self.count;
        *self = Self::new(self.next);
        count
    }
}

impl Queue {
    /// Messages end without an ack, in whatever way: they are dead from here on, or gone if there is no dead-letter
    /// queue. Those that make room are always gone, as they would go on to take it.
    pub(super) fn die(&mut self, span: Span, cause: Cause) {
        if self.settings.dead_letter.is_some() && cause != Cause::Dropped {
            return self.lay_out(span, cause);
        }
        self.leave(span);
        let count = match cause {
            Cause::Rejected => &mut self.gone.rejected,
            Cause::Exhausted => &mut self.gone.exhausted,
            Cause::Expired => &mut self.gone.expired,
            Cause::Dropped => &mut self.gone.dropped,
        };
        *count += span.count;
    }

    /// Messages are dead from here on: nothing waits for them any more, and what dies behind one in its group comes next.
    fn lay_out(&mut self, span: Span, cause: Cause) {
        let cause = match cause {
            Cause::Expired if planted::is(Bug::MistakeCause) => Cause::Rejected,
            cause => cause,
        };
        self.expiry.lives.forget(span.first, span.end());
        self.ready.tags.forget(span.first, span.end());
        self.uncharged.forget(span);
        let mut rest = Span { priority: 0, ..span };
        while rest.count > 0 {
            let end =
                self.groups.head_within(rest.first, rest.end()).map_or(rest.end(), |at| at + 1);
            let part = Span { count: end - rest.first, ..rest };
            self.dead.append(part, cause);
            self.unblock(part);
            rest = Span { first: end, count: rest.count - part.count, ..rest };
        }
    }

    /// The dead-letter queue has all with numbers below `to`: they leave. Once more changes nothing.
    pub(super) fn moved(&mut self, to: u64) -> Reply {
        let next = self.dead.next();
        if to > next {
            return Reply::Rejected(Rejection::NotDead { next });
        }
        let mut count = 0;
        while let Some(span) = self.dead.pop_below(to) {
            self.leave(span);
            count += span.count;
        }
        self.gone.dead_lettered += count;
        Reply::Moved { count }
    }

    /// The first of what is dead: at most `max_messages`, each run of one batch.
    #[must_use]
    pub fn dead_letters(&self, max_messages: u64) -> Vec<DeadRun> {
        let (mut dead, mut room) = (Vec::new(), max_messages);
        for Died { mut seq, span, cause } in self.dead.iter() {
            let count = span.count.min(room);
            if count == 0 {
                break;
            }
            let mut runs = Vec::new();
            self.backlog.runs(span.first, count, span.attempts, &mut runs);
            for run in runs {
                dead.push(DeadRun { seq, run, cause });
                seq += u64::from(run.count);
            }
            room -= count;
        }
        dead
    }

    /// How many messages are dead and wait to be moved.
    #[must_use]
    pub fn dead(&self) -> u64 {
        self.dead.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attach, Command, Effect, Limit, Publish, Session, Settings};
    use super::*;
    use crate::catalog::QueueName;
    use crate::{At, Machine, Millis, NodeId};

    fn span(first: u64, count: u64, attempts: u32) -> Span {
        Span { first, count, attempts, priority: 0 }
    }

    #[test]
    fn neighbours_that_die_alike_are_one_run_and_leave_by_number() {
        let mut dead = Dead::new(5);
        dead.append(span(10, 2, 1), Cause::Rejected);
        dead.append(span(12, 2, 1), Cause::Rejected);
        dead.append(span(14, 1, 1), Cause::Exhausted);
        dead.append(span(3, 1, 1), Cause::Exhausted);
        assert_eq!((dead.iter().len(), dead.len(), dead.first(), dead.next()), (3, 6, 5, 11));
        assert_eq!(dead.pop_below(5), None);
        assert_eq!(dead.pop_below(8), Some(span(10, 3, 1)));
        assert_eq!(dead.pop_below(8), None);
        assert_eq!(dead.pop_below(99), Some(span(13, 1, 1)));
        assert_eq!(dead.clear(), 2);
        assert_eq!((dead.first(), dead.next()), (11, 11), "numbers go on");
    }

    /// What was published to the other queue already is known there by its number, which must not become that of another.
    #[test]
    fn what_stays_of_the_dead_keeps_its_number_when_others_are_purged() {
        let mut dead = Dead::new(0);
        dead.append(span(10, 2, 1), Cause::Rejected);
        dead.append(span(3, 4, 1), Cause::Rejected);
        dead.append(span(12, 1, 1), Cause::Rejected);
        assert_eq!(dead.take_before(3), []);
        assert_eq!(dead.take_before(5), [span(3, 2, 1)]);
        assert_eq!((dead.len(), dead.first(), dead.next()), (5, 0, 7));
        assert_eq!(dead.pop_below(3), Some(span(10, 2, 1)));
        assert_eq!(dead.pop_below(4), None, "2 and 3 are gone");
        assert_eq!(dead.pop_below(5), Some(span(5, 1, 1)));
        assert_eq!(dead.take_before(99), [span(6, 1, 1), span(12, 1, 1)]);
        assert_eq!((dead.len(), dead.first(), dead.next()), (0, 7, 7));
        // Neighbours are one run only if their numbers are neighbours too.
        dead.append(span(20, 2, 1), Cause::Rejected);
        dead.append(span(19, 1, 1), Cause::Rejected);
        dead.append(span(22, 1, 1), Cause::Rejected);
        assert_eq!(dead.take_before(20), [span(19, 1, 1)]);
        assert_eq!(dead.iter().map(|died| died.seq).collect::<Vec<_>>(), [7, 10]);
    }

    fn apply(queue: &mut Queue, index: &mut u64, command: Command) -> (Reply, Vec<Effect>) {
        *index += 1;
        let (at, mut effects) = (At { index: *index, now: Millis(0) }, Vec::new());
        let reply = queue.apply(at, 0, command, &mut effects);
        queue.finish(at, &mut effects);
        (reply, effects)
    }

    #[test]
    fn while_too_much_is_dead_nothing_is_taken_in_or_handed_out() {
        let (mut queue, mut index) = (Queue::new(), 0);
        let dead_letter = Some(QueueName::parse("dead").unwrap());
        let settings = Settings { dead_letter, ..Settings::default() };
        apply(&mut queue, &mut index, Command::Configure(Box::new(settings)));
        let publish = |count: u32| {
            Command::Publish(Publish::plain(count, vec![0; 6 * count as usize].into()))
        };
        let count = DEAD_MAX + 10;
        apply(&mut queue, &mut index, publish(count as u32));
        // As if one after the other had been rejected, and no two of them neighbours.
        let end = queue.ready.next();
        while let Some(span) = queue.ready.take(1).filter(|span| span.first < DEAD_MAX) {
            let attempts = 1 + span.first as u32 % 2;
            queue.die(Span { attempts, ..span }, Cause::Rejected);
        }
        queue.ready.give_back(Span { first: DEAD_MAX, count: 1, attempts: 0, priority: 0 });
        assert_eq!((queue.dead(), queue.ready.len(), end), (DEAD_MAX, 10, count));
        let (refused, _) = apply(&mut queue, &mut index, publish(1));
        let full = Rejection::QueueFull { limit: Limit::Dead, max: DEAD_MAX, held: DEAD_MAX };
        assert_eq!(refused, Reply::Rejected(full));
        let attach = Attach {
            session: Session(1),
            node: NodeId(1),
            name: String::new(),
            prefetch: 100,
            lease_ms: None,
            tells_starts: false,
            filter: Vec::new(),
        };
        let (_, effects) = apply(&mut queue, &mut index, Command::Attach(attach));
        assert_eq!(effects, [], "nothing that may die is handed out");
        let snapshot = queue.snapshot();
        assert!(snapshot.len() < 16 << 20, "{} bytes", snapshot.len());
        assert_eq!(Queue::restore(&snapshot).unwrap().dead(), DEAD_MAX);
        // There is room again.
        let (moved, effects) = apply(&mut queue, &mut index, Command::Moved { to: 1 });
        assert_eq!((moved, effects.len()), (Reply::Moved { count: 1 }, 1));
        let (published, _) = apply(&mut queue, &mut index, publish(1));
        assert!(matches!(published, Reply::Published { .. }), "{published:?}");
    }
}
