//! A cluster of node processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_client::{Client, ClusterStatus, QueueSettings};
use tempfile::TempDir;

use crate::ports;
use crate::process::Server;
use crate::relay::Relay;

/// Longest wait for a cluster to be founded, or to have a leader again.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for a node that was told to stop: hand-over and drain are bounded by 3 s each.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Time between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How a cluster is to be set up.
#[derive(Debug)]
pub struct Plan {
    nodes: u64,
    relayed: bool,
    settings: Vec<String>,
    data: BTreeMap<u64, PathBuf>,
    zones: BTreeMap<u64, String>,
}

impl Plan {
    /// `nodes` nodes with the program's defaults.
    #[must_use]
    pub fn of(nodes: u64) -> Self {
        Self {
            nodes,
            relayed: false,
            settings: Vec::new(),
            data: BTreeMap::new(),
            zones: BTreeMap::new(),
        }
    }

    /// `section.key=value` for each node.
    #[must_use]
    pub fn set(mut self, assignment: &str) -> Self {
        self.settings.extend(["--set".to_owned(), assignment.to_owned()]);
        self
    }

    /// The way to each node, for clients and the other nodes, leads through a relay: [`Cluster::delay`].
    #[must_use]
    pub fn relayed(mut self) -> Self {
        self.relayed = true;
        self
    }

    /// Where a node keeps its data, if not in the cluster's own directory.
    #[must_use]
    pub fn data(mut self, node: u64, path: impl Into<PathBuf>) -> Self {
        self.data.insert(node, path.into());
        self
    }

    /// The zones of the nodes, from the first on.
    #[must_use]
    pub fn zones(mut self, zones: &[&str]) -> Self {
        self.zones = (1..).zip(zones.iter().map(|zone| (*zone).to_owned())).collect();
        self
    }

    /// Starts the nodes and waits until they are one cluster.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn start(self) -> Cluster {
        let relayed = self.relayed;
        let mut cluster = self.describe();
        for node in cluster.nodes.values_mut().filter(|_| relayed) {
            node.listen = ports::free();
            node.relay = Some(Relay::start(node.address, node.listen).await);
        }
        cluster
            .nodes
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|id| cluster.start_node(id));
        cluster.ready().await;
        cluster
    }

    /// The cluster without any node running.
    ///
    /// # Panics
    /// When no directory can be made.
    #[must_use]
    pub fn describe(mut self) -> Cluster {
        let dir = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a directory");
        let node = |id| {
            let data =
                self.data.remove(&id).unwrap_or_else(|| dir.path().join(format!("node-{id}")));
            let log = dir.path().join(format!("node-{id}.log"));
            let address = ports::free();
            let zone = self.zones.remove(&id).unwrap_or_default();
            (id, Node { address, listen: address, relay: None, zone, data, log, server: None })
        };
        let nodes = (1..=self.nodes).map(node).collect();
        Cluster { nodes, settings: self.settings, dir }
    }
}

#[derive(Debug)]
struct Node {
    /// Where others find it.
    address: SocketAddr,
    listen: SocketAddr,
    relay: Option<Relay>,
    zone: String,
    data: PathBuf,
    log: PathBuf,
    server: Option<Server>,
}

/// Nodes on loopback, numbered from 1. Dropping it kills them; if that is because a test failed, the end of
/// each node's log is printed and the directory is kept.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<u64, Node>,
    settings: Vec<String>,
    dir: TempDir,
}

impl Cluster {
    /// Starts `nodes` nodes with the program's defaults.
    ///
    /// # Panics
    /// See [`Plan::start`].
    pub async fn start(nodes: u64) -> Self {
        Plan::of(nodes).start().await
    }

    /// Ids of the nodes, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// host:port of a node.
    #[must_use]
    pub fn address(&self, node: u64) -> String {
        self.node(node).address.to_string()
    }

    /// host:port at which a node itself listens, without the relay before it.
    #[must_use]
    pub fn listens(&self, node: u64) -> String {
        self.node(node).listen.to_string()
    }

    /// host:port of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.ids().into_iter().map(|id| self.address(id)).collect()
    }

    /// Data directory of a node.
    #[must_use]
    pub fn data(&self, node: u64) -> &Path {
        &self.node(node).data
    }

    /// What a node has written to its log so far.
    #[must_use]
    pub fn log(&self, node: u64) -> String {
        std::fs::read(&self.node(node).log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Arguments with which a node is started.
    #[must_use]
    pub fn server_args(&self, id: u64) -> Vec<String> {
        let node = self.node(id);
        let peers: Vec<String> =
            self.nodes.iter().map(|(id, node)| format!("{id}={}", node.address)).collect();
        let mut args = vec!["--node-id".to_owned(), id.to_string()];
        args.extend(["--listen".to_owned(), node.listen.to_string()]);
        args.extend(["--advertise".to_owned(), node.address.to_string()]);
        args.extend(["--data".to_owned(), node.data.display().to_string()]);
        args.extend(["--peer".to_owned(), peers.join(",")]);
        if !node.zone.is_empty() {
            args.extend(["--zone".to_owned(), node.zone.clone()]);
        }
        args.extend(self.settings.iter().cloned());
        args
    }

    /// Starts a node that does not run, on the data it has; does not wait for it.
    pub fn start_node(&mut self, id: u64) {
        let args = self.server_args(id);
        let node = self.node_mut(id);
        assert!(node.server.is_none(), "node {id} runs already");
        node.server = Some(Server::start(&args, &node.log));
    }

    /// kill -9.
    pub fn kill9(&mut self, id: u64) {
        self.server(id).kill9();
        self.node_mut(id).server = None;
    }

    /// SIGSTOP: the node is there, but does nothing.
    pub fn pause(&mut self, id: u64) {
        self.server(id).pause();
    }

    /// SIGCONT.
    pub fn resume(&mut self, id: u64) {
        self.server(id).resume();
    }

    /// Holds back everything on the way to a node and back for so long, in each direction.
    ///
    /// # Panics
    /// When the cluster is not relayed.
    pub fn delay(&self, id: u64, by: Duration) {
        self.node(id).relay.as_ref().expect("a relayed cluster").delay(by);
    }

    /// SIGTERM, and waits until the node has ended in order.
    ///
    /// # Panics
    /// When it has not in time, or not with code 0.
    pub async fn stop(&mut self, id: u64) {
        let server = self.server(id);
        server.terminate();
        let ended = server.ended_within(STOP_LIMIT).await;
        let ended =
            ended.unwrap_or_else(|| panic!("node {id} has not ended {STOP_LIMIT:?} after SIGTERM"));
        assert!(ended.success(), "node {id} ended with {ended}");
        self.node_mut(id).server = None;
    }

    /// Whether the node's process runs.
    pub async fn is_running(&mut self, id: u64) -> bool {
        match &mut self.node_mut(id).server {
            Some(server) => server.ended_within(Duration::ZERO).await.is_none(),
            None => false,
        }
    }

    /// Waits until every running node sees all nodes, those that run as reachable, and a leader of the
    /// catalog.
    ///
    /// # Panics
    /// When that takes longer than half a minute.
    pub async fn ready(&mut self) {
        let begun = Instant::now();
        let running: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.server.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in &running {
            loop {
                assert!(self.is_running(*id).await, "node {id} has ended");
                assert!(
                    begun.elapsed() < READY_LIMIT,
                    "node {id} is not ready after {READY_LIMIT:?}"
                );
                if let Some(status) = self.status(*id).await
                    && self.is_complete(&status, &running)
                {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    fn is_complete(&self, status: &ClusterStatus, running: &[u64]) -> bool {
        let reached = status.nodes.iter().filter(|node| node.reachable).map(|node| node.node_id);
        status.nodes.len() == self.nodes.len()
            && status.catalog_leader.is_some()
            && reached.filter(|id| running.contains(id)).count() == running.len()
    }

    /// The cluster as one node sees it; `None` if it does not answer.
    pub async fn status(&self, id: u64) -> Option<ClusterStatus> {
        let client = Client::builder()
            .addresses([self.address(id)])
            .connect_timeout(Duration::from_millis(500))
            .request_timeout(Duration::from_secs(2));
        client.connect().await.ok()?.status().await.ok()
    }

    /// A client that knows all nodes.
    ///
    /// # Panics
    /// When no node answers.
    pub async fn client(&self) -> Client {
        Client::connect(self.addresses()).await.expect("a node answers")
    }

    /// Creates a queue with three replicas, or one where there are fewer nodes.
    ///
    /// # Panics
    /// When the cluster refuses.
    pub async fn queue(&self, name: &str) -> Client {
        self.queue_with(name, QueueSettings::default()).await
    }

    /// Creates a queue.
    ///
    /// # Panics
    /// When the cluster refuses.
    pub async fn queue_with(&self, name: &str, settings: QueueSettings) -> Client {
        let client = self.client().await;
        client.create_queue(name, settings).await.expect("create the queue");
        client
    }

    /// The node that leads a queue, waiting for an election: a node that this test has killed or paused
    /// leads no more, even if others do not know yet.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn leader_of(&self, queue: &str) -> u64 {
        let begun = Instant::now();
        loop {
            let located = self.client().await.locate(queue).await;
            if let Ok(leader) = &located
                && self
                    .node(leader.node_id)
                    .server
                    .as_ref()
                    .is_some_and(|server| !server.is_paused())
            {
                return leader.node_id;
            }
            assert!(begun.elapsed() < READY_LIMIT, "{queue} has no leader: {located:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A node that does not lead the queue.
    ///
    /// # Panics
    /// As [`leader_of`](Self::leader_of), or when there is only one node.
    pub async fn follower_of(&self, queue: &str) -> u64 {
        let leader = self.leader_of(queue).await;
        self.ids().into_iter().find(|id| *id != leader).expect("another node")
    }

    fn node(&self, id: u64) -> &Node {
        self.nodes.get(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn server(&mut self, id: u64) -> &mut Server {
        self.node_mut(id).server.as_mut().unwrap_or_else(|| panic!("node {id} does not run"))
    }

    fn show_logs(&self) {
        const TAIL_LINES: usize = 30;
        for id in self.nodes.keys() {
            let log = self.log(*id);
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!(
                "---- node {id}, the last of {} lines ----\n{}",
                lines.len(),
                tail.join("\n")
            );
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.values_mut().for_each(|node| node.server = None);
        if std::thread::panicking() {
            self.show_logs();
            self.dir.disable_cleanup(true);
            eprintln!("---- data and logs are kept in {} ----", self.dir.path().display());
        }
    }
}
