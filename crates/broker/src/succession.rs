//! What follows when another node goes or comes back: who of the others takes over each group that it
//! led, and which groups wake.
//!
//! ```text
//!  connection broke, and cannot be made again ─► leases end ─┐
//!  silent, or back as another process ───────────────────────┴─► heirs by rank ask for votes
//! ```
//!
//! Each group's heirs, its other voters, have a rank, which turns with the group's id: so leadership
//! spreads over the nodes, and two do not stand against each other. The first rank asks at once, a few
//! groups at a time, so that a node which was only slow is not buried under elections; the next rank
//! only if there is no leader some time later. All of this is a hint of when to ask: the votes decide,
//! and Raft's own timers ask again if it was in vain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_group::Replica;

use crate::member::Member;
use crate::peers::{AbortOnDrop, Changes, Presence};
use crate::reconciler;

/// The election timeout's share that a rank waits for the one before.
pub(crate) const RANK_SHARE: u32 = 8;
/// How often all ranks have their turn.
const ROUNDS: usize = 3;
/// Groups that one node asks for at a time.
pub(crate) const BURST: usize = 32;
/// Time between two looks at whether they are led.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Follows the changes until the node ends.
pub(crate) async fn run(member: Arc<Member>, mut changes: Changes) {
    // What is under way for a node ends with the next that is heard of it.
    let mut successions = BTreeMap::new();
    loop {
        let change = tokio::select! {
            biased;
            () = member.shutdown.said() => return,
            change = changes.recv() => change,
        };
        let Some((node, presence)) = change else { return };
        if presence == Presence::Dismissed {
            // It may have been away then: nobody else would tell it.
            return member.fail(reconciler::removed(member.id()));
        }
        let replicas = replicas(&member);
        for replica in &replicas {
            replica.node_changed(node);
        }
        successions.remove(&node);
        if presence != Presence::Heard {
            let succession = tokio::spawn(succeed(member.clone(), replicas, node, presence));
            successions.insert(node, AbortOnDrop(succession));
        }
    }
}

/// Every replica here, those with traffic first.
fn replicas(member: &Member) -> Vec<Replica> {
    let queues = member.queues.all();
    let mut replicas = vec![member.catalog.replica().clone()];
    replicas.extend(queues.iter().map(|queue| queue.handle.replica().clone()));
    // Looked at once each: it changes at any time.
    replicas.sort_by_cached_key(|replica| (replica.is_parked(), replica.group()));
    replicas
}

/// Takes over what `gone` led, as far as it is this node's turn.
async fn succeed(member: Arc<Member>, replicas: Vec<Replica>, gone: u64, presence: Presence) {
    let mut ranks: Vec<Vec<Replica>> = Vec::new();
    for replica in replicas {
        let heirs = replica.heirs(gone);
        let Some(rank) = rank(&heirs, replica.group(), member.id()) else { continue };
        if presence == Presence::Gone {
            replica.end_lease(gone).await;
        }
        if ranks.len() <= rank {
            ranks.resize_with(rank + 1, Vec::new);
        }
        ranks[rank].push(replica);
    }
    let led = ranks.iter().map(Vec::len).sum::<usize>();
    if led > 0 {
        tracing::info!(
            node = member.id(),
            peer = gone,
            groups = led,
            ?presence,
            "its groups need a leader"
        );
    }
    let step = Duration::from_millis(member.config.raft.election_timeout_ms.into()) / RANK_SHARE;
    // Whoever noticed later has refused at first.
    for rank in std::iter::repeat_n(&ranks, ROUNDS).flatten() {
        for burst in rank.chunks(BURST) {
            for replica in burst {
                replica.take_over(gone).await;
            }
            settled(step / 4, || {
                burst.iter().all(|replica| replica.leadership().leader != Some(gone))
            })
            .await;
            if member.shutdown.is_said() {
                return;
            }
        }
        tokio::time::sleep(step).await;
    }
}

/// The rank of `node` among those who may lead a group.
pub(crate) fn rank(nodes: &[u64], group: u64, node: u64) -> Option<usize> {
    let place = nodes.iter().position(|known| *known == node)?;
    let first = (group % nodes.len() as u64) as usize;
    Some((place + nodes.len() - first) % nodes.len())
}

/// Waits until `done`, for so long at most.
pub(crate) async fn settled(limit: Duration, mut done: impl FnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !done() && begun.elapsed() < limit {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
