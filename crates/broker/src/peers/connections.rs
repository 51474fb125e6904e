//! The connections that this node makes: one keeper task a peer, from first use on.
//!
//! ```text
//!            ┌───────── refused, broken, silent: wait 50 ms … 1 s ─────────┐
//!            ▼                                                             │
//!  first ─► Connecting ── Hello answered ─► Up(Line) ────────────────────► Down(reason)
//!  use      callers wait                    callers use the line           callers fail at once
//! ```
//!
//! A connection that broke is made again at once: where that fails too, the process at the other end
//! is taken to be gone. Whoever listens to the [`Changes`] is told, and of silence as well.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_stream::stream;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use quorate_group::{AppendLink, LinkError, Peers};
use quorate_proto::internal as pb;
use quorate_proto::internal::peer_client::PeerClient;
use quorate_proto::internal::rpc::Body;
use quorate_proto::reason;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use super::line::Line;
use super::outbox::{Outgoing, outbox};
use super::tuning::{self, MESSAGE_BYTES_MAX};
use super::{
    AbortOnDrop, Addresses, BACK_OFF_MAX, BACK_OFF_MIN, CONNECT_TIME_MAX, Myself, NODE_REMOVED,
    Presence, Pulse, REACHABLE_WITHIN, SILENCE_MAX, lock,
};

/// The connections to the other nodes. Cheap to clone; they end with the last clone.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

/// What is told of the presence of other nodes, in order.
pub type Changes = mpsc::UnboundedReceiver<(u64, Presence)>;

struct Inner {
    myself: Arc<Myself>,
    addresses: Addresses,
    pulse: Pulse,
    changes: mpsc::UnboundedSender<(u64, Presence)>,
    /// `None` once closed.
    peers: Mutex<Option<BTreeMap<u64, Kept>>>,
}

struct Kept {
    peer: Arc<Peer>,
    keeper: AbortOnDrop,
}

/// One peer, shared by its keeper and its callers.
struct Peer {
    node: u64,
    addresses: Addresses,
    state: Mutex<State>,
    channel: Mutex<Option<(String, Channel)>>,
    pulse: Pulse,
    there: AtomicBool,
    /// When `there` changed last; `None` = it was never there.
    turned: Mutex<Option<Instant>>,
    back: Notify,
    changes: mpsc::UnboundedSender<(u64, Presence)>,
}

enum State {
    Connecting(Vec<oneshot::Sender<Result<Arc<Line>, String>>>),
    Up(Arc<Line>),
    Down(String),
}

impl Connections {
    /// No connections yet: each is made when it is first used.
    #[must_use]
    pub fn new(myself: Myself, addresses: Addresses, pulse: Pulse) -> (Self, Changes) {
        let peers = Mutex::new(Some(BTreeMap::new()));
        let (sender, changes) = mpsc::unbounded_channel();
        let myself = Arc::new(myself);
        let inner = Inner { myself, addresses, pulse, changes: sender, peers };
        (Self(Arc::new(inner)), changes)
    }

    /// Whether a connection to `node` stands and `node` was heard of within
    /// [`REACHABLE_WITHIN`]. Begins to connect if nothing has yet.
    #[must_use]
    pub fn reachable(&self, node: u64) -> bool {
        let Ok(peer) = self.peer(node) else { return false };
        match &*lock(&peer.state) {
            State::Up(line) => line.silent_for() <= REACHABLE_WITHIN,
            State::Connecting(_) | State::Down(_) => false,
        }
    }

    /// How long ago `node` was last heard of on the connection to it; `None` if there is none.
    #[must_use]
    pub fn silent_for(&self, node: u64) -> Option<Duration> {
        let peers = lock(&self.0.peers);
        let kept = peers.as_ref().and_then(|peers| peers.get(&node))?;
        match &*lock(&kept.peer.state) {
            State::Up(line) => Some(line.silent_for()),
            State::Connecting(_) | State::Down(_) => None,
        }
    }

    /// Since when `node` is not there; `None` if it is, or never was as long as this node runs.
    #[must_use]
    pub fn away_for(&self, node: u64) -> Option<Duration> {
        let peers = lock(&self.0.peers);
        let kept = peers.as_ref().and_then(|peers| peers.get(&node))?;
        let turned = *lock(&kept.peer.turned);
        turned.filter(|_| !kept.peer.there.load(Ordering::SeqCst)).map(|turned| turned.elapsed())
    }

    /// Whether `node` was to be connected to and is not.
    #[must_use]
    pub fn lost(&self, node: u64) -> bool {
        let peers = lock(&self.0.peers);
        let kept = peers.as_ref().and_then(|peers| peers.get(&node));
        kept.is_some_and(|kept| !matches!(&*lock(&kept.peer.state), State::Up(_)))
    }

    /// The HTTP/2 connection to `node` for calls of other services. It connects when it is used,
    /// and again after a failure.
    ///
    /// # Errors
    /// When the node's address is not known or is no address, or after [`Connections::close`].
    pub fn channel(&self, node: u64) -> Result<Channel, LinkError> {
        self.peer(node)?.channel().map_err(|reason| LinkError { node, reason })
    }

    /// Ends all connections; what waits on them fails, and so does every later call.
    pub async fn close(&self) {
        let peers = lock(&self.0.peers).take();
        for kept in peers.into_iter().flat_map(BTreeMap::into_values) {
            kept.keeper.0.abort();
            kept.peer.set_down("this node is closing its connections");
            lock(&kept.peer.channel).take();
            kept.keeper.ended().await;
        }
    }

    fn peer(&self, node: u64) -> Result<Arc<Peer>, LinkError> {
        let failed = |reason: &str| LinkError { node, reason: reason.to_owned() };
        let mut peers = lock(&self.0.peers);
        let Some(peers) = peers.as_mut() else {
            return Err(failed("this node has closed its connections"));
        };
        if let Some(kept) = peers.get(&node) {
            return Ok(kept.peer.clone());
        }
        if self.0.addresses.get(node).is_none() {
            return Err(failed(NO_ADDRESS));
        }
        let peer = Arc::new(Peer {
            node,
            addresses: self.0.addresses.clone(),
            state: Mutex::new(State::Connecting(Vec::new())),
            channel: Mutex::new(None),
            pulse: self.0.pulse,
            there: AtomicBool::new(false),
            turned: Mutex::new(None),
            back: Notify::new(),
            changes: self.0.changes.clone(),
        });
        let keeper = keep(peer.clone(), self.0.myself.clone());
        let keeper = AbortOnDrop(tokio::spawn(keeper));
        peers.insert(node, Kept { peer: peer.clone(), keeper });
        Ok(peer)
    }

    async fn line(&self, node: u64) -> Result<Arc<Line>, LinkError> {
        let peer = self.peer(node)?;
        let failed = |reason: String| LinkError { node, reason };
        let outcome = match &mut *lock(&peer.state) {
            State::Up(line) => return Ok(line.clone()),
            State::Down(reason) => return Err(failed(reason.clone())),
            State::Connecting(waiting) => {
                waiting.retain(|waiting| !waiting.is_closed());
                let (sender, outcome) = oneshot::channel();
                waiting.push(sender);
                outcome
            }
        };
        let outcome = outcome.await.unwrap_or_else(|_| Err("the connections were closed".into()));
        outcome.map_err(failed)
    }
}

const NO_ADDRESS: &str = "its address is not known to this node";

impl Peers for Connections {
    fn is_there(&self, node: u64) -> bool {
        let peers = lock(&self.0.peers);
        let kept = peers.as_ref().and_then(|peers| peers.get(&node));
        kept.is_some_and(|kept| kept.peer.there.load(Ordering::SeqCst))
    }

    fn until_there(&self, node: u64) -> BoxFuture<'_, ()> {
        async move {
            let Ok(peer) = self.peer(node) else { return std::future::pending().await };
            let back = peer.back.notified();
            tokio::pin!(back);
            // Registered before the look, so that no change is missed.
            back.as_mut().enable();
            if !peer.there.load(Ordering::SeqCst) {
                back.await;
            }
        }
        .boxed()
    }

    fn call(&self, node: u64, group: u64, body: Body) -> BoxFuture<'_, Result<Body, LinkError>> {
        async move { self.line(node).await?.call(group, body).await }.boxed()
    }

    fn open(&self, node: u64, group: u64) -> BoxFuture<'_, Result<Box<dyn AppendLink>, LinkError>> {
        async move {
            let link = self.line(node).await?.link(group)?;
            Ok(Box::new(link) as Box<dyn AppendLink>)
        }
        .boxed()
    }

    fn snapshot(
        &self,
        node: u64,
        chunks: BoxStream<'static, pb::SnapshotChunk>,
    ) -> BoxFuture<'_, Result<pb::SnapshotAnswer, LinkError>> {
        let chunks = Introduced { hello: self.0.myself.hello(self.0.pulse.beat), chunks };
        async move {
            let mut client = client(self.channel(node)?);
            let answer = client.install_snapshot(chunks).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| LinkError { node, reason: describe(&status) })
        }
        .boxed()
    }
}

/// A snapshot whose head says who sends it.
struct Introduced {
    hello: pb::Hello,
    chunks: BoxStream<'static, pb::SnapshotChunk>,
}

impl Stream for Introduced {
    type Item = pb::SnapshotChunk;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use pb::snapshot_chunk::Chunk;
        let mut next = ready!(self.chunks.poll_next_unpin(cx));
        if let Some(pb::SnapshotChunk { chunk: Some(Chunk::Head(head)) }) = &mut next {
            head.hello = Some(self.hello.clone());
        }
        Poll::Ready(next)
    }
}

fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl Peer {
    fn channel(&self) -> Result<Channel, String> {
        let address = self.addresses.get(self.node).ok_or(NO_ADDRESS)?;
        let mut channel = lock(&self.channel);
        if let Some((made_for, channel)) = &*channel
            && *made_for == address
        {
            return Ok(channel.clone());
        }
        let endpoint = tuning::endpoint(&address)
            .map_err(|error| format!("{address:?} is no address of a node: {error}"))?;
        let made = endpoint.connect_lazy();
        *channel = Some((address, made.clone()));
        Ok(made)
    }

    /// Notes a change of presence, then tells of it.
    fn turn(&self, presence: Presence) {
        let there = matches!(presence, Presence::Heard | Presence::Connected);
        self.set_there(there);
        if there {
            self.back.notify_waiters();
        }
        let _ = self.changes.send((self.node, presence));
    }

    fn set_there(&self, there: bool) {
        if self.there.swap(there, Ordering::SeqCst) != there {
            *lock(&self.turned) = Some(Instant::now());
        }
    }

    fn set_up(&self, line: &Arc<Line>) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Up(line.clone()));
        if let State::Connecting(waiting) = before {
            for waiting in waiting {
                let _ = waiting.send(Ok(line.clone()));
            }
        }
    }

    fn set_down(&self, reason: &str) {
        match std::mem::replace(&mut *lock(&self.state), State::Down(reason.to_owned())) {
            State::Connecting(waiting) => {
                for waiting in waiting {
                    let _ = waiting.send(Err(reason.to_owned()));
                }
            }
            State::Up(line) => line.break_off(reason),
            State::Down(_) => {}
        }
    }
}

/// Keeps a connection to one peer until it is aborted.
async fn keep(peer: Arc<Peer>, myself: Arc<Myself>) {
    // However this task ends, nobody goes on waiting.
    let _down = DownOnDrop(peer.clone());
    let mut pause = BACK_OFF_MIN;
    let mut told = None;
    // How long an attempt may take. After a connection that stood the first one is made at once, and
    // decides within the time of a silence whether the node is gone.
    let mut limit = CONNECT_TIME_MAX;
    let mut gone = false;
    let mut process = None;
    loop {
        let reason = match connect(&peer, &myself, limit).await {
            Ok((line, connection)) => {
                tracing::info!(node = myself.node_id, peer = peer.node, "connected to a peer");
                told = None;
                gone = false;
                let since = Instant::now();
                peer.set_up(&line);
                let before = process.replace(connection.process);
                peer.turn(match before == process {
                    true => Presence::Heard,
                    false => Presence::Connected,
                });
                let reason = receive(&peer, &line, connection).await;
                peer.set_there(false);
                tracing::info!(node = myself.node_id, peer = peer.node, %reason, "lost a peer");
                if since.elapsed() > BACK_OFF_MAX {
                    pause = Duration::ZERO;
                }
                limit = peer.pulse.silence.min(CONNECT_TIME_MAX);
                reason
            }
            Err(reason) => {
                // Once for each reason, not at each attempt.
                if told.as_ref() != Some(&reason) {
                    tracing::warn!(node = myself.node_id, peer = peer.node, %reason, "reach a peer");
                    told = Some(reason.clone());
                }
                if !std::mem::replace(&mut gone, true) {
                    peer.turn(Presence::Gone);
                }
                limit = CONNECT_TIME_MAX;
                reason
            }
        };
        peer.set_down(&reason);
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).clamp(BACK_OFF_MIN, BACK_OFF_MAX);
        // What is left of a connection that failed is not used again.
        lock(&peer.channel).take();
        *lock(&peer.state) = State::Connecting(Vec::new());
    }
}

/// Both ways of a connection that the peer has answered.
struct Connection {
    incoming: tonic::Streaming<pb::Envelope>,
    /// Which process of the node answered.
    process: u64,
    /// The node is silent when it was not heard of for so long.
    silence: Duration,
    /// Dropped, it ends what is sent.
    _sending: oneshot::Sender<()>,
}

async fn connect(
    peer: &Peer,
    myself: &Myself,
    limit: Duration,
) -> Result<(Arc<Line>, Connection), String> {
    let mut client = client(peer.channel()?);
    let (outbox, outgoing) = outbox(peer.pulse.beat);
    let (sending, ended) = oneshot::channel();
    let requests = requests(myself.hello(peer.pulse.beat), outgoing, ended);
    let opened = async {
        let status = |status: tonic::Status| {
            if is_dismissal(&status, myself) {
                let _ = peer.changes.send((peer.node, Presence::Dismissed));
            }
            describe(&status)
        };
        let mut incoming = client.exchange(requests).await.map_err(status)?.into_inner();
        let first = incoming.message().await.map_err(status)?;
        let hello = first.and_then(|first| first.hello);
        let hello = hello.ok_or("it did not say who it is")?;
        expect(peer, myself, &hello)?;
        Ok::<_, String>((incoming, hello))
    };
    let (incoming, hello) = tokio::time::timeout(limit, opened)
        .await
        .unwrap_or_else(|_| Err(format!("no connection within {limit:?}")))?;
    let line = Arc::new(Line::new(peer.node, outbox));
    let silence = peer.pulse.silence.max(5 * Duration::from_millis(hello.beat_ms.into()));
    Ok((line, Connection { incoming, process: hello.process, silence, _sending: sending }))
}

/// An address can come to belong to another node.
fn expect(peer: &Peer, myself: &Myself, hello: &pb::Hello) -> Result<(), String> {
    let address = peer.addresses.get(peer.node).unwrap_or_default();
    if hello.cluster_id != myself.cluster_id {
        return Err(format!(
            "{address} belongs to cluster {:?}, this node to {:?}: correct the address of node {}",
            hello.cluster_id, myself.cluster_id, peer.node
        ));
    }
    if hello.node_id != peer.node {
        return Err(format!(
            "{address} is node {}: correct the address of node {}",
            hello.node_id, peer.node
        ));
    }
    if peer.addresses.incarnation(peer.node).is_some_and(|known| known != hello.incarnation) {
        return Err(format!(
            "node {} at {address} was known with another data directory; it must join as a new node",
            peer.node
        ));
    }
    Ok(())
}

fn requests(
    hello: pb::Hello,
    mut outgoing: Outgoing,
    mut ended: oneshot::Receiver<()>,
) -> impl Stream<Item = pb::Envelope> + Send + 'static {
    stream! {
        yield pb::Envelope { hello: Some(hello), rpcs: Vec::new() };
        loop {
            let next = tokio::select! {
                biased;
                _ = &mut ended => None,
                next = outgoing.next() => next,
            };
            match next {
                Some(envelope) => yield envelope,
                None => return,
            }
        }
    }
}

/// Hands answers out until the connection ends; returns why it did.
async fn receive(peer: &Peer, line: &Line, mut connection: Connection) -> String {
    let silence = connection.silence.min(SILENCE_MAX);
    let mut silent = false;
    loop {
        let patience = if silent { SILENCE_MAX - silence } else { silence };
        let next = tokio::time::timeout(patience, connection.incoming.message()).await;
        match next {
            Ok(Ok(Some(envelope))) => {
                if std::mem::take(&mut silent) {
                    peer.turn(Presence::Heard);
                }
                line.take_in(envelope);
            }
            Ok(Ok(None)) => return "the peer ended the connection".to_owned(),
            Ok(Err(status)) => return describe(&status),
            Err(_) if silent => return format!("nothing was heard of it for {SILENCE_MAX:?}"),
            Err(_) => {
                silent = true;
                peer.turn(Presence::Silent);
            }
        }
    }
}

/// Whether a node of the same cluster says that this one was removed from it. Others refuse calls too: a proxy, or
/// whoever got the address of a node.
fn is_dismissal(status: &tonic::Status, myself: &Myself) -> bool {
    let Some(info) = status.get_details_error_info() else { return false };
    let says = |key: &str, value: &str| info.metadata.get(key).is_some_and(|said| said == value);
    info.domain == reason::DOMAIN
        && info.reason == NODE_REMOVED
        && says("cluster", &myself.cluster_id)
        && says("node", &myself.node_id.to_string())
}

/// A status as a reason, with what lies behind it.
fn describe(status: &tonic::Status) -> String {
    let mut reason = match status.message() {
        "" => format!("{:?}", status.code()),
        message => message.to_owned(),
    };
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = error.source();
    }
    reason
}

/// Peers that were cut off by the same fault do not come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + 0.5 * crate::random::fraction())
}

struct DownOnDrop(Arc<Peer>);

impl Drop for DownOnDrop {
    fn drop(&mut self) {
        self.0.set_down("this node has closed its connections");
    }
}
