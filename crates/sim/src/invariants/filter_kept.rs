//! Who has a filter is handed messages only that have one of its values in the queue's header: as their frames say, whatever
//! the leader has made of that.

use std::collections::BTreeMap;

use quorate_machine::frame;
use quorate_machine::queue::{Command, Reply};

use super::{Invariant, must};
use crate::events::{Event, QueueEntry};

/// By group and offset: the value that a message had in the header that the queue filtered by when it entered.
#[derive(Default)]
pub struct FilterKept {
    values: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
}

fn made(values: &mut BTreeMap<u64, Vec<u8>>, entry: &QueueEntry<'_>) -> Result<(), String> {
    // Messages of an entry in which the header changes have the one or the other; who filters by either is gone then.
    if let Some(header) = &entry.queue.settings().filter_header {
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            let Command::Publish(publish) = command else { continue };
            let Reply::Published { first_offset, duplicate: false, .. } = reply else { continue };
            let found = frame::header(&publish.frame, header);
            let found = found.map(|(at, value)| (first_offset.0 + u64::from(at), value.to_vec()));
            values.extend(found);
        }
    }
    for (offset, filter) in entry.granted_by_filter() {
        let value = values.get(&offset);
        let is_wanted = |value: &Vec<u8>| filter.iter().any(|wanted| wanted.as_bytes() == value);
        must(value.is_some_and(is_wanted), || {
            format!("entry {}: {offset} has {value:?}, and went to {filter:?}", entry.index)
        })?;
    }
    Ok(())
}

impl Invariant for FilterKept {
    fn name(&self) -> &'static str {
        "filter_kept"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Made(entry) = event else { return Ok(()) };
        let values = self.values.entry(entry.group).or_default();
        made(values, entry).map_err(|reason| format!("group {}: {reason}", entry.group))
    }
}
