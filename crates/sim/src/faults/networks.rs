//! Links that are cut, lose, or take long.

use std::time::Duration;

use madsim::rand::seq::SliceRandom;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;

use super::{Target, a_while};
use crate::events::Event;
use crate::world::LATENCY;

pub(super) async fn isolate(target: &Target, node: u64) {
    target.cluster.isolate(node);
    sleep(a_while(200..6_000)).await;
    target.cluster.rejoin(node);
}

pub(super) async fn one_way(target: &Target) {
    let mut nodes = target.cluster.nodes();
    nodes.shuffle(&mut thread_rng());
    target.cluster.cut_one_way(nodes[0], nodes[1]);
    sleep(a_while(200..6_000)).await;
    target.cluster.open_one_way(nodes[0], nodes[1]);
}

pub(super) async fn split(target: &Target) {
    let mut nodes = target.cluster.nodes();
    nodes.shuffle(&mut thread_rng());
    let at = thread_rng().gen_range(1..nodes.len());
    target.cluster.partition(&nodes[..at], &nodes[at..]);
    sleep(a_while(200..6_000)).await;
    target.cluster.unite(&nodes[..at], &nodes[at..]);
}

pub(super) async fn bridge(target: &Target) {
    let mut nodes = target.cluster.nodes();
    nodes.shuffle(&mut thread_rng());
    target.cluster.partition(&nodes[..1], &nodes[1..2]);
    sleep(a_while(200..6_000)).await;
    target.cluster.unite(&nodes[..1], &nodes[1..2]);
}

fn told(target: &Target, kind: &'static str, what: &str) {
    target.cluster.record().tell(Event::Fault { kind, what });
}

pub(super) async fn loss(target: &Target) {
    let rate = thread_rng().gen_range(0.01..0.3);
    told(target, "loss", &format!("{rate:.3}"));
    target.cluster.set_loss(rate);
    sleep(a_while(500..6_000)).await;
    target.cluster.set_loss(0.0);
}

pub(super) async fn delay(target: &Target) {
    let most = a_while(20..300);
    told(target, "delay", &format!("{most:?}"));
    target.cluster.set_latency(Duration::from_millis(1)..most);
    sleep(a_while(500..6_000)).await;
    target.cluster.set_latency(LATENCY);
}
