//! The network between the machines: who reaches whom, how fast, and how surely.
//!
//! Connections are streams, as TCP is: what is lost on the way comes later, and in order; only a
//! connection that cannot be made fails.

use std::time::Duration;

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

    /// Cuts every link between two sides, both ways.
    pub fn partition(&self, one: &[u64], other: &[u64]) {
        self.told("partition", format_args!("{one:?} {other:?}"));
        for a in one {
            for b in other {
                let (a, b) = (self.host(*a).machine(), self.host(*b).machine());
                self.net().clog_link(a, b);
                self.net().clog_link(b, a);
            }
        }
    }

    /// Opens every link and node that was cut.
    pub fn heal_network(&self) {
        let nodes = self.nodes();
        for a in &nodes {
            let machine = self.host(*a).machine();
            self.net().unclog_node(machine);
            for b in nodes.iter().filter(|b| *b != a) {
                self.net().unclog_link(machine, self.host(*b).machine());
            }
        }
        self.network(0.0, Duration::from_micros(200)..Duration::from_millis(2));
    }

    /// How often something is lost on the way, and how long it takes.
    pub fn network(&self, loss: f64, latency: std::ops::Range<Duration>) {
        self.net().update_config(|config| {
            config.packet_loss_rate = loss;
            config.send_latency = latency;
        });
    }
}
