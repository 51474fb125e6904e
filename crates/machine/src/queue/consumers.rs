//! Who consumes: sessions, their credit, and whose turn it is.
//!
//! ```text
//!              attach                    disconnect, leader changed
//!   (unknown) ───────► connected ◄────────────────────────► grace ───► (unknown)
//!       ▲    ◄───────      │            attach                   time out
//!       └──── detach ──────┘
//! ```
//!
//! A consumer is in the turn while it is connected, not paused, and has credit, and only then; so handing out
//! never has to look at those that can take nothing.
//!
//! **One at a time.** Where one consumer at a time is handed messages, the turn is the line in which they stand by, and the
//! one in front is *active*, once nobody else holds anything. Who comes goes to the end of the line, and who settles what
//! it had is in front again; but who lets a lease run out goes to the end, and is handed nothing while another stands
//! in front of it. So one that hangs with its stream open does not keep the queue for itself, however its leases
//! overlap, and all that has to be remembered is the line. Who is paused is not in it, and goes to its end when resumed.
//!
//! **Filters.** Who has one stands in a line of their own, so that nobody else has to be looked at twice. It is served first,
//! as the others can take what is left; and by how many there are at most ([`FILTERED_MAX`]), the look at all of them that it
//! takes to find those for whom there is something stays small.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use super::command::{Attach, Receive};
use super::ids::{Attachment, Session};
use crate::{Millis, NodeId};

/// Most sessions of a queue, those in grace included.
pub const CONSUMERS_MAX: u32 = 10_000;

/// Most of them that have a filter.
pub const FILTERED_MAX: u32 = 1_000;

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Consumer {
    pub name: String,
    pub node: NodeId,
    pub prefetch: u32,
    pub lease_ms: Option<u32>,
    /// Messages leased to it.
    pub leased: u32,
    pub attachment: Attachment,
    /// When the session ends; none while it is connected.
    pub grace: Option<Millis>,
    /// It is handed nothing until it is resumed.
    pub paused: bool,
    /// It tells which messages it has begun to handle.
    pub tells_starts: bool,
    /// Whether it waits for its turn.
    pub in_turn: bool,
    /// What it waits for, if it has no stream and is handed messages on request.
    pub receiver: Option<Receiver>,
    /// Values of the queue's filter header; empty if it is handed any messages.
    pub filter: Vec<String>,
    /// The tags of these values.
    pub tags: Vec<u64>,
}

/// A request for messages; of one that is answered, nothing is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Receiver {
    /// Messages wanted at most.
    pub wants: u32,
    /// Until when.
    pub until: Millis,
}

impl Consumer {
    /// Messages that it can be handed now.
    pub fn credit(&self) -> u32 {
        match (self.receiver, self.grace) {
            _ if self.paused => 0,
            (Some(receiver), _) => receiver.wants,
            (None, None) => self.prefetch.saturating_sub(self.leased),
            (None, Some(_)) => 0,
        }
    }

    /// Whether somebody is there to be handed messages.
    pub fn is_connected(&self) -> bool {
        self.receiver.map_or(self.grace.is_none(), |receiver| receiver.wants > 0)
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    sessions: BTreeMap<Session, Consumer>,
    /// Who is served next: the one that waits longest is in front.
    turn: VecDeque<Session>,
    /// The same of those with a filter.
    filtered_turn: VecDeque<Session>,
    /// How many sessions have a filter.
    filtered: usize,
    graces: BTreeSet<(Millis, Session)>,
    /// Receivers that want something, by when they have waited long enough.
    waits: BTreeSet<(Millis, Session)>,
    attachments: u64,
}

impl Consumers {
    /// The state that a snapshot describes.
    pub fn from_parts(
        sessions: BTreeMap<Session, Consumer>,
        turn: VecDeque<Session>,
        attachments: u64,
    ) -> Self {
        let graces = sessions
            .iter()
            .filter_map(|(&session, consumer)| Some((consumer.grace?, session)))
            .collect();
        Self { sessions, turn, graces, attachments, ..Self::default() }
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// All sessions, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (Session, &Consumer)> {
        self.sessions.iter().map(|(&session, consumer)| (session, consumer))
    }

    /// Sessions beyond `after`, in order of their ids.
    pub fn after(&self, after: Option<Session>) -> impl Iterator<Item = (Session, &Consumer)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.sessions
            .range((from, Bound::Unbounded))
            .map(|(&session, consumer)| (session, consumer))
    }

    /// Who waits for messages and has no filter, the next one first.
    pub fn turn(&self) -> &VecDeque<Session> {
        &self.turn
    }

    /// Who waits for messages and has a filter, the next one first.
    pub fn filtered_turn(&self) -> &VecDeque<Session> {
        &self.filtered_turn
    }

    /// How many sessions have a filter.
    pub fn filtered(&self) -> usize {
        self.filtered
    }

    /// Attach commands so far.
    pub fn attachments(&self) -> u64 {
        self.attachments
    }

    /// A session.
    pub fn get(&self, session: Session) -> Option<&Consumer> {
        self.sessions.get(&session)
    }

    /// Connects a session and gives what it was before, if it was known.
    /// `tags` are those of its filter.
    pub fn attach(&mut self, attach: Attach, tags: Vec<u64>) -> (Attachment, Option<Consumer>) {
        let before = self.remove(attach.session);
        self.attachments += 1;
        let attachment = Attachment(self.attachments);
        let consumer = Consumer {
            name: attach.name,
            node: attach.node,
            prefetch: attach.prefetch,
            lease_ms: attach.lease_ms,
            leased: before.as_ref().map_or(0, |before| before.leased),
            attachment,
            grace: None,
            paused: before.as_ref().is_some_and(|before| before.paused),
            tells_starts: attach.tells_starts,
            in_turn: false,
            receiver: None,
            filter: attach.filter,
            tags,
        };
        self.filtered += usize::from(!consumer.filter.is_empty());
        self.sessions.insert(attach.session, consumer);
        self.join_turn(attach.session, false);
        (attachment, before)
    }

    /// Has a receiver want messages until then; one that does already wants these instead.
    pub fn receive(&mut self, receive: Receive, tags: Vec<u64>, until: Millis) -> Attachment {
        let Receive { session, node, name, count: prefetch, lease_ms, wait_ms: _, filter } =
            receive;
        let attach =
            Attach { session, node, name, prefetch, lease_ms, tells_starts: false, filter };
        let (attachment, _) = self.attach(attach, tags);
        self.set_receiver(session, Receiver { wants: prefetch, until });
        self.join_turn(session, false);
        attachment
    }

    /// What a session that has no stream waits for.
    pub fn set_receiver(&mut self, session: Session, receiver: Receiver) {
        if let Some(consumer) = self.sessions.get_mut(&session) {
            consumer.receiver = Some(receiver);
            if receiver.wants > 0 {
                self.waits.insert((receiver.until, session));
            }
        }
    }

    /// A receiver that has waited long enough.
    pub fn wait_over(&self, now: Millis) -> Option<Session> {
        let &(until, session) = self.waits.first()?;
        (until <= now).then_some(session)
    }

    /// A receiver wants nothing any more; if it holds nothing either, it is gone.
    pub fn stop_waiting(&mut self, session: Session) {
        let Some(consumer) = self.sessions.get_mut(&session) else { return };
        let Some(receiver) = &mut consumer.receiver else { return };
        if std::mem::take(&mut receiver.wants) > 0 {
            self.waits.remove(&(std::mem::take(&mut receiver.until), session));
        }
        let holds_nothing = consumer.leased == 0;
        if std::mem::take(&mut consumer.in_turn) {
            self.leave_turn(session);
        }
        if holds_nothing {
            self.remove(session);
        }
    }

    fn leave_turn(&mut self, session: Session) {
        self.turn.retain(|&waiting| waiting != session);
        self.filtered_turn.retain(|&waiting| waiting != session);
    }

    /// What a snapshot says of a session with a filter, if it is known.
    pub fn restore_filter(
        &mut self,
        session: Session,
        filter: Vec<String>,
        tags: Vec<u64>,
    ) -> bool {
        let Some(consumer) = self.sessions.get_mut(&session) else { return false };
        let is_new = consumer.filter.is_empty() && !consumer.in_turn;
        (consumer.filter, consumer.tags) = (filter, tags);
        self.filtered += usize::from(is_new);
        is_new
    }

    /// What a snapshot says of who waits and has a filter: the next one. False if it cannot be.
    pub fn restore_filtered_turn(&mut self, session: Session) -> bool {
        let Some(consumer) = self.sessions.get_mut(&session) else { return false };
        let fits = !consumer.filter.is_empty() && !std::mem::replace(&mut consumer.in_turn, true);
        self.filtered_turn.push_back(session);
        fits
    }

    /// Sessions were handed all that one entry has for them: receivers among them want nothing more.
    pub fn served(&mut self, sessions: impl Iterator<Item = Session>) {
        if self.waits.is_empty() {
            return;
        }
        let mut left = false;
        for session in sessions {
            let Some(consumer) = self.sessions.get_mut(&session) else { continue };
            let Some(receiver) = &mut consumer.receiver else { continue };
            if std::mem::take(&mut receiver.wants) > 0 {
                self.waits.remove(&(std::mem::take(&mut receiver.until), session));
                left |= std::mem::take(&mut consumer.in_turn);
            }
        }
        if left {
            let Self { turn, filtered_turn, sessions, .. } = self;
            turn.retain(|session| sessions[session].in_turn);
            filtered_turn.retain(|session| sessions[session].in_turn);
        }
    }

    /// Ends a session; its leases are the caller's to return.
    pub fn remove(&mut self, session: Session) -> Option<Consumer> {
        let consumer = self.sessions.remove(&session)?;
        if let Some(until) = consumer.grace {
            self.graces.remove(&(until, session));
        }
        if let Some(receiver) = consumer.receiver {
            self.waits.remove(&(receiver.until, session));
        }
        if consumer.in_turn {
            self.leave_turn(session);
        }
        self.filtered -= usize::from(!consumer.filter.is_empty());
        Some(consumer)
    }

    /// Pauses a session, or resumes it; then it is behind all others.
    pub fn pause(&mut self, session: Session, paused: bool) {
        let Some(consumer) = self.sessions.get_mut(&session) else {
            return;
        };
        consumer.paused = paused;
        if paused && std::mem::take(&mut consumer.in_turn) {
            self.leave_turn(session);
        }
        self.join_turn(session, false);
    }

    /// What a snapshot says of a session, if it is known.
    pub fn restore_flags(&mut self, session: Session, paused: bool, tells_starts: bool) -> bool {
        let consumer = self.sessions.get_mut(&session);
        consumer.map(|c| (c.paused, c.tells_starts) = (paused, tells_starts)).is_some()
    }

    /// Starts the grace period of a session, if it is connected; a receiver has none, and stops waiting.
    pub fn disconnect(&mut self, session: Session, until: Millis) {
        let Some(consumer) = self.sessions.get_mut(&session) else {
            return;
        };
        if consumer.receiver.is_some() {
            return self.stop_waiting(session);
        }
        if consumer.grace.is_none() {
            consumer.grace = Some(until);
            self.graces.insert((until, session));
            if std::mem::take(&mut consumer.in_turn) {
                self.leave_turn(session);
            }
        }
    }

    /// Starts the grace period of every session that is connected.
    pub fn disconnect_all(&mut self, until: Millis) {
        self.turn.clear();
        self.filtered_turn.clear();
        self.waits.clear();
        self.sessions.retain(|_, consumer| consumer.receiver.is_none() || consumer.leased > 0);
        self.filtered = self.sessions.values().filter(|of| !of.filter.is_empty()).count();
        for (&session, consumer) in &mut self.sessions {
            consumer.in_turn = false;
            if let Some(receiver) = &mut consumer.receiver {
                *receiver = Receiver::default();
            } else if consumer.grace.is_none() {
                consumer.grace = Some(until);
                self.graces.insert((until, session));
            }
        }
    }

    /// A session whose grace period is over.
    pub fn grace_over(&self, now: Millis) -> Option<Session> {
        let &(until, session) = self.graces.first()?;
        (until <= now).then_some(session)
    }

    /// When the next grace period is over, or a receiver has waited long enough.
    pub fn next_deadline(&self) -> Option<Millis> {
        let firsts = [self.graces.first(), self.waits.first()];
        firsts.into_iter().flatten().map(|&(until, _)| until).min()
    }

    /// The one that is handed messages where one at a time is, with `leased` messages leased in all: who is in front,
    /// provided that nobody else holds any.
    pub fn active(&self, leased: u64) -> Option<Session> {
        let front = self.next_turn().filter(|(_, front)| u64::from(front.leased) == leased);
        front.map(|(session, _)| session)
    }

    /// From now on one at a time is handed messages: who has been attached longest is in front.
    pub fn line_up(&mut self) {
        let sessions = &self.sessions;
        self.turn.make_contiguous().sort_by_key(|session| sessions[session].attachment);
    }

    /// Whether `session` is the next one.
    pub fn is_next(&self, session: Session) -> bool {
        self.turn.front() == Some(&session)
    }

    /// Who is next among those without a filter.
    pub fn next_turn(&self) -> Option<(Session, &Consumer)> {
        let &session = self.turn.front()?;
        Some((session, &self.sessions[&session]))
    }

    /// Takes the line of those with a filter while they are served; it is put back in the order of their next turns.
    pub fn take_filtered_turn(&mut self) -> VecDeque<Session> {
        std::mem::take(&mut self.filtered_turn)
    }

    /// Puts back the line of those with a filter, without those that can take nothing more.
    pub fn put_filtered_turn(&mut self, line: VecDeque<Session>) {
        self.filtered_turn = line;
    }

    /// The next one without a filter was handed `count` messages; if it can take more, it goes to the end, or stays where it
    /// is if `single`.
    pub fn serve(&mut self, count: u32, single: bool) {
        let session = self.turn.pop_front().expect("somebody was served");
        if self.hand(session, count) {
            match single {
                true => self.turn.push_front(session),
                false => self.turn.push_back(session),
            }
        }
    }

    /// One of the line that was taken was handed `count` messages; whether it can take more.
    pub fn serve_filtered(&mut self, session: Session, count: u32) -> bool {
        self.hand(session, count)
    }

    /// One that waits was handed `count` messages; whether it can take more, and so waits again.
    fn hand(&mut self, session: Session, count: u32) -> bool {
        let consumer = self.sessions.get_mut(&session).expect("who waits is known");
        consumer.leased += count;
        if let Some(receiver) = &mut consumer.receiver {
            // What is left of it is wanted until the entry ends.
            let wants = receiver.wants - count;
            if wants == 0 {
                self.waits.remove(&(std::mem::take(&mut receiver.until), session));
            }
            receiver.wants = wants;
        }
        consumer.in_turn = consumer.credit() > 0;
        consumer.in_turn
    }

    /// A session has settled `count` messages; `single` if one at a time is handed messages.
    pub fn release(&mut self, session: Session, count: u64, single: bool) {
        if let Some(consumer) = self.sessions.get_mut(&session) {
            let left = u64::from(consumer.leased).checked_sub(count);
            consumer.leased = left.expect("a consumer gives back what it has") as u32;
            match consumer.receiver {
                Some(Receiver { wants: 0, .. }) if consumer.leased == 0 => {
                    self.remove(session);
                }
                _ => self.join_turn(session, single),
            }
        }
    }

    /// A session has let a lease of `count` messages run out; if `single`, it stands behind all others.
    pub fn release_expired(&mut self, session: Session, count: u64, single: bool) {
        self.release(session, count, false);
        let waits = |consumer: &Consumer| consumer.in_turn && consumer.filter.is_empty();
        if single && self.sessions.get(&session).is_some_and(waits) {
            self.turn.retain(|&waiting| waiting != session);
            self.turn.push_back(session);
        }
    }

    /// All leases are gone.
    pub fn release_all(&mut self, single: bool) {
        let sessions: Vec<Session> = self.sessions.keys().copied().collect();
        for session in sessions {
            let leased = self.sessions[&session].leased;
            self.release(session, leased.into(), single);
        }
    }

    fn join_turn(&mut self, session: Session, in_front: bool) {
        if let Some(consumer) = self.sessions.get_mut(&session)
            && !consumer.in_turn
            && consumer.credit() > 0
        {
            consumer.in_turn = true;
            match in_front {
                _ if !consumer.filter.is_empty() => self.filtered_turn.push_back(session),
                true => self.turn.push_front(session),
                false => self.turn.push_back(session),
            }
        }
    }
}
