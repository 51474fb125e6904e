//! The nodes that we know, the connections to them, and which one to ask next.
//!
//! One connection a node is shared by everything that a [`Client`](crate::Client) does: more gain
//! nothing. Nodes given by the user are never forgotten, for what the cluster says of its addresses may
//! not be reachable from here.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use quorate_proto::v1;
use quorate_proto::v1::cluster_service_client::ClusterServiceClient;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::address::Address;
use crate::backoff::Backoff;
use crate::error::{Error, Refusal};
use crate::fault::{Fault, Verdict};

/// How much one stream may have under way before its reader has to catch up.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Largest HTTP/2 frame that a node may send us: it costs the node a system call each.
#[cfg(not(madsim))]
const HTTP2_FRAME_BYTES: u32 = 256 * 1024;
/// A silent node is asked for a sign of life this often, and given up after the same time without one.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// One node gets at most this long for one call before another one is asked.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Most nodes remembered beyond those that the user named.
const KNOWN_NODES: usize = 1024;
/// Largest answer taken: a frame of the largest message, and what goes around it.
pub(crate) const MAX_ANSWER_BYTES: usize = 2 * quorate_proto::frame::MAX_MESSAGE_BYTES;

#[derive(Debug)]
pub(crate) struct Nodes {
    connect_timeout: Duration,
    request_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: Vec<Address>,
    /// Index into `known` of the node to ask.
    current: usize,
    channels: BTreeMap<Address, Channel>,
}

/// Whether a call that may have been carried out twice, or once without an answer, has to say so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Reads,
    Writes,
    /// Not twice: once it may have had its effect, it is not asked again.
    Once,
}

/// A call that was not answered with success in time.
pub(crate) struct Failed {
    pub fault: Fault,
    /// An attempt before the last one may have had its effect.
    pub maybe_done: bool,
    pub after: Duration,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        Self::after(failed.fault, failed.after, failed.maybe_done)
    }
}

/// Where to open a stream.
pub(crate) struct Located {
    pub leader: Option<Address>,
    /// The node that said so; it forwards.
    pub by: Address,
}

impl Nodes {
    /// `seeds` holds at least one address.
    pub fn new(seeds: Vec<Address>, connect_timeout: Duration, request_timeout: Duration) -> Self {
        let state = State { known: seeds, current: 0, channels: BTreeMap::new() };
        Self { connect_timeout, request_timeout, state: Mutex::new(state) }
    }

    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node to ask.
    pub fn current(&self) -> Address {
        let state = self.state();
        state.known[state.current].clone()
    }

    /// Adds nodes that the cluster has named.
    pub fn learn<'a>(&self, addresses: impl IntoIterator<Item = &'a String>) {
        let mut state = self.state();
        for address in addresses.into_iter().filter_map(|text| Address::parse(text).ok()) {
            if state.known.len() < KNOWN_NODES && !state.known.contains(&address) {
                state.known.push(address);
            }
        }
    }

    /// Moves on to the next node if `address` is the one being asked, and drops its connection if that
    /// is what failed.
    pub fn failed(&self, address: &Address, fault: &Fault) {
        let mut state = self.state();
        if fault.refusal.reason.is_empty() {
            state.channels.remove(address);
        }
        if state.known[state.current] == *address {
            state.current = (state.current + 1) % state.known.len();
        }
    }

    /// The connection to a node, made if there is none.
    pub async fn channel(&self, address: &Address) -> Result<Channel, Fault> {
        if let Some(channel) = self.state().channels.get(address) {
            return Ok(channel.clone());
        }
        let connecting = connect(address, self.connect_timeout);
        let channel = timeout(self.connect_timeout, connecting)
            .await
            .map_err(|late| Fault::unreachable(address, &late))?
            .map_err(|error| Fault::unreachable(address, &error))?;
        self.state().channels.insert(address.clone(), channel.clone());
        Ok(channel)
    }

    /// Asks one node after the other until one answers, a refusal comes, or the time is over. What is told
    /// then is the last that a node has answered, if one has: that others cannot be reached says less.
    pub async fn call<T, A, F>(&self, effect: Effect, ask: A) -> Result<T, Failed>
    where
        A: Fn(Channel) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_with(effect, ATTEMPT, ask).await
    }

    /// As [`Self::call`], of what may take a node as long as there is time: it is not begun anew elsewhere while the node
    /// is at it.
    pub async fn call_patiently<T, A, F>(&self, effect: Effect, ask: A) -> Result<T, Failed>
    where
        A: Fn(Channel) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_with(effect, self.request_timeout, ask).await
    }

    async fn call_with<T, A, F>(&self, effect: Effect, most: Duration, ask: A) -> Result<T, Failed>
    where
        A: Fn(Channel) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (begin, after) = (Instant::now(), self.request_timeout);
        let deadline = begin + after;
        let mut backoff = Backoff::new();
        let mut maybe_done = false;
        let mut told = Refusal::default();
        loop {
            let address = self.current();
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fault = match self.attempt(&address, left.min(most), &ask).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            self.failed(&address, &fault);
            let pause = backoff.pause(fault.refusal.retry_after);
            maybe_done |= effect != Effect::Reads && fault.verdict == Verdict::Unknown;
            if effect == Effect::Once && maybe_done {
                return Err(Failed { fault, maybe_done, after: begin.elapsed() });
            }
            if !fault.is_retryable() {
                return Err(Failed { fault, maybe_done, after });
            }
            told = fault.refusal.or_better(told);
            if Instant::now() + pause >= deadline {
                fault.refusal = told;
                return Err(Failed { fault, maybe_done, after });
            }
            sleep(pause).await;
        }
    }

    /// Asks one node once. One that is silent for half of the limit is asked for its view of the cluster.
    pub async fn attempt<T, A, F>(
        &self,
        address: &Address,
        limit: Duration,
        ask: &A,
    ) -> Result<T, Fault>
    where
        A: Fn(Channel) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = self.channel(address).await?;
        let silence = async {
            let deadline = Instant::now() + limit;
            sleep(limit / 2).await;
            let status = timeout(limit / 2, get_status(channel.clone())).await;
            sleep_until(deadline).await;
            let status = status.ok().and_then(Result::ok).map(Response::into_inner);
            Fault::silent(address, limit, status.as_ref())
        };
        let answer = tokio::select! {
            biased;
            answer = ask(channel.clone()) => answer,
            fault = silence => return Err(fault),
        };
        answer.map(Response::into_inner).map_err(|status| {
            let fault = Fault::from(status);
            match fault.refusal.reason.is_empty() {
                true => fault.at(address),
                false => fault,
            }
        })
    }

    /// Asks one node which one leads the queue. A node that does not know is taken to forward.
    pub async fn locate(&self, queue: &str) -> Result<Located, Fault> {
        let by = self.current();
        let ask = |channel| locate_queue(channel, queue.to_owned());
        // Less than the caller's own limit, so that it gets to know what was met.
        let limit = ATTEMPT.min(self.request_timeout / 2);
        match self.attempt(&by, limit, &ask).await {
            Ok(answer) => {
                self.learn(&answer.nodes);
                let leader = answer.leader.and_then(|leader| Address::parse(&leader.address).ok());
                Ok(Located { leader, by })
            }
            Err(fault) => {
                if fault.is_retryable() {
                    self.failed(&by, &fault);
                }
                Err(fault)
            }
        }
    }
}

pub(crate) async fn locate_queue(
    channel: Channel,
    queue: String,
) -> Result<Response<v1::LocateQueueResponse>, Status> {
    ClusterServiceClient::new(channel).locate_queue(v1::LocateQueueRequest { queue }).await
}

pub(crate) async fn get_status(
    channel: Channel,
) -> Result<Response<v1::GetStatusResponse>, Status> {
    ClusterServiceClient::new(channel).get_status(v1::GetStatusRequest {}).await
}

/// Connects. In a box, so that all under a connection is compiled with the SDK and not with each program that uses it.
fn connect(
    address: &Address,
    limit: Duration,
) -> BoxFuture<'_, Result<Channel, tonic::transport::Error>> {
    Box::pin(async move { endpoint(address, limit)?.connect().await })
}

/// Settings of a connection, as they were measured best; in simulation they have no effect.
fn endpoint(address: &Address, limit: Duration) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.url())?
        .connect_timeout(limit)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    // What follows is unknown to the simulated transport.
    #[cfg(not(madsim))]
    let endpoint = endpoint.max_frame_size(HTTP2_FRAME_BYTES);
    Ok(endpoint)
}
