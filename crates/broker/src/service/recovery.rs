//! Queues that have lost the majority of their replicas: what is left of them, and going on with it. Runs where the
//! catalog is led. Here it is decided, by what was seen (`looking`).
//!
//! ```text
//!  holders, by the catalog ─► Holdings of each node that is reached ─► a majority? refused
//!                                                                   ├► one does not tell? refused, for now
//!                                                                   └► the greatest (term, index) survives
//!  the loss is accepted ─► gone for long enough, all that do not tell, and reached by nobody? else refused, for now
//!                       ─► queue by queue: is it still as it was looked at? else it is left as it is
//! ```

mod looking;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_group::recovery::timeline_of;
use quorate_machine::NodeId;
use quorate_machine::catalog::{self, Command, Rejection, Reply};
use quorate_proto::internal as pb;
use quorate_proto::{reason, v1};
use tonic::Status;

use crate::member::{Member, RECOVERY_VERSION};
use crate::peers::HOLDINGS_MAX;
use crate::refusal::Refusal;
use crate::routing::queue_name;
use looking::Told;

/// Pause before one that did not tell is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A replica that heard within so many election timeouts from a leader which is not reached from here may be led by
/// it, and a majority.
const HEARD_LATELY: u64 = 4;

/// A node that is given up was gone for at least so long, by what the catalog's leader has seen: one that starts
/// again, or a link that breaks for a moment, must not cost what was confirmed.
const GONE_AT_LEAST: Duration = Duration::from_secs(10);

impl Member {
    /// Shows what is left of queues without a majority and, if the loss is accepted, has them go on with it.
    pub(super) async fn recover(
        &self,
        request: &v1::RecoverQueuesRequest,
    ) -> Result<v1::RecoverQueuesResponse, Status> {
        if request.all != request.queues.is_empty() {
            return Err(Refusal::invalid("name queues, or ask for `all` of them").into());
        }
        if request.at_least.is_some() && request.queues.len() != 1 {
            return Err(Refusal::invalid("`at_least` is of one queue: name that one").into());
        }
        if request.queues.len() > HOLDINGS_MAX {
            return Err(Refusal::invalid(format!("at most {HOLDINGS_MAX} queues a call")).into());
        }
        let (queues, next_after) = match request.all {
            true => self.without_majority(&request.after),
            false => (self.named(&request.queues)?, String::new()),
        };
        self.wait_for_holders(&queues).await;
        let told = self.ask_nodes(&queues).await;
        let mut recoveries = Vec::with_capacity(queues.len());
        for queue in queues {
            match self.recovery_of(&queue, &told) {
                Ok(recovery) => recoveries.push((queue, recovery)),
                // Among all, those that need none are not meant.
                Err(Refusal { reason: reason::HAS_QUORUM | reason::RECOVERING, .. })
                    if request.all => {}
                Err(refusal) if request.all && refusal.reason == reason::NO_SURVIVOR => {
                    tracing::warn!(queue = %queue.name, %refusal.message, "recover all queues");
                    recoveries.push((queue.clone(), self.described(&queue, &told)));
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
        if let (Some(at_least), [(queue, recovery)]) = (&request.at_least, &recoveries[..]) {
            expect_at_least(queue, recovery, at_least)?;
        }
        if request.accept_loss {
            self.expect_recovery_known()?;
            // All of them first: none is changed if one is refused.
            for (queue, recovery) in &recoveries {
                if recovery.survivor > 0 {
                    self.expect_others_lost(queue, &told)?;
                }
            }
            self.give_up_all(&mut recoveries, &told).await?;
        }
        let queues = recoveries.into_iter().map(|(_, recovery)| recovery).collect();
        Ok(v1::RecoverQueuesResponse { queues, next_after })
    }

    /// Goes on with one queue after the other, that may take a while: one that is not any more as it was looked at is
    /// left as it is.
    async fn give_up_all(
        &self,
        recoveries: &mut [(catalog::Queue, v1::QueueRecovery)],
        told: &Told,
    ) -> Result<(), Refusal> {
        let mut first = None;
        // The catalog does not take anything in any more: the others need not be tried.
        let mut stopped: Option<Refusal> = None;
        for (queue, recovery) in recoveries.iter_mut().filter(|(_, seen)| seen.survivor > 0) {
            let outcome = match (&stopped, self.expect_as_looked_at(queue, told)) {
                (Some(refusal), _) => Err(refusal.clone()),
                (None, Err(refusal)) => Err(refusal),
                (None, Ok(())) => {
                    let timeline = next_timeline(queue, told, self.catalog.replica().timeline());
                    let given_up = self.give_up_others(queue, recovery.survivor, timeline).await;
                    given_up.unwrap_or_else(|refusal| {
                        stopped = Some(refusal.clone());
                        Err(refusal)
                    })
                }
            };
            match outcome {
                Ok(placement) => recovery.placement = placement,
                Err(refusal) => {
                    tracing::warn!(queue = %queue.name, %refusal.message, "recover a queue");
                    recovery.refused_reason = refusal.reason.to_owned();
                    recovery.refused.clone_from(&refusal.message);
                    first.get_or_insert(refusal);
                }
            }
        }
        // What was done has to be told too.
        let is_done = recoveries.iter().any(|(_, recovery)| recovery.placement > 0);
        first.filter(|_| !is_done).map_or(Ok(()), Err)
    }

    /// Refuses if a queue is not as it was when its nodes told what they have, or one of these is there again.
    fn expect_as_looked_at(&self, queue: &catalog::Queue, told: &Told) -> Result<(), Refusal> {
        if !self.known(&queue.name).is_some_and(|now| is_placed_as(queue, &now)) {
            return Err(changed(queue));
        }
        match self.does_not_tell(queue, told) {
            Some(node) => Err(does_not_say(queue, node)),
            None => self.expect_others_lost(queue, told),
        }
    }

    /// Nodes that are given up, and know less, do not count: what they run is of before.
    fn expect_recovery_known(&self) -> Result<(), Refusal> {
        let outdated = self.catalog.read(|catalog| {
            let there = catalog.nodes().filter(|node| self.is_there(node.id));
            there.filter(|node| node.version < RECOVERY_VERSION).map(|node| node.id.0).next()
        });
        let Some(node) = outdated else { return Ok(()) };
        let message =
            format!("node {node} runs a version that does not know recoveries; upgrade it first");
        Err(Refusal::new(reason::UNSUPPORTED_VERSION, message).with("node", node))
    }

    fn named(&self, names: &[String]) -> Result<Vec<catalog::Queue>, Refusal> {
        let mut queues = BTreeMap::new();
        for name in names {
            let name = queue_name(name)?;
            let known = self.known(&name);
            let known = known.ok_or_else(|| self.no_queue(&name))?;
            queues.insert(name, known);
        }
        Ok(queues.into_values().collect())
    }

    /// Queues of which most voters are not reached, and the name behind which there may be more.
    fn without_majority(&self, after: &str) -> (Vec<catalog::Queue>, String) {
        self.catalog.read(|catalog| {
            let lacks = |queue: &&catalog::Queue| {
                queue.name.as_str() > after && !self.has_majority(&queue.replicas)
            };
            let queues: Vec<catalog::Queue> =
                catalog.queues().filter(lacks).take(HOLDINGS_MAX).cloned().collect();
            let is_full = queues.len() == HOLDINGS_MAX;
            let last = queues.last().filter(|_| is_full).map(|queue| queue.name.to_string());
            (queues, last.unwrap_or_default())
        })
    }

    /// Refuses while a holder that did not answer is reached by another node, or gone for a moment only.
    fn expect_others_lost(&self, queue: &catalog::Queue, told: &Told) -> Result<(), Refusal> {
        let unheard = queue.holders().map(|node| node.0).filter(|node| !told.answered(*node));
        for node in unheard {
            let gone = self.gone_for(node).unwrap_or_default();
            let left = GONE_AT_LEAST.saturating_sub(gone);
            let message = if !left.is_zero() {
                format!(
                    "queue `{}`: node {node} is gone for {} s only, as far as the catalog's leader knows; it may be \
                     given up after {} s. Nothing was changed; if it is lost for ever, try again then",
                    queue.name,
                    gone.as_secs(),
                    GONE_AT_LEAST.as_secs(),
                )
            } else if let Some(by) = told.reached_by(node) {
                format!(
                    "queue `{}`: node {node} is not reached from the catalog's leader, but node {by} reaches it or is \
                     reached by it, so that it is not lost. Nothing was changed; mend the network between them, or \
                     stop node {node} if it is to be given up. Other queues can be named",
                    queue.name,
                )
            } else if let Some(silent) = told.silent.iter().next() {
                format!(
                    "queue `{}`: node {silent} is there and does not say whether it reaches node {node}, which is to be \
                     given up; its log says why. Nothing was changed; try again, or stop node {silent}",
                    queue.name,
                )
            } else {
                continue;
            };
            let refusal = Refusal::new(reason::NO_QUORUM, message).retry(left.max(ASK_AGAIN));
            return Err(refusal.with("queue", &queue.name).with("node", node));
        }
        Ok(())
    }

    /// What is left of a queue, or why it is not to be recovered.
    fn recovery_of(
        &self,
        queue: &catalog::Queue,
        told: &Told,
    ) -> Result<v1::QueueRecovery, Refusal> {
        let held = |node: NodeId| told.of(node, queue.group);
        if queue.is_recovering && held(queue.replicas[0]).is_some_and(|held| held.last.is_some()) {
            return Err(Rejection::Recovering { survivor: queue.replicas[0] }.into());
        }
        let holdings: Vec<(u64, &pb::Holding)> =
            queue.holders().filter_map(|node| Some((node.0, held(node)?))).collect();
        let lately = u64::from(self.config.raft.election_timeout_ms) * HEARD_LATELY;
        let is_led = holdings.iter().any(|(_, held)| may_be_led(queue, held, lately, told));
        if !queue.is_recovering && (is_led || has_majority(queue, &holdings)) {
            let message = format!(
                "queue `{}` has a majority of its voters, or may have: there is nothing to recover. A replica \
                 that is lost is replaced by `quorate queue replica replace`",
                queue.name
            );
            return Err(Refusal::new(reason::HAS_QUORUM, message).with("queue", &queue.name));
        }
        if let Some(node) = self.does_not_tell(queue, told) {
            return Err(does_not_say(queue, node));
        }
        let recovery = self.described(queue, told);
        if recovery.survivor == 0 {
            let message = format!(
                "no replica of queue `{}` is reached that has anything: start a node that holds one, or \
                 delete the queue",
                queue.name
            );
            return Err(Refusal::new(reason::NO_SURVIVOR, message).with("queue", &queue.name));
        }
        Ok(recovery)
    }

    fn described(&self, queue: &catalog::Queue, told: &Told) -> v1::QueueRecovery {
        let describe = |node: NodeId| {
            let answered = told.answered(node.0);
            let held = told.of(node, queue.group);
            let gone = self.gone_for(node.0).filter(|_| !answered);
            let last = held.and_then(|held| held.last.as_ref());
            v1::SurvivingReplica {
                node_id: node.0,
                observer: !queue.replicas.contains(&node),
                reachable: answered,
                gone_ms: gone.map(|gone| u64::try_from(gone.as_millis()).unwrap_or(u64::MAX)),
                last: last.map(|at| v1::LogPosition {
                    group: queue.group.0,
                    term: at.term,
                    index: at.index,
                }),
                applied_index: held.map_or(0, |held| held.applied),
                messages: held.and_then(|held| held.messages),
                heard_ms_ago: held.and_then(|held| held.heard_ms_ago),
                led: held.is_some_and(|held| held.led),
            }
        };
        let replicas: Vec<v1::SurvivingReplica> = queue.holders().map(describe).collect();
        v1::QueueRecovery {
            queue: queue.name.to_string(),
            group_id: queue.group.0,
            survivor: survivor(&replicas),
            replicas,
            placement: 0,
            refused_reason: String::new(),
            refused: String::new(),
            voters: u32::from(queue.voters_wanted).max(queue.replicas.len() as u32),
        }
    }

    /// Proposes it; the inner error is about this queue only.
    async fn give_up_others(
        &self,
        queue: &catalog::Queue,
        survivor: u64,
        timeline: u64,
    ) -> Result<Result<u64, Refusal>, Refusal> {
        let (group, moved) = (queue.group, queue.moved);
        let survives = NodeId(survivor);
        let recover = Command::RecoverQueue { group, moved, survivor: survives, timeline };
        match self.propose_catalog(recover).await? {
            Reply::Placed { moved } => {
                tracing::warn!(
                    queue = %queue.name, survivor, given_up = ?queue.replicas,
                    "recovers a queue on the replica that is left; the loss was accepted"
                );
                Ok(Ok(moved))
            }
            Reply::Rejected(Rejection::PlacementChanged { .. }) => Ok(Err(changed(queue))),
            Reply::Rejected(rejection) => Ok(Err(rejection.into())),
            _ => Ok(Err(Refusal::unknown_outcome())),
        }
    }
}

/// Refuses if the replica with the most has less than was shown when the loss was looked at.
fn expect_at_least(
    queue: &catalog::Queue,
    recovery: &v1::QueueRecovery,
    at_least: &v1::LogPosition,
) -> Result<(), Refusal> {
    let survives = |replica: &&v1::SurvivingReplica| replica.node_id == recovery.survivor;
    let last = recovery.replicas.iter().find(survives).and_then(|replica| replica.last.as_ref());
    let (term, index) = last.map_or((0, 0), |last| (last.term, last.index));
    if (term, index) >= (at_least.term, at_least.index) {
        return Ok(());
    }
    let message = format!(
        "of queue `{}`, the replica that would go on, on node {}, has its log up to term {term}, index {index}, and \
         less is to be lost: term {}, index {} was asked for. Nothing was changed; start the node that has more, or look \
         again",
        queue.name, recovery.survivor, at_least.term, at_least.index
    );
    Err(Refusal::new(reason::NO_SURVIVOR, message).with("queue", &queue.name))
}

/// That a queue has got to where it was to be does not count as a change of its placement, and says that it has a
/// majority.
fn is_placed_as(before: &catalog::Queue, now: &catalog::Queue) -> bool {
    (now.group, now.moved, now.is_moving, now.is_recovering)
        == (before.group, before.moved, before.is_moving, before.is_recovering)
}

fn changed(queue: &catalog::Queue) -> Refusal {
    let message = format!(
        "the placement of queue `{}` was changed meanwhile; look again, without accepting the loss",
        queue.name
    );
    Refusal::new(reason::HAS_QUORUM, message).with("queue", &queue.name)
}

fn does_not_say(queue: &catalog::Queue, node: NodeId) -> Refusal {
    let message = format!(
        "queue `{}`: node {node} is there and does not say what it has of the queue, so that it cannot be told what \
         would be lost; its log says why. Nothing was changed; try again, or stop that node if it is lost. Other \
         queues can be named",
        queue.name,
        node = node.0,
    );
    let refusal = Refusal::new(reason::NO_QUORUM, message).retry(ASK_AGAIN);
    refusal.with("queue", &queue.name).with("node", node.0)
}

/// Whether a replica is led by a node that is not reached from here, as far as it knows.
fn may_be_led(queue: &catalog::Queue, held: &pb::Holding, lately: u64, told: &Told) -> bool {
    // A holder that answered speaks for itself. Of another node it was not asked what it has.
    let is_holder = queue.holders().any(|node| node.0 == held.leader);
    let answered = is_holder && told.answered(held.leader);
    // It may follow none just now, between a leader that it lost and the next one.
    let heard = held.heard_ms_ago.is_some_and(|ago| ago < lately);
    !answered && (heard || (held.leader > 0 && held.leader_reached))
}

/// Timelines of a queue that are left to each timeline of the catalog.
const TIMELINES_EACH: u64 = 1 << 16;

/// One that neither the catalog nor a replica knows: a catalog that was recovered itself may know less than the
/// replicas, and a rewriting that was cut off has left entries of a timeline that no vote tells. Replicas that are not
/// reached may be of a recovery that this catalog has lost the knowledge of: so those that follow on one of its own begin
/// higher up, and what comes back is of before.
fn next_timeline(queue: &catalog::Queue, told: &Told, catalog_timeline: u64) -> u64 {
    let held = told.held.values().filter_map(|held| held.get(&queue.group.0));
    let terms = held.flat_map(|held| [held.term, held.last.as_ref().map_or(0, |last| last.term)]);
    let known = queue.timeline.max(catalog_timeline * TIMELINES_EACH);
    terms.map(timeline_of).fold(known, u64::max) + 1
}

/// The replica with the greatest (term, index), a voter rather than another, then the lowest node; 0 = none.
fn survivor(replicas: &[v1::SurvivingReplica]) -> u64 {
    let rank = |replica: &&v1::SurvivingReplica| {
        let last = replica.last.as_ref().map(|at| (at.term, at.index));
        (last, !replica.observer, std::cmp::Reverse(replica.node_id))
    };
    let with_something = replicas.iter().filter(|replica| replica.last.is_some());
    with_something.max_by_key(rank).map_or(0, |replica| replica.node_id)
}

/// Whether what is reached may elect a leader: by the voters that the catalog knows, and by those that the
/// replica with the most knows, which may be of before or after a move.
fn has_majority(queue: &catalog::Queue, holdings: &[(u64, &pb::Holding)]) -> bool {
    if holdings.iter().any(|(_, held)| held.serves && timeline_of(held.term) >= queue.timeline) {
        return true;
    }
    // One that has forgotten its log, or is of before a recovery, elects nobody. Nor does one of a later timeline
    // than the catalog knows: it is not started (`recovery::prepare`), and a recovery is the cure.
    let of_now =
        |held: &pb::Holding| held.last.is_some() && timeline_of(held.term) == queue.timeline;
    let there: BTreeSet<u64> =
        holdings.iter().filter(|(_, held)| of_now(held)).map(|(node, _)| *node).collect();
    let most = |voters: &[u64]| {
        voters.iter().filter(|node| there.contains(node)).count() * 2 > voters.len()
    };
    let known = holdings.iter().filter(|(_, held)| of_now(held) && !held.voters.is_empty());
    let last = known.max_by_key(|(_, held)| held.last.as_ref().map(|at| (at.term, at.index)));
    match last {
        // Both of the sets, while the voters are being changed.
        Some((_, held)) => held.voters.iter().all(|set| most(&set.nodes)),
        None => most(&queue.replicas.iter().map(|node| node.0).collect::<Vec<_>>()),
    }
}

#[cfg(test)]
mod tests {
    use quorate_machine::catalog::GroupId;

    use super::super::placed;
    use super::*;

    fn queue(replicas: &[u64]) -> catalog::Queue {
        placed(replicas, &[])
    }

    fn holding(last: Option<(u64, u64)>, voters: &[&[u64]]) -> pb::Holding {
        let term = last.map_or(0, |last| last.0);
        let last = last.map(|(term, index)| pb::LogId { term, index });
        let voters = voters.iter().map(|set| pb::Nodes { nodes: set.to_vec() }).collect();
        pb::Holding { group: 1, last, term, voters, ..Default::default() }
    }

    fn has(holdings: &[(u64, pb::Holding)]) -> bool {
        let holdings: Vec<(u64, &pb::Holding)> =
            holdings.iter().map(|(node, held)| (*node, held)).collect();
        has_majority(&queue(&[1, 2, 3]), &holdings)
    }

    #[test]
    fn what_is_reached_may_be_a_majority_by_the_members_of_now() {
        let at = |last, voters: &[&[u64]]| holding(Some(last), voters);
        let old: &[&[u64]] = &[&[1, 2, 3]];
        assert!(!has(&[(3, at((2, 9), old))]));
        assert!(has(&[(3, at((2, 9), old)), (2, at((2, 8), old))]));
        assert!(!has(&[(3, at((2, 9), old)), (2, holding(None, &[]))]), "it has nothing");
        // Moving to 3, 4, 5: a majority of either is needed.
        let joint: &[&[u64]] = &[&[1, 2, 3], &[3, 4, 5]];
        assert!(!has(&[(3, at((2, 9), joint)), (2, at((2, 8), old))]));
        assert!(has(&[(3, at((2, 9), joint)), (2, at((2, 8), old)), (4, at((2, 9), joint))]));
        // It has moved, and the catalog was not told yet.
        let new: &[&[u64]] = &[&[3, 4, 5]];
        assert!(has(&[(3, at((2, 9), new)), (4, at((2, 9), new))]));
        assert!(!has(&[(3, at((2, 9), new)), (2, at((2, 8), old)), (1, at((2, 8), old))]));
    }

    #[test]
    fn a_leader_that_a_majority_answers_is_enough() {
        let serving = pb::Holding { serves: true, ..holding(Some((2, 9)), &[&[1, 2, 3]]) };
        assert!(has(&[(3, serving)]));
    }

    #[test]
    fn replicas_of_a_later_timeline_than_the_catalog_knows_are_no_majority_and_are_gone_beyond() {
        let later = 3 << 32;
        let held = |at| holding(Some(at), &[&[1, 2, 3]]);
        assert!(!has(&[(2, held((later, 9))), (3, held((later, 9)))]), "they are not started");
        let mut told = Told::default();
        let next_timeline = |told: &Told| super::next_timeline(&queue(&[1, 2, 3]), told, 0);
        assert_eq!(next_timeline(&told), 1);
        let told_of = |node, held| (node, BTreeMap::from([(1, held)]));
        // One whose vote was not raised any more, and one that has forgotten all but its vote.
        let cut_off = pb::Holding { term: 2, ..held((later, 9)) };
        let voted = pb::Holding { term: (4 << 32) + 2, ..holding(None, &[]) };
        told.held.extend([told_of(2, cut_off)]);
        assert_eq!(next_timeline(&told), 4);
        told.held.extend([told_of(3, voted)]);
        assert_eq!(next_timeline(&told), 5);
    }

    #[test]
    fn one_that_heard_from_a_leader_lately_may_be_led_also_while_it_follows_none() {
        let mut told = Told::default();
        told.held.extend([1, 4].map(|node| (node, BTreeMap::new())));
        let held = |leader, heard_ms_ago, leader_reached| pb::Holding {
            leader,
            heard_ms_ago,
            leader_reached,
            ..Default::default()
        };
        let queue = queue(&[1, 2, 3]);
        let may = |held: pb::Holding| may_be_led(&queue, &held, 3_000, &told);
        assert!(may(held(2, Some(2_999), false)));
        assert!(may(held(0, Some(2_999), false)), "it stands for election, perhaps");
        assert!(!may(held(0, Some(3_000), false)));
        assert!(!may(held(0, None, false)));
        assert!(!may(held(1, Some(100), true)), "the leader speaks for itself");
        assert!(may(held(2, None, true)), "a parked leader is not heard");
        assert!(!may(held(2, None, false)));
        assert!(may(held(4, Some(100), true)), "it has moved there, and was not asked");
    }

    #[test]
    fn a_queue_that_has_got_to_where_it_was_to_be_is_not_as_it_was_looked_at() {
        let moving = catalog::Queue { is_moving: true, ..queue(&[1, 2, 3]) };
        assert!(is_placed_as(&moving, &moving));
        assert!(!is_placed_as(&moving, &queue(&[1, 2, 3])));
        let again = catalog::Queue { moved: moving.moved + 1, ..moving.clone() };
        assert!(!is_placed_as(&moving, &again));
        let deleted_and_made = catalog::Queue { group: GroupId(2), ..moving.clone() };
        assert!(!is_placed_as(&moving, &deleted_and_made));
    }

    #[test]
    fn a_survivor_with_less_than_was_shown_is_refused() {
        let at = |term, index| v1::LogPosition { group: 1, term, index };
        let replica = |node_id, last| v1::SurvivingReplica { node_id, last, ..Default::default() };
        let recovery = v1::QueueRecovery {
            survivor: 2,
            replicas: vec![replica(1, None), replica(2, Some(at(3, 70)))],
            ..Default::default()
        };
        let may =
            |term, index| expect_at_least(&queue(&[1, 2, 3]), &recovery, &at(term, index)).is_ok();
        assert!(may(3, 70) && may(3, 69) && may(2, 90));
        assert!(!may(3, 71) && !may(4, 1));
    }

    #[test]
    fn timelines_of_queues_after_a_recovery_of_the_catalog_are_beyond_all_from_before() {
        let mut queue = queue(&[1, 2, 3]);
        let told = Told::default();
        let of = |queue: &catalog::Queue, catalog| next_timeline(queue, &told, catalog);
        // The catalog that knew of the second and the third is lost.
        assert!((1..=3).all(|lost| of(&queue, 1) > lost));
        queue.timeline = of(&queue, 1);
        assert_eq!(of(&queue, 1), queue.timeline + 1);
        assert!(of(&queue, 2) > queue.timeline + 100);
    }

    #[test]
    fn the_replica_with_the_last_entry_of_the_latest_term_survives() {
        let replica = |node_id, last: Option<(u64, u64)>, observer| v1::SurvivingReplica {
            node_id,
            observer,
            reachable: true,
            last: last.map(|(term, index)| v1::LogPosition { group: 1, term, index }),
            ..Default::default()
        };
        let of = |replicas: &[v1::SurvivingReplica]| survivor(replicas);
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[replica(1, None, false)]), 0);
        let (long, late) = (replica(1, Some((2, 90)), false), replica(2, Some((3, 70)), true));
        assert_eq!(of(&[long, late]), 2, "the term counts first, observers too");
        let equal = replica(4, Some((2, 90)), true);
        assert_eq!(of(&[equal, long]), 1, "a voter rather");
    }
}
