//! What a node can be told, in one place: each setting with its unit and default, checked once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use quorate_group::Volumes;
use quorate_machine::catalog::RegisterNode;
use serde::Deserialize;

/// Settings of a node.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Data directory. Made if missing. Default `./quorate-data`.
    pub data: PathBuf,
    /// Address to serve clients and other nodes at. Default `127.0.0.1:7100`.
    pub listen: SocketAddr,
    /// host:port at which clients and other nodes reach this node; default: `listen`.
    pub advertise: Option<String>,
    /// This node's id, 1 or higher. Needed at the first start of a new cluster of several nodes;
    /// later the data directory knows it. Default 1.
    pub node_id: Option<u64>,
    /// All nodes of a new cluster, this one included, 1 to 5. The same on each of them. Only used
    /// until the data directory knows its cluster. Default: this node alone.
    pub peers: Vec<Peer>,
    /// Failure zone of this node; replicas of a queue spread over zones. Default empty.
    pub zone: String,
    /// Serve without TLS at an address that is not loopback. Default false.
    pub insecure: bool,
    /// Threads that serve clients, other nodes and groups; the log has two of its own. Default 0: one
    /// a core, divided among those `peers` that have the host of this node.
    pub worker_threads: u32,
    /// What is refused and how much is held at most.
    pub limits: Limits,
    /// The node's log.
    pub storage: StorageConfig,
    /// Timing of replication.
    pub raft: RaftConfig,
    /// Where traces go.
    pub telemetry: TelemetryConfig,
    /// The amounts of the groups' housekeeping. No setting of a file: a simulated world makes them
    /// small.
    #[serde(skip)]
    pub volumes: Volumes,
}

/// One node of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its id, 1 or higher.
    pub id: u64,
    /// host:port.
    pub address: String,
}

/// What is refused and how much is held at most. Each is named in the errors that it causes.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest message with its headers, in bytes. Default 1 MiB, at most 16 MiB.
    pub max_message_bytes: u32,
    /// Largest batch in one frame, in bytes. Default 4 MiB; at least `max_message_bytes`.
    pub max_frame_bytes: u32,
    /// Bytes of publishes that wait for their quorum, whole node. Beyond it, streams are not read
    /// from, and after `memory_wait_ms` calls fail with RESOURCE_EXHAUSTED. Default 64 MiB.
    pub publish_memory_bytes: u32,
    /// How long a publish waits for memory, in milliseconds. Default 5,000.
    pub memory_wait_ms: u32,
    /// Streams open at a time, publishers and consumers together. Default 10,000.
    pub max_streams: u32,
    /// Queues of the cluster. Default 10,000.
    pub max_queues: u32,
    /// How long a call waits for a leader and its quorum, in milliseconds. Default 10,000.
    pub request_timeout_ms: u32,
    /// With less free on the data directory's file system, in bytes, the node refuses publishes
    /// with DISK_FULL; it goes on settling, and accepts again by itself. Default 512 MiB.
    pub disk_reserve_bytes: u64,
}

/// The node's log.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Size of a segment file, in bytes. Default 64 MiB.
    pub segment_bytes: u64,
    /// Recent entries kept in memory, in bytes, whole node. Default 16 MiB.
    pub tail_bytes: u64,
}

/// Timing of replication.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftConfig {
    /// An idle leader says that it is there this often, in milliseconds. Default 150.
    pub heartbeat_ms: u32,
    /// A follower that hears nothing for between this and a third more, in milliseconds, stands for
    /// election. Default 750; at least 5 heartbeats.
    pub election_timeout_ms: u32,
    /// A queue without traffic for so long, in milliseconds, is parked: it has no heartbeats and no
    /// timers, and wakes with the next call. 0 = never. Default 1,500.
    pub park_after_ms: u32,
    /// The replicas of a node that was gone for so long, in milliseconds, move to other nodes, as far as
    /// there are some that do not hold the queue yet. 0 = never. Default 600,000; at least 10,000.
    pub replace_after_ms: u64,
    /// Messages that go to a new replica, or to one that was away for long, in bytes a second and transfer at
    /// most. 0 = no limit. Default 32 MiB.
    pub snapshot_bytes_per_second: u64,
}

/// Where traces go.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// A collector that speaks OTLP over gRPC, as `http://HOST:PORT`: it is sent spans of messages with a sampled
    /// `traceparent` header. Empty = none. Default empty.
    pub endpoint: String,
    /// Spans a second, at most; those beyond are dropped and counted. Default 200; 1 to 10,000.
    pub max_spans_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("quorate-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7100)),
            advertise: None,
            node_id: None,
            peers: Vec::new(),
            zone: String::new(),
            insecure: false,
            worker_threads: 0,
            limits: Limits::default(),
            storage: StorageConfig::default(),
            raft: RaftConfig::default(),
            telemetry: TelemetryConfig::default(),
            volumes: Volumes::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 1 << 20,
            max_frame_bytes: 4 << 20,
            publish_memory_bytes: 64 << 20,
            memory_wait_ms: 5_000,
            max_streams: 10_000,
            max_queues: 10_000,
            request_timeout_ms: 10_000,
            disk_reserve_bytes: 512 << 20,
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, tail_bytes: 16 << 20 }
    }
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 150,
            election_timeout_ms: 750,
            park_after_ms: 1_500,
            replace_after_ms: 600_000,
            snapshot_bytes_per_second: 32 << 20,
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { endpoint: String::new(), max_spans_per_second: 200 }
    }
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting `{setting}`: {reason}")]
pub struct ConfigError {
    /// Its name.
    pub setting: &'static str,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Most nodes that form a cluster together; further ones join it.
pub const FOUNDERS_MAX: usize = 5;
/// The largest `max_message_bytes`.
pub const MESSAGE_BYTES_MAX: u32 = 16 << 20;
/// The largest `telemetry.max_spans_per_second`.
pub const SPANS_PER_SECOND_MAX: u32 = 10_000;
/// The largest `worker_threads`.
pub const WORKER_THREADS_MAX: u32 = 1024;

impl Config {
    /// How many threads serve on a machine with so many cores. Nodes that share a machine share its
    /// cores: with more threads than cores they only take turns, at the cost of a wake-up each.
    #[must_use]
    pub fn worker_threads(&self, cores: usize) -> usize {
        if self.worker_threads > 0 {
            return self.worker_threads as usize;
        }
        let listen = self.listen.to_string();
        let own = host(self.advertise.as_deref().unwrap_or(&listen));
        let sharing = self.peers.iter().filter(|peer| host(&peer.address) == own).count();
        cores.div_ceil(sharing.max(1)).max(1)
    }

    /// The amounts at which groups work.
    pub(crate) fn volumes(&self) -> Volumes {
        let snapshot_bytes_per_second = self.raft.snapshot_bytes_per_second;
        Volumes { snapshot_bytes_per_second, ..self.volumes }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// For the first setting that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_addresses()?;
        self.validate_peers()?;
        check("worker_threads", self.worker_threads <= WORKER_THREADS_MAX, || {
            format!("{} is beyond {WORKER_THREADS_MAX}", self.worker_threads)
        })?;
        let limits = &self.limits;
        check(
            "limits.max_message_bytes",
            (1..=MESSAGE_BYTES_MAX).contains(&limits.max_message_bytes),
            || format!("{} is not within 1 and {MESSAGE_BYTES_MAX}", limits.max_message_bytes),
        )?;
        let frames = limits.max_message_bytes..=2 * MESSAGE_BYTES_MAX;
        check("limits.max_frame_bytes", frames.contains(&limits.max_frame_bytes), || {
            format!(
                "{} is not within {} and {}",
                limits.max_frame_bytes,
                frames.start(),
                frames.end()
            )
        })?;
        check(
            "limits.publish_memory_bytes",
            limits.publish_memory_bytes >= limits.max_frame_bytes,
            || format!("must hold at least one frame of {} bytes", limits.max_frame_bytes),
        )?;
        check("limits.request_timeout_ms", limits.request_timeout_ms >= 100, || {
            "must be at least 100 ms".into()
        })?;
        // Beside one frame: small commands of the same entry, and headers.
        let others = self.volumes.entry_bytes as u64;
        let entry = u64::from(limits.max_frame_bytes) + 2 * others;
        check(
            "storage.segment_bytes",
            self.storage.segment_bytes >= entry && self.storage.segment_bytes.is_multiple_of(4096),
            || {
                format!(
                    "must be a multiple of 4096 and at least {entry}, to hold the largest entry"
                )
            },
        )?;
        check("raft.heartbeat_ms", self.raft.heartbeat_ms >= 10, || {
            "must be at least 10 ms".into()
        })?;
        check(
            "raft.election_timeout_ms",
            self.raft.election_timeout_ms >= 5 * self.raft.heartbeat_ms,
            || "must be at least five heartbeats".into(),
        )?;
        let replace_after_ms = self.raft.replace_after_ms;
        check(
            "raft.replace_after_ms",
            replace_after_ms == 0 || replace_after_ms >= 10_000,
            || "must be 0 (never) or at least 10000: a node that only restarts is not lost".into(),
        )?;
        self.telemetry.validate()
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        let loopback = self.listen.ip().is_loopback();
        check("listen", loopback || self.insecure, || {
            format!(
                "{} is not a loopback address and there is no TLS: anyone who reaches it can read and \
                 write. Add --insecure (insecure = true) if the network is trusted",
                self.listen
            )
        })?;
        let unspecified =
            self.listen.ip() == IpAddr::from([0, 0, 0, 0]) || self.listen.ip().is_unspecified();
        check("advertise", !unspecified || self.advertise.is_some(), || {
            format!(
                "needed with `listen` {}: the host:port at which others reach this node",
                self.listen
            )
        })?;
        if let Some(address) = &self.advertise {
            check("advertise", is_host_port(address), || format!("`{address}` is not host:port"))?;
            let max = RegisterNode::ADDRESS_BYTES_MAX;
            check("advertise", address.len() <= max, || format!("is longer than {max} bytes"))?;
        }
        // It goes into the catalog, whose replicas read no longer one.
        let max = RegisterNode::ZONE_BYTES_MAX;
        check("zone", self.zone.len() <= max, || format!("is longer than {max} bytes"))?;
        Ok(())
    }

    fn validate_peers(&self) -> Result<(), ConfigError> {
        if self.node_id == Some(0) {
            return Err(ConfigError { setting: "node_id", reason: "must be 1 or higher".into() });
        }
        if self.peers.is_empty() {
            return Ok(());
        }
        check("peers", self.peers.len() <= FOUNDERS_MAX, || {
            format!(
                "{} nodes; at most {FOUNDERS_MAX} form a cluster, others join it",
                self.peers.len()
            )
        })?;
        let mut ids: Vec<u64> = self.peers.iter().map(|peer| peer.id).collect();
        ids.sort_unstable();
        ids.dedup();
        check("peers", ids.len() == self.peers.len() && !ids.contains(&0), || {
            "ids must be distinct and 1 or higher".into()
        })?;
        for peer in &self.peers {
            check("peers", is_host_port(&peer.address), || {
                format!("`{}` is not host:port", peer.address)
            })?;
        }
        let Some(node) = self.node_id else {
            return Err(ConfigError { setting: "node_id", reason: "needed with `peers`".into() });
        };
        check("peers", ids.contains(&node), || format!("this node's id {node} is not among them"))
    }

    /// host:port that others use.
    #[must_use]
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }
}

impl TelemetryConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let endpoint = &self.endpoint;
        check("telemetry.endpoint", !endpoint.starts_with("https://"), || {
            format!(
                "`{endpoint}`: there is no TLS; name a collector on this host or a trusted network as \
                 http://HOST:PORT, which can pass spans on with TLS"
            )
        })?;
        check("telemetry.endpoint", endpoint.is_empty() || is_collector(endpoint), || {
            format!(
                "`{endpoint}` is not http://HOST:PORT, such as http://127.0.0.1:4317: the address at which \
                 a collector takes OTLP over gRPC (it may come from OTEL_EXPORTER_OTLP_ENDPOINT)"
            )
        })?;
        let spans = self.max_spans_per_second;
        check("telemetry.max_spans_per_second", (1..=SPANS_PER_SECOND_MAX).contains(&spans), || {
            format!(
                "{spans} is not within 1 and {SPANS_PER_SECOND_MAX}; leave telemetry.endpoint out for no traces"
            )
        })
    }
}

impl Limits {
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.into())
    }
}

fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn is_host_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn is_collector(endpoint: &str) -> bool {
    let address =
        endpoint.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    address.is_some_and(|address| is_host_port(address) && address.chars().all(is_plain))
}

fn check(
    setting: &'static str,
    holds: bool,
    reason: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { setting, reason: reason() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> &'static str {
        let mut config = Config::default();
        change(&mut config);
        config.validate().expect_err("refused").setting
    }

    #[test]
    fn the_defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn what_the_catalog_cannot_keep_is_refused() {
        let zone = |length| move |config: &mut Config| config.zone = "z".repeat(length);
        assert_eq!(refused(zone(RegisterNode::ZONE_BYTES_MAX + 1)), "zone");
        let host = "h".repeat(RegisterNode::ADDRESS_BYTES_MAX);
        assert_eq!(refused(|config| config.advertise = Some(format!("{host}:1"))), "advertise");
    }

    #[test]
    fn nodes_that_share_a_machine_share_its_cores() {
        let threads = |peers: &[&str], cores| {
            let peer = |(address, id): (&&str, _)| Peer { id, address: (*address).to_owned() };
            let peers = peers.iter().zip(1..).map(peer).collect();
            Config { peers, ..Config::default() }.worker_threads(cores)
        };
        let here = ["127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7103"];
        assert_eq!([1, 2, 4, 8].map(|cores| threads(&here, cores)), [1, 1, 2, 3]);
        assert_eq!(threads(&["127.0.0.1:7101", "10.0.0.2:7101", "10.0.0.3:7101"], 2), 2);
        assert_eq!(threads(&[], 2), 2);
        assert_eq!(Config { worker_threads: 7, ..Config::default() }.worker_threads(2), 7);
        assert_eq!(refused(|c| c.worker_threads = WORKER_THREADS_MAX + 1), "worker_threads");
    }

    #[test]
    fn an_open_address_without_tls_needs_insecure() {
        assert_eq!(refused(|c| c.listen = "10.0.0.1:7100".parse().unwrap()), "listen");
    }

    #[test]
    fn an_unspecified_address_needs_one_to_advertise() {
        let open = |c: &mut Config| {
            c.insecure = true;
            c.listen = "0.0.0.0:7100".parse().unwrap();
        };
        assert_eq!(refused(open), "advertise");
    }

    #[test]
    fn peers_need_this_nodes_id_among_them() {
        let peer = |id| Peer { id, address: format!("127.0.0.1:{}", 7100 + id) };
        assert_eq!(refused(|c| c.peers = vec![peer(1)]), "node_id");
        assert_eq!(
            refused(|c| {
                c.node_id = Some(3);
                c.peers = vec![peer(1), peer(2)];
            }),
            "peers"
        );
    }

    #[test]
    fn an_election_timeout_below_five_heartbeats_is_refused() {
        assert_eq!(refused(|c| c.raft.election_timeout_ms = 200), "raft.election_timeout_ms");
        assert_eq!(refused(|c| c.raft.replace_after_ms = 9_999), "raft.replace_after_ms");
    }

    #[test]
    fn a_collector_is_a_plain_address_with_a_port() {
        let endpoint = |endpoint: &str| {
            let telemetry = TelemetryConfig { endpoint: endpoint.into(), ..<_>::default() };
            Config { telemetry, ..Config::default() }.validate()
        };
        for right in
            ["", "http://127.0.0.1:4317", "http://otel-collector.obs:4317/", "http://[::1]:4317"]
        {
            assert_eq!(endpoint(right), Ok(()), "{right}");
        }
        for wrong in [
            "127.0.0.1:4317",
            "http://collector",
            "http://:4317",
            "http://collector:4318/v1/traces",
            "http://user@collector:4317",
            "grpc://collector:4317",
            "http://a b:1",
        ] {
            let error = endpoint(wrong).expect_err(wrong);
            assert_eq!(error.setting, "telemetry.endpoint");
            assert!(error.reason.contains("http://HOST:PORT"), "{error}");
        }
        let error = endpoint("https://collector:4317").expect_err("no TLS");
        assert!(error.reason.contains("TLS"), "{error}");
        assert_eq!(
            refused(|c| c.telemetry.max_spans_per_second = 0),
            "telemetry.max_spans_per_second"
        );
    }
}
