//! The queues whose dead messages are moved here, and how far each has come: so a message that is moved once more enters
//! once.
//!
//! ```text
//!   numbers of a source    … already here ────────┤next├──────────►
//!   first..first+count     └─ duplicate ─┘  └ overlap ┘    └ enters, next = its end
//! ```
//!
//! A source moves its messages in the order of their numbers, one batch after the other, and goes on only once it knows
//! that a batch is here. So what begins behind `next` leaves nothing out: what would be between them has left the source
//! on another way, by a purge or to another queue. What it sends again it may cut differently, hence the overlap, which is
//! refused with the number to go on from.
//!
//! A source that was recovered from a replica without all of its log gives numbers once more that it gave before, to other
//! messages. Its timeline tells: in a later one its numbers are compared with nothing, in an earlier one nothing enters.
//!
//! What is remembered of a source is three numbers, and it is never forgotten: a message could come again after any time.

use std::collections::BTreeMap;

use super::Queue;
use super::command::{Publish, PublishMoved};
use super::reply::{Rejection, Reply};
use crate::planted::{self, Bug};

/// Most queues that a queue remembers as sources, those of names that were deleted among them.
pub const SOURCES_MAX: usize = 1 << 17;

/// How far a source has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Which of its timelines.
    pub timeline: u64,
    /// The number of its message that comes next, at least 1.
    pub next: u64,
}

/// All sources, by group.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<u64, Source>);

impl Sources {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, Source)> {
        self.0.iter().map(|(&group, &source)| (group, source))
    }

    pub fn insert(&mut self, group: u64, source: Source) {
        self.0.insert(group, source);
    }

    /// Whether a batch is new; false if all of it is here already.
    fn judge(&self, moved: &PublishMoved) -> Result<bool, Rejection> {
        let Some(end) = moved.first.checked_add(moved.count.into()) else {
            return Err(Rejection::SequenceOverflow);
        };
        let Some(known) = self.0.get(&moved.source) else {
            return match self.0.len() < SOURCES_MAX {
                true => Ok(true),
                false => Err(Rejection::TooManySources { limit: SOURCES_MAX as u32 }),
            };
        };
        if moved.timeline < known.timeline {
            return Err(Rejection::SourceRecovered { timeline: known.timeline });
        }
        if moved.timeline > known.timeline || moved.first >= known.next {
            return Ok(true);
        }
        match end <= known.next {
            true => Ok(planted::is(Bug::MoveDeadTwice)),
            false => Err(Rejection::MovedInPart { next: known.next }),
        }
    }
}

impl Queue {
    /// Takes in what died elsewhere.
    pub(super) fn publish_moved(
        &mut self,
        index: u64,
        ordinal: u32,
        moved: &PublishMoved,
    ) -> Reply {
        let publish =
            Publish { layout: moved.layout, ..Publish::plain(moved.count, moved.frame.clone()) };
        let admitted = self.admit_moved(moved, &publish);
        // As with any batch that is published.
        let merge = std::mem::replace(&mut self.merge, matches!(admitted, Ok(true)));
        match admitted {
            Ok(true) => {
                let next = moved.first + u64::from(moved.count);
                let source = Source { timeline: moved.timeline, next };
                self.sources.insert(moved.source, source);
                self.append(index, ordinal, &publish, merge)
            }
            Ok(false) => Reply::AlreadyMoved,
            Err(rejection) => Reply::Rejected(rejection),
        }
    }

    fn admit_moved(&self, moved: &PublishMoved, publish: &Publish) -> Result<bool, Rejection> {
        Self::well_formed(publish)?;
        let is_new = self.sources.judge(moved)?;
        if is_new {
            self.has_room(publish)?;
        }
        Ok(is_new)
    }
}
