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

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_group::recovery::{
    RecoverError, began_at, latest_timeline, leave_timeline, leave_timeline_at_start, stored,
    stored_timeline, take_over, timeline_of,
};
use quorate_machine::NodeId;
use quorate_machine::catalog::{self, GroupId};
use quorate_proto::internal as pb;

use crate::member::{CATALOG, Member};
use crate::moves;
use crate::peers::{Addresses, Connections, REACHABLE_WITHIN};
use crate::reconciler::knows_all;

/// How long a start waits for a leader of the catalog that this node's own one is to be let go for: all may have been
/// started at the same time.
const LED_WAIT: Duration = Duration::from_secs(20);
/// Pause before the other nodes are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// How long a node may take to tell whether the catalog is led.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

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
        // Another task may have stopped it already.
        if let Some(queue) = member.queues.remove(group.0) {
            queue.handle.shutdown().await;
        }
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

/// The catalog goes on without what this node has of it: that is forgotten at the next start, if there is a leader of
/// the other still, and why is told.
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

/// Whether some node follows a leader of the catalog in this timeline or a later one, which proved itself just now. Not
/// before that may be let go what this node has: it may be all that is left.
pub(crate) async fn is_catalog_led(
    connections: &Connections,
    addresses: &Addresses,
    hello: &pb::Hello,
    timeline: u64,
) -> bool {
    let asking = async {
        loop {
            let others = addresses.all().into_keys().filter(|node| *node != hello.node_id);
            let mut asked: FuturesUnordered<_> =
                others.map(|node| knows_led_catalog(connections, hello, node, timeline)).collect();
            while let Some(is_led) = asked.next().await {
                if is_led {
                    return;
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::time::timeout(LED_WAIT, asking).await.is_ok()
}

async fn knows_led_catalog(
    connections: &Connections,
    hello: &pb::Hello,
    node: u64,
    timeline: u64,
) -> bool {
    let Ok(channel) = connections.channel(node) else { return false };
    let mut client = pb::peer_client::PeerClient::new(channel);
    let request = pb::HoldingsRequest { hello: Some(hello.clone()), groups: vec![CATALOG] };
    let answer = tokio::time::timeout(ANSWER_WAIT, client.holdings(request)).await;
    let Ok(Ok(told)) = answer else { return false };
    let mut replicas = told.into_inner().replicas.into_iter();
    replicas.any(|held| held.group == CATALOG && held.serves && timeline_of(held.term) >= timeline)
}

impl Member {
    /// The other nodes that this one reaches, or was reached by a moment ago.
    pub(crate) fn reached(&self) -> Vec<u64> {
        let nodes: Vec<NodeId> =
            self.catalog.read(|catalog| catalog.nodes().map(|node| node.id).collect());
        let others = nodes.into_iter().filter(|node| node.0 != self.id());
        let came = |node: u64| {
            self.versions.said_ago(node).is_some_and(|said_ago| said_ago <= REACHABLE_WITHIN)
        };
        others.filter(|node| self.is_there(*node) || came(node.0)).map(|node| node.0).collect()
    }

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
        let serves = match group {
            // Of the catalog it is asked whether it has a leader, wherever that is.
            CATALOG => knows_all(self).await,
            _ => running.as_ref().is_some_and(|queue| queue.serves()),
        };
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
            serves,
            voters: voters
                .into_iter()
                .map(|set| pb::Nodes { nodes: set.into_iter().collect() })
                .collect(),
        })
    }
}
