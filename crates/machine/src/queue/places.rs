//! Where each message is, for whoever judges a queue from outside: the simulation compares it with what the log said.

use std::ops::Range;

use super::Queue;
use super::ready::Span;

/// Where a message is that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// It waits for a consumer.
    Ready,
    /// It waits for its time.
    Delayed,
    /// It waits for another of its group.
    Blocked,
    /// A consumer holds it.
    Leased,
    /// It has ended without an ack, and waits to be moved to the dead-letter queue.
    Dead,
}

impl Queue {
    /// All that is held, by offset, in runs that are in one place. Takes time in proportion to runs, not to messages.
    #[must_use]
    pub fn places(&self) -> Vec<(Range<u64>, Whereabouts)> {
        let range = |span: Span| span.first..span.end();
        let fresh = self.ready.cursor()..self.ready.next();
        let ready = self.ready.returned().chain(self.ready.urgent()).map(range);
        let ready = ready.chain((!fresh.is_empty()).then_some(fresh));
        let delayed = self.delayed.iter().map(|(_, span)| range(span));
        let leased = self.leased.iter();
        let leased = leased.map(|(_, first, lease)| first..first + u64::from(lease.count));
        let dead = self.dead.iter().map(|died| range(died.span));
        let mut places: Vec<_> = ready.map(|range| (range, Whereabouts::Ready)).collect();
        places.extend(delayed.map(|range| (range, Whereabouts::Delayed)));
        places.extend(self.groups.spans().map(|span| (range(span), Whereabouts::Blocked)));
        places.extend(leased.map(|range| (range, Whereabouts::Leased)));
        places.extend(dead.map(|range| (range, Whereabouts::Dead)));
        places.sort_unstable_by_key(|(range, _)| range.start);
        places
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{Attach, Command, Properties, Publish, Session};
    use super::*;
    use crate::{At, Machine, Millis, NodeId};

    #[test]
    fn every_message_that_is_held_is_in_one_place() {
        let mut queue = Queue::new();
        let (at, mut effects) = (At { index: 1, now: Millis(1) }, Vec::new());
        let of = |count| Properties { count, ..Properties::default() };
        let properties = vec![
            of(2),
            Properties { due: Some(Millis(99)), ..of(1) },
            Properties { group: Some(7), ..of(3) },
            of(4),
        ];
        let plain = Publish::plain(10, Bytes::from(vec![0; 60]));
        queue.apply(at, 0, Command::Publish(Publish { properties, ..plain }), &mut effects);
        let attach = Attach {
            session: Session(1),
            node: NodeId(1),
            name: String::new(),
            prefetch: 2,
            lease_ms: None,
            tells_starts: false,
            filter: Vec::new(),
        };
        queue.apply(at, 1, Command::Attach(attach), &mut effects);
        queue.finish(at, &mut effects);
        let places = [
            (0..2, Whereabouts::Leased),
            (2..3, Whereabouts::Delayed),
            (3..4, Whereabouts::Ready),
            (4..6, Whereabouts::Blocked),
            (6..10, Whereabouts::Ready),
        ];
        assert_eq!(queue.places(), places);
    }
}
