//! What becomes of messages, written down while a load runs: latencies, and when they came if asked for.
//!
//! One recorder is shared by all tasks of a load. They come with a burst of messages at a time, so its lock is
//! taken some thousand times a second, not once a message.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::failure::Failure;

/// Latencies are kept from 1 µs to 10 min.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Length of an interval of the timeline.
const INTERVAL: Duration = Duration::from_millis(100);
/// Most intervals; a longer run has longer ones.
const INTERVALS_MAX: u32 = 6_000;

/// An empty histogram for latencies in microseconds, with three significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("constant bounds are valid")
}

/// A message on its way.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Among all messages of the load.
    pub number: u64,
    /// When it was handed over or, in an open loop, should have been.
    pub at: Instant,
}

/// Which messages count.
#[derive(Debug, Clone, Copy)]
enum Counts {
    /// None: before and after the measured span of a closed loop.
    Nothing,
    /// Each that is done.
    All,
    /// Those that were scheduled from then on, however late they are done.
    From(Instant),
}

#[derive(Debug)]
struct State {
    counts: Counts,
    seen: u64,
    last: Option<Instant>,
    latency_us: Histogram<u64>,
    timeline: Option<Timeline>,
    journal: Option<Vec<(u64, Instant)>>,
    failed: u64,
    first_failure: Option<Failure>,
}

/// The book of a load.
#[derive(Debug)]
pub struct Recorder {
    state: Mutex<State>,
}

impl Recorder {
    fn new(counts: Counts) -> Recorder {
        let state = State {
            counts,
            seen: 0,
            last: None,
            latency_us: histogram(),
            timeline: None,
            journal: None,
            failed: 0,
            first_failure: None,
        };
        Recorder { state: Mutex::new(state) }
    }

    /// Counts what is done between [`open`](Self::open) and [`close`](Self::close).
    pub fn of_closed_loop() -> Recorder {
        Recorder::new(Counts::Nothing)
    }

    /// Counts what is scheduled from `from` on.
    pub fn of_open_loop(from: Instant) -> Recorder {
        Recorder::new(Counts::From(from))
    }

    /// Keeps latencies over time as well, from `origin` on for `length`.
    pub fn with_timeline(self, origin: Instant, length: Duration) -> Recorder {
        self.state().timeline = Some(Timeline::new(origin, length));
        self
    }

    /// Keeps the number of each message and when it was done.
    pub fn with_journal(self) -> Recorder {
        self.state().journal = Some(Vec::new());
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These messages are done.
    pub fn done(&self, burst: impl IntoIterator<Item = Sent>, now: Instant) {
        let state = &mut *self.state();
        for sent in burst {
            state.seen += 1;
            if let Some(journal) = &mut state.journal {
                journal.push((sent.number, now));
            }
            let counts = match state.counts {
                Counts::Nothing => false,
                Counts::All => true,
                Counts::From(from) => sent.at >= from,
            };
            if !counts {
                continue;
            }
            state.last = Some(now);
            let micros = now.saturating_duration_since(sent.at).as_micros() as u64;
            state.latency_us.saturating_record(micros.max(1));
            if let Some(timeline) = &mut state.timeline {
                timeline.record(sent.at, micros);
            }
        }
    }

    /// A message was refused, or its outcome is unknown.
    pub fn failed(&self, failure: Failure) {
        let mut state = self.state();
        state.failed += 1;
        state.first_failure.get_or_insert(failure);
    }

    /// The measured span begins.
    pub fn open(&self) {
        self.state().counts = Counts::All;
    }

    /// The measured span is over.
    pub fn close(&self) {
        self.state().counts = Counts::Nothing;
    }

    /// Messages done so far, counted or not.
    pub fn seen(&self) -> u64 {
        self.state().seen
    }

    /// An error if any message failed: the first one's.
    pub fn check(&self) -> Result<(), Failure> {
        self.state().first_failure.take().map_or(Ok(()), Err)
    }

    /// All that was written down; the book is empty then.
    pub fn take(&self) -> Record {
        let state = &mut *self.state();
        Record {
            latency_us: std::mem::replace(&mut state.latency_us, histogram()),
            last: state.last,
            timeline: state.timeline.take(),
            journal: state.journal.take().unwrap_or_default(),
            failed: state.failed,
        }
    }
}

/// What a recorder has written down.
#[derive(Debug)]
pub struct Record {
    /// Of the messages that count.
    pub latency_us: Histogram<u64>,
    /// When the last of them was done.
    pub last: Option<Instant>,
    /// Latencies over time, if asked for.
    pub timeline: Option<Timeline>,
    /// Number and time of each message that was done, in that order, if asked for.
    pub journal: Vec<(u64, Instant)>,
    /// Messages that failed.
    pub failed: u64,
}

/// Latencies by the interval that messages were sent in.
#[derive(Debug)]
pub struct Timeline {
    origin: Instant,
    interval: Duration,
    intervals: Vec<Histogram<u32>>,
}

/// One interval of a timeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Middle of the interval, since the origin.
    pub second: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// 99 of 100 are faster.
    pub p99_ms: f64,
}

impl Timeline {
    /// An empty one, from `origin` on for `length`.
    pub fn new(origin: Instant, length: Duration) -> Timeline {
        let interval = INTERVAL.max(length / INTERVALS_MAX);
        let count = length.as_nanos().div_ceil(interval.as_nanos()) as usize;
        let empty = Histogram::new_with_bounds(1, LATENCY_MAX_US, 2);
        let intervals = vec![empty.expect("constant bounds are valid"); count];
        Timeline { origin, interval, intervals }
    }

    /// Puts a latency to the time that it counts from.
    pub fn record(&mut self, at: Instant, micros: u64) {
        let since = at.saturating_duration_since(self.origin);
        let index = (since.as_nanos() / self.interval.as_nanos()) as usize;
        if let Some(interval) = self.intervals.get_mut(index) {
            interval.saturating_record(micros.max(1));
        }
    }

    /// Seconds from the origin.
    pub fn second(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.origin).as_secs_f64()
    }

    /// The intervals in which anything was sent, in order.
    pub fn points(&self) -> Vec<Point> {
        let filled = self.intervals.iter().enumerate().filter(|(_, interval)| !interval.is_empty());
        let ms = |interval: &Histogram<u32>, quantile| {
            interval.value_at_quantile(quantile) as f64 / 1000.0
        };
        filled
            .map(|(index, interval)| Point {
                second: (index as f64 + 0.5) * self.interval.as_secs_f64(),
                p50_ms: ms(interval, 0.50),
                p99_ms: ms(interval, 0.99),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(at: Instant, count: u64) -> impl Iterator<Item = Sent> {
        (0..count).map(move |number| Sent { number, at })
    }

    #[test]
    fn a_closed_loop_counts_what_is_done_in_the_span() {
        let recorder = Recorder::of_closed_loop();
        let begun = Instant::now();
        recorder.done(burst(begun, 3), begun);
        recorder.open();
        recorder.done(burst(begun, 5), begun + Duration::from_millis(2));
        recorder.close();
        recorder.done(burst(begun, 7), begun);
        assert_eq!(recorder.seen(), 15);
        let record = recorder.take();
        assert_eq!(record.latency_us.len(), 5);
        assert_eq!(record.latency_us.value_at_quantile(0.5), 2000);
    }

    #[test]
    fn an_open_loop_counts_what_was_scheduled_in_the_span_however_late() {
        let begun = Instant::now();
        let from = begun + Duration::from_secs(1);
        let recorder = Recorder::of_open_loop(from);
        let late = from + Duration::from_secs(9);
        recorder.done(burst(begun, 3), late);
        recorder.done(burst(from, 2), late);
        let record = recorder.take();
        assert_eq!((record.latency_us.len(), record.last), (2, Some(late)));
        let p50 = record.latency_us.value_at_quantile(0.5) as f64;
        assert!((p50 / 9e6 - 1.0).abs() < 0.001, "three digits are kept: {p50}");
    }

    #[test]
    fn a_timeline_has_a_point_for_each_interval_with_messages() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let recorder = Recorder::of_open_loop(begun).with_timeline(begun, Duration::from_secs(1));
        recorder.done(burst(at(10), 1), at(12));
        recorder.done(burst(at(450), 100), at(454));
        recorder.done(burst(at(5000), 1), at(5001));
        let points = recorder.take().timeline.expect("asked for").points();
        assert_eq!(points.len(), 2, "what lies behind the end is left out: {points:?}");
        assert!((points[0].second - 0.05).abs() < 1e-9 && (points[1].second - 0.45).abs() < 1e-9);
        assert!((points[0].p50_ms / 2.0 - 1.0).abs() < 0.02, "{points:?}");
        assert!((points[1].p99_ms / 4.0 - 1.0).abs() < 0.02, "{points:?}");
    }

    #[test]
    fn a_long_run_has_longer_intervals_not_more() {
        let timeline = Timeline::new(Instant::now(), Duration::from_secs(86_400));
        assert_eq!(timeline.intervals.len(), INTERVALS_MAX as usize);
    }
}
