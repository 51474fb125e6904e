//! The way to one queue: what is sent on it, and the task that sends it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_proto::frame;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::PublishError;
use crate::link::Link;
use crate::message::Message;
use crate::nodes::Nodes;
use crate::producer::task::{Command, Own, Publish, Queued, Task};
use crate::producer::{Batch, Pending, Room, Settings};
use crate::sharding::refused;

/// Publishes to one queue.
#[derive(Debug)]
pub(crate) struct Lane {
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Room>,
    settings: Settings,
}

impl Lane {
    /// One whose stream is opened once there is something to send.
    pub fn begin(nodes: Arc<Nodes>, settings: Settings) -> Self {
        let link = Link::new(nodes, settings.queue.clone(), settings.open(settings.epoch));
        let (lane, task) = Self::with(link, settings);
        task.start();
        lane
    }

    /// One over a link, and its task, yet to be run.
    pub fn with(link: Link<Publish>, settings: Settings) -> (Self, Task) {
        let room = Arc::new(Room::new(&settings));
        let (commands, taken) = mpsc::unbounded_channel();
        let task = Task::new(link, settings.clone(), Arc::clone(&room), taken);
        (Self { commands, room, settings }, task)
    }

    /// What is sent now will wait: the queue cannot be reached, or enough waits for it already.
    pub fn is_stalled(&self) -> bool {
        self.room.is_stalled.load(Ordering::Relaxed) || self.room.messages.available_permits() == 0
    }

    pub async fn send(&self, message: Message) -> Result<Pending, PublishError> {
        let bytes = self.check(&message)?;
        self.room.take(1, self.settings.room_of(bytes)).await?;
        let (waiter, outcome) = oneshot::channel();
        let queued = Queued { message, bytes, sent_at: Instant::now(), waiter, own: None };
        self.commands.send(Command::Send(queued)).map_err(|_| PublishError::Closed)?;
        Ok(Pending { outcome })
    }

    fn check(&self, message: &Message) -> Result<usize, PublishError> {
        let bytes = frame::check_keyed(message.headers(), message.key(), message.body())?;
        message.check_properties()?;
        let limit = self.room.max_message_bytes.load(Ordering::Relaxed);
        if limit > 0 && bytes as u64 > limit {
            return Err(PublishError::TooLarge { bytes: bytes as u64, limit });
        }
        Ok(bytes)
    }

    pub async fn send_batch(&self, batch: Batch) -> Result<Vec<Pending>, PublishError> {
        let Batch { messages, condition } = batch;
        let count = messages.len();
        let mut sizes = Vec::with_capacity(count);
        for message in &messages {
            sizes.push(self.check(message)?);
        }
        let bytes: usize = sizes.iter().map(|bytes| self.settings.room_of(*bytes)).sum();
        let Settings { in_flight, max_in_flight_bytes, .. } = self.settings;
        let most = in_flight.min(frame::MAX_FRAME_MESSAGES as usize);
        if !(1..=most).contains(&count) {
            return Err(refused(format!("a batch has 1 to {most} messages, not {count}")));
        }
        if count > 1 && bytes > max_in_flight_bytes {
            let message = format!("a batch has at most {max_in_flight_bytes} bytes, not {bytes}");
            return Err(refused(message));
        }
        self.room.take(count, bytes).await?;
        let sent_at = Instant::now();
        let mut own = Some(Box::new(Own { count, condition }));
        let (mut queued, mut pending) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (message, bytes) in messages.into_iter().zip(sizes) {
            let (waiter, outcome) = oneshot::channel();
            queued.push(Queued { message, bytes, sent_at, waiter, own: own.take() });
            pending.push(Pending { outcome });
        }
        self.commands.send(Command::SendBatch(queued)).map_err(|_| PublishError::Closed)?;
        Ok(pending)
    }

    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.commands.send(Command::Flush(done)).is_ok() {
            // An error says that the task has ended, and with it every outcome is known.
            let _ = flushed.await;
        }
    }
}
