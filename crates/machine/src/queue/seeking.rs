//! Seeking: the queue's consumers are set to a place, back to what has been settled or forward beyond what has not.
//!
//! ```text
//!                            place
//!   ready, blocked ─────────── │ ──────────────►  before it: they leave, as if acked
//!   settled, bodies kept ───── │ ──────────────►  from it on: ready again, never delivered
//!   leased, delayed, dead ──── │ ──────────────►  stay what they are, on both sides
//! ```
//!
//! So afterwards it is as if all before the place had been done, and nothing from there on; but what a consumer has, what is
//! for later and what is dead is nobody else's to decide about. No message ever has two leases.
//!
//! What set a message apart (its key, priority and times) is known here only while it is held. Whoever asks to go back
//! therefore says it again, from the log ([`Again`]), of exactly those messages that are to come back: what is settled
//! meanwhile stays settled. As these are read first and go through the log then, all is judged here once more.

use std::collections::BTreeMap;

use super::Queue;
use super::backlog::Batch;
use super::command::{Again, PRIORITY_MAX, Properties};
use super::delayed::DELAYED_MAX;
use super::groups::Blocked;
use super::ids::Offset;
use super::reading::{Piece, piece};
use super::ready::Span;
use super::reply::{Limit, Rejection, Reply};
use crate::Millis;
use crate::planted::{self, Bug};

/// Most runs of messages that one seek brings back: they are one command of the log.
pub const SEEK_RUNS_MAX: usize = 1 << 17;

/// Where consumers are to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// At the first offset from which on all messages are there, settled or not, or the first that is held, if that is
    /// before it.
    First,
    /// Behind the last message.
    Next,
    /// At this offset.
    Offset(Offset),
    /// At the first message published at this time or later, but not before the first place.
    Time(Millis),
}

/// What a seek does.
struct Plan {
    /// What leaves, by offset.
    leaving: Vec<Span>,
    /// What comes back, by offset.
    coming: Vec<Part>,
    /// How many come back of each batch, by its first offset.
    batches: BTreeMap<u64, (Batch, u32)>,
}

/// Messages of one batch that come back.
struct Part {
    first: u64,
    count: u64,
    of: Properties,
    /// When their batch was published.
    since: Millis,
}

impl Plan {
    fn left(&self) -> u64 {
        self.leaving.iter().map(|span| span.count).sum()
    }

    fn again(&self) -> u64 {
        self.coming.iter().map(|part| part.count).sum()
    }
}

impl Queue {
    /// The offset of a place, as of the last entry.
    #[must_use]
    pub fn offset_of(&self, place: SeekTo) -> Offset {
        match place {
            SeekTo::First => Offset(self.first_place()),
            SeekTo::Next => Offset(self.ready.next()),
            SeekTo::Offset(offset) => offset,
            SeekTo::Time(time) if self.settings.retains() => {
                self.offset_at(time).max(Offset(self.first_place()))
            }
            SeekTo::Time(time) => self.offset_at(time),
        }
    }

    /// Nothing that is held is before it, so that to go there costs nothing. All after it is there, unless what is missing
    /// was settled and let go of behind something that is held still.
    fn first_place(&self) -> u64 {
        match self.settings.retains() {
            true => self.gapless_from().min(self.first_offset()),
            false => self.first_offset(),
        }
    }

    /// The settled messages from an offset on that can come back, run by run, each of one batch.
    #[must_use]
    pub fn settled_from(&self, from: Offset) -> Vec<Piece> {
        if !self.settings.retains() {
            return Vec::new();
        }
        let (mut pieces, held) = (Vec::new(), self.spans());
        for batch in self.readable(from.0) {
            for (first, end) in gaps(&held, batch.first.max(from.0), batch.end()) {
                pieces.push(piece(batch, first, (end - first) as u32));
            }
        }
        pieces
    }

    /// What [`Command::Seek`](super::Command::Seek) would do now: how many messages would be ready again, and how many
    /// would leave.
    ///
    /// # Errors
    /// The rejection that it would be answered with.
    pub fn seek_outlook(&self, to: Offset, again: &[Again]) -> Result<(u64, u64), Rejection> {
        self.plan(to.0, again).map(|plan| (plan.again(), plan.left()))
    }

    pub(super) fn seek(&mut self, Offset(to): Offset, again: &[Again]) -> Reply {
        let plan = match self.plan(to, again) {
            Ok(plan) => plan,
            Err(rejection) => return Reply::Rejected(rejection),
        };
        let (left, again) = (plan.left(), plan.again());
        self.merge = false;
        self.skip_to(self.skipped_below(to));
        self.gone.acked += left;
        self.hold_again(plan.batches);
        plan.coming.iter().for_each(|part| self.enter_again(part));
        self.gone.replayed += again;
        Reply::Sought { again, left }
    }

    /// What a seek does, or why it is refused.
    fn plan(&self, to: u64, again: &[Again]) -> Result<Plan, Rejection> {
        let next = self.ready.next();
        if to > next {
            return Err(Rejection::SeekBeyondEnd { next: Offset(next) });
        }
        are_in_order(again, to, next)?;
        let first = self.first_place();
        match self.settings.retains() {
            true if to < first => return Err(Rejection::SeekForgotten { first: Offset(first) }),
            false if to < first || !again.is_empty() => {
                return Err(Rejection::SeekNotRetained { first: Offset(first) });
            }
            _ => {}
        }
        let to = self.skipped_below(to);
        let mut leaving: Vec<Span> = self.ready.before(to).collect();
        leaving.extend(self.groups.waiting_before(to, self.now));
        leaving.sort_unstable_by_key(|span| span.first);
        let (coming, batches) = match again {
            [first, ..] if planted::is(Bug::SeekOneMore) && first.first.0 > 0 => {
                let of = Properties { count: 1, ..first.of };
                let before = Again { first: Offset(first.first.0 - 1), of };
                self.coming(&[&[before], again].concat())
            }
            _ => self.coming(again),
        };
        let plan = Plan { leaving, coming, batches };
        self.admit_again(&plan)?;
        Ok(plan)
    }

    /// Those that are named and settled, and have not outlived their time.
    fn coming(&self, again: &[Again]) -> (Vec<Part>, BTreeMap<u64, (Batch, u32)>) {
        let (mut parts, mut batches) = (Vec::new(), BTreeMap::new());
        let (Some(begin), Some(end)) = (again.first(), again.last()) else {
            return (parts, batches);
        };
        let (held, mut named) = (self.spans(), again);
        let there = self.readable(begin.first.0).take_while(|batch| batch.first < end.end());
        for batch in there {
            let before = named.partition_point(|run| run.end() <= batch.first);
            named = &named[before..];
            for run in named.iter().take_while(|run| run.first.0 < batch.end()) {
                if self.has_outlived(batch, &run.of) {
                    continue;
                }
                let less = u64::from(planted::is(Bug::SeekOneLess) && run.end() == end.end());
                let (from, to) =
                    (run.first.0.max(batch.first), (run.end() - less).min(batch.end()));
                for (first, end) in gaps(&held, from, to) {
                    let (count, of, since) = (end - first, run.of, batch.since);
                    parts.push(Part { first, count, of, since });
                    batches.entry(batch.first).or_insert((*batch, 0)).1 += count as u32;
                }
            }
        }
        (parts, batches)
    }

    /// Whether messages of a batch have outlived their time: those would leave at once, as they did.
    fn has_outlived(&self, batch: &Batch, of: &Properties) -> bool {
        let by_queue = self.settings.ttl_ms.map(|ttl_ms| match self.due_again(of, batch.since) {
            Some(due) => due.plus(ttl_ms),
            None => self.expires(batch, ttl_ms),
        });
        of.expires.into_iter().chain(by_queue).any(|time| time <= self.now)
    }

    /// When the time to live of messages counts from, if they were published for later: those that were due when there
    /// was no time to live yet count as any other.
    fn due_again(&self, of: &Properties, since: Millis) -> Option<Millis> {
        of.due.filter(|&due| due > since.max(self.expiry.since))
    }

    /// Whether there is room for what comes back, without what leaves.
    fn admit_again(&self, plan: &Plan) -> Result<(), Rejection> {
        let again = plan.again();
        if again == 0 {
            return Ok(());
        }
        let messages = self.backlog.messages() - plan.left() + again;
        fits(Limit::MaxMessages, self.settings.max_messages, messages)?;
        if self.settings.max_bytes.is_some() {
            fits(Limit::MaxBytes, self.settings.max_bytes, self.bytes_after(plan))?;
        }
        let apart = plan.coming.iter().filter(|part| is_apart(&part.of));
        let more: usize = apart.map(|part| self.runs_of(&part.of)).sum();
        match more {
            0 => Ok(()),
            more => fits(Limit::Delayed, Some(DELAYED_MAX), (self.records() + more) as u64),
        }
    }

    /// Bytes that are held once a plan is carried out.
    fn bytes_after(&self, plan: &Plan) -> u64 {
        let mut remaining: BTreeMap<u64, (Batch, u32)> = BTreeMap::new();
        for span in &plan.leaving {
            for batch in self.backlog.from(span.first).take_while(|batch| batch.first < span.end())
            {
                let part = span.end().min(batch.end()) - span.first.max(batch.first);
                remaining.entry(batch.first).or_insert((*batch, batch.remaining)).1 -= part as u32;
            }
        }
        for (&first, (batch, more)) in &plan.batches {
            remaining.entry(first).or_insert((*batch, batch.remaining)).1 += more;
        }
        let changed = remaining.values();
        changed.fold(self.backlog.bytes(), |bytes, (batch, remaining)| {
            let after = Batch { remaining: *remaining, ..*batch };
            bytes - batch.held_bytes() + after.held_bytes()
        })
    }

    /// Before which place what waits leaves.
    fn skipped_below(&self, to: u64) -> u64 {
        if planted::is(Bug::SkipOneMore) { (to + 1).min(self.ready.next()) } else { to }
    }

    /// What waits before `to` for nothing but a consumer, or for others of its group, leaves.
    fn skip_to(&mut self, to: u64) {
        let mut spans = Vec::new();
        self.ready.cut(0, to, &mut spans);
        self.groups.take_waiting_before(to, self.now, &mut spans);
        // What waited for the first of them goes on first.
        spans.sort_unstable_by_key(|span| span.first);
        spans.into_iter().for_each(|span| self.leave(span));
    }

    /// Batches have more that is left than before; those of which nothing was are not retained any more, but held.
    fn hold_again(&mut self, batches: BTreeMap<u64, (Batch, u32)>) {
        let (mut more, mut revived) = (BTreeMap::new(), Vec::new());
        for (first, (_, count)) in batches {
            match self.retained.remove(first) {
                None => drop(more.insert(first, count)),
                Some(batch) => {
                    self.slots.held_again(&batch);
                    revived.push(Batch { remaining: count, ..batch });
                }
            }
        }
        self.backlog.hold_again(revived, &more);
    }

    /// Messages get their place, as when they were published.
    fn enter_again(&mut self, part: &Part) {
        let Part { first, count, of, since } = *part;
        let span = Span { first, count, attempts: 0, priority: of.priority };
        if let Some(tag) = of.tag {
            self.ready.tags.insert(first, count, tag);
        }
        self.note_life(first, count, of.expires, self.due_again(&of, since));
        self.in_time(span);
        let due = of.due.filter(|&due| due > self.now);
        let Some(group) = of.group else {
            return self.place(span, due);
        };
        let run = Blocked { count, due, priority: of.priority };
        match self.groups.head(group) {
            Some(head) => {
                let steps_back = first < head && self.step_back(group, head);
                self.groups.block(group, first, run);
                if steps_back {
                    self.advance_group(group);
                }
            }
            None => {
                self.groups.lead(group, first);
                self.place(Span { count: 1, ..span }, due);
                if count > 1 {
                    self.groups.block(group, first + 1, Blocked { count: count - 1, ..run });
                }
            }
        }
    }

    /// A head that is waiting to be handed out for the first time waits for those before it from here on. One that has been
    /// handed out stays where it is, as a consumer may have it, and goes before them.
    fn step_back(&mut self, group: u64, head: u64) -> bool {
        let mut taken = Vec::new();
        self.ready.cut(head, head + 1, &mut taken);
        let never_delivered = match taken.pop() {
            Some(span) if span.attempts == 0 => Some((None, span)),
            Some(span) => {
                self.ready.give_back(span);
                None
            }
            None => self.delayed.take_never_delivered(head).map(|(due, span)| (Some(due), span)),
        };
        let Some((due, Span { priority, .. })) = never_delivered else {
            return false;
        };
        self.groups.behead(group);
        self.groups.block(group, head, Blocked { count: 1, due, priority });
        true
    }
}

fn is_apart(of: &Properties) -> bool {
    Properties { count: 0, ..*of } != Properties::default()
}

/// Runs are by offset, at least one message each, within `from..to`, and of priorities that there are.
fn are_in_order(again: &[Again], from: u64, to: u64) -> Result<(), Rejection> {
    let mut at = from;
    for run in again {
        let end = run.first.0.checked_add(run.of.count.into()).filter(|&end| end <= to);
        let end = end.filter(|_| run.first.0 >= at && run.of.count > 0);
        at = end.ok_or(Rejection::SeekOutOfOrder { at: run.first })?;
        if run.of.priority > PRIORITY_MAX {
            return Err(Rejection::InvalidPriority { priority: run.of.priority });
        }
    }
    Ok(())
}

fn fits(limit: Limit, max: Option<u64>, held: u64) -> Result<(), Rejection> {
    match max.filter(|&max| max > 0 && held > max) {
        Some(max) => Err(Rejection::SeekNoRoom { limit, max, held }),
        None => Ok(()),
    }
}

/// The parts of `from..to` that are in none of the spans, which are by offset.
fn gaps(held: &[Span], from: u64, to: u64) -> Vec<(u64, u64)> {
    let (mut gaps, mut at) = (Vec::new(), from);
    let after = held.partition_point(|span| span.end() <= from);
    for span in held[after..].iter().take_while(|span| span.first < to) {
        if at < span.first {
            gaps.push((at, span.first));
        }
        at = span.end();
    }
    if at < to {
        gaps.push((at, to));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_span_holds_is_between_them() {
        let span = |first, count| Span { first, count, attempts: 0, priority: 0 };
        let held = [span(2, 2), span(4, 1), span(8, 4)];
        assert_eq!(gaps(&held, 0, 20), [(0, 2), (5, 8), (12, 20)]);
        assert_eq!(gaps(&held, 3, 9), [(5, 8)]);
        assert_eq!(gaps(&held, 8, 12), []);
        assert_eq!(gaps(&held, 6, 7), [(6, 7)]);
        assert_eq!(gaps(&[], 6, 6), []);
    }
}
