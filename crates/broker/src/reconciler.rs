//! Makes this node what the catalog says: starts replicas of queues that are placed on it, removes
//! those of deleted queues, keeps the address book; and, where the catalog is led, brings all
//! nodes into the catalog's own group.

use std::sync::Arc;
use std::time::Duration;

use quorate_group::{EffectsAt, Event, Handle, Spec, Timing};
use quorate_machine::catalog::{self, Catalog, GroupId};
use tokio::sync::mpsc;

use crate::config::RaftConfig;
use crate::member::{CATALOG, Member};
use crate::queue::{self, Queue};

/// The catalog is compared this often even if nothing changed.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// How long the other replicas of a new queue leave its preferred leader to begin.
const PREFERENCE: Duration = Duration::from_secs(2);
/// Voters of the catalog at most; further nodes follow it as learners.
const CATALOG_VOTERS_MAX: usize = 5;
const ADDRESS_PREFIX: &[u8] = b"address/";

pub(crate) fn timing(raft: &RaftConfig) -> Timing {
    Timing {
        heartbeat: Duration::from_millis(raft.heartbeat_ms.into()),
        election_timeout: Duration::from_millis(raft.election_timeout_ms.into()),
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
pub(crate) async fn run(member: Arc<Member>) {
    while !member.shutdown.is_said() {
        keep_addresses(&member);
        if let Err(reason) = keep_queues(&member).await {
            member.fail(reason);
            return;
        }
        keep_catalog_members(&member).await;
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = member.changed.notified() => {}
            () = tokio::time::sleep(COMPARE_EVERY) => {}
        }
    }
}

fn keep_addresses(member: &Member) {
    let nodes: Vec<(u64, String)> = member
        .catalog
        .read(|catalog| catalog.nodes().map(|node| (node.id.0, node.address.clone())).collect());
    for (node, address) in nodes.into_iter().filter(|(node, _)| *node != member.id()) {
        if member.addresses.get(node).as_ref() == Some(&address) {
            continue;
        }
        // Only a help at the next start; the catalog has it.
        if let Err(error) = member.meta.put(&address_key(node), address.as_bytes()) {
            tracing::warn!(%error, "keep a node's address");
        }
        member.addresses.set(node, address);
    }
}

/// Key of a node's address in the node's small state.
pub(crate) fn address_key(node: u64) -> Vec<u8> {
    [ADDRESS_PREFIX, &node.to_be_bytes()].concat()
}

/// The addresses that were kept, for a start before the catalog is there.
pub(crate) fn kept_addresses(meta: &dyn quorate_storage::Meta) -> Vec<(u64, String)> {
    let kept = meta.scan(ADDRESS_PREFIX).unwrap_or_default();
    kept.into_iter()
        .filter_map(|(key, value)| {
            let node = key.get(ADDRESS_PREFIX.len()..)?.try_into().ok().map(u64::from_be_bytes)?;
            Some((node, String::from_utf8(value.to_vec()).ok()?))
        })
        .collect()
}

async fn keep_queues(member: &Arc<Member>) -> Result<(), String> {
    let me = quorate_machine::NodeId(member.id());
    let here = member.queues.groups();
    let wanted: Vec<catalog::Queue> = member.catalog.read(|catalog| {
        let mine = catalog.queues().filter(|queue| queue.replicas.contains(&me));
        mine.filter(|queue| !here.contains(&queue.group.0)).cloned().collect()
    });
    for queue in wanted {
        let name = queue.name.clone();
        start(member, queue).await.map_err(|error| format!("start queue {name}: {error}"))?;
    }
    // Only what the catalog has known and removed: a group that it does not know yet is newer
    // than what this node has seen of it.
    let deleted =
        |group: &u64| member.catalog.read(|catalog: &Catalog| catalog.is_deleted(GroupId(*group)));
    for group in here.into_iter().filter(deleted) {
        if let Some(queue) = member.queues.remove(group) {
            tracing::info!(node = member.id(), queue = %queue.name, "deleted");
            let removed = queue.handle.remove().await;
            removed.map_err(|error| format!("remove queue {}: {error}", queue.name))?;
        }
    }
    Ok(())
}

async fn start(
    member: &Arc<Member>,
    known: catalog::Queue,
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
        effects: EffectsAt::Leader,
    };
    let (handle, events) = Handle::start(spec).await?;
    let queue = Arc::new(Queue::new(known.name.clone(), handle));
    tokio::spawn(queue::own(queue.clone(), events, Arc::downgrade(member)));
    member.queues.insert(group, queue.clone());
    if is_new {
        tokio::spawn(begin(member.clone(), queue, known));
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
        let seen = progress.iter().find(|seen| seen.node == node);
        let outcome = match seen {
            None => member.catalog.add_learner(node).await,
            Some(seen) if !seen.voter && seen.lag < CAUGHT_UP => {
                let voters = progress.iter().filter(|seen| seen.voter).count();
                if voters >= CATALOG_VOTERS_MAX {
                    continue;
                }
                member.catalog.promote(node).await
            }
            Some(_) => continue,
        };
        if let Err(error) = outcome {
            tracing::debug!(group = CATALOG, node, %error, "change the catalog's members");
        }
        // One change at a time; the next at the next comparison.
        return;
    }
}

/// A learner that lacks fewer entries is caught up.
const CAUGHT_UP: u64 = 100;
