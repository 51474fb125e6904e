//! What must always hold, one file each. Each is told of everything that happens, and says at once
//! when it does not hold; what can only be judged at the end is judged when the faults are healed,
//! the queues drained, and all has settled.

mod acked_never_lost;
mod acked_stays_gone;
mod conservation;
mod corruption_contained;
mod dead_letters_once;
mod enters_once;
mod expected_offset;
mod filter_kept;
mod gone_for_a_reason;
mod group_order;
mod identity;
mod key_at_one_shard;
mod never_early;
mod nothing_invented;
mod offset_is_one_payload;
mod once_per_message_id;
mod one_active;
mod one_lease_per_message;
mod order_kept;
mod priority_order;
mod raft_safety;
mod reads_within_bound;
mod replicas_agree;
mod slot_never_skips;
mod sought_exactly;
mod topic_parts;
mod weaker_is_declared;

use quorate_machine::Millis;
use quorate_machine::queue::{Command, Properties, Publish, Reply};
use quorate_proto::{frame, v1};

use crate::events::{Event, MessageId, QueueEntry};
use crate::workload::body;

/// One of them.
pub trait Invariant: Send {
    /// As the report calls it.
    fn name(&self) -> &'static str;

    /// Something happened.
    ///
    /// # Errors
    /// Says what does not hold any more.
    fn saw(&mut self, event: &Event<'_>) -> Result<(), String>;

    /// The run is over, healed and drained.
    ///
    /// # Errors
    /// Says what does not hold.
    fn at_end(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// All of them, as of the beginning of a run. Liveness is judged by the run itself, which has to
/// drain within its time.
#[must_use]
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        // Before raft_safety, which sees the same, but not why.
        Box::<corruption_contained::CorruptionContained>::default(),
        Box::<raft_safety::RaftSafety>::default(),
        Box::<replicas_agree::ReplicasAgree>::default(),
        Box::<offset_is_one_payload::OffsetIsOnePayload>::default(),
        Box::<enters_once::EntersOnce>::default(),
        Box::<once_per_message_id::OncePerMessageId>::default(),
        Box::<expected_offset::ExpectedOffset>::default(),
        Box::<topic_parts::TopicParts>::default(),
        Box::<key_at_one_shard::KeyAtOneShard>::default(),
        Box::<order_kept::OrderKept>::default(),
        Box::<nothing_invented::NothingInvented>::default(),
        Box::<one_lease_per_message::OneLeasePerMessage>::default(),
        Box::<acked_stays_gone::AckedStaysGone>::default(),
        Box::<group_order::GroupOrder>::default(),
        Box::<one_active::OneActive>::default(),
        Box::<filter_kept::FilterKept>::default(),
        Box::<priority_order::PriorityOrder>::default(),
        Box::<never_early::NeverEarly>::default(),
        Box::<conservation::Conservation>::default(),
        Box::<sought_exactly::SoughtExactly>::default(),
        Box::<gone_for_a_reason::GoneForAReason>::default(),
        Box::<dead_letters_once::DeadLettersOnce>::default(),
        Box::<identity::Identity>::default(),
        Box::<acked_never_lost::AckedNeverLost>::default(),
        Box::<reads_within_bound::ReadsWithinBound>::default(),
        Box::<slot_never_skips::SlotNeverSkips>::default(),
        Box::<weaker_is_declared::WeakerIsDeclared>::default(),
    ]
}

/// Holds, or says why not.
fn must(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

/// The messages that an entry added to its queue, with their offsets; `None` for a message that is
/// not of the workload.
fn entered(entry: &QueueEntry<'_>) -> Vec<(u64, Option<MessageId>)> {
    let mut entered = Vec::new();
    for (command, reply) in entry.commands.iter().zip(entry.replies) {
        let Reply::Published { first_offset, duplicate: false, .. } = reply else { continue };
        match command {
            Command::Publish(publish) => {
                entered.extend((first_offset.0..).zip(messages(publish)));
            }
            Command::PublishMoved(moved) => {
                let publish = Publish::plain(moved.count, moved.frame.clone());
                entered.extend((first_offset.0..).zip(messages(&publish)));
            }
            _ => {}
        }
    }
    entered
}

/// The offsets of messages that came from another queue, which does not say that anybody sent them here.
fn moved_here(entry: &QueueEntry<'_>) -> impl Iterator<Item = u64> {
    let replies = entry.commands.iter().zip(entry.replies);
    let ranges = replies.filter_map(|(command, reply)| match (command, reply) {
        (Command::PublishMoved(_), Reply::Published { first_offset, count, duplicate: false }) => {
            Some(first_offset.0..first_offset.0 + u64::from(*count))
        }
        _ => None,
    });
    ranges.flatten()
}

/// The offsets of messages whose batch has a message id: by its bounds such a batch may enter again.
fn named(entry: &QueueEntry<'_>) -> impl Iterator<Item = u64> {
    let replies = entry.commands.iter().zip(entry.replies);
    let ranges = replies.filter_map(|(command, reply)| match (command, reply) {
        (Command::Publish(publish), Reply::Published { first_offset, count, duplicate: false })
            if publish.message_id().is_some() =>
        {
            Some(first_offset.0..first_offset.0 + u64::from(*count))
        }
        _ => None,
    });
    ranges.flatten()
}

/// What each message of a publish was published with.
fn of_each(publish: &Publish) -> impl Iterator<Item = Properties> + '_ {
    let is_plain = publish.properties.is_empty();
    let plain = is_plain.then_some(Properties { count: publish.count, ..Properties::default() });
    let runs = plain.into_iter().chain(publish.properties.iter().copied());
    runs.flat_map(|of| std::iter::repeat_n(Properties { count: 1, ..of }, of.count as usize))
}

/// When each message of a publish is due, if it was for later.
fn dues(properties: &[Properties]) -> impl Iterator<Item = Option<Millis>> + '_ {
    properties.iter().flat_map(|of| std::iter::repeat_n(of.due, of.count as usize))
}

/// The messages of a publish; `None` for one that is not of the workload.
fn messages(publish: &Publish) -> Vec<Option<MessageId>> {
    let frame = v1::Frame {
        layout: publish.layout.into(),
        count: publish.count,
        messages: publish.frame.clone(),
    };
    let messages = frame::messages(&frame).into_iter().flatten();
    messages.map(|message| body::read(&message.body)).collect()
}
