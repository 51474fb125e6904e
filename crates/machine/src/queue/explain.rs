//! Where one message is, and why nobody is handed it: a question, which changes nothing.
//!
//! ```text
//!   beyond the end ──► unpublished
//!   one of a key behind another ──► blocked ──┐ by
//!   leased, ready, delayed ──► free  ◄────────┘      a free one is held back by no other message
//!   ended without an ack, not moved yet ──► dead
//!   none of these ──► left, and its batch may be there still
//! ```
//!
//! How a message left is not remembered, one by one: that would be a record a message for ever. What is known are the ways
//! that messages have left on so far; where that is one way only, it is the one.

use super::Queue;
use super::backlog::Batch;
use super::consumers::Consumer;
use super::dead::Cause;
use super::effect::Run;
use super::ids::{Offset, Session, Token};
use super::leased;
use super::ready::Span;
use super::slots::SlotName;
use super::stats::ConsumerInfo;
use crate::{LogIndex, Millis};

/// What is known of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Where it is.
    pub place: Place,
    /// When it was published, by the leader's clock; none if nothing is left of its batch.
    pub published: Option<Millis>,
    /// Where its body is in the log, if it is there; `attempt` is 0.
    pub run: Option<Run>,
    /// Deliveries that count so far, the one that lasts among them; none of what has left.
    pub deliveries: Option<u32>,
    /// 0 to 9; none of what is dead or has left.
    pub priority: Option<u8>,
    /// Until when it is delivered, by its own time to live or the queue's, whichever ends first.
    pub expires: Option<Millis>,
    /// The same by its own alone.
    pub own_expires: Option<Millis>,
    /// The lowest offset that is held.
    pub first_held: Offset,
    /// The offset that the next message will have.
    pub next: Offset,
}

/// Where a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// No message has the offset yet.
    Unpublished,
    /// No other message holds it back.
    Free(Standing),
    /// Another one of its key comes first.
    Blocked {
        /// The first of the key.
        head: Offset,
        /// Messages of the key before it, that one among them.
        ahead: u64,
        /// Not to be delivered before then, for itself.
        due: Option<Millis>,
        /// Where the first one is.
        standing: Standing,
    },
    /// It ended without an ack, and waits to be moved to the dead-letter queue.
    Dead {
        /// Why it ended.
        cause: Cause,
        /// Dead messages that are moved before it.
        ahead: u64,
    },
    /// It is not held any more.
    Left {
        /// What is kept of it; nothing if it is none.
        kept: Option<Kept>,
        /// On which ways messages have left so far, and how many on each; no way that nobody went.
        ways: Vec<(Way, u64)>,
    },
}

/// Where a message is that no other holds back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for a consumer.
    Ready(Waiting),
    /// It waits for its time.
    Delayed {
        /// When that is.
        due: Millis,
    },
    /// A consumer has it.
    Leased(Holder),
}

/// Why a message is ready and not on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Messages that are handed out before it,
    pub ahead: u64,
    /// and of those the ones of a higher priority.
    pub ahead_by_priority: u64,
    /// What is in the way of handing out anything, at least one as of the end of an entry, the most general first.
    pub obstacles: Vec<Obstacle>,
    /// Who consumes.
    pub crowd: Crowd,
    /// Where one consumer at a time is handed messages, the one that keeps the others waiting.
    pub active: Option<ConsumerInfo>,
}

/// How many consumers there are, and why each of them takes nothing. What is missing to `all` could take something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// All sessions.
    pub all: u32,
    /// Waited for, or without a request for messages.
    pub away: u32,
    /// Connected and paused.
    pub paused: u32,
    /// Connected, not paused, and with a filter that the message does not pass.
    pub filtered: u32,
    /// Connected, not paused, without such a filter, and with as many messages as they may hold.
    pub full: u32,
}

/// What keeps a queue from handing out what is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The queue is paused.
    QueuePaused,
    /// Too many are dead and wait to be moved.
    TooManyDead,
    /// So many have outlived their time that it takes further steps to let go of them.
    ExpiryBehind,
    /// Nobody consumes.
    NoConsumer,
    /// All consumers are waited for, or do not ask.
    ConsumersAway,
    /// All consumers that are there are paused.
    ConsumersPaused,
    /// All consumers that are there and not paused have a filter that the message does not pass.
    FilteredOut,
    /// All consumers that are there, not paused, and would be handed the message, hold as many as they may.
    CreditUsed,
    /// One consumer at a time: it holds as many as it may.
    ActiveFull,
    /// One consumer at a time: another one than the next holds some still.
    OthersHold,
}

/// Who has a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The consumer.
    pub consumer: ConsumerInfo,
    /// Token of the lease.
    pub token: Token,
    /// When the lease ends.
    pub deadline: Millis,
    /// The consumer has begun to handle it, or would not tell.
    pub started: bool,
}

/// What is there of a message that has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Readers see it.
    pub readable: bool,
    /// Messages of its batch that are held still, and keep it at least as long.
    pub held: u32,
    /// Until when the queue's settings keep it for its age, if its bytes have room so long.
    pub until: Option<Millis>,
    /// Slots that need it.
    pub slots: Vec<SlotName>,
}

/// How a message can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A consumer was done with it.
    Acked,
    /// A consumer did not want it, and there was no dead-letter queue.
    Rejected,
    /// It was delivered often enough, and there was no dead-letter queue.
    Exhausted,
    /// Nobody took it in time, and there was no dead-letter queue.
    Expired,
    /// It made room for newer ones.
    Dropped,
    /// It was moved to the dead-letter queue.
    DeadLettered,
    /// A purge.
    Purged,
}

impl Queue {
    /// Where a message is, and what keeps it there. Takes time in proportion to consumers, groups of which some are
    /// blocked, and runs that are ready, delayed or dead; none of these for what has left with its whole batch.
    #[must_use]
    pub fn explain(&self, offset: Offset) -> Explanation {
        let at = offset.0;
        let (place, span) = self.find(at);
        let is_left = matches!(place, Place::Left { .. });
        let batch = self.readable(at).next().filter(|batch| batch.first <= at);
        let is_dead = matches!(place, Place::Dead { .. });
        let lives = span.filter(|_| !is_dead);
        Explanation {
            published: batch.map(|batch| batch.since),
            run: batch.filter(|_| span.is_some() || is_left).map(|batch| run_of(batch, at)),
            deliveries: span.map(|span| span.attempts),
            priority: lives.map(|span| span.priority),
            expires: lives.and_then(|_| self.expires_at(at)),
            own_expires: lives.and_then(|_| self.own_expiry(at)),
            first_held: Offset(self.first_offset()),
            next: self.next_offset(),
            place,
        }
    }

    /// Where a message is, and the run that it is in, if it is held.
    fn find(&self, at: u64) -> (Place, Option<Span>) {
        if at >= self.ready.next() {
            return (Place::Unpublished, None);
        }
        // What has left is asked for most, and need not be looked for among all that has not.
        if !self.backlog.covers(at) {
            return (self.left(at), None);
        }
        if let Some((standing, span)) = self.standing(at) {
            return (Place::Free(standing), Some(span));
        }
        if let Some((group, span, due, ahead)) = self.groups.find(at) {
            let head =
                self.groups.head(group).expect("a group of which some are blocked has a head");
            let (standing, _) = self.standing(head).expect("a head is in a place of its own");
            let ahead = ahead + 1;
            return (Place::Blocked { head: Offset(head), ahead, due, standing }, Some(span));
        }
        let mut ahead = 0;
        for died in self.dead.iter() {
            if (died.span.first..died.span.end()).contains(&at) {
                ahead += at - died.span.first;
                return (Place::Dead { cause: died.cause, ahead }, Some(died.span));
            }
            ahead += died.span.count;
        }
        (self.left(at), None)
    }

    fn left(&self, at: u64) -> Place {
        Place::Left { kept: self.kept(at), ways: self.ways() }
    }

    /// Where a message is that no other holds back.
    fn standing(&self, at: u64) -> Option<(Standing, Span)> {
        if let Some((session, first, lease)) = self.leased.holder(at) {
            let consumer = self.consumer_info(session).expect("who holds a lease is known");
            let (token, deadline, started) = (lease.token, lease.deadline, lease.started);
            let holder = Holder { consumer, token, deadline, started };
            return Some((Standing::Leased(holder), leased::span(first, &lease)));
        }
        if let Some((due, span)) = self.delayed.find(at) {
            return Some((Standing::Delayed { due }, span));
        }
        let (span, ahead, ahead_by_priority) = self.ready.find(at)?;
        let crowd = self.crowd(self.ready.tags.of(at));
        let (obstacles, active) = self.obstacles(crowd);
        let waiting = Waiting { ahead, ahead_by_priority, obstacles, crowd, active };
        Some((Standing::Ready(waiting), span))
    }

    /// Who could take a message that has this tag, if any.
    fn crowd(&self, tag: Option<u64>) -> Crowd {
        let passes = |consumer: &Consumer| {
            let wants = || tag.is_some_and(|tag| consumer.tags.contains(&tag));
            consumer.tags.is_empty() || (!self.settings.single_active && wants())
        };
        let mut crowd = Crowd::default();
        for (_, consumer) in self.consumers.iter() {
            crowd.all += 1;
            match consumer {
                _ if !consumer.is_connected() => crowd.away += 1,
                _ if consumer.paused => crowd.paused += 1,
                _ if !passes(consumer) => crowd.filtered += 1,
                _ if consumer.credit() == 0 => crowd.full += 1,
                _ => {}
            }
        }
        crowd
    }

    /// As [`deliver`](Self::deliver) has it.
    fn obstacles(&self, crowd: Crowd) -> (Vec<Obstacle>, Option<ConsumerInfo>) {
        let is_full = self.dead.is_full() && self.settings.dead_letter.is_some();
        let holder = self.settings.single_active.then(|| self.keeps_others_waiting()).flatten();
        let active = holder.map(|(session, _)| session);
        let of_queue = [
            (self.paused, Obstacle::QueuePaused),
            (is_full, Obstacle::TooManyDead),
            (self.is_expiry_behind(), Obstacle::ExpiryBehind),
        ];
        let of_queue = of_queue.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what);
        let obstacles = of_queue.chain(nobody(crowd, holder.map(|(_, consumer)| consumer)));
        (obstacles.collect(), active.and_then(|session| self.consumer_info(session)))
    }

    /// Where one consumer at a time is handed messages: who holds some, if that is not the one that is next.
    fn keeps_others_waiting(&self) -> Option<(Session, &Consumer)> {
        if self.consumers.active(self.leased.len()).is_some() {
            return None;
        }
        self.consumers.iter().find(|(_, consumer)| consumer.leased > 0)
    }

    fn kept(&self, at: u64) -> Option<Kept> {
        let batch = self.readable(at).next().filter(|batch| batch.first <= at)?;
        let retains = self.settings.retains();
        let needs = self.slots.iter().filter(|(_, slot)| slot.needs(batch));
        Some(Kept {
            readable: retains || self.slots.need(batch),
            held: batch.remaining,
            until: self.settings.retain_ms.map(|age| batch.since.plus(age)),
            slots: needs.map(|(name, _)| name.clone()).collect(),
        })
    }

    fn ways(&self) -> Vec<(Way, u64)> {
        let gone = &self.gone;
        let ways = [
            (Way::Acked, gone.acked),
            (Way::Rejected, gone.rejected),
            (Way::Exhausted, gone.exhausted),
            (Way::Expired, gone.expired),
            (Way::Dropped, gone.dropped),
            (Way::DeadLettered, gone.dead_lettered),
            (Way::Purged, gone.purged),
        ];
        ways.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// Why no consumer takes anything, if none does. `holder` keeps the others waiting where one at a time is handed messages.
fn nobody(crowd: Crowd, holder: Option<&Consumer>) -> Option<Obstacle> {
    let Crowd { all, away, paused, filtered, full } = crowd;
    if all == 0 {
        return Some(Obstacle::NoConsumer);
    }
    if let Some(holder) = holder {
        let is_full = holder.is_connected() && !holder.paused && holder.credit() == 0;
        return Some(if is_full { Obstacle::ActiveFull } else { Obstacle::OthersHold });
    }
    match () {
        () if away == all => Some(Obstacle::ConsumersAway),
        () if away + paused == all => Some(Obstacle::ConsumersPaused),
        () if away + paused + filtered == all => Some(Obstacle::FilteredOut),
        () if away + paused + filtered + full == all => Some(Obstacle::CreditUsed),
        () => None,
    }
}

fn run_of(batch: &Batch, at: u64) -> Run {
    Run {
        first_offset: Offset(at),
        count: 1,
        attempt: 0,
        index: LogIndex(batch.index),
        ordinal: batch.ordinal,
        skip: (at - batch.first) as u32,
    }
}
