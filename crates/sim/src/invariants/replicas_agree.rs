//! A machine's state is the same on all replicas at the same applied index.

use std::collections::BTreeMap;

use super::{Invariant, must};
use crate::events::Event;

#[derive(Default)]
pub struct ReplicasAgree {
    /// By group and index: the first digest, and whose.
    hashes: BTreeMap<(u64, u64), (u64, u64)>,
}

impl Invariant for ReplicasAgree {
    fn name(&self) -> &'static str {
        "replicas_agree"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::State { node, group, index, hash } = *event else { return Ok(()) };
        let (first, of) = *self.hashes.entry((group, index)).or_insert((hash, node));
        must(first == hash, || {
            format!(
                "group {group} index {index}: {hash:016x} on node {node}, {first:016x} on node {of}"
            )
        })
    }
}
