//! Where the other nodes are. Written by the node as its catalog learns of nodes; read whenever a
//! connection is made, so that a node that has moved is found at its next address.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

/// The nodes' addresses, `host:port` or an `http://` URI, and their incarnations as far as they
/// are known. Cheap to clone; clones share one table.
#[derive(Debug, Clone, Default)]
pub struct Addresses(Arc<RwLock<BTreeMap<u64, String>>>, Arc<RwLock<BTreeMap<u64, u64>>>);

impl Addresses {
    /// Says where `node` is.
    pub fn set(&self, node: u64, address: impl Into<String>) {
        self.0.write().expect("no panic while held").insert(node, address.into());
    }

    /// Forgets `node`. A connection that stands is not cut.
    pub fn remove(&self, node: u64) {
        self.0.write().expect("no panic while held").remove(&node);
    }

    /// Says which incarnation of `node` may be talked to: one that came back with another disk
    /// would vote twice under one name.
    pub fn expect_incarnation(&self, node: u64, incarnation: u64) {
        self.1.write().expect("no panic while held").insert(node, incarnation);
    }

    /// The incarnation of `node` that may be talked to, if known.
    #[must_use]
    pub fn incarnation(&self, node: u64) -> Option<u64> {
        self.1.read().expect("no panic while held").get(&node).copied()
    }

    /// Where `node` is, if known.
    #[must_use]
    pub fn get(&self, node: u64) -> Option<String> {
        self.0.read().expect("no panic while held").get(&node).cloned()
    }

    /// All nodes and where they are.
    #[must_use]
    pub fn all(&self) -> BTreeMap<u64, String> {
        self.0.read().expect("no panic while held").clone()
    }
}
