//! After a confirmed acknowledgement a message is never leased or delivered again, unless a seek has brought it back since.

use std::collections::BTreeMap;

use quorate_machine::queue::Effect;

use super::{Invariant, must};
use crate::events::{Event, Settle};

#[derive(Default)]
pub struct AckedStaysGone {
    /// By group and offset: the token that it was settled under.
    gone: BTreeMap<(u64, u64), u64>,
    /// The last lease granted.
    leased: BTreeMap<(u64, u64), u64>,
    /// The entries with which it came back by a seek, in order. A lease that was granted with such an entry came after.
    returned: BTreeMap<(u64, u64), Vec<u64>>,
}

impl AckedStaysGone {
    /// Whether it came back after it was settled under one token, and before it was leased under another.
    fn came_back(&self, at: (u64, u64), settled: u64, leased: u64) -> bool {
        let returned = self.returned.get(&at).map_or(&[][..], Vec::as_slice);
        returned.iter().any(|index| settled < *index && *index <= leased)
    }
}

impl Invariant for AckedStaysGone {
    fn name(&self) -> &'static str {
        "acked_stays_gone"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Settled {
                group,
                offset,
                token,
                settle: Settle::Ack | Settle::Reject,
                error: None,
                ..
            } => {
                let at = (*group, *offset);
                let gone = self.gone.entry(at).or_default();
                *gone = (*gone).max(*token);
                let leased = self.leased.get(&at).copied().unwrap_or(0);
                must(leased <= *token || self.came_back(at, *token, leased), || {
                    format!(
                        "group {group} offset {offset}: settled for good under token {token}, but it \
                         was leased again under {leased}"
                    )
                })
            }
            Event::Made(entry) => {
                for (offset, _) in entry.returned {
                    self.returned.entry((entry.group, *offset)).or_default().push(entry.index);
                }
                for effect in entry.effects {
                    let Effect::Deliver { token, runs, .. } = effect else { continue };
                    for run in runs {
                        let end = run.first_offset.0 + u64::from(run.count);
                        for offset in run.first_offset.0..end {
                            let at = (entry.group, offset);
                            self.leased.insert(at, token.0);
                            let mut gone = self.gone.get(&at).copied().into_iter();
                            must(gone.all(|under| self.came_back(at, under, token.0)), || {
                                format!(
                                    "group {} offset {offset}: leased after its ack",
                                    entry.group
                                )
                            })?;
                        }
                    }
                }
                Ok(())
            }
            Event::Delivered { group, offset, token, .. } => {
                let at = (*group, *offset);
                let mut gone = self.gone.get(&at).copied().into_iter();
                let may_be = |under| under > *token || self.came_back(at, under, *token);
                must(gone.all(may_be), || {
                    format!("group {group} offset {offset}: delivered again after its ack")
                })
            }
            _ => Ok(()),
        }
    }
}
