//! How a node comes to belong to a cluster: by founding one with its peers, or by joining one.
//!
//! A cluster is founded once. The node with the lowest id among `peers` leads it:
//!
//! ```text
//!  every node   fresh: serves Identify and Welcome, nothing else
//!  lowest id    asks all peers who they are; every one must be fresh, or of the cluster that it is
//!               founding; keeps the new cluster's id; welcomes the others, which keep it too
//!  every node   starts the catalog's group; the lowest id begins it with all peers as voters
//! ```
//!
//! A founder that lost its disk finds peers that belong to a cluster and refuses to found another
//! over them; so does a peer that returns with an empty disk and is not welcomed again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_group::Replica;
use quorate_machine::NodeId;
use quorate_machine::catalog::{Command, RegisterNode, Rejection, Reply};
use quorate_proto::internal as pb;
use quorate_proto::internal::peer_client::PeerClient;
use quorate_proto::v1;
use quorate_storage::{DataDir, DirError, Home, Identity};
use tokio::sync::Notify;
use tonic::Status;
use tonic::transport::Endpoint;

use crate::config::Config;
use crate::listener::Listener;
use crate::member::{CATALOG, COMMANDS_VERSION, Member};
use crate::peers::{self, Directory, PeerService};
use crate::random::random;
use crate::reconciler;
use crate::server::StartError;
use crate::shutdown::Shutdown;

/// Longest wait for one answer of a peer.
const ASK_WAIT: Duration = Duration::from_secs(2);
/// Pause between two rounds of asking.
const ROUND: Duration = Duration::from_millis(100);
/// Pause between two looks at a founding peer that has lost its disk.
const LOST_PEER_PAUSE: Duration = Duration::from_secs(5);
/// How often a node that waits to be welcomed asks whether the cluster exists without it.
const LOOK_FOR_CLUSTER: Duration = Duration::from_secs(1);
/// How often a wait for peers is logged.
const LOG_EVERY: u32 = 50;

/// 128 random bits as 32 hexadecimal digits.
fn new_cluster_id() -> String {
    format!("{:032x}", random())
}

/// Opens the node's data directory, after founding or waiting for its cluster if it is new.
pub(crate) async fn open(
    home: &Home,
    config: &Config,
    listener: &Listener,
) -> Result<DataDir, StartError> {
    match DataDir::open(home.clone()) {
        Ok(dir) => {
            check_identity(config, &dir)?;
            Ok(dir)
        }
        Err(DirError::Uninitialised { .. }) => found(home, config, listener).await,
        Err(error) => Err(error.into()),
    }
}

fn check_identity(config: &Config, dir: &DataDir) -> Result<(), StartError> {
    let belongs_to = dir.identity().node_id;
    match config.node_id {
        Some(node) if node != belongs_to => Err(StartError::Identity(format!(
            "{} belongs to node {belongs_to}, but node_id is {node}; use the node's own data directory",
            dir.home()
        ))),
        _ => Ok(()),
    }
}

/// A node that belongs to no cluster yet.
struct Fresh {
    home: Home,
    config: Config,
    incarnation: u64,
    welcomed: Mutex<Option<Result<DataDir, DirError>>>,
    bell: Notify,
}

impl Directory for Fresh {
    fn replica(&self, _group: u64) -> Option<Replica> {
        None
    }

    fn admit(&self, _hello: &pb::Hello) -> Result<(), Status> {
        Err(Status::unavailable("this node does not belong to a cluster yet"))
    }

    fn identify(&self) -> pb::IdentifyResponse {
        pb::IdentifyResponse {
            node_id: self.config.node_id.unwrap_or(1),
            incarnation: self.incarnation,
            address: self.config.advertised(),
            version: env!("CARGO_PKG_VERSION").into(),
            commands_version: COMMANDS_VERSION,
            process_id: std::process::id(),
            zone: self.config.zone.clone(),
            ..Default::default()
        }
    }

    fn welcome(&self, request: pb::WelcomeRequest) -> BoxFuture<'_, Result<(), Status>> {
        let outcome = self.take_in(&request);
        std::future::ready(outcome).boxed()
    }

    fn placed(&self, _: u64, _: u64, _: Option<u64>) -> BoxFuture<'_, Result<(), Status>> {
        std::future::ready(Err(Status::unavailable("this node belongs to no cluster yet"))).boxed()
    }

    fn holdings(&self, _: Vec<u64>) -> BoxFuture<'_, Result<pb::HoldingsResponse, Status>> {
        std::future::ready(Err(Status::unavailable("this node belongs to no cluster yet"))).boxed()
    }

    fn take_moved(&self, _: pb::TakeMovedRequest) -> BoxFuture<'_, Result<u64, Status>> {
        std::future::ready(Err(Status::unavailable("this node belongs to no cluster yet"))).boxed()
    }

    fn accepts_entries(&self) -> bool {
        false
    }
}

impl Fresh {
    fn take_in(&self, request: &pb::WelcomeRequest) -> Result<(), Status> {
        let me = self.identify();
        if (request.node_id, request.incarnation) != (me.node_id, me.incarnation) {
            return Err(Status::failed_precondition("this node has restarted since; ask again"));
        }
        let identity = Identity {
            cluster_id: request.cluster_id.clone(),
            node_id: me.node_id,
            incarnation: me.incarnation,
            joined: false,
        };
        let mut welcomed = self.welcomed.lock().expect("no panic while held");
        match &*welcomed {
            Some(Ok(dir)) if *dir.identity() == identity => return Ok(()),
            Some(_) => return Err(Status::failed_precondition("welcomed by another cluster")),
            None => {}
        }
        let made = DataDir::create(self.home.clone(), identity);
        let outcome = match &made {
            Ok(_) => Ok(()),
            Err(error) => Err(Status::internal(error.to_string())),
        };
        *welcomed = Some(made);
        self.bell.notify_one();
        outcome
    }
}

async fn found(home: &Home, config: &Config, listener: &Listener) -> Result<DataDir, StartError> {
    let me = config.node_id.unwrap_or(1);
    let identity = |cluster_id| Identity {
        cluster_id,
        node_id: me,
        incarnation: random() as u64,
        joined: false,
    };
    if config.peers.len() <= 1 {
        return Ok(DataDir::create(home.clone(), identity(new_cluster_id()))?);
    }
    let lowest = config.peers.iter().map(|peer| peer.id).min();
    if lowest == Some(me) {
        for peer in config.peers.iter().filter(|peer| peer.id != me) {
            let told = identify_until(peer.id, &peer.address).await;
            if !told.cluster_id.is_empty() {
                return Err(StartError::Identity(format!(
                    "node {} at {} belongs to cluster {} already, so this node cannot found one with \
                     it. If this node lost its data directory, let it join as a new node: `quorate \
                     cluster join`",
                    peer.id, peer.address, told.cluster_id
                )));
            }
        }
        // From here on the cluster has an id; the others are welcomed once the catalog starts.
        return Ok(DataDir::create(home.clone(), identity(new_cluster_id()))?);
    }
    wait_for_welcome(home, config, listener).await
}

async fn wait_for_welcome(
    home: &Home,
    config: &Config,
    listener: &Listener,
) -> Result<DataDir, StartError> {
    let fresh = Arc::new(Fresh {
        home: home.clone(),
        config: config.clone(),
        incarnation: random() as u64,
        welcomed: Mutex::default(),
        bell: Notify::new(),
    });
    let stop = Shutdown::default();
    let beat = reconciler::pulse(&config.raft).beat;
    let router = peers::router(PeerService::new(fresh.clone(), COMMANDS_VERSION, beat));
    let serving = listener.serve(router, stop.clone());
    tracing::info!(node = ?config.node_id, "waits for the node with the lowest id to found the cluster");
    let serving = tokio::spawn(serving);
    let told = loop {
        if let Some(told) = fresh.welcomed.lock().expect("no panic while held").take() {
            break told.map_err(StartError::from);
        }
        tokio::select! {
            biased;
            () = fresh.bell.notified() => {}
            () = tokio::time::sleep(LOOK_FOR_CLUSTER) => {
                if let Some(refused) = known_otherwise(&fresh).await {
                    break Err(StartError::Identity(refused));
                }
            }
        }
    };
    stop.say();
    let _ = serving.await;
    told
}

/// A peer that knows this node with another data directory, and what it says. While the cluster is
/// being founded no peer knows any node yet.
async fn known_otherwise(fresh: &Fresh) -> Option<String> {
    let me = fresh.identify();
    for peer in fresh.config.peers.iter().filter(|peer| peer.id != me.node_id) {
        let Ok(told) = identify_once(peer.id, &peer.address).await else { continue };
        if told.cluster_id.is_empty() {
            continue;
        }
        let hello = pb::Hello {
            cluster_id: told.cluster_id,
            node_id: me.node_id,
            incarnation: me.incarnation,
            version: COMMANDS_VERSION,
            ..pb::Hello::default()
        };
        if let Err(refused) = introduce(&peer.address, hello).await {
            let what = format!("node {} at {} refuses this node: {refused}", peer.id, peer.address);
            return Some(what);
        }
    }
    None
}

/// Says Hello as a member would; an error is the peer's refusal.
async fn introduce(address: &str, hello: pb::Hello) -> Result<(), String> {
    let ask = async {
        let Ok(mut client) = peer_client(address).await else { return Ok(()) };
        let first = pb::Envelope { hello: Some(hello), rpcs: Vec::new() };
        match client.exchange(futures_util::stream::iter([first])).await {
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                Err(status.message().to_string())
            }
            _ => Ok(()),
        }
    };
    tokio::time::timeout(ASK_WAIT, ask).await.unwrap_or(Ok(()))
}

async fn peer_client(address: &str) -> Result<PeerClient<tonic::transport::Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect_timeout(ASK_WAIT).connect().await.map_err(|e| e.to_string())?;
    Ok(PeerClient::new(channel))
}

async fn identify_once(node: u64, address: &str) -> Result<pb::IdentifyResponse, String> {
    let ask = async {
        let mut client = peer_client(address).await?;
        let answer = client.identify(pb::IdentifyRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_string())
    };
    let told = tokio::time::timeout(ASK_WAIT, ask).await.map_err(|_| "no answer".to_string())??;
    if told.node_id == node {
        Ok(told)
    } else {
        Err(format!("{address} is node {}, not {node}", told.node_id))
    }
}

/// Asks a peer who it is until it answers: all founders have to be there.
async fn identify_until(node: u64, address: &str) -> pb::IdentifyResponse {
    let mut round = 0;
    loop {
        match identify_once(node, address).await {
            Ok(told) => return told,
            Err(reason) if round % LOG_EVERY == 0 => {
                tracing::info!(peer = node, address, %reason, "waits for a founding peer");
            }
            Err(_) => {}
        }
        round += 1;
        tokio::time::sleep(ROUND).await;
    }
}

/// A founding node, as it is registered.
#[derive(Clone)]
struct Founder {
    address: String,
    zone: String,
    incarnation: u64,
    /// Of the log commands that it knows.
    version: u32,
}

/// Founds the cluster, if this node is to and has not: welcomes the peers, begins the catalog's
/// group, and registers all nodes. Safe to do again after a crash in the middle.
pub(crate) async fn complete(member: Arc<Member>) {
    let config = &member.config;
    let lowest = config.peers.iter().map(|peer| peer.id).min().unwrap_or(member.id());
    if lowest != member.id() || member.identity.joined || is_registered(&member) {
        return;
    }
    // All founders were welcomed before the catalog began: whoever is fresh now has lost its disk.
    let catalog = member.log.state(quorate_storage::GroupId(CATALOG));
    // One that was taken anew after a recovery has a vote and nothing else yet.
    let begun = catalog.is_some_and(|state| state.last.is_some() || !state.vote.is_empty());
    let me = Founder {
        address: config.advertised(),
        zone: config.zone.clone(),
        incarnation: member.identity.incarnation,
        version: COMMANDS_VERSION,
    };
    let mut founders = BTreeMap::from([(member.id(), me)]);
    for peer in config.peers.iter().filter(|peer| peer.id != member.id()) {
        match welcome(&member, peer.id, &peer.address, begun).await {
            Ok(founder) => founders.insert(peer.id, founder),
            Err(reason) => return member.fail(reason),
        };
    }
    let ids = founders.keys().copied().collect();
    if let Err(error) = member.catalog.initialize(&ids).await {
        return member.fail(format!("begin the catalog: {error}"));
    }
    while !member.shutdown.is_said() && !is_registered(&member) {
        if let Err(error) = register_founders(&member, &founders).await {
            tracing::debug!(error = error.message, "found the cluster");
            tokio::time::sleep(ROUND).await;
        }
    }
}

/// True if the catalog, as far as it is known here, has every founder, or had it once.
fn is_registered(member: &Member) -> bool {
    let peers = member.config.peers.iter().map(|peer| peer.id);
    let ids: Vec<u64> = peers.chain([member.id()]).collect();
    member.catalog.read(|catalog| {
        let known = |id: NodeId| catalog.node(id).is_some() || catalog.is_removed(id);
        catalog.cluster_id().is_some() && ids.iter().all(|id| known(NodeId(*id)))
    })
}

async fn welcome(
    member: &Member,
    node: u64,
    address: &str,
    begun: bool,
) -> Result<Founder, String> {
    loop {
        let told = identify_until(node, address).await;
        let founder = Founder {
            address: address.into(),
            zone: told.zone.clone(),
            incarnation: told.incarnation,
            version: told.commands_version.max(1),
        };
        if told.cluster_id == member.cluster_id() {
            return Ok(founder);
        }
        if !told.cluster_id.is_empty() {
            return Err(format!("node {node} at {address} belongs to cluster {}", told.cluster_id));
        }
        if begun {
            tracing::warn!(peer = node, address, "a founding peer has lost its data directory");
            if member.shutdown.is_said() || is_registered(member) {
                return Ok(founder);
            }
            tokio::time::sleep(LOST_PEER_PAUSE).await;
            continue;
        }
        let request = pb::WelcomeRequest {
            cluster_id: member.cluster_id().into(),
            node_id: node,
            incarnation: told.incarnation,
        };
        let sent = async {
            let mut client = peer_client(address).await?;
            client.welcome(request).await.map_err(|status| status.message().to_string())
        };
        match tokio::time::timeout(ASK_WAIT, sent).await {
            Ok(Ok(_)) => return Ok(founder),
            Ok(Err(reason)) => tracing::info!(peer = node, %reason, "welcome a founding peer"),
            Err(_) => tracing::info!(peer = node, "no answer to a welcome"),
        }
        if member.shutdown.is_said() {
            return Err("shut down while the cluster was founded".into());
        }
        tokio::time::sleep(ROUND).await;
    }
}

async fn register_founders(
    member: &Member,
    founders: &BTreeMap<u64, Founder>,
) -> Result<(), crate::refusal::Refusal> {
    let cluster_id = u128::from_str_radix(member.cluster_id(), 16).unwrap_or_default();
    member.propose_catalog(Command::Bootstrap { cluster_id }).await?;
    for (node, founder) in founders {
        let register = RegisterNode {
            id: NodeId(*node),
            incarnation: founder.incarnation.into(),
            address: founder.address.clone(),
            zone: founder.zone.clone(),
            version: founder.version,
            replace: false,
        };
        match member.propose_catalog(Command::RegisterNode(register)).await? {
            // It was there, and left since.
            Reply::Rejected(Rejection::NodeRemoved { .. }) => {}
            Reply::Rejected(rejection) => member.fail(format!("register node {node}: {rejection}")),
            _ => {}
        }
    }
    tracing::info!(cluster = member.cluster_id(), nodes = founders.len(), "founded the cluster");
    Ok(())
}

/// A node that has been registered and may be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The id that it was given.
    pub node_id: u64,
    /// The cluster, 32 hexadecimal digits.
    pub cluster_id: String,
}

/// A node that could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No server could be asked.
    #[error("reach the cluster at {servers}: {reason}")]
    Unreachable {
        /// Those that were tried.
        servers: String,
        /// What the last one said.
        reason: String,
    },
    /// The cluster refused.
    #[error("the cluster refused: {0}")]
    Refused(String),
    /// The data directory could not be made.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// What the cluster told could not be kept.
    #[error("keep the cluster's addresses: {0}")]
    Meta(#[from] quorate_storage::MetaError),
}

/// Registers a new node that will be reached at `address`, and makes its data directory. It can
/// then be started with that directory alone.
///
/// # Errors
/// When the directory is in use or the cluster cannot be reached or refuses.
pub async fn join(
    home: impl Into<Home>,
    servers: &[String],
    address: &str,
    zone: &str,
) -> Result<Joined, JoinError> {
    let home = home.into();
    match DataDir::open(home.clone()) {
        Err(DirError::Uninitialised { .. }) => {}
        Ok(dir) => {
            let identity = Box::new(dir.identity().clone());
            let path = home.to_string().into();
            return Err(DirError::AlreadyInitialised { path, identity }.into());
        }
        Err(error) => return Err(error.into()),
    }
    let incarnation = random() as u64;
    let mut reason = "no address given".to_string();
    for server in servers {
        let request = v1::JoinClusterRequest {
            address: address.into(),
            zone: zone.into(),
            incarnation,
            commands_version: COMMANDS_VERSION,
        };
        let endpoint = Endpoint::from_shared(format!("http://{server}"));
        let channel = match endpoint {
            Ok(endpoint) => endpoint.connect_timeout(ASK_WAIT).connect().await,
            Err(error) => Err(error),
        };
        let channel = match channel {
            Ok(channel) => channel,
            Err(error) => {
                reason = format!("{server}: {error}");
                continue;
            }
        };
        let mut client = v1::cluster_service_client::ClusterServiceClient::new(channel);
        let told = client.join_cluster(request).await;
        let told = told.map_err(|s| JoinError::Refused(s.message().into()))?.into_inner();
        let node_id = told.node_id;
        let cluster_id = told.cluster_id.clone();
        let identity = Identity { cluster_id, node_id, incarnation, joined: true };
        let dir = DataDir::create(home, identity)?;
        keep_peers(&dir, &told.peers)?;
        return Ok(Joined { node_id, cluster_id: told.cluster_id });
    }
    Err(JoinError::Unreachable { servers: servers.join(", "), reason })
}

fn keep_peers(dir: &DataDir, peers: &[String]) -> Result<(), quorate_storage::MetaError> {
    let (meta, _) = dir.meta()?;
    for peer in peers {
        let Some((node, address)) = peer.split_once('=') else { continue };
        let Ok(node) = node.parse::<u64>() else { continue };
        let value = crate::reconciler::kept_address(None, address);
        meta.put(&crate::reconciler::address_key(node), &[&value])?;
    }
    meta.sync()
}
