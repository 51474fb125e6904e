//! A seek does what was asked, all of it and no more: what it names comes back as it was published; after it nothing that
//! had been settled when it was asked for, is retained from its place on and has not outlived its time is still gone; what
//! waited before its place has left; the place is the one that was meant; and who asked is told so.

use std::collections::BTreeMap;

use quorate_client::SeekTo;
use quorate_machine::Millis;
use quorate_machine::queue::{Again, Command, Properties, Publish, Reply, Settings, Whereabouts};

use super::{Invariant, must, of_each};
use crate::events::{Event, QueueEntry};
use crate::passages::{named, place_of};

#[derive(Default)]
pub struct SoughtExactly {
    queues: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    index: u64,
    now_ms: u64,
    next: u64,
    settings: Settings,
    /// Since when it has a time to live.
    ttl_since_ms: u64,
    messages: BTreeMap<u64, Published>,
    /// Of each message that has left and is not back, the last entry that it left with.
    left_at: BTreeMap<u64, u64>,
    /// Seeks of which nobody knows yet what came of them.
    asked: BTreeMap<u32, Asked>,
    done: Vec<Done>,
}

struct Published {
    since_ms: u64,
    of: Properties,
}

#[derive(Clone, Copy)]
struct Asked {
    /// The last entry by then, and the next offset.
    index: u64,
    next: u64,
    to: SeekTo,
}

#[derive(Debug)]
struct Done {
    index: u64,
    to: u64,
    again: u64,
    left: u64,
}

impl Queue {
    fn published(&mut self, first: u64, publish: &Publish) {
        for (offset, of) in (first..).zip(of_each(publish)) {
            self.messages.insert(offset, Published { since_ms: self.now_ms, of });
            self.next = offset + 1;
        }
    }

    fn configured(&mut self, settings: &Settings) {
        match (self.settings.ttl_ms, settings.ttl_ms) {
            (None, Some(_)) => self.ttl_since_ms = self.now_ms,
            (Some(_), None) => self.ttl_since_ms = 0,
            _ => {}
        }
        self.settings = settings.clone();
    }

    /// Whether a message would leave at once if it came back.
    fn is_over(&self, message: &Published) -> bool {
        let since_ms = message.since_ms.max(self.ttl_since_ms);
        let due = message.of.due.filter(|due| due.0 > since_ms);
        let ttl_since_ms = due.map_or(since_ms, |due| due.0);
        let ttl_is_over = self.settings.ttl_ms.is_some_and(|ttl| ttl_since_ms + ttl <= self.now_ms);
        ttl_is_over || message.of.expires.is_some_and(|expires| expires.0 <= self.now_ms)
    }

    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        self.now_ms = self.now_ms.max(entry.now_ms);
        let (mut seeks, mut is_configured) = (Vec::new(), false);
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            match (command, reply) {
                (Command::Configure(settings), Reply::Done) => {
                    self.configured(settings);
                    is_configured = true;
                }
                (
                    Command::Publish(publish),
                    Reply::Published { first_offset, duplicate: false, .. },
                ) => self.published(first_offset.0, publish),
                (
                    Command::PublishMoved(moved),
                    Reply::Published { first_offset, duplicate: false, .. },
                ) => {
                    let publish = Publish::plain(moved.count, moved.frame.clone());
                    self.published(first_offset.0, &publish);
                }
                (Command::Seek { to, again }, &Reply::Sought { again: back, left }) => {
                    self.is_named_truly(again)?;
                    seeks.push(Done { index: entry.index, to: to.0, again: back, left });
                }
                _ => {}
            }
        }
        let told: u64 = seeks.iter().map(|seek| seek.again).sum();
        must(told == entry.returned.len() as u64, || {
            format!("{told} were to come back in entry {}: {:?}", entry.index, entry.returned)
        })?;
        // What the first of several has done the next may undo.
        if let ([seek], false) = (seeks.as_slice(), is_configured) {
            self.is_meant(seek, entry)?;
            self.is_complete(seek, entry)?;
            self.has_skipped(seek, entry)?;
        }
        self.done.extend(seeks);
        self.left_at.extend(entry.left.iter().map(|offset| (*offset, entry.index)));
        let back = entry.returned.iter().map(|(offset, _)| offset);
        for offset in back.filter(|offset| place_of(entry.places, **offset).is_some()) {
            self.left_at.remove(offset);
        }
        self.index = entry.index;
        Ok(())
    }

    /// What is to come back is named with what it was published with.
    fn is_named_truly(&self, again: &[Again]) -> Result<(), String> {
        for (offset, of) in named(again) {
            let published = self.messages.get(&offset).map(|message| message.of);
            must(published == Some(of), || {
                format!("offset {offset} is to come back as {of:?}, and came as {published:?}")
            })?;
        }
        Ok(())
    }

    /// The place is the one that was asked for, if one seek is under way.
    fn is_meant(&self, seek: &Done, entry: &QueueEntry<'_>) -> Result<(), String> {
        let asked: Vec<Asked> = self.asked.values().copied().collect();
        let Asked { next, to, .. } = match asked.as_slice() {
            [] => return Err(format!("nobody asked for {seek:?}")),
            [asked] => *asked,
            _ => return Ok(()),
        };
        let is_meant = match to {
            SeekTo::First => seek.left == 0,
            SeekTo::Next => (next..=self.next).contains(&seek.to),
            SeekTo::Offset(offset) => seek.to == offset,
            SeekTo::Time(time) => {
                let time = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let time_ms = time.as_millis() as u64;
                let mut since = self.messages.iter().filter(|(_, of)| of.since_ms >= time_ms);
                match since.next().map(|(offset, _)| *offset) {
                    // What is not held any more may have been let go of.
                    Some(first) if seek.to > first => {
                        let mut held = entry.before.iter();
                        held.all(|(range, _)| range.end <= first || range.start >= seek.to)
                    }
                    Some(first) => seek.to == first || first >= next,
                    None => seek.to >= next,
                }
            }
        };
        must(is_meant, || format!("{to:?} was asked for, with {next} next, and done {seek:?}"))
    }

    fn is_complete(&self, seek: &Done, entry: &QueueEntry<'_>) -> Result<(), String> {
        let since = self.asked.values().map(|asked| asked.index).min().unwrap_or(u64::MAX);
        let gone = entry.queue.settled_from(quorate_machine::queue::Offset(seek.to));
        let gone = gone.iter().flat_map(|piece| {
            let first = piece.run.first_offset.0;
            first..first + u64::from(piece.run.count)
        });
        for offset in gone {
            let left_before = self.left_at.get(&offset).is_some_and(|index| *index <= since);
            let is_over = self.messages.get(&offset).is_none_or(|message| self.is_over(message));
            must(!left_before || is_over, || {
                format!(
                    "offset {offset} left in entry {:?}, before entry {since}, and did not come back with {seek:?}",
                    self.left_at.get(&offset)
                )
            })?;
        }
        Ok(())
    }

    /// Nothing that waited before the place for a consumer, or for others of its group, is there still.
    fn has_skipped(&self, seek: &Done, entry: &QueueEntry<'_>) -> Result<(), String> {
        let waits = |offset: u64, place: Whereabouts| match place {
            Whereabouts::Ready => true,
            Whereabouts::Blocked => {
                let due = self.messages.get(&offset).and_then(|message| message.of.due);
                due.is_none_or(|due: Millis| due.0 <= self.now_ms)
            }
            Whereabouts::Delayed | Whereabouts::Leased | Whereabouts::Dead => false,
        };
        for (range, place) in entry.before {
            for offset in range.start..range.end.min(seek.to) {
                // What outlived its time in the same entry may be dead.
                let is_there = |place| place != Whereabouts::Dead;
                let stays =
                    waits(offset, *place) && place_of(entry.places, offset).is_some_and(is_there);
                must(!stays, || format!("offset {offset} waited, and is there after {seek:?}"))?;
            }
        }
        Ok(())
    }
}

impl Invariant for SoughtExactly {
    fn name(&self) -> &'static str {
        "sought_exactly"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                let queue = self.queues.entry(entry.group).or_default();
                queue.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
            }
            Event::Seeking { group, seek, to } => {
                let queue = self.queues.entry(*group).or_default();
                let asked = Asked { index: queue.index, next: queue.next, to: *to };
                queue.asked.insert(*seek, asked);
                Ok(())
            }
            Event::Sought { group, seek, sought } => {
                let queue = self.queues.entry(*group).or_default();
                let Some(asked) = queue.asked.remove(seek) else { return Ok(()) };
                let Ok(told) = sought else { return Ok(()) };
                let since = queue.done.partition_point(|done| done.index <= asked.index);
                let is_so = queue.done[since..].iter().any(|done| {
                    (done.to, done.again, done.left) == (told.offset, told.replayed, told.skipped)
                });
                must(is_so, || {
                    format!("group {group}: told {told:?}, done were {:?}", &queue.done[since..])
                })
            }
            _ => Ok(()),
        }
    }
}
