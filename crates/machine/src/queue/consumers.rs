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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use super::command::Attach;
use super::ids::{Attachment, Session};
use crate::{Millis, NodeId};

/// Most sessions of a queue, those in grace included.
pub const CONSUMERS_MAX: u32 = 10_000;

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
}

impl Consumer {
    /// Messages that it can be handed now.
    pub fn credit(&self) -> u32 {
        match self.grace {
            None if !self.paused => self.prefetch.saturating_sub(self.leased),
            _ => 0,
        }
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    sessions: BTreeMap<Session, Consumer>,
    /// Who is served next: the one that waits longest is in front.
    turn: VecDeque<Session>,
    graces: BTreeSet<(Millis, Session)>,
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
        Self { sessions, turn, graces, attachments }
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

    /// Who waits for messages, the next one first.
    pub fn turn(&self) -> &VecDeque<Session> {
        &self.turn
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
    pub fn attach(&mut self, attach: Attach) -> (Attachment, Option<Consumer>) {
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
        };
        self.sessions.insert(attach.session, consumer);
        self.join_turn(attach.session);
        (attachment, before)
    }

    /// Ends a session; its leases are the caller's to return.
    pub fn remove(&mut self, session: Session) -> Option<Consumer> {
        let consumer = self.sessions.remove(&session)?;
        if let Some(until) = consumer.grace {
            self.graces.remove(&(until, session));
        }
        if consumer.in_turn {
            self.turn.retain(|&waiting| waiting != session);
        }
        Some(consumer)
    }

    /// Pauses a session, or resumes it.
    pub fn pause(&mut self, session: Session, paused: bool) {
        let Some(consumer) = self.sessions.get_mut(&session) else {
            return;
        };
        consumer.paused = paused;
        if paused && std::mem::take(&mut consumer.in_turn) {
            self.turn.retain(|&waiting| waiting != session);
        }
        self.join_turn(session);
    }

    /// What a snapshot says of a session, if it is known.
    pub fn restore_flags(&mut self, session: Session, paused: bool, tells_starts: bool) -> bool {
        let consumer = self.sessions.get_mut(&session);
        consumer.map(|c| (c.paused, c.tells_starts) = (paused, tells_starts)).is_some()
    }

    /// Starts the grace period of a session, if it is connected.
    pub fn disconnect(&mut self, session: Session, until: Millis) {
        let Some(consumer) = self.sessions.get_mut(&session) else {
            return;
        };
        if consumer.grace.is_none() {
            consumer.grace = Some(until);
            self.graces.insert((until, session));
            if std::mem::take(&mut consumer.in_turn) {
                self.turn.retain(|&waiting| waiting != session);
            }
        }
    }

    /// Starts the grace period of every session that is connected.
    pub fn disconnect_all(&mut self, until: Millis) {
        self.turn.clear();
        for (&session, consumer) in &mut self.sessions {
            consumer.in_turn = false;
            if consumer.grace.is_none() {
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

    /// When the next grace period is over.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.graces.first().map(|&(until, _)| until)
    }

    /// The one that is handed messages where one at a time is, with `leased` messages leased in all: who holds those,
    /// or else, of those that can take some, who has been attached longest. None while others hold some.
    pub fn active(&self, leased: u64) -> Option<Session> {
        let waiting = self.turn.iter().map(|&session| (session, &self.sessions[&session]));
        let may = waiting.filter(|(_, consumer)| u64::from(consumer.leased) == leased);
        may.min_by_key(|(_, consumer)| consumer.attachment).map(|(session, _)| session)
    }

    /// Makes `session` the next one, if it waits for messages.
    pub fn bring_forward(&mut self, session: Session) -> bool {
        let at = self.turn.iter().position(|&waiting| waiting == session);
        at.is_some_and(|at| {
            self.turn.swap(0, at);
            true
        })
    }

    /// Who is next, and how many it can take.
    pub fn next_turn(&self) -> Option<(Session, &Consumer)> {
        let &session = self.turn.front()?;
        Some((session, &self.sessions[&session]))
    }

    /// The next one was handed `count` messages; if it can take more, it goes to the end.
    pub fn serve(&mut self, count: u32) {
        let session = self.turn.pop_front().expect("somebody was served");
        let consumer = self.sessions.get_mut(&session).expect("who waits is known");
        consumer.leased += count;
        consumer.in_turn = false;
        self.join_turn(session);
    }

    /// `count` messages are no longer leased to a session.
    pub fn release(&mut self, session: Session, count: u64) {
        if let Some(consumer) = self.sessions.get_mut(&session) {
            let left = u64::from(consumer.leased).checked_sub(count);
            consumer.leased = left.expect("a consumer gives back what it has") as u32;
            self.join_turn(session);
        }
    }

    /// All leases are gone.
    pub fn release_all(&mut self) {
        let sessions: Vec<Session> = self.sessions.keys().copied().collect();
        for session in sessions {
            let leased = self.sessions[&session].leased;
            self.release(session, leased.into());
        }
    }

    fn join_turn(&mut self, session: Session) {
        if let Some(consumer) = self.sessions.get_mut(&session)
            && !consumer.in_turn
            && consumer.credit() > 0
        {
            consumer.in_turn = true;
            self.turn.push_back(session);
        }
    }
}
