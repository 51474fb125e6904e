//! Which leases a consumer holds, and which it has settled lately: what tells a message that is delivered
//! again after a re-attach from one that is new.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Settled leases remembered for each message of the prefetch; a redelivery that was on its way while the
/// settle was confirmed is no older than that.
const REMEMBERED: usize = 4;
/// At least this many are remembered.
const REMEMBERED_MIN: usize = 1_024;

/// A leased message: its offset, and the token that the lease was granted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lease {
    pub token: u64,
    pub offset: u64,
    /// Which of the queue's logs both are of, as the consumer has met them: another one has the same numbers again.
    pub log: u32,
}

struct Held {
    token: u64,
    /// When the lease began or was last extended, by our clock.
    since: Instant,
    settling: bool,
    /// The session counted as ended. If it had not, the lease is delivered again, and goes on: the
    /// application has it already.
    lost: bool,
}

pub(crate) struct Ledger {
    held: BTreeMap<u64, Held>,
    settled: BTreeMap<u64, u64>,
    order: VecDeque<u64>,
    remembered: usize,
    /// The log that all this is of.
    log: u32,
}

impl Ledger {
    pub fn new(prefetch: u32) -> Self {
        Self {
            held: BTreeMap::new(),
            settled: BTreeMap::new(),
            order: VecDeque::new(),
            remembered: (prefetch as usize * REMEMBERED).max(REMEMBERED_MIN),
            log: 0,
        }
    }

    /// The queue has another log: nothing that was leased or settled is known there.
    pub fn begin_anew(&mut self) {
        self.held.clear();
        self.settled.clear();
        self.order.clear();
        self.log += 1;
    }

    pub fn lease(&self, token: u64, offset: u64) -> Lease {
        Lease { token, offset, log: self.log }
    }

    fn of(&self, lease: Lease) -> Option<&Held> {
        let held = self.held.get(&lease.offset);
        held.filter(|held| held.token == lease.token && self.log == lease.log)
    }

    pub fn is_empty(&self) -> bool {
        self.held.values().all(|held| held.lost)
    }

    /// Notes a delivery; true if the application has not seen it. Tokens of one message only grow, so a
    /// lower one is a copy that was late.
    #[must_use]
    pub fn delivered(&mut self, lease: Lease, now: Instant) -> bool {
        let Lease { token, offset, .. } = lease;
        if let Some(held) = self.held.get_mut(&offset)
            && held.token == token
            && held.lost
        {
            (held.lost, held.since) = (false, now);
            return false;
        }
        let known = self.held.get(&offset).map(|held| held.token);
        let known = known.max(self.settled.get(&offset).copied());
        if known.is_some_and(|known| known >= token) {
            return false;
        }
        self.held.insert(offset, Held { token, since: now, settling: false, lost: false });
        true
    }

    /// Begins to settle; false if the lease is not held any more.
    #[must_use]
    pub fn settle(&mut self, lease: Lease) -> bool {
        if lease.log != self.log {
            return false;
        }
        match self.held.get_mut(&lease.offset) {
            // The application is told, and done with it: if it comes again, it is shown again.
            Some(held) if held.token == lease.token && held.lost => {
                self.held.remove(&lease.offset);
                false
            }
            Some(held) if held.token == lease.token => {
                held.settling = true;
                true
            }
            _ => false,
        }
    }

    /// The settle was confirmed, or will never be.
    pub fn close(&mut self, lease: Lease) {
        let Lease { token, offset, .. } = lease;
        if self.of(lease).is_some() {
            self.held.remove(&offset);
        }
        if self.settled.insert(offset, token).is_none() {
            self.order.push_back(offset);
        }
        while self.order.len() > self.remembered {
            if let Some(oldest) = self.order.pop_front() {
                self.settled.remove(&oldest);
            }
        }
    }

    pub fn holds(&self, lease: Lease) -> bool {
        self.of(lease).is_some_and(|held| !held.lost)
    }

    /// Whether the application has a message and has not settled it.
    pub fn is_worked_on(&self, lease: Lease) -> bool {
        self.of(lease).is_some_and(|held| !held.lost && !held.settling)
    }

    /// Leases of `age` or more that the application still works on, `most` of them at most; they count as extended from now.
    pub fn extend(&mut self, now: Instant, age: Duration, most: usize) -> Vec<Lease> {
        let mut due = Vec::new();
        for (offset, held) in &mut self.held {
            if due.len() == most {
                break;
            }
            if !held.settling && !held.lost && held.since + age <= now {
                held.since = now;
                due.push(Lease { token: held.token, offset: *offset, log: self.log });
            }
        }
        due
    }

    /// The session has ended, as far as is known.
    pub fn lose_all(&mut self) {
        self.held.retain(|_, held| !held.settling);
        self.held.values_mut().for_each(|held| held.lost = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(token: u64, offset: u64) -> Lease {
        Lease { token, offset, log: 0 }
    }

    #[tokio::test]
    async fn a_lease_of_another_log_is_not_the_one_of_the_same_numbers() {
        let now = Instant::now();
        let mut ledger = Ledger::new(1);
        let (settled, held) = (ledger.lease(9, 0), ledger.lease(9, 1));
        assert!(ledger.delivered(settled, now) && ledger.delivered(held, now));
        ledger.close(settled);
        ledger.begin_anew();
        assert!(ledger.is_empty() && !ledger.settle(held));
        let (first, second) = (ledger.lease(3, 0), ledger.lease(9, 1));
        assert!(ledger.delivered(first, now) && ledger.delivered(second, now));
        assert!(!ledger.settle(held) && !ledger.holds(held) && !ledger.is_worked_on(held));
        assert!(ledger.is_worked_on(second) && ledger.settle(second));
    }

    #[tokio::test]
    async fn a_message_is_shown_once_per_token() {
        let now = Instant::now();
        let mut ledger = Ledger::new(1);
        assert!(ledger.delivered(lease(5, 0), now));
        assert!(!ledger.delivered(lease(5, 0), now), "held");
        assert!(ledger.settle(lease(5, 0)));
        ledger.close(lease(5, 0));
        assert!(!ledger.delivered(lease(5, 0), now), "settled");
        assert!(!ledger.delivered(lease(4, 0), now), "late");
        assert!(ledger.delivered(lease(6, 0), now), "a new lease");
        assert!(!ledger.settle(lease(5, 0)), "the old lease is gone");
        assert!(ledger.holds(lease(6, 0)));
    }

    #[tokio::test]
    async fn a_lease_that_was_not_lost_after_all_goes_on_without_being_shown_again() {
        let now = Instant::now();
        let mut ledger = Ledger::new(4);
        for offset in 0..3 {
            assert!(ledger.delivered(lease(5, offset), now));
        }
        assert!(ledger.settle(lease(5, 0)));
        ledger.lose_all();
        assert!(ledger.is_empty());
        assert!(!ledger.holds(lease(5, 1)));
        assert!(ledger.delivered(lease(5, 0), now), "the application was told that it lost it");
        assert!(!ledger.delivered(lease(5, 1), now), "the application has it");
        assert!(ledger.holds(lease(5, 1)) && ledger.settle(lease(5, 1)));
        assert!(!ledger.settle(lease(5, 2)), "lost");
        assert!(ledger.delivered(lease(5, 2), now), "and told so");
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let mut ledger = Ledger::new(1);
        for offset in 0..10_000 {
            assert!(ledger.delivered(lease(1, offset), Instant::now()));
            ledger.close(lease(1, offset));
        }
        assert_eq!(ledger.settled.len(), REMEMBERED_MIN);
        assert_eq!(ledger.order.len(), REMEMBERED_MIN);
    }

    #[tokio::test]
    async fn only_old_leases_that_are_worked_on_are_extended() {
        let start = Instant::now();
        let age = Duration::from_secs(10);
        let mut ledger = Ledger::new(10);
        assert!(ledger.delivered(lease(1, 1), start));
        assert!(ledger.delivered(lease(1, 2), start));
        assert!(ledger.delivered(lease(1, 3), start + age));
        assert!(ledger.settle(lease(1, 2)));
        assert_eq!(ledger.extend(start + age, age, 9), [lease(1, 1)]);
        assert_eq!(ledger.extend(start + age, age, 9), []);
        assert_eq!(ledger.extend(start + age * 2, age, 1), [lease(1, 1)]);
        assert_eq!(
            ledger.extend(start + age * 2, age, 1),
            [lease(1, 3)],
            "what is left comes next"
        );
    }
}
