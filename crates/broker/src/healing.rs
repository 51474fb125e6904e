//! Where the catalog is led: replaces what was lost. A replica on a node that is gone for too long, or that
//! is to leave the cluster, moves to another node; and the catalog's own members follow the cluster's nodes.
//!
//! Only a few queues move at a time: each brings its messages over the network and to another disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use quorate_machine::NodeId;
use quorate_machine::catalog::{self, Catalog, Command, PlaceQueue, QueueName, Reply};
use tokio::time::Instant;

use crate::member::{CATALOG, MOVES_VERSION, Member};
use crate::moves::{self, Goal, Step};

/// Time between two looks at who is gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Queues that move at a time because a node was lost.
const MOVES_AT_A_TIME: usize = 8;
/// Longest wait for a queue's leader to be found: one without cannot move.
const FIND_LEADER: Duration = Duration::from_secs(2);
/// Voters of the catalog at most; further nodes follow it as learners.
const CATALOG_VOTERS_MAX: usize = 5;

/// Since when nodes are gone, as long as the catalog is led here.
#[derive(Default)]
pub(crate) struct Absences(Mutex<BTreeMap<u64, Instant>>);

impl Absences {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.0.lock().expect("no panic while held")
    }

    fn look(&self, member: &Member) {
        let mut nodes = member.catalog.members().voting();
        member.catalog.read(|catalog| nodes.extend(catalog.nodes().map(|node| node.id.0)));
        let mut gone = self.lock();
        gone.retain(|node, _| nodes.contains(node));
        for node in nodes {
            if member.is_there(NodeId(node)) {
                gone.remove(&node);
            } else {
                gone.entry(node).or_insert_with(Instant::now);
            }
        }
    }

    fn is_there(&self, node: u64) -> bool {
        !self.lock().contains_key(&node)
    }

    /// For how long a node is gone, as far as is known.
    pub(crate) fn gone_for(&self, node: u64) -> Option<Duration> {
        self.lock().get(&node).map(Instant::elapsed)
    }

    /// Gone for longer than anybody should wait; never if `replace_after` is zero.
    fn is_lost(&self, node: u64, replace_after: Duration) -> bool {
        !replace_after.is_zero() && self.gone_for(node).is_some_and(|gone| gone >= replace_after)
    }
}

/// Goes on until the node ends.
pub(crate) async fn run(member: Arc<Member>) {
    let absences = &member.absences;
    let mut last = None;
    while !member.shutdown.is_said() {
        if member.catalog.leadership().leads {
            absences.look(&member);
            keep_catalog_members(&member, absences).await;
            replace(&member, absences, &mut last).await;
            retire(&member).await;
        } else {
            // What another leader has seen is not known here: the time begins anew.
            absences.lock().clear();
        }
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Has queues move away from nodes that are lost or leaving, beginning behind the name that was looked at last.
async fn replace(member: &Member, absences: &Absences, last: &mut Option<QueueName>) {
    let replace_after = Duration::from_millis(member.config.raft.replace_after_ms);
    let wanted: Vec<(catalog::Queue, PlaceQueue)> = member.catalog.read(|catalog| {
        let leaving = |id: NodeId| catalog.node(id).is_some_and(|node| node.leaving);
        let is_lost = |id: NodeId| leaving(id) || absences.is_lost(id.0, replace_after);
        let lacks = |queue: &catalog::Queue| queue.voters_wanted > 0 && !queue.is_moving;
        if !catalog.nodes().any(|node| is_lost(node.id)) && !catalog.queues().any(lacks) {
            return Vec::new();
        }
        let there = catalog.nodes().map(|node| node.id).filter(|id| absences.is_there(id.0));
        let there: Vec<NodeId> = there.filter(|id| !is_lost(*id)).collect();
        // What has no majority, or is to be where it cannot be, does not get on and takes up no room.
        let can_move = |queue: &&catalog::Queue| member.has_majority(&queue.replicas);
        let gets_on = |queue: &&catalog::Queue| !queue.replicas.iter().any(|id| is_lost(*id));
        let moving = catalog.moving().filter(can_move).filter(gets_on).count();
        let room = MOVES_AT_A_TIME.saturating_sub(moving);
        let place = |queue: &catalog::Queue| {
            // One that moves to where it cannot be is sent elsewhere.
            let place = match lacks(queue) {
                true => with_more(catalog, queue, &there)
                    .or_else(|| without(catalog, queue, &there, is_lost, leaving)),
                false => without(catalog, queue, &there, is_lost, leaving),
            };
            // What is being recovered stays where it is until that is done.
            let place = place.filter(|_| !queue.is_recovering)?;
            (queue.is_moving || can_move(&queue)).then(|| (queue.clone(), place))
        };
        let behind = last.iter().flat_map(|last| catalog.queues_after(last));
        let rest = catalog
            .queues()
            .take_while(|queue| last.as_ref().is_none_or(|last| queue.name <= *last));
        behind.chain(rest).filter_map(place).take(room).collect()
    });
    *last = wanted.last().map(|(queue, _)| queue.name.clone());
    if wanted.is_empty() || member.expect_known(MOVES_VERSION, "queues that move").is_err() {
        return;
    }
    join_all(wanted.into_iter().map(|(queue, place)| move_away(member, queue, place))).await;
}

async fn move_away(member: &Member, queue: catalog::Queue, place: PlaceQueue) {
    let leader = member.locate(queue.name.as_str(), 0);
    if !matches!(tokio::time::timeout(FIND_LEADER, leader).await, Ok(Ok(_))) {
        tracing::warn!(queue = %queue.name, "a lost replica cannot be replaced: no leader");
        return;
    }
    let (from, to) = (queue.replicas, place.replicas.clone());
    match member.propose_catalog(Command::PlaceQueue(place)).await {
        Ok(Reply::Placed { .. }) => {
            tracing::info!(queue = %queue.name, ?from, ?to, "moves a replica to another node");
        }
        Ok(reply) => tracing::debug!(queue = %queue.name, ?reply, "move a lost replica"),
        Err(refusal) => {
            tracing::debug!(queue = %queue.name, %refusal.message, "move a lost replica");
        }
    }
}

/// Forgets nodes that leave, once they hold nothing and have no vote in the catalog: from then on the others do not
/// answer them.
async fn retire(member: &Member) {
    let members = member.catalog.members();
    if !members.is_committed {
        return;
    }
    let votes = |id: u64| members.voters.iter().any(|voters| voters.contains(&id));
    let leaving: Vec<NodeId> = member.catalog.read(|catalog| {
        let leaving = catalog.nodes().filter(|node| node.leaving).map(|node| node.id);
        leaving.filter(|id| catalog.holds_nothing(*id) && !votes(id.0)).collect()
    });
    for id in leaving {
        match member.propose_catalog(Command::RetireNode { id }).await {
            Ok(Reply::Done) => tracing::info!(node = id.0, "was removed from the cluster"),
            outcome => tracing::debug!(node = id.0, ?outcome, "remove a node"),
        }
    }
}

/// The placement of a queue without the nodes that are lost; `None` if it has none, or nobody can take their
/// place.
fn without(
    catalog: &Catalog,
    queue: &catalog::Queue,
    there: &[NodeId],
    is_lost: impl Fn(NodeId) -> bool,
    is_leaving: impl Fn(NodeId) -> bool,
) -> Option<PlaceQueue> {
    let mut placed = queue.clone();
    // An observer that is gone for a while hurts nobody; one that leaves is given up.
    placed.observers.retain(|id| !is_leaving(*id));
    for lost in queue.replicas.iter().copied().filter(|id| is_lost(*id)) {
        if let Some(substitute) = catalog.substitute(&placed, lost, there) {
            placed.replicas.retain(|id| *id != lost);
            placed.observers.retain(|id| *id != substitute);
            placed.replicas.push(substitute);
        }
    }
    placed.replicas.sort_unstable();
    let changed = (&placed.replicas, &placed.observers) != (&queue.replicas, &queue.observers);
    changed.then_some(PlaceQueue {
        group: queue.group,
        moved: queue.moved,
        replicas: placed.replicas,
        observers: placed.observers,
    })
}

/// The placement of a queue that was recovered, with as many voters more as nodes are there for; `None` if
/// there are too few. Its numbers are 1, 3 and 5.
fn with_more(catalog: &Catalog, queue: &catalog::Queue, there: &[NodeId]) -> Option<PlaceQueue> {
    let mut placed = queue.clone();
    while placed.replicas.len() < usize::from(queue.voters_wanted) {
        let mut more = placed.clone();
        for _ in 0..2 {
            // None is replaced: there is no node 0.
            let Some(next) = catalog.substitute(&more, NodeId(0), there) else { break };
            more.observers.retain(|id| *id != next);
            more.replicas.push(next);
        }
        if more.replicas.len() < placed.replicas.len() + 2 {
            break;
        }
        placed = more;
    }
    placed.replicas.sort_unstable();
    (placed.replicas.len() > queue.replicas.len()).then_some(PlaceQueue {
        group: queue.group,
        moved: queue.moved,
        replicas: placed.replicas,
        observers: placed.observers,
    })
}

/// Brings all nodes into the catalog's own group, and those out that are no more.
async fn keep_catalog_members(member: &Member, absences: &Absences) {
    let replace_after = Duration::from_millis(member.config.raft.replace_after_ms);
    let members = member.catalog.members();
    let current = members.voting();
    let nodes =
        member.catalog.read(|catalog| candidates(catalog, &current, absences, replace_after));
    let voters = catalog_voters(&nodes, &current);
    let all: BTreeSet<u64> = nodes.iter().map(|node| node.id).collect();
    let goal = Goal { observers: &all - &voters, voters };
    let step = moves::next_step(member.id(), &goal, &members, &member.catalog.progress());
    // One step; the next at the next look.
    if !matches!(step, Step::Wait | Step::Done) && moves::take(&member.catalog, &step).await {
        tracing::info!(group = CATALOG, ?step, "changes the catalog's members");
    }
}

/// Those who could have a vote: the catalog's nodes, and voters of a young cluster that have not registered yet. It
/// was founded with all of them, and fewer would not keep what it is told meanwhile.
fn candidates(
    catalog: &Catalog,
    voters: &BTreeSet<u64>,
    absences: &Absences,
    replace_after: Duration,
) -> Vec<Candidate> {
    let of = |id: u64, zone: &str, is_leaving: bool| Candidate {
        id,
        zone: zone.to_owned(),
        is_there: absences.is_there(id),
        is_lost: is_leaving || absences.is_lost(id, replace_after),
        is_leaving,
    };
    let registered = catalog.nodes().map(|node| of(node.id.0, &node.zone, node.leaving));
    let unknown = voters.iter().filter(|id| catalog.node(NodeId(**id)).is_none());
    registered.chain(unknown.map(|id| of(*id, "", false))).collect()
}

/// A node that could have a vote in the catalog.
struct Candidate {
    id: u64,
    zone: String,
    is_there: bool,
    is_lost: bool,
    is_leaving: bool,
}

/// Who is to have a vote in the catalog: 5 nodes, or 3 of 3 or 4, or all of fewer. Those that have one keep it,
/// unless they are lost and another can take it; others are taken from the zones that have the fewest.
fn catalog_voters(nodes: &[Candidate], current: &BTreeSet<u64>) -> BTreeSet<u64> {
    let count = match nodes.iter().filter(|node| !node.is_leaving).count() {
        few @ 0..3 => few.max(1),
        3 | 4 => 3,
        _ => CATALOG_VOTERS_MAX,
    };
    let votes = |node: &&Candidate| current.contains(&node.id);
    let mut stay: Vec<&Candidate> =
        nodes.iter().filter(votes).filter(|node| !node.is_lost).collect();
    // Those that are there first: fewer of the others may stay.
    stay.sort_by_key(|node| !node.is_there);
    let mut chosen: Vec<&Candidate> = stay.into_iter().take(count).collect();
    while chosen.len() < count {
        let zones = |zone: &str| chosen.iter().filter(|node| node.zone == zone).count();
        let free = nodes.iter().filter(|node| !node.is_lost && node.is_there);
        let free = free.filter(|node| !chosen.iter().any(|chosen| chosen.id == node.id));
        let Some(next) = free.min_by_key(|node| (zones(&node.zone), node.id)) else { break };
        chosen.push(next);
    }
    // Better one that is gone than none: it may come back.
    let kept = nodes.iter().filter(votes).filter(|node| node.is_lost && !node.is_leaving);
    let missing = count.saturating_sub(chosen.len());
    let chosen: BTreeSet<u64> =
        chosen.into_iter().chain(kept.take(missing)).map(|n| n.id).collect();
    if chosen.is_empty() { current.clone() } else { chosen }
}

#[cfg(test)]
mod tests {
    use quorate_machine::catalog::RegisterNode;
    use quorate_machine::{At, Machine, Millis};

    use super::*;

    /// `there`, `gone` for a while, `lost` for good, or `leaving`; in a zone.
    fn nodes(states: &[(&str, &str)]) -> Vec<Candidate> {
        let candidate = |(at, (state, zone)): (usize, &(&str, &str))| Candidate {
            id: at as u64 + 1,
            zone: (*zone).to_owned(),
            is_there: matches!(*state, "there" | "leaving"),
            is_lost: matches!(*state, "lost" | "leaving"),
            is_leaving: *state == "leaving",
        };
        states.iter().enumerate().map(candidate).collect()
    }

    fn voters(states: &[(&str, &str)], current: &[u64]) -> Vec<u64> {
        let current = current.iter().copied().collect();
        catalog_voters(&nodes(states), &current).into_iter().collect()
    }

    #[test]
    fn the_catalog_has_an_odd_number_of_voters_that_stay() {
        let there = ("there", "");
        assert_eq!(voters(&[there; 1], &[1]), [1]);
        assert_eq!(voters(&[there; 2], &[1]), [1, 2]);
        assert_eq!(voters(&[there; 3], &[1, 2]), [1, 2, 3]);
        assert_eq!(voters(&[there; 4], &[2, 3, 4]), [2, 3, 4], "those that vote go on");
        assert_eq!(voters(&[there; 7], &[1, 2, 3]), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_lost_voter_of_the_catalog_is_replaced_if_another_is_there() {
        let there = ("there", "");
        assert_eq!(voters(&[there, there, ("gone", ""), there], &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(voters(&[there, there, ("lost", ""), there], &[1, 2, 3]), [1, 2, 4]);
        assert_eq!(voters(&[there, there, ("lost", "")], &[1, 2, 3]), [1, 2, 3], "nobody can");
        assert_eq!(voters(&[there, ("leaving", ""), there, there], &[1, 2, 3]), [1, 3, 4]);
        let gone = ("gone", "");
        let five = [gone, gone, there, there, ("leaving", "")];
        assert_eq!(voters(&five, &[1, 2, 3, 4, 5]), [1, 3, 4], "those that are there stay first");
    }

    #[test]
    fn voters_of_a_young_cluster_keep_their_vote_before_they_register() {
        let mut catalog = Catalog::new();
        let register = RegisterNode {
            id: NodeId(1),
            incarnation: 1,
            address: "node-1:7000".into(),
            zone: "a".into(),
            version: 1,
            replace: false,
        };
        let at = At { index: 1, now: Millis(1) };
        for command in [Command::Bootstrap { cluster_id: 1 }, Command::RegisterNode(register)] {
            let reply = catalog.apply(at, 0, command, &mut Vec::new());
            assert!(!matches!(reply, Reply::Rejected(_)), "{reply:?}");
        }
        let founders = BTreeSet::from([1, 2, 3]);
        let absences = Absences::default();
        let keep = Duration::from_secs(1);
        let nodes = candidates(&catalog, &founders, &absences, keep);
        assert_eq!(catalog_voters(&nodes, &founders), founders);
        // One that never came is replaced as any other.
        let long_ago = Instant::now().checked_sub(2 * keep).expect("the clock runs for longer");
        absences.lock().insert(3, long_ago);
        let mut nodes = candidates(&catalog, &founders, &absences, keep);
        assert_eq!(catalog_voters(&nodes, &founders), founders, "nobody can take its place");
        nodes.extend(self::nodes(&[("there", "")]).into_iter().map(|n| Candidate { id: 4, ..n }));
        assert_eq!(catalog_voters(&nodes, &founders), BTreeSet::from([1, 2, 4]));
    }

    #[test]
    fn a_new_voter_of_the_catalog_comes_from_the_zone_with_the_fewest() {
        let (a, b) = (("there", "a"), ("there", "b"));
        assert_eq!(voters(&[a, a, a, b], &[1]), [1, 2, 4]);
    }
}
