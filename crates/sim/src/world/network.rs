//! The network between the machines: who reaches whom, how fast, and how surely.
//!
//! Connections are streams, as TCP is: what is lost on the way comes later, and in order; only a
//! connection that cannot be made fails.

use std::ops::Range;
use std::time::Duration;

use madsim::task::NodeId;

use super::Cluster;

impl Cluster {
    /// Cuts a node off from all others, both ways, clients included.
    pub fn isolate(&self, node: u64) {
        self.told("isolate", node);
        self.net().clog_node(self.host(node).machine());
    }

    /// Joins a node that was cut off.
    pub fn rejoin(&self, node: u64) {
        self.net().unclog_node(self.host(node).machine());
    }

    /// Nothing gets from `from` to `to`; the other way stays open.
    pub fn cut_one_way(&self, from: u64, to: u64) {
        self.told("one_way_cut", format_args!("{from} {to}"));
        self.net().clog_link(self.host(from).machine(), self.host(to).machine());
    }

    /// Opens that direction again.
    pub fn open_one_way(&self, from: u64, to: u64) {
        self.net().unclog_link(self.host(from).machine(), self.host(to).machine());
    }

    /// Cuts every link between two sides, both ways.
    pub fn partition(&self, one: &[u64], other: &[u64]) {
        self.told("partition", format_args!("{one:?} {other:?}"));
        for (a, b) in self.links(one, other) {
            self.net().clog_link(a, b);
            self.net().clog_link(b, a);
        }
    }

    /// Opens every link between two sides.
    pub fn unite(&self, one: &[u64], other: &[u64]) {
        for (a, b) in self.links(one, other) {
            self.net().unclog_link(a, b);
            self.net().unclog_link(b, a);
        }
    }

    fn links(&self, one: &[u64], other: &[u64]) -> Vec<(NodeId, NodeId)> {
        let machine = |node: &u64| self.host(*node).machine();
        one.iter().flat_map(|a| other.iter().map(move |b| (machine(a), machine(b)))).collect()
    }

    /// Opens every link and node that was cut, and makes the network fast and sure again.
    pub fn heal_network(&self) {
        let nodes = self.nodes();
        nodes.iter().for_each(|node| self.rejoin(*node));
        self.unite(&nodes, &nodes);
        self.set_loss(0.0);
        self.set_latency(LATENCY);
    }

    /// Which share is lost on the way, or of connections is refused.
    pub fn set_loss(&self, rate: f64) {
        self.net().update_config(|config| config.packet_loss_rate = rate);
    }

    /// How long everything takes.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.net().update_config(|config| config.send_latency = latency);
    }
}

/// How long everything takes in a network that nothing ails.
pub const LATENCY: Range<Duration> = Duration::from_micros(200)..Duration::from_millis(2);
