//! What a node does about queues that were recovered, here or without it.
//!
//! ```text
//!  catalog: timeline n, is recovering, [me]   stop ─► rewrite ─► start ─► it leads alone ─► tell the catalog
//!           timeline n, is recovering, other  stop, and keep everything: the survivor may be lost too
//!           timeline n, less than is stored   not started, and kept: the catalog is older than the replica
//!           timeline n                        stop ─► forget what is of before ─► start, if it is to be here
//! ```
//!
//! Each follows from what the catalog says and which timeline is stored, so a crash in between loses nothing
//! of it. Replicas of different timelines do not talk to each other, whatever their nodes know yet.

use quorate_group::recovery::{
    RecoverError, began_at, latest_timeline, leave_timeline, leave_timeline_at_start, stored,
    stored_timeline, take_over,
};
use quorate_machine::NodeId;
use quorate_machine::catalog::{self, GroupId};
use quorate_proto::internal as pb;

use crate::member::{CATALOG, Member};
use crate::moves;
use crate::reconciler::knows_all;

/// Stops replicas that are of before a recovery: they must not lead any longer.
pub(crate) async fn stop_outdated(member: &Member) {
    let recovered: Vec<(GroupId, u64)> = member.catalog.read(|catalog| {
        let recovered = catalog.queues().filter(|queue| queue.timeline > 0);
        recovered.map(|queue| (queue.group, queue.timeline)).collect()
    });
    for (group, timeline) in recovered {
        let Some(queue) = member.queues.get(group.0) else { continue };
        if queue.handle.replica().timeline() >= timeline {
            continue;
        }
        tracing::warn!(
            node = member.id(), queue = %queue.name, timeline,
            "was recovered: this replica is of before"
        );
        member.queues.remove(group.0);
        queue.handle.shutdown().await;
    }
}

/// Makes what is stored of a queue be of its timeline; whether its replica may be started.
pub(crate) async fn prepare(member: &Member, known: &catalog::Queue) -> Result<bool, String> {
    let group = known.group.0;
    let is_of = |queue: &catalog::Queue| {
        let stored = stored_timeline(&member.log, group);
        stored.unwrap_or(0) >= queue.timeline
    };
    // A rewriting that was cut off counts with the entry that it has made.
    let is_ahead_of =
        |queue: &catalog::Queue| latest_timeline(&member.log, group) > Some(queue.timeline);
    if is_of(known) && !is_ahead_of(known) {
        return Ok(true);
    }
    let survives = |queue: &catalog::Queue| queue.replicas == [NodeId(member.id())];
    if known.is_recovering && !survives(known) {
        return Ok(false);
    }
    // It may have been recovered elsewhere since, or be this node's again.
    if !knows_all(member).await {
        return Ok(false);
    }
    let Some(known) = member.catalog.read(|catalog| catalog.by_group(known.group).cloned()) else {
        return Ok(false);
    };
    let (node, timeline) = (member.id(), known.timeline);
    if is_ahead_of(&known) {
        if member.ahead.lock().expect("no panic while held").insert(group) {
            tracing::warn!(
                node, queue = %known.name, group, timeline,
                stored = latest_timeline(&member.log, group),
                "this node has a later timeline of the queue than the catalog knows, which was recovered from before, \
                 perhaps; it is kept and not started. Look at what the nodes have of it (`quorate queue describe`, \
                 `quorate log inspect`), then: `quorate cluster recover {}`",
                known.name,
            );
        }
        return Ok(false);
    }
    match known.is_recovering {
        _ if is_of(&known) => {}
        true if !survives(&known) => return Ok(false),
        true => {
            let taken = take_over(&member.log, &member.meta, node, group, timeline, None).await;
            match taken {
                Ok(position) => tracing::warn!(
                    node, queue = %known.name, timeline, index = position.index,
                    "takes the queue over with what this replica has"
                ),
                // Another replica has to be chosen; this node goes on.
                Err(error @ (RecoverError::Nothing { .. } | RecoverError::TooOften { .. })) => {
                    tracing::error!(node, queue = %known.name, %error, "take the queue over");
                    return Ok(false);
                }
                Err(error) => return Err(format!("take queue {} over: {error}", known.name)),
            }
        }
        false => {
            let left = leave_timeline(&member.log, &member.meta, node, group, timeline).await;
            left.map_err(|error| format!("let go of queue {}: {error}", known.name))?;
            tracing::warn!(
                node, queue = %known.name, timeline,
                "was recovered without this node: what it had of the queue is let go"
            );
        }
    }
    Ok(known.holders().any(|holder| holder.0 == node))
}

/// Tells the catalog of queues that this node has taken over.
pub(crate) async fn report(member: &Member) {
    let me = NodeId(member.id());
    let recovering: Vec<catalog::Queue> = member.catalog.read(|catalog| {
        let moving = catalog.moving().filter(|queue| queue.is_recovering);
        moving.filter(|queue| queue.replicas == [me]).cloned().collect()
    });
    for queue in recovering {
        let group = queue.group.0;
        if stored_timeline(&member.log, group) != Some(queue.timeline) {
            continue;
        }
        let Some(from) = began_at(&member.log, group) else { continue };
        if let Err(error) = moves::report(member, queue.group, queue.moved, Some(from)).await {
            tracing::debug!(queue = %queue.name, %error, "tell the catalog that a queue was taken over");
        }
    }
}

/// The catalog goes on without what this node has of it: that is forgotten at the next start, and why is told.
pub(crate) async fn take_catalog_anew(member: &Member, timeline: u64) -> String {
    match leave_timeline_at_start(&member.meta, CATALOG, timeline).await {
        Ok(()) => format!(
            "the catalog was recovered on another node, without what node {} had of it; start this node \
             again: it takes the catalog from there, and keeps of its queues what was not recovered",
            member.id()
        ),
        Err(error) => format!("let go of a catalog that was recovered elsewhere: {error}"),
    }
}

impl Member {
    /// What this node has of groups.
    pub(crate) async fn holdings_of(&self, groups: Vec<u64>) -> Vec<pb::Holding> {
        let mut holdings = Vec::with_capacity(groups.len());
        for group in groups {
            if stored_timeline(&self.log, group).is_none() {
                continue;
            }
            // What is wrong with one says nothing of the others.
            holdings.push(self.holding(group).await.unwrap_or_else(|error| {
                tracing::warn!(node = self.id(), group, error, "tell what this node has");
                pb::Holding { group, unreadable: true, ..Default::default() }
            }));
        }
        holdings
    }

    async fn holding(&self, group: u64) -> Result<pb::Holding, String> {
        let has = stored(&self.log, &self.meta, group).await;
        let has = has.map_err(|error| format!("read the replica of group {group}: {error}"))?;
        let running = self.queues.get(group);
        let handle = running.as_ref().map(|queue| &queue.handle);
        let messages = handle.map(|handle| {
            handle.read(|machine| {
                let stats = machine.stats();
                stats.ready + stats.leased + stats.delayed + stats.blocked + stats.dead
            })
        });
        let heard = handle.and_then(|handle| handle.heard_ago());
        let leader = handle.and_then(|handle| handle.leadership().leader).unwrap_or(0);
        let voters = has.members.map(|members| members.voters).unwrap_or_default();
        Ok(pb::Holding {
            group,
            last: has.last.map(|at| pb::LogId { term: at.term, index: at.index }),
            applied: handle.map_or(0, |handle| handle.replica().applied()),
            messages,
            heard_ms_ago: heard.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            leader,
            leader_reached: leader > 0 && self.is_there(NodeId(leader)),
            unreadable: false,
            term: has.term,
            led: handle.is_some_and(|handle| handle.leadership().leads),
            serves: running.as_ref().is_some_and(|queue| queue.serves()),
            voters: voters
                .into_iter()
                .map(|set| pb::Nodes { nodes: set.into_iter().collect() })
                .collect(),
        })
    }
}
