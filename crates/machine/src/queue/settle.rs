//! Settling: what becomes of leased messages, provided that the lease is still the one named.

use super::Queue;
use super::command::{SettleItem, SettleKind};
use super::dead::Cause;
use super::ids::{Offset, Session};
use super::leased::Lease;
use super::ready::Span;
use super::reply::Settled;
use super::settings::LEASE_MS_MAX;
use crate::planted::{self, Bug};

impl Queue {
    pub(super) fn settle(&mut self, session: Session, items: &[SettleItem]) -> Settled {
        let mut outcome = Settled::default();
        for item in items {
            self.settle_item(session, item, &mut outcome);
        }
        outcome
    }

    /// Walks over the session's leases in the range of an item; what is between them is lost.
    fn settle_item(&mut self, session: Session, item: &SettleItem, outcome: &mut Settled) {
        let mut lost = Lost { runs: &mut outcome.lost, open: false };
        let end = item.first.0.saturating_add(item.count.into());
        let mut at = item.first.0;
        while at < end {
            let Some((first, lease)) = self.leased.overlapping(session, at, end) else {
                lost.add(at, end);
                break;
            };
            let start = at.max(first);
            let stop = end.min(first + u64::from(lease.count));
            lost.add(at, start);
            if lease.token == item.token || planted::is(Bug::SkipFencing) {
                self.settle_part(session, item.kind, lease, first, start..stop);
                outcome.settled += stop - start;
                lost.open = false;
            } else {
                lost.add(start, stop);
            }
            at = stop;
        }
    }

    /// Settles a part of a lease.
    fn settle_part(
        &mut self,
        session: Session,
        kind: SettleKind,
        lease: Lease,
        first: u64,
        part: std::ops::Range<u64>,
    ) {
        if kind == SettleKind::Start && lease.started {
            return;
        }
        self.leased.cut(session, first + u64::from(lease.count), part.start, part.end);
        let count = part.end - part.start;
        let (attempts, priority) = (lease.attempt, lease.priority);
        let span = Span { first: part.start, count, attempts, priority };
        let lease = Lease { count: count as u32, ..lease };
        match kind {
            SettleKind::Extend { lease_ms } => {
                let until = self.now.plus(lease_ms.min(LEASE_MS_MAX).into());
                let lease = Lease { deadline: lease.deadline.max(until), ..lease };
                return self.leased.insert(session, span.first, lease);
            }
            SettleKind::Start => {
                let lease = Lease { started: true, ..lease };
                return self.leased.insert(session, span.first, lease);
            }
            _ => {}
        }
        self.consumers.release(session, count, self.settings.single_active);
        match kind {
            SettleKind::Ack => {
                self.leave(span);
                self.gone.acked += count;
            }
            SettleKind::Reject => self.die(span, Cause::Rejected),
            SettleKind::Nack { delay_ms: 0 } => self.give_back(span),
            SettleKind::Nack { delay_ms } => self.hold_back(span, delay_ms.into()),
            SettleKind::Return => self.give_back_uncharged(span),
            SettleKind::Extend { .. } | SettleKind::Start => unreachable!("they are kept"),
        }
    }
}

/// Collects the parts of an item whose lease was lost, neighbours joined.
struct Lost<'a> {
    runs: &'a mut Vec<(Offset, u32)>,
    /// The last run belongs to this item and ends where the next part begins.
    open: bool,
}

impl Lost<'_> {
    fn add(&mut self, from: u64, to: u64) {
        // An item has a u32 count, so every part of it has.
        let count = (to - from) as u32;
        if count == 0 {
            return;
        }
        match self.runs.last_mut().filter(|_| self.open) {
            Some(last) => last.1 += count,
            None => self.runs.push((Offset(from), count)),
        }
        self.open = true;
    }
}
