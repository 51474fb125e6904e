//! A running node: opens its directory and its socket, starts what serves, and ends it again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_group::{EffectsAt, Handle, Spec};
use quorate_machine::catalog::Catalog;
use quorate_proto::{FILE_DESCRIPTORS, v1};
use quorate_storage::{
    DataDir, DirError, Log, Meta, MetaError, OpenError, Opened, Options, RealDisk, SledMeta, Writer,
};
use tokio::task::JoinHandle;
use tonic::transport::server::Router;

use crate::budget::{Budget, DiskSpace};
use crate::config::{Config, ConfigError};
use crate::founding;
use crate::member::{CATALOG, COMMANDS_VERSION, Failure, Member, Queues};
use crate::peers::{self, Addresses, Connections, MESSAGE_BYTES_MAX, Myself, PeerService};
use crate::reconciler;
use crate::service::Services;
use crate::shutdown::Shutdown;

/// How long a leader waits for another voter to take over when it ends.
const HAND_OVER: Duration = Duration::from_secs(3);
/// How long open calls may take when the node ends.
const DRAIN: Duration = Duration::from_secs(1);
/// Time between two looks at the node's health.
const HEALTH_EVERY: Duration = Duration::from_millis(500);

/// A node that could not start: what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error("data directory: {0}")]
    Dir(#[from] DirError),
    /// The data directory belongs to another node or cluster than the settings say.
    #[error("{0}")]
    Identity(String),
    /// The address cannot be bound.
    #[error("listen at {address}: {source}; choose another address, or end what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The log cannot be opened.
    #[error("open the log: {0}")]
    Log(#[from] OpenError),
    /// The disk under the log cannot be used.
    #[error("open the log's directory: {0}")]
    Disk(std::io::Error),
    /// The small state cannot be opened.
    #[error("open the checkpoints: {0}")]
    Meta(#[from] MetaError),
    /// Checkpoints are missing that the log relies on.
    #[error(
        "the checkpoints of {groups} groups are missing in {path}, which the log relies on; put them \
         back, or replace this node: `quorate cluster join` with an empty directory"
    )]
    CheckpointsLost {
        /// How many.
        groups: usize,
        /// Where they should be.
        path: String,
    },
    /// A checkpoint cannot be read.
    #[error("read the checkpoints: {0}")]
    Checkpoints(std::io::Error),
    /// The catalog's replica cannot start.
    #[error("start the catalog: {0}")]
    Catalog(#[from] quorate_group::StartError),
    /// The program was built with a broken description of its own interface.
    #[error("server reflection: {0}")]
    Reflection(String),
}

/// A bound socket, from which the server can be started more than once.
pub(crate) struct Listener {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl Listener {
    fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let bind = || {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|source| StartError::Listen { address, source })
    }

    /// Serves until it is said to stop.
    pub(crate) fn serve(
        &self,
        router: Router,
        stop: Shutdown,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let socket = self.socket.try_clone();
        async move {
            let socket = tokio::net::TcpListener::from_std(socket.map_err(|e| e.to_string())?)
                .map_err(|error| error.to_string())?;
            let incoming =
                tonic::transport::server::TcpIncoming::from(socket).with_nodelay(Some(true));
            let served =
                router.serve_with_incoming_shutdown(incoming, async move { stop.said().await });
            served.await.map_err(|error| error.to_string())
        }
    }
}

/// A running node.
pub struct Node {
    member: Arc<Member>,
    address: SocketAddr,
    stop_serving: Shutdown,
    serving: JoinHandle<Result<(), String>>,
    writer: Option<thread::JoinHandle<()>>,
    _dir: DataDir,
}

fn open_storage(
    config: &Config,
    dir: &DataDir,
) -> Result<(Log, Writer, Arc<dyn Meta>), StartError> {
    let disk = RealDisk::open(dir.log_path()).map_err(StartError::Disk)?;
    let options = Options {
        segment_bytes: config.storage.segment_bytes,
        tail_bytes: config.storage.tail_bytes as usize,
        ..Options::default()
    };
    let (log, writer) = Log::open(Arc::new(disk), options)?;
    let (meta, opened) = SledMeta::open(dir.meta_path())?;
    if let Opened::Wiped { because } = opened {
        tracing::warn!(%because, "the checkpoints could not be opened and were set aside");
    }
    Ok((log, writer, Arc::new(meta)))
}

impl Node {
    /// Starts a node: founds its cluster or waits until it is founded if the node is new, opens
    /// its state, and serves.
    ///
    /// # Errors
    /// For what keeps it from starting, with the cure.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.validate()?;
        let listener = Listener::bind(config.listen)?;
        let dir = founding::open(&config, &listener).await?;
        let (log, writer, meta) = open_storage(&config, &dir)?;
        // Without its checkpoint a group can only be rebuilt if its log reaches back to the beginning.
        let lost = quorate_group::without_checkpoint(&log, &meta).await;
        let lost = lost.map_err(StartError::Checkpoints)?;
        if !lost.is_empty() {
            let path = dir.meta_path().display().to_string();
            return Err(StartError::CheckpointsLost { groups: lost.len(), path });
        }
        let writer = thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run())
            .map_err(StartError::Disk)?;
        let member = start_member(config, &dir, log, meta).await?;
        let stop_serving = Shutdown::default();
        let router = router(&member)?;
        let serving = tokio::spawn(listener.serve(router, stop_serving.clone()));
        tokio::spawn(founding::complete(member.clone()));
        tokio::spawn(reconciler::run(member.clone()));
        let reserve = member.config.limits.disk_reserve_bytes;
        let watch = member.disk.clone();
        tokio::spawn(watch.watch(member.log.clone(), reserve, member.shutdown.clone()));
        tracing::info!(
            node = member.id(), cluster = member.cluster_id(), address = %listener.address, "started"
        );
        Ok(Self {
            member,
            address: listener.address,
            stop_serving,
            serving,
            writer: Some(writer),
            _dir: dir,
        })
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.member.id()
    }

    /// Resolves with the reason when something failed that the node cannot go on without: it must
    /// be shut down, and looked at, before it is started again.
    pub async fn failed(&self) -> String {
        self.member.failure.happened().await
    }

    /// Hands leadership over, ends what is open, and stops. All that was confirmed is on disk.
    pub async fn shutdown(mut self) {
        let member = self.member.clone();
        tracing::info!(node = member.id(), "shutting down");
        let queues = member.queues.all();
        let led = queues.iter().filter(|queue| queue.handle.leadership().leads);
        join_all(led.map(|queue| queue.handle.hand_over(HAND_OVER))).await;
        if member.catalog.leadership().leads {
            member.catalog.hand_over(HAND_OVER).await;
        }
        member.shutdown.say();
        self.stop_serving.say();
        if tokio::time::timeout(DRAIN, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
        join_all(queues.iter().map(|queue| queue.handle.shutdown())).await;
        member.catalog.shutdown().await;
        member.connections.close().await;
        member.log.close();
        if let Some(writer) = self.writer.take() {
            let ended = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::error!("the log's writer did not end cleanly");
            }
        }
        tracing::info!(node = member.id(), "stopped");
    }
}

async fn start_member(
    config: Config,
    dir: &DataDir,
    log: Log,
    meta: Arc<dyn Meta>,
) -> Result<Arc<Member>, StartError> {
    let identity = dir.identity().clone();
    let addresses = Addresses::default();
    reconciler::restore_addresses(meta.as_ref(), &addresses)?;
    for peer in config.peers.iter().filter(|peer| peer.id != identity.node_id) {
        addresses.set(peer.id, peer.address.clone());
    }
    let myself = Myself {
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id,
        incarnation: identity.incarnation,
        version: COMMANDS_VERSION,
    };
    let connections = Connections::new(myself, addresses.clone());
    let spec = Spec {
        group: CATALOG,
        node: identity.node_id,
        log: log.clone(),
        meta: meta.clone(),
        peers: Arc::new(connections.clone()),
        timing: reconciler::timing(&config.raft),
        effects: EffectsAt::EveryReplica,
    };
    let (catalog, events) = Handle::<Catalog>::start(spec).await?;
    let disk = Arc::new(DiskSpace::default());
    disk.look(&log, config.limits.disk_reserve_bytes);
    let member = Arc::new(Member {
        budget: Budget::new(&config.limits),
        config,
        identity,
        log,
        meta,
        catalog,
        queues: Queues::default(),
        connections,
        addresses,
        disk,
        shutdown: Shutdown::default(),
        changed: tokio::sync::Notify::new(),
        failure: Failure::default(),
    });
    tokio::spawn(reconciler::own_catalog(member.clone(), events));
    Ok(member)
}

fn router(member: &Arc<Member>) -> Result<Router, StartError> {
    use v1::admin_service_server::AdminServiceServer;
    use v1::cluster_service_server::ClusterServiceServer;
    use v1::consumer_service_server::ConsumerServiceServer;
    use v1::queue_service_server::QueueServiceServer;
    let services = Services::new(member.clone());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| StartError::Reflection(error.to_string()))?;
    let (health, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(member.clone(), health));
    let peer = peers::peer_server(PeerService::new(member.clone(), COMMANDS_VERSION));
    Ok(peers::server()
        .add_service(peer)
        .add_service(
            QueueServiceServer::new(services.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(ConsumerServiceServer::new(services.clone()))
        .add_service(AdminServiceServer::new(services.clone()))
        .add_service(ClusterServiceServer::new(services))
        .add_service(health_service)
        .add_service(reflection))
}

/// Whether the catalog has a leader that is there and, where that is this node, a majority that follows
/// it: without one, neither a leader nor a follower learns by itself that nobody leads any more.
fn has_majority(member: &Member) -> bool {
    let leadership = member.catalog.leadership();
    if !leadership.leads {
        return leadership.leader.is_some_and(|leader| !member.connections.lost(leader));
    }
    let progress = member.catalog.progress();
    let voters = progress.iter().filter(|seen| seen.voter).map(|seen| seen.node);
    let (there, away): (Vec<u64>, Vec<u64>) =
        voters.partition(|node| *node == member.id() || member.connections.reachable(*node));
    there.len() > away.len()
}

/// Serving while the catalog has a leader with a majority, and the node is not ending.
async fn report_health(member: Arc<Member>, health: tonic_health::server::HealthReporter) {
    use tonic_health::ServingStatus;
    loop {
        let ends = member.shutdown.is_said();
        let serves = !ends && has_majority(&member);
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", "quorate.v1.QueueService", "quorate.v1.ConsumerService"] {
            health.set_service_status(service, status).await;
        }
        if ends {
            return;
        }
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = tokio::time::sleep(HEALTH_EVERY) => {}
        }
    }
}
