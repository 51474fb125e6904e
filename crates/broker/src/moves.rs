//! Moves queues: changes the members of the groups that this node leads, one step after the other, until
//! they are where the catalog wants them; then tells the catalog.
//!
//! ```text
//!  Add(node) ─► it catches up ─► HandOver, if the leader is to go ─► Vote: old and new voters ─► Remove ─► Done
//!            (bodies, then the log; nobody waits)                    (both majorities, then the new one)
//! ```
//!
//! What is next follows from who belongs to the group now, so it does not matter who led when a step was
//! taken, nor whether the goal has changed since.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_group::{Handle, Members, Progress};
use quorate_machine::Machine;
use quorate_machine::catalog::{self, Command, GroupId, Reply};
use quorate_proto::internal as pb;
use tokio::time::Instant;

use crate::leaders::HAND_OVER;
use crate::member::{COMMANDS_VERSION, Member};
use crate::peers::Directory;
use crate::refusal::Refusal;

/// Time between two looks while nothing moves.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time between two steps of a queue.
const STEP_EVERY: Duration = Duration::from_millis(25);
/// Queues whose members are changed at a time.
const AT_A_TIME: usize = 16;
/// Longest wait for one step.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// A learner that lacks fewer entries has caught up.
const CAUGHT_UP: u64 = 100;

/// Who is to belong to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Goal {
    pub(crate) voters: BTreeSet<u64>,
    pub(crate) observers: BTreeSet<u64>,
}

impl Goal {
    fn of(wanted: &catalog::Queue) -> Self {
        let ids = |nodes: &[quorate_machine::NodeId]| nodes.iter().map(|node| node.0).collect();
        Self { voters: ids(&wanted.replicas), observers: ids(&wanted.observers) }
    }

    fn all(&self) -> BTreeSet<u64> {
        &self.voters | &self.observers
    }
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A change is under way, or a new voter is catching up.
    Wait,
    /// Has a node follow the group.
    Add(u64),
    /// Has another lead, since this node is to have no vote.
    HandOver(u64),
    /// Makes these the voters.
    Vote(BTreeSet<u64>),
    /// Has nodes follow the group no more.
    Remove(BTreeSet<u64>),
    /// The group's members are those that it is to have.
    Done,
}

/// The next step of the leader `me`.
pub(crate) fn next_step(me: u64, goal: &Goal, members: &Members, progress: &[Progress]) -> Step {
    if !members.is_committed {
        return Step::Wait;
    }
    if let Some(missing) = goal.all().difference(&members.all).next() {
        return Step::Add(*missing);
    }
    if members.voters != [goal.voters.clone()] {
        let voting = members.voting();
        // Voters that are not there could stop the group for ever: new ones have to have answered, and of all of
        // them a majority.
        let follows = |node: &u64| follows(progress, *node);
        let here = goal.voters.iter().filter(|node| **node == me || follows(node)).count();
        if !goal.voters.difference(&voting).all(follows) || here * 2 <= goal.voters.len() {
            return Step::Wait;
        }
        let mut heirs = goal.voters.intersection(&voting).copied();
        return match heirs.find(follows).filter(|_| !goal.voters.contains(&me)) {
            Some(heir) => Step::HandOver(heir),
            None => Step::Vote(goal.voters.clone()),
        };
    }
    let surplus = &members.all - &goal.all();
    if surplus.is_empty() { Step::Done } else { Step::Remove(surplus) }
}

/// Whether a node is there and has nearly all.
fn follows(progress: &[Progress], node: u64) -> bool {
    let seen = progress.iter().find(|seen| seen.node == node);
    seen.is_some_and(|seen| seen.is_there && seen.matched.is_some() && seen.lag < CAUGHT_UP)
}

/// What this node, if it leads a queue, does next about its members, and which nodes that is about or waits for.
pub(crate) fn outlook(member: &Member, wanted: &catalog::Queue) -> Option<(Step, Vec<u64>)> {
    let queue = member.queues.get(wanted.group.0)?;
    let handle = &queue.handle;
    if !handle.leadership().leads {
        return None;
    }
    let (members, progress) = (handle.members(), handle.progress());
    let goal = Goal::of(wanted);
    let step = next_step(member.id(), &goal, &members, &progress);
    let nodes = match &step {
        Step::Wait if members.is_committed => {
            let behind = |node: &u64| *node != member.id() && !follows(&progress, *node);
            goal.voters.iter().copied().filter(behind).collect()
        }
        Step::Wait | Step::Done => Vec::new(),
        Step::Add(node) | Step::HandOver(node) => vec![*node],
        Step::Vote(nodes) | Step::Remove(nodes) => nodes.iter().copied().collect(),
    };
    Some((step, nodes))
}

/// Takes one step; false if there is none to take, or it did not succeed.
pub(crate) async fn take<M: Machine>(handle: &Handle<M>, step: &Step) -> bool {
    let taken = async {
        match step {
            Step::Wait | Step::Done => Ok(false),
            Step::Add(node) => handle.add_learner(*node).await.map(|()| true),
            Step::HandOver(node) => Ok(handle.transfer(*node, HAND_OVER).await),
            Step::Vote(voters) => handle.change_voters(voters.clone()).await.map(|()| true),
            Step::Remove(nodes) => handle.remove_learners(nodes.clone()).await.map(|()| true),
        }
    };
    match tokio::time::timeout(STEP_LIMIT, taken).await {
        Ok(Ok(taken)) => taken,
        Ok(Err(error)) => {
            tracing::debug!(group = handle.id(), ?step, %error, "change the group's members");
            false
        }
        Err(_) => {
            tracing::warn!(group = handle.id(), ?step, "the group's members change slowly");
            false
        }
    }
}

/// The queues of which a step is being taken: one that takes long does not hold up the others.
type Busy = Arc<Mutex<BTreeSet<GroupId>>>;

/// Goes on until the node ends.
pub(crate) async fn run(member: Arc<Member>) {
    let busy = Busy::default();
    while !member.shutdown.is_said() {
        let moving: Vec<catalog::Queue> =
            member.catalog.read(|catalog| catalog.moving().cloned().collect());
        let pause = if moving.is_empty() { LOOK_EVERY } else { STEP_EVERY };
        for wanted in moving {
            let mut groups = busy.lock().expect("no panic while held");
            if groups.len() >= AT_A_TIME {
                break;
            }
            if groups.insert(wanted.group) {
                let (member, busy) = (member.clone(), busy.clone());
                tokio::spawn(async move {
                    step(&member, &wanted).await;
                    busy.lock().expect("no panic while held").remove(&wanted.group);
                });
            }
        }
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn step(member: &Member, wanted: &catalog::Queue) {
    let Some(queue) = member.queues.get(wanted.group.0) else { return };
    let handle = &queue.handle;
    // A leader of before a recovery would still go by the members of then.
    let of_now = handle.replica().timeline() >= wanted.timeline && !wanted.is_recovering;
    if !handle.leadership().leads || !of_now {
        return;
    }
    let goal = Goal::of(wanted);
    let look = || next_step(member.id(), &goal, &handle.members(), &handle.progress());
    let step = look();
    if step == Step::Done {
        // A leader that others have long succeeded does not know that their members are others.
        let asked = handle.complete_as_of(Instant::now());
        let leads = matches!(tokio::time::timeout(STEP_LIMIT, asked).await, Ok(Ok(_)));
        if !leads || !handle.leadership().leads || look() != Step::Done {
            return;
        }
        if let Err(error) = report(member, wanted.group, wanted.moved, None).await {
            tracing::debug!(queue = %wanted.name, %error, "tell the catalog that a queue has moved");
        }
        return;
    }
    let mut taken = take(handle, &step).await;
    if matches!(step, Step::HandOver(_)) && !taken && handle.leadership().leads {
        // The heir does not catch up with what comes: then this leader goes with its vote.
        taken = take(handle, &Step::Vote(goal.voters.clone())).await;
    }
    if taken {
        tracing::info!(node = member.id(), queue = %wanted.name, ?step, "moves");
    }
}

/// Tells the catalog, wherever it is led, that a queue is where it is to be, or that it was taken over.
pub(crate) async fn report(
    member: &Member,
    group: GroupId,
    moved: u64,
    took_over_from: Option<u64>,
) -> Result<(), String> {
    let leader = member.catalog_place(0).await.map_err(|refusal| refusal.message)?;
    let Some(leader) = leader else {
        let placed = member.placed(group, moved, took_over_from).await;
        return placed.map_err(|refusal| refusal.message);
    };
    let channel = member.connections.channel(leader).map_err(|error| error.to_string())?;
    let hello = Some(member.hello());
    let request = pb::PlacedRequest { hello, group: group.0, moved, took_over_from };
    let mut client = pb::peer_client::PeerClient::new(channel);
    match tokio::time::timeout(STEP_LIMIT, client.placed(request)).await {
        Ok(answer) => answer.map(|_| ()).map_err(|status| status.message().to_owned()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

impl Member {
    /// What this node says of itself in a call of its own.
    pub(crate) fn hello(&self) -> pb::Hello {
        let me = self.identify();
        pb::Hello {
            cluster_id: me.cluster_id,
            node_id: me.node_id,
            incarnation: me.incarnation,
            version: COMMANDS_VERSION,
            ..Default::default()
        }
    }

    /// Notes in the catalog, which is led here, that a queue is where it is to be, or that its survivor has
    /// taken it over.
    pub(crate) async fn placed(
        &self,
        group: GroupId,
        moved: u64,
        took_over_from: Option<u64>,
    ) -> Result<(), Refusal> {
        let note = match took_over_from {
            Some(from) => Command::QueueTookOver { group, moved, from },
            None => Command::QueuePlaced { group, moved },
        };
        match self.propose_catalog(note).await? {
            // Deleted, or moved on: there is nothing to note.
            Reply::Done | Reply::Rejected(_) => Ok(()),
            _ => Err(Refusal::unknown_outcome()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u64]) -> BTreeSet<u64> {
        nodes.iter().copied().collect()
    }

    fn goal(voters: &[u64], observers: &[u64]) -> Goal {
        Goal { voters: set(voters), observers: set(observers) }
    }

    fn members(voters: &[&[u64]], all: &[u64]) -> Members {
        let voters = voters.iter().map(|voters| set(voters)).collect();
        Members { voters, all: set(all), is_committed: true }
    }

    /// All are there and have all of it, but those that lag.
    fn progress(lagging: &[u64]) -> Vec<Progress> {
        let seen = |node: u64| {
            let lag = if lagging.contains(&node) { CAUGHT_UP } else { 0 };
            let matched = Some(1_000 - lag);
            let (sent_log_bytes, sent_snapshot_bytes) = (0, 0);
            Progress {
                node,
                voter: true,
                matched,
                lag,
                sent: None,
                sent_log_bytes,
                sent_snapshot_bytes,
                is_there: true,
            }
        };
        (1..=6).map(seen).collect()
    }

    #[test]
    fn a_replica_is_replaced_in_five_steps() {
        let goal = goal(&[1, 2, 4], &[]);
        let next =
            |members: Members, lagging: &[u64]| next_step(1, &goal, &members, &progress(lagging));
        assert_eq!(next(members(&[&[1, 2, 3]], &[1, 2, 3]), &[]), Step::Add(4));
        let added = members(&[&[1, 2, 3]], &[1, 2, 3, 4]);
        assert_eq!(next(added.clone(), &[4]), Step::Wait, "it catches up first");
        assert_eq!(next(added.clone(), &[3]), Step::Vote(set(&[1, 2, 4])), "one that goes may lag");
        let uncommitted = Members { is_committed: false, ..added };
        assert_eq!(next(uncommitted, &[]), Step::Wait);
        let joint = members(&[&[1, 2, 3], &[1, 2, 4]], &[1, 2, 3, 4]);
        assert_eq!(
            next(joint, &[]),
            Step::Vote(set(&[1, 2, 4])),
            "a leader did not live to end it"
        );
        let voted = members(&[&[1, 2, 4]], &[1, 2, 3, 4]);
        assert_eq!(next(voted, &[]), Step::Remove(set(&[3])));
        assert_eq!(next(members(&[&[1, 2, 4]], &[1, 2, 4]), &[]), Step::Done);
    }

    #[test]
    fn a_leader_that_is_to_go_hands_over_first_to_one_that_stays() {
        let members = members(&[&[1, 2, 3]], &[1, 2, 3, 4]);
        let goal = goal(&[2, 3, 4], &[]);
        assert_eq!(next_step(1, &goal, &members, &progress(&[2])), Step::HandOver(3));
        assert_eq!(next_step(3, &goal, &members, &progress(&[2])), Step::Vote(set(&[2, 3, 4])));
    }

    #[test]
    fn a_leader_of_which_nothing_stays_is_voted_out() {
        let members = members(&[&[1]], &[1, 2]);
        let goal = goal(&[2], &[]);
        assert_eq!(next_step(1, &goal, &members, &progress(&[])), Step::Vote(set(&[2])));
    }

    #[test]
    fn an_observer_becomes_a_voter_and_a_voter_an_observer() {
        let now = members(&[&[1, 2, 3]], &[1, 2, 3, 4]);
        let goal = goal(&[1, 2, 4], &[3]);
        assert_eq!(next_step(1, &goal, &now, &progress(&[])), Step::Vote(set(&[1, 2, 4])));
        let then = members(&[&[1, 2, 4]], &[1, 2, 3, 4]);
        assert_eq!(next_step(1, &goal, &then, &progress(&[])), Step::Done);
    }

    #[test]
    fn a_majority_of_those_that_are_to_vote_has_to_be_there() {
        let now = members(&[&[1, 2, 3]], &[1, 2, 3]);
        let mut progress = progress(&[]);
        progress[1].is_there = false;
        assert_eq!(next_step(1, &goal(&[2], &[1]), &now, &progress), Step::Wait);
        let goal = goal(&[1], &[]);
        assert_eq!(next_step(1, &goal, &now, &progress), Step::Vote(set(&[1])), "it is one itself");
    }

    #[test]
    fn a_node_that_is_not_there_does_not_become_a_voter() {
        let now = members(&[&[1, 2, 3]], &[1, 2, 3, 4]);
        let mut progress = progress(&[]);
        progress[3].is_there = false;
        assert_eq!(next_step(1, &goal(&[1, 2, 4], &[]), &now, &progress), Step::Wait);
    }
}
