//! What was attempted, confirmed, delivered and acked, and whether that fits together.
//!
//! Each message carries who sent it, its number and a checksum, so what is delivered can be told apart
//! without trusting the broker. The rules that [`History::check`] holds the broker to are the functions
//! `lost` to `after_ack` below, one each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a message beside its filler.
const HEAD_BYTES: usize = 4 + 8 + 4;
/// Broken rules of one kind that are told of.
const TOLD_MAX: usize = 10;

/// Names a message: its producer and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Which producer.
    pub producer: u32,
    /// Its how many-th message, from 0.
    pub number: u64,
}

impl Key {
    /// The message's body: the key, a checksum, and filler up to `bytes`.
    #[must_use]
    pub fn body(self, bytes: usize) -> Bytes {
        let mut body = BytesMut::with_capacity(bytes.max(HEAD_BYTES));
        body.put_u32_le(self.producer);
        body.put_u64_le(self.number);
        body.put_u32_le(0);
        while body.len() < bytes {
            body.put_u8((self.number as usize + body.len()) as u8);
        }
        let sum = crc32c::crc32c(&body);
        body[12..16].copy_from_slice(&sum.to_le_bytes());
        body.freeze()
    }

    /// Reads a body back; `None` if it is not as it was sent.
    #[must_use]
    pub fn of(body: &[u8]) -> Option<Self> {
        let producer = u32::from_le_bytes(body.get(..4)?.try_into().ok()?);
        let number = u64::from_le_bytes(body.get(4..12)?.try_into().ok()?);
        let key = Self { producer, number };
        (key.body(body.len()) == body).then_some(key)
    }
}

/// One delivery as a consumer saw it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Which consumer.
    pub consumer: u32,
    /// Offset in the queue.
    pub offset: u64,
    /// The lease's fencing token; it grows with each lease that the queue grants.
    pub token: u64,
    /// How many-th delivery of the message.
    pub attempt: u32,
}

#[derive(Debug, Clone, Copy)]
struct Delivery {
    key: Key,
    seen: Seen,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Acked {
    token: u64,
    at: Instant,
}

#[derive(Debug, Default)]
struct Events {
    attempted: BTreeSet<Key>,
    confirmed: BTreeMap<Key, u64>,
    /// Refused for good: nothing entered.
    refused: BTreeMap<Key, String>,
    /// Given up with an unknown outcome.
    unknown: BTreeMap<Key, String>,
    deliveries: Vec<Delivery>,
    delivered: BTreeSet<Key>,
    acked: BTreeMap<Key, Acked>,
    broken: Vec<String>,
    last_confirm: Option<Instant>,
    longest_gap: Duration,
}

/// What a history comes to, for people.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// Messages with a receipt.
    pub confirmed: usize,
    /// Publishes that failed, with or without a known outcome.
    pub failed: usize,
    /// Deliveries, repeated ones included.
    pub deliveries: usize,
    /// Messages whose ack is confirmed.
    pub acked: usize,
    /// Longest time without any receipt between two receipts.
    pub longest_gap: Duration,
}

/// The history of one queue. Recording is cheap; all of it is kept.
#[derive(Debug, Default)]
pub struct History(Mutex<Events>);

impl History {
    /// A message is about to be handed to the broker.
    pub fn attempted(&self, key: Key) {
        self.with(|events| events.attempted.insert(key));
    }

    /// A message has its receipt.
    pub fn confirmed(&self, key: Key, offset: u64) {
        self.with(|events| {
            let now = Instant::now();
            if let Some(last) = events.last_confirm.replace(now) {
                events.longest_gap = events.longest_gap.max(now - last);
            }
            if let Some(other) = events.confirmed.insert(key, offset)
                && other != offset
            {
                events.broken.push(format!("{key:?} was confirmed at {other} and at {offset}"));
            }
        });
    }

    /// A publish was refused: it must never be seen.
    pub fn refused(&self, key: Key, why: String) {
        self.with(|events| events.refused.insert(key, why));
    }

    /// A publish was given up; it may have entered.
    pub fn unknown(&self, key: Key, why: String) {
        self.with(|events| events.unknown.insert(key, why));
    }

    /// A delivery has arrived. `None` if its body is not one of ours, which breaks a rule.
    pub fn delivered(&self, body: &[u8], seen: Seen) -> Option<Key> {
        let key = Key::of(body);
        self.with(|events| match key {
            Some(key) => {
                events.delivered.insert(key);
                events.deliveries.push(Delivery { key, seen, at: Instant::now() });
            }
            None => events.broken.push(format!("a body that nobody sent: {seen:?}")),
        });
        key
    }

    /// The ack of a delivery is confirmed.
    pub fn acked(&self, key: Key, token: u64) {
        let acked = Acked { token, at: Instant::now() };
        self.with(|events| {
            if let Some(other) = events.acked.insert(key, acked) {
                let tokens = (other.token, token);
                events.broken.push(format!("{key:?} was acked twice, under tokens {tokens:?}"));
            }
        });
    }

    /// Messages with a receipt so far.
    #[must_use]
    pub fn confirmed_count(&self) -> usize {
        self.with(|events| events.confirmed.len())
    }

    /// Messages with a receipt that have not been delivered yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.with(|events| {
            events.confirmed.keys().filter(|key| !events.delivered.contains(key)).count()
        })
    }

    /// Publishes that failed, with what was said.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.with(|events| {
            let all = events.refused.iter().chain(&events.unknown);
            all.map(|(key, why)| format!("{key:?}: {why}")).collect()
        })
    }

    /// Totals so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.with(|events| Summary {
            confirmed: events.confirmed.len(),
            failed: events.refused.len() + events.unknown.len(),
            deliveries: events.deliveries.len(),
            acked: events.acked.len(),
            longest_gap: events.longest_gap,
        })
    }

    /// Asserts that every promise was kept. To be called once the queue is drained.
    ///
    /// # Panics
    /// With each rule that was broken and by which messages.
    pub fn check(&self) {
        let broken = self.broken();
        assert!(
            broken.is_empty(),
            "promises were broken:\n{}\n{:?}",
            broken.join("\n"),
            self.summary()
        );
    }

    /// The rules that were broken, in words.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        self.with(|events| {
            let rules: [(&str, Vec<String>); 7] = [
                ("recorded", events.broken.clone()),
                ("confirmed but lost", events.lost()),
                ("invented", events.invented()),
                ("entered more than once", events.entered_again()),
                ("an offset names two messages", events.ambiguous()),
                ("out of order", events.out_of_order()),
                ("delivered after its ack was confirmed", events.after_ack()),
            ];
            let told = |(rule, found): (&str, Vec<String>)| {
                let head = format!("{rule}: {}", found.len());
                let some = found.into_iter().take(TOLD_MAX).map(|what| format!("  {what}"));
                std::iter::once(head).chain(some).collect::<Vec<_>>().join("\n")
            };
            rules.into_iter().filter(|(_, found)| !found.is_empty()).map(told).collect()
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Events) -> T) -> T {
        look(&mut self.0.lock().expect("no panic while held"))
    }
}

impl Events {
    /// Nothing confirmed is lost.
    fn lost(&self) -> Vec<String> {
        let lost = self.confirmed.iter().filter(|(key, _)| !self.delivered.contains(key));
        lost.map(|(key, offset)| format!("{key:?} at offset {offset}")).collect()
    }

    /// Nothing is delivered that nobody sent, or whose publish was refused.
    fn invented(&self) -> Vec<String> {
        let fits = |key: &&Key| self.attempted.contains(key) && !self.refused.contains_key(key);
        self.delivered.iter().filter(|key| !fits(key)).map(|key| format!("{key:?}")).collect()
    }

    /// A message has one offset: the one in its receipt.
    fn entered_again(&self) -> Vec<String> {
        let mut offsets: BTreeMap<Key, BTreeSet<u64>> = BTreeMap::new();
        for (key, offset) in &self.confirmed {
            offsets.entry(*key).or_default().insert(*offset);
        }
        for delivery in &self.deliveries {
            offsets.entry(delivery.key).or_default().insert(delivery.seen.offset);
        }
        let again = offsets.into_iter().filter(|(_, offsets)| offsets.len() > 1);
        again.map(|(key, offsets)| format!("{key:?} at {offsets:?}")).collect()
    }

    /// An offset has one message.
    fn ambiguous(&self) -> Vec<String> {
        let mut keys: BTreeMap<u64, BTreeSet<Key>> = BTreeMap::new();
        for (key, offset) in &self.confirmed {
            keys.entry(*offset).or_default().insert(*key);
        }
        for delivery in &self.deliveries {
            keys.entry(delivery.seen.offset).or_default().insert(delivery.key);
        }
        let shared = keys.into_iter().filter(|(_, keys)| keys.len() > 1);
        shared.map(|(offset, keys)| format!("{offset}: {keys:?}")).collect()
    }

    /// Per producer, offsets follow the order of sending; a consumer that is alone sees first deliveries
    /// in order of offset.
    fn out_of_order(&self) -> Vec<String> {
        let mut found = Vec::new();
        let keys: Vec<(&Key, &u64)> = self.confirmed.iter().collect();
        for pair in keys.windows(2) {
            let [(before, first), (after, second)] = [pair[0], pair[1]];
            if before.producer == after.producer && first >= second {
                found.push(format!("{before:?} at {first}, but {after:?} at {second}"));
            }
        }
        let consumers: BTreeSet<u32> =
            self.deliveries.iter().map(|seen| seen.seen.consumer).collect();
        if consumers.len() == 1 {
            let mut shown = BTreeSet::new();
            let firsts = self.deliveries.iter().map(|delivery| delivery.seen);
            let firsts = firsts.filter(|seen| seen.attempt == 1 && shown.insert(seen.offset));
            let offsets: Vec<u64> = firsts.map(|seen| seen.offset).collect();
            let inverted = offsets.windows(2).filter(|pair| pair[0] > pair[1]);
            found.extend(inverted.map(|pair| format!("delivered {} before {}", pair[0], pair[1])));
        }
        found
    }

    /// After a confirmed ack there is no further lease, and nothing of the old one is shown again.
    fn after_ack(&self) -> Vec<String> {
        let late = |delivery: &&Delivery| {
            self.acked.get(&delivery.key).is_some_and(|acked| {
                delivery.seen.token > acked.token
                    || (delivery.seen.token == acked.token && delivery.at > acked.at)
            })
        };
        self.deliveries
            .iter()
            .filter(late)
            .map(|late| format!("{:?} {:?}", late.key, late.seen))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Key = Key { producer: 1, number: 0 };
    const SECOND: Key = Key { producer: 1, number: 1 };

    fn seen(offset: u64, token: u64, attempt: u32) -> Seen {
        Seen { consumer: 1, offset, token, attempt }
    }

    /// Both messages confirmed, delivered and acked.
    fn clean() -> History {
        let history = History::default();
        for (key, offset) in [(FIRST, 10), (SECOND, 11)] {
            history.attempted(key);
            history.confirmed(key, offset);
            history.delivered(&key.body(40), seen(offset, 5, 1));
            history.acked(key, 5);
        }
        history
    }

    fn broken_by(change: impl FnOnce(&History)) -> String {
        let history = clean();
        change(&history);
        history.broken().join("\n")
    }

    #[test]
    fn a_clean_history_breaks_nothing() {
        clean().check();
    }

    #[test]
    fn a_body_tells_its_key_and_every_change_to_it() {
        for bytes in [0, 16, 17, 300] {
            let body = FIRST.body(bytes);
            assert_eq!(Key::of(&body), Some(FIRST));
            for at in 0..body.len() {
                let mut changed = body.to_vec();
                changed[at] ^= 1;
                assert_eq!(Key::of(&changed), None, "byte {at} of {bytes}");
            }
        }
    }

    #[test]
    fn each_broken_rule_is_told() {
        let third = Key { producer: 1, number: 2 };
        let told = broken_by(|history| {
            history.attempted(third);
            history.confirmed(third, 12);
        });
        assert!(told.starts_with("confirmed but lost: 1"), "{told}");
        let told = broken_by(|history| {
            history.delivered(&third.body(40), seen(12, 6, 1));
        });
        assert!(told.starts_with("invented: 1"), "{told}");
        let told = broken_by(|history| {
            history.attempted(third);
            history.refused(third, "full".to_owned());
            history.delivered(&third.body(40), seen(12, 6, 1));
        });
        assert!(told.starts_with("invented: 1"), "{told}");
        let told = broken_by(|history| {
            history.delivered(&SECOND.body(40), seen(12, 4, 1));
        });
        assert!(told.starts_with("entered more than once: 1"), "{told}");
        let told = broken_by(|history| {
            history.attempted(third);
            history.confirmed(third, 11);
            history.delivered(&third.body(40), seen(11, 6, 1));
        });
        assert!(told.contains("an offset names two messages: 1"), "{told}");
        assert!(told.contains("out of order: 1"), "{told}");
    }

    #[test]
    fn deliveries_after_an_ack_are_told() {
        let again = broken_by(|history| {
            history.delivered(&FIRST.body(40), seen(10, 6, 2));
        });
        assert!(again.starts_with("delivered after its ack was confirmed: 1"), "{again}");
        let replayed = broken_by(|history| {
            history.delivered(&FIRST.body(40), seen(10, 5, 1));
        });
        assert!(replayed.starts_with("delivered after its ack was confirmed: 1"), "{replayed}");
        let earlier_lease = broken_by(|history| {
            history.delivered(&FIRST.body(40), seen(10, 4, 1));
        });
        assert_eq!(earlier_lease, "");
    }

    #[test]
    fn first_deliveries_out_of_order_are_told_if_one_consumer_is_alone() {
        let history = History::default();
        for (key, offset) in [(SECOND, 11), (FIRST, 10)] {
            history.attempted(key);
            history.delivered(&key.body(40), seen(offset, 5, 1));
        }
        assert_eq!(history.broken().len(), 1, "{:?}", history.broken());
    }
}
