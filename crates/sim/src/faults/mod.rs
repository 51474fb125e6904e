//! What is done to a cluster, by seed: a random subset of the kinds, one after the other or two at a
//! time, with quiet periods between; each heals itself after a while.

mod clients;
mod clocks;
mod disks;
mod membership;
mod networks;
mod processes;

use std::time::Duration;

use madsim::rand::seq::SliceRandom;
use madsim::rand::{Rng, thread_rng};
use madsim::task::NodeId;
use tokio::time::{Instant, sleep};

use crate::world::{Cluster, Status};

pub(crate) use membership::{place, settled};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9` of a node that leads.
    KillLeader,
    /// `kill -9` of some nodes: one, a minority, a majority or all.
    KillSome,
    /// SIGSTOP of a node, often a leader.
    Pause,
    /// An orderly restart.
    Restart,
    /// Loss of power of some nodes.
    PowerLoss,
    /// Loss of power in the middle of a write: it is torn.
    TornWrite,
    /// EIO on a read.
    ReadError,
    /// EIO on a write: the log is poisoned and the node stops.
    WriteError,
    /// A failed flush.
    FlushError,
    /// The small state cannot be flushed.
    CheckpointError,
    /// No space.
    DiskFull,
    /// A device that takes its time.
    SlowDisk,
    /// A bit flips in a node's log; flipped back after the node was seen to live with it, or to refuse.
    BitFlip,
    /// A node is cut off.
    Isolate,
    /// One direction of a link is cut.
    OneWay,
    /// The nodes are split in two.
    Split,
    /// Two nodes do not see each other, though both see the others.
    Bridge,
    /// Messages are lost, and connections fail.
    Loss,
    /// Everything takes long.
    Delay,
    /// A wall clock jumps forward.
    ClockForward,
    /// A wall clock jumps back.
    ClockBack,
    /// A node's timers and clock run fast or slow.
    Drift,
    /// A client machine dies and comes back.
    KillClient,
    /// A client machine stands still.
    PauseClient,
    /// A client machine is cut off.
    IsolateClient,
    /// A further node joins the cluster.
    Join,
    /// A queue moves to other nodes.
    Move,
    /// A node leaves the cluster.
    Leave,
}

/// All of them.
pub const ALL: [Kind; 28] = [
    Kind::KillLeader,
    Kind::KillSome,
    Kind::Pause,
    Kind::Restart,
    Kind::PowerLoss,
    Kind::TornWrite,
    Kind::ReadError,
    Kind::WriteError,
    Kind::FlushError,
    Kind::CheckpointError,
    Kind::DiskFull,
    Kind::SlowDisk,
    Kind::BitFlip,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Split,
    Kind::Bridge,
    Kind::Loss,
    Kind::Delay,
    Kind::ClockForward,
    Kind::ClockBack,
    Kind::Drift,
    Kind::KillClient,
    Kind::PauseClient,
    Kind::IsolateClient,
    Kind::Join,
    Kind::Move,
    Kind::Leave,
];

/// What faults act on.
#[derive(Clone)]
pub struct Target {
    /// The cluster.
    pub cluster: Cluster,
    /// Groups whose leaders are worth meeting.
    pub groups: Vec<u64>,
    /// Machines of clients.
    pub clients: Vec<NodeId>,
}

impl Target {
    fn any(&self) -> u64 {
        *self.cluster.nodes().choose(&mut thread_rng()).expect("a cluster has nodes")
    }

    fn leader(&self) -> u64 {
        let group = *self.groups.choose(&mut thread_rng()).unwrap_or(&0);
        self.cluster.leader(group).unwrap_or_else(|| self.any())
    }

    fn leader_or_any(&self) -> u64 {
        if thread_rng().gen_bool(0.6) { self.leader() } else { self.any() }
    }

    /// One, a minority, a majority, or all.
    fn some(&self) -> Vec<u64> {
        let mut nodes = self.cluster.nodes();
        nodes.shuffle(&mut thread_rng());
        let all = nodes.len();
        let count = *[1, all / 2, all / 2 + 1, all].choose(&mut thread_rng()).unwrap_or(&1);
        nodes.truncate(count.max(1));
        nodes
    }
}

fn a_while(ms: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(thread_rng().gen_range(ms))
}

/// A random subset of all kinds, at least one.
#[must_use]
pub fn subset() -> Vec<Kind> {
    let mut kinds = ALL.to_vec();
    let mut random = thread_rng();
    kinds.shuffle(&mut random);
    let most = if random.gen_bool(0.3) { ALL.len() } else { 8 };
    kinds.truncate(random.gen_range(1..=most));
    kinds
}

/// Does what `kinds` say until `until`, then heals everything.
pub async fn run(target: &Target, kinds: &[Kind], until: Instant) {
    let two_at_a_time = thread_rng().gen_bool(0.4);
    while Instant::now() < until {
        sleep(a_while(100..2_500)).await;
        let kind = *kinds.choose(&mut thread_rng()).expect("at least one kind");
        let other = *kinds.choose(&mut thread_rng()).expect("at least one kind");
        if two_at_a_time && thread_rng().gen_bool(0.5) {
            let second = target.clone();
            let second = tokio::spawn(async move { inject(&second, other).await });
            inject(target, kind).await;
            let _ = second.await;
        } else {
            inject(target, kind).await;
        }
    }
    heal(target);
}

/// Does one thing, and undoes it after a while.
pub async fn inject(target: &Target, kind: Kind) {
    match kind {
        Kind::KillLeader => processes::kill(target, vec![target.leader()]).await,
        Kind::KillSome => processes::kill(target, target.some()).await,
        Kind::Pause => processes::pause(target, target.leader_or_any()).await,
        Kind::Restart => processes::restart(target, target.leader_or_any()).await,
        Kind::PowerLoss => processes::lose_power(target, target.some()).await,
        Kind::TornWrite => disks::torn_write(target, target.leader_or_any()).await,
        Kind::ReadError => disks::read_error(target, target.leader_or_any()).await,
        Kind::WriteError => disks::write_error(target, target.leader_or_any()).await,
        Kind::FlushError => disks::flush_error(target, target.leader_or_any()).await,
        Kind::CheckpointError => disks::checkpoint_error(target, target.leader_or_any()).await,
        Kind::DiskFull => disks::full(target, target.leader_or_any()).await,
        Kind::SlowDisk => disks::slow(target, target.leader_or_any()).await,
        Kind::BitFlip => disks::bit_flip(target, target.any()).await,
        Kind::Isolate => networks::isolate(target, target.leader_or_any()).await,
        Kind::OneWay => networks::one_way(target).await,
        Kind::Split => networks::split(target).await,
        Kind::Bridge => networks::bridge(target).await,
        Kind::Loss => networks::loss(target).await,
        Kind::Delay => networks::delay(target).await,
        Kind::ClockForward => clocks::jump(target, 1).await,
        Kind::ClockBack => clocks::jump(target, -1).await,
        Kind::Drift => clocks::drift(target).await,
        Kind::KillClient => clients::kill(target).await,
        Kind::PauseClient => clients::pause(target).await,
        Kind::IsolateClient => clients::isolate(target).await,
        Kind::Join => membership::join(target).await,
        Kind::Move => membership::move_queue(target).await,
        Kind::Leave => membership::leave(target).await,
    }
}

/// Undoes everything but the clocks: links open, disks as they should be, nodes started.
pub fn heal(target: &Target) {
    let cluster = &target.cluster;
    cluster.record().tell(crate::events::Event::Note("heal"));
    cluster.heal_network();
    clients::heal(target);
    for node in cluster.nodes() {
        disks::heal(cluster, node);
        cluster.resume(node);
        if cluster.status(node) == Status::Down {
            cluster.start_again(node);
        }
    }
}
