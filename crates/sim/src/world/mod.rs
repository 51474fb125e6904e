//! A simulated cluster: nodes that run the shipped broker on simulated machines, their disks,
//! clocks and network, and the machines of clients.
//!
//! ```text
//!  madsim runtime ── one machine a node ── broker::Node ── SimDir (disk, small state, identity)
//!                 └─ client machines ───── SDK, workload
//!  Cluster: what a test, a scenario or the faults hold: kill, cut off, lose power, jump clocks …
//! ```

mod host;
mod machine;
mod network;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use madsim::net::NetSim;
use madsim::rand::{Rng, thread_rng};
use madsim::runtime::{Handle, NodeHandle};
use quorate_broker::{Config, Limits, Peer, RaftConfig, StorageConfig, Volumes};
use quorate_client::Client;
use quorate_group::sim::{Skew, World};
use quorate_storage::SimDir;
use tokio::time::sleep;

use host::Host;
pub use host::Status;
pub use machine::Machine;
pub use network::LATENCY;

use crate::events::{Event, Record};

const PORT: u16 = 7100;

/// What a write costs a disk that nothing ails.
pub const FLUSH: Duration = Duration::from_millis(1);

/// A simulated cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    record: Record,
    hosts: Mutex<BTreeMap<u64, Arc<Host>>>,
    founders: Vec<u64>,
    clients: AtomicU64,
    park_after_ms: u32,
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, node as u8)), PORT)
}

/// Small in all that a real node has large, so that segments fill, checkpoints are made and logs
/// purged within a simulated minute.
fn config(node: u64, founders: &[u64], park_after_ms: u32) -> Config {
    let peer = |id: &u64| Peer { id: *id, address: address(*id).to_string() };
    Config {
        listen: address(node),
        insecure: true,
        node_id: Some(node),
        peers: founders.iter().map(peer).collect(),
        limits: Limits {
            max_message_bytes: 32 << 10,
            max_frame_bytes: 32 << 10,
            publish_memory_bytes: 1 << 20,
            disk_reserve_bytes: 256 << 10,
            ..Limits::default()
        },
        storage: StorageConfig { segment_bytes: 128 << 10, tail_bytes: 64 << 10 },
        raft: RaftConfig {
            park_after_ms,
            snapshot_bytes_per_second: 1 << 20,
            ..RaftConfig::default()
        },
        volumes: Volumes {
            entry_bytes: 16 << 10,
            checkpoint_bytes: 32 << 10,
            checkpoint_entries: 150,
            checkpoint_age: Duration::from_secs(5),
            kept_entries: 60,
            kept_bytes: 24 << 10,
            ..Volumes::default()
        },
        ..Config::default()
    }
}

impl Cluster {
    /// Starts `nodes` nodes that found a cluster together.
    ///
    /// # Panics
    /// Outside of a simulation.
    #[must_use]
    pub fn start(nodes: usize, record: Record) -> Cluster {
        let founders: Vec<u64> = (1..=nodes as u64).collect();
        let inner = Inner {
            record: record.clone(),
            hosts: Mutex::default(),
            founders: founders.clone(),
            clients: AtomicU64::new(0),
            // Also so short that a queue is parked between two messages.
            park_after_ms: [20, 60, 200, 1_500][thread_rng().gen_range(0..4)],
        };
        let cluster = Cluster(Arc::new(inner));
        World::current().observe(Arc::new(record));
        for node in founders {
            cluster.add(node, SimDir::new(thread_rng().r#gen()));
        }
        tokio::spawn(host::keep_running(cluster.clone()));
        cluster
    }

    /// A further machine with a directory, whose node starts at once.
    fn add(&self, node: u64, dir: SimDir) {
        dir.disk().set_latency(FLUSH);
        let founders = match self.0.founders.contains(&node) {
            true => self.0.founders.clone(),
            false => Vec::new(),
        };
        let host = Host::start(self, node, config(node, &founders, self.0.park_after_ms), dir);
        self.hosts().insert(node, host);
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Host>>> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self, node: u64) -> Arc<Host> {
        self.hosts().get(&node).expect("a node of this cluster").clone()
    }

    /// What is told of everything.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.0.record
    }

    /// Looked up each time: a machine's program holds its cluster, and the runtime the program.
    pub(crate) fn runtime(&self) -> Handle {
        Handle::current()
    }

    fn net(&self) -> Arc<NetSim> {
        NetSim::current()
    }

    /// Ids of all nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<u64> {
        self.hosts().keys().copied().collect()
    }

    /// Where the nodes are reached.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.addresses_of(|_| true)
    }

    /// The same, of some of them.
    pub(crate) fn addresses_of(&self, wanted: impl Fn(u64) -> bool) -> Vec<String> {
        let nodes = self.nodes().into_iter().filter(|node| wanted(*node));
        nodes.map(|node| address(node).to_string()).collect()
    }

    /// Connects an application; tries until the cluster is there.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub async fn client(&self) -> Client {
        for _ in 0..600 {
            if let Ok(client) = Client::connect(self.addresses()).await
                && let Ok(status) = client.status().await
                && status.nodes.len() >= self.0.founders.len()
            {
                return client;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("the simulated cluster does not answer");
    }

    /// A machine of its own for clients.
    pub(crate) fn client_machine(&self, name: &str) -> NodeHandle {
        let ip = self.next_client_ip();
        self.runtime().create_node().name(name).ip(ip).build()
    }

    /// One whose main task starts again whenever the machine does.
    pub(crate) fn client_machine_with<F>(
        &self,
        name: &str,
        main: impl Fn() -> F + Send + Sync + 'static,
    ) -> NodeHandle
    where
        F: Future<Output = ()> + 'static,
    {
        let ip = self.next_client_ip();
        self.runtime().create_node().name(name).ip(ip).init(main).build()
    }

    fn next_client_ip(&self) -> IpAddr {
        let number = self.0.clients.fetch_add(1, Ordering::Relaxed);
        IpAddr::V4(Ipv4Addr::new(10, 1, (number / 200) as u8, (number % 200) as u8 + 1))
    }

    fn told(&self, kind: &'static str, what: impl std::fmt::Display) {
        self.0.record.tell(Event::Fault { kind, what: &what.to_string() });
    }

    // Processes.

    /// What a node does.
    #[must_use]
    pub fn status(&self, node: u64) -> Status {
        self.host(node).status()
    }

    /// Ends a node's process at once, as `kill -9` does. It stays down.
    pub fn kill(&self, node: u64) {
        self.told("kill", node);
        self.host(node).kill(self);
    }

    /// Starts a node that is down.
    pub fn start_again(&self, node: u64) {
        self.host(node).restart(self);
    }

    /// Ends a node's process in good order: it hands over what it leads. It stays down.
    pub async fn shut_down(&self, node: u64) {
        self.told("shut_down", node);
        self.host(node).shut_down(self).await;
    }

    /// Stops a process without ending it, as SIGSTOP does.
    pub fn pause(&self, node: u64) {
        self.told("pause", node);
        self.runtime().pause(self.host(node).machine());
    }

    /// Lets a stopped process go on.
    pub fn resume(&self, node: u64) {
        self.runtime().resume(self.host(node).machine());
    }

    /// The node that leads a queue, as last heard.
    #[must_use]
    pub fn leader(&self, group: u64) -> Option<u64> {
        self.0.record.leader(group).map(|(node, _)| node)
    }

    /// Waits until a queue is led by another node than `before`; `None` if that takes over a minute.
    pub async fn new_leader(&self, group: u64, before: Option<u64>) -> Option<u64> {
        for _ in 0..1200 {
            match self.leader(group) {
                Some(leader) if Some(leader) != before => return Some(leader),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        None
    }

    // Power and disks.

    /// A node loses its power: what it had not flushed may be gone. It stays down.
    pub fn lose_power(&self, node: u64) {
        self.told("power_loss", node);
        self.host(node).lose_power(self);
    }

    /// The nodes lose their power together, each in the middle of a write, a flush or a renaming if
    /// one comes within some milliseconds: what was under way is torn. They stay down.
    pub async fn lose_power_in_a_write(&self, nodes: &[u64]) {
        use quorate_storage::disk::{Fault, Operation};
        let mut disks = Vec::new();
        for node in nodes {
            let operations = [Operation::Write, Operation::Flush, Operation::Rename];
            let operation = operations[thread_rng().gen_range(0..operations.len())];
            let disk = self.disk(*node);
            disk.plan(operation, thread_rng().gen_range(1..3), Fault::PowerLoss);
            if thread_rng().gen_bool(0.2) {
                self.meta(*node).fail_syncs(1);
            }
            disks.push(disk);
        }
        for _ in 0..20 {
            sleep(Duration::from_millis(1)).await;
            if disks.iter().all(|disk| !disk.is_alive()) {
                break;
            }
        }
        for node in nodes {
            self.lose_power(*node);
            self.meta(*node).fail_syncs(0);
        }
        disks.iter().for_each(quorate_storage::SimDisk::clear_plans);
    }

    /// A node's disk.
    #[must_use]
    pub fn disk(&self, node: u64) -> quorate_storage::SimDisk {
        self.host(node).dir().disk().clone()
    }

    /// A node's small state.
    #[must_use]
    pub fn meta(&self, node: u64) -> quorate_storage::SimMeta {
        self.host(node).dir().meta().clone()
    }

    /// A node that is down gets an empty directory in place of its own, and a settings file that
    /// still says who it was.
    pub fn wipe(&self, node: u64) {
        self.told("wipe", node);
        self.host(node).wipe();
    }

    // Clocks.

    /// How a node's clock differs.
    #[must_use]
    pub fn skew_of(&self, node: u64) -> Skew {
        World::current().skew(self.host(node).machine())
    }

    /// Sets how a node's clock differs.
    pub fn skew(&self, node: u64, skew: Skew) {
        self.told("clock", format_args!("{node} {skew:?}"));
        World::current().set_skew(self.host(node).machine(), skew);
    }

    // Membership.

    /// A further node joins. Returns its id once it is registered and started.
    ///
    /// # Errors
    /// Says why the cluster did not take it.
    pub async fn join(&self) -> Result<u64, String> {
        let next = self.nodes().into_iter().max().unwrap_or(0) + 1;
        let dir = SimDir::new(thread_rng().r#gen());
        let (servers, home) = (self.addresses(), dir.clone());
        let machine = self.client_machine("join");
        let joined = machine.spawn(async move {
            let (address, zone) = (address(next).to_string(), "");
            quorate_broker::join(home, &servers, &address, zone).await
        });
        let joined = joined.await.map_err(|error| error.to_string())?;
        let joined = joined.map_err(|error| error.to_string())?;
        self.told("join", joined.node_id);
        if joined.node_id != next {
            return Err(format!("the node was given id {}, not {next}", joined.node_id));
        }
        self.add(next, dir);
        Ok(next)
    }

    /// Forgets a node that was removed from the cluster.
    pub(crate) fn retire(&self, node: u64) {
        self.told("retire", node);
        if let Some(host) = self.hosts().remove(&node) {
            host.kill(self);
        }
    }

    /// Waits until every node runs and all replicas of every group, of which the number is told, have applied
    /// the same.
    ///
    /// # Errors
    /// Says who lags after `limit`.
    pub async fn settle(&self, groups: &[(u64, usize)], limit: Duration) -> Result<(), String> {
        let started = tokio::time::Instant::now();
        loop {
            let lagging = self.lagging(groups);
            let Some(lagging) = lagging else { return Ok(()) };
            if started.elapsed() > limit {
                return Err(format!("liveness: {lagging}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn lagging(&self, groups: &[(u64, usize)]) -> Option<String> {
        let nodes = self.nodes();
        for node in &nodes {
            if self.status(*node) != Status::Running {
                return Some(format!("node {node} is {:?}", self.status(*node)));
            }
        }
        for (group, replicas) in groups {
            let applied: Vec<_> =
                nodes.iter().map(|node| self.0.record.applied(*node, *group)).collect();
            let last = applied.iter().flatten().max();
            if applied.iter().filter(|at| at.as_ref() == last).count() < *replicas {
                return Some(format!("group {group} is applied up to {applied:?}"));
            }
        }
        None
    }
}
