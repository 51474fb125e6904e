//! What a node reads back after a bit of its disk has flipped is what it wrote, or an error: no
//! entry is applied with another content, and the node that met the damage says so.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, must};
use crate::events::Event;

#[derive(Default)]
pub struct CorruptionContained {
    /// By group and index: checksum of the payload.
    payloads: BTreeMap<(u64, u64), u32>,
    /// Nodes with a flipped bit that was not flipped back.
    damaged: BTreeSet<u64>,
}

impl Invariant for CorruptionContained {
    fn name(&self) -> &'static str {
        "corruption_contained"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Fault { kind: "bit_flip", what } => {
                self.damaged
                    .extend(what.split(' ').next().and_then(|node| node.parse::<u64>().ok()));
                Ok(())
            }
            Event::Fault { kind: "bit_repair", what } => {
                if let Some(node) = what.split(' ').next().and_then(|node| node.parse::<u64>().ok())
                {
                    self.damaged.remove(&node);
                }
                Ok(())
            }
            Event::Applied { node, group, index, body, .. } => {
                let crc = crc32c::crc32c(body);
                let first = *self.payloads.entry((group, index)).or_insert(crc);
                must(!self.damaged.contains(&node) || first == crc, || {
                    format!("node {node} applied damaged content at index {index} of group {group}")
                })
            }
            _ => Ok(()),
        }
    }
}
