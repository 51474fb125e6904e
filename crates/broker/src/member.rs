//! This node as a member of its cluster: what its services and tasks share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_group::{Handle, Replica};
use quorate_machine::NodeId;
use quorate_machine::catalog::{Catalog, GroupId};
use quorate_proto::internal as pb;
use quorate_proto::reason;
use quorate_storage::{Identity, Log, Meta};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;

use crate::awake::Awake;
use crate::budget::{Budget, DiskSpace};
use crate::config::Config;
use crate::counts::Counts;
use crate::healing::Absences;
use crate::peers::{Addresses, Connections, Directory, NODE_REMOVED};
use crate::queue::Queue;
use crate::reconciler::removed;
use crate::refusal::Refusal;
use crate::shutdown::Shutdown;
use crate::telemetry::Telemetry;

/// Version of the log commands and peer messages that this build knows.
pub(crate) const COMMANDS_VERSION: u32 = 7;

/// Version from which on the commands of slots are known.
pub(crate) const SLOTS_VERSION: u32 = 2;

/// Version from which on the commands are known that move queues and remove nodes.
pub(crate) const MOVES_VERSION: u32 = 2;

/// Version from which on messages are known that have properties.
pub(crate) const PROPERTIES_VERSION: u32 = 3;

/// Version from which on the commands are known that recover queues.
pub(crate) const RECOVERY_VERSION: u32 = 4;

/// Version from which on numbered settings are known, and what they and the messages of version 5 ask for.
pub(crate) const BEHAVIOUR_VERSION: u32 = 5;

/// Version from which on sharded queues are known.
pub(crate) const SHARDS_VERSION: u32 = 6;

/// Version from which on seeks of consumers are known.
pub(crate) const SEEKS_VERSION: u32 = 6;

/// Version from which on consumers may filter.
pub(crate) const FILTERS_VERSION: u32 = 7;

/// The group of the catalog.
pub(crate) const CATALOG: u64 = 0;

/// The queues that have a replica here, by group.
#[derive(Default)]
pub(crate) struct Queues(RwLock<BTreeMap<u64, Arc<Queue>>>);

impl Queues {
    pub(crate) fn get(&self, group: u64) -> Option<Arc<Queue>> {
        self.0.read().expect("no panic while held").get(&group).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Queue>> {
        self.0.read().expect("no panic while held").values().cloned().collect()
    }

    pub(crate) fn groups(&self) -> BTreeSet<u64> {
        self.0.read().expect("no panic while held").keys().copied().collect()
    }

    pub(crate) fn insert(&self, group: u64, queue: Arc<Queue>) {
        self.0.write().expect("no panic while held").insert(group, queue);
    }

    pub(crate) fn remove(&self, group: u64) -> Option<Arc<Queue>> {
        self.0.write().expect("no panic while held").remove(&group)
    }
}

pub(crate) struct Member {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) log: Log,
    pub(crate) meta: Arc<dyn Meta>,
    pub(crate) catalog: Handle<Catalog>,
    pub(crate) queues: Queues,
    pub(crate) connections: Connections,
    pub(crate) addresses: Addresses,
    pub(crate) budget: Budget,
    pub(crate) disk: Arc<DiskSpace>,
    pub(crate) shutdown: Shutdown,
    /// Rung when the catalog has changed.
    pub(crate) changed: Notify,
    pub(crate) failure: Failure,
    pub(crate) counts: Counts,
    pub(crate) versions: Versions,
    pub(crate) telemetry: Telemetry,
    pub(crate) absences: Absences,
    /// Counts what is published to a sharded queue without a key, which goes to its shards in turn.
    pub(crate) turns: AtomicUsize,
    pub(crate) awake: Awake,
    /// Groups of which this node has a later timeline than the catalog, and has said so.
    pub(crate) ahead: Mutex<BTreeSet<u64>>,
    /// Groups that a recovered catalog places on other nodes, and of which this node keeps what it has; it has said so.
    pub(crate) kept: Mutex<BTreeSet<u64>>,
    /// Held by who changes settings of a queue: those that stay are read and written again.
    pub(crate) updating: tokio::sync::Mutex<()>,
}

/// What other nodes said that they know, and when they said so last: whoever is connected to this node says it again
/// and again.
#[derive(Default)]
pub(crate) struct Versions(Mutex<BTreeMap<u64, (u32, Instant)>>);

impl Versions {
    fn said(&self, node: u64, version: u32) {
        self.0.lock().expect("no panic while held").insert(node, (version, Instant::now()));
    }

    pub(crate) fn of(&self, node: u64) -> Option<u32> {
        self.0.lock().expect("no panic while held").get(&node).map(|(version, _)| *version)
    }

    /// How long ago a node reached this one, which may not reach it; `None` if it has not since the start.
    pub(crate) fn said_ago(&self, node: u64) -> Option<Duration> {
        self.0.lock().expect("no panic while held").get(&node).map(|(_, at)| at.elapsed())
    }
}

/// Why the node must stop, once something failed that it cannot go on without.
#[derive(Default)]
pub(crate) struct Failure {
    reason: Mutex<Option<String>>,
    bell: Notify,
}

impl Failure {
    fn set(&self, reason: String) {
        self.reason.lock().expect("no panic while held").get_or_insert(reason);
        self.bell.notify_one();
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.reason.lock().expect("no panic while held").clone()
    }

    /// Resolves with the first failure.
    pub(crate) async fn happened(&self) -> String {
        loop {
            if let Some(reason) = self.get() {
                return reason;
            }
            self.bell.notified().await;
        }
    }
}

impl Member {
    pub(crate) fn id(&self) -> u64 {
        self.identity.node_id
    }

    pub(crate) fn cluster_id(&self) -> &str {
        &self.identity.cluster_id
    }

    /// Stops the node for a failure that it must not go on with.
    pub(crate) fn fail(&self, reason: String) {
        if !self.shutdown.is_said() {
            tracing::error!(node = self.id(), %reason, "this node must stop");
        }
        self.failure.set(reason);
    }

    /// Refuses what some node does not know since it runs an older version: a replica would stop at the command.
    pub(crate) fn expect_known(&self, since: u32, what: &str) -> Result<(), Refusal> {
        if self.knows(since) {
            return Ok(());
        }
        let message = format!(
            "a node of the cluster runs a version that does not know {what}; upgrade all nodes, \
             `quorate cluster status` shows them"
        );
        Err(Refusal::new(reason::UNSUPPORTED_VERSION, message))
    }

    /// Whether all nodes know what came with a version.
    pub(crate) fn knows(&self, since: u32) -> bool {
        self.catalog.read(Catalog::min_version).unwrap_or(0) >= since
    }

    /// Queues that this node leads.
    pub(crate) fn led(&self) -> u64 {
        self.queues.all().iter().filter(|queue| queue.handle.leadership().leads).count() as u64
    }
}

impl Directory for Member {
    fn replica(&self, group: u64) -> Option<Replica> {
        match group {
            // What it knows stops, one replica after the other.
            _ if self.shutdown.is_said() => None,
            CATALOG => Some(self.catalog.replica().clone()),
            group => self.queues.get(group).map(|queue| queue.handle.replica().clone()),
        }
    }

    fn admit(&self, hello: &pb::Hello) -> Result<(), Status> {
        if hello.cluster_id != self.cluster_id() {
            return Err(Status::failed_precondition(format!(
                "wrong cluster: node {} belongs to cluster {}, this is node {} of cluster {}; check \
                 the addresses of both",
                hello.node_id,
                hello.cluster_id,
                self.id(),
                self.cluster_id()
            )));
        }
        if self.catalog.read(|catalog| catalog.is_removed(NodeId(hello.node_id))) {
            let refusal = Refusal::new(NODE_REMOVED, removed(hello.node_id))
                .with("cluster", self.cluster_id())
                .with("node", hello.node_id);
            return Err(refusal.into());
        }
        let known = self
            .catalog
            .read(|catalog| catalog.node(NodeId(hello.node_id)).map(|node| node.incarnation));
        // A node that the catalog here does not know yet may be one that has just joined.
        if known.is_some_and(|known| known != u128::from(hello.incarnation)) {
            return Err(Status::failed_precondition(format!(
                "wrong incarnation: node {} was known with another data directory; it must not come \
                 back under its old id with an empty or older one. Let it join as a new node: \
                 `quorate cluster join`",
                hello.node_id
            )));
        }
        self.versions.said(hello.node_id, hello.version);
        Ok(())
    }

    fn identify(&self) -> pb::IdentifyResponse {
        pb::IdentifyResponse {
            cluster_id: self.cluster_id().into(),
            node_id: self.id(),
            incarnation: self.identity.incarnation,
            address: self.config.advertised(),
            version: env!("CARGO_PKG_VERSION").into(),
            commands_version: COMMANDS_VERSION,
            disk_full: self.disk.is_full(),
            disk_free_bytes: self.disk.free_bytes(),
            process_id: std::process::id(),
            leaders: self.led(),
            zone: self.config.zone.clone(),
        }
    }

    fn welcome(&self, request: pb::WelcomeRequest) -> BoxFuture<'_, Result<(), Status>> {
        let same = request.cluster_id == self.cluster_id()
            && request.node_id == self.id()
            && request.incarnation == self.identity.incarnation;
        std::future::ready(if same {
            Ok(())
        } else {
            Err(Status::failed_precondition(format!(
                "this is node {} of cluster {} already",
                self.id(),
                self.cluster_id()
            )))
        })
        .boxed()
    }

    fn placed(
        &self,
        group: u64,
        moved: u64,
        took_over_from: Option<u64>,
    ) -> BoxFuture<'_, Result<(), Status>> {
        Member::placed(self, GroupId(group), moved, took_over_from)
            .map(|outcome| outcome.map_err(Status::from))
            .boxed()
    }

    fn holdings(&self, groups: Vec<u64>) -> BoxFuture<'_, Result<pb::HoldingsResponse, Status>> {
        let told = async {
            let replicas = self.holdings_of(groups).await;
            pb::HoldingsResponse { replicas, reached: self.reached() }
        };
        told.map(Ok).boxed()
    }

    fn take_moved(&self, request: pb::TakeMovedRequest) -> BoxFuture<'_, Result<u64, Status>> {
        Member::take_moved(self, request).boxed()
    }

    fn accepts_entries(&self) -> bool {
        self.disk.takes_entries()
    }
}
