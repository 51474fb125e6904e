//! A message leaves its queue for a reason, and a true one: acknowledged or rejected under its lease, purged by a command
//! that meant it, skipped by a seek beyond it, exhausted after `max_deliveries`, expired after its time and not before, dropped only to make room
//! where a limit would be exceeded, no more than it takes and the least first, or moved to the dead-letter queue once it
//! is dead, for a cause that holds. The queue's figures say the same of each entry. And nothing that has outlived its
//! time is handed out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use quorate_machine::queue::{Cause, Command, Publish, Reply, Settings, SettleKind, Whereabouts};

use super::{Invariant, must, of_each};
use crate::events::{Event, QueueEntry};

#[derive(Default)]
pub struct GoneForAReason {
    queues: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    now_ms: u64,
    rules: Rules,
    /// What is held.
    messages: BTreeMap<u64, Message>,
    /// What was, for the seek that brings it back.
    gone: BTreeMap<u64, Message>,
    /// What is dead: its number, and why.
    dead: BTreeMap<u64, (u64, Cause)>,
    places: Vec<(Range<u64>, Whereabouts)>,
    figures: Figures,
    next: u64,
}

/// The settings, and since when the queue has a time to live.
#[derive(Clone, Default, PartialEq)]
struct Rules {
    settings: Settings,
    ttl_since_ms: u64,
}

#[derive(Clone, Default)]
struct Message {
    since_ms: u64,
    /// Not before this time.
    due_ms: u64,
    /// The queue's time to live counts from when it was due.
    from_due: bool,
    expires_ms: Option<u64>,
    attempts: u32,
    priority: u8,
}

/// Ways in which messages have left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Figures {
    acked: u64,
    rejected: u64,
    dead_lettered: u64,
    purged: u64,
    exhausted: u64,
    expired: u64,
    dropped: u64,
}

/// What the commands of an entry say of messages that leave with it.
#[derive(Default)]
struct Said {
    acked: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    purged_below: u64,
    skipped_below: u64,
    skipped: u64,
    /// Dead ones below a number, from an offset on: what a purge before it in the entry took was not moved.
    moved: Vec<(u64, u64)>,
    entered: u64,
    took_in: bool,
}

impl Rules {
    fn is_over(&self, message: &Message, now_ms: u64) -> bool {
        let since_ms = match message.from_due {
            true => message.due_ms,
            false => message.since_ms.max(self.ttl_since_ms),
        };
        let ttl_is_over = self.settings.ttl_ms.is_some_and(|ttl_ms| since_ms + ttl_ms <= now_ms);
        ttl_is_over || message.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    fn is_exhausted(&self, message: &Message) -> bool {
        let most = self.settings.max_deliveries;
        most > 0 && message.attempts >= most
    }
}

impl Queue {
    fn configured(&mut self, settings: &Settings) {
        let before = std::mem::replace(&mut self.rules.settings, settings.clone());
        match (before.ttl_ms, settings.ttl_ms) {
            (None, Some(_)) => {
                self.rules.ttl_since_ms = self.now_ms;
                let for_later = |message: &&mut Message| message.due_ms > self.now_ms;
                let messages = self.messages.values_mut().filter(|message| message.attempts == 0);
                messages.filter(for_later).for_each(|message| message.from_due = true);
            }
            (Some(_), None) => {
                self.rules.ttl_since_ms = 0;
                self.messages.values_mut().for_each(|message| message.from_due = false);
            }
            _ => {}
        }
    }

    fn published(&mut self, first: u64, publish: &Publish) {
        for (offset, of) in (first..).zip(of_each(publish)) {
            let due_ms = of.due.map_or(0, |due| due.0);
            let message = Message {
                since_ms: self.now_ms,
                due_ms,
                from_due: due_ms > self.now_ms && self.rules.settings.ttl_ms.is_some(),
                expires_ms: of.expires.map(|expires| expires.0),
                attempts: 0,
                priority: of.priority,
            };
            self.messages.insert(offset, message);
            self.next = offset + 1;
        }
    }

    fn command(&mut self, command: &Command, reply: &Reply, said: &mut Said) {
        match (command, reply) {
            (Command::Configure(settings), Reply::Done) => self.configured(settings),
            (
                Command::Publish(publish),
                Reply::Published { first_offset, duplicate: false, .. },
            ) => {
                self.published(first_offset.0, publish);
                said.entered += u64::from(publish.count);
                said.took_in = true;
            }
            (
                Command::PublishMoved(moved),
                Reply::Published { first_offset, duplicate: false, .. },
            ) => {
                let publish = Publish::plain(moved.count, moved.frame.clone());
                self.published(first_offset.0, &publish);
                said.entered += u64::from(moved.count);
                said.took_in = true;
            }
            (Command::Purge, _) => said.purged_below = self.next,
            (Command::PurgeBefore { before }, _) => {
                said.purged_below = said.purged_below.max(before.0.min(self.next));
            }
            (Command::Seek { to, .. }, Reply::Sought { left, .. }) => {
                said.skipped_below = said.skipped_below.max(to.0);
                said.skipped += left;
            }
            (Command::Moved { to }, Reply::Moved { .. }) => {
                said.moved.push((*to, said.purged_below));
            }
            (Command::Settle { items, .. }, Reply::Settled(settled)) => {
                for item in items {
                    let end = item.first.0.saturating_add(item.count.into());
                    let offsets = (item.first.0..end).filter(|offset| !settled.has_lost(*offset));
                    match item.kind {
                        SettleKind::Ack => said.acked.extend(offsets),
                        SettleKind::Reject => said.rejected.extend(offsets),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        self.now_ms = self.now_ms.max(entry.now_ms);
        let (before, held_before) = (self.rules.clone(), self.messages.len() as u64);
        let mut said = Said::default();
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            self.command(command, reply, &mut said);
        }
        let rules = [before, self.rules.clone()];
        // What was settled by a command before the seek leaves first.
        let settled = |offset: &u64| said.acked.contains(offset) || said.rejected.contains(offset);
        let (after, first): (Vec<u64>, Vec<u64>) =
            entry.returned.iter().map(|(offset, _)| *offset).partition(settled);
        self.returned(&first)?;
        let held_before = held_before + entry.returned.len() as u64;
        self.left(entry, &rules, &said, held_before)?;
        self.returned(&after)?;
        self.died(entry, &rules, &said)?;
        let held: u64 = entry.places.iter().map(|(range, _)| range.end - range.start).sum();
        must(held == self.messages.len() as u64, || {
            format!("{held} messages are held, of those that entered {}", self.messages.len())
        })?;
        let is_judged = (said.took_in || !entry.returned.is_empty()) && rules[0] == rules[1];
        let most = self.rules.settings.max_messages.filter(|_| is_judged);
        must(most.is_none_or(|most| held <= most), || {
            format!("{held} messages are held, and some were taken in: the most is {most:?}")
        })?;
        for (offset, attempt) in entry.granted() {
            let message = self.messages.get_mut(&offset);
            let message = message.ok_or_else(|| format!("{offset} is leased, and is not there"))?;
            message.attempts = attempt;
            must(!self.rules.is_over(message, self.now_ms), || {
                format!("offset {offset} was leased at {}: {message:?} is over", self.now_ms)
            })?;
        }
        self.places.clear();
        self.places.extend_from_slice(entry.places);
        Ok(())
    }

    /// Messages that a seek has brought back: as they came, and delivered to nobody.
    fn returned(&mut self, offsets: &[u64]) -> Result<(), String> {
        let Rules { settings, ttl_since_ms } = &self.rules;
        for &offset in offsets {
            let message = self.gone.get(&offset).cloned();
            let message = message.ok_or_else(|| format!("{offset} came back, and had not left"))?;
            let was_later = message.due_ms > message.since_ms.max(*ttl_since_ms);
            let from_due = settings.ttl_ms.is_some() && was_later;
            self.messages.insert(offset, Message { from_due, attempts: 0, ..message });
        }
        Ok(())
    }

    /// Each message that has left, and the figures.
    fn left(
        &mut self,
        entry: &QueueEntry<'_>,
        rules: &[Rules; 2],
        said: &Said,
        held_before: u64,
    ) -> Result<(), String> {
        // With settings that changed within the entry, either will do.
        let with_dead = rules.iter().all(|rules| rules.settings.dead_letter.is_some());
        let (mut certain, mut possible) = (Figures::default(), Figures::default());
        let (mut open, mut to_make_room) = (0, Vec::new());
        for &offset in entry.left {
            let message = self.messages.remove(&offset);
            let message = message.ok_or_else(|| format!("{offset} has left, and never entered"))?;
            let died = self.dead.remove(&offset);
            self.gone.insert(offset, message.clone());
            let is_purged = offset < said.purged_below;
            let is_moved =
                |number| said.moved.iter().any(|(to, from)| number < *to && offset >= *from);
            if said.acked.contains(&offset) {
                certain.acked += 1;
            } else if died.is_some_and(|(number, _)| is_moved(number)) {
                certain.dead_lettered += 1;
            } else if said.rejected.contains(&offset) && !with_dead {
                certain.rejected += 1;
            } else {
                let may = |is_so: bool| u64::from(is_so && died.is_none() && !with_dead);
                let is_over = rules.iter().any(|rules| rules.is_over(&message, self.now_ms));
                let is_exhausted = rules.iter().any(|rules| rules.is_exhausted(&message));
                let drops = rules.iter().any(|rules| rules.settings.drop_head);
                let is_dropped = drops && said.took_in && died.is_none();
                let is_skipped = offset < said.skipped_below && died.is_none();
                let ways = [is_purged, is_dropped, is_skipped].map(u64::from);
                let [is_purged, is_dropped, is_skipped] = ways;
                let ways = [is_purged, may(is_exhausted), may(is_over), is_dropped, is_skipped];
                must(ways.iter().any(|way| *way > 0), || {
                    format!(
                        "offset {offset} has left at {} for no reason: {message:?}",
                        self.now_ms
                    )
                })?;
                if ways == [0, 0, 0, 1, 0] {
                    to_make_room.push((message.priority, offset));
                }
                possible.purged += ways[0];
                possible.exhausted += ways[1];
                possible.expired += ways[2];
                possible.dropped += ways[3];
                // It counts as acked.
                possible.acked += ways[4];
                open += 1;
            }
        }
        let figures = Figures {
            acked: entry.stats.acked,
            rejected: entry.stats.rejected,
            dead_lettered: entry.stats.dead_lettered,
            purged: entry.stats.purged,
            exhausted: entry.stats.exhausted,
            expired: entry.stats.expired,
            dropped: entry.stats.dropped,
        };
        let more = figures.since(&std::mem::replace(&mut self.figures, figures));
        let is_certain = [
            (more.acked, certain.acked + said.skipped),
            (more.rejected, certain.rejected),
            (more.dead_lettered, certain.dead_lettered),
        ];
        let is_possible = [
            (more.purged, possible.purged),
            (more.exhausted, possible.exhausted),
            (more.expired, possible.expired),
            (more.dropped, possible.dropped),
            (said.skipped, possible.acked),
        ];
        let told: u64 = is_possible.iter().map(|(told, _)| told).sum();
        let agree = is_certain.iter().all(|(told, seen)| told == seen)
            && is_possible.iter().all(|(told, most)| told <= most)
            && told == open;
        must(agree, || {
            format!("the queue counts {more:?} more; {certain:?} and {open} of {possible:?} left")
        })?;
        self.made_room(entry, rules, said, held_before, more.dropped)?;
        self.are_least(entry, &to_make_room)
    }

    /// No more make room than it takes.
    fn made_room(
        &self,
        entry: &QueueEntry<'_>,
        rules: &[Rules; 2],
        said: &Said,
        held_before: u64,
        dropped: u64,
    ) -> Result<(), String> {
        let limits = rules.iter().map(|rules| &rules.settings);
        let by_bytes = limits.clone().any(|settings| settings.max_bytes.is_some());
        let least = limits.map(|settings| settings.max_messages.unwrap_or(u64::MAX)).min();
        let most = least.unwrap_or(u64::MAX);
        let excess = (held_before + said.entered).saturating_sub(most);
        must(by_bytes || dropped <= excess, || {
            format!(
                "{dropped} messages made room in entry {}: {held_before} were held, {} came, and the most is {most}",
                entry.index, said.entered
            )
        })
    }

    /// What made room is what would have been delivered last, and of that the oldest.
    fn are_least(&self, entry: &QueueEntry<'_>, to_make_room: &[(u8, u64)]) -> Result<(), String> {
        let Some(&last) = to_make_room.iter().max() else { return Ok(()) };
        let ready = |places: &[(Range<u64>, Whereabouts)]| {
            let ready = places.iter().filter(|(_, place)| *place == Whereabouts::Ready);
            ready.flat_map(|(range, _)| range.clone()).collect::<BTreeSet<u64>>()
        };
        let (was, is) = (ready(&self.places), ready(entry.places));
        // What is ready again after it was leased or behind another was not there to make room.
        for offset in was.intersection(&is) {
            let priority = self.messages.get(offset).map_or(0, |message| message.priority);
            must((priority, *offset) > last, || {
                format!("{last:?} made room (priority, offset), and {offset} of {priority} did not")
            })?;
        }
        Ok(())
    }

    /// Each message that is dead from now on.
    fn died(
        &mut self,
        entry: &QueueEntry<'_>,
        rules: &[Rules; 2],
        said: &Said,
    ) -> Result<(), String> {
        if entry.stats.dead == 0 {
            return must(self.dead.is_empty(), || format!("{:?} are not dead any more", self.dead));
        }
        for died in entry.queue.dead_letters(u64::MAX) {
            let first = died.run.first_offset.0;
            for (number, offset) in (died.seq..).zip(first..first + u64::from(died.run.count)) {
                if let Some(before) = self.dead.insert(offset, (number, died.cause)) {
                    must(before == (number, died.cause), || {
                        format!("offset {offset} was dead as {before:?}, and is as {died:?}")
                    })?;
                    continue;
                }
                let Some(message) = self.messages.get(&offset) else {
                    return Err(format!("offset {offset} is dead, and not there"));
                };
                let holds = match died.cause {
                    Cause::Rejected => said.rejected.contains(&offset),
                    Cause::Exhausted => rules.iter().any(|rules| rules.is_exhausted(message)),
                    Cause::Expired => rules.iter().any(|rules| rules.is_over(message, self.now_ms)),
                    Cause::Dropped => false,
                };
                must(holds, || {
                    format!("offset {offset} died at {}, not so: {died:?} {message:?}", self.now_ms)
                })?;
            }
        }
        must(self.dead.len() as u64 == entry.stats.dead, || {
            format!("{} are dead, the queue counts {}", self.dead.len(), entry.stats.dead)
        })
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Message { since_ms, due_ms, expires_ms, attempts, priority, .. } = self;
        write!(
            f,
            "since {since_ms} due {due_ms} expires {expires_ms:?} attempts {attempts} priority {priority}"
        )
    }
}

impl Figures {
    fn since(&self, before: &Figures) -> Figures {
        let more = |now: u64, before: u64| now.saturating_sub(before);
        Figures {
            acked: more(self.acked, before.acked),
            rejected: more(self.rejected, before.rejected),
            dead_lettered: more(self.dead_lettered, before.dead_lettered),
            purged: more(self.purged, before.purged),
            exhausted: more(self.exhausted, before.exhausted),
            expired: more(self.expired, before.expired),
            dropped: more(self.dropped, before.dropped),
        }
    }
}

impl Invariant for GoneForAReason {
    fn name(&self) -> &'static str {
        "gone_for_a_reason"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Made(entry) = event else { return Ok(()) };
        let queue = self.queues.entry(entry.group).or_default();
        queue.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
    }
}
