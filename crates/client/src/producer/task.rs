//! The task that owns a producer's stream.
//!
//! ```text
//!  send ──► gathered ──cut──► window ──► stream ──► server
//!                               ▲          │
//!                               └─ answer ◄┘
//! ```
//! Nothing waits for a timer: with nothing unconfirmed, what is there goes at once; otherwise it gathers
//! until a batch is full or everything before it is confirmed. Receipts let callers send again: the
//! batch after them is cut when those have had their turn, and so holds what they sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_proto::frame::{FrameBuilder, LENGTH_BYTES};
use quorate_proto::v1;
use quorate_proto::v1::publish_stream_request::Request;
use quorate_proto::v1::publish_stream_response::Response;
use quorate_proto::v1::queue_service_client::QueueServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::error::{PublishError, Refusal};
use crate::fault::Fault;
use crate::link::{Event, Exchange, Link, Requests};
use crate::message::Message;
use crate::producer::window::{Batch, Next, Waiter, Window};
use crate::producer::{Condition, Room, Settings};

/// Commands taken from the channel at a time.
const COMMANDS: usize = 256;

/// Turns that callers have after receipts before the next batch is cut: one wakes them, one more if
/// another thread runs them, and as many again for those who waited for room.
const TURNS: usize = 4;

/// `QueueService.PublishStream`.
pub(crate) struct Publish;

impl Exchange for Publish {
    type Request = v1::PublishStreamRequest;
    type Response = v1::PublishStreamResponse;

    fn start(
        channel: Channel,
        requests: Requests<Self::Request>,
    ) -> BoxFuture<'static, Result<Streaming<Self::Response>, Status>> {
        let mut client = QueueServiceClient::new(channel);
        async move { Ok(client.publish_stream(requests).await?.into_inner()) }.boxed()
    }
}

/// A message on its way to the task.
pub(crate) struct Queued {
    pub message: Message,
    /// Bytes in a frame after the length field.
    pub bytes: usize,
    pub sent_at: Instant,
    pub waiter: Waiter,
    /// It is the first of a batch of its own; in a box, as few are.
    pub own: Option<Box<Own>>,
}

/// A batch that the caller has made.
pub(crate) struct Own {
    /// Its messages, the first among them.
    pub count: usize,
    pub condition: Condition,
}

pub(crate) enum Command {
    Send(Queued),
    /// The first one of them says that they are a batch.
    SendBatch(Vec<Queued>),
    /// Answered once everything sent before has an outcome.
    Flush(oneshot::Sender<()>),
}

pub(crate) struct Task {
    pub link: Link<Publish>,
    pub window: Window,
    pub settings: Settings,
    pub room: Arc<Room>,
    pub commands: mpsc::UnboundedReceiver<Command>,
    gathered: VecDeque<Queued>,
    gathered_bytes: usize,
    max_frame_bytes: usize,
    /// Messages taken from the channel so far.
    taken: u64,
    flushes: VecDeque<(u64, oneshot::Sender<()>)>,
    closed: bool,
    last: Refusal,
    /// Why nothing can be sent any more.
    ended: Option<Refusal>,
}

impl Task {
    pub fn new(
        link: Link<Publish>,
        settings: Settings,
        room: Arc<Room>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self {
            link,
            window: Window::new(settings.epoch, settings.ack),
            max_frame_bytes: settings.batch_bytes,
            settings,
            room,
            commands,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            taken: 0,
            flushes: VecDeque::new(),
            closed: false,
            last: nothing_met(),
            ended: None,
        }
    }

    /// Begins to work. Spawned here, a plain function, so that it is compiled with the SDK and not with each program that uses it.
    pub fn start(self) {
        tokio::spawn(self.run());
    }

    async fn run(mut self) {
        let mut arrived = Vec::with_capacity(COMMANDS);
        loop {
            self.advance();
            if self.closed && self.gathered.is_empty() && self.window.is_empty() {
                return;
            }
            let timer = self.timer();
            tokio::select! {
                biased;
                event = self.link.next() => {
                    self.happened(event);
                    self.gather_answers().await;
                }
                count = self.commands.recv_many(&mut arrived, COMMANDS), if !self.closed => {
                    self.closed = count == 0;
                    arrived.drain(..).for_each(|command| self.take(command));
                }
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    self.time_is_over();
                }
            }
        }
    }

    /// Gives callers the room of what was confirmed, and takes what they send in answer. A batch of
    /// what was there before would leave all of it to the batch after: twice the batches, each half.
    async fn gather_answers(&mut self) {
        let confirmed = self.release();
        if confirmed + self.gathered.len() < 2 {
            return;
        }
        for _ in 0..TURNS {
            if !self.window.is_empty() || self.must_cut() {
                return;
            }
            tokio::task::yield_now().await;
            while let Ok(command) = self.commands.try_recv() {
                self.take(command);
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Flush(done) => self.flushes.push_back((self.taken, done)),
            Command::Send(queued) => self.gather(queued),
            Command::SendBatch(batch) => batch.into_iter().for_each(|queued| self.gather(queued)),
        }
    }

    fn gather(&mut self, queued: Queued) {
        self.taken += 1;
        self.gathered_bytes += queued.bytes + LENGTH_BYTES;
        self.gathered.push_back(queued);
    }

    /// Does all that can be done without waiting.
    fn advance(&mut self) {
        if let Some(refusal) = self.ended.clone() {
            self.fail_gathered(&PublishError::Refused(refusal));
        }
        match self.window.reseal() {
            Some(false) => {}
            Some(true) => self.link.reopen(self.settings.open(self.window.epoch())),
            None => self.end(Refusal { message: "no epochs are left".into(), ..<_>::default() }),
        }
        if self.link.is_open() {
            self.send_what_may_go();
        } else if !(self.gathered.is_empty() && self.window.is_empty()) {
            self.link.begin();
        }
        self.release();
        self.answer_flushes();
    }

    fn send_what_may_go(&mut self) {
        let now = Instant::now();
        loop {
            while let Some(batch) = self.window.next_to_send(now) {
                let request = Some(Request::Batch(batch));
                self.link.send(v1::PublishStreamRequest { request });
            }
            if !self.may_cut() {
                return;
            }
            let batch = self.cut();
            self.window.push(batch);
        }
    }

    fn may_cut(&self) -> bool {
        self.window.takes_more()
            && !self.gathered.is_empty()
            && (self.window.is_empty() || self.must_cut())
    }

    /// What is gathered waits for nothing: it is full, or somebody waits for the end of it.
    fn must_cut(&self) -> bool {
        let is_full = self.gathered.len() >= self.settings.batch_messages
            || self.gathered_bytes >= self.settings.batch_bytes;
        // Nothing joins a batch that the caller has made.
        let is_own = self.gathered.front().is_some_and(|queued| queued.own.is_some());
        is_full || is_own || self.closed || !self.flushes.is_empty()
    }

    /// Makes a batch of what was sent first.
    fn cut(&mut self) -> Batch {
        let limit = self.settings.batch_bytes.min(self.max_frame_bytes);
        let mut size = 0;
        let fits = |queued: &&Queued| {
            let first = size == 0;
            size += queued.bytes + LENGTH_BYTES;
            first || size <= limit
        };
        let own = self.gathered[0].own.take();
        let most = self.gathered.iter().take(self.settings.batch_messages);
        let count = match &own {
            Some(own) => own.count,
            None => most.take_while(|queued| queued.own.is_none()).take_while(fits).count(),
        };
        let first = self.taken - self.gathered.len() as u64;
        let deadline = self.gathered[0].sent_at + self.settings.deadline;
        let bytes: usize =
            self.gathered.iter().take(count).map(|queued| queued.bytes + LENGTH_BYTES).sum();
        let mut frame = FrameBuilder::with_capacity(bytes);
        let mut properties = Vec::new();
        let mut waiters = Vec::with_capacity(count);
        let mut room = 0;
        for queued in self.gathered.drain(..count) {
            // Was checked when it was sent, and `batch_messages` is below the frame's limit.
            let message = &queued.message;
            match frame.push_keyed(message.headers(), message.key(), message.body()) {
                Ok(()) => {
                    queued.message.add_properties(&mut properties, waiters.len() as u32);
                    waiters.push(queued.waiter);
                }
                Err(error) => drop(queued.waiter.send(Err(error.into()))),
            }
            room += self.settings.room_of(queued.bytes);
        }
        self.gathered_bytes -= bytes;
        let mut batch = Batch::new(frame.finish(), waiters, room, first, deadline);
        batch.properties = properties;
        batch.shard = self.settings.shard;
        batch.condition = own.map(|own| own.condition).unwrap_or_default();
        batch
    }

    /// Gives room back for messages whose outcome is known; how many those are.
    fn release(&mut self) -> usize {
        let done = self.window.take_done();
        done.iter().for_each(|batch| self.room.release(batch.messages(), batch.bytes));
        done.iter().map(Batch::messages).sum()
    }

    fn answer_flushes(&mut self) {
        let gathered = (self.taken - self.gathered.len() as u64, !self.gathered.is_empty());
        let open = match (self.window.first_open(), gathered) {
            (Some(first), _) | (None, (first, true)) => first,
            (None, (_, false)) => u64::MAX,
        };
        while self.flushes.front().is_some_and(|(upto, _)| *upto <= open) {
            if let Some((_, done)) = self.flushes.pop_front() {
                let _ = done.send(());
            }
        }
    }

    fn timer(&self) -> Option<Instant> {
        let gathered = self.gathered.front().map(|queued| queued.sent_at + self.settings.deadline);
        let answer = self.window.waiting_since().map(|since| since + self.settings.answer_limit());
        [self.window.deadline(), gathered, answer].into_iter().flatten().min()
    }

    fn time_is_over(&mut self) {
        let now = Instant::now();
        let after = self.settings.deadline;
        let answer_limit = self.settings.answer_limit();
        if self.window.waiting_since().is_some_and(|since| since + answer_limit <= now) {
            self.retry(Fault::transport(format!("no answer within {answer_limit:?}")));
        }
        self.window.expire(now, after, &self.last);
        while self.gathered.front().is_some_and(|queued| queued.sent_at + after <= now) {
            let error = PublishError::Unavailable { after, last: self.last.clone() };
            self.fail_first_gathered(&error);
        }
    }

    fn happened(&mut self, event: Event<v1::PublishStreamResponse>) {
        match event {
            Event::Opened(answer) => self.opened(answer),
            Event::Answer(answer) => self.answered(answer),
            Event::Broken(fault) => {
                self.window.lost();
                if !fault.is_retryable() {
                    self.fail_everything(&fault.refusal);
                }
                self.met(fault.refusal);
            }
        }
    }

    fn met(&mut self, refusal: Refusal) {
        self.room.is_stalled.store(true, Ordering::Relaxed);
        self.last = refusal.or_better(std::mem::take(&mut self.last));
    }

    pub fn opened(&mut self, answer: v1::PublishStreamResponse) {
        match answer.response {
            Some(Response::Opened(opened)) => {
                self.room.max_message_bytes.store(opened.max_message_bytes, Ordering::Relaxed);
                self.room.is_stalled.store(false, Ordering::Relaxed);
                if let Ok(limit @ 1..) = usize::try_from(opened.max_frame_bytes) {
                    self.max_frame_bytes = limit;
                }
            }
            _ => self.retry(Fault::protocol("the first answer is not `opened`")),
        }
    }

    fn answered(&mut self, answer: v1::PublishStreamResponse) {
        let next = match answer.response {
            Some(Response::Receipt(v1::PublishReceipt { id, receipt: Some(receipt) })) => {
                self.window.receipt(id, &receipt).map(|()| (Next::GoOn, None))
            }
            Some(Response::Failure(v1::PublishFailure { id, failure })) => {
                let fault = Fault::from(failure.unwrap_or_default());
                self.window.failure(id, &fault).map(|next| (next, Some(fault)))
            }
            _ => Err("an answer without content"),
        };
        match next {
            Ok((Next::GoOn, _)) => {
                self.link.progressed();
                self.last = nothing_met();
            }
            Ok((Next::Retry, fault)) => {
                self.retry(fault.unwrap_or_else(|| Fault::transport("retry")));
            }
            Ok((Next::Fenced, fault)) => {
                self.end(fault.map(|fault| fault.refusal).unwrap_or_default());
            }
            Err(why) => self.retry(Fault::protocol(why)),
        }
    }

    fn retry(&mut self, fault: Fault) {
        self.window.lost();
        self.link.abandon(&fault);
        self.met(fault.refusal);
    }

    fn end(&mut self, refusal: Refusal) {
        self.fail_everything(&refusal);
        self.link.rest();
        self.ended = Some(refusal);
    }

    fn fail_everything(&mut self, refusal: &Refusal) {
        self.window.fail_all(refusal);
        self.fail_gathered(&PublishError::Refused(refusal.clone()));
    }

    fn fail_gathered(&mut self, error: &PublishError) {
        while !self.gathered.is_empty() {
            self.fail_first_gathered(error);
        }
    }

    fn fail_first_gathered(&mut self, error: &PublishError) {
        if let Some(queued) = self.gathered.pop_front() {
            self.gathered_bytes -= queued.bytes + LENGTH_BYTES;
            self.room.release(1, self.settings.room_of(queued.bytes));
            let _ = queued.waiter.send(Err(error.clone()));
        }
    }
}

fn nothing_met() -> Refusal {
    Refusal { message: "no node has answered yet".into(), ..Refusal::default() }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.room.close();
    }
}

impl Settings {
    /// How long an answer may take before the stream is given up.
    fn answer_limit(&self) -> Duration {
        (self.deadline / 3).clamp(Duration::from_millis(500), Duration::from_secs(10))
    }
}
