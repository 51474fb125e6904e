//! Nothing is in a queue, and nothing is delivered, that no producer sent there, or whose publish
//! was refused for good. What came from another queue is judged by `dead_letters_once`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, entered, moved_here, must};
use crate::events::{Event, MessageId};

#[derive(Default)]
pub struct NothingInvented {
    /// Those that the workload sends to; others belong to applications.
    groups: BTreeSet<u64>,
    sent: BTreeSet<(u64, MessageId)>,
    refused: BTreeMap<(u64, MessageId), String>,
    entered: BTreeSet<(u64, MessageId)>,
    /// By group and offset.
    moved: BTreeSet<(u64, u64)>,
}

impl NothingInvented {
    fn may_be(&self, group: u64, offset: u64, id: Option<MessageId>) -> Result<(), String> {
        if !self.groups.contains(&group) || self.moved.contains(&(group, offset)) {
            return Ok(());
        }
        let id = id.ok_or_else(|| {
            format!("group {group} offset {offset}: the body is not what any producer sent")
        })?;
        must(self.sent.contains(&(group, id)), || format!("group {group}: nobody sent {id}"))?;
        match self.refused.get(&(group, id)) {
            None => Ok(()),
            Some(reason) => Err(format!("group {group}: {id} is there, but was refused: {reason}")),
        }
    }
}

impl Invariant for NothingInvented {
    fn name(&self) -> &'static str {
        "nothing_invented"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Sent { group, id } => {
                self.groups.insert(*group);
                self.sent.insert((*group, *id));
                Ok(())
            }
            Event::Refused { group, id, reason } => {
                must(!self.entered.contains(&(*group, *id)), || {
                    format!("group {group}: {id} was refused ({reason}), but it had entered")
                })?;
                self.refused.insert((*group, *id), (*reason).to_owned());
                Ok(())
            }
            Event::Made(entry) => {
                self.moved.extend(moved_here(entry).map(|offset| (entry.group, offset)));
                for (offset, id) in entered(entry) {
                    self.may_be(entry.group, offset, id)?;
                    let is_moved = self.moved.contains(&(entry.group, offset));
                    let id = id.filter(|_| !is_moved);
                    self.entered.extend(id.map(|id| (entry.group, id)));
                }
                Ok(())
            }
            Event::Delivered { group, offset, id, .. } => self.may_be(*group, *offset, *id),
            _ => Ok(()),
        }
    }
}
