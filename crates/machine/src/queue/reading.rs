//! Reading without consuming: where the messages are that a reader may see.
//!
//! A reader sees what is held: ready, delayed, blocked and leased messages; and, in a queue that retains settled
//! ones or has slots that need them, every message of a batch that is held in part or retained.

use super::Queue;
use super::backlog::Batch;
use super::effect::Run;
use super::ids::Offset;
use super::ready::Span;
use crate::{LogIndex, Millis};

/// Neighbouring messages of one batch, for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they are; `attempt` is 0.
    pub run: Run,
    /// When they were published, by the leader's clock.
    pub since: Millis,
}

/// What a reader sees from an offset on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// By offset.
    pub pieces: Vec<Piece>,
    /// The offset to go on from.
    pub next: Offset,
}

impl Queue {
    /// What a reader sees from `from` on: at most `max_messages`, and no more than `max_bytes` but for one
    /// piece. Takes time in proportion to what it returns, and to leases, delayed and blocked runs
    /// where a batch is left in part.
    #[must_use]
    pub fn view(&self, from: Offset, max_messages: u32, max_bytes: u64) -> View {
        let retains = self.settings.retains();
        let mut view = View { pieces: Vec::new(), next: from };
        let mut held: Option<Vec<Span>> = None;
        let (mut room, mut bytes) = (u64::from(max_messages), max_bytes);
        for batch in self.readable(from.0) {
            let (start, end) = (from.0.max(batch.first), batch.end());
            let per_message = (u64::from(batch.bytes) / u64::from(batch.count)).max(1);
            let mut add = |start: u64, end: u64| {
                let fits = (bytes / per_message).max(u64::from(view.pieces.is_empty()));
                let count = (end - start).min(room).min(fits);
                if count > 0 {
                    view.pieces.push(piece(batch, start, count as u32));
                }
                room -= count;
                bytes = bytes.saturating_sub(count * per_message);
                view.next = Offset(start + count);
                count == end - start
            };
            let whole = retains || batch.remaining == batch.count || self.slots.need(batch);
            let goes_on = if whole {
                add(start, end)
            } else {
                let held = held.get_or_insert_with(|| self.spans());
                let first = held.partition_point(|span| span.end() <= start);
                let within = held[first..].iter().take_while(|span| span.first < end);
                within
                    .map(|span| (span.first.max(start), span.end().min(end)))
                    .all(|(a, b)| add(a, b))
            };
            if !goes_on {
                return view;
            }
            view.next = Offset(end);
        }
        view.next = Offset(self.ready.next().max(from.0));
        view
    }

    /// The first offset whose batch was published at `time` or later, by the leader's clock; the next
    /// offset if there is none.
    #[must_use]
    pub fn offset_at(&self, time: Millis) -> Offset {
        let first = [self.retained.first_since(time), self.backlog.first_since(time)];
        Offset(first.into_iter().flatten().min().unwrap_or(self.ready.next()))
    }

    /// The first offset that a reader may see, or the next one.
    #[must_use]
    pub fn first_readable(&self) -> Offset {
        Offset(self.readable(0).next().map_or(self.ready.next(), |batch| batch.first))
    }

    /// Batches that a reader sees something of, from the one that holds `offset` on.
    pub(super) fn readable(&self, offset: u64) -> impl Iterator<Item = &Batch> {
        let mut retained = self.retained.from(offset).peekable();
        let mut held = self.backlog.from(offset).peekable();
        std::iter::from_fn(move || match (retained.peek(), held.peek()) {
            (Some(kept), Some(batch)) if kept.first < batch.first => retained.next(),
            (_, Some(_)) => held.next(),
            (_, None) => retained.next(),
        })
    }
}

pub(super) fn piece(batch: &Batch, first: u64, count: u32) -> Piece {
    let run = Run {
        first_offset: Offset(first),
        count,
        attempt: 0,
        index: LogIndex(batch.index),
        ordinal: batch.ordinal,
        skip: (first - batch.first) as u32,
    };
    Piece { run, since: batch.since }
}
