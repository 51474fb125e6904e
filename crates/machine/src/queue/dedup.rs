//! Batches of idempotent producers enter once.
//!
//! A producer numbers its messages; the queue expects the next number and remembers where earlier
//! ones went. What is remembered are runs in which both sequence and offset go up by one, so a
//! producer that has the queue to itself costs one run for all it ever sent.
//!
//! Bounded three ways: runs a producer (`dedup_window`), age of a silent producer
//! (`dedup_age_ms`), and producers ([`PRODUCERS_MAX`]; the one silent for longest goes first).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::Producer;
use super::ids::{Offset, ProducerId};
use super::reply::Rejection;
use crate::Millis;

/// Most producers that a queue remembers.
pub const PRODUCERS_MAX: usize = 100_000;

/// How much later than its age a silent producer may be forgotten when nothing else happens, so
/// that many of them cost one tick. In milliseconds.
pub(super) const EVICTION_SLACK_MS: u64 = 10_000;

/// Consecutive sequences at consecutive offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SequenceRun {
    pub sequence: u64,
    pub offset: u64,
    pub count: u64,
}

impl SequenceRun {
    /// The sequence after the last.
    pub fn end(&self) -> u64 {
        self.sequence + self.count
    }
}

/// What is remembered of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub epoch: u32,
    /// When it last published, or repeated itself.
    pub used: Millis,
    /// Without gaps in the sequence, oldest first, at least one.
    pub runs: VecDeque<SequenceRun>,
}

impl Remembered {
    fn expected(&self) -> u64 {
        self.runs.back().map_or(0, SequenceRun::end)
    }

    fn append(&mut self, run: SequenceRun, window: usize) {
        match self.runs.back_mut() {
            Some(last) if last.end() == run.sequence && last.offset + last.count == run.offset => {
                last.count += run.count;
            }
            _ => self.runs.push_back(run),
        }
        while self.runs.len() > window {
            self.runs.pop_front();
        }
    }
}

/// What to do with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is new.
    New,
    /// It has entered, at this offset.
    Duplicate(Offset),
    /// It must not enter.
    Rejected(Rejection),
}

/// All producers that are remembered.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    producers: BTreeMap<ProducerId, Remembered>,
    by_age: BTreeSet<(Millis, ProducerId)>,
}

impl Dedup {
    /// The state that a snapshot describes.
    pub fn from_producers(producers: BTreeMap<ProducerId, Remembered>) -> Self {
        let by_age = producers.iter().map(|(id, known)| (known.used, id.clone())).collect();
        Self { producers, by_age }
    }

    /// How many producers are remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// When a producer was last heard of, if it is remembered under that epoch and no other.
    pub fn last_used(&self, id: &ProducerId, epoch: u32) -> Option<Millis> {
        self.producers.get(id).filter(|known| known.epoch == epoch).map(|known| known.used)
    }

    /// All producers, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&ProducerId, &Remembered)> {
        self.producers.iter()
    }

    /// Compares a batch with what is remembered; changes nothing.
    pub fn judge(&self, producer: &Producer, count: u32) -> Verdict {
        let Some(end) = producer.sequence.checked_add(count.into()) else {
            return Verdict::Rejected(Rejection::SequenceOverflow);
        };
        let Some(known) = self.producers.get(&producer.id) else {
            return judge_first(producer);
        };
        let expected = known.expected();
        if producer.epoch < known.epoch {
            Verdict::Rejected(Rejection::Fenced { epoch: known.epoch })
        } else if producer.epoch > known.epoch {
            judge_first(producer)
        } else if producer.sequence == expected {
            Verdict::New
        } else if producer.sequence > expected {
            Verdict::Rejected(Rejection::OutOfOrder { expected })
        } else {
            judge_repeated(&known.runs, producer.sequence, end, expected)
        }
    }

    /// Remembers a batch that has entered at `offset`.
    pub fn record(
        &mut self,
        producer: &Producer,
        count: u32,
        offset: Offset,
        now: Millis,
        window: u32,
    ) {
        let run =
            SequenceRun { sequence: producer.sequence, offset: offset.0, count: count.into() };
        let window = window.max(1) as usize;
        self.touch(producer, now);
        match self.producers.get_mut(&producer.id) {
            Some(known) => {
                if producer.epoch > known.epoch {
                    known.epoch = producer.epoch;
                    known.runs.clear();
                }
                known.append(run, window);
            }
            None => self.insert(producer, run, now),
        }
    }

    /// Notes that a producer is alive.
    pub fn touch(&mut self, producer: &Producer, now: Millis) {
        if let Some(known) = self.producers.get_mut(&producer.id)
            && known.used != now
        {
            let mut key = (known.used, producer.id.clone());
            // The id that goes back in must be the one with memory of its own.
            key = self.by_age.take(&key).expect("every producer has an age");
            key.0 = now;
            known.used = now;
            self.by_age.insert(key);
        }
    }

    fn insert(&mut self, producer: &Producer, run: SequenceRun, now: Millis) {
        if self.producers.len() >= PRODUCERS_MAX {
            self.forget_oldest();
        }
        let id = producer.id.detached();
        self.by_age.insert((now, id.clone()));
        let known = Remembered { epoch: producer.epoch, used: now, runs: VecDeque::from([run]) };
        self.producers.insert(id, known);
    }

    /// Forgets the producers that have been silent for `age_ms`.
    pub fn evict(&mut self, now: Millis, age_ms: u64) {
        while self.by_age.first().is_some_and(|(used, _)| used.plus(age_ms) <= now) {
            self.forget_oldest();
        }
    }

    /// When a producer is to be forgotten at the latest.
    pub fn next_deadline(&self, age_ms: u64) -> Option<Millis> {
        self.by_age.first().map(|(used, _)| used.plus(age_ms).plus(EVICTION_SLACK_MS))
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_first() {
            self.producers.remove(&id);
        }
    }
}

/// Judges the first batch of an epoch: it begins the sequence. One further on has lost its
/// predecessors, which were refused; were it let in, they would be too old when sent again.
fn judge_first(producer: &Producer) -> Verdict {
    match producer.sequence {
        0 => Verdict::New,
        _ => Verdict::Rejected(Rejection::OutOfOrder { expected: 0 }),
    }
}

/// Judges a batch `sequence..end` that begins with a sequence used before.
fn judge_repeated(runs: &VecDeque<SequenceRun>, sequence: u64, end: u64, expected: u64) -> Verdict {
    let oldest = runs.front().map_or(expected, |run| run.sequence);
    if sequence < oldest {
        return Verdict::Rejected(Rejection::TooOldToDeduplicate { oldest });
    }
    let run = runs[runs.partition_point(|run| run.sequence <= sequence) - 1];
    if end <= run.end() {
        Verdict::Duplicate(Offset(run.offset + (sequence - run.sequence)))
    } else {
        Verdict::Rejected(Rejection::SequenceConflict { expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer(id: &str, sequence: u64) -> Producer {
        let id = ProducerId::new(id.as_bytes().to_vec()).unwrap();
        Producer { id, epoch: 0, sequence }
    }

    #[test]
    fn the_producer_silent_for_longest_goes_first() {
        let mut dedup = Dedup::default();
        for n in 0..PRODUCERS_MAX as u64 {
            dedup.record(&producer(&n.to_string(), 0), 1, Offset(n), Millis(n), 1);
        }
        dedup.touch(&producer("0", 0), Millis(PRODUCERS_MAX as u64));
        dedup.record(&producer("new", 0), 1, Offset(0), Millis(PRODUCERS_MAX as u64), 1);
        assert_eq!(dedup.len(), PRODUCERS_MAX);
        assert_eq!(dedup.judge(&producer("0", 0), 1), Verdict::Duplicate(Offset(0)));
        assert_eq!(dedup.judge(&producer("1", 0), 1), Verdict::New);
    }

    #[test]
    fn a_producer_alone_costs_one_run() {
        let mut dedup = Dedup::default();
        for n in 0..1000 {
            dedup.record(&producer("p", n * 64), 64, Offset(n * 64), Millis(0), 4);
        }
        assert_eq!(dedup.iter().map(|(_, known)| known.runs.len()).sum::<usize>(), 1);
        let repeated = dedup.judge(&producer("p", 64), 64);
        assert_eq!(repeated, Verdict::Duplicate(Offset(64)));
    }
}
