//! Comparing receipts with the log of the queue's leader.

use quorate_group::Position;
use quorate_group::recovery::timeline_of;
use quorate_machine::catalog::{self, Catalog, Fork, GroupId};
use quorate_machine::queue::Command;
use quorate_proto::v1::{self, ReceiptVerdict};
use tonic::Status;

use crate::member::Member;
use crate::queue::Queue;
use crate::refusal::Refusal;

/// Most receipts of one call.
const RECEIPTS_MAX: usize = 10_000;

impl Member {
    /// Verdicts on receipts of a queue that is led here, when a majority has all of its log.
    pub(super) async fn verify(
        &self,
        queue: &Queue,
        receipts: &[v1::Receipt],
    ) -> Result<v1::VerifyReceiptsResponse, Status> {
        if receipts.len() > RECEIPTS_MAX {
            let message = format!("{} receipts; at most {RECEIPTS_MAX} a call", receipts.len());
            return Err(Refusal::invalid(message).into());
        }
        let limit = self.config.limits.request_timeout();
        // Behind it, everything that is in this log now is decided: also what only this node has yet.
        match tokio::time::timeout(limit, queue.handle.propose(Command::Tick)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(self.redirect(queue, error).into()),
            Err(_) => return Err(Refusal::no_quorum("verify receipts").into()),
        }
        let next_offset = queue.handle.read(|machine| machine.next_offset().0);
        let past = self.catalog.read(|catalog| Past::of(catalog, queue));
        let verdicts = receipts.iter().map(|receipt| verdict(queue, receipt, next_offset, &past));
        let verdicts = verdicts.map(|verdict| verdict.map(Into::into));
        let verdicts = verdicts.collect::<Result<Vec<i32>, Refusal>>()?;
        Ok(v1::VerifyReceiptsResponse { verdicts, next_offset })
    }
}

/// How the timelines of a queue followed each other, as far as is known here.
struct Past {
    forks: Vec<Fork>,
    /// The one that the replica is on.
    timeline: u64,
    /// Whether `forks` has all of them.
    is_whole: bool,
}

impl Past {
    fn of(catalog: &Catalog, queue: &Queue) -> Self {
        let group = GroupId(queue.handle.id());
        let forks = catalog.by_group(group).map(|known| known.forks.clone()).unwrap_or_default();
        let timeline = queue.handle.replica().timeline();
        let is_whole = is_whole(&forks, timeline, catalog.was_recovered_since(group));
        Self { forks, timeline, is_whole }
    }

    /// Whether an entry can only have been of a replica that was given up.
    fn is_beyond(&self, at: Position) -> bool {
        let beyond = |fork: &Fork| timeline_of(at.term) < fork.timeline && at.index >= fork.from;
        self.forks.iter().any(beyond)
    }

    /// What became of an entry that was let go of, if it was ever in this log.
    fn let_go(&self, at: Position) -> Option<ReceiptVerdict> {
        let timeline = timeline_of(at.term);
        let is_known = timeline == 0
            || timeline == self.timeline
            || self.forks.iter().any(|fork| fork.timeline == timeline);
        match (is_known, self.is_whole) {
            // Of a recovery that another one made void.
            (false, true) => Some(ReceiptVerdict::Lost),
            (false, false) => Some(ReceiptVerdict::Unknown),
            // It may lie beyond a fork that is not known.
            (true, false) if timeline < self.timeline => Some(ReceiptVerdict::Unknown),
            (true, _) => None,
        }
    }
}

/// The oldest are forgotten, a catalog that was recovered may never have known of some, and of the last one it is told
/// only once the survivor leads.
fn is_whole(forks: &[Fork], timeline: u64, was_recovered: bool) -> bool {
    let last = forks.last().map_or(0, |fork| fork.timeline);
    !was_recovered && forks.len() < catalog::Queue::FORKS_MAX && last == timeline
}

fn verdict(
    queue: &Queue,
    receipt: &v1::Receipt,
    next_offset: u64,
    past: &Past,
) -> Result<ReceiptVerdict, Refusal> {
    let Some(claimed) = receipt.position else {
        return Err(Refusal::invalid("a receipt without `position` cannot be verified"));
    };
    if claimed.group != queue.handle.id() {
        return Ok(ReceiptVerdict::OtherQueue);
    }
    let claimed = Position { term: claimed.term, index: claimed.index };
    let stored = queue.handle.term_at(claimed.index);
    // Behind `stored`: what that did not find is behind it, if it was ever there.
    let purged = queue.handle.purged();
    Ok(judged(receipt, claimed, stored, purged, next_offset, past))
}

/// `stored` is the term of the entry that is there now, and everything up to `purged` was let go of.
fn judged(
    receipt: &v1::Receipt,
    claimed: Position,
    stored: Option<u64>,
    purged: Option<Position>,
    next_offset: u64,
    past: &Past,
) -> ReceiptVerdict {
    match stored {
        Some(term) if term == claimed.term => return ReceiptVerdict::Honoured,
        Some(_) => return ReceiptVerdict::Lost,
        // What a replica that was given up had beyond the survivor's log is lost, whatever stood there since.
        None if past.is_beyond(claimed) => return ReceiptVerdict::Lost,
        None => {}
    }
    // Terms do not fall along a log, so what was let go of before `purged` is of no later term.
    let may_have_been =
        purged.is_some_and(|purged| claimed.index <= purged.index && claimed.term <= purged.term);
    let accepted = receipt.level == i32::from(v1::AckLevel::Accepted);
    let end = receipt.first_offset.saturating_add(receipt.count.into());
    match (may_have_been, past.let_go(claimed)) {
        (false, _) => ReceiptVerdict::Lost,
        (true, Some(verdict)) => verdict,
        (true, None) if accepted => ReceiptVerdict::Unknown,
        (true, None) if end <= next_offset => ReceiptVerdict::Settled,
        (true, None) => ReceiptVerdict::Lost,
    }
}

#[cfg(test)]
mod tests {
    use ReceiptVerdict::{Honoured, Lost, Settled, Unknown};

    use super::*;

    fn at(timeline: u64, index: u64) -> Position {
        Position { term: (timeline << 32) + 2, index }
    }

    fn past(forks: &[(u64, u64)], timeline: u64, was_recovered: bool) -> Past {
        let fork = |(timeline, from): &(u64, u64)| Fork { timeline: *timeline, from: *from };
        let forks: Vec<Fork> = forks.iter().map(fork).collect();
        let is_whole = is_whole(&forks, timeline, was_recovered);
        Past { forks, timeline, is_whole }
    }

    /// Of a confirmed message that is not in the log any more, which was let go of up to index 100.
    fn of_settled(claimed: Position, past: &Past) -> ReceiptVerdict {
        let receipt = v1::Receipt {
            first_offset: 3,
            count: 1,
            level: v1::AckLevel::Quorum.into(),
            ..Default::default()
        };
        judged(&receipt, claimed, None, Some(at(past.timeline, 100)), 10, past)
    }

    #[test]
    fn what_stands_in_the_log_is_honoured_and_nothing_else_that_would_be_there() {
        let receipt = v1::Receipt::default();
        let past = past(&[(1, 50)], 1, false);
        let of = |claimed: Position, stored: Position| {
            judged(&receipt, claimed, Some(stored.term), None, 10, &past)
        };
        assert_eq!(of(at(0, 49), at(0, 49)), Honoured);
        assert_eq!(of(at(0, 50), at(1, 50)), Lost);
        assert_eq!(of(at(1, 50), at(1, 50)), Honoured);
    }

    #[test]
    fn a_receipt_of_before_a_recovery_holds_up_to_where_that_began() {
        let past = past(&[(1, 50)], 1, false);
        assert_eq!(of_settled(at(0, 49), &past), Settled);
        assert_eq!(of_settled(at(0, 50), &past), Lost);
        assert_eq!(of_settled(at(1, 60), &past), Settled);
        assert_eq!(of_settled(at(1, 101), &past), Lost, "it was never there");
    }

    #[test]
    fn a_receipt_of_a_recovery_that_another_one_made_void_is_not_taken_for_settled() {
        // The survivor of the first was lost before the catalog heard that it had taken over.
        let past = past(&[(2, 50)], 2, false);
        assert_eq!(of_settled(at(1, 40), &past), Lost);
        assert_eq!(of_settled(at(1, 60), &past), Lost);
        assert_eq!(of_settled(at(0, 40), &past), Settled);
    }

    #[test]
    fn what_a_recovered_catalog_cannot_know_is_not_taken_for_settled() {
        // There was a recovery from index 30 on, in what the catalog has lost.
        let known = past(&[(65_537, 50)], 65_537, true);
        assert_eq!(of_settled(at(0, 40), &known), Unknown);
        assert_eq!(of_settled(at(1, 40), &known), Unknown);
        assert_eq!(of_settled(at(1, 50), &known), Lost, "beyond what went on");
        assert_eq!(of_settled(at(65_537, 60), &known), Settled);
        assert_eq!(of_settled(at(0, 40), &past(&[], 0, true)), Settled, "of the queue's own");
    }

    #[test]
    fn before_the_catalog_knows_where_a_timeline_began_what_is_from_before_it_is_not_settled() {
        let known = past(&[], 1, false);
        assert_eq!(of_settled(at(0, 60), &known), Unknown);
        assert_eq!(of_settled(at(1, 60), &known), Settled);
    }
}
