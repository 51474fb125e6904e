//! Notices that this node stood still for a while: a process that was stopped, a machine that was suspended.
//!
//! Meanwhile its queues may have been recovered without it, as if it was lost. What it knows is of before, and others that
//! stood still with it may be a majority of before: as after a start, it serves nothing before it has read the catalog as
//! of now.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::member::Member;
use crate::reconciler::knows_all;
use crate::recovery;

/// Time between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that did not get to look for so long may have been given up. That takes twice as long at least
/// (`service/recovery`).
const ASLEEP_AFTER: Duration = Duration::from_secs(5);
/// Pause before the catalog's leader is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// When this node looked at the clock last, and knew that it may serve.
pub(crate) struct Awake(Mutex<Instant>);

impl Default for Awake {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Awake {
    /// Whether this node may serve queues.
    pub(crate) fn is(&self) -> bool {
        self.is_at(Instant::now())
    }

    fn is_at(&self, now: Instant) -> bool {
        now.duration_since(self.looked()) < ASLEEP_AFTER
    }

    fn looked(&self) -> Instant {
        *self.0.lock().expect("no panic while held")
    }

    /// Notes a look, unless the one before is too long ago. The time is from before it: a stop right behind is seen by
    /// the next one.
    fn look(&self, now: Instant) -> bool {
        let mut looked = self.0.lock().expect("no panic while held");
        let is_awake = now.duration_since(*looked) < ASLEEP_AFTER;
        if is_awake {
            *looked = now;
        }
        is_awake
    }

    /// Nothing of before `asked` has to be feared any more.
    fn wake(&self, asked: Instant) {
        *self.0.lock().expect("no panic while held") = asked;
    }
}

/// Looks until the node ends.
pub(crate) async fn run(member: Arc<Member>) {
    while !member.shutdown.is_said() {
        if !member.awake.look(Instant::now()) {
            tracing::warn!(
                node = member.id(),
                "stood still for a while: serves no queue before it has read the catalog as of now"
            );
            wake(&member).await;
        }
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn wake(member: &Member) {
    while !member.shutdown.is_said() {
        let asked = Instant::now();
        if knows_all(member).await {
            // These do not get to serve in between.
            recovery::stop_outdated(member).await;
            return member.awake.wake(asked);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_stood_still_serves_only_once_it_knows_what_became_of_its_queues() {
        let awake = Awake::default();
        let mut now = awake.looked();
        for _ in 0..10 {
            now += LOOK_EVERY;
            assert!(awake.is_at(now) && awake.look(now));
        }
        now += ASLEEP_AFTER;
        assert!(!awake.is_at(now), "also before the next look");
        assert!(!awake.look(now));
        now += LOOK_EVERY;
        assert!(!awake.is_at(now) && !awake.look(now), "time alone does not help");
        let asked = now;
        awake.wake(asked);
        assert!(awake.is_at(now) && awake.look(now));
        now += ASLEEP_AFTER;
        awake.wake(asked);
        assert!(!awake.is_at(now), "it stood still while it asked");
    }
}
