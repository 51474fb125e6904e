//! Moves a reader's slot behind what the application has confirmed.
//!
//! ```text
//!  confirm(offset) ──► wanted ──(EVERY, or flush, or the reader's end)──► advance_slot ──► confirmed
//! ```
//!
//! The task makes one call at a time, for all that was confirmed since the last one; so a slot never moves back,
//! and a fast reader costs the queue a few entries a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_proto::v1;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::client::Client;
use crate::error::Error;

/// How long confirmed messages gather before the slot is moved.
const EVERY: Duration = Duration::from_millis(200);
/// Pause after a call that no node took.
const RETRY: Duration = Duration::from_secs(1);
/// Callers of `flush` that may wait at a time; further ones wait to be let in.
const FLUSHES: usize = 16;

type Flushed = oneshot::Sender<Result<(), Error>>;

/// The reader's end.
pub(super) struct Confirms {
    shared: Arc<Shared>,
    flushes: mpsc::Sender<Flushed>,
    /// Not started before the reader is polled, as there may be no runtime before.
    task: Option<Task>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Rung when `wanted` has grown.
    bell: Notify,
}

#[derive(Default)]
struct State {
    /// Where the slot is to be.
    wanted: Option<u64>,
    /// Which slot that is, of all that had its name: queue's group, and when it was made.
    meant: (u64, u64),
    /// Why it will never be there.
    failed: Option<Error>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Confirms {
    pub fn new(client: Client, queue: String, slot: String) -> Self {
        let shared = Arc::<Shared>::default();
        let (flushes, requests) = mpsc::channel(FLUSHES);
        let task = Task { client, queue, slot, shared: shared.clone(), requests, at: None };
        Self { shared, flushes, task: Some(task) }
    }

    /// Begins to work.
    pub fn start(&mut self) {
        if let Some(task) = self.task.take() {
            tokio::spawn(task.run());
        }
    }

    /// The slot shall be at `position`, soon; it is the one that was read through for `read`.
    pub fn want(&self, position: u64, read: &v1::ReadPosition) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.meant = (read.group_id, read.slot_made_at);
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if state.wanted < Some(position) {
            state.wanted = Some(position);
            self.shared.bell.notify_one();
        }
        Ok(())
    }

    /// Waits until the slot is where it shall be.
    pub async fn flush(&self) -> Result<(), Error> {
        if self.task.is_some() {
            // Nothing was shown yet, so nothing was confirmed.
            return Ok(());
        }
        let (done, flushed) = oneshot::channel();
        let ended = || Error::Invalid("the program's runtime has stopped".to_owned());
        self.flushes.send(done).await.map_err(|_| ended())?;
        flushed.await.map_err(|_| ended())?
    }
}

struct Task {
    client: Client,
    queue: String,
    slot: String,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Flushed>,
    /// Where it has moved the slot.
    at: Option<u64>,
}

impl Task {
    async fn run(mut self) {
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                request = self.requests.recv() => {
                    let outcome = self.advance().await;
                    due = match &outcome {
                        Err(error) if !is_final(error) => Some(Instant::now() + RETRY),
                        _ => None,
                    };
                    match request {
                        // Who has left does not want to know.
                        Some(flushed) => drop(flushed.send(outcome)),
                        // The reader is gone, and there is nobody to tell.
                        None => return,
                    }
                }
                () = self.shared.bell.notified(), if due.is_none() => {
                    due = Some(Instant::now() + EVERY);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = match self.advance().await {
                        Err(error) if !is_final(&error) => Some(Instant::now() + RETRY),
                        _ => None,
                    };
                }
            }
        }
    }

    /// Moves the slot to where it shall be.
    async fn advance(&mut self) -> Result<(), Error> {
        let (to, (group_id, made_at)) = {
            let state = self.shared.lock();
            match (&state.failed, state.wanted) {
                (Some(failed), _) => return Err(failed.clone()),
                (None, wanted) if wanted == self.at => return Ok(()),
                (None, None) => return Ok(()),
                (None, Some(to)) => (to, state.meant),
            }
        };
        let (queue, slot) = (self.queue.clone(), self.slot.clone());
        let request = v1::AdvanceSlotRequest { queue, slot, offset: to, group_id, made_at };
        match self.client.move_slot(request).await {
            Ok(_) => {
                self.at = Some(to);
                Ok(())
            }
            Err(error) => {
                if is_final(&error) {
                    self.shared.lock().failed = Some(error.clone());
                }
                Err(error)
            }
        }
    }
}

/// Whether the same again would fail again.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Refused(_) | Error::Invalid(_))
}
