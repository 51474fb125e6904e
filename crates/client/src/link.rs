//! A bidirectional stream to whichever node leads a queue, opened again when it breaks.
//!
//! ```text
//!            begin                 opened
//!   Idle ───────────► Opening ──────────────► Open
//!    ▲                  │  ▲                    │
//!    │ refused          │  │ pause is over      │ broken
//!    └──────────────────┴──┴──── Waiting ◄──────┘
//! ```
//! The owner reads [`Event`]s and sends requests; this module decides which node to go to: a leader
//! that was named in an error, else the one that `LocateQueue` names, else the node that was asked,
//! which forwards. A stream that any replica may serve goes to the nearest one instead.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::Stream;
use quorate_proto::reason;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::address::Address;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::Error;
use crate::fault::Fault;
use crate::nodes::Nodes;
use crate::replicas::Replicas;

/// One attempt to open a stream takes at most this long, finding the leader included.
const OPENING: Duration = Duration::from_secs(3);
/// How often in a row the leader that a node names is followed without a pause.
const REDIRECTS: u32 = 3;

/// One of the streaming calls of the API.
pub(crate) trait Exchange: 'static {
    type Request: Clone + Send + Sync + 'static;
    type Response: Send + Sync + 'static;

    fn start(
        channel: Channel,
        requests: Requests<Self::Request>,
    ) -> BoxFuture<'static, Result<Streaming<Self::Response>, Status>>;
}

/// What the owner of a stream sends on it. How much that may be, the owner bounds.
pub(crate) struct Requests<R>(UnboundedReceiver<R>);

impl<R> Stream for Requests<R> {
    type Item = R;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<R>> {
        self.0.poll_recv(context)
    }
}

/// What happened to the stream.
pub(crate) enum Event<R> {
    /// It is open; this is the first answer.
    Opened(R),
    Answer(R),
    /// It is gone. It is opened again by itself, after a pause, unless the fault is a refusal.
    Broken(Fault),
}

pub(crate) struct Link<E: Exchange> {
    nodes: Arc<Nodes>,
    queue: String,
    /// What to open the stream with.
    first: E::Request,
    state: State<E>,
    backoff: Backoff,
    redirects: u32,
    leader: Option<Address>,
    avoid: Option<Address>,
    /// Of a stream that any of them may serve. Only the attempt under way uses it.
    replicas: Option<Arc<Mutex<Replicas>>>,
    /// The stream that is open, or was, has had an answer after its first.
    has_progressed: bool,
}

enum State<E: Exchange> {
    Idle,
    Waiting(Pin<Box<Sleep>>),
    Opening(BoxFuture<'static, Result<Opened<E>, Broken>>),
    Open(Box<Open<E>>),
}

struct Open<E: Exchange> {
    address: Address,
    requests: UnboundedSender<E::Request>,
    responses: Streaming<E::Response>,
}

struct Opened<E: Exchange> {
    open: Open<E>,
    first: E::Response,
}

struct Broken {
    fault: Fault,
    address: Option<Address>,
}

impl<E: Exchange> Link<E> {
    pub fn new(nodes: Arc<Nodes>, queue: String, first: E::Request) -> Self {
        Self {
            nodes,
            queue,
            first,
            state: State::Idle,
            backoff: Backoff::new(),
            redirects: 0,
            leader: None,
            avoid: None,
            replicas: None,
            has_progressed: false,
        }
    }

    /// Goes to these in turn, rather than to the leader.
    pub fn at_any(mut self, replicas: Replicas) -> Self {
        self.replicas = Some(Arc::new(Mutex::new(replicas)));
        self
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Opens the stream for the first time and returns its first answer.
    pub async fn open_within(&mut self, limit: Duration) -> Result<E::Response, Error> {
        let deadline = Instant::now() + limit;
        let mut last = Fault::transport("no node has answered");
        self.begin();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.next()).await {
                Ok(Event::Opened(answer) | Event::Answer(answer)) => return Ok(answer),
                Ok(Event::Broken(mut fault)) if fault.is_retryable() => {
                    fault.refusal = fault.refusal.or_better(last.refusal);
                    last = fault;
                }
                Ok(Event::Broken(fault)) => return Err(Error::after(fault, limit, false)),
                Err(_) => return Err(Error::after(last, limit, false)),
            }
        }
    }

    /// Starts to open the stream if nothing is under way.
    pub fn begin(&mut self) {
        if matches!(self.state, State::Idle) {
            self.open_now();
        }
    }

    /// Opens a new stream in place of the present one, with another first request.
    pub fn reopen(&mut self, first: E::Request) {
        self.first = first;
        match &self.state {
            State::Open(open) => {
                self.leader = Some(open.address.clone());
                self.open_now();
            }
            State::Opening(_) => self.open_now(),
            State::Idle | State::Waiting(_) => {}
        }
    }

    /// Gives the present stream up; what follows is as if it had broken.
    pub fn abandon(&mut self, fault: &Fault) {
        let address = match &self.state {
            State::Open(open) => Some(open.address.clone()),
            _ => None,
        };
        self.broken(fault, address);
    }

    /// Lets go of the stream and does not open it again until `begin`.
    pub fn rest(&mut self) {
        self.state = State::Idle;
    }

    /// Hands a request to the open stream; without one it is dropped, as if the stream broke after it.
    pub fn send(&self, request: E::Request) {
        if let State::Open(open) = &self.state {
            // A closed stream is told of by `next`.
            let _ = open.requests.send(request);
        }
    }

    /// The request that was sent was answered: the way is good.
    pub fn progressed(&mut self) {
        self.backoff.reset();
        self.redirects = 0;
        self.avoid = None;
        self.has_progressed = true;
    }

    /// Waits for what happens next; for ever when idle. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Event<E::Response> {
        loop {
            match &mut self.state {
                State::Idle => pending().await,
                State::Waiting(pause) => {
                    pause.as_mut().await;
                    self.open_now();
                }
                State::Opening(opening) => match opening.as_mut().await {
                    Ok(opened) => {
                        self.state = State::Open(Box::new(opened.open));
                        return Event::Opened(opened.first);
                    }
                    Err(Broken { fault, address }) => {
                        self.broken(&fault, address);
                        return Event::Broken(fault);
                    }
                },
                State::Open(open) => {
                    let fault = match open.responses.message().await {
                        Ok(Some(answer)) => return Event::Answer(answer),
                        Ok(None) => Fault::transport(format!("{} ended the stream", open.address)),
                        Err(status) => Fault::from(status),
                    };
                    let address = open.address.clone();
                    self.broken(&fault, Some(address));
                    return Event::Broken(fault);
                }
            }
        }
    }

    fn open_now(&mut self) {
        let nodes = Arc::clone(&self.nodes);
        let queue = self.queue.clone();
        let (leader, avoid) = (self.leader.take(), self.avoid.clone());
        let (first, replicas) = (self.first.clone(), self.replicas.clone());
        self.state = State::Opening(Box::pin(open(nodes, queue, leader, avoid, replicas, first)));
    }

    /// Decides where to go and when, after a fault met at `address`.
    fn broken(&mut self, fault: &Fault, address: Option<Address>) {
        if !fault.is_retryable() {
            self.state = State::Idle;
            return;
        }
        // A node that wants its stream opened anew is as good for that as any.
        let was_good = fault.refusal.reason == reason::SESSION_CLOSED;
        if let Some(address) = address.as_ref().filter(|_| !was_good) {
            self.nodes.failed(address, fault);
        }
        // A replica that was good is as good as any other again.
        if (std::mem::take(&mut self.has_progressed) || was_good)
            && let Some(replicas) = &self.replicas
            && let Ok(mut replicas) = replicas.try_lock()
        {
            replicas.begin_anew();
        }
        self.leader = fault.leader.clone().filter(|leader| Some(leader) != address.as_ref());
        self.avoid = address.filter(|_| !was_good);
        if self.leader.is_some() && self.redirects < REDIRECTS {
            self.redirects += 1;
            self.open_now();
        } else {
            let pause = self.backoff.pause(fault.refusal.retry_after);
            self.state = State::Waiting(Box::pin(sleep(pause)));
        }
    }
}

async fn open<E: Exchange>(
    nodes: Arc<Nodes>,
    queue: String,
    leader: Option<Address>,
    avoid: Option<Address>,
    replicas: Option<Arc<Mutex<Replicas>>>,
    first: E::Request,
) -> Result<Opened<E>, Broken> {
    let mut address = leader;
    let opening = async {
        if let (None, Some(replicas)) = (&address, replicas) {
            let client = Client { nodes: Arc::clone(&nodes) };
            address = Some(replicas.lock().await.next(&client, &queue).await?);
        } else if address.is_none() {
            let located = nodes.locate(&queue).await?;
            let leader = located.leader.filter(|leader| Some(leader) != avoid.as_ref());
            address = Some(leader.unwrap_or(located.by));
        }
        let Some(address) = address.clone() else {
            return Err(Fault::protocol("no node to open a stream at"));
        };
        open_at(&nodes, address, first).await
    };
    let opened = match timeout(OPENING, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(Fault::transport(format!("no stream was opened within {OPENING:?}"))),
    };
    opened.map_err(|fault| Broken { fault, address })
}

async fn open_at<E: Exchange>(
    nodes: &Nodes,
    address: Address,
    first: E::Request,
) -> Result<Opened<E>, Fault> {
    let channel = nodes.channel(&address).await?;
    let (requests, queued) = unbounded_channel();
    // Cannot fail: `queued` is here.
    let _ = requests.send(first);
    let mut responses = E::start(channel, Requests(queued)).await?;
    match responses.message().await? {
        Some(first) => Ok(Opened { open: Open { address, requests, responses }, first }),
        None => Err(Fault::transport(format!("{address} ended the stream at once"))),
    }
}
