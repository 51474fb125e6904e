//! Where queues send their dead letters, seen as a whole: to queues that are there, and never round in a circle, in
//! which a message that nobody can process would go on for ever.
//!
//! Checked wherever a queue gets its settings, and where one goes.

use super::names::QueueName;
use super::{Catalog, Rejection};
use crate::queue::Settings;

/// Most names that a refusal has.
const NAMES_MAX: usize = 16;

impl Catalog {
    /// Whether a queue of this name may have these settings.
    ///
    /// # Errors
    /// When its dead letters would go to a queue that is not there or is sharded, or come back to it.
    pub fn check_dead_letter(
        &self,
        name: &QueueName,
        settings: &Settings,
    ) -> Result<(), Rejection> {
        let mut way = vec![name.clone()];
        let mut next = settings.dead_letter.as_ref();
        while let Some(target) = next {
            // A circle that is there already has come from nowhere, but is not to be followed for ever.
            if target == name || way.len() > self.queues.len() + 1 {
                way.push(target.clone());
                let way = told(way);
                return Err(Rejection::DeadLetterCycle { way });
            }
            if target.is_shard() || self.sharded.contains_key(target) {
                return Err(Rejection::ShardedDeadLetter { name: target.clone() });
            }
            let Some(queue) = self.queues.get(target) else {
                return Err(Rejection::NoDeadLetterQueue { name: target.clone() });
            };
            way.push(target.clone());
            next = queue.settings.dead_letter.as_ref();
        }
        Ok(())
    }

    /// Whether a queue may go: not while others send it their dead letters.
    pub(super) fn check_no_dead_letter(&self, name: &QueueName) -> Result<(), Rejection> {
        let sends = |queue: &&super::Queue| queue.settings.dead_letter.as_ref() == Some(name);
        let names = self.queues.values().filter(sends).map(|queue| queue.name.clone());
        let of: Vec<QueueName> = names.take(NAMES_MAX).collect();
        if of.is_empty() { Ok(()) } else { Err(Rejection::IsDeadLetterQueue { of }) }
    }
}

/// A way that is short enough to be told: of a long one the middle is left out.
fn told(mut way: Vec<QueueName>) -> Vec<QueueName> {
    if way.len() > NAMES_MAX {
        way.drain(NAMES_MAX / 2..way.len() - NAMES_MAX / 2);
    }
    way
}

/// Names as a text, in order.
pub(super) fn listed(names: &[QueueName], between: &str) -> String {
    let names: Vec<&str> = names.iter().map(QueueName::as_str).collect();
    names.join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_way_is_told_by_its_ends() {
        let names = |count: usize| -> Vec<QueueName> {
            (0..count).map(|at| QueueName::parse(&format!("q{at}")).unwrap()).collect()
        };
        assert_eq!(told(names(16)), names(16));
        let way = told(names(1_000));
        let ends: Vec<&str> = way.iter().map(QueueName::as_str).collect();
        assert_eq!(
            (ends.len(), ends[0], ends[7], ends[8], ends[15]),
            (16, "q0", "q7", "q992", "q999")
        );
    }
}
