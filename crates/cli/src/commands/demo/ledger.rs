//! What became of each message of the demo, and the verdict on all of them.
//!
//! ```text
//! attempted ──receipt──► confirmed ──┐
//!     └─────────────► delivered ─────┴─► acked (confirmed by the cluster)
//!
//! lost        confirmed, and never delivered with the content it was published with
//! duplicate   delivered at a second offset (it entered twice), or with a later attempt than the one whose
//!             ack was confirmed (it came back from the dead)
//! redelivered every other further delivery: legitimate, the ack before it was not confirmed
//! ```
//! A confirmed ack of attempt n proves that no later attempt existed when it was applied, so any delivery
//! with a higher attempt, whenever it is seen here, was made after it. That needs no common clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Latencies are kept from 1 µs to 10 min with three significant digits.
const LATENCY_MAX_US: u64 = 600_000_000;

/// Number of a message in this run; stands in its body.
pub type Id = u64;

#[derive(Debug, Clone, Default)]
struct Fate {
    checksum: u32,
    confirmed: bool,
    /// Offset and attempt of each delivery, in order of arrival.
    deliveries: Vec<(u64, u32)>,
    intact: bool,
    acked_attempt: Option<u32>,
}

impl Fate {
    /// Of its deliveries: (duplicates, legitimate redeliveries).
    fn repeated(&self) -> (u64, u64) {
        let Some((first_offset, _)) = self.deliveries.first() else { return (0, 0) };
        let wrong = |(offset, attempt): &&(u64, u32)| {
            offset != first_offset || self.acked_attempt.is_some_and(|acked| *attempt > acked)
        };
        let duplicates = self.deliveries.iter().filter(wrong).count() as u64;
        // The first delivery is neither; it is never wrong unless it came after an ack, which needs another.
        (duplicates, (self.deliveries.len() as u64 - 1).saturating_sub(duplicates))
    }
}

#[derive(Debug)]
struct State {
    fates: Vec<Fate>,
    confirmed: u64,
    failed: u64,
    strange: u64,
    acks_unconfirmed: u64,
    /// Confirmed and acked with confirmation: nothing is left to wait for.
    done: u64,
    started: Instant,
    first_confirm: Option<Instant>,
    last_confirm: Option<Instant>,
    last_ack: Option<Instant>,
    killed: Option<Instant>,
    longest_gap: Duration,
    latency_us: Histogram<u64>,
}

/// The book that producers and consumers write into.
#[derive(Debug)]
pub struct Ledger {
    state: Mutex<State>,
}

impl Ledger {
    /// An empty book for messages `0..messages`.
    pub fn new(messages: u64) -> Ledger {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3);
        let state = State {
            fates: vec![Fate::default(); messages as usize],
            confirmed: 0,
            failed: 0,
            strange: 0,
            acks_unconfirmed: 0,
            done: 0,
            started: Instant::now(),
            first_confirm: None,
            last_confirm: None,
            last_ack: None,
            killed: None,
            longest_gap: Duration::ZERO,
            latency_us: latency_us.expect("constant bounds are valid"),
        };
        Ledger { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measuring starts here.
    pub fn start(&self) {
        self.state().started = Instant::now();
    }

    /// A message is handed to the SDK.
    pub fn attempted(&self, id: Id, checksum: u32) {
        self.state().fates[id as usize].checksum = checksum;
    }

    /// Its receipt has come.
    pub fn confirmed(&self, id: Id, handed_over: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        let fate = &mut state.fates[id as usize];
        fate.confirmed = true;
        let done = fate.acked_attempt.is_some();
        state.confirmed += 1;
        state.done += u64::from(done);
        state.first_confirm.get_or_insert(now);
        let micros = now.duration_since(handed_over).as_micros() as u64;
        state.latency_us.saturating_record(micros.max(1));
        if let (Some(last), Some(_)) = (state.last_confirm, state.killed) {
            state.longest_gap = state.longest_gap.max(now.duration_since(last));
        }
        state.last_confirm = Some(now);
    }

    /// It was refused, or its outcome is unknown: no promise was made.
    pub fn failed(&self) {
        self.state().failed += 1;
    }

    /// A consumer was given a message with this content.
    pub fn delivered(&self, id: Id, checksum: u32, offset: u64, attempt: u32) {
        let mut state = self.state();
        let Some(fate) = state.fates.get_mut(id as usize) else {
            state.strange += 1;
            return;
        };
        fate.deliveries.push((offset, attempt));
        fate.intact |= fate.checksum == checksum;
        if fate.checksum != checksum {
            state.strange += 1;
        }
    }

    /// Something was delivered that cannot be one of ours.
    pub fn strange(&self) {
        self.state().strange += 1;
    }

    /// The cluster has confirmed the ack of this delivery.
    pub fn acked(&self, id: Id, attempt: u32) {
        let mut state = self.state();
        state.last_ack = Some(Instant::now());
        let Some(fate) = state.fates.get_mut(id as usize) else { return };
        let first = fate.acked_attempt.is_none();
        // Were two attempts acked, the lower one makes the other a duplicate.
        fate.acked_attempt = Some(fate.acked_attempt.unwrap_or(attempt).min(attempt));
        let done = first && fate.confirmed;
        state.done += u64::from(done);
    }

    /// An ack was refused, or its outcome is unknown: the message may come again.
    pub fn ack_unconfirmed(&self) {
        self.state().acks_unconfirmed += 1;
    }

    /// The leader is being killed now.
    pub fn killed(&self) {
        self.state().killed = Some(Instant::now());
    }

    /// Confirmed so far.
    pub fn confirmed_count(&self) -> u64 {
        self.state().confirmed
    }

    /// Confirmed but not yet acked with confirmation.
    pub fn outstanding(&self) -> u64 {
        let state = self.state();
        state.confirmed - state.done
    }

    /// Confirmed and acked so far.
    pub fn done(&self) -> u64 {
        self.state().done
    }

    /// The figures of the run.
    pub fn verdict(&self) -> Verdict {
        let state = self.state();
        let fates = &state.fates;
        let lost = fates.iter().filter(|fate| fate.confirmed && !fate.intact).count() as u64;
        let delivered = fates.iter().filter(|fate| fate.intact).count() as u64;
        let (duplicates, redelivered) = fates
            .iter()
            .map(Fate::repeated)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let since_start = |until: Option<Instant>| {
            until.map_or(Duration::ZERO, |until| until.duration_since(state.started))
        };
        Verdict {
            confirmed: state.confirmed,
            delivered,
            lost,
            duplicates,
            redelivered,
            unconfirmed: state.failed,
            strange: state.strange,
            acks_unconfirmed: state.acks_unconfirmed,
            publishing: since_start(state.last_confirm),
            consuming: since_start(state.last_ack),
            first_confirm: since_start(state.first_confirm),
            confirm_p50: Duration::from_micros(state.latency_us.value_at_quantile(0.50)),
            confirm_p99: Duration::from_micros(state.latency_us.value_at_quantile(0.99)),
            longest_gap: state.longest_gap,
        }
    }
}

/// What the demo has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Messages with a receipt.
    pub confirmed: u64,
    /// Different messages delivered with their content intact.
    pub delivered: u64,
    /// Confirmed, but not among the delivered.
    pub lost: u64,
    /// Deliveries that should not have been.
    pub duplicates: u64,
    /// Deliveries again of what was not yet acked for sure.
    pub redelivered: u64,
    /// Publishes that were refused or whose outcome is unknown.
    pub unconfirmed: u64,
    /// Deliveries that match nothing that was published.
    pub strange: u64,
    /// Acks whose confirmation was lost with the leader; the message may have been delivered again.
    pub acks_unconfirmed: u64,
    /// From the first publish to the last receipt.
    pub publishing: Duration,
    /// From the first publish to the last confirmed ack.
    pub consuming: Duration,
    /// From the first publish to its receipt.
    pub first_confirm: Duration,
    /// From handing a message over to its receipt: median.
    pub confirm_p50: Duration,
    /// The same: 99 of 100 are faster.
    pub confirm_p99: Duration,
    /// Longest time without any receipt since the leader was killed.
    pub longest_gap: Duration,
}

impl Verdict {
    /// Confirmed messages by the time from the first publish to the last receipt, the failover included.
    pub fn messages_per_s(&self) -> f64 {
        self.confirmed as f64 / self.publishing.as_secs_f64().max(1e-9)
    }

    /// Every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.confirmed > 0 && self.lost == 0 && self.duplicates == 0 && self.strange == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confirmed(messages: u64) -> Ledger {
        let ledger = Ledger::new(messages);
        for id in 0..messages {
            ledger.attempted(id, 100 + id as u32);
            ledger.confirmed(id, Instant::now());
        }
        ledger
    }

    #[test]
    fn all_delivered_and_acked_is_clean() {
        let ledger = confirmed(3);
        assert_eq!(ledger.outstanding(), 3);
        for id in 0..3 {
            ledger.delivered(id, 100 + id as u32, id, 1);
            ledger.acked(id, 1);
        }
        let verdict = ledger.verdict();
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((ledger.outstanding(), verdict.delivered, verdict.redelivered), (0, 3, 0));
    }

    #[test]
    fn confirmed_but_never_delivered_is_lost() {
        let ledger = confirmed(2);
        ledger.delivered(0, 100, 0, 1);
        let verdict = ledger.verdict();
        assert_eq!((verdict.lost, verdict.delivered), (1, 1));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn delivered_with_other_content_is_lost_too() {
        let ledger = confirmed(1);
        ledger.delivered(0, 999, 0, 1);
        let verdict = ledger.verdict();
        assert_eq!((verdict.lost, verdict.strange), (1, 1));
    }

    #[test]
    fn a_second_offset_is_a_duplicate() {
        let ledger = confirmed(1);
        ledger.delivered(0, 100, 5, 1);
        ledger.delivered(0, 100, 9, 1);
        let verdict = ledger.verdict();
        assert_eq!((verdict.duplicates, verdict.redelivered), (1, 0));
    }

    #[test]
    fn a_delivery_after_a_confirmed_ack_is_a_duplicate_whenever_it_is_seen() {
        for ack_seen_last in [true, false] {
            let ledger = confirmed(1);
            ledger.delivered(0, 100, 5, 1);
            if ack_seen_last {
                ledger.delivered(0, 100, 5, 2);
                ledger.acked(0, 1);
            } else {
                ledger.acked(0, 1);
                ledger.delivered(0, 100, 5, 2);
            }
            let verdict = ledger.verdict();
            assert_eq!((verdict.duplicates, verdict.redelivered), (1, 0), "{ack_seen_last}");
        }
    }

    #[test]
    fn a_delivery_again_after_an_unconfirmed_ack_is_legitimate() {
        let ledger = confirmed(1);
        ledger.delivered(0, 100, 5, 1);
        ledger.delivered(0, 100, 5, 2);
        ledger.acked(0, 2);
        let verdict = ledger.verdict();
        assert_eq!((verdict.duplicates, verdict.redelivered), (0, 1));
        assert!(verdict.is_clean());
    }

    #[test]
    fn what_entered_without_a_receipt_is_no_failure() {
        let ledger = Ledger::new(2);
        ledger.attempted(0, 100);
        ledger.confirmed(0, Instant::now());
        ledger.attempted(1, 101);
        ledger.failed();
        ledger.delivered(0, 100, 0, 1);
        ledger.delivered(1, 101, 1, 1);
        let verdict = ledger.verdict();
        assert_eq!((verdict.confirmed, verdict.delivered, verdict.unconfirmed), (1, 2, 1));
        assert!(verdict.is_clean());
    }

    #[test]
    fn what_nobody_published_is_no_clean_run() {
        let ledger = confirmed(1);
        ledger.delivered(0, 100, 0, 1);
        ledger.delivered(77, 1, 1, 1);
        assert!(!ledger.verdict().is_clean());
    }

    #[test]
    fn gaps_count_from_the_kill_on() {
        let ledger = Ledger::new(3);
        ledger.confirmed(0, Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        ledger.confirmed(1, Instant::now());
        assert_eq!(ledger.verdict().longest_gap, Duration::ZERO);
        ledger.killed();
        std::thread::sleep(Duration::from_millis(5));
        ledger.confirmed(2, Instant::now());
        assert!(ledger.verdict().longest_gap >= Duration::from_millis(5));
    }
}
