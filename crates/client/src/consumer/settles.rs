//! Settles on their way to the server: one request at a time; what gathers meanwhile is the next one.
//!
//! Consecutive offsets under one token become one range. A settle whose answer was lost with its stream
//! is sent again; if the lease is gone by then, either the first copy took effect or the lease ended:
//! the outcome is unknown, and the caller is told so.

use std::collections::BTreeMap;

use quorate_proto::{reason, v1};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::consumer::ledger::Lease;
use crate::error::SettleError;
use crate::fault::{Fault, Verdict};

/// Most items of one request, as the server has it.
const ITEMS: usize = 65_536;
/// Most leases settled by one request, and most that are told to be begun.
const SETTLES: usize = 16_384;
/// Most that are extended by it.
pub(crate) const EXTENSIONS: usize = ITEMS - 2 * SETTLES;

/// What is done with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Ack,
    Nack { delay_ms: u32 },
    Reject,
    Return,
}

pub(crate) type Waiter = oneshot::Sender<Result<(), SettleError>>;

pub(crate) struct Settle {
    pub kind: Kind,
    pub lease: Lease,
    /// `None` when nobody waits.
    pub waiter: Option<Waiter>,
    /// A copy may have taken effect.
    floating: bool,
}

impl Settle {
    pub fn new(kind: Kind, lease: Lease, waiter: Option<Waiter>) -> Self {
        Self { kind, lease, waiter, floating: false }
    }

    pub fn finish(self, outcome: Result<(), SettleError>) {
        if let Some(waiter) = self.waiter {
            let _ = waiter.send(outcome);
        }
    }

    fn lost(&self) -> SettleError {
        if self.floating { SettleError::UnknownOutcome } else { SettleError::LeaseLost }
    }
}

struct Sent {
    id: u64,
    at: Instant,
    settles: Vec<Settle>,
    extended: Vec<Lease>,
    started: Vec<Lease>,
}

/// What an answer has decided.
#[derive(Default)]
pub(crate) struct Answered {
    pub settled: Vec<(Settle, Result<(), SettleError>)>,
    /// Leases that could not be extended.
    pub lost: Vec<Lease>,
    /// The request is to be sent again, after this fault.
    pub retry: Option<Fault>,
}

#[derive(Default)]
pub(crate) struct Settles {
    waiting: Vec<Settle>,
    /// What the application has begun to handle, and the server does not know yet.
    started: Vec<Lease>,
    sent: Option<Sent>,
    next_id: u64,
}

impl Settles {
    pub fn push(&mut self, settle: Settle) {
        self.waiting.push(settle);
    }

    /// The application has begun to handle a message.
    pub fn started(&mut self, lease: Lease) {
        self.started.push(lease);
    }

    /// Forgets what was begun and is settled by now, or lost.
    pub fn retain_started(&mut self, is_worked_on: impl Fn(Lease) -> bool) {
        self.started.retain(|&lease| is_worked_on(lease));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.started.is_empty() && self.sent.is_none()
    }

    pub fn may_send(&self) -> bool {
        self.sent.is_none()
    }

    pub fn waiting_since(&self) -> Option<Instant> {
        self.sent.as_ref().map(|sent| sent.at)
    }

    /// The next request, if there is something to say.
    pub fn request(
        &mut self,
        extended: Vec<Lease>,
        lease_ms: u32,
        now: Instant,
    ) -> Option<v1::Settle> {
        let nothing = self.waiting.is_empty() && self.started.is_empty() && extended.is_empty();
        if self.sent.is_some() || nothing {
            return None;
        }
        let rest = self.started.split_off(self.started.len().min(SETTLES));
        let started = std::mem::replace(&mut self.started, rest);
        let rest = self.waiting.split_off(self.waiting.len().min(SETTLES));
        let settles = std::mem::replace(&mut self.waiting, rest);
        let kept = [extended.as_slice(), &started].concat();
        let mut settles = newest_of_each_message(settles, &kept);
        settles.sort_by_key(|settle| (settle.kind, settle.lease));
        let mut items = Vec::new();
        for settle in &settles {
            let (kind, delay_ms) = match settle.kind {
                Kind::Ack => (v1::SettleKind::Ack, 0),
                Kind::Nack { delay_ms } => (v1::SettleKind::Nack, delay_ms),
                Kind::Reject => (v1::SettleKind::Reject, 0),
                Kind::Return => (v1::SettleKind::Return, 0),
            };
            append(&mut items, kind, settle.lease, delay_ms);
        }
        for (kind, leases, delay_ms) in
            [(v1::SettleKind::Extend, &extended, lease_ms), (v1::SettleKind::Start, &started, 0)]
        {
            let mut by_token = leases.clone();
            by_token.sort_unstable();
            by_token.into_iter().for_each(|lease| append(&mut items, kind, lease, delay_ms));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.sent = Some(Sent { id, at: now, settles, extended, started });
        Some(v1::Settle { id, items })
    }

    /// # Errors
    /// When nothing was asked under the answer's id.
    pub fn answered(&mut self, answer: v1::Settled) -> Result<Answered, &'static str> {
        if self.sent.as_ref().is_none_or(|sent| sent.id != answer.id) {
            return Err("a settle was answered that was not sent");
        }
        let Some(sent) = self.sent.take() else { return Ok(Answered::default()) };
        match answer.failure.map(Fault::from) {
            None => Ok(sent.answered(answer.lost)),
            Some(fault) if fault.is_retryable() => {
                self.started.extend(sent.started);
                self.again(sent.settles, fault.verdict == Verdict::Unknown);
                Ok(Answered { retry: Some(fault), ..Answered::default() })
            }
            Some(fault) => Ok(sent.refused(&fault)),
        }
    }

    /// The stream is gone: what was on it is sent again on the next one.
    pub fn stream_lost(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.started.extend(sent.started);
            self.again(sent.settles, true);
        }
    }

    fn again(&mut self, mut settles: Vec<Settle>, floating: bool) {
        settles.iter_mut().for_each(|settle| settle.floating |= floating);
        settles.append(&mut self.waiting);
        self.waiting = settles;
    }

    /// The session has ended: nothing that waits can take effect any more.
    pub fn fail_all(&mut self, error: &SettleError) {
        self.stream_lost();
        for settle in std::mem::take(&mut self.waiting) {
            let error = if settle.floating { SettleError::UnknownOutcome } else { error.clone() };
            settle.finish(Err(error));
        }
    }
}

/// A message that was leased to us again, under a higher token, has lost its earlier lease: what
/// would settle that one is told so and not sent. For an answer names offsets, not tokens, so a
/// request must not name an offset under two.
fn newest_of_each_message(settles: Vec<Settle>, extended: &[Lease]) -> Vec<Settle> {
    let mut leases: Vec<(u64, u64)> = settles
        .iter()
        .map(|settle| settle.lease)
        .chain(extended.iter().copied())
        .map(|lease| (lease.offset, lease.token))
        .collect();
    leases.sort_unstable();
    if leases.windows(2).all(|pair| pair[0].0 != pair[1].0) {
        return settles;
    }
    let newest: BTreeMap<u64, u64> = leases.into_iter().collect();
    let (keep, lost): (Vec<Settle>, Vec<Settle>) =
        settles.into_iter().partition(|settle| newest[&settle.lease.offset] == settle.lease.token);
    for settle in lost {
        // It was leased again, so no earlier copy of an ack or a reject took effect.
        let error = match settle.kind {
            Kind::Nack { .. } | Kind::Return => settle.lost(),
            Kind::Ack | Kind::Reject => SettleError::LeaseLost,
        };
        settle.finish(Err(error));
    }
    keep
}

/// Ranges in order, those that overlap or touch joined.
fn joined(mut ranges: Vec<v1::OffsetRange>) -> Vec<std::ops::Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.first_offset);
    let mut joined: Vec<std::ops::Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let end = range.first_offset.saturating_add(range.count.into());
        match joined.last_mut() {
            Some(last) if range.first_offset <= last.end => last.end = last.end.max(end),
            _ => joined.push(range.first_offset..end),
        }
    }
    joined
}

/// Adds a lease to the last range if it continues it.
fn append(items: &mut Vec<v1::SettleItem>, kind: v1::SettleKind, lease: Lease, delay_ms: u32) {
    if let Some(last) = items.last_mut()
        && last.kind == kind as i32
        && last.token == lease.token
        && last.delay_ms == delay_ms
        && last.first_offset + u64::from(last.count) == lease.offset
    {
        last.count += 1;
        return;
    }
    items.push(v1::SettleItem {
        kind: kind.into(),
        token: lease.token,
        first_offset: lease.offset,
        count: 1,
        delay_ms,
    });
}

impl Sent {
    fn answered(self, lost: Vec<v1::OffsetRange>) -> Answered {
        let lost = joined(lost);
        let is_lost = |offset: u64| {
            let after = lost.partition_point(|range| range.start <= offset);
            after.checked_sub(1).is_some_and(|at| lost[at].contains(&offset))
        };
        let outcome = |settle: Settle| {
            let outcome = if is_lost(settle.lease.offset) { Err(settle.lost()) } else { Ok(()) };
            (settle, outcome)
        };
        Answered {
            settled: self.settles.into_iter().map(outcome).collect(),
            lost: self
                .extended
                .into_iter()
                .chain(self.started)
                .filter(|lease| is_lost(lease.offset))
                .collect(),
            retry: None,
        }
    }

    fn refused(self, fault: &Fault) -> Answered {
        let outcome = |settle: Settle| {
            let error = match fault.refusal.reason.as_str() {
                reason::LEASE_LOST => settle.lost(),
                _ => SettleError::Refused(fault.refusal.clone()),
            };
            (settle, Err(error))
        };
        let settled = self.settles.into_iter().map(outcome).collect();
        Answered { settled, ..Answered::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(settles: &mut Settles, leases: impl IntoIterator<Item = (u64, u64)>) {
        for (token, offset) in leases {
            settles.push(Settle::new(Kind::Ack, Lease { token, offset, log: 0 }, None));
        }
    }

    fn ranges(request: &v1::Settle) -> Vec<(i32, u64, u64, u32)> {
        let item = |item: &v1::SettleItem| (item.kind, item.token, item.first_offset, item.count);
        request.items.iter().map(item).collect()
    }

    #[tokio::test]
    async fn consecutive_offsets_of_one_token_are_one_range() {
        let mut settles = Settles::default();
        acks(&mut settles, [(7, 12), (7, 10), (8, 13), (7, 11), (7, 20)]);
        let extended =
            vec![Lease { token: 7, offset: 14, log: 0 }, Lease { token: 7, offset: 15, log: 0 }];
        let request = settles.request(extended, 30_000, Instant::now()).unwrap();
        let (ack, extend) = (v1::SettleKind::Ack as i32, v1::SettleKind::Extend as i32);
        let expected = [(ack, 7, 10, 3), (ack, 7, 20, 1), (ack, 8, 13, 1), (extend, 7, 14, 2)];
        assert_eq!(ranges(&request), expected);
        assert_eq!(request.items[3].delay_ms, 30_000);
    }

    #[tokio::test]
    async fn a_message_leased_again_is_settled_under_its_last_token_alone() {
        let mut settles = Settles::default();
        let (waiter, old) = tokio::sync::oneshot::channel();
        let lease = Lease { token: 3, offset: 10, log: 0 };
        settles.push(Settle::new(Kind::Ack, lease, Some(waiter)));
        acks(&mut settles, [(5, 10), (5, 12)]);
        let request = settles.request(Vec::new(), 0, Instant::now()).unwrap();
        let ack = v1::SettleKind::Ack as i32;
        assert_eq!(ranges(&request), [(ack, 5, 10, 1), (ack, 5, 12, 1)]);
        assert_eq!(old.await.unwrap(), Err(SettleError::LeaseLost));
    }

    #[tokio::test]
    async fn overlapping_lost_ranges_are_all_lost() {
        let mut settles = Settles::default();
        acks(&mut settles, [(1, 5), (1, 6), (1, 7), (1, 8)]);
        let request = settles.request(Vec::new(), 0, Instant::now()).unwrap();
        let range = |first_offset, count| v1::OffsetRange { first_offset, count };
        let lost = vec![range(5, 3), range(6, 1)];
        let answer = v1::Settled { id: request.id, lost, failure: None };
        let outcomes = settles.answered(answer).unwrap().settled;
        let lost: Vec<u64> = outcomes
            .iter()
            .filter(|(_, outcome)| outcome.is_err())
            .map(|(settle, _)| settle.lease.offset)
            .collect();
        assert_eq!(lost, [5, 6, 7]);
    }

    #[tokio::test]
    async fn what_gathers_during_a_request_is_the_next_one() {
        let mut settles = Settles::default();
        acks(&mut settles, [(1, 0)]);
        let first = settles.request(Vec::new(), 0, Instant::now()).unwrap();
        acks(&mut settles, [(1, 1), (1, 2)]);
        assert!(settles.request(Vec::new(), 0, Instant::now()).is_none());
        let answer = settles.answered(v1::Settled { id: first.id, ..Default::default() }).unwrap();
        assert_eq!(answer.settled.len(), 1);
        let second = settles.request(Vec::new(), 0, Instant::now()).unwrap();
        assert_eq!(ranges(&second), [(v1::SettleKind::Ack as i32, 1, 1, 2)]);
    }

    #[tokio::test]
    async fn a_lost_lease_is_unknown_only_if_an_earlier_copy_may_have_taken_effect() {
        for broken in [false, true] {
            let mut settles = Settles::default();
            acks(&mut settles, [(1, 5)]);
            let mut request = settles.request(Vec::new(), 0, Instant::now()).unwrap();
            if broken {
                settles.stream_lost();
                request = settles.request(Vec::new(), 0, Instant::now()).unwrap();
            }
            let lost = vec![v1::OffsetRange { first_offset: 4, count: 2 }];
            let answer = v1::Settled { id: request.id, lost, failure: None };
            let answered = settles.answered(answer).unwrap();
            let expected =
                if broken { SettleError::UnknownOutcome } else { SettleError::LeaseLost };
            assert_eq!(answered.settled[0].1, Err(expected));
        }
    }
}
