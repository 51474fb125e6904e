//! What has happened in the sequences, so that a check that checks nothing is seen.

use std::collections::BTreeMap;
use std::fmt;

/// How often each event happened.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn add(&mut self, event: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(event).or_default() += count;
        }
    }

    pub fn of(&self, event: &str) -> u64 {
        self.0.get(event).copied().unwrap_or(0)
    }

    pub fn merge(&mut self, other: &Self) {
        for (event, count) in &other.0 {
            self.add(event, *count);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events = self.0.iter().map(|(event, count)| format!("{event} {count}"));
        formatter.write_str(&events.collect::<Vec<_>>().join(", "))
    }
}
