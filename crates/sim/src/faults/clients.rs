//! Client machines that die, stand still, or are cut off: a consumer that dies between a delivery
//! and its ack, a producer whose answer is lost.

use madsim::net::NetSim;
use madsim::rand::seq::SliceRandom;
use madsim::rand::thread_rng;
use madsim::task::NodeId;
use tokio::time::sleep;

use super::{Target, a_while};
use crate::events::Event;

fn one(target: &Target, kind: &'static str) -> Option<NodeId> {
    let machine = *target.clients.choose(&mut thread_rng())?;
    target.cluster.record().tell(Event::Fault { kind, what: &machine.to_string() });
    Some(machine)
}

pub(super) async fn kill(target: &Target) {
    let Some(machine) = one(target, "kill_client") else { return };
    target.cluster.runtime().kill(machine);
    sleep(a_while(50..3_000)).await;
    target.cluster.runtime().restart(machine);
}

pub(super) async fn pause(target: &Target) {
    let Some(machine) = one(target, "pause_client") else { return };
    target.cluster.runtime().pause(machine);
    sleep(a_while(50..8_000)).await;
    target.cluster.runtime().resume(machine);
}

pub(super) async fn isolate(target: &Target) {
    let Some(machine) = one(target, "isolate_client") else { return };
    NetSim::current().clog_node(machine);
    sleep(a_while(200..8_000)).await;
    NetSim::current().unclog_node(machine);
}

pub(super) fn heal(target: &Target) {
    for machine in &target.clients {
        NetSim::current().unclog_node(*machine);
        target.cluster.runtime().resume(*machine);
    }
}
