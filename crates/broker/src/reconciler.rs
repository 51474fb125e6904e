//! Makes this node what the catalog says: starts replicas of queues that are placed on it, removes
//! those of queues that were deleted or have moved away, and keeps the address book.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use quorate_group::recovery::latest_timeline;
use quorate_group::{EffectsAt, Event, Handle, Replica, Spec, Timing};
use quorate_machine::NodeId;
use quorate_machine::catalog::{self, Catalog, GroupId, QueueName, RegisterNode};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::RaftConfig;
use crate::leaders;
use crate::member::{COMMANDS_VERSION, Member};
use crate::peers::{Addresses, Pulse};
use crate::queue::{self, Queue, renew_settings};
use crate::recovery;

/// The catalog is compared this often even if nothing changed.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Replicas that are started at a time: each reads its checkpoint and what follows it.
const STARTS_AT_A_TIME: usize = 32;
/// How long the other replicas of a new queue leave its preferred leader to begin.
const PREFERENCE: Duration = Duration::from_secs(2);
/// Longest wait for the catalog: for what its leader knows, or for one change.
const CATALOG_LIMIT: Duration = Duration::from_secs(2);
/// Pause before a node that has just started asks for the catalog's leader again: its queues wait for that.
const INFORMED_EVERY: Duration = Duration::from_millis(20);
/// How long that node waits for the first answer; each time twice as long as before.
const INFORMED_FIRST: Duration = Duration::from_millis(100);
/// Pause before the catalog's leader is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const ADDRESS_PREFIX: &[u8] = b"address/";

pub(crate) fn timing(raft: &RaftConfig) -> Timing {
    Timing {
        heartbeat: Duration::from_millis(raft.heartbeat_ms.into()),
        election_timeout: Duration::from_millis(raft.election_timeout_ms.into()),
        park_after: (raft.park_after_ms > 0)
            .then(|| Duration::from_millis(raft.park_after_ms.into())),
    }
}

/// How this node and others keep hearing of each other.
pub(crate) fn pulse(raft: &RaftConfig) -> Pulse {
    Pulse {
        beat: Duration::from_millis(raft.heartbeat_ms.into()),
        silence: Duration::from_millis(raft.election_timeout_ms.into()),
    }
}

/// Owns the catalog's events.
pub(crate) async fn own_catalog(
    member: Arc<Member>,
    mut events: mpsc::UnboundedReceiver<Event<catalog::Effect>>,
) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Effects { .. } | Event::Restored => member.changed.notify_one(),
            Event::Leading { term } => {
                tracing::info!(node = member.id(), term, "leads the catalog");
                member.changed.notify_one();
            }
            Event::Following => tracing::info!(node = member.id(), "leads the catalog no more"),
            Event::Failed(reason) => member.fail(format!("catalog: {reason}")),
        }
    }
}

/// Compares until the node ends.
///
/// `resting` gets each replica that was opened with a history, and has no leader yet.
pub(crate) async fn run(member: Arc<Member>, resting: mpsc::UnboundedSender<Replica>) {
    let mut is_informed = false;
    let mut patience = INFORMED_FIRST;
    while !member.shutdown.is_said() {
        keep_addresses(&member);
        if let Some(timeline) = member.catalog.replica().superseded() {
            member.fail(recovery::take_catalog_anew(&member, timeline).await);
            return;
        }
        // A queue may have been recovered without this node while that did not run: what it has of it must not be
        // led by what it knew then.
        if !is_informed {
            // The leader that it knew when it ended may be gone: then a call to it is not answered.
            is_informed = knows_all_within(&member, patience).await;
            patience = (patience * 2).min(CATALOG_LIMIT);
        }
        if is_informed && let Err(reason) = keep_queues(&member, &resting).await {
            member.fail(reason);
            return;
        }
        if member.catalog.read(|catalog| catalog.is_removed(NodeId(member.id()))) {
            member.fail(removed(member.id()));
            return;
        }
        renew_settings(&member);
        keep_versions(&member).await;
        if member.is_draining(member.id()) {
            // What takes longer goes on at the next comparison.
            let handing = leaders::hand_over(&member, false);
            let _ = tokio::time::timeout(leaders::HAND_OVER, handing).await;
        }
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = member.changed.notified() => {}
            () = tokio::time::sleep(if is_informed { COMPARE_EVERY } else { INFORMED_EVERY }) => {}
        }
    }
}

fn keep_addresses(member: &Member) {
    let nodes: Vec<catalog::Node> =
        member.catalog.read(|catalog| catalog.nodes().cloned().collect());
    for node in nodes.into_iter().filter(|node| node.id.0 != member.id()) {
        let (id, incarnation) = (node.id.0, node.incarnation as u64);
        // Whether it is there is told by its connection, which begins here.
        let _ = member.connections.reachable(id);
        let known = member.addresses.incarnation(id) == Some(incarnation);
        if known && member.addresses.get(id).as_ref() == Some(&node.address) {
            continue;
        }
        // Only a help at the next start; the catalog has it.
        let value = kept_address(Some(incarnation), &node.address);
        if let Err(error) = member.meta.put(&address_key(id), &[&value]) {
            tracing::warn!(%error, "keep a node's address");
        }
        member.addresses.expect_incarnation(id, incarnation);
        member.addresses.set(id, node.address);
    }
}

/// Where the catalog is led: a node that was upgraded, or went back, is registered with what it knows now, so that
/// commands which are new are proposed only when all know them.
async fn keep_versions(member: &Member) {
    if !member.catalog.leadership().leads {
        return;
    }
    let nodes: Vec<catalog::Node> =
        member.catalog.read(|catalog| catalog.nodes().cloned().collect());
    for node in nodes {
        let known = match node.id.0 {
            id if id == member.id() => COMMANDS_VERSION,
            // One that was not heard of is what it was.
            id => member.versions.of(id).unwrap_or(node.version),
        };
        if known == node.version {
            continue;
        }
        tracing::info!(
            node = node.id.0,
            from = node.version,
            to = known,
            "a node runs another version"
        );
        let catalog::Node { id, incarnation, address, zone, .. } = node;
        let version = known;
        let register = RegisterNode { id, incarnation, address, zone, version, replace: false };
        let proposed = member.propose_catalog(catalog::Command::RegisterNode(register));
        if !matches!(tokio::time::timeout(CATALOG_LIMIT, proposed).await, Ok(Ok(_))) {
            // Tried again at the next comparison.
            return;
        }
    }
}

/// Key of a node's address in the node's small state.
pub(crate) fn address_key(node: u64) -> Vec<u8> {
    [ADDRESS_PREFIX, &node.to_be_bytes()].concat()
}

/// Value of a node's address: its incarnation (0 = not known), then the address.
pub(crate) fn kept_address(incarnation: Option<u64>, address: &str) -> Vec<u8> {
    [&incarnation.unwrap_or(0).to_be_bytes(), address.as_bytes()].concat()
}

/// Takes in the addresses that were kept, for a start before the catalog is there.
pub(crate) fn restore_addresses(
    meta: &dyn quorate_storage::Meta,
    addresses: &Addresses,
) -> Result<(), quorate_storage::MetaError> {
    for (key, value) in meta.scan(ADDRESS_PREFIX)? {
        let node = key.get(ADDRESS_PREFIX.len()..).and_then(|node| node.try_into().ok());
        let Some((incarnation, address)) = value.split_first_chunk::<8>() else { continue };
        let (Some(node), Ok(address)) = (node.map(u64::from_be_bytes), str::from_utf8(address))
        else {
            continue;
        };
        match u64::from_be_bytes(*incarnation) {
            0 => {}
            incarnation => addresses.expect_incarnation(node, incarnation),
        }
        addresses.set(node, address);
    }
    Ok(())
}

async fn keep_queues(
    member: &Arc<Member>,
    resting: &mpsc::UnboundedSender<Replica>,
) -> Result<(), String> {
    let me = NodeId(member.id());
    recovery::stop_outdated(member).await;
    let here = member.queues.groups();
    let wanted: Vec<catalog::Queue> = member.catalog.read(|catalog| {
        let mine = catalog.queues().filter(|queue| queue.holders().any(|node| node == me));
        mine.filter(|queue| !here.contains(&queue.group.0)).cloned().collect()
    });
    let mut starts = stream::iter(wanted)
        .map(|queue| async move {
            let name = queue.name.clone();
            if !recovery::prepare(member, &queue).await? {
                return Ok(());
            }
            let started = start(member, queue, resting).await;
            started.map_err(|error| format!("start queue {name}: {error}"))
        })
        .buffer_unordered(STARTS_AT_A_TIME);
    while let Some(started) = starts.next().await {
        started?;
    }
    // With what was just started: such a queue may have been deleted meanwhile, and what is left of it must not be
    // removed from under its replica.
    let here = member.queues.groups();
    // Only what the catalog has known and removed: a group that it does not know yet is newer
    // than what this node has seen of it.
    let deleted =
        |group: &u64| member.catalog.read(|catalog: &Catalog| catalog.is_deleted(GroupId(*group)));
    for group in here.iter().copied().filter(deleted) {
        if let Some(queue) = member.queues.remove(group) {
            tracing::info!(node = member.id(), queue = %queue.name, "deleted");
            let removed = queue.handle.remove().await;
            removed.map_err(|error| format!("remove queue {}: {error}", queue.name))?;
        }
    }
    // What was deleted while this node was down, or half removed when it ended.
    let stored = quorate_group::stored_groups(&member.log);
    for group in stored.into_iter().filter(|group| !here.contains(group) && deleted(group)) {
        tracing::info!(node = member.id(), group, "remove what is left of a deleted queue");
        let removed = quorate_group::forget(&member.log, &member.meta, group).await;
        removed.map_err(|error| format!("remove group {group}: {error}"))?;
    }
    recovery::report(member).await;
    leave_queues(member).await
}

/// Lets go of the replicas of queues that have moved away.
async fn leave_queues(member: &Member) -> Result<(), String> {
    let me = NodeId(member.id());
    let stored = quorate_group::stored_groups(&member.log);
    let moved_away = |groups: &BTreeSet<u64>| -> Vec<(u64, QueueName)> {
        member.catalog.read(|catalog| {
            let known = groups.iter().filter_map(|group| catalog.by_group(GroupId(*group)));
            let away = known.filter(|queue| queue.holders().all(|node| node != me));
            // A replica of a later timeline than this catalog knows was moved by a later one: it is kept.
            let away = away.filter(|queue| {
                latest_timeline(&member.log, queue.group.0) <= Some(queue.timeline)
            });
            away.map(|queue| (queue.group.0, queue.name.clone())).collect()
        })
    };
    let may_be_needed = |group: u64| {
        member.catalog.read(|catalog: &Catalog| {
            let known = catalog.by_group(GroupId(group));
            known.is_some_and(|queue| catalog.may_have_moved(queue))
        })
    };
    let is_kept = |group: u64| {
        let told = member.kept.lock().expect("no panic while held").contains(&group);
        told && may_be_needed(group)
    };
    for (group, name) in moved_away(&stored) {
        // That was looked at before, and does not change until this node is told so.
        if is_kept(group) {
            continue;
        }
        let running = member.queues.remove(group);
        if let Some(queue) = &running {
            // It takes part in nothing any more from here on: what is looked at next stays true of it.
            queue.handle.shutdown().await;
        } else if !quorate_group::has_more_than_vote(&member.log, group) {
            continue;
        }
        // What this node knows may be of before the queue came here a second time: then it is started again.
        if !knows_all(member).await {
            break;
        }
        if moved_away(&BTreeSet::from([group])).is_empty() {
            continue;
        }
        // It may be here that it had moved to, in what the catalog has lost: then this is the only good copy.
        if may_be_needed(group) {
            keep(member, group, &name);
            continue;
        }
        tracing::info!(node = member.id(), queue = %name, "has moved away");
        let left = match running {
            Some(queue) => queue.handle.leave().await,
            None => quorate_group::leave(&member.log, &member.meta, member.id(), group).await,
        };
        left.map_err(|error| format!("let go of queue {name}: {error}"))?;
    }
    Ok(())
}

/// Says once that what this node has of a queue is kept, although the catalog places that elsewhere.
fn keep(member: &Member, group: u64, name: &QueueName) {
    if member.kept.lock().expect("no panic while held").insert(group) {
        tracing::warn!(
            node = member.id(), queue = %name, group,
            "the catalog was recovered, and places this queue on other nodes as it did before: what this node has of \
             it is kept and not started. Look at it (`quorate log inspect`), and let go of it by moving or deleting \
             the queue"
        );
    }
}

/// Whether this node has applied all that the catalog's leader had when it was asked.
pub(crate) async fn knows_all(member: &Member) -> bool {
    knows_all_within(member, CATALOG_LIMIT).await
}

async fn knows_all_within(member: &Member, limit: Duration) -> bool {
    let asked = member.catalog.complete_as_of(Instant::now());
    matches!(tokio::time::timeout(limit, asked).await, Ok(Ok(_)))
}

/// What a node says that finds itself removed.
pub(crate) fn removed(node: u64) -> String {
    format!(
        "node {node} was removed from the cluster; all that it held is on other nodes, and its data \
         directory can be deleted. To take this machine in again, let it join as a new node: \
         `quorate cluster join`"
    )
}

async fn start(
    member: &Arc<Member>,
    known: catalog::Queue,
    resting: &mpsc::UnboundedSender<Replica>,
) -> Result<(), quorate_group::StartError> {
    let group = known.group.0;
    let is_new = member.log.state(quorate_storage::GroupId(group)).is_none();
    let spec = Spec {
        group,
        node: member.id(),
        log: member.log.clone(),
        meta: member.meta.clone(),
        peers: Arc::new(member.connections.clone()),
        timing: timing(&member.config.raft),
        volumes: member.config.volumes(),
        effects: EffectsAt::Leader,
        rests: !is_new,
    };
    let (handle, events) = Handle::start(spec).await?;
    let queue = Arc::new(Queue::new(known.name.clone(), handle));
    tokio::spawn(queue::own(queue.clone(), events, Arc::downgrade(member)));
    member.queues.insert(group, queue.clone());
    if is_new {
        tokio::spawn(begin(member.clone(), queue, known));
    } else {
        let _ = resting.send(queue.handle.replica().clone());
    }
    Ok(())
}

/// Makes a new group exist. Every replica that the queue was created on may do it, with the same voters; the
/// preferred leader does it at once, the others only if it does not. Never once the queue has moved: it has a
/// history then, and this node gets it from the leader.
async fn begin(member: Arc<Member>, queue: Arc<Queue>, known: catalog::Queue) {
    if known.preferred_leader.0 != member.id() {
        tokio::time::sleep(PREFERENCE).await;
        if queue.handle.leadership().leader.is_some() {
            return;
        }
    }
    let voters = loop {
        // A queue that was moved while this node was away looks new from where it left off.
        if knows_all(&member).await {
            let me = NodeId(member.id());
            let founders = member.catalog.read(|catalog| {
                let queue = catalog.by_group(known.group).filter(|queue| queue.moved == 0);
                queue.filter(|queue| queue.replicas.contains(&me)).map(|q| q.replicas.clone())
            });
            let Some(founders) = founders else { return };
            break founders.iter().map(|node| node.0).collect();
        }
        if member.shutdown.is_said() || queue.handle.leadership().leader.is_some() {
            return;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    if let Err(error) = queue.handle.initialize(&voters).await {
        tracing::warn!(queue = %queue.name, %error, "begin the queue's group");
    }
}
