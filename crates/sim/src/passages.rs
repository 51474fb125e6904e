//! What left its queue with an entry, and what came back, as told from the commands and from where messages were before
//! and after it.
//!
//! A seek names what is to come back; of that comes back what is not held. So a message that is named, was not held (or was
//! settled by an earlier command of the same entry), and is held after it, has come back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use quorate_machine::queue::{
    Again, Command, Properties, Reply, SettleItem, SettleKind, Settled, Whereabouts,
};

/// Where messages are, by offset.
pub(crate) type Places = [(Range<u64>, Whereabouts)];

/// What passed the ends of a queue with an entry.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Passages {
    /// What was held, or came, and is gone; also if it came back.
    pub left: Vec<u64>,
    /// The same, and what died.
    pub ended: Vec<u64>,
    /// What came back by seeks, with what it was named with; also if it left again.
    pub returned: Vec<(u64, Properties)>,
}

/// Where a message is, if it is held.
pub(crate) fn place_of(places: &Places, offset: u64) -> Option<Whereabouts> {
    let at = places.partition_point(|(range, _)| range.end <= offset);
    places.get(at).filter(|(range, _)| range.contains(&offset)).map(|(_, place)| *place)
}

/// The messages of an item that was settled for good: its lease had not been lost.
pub(crate) fn ended_by<'a>(
    item: &'a SettleItem,
    settled: &'a Settled,
) -> impl Iterator<Item = u64> + 'a {
    let for_good = matches!(item.kind, SettleKind::Ack | SettleKind::Reject);
    let end = item.first.0.saturating_add(item.count.into());
    (item.first.0..end).filter(move |offset| for_good && !settled.has_lost(*offset))
}

/// Each message that is named, with what it was named with.
pub(crate) fn named(again: &[Again]) -> impl Iterator<Item = (u64, Properties)> + '_ {
    let of = |run: &Again| Properties { count: 1, ..run.of };
    let run = move |run: &Again| {
        (run.first.0..).take(run.of.count as usize).zip(std::iter::repeat(of(run)))
    };
    again.iter().flat_map(run)
}

impl Passages {
    /// Of an entry.
    pub fn of(
        before: &Places,
        after: &Places,
        commands: &[Command],
        replies: &[Reply],
        now_ms: u64,
    ) -> Passages {
        let (mut entered, mut settled) = (Vec::new(), BTreeSet::new());
        let mut returned = BTreeMap::new();
        for (command, reply) in commands.iter().zip(replies) {
            match (command, reply) {
                (_, Reply::Published { first_offset, count, duplicate: false }) => {
                    entered.push(first_offset.0..first_offset.0 + u64::from(*count));
                }
                (Command::Settle { items, .. }, Reply::Settled(told)) => {
                    settled.extend(items.iter().flat_map(|item| ended_by(item, told)));
                }
                (Command::Seek { again, .. }, Reply::Sought { again: count, .. }) => {
                    let was_gone = |offset: u64| {
                        let came = entered.iter().any(|range| range.contains(&offset));
                        let was_there = place_of(before, offset).is_some() || came;
                        !was_there || settled.contains(&offset)
                    };
                    let gone = named(again).filter(|(offset, _)| was_gone(*offset));
                    let gone = gone.filter(|(offset, _)| !returned.contains_key(offset));
                    let (there, mut not): (Vec<_>, Vec<_>) =
                        gone.partition(|(offset, _)| place_of(after, *offset).is_some());
                    // The rest had outlived its time, was not retained any more, or left by a later command. What is let
                    // go of is let go of from the first offset on.
                    not.retain(|(_, of)| of.expires.is_none_or(|expires| expires.0 > now_ms));
                    let more = (*count as usize).saturating_sub(there.len()).min(not.len());
                    let left_again = not.split_off(not.len() - more);
                    returned.extend(there.into_iter().chain(left_again));
                }
                _ => {}
            }
        }
        let gone = |with_dead: bool| {
            let held = |places: &Places| {
                let held =
                    places.iter().filter(|(_, place)| with_dead || *place != Whereabouts::Dead);
                held.map(|(range, _)| range.clone()).collect::<Vec<_>>()
            };
            let came = returned.keys().filter(|offset| place_of(before, **offset).is_none());
            let mut there: Vec<Range<u64>> = held(before);
            there.extend(entered.iter().cloned());
            there.extend(came.map(|offset| *offset..offset + 1));
            there.sort_unstable_by_key(|range| range.start);
            let mut gone = without(there.into_iter(), held(after).into_iter());
            let back = returned.keys().filter(|offset| place_of(before, **offset).is_some());
            gone.extend(back.filter(|offset| place_of(after, **offset).is_some()));
            gone.sort_unstable();
            gone
        };
        let (left, ended) = (gone(true), gone(false));
        Passages { left, ended, returned: returned.into_iter().collect() }
    }
}

/// What is in `before` and not in `after`; both go up.
fn without(
    before: impl Iterator<Item = Range<u64>>,
    after: impl Iterator<Item = Range<u64>>,
) -> Vec<u64> {
    let (mut gone, mut after) = (Vec::new(), after.peekable());
    for range in before {
        let mut at = range.start;
        while at < range.end {
            while after.next_if(|kept| kept.end <= at).is_some() {}
            let end = after.peek().map_or(range.end, |kept| kept.start.clamp(at, range.end));
            gone.extend(at..end);
            let kept_to = after.peek().map_or(range.end, |kept| kept.end.min(range.end));
            at = end.max(kept_to);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use quorate_machine::queue::{Offset, Session, Token};

    use super::*;

    fn seek(first: u64, count: u32) -> Command {
        let of = Properties { count, ..Properties::default() };
        Command::Seek { to: Offset(first), again: vec![Again { first: Offset(first), of }] }
    }

    fn offsets(passages: &Passages) -> Vec<u64> {
        passages.returned.iter().map(|(offset, _)| *offset).collect()
    }

    #[test]
    fn what_is_named_and_was_held_has_not_come_back() {
        let before = [(2..4, Whereabouts::Leased)];
        let after =
            [(1..2, Whereabouts::Ready), (2..4, Whereabouts::Leased), (4..6, Whereabouts::Ready)];
        let reply = Reply::Sought { again: 3, left: 0 };
        let passages = Passages::of(&before, &after, &[seek(0, 6)], &[reply], 0);
        assert_eq!(offsets(&passages), [1, 4, 5]);
        assert_eq!((passages.left, passages.ended), (vec![], vec![]));
    }

    #[test]
    fn what_is_settled_and_comes_back_in_one_entry_has_left_too() {
        let before = [(2..4, Whereabouts::Leased)];
        let after = [(2..3, Whereabouts::Ready), (3..4, Whereabouts::Leased)];
        let item =
            SettleItem { first: Offset(2), count: 1, token: Token(1), kind: SettleKind::Ack };
        let settle = Command::Settle { session: Session(1), items: vec![item] };
        let replies = [Reply::Settled(Settled::default()), Reply::Sought { again: 1, left: 0 }];
        let passages = Passages::of(&before, &after, &[settle, seek(2, 2)], &replies, 0);
        assert_eq!((offsets(&passages), passages.left), (vec![2], vec![2]));
    }

    #[test]
    fn what_comes_back_and_leaves_in_one_entry_has_done_both() {
        let replies = [Reply::Sought { again: 2, left: 0 }, Reply::Purged { count: 2 }];
        let passages = Passages::of(&[], &[], &[seek(0, 3), Command::Purge], &replies, 0);
        assert_eq!((offsets(&passages), passages.left), (vec![1, 2], vec![1, 2]));
    }
}
