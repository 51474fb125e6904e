//! Makes this node what the catalog says: starts replicas of queues that are placed on it, removes
//! those of deleted queues, keeps the address book; and, where the catalog is led, brings all
//! nodes into the catalog's own group.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use quorate_group::{EffectsAt, Event, Handle, Progress, Replica, Spec, Timing};
use quorate_machine::catalog::{self, Catalog, GroupId, RegisterNode};
use tokio::sync::mpsc;

use crate::config::RaftConfig;
use crate::leaders;
use crate::member::{CATALOG, COMMANDS_VERSION, Member};
use crate::peers::{Addresses, Pulse};
use crate::queue::{self, Queue};

/// The catalog is compared this often even if nothing changed.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Replicas that are started at a time: each reads its checkpoint and what follows it.
const STARTS_AT_A_TIME: usize = 32;
/// How long the other replicas of a new queue leave its preferred leader to begin.
const PREFERENCE: Duration = Duration::from_secs(2);
/// Longest wait for one change of the catalog's members.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);
/// Voters of the catalog at most; further nodes follow it as learners.
const CATALOG_VOTERS_MAX: usize = 5;
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
            Event::Effects { .. } => member.changed.notify_one(),
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
    while !member.shutdown.is_said() {
        keep_addresses(&member);
        if let Err(reason) = keep_queues(&member, &resting).await {
            member.fail(reason);
            return;
        }
        keep_catalog_members(&member).await;
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
            () = tokio::time::sleep(COMPARE_EVERY) => {}
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
        if let Err(error) = member.meta.put(&address_key(id), &value) {
            tracing::warn!(%error, "keep a node's address");
        }
        member.addresses.expect_incarnation(id, incarnation);
        member.addresses.set(id, node.address);
    }
}

/// Where the catalog is led: a node that was upgraded is registered with what it knows now, so that commands which
/// are new can be proposed once all know them.
async fn keep_versions(member: &Member) {
    if !member.catalog.leadership().leads {
        return;
    }
    let nodes: Vec<catalog::Node> =
        member.catalog.read(|catalog| catalog.nodes().cloned().collect());
    for node in nodes {
        let known = match node.id.0 {
            id if id == member.id() => COMMANDS_VERSION,
            id => member.versions.of(id).unwrap_or(0),
        };
        if known <= node.version {
            continue;
        }
        tracing::info!(node = node.id.0, from = node.version, to = known, "a node was upgraded");
        let catalog::Node { id, incarnation, address, zone, .. } = node;
        let version = known;
        let register = RegisterNode { id, incarnation, address, zone, version, replace: false };
        let proposed = member.propose_catalog(catalog::Command::RegisterNode(register));
        if !matches!(tokio::time::timeout(CHANGE_LIMIT, proposed).await, Ok(Ok(_))) {
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
    let me = quorate_machine::NodeId(member.id());
    let here = member.queues.groups();
    let wanted: Vec<catalog::Queue> = member.catalog.read(|catalog| {
        let mine = catalog.queues().filter(|queue| queue.replicas.contains(&me));
        mine.filter(|queue| !here.contains(&queue.group.0)).cloned().collect()
    });
    let mut starts = stream::iter(wanted)
        .map(|queue| async move {
            let name = queue.name.clone();
            let started = start(member, queue, resting).await;
            started.map_err(|error| format!("start queue {name}: {error}"))
        })
        .buffer_unordered(STARTS_AT_A_TIME);
    while let Some(started) = starts.next().await {
        started?;
    }
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
    Ok(())
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
        volumes: member.config.volumes,
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

/// Makes a new group exist. Every replica may do it, with the same voters; the preferred leader
/// does it at once, the others only if it does not.
async fn begin(member: Arc<Member>, queue: Arc<Queue>, known: catalog::Queue) {
    if known.preferred_leader.0 != member.id() {
        tokio::time::sleep(PREFERENCE).await;
        if queue.handle.leadership().leader.is_some() {
            return;
        }
    }
    let voters = known.replicas.iter().map(|node| node.0).collect();
    if let Err(error) = queue.handle.initialize(&voters).await {
        tracing::warn!(queue = %queue.name, %error, "begin the queue's group");
    }
}

async fn keep_catalog_members(member: &Member) {
    if !member.catalog.leadership().leads {
        return;
    }
    let nodes: Vec<u64> = member.catalog.read(|catalog| catalog.nodes().map(|n| n.id.0).collect());
    let progress = member.catalog.progress();
    for node in nodes {
        let reachable = node == member.id() || member.connections.reachable(node);
        let seen = progress.iter().find(|seen| seen.node == node);
        let outcome = match seen {
            None => tokio::time::timeout(CHANGE_LIMIT, member.catalog.add_learner(node)).await,
            // A voter that is not there would stop the catalog: it has to have answered.
            Some(seen) if !seen.voter && reachable && is_caught_up(seen) => {
                let voters = progress.iter().filter(|seen| seen.voter).count();
                if voters >= CATALOG_VOTERS_MAX {
                    continue;
                }
                tokio::time::timeout(CHANGE_LIMIT, member.catalog.promote(node)).await
            }
            Some(_) => continue,
        };
        match outcome {
            Ok(Ok(())) => tracing::info!(group = CATALOG, node, "changed the catalog's members"),
            Ok(Err(error)) => {
                tracing::debug!(group = CATALOG, node, %error, "change the catalog's members");
            }
            Err(_) => tracing::warn!(group = CATALOG, node, "the catalog's members change slowly"),
        }
        // One change at a time; the next at the next comparison.
        return;
    }
}

fn is_caught_up(seen: &Progress) -> bool {
    /// A learner that lacks fewer entries is caught up.
    const ENTRIES: u64 = 100;
    seen.matched.is_some() && seen.lag < ENTRIES
}
