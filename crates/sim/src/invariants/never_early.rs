//! A lease does not end before its time by the leader's clock, unless its holder gives it up; a
//! message that was given back with a delay is not delivered before it is over.

use std::collections::BTreeMap;

use quorate_machine::queue::{
    Attach, Command, Effect, Offset, Reply, Session, Settings, SettleItem, SettleKind, Token,
};

use super::{Invariant, must};
use crate::events::{Event, QueueEntry};

#[derive(Default)]
pub struct NeverEarly {
    queues: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    now_ms: u64,
    settings: Settings,
    leases_ms: BTreeMap<Session, u32>,
    /// By offset: from when on it may be leased again.
    free_from: BTreeMap<u64, Free>,
}

#[derive(Clone, Copy)]
struct Free {
    session: Session,
    token: Token,
    at_ms: u64,
}

impl Queue {
    fn applied(&mut self, command: &Command, reply: &Reply) {
        match (command, reply) {
            (Command::Configure(settings), Reply::Done) => self.settings = settings.clone(),
            (Command::Attach(Attach { session, lease_ms, .. }), Reply::Attached { .. }) => {
                // The default is taken when the session attaches.
                let lease_ms = lease_ms.unwrap_or(self.settings.lease_ms);
                self.leases_ms.insert(*session, lease_ms);
            }
            (Command::Detach { session, .. }, _) => self.released(*session),
            (Command::Purge, _) => self.free_from.clear(),
            (Command::Settle { session, items }, Reply::Settled(settled)) => {
                let lost = |offset: u64| {
                    let mut runs = settled.lost.iter();
                    runs.any(|(Offset(first), count)| {
                        (*first..first + u64::from(*count)).contains(&offset)
                    })
                };
                for item in items {
                    let end = item.first.0.saturating_add(item.count.into());
                    for offset in (item.first.0..end).filter(|offset| !lost(*offset)) {
                        self.settled(*session, item, offset);
                    }
                }
            }
            _ => {}
        }
    }

    /// A session that ends on purpose gives its leases back.
    fn released(&mut self, session: Session) {
        for free in self.free_from.values_mut().filter(|free| free.session == session) {
            free.at_ms = 0;
        }
    }

    fn settled(&mut self, session: Session, item: &SettleItem, offset: u64) {
        let (now_ms, grace_ms) = (self.now_ms, self.settings.session_grace_ms);
        let Some(free) = self.free_from.get_mut(&offset) else { return };
        if free.session != session || free.token != item.token {
            return;
        }
        match item.kind {
            SettleKind::Nack { delay_ms } => free.at_ms = now_ms + u64::from(delay_ms),
            SettleKind::Extend { lease_ms } => {
                free.at_ms = free.at_ms.max(now_ms + u64::from(lease_ms.min(grace_ms)));
            }
            SettleKind::Ack | SettleKind::Reject => {}
        }
    }

    fn leased(
        &mut self,
        session: Session,
        token: Token,
        offset: u64,
        attempt: u32,
    ) -> Result<(), String> {
        let lease_ms = self.leases_ms.get(&session).copied().unwrap_or(self.settings.lease_ms);
        // A session that was not attached again in time loses its leases with its grace.
        let held_ms = lease_ms.min(self.settings.session_grace_ms);
        let next = Free { session, token, at_ms: self.now_ms + u64::from(held_ms) };
        let Some(before) = self.free_from.get(&offset).copied() else {
            self.free_from.insert(offset, next);
            return Ok(());
        };
        if before.token == token {
            return Ok(());
        }
        self.free_from.insert(offset, next);
        must(before.at_ms <= self.now_ms, || {
            format!(
                "offset {offset} attempt {attempt}: leased at {} under token {}, not free before {}",
                self.now_ms, token.0, before.at_ms
            )
        })
    }

    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        self.now_ms = self.now_ms.max(entry.now_ms);
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            self.applied(command, reply);
        }
        for effect in entry.effects {
            let Effect::Deliver { session, token, runs, .. } = effect else { continue };
            for run in runs {
                for offset in run.first_offset.0..run.first_offset.0 + u64::from(run.count) {
                    self.leased(*session, *token, offset, run.attempt)?;
                }
            }
        }
        Ok(())
    }
}

impl Invariant for NeverEarly {
    fn name(&self) -> &'static str {
        "never_early"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Made(entry) = event else { return Ok(()) };
        let queue = self.queues.entry(entry.group).or_default();
        queue.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
    }
}
