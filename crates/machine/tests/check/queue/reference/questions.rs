//! What can be asked of the reference.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use quorate_machine::queue::{Session, tag_of};

use super::{Batch, Consumer, Message, Notice, Reference, State, is_held, lives};

/// The states, in the order in which they are counted.
pub const STATES: &str = "ready, delayed, blocked, leased, acked, rejected, exhausted, purged, expired, dropped, dead, dead_lettered";

impl State {
    /// Its place in [`STATES`].
    pub(super) fn number(self) -> usize {
        match self {
            Self::Ready => 0,
            Self::Delayed { .. } => 1,
            Self::Blocked { .. } => 2,
            Self::Leased { .. } => 3,
            Self::Acked => 4,
            Self::Rejected => 5,
            Self::Exhausted => 6,
            Self::Purged => 7,
            Self::Expired => 8,
            Self::Dropped => 9,
            Self::Dead { .. } => 10,
            Self::DeadLettered => 11,
        }
    }
}

impl Reference {
    /// Offsets that must be handed out now to those without a filter, when those that have one got `taken`: of the highest
    /// priority the lowest, as many as there is credit for.
    pub fn due_deliveries(&self, taken: &BTreeSet<u64>) -> Vec<u64> {
        let any = self.consumers.iter().filter(|(_, consumer)| consumer.filter.is_empty());
        let credit: u64 = match self.settings.single_active {
            _ if self.paused => 0,
            false => any.map(|(&session, _)| self.credit(session)).sum(),
            true => self.next_active().map_or(0, |session| self.credit(session)),
        };
        let ready = (0u64..).zip(&self.messages).filter(|(_, m)| m.state == State::Ready);
        let ready = ready.filter(|(offset, _)| !taken.contains(offset));
        let mut ready: Vec<(Reverse<u8>, u64)> =
            ready.map(|(offset, message)| (Reverse(message.priority), offset)).collect();
        ready.sort_unstable();
        let mut due: Vec<u64> =
            ready.into_iter().map(|(_, offset)| offset).take(credit as usize).collect();
        due.sort_unstable();
        due
    }

    /// Whether a consumer may be handed a message for what it filters by.
    pub fn passes(&self, session: Session, message: &Message) -> bool {
        let filter = &self.consumers[&session].filter;
        let header = self.settings.filter_header.as_deref();
        let is_value = |value: &String| {
            header.map(|header| tag_of(header, value.as_bytes())) == message.of.tag
        };
        filter.is_empty()
            || (!self.settings.single_active
                && message.of.tag.is_some()
                && filter.iter().any(is_value))
    }

    /// How urgent the ready messages are that a consumer may be handed; the least is the most urgent.
    pub fn ready_for(&self, session: Session) -> Vec<(Reverse<u8>, u64)> {
        let is_meant =
            |message: &Message| message.state == State::Ready && self.passes(session, message);
        let ready = (0u64..).zip(&self.messages).filter(|(_, message)| is_meant(message));
        ready.map(|(offset, message)| (Reverse(message.priority), offset)).collect()
    }

    /// Who is handed messages next where one at a time is.
    pub fn next_active(&self) -> Option<Session> {
        let front = self.line.first().copied()?;
        self.leases().count().eq(&self.leased_by(front).count()).then_some(front)
    }

    /// Where one at a time is handed messages, whether it is this one.
    pub fn is_active(&self, session: Session) -> bool {
        let (all, own) = (self.leases().count(), self.leased_by(session).count());
        let is_active = if all == 0 {
            self.line.first() == Some(&session)
        } else {
            own > 0 && !self.consumers[&session].paused
        };
        self.settings.single_active && is_active
    }

    pub fn credit(&self, session: Session) -> u64 {
        let consumer = &self.consumers[&session];
        let leased = self.leased_by(session).count() as u64;
        if consumer.paused {
            0
        } else if let Some((wants, _)) = consumer.receiver {
            wants.into()
        } else if consumer.grace.is_some() {
            0
        } else {
            u64::from(consumer.prefetch).saturating_sub(leased)
        }
    }

    /// Offsets and tokens of what a session holds.
    pub fn leased_by(&self, by: Session) -> impl Iterator<Item = (u64, u64)> {
        (0u64..).zip(&self.messages).filter_map(move |(offset, message)| match message.state {
            State::Leased { session, token, .. } if session == by => Some((offset, token)),
            _ => None,
        })
    }

    /// Offsets and tokens of what any session holds.
    pub fn leases(&self) -> impl Iterator<Item = (u64, u64)> {
        (0u64..).zip(&self.messages).filter_map(|(offset, message)| match message.state {
            State::Leased { token, .. } => Some((offset, token)),
            _ => None,
        })
    }

    /// What a session holds, as it is to be delivered again.
    pub(super) fn again(&self, session: Session) -> impl Iterator<Item = Notice> {
        let node = self.consumers[&session].node;
        self.leased_by(session).map(move |(offset, token)| {
            let &Message { deliveries: attempt, id, .. } = &self.messages[offset as usize];
            Notice::Again { session, node, token, offset, attempt, id }
        })
    }

    /// What a new leader must deliver again.
    pub fn outstanding(&self) -> Vec<Notice> {
        let has_stream =
            |consumer: &Consumer| consumer.grace.is_none() && consumer.receiver.is_none();
        let connected = self.consumers.iter().filter(|(_, consumer)| has_stream(consumer));
        connected.flat_map(|(&session, _)| self.again(session)).collect()
    }

    /// When something is due next, but for the forgetting of producers.
    pub fn next_deadline(&self) -> Option<u64> {
        let times = self.messages.iter().filter_map(|message| match message.state {
            State::Delayed { due } => Some(due),
            State::Leased { deadline, .. } => Some(deadline),
            _ => None,
        });
        let graces = self.consumers.values().filter_map(|consumer| match consumer.receiver {
            Some((wants, until)) => (wants > 0).then_some(until),
            None => consumer.grace,
        });
        let idle = self.slots.values().filter_map(|slot| self.idle_at(slot));
        let waits =
            |message: &&Message| matches!(message.state, State::Ready | State::Delayed { .. });
        let expiries = self.messages.iter().filter(waits).filter_map(|m| self.expires_at_latest(m));
        times.chain(expiries).chain(graces).chain(idle.filter(|&at| at > self.now)).min()
    }

    /// Messages by state, in the order of [`STATES`]; those that came back also where they were before.
    pub fn counts(&self) -> [u64; 12] {
        let mut counts = self.came_back;
        for message in &self.messages {
            counts[message.state.number()] += 1;
        }
        counts
    }

    /// How many messages came back after they were settled.
    pub fn replayed(&self) -> u64 {
        self.came_back.iter().sum()
    }

    pub fn held(&self) -> u64 {
        self.messages.iter().filter(|message| is_held(message)).count() as u64
    }

    pub fn first_held(&self) -> u64 {
        self.messages.iter().position(is_held).unwrap_or(self.messages.len()) as u64
    }

    /// Bytes held: of a batch that is partly gone, its share.
    pub fn bytes(&self) -> u64 {
        let mut remaining = vec![0; self.batches.len()];
        for message in self.messages.iter().filter(|message| is_held(message)) {
            remaining[message.batch] += 1;
        }
        let held = |(batch, left): (&Batch, u64)| batch.bytes * left / batch.count;
        self.batches.iter().zip(remaining).map(held).sum()
    }

    /// When the oldest message held came in.
    pub fn oldest(&self) -> Option<u64> {
        let oldest = self.messages.iter().find(|message| is_held(message))?;
        Some(self.batches[oldest.batch].since)
    }

    /// Log indexes whose bodies are needed.
    pub fn live(&self) -> BTreeSet<u64> {
        let held = self.held_batches();
        let needed = |(at, batch): &(usize, &Batch)| held.contains(at) || batch.kept;
        let batches = self.batches.iter().enumerate().filter(needed);
        batches.map(|(_, batch)| batch.index).collect()
    }

    /// Batches with a message that is held.
    pub(super) fn held_batches(&self) -> BTreeSet<usize> {
        let held = self.messages.iter().filter(|message| is_held(message));
        held.map(|message| message.batch).collect()
    }

    /// Offsets and ids of what a reader sees.
    pub fn readable(&self) -> Vec<(u64, u64)> {
        let batches = self.held_batches();
        let is_seen = |message: &Message| {
            let of_a_batch = batches.contains(&message.batch) || self.batches[message.batch].kept;
            let all = self.settings.retains() || self.is_needed(&self.batches[message.batch]);
            is_held(message) || (all && of_a_batch)
        };
        let seen = (0..).zip(&self.messages).filter(|(_, message)| is_seen(message));
        seen.map(|(offset, message)| (offset, message.id)).collect()
    }

    /// When a message came in, if anything of its batch is there.
    pub fn since(&self, offset: u64) -> Option<u64> {
        let at = self.messages[offset as usize].batch;
        let is_there = self.batches[at].kept || self.held_batches().contains(&at);
        is_there.then_some(self.batches[at].since)
    }

    /// Until when a message is delivered that is held, and by its own time to live alone.
    pub fn expiries(&self, offset: u64) -> [Option<u64>; 2] {
        let message = &self.messages[offset as usize];
        match lives(message) {
            true => [self.expires(message), message.expires],
            false => [None, None],
        }
    }

    /// Ready messages that go out before a ready one: in all, and of those the ones of a higher priority.
    pub fn before(&self, offset: u64) -> (u64, u64) {
        let priority = self.messages[offset as usize].priority;
        let ready = (0u64..).zip(&self.messages).filter(|(_, m)| m.state == State::Ready);
        let (mut all, mut by_priority) = (0, 0);
        for (other, message) in ready {
            by_priority += u64::from(message.priority > priority);
            all += u64::from((Reverse(message.priority), other) < (Reverse(priority), offset));
        }
        (all, by_priority)
    }

    /// The one of a blocked message's group that all others wait for, which is behind it if it was handed out before
    /// this one came back, and how many of the group are let go on before it.
    pub fn group_before(&self, offset: u64) -> (u64, u64) {
        let group = self.messages[offset as usize].group;
        let of_group = self.messages.iter().enumerate();
        let of_group = of_group.filter(|(_, message)| message.group == group && lives(message));
        let is_blocked = |message: &Message| matches!(message.state, State::Blocked { .. });
        let (blocked, free): (Vec<_>, Vec<_>) =
            of_group.partition(|(_, message)| is_blocked(message));
        let ahead = blocked.iter().filter(|(other, _)| (*other as u64) < offset).count();
        (free[0].0 as u64, 1 + ahead as u64)
    }

    pub fn producers(&self) -> u64 {
        self.producers.len() as u64
    }

    pub fn message_ids(&self) -> u64 {
        self.message_ids.len() as u64
    }

    pub fn expected_sequence(&self, producer: &[u8], epoch: u32) -> u64 {
        let known = self.producers.get(producer).filter(|known| known.epoch >= epoch);
        known.map_or(0, |producer| producer.next)
    }
}
