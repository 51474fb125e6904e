//! Moves dead letters: what died in a queue that is led here goes to the queue's dead-letter queue, wherever that is led.
//!
//! ```text
//!  source's leader                                        target's leader
//!   dead_letters() ─► bodies, headers ─► TakeMoved ═════► PublishMoved { source, first, … }
//!        ▲                                                     │ a majority has it
//!        └── Moved { to } ◄══════════ the first that it lacks ─┘
//! ```
//!
//! Both steps can be done again, by this leader or by the next: the target knows by the numbers what it has, and what it
//! has is said to the source only once a majority of the target's replicas has it. So whoever dies, at whatever moment, a
//! dead message is in one of the two queues at least, and in the target once.
//!
//! What cannot be moved waits in its queue, where `describe`, the metrics and one line of the log say why.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_machine::frame as frames;
use quorate_machine::planted::{self, Bug};
use quorate_machine::queue::{Command, DeadRun, PublishMoved, Rejection, Reply};
use quorate_proto::frame::{
    FrameBuilder, LENGTH_BYTES, MAX_HEADERS, MAX_MESSAGE_BYTES, MessageView, message_bytes,
    messages,
};
use quorate_proto::{dead_letter, internal as pb};
use tonic::Status;
use tonic_types::StatusExt;

use crate::member::{BEHAVIOUR_VERSION, Member};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place, passed_on};

/// Time between two looks for queues that have something to move.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for news of a queue before it is looked at anyway.
const NEWS_EVERY: Duration = Duration::from_secs(60);
/// Pause before news is looked at: what dies at once is moved at once.
const GATHER: Duration = Duration::from_millis(10);
/// Pauses before what could not be moved is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Most messages and bytes that are moved at a time; one message may have more.
const BATCH_MESSAGES: u64 = 1_000;
const BATCH_BYTES: usize = 1 << 20;
/// Looks after which bodies that cannot be read are taken for damaged.
const ATTEMPTS: u32 = 3;

/// Starts a mover for each queue that is led here and has a dead-letter queue; goes on until the node ends.
pub(crate) async fn run(member: Arc<Member>) {
    let busy: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    while !member.shutdown.is_said() {
        for queue in member.queues.all().into_iter().filter(|queue| is_needed(queue)) {
            let group = queue.handle.id();
            if busy.lock().expect("no panic while held").insert(group) {
                let (member, busy) = (member.clone(), busy.clone());
                tokio::spawn(async move {
                    keep_moving(&member, &queue).await;
                    busy.lock().expect("no panic while held").remove(&group);
                });
            }
        }
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn is_needed(queue: &Queue) -> bool {
    let asks = |machine: &quorate_machine::queue::Queue| {
        machine.settings().dead_letter.is_some() || machine.dead() > 0
    };
    queue.serves() && queue.handle.read(asks)
}

/// What is in the way.
struct Stuck {
    why: String,
    /// So many messages were too many for the target.
    too_many: Option<u64>,
}

impl From<String> for Stuck {
    fn from(why: String) -> Self {
        Self { why, too_many: None }
    }
}

impl From<Refusal> for Stuck {
    fn from(refusal: Refusal) -> Self {
        refusal.message.into()
    }
}

/// Moves what dies in a queue for as long as it is led here.
async fn keep_moving(member: &Member, queue: &Queue) {
    let (mut pause, mut unreadable, mut most) = (PAUSE_MIN, 0, BATCH_MESSAGES);
    while !member.shutdown.is_said() && is_needed(queue) {
        let applied = queue.handle.replica().applied();
        let stuck = match step(member, queue, most, &mut unreadable).await {
            Ok(moved) => {
                pause = PAUSE_MIN;
                most = (most * 2).min(BATCH_MESSAGES);
                // Where some go as others are taken, it is not said for each of them.
                let goes_on = !moved || most == BATCH_MESSAGES;
                if goes_on && queue.note_stuck(None) {
                    tracing::info!(queue = %queue.name, "dead letters are moved again");
                }
                if moved {
                    continue;
                }
                None
            }
            // There may be room for some of them.
            Err(Stuck { too_many: Some(count @ 2..), .. }) => {
                most = count / 2;
                continue;
            }
            Err(stuck) => Some(stuck.why),
        };
        let wait = async {
            match stuck {
                None => {
                    // An error is that of a replica that has stopped: it does not serve either.
                    let _ = queue.handle.applied_beyond(applied, NEWS_EVERY).await;
                    tokio::time::sleep(GATHER).await;
                }
                Some(stuck) => {
                    let dead = queue.handle.read(|machine| machine.dead());
                    if queue.note_stuck(Some(stuck.clone())) {
                        tracing::warn!(queue = %queue.name, dead, reason = %stuck, "dead letters wait");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        };
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = wait => {}
        }
    }
    queue.note_stuck(None);
}

/// Moves one batch of at most so many messages; false if nothing is dead. Else what is in the way.
async fn step(
    member: &Member,
    queue: &Queue,
    most: u64,
    unreadable: &mut u32,
) -> Result<bool, Stuck> {
    // From before the look: a queue that is recovered meanwhile is not taken for the one of after.
    let timeline = queue.handle.replica().timeline();
    let (target, dead) = queue
        .handle
        .read(|machine| (machine.settings().dead_letter.clone(), machine.dead_letters(most)));
    let Some(first) = dead.first().map(|run| run.seq) else { return Ok(false) };
    let Some(target) = target else {
        let why = "the queue has no dead-letter queue any more; set one, or purge";
        return Err(why.to_owned().into());
    };
    member.expect_known(BEHAVIOUR_VERSION, "dead letters")?;
    let group = member.catalog.read(|catalog| Some(catalog.queue(&target)?.group.0));
    let group = group.ok_or_else(|| Refusal::queue_not_found(target.as_str()))?;
    let (count, frame) = match letters(member, queue, &dead).await {
        Ok(letters) => letters,
        Err(error) => {
            not_readable(member, queue, first, unreadable, &error)?;
            return Ok(true);
        }
    };
    *unreadable = 0;
    let request = pb::TakeMovedRequest {
        hello: None,
        queue: target.as_str().to_owned(),
        group,
        source: queue.handle.id(),
        timeline,
        first,
        count,
        layout: frames::LAYOUT.into(),
        messages: frame,
        hops: 0,
    };
    let limit = member.config.limits.request_timeout();
    let taken = match tokio::time::timeout(3 * limit, member.take_moved(request)).await {
        Ok(Err(_)) if planted::is(Bug::LetGoOfDead) => first + u64::from(count),
        Ok(taken) => taken.map_err(|status| {
            let is_full = status
                .get_details_error_info()
                .is_some_and(|info| info.reason == quorate_proto::reason::QUEUE_FULL);
            let why = format!("{target}: {}", status.message());
            Stuck { why, too_many: is_full.then_some(count.into()) }
        })?,
        Err(_) => return Err(format!("{target}: no answer in time").into()),
    };
    // Never more than was sent, whatever the answer.
    let to = taken.min(first + u64::from(count));
    match tokio::time::timeout(limit, queue.handle.propose(Command::Moved { to })).await {
        Ok(Ok(Reply::Moved { count })) => {
            member.counts.dead_lettered.add(count);
            Ok(true)
        }
        Ok(Ok(reply)) => Err(format!("what was moved does not leave: {reply:?}").into()),
        Ok(Err(error)) => Err(Refusal::from(error).into()),
        Err(_) => Err(Refusal::no_quorum("have what was moved leave").into()),
    }
}

/// Bodies that cannot be read may have been let go of, by a purge or with the replica. Those of messages that are dead still
/// are damaged here: this node stops, as with a delivery, since another node's copy is sound.
fn not_readable(
    member: &Member,
    queue: &Queue,
    first: u64,
    unreadable: &mut u32,
    error: &io::Error,
) -> Result<(), String> {
    let is_dead = |machine: &quorate_machine::queue::Queue| {
        machine.dead_letters(1).first().is_some_and(|run| run.seq == first)
    };
    if !queue.serves() || !queue.handle.read(is_dead) {
        return Ok(());
    }
    *unreadable += 1;
    if *unreadable >= ATTEMPTS && member.queues.get(queue.handle.id()).is_some() {
        member.fail(format!("queue {}: read a dead message: {error}", queue.name));
    }
    Err(format!("read the bodies of what is dead: {error}"))
}

/// The first of what is dead, as far as their numbers are neighbours, as one frame with the headers that say where it
/// comes from.
async fn letters(member: &Member, queue: &Queue, dead: &[DeadRun]) -> io::Result<(u32, Bytes)> {
    let most = BATCH_BYTES.min(member.config.limits.max_frame_bytes as usize);
    let mut letters = FrameBuilder::new();
    let moved_at_ms = queue.handle.now_ms();
    let mut next = dead.first().map_or(0, |first| first.seq);
    for DeadRun { seq, run, cause } in dead {
        // What was between them has been purged.
        if *seq != next {
            break;
        }
        next += u64::from(run.count);
        let frame = queue.frame(*run).await?;
        let offsets = run.first_offset.0..;
        for (offset, message) in offsets.zip(messages(&frame).map_err(io::Error::other)?) {
            let facts = [
                cause.as_str().to_owned(),
                queue.name.as_str().to_owned(),
                offset.to_string(),
                run.attempt.to_string(),
                moved_at_ms.to_string(),
            ];
            let headers = headers(&message, &facts);
            let bytes = LENGTH_BYTES + message_bytes(&headers, &message.body);
            if !letters.is_empty() && letters.len() + bytes > most {
                let frame = letters.finish();
                return Ok((frame.count, frame.messages));
            }
            letters.push(&headers, &message.body).map_err(io::Error::other)?;
        }
    }
    let frame = letters.finish();
    Ok((frame.count, frame.messages))
}

/// A message's own headers, and behind them the facts of its end in place of those of an earlier one. A message that has
/// no room for all of them gets as many as it has room for: its own are never given up.
fn headers(message: &MessageView, facts: &[String; 5]) -> Vec<(String, Bytes)> {
    let own = message.headers.iter().filter(|(key, _)| !dead_letter::ALL.contains(key));
    let mut headers: Vec<(String, Bytes)> =
        own.map(|(key, value)| (key.to_owned(), value)).collect();
    for (key, fact) in dead_letter::ALL.into_iter().zip(facts) {
        headers.push((key.to_owned(), Bytes::copy_from_slice(fact.as_bytes())));
        let fits = headers.len() <= MAX_HEADERS
            && message_bytes(&headers, &message.body) <= MAX_MESSAGE_BYTES;
        if !fits {
            headers.pop();
            break;
        }
    }
    headers
}

impl Member {
    /// Takes in what died in another queue, here or where the queue is led. Tells the number of the source's first message
    /// that the queue does not have.
    pub(crate) async fn take_moved(&self, request: pb::TakeMovedRequest) -> Result<u64, Status> {
        let hops = request.hops;
        match self.place(&request.queue, hops).await? {
            Place::Here(queue) => Ok(self.take_moved_here(&queue, request).await?),
            Place::There(node) => {
                let channel = self.channel(node)?;
                let mut client = pb::peer_client::PeerClient::new(channel)
                    .max_encoding_message_size(crate::peers::MESSAGE_BYTES_MAX);
                let hello = Some(self.hello());
                let request = pb::TakeMovedRequest { hello, hops: hops + 1, ..request };
                let answer = client.take_moved(request).await.map_err(passed_on)?;
                Ok(answer.into_inner().next)
            }
        }
    }

    async fn take_moved_here(
        &self,
        queue: &Queue,
        request: pb::TakeMovedRequest,
    ) -> Result<u64, Refusal> {
        let pb::TakeMovedRequest { source, timeline, first, count, messages, .. } = request;
        if request.group != queue.handle.id() {
            // One of the two nodes has not heard yet that it was made anew.
            return Err(Refusal::not_leader(None));
        }
        if request.layout != u32::from(frames::LAYOUT) {
            let message = format!("frame layout {} is not known to this node", request.layout);
            return Err(Refusal::new(quorate_proto::reason::UNSUPPORTED_VERSION, message));
        }
        frames::validate(&messages, count, MAX_MESSAGE_BYTES as u32)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        if self.disk.is_full() {
            return Err(Refusal::disk_full());
        }
        let bytes = messages.len();
        let memory = self.budget.memory(bytes).await?;
        let layout = frames::LAYOUT;
        let moved = PublishMoved { source, timeline, first, count, layout, frame: messages };
        let limit = self.config.limits.request_timeout();
        let submit = queue.handle.submit(Command::PublishMoved(moved), bytes, Some(memory));
        let outcome = match tokio::time::timeout(limit, submit).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(Refusal::not_taken()),
        };
        let applied = match tokio::time::timeout(limit, outcome).await {
            Ok(Ok(Ok(applied))) => applied,
            Ok(Ok(Err(error))) => return Err(self.redirect(queue, error)),
            Ok(Err(_)) | Err(_) => return Err(Refusal::unknown_outcome()),
        };
        match applied.reply {
            Reply::Published { .. } | Reply::AlreadyMoved => Ok(first + u64::from(count)),
            Reply::Rejected(Rejection::MovedInPart { next }) => Ok(next),
            Reply::Rejected(rejection) => Err(rejection.into()),
            _ => Err(Refusal::unknown_outcome()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(own: &[(&str, &str)], body: usize) -> MessageView {
        let mut frame = FrameBuilder::new();
        frame.push(own, &vec![0; body]).unwrap();
        messages(&frame.finish()).unwrap().next().unwrap()
    }

    fn facts() -> [String; 5] {
        ["rejected", "orders", "7", "2", "1000"].map(str::to_owned)
    }

    fn shown(headers: &[(String, Bytes)]) -> Vec<(&str, &str)> {
        headers
            .iter()
            .map(|(key, value)| (key.as_str(), std::str::from_utf8(value).unwrap()))
            .collect()
    }

    #[test]
    fn the_facts_of_an_earlier_end_are_replaced_and_a_messages_own_headers_stay() {
        let own =
            [("a", "1"), ("quorate-dead-source", "old"), ("quorate-dead-x", "mine"), ("a", "2")];
        let headers = headers(&message(&own, 3), &facts());
        let expected = [
            ("a", "1"),
            ("quorate-dead-x", "mine"),
            ("a", "2"),
            ("quorate-dead-cause", "rejected"),
            ("quorate-dead-source", "orders"),
            ("quorate-dead-offset", "7"),
            ("quorate-dead-deliveries", "2"),
            ("quorate-dead-moved-at-ms", "1000"),
        ];
        assert_eq!(shown(&headers), expected);
    }

    #[test]
    fn what_a_message_has_no_room_for_is_left_out_and_nothing_of_its_own() {
        let many = vec![("k", ""); MAX_HEADERS - 2];
        let headers = headers(&message(&many, 3), &facts());
        assert_eq!(headers.len(), MAX_HEADERS);
        assert_eq!(shown(&headers[MAX_HEADERS - 2..])[1], ("quorate-dead-source", "orders"));
        let large = message(&[], MAX_MESSAGE_BYTES - 2);
        assert_eq!(super::headers(&large, &facts()), []);
        let nearly = message(&[], MAX_MESSAGE_BYTES - 2 - (6 + 18 + 8));
        assert_eq!(shown(&super::headers(&nearly, &facts())), [("quorate-dead-cause", "rejected")]);
    }
}
