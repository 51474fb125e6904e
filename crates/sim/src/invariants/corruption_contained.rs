//! A node whose disk has flipped a bit applies nothing that differs from what it was, and serves no
//! body that nobody sent; and once the bit is flipped back, it serves again.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, must};
use crate::events::Event;

#[derive(Default)]
pub struct CorruptionContained {
    /// By group and index: checksum of the payload.
    payloads: BTreeMap<(u64, u64), u32>,
    /// Nodes with a flipped bit that was not flipped back.
    damaged: BTreeSet<u64>,
    /// Nodes that have to serve again.
    repaired: BTreeSet<u64>,
}

/// The node that a fault names first.
pub(super) fn node_of(what: &str) -> Option<u64> {
    what.split(' ').next().and_then(|node| node.parse().ok())
}

impl Invariant for CorruptionContained {
    fn name(&self) -> &'static str {
        "corruption_contained"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Fault { kind: "bit_flip", what } => self.damaged.extend(node_of(what)),
            Event::Fault { kind: "bit_repair", what } => {
                if let Some(node) = node_of(what) {
                    self.damaged.remove(&node);
                    self.repaired.insert(node);
                }
            }
            Event::Node { node, does: "serves" } => {
                self.repaired.remove(&node);
            }
            Event::Applied { node, group, index, body, .. } => {
                let crc = crc32c::crc32c(body);
                let first = *self.payloads.entry((group, index)).or_insert(crc);
                must(!self.damaged.contains(&node) || first == crc, || {
                    format!("node {node} applied damaged content at index {index} of group {group}")
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    fn at_end(&mut self) -> Result<(), String> {
        must(self.repaired.is_empty(), || {
            format!(
                "nodes {:?} did not serve again after their bit was flipped back",
                self.repaired
            )
        })
    }
}
