//! What a publish to a topic brings to a queue enters whole, as it was routed, in order and in one batch; or not at all.

use std::collections::BTreeMap;

use quorate_machine::queue::{Command, Reply};

use super::{Invariant, messages, must};
use crate::events::{Event, MessageId};

#[derive(Default)]
pub struct TopicParts {
    /// By group and producer; each publish to a topic is one of its own.
    parts: BTreeMap<(u64, u32), Vec<MessageId>>,
}

impl Invariant for TopicParts {
    fn name(&self) -> &'static str {
        "topic_parts"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Part { group, ids } => {
                if let Some(first) = ids.first() {
                    self.parts.insert((*group, first.producer), ids.to_vec());
                }
                Ok(())
            }
            Event::Made(entry) => {
                for (command, reply) in entry.commands.iter().zip(entry.replies) {
                    let Command::Publish(publish) = command else { continue };
                    let Reply::Published { duplicate: false, .. } = reply else { continue };
                    let ids: Vec<MessageId> = messages(publish).into_iter().flatten().collect();
                    let Some(first) = ids.first() else { continue };
                    let part = self.parts.get(&(entry.group, first.producer));
                    must(part.is_none_or(|part| *part == ids), || {
                        format!("group {}: {ids:?} entered, to come were {part:?}", entry.group)
                    })?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
