//! Processes that are killed, stopped, restarted; machines that lose their power.

use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;

use super::{Target, a_while};
use crate::world::Status;

async fn back_after_a_while(target: &Target, nodes: Vec<u64>) {
    for node in nodes {
        sleep(a_while(50..1_500)).await;
        if target.cluster.status(node) == Status::Down {
            target.cluster.start_again(node);
        }
    }
}

pub(super) async fn kill(target: &Target, nodes: Vec<u64>) {
    for node in &nodes {
        target.cluster.kill(*node);
        if thread_rng().gen_bool(0.3) {
            sleep(a_while(1..300)).await;
        }
    }
    back_after_a_while(target, nodes).await;
}

pub(super) async fn lose_power(target: &Target, nodes: Vec<u64>) {
    if thread_rng().gen_bool(0.7) {
        target.cluster.lose_power_in_a_write(&nodes).await;
    } else {
        for node in &nodes {
            target.cluster.lose_power(*node);
            sleep(a_while(1..300)).await;
        }
    }
    back_after_a_while(target, nodes).await;
}

pub(super) async fn pause(target: &Target, node: u64) {
    target.cluster.pause(node);
    sleep(a_while(50..6_000)).await;
    target.cluster.resume(node);
}

pub(super) async fn restart(target: &Target, node: u64) {
    target.cluster.shut_down(node).await;
    sleep(a_while(20..1_000)).await;
    if target.cluster.status(node) == Status::Down {
        target.cluster.start_again(node);
    }
}
