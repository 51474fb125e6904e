//! When a message that comes back is ready again, and whether its delivery counts.
//!
//! ```text
//!                         charged ───► exhausted, if it was the last delivery that it may have
//!   leased ─── back ───┤          └──► ready after the queue's back-off
//!                        uncharged ──► ready at once, with the deliveries that it had before
//! ```
//!
//! **Back-off.** After `n` deliveries a message waits `min(retry_max, retry · 2^(n-1))`, of which one half is fixed and the
//! other is jitter: "equal jitter" (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). So what
//! failed together is not tried together for ever, and nothing is tried earlier than half of its delay. The jitter is a
//! function of the entry that brought the message back, of the run that it is in, and of its deliveries; so every replica
//! computes the same, nothing is drawn, and a run of messages that come back together stays one record.
//!
//! **Charging.** A consumer that tells which messages it has begun to handle ([`SettleKind::Start`]) loses the others
//! uncharged when it ends or when their leases do: they were prefetched, and are not to blame. One that dies before its
//! word reached the log leaves the message uncharged that killed it; therefore a message that came back uncharged from a
//! consumer's death [`UNCHARGED_MAX`] times in a row is charged the next time all the same. Of a consumer that tells
//! nothing every message is charged.
//!
//! [`SettleKind::Start`]: super::SettleKind::Start

use std::collections::BTreeMap;

use super::Queue;
use super::dead::Cause;
use super::ready::Span;
use super::settings::Settings;
use crate::planted::{self, Bug};

/// Times in a row that a message comes back uncharged although nobody said that it was not started.
pub const UNCHARGED_MAX: u8 = 16;

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// On purpose: what was not started is known not to be.
    Told,
    /// The consumer is gone, or silent: what it started last may not have reached the log.
    Death,
}

impl Queue {
    /// Takes messages back from a consumer whose lease has ended.
    pub(super) fn take_back(&mut self, span: Span, started: bool, ending: Ending) {
        match (started, ending) {
            (true, _) => self.give_back(span),
            (false, Ending::Told) => self.give_back_uncharged(span),
            (false, Ending::Death) => {
                let delay_ms = self.settings.back_off_ms(self.entry, span);
                for (part, times) in self.uncharged.parts(span) {
                    if times < UNCHARGED_MAX {
                        self.uncharged.set(part, times + 1);
                        self.give_back_uncharged(part);
                    } else {
                        self.hold_back(part, delay_ms);
                    }
                }
            }
        }
    }

    /// Takes messages back after a delivery that counts: to their place once they may be delivered again, or out if they
    /// were delivered often enough, or have outlived their time.
    pub(super) fn give_back(&mut self, span: Span) {
        self.hold_back(span, self.settings.back_off_ms(self.entry, span));
    }

    /// Takes messages back after a delivery that counts, not to be delivered again for `delay_ms`.
    pub(super) fn hold_back(&mut self, span: Span, delay_ms: u64) {
        if self.is_exhausted(span.attempts) {
            return self.die(span, Cause::Exhausted);
        }
        let delay_ms = if planted::is(Bug::RetryEarly) { delay_ms / 2 } else { delay_ms };
        let due = (delay_ms > 0).then(|| self.now.plus(delay_ms));
        self.uncharged.forget(span);
        for span in self.outlived(span) {
            self.overtake(span);
            self.place(span, due);
        }
    }

    /// Puts messages back to their place, as if they had not been delivered.
    pub(super) fn give_back_uncharged(&mut self, span: Span) {
        let attempts = span.attempts.saturating_sub(1);
        for span in self.outlived(Span { attempts, ..span }) {
            self.overtake(span);
            self.ready.give_back(span);
        }
    }
}

impl Settings {
    /// How long messages wait that come back in the entry at `index`; 0 if the queue has no back-off.
    fn back_off_ms(&self, index: u64, span: Span) -> u64 {
        if self.retry_ms == 0 {
            return 0;
        }
        let doublings = span.attempts.saturating_sub(1).min(32);
        let full = (u64::from(self.retry_ms) << doublings).min(self.retry_max_ms().into());
        let fixed = full.div_ceil(2);
        fixed + mixed([index, span.first, span.attempts.into()]) % (full - fixed + 1)
    }
}

/// A number that looks random, the same for the same words: the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast
/// Splittable Pseudorandom Number Generators", 2014) over each. Due times depend on it, so it must never change.
fn mixed(words: [u64; 3]) -> u64 {
    words.into_iter().fold(0, |hash: u64, word| {
        let mut z = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// How often in a row messages came back uncharged from a consumer's death. Those that never did have no record, so a
/// queue without such deaths pays for none.
#[derive(Debug, Default)]
pub(super) struct Uncharged {
    /// Count and times of each run, by first offset.
    runs: BTreeMap<u64, (u64, u8)>,
}

impl Uncharged {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Runs `(first, count, times)`, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, u64, u8)> {
        self.runs.iter().map(|(&first, &(count, times))| (first, count, times))
    }

    /// The parts of a run with the times that each came back.
    fn parts(&self, span: Span) -> Vec<(Span, u8)> {
        let (mut parts, mut at) = (Vec::new(), span.first);
        let of = |first, end, times| (Span { first, count: end - first, ..span }, times);
        let before = self.runs.range(..span.first).next_back().map(|(&first, _)| first);
        for (&first, &(count, times)) in self.runs.range(before.unwrap_or(span.first)..span.end()) {
            let (from, to) = (first.max(at), (first + count).min(span.end()));
            if from < to {
                parts.extend((at < from).then(|| of(at, from, 0)));
                parts.push(of(from, to, times));
                at = to;
            }
        }
        parts.extend((at < span.end()).then(|| of(at, span.end(), 0)));
        parts
    }

    /// Notes how often a run came back.
    pub fn set(&mut self, span: Span, times: u8) {
        self.forget(span);
        let (mut first, mut count) = (span.first, span.count);
        if let Some((&before, &run)) = self.runs.range(..first).next_back()
            && (before + run.0, run.1) == (first, times)
        {
            first = before;
            count += run.0;
        }
        if let Some(&(after, at)) = self.runs.get(&span.end())
            && at == times
        {
            self.runs.remove(&span.end());
            count += after;
        }
        self.runs.insert(first, (count, times));
    }

    /// The messages of a run were charged, or are gone.
    pub fn forget(&mut self, span: Span) {
        if self.runs.is_empty() {
            return;
        }
        let before = self.runs.range(..span.first).next_back().map(|(&first, _)| first);
        let within = self.runs.range(before.unwrap_or(span.first)..span.end());
        let firsts: Vec<u64> = within.map(|(&first, _)| first).collect();
        for first in firsts {
            let (count, times) = self.runs[&first];
            let end = first + count;
            if end <= span.first {
                continue;
            }
            self.runs.remove(&first);
            if first < span.first {
                self.runs.insert(first, (span.first - first, times));
            }
            if span.end() < end {
                self.runs.insert(span.end(), (end - span.end(), times));
            }
        }
    }

    /// All messages are gone.
    pub fn clear(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, count: u64) -> Span {
        Span { first, count, attempts: 3, priority: 0 }
    }

    #[test]
    fn the_delay_doubles_up_to_its_cap_and_half_of_it_is_jitter() {
        let settings = Settings { retry_ms: 1_000, retry_max_ms: 60_000, ..Settings::default() };
        for attempts in 1..70 {
            let full = (1_000u64 << (attempts - 1).min(20)).min(60_000);
            let delays: Vec<u64> = (0..2_000)
                .map(|index| {
                    settings.back_off_ms(
                        index,
                        Span { first: index * 7, count: 1, attempts, priority: 0 },
                    )
                })
                .collect();
            let (min, max) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(full / 2 <= *min && *min < full * 52 / 100, "{min} of {full}");
            assert!(full * 98 / 100 < *max && *max <= full, "{max} of {full}");
        }
    }

    #[test]
    fn a_delay_is_never_nothing_and_never_beyond_what_a_time_can_be() {
        let least = Settings { retry_ms: 1, retry_max_ms: 1, ..Settings::default() };
        assert_eq!(least.back_off_ms(9, span(0, 1)), 1);
        let most = Settings { retry_ms: u32::MAX, retry_max_ms: u32::MAX, ..Settings::default() };
        let attempts = u32::MAX;
        assert!(most.back_off_ms(9, Span { attempts, ..span(0, 1) }) <= u32::MAX.into());
        assert_eq!(Settings::default().back_off_ms(9, span(0, 1)), 0);
    }

    #[test]
    fn runs_are_divided_and_joined_by_how_often_they_came_back() {
        let mut uncharged = Uncharged::default();
        let all = |uncharged: &Uncharged| uncharged.iter().collect::<Vec<_>>();
        uncharged.set(span(10, 10), 1);
        uncharged.set(span(13, 2), 2);
        assert_eq!(all(&uncharged), [(10, 3, 1), (13, 2, 2), (15, 5, 1)]);
        let parts = uncharged.parts(span(8, 6));
        assert_eq!(parts, [(span(8, 2), 0), (span(10, 3), 1), (span(13, 1), 2)]);
        assert_eq!(uncharged.parts(span(18, 4)), [(span(18, 2), 1), (span(20, 2), 0)]);
        uncharged.set(span(13, 2), 1);
        assert_eq!(all(&uncharged), [(10, 10, 1)]);
        uncharged.forget(span(12, 1));
        uncharged.forget(span(0, 11));
        assert_eq!(all(&uncharged), [(11, 1, 1), (13, 7, 1)]);
        uncharged.forget(span(0, 100));
        assert!(uncharged.is_empty());
    }
}
