//! Handing out: which message goes to which consumer, decided once an entry.
//!
//! In rounds: each consumer with credit gets an equal share of what is ready, the highest priority first and of it
//! the lowest offsets, the one that has waited longest first. A share is a run of neighbours rather than every
//! n-th message, since a run is one record however long it is; it is at most [`SHARE_MAX`], so
//! that consumers work side by side at one end of the queue, not far apart in it.
//!
//! Before that, and in rounds of their own, those with a filter get what they filter for: the others can take what is left.
//!
//! Where one consumer at a time is active (see `consumers`), it gets all that it can take, and nobody else anything.

use std::collections::{BTreeMap, VecDeque};

use super::Queue;
use super::consumers::Consumer;
use super::effect::{Effect, Run};
use super::ids::{Session, Token};
use super::leased::Lease;
use super::ready::Span;
use super::settings::{LEASE_MS_MAX, Settings};
use crate::planted::{self, Bug};
use crate::{Millis, NodeId};

/// Most messages that a consumer gets in one round.
const SHARE_MAX: u64 = 64;

/// Grants that memory is kept for between two entries.
const GRANTS_KEPT: usize = 64;

/// A lease in the making, of one round; those of one consumer become one if they follow each other.
#[derive(Debug)]
pub(super) struct Grant {
    session: Session,
    node: NodeId,
    deadline: Millis,
    tells_starts: bool,
    span: Span,
}

impl Queue {
    pub(super) fn deliver(&mut self, token: Token, effects: &mut Vec<Effect>) {
        let nobody_waits =
            self.consumers.turn().is_empty() && self.consumers.filtered_turn().is_empty();
        if self.ready.len() == 0 || nobody_waits || self.paused {
            return;
        }
        // What is handed out may die.
        let is_full = self.dead.is_full() && self.settings.dead_letter.is_some();
        if is_full || self.is_expiry_behind() {
            return;
        }
        let mut grants = std::mem::take(&mut self.grants);
        let is_single = self.settings.single_active && !planted::is(Bug::ServeStandby);
        let single = is_single.then(|| self.consumers.active(self.leased.len()));
        if single.is_none() && !self.consumers.filtered_turn().is_empty() {
            self.deliver_filtered(&mut grants);
        }
        while self.ready.len() > 0 && !self.consumers.turn().is_empty() {
            let waiting = match single {
                None => self.consumers.turn().len(),
                Some(active) if active.is_some_and(|active| self.consumers.is_next(active)) => 1,
                Some(_) => break,
            };
            let share = (self.ready.len() / waiting as u64).clamp(1, SHARE_MAX);
            for _ in 0..waiting {
                let Some(grant) = self.next_grant(share) else {
                    break;
                };
                grants.push(grant);
            }
        }
        self.consumers.served(grants.iter().map(|grant| grant.session));
        // By session; what each is handed stays in order, and neighbours of one are one lease.
        grants.sort_by_key(|grant| grant.session);
        grants.dedup_by(|next, last| last.joins(next));
        for grants in grants.chunk_by(|a, b| a.session == b.session) {
            let mut runs = Vec::with_capacity(grants.len());
            grants.iter().for_each(|grant| self.grant(token, grant, &mut runs));
            let Grant { session, node, .. } = grants[0];
            effects.push(Effect::Deliver { session, node, token, runs });
        }
        grants.clear();
        grants.shrink_to(GRANTS_KEPT);
        self.grants = grants;
    }

    /// Hands those with a filter what they filter for, until none of them can take anything more.
    fn deliver_filtered(&mut self, grants: &mut Vec<Grant>) {
        let mut line = self.consumers.take_filtered_turn();
        // Who finds nothing now does not find anything later in the entry, and has waited longest in the next one.
        let mut idle = VecDeque::with_capacity(line.len());
        while !line.is_empty() && self.ready.has_tagged() {
            let waiting = line.len();
            let share = (self.ready.len() / waiting as u64).clamp(1, SHARE_MAX);
            for session in line.drain(..).collect::<Vec<_>>() {
                let Some(grant) = self.filtered_grant(session, share) else {
                    idle.push_back(session);
                    continue;
                };
                if self.consumers.serve_filtered(session, grant.span.count as u32) {
                    line.push_back(session);
                }
                grants.push(grant);
            }
        }
        idle.append(&mut line);
        self.consumers.put_filtered_turn(idle);
    }

    /// Takes up to `share` messages for the consumer whose turn it is.
    fn next_grant(&mut self, share: u64) -> Option<Grant> {
        let (session, consumer) = self.consumers.next_turn()?;
        let span = self.ready.take(share.min(consumer.credit().into()))?;
        let grant = Grant::new(session, consumer, span, self.now, &self.settings);
        self.consumers.serve(span.count as u32, self.settings.single_active);
        Some(grant)
    }

    /// As [`next_grant`](Self::next_grant), for one with a filter; nothing, if there is nothing for it.
    fn filtered_grant(&mut self, session: Session, share: u64) -> Option<Grant> {
        let consumer = self.consumers.get(session)?;
        let most = share.min(consumer.credit().into());
        let span = match planted::is(Bug::IgnoreFilter) {
            true => self.ready.take(most),
            false => self.ready.take_of(&consumer.tags, most),
        }?;
        Some(Grant::new(session, consumer, span, self.now, &self.settings))
    }

    fn grant(&mut self, token: Token, grant: &Grant, runs: &mut Vec<Run>) {
        let &Grant { session, node: _, deadline, tells_starts, span } = grant;
        let attempt = span.attempts.saturating_add(1);
        // A consumer holds at most its prefetch, which is far below 2^32.
        let (count, started, priority) = (span.count as u32, !tells_starts, span.priority);
        let lease = Lease { count, attempt, token, deadline, priority, started };
        self.leased.insert(session, span.first, lease);
        self.backlog.runs(span.first, span.count, attempt, runs);
    }

    /// Hands a consumer all that it has leased, once more, under the same tokens.
    pub(super) fn deliver_again(&self, session: Session, node: NodeId, effects: &mut Vec<Effect>) {
        let mut by_token: BTreeMap<Token, Vec<Run>> = BTreeMap::new();
        for (first, lease) in self.leased.of(session) {
            let runs = by_token.entry(lease.token).or_default();
            self.backlog.runs(first, lease.count.into(), lease.attempt, runs);
        }
        effects.extend(by_token.into_iter().map(|(token, runs)| Effect::Deliver {
            session,
            node,
            token,
            runs,
        }));
    }
}

impl Grant {
    fn new(
        session: Session,
        consumer: &Consumer,
        span: Span,
        now: Millis,
        settings: &Settings,
    ) -> Self {
        let lease_ms = consumer.lease_ms.unwrap_or(settings.lease_ms).clamp(1, LEASE_MS_MAX);
        let lease_ms = if planted::is(Bug::ExpireEarly) { lease_ms / 2 } else { lease_ms };
        let deadline = now.plus(lease_ms.into());
        let (node, tells_starts) = (consumer.node, consumer.tells_starts);
        Self { session, node, deadline, tells_starts, span }
    }

    /// Takes over what `next` grants, if it goes on with this one.
    fn joins(&mut self, next: &Self) -> bool {
        let goes_on = self.continues_with(next);
        self.span.count += if goes_on { next.span.count } else { 0 };
        goes_on
    }

    fn continues_with(&self, next: &Grant) -> bool {
        self.session == next.session
            && self.span.end() == next.span.first
            && self.span.attempts == next.span.attempts
            && self.span.priority == next.span.priority
    }
}
