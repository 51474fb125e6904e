//! One leader a term; an index of a group's log that was applied anywhere holds the same entry
//! wherever it is applied, for ever (log matching and leader completeness, as far as they can be
//! seen); within one life of a replica what is applied moves forward without gaps, unless a
//! snapshot takes it further. A replica that has ended begins anew; what it was applying then it may still apply.

use std::collections::BTreeMap;

use super::{Invariant, must};
use crate::events::Event;

#[derive(Default)]
pub struct RaftSafety {
    /// By group and term.
    leaders: BTreeMap<(u64, u64), u64>,
    /// By group and index: term and checksum of the payload.
    entries: BTreeMap<(u64, u64), (u64, u32)>,
    /// By node and group: the last index applied in this life.
    applied: BTreeMap<(u64, u64), u64>,
    /// By node and group: the last index applied in a life that has ended.
    ended: BTreeMap<(u64, u64), u64>,
}

impl Invariant for RaftSafety {
    fn name(&self) -> &'static str {
        "raft_safety"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Leads { node, group, term } => {
                let leader = *self.leaders.entry((group, term)).or_insert(node);
                must(leader == node, || {
                    format!("group {group} is led by nodes {leader} and {node} in term {term}")
                })
            }
            Event::Applied { node, group, term, index, body } => {
                let entry = (term, crc32c::crc32c(body));
                let first = *self.entries.entry((group, index)).or_insert(entry);
                must(first == entry, || {
                    format!(
                        "group {group} index {index}: node {node} applied {entry:x?}, before it was {first:x?}"
                    )
                })?;
                let ended = self.ended.get_mut(&(node, group));
                if let Some(last) = ended.filter(|last| **last + 1 == index) {
                    *last = index;
                    return Ok(());
                }
                self.ended.remove(&(node, group));
                let before = self.applied.insert((node, group), index);
                must(index == before.map_or(0, |before| before + 1), || {
                    format!("node {node} group {group}: {index} applied after {before:?}")
                })
            }
            Event::Restored { node, group, index } => {
                self.ended.remove(&(node, group));
                let before = self.applied.insert((node, group), index);
                must(before.is_none_or(|before| index >= before), || {
                    format!("node {node} group {group}: restored at {index} after {before:?}")
                })
            }
            Event::Ended { node, group } => {
                let last = self.applied.remove(&(node, group));
                self.ended.extend(last.map(|last| ((node, group), last)));
                Ok(())
            }
            Event::Node { node, does: "starts" } => {
                self.applied.retain(|(of, _), _| *of != node);
                self.ended.retain(|(of, _), _| *of != node);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
