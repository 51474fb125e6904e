//! A node whose directory was wiped never leads or applies anything under its old id.

use std::collections::BTreeSet;

use super::corruption_contained::node_of;
use super::{Invariant, must};
use crate::events::Event;

#[derive(Default)]
pub struct Identity {
    wiped: BTreeSet<u64>,
}

impl Invariant for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Fault { kind: "wipe", what } => {
                self.wiped.extend(node_of(what));
                Ok(())
            }
            Event::Leads { node, group, .. } | Event::Applied { node, group, .. } => {
                must(!self.wiped.contains(&node), || {
                    format!("node {node} takes part in group {group} after its directory was wiped")
                })
            }
            _ => Ok(()),
        }
    }
}
