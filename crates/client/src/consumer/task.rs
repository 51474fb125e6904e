//! The task that owns a consumer's stream.
//!
//! ```text
//!  server ──► stream ──► ledger: seen before? ──► application
//!    ▲                     │ extends what is held        │ settles, drops
//!    └──── settles ◄───────┴─────────────────────────────┘
//! ```

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_proto::frame;
use quorate_proto::v1;
use quorate_proto::v1::consume_request::Request;
use quorate_proto::v1::consume_response::Response;
use quorate_proto::v1::consumer_service_client::ConsumerServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::consumer::delivery::{Command, Delivery, Handle};
use crate::consumer::ledger::{Lease, Ledger};
use crate::consumer::settles::{EXTENSIONS, Kind, Settle, Settles};
use crate::error::{ConsumeError, SettleError};
use crate::fault::Fault;
use crate::link::{Event, Exchange, Link, Requests};
use crate::nodes::MAX_ANSWER_BYTES;

/// Commands taken from the channel at a time.
const COMMANDS: usize = 256;
/// How long the answer to a settle may take before the stream is given up.
const ANSWER: Duration = Duration::from_secs(10);
/// How long closing may take, settles under way included.
const CLOSING: Duration = Duration::from_secs(5);

/// `ConsumerService.Consume`.
pub(crate) struct Consume;

impl Exchange for Consume {
    type Request = v1::ConsumeRequest;
    type Response = v1::ConsumeResponse;

    fn start(
        channel: Channel,
        requests: Requests<Self::Request>,
    ) -> BoxFuture<'static, Result<Streaming<Self::Response>, Status>> {
        let client = ConsumerServiceClient::new(channel);
        let mut client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
        async move { Ok(client.consume(requests).await?.into_inner()) }.boxed()
    }
}

pub(crate) type Shown = Result<Delivery, ConsumeError>;
/// Sent, or dropped, by the consumer that closes; what is inside is dropped once it is done.
pub(crate) type Close = oneshot::Receiver<oneshot::Sender<()>>;

pub(crate) struct Task {
    link: Link<Consume>,
    ledger: Ledger,
    settles: Settles,
    commands: mpsc::UnboundedReceiver<Command>,
    /// For the deliveries.
    handle: mpsc::UnboundedSender<Command>,
    deliveries: mpsc::UnboundedSender<Shown>,
    /// The queue is the shard of this number.
    pub shard: Option<u16>,
    lease: Duration,
    grace: Duration,
    /// The queue wants to know what the application has begun to handle.
    tells: bool,
    /// Messages can be given back uncharged.
    may_return: bool,
    /// Group and timeline of the log that the leases are of, once the server has told.
    log: Option<(u64, u64)>,
    /// When the leases held are to be looked through.
    next_look: Instant,
    /// When the stream broke; `None` while it is open, and once the leases are given up.
    broken: Option<Instant>,
    phase: Phase,
}

enum Phase {
    Open,
    /// Settles what was settled before, then detaches.
    Closing {
        until: Instant,
        detached: bool,
        _done: Option<oneshot::Sender<()>>,
    },
    Ended,
}

impl Task {
    pub fn new(
        link: Link<Consume>,
        prefetch: u32,
        grace: Duration,
        handle: mpsc::UnboundedSender<Command>,
        commands: mpsc::UnboundedReceiver<Command>,
        deliveries: mpsc::UnboundedSender<Shown>,
    ) -> Self {
        Self {
            link,
            ledger: Ledger::new(prefetch),
            settles: Settles::default(),
            commands,
            handle,
            deliveries,
            shard: None,
            lease: Duration::from_secs(30),
            grace,
            tells: false,
            may_return: false,
            log: None,
            next_look: Instant::now(),
            broken: None,
            phase: Phase::Open,
        }
    }

    /// Begins to work. Spawned here, a plain function, so that it is compiled with the SDK and not with each program that uses it.
    pub fn start(self) -> oneshot::Sender<oneshot::Sender<()>> {
        let (close, closed) = oneshot::channel();
        tokio::spawn(self.run(closed));
        close
    }

    async fn run(mut self, mut close: Close) {
        let mut arrived = Vec::with_capacity(COMMANDS);
        while !matches!(self.phase, Phase::Ended) {
            self.advance();
            let timer = self.timer();
            let is_open = matches!(self.phase, Phase::Open);
            tokio::select! {
                biased;
                done = &mut close, if is_open => self.close(done.ok()),
                event = self.link.next() => self.happened(event),
                _ = self.commands.recv_many(&mut arrived, COMMANDS) => {
                    arrived.drain(..).for_each(|command| self.take(command));
                }
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    self.time_is_over();
                }
            }
        }
        self.settles.fail_all(&SettleError::Closed);
    }

    fn take(&mut self, command: Command) {
        let settle = match command {
            Command::Started(lease) => return self.settles.started(lease),
            Command::Settle(mut settle) => {
                if settle.kind == Kind::Return && !self.may_return {
                    settle.kind = Kind::Nack { delay_ms: 0 };
                }
                settle
            }
            // Detaching returns it, and does not have it delivered to us again first.
            Command::Dropped(_) if !matches!(self.phase, Phase::Open) => return,
            Command::Dropped(lease) => Settle::new(Kind::Nack { delay_ms: 0 }, lease, None),
        };
        if self.ledger.settle(settle.lease) {
            self.settles.push(settle);
        } else {
            settle.finish(Err(SettleError::LeaseLost));
        }
    }

    /// Does all that can be done without waiting.
    fn advance(&mut self) {
        if !self.link.is_open() {
            return self.link.begin();
        }
        if self.settles.may_send() {
            let now = Instant::now();
            let extended = self.leases_to_extend(now);
            self.settles.retain_started(|lease| self.ledger.is_worked_on(lease));
            let lease_ms = u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX);
            if let Some(settle) = self.settles.request(extended, lease_ms, now) {
                self.send(Request::Settle(settle));
            }
        }
        if self.settles.is_empty()
            && let Phase::Closing { detached: detached @ false, .. } = &mut self.phase
        {
            *detached = true;
            self.send(Request::Detach(v1::Detach {}));
        }
    }

    /// Looks through what is held every eighth of a lease, for leases that are three eighths old: so each
    /// is extended before it is half over.
    fn leases_to_extend(&mut self, now: Instant) -> Vec<Lease> {
        if now < self.next_look || !matches!(self.phase, Phase::Open) {
            return Vec::new();
        }
        let due = self.ledger.extend(now, self.lease * 3 / 8, EXTENSIONS);
        // There may be more: the next request has them.
        if due.len() < EXTENSIONS {
            self.next_look = now + self.lease / 8;
        }
        due
    }

    fn send(&mut self, request: Request) {
        self.link.send(v1::ConsumeRequest { request: Some(request) });
    }

    fn timer(&self) -> Option<Instant> {
        let may_look = self.link.is_open() && self.settles.may_send() && !self.ledger.is_empty();
        let look = Some(self.next_look).filter(|_| may_look && matches!(self.phase, Phase::Open));
        let grace = self.broken.map(|since| since + self.grace);
        let answer = self.settles.waiting_since().map(|since| since + ANSWER);
        let closing = match self.phase {
            Phase::Closing { until, .. } => Some(until),
            Phase::Open | Phase::Ended => None,
        };
        [look, grace, answer, closing].into_iter().flatten().min()
    }

    fn time_is_over(&mut self) {
        let now = Instant::now();
        if self.broken.is_some_and(|since| since + self.grace <= now) {
            // The session has ended by now: its leases have returned to the queue.
            self.broken = None;
            self.ledger.lose_all();
            self.settles.fail_all(&SettleError::LeaseLost);
        }
        if self.settles.waiting_since().is_some_and(|since| since + ANSWER <= now) {
            self.retry(&Fault::transport(format!("a settle had no answer within {ANSWER:?}")));
        }
        if matches!(self.phase, Phase::Closing { until, .. } if until <= now) {
            self.phase = Phase::Ended;
        }
    }

    fn close(&mut self, done: Option<oneshot::Sender<()>>) {
        // What the application settled before it closed is in the channel.
        while let Ok(command) = self.commands.try_recv() {
            if matches!(command, Command::Settle(_) | Command::Started(_)) {
                self.take(command);
            }
        }
        let until = Instant::now() + CLOSING;
        self.phase = Phase::Closing { until, detached: false, _done: done };
    }

    fn happened(&mut self, event: Event<v1::ConsumeResponse>) {
        match event {
            Event::Opened(answer) => self.attached(answer),
            Event::Answer(answer) => {
                self.link.progressed();
                match answer.response {
                    Some(Response::Delivery(delivery)) => self.delivered(delivery),
                    Some(Response::Settled(settled)) => self.settled(settled),
                    _ => self.retry(&Fault::protocol("an answer without content")),
                }
            }
            Event::Broken(fault) => self.broke(fault),
        }
    }

    pub fn attached(&mut self, answer: v1::ConsumeResponse) {
        let Some(Response::Attached(attached)) = answer.response else {
            return self.retry(&Fault::protocol("the first answer is not `attached`"));
        };
        if attached.lease_ms > 0 {
            self.lease = Duration::from_millis(attached.lease_ms.into());
        }
        (self.tells, self.may_return) = (attached.tell_starts, attached.may_return);
        self.broken = None;
        let log = Some((attached.group, attached.timeline)).filter(|(group, _)| *group > 0);
        if self.log.is_some() && log.is_some() && self.log != log {
            // The queue was created again, or has lost what came last: offsets and tokens are given anew.
            self.settles.fail_all(&SettleError::LeaseLost);
            self.ledger.begin_anew();
        }
        self.log = log.or(self.log);
        // Nobody has extended what was held while the stream was away.
        self.next_look = Instant::now();
    }

    fn broke(&mut self, fault: Fault) {
        self.settles.stream_lost();
        self.broken.get_or_insert_with(Instant::now);
        if matches!(self.phase, Phase::Closing { detached: true, .. }) {
            self.phase = Phase::Ended;
        } else if !fault.is_retryable() {
            self.end(ConsumeError::Refused(fault.refusal));
        }
    }

    fn retry(&mut self, fault: &Fault) {
        self.settles.stream_lost();
        self.broken.get_or_insert_with(Instant::now);
        self.link.abandon(fault);
    }

    fn end(&mut self, error: ConsumeError) {
        let _ = self.deliveries.send(Err(error));
        self.phase = Phase::Ended;
    }

    fn delivered(&mut self, delivery: v1::Delivery) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let messages = match frame::messages(&delivery.frame.unwrap_or_default()) {
            Ok(messages) => messages,
            Err(error) => return self.end(error.into()),
        };
        let now = Instant::now();
        let token = delivery.token;
        for (offset, message) in (delivery.first_offset..).zip(messages) {
            let lease = self.ledger.lease(token, offset);
            if self.ledger.delivered(lease, now) {
                // A consumer that is gone closes us, which returns what is leased.
                let _ = self.deliveries.send(Ok(Delivery {
                    offset,
                    shard: self.shard,
                    attempt: delivery.attempt,
                    token,
                    headers: message.headers,
                    body: message.body,
                    handle: Handle::new(lease, self.tells, self.handle.clone()),
                }));
            }
        }
    }

    fn settled(&mut self, answer: v1::Settled) {
        let answered = match self.settles.answered(answer) {
            Ok(answered) => answered,
            Err(why) => return self.retry(&Fault::protocol(why)),
        };
        for (settle, outcome) in answered.settled {
            self.ledger.close(settle.lease);
            settle.finish(outcome);
        }
        for lease in answered.lost {
            // If it was settled meanwhile, the answer to that settle says what became of it.
            if self.ledger.holds(lease) {
                self.ledger.close(lease);
            }
        }
        if let Some(fault) = answered.retry {
            self.retry(&fault);
        }
    }
}
