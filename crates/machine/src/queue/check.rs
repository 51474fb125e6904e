//! A full proof that the state does not contradict itself.
//!
//! What is asserted after every command has to be cheap. This is the rest: it looks at every
//! record, so it is for restoring, for tests and for the simulation.

use super::Queue;
use super::leased;
use super::message_ids::MESSAGE_IDS_MAX;
use super::ready::Span;
use super::retry::UNCHARGED_MAX;
use super::slots::SLOTS_MAX;
use super::sources::SOURCES_MAX;
use crate::Millis;
use crate::planted::{self, Bug};

type Check = Result<(), &'static str>;

impl Queue {
    /// Compares every record with every other that must agree with it. Takes
    /// `O((batches + runs) log runs)`.
    ///
    /// # Errors
    /// Names the first rule that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        self.check_batches()?;
        self.check_retained()?;
        self.check_slots()?;
        self.check_messages()?;
        self.check_groups()?;
        self.check_counts()?;
        self.check_dead()?;
        self.check_message_ids()?;
        self.check_consumers()?;
        self.check_lives()?;
        self.check_tags()?;
        self.check_retries()
    }

    fn check_batches(&self) -> Check {
        let mut end = 0;
        let mut index = 0;
        for batch in self.backlog.iter() {
            rule(batch.first >= end, "batches do not overlap")?;
            rule(batch.index >= index, "batches are in the order of the log")?;
            end = batch.end();
            index = batch.index;
        }
        rule(end <= self.ready.next(), "batches end where the queue does")
    }

    /// Retained batches are apart from those that are held, and kept because the settings say so.
    fn check_retained(&self) -> Check {
        let mut end = 0;
        for batch in self.retained.iter() {
            rule(batch.first >= end, "retained batches do not overlap")?;
            end = batch.end();
            let held = self.backlog.from(batch.first).next();
            rule(held.is_none_or(|held| held.first >= end), "a batch is held or retained")?;
        }
        rule(end <= self.ready.next(), "retained batches end where the queue does")?;
        // A seek makes one of them.
        let (mut index, mut since) = (0, Millis(0));
        for batch in self.readable(0) {
            let in_order = batch.index >= index && batch.since >= since;
            rule(in_order, "held and retained batches are in the order of the log")?;
            (index, since) = (batch.index, batch.since);
        }
        rule(since <= self.now, "no batch is younger than the queue")?;
        let wanted = self.settings.retains()
            || self.retained.oldest().is_none_or(|oldest| self.slots.need(oldest));
        rule(wanted, "what is retained is wanted by the settings or a slot")
    }

    /// All that a slot needs is there, or the slot is lost.
    fn check_slots(&self) -> Check {
        rule(self.slots.len() <= SLOTS_MAX, "there are no more slots than may be")?;
        if planted::is(Bug::TrimPastSlots) {
            // It would be found here. It is to be found by what readers are shown.
            return Ok(());
        }
        let (gapless, next) = (self.gapless_from(), self.ready.next());
        for (_, slot) in self.slots.iter() {
            rule(slot.position <= next, "a slot is within the queue")?;
            match slot.lost_from {
                None => rule(slot.position >= gapless, "a slot skips nothing")?,
                Some(from) => {
                    let within = (slot.position..next).contains(&from);
                    rule(within, "a lost slot lost something that it needed")?;
                }
            }
            let mut counted = slot.clone();
            counted.count(&self.retained);
            rule(counted.pinned == slot.pinned, "a slot counts what is retained for it")?;
        }
        Ok(())
    }

    /// Every message that a batch has left is in one place, and no other message is in any.
    fn check_messages(&self) -> Check {
        let spans = self.spans();
        let overlap = spans.windows(2).any(|pair| pair[0].end() > pair[1].first);
        rule(!overlap, "a message is in one place")?;
        let mut rest = spans.as_slice();
        for batch in self.backlog.iter() {
            let before = rest.partition_point(|span| span.end() <= batch.first);
            rest = &rest[before..];
            let within = rest.iter().take_while(|span| span.first < batch.end());
            let held: u64 =
                within.map(|span| span.end().min(batch.end()) - span.first.max(batch.first)).sum();
            rule(held == u64::from(batch.remaining), "a batch has left what is held of it")?;
        }
        // With the sums equal, nothing is held outside of the batches.
        let held: u64 = spans.iter().map(|span| span.count).sum();
        rule(held == self.backlog.messages(), "every message held has a batch")
    }

    /// A group has one head, which has its place, and all others of it are blocked.
    fn check_groups(&self) -> Check {
        if self.groups.is_empty() {
            return Ok(());
        }
        let placed = self.placed();
        for (offset, group) in self.groups.heads() {
            let at = placed.partition_point(|span| span.end() <= offset);
            let is_placed = placed.get(at).is_some_and(|span| span.first <= offset);
            rule(is_placed, "the head of a group is ready, delayed or leased")?;
            rule(self.groups.head(group) == Some(offset), "a group has one head")?;
        }
        let mut count = 0;
        for (group, first, run) in self.groups.blocked() {
            let head = self.groups.head(group);
            let other = head.is_some_and(|head| !(first..first + run.count).contains(&head));
            rule(other, "what is blocked waits for a head")?;
            count += run.count;
        }
        rule(count == self.groups.len(), "blocked messages are counted")
    }

    /// All that is held, by offset.
    pub(super) fn spans(&self) -> Vec<Span> {
        let mut spans = self.living();
        spans.extend(self.dead.iter().map(|died| died.span));
        spans.sort_unstable_by_key(|span| span.first);
        spans
    }

    /// All that is held and not dead, by offset.
    fn living(&self) -> Vec<Span> {
        let mut spans = self.placed();
        spans.extend(self.groups.spans());
        spans.sort_unstable_by_key(|span| span.first);
        spans
    }

    /// All that is held, and neither blocked nor dead, by offset.
    fn placed(&self) -> Vec<Span> {
        let returned = self.ready.returned();
        let delayed = self.delayed.iter().map(|(_, span)| span);
        let leased = self.leased.iter().map(|(_, first, lease)| leased::span(first, &lease));
        let fresh = Span {
            first: self.ready.cursor(),
            count: self.ready.fresh(),
            attempts: 0,
            priority: 0,
        };
        let mut spans: Vec<Span> =
            returned.chain(self.ready.urgent()).chain(delayed).chain(leased).collect();
        spans.extend((fresh.count > 0).then_some(fresh));
        spans.sort_unstable_by_key(|span| span.first);
        spans
    }

    fn check_counts(&self) -> Check {
        let gone = &self.gone;
        let counts = [
            self.ready.len(),
            self.delayed.len(),
            self.leased.len(),
            self.groups.len(),
            gone.acked,
            gone.rejected,
            gone.exhausted,
            gone.purged,
            gone.expired,
            gone.dropped,
            self.dead.len(),
            gone.dead_lettered,
        ];
        let sum = counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count));
        let came = self.ready.next().checked_add(gone.replayed);
        rule(came.is_some() && sum == came, "every message published is held or gone")
    }

    /// Only messages that are held have times of their own, and those of lapsed runs are leased, or blocked.
    fn check_lives(&self) -> Check {
        let expiry = &self.expiry;
        let has_ttl = self.settings.ttl_ms.is_some();
        rule(expiry.judged <= self.ready.next(), "nothing is judged before it is published")?;
        let fits = has_ttl || (expiry.judged, expiry.since) == (0, Millis(0));
        rule(fits, "where there is no time to live, nothing is judged by it")?;
        if expiry.lives.is_empty() {
            return Ok(());
        }
        let held = self.living();
        let mut leased: Vec<Span> =
            self.leased.iter().map(|(_, first, lease)| leased::span(first, &lease)).collect();
        leased.extend(self.groups.spans());
        leased.sort_unstable_by_key(|span| span.first);
        for (first, life) in expiry.lives.iter() {
            rule(has_ttl || life.due.is_none(), "times to live count where there is one")?;
            let among = if life.lapsed { &leased } else { &held };
            let end = first + life.count;
            let from = among.partition_point(|span| span.end() <= first);
            let within = among[from..].iter().take_while(|span| span.first < end);
            let there: u64 = within.map(|span| span.end().min(end) - span.first.max(first)).sum();
            rule(there == life.count, "what has a time of its own is where it is waited for")?;
        }
        Ok(())
    }

    /// Only messages that are held and not dead have a tag, and those that are ready are found by it.
    fn check_tags(&self) -> Check {
        let tags = &self.ready.tags;
        if !tags.is_empty() {
            let held = self.living();
            for (first, count, _) in tags.iter() {
                let (end, from) = (first + count, held.partition_point(|span| span.end() <= first));
                let within = held[from..].iter().take_while(|span| span.first < end);
                let there: u64 =
                    within.map(|span| span.end().min(end) - span.first.max(first)).sum();
                rule(there == count, "what has a tag is held")?;
            }
        }
        rule(self.ready.is_parted_by_tag(), "what is ready is found by its tag")?;
        let (mut filtered, mut are_right) = (0, true);
        for (_, consumer) in self.consumers.iter().filter(|(_, of)| !of.filter.is_empty()) {
            filtered += 1;
            are_right &= self.settings.filter_header.is_some() && !consumer.tags.is_empty();
        }
        are_right &= filtered == self.consumers.filtered();
        rule(are_right, "who has a filter is counted, and the queue filters")
    }

    /// What is not to be charged is held, and who leaves it open has said that he tells.
    fn check_retries(&self) -> Check {
        let tells = |session| self.consumers.get(session).is_some_and(|c| c.tells_starts);
        let mut unstarted = self.leased.iter().filter(|(_, _, lease)| !lease.started);
        rule(unstarted.all(|(session, _, _)| tells(session)), "who tells nothing is charged")?;
        if self.uncharged.is_empty() {
            return Ok(());
        }
        let spans = self.living();
        for (first, count, times) in self.uncharged.iter() {
            rule((1..=UNCHARGED_MAX).contains(&times), "what came back uncharged is counted")?;
            let after = spans.partition_point(|span| span.end() <= first);
            let within = spans[after..].iter().take_while(|span| span.first < first + count);
            let held: u64 =
                within.map(|span| span.end().min(first + count) - span.first.max(first)).sum();
            rule(held == count && first + count <= self.ready.cursor(), "what came back is held")?;
        }
        Ok(())
    }

    /// What died is dead, was moved or was purged, and each had a number.
    fn check_dead(&self) -> Check {
        let known = self.dead.len().checked_add(self.gone.dead_lettered);
        rule(known.is_some_and(|known| known <= self.dead.next()), "what died has a number")?;
        let (mut count, mut end) = (0, 0);
        for died in self.dead.iter() {
            rule(died.seq >= end, "what is dead is in the order of dying")?;
            (count, end) = (count + died.span.count, died.end());
        }
        rule(end <= self.dead.next(), "what is dead has a number that was given")?;
        rule(count == self.dead.len(), "what is dead is counted")?;
        rule(self.sources.len() <= SOURCES_MAX, "there are no more sources than may be")
    }

    fn check_message_ids(&self) -> Check {
        rule(
            self.message_ids.len() <= MESSAGE_IDS_MAX as usize,
            "there are no more ids than may be",
        )?;
        let (mut end, mut since) = (0, Millis(0));
        for (_, entered) in self.message_ids.iter() {
            rule(entered.first >= end, "ids are in the order of their batches")?;
            rule(entered.since >= since, "ids are in the order of their age")?;
            (end, since) = (entered.first + u64::from(entered.count), entered.since);
        }
        rule(since <= self.now, "no id is younger than the queue")?;
        rule(end <= self.ready.next(), "an id is of a batch that entered")
    }

    fn check_consumers(&self) -> Check {
        for (session, consumer) in self.consumers.iter() {
            let leased: u64 =
                self.leased.of(session).map(|(_, lease)| u64::from(lease.count)).sum();
            rule(leased == u64::from(consumer.leased), "a consumer counts its leases")?;
            let waits = consumer.credit() > 0;
            rule(consumer.in_turn == waits, "who has credit waits for a turn, nobody else")?;
            let wanted = consumer.receiver.is_none_or(|of| consumer.leased > 0 || of.wants > 0);
            rule(wanted, "a receiver holds something or wants something")?;
        }
        let known = |session| self.consumers.get(session).is_some();
        let owned = self.leased.iter().all(|(session, _, _)| known(session));
        rule(owned, "a lease belongs to a session")
    }
}

fn rule(holds: bool, rule: &'static str) -> Check {
    if holds { Ok(()) } else { Err(rule) }
}
