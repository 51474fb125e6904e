//! The connections between the nodes of a cluster.
//!
//! A node calls another over one stream, [`Exchange`](pb::peer_client::PeerClient::exchange), which
//! carries the requests of all groups one way and their answers the other; so each pair of nodes
//! that talk both ways has two. Snapshots, and clients' calls that are forwarded, are streams of
//! their own on the same HTTP/2 connection.
//!
//! ```text
//!  group: call, AppendLink ─► Line ─► outbox ─► Envelope ═══► Serving ─► Replica::answer
//!                              ▲     (gathers)      │            │       Replica::answer_appends
//!                              └── by id ◄══════════╧═ outbox ◄──┘
//!  keeper: one task a peer: connects, reads answers, backs off; fails all that waits when it ends
//! ```
//!
//! What bounds memory: a caller keeps at most [`OUTSTANDING_BYTES_MAX`] of appends unanswered a
//! peer and [`LINK_BYTES_MAX`] an append stream, so that neither its own queue nor the peer's can
//! grow beyond that; a request that nobody waits for any more is not sent.

mod addresses;
mod connections;
mod line;
mod link;
mod outbox;
mod service;
mod serving;
#[cfg(all(test, not(madsim)))]
mod tests;
mod tuning;

use std::time::Duration;

use futures_util::future::BoxFuture;
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;

pub use addresses::Addresses;
pub use connections::{Changes, Connections};
pub use link::{LINK_APPENDS_MAX, LINK_BYTES_MAX};
pub use outbox::{ENVELOPE_BYTES, QUEUED_MAX};
pub use service::HOLDINGS_MAX;
#[cfg(not(madsim))]
pub(crate) use service::served;
pub use service::{PeerService, router};
pub use serving::{APPENDS_WAITING_MAX, CALLS_MAX, STREAMS_MAX};
pub use tuning::MESSAGE_BYTES_MAX;
#[cfg(not(madsim))]
pub(crate) use tuning::server as tuned_server;

/// Largest request, in bytes: what fits into a message with room for what surrounds it.
const RPC_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (64 << 10);
/// Bytes of appends to one peer that may be unanswered, over all groups. Senders wait beyond it.
pub const OUTSTANDING_BYTES_MAX: usize = 32 << 20;
/// Why a node that was removed from the cluster is refused, with `cluster` and `node` in the metadata.
pub(crate) const NODE_REMOVED: &str = "NODE_REMOVED";
/// Longest wait for a connection and the peer's Hello.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// A peer that was heard of within this time counts as reachable.
pub const REACHABLE_WITHIN: Duration = Duration::from_secs(3);
/// A connection that was silent for so long is given up. It leaves a message of
/// [`MESSAGE_BYTES_MAX`] the time to cross a slow network; a peer that is gone is noticed sooner, by
/// HTTP/2's own pings.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// First pause before a connection is tried again; it doubles with each failure.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause before a connection is tried again.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// How two nodes keep hearing of each other while they have nothing to say. It stands for the
/// heartbeats of all groups that are parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// A connection on which nothing was sent for so long says that it is alive.
    pub beat: Duration,
    /// A node that was not heard of for so long counts as away; at least five of the node's own beats.
    pub silence: Duration,
}

/// A change of whether another node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The same process is heard of again.
    Heard,
    /// Another process than before is there, or the first one that is known.
    Connected,
    /// It is not heard of, though its connection stands.
    Silent,
    /// Its connection broke and was not made again at once: the process is gone, or the way to it. Told
    /// once until it is there again.
    Gone,
    /// It says that this node was removed from the cluster.
    Dismissed,
}

/// What this node tells of itself when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Myself {
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// Its id in the cluster.
    pub node_id: u64,
    /// Its incarnation: random, another one whenever it comes back with an empty disk.
    pub incarnation: u64,
    /// Highest version of peer messages and log commands that it knows.
    pub version: u32,
    /// Random, another one for each start of the program.
    pub process: u64,
}

impl Myself {
    fn hello(&self, beat: Duration) -> pb::Hello {
        pb::Hello {
            cluster_id: self.cluster_id.clone(),
            node_id: self.node_id,
            incarnation: self.incarnation,
            version: self.version,
            process: self.process,
            beat_ms: beat.as_millis() as u32,
        }
    }
}

/// What the serving side asks of the node.
pub trait Directory: Send + Sync + 'static {
    /// This node's replica of `group`, if it has one.
    fn replica(&self, group: u64) -> Option<quorate_group::Replica>;

    /// Lets a peer in.
    ///
    /// # Errors
    /// Refuses a peer of another cluster, of an unknown or another incarnation, or of an unknown
    /// version, with a message that names the cure; one that was removed from the cluster with the reason
    /// `NODE_REMOVED`, and `cluster` and `node` in the metadata.
    fn admit(&self, hello: &pb::Hello) -> Result<(), tonic::Status>;

    /// Who this node is.
    fn identify(&self) -> pb::IdentifyResponse;

    /// Takes this node, if it is fresh, into a cluster.
    ///
    /// # Errors
    /// When it belongs to another one, or cannot keep what it was told.
    fn welcome(&self, request: pb::WelcomeRequest) -> BoxFuture<'_, Result<(), tonic::Status>>;

    /// Notes that a queue is where the catalog, which this node leads, wants it; or that its survivor has taken
    /// it over, from which log index on.
    ///
    /// # Errors
    /// When this node does not lead the catalog, or cannot write it.
    fn placed(
        &self,
        group: u64,
        moved: u64,
        took_over_from: Option<u64>,
    ) -> BoxFuture<'_, Result<(), tonic::Status>>;

    /// What this node has of the groups, of those that it has anything of, and which nodes it reaches.
    ///
    /// # Errors
    /// When this node belongs to no cluster yet.
    fn holdings(
        &self,
        groups: Vec<u64>,
    ) -> BoxFuture<'_, Result<pb::HoldingsResponse, tonic::Status>>;

    /// Takes in what died in another queue, here or where its dead-letter queue is led; tells the number of the first
    /// message that it lacks.
    ///
    /// # Errors
    /// When the queue is not there, is full, or has no majority.
    fn take_moved(
        &self,
        request: pb::TakeMovedRequest,
    ) -> BoxFuture<'_, Result<u64, tonic::Status>>;

    /// False while this node's disk is too full to take entries in: appends that carry entries are
    /// refused, so that the leader sees the replica lag instead of losing it.
    fn accepts_entries(&self) -> bool;
}

/// About how many bytes a message takes, encoded.
fn size_of(body: &Body) -> usize {
    const FIXED: usize = 128;
    const ENTRY: usize = 32;
    match body {
        Body::Append(append) | Body::StreamAppend(append) => {
            let entries = append.entries.iter();
            FIXED + entries.map(|entry| ENTRY + entry.payload.len()).sum::<usize>()
        }
        Body::Failed(reason) => FIXED + reason.len(),
        _ => FIXED,
    }
}

/// A task that ends with its owner.
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    /// Waits until the task has ended.
    async fn ended(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A mutex whose holders do not panic.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no panic while held")
}
