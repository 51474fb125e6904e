//! Comparing receipts with the log of the queue's leader.

use quorate_group::Position;
use quorate_group::recovery::timeline_of;
use quorate_machine::catalog::{Fork, GroupId};
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
        let group = GroupId(queue.handle.id());
        let forks = self.catalog.read(|catalog| {
            catalog.by_group(group).map(|queue| queue.forks.clone()).unwrap_or_default()
        });
        let verdicts = receipts.iter().map(|receipt| verdict(queue, receipt, next_offset, &forks));
        let verdicts = verdicts.map(|verdict| verdict.map(Into::into));
        let verdicts = verdicts.collect::<Result<Vec<i32>, Refusal>>()?;
        Ok(v1::VerifyReceiptsResponse { verdicts, next_offset })
    }
}

fn verdict(
    queue: &Queue,
    receipt: &v1::Receipt,
    next_offset: u64,
    forks: &[Fork],
) -> Result<ReceiptVerdict, Refusal> {
    let Some(claimed) = receipt.position else {
        return Err(Refusal::invalid("a receipt without `position` cannot be verified"));
    };
    if claimed.group != queue.handle.id() {
        return Ok(ReceiptVerdict::OtherQueue);
    }
    let claimed = Position { term: claimed.term, index: claimed.index };
    // What a replica that was given up had beyond the survivor's log is lost, whatever stands there by now.
    if forks
        .iter()
        .any(|fork| timeline_of(claimed.term) < fork.timeline && claimed.index >= fork.from)
    {
        return Ok(ReceiptVerdict::Lost);
    }
    if let Some(term) = queue.handle.term_at(claimed.index) {
        return Ok(match term == claimed.term {
            true => ReceiptVerdict::Honoured,
            false => ReceiptVerdict::Lost,
        });
    }
    // Terms do not fall along a log, so what was let go of before `purged` is of no later term.
    let may_have_been = queue
        .handle
        .purged()
        .is_some_and(|purged| claimed.index <= purged.index && claimed.term <= purged.term);
    let accepted = receipt.level == i32::from(v1::AckLevel::Accepted);
    let end = receipt.first_offset.saturating_add(receipt.count.into());
    Ok(match (may_have_been, accepted) {
        (true, true) => ReceiptVerdict::Unknown,
        (true, false) if end <= next_offset => ReceiptVerdict::Settled,
        _ => ReceiptVerdict::Lost,
    })
}
