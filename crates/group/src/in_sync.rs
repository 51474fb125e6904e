//! Which voters have what the leader has, and how far behind in time the others are.
//!
//! A replica is as far behind as the oldest entry that it lacks is old. Entries carry the leader's time, so
//! that is looked up in the log when somebody asks, and a group that nobody asks about costs nothing.
//! As Kafka's in-sync replicas (`replica.lag.time.max.ms`), a voter is in sync while it is no further behind
//! than a limit; unlike them, the set has no part in what is committed.

use std::time::Duration;

use openraft_rt::WatchReceiver;
use quorate_machine::{Machine, decode_entry};

use crate::handle::{Handle, Progress};
use crate::proposer::ProposeError;

/// Entries without the leader's time that may follow one another: a new leader's first, memberships.
const UNSTAMPED_MAX: u64 = 8;
/// Without news of a replica, time alone may put it out of sync: a look at least this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl<M: Machine> Handle<M> {
    /// How far behind a replica is that has everything up to `matched`, in milliseconds of the leader's
    /// clock; `u64::MAX` if what it lacks is no longer in the log. One that has not answered this leader yet
    /// is as far behind as the leadership is old.
    pub async fn behind_ms(&self, matched: Option<u64>) -> u64 {
        let now = self.now_ms();
        let Some(matched) = matched else {
            return now.saturating_sub(self.led_since_ms());
        };
        let next = matched + 1;
        for index in next..(next + UNSTAMPED_MAX).min(self.last_index() + 1) {
            match self.entry(index).await {
                Ok(entry) => {
                    if let Ok((stamped, _)) = decode_entry(entry) {
                        return now.saturating_sub(stamped.0);
                    }
                }
                Err(_) => return u64::MAX,
            }
        }
        0
    }

    /// The voters that are within `lag` of this leader, itself among them; none unless it leads.
    pub async fn in_sync(&self, lag: Duration) -> Vec<u64> {
        let mut in_sync = Vec::new();
        for voter in self.voters() {
            if self.behind_ms(voter.matched).await <= millis(lag) {
                in_sync.push(voter.node);
            }
        }
        in_sync
    }

    /// Waits until every voter that is within `lag` of this leader has the entry at `index` on its disk, and
    /// at least `needed` have; tells which. However long that takes: callers set the limit.
    ///
    /// # Errors
    /// When this replica does not lead any more.
    pub async fn all_in_sync(
        &self,
        index: u64,
        lag: Duration,
        needed: usize,
    ) -> Result<Vec<u64>, ProposeError> {
        let mut metrics = self.replica().raft.metrics();
        loop {
            drop(metrics.borrow_and_update());
            let voters = self.voters();
            if voters.is_empty() {
                return Err(ProposeError::Unknown);
            }
            let (have, lack): (Vec<Progress>, Vec<Progress>) =
                voters.into_iter().partition(|voter| voter.matched >= Some(index));
            let mut waited_for = false;
            for voter in lack {
                waited_for |= self.behind_ms(voter.matched).await <= millis(lag);
            }
            if !waited_for && have.len() >= needed {
                return Ok(have.into_iter().map(|voter| voter.node).collect());
            }
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() {
                    return Err(ProposeError::Stopped);
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn voters(&self) -> Vec<Progress> {
        self.progress().into_iter().filter(|replica| replica.voter).collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
