//! The administrator of the workload: looks at queues and the cluster, and makes and removes queues
//! of its own.

use std::sync::Arc;
use std::time::Duration;

use madsim::rand::seq::SliceRandom;
use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, ConsumerControl, Consumers, PurgeBefore, QueueSettings};
use tokio::time::sleep;

use super::{Shared, habits};
use crate::events::Event;

pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    let mut made = 0;
    while !shared.is_quiet() {
        sleep(Duration::from_millis(thread_rng().gen_range(300..3_000))).await;
        match thread_rng().gen_range(0..if shared.load.habits { 23 } else { 14 }) {
            9..=11 if !shared.load.moves_leaders => {}
            0..=5 => count(&shared, &client).await,
            6 => drop(client.status().await),
            7 => drop(client.list_queues().await),
            8 => drop(client.replication(None).await),
            9 => transfer(&shared, &client).await,
            10 => drop(client.balance_leaders().await),
            11 => drain(&shared, &client).await,
            14..=16 => update(&shared, &client).await,
            17..=19 => purge(&shared, &client).await,
            20..=22 => control(&shared, &client).await,
            _ => {
                made += 1;
                short_lived(&client, &format!("short-{made}")).await;
            }
        }
    }
    // Whoever paused a queue may be gone, and a call that was held up may pause it now.
    loop {
        for queue in shared.queues.iter().filter(|_| shared.load.habits) {
            let resume = ConsumerControl::Resume;
            let _ = client.control_consumers(queue.name.as_str(), Consumers::All, resume).await;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn count(shared: &Shared, client: &Client) {
    for queue in &shared.queues {
        let described = client.describe_queue(queue.name.as_str()).await;
        if let Some(counts) = described.ok().and_then(|description| description.counts) {
            let group = queue.group;
            shared.cluster.record().tell(Event::Counted { group, counts: &counts });
        }
    }
}

/// Changes a setting of a queue while it is used.
async fn update(shared: &Shared, client: &Client) {
    let queue = &shared.queues[thread_rng().gen_range(0..shared.queues.len())];
    let (settings, fields) = habits::random_update();
    let name = queue.name.as_str();
    let updated = client.update_queue(name, settings, &fields, false).await;
    let what = match updated {
        Ok(updated) => format!("updated {name}: {:?}", updated.changed),
        Err(error) => format!("not updated {name}: {error}"),
    };
    shared.cluster.record().tell(Event::Note(&what));
}

/// Drops the first messages of a queue that is purged now and then.
async fn purge(shared: &Shared, client: &Client) {
    let purged: Vec<_> = shared.queues.iter().filter(|queue| queue.habits.purged).collect();
    let Some(queue) = purged.choose(&mut thread_rng()) else { return };
    let name = queue.name.as_str();
    let counts = client.describe_queue(name).await.ok().and_then(|description| description.counts);
    let Some(counts) = counts else { return };
    let offset = thread_rng().gen_range(counts.first_offset..=counts.next_offset);
    let purged = client.purge_queue_before(name, PurgeBefore::Offset(offset)).await;
    let what = format!("purged {name} before {offset}: {:?}", purged.ok());
    shared.cluster.record().tell(Event::Note(&what));
}

/// All consumers of a queue wait for a while, or have to begin anew.
async fn control(shared: &Shared, client: &Client) {
    let queue = &shared.queues[thread_rng().gen_range(0..shared.queues.len())];
    let control = |what| client.control_consumers(queue.name.as_str(), Consumers::All, what);
    if thread_rng().gen_bool(0.4) {
        let kicked = control(ConsumerControl::Kick).await;
        let what = format!("kicked all of {}: {:?}", queue.name, kicked.ok());
        return shared.cluster.record().tell(Event::Note(&what));
    }
    // Also if the answer was lost.
    let paused = control(ConsumerControl::Pause).await;
    let what = format!("paused all of {}: {:?}", queue.name, paused.ok());
    shared.cluster.record().tell(Event::Note(&what));
    sleep(Duration::from_millis(thread_rng().gen_range(50..2_000))).await;
    while control(ConsumerControl::Resume).await.is_err() && !shared.is_quiet() {
        sleep(Duration::from_millis(200)).await;
    }
}

/// A random queue to a random node, which may refuse.
async fn transfer(shared: &Shared, client: &Client) {
    let queue = &shared.queues[thread_rng().gen_range(0..shared.queues.len())];
    let to = thread_rng().gen_bool(0.7).then(|| thread_rng().gen_range(1..=3));
    let _ = client.transfer_leader(queue.name.as_str(), to).await;
}

/// A node leads nothing for a while; one whose drain is not taken back leads when it must.
async fn drain(shared: &Shared, client: &Client) {
    let node = thread_rng().gen_range(1..=3);
    if client.drain_node(node, true).await.is_ok() {
        shared.cluster.record().tell(Event::Note("a node is drained"));
        sleep(Duration::from_millis(thread_rng().gen_range(200..4_000))).await;
        let _ = client.drain_node(node, false).await;
    }
}

/// Whatever fails in the middle is left behind: it disturbs nobody.
async fn short_lived(client: &Client, name: &str) {
    let settings = QueueSettings { replicas: 3, ..QueueSettings::default() };
    if client.create_queue(name, settings).await.is_err() {
        return;
    }
    if let Ok(producer) = client.producer(name).deadline(Duration::from_secs(3)).build().await {
        // The invariants know messages of the workload alone.
        let _ = producer.flush().await;
    }
    sleep(Duration::from_millis(thread_rng().gen_range(0..800))).await;
    let _ = client.delete_queue(name, false).await;
}
