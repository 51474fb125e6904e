//! Whether a queue that makes room for new messages would drop some for those that are sent to it.

use futures_util::StreamExt;
use quorate_client::{Client, Headers, Overflow, QueueCounts, QueueDescription};

use super::Errand;
use super::plan::{Plan, matches};
use crate::exit::Exit;
use crate::session::Reasoned;
use crate::units;

/// What a message takes of a queue beside its body and headers, and a header beside its key and value.
const MESSAGE_BYTES: usize = 6;
const HEADER_BYTES: usize = 6;
/// Digits of an offset, and what sets it apart from the name of its queue.
const PLACE_BYTES: usize = 21;

/// What is to come to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coming {
    pub messages: u64,
    pub bytes: u64,
}

/// Why nothing is sent to a queue.
#[derive(Debug)]
pub struct NoRoom {
    pub what: String,
    pub cure: String,
    pub exit: Exit,
}

/// Messages that a queue holds.
pub fn held(of: &QueueCounts) -> u64 {
    of.ready + of.leased + of.delayed + of.blocked + of.dead
}

/// Most bytes of the header that says where a message comes from.
pub fn says_bytes(errand: &impl Errand) -> u64 {
    (HEADER_BYTES + errand.says().len() + errand.from().len() + PLACE_BYTES) as u64
}

/// Whether messages would be dropped for those that come: of the queue, or come a moment before. `fewer` is the option
/// with which fewer do. Of a sharded queue each shard has the limits, and all may come to one.
pub fn makes_room(to: &QueueDescription, coming: Coming, fewer: &str) -> Option<NoRoom> {
    if !to.shards.is_empty() {
        return to.shards.iter().find_map(|shard| makes_room(shard, coming, fewer));
    }
    let has = to.settings.clone().unwrap_or_default();
    if has.overflow() != Overflow::DropHead || (has.max_messages, has.max_bytes) == (0, 0) {
        return None;
    }
    let name = &to.name;
    let Some(counts) = &to.counts else {
        let what = format!(
            "{name} makes room for new messages, and does not say how many it holds: its leader could not be asked"
        );
        let cure = "the same again, once it has a leader".to_owned();
        return Some(NoRoom { what, cure, exit: Exit::Unavailable });
    };
    let beyond = |max: u64, more: u64, held: u64| max > 0 && held.saturating_add(more) > max;
    let drops = |held: String, max: String, more: String| NoRoom {
        what: format!(
            "{name} would drop older messages for these: it has {held} of at most {max}, and {more} are to come"
        ),
        cure: format!(
            "a higher limit, `quorate queue update {name} --overflow reject`, or fewer messages with {fewer}; `quorate \
             queue describe {name}` shows what it has room for. What came there before an interruption, and is still \
             here, is counted twice"
        ),
        exit: Exit::Refused,
    };
    if beyond(has.max_messages, coming.messages, held(counts)) {
        let shown = [held(counts), has.max_messages, coming.messages].map(units::count);
        let [held, max, more] = shown;
        return Some(drops(held, max, more));
    }
    if beyond(has.max_bytes, coming.bytes, counts.bytes) {
        let [held, max, more] = [counts.bytes, has.max_bytes, coming.bytes].map(units::bytes);
        return Some(drops(held, max, format!("up to {more}")));
    }
    None
}

/// Reads what of a plan goes to a queue. Where readers see settled messages too, those are among it.
pub(super) async fn coming<E: Errand>(
    client: &Client,
    errand: &E,
    plan: &Plan,
    to: &str,
) -> Result<Coming, (String, Exit)> {
    let mut reader = client.reader(errand.from()).from_offset(plan.first).linearizable().build();
    let says = says_bytes(errand);
    let mut sizes = Vec::new();
    while let Some(message) = reader.next().await {
        let message = message.map_err(|error| (error.to_string(), error.exit()))?;
        if message.offset >= plan.end {
            break;
        }
        let goes = plan.has(message.offset)
            && matches(errand.filters(), &message.headers)
            && errand.target(&message.headers).is_ok_and(|target| target == to);
        if goes {
            sizes.push(says + size(&message.headers, errand.without(), message.body.len()));
        }
    }
    Ok(largest(sizes, plan.total))
}

/// The most that so many of the messages of these sizes take.
fn largest(mut sizes: Vec<u64>, most: u64) -> Coming {
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let messages = most.min(sizes.len() as u64);
    Coming { messages, bytes: sizes.iter().take(messages as usize).sum() }
}

/// Bytes of a message without some of its headers.
fn size(headers: &Headers, without: &[&str], body: usize) -> u64 {
    let kept = headers.iter().filter(|(key, _)| !without.contains(key));
    let headers: usize = kept.map(|(key, value)| HEADER_BYTES + key.len() + value.len()).sum();
    (MESSAGE_BYTES + headers + body) as u64
}

#[cfg(test)]
mod tests {
    use quorate_client::QueueSettings;

    use super::*;

    fn queue(max_messages: u64, max_bytes: u64, ready: u64) -> QueueDescription {
        let mut settings = QueueSettings { max_messages, max_bytes, ..<_>::default() };
        settings.set_overflow(Overflow::DropHead);
        let counts = QueueCounts { ready, bytes: ready * 100, ..<_>::default() };
        QueueDescription {
            name: "a".to_owned(),
            settings: Some(settings),
            counts: Some(counts),
            ..<_>::default()
        }
    }

    #[test]
    fn a_queue_that_would_drop_for_what_comes_or_does_not_say_what_it_holds_is_sent_nothing() {
        let coming = Coming { messages: 10, bytes: 1_000 };
        let refused = |to: &QueueDescription| makes_room(to, coming, "--max").map(|it| it.exit);
        for (to, exit) in [
            (queue(15, 0, 6), Some(Exit::Refused)),
            (queue(15, 0, 5), None),
            (queue(0, 1_500, 6), Some(Exit::Refused)),
            (queue(0, 1_500, 5), None),
            (queue(0, 0, 5), None),
            (QueueDescription { counts: None, ..queue(15, 0, 0) }, Some(Exit::Unavailable)),
            (QueueDescription { counts: None, ..queue(0, 0, 0) }, None),
        ] {
            assert_eq!(refused(&to), exit, "{to:?}");
        }
        let shards = vec![queue(15, 0, 5), queue(15, 0, 5)];
        let mut sharded = QueueDescription { shards, ..queue(15, 0, 10) };
        assert_eq!(refused(&sharded), None);
        sharded.shards[1] = queue(15, 0, 6);
        assert_eq!(refused(&sharded), Some(Exit::Refused));
        let mut rejects = queue(15, 0, 6);
        rejects.settings.as_mut().unwrap().set_overflow(Overflow::Reject);
        assert_eq!(refused(&rejects), None);
    }

    #[test]
    fn of_messages_of_which_some_come_the_largest_are_weighed() {
        assert_eq!(largest(vec![1, 3, 2], 2), Coming { messages: 2, bytes: 5 });
        assert_eq!(largest(vec![1, 3, 2], 9), Coming { messages: 3, bytes: 6 });
    }
}
