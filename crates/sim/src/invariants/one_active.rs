//! Where one consumer at a time is active, nobody is handed messages while another holds some.

use std::collections::BTreeMap;

use quorate_machine::queue::{Effect, Session, Whereabouts};

use super::{Invariant, must};
use crate::events::{Event, QueueEntry};

#[derive(Default)]
pub struct OneActive {
    /// By group and offset: whom a message was leased to last.
    holders: BTreeMap<u64, BTreeMap<u64, Session>>,
}

fn made(holders: &mut BTreeMap<u64, Session>, entry: &QueueEntry<'_>) -> Result<(), String> {
    let is_single = entry.queue.settings().single_active;
    let mut active = None;
    for effect in entry.effects {
        let Effect::Deliver { session, token, runs, .. } = effect else { continue };
        // What is held already is repeated under the token that it had.
        if token.0 != entry.index {
            continue;
        }
        for run in runs {
            let first = run.first_offset.0;
            holders.extend((first..first + u64::from(run.count)).map(|at| (at, *session)));
        }
        active = Some(*session);
    }
    for offset in entry.left {
        holders.remove(offset);
    }
    let Some(active) = active.filter(|_| is_single) else { return Ok(()) };
    let leased = entry.places.iter().filter(|(_, place)| *place == Whereabouts::Leased);
    for offset in leased.flat_map(|(range, _)| range.clone()) {
        let holder = holders.get(&offset);
        must(holder == Some(&active), || {
            format!(
                "entry {}: {active:?} is handed messages, and {offset} is with {holder:?}",
                entry.index
            )
        })?;
    }
    Ok(())
}

impl Invariant for OneActive {
    fn name(&self) -> &'static str {
        "one_active"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Made(entry) = event else { return Ok(()) };
        let holders = self.holders.entry(entry.group).or_default();
        made(holders, entry).map_err(|reason| format!("group {}: {reason}", entry.group))
    }
}
