//! What a producer has cut into batches and not yet seen confirmed, in order of sequence.
//!
//! ```text
//!   batches:  [ refused ...          | sent ...             | unsent ...                        ]
//!               OUT_OF_ORDER: not in   on the open stream,    `ever_sent` ones first: those of a
//!               the queue, waits for   answers come in this   stream that broke, sent again with
//!               the next epoch         order                  the same (epoch, sequence)
//! ```
//! A copy of a batch that was sent on a stream that broke before the answer may still be on its way: it
//! *floats*. Sent again under the same sequence, the server takes one of the two. So what floats is never
//! renumbered, and a refusal of its second copy says nothing of its first: that outcome is unknown.
//!
//! After a refusal the server expects the refused sequence again. The rest therefore starts anew under
//! the next epoch, but only after everything sent under this one was answered ([`Window::reseal`]):
//! a server that has forgotten the producer takes any first sequence, so what follows a refused batch
//! may have entered.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_proto::v1::AckLevel;
use quorate_proto::{reason, v1};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::{PublishError, Refusal};
use crate::fault::{Fault, Verdict};
use crate::producer::Condition;
use crate::producer::pending::Receipt;

pub(crate) type Waiter = oneshot::Sender<Result<Receipt, PublishError>>;

/// Several messages that enter together or not at all.
pub(crate) struct Batch {
    pub frame: v1::Frame,
    /// Of its messages; none if they are plain.
    pub properties: Vec<v1::Properties>,
    pub condition: Condition,
    /// The shard that it is for.
    pub shard: Option<u16>,
    pub waiters: Vec<Waiter>,
    /// What the messages take of the producer's room.
    pub bytes: usize,
    /// Number of the first message among all that were sent by this producer.
    pub first: u64,
    pub deadline: Instant,
    id: u64,
    sequence: u64,
    sent_at: Option<Instant>,
    floating: bool,
    /// The copy on the open stream was answered: it did not enter.
    copy_is_dead: bool,
    /// The callers were told that the outcome is unknown; it stays so that what follows has no gap.
    given_up: bool,
}

impl Batch {
    pub fn new(
        frame: v1::Frame,
        waiters: Vec<Waiter>,
        bytes: usize,
        first: u64,
        deadline: Instant,
    ) -> Self {
        Self {
            frame,
            properties: Vec::new(),
            condition: Condition::default(),
            shard: None,
            waiters,
            bytes,
            first,
            deadline,
            id: 0,
            sequence: 0,
            sent_at: None,
            floating: false,
            copy_is_dead: false,
            given_up: false,
        }
    }

    /// Messages in it, which is also what it takes of the producer's room.
    pub fn messages(&self) -> usize {
        self.frame.count as usize
    }

    pub fn confirm(&mut self, receipt: &v1::Receipt) {
        let level = match receipt.level() {
            // From a server that knows one level only.
            AckLevel::Unspecified => AckLevel::Quorum,
            level => level,
        };
        for (waiter, offset) in self.waiters.drain(..).zip(receipt.first_offset..) {
            // A caller that does not wait has dropped its end.
            let _ = waiter.send(Ok(Receipt {
                offset: Some(offset).filter(|_| level != AckLevel::Accepted),
                duplicate: receipt.duplicate,
                level,
                position: receipt.position.unwrap_or_default(),
                in_sync: receipt.in_sync.len() as u32,
                shard: self.shard,
            }));
        }
    }

    /// The messages are in the queue, but not on as many disks as was asked for.
    fn confirm_in_part(&mut self, refusal: &Refusal) {
        let first = refusal.metadata.get("first_offset").and_then(|offset| offset.parse().ok());
        for (n, waiter) in (0..).zip(self.waiters.drain(..)) {
            let (refusal, offset) = (refusal.clone(), first.map(|first: u64| first + n));
            let _ = waiter.send(Err(PublishError::NotEnoughInSync { refusal, offset }));
        }
    }

    pub fn fail(&mut self, error: &PublishError) {
        for waiter in self.waiters.drain(..) {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    fn ever_sent(&self) -> bool {
        self.sent_at.is_some()
    }
}

/// What an answer of the server means for the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    /// Everything unanswered is to be sent again on another stream.
    Retry,
    /// The producer id is in use under a higher epoch: nothing can be sent any more.
    Fenced,
}

pub(crate) struct Window {
    epoch: u32,
    ack: AckLevel,
    next_sequence: u64,
    next_id: u64,
    batches: VecDeque<Batch>,
    refused: usize,
    sent: usize,
    /// The epoch is used up: nothing new is sent under it.
    sealed: bool,
    /// Taken out with their outcome told; their room is to be released.
    done: Vec<Batch>,
}

impl Window {
    pub fn new(epoch: u32, ack: AckLevel) -> Self {
        Self {
            epoch,
            ack,
            next_sequence: 0,
            next_id: 0,
            batches: VecDeque::new(),
            refused: 0,
            sent: 0,
            sealed: false,
            done: Vec::new(),
        }
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub fn takes_more(&self) -> bool {
        !self.sealed
    }

    /// Number of the first message that has no outcome yet.
    pub fn first_open(&self) -> Option<u64> {
        self.batches.iter().find(|batch| !batch.given_up).map(|batch| batch.first)
    }

    /// Batches whose outcome is known since the last call.
    pub fn take_done(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.done)
    }

    pub fn push(&mut self, mut batch: Batch) {
        self.number(&mut batch);
        self.batches.push_back(batch);
    }

    fn number(&mut self, batch: &mut Batch) {
        batch.sequence = self.next_sequence;
        batch.id = self.next_id;
        self.next_sequence += u64::from(batch.frame.count);
        self.next_id += 1;
    }

    /// The next batch for the open stream.
    pub fn next_to_send(&mut self, now: Instant) -> Option<v1::PublishBatch> {
        let batch = self.batches.get_mut(self.refused + self.sent)?;
        if self.sealed && !batch.ever_sent() {
            return None;
        }
        batch.sent_at = Some(now);
        batch.copy_is_dead = false;
        self.sent += 1;
        Some(v1::PublishBatch {
            id: batch.id,
            sequence: batch.sequence,
            frame: Some(batch.frame.clone()),
            properties: batch.properties.clone(),
            message_id: batch.condition.message_id.clone(),
            expected_next_offset: batch.condition.expected_next_offset,
            ack: self.ack.into(),
        })
    }

    /// When the oldest batch on the open stream was sent.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.batches.get(self.refused).filter(|_| self.sent > 0).and_then(|batch| batch.sent_at)
    }

    /// The stream is gone: what was on it is to be sent again.
    pub fn lost(&mut self) {
        for batch in self.batches.range_mut(self.refused..self.refused + self.sent) {
            batch.floating |= !batch.copy_is_dead;
        }
        self.sent = 0;
    }

    fn answered(&self, id: u64) -> Result<(), &'static str> {
        let batch = self.batches.get(self.refused).filter(|_| self.sent > 0);
        match batch {
            Some(batch) if batch.id == id => Ok(()),
            Some(_) => Err("an answer is out of order"),
            None => Err("an answer to nothing that was sent"),
        }
    }

    fn take_answered(&mut self) -> Option<Batch> {
        self.sent -= 1;
        self.batches.remove(self.refused)
    }

    /// # Errors
    /// When the answer does not fit what was sent.
    pub fn receipt(&mut self, id: u64, receipt: &v1::Receipt) -> Result<(), &'static str> {
        self.answered(id)?;
        if self.batches[self.refused].frame.count != receipt.count {
            return Err("a receipt counts other messages than were sent");
        }
        if let Some(mut batch) = self.take_answered() {
            batch.confirm(receipt);
            self.done.push(batch);
        }
        Ok(())
    }

    /// # Errors
    /// When the answer does not fit what was sent.
    pub fn failure(&mut self, id: u64, fault: &Fault) -> Result<Next, &'static str> {
        self.answered(id)?;
        match (fault.verdict, fault.refusal.reason.as_str()) {
            (Verdict::Dead, _) => {
                self.batches[self.refused].copy_is_dead = true;
                Ok(Next::Retry)
            }
            (Verdict::Unknown, _) => Ok(Next::Retry),
            (Verdict::Refused, reason::PRODUCER_FENCED) => {
                self.batches[self.refused].copy_is_dead = true;
                Ok(Next::Fenced)
            }
            (Verdict::Refused, reason::NOT_ENOUGH_IN_SYNC) if has_entered(&fault.refusal) => {
                if let Some(mut batch) = self.take_answered() {
                    batch.confirm_in_part(&fault.refusal);
                    self.done.push(batch);
                }
                Ok(Next::GoOn)
            }
            (Verdict::Refused, reason) => {
                self.sealed = true;
                let batch = &self.batches[self.refused];
                if reason == reason::OUT_OF_ORDER && !batch.floating && !batch.given_up {
                    self.refused += 1;
                    self.sent -= 1;
                } else if let Some(mut batch) = self.take_answered() {
                    batch.fail(&refused(&batch, &fault.refusal));
                    self.done.push(batch);
                }
                Ok(Next::GoOn)
            }
        }
    }

    /// Starts the next epoch once nothing of this one is open; true if it did. The stream has to be
    /// opened anew then. `None` when there are no more epochs.
    pub fn reseal(&mut self) -> Option<bool> {
        let open = |batch: &&Batch| batch.ever_sent();
        let mut sent = self.batches.iter().skip(self.refused).take_while(open);
        let live = sent.any(|batch| !batch.given_up);
        self.sealed |= !live && self.batches.iter().any(|batch| batch.given_up);
        if !self.sealed || live {
            return Some(false);
        }
        self.epoch = self.epoch.checked_add(1)?;
        self.sealed = false;
        (self.refused, self.sent, self.next_sequence) = (0, 0, 0);
        for mut batch in std::mem::take(&mut self.batches) {
            if batch.given_up {
                self.done.push(batch);
            } else {
                batch.sent_at = None;
                self.push(batch);
            }
        }
        Some(true)
    }

    /// When the first caller has to be told.
    pub fn deadline(&self) -> Option<Instant> {
        self.batches.iter().find(|batch| !batch.given_up).map(|batch| batch.deadline)
    }

    /// Tells the callers whose time is over.
    pub fn expire(&mut self, now: Instant, after: Duration, last: &Refusal) {
        let mut at = 0;
        while let Some(batch) = self.batches.get_mut(at) {
            if batch.given_up {
                at += 1;
                continue;
            }
            if batch.deadline > now {
                break;
            }
            let is_sent = (self.refused..self.refused + self.sent).contains(&at);
            if batch.floating || is_sent && !batch.copy_is_dead {
                batch.fail(&PublishError::UnknownOutcome { last: last.clone() });
                batch.given_up = true;
                at += 1;
            } else {
                batch.fail(&PublishError::Unavailable { after, last: last.clone() });
                self.remove_unentered(at);
            }
        }
    }

    /// Takes out a batch that did not enter; its sequence is missing from then on.
    fn remove_unentered(&mut self, at: usize) {
        if at < self.refused {
            self.refused -= 1;
        } else if at < self.refused + self.sent {
            self.sent -= 1;
        }
        self.sealed = true;
        self.done.extend(self.batches.remove(at));
    }

    /// Ends everything: the server has refused the producer as a whole.
    pub fn fail_all(&mut self, refusal: &Refusal) {
        self.lost();
        self.refused = 0;
        self.sealed |= self.next_sequence > 0;
        for mut batch in std::mem::take(&mut self.batches) {
            batch.fail(&refused(&batch, refusal));
            self.done.push(batch);
        }
    }
}

fn has_entered(refusal: &Refusal) -> bool {
    refusal.metadata.get("entered").is_some_and(|entered| entered == "true")
}

/// Whether no copy of a batch has entered or can enter any more: the queue looks for one that has before it looks at
/// the offset, and its end never comes back.
fn is_passed(batch: &Batch, refusal: &Refusal) -> bool {
    let next = refusal.metadata.get("next_offset").and_then(|next| next.parse().ok());
    refusal.reason == reason::UNEXPECTED_OFFSET && next > batch.condition.expected_next_offset
}

fn refused(batch: &Batch, refusal: &Refusal) -> PublishError {
    if batch.floating && !is_passed(batch, refusal) {
        PublishError::UnknownOutcome { last: refusal.clone() }
    } else {
        PublishError::Refused(refusal.clone())
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
