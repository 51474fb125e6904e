//! Nodes with one group each, over a simulated disk and loopback connections.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_group::{EffectsAt, Handle, ProposeError, Replica, Spec, Timing, Volumes};
use quorate_machine::queue::{Command, Publish, Queue, Reply};
use quorate_proto::internal as pb;
use quorate_storage::{Log, Options, SimDisk, SimMeta};
use tokio::net::TcpListener;
use tonic::Status;

use super::relay::Relay;
use crate::peers::{
    AbortOnDrop, Addresses, Connections, Directory, Myself, PeerService, Pulse, lock, router,
};

pub(super) const GROUP: u64 = 7;
pub(super) const VERSION: u32 = 1;
/// Patient enough that a machine busy with other tests does not make a leader's lease run out: these
/// tests are of connections, and expect a leader to stay one.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(150),
    election_timeout: Duration::from_secs(3),
    park_after: None,
};
pub(super) const PULSE: Pulse =
    Pulse { beat: Duration::from_millis(150), silence: Duration::from_secs(3) };
/// Longest that anything here may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn myself(node_id: u64) -> Myself {
    Myself { cluster_id: "test".into(), node_id, incarnation: 1, version: VERSION, process: 1 }
}

/// A directory that says what the test tells it to.
pub(super) struct Scripted {
    myself: Myself,
    replicas: Mutex<BTreeMap<u64, Replica>>,
    pub(super) full: AtomicBool,
}

impl Scripted {
    pub(super) fn new(myself: Myself) -> Arc<Self> {
        Arc::new(Self { myself, replicas: Mutex::default(), full: AtomicBool::new(false) })
    }
}

impl Directory for Scripted {
    fn replica(&self, group: u64) -> Option<Replica> {
        lock(&self.replicas).get(&group).cloned()
    }

    fn admit(&self, hello: &pb::Hello) -> Result<(), Status> {
        if hello.cluster_id == self.myself.cluster_id {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "node {} belongs to cluster {:?}, this one to {:?}: correct its peers",
            hello.node_id, hello.cluster_id, self.myself.cluster_id
        )))
    }

    fn identify(&self) -> pb::IdentifyResponse {
        pb::IdentifyResponse {
            cluster_id: self.myself.cluster_id.clone(),
            node_id: self.myself.node_id,
            incarnation: self.myself.incarnation,
            ..Default::default()
        }
    }

    fn welcome(&self, _: pb::WelcomeRequest) -> BoxFuture<'_, Result<(), Status>> {
        async { Ok(()) }.boxed()
    }

    fn placed(&self, _: u64, _: u64, _: Option<u64>) -> BoxFuture<'_, Result<(), Status>> {
        std::future::ready(Ok(())).boxed()
    }

    fn holdings(&self, _: Vec<u64>) -> BoxFuture<'_, Result<pb::HoldingsResponse, Status>> {
        std::future::ready(Ok(pb::HoldingsResponse::default())).boxed()
    }

    fn take_moved(&self, _: pb::TakeMovedRequest) -> BoxFuture<'_, Result<u64, Status>> {
        std::future::ready(Err(Status::unimplemented("no queues"))).boxed()
    }

    fn accepts_entries(&self) -> bool {
        !self.full.load(Ordering::Acquire)
    }
}

/// Serves a directory on a port of its own.
pub(super) async fn serve(directory: Arc<Scripted>) -> (SocketAddr, AbortOnDrop) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = router(PeerService::new(directory, VERSION, PULSE.beat));
    let task = tokio::spawn(async move {
        router.serve_with_incoming(incoming).await.unwrap();
    });
    (address, AbortOnDrop(task))
}

pub(super) struct Node {
    pub(super) id: u64,
    pub(super) handle: Handle<Queue>,
    pub(super) directory: Arc<Scripted>,
    pub(super) connections: Connections,
    pub(super) relay: Relay,
    log: Log,
    _server: AbortOnDrop,
    _events: AbortOnDrop,
}

impl Node {
    /// How far Raft's log was purged here.
    pub(super) fn purged(&self) -> Option<u64> {
        let state = self.log.state(quorate_storage::GroupId(GROUP))?;
        state.purged.map(|(index, _)| index)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.log.close();
    }
}

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) addresses: Addresses,
}

impl Cluster {
    /// Nodes 1 to `count` of a group with voters 1 to `voters`.
    pub(super) async fn start(count: u64, voters: u64) -> Self {
        let addresses = Addresses::default();
        let mut cluster = Self { nodes: Vec::new(), addresses };
        for id in 1..=count {
            cluster.add(id).await;
        }
        let voters: BTreeSet<u64> = (1..=voters).collect();
        for node in &cluster.nodes {
            node.handle.initialize(&voters).await.unwrap();
        }
        cluster
    }

    pub(super) async fn add(&mut self, id: u64) {
        let directory = Scripted::new(myself(id));
        let (address, server) = serve(directory.clone()).await;
        let relay = Relay::to(address).await;
        self.addresses.set(id, relay.address.to_string());
        let (connections, _) = Connections::new(myself(id), self.addresses.clone(), PULSE);
        let (log, writer) =
            Log::open(Arc::new(SimDisk::new(id)), Options::default()).expect("open log");
        std::thread::spawn(move || writer.run());
        let spec = Spec {
            volumes: Volumes::default(),
            group: GROUP,
            node: id,
            log: log.clone(),
            meta: Arc::new(SimMeta::new(id)),
            peers: Arc::new(connections.clone()),
            timing: TIMING,
            effects: EffectsAt::Leader,
            rests: false,
        };
        let (handle, mut events) = Handle::<Queue>::start(spec).await.expect("start");
        lock(&directory.replicas).insert(GROUP, handle.replica().clone());
        let events = tokio::spawn(async move { while events.recv().await.is_some() {} });
        self.nodes.push(Node {
            id,
            handle,
            directory,
            connections,
            relay,
            log,
            _server: server,
            _events: AbortOnDrop(events),
        });
    }

    /// The node that leads, once all agree on it.
    pub(super) async fn leader(&self) -> &Node {
        within("a leader", || async {
            let leader = self.nodes.iter().find(|node| node.handle.leadership().leads)?;
            let follows = |node: &Node| node.handle.leadership().leader == Some(leader.id);
            self.nodes.iter().all(follows).then_some(leader)
        })
        .await
    }

    pub(super) fn followers(&self, leader: u64) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.id != leader)
    }

    /// Publishes through whoever leads, again if the outcome is not known.
    pub(super) async fn publish(&self, bytes: usize) {
        within("a publish", || async {
            let leader = self.leader().await;
            match leader.handle.propose(publish(bytes)).await {
                Ok(_) => Some(()),
                Err(ProposeError::Stopped) => panic!("a replica stopped"),
                Err(_) => None,
            }
        })
        .await;
    }

    /// Waits until all replicas have applied the same and hold the same state.
    pub(super) async fn agree(&self) -> u64 {
        within("agreement", || async {
            let mut states = self.nodes.iter().map(|node| {
                use quorate_machine::Machine;
                (node.handle.replica().applied(), node.handle.read(Queue::hash))
            });
            let first = states.next()?;
            states.all(|state| state == first).then_some(first.0)
        })
        .await
    }

    pub(super) fn published(&self) -> Vec<u64> {
        let published = |node: &Node| node.handle.read(|queue| queue.stats().published);
        self.nodes.iter().map(published).collect()
    }

    pub(super) async fn stop(self) {
        for node in &self.nodes {
            node.handle.shutdown().await;
            node.connections.close().await;
        }
    }
}

/// A batch of one message.
pub(super) fn publish(bytes: usize) -> Command {
    let mut frame = BytesMut::with_capacity(bytes + 6);
    frame.put_u32_le(2 + bytes as u32);
    frame.put_u16_le(0);
    frame.put_bytes(b'x', bytes);
    Command::Publish(Publish::plain(1, frame.freeze()))
}

/// Queues `count` messages at once and waits for all outcomes.
pub(super) async fn publish_many(
    node: &Node,
    count: usize,
    bytes: usize,
) -> Vec<Result<Reply, ProposeError>> {
    let mut waiting = Vec::new();
    for _ in 0..count {
        waiting.push(node.handle.submit(publish(bytes), bytes, None).await.expect("submit"));
    }
    let mut outcomes = Vec::new();
    for outcome in waiting {
        let outcome = outcome.await.unwrap_or(Err(ProposeError::Stopped));
        outcomes.push(outcome.map(|applied| applied.reply));
    }
    outcomes
}

/// Polls until `look` sees something.
pub(super) async fn within<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let since = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(since.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A request that carries an entry, as a leader of term 0 would send it.
pub(super) fn append(bytes: usize) -> pb::AppendRequest {
    let payload = Bytes::from(vec![0; bytes]);
    pb::AppendRequest {
        vote: Some(pb::Vote { term: 0, node_id: 9, committed: true }),
        entries: vec![pb::Entry { id: Some(pb::LogId { term: 0, index: 0 }), payload }],
        ..Default::default()
    }
}
