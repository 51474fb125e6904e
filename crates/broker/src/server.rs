//! A running node: opens its directory and its socket, starts what serves, and ends it again.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use quorate_group::recovery::leaves_at_start;
use quorate_group::{EffectsAt, Handle, Spec, Timing};
use quorate_machine::catalog::Catalog;
use quorate_proto::internal as pb;
use quorate_proto::v1;
use quorate_storage::{
    DataDir, DirError, Home, Log, Meta, MetaError, OpenError, Opened, Options, Writer,
};
use tokio::task::JoinHandle;
use tonic::transport::server::Router;

#[cfg(not(madsim))]
use crate::about;
use crate::awake::{self, Awake};
use crate::budget::{Budget, DiskSpace};
use crate::config::{Config, ConfigError};
use crate::counts::Counts;
use crate::dead_letters;
use crate::founding;
use crate::healing;
use crate::healing::Absences;
#[cfg(not(madsim))]
use crate::http;
use crate::leaders;
use crate::listener::Listener;
use crate::log_writer::LogWriter;
use crate::member::{CATALOG, COMMANDS_VERSION, Failure, Member, Queues, Versions};
use crate::moves;
use crate::opening;
use crate::peers::{self, Addresses, Connections, MESSAGE_BYTES_MAX, Myself, PeerService};
use crate::reconciler;
use crate::recovery;
use crate::service::Services;
use crate::shutdown::Shutdown;
use crate::succession;
use crate::telemetry::Telemetry;

/// How long open calls may take when the node ends.
const DRAIN: Duration = Duration::from_secs(1);

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
    /// The node is to take the catalog from where it was recovered, and that does not answer.
    #[error(
        "the catalog was recovered on another node, as timeline {timeline}, and no node that this one knows follows a \
         leader of it. What this node has of the catalog is kept: start the node that leads it first, and give its \
         address by --peer if it is a new one. If the recovered catalog is lost for ever, go on with this node's: \
         `quorate cluster recover --catalog --data DIR`"
    )]
    CatalogNotLed {
        /// Timeline of the recovered catalog.
        timeline: u64,
    },
    /// The catalog's replica cannot start.
    #[error("start the catalog: {0}")]
    Catalog(#[from] quorate_group::StartError),
    /// The program was built with a broken description of its own interface.
    #[error("server reflection: {0}")]
    Reflection(String),
}

/// A running node.
pub struct Node {
    member: Arc<Member>,
    address: SocketAddr,
    stop_serving: Shutdown,
    serving: JoinHandle<()>,
    writer: LogWriter,
    dir: DataDir,
}

pub(crate) fn open_storage(
    config: &Config,
    dir: &DataDir,
) -> Result<(Log, Writer, Arc<dyn Meta>), StartError> {
    let disk = dir.disk().map_err(StartError::Disk)?;
    let options = Options {
        segment_bytes: config.storage.segment_bytes,
        tail_bytes: config.storage.tail_bytes as usize,
        ..Options::default()
    };
    let (log, writer) = Log::open(disk, options)?;
    let (meta, opened) = dir.meta()?;
    if let Opened::Wiped { because } = opened {
        tracing::warn!(%because, "the checkpoints could not be opened and were set aside");
    }
    Ok((log, writer, meta))
}

impl Node {
    /// Starts a node: founds its cluster or waits until it is founded if the node is new, opens
    /// its state, and serves.
    ///
    /// # Errors
    /// For what keeps it from starting, with the cure.
    pub fn start(config: Config) -> BoxFuture<'static, Result<Self, StartError>> {
        Self::start_at(Home::from(&config.data), config)
    }

    /// The same with its state at `home`, whatever the settings say.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub fn start_at(home: Home, config: Config) -> BoxFuture<'static, Result<Self, StartError>> {
        // In a box, so that a node's tasks, nearly all of it, are compiled here and not again in each program that starts one.
        Box::pin(Self::begin(home, config))
    }

    async fn begin(home: Home, config: Config) -> Result<Self, StartError> {
        config.validate()?;
        let listener = Listener::bind(config.listen)?;
        let dir = founding::open(&home, &config, &listener).await?;
        let (log, writer, meta) = open_storage(&config, &dir)?;
        // Without its checkpoint a group can only be rebuilt if its log reaches back to the beginning.
        let lost = quorate_group::without_checkpoint(&log, &meta).await;
        let lost = lost.map_err(StartError::Checkpoints)?;
        if !lost.is_empty() {
            let path = dir.meta_place();
            return Err(StartError::CheckpointsLost { groups: lost.len(), path });
        }
        let writer = LogWriter::start(&dir, &log, writer).map_err(StartError::Disk)?;
        let member = start_member(config, &dir, log, meta).await?;
        let stop_serving = Shutdown::default();
        let router = router(&member)?;
        let serving = serve(member.clone(), listener.serve(router, stop_serving.clone()));
        let serving = tokio::spawn(serving);
        tokio::spawn(founding::complete(member.clone()));
        let (resting, opened) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(reconciler::run(member.clone(), resting));
        tokio::spawn(opening::run(member.clone(), opened));
        tokio::spawn(moves::run(member.clone()));
        tokio::spawn(healing::run(member.clone()));
        tokio::spawn(awake::run(member.clone()));
        tokio::spawn(dead_letters::run(member.clone()));
        let reserve = member.config.limits.disk_reserve_bytes;
        let watch = member.disk.clone();
        tokio::spawn(watch.watch(member.log.clone(), reserve, member.shutdown.clone()));
        tracing::info!(
            node = member.id(), cluster = member.cluster_id(), address = %listener.address(), "started"
        );
        let address = listener.address();
        Ok(Self { member, address, stop_serving, serving, writer, dir })
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
    pub fn shutdown(self) -> BoxFuture<'static, ()> {
        Box::pin(self.end())
    }

    async fn end(mut self) {
        let member = self.member.clone();
        tracing::info!(node = member.id(), "shutting down");
        let queues = member.queues.all();
        let _ = tokio::time::timeout(leaders::HAND_OVER, leaders::hand_over(&member, true)).await;
        member.shutdown.say();
        self.stop_serving.say();
        if tokio::time::timeout(DRAIN, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
        join_all(queues.iter().map(|queue| queue.handle.shutdown())).await;
        member.catalog.shutdown().await;
        member.telemetry.close().await;
        member.connections.close().await;
        member.log.close();
        if !self.writer.ended().await {
            tracing::error!("the log's writer did not end cleanly");
        }
        // The directory is free for others from here on.
        drop(self.dir);
        tracing::info!(node = member.id(), "stopped");
    }
}

/// Serves until it is said to stop; a node that cannot serve any longer must not go on.
async fn serve(member: Arc<Member>, serving: impl Future<Output = Result<(), String>>) {
    match AssertUnwindSafe(serving).catch_unwind().await {
        Ok(Ok(())) if member.shutdown.is_said() => {}
        Ok(Ok(())) => member.fail("the server has ended".into()),
        Ok(Err(error)) => member.fail(format!("serve: {error}")),
        Err(_) => member.fail("the server has panicked".into()),
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
        process: crate::random::random() as u64,
    };
    let hello = pb::Hello {
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id,
        incarnation: identity.incarnation,
        version: COMMANDS_VERSION,
        ..Default::default()
    };
    let (connections, changes) =
        Connections::new(myself, addresses.clone(), reconciler::pulse(&config.raft));
    let leaves = leaves_at_start(&log, &meta, CATALOG).await.map_err(StartError::Checkpoints)?;
    if let Some(timeline) = leaves {
        tracing::warn!(
            node = identity.node_id,
            timeline,
            "waits for a leader of the catalog that was recovered on another node"
        );
        if !recovery::is_catalog_led(&connections, &addresses, &hello, timeline).await {
            return Err(StartError::CatalogNotLed { timeline });
        }
    }
    let spec = Spec {
        group: CATALOG,
        node: identity.node_id,
        log: log.clone(),
        meta: meta.clone(),
        peers: Arc::new(connections.clone()),
        // One group, which all else relies on.
        timing: Timing { park_after: None, ..reconciler::timing(&config.raft) },
        volumes: config.volumes(),
        effects: EffectsAt::EveryReplica,
        rests: false,
    };
    let (catalog, events) = Handle::<Catalog>::start(spec).await?;
    let telemetry = Telemetry::start(&config.telemetry, &identity)?;
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
        counts: Counts::default(),
        versions: Versions::default(),
        telemetry,
        absences: Absences::default(),
        turns: Default::default(),
        awake: Awake::default(),
        ahead: Mutex::default(),
        kept: Mutex::default(),
        updating: tokio::sync::Mutex::default(),
    });
    tokio::spawn(reconciler::own_catalog(member.clone(), events));
    tokio::spawn(succession::run(member.clone(), changes));
    Ok(member)
}

/// The services for clients, added to what takes services in either world.
macro_rules! add_services {
    ($to:expr, $services:expr) => {{
        use v1::admin_service_server::AdminServiceServer;
        use v1::cluster_service_server::ClusterServiceServer;
        use v1::consumer_service_server::ConsumerServiceServer;
        use v1::queue_service_server::QueueServiceServer;
        use v1::reader_service_server::ReaderServiceServer;
        use v1::topic_service_server::TopicServiceServer;
        let services: Services = $services;
        let publishing =
            QueueServiceServer::new(services.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let topics =
            TopicServiceServer::new(services.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        $to.add_service(publishing)
            .add_service(ConsumerServiceServer::new(services.clone()))
            .add_service(ReaderServiceServer::new(services.clone()))
            .add_service(topics)
            .add_service(AdminServiceServer::new(services.clone()))
            .add_service(ClusterServiceServer::new(services))
    }};
}

/// All that is served at the node's port: gRPC, and over plain HTTP what monitoring asks for.
#[cfg(not(madsim))]
fn router(member: &Arc<Member>) -> Result<Router, StartError> {
    let beat = reconciler::pulse(&member.config.raft).beat;
    let peers = PeerService::new(member.clone(), COMMANDS_VERSION, beat);
    let routes = tonic::service::Routes::new(peers::served(peers));
    let routes = about::add(add_services!(routes, Services::new(member.clone())), member)?;
    let routes = routes.into_axum_router().merge(http::routes(member)).fallback(http::not_found);
    Ok(peers::tuned_server().accept_http1(true).add_routes(routes.into()))
}

/// The simulated transport knows gRPC only.
#[cfg(madsim)]
#[allow(clippy::unnecessary_wraps, reason = "the real one can fail")]
fn router(member: &Arc<Member>) -> Result<Router, StartError> {
    let beat = reconciler::pulse(&member.config.raft).beat;
    let peers = PeerService::new(member.clone(), COMMANDS_VERSION, beat);
    Ok(add_services!(peers::router(peers), Services::new(member.clone())))
}
