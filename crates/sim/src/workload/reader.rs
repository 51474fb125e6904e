//! Readers of the workload: some look at how far a queue is, within a bound on staleness; some follow it
//! from an offset on. What they are shown and told is for the invariants to judge.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, ReaderBuilder};
use tokio::time::{Instant, sleep, timeout};

use super::{Queue, Shared, body};
use crate::events::Event;

pub(super) async fn run(shared: Arc<Shared>, client: Client, queue: Queue) {
    while !shared.is_draining() {
        sleep(shared.load.reader_pause.mul_f64(thread_rng().gen_range(0.0..2.0))).await;
        let bound = match thread_rng().gen_bool(0.3) {
            true => None,
            false => Some(Duration::from_millis(thread_rng().gen_range(20..2_000))),
        };
        let reader = client.reader(queue.name.as_str());
        let reader = match bound {
            Some(bound) => reader.max_staleness(bound),
            None => reader.linearizable(),
        };
        match thread_rng().gen_bool(0.6) {
            true => look(&shared, queue.group, bound, reader).await,
            false => follow(&shared, queue.group, reader).await,
        }
    }
}

/// Looks once at how far the queue is.
async fn look(shared: &Shared, group: u64, bound: Option<Duration>, reader: ReaderBuilder) {
    let mut reader = reader.from_next().build();
    // The SDK may try several replicas, so that the one that answers was asked later: all the better.
    let asked = Instant::now();
    let Some(Err(_)) = reader.next().await else {
        let position = reader.position();
        let looked = Event::Looked { group, asked, bound, position: &position };
        return shared.cluster.record().tell(looked);
    };
}

async fn follow(shared: &Shared, group: u64, reader: ReaderBuilder) {
    let number = shared.next_reader();
    let mut reader = match thread_rng().gen_bool(0.5) {
        true => reader.from_next(),
        false => reader,
    }
    .follow()
    .build();
    let enough = thread_rng().gen_range(1..300);
    for _ in 0..enough {
        let next = timeout(Duration::from_secs(3), reader.next()).await;
        let Ok(Some(Ok(message))) = next else { return };
        let (offset, id) = (message.offset, body::read(&message.body));
        shared.cluster.record().tell(Event::Read { group, reader: number, offset, id, slot: None });
    }
}
