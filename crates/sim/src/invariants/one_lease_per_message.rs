//! A settle takes effect only under the token of the last lease of the message, given to the same
//! session; tokens and delivery counts of a message only grow, but that what comes back by a seek has been delivered to nobody.

use std::collections::BTreeMap;

use quorate_machine::queue::{Command, Effect, Reply, Session, SettleItem, Settled};

use super::{Invariant, must};
use crate::events::{Event, QueueEntry};

#[derive(Default)]
pub struct OneLeasePerMessage {
    /// By group and offset.
    leases: BTreeMap<(u64, u64), Lease>,
    /// By group, offset and token: which attempt.
    granted: BTreeMap<(u64, u64, u64), u32>,
}

#[derive(Clone, Copy)]
struct Lease {
    session: Session,
    token: u64,
    attempt: u32,
    /// The message was settled since, and has come back.
    is_over: bool,
}

impl OneLeasePerMessage {
    fn granted(
        &mut self,
        group: u64,
        offset: u64,
        attempt: u32,
        lease: Lease,
    ) -> Result<(), String> {
        self.granted.insert((group, offset, lease.token), attempt);
        let Some(before) = self.leases.insert((group, offset), lease) else { return Ok(()) };
        // What is held is repeated to a consumer that comes back.
        let again = (before.session, before.token, before.attempt)
            == (lease.session, lease.token, lease.attempt);
        // The attempt stays as it was after a delivery that was not counted.
        must(again || (lease.token > before.token && attempt >= before.attempt), || {
            format!(
                "group {group} offset {offset}: lease {} attempt {attempt} after lease {} attempt {}",
                lease.token, before.token, before.attempt
            )
        })
    }

    fn settled(
        &self,
        group: u64,
        session: Session,
        item: &SettleItem,
        settled: &Settled,
    ) -> Result<(), String> {
        for offset in item.first.0..item.first.0.saturating_add(item.count.into()) {
            if settled.has_lost(offset) {
                continue;
            }
            let lease = self.leases.get(&(group, offset));
            let held = lease.is_some_and(|lease| {
                !lease.is_over && lease.token == item.token.0 && lease.session == session
            });
            must(held, || {
                format!(
                    "group {group} offset {offset}: {:?} under token {} took effect, the lease is {:?}",
                    item.kind,
                    item.token.0,
                    lease.map(|lease| lease.token)
                )
            })?;
        }
        Ok(())
    }

    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            if let (Command::Settle { session, items }, Reply::Settled(settled)) = (command, reply)
            {
                for item in items {
                    self.settled(entry.group, *session, item, settled)?;
                }
            }
        }
        for (offset, _) in entry.returned {
            if let Some(lease) = self.leases.get_mut(&(entry.group, *offset)) {
                lease.attempt = 0;
                lease.is_over = true;
            }
        }
        for effect in entry.effects {
            let Effect::Deliver { session, token, runs, .. } = effect else { continue };
            for run in runs {
                let (session, token, attempt) = (*session, token.0, run.attempt);
                let lease = Lease { session, token, attempt, is_over: false };
                for offset in run.first_offset.0..run.first_offset.0 + u64::from(run.count) {
                    self.granted(entry.group, offset, run.attempt, lease)?;
                }
            }
        }
        Ok(())
    }
}

impl Invariant for OneLeasePerMessage {
    fn name(&self) -> &'static str {
        "one_lease_per_message"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => self.made(entry),
            Event::Delivered { group, offset, attempt, token, consumer, .. } => {
                // Consumers are shown what the log granted, no more.
                let known = self.granted.get(&(*group, *offset, *token)).copied();
                must(known == Some(*attempt), || {
                    format!(
                        "group {group} offset {offset}: consumer {consumer} was shown it under token \
                         {token}, which no committed entry granted"
                    )
                })
            }
            _ => Ok(()),
        }
    }
}
