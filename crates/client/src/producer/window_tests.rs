use quorate_proto::frame::FrameBuilder;
use quorate_proto::reason;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const LATE: Duration = Duration::from_secs(1);

type Outcome = oneshot::Receiver<Result<Receipt, PublishError>>;

struct Bench {
    window: Window,
    outcomes: Vec<Outcome>,
    start: Instant,
}

impl Bench {
    /// A window of batches of two messages; batch n is late at n + 1 s.
    fn with(batches: u64) -> Self {
        let mut bench = Self {
            window: Window::new(0, AckLevel::Quorum),
            outcomes: Vec::new(),
            start: Instant::now(),
        };
        for n in 0..batches {
            let mut frame = FrameBuilder::new();
            let none: &[(&str, &[u8])] = &[];
            frame.push(none, format!("{n}").as_bytes()).unwrap();
            frame.push(none, b"").unwrap();
            let (waiter, outcome) = oneshot::channel();
            let deadline = bench.start + LATE * u32::try_from(n + 1).unwrap();
            bench.window.push(Batch::new(frame.finish(), vec![waiter], 10, n * 2, deadline));
            bench.outcomes.push(outcome);
        }
        bench
    }

    /// Sends all that may go: (id, sequence).
    fn send(&mut self) -> Vec<(u64, u64)> {
        let next = || self.window.next_to_send(self.start);
        std::iter::from_fn(next).map(|batch| (batch.id, batch.sequence)).collect()
    }

    fn receipt(&mut self, id: u64, first_offset: u64) {
        let receipt = v1::Receipt { first_offset, count: 2, ..<_>::default() };
        self.window.receipt(id, &receipt).unwrap();
    }

    fn fail(&mut self, id: u64, reason: &str) -> Next {
        let failure = v1::Failure { reason: reason.to_owned(), ..Default::default() };
        self.window.failure(id, &Fault::from(failure)).unwrap()
    }

    fn expire(&mut self, batches: u32) {
        self.window.expire(self.start + LATE * batches, LATE, &Refusal::default());
    }

    fn reason(&mut self, batch: usize) -> String {
        let outcome = self.outcomes[batch].try_recv().expect("an outcome");
        outcome.unwrap_err().reason().unwrap_or("UNAVAILABLE").to_owned()
    }

    fn offset(&mut self, batch: usize) -> u64 {
        self.outcomes[batch]
            .try_recv()
            .expect("an outcome")
            .expect("a receipt")
            .offset
            .expect("is in")
    }

    fn is_open(&mut self, batch: usize) -> bool {
        self.outcomes[batch].try_recv() == Err(TryRecvError::Empty)
    }
}

impl PartialEq for PublishError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

#[tokio::test]
async fn what_was_on_a_broken_stream_is_sent_again_under_the_same_sequence() {
    let mut bench = Bench::with(3);
    assert_eq!(bench.send(), [(0, 0), (1, 2), (2, 4)]);
    bench.receipt(0, 100);
    bench.window.lost();
    assert_eq!(bench.window.reseal(), Some(false));
    assert_eq!(bench.send(), [(1, 2), (2, 4)]);
    assert_eq!(bench.window.epoch(), 0);
    assert_eq!(bench.offset(0), 100);
}

#[tokio::test]
async fn answers_that_do_not_fit_are_told() {
    let mut bench = Bench::with(2);
    let receipt = v1::Receipt { count: 2, ..<_>::default() };
    assert!(bench.window.receipt(0, &receipt).is_err(), "nothing was sent");
    bench.send();
    assert!(bench.window.receipt(1, &receipt).is_err(), "out of order");
    assert!(bench.window.receipt(0, &v1::Receipt { count: 3, ..receipt }).is_err(), "count");
    bench.receipt(0, 0);
}

#[tokio::test]
async fn after_a_refusal_the_rest_starts_the_next_epoch_in_order() {
    let mut bench = Bench::with(4);
    let sent = [bench.window.next_to_send(bench.start), bench.window.next_to_send(bench.start)];
    assert!(sent.iter().all(Option::is_some));
    assert_eq!(bench.fail(0, reason::QUEUE_FULL), Next::GoOn);
    assert_eq!(bench.reason(0), reason::QUEUE_FULL);
    assert!(bench.send().is_empty(), "nothing new under the old epoch");
    assert_eq!(bench.window.reseal(), Some(false), "batch 1 is unanswered");
    assert_eq!(bench.fail(1, reason::OUT_OF_ORDER), Next::GoOn);
    assert_eq!(bench.window.reseal(), Some(true));
    assert_eq!(bench.window.epoch(), 1);
    let sequences: Vec<u64> = bench.send().iter().map(|(_, sequence)| *sequence).collect();
    assert_eq!(sequences, [0, 2, 4]);
}

#[tokio::test]
async fn what_entered_behind_a_refusal_is_not_sent_again() {
    let mut bench = Bench::with(3);
    bench.send();
    bench.fail(0, reason::QUEUE_FULL);
    // The server did not know the producer and took its second batch as the first.
    bench.receipt(1, 50);
    bench.window.lost();
    assert_eq!(bench.send(), [(2, 4)], "unanswered: again under the old epoch");
    bench.receipt(2, 52);
    assert_eq!(bench.window.reseal(), Some(true));
    assert!(bench.window.is_empty());
    assert_eq!((bench.offset(1), bench.offset(2)), (50, 52));
}

#[tokio::test]
async fn a_refusal_is_definite_only_if_no_other_copy_is_on_its_way() {
    let mut bench = Bench::with(2);
    bench.send();
    bench.window.lost();
    bench.send();
    bench.fail(0, reason::QUEUE_FULL);
    bench.fail(1, reason::OUT_OF_ORDER);
    assert_eq!(bench.reason(0), reason::UNKNOWN_OUTCOME);
    assert_eq!(bench.reason(1), reason::UNKNOWN_OUTCOME);
    assert_eq!(bench.window.reseal(), Some(true));
    assert!(bench.window.is_empty());
}

#[tokio::test]
async fn a_copy_that_was_not_taken_does_not_float() {
    let mut bench = Bench::with(1);
    bench.send();
    assert_eq!(bench.fail(0, reason::RESOURCE_EXHAUSTED), Next::Retry);
    bench.window.lost();
    bench.send();
    bench.fail(0, reason::QUEUE_FULL);
    assert_eq!(bench.reason(0), reason::QUEUE_FULL);
}

#[tokio::test]
async fn no_quorum_leaves_the_outcome_open_until_a_receipt() {
    let mut bench = Bench::with(1);
    bench.send();
    assert_eq!(bench.fail(0, reason::NO_QUORUM), Next::Retry);
    bench.window.lost();
    assert_eq!(bench.send(), [(0, 0)]);
    bench.expire(1);
    assert_eq!(bench.reason(0), reason::UNKNOWN_OUTCOME);
}

#[tokio::test]
async fn a_late_batch_stays_before_those_that_may_have_followed_it() {
    let mut bench = Bench::with(3);
    bench.send();
    bench.window.lost();
    bench.expire(1);
    assert_eq!(bench.reason(0), reason::UNKNOWN_OUTCOME);
    assert!(bench.is_open(1));
    assert_eq!(bench.window.reseal(), Some(false));
    assert_eq!(bench.send(), [(0, 0), (1, 2), (2, 4)], "batch 1 would leave a gap otherwise");
    bench.receipt(0, 0);
    bench.receipt(1, 2);
    assert_eq!(bench.offset(1), 2);
    bench.expire(3);
    assert_eq!(bench.reason(2), reason::UNKNOWN_OUTCOME);
    assert_eq!(bench.window.reseal(), Some(true), "nothing live is left: given up");
    assert!(bench.window.is_empty());
    assert_eq!(bench.window.take_done().len(), 3);
}

#[tokio::test]
async fn what_was_never_sent_fails_as_unavailable() {
    let mut bench = Bench::with(2);
    bench.expire(1);
    assert_eq!(bench.reason(0), "UNAVAILABLE");
    assert!(bench.is_open(1));
    assert_eq!(bench.window.reseal(), Some(true));
    assert_eq!(bench.send(), [(2, 0)]);
}

#[tokio::test]
async fn a_refused_producer_fails_everything() {
    let mut bench = Bench::with(3);
    bench.window.next_to_send(bench.start);
    bench.window.next_to_send(bench.start);
    assert_eq!(bench.fail(0, reason::PRODUCER_FENCED), Next::Fenced);
    let reason = reason::PRODUCER_FENCED.to_owned();
    bench.window.fail_all(&Refusal { reason, ..Refusal::default() });
    assert_eq!(bench.reason(0), reason::PRODUCER_FENCED);
    assert_eq!(bench.reason(1), reason::UNKNOWN_OUTCOME, "it was sent and not answered");
    assert_eq!(bench.reason(2), reason::PRODUCER_FENCED);
    assert_eq!(bench.window.take_done().len(), 3);
}

#[tokio::test]
async fn an_offset_that_is_passed_is_refused_for_good_though_a_copy_floats_and_one_to_come_is_not()
{
    for (next_offset, told) in [(9, reason::UNEXPECTED_OFFSET), (3, reason::UNKNOWN_OUTCOME)] {
        let mut bench = Bench::with(1);
        bench.window.batches[0].condition.expected_next_offset = Some(7);
        let sent = bench.window.next_to_send(bench.start).expect("a batch");
        assert_eq!(sent.expected_next_offset, Some(7));
        bench.window.lost();
        bench.send();
        let metadata = [("next_offset".to_owned(), next_offset.to_string())].into();
        let reason = reason::UNEXPECTED_OFFSET.to_owned();
        let failure = v1::Failure { reason, metadata, ..Default::default() };
        bench.window.failure(0, &Fault::from(failure)).unwrap();
        assert_eq!(bench.reason(0), told, "{next_offset}");
    }
}
