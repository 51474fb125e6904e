//! When messages are due in an open loop, and the thread that hands them out on time.
//!
//! ```text
//! Schedule ──due──► pacer thread ──► lane of each producer ──► Producer.send
//! ```
//! A message counts from the moment it was due. If the cluster stalls, those that could not be sent meanwhile
//! are measured as waiting, which a load that waits for answers would leave out (coordinated omission). A
//! thread sleeps to some 60 µs, the runtime's timers to a millisecond: too coarse for what is measured.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::commands::bench::record::Sent;
use crate::exit::Exit;
use crate::failure::Failure;

/// The pacer rests at least this long, so that a high rate does not cost it a processor.
const PAUSE_MIN: Duration = Duration::from_micros(100);

/// A fixed rate from a moment on, for a number of messages.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    begin: Instant,
    per_second: u64,
    messages: u64,
}

impl Schedule {
    /// `per_second` messages a second for `length`; at least one message.
    pub fn new(begin: Instant, per_second: u64, length: Duration) -> Schedule {
        let messages = (per_second as f64 * length.as_secs_f64()).round() as u64;
        Schedule { begin, per_second, messages: messages.max(1) }
    }

    /// Messages in all.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// When a message is due.
    fn at(&self, number: u64) -> Instant {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.per_second);
        self.begin + Duration::from_nanos(nanos as u64)
    }

    /// How many messages are due by now.
    fn due(&self, now: Instant) -> u64 {
        let Some(since) = now.checked_duration_since(self.begin) else { return 0 };
        let passed = since.as_nanos() * u128::from(self.per_second) / 1_000_000_000;
        self.messages.min(passed as u64 + 1)
    }
}

/// Messages for one producer as they become due; what waits in it is bounded by the schedule.
pub type Lane = UnboundedReceiver<Sent>;

/// Starts the pacer; it ends with the schedule, or once no producer is left. Messages go to the lanes in turn.
pub fn pace(schedule: Schedule, lanes: u64) -> Result<Vec<Lane>, Failure> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..lanes).map(|_| unbounded_channel()).unzip();
    thread::Builder::new()
        .name("pacer".to_owned())
        .spawn(move || hand_out(schedule, &senders))
        .map_err(|error| {
            Failure::new(Exit::Failed, format!("start the thread that keeps the rate: {error}"))
        })?;
    Ok(receivers)
}

fn hand_out(schedule: Schedule, lanes: &[UnboundedSender<Sent>]) {
    let mut next = 0;
    while next < schedule.messages {
        let due = schedule.due(Instant::now());
        for number in next..due {
            let lane = &lanes[(number % lanes.len() as u64) as usize];
            let sent = Sent { number, at: schedule.at(number) };
            if lane.send(sent).is_err() {
                return;
            }
        }
        next = due.max(next);
        let wait = schedule.at(next).saturating_duration_since(Instant::now());
        thread::sleep(wait.max(PAUSE_MIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_a_fixed_rate_and_no_more_than_there_are() {
        let begin = Instant::now() + Duration::from_secs(1);
        let schedule = Schedule::new(begin, 1000, Duration::from_secs(2));
        assert_eq!(schedule.messages(), 2000);
        assert_eq!(schedule.due(begin - Duration::from_millis(1)), 0);
        assert_eq!(schedule.due(begin), 1);
        assert_eq!(schedule.due(begin + Duration::from_micros(1500)), 2);
        assert_eq!(schedule.due(begin + Duration::from_secs(60)), 2000);
        assert_eq!(schedule.at(500), begin + Duration::from_millis(500));
    }

    #[test]
    fn what_is_due_agrees_with_when_at_odd_rates() {
        for rate in [1, 3, 7, 999, 33_333, 1_000_000] {
            let schedule = Schedule::new(Instant::now(), rate, Duration::from_secs(5));
            for number in [0, 1, 2, schedule.messages() - 1] {
                let due = schedule.due(schedule.at(number) + Duration::from_nanos(1));
                assert!(due > number, "message {number} at {rate}/s is not due at its time");
            }
        }
    }

    #[test]
    fn lanes_get_messages_in_turn_not_before_their_time() {
        let schedule = Schedule::new(Instant::now(), 2000, Duration::from_millis(20));
        let mut lanes = pace(schedule, 2).expect("start the pacer");
        for (index, lane) in lanes.iter_mut().enumerate() {
            let mut expected = index as u64;
            while let Some(sent) = lane.blocking_recv() {
                assert_eq!(sent.number, expected);
                assert!(sent.at <= Instant::now());
                expected += 2;
            }
            assert_eq!(expected, 40 + index as u64);
        }
    }
}
