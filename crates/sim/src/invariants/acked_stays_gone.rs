//! After a confirmed acknowledgement a message is never leased or delivered again.

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
                self.gone.insert(at, *token);
                let leased = self.leased.get(&at).copied().unwrap_or(0);
                must(leased <= *token, || {
                    format!(
                        "group {group} offset {offset}: settled for good under token {token}, but it \
                         was leased again under {leased}"
                    )
                })
            }
            Event::Made(entry) => {
                for effect in entry.effects {
                    let Effect::Deliver { token, runs, .. } = effect else { continue };
                    for run in runs {
                        let end = run.first_offset.0 + u64::from(run.count);
                        for offset in run.first_offset.0..end {
                            self.leased.insert((entry.group, offset), token.0);
                            must(!self.gone.contains_key(&(entry.group, offset)), || {
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
                let gone = self.gone.get(&(*group, *offset));
                must(gone.is_none_or(|under| under > token), || {
                    format!("group {group} offset {offset}: delivered again after its ack")
                })
            }
            _ => Ok(()),
        }
    }
}
