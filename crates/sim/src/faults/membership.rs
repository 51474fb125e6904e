//! Nodes that join and leave, and queues that move, while other things happen.

use std::time::Duration;

use madsim::rand::seq::SliceRandom;
use madsim::rand::{Rng, thread_rng};
use quorate_client::{ChangeReplicasRequest, Client};
use tokio::time::timeout;

use super::Target;
use crate::events::Event;
use crate::world::Cluster;

/// Most nodes of a simulated cluster.
const NODES_MAX: usize = 6;
/// Longest wait for a change to be taken.
const LIMIT: Duration = Duration::from_secs(8);

pub(super) async fn join(target: &Target) {
    if target.cluster.nodes().len() >= NODES_MAX {
        return;
    }
    let outcome = match timeout(LIMIT, target.cluster.join()).await {
        Ok(Ok(node)) => format!("node {node} has joined"),
        Ok(Err(reason)) => format!("a node could not join: {reason}"),
        Err(_) => "a node could not join in time".to_owned(),
    };
    target.cluster.record().tell(Event::Note(&outcome));
}

/// A random queue to random nodes: one, three or five that vote, and maybe one that does not.
pub(super) async fn move_queue(target: &Target) {
    let group = *target.groups.choose(&mut thread_rng()).unwrap_or(&0);
    let mut nodes = target.cluster.nodes();
    nodes.shuffle(&mut thread_rng());
    let voters = *[1, 3, 3, 3, 5].choose(&mut thread_rng()).expect("some");
    let observers = thread_rng().gen_range(0..=1);
    if group == 0 || nodes.len() < voters + observers {
        return;
    }
    let (voting, others) = nodes.split_at(voters);
    let (observing, others) = others.split_at(observers);
    let change = ChangeReplicasRequest {
        voters: voting.to_vec(),
        observers: observing.to_vec(),
        remove: others.to_vec(),
        ..Default::default()
    };
    place(&target.cluster, group, change).await;
}

/// Changes the replicas of a queue; of those to be removed, the nodes that hold it.
pub(crate) async fn place(cluster: &Cluster, group: u64, mut change: ChangeReplicasRequest) {
    ask(cluster, "a queue moves", move |client| async move {
        let queues = client.list_queues().await.map_err(|error| error.to_string())?;
        let queue = queues.into_iter().find(|queue| queue.group_id == group).ok_or("not there")?;
        change.remove.retain(|node| queue.replicas.iter().any(|held| held.node_id == *node));
        let what =
            format!("{} to {:?}, observed by {:?}", queue.name, change.voters, change.observers);
        let changed = client.change_replicas(queue.name, change).await;
        changed.map(|_| what).map_err(|error| error.to_string())
    })
    .await;
}

/// A random node, which may be refused: the queues need a place.
pub(super) async fn leave(target: &Target) {
    let node = target.any();
    ask(&target.cluster, "a node leaves", move |client| async move {
        let left = client.remove_node(node).await.map_err(|error| error.to_string())?;
        Ok(format!("node {node}, which holds {left} replicas"))
    })
    .await;
}

async fn ask<F>(cluster: &Cluster, what: &str, ask: impl FnOnce(Client) -> F + Send + 'static)
where
    F: Future<Output = Result<String, String>> + Send + 'static,
{
    let machine = cluster.client_machine("operator");
    let servers = cluster.addresses();
    let asked = machine.spawn(async move {
        let client = Client::connect(servers).await.map_err(|error| error.to_string())?;
        ask(client).await
    });
    let outcome = match timeout(LIMIT, asked).await {
        Ok(Ok(Ok(done))) => format!("{what}: {done}"),
        Ok(Ok(Err(reason))) => format!("{what}: refused: {reason}"),
        Ok(Err(error)) => format!("{what}: {error}"),
        Err(_) => format!("{what}: no answer in time"),
    };
    cluster.record().tell(Event::Note(&outcome));
}

/// Waits until all of this has come to its end: nothing moves, nobody leaves. Tells how many replicas each
/// group has then.
pub(crate) async fn settled(
    cluster: &Cluster,
    groups: &[u64],
    limit: Duration,
) -> Result<Vec<(u64, usize)>, String> {
    let machine = cluster.client_machine("operator");
    let (asked, groups) = (cluster.clone(), groups.to_vec());
    let settling = machine.spawn(async move {
        let begun = tokio::time::Instant::now();
        loop {
            let unsettled = match look(&asked, &groups).await {
                Ok(replicas) => return Ok(replicas),
                Err(unsettled) => unsettled,
            };
            if begun.elapsed() > limit {
                return Err(format!("liveness: {unsettled}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    settling.await.map_err(|error| error.to_string())?
}

async fn look(cluster: &Cluster, groups: &[u64]) -> Result<Vec<(u64, usize)>, String> {
    let text = |error: quorate_client::Error| error.to_string();
    let client = Client::connect(cluster.addresses()).await.map_err(|error| error.to_string())?;
    let status = client.status().await.map_err(text)?;
    if let Some(leaving) = status.nodes.iter().find(|node| node.leaving) {
        // Where it could go may have left as well.
        client.drain_node(leaving.node_id, false).await.map_err(text)?;
        return Err(format!("node {} is leaving", leaving.node_id));
    }
    let removed = |node: &u64| status.nodes.iter().all(|known| known.node_id != *node);
    cluster.nodes().into_iter().filter(removed).for_each(|node| cluster.retire(node));
    // One that was registered and never started has none.
    let mut replicas = vec![(0, cluster.nodes().len())];
    for queue in client.list_queues().await.map_err(text)? {
        if !groups.contains(&queue.group_id) {
            continue;
        }
        let described = client.describe_queue(queue.name.as_str()).await.map_err(text)?;
        if described.moving {
            return Err(format!("{} moves still: {:?}", queue.name, described.replicas));
        }
        replicas.push((queue.group_id, described.replicas.len()));
    }
    Ok(replicas)
}
