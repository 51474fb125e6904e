//! Leaders for the groups that this node has opened: after a start of all nodes, thousands need one at
//! once, and no node has more than a core or two for them.
//!
//! ```text
//!  reconciler ── opened, resting ──► turn by rank ──► a few stand at a time ──► led: awake, then parked
//!                                        ▲                     │
//!                                        └── still resting ────┘
//! ```
//!
//! What has just been elected is awake, and costs: as long as many are, no more stand. Otherwise their
//! timers would take the processor that parking needs, and no end of it.
//!
//! As in [`succession`], a group's voters have a rank that turns with its id. The first rank stands at
//! once; the next only when nothing has moved for a while. Meanwhile a group that a client wants, or
//! that another node asks or leads, has left its rest by itself.

use std::sync::Arc;
use std::time::Duration;

use quorate_group::Replica;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::member::Member;
use crate::succession::{self, BURST, RANK_SHARE};

/// Groups of this node's that are awake after they stood, at most, before more stand.
const AWAKE_MAX: usize = 96;
/// One that is awake for longer is in use.
const IN_USE: Duration = Duration::from_secs(10);

/// Longest wait for a replica to be opened, while none rests.
const NOTHING_TO_DO: Duration = Duration::from_secs(3_600);

/// A replica that rests, and when it last stood.
struct Resting {
    replica: Replica,
    stood_at: Option<Instant>,
}

/// Goes on until the node ends.
pub(crate) async fn run(member: Arc<Member>, mut opened: mpsc::UnboundedReceiver<Replica>) {
    let election_timeout = Duration::from_millis(member.config.raft.election_timeout_ms.into());
    let step = election_timeout / RANK_SHARE;
    let mut resting: Vec<Resting> = Vec::new();
    let mut awake: Vec<(Replica, Instant)> = Vec::new();
    let mut rank = 0;
    let mut pause = step;
    loop {
        let patience = if resting.is_empty() { NOTHING_TO_DO } else { pause };
        let first = tokio::select! {
            biased;
            () = member.shutdown.said() => return,
            first = tokio::time::timeout(patience, opened.recv()) => first,
        };
        let first = match first {
            Ok(Some(replica)) => Some(replica),
            // Nothing is opened any more: the node must stop.
            Ok(None) => return,
            Err(_) => None,
        };
        let arrived = std::iter::from_fn(|| opened.try_recv().ok());
        let arrived: Vec<Replica> = first.into_iter().chain(arrived).collect();
        if resting.is_empty() {
            awake.clear();
        }
        let before = resting.len();
        resting.retain(|resting| resting.replica.is_resting());
        let moved = !arrived.is_empty() || resting.len() < before;
        (rank, pause) = match moved {
            true => (0, step),
            false => (rank + 1, (pause * 2).min(election_timeout)),
        };
        resting.extend(arrived.into_iter().map(|replica| Resting { replica, stood_at: None }));
        let mut due: Vec<&mut Resting> = resting
            .iter_mut()
            .filter(|resting| {
                let rested = resting.stood_at.is_none_or(|at| at.elapsed() >= election_timeout);
                rested && turn(&resting.replica, member.id()).is_some_and(|turn| turn <= rank)
            })
            .collect();
        for burst in due.chunks_mut(BURST) {
            succession::settled(election_timeout, || {
                awake.retain(|(replica, since)| !replica.is_parked() && since.elapsed() < IN_USE);
                awake.len() < AWAKE_MAX
            })
            .await;
            let now = Instant::now();
            for resting in burst.iter_mut() {
                resting.stood_at = Some(now);
                resting.replica.stand().await;
            }
            succession::settled(step, || burst.iter().all(|one| !one.replica.is_resting())).await;
            let led = burst.iter().filter(|one| !one.replica.is_resting());
            awake.extend(led.map(|one| (one.replica.clone(), now)));
            if member.shutdown.is_said() {
                return;
            }
        }
    }
}

/// The rank of this node's replica among those whose nodes are there; `None` if it cannot win.
fn turn(replica: &Replica, node: u64) -> Option<usize> {
    succession::rank(&replica.electors(), replica.group(), node)
}
