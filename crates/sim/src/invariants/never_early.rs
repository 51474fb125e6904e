//! A lease does not end before its time by the leader's clock, unless its holder gives it up or its
//! session is over, also not by a seek beyond it; a message that was given back with a delay, or published for later, is not
//! delivered before its time.

use std::collections::{BTreeMap, BTreeSet};

use quorate_machine::queue::{
    Attach, Attachment, Command, Control, Effect, Receive, Reply, Session, Settings, SettleItem,
    SettleKind, Target, Token, Whereabouts,
};

use super::{Invariant, dues, must};
use crate::events::{Event, QueueEntry};
use crate::passages::{ended_by, place_of};

#[derive(Default)]
pub struct NeverEarly {
    queues: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    now_ms: u64,
    settings: Settings,
    sessions: BTreeMap<Session, Attached>,
    /// By offset: its last lease, and from when on it may be leased again.
    free_from: BTreeMap<u64, Free>,
    /// How many have left in other ways than by being settled or skipped.
    by_others: u64,
}

struct Attached {
    /// If not the queue's.
    lease_ms: Option<u32>,
    /// It has no stream that could break.
    receives: bool,
    /// It has a filter.
    filters: bool,
    attachment: Attachment,
    /// When its stream broke, unless it was attached again.
    broken_ms: Option<u64>,
}

#[derive(Clone, Copy)]
struct Free {
    session: Session,
    token: Token,
    attempt: u32,
    at_ms: u64,
}

impl Queue {
    fn applied(&mut self, command: &Command, reply: &Reply) {
        match (command, reply) {
            (Command::Configure(settings), Reply::Done) => self.configured(settings),
            (
                Command::Attach(Attach { session, lease_ms, filter, .. }),
                Reply::Attached { attachment, .. },
            ) => {
                self.end_if_grace_is_over(*session);
                let (lease_ms, attachment) = (*lease_ms, *attachment);
                let filters = !filter.is_empty();
                let attached =
                    Attached { lease_ms, receives: false, filters, attachment, broken_ms: None };
                self.sessions.insert(*session, attached);
            }
            (
                Command::Receive(Receive { session, lease_ms, filter, .. }),
                Reply::Attached { attachment, .. },
            ) => {
                let (lease_ms, attachment) = (*lease_ms, *attachment);
                let filters = !filter.is_empty();
                let attached =
                    Attached { lease_ms, receives: true, filters, attachment, broken_ms: None };
                self.sessions.insert(*session, attached);
            }
            (Command::Disconnect { session, attachment }, _) => {
                let now_ms = self.now_ms;
                if let Some(attached) = self.sessions.get_mut(session)
                    && attached.attachment == *attachment
                {
                    attached.broken_ms.get_or_insert(now_ms);
                }
            }
            (Command::LeaderChanged { .. }, _) => {
                let now_ms = self.now_ms;
                for attached in self.sessions.values_mut().filter(|of| !of.receives) {
                    attached.broken_ms.get_or_insert(now_ms);
                }
            }
            (Command::Detach { session, attachment }, _) => {
                let attached = self.sessions.get(session);
                if attached.is_some_and(|attached| attached.attachment == *attachment) {
                    self.free_all_of(*session, 0);
                }
            }
            (
                Command::Publish(publish),
                Reply::Published { first_offset, duplicate: false, .. },
            ) => {
                let dues = dues(&publish.properties).map(|due| due.unwrap_or_default());
                for (offset, due) in (first_offset.0..).zip(dues).filter(|(_, due)| due.0 > 0) {
                    let (session, token) = (Session(0), Token(0));
                    let free = Free { session, token, attempt: 0, at_ms: due.0 };
                    self.free_from.insert(offset, free);
                }
            }
            (Command::ControlConsumer { target, what: Control::Kick }, _) => match target {
                Target::Session(session) => self.free_all_of(*session, 0),
                // What nobody has held yet waits for its time all the same.
                Target::Named(_) | Target::Everyone => {
                    self.free_from.retain(|_, free| free.session == Session(0));
                }
            },
            (Command::Purge, _) => self.free_from.clear(),
            (Command::Settle { session, items }, Reply::Settled(settled)) => {
                for item in items {
                    let end = item.first.0.saturating_add(item.count.into());
                    let offsets = item.first.0..end;
                    for offset in offsets.filter(|offset| !settled.has_lost(*offset)) {
                        self.settled(*session, item, offset);
                    }
                }
            }
            _ => {}
        }
    }

    /// Another header to filter by ends the sessions that filter.
    fn configured(&mut self, settings: &Settings) {
        let before = std::mem::replace(&mut self.settings, settings.clone());
        if before.filter_header != self.settings.filter_header {
            let filtered = self.sessions.iter().filter(|(_, attached)| attached.filters);
            for session in filtered.map(|(session, _)| *session).collect::<Vec<_>>() {
                self.free_all_of(session, 0);
            }
        }
    }

    /// Until when a broken session keeps its leases.
    fn grace_ends_ms(&self, session: Session) -> Option<u64> {
        let broken_ms = self.sessions.get(&session)?.broken_ms?;
        Some(broken_ms + u64::from(self.settings.session_grace_ms))
    }

    /// A session that comes back too late comes back as a new one.
    fn end_if_grace_is_over(&mut self, session: Session) {
        if let Some(ended) = self.grace_ends_ms(session).filter(|ended| *ended <= self.now_ms) {
            self.free_all_of(session, ended);
        }
    }

    fn free_all_of(&mut self, session: Session, at_ms: u64) {
        for free in self.free_from.values_mut().filter(|free| free.session == session) {
            free.at_ms = free.at_ms.min(at_ms);
        }
    }

    fn settled(&mut self, session: Session, item: &SettleItem, offset: u64) {
        let now_ms = self.now_ms;
        let Some(free) = self.free_from.get_mut(&offset) else { return };
        if free.session != session || free.token != item.token {
            return;
        }
        match item.kind {
            // The least of a back-off: half of it. It doubles with each delivery.
            SettleKind::Nack { delay_ms: 0 } if self.settings.retry_ms > 0 => {
                let doubled = free.attempt.saturating_sub(1).min(32);
                let full = u64::from(self.settings.retry_ms) << doubled;
                let full = full.min(self.settings.retry_max_ms().into());
                free.at_ms = now_ms + full.div_ceil(2);
            }
            SettleKind::Nack { delay_ms } => free.at_ms = now_ms + u64::from(delay_ms),
            SettleKind::Return => free.at_ms = now_ms,
            SettleKind::Extend { lease_ms } => {
                free.at_ms = free.at_ms.max(now_ms + u64::from(lease_ms));
            }
            SettleKind::Ack | SettleKind::Reject | SettleKind::Start => {}
        }
    }

    fn leased(
        &mut self,
        session: Session,
        token: Token,
        offset: u64,
        attempt: u32,
    ) -> Result<(), String> {
        let attached = self.sessions.get(&session);
        let lease_ms =
            attached.map_or(0, |attached| attached.lease_ms.unwrap_or(self.settings.lease_ms));
        let next = Free { session, token, attempt, at_ms: self.now_ms + u64::from(lease_ms) };
        let Some(before) = self.free_from.get(&offset).copied() else {
            self.free_from.insert(offset, next);
            return Ok(());
        };
        if before.token == token {
            return Ok(());
        }
        self.free_from.insert(offset, next);
        let grace = self.grace_ends_ms(before.session);
        let free_from = before.at_ms.min(grace.unwrap_or(u64::MAX));
        must(free_from <= self.now_ms, || {
            format!(
                "offset {offset} attempt {attempt}: leased at {} under token {}, not free before \
                 {free_from}",
                self.now_ms, token.0
            )
        })
    }

    /// A seek beyond what a consumer holds leaves it to the consumer.
    fn skipped(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        let stats = entry.stats;
        let by_others = stats.purged + stats.exhausted + stats.expired + stats.dropped;
        if std::mem::replace(&mut self.by_others, by_others) != by_others {
            return Ok(());
        }
        let (mut skipped_below, mut settled) = (0, BTreeSet::new());
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            match (command, reply) {
                (Command::Seek { to, .. }, Reply::Sought { .. }) => {
                    skipped_below = skipped_below.max(to.0);
                }
                (Command::Settle { items, .. }, Reply::Settled(told)) => {
                    settled.extend(items.iter().flat_map(|item| ended_by(item, told)));
                }
                _ => {}
            }
        }
        let skipped = entry.left.iter().filter(|offset| **offset < skipped_below);
        for offset in skipped.filter(|offset| !settled.contains(offset)) {
            let is_leased = place_of(entry.before, *offset) == Some(Whereabouts::Leased);
            let Some(free) = self.free_from.get(offset).filter(|_| is_leased) else { continue };
            let grace = self.grace_ends_ms(free.session).unwrap_or(u64::MAX);
            must(free.at_ms.min(grace) <= self.now_ms, || {
                format!("offset {offset} was skipped, and a consumer holds it until {}", free.at_ms)
            })?;
        }
        Ok(())
    }

    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        self.now_ms = self.now_ms.max(entry.now_ms);
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            self.applied(command, reply);
        }
        self.skipped(entry)?;
        for (offset, of) in entry.returned {
            // As when it was published.
            self.free_from.remove(offset);
            if let Some(due) = of.due {
                let free = Free { session: Session(0), token: Token(0), attempt: 0, at_ms: due.0 };
                self.free_from.insert(*offset, free);
            }
        }
        for effect in entry.effects {
            let Effect::Deliver { session, token, runs, .. } = effect else { continue };
            // What is held already is repeated under the token that it had, maybe to one that is ended in the same entry.
            if token.0 != entry.index {
                continue;
            }
            for run in runs {
                for offset in run.first_offset.0..run.first_offset.0 + u64::from(run.count) {
                    self.leased(*session, *token, offset, run.attempt)?;
                }
            }
        }
        Ok(())
    }
}

impl Invariant for NeverEarly {
    fn name(&self) -> &'static str {
        "never_early"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Made(entry) = event else { return Ok(()) };
        let queue = self.queues.entry(entry.group).or_default();
        queue.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
    }
}
