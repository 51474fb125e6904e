//! What a log entry can ask of the catalog, what it answers, and what it asks of the nodes.

use thiserror::Error;

use super::names::QueueName;
use super::sharded::{CreateSharded, SHARDS_MAX, SHARDS_MIN};
use super::topics::Route;
use super::{GroupId, QUEUES_MAX, dead_letters};
use crate::queue::Settings;
use crate::{Millis, NodeId};

/// A command to the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Gives the cluster its id, once.
    Bootstrap {
        /// The id, chosen at random.
        cluster_id: u128,
    },
    /// Makes a node known, or updates what is known of it.
    RegisterNode(RegisterNode),
    /// Creates a queue that is not sharded and places its replicas.
    CreateQueue(CreateQueue),
    /// Deletes a queue; of a sharded one all shards.
    DeleteQueue {
        /// Its name.
        name: QueueName,
    },
    /// Replaces the settings of a queue; of a sharded one those of all shards.
    UpdateQueue {
        /// Its name.
        name: QueueName,
        /// The new settings; their version is set by the catalog.
        settings: Settings,
    },
    /// Keeps leaderships away from a node, or lets it have them again; that also takes back that it is to
    /// leave.
    DrainNode {
        /// The node.
        id: NodeId,
        /// Whether it is to lead nothing.
        draining: bool,
    },
    /// Says on which nodes a queue is to be from now on.
    PlaceQueue(PlaceQueue),
    /// A queue is where it is to be: no other node is a member of its group any more.
    QueuePlaced {
        /// Its Raft group.
        group: GroupId,
        /// [`Queue::moved`] of the placement that is reached; that of another changes nothing.
        moved: u64,
    },
    /// Has a node leave the cluster: it gets nothing more, and what it holds moves away.
    RemoveNode {
        /// The node.
        id: NodeId,
    },
    /// Forgets a node that leaves and holds nothing. To be proposed once it has no vote in the catalog's group
    /// either: from here on the others do not answer it.
    RetireNode {
        /// The node.
        id: NodeId,
    },
    /// Gives up all replicas of a queue but one, which goes on with what it has as the only voter.
    RecoverQueue {
        /// Its Raft group.
        group: GroupId,
        /// [`Queue::moved`] of the placement that this was decided on.
        moved: u64,
        /// The node that goes on; it holds a replica.
        survivor: NodeId,
        /// The timeline that it goes on in: later than that of the queue, and than what any replica was heard to
        /// be on.
        timeline: u64,
    },
    /// A queue's survivor has taken it over.
    QueueTookOver {
        /// Its Raft group.
        group: GroupId,
        /// [`Queue::moved`] of the recovery; what is said of another changes nothing.
        moved: u64,
        /// The first log index of the queue's new timeline.
        from: u64,
    },
    /// This catalog itself was recovered: groups that it gave, and does not know of any more, are not given again.
    CatalogRecovered,
    /// Replaces the routes of a topic, or makes it.
    SetTopic {
        /// Its name.
        name: QueueName,
        /// [`Topic::version`](super::Topic::version) of the routes that this was decided on; 0: there is no such topic.
        version: u64,
        /// At most [`ROUTES_MAX`](super::ROUTES_MAX).
        routes: Vec<Route>,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Its name.
        name: QueueName,
    },
    /// Creates a sharded queue, all shards of it or none.
    CreateSharded(CreateSharded),
    /// Lets time pass.
    Tick,
    /// A leader takes up office.
    LeaderChanged {
        /// The new leader.
        node: NodeId,
    },
}

/// A node that presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterNode {
    /// Its id.
    pub id: NodeId,
    /// Drawn when its data directory was made; tells a disk that was wiped from the one it was.
    pub incarnation: u128,
    /// Where peers reach it; at most [`RegisterNode::ADDRESS_BYTES_MAX`] bytes.
    pub address: String,
    /// Zone for the spreading of replicas; at most [`RegisterNode::ZONE_BYTES_MAX`] bytes.
    pub zone: String,
    /// The newest command set that it can apply.
    pub version: u32,
    /// Takes the place of another incarnation of the same id. Without it that is refused.
    pub replace: bool,
}

impl RegisterNode {
    /// The longest address, in bytes.
    pub const ADDRESS_BYTES_MAX: usize = 512;
    /// The longest name of a zone, in bytes.
    pub const ZONE_BYTES_MAX: usize = 128;
}

/// A queue to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateQueue {
    /// Its name.
    pub name: QueueName,
    /// Its settings; their version is set by the catalog.
    pub settings: Settings,
    /// Voters: 1, 3 or 5.
    pub replicas: u8,
    /// Nodes that are alive now; those that the catalog does not know are passed over.
    pub candidates: Vec<NodeId>,
}

/// Where a queue is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceQueue {
    /// Its Raft group.
    pub group: GroupId,
    /// [`Queue::moved`] of the placement that this was decided on.
    pub moved: u64,
    /// Voters: 1, 3 or 5.
    pub replicas: Vec<NodeId>,
    /// At most [`PlaceQueue::OBSERVERS_MAX`].
    pub observers: Vec<NodeId>,
}

impl PlaceQueue {
    /// Most voters of a queue.
    pub const VOTERS_MAX: usize = 5;
    /// Most observers of a queue.
    pub const OBSERVERS_MAX: usize = 16;
}

/// Answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Carried out, with nothing to add.
    Done,
    /// The queue is to be.
    Created {
        /// Its Raft group; of a sharded queue that of the first shard, here and below.
        group: GroupId,
    },
    /// The queue is to be no more.
    Deleted {
        /// Its Raft group.
        group: GroupId,
    },
    /// The queue has new settings.
    Updated {
        /// Its Raft group.
        group: GroupId,
        /// Version of the settings now in force; unchanged if they are the same as before.
        version: u64,
    },
    /// The queue is to be there.
    Placed {
        /// [`Queue::moved`] of the placement now in force; unchanged if it is the same as before.
        moved: u64,
    },
    /// The topic has these routes.
    TopicSet {
        /// Version of the routes; unchanged if they are the same as before.
        version: u64,
    },
    /// Refused; nothing has changed.
    Rejected(Rejection),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The cluster has another id.
    #[error("cluster is already bootstrapped as {cluster_id:032x}")]
    AlreadyBootstrapped {
        /// The id that it has.
        cluster_id: u128,
    },
    /// The node's disk is not the one that the catalog knows.
    #[error("node {} is known under another incarnation; replace it explicitly", id.0)]
    IncarnationMismatch {
        /// The node.
        id: NodeId,
        /// The incarnation that is known.
        known: u128,
    },
    /// No room for another node.
    #[error("cluster has {limit} nodes, the most it can have")]
    TooManyNodes {
        /// The most nodes.
        limit: u32,
    },
    /// The name is taken.
    #[error("queue exists")]
    QueueExists {
        /// Whether it has the same settings and as many replicas: then it is as wanted.
        same_settings: bool,
        /// Its Raft group.
        group: GroupId,
    },
    /// No node of that id.
    #[error("there is no node {}", id.0)]
    UnknownNode {
        /// The id.
        id: NodeId,
    },
    /// No queue of that name.
    #[error("queue not found")]
    NotFound,
    /// A number of replicas that is not offered.
    #[error("a queue has 1, 3 or 5 replicas, not {replicas}")]
    InvalidReplicas {
        /// The number asked for.
        replicas: u8,
    },
    /// Too few candidates.
    #[error("{need} replicas need as many nodes, {have} are there")]
    NotEnoughNodes {
        /// Candidates that are known.
        have: u32,
        /// Replicas asked for.
        need: u32,
    },
    /// The node was taken out of the cluster; its id is not given again.
    #[error("node {} was removed from the cluster", id.0)]
    NodeRemoved {
        /// The node.
        id: NodeId,
    },
    /// No node would be left that takes anything.
    #[error("node {} is the last one that is not leaving", id.0)]
    LastNode {
        /// The node.
        id: NodeId,
    },
    /// The node is to leave, and takes nothing more.
    #[error("node {} is leaving the cluster", id.0)]
    NodeLeaving {
        /// The node.
        id: NodeId,
    },
    /// The node does not leave, or holds something still.
    #[error("node {} holds {replicas} replicas still, or is not leaving", id.0)]
    NodeInUse {
        /// The node.
        id: NodeId,
        /// What it holds.
        replicas: u64,
    },
    /// The queue has another placement by now.
    #[error("the placement of the queue was changed meanwhile")]
    PlacementChanged {
        /// [`Queue::moved`] of the placement in force.
        moved: u64,
    },
    /// The queue is being recovered: until its survivor has taken over, its placement stays.
    #[error("the queue is being recovered on node {}", survivor.0)]
    Recovering {
        /// The node that takes it over.
        survivor: NodeId,
    },
    /// A node that holds no replica cannot go on with it.
    #[error("node {} holds no replica of the queue", id.0)]
    NotAReplica {
        /// The node.
        id: NodeId,
    },
    /// A queue goes on in a later timeline only.
    #[error("the queue is in timeline {timeline} already")]
    TimelinePassed {
        /// The one that it is in.
        timeline: u64,
    },
    /// A node was named as a voter and as an observer.
    #[error("node {} cannot be both a voter and an observer", id.0)]
    TwoRoles {
        /// The node.
        id: NodeId,
    },
    /// No room for another observer.
    #[error("a queue has at most {limit} observers")]
    TooManyObservers {
        /// The most observers.
        limit: u32,
    },
    /// No topic of that name.
    #[error("topic not found")]
    TopicNotFound,
    /// The topic is not as it was when this was decided.
    #[error("the topic was changed meanwhile: its version is {version}")]
    TopicChanged {
        /// Version of its routes; 0 if there is no such topic.
        version: u64,
    },
    /// No room for another topic.
    #[error("cluster has {limit} topics, the most it can have")]
    TooManyTopics {
        /// The most topics.
        limit: u32,
    },
    /// No room for so many routes.
    #[error("a topic has at most {limit} routes, of {bytes} bytes together")]
    TooManyRoutes {
        /// The most routes.
        limit: u32,
        /// The most bytes.
        bytes: u32,
    },
    /// A route leads to no queue.
    #[error("there is no queue `{name}`")]
    UnknownQueue {
        /// The name.
        name: QueueName,
    },
    /// There is no queue of the name that is to be the dead-letter queue.
    #[error("there is no queue {name} to be the dead-letter queue")]
    NoDeadLetterQueue {
        /// The name.
        name: QueueName,
    },
    /// What dies would come back to where it died.
    #[error("dead letters would go round in a circle: {}", dead_letters::listed(.way, " -> "))]
    DeadLetterCycle {
        /// The queues of the circle; the last is the first again.
        way: Vec<QueueName>,
    },
    /// Others send their dead letters to the queue.
    #[error("the queue is the dead-letter queue of {}", dead_letters::listed(.of, ", "))]
    IsDeadLetterQueue {
        /// The first of those, by name.
        of: Vec<QueueName>,
    },
    /// A name that shards have.
    #[error("a name with an '@' is that of a shard, and shards come with their sharded queue")]
    ShardName,
    /// A number of shards that is not offered.
    #[error("a sharded queue has {SHARDS_MIN} to {SHARDS_MAX} shards, not {shards}")]
    InvalidShards {
        /// The number asked for.
        shards: u16,
    },
    /// The names of the shards would be too long.
    #[error("the name is too long for a sharded queue: those of its shards are longer")]
    ShardNameTooLong,
    /// What is done to a sharded queue is not done to one of its shards.
    #[error("it is a shard of `{of}`, and is changed and deleted with all of them")]
    IsShard {
        /// The sharded queue.
        of: QueueName,
    },
    /// Dead letters go to queues that are not sharded.
    #[error("`{name}` is sharded or a shard, and takes no dead letters")]
    ShardedDeadLetter {
        /// The one that was to take them.
        name: QueueName,
    },
    /// A route leads to queues that are not sharded, or to one shard.
    #[error("`{name}` is sharded, and no route leads to all of that")]
    ShardedRoute {
        /// Where it was to lead.
        name: QueueName,
    },
    /// No room for another queue.
    #[error("cluster has {limit} queues, the most it can have", limit = QUEUES_MAX)]
    TooManyQueues {
        /// The most queues.
        limit: u32,
    },
}

/// Something for the nodes to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The catalog is not what it was; a node compares itself with it.
    Changed(Change),
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The cluster has its id.
    Bootstrapped,
    /// A node is new, or not what it was.
    Node(NodeId),
    /// A queue was created.
    QueueCreated {
        /// Its name.
        name: QueueName,
        /// Its Raft group.
        group: GroupId,
    },
    /// A queue has new settings.
    QueueUpdated {
        /// Its name.
        name: QueueName,
        /// Its Raft group.
        group: GroupId,
    },
    /// A queue is to be elsewhere, or is where it was to be.
    QueueMoved {
        /// Its name.
        name: QueueName,
        /// Its Raft group.
        group: GroupId,
    },
    /// A queue was deleted.
    QueueDeleted {
        /// Its name.
        name: QueueName,
        /// Its Raft group.
        group: GroupId,
    },
    /// A sharded queue was created, has new settings or was deleted.
    Sharded {
        /// Its name.
        name: QueueName,
    },
}

/// A node, as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Which data directory is its own.
    pub incarnation: u128,
    /// Where peers reach it.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// The newest command set that it can apply.
    pub version: u32,
    /// It is to lead nothing, and gets new replicas only where there are too few other nodes.
    pub draining: bool,
    /// It gets no new replicas, what it holds moves away, and then it is forgotten; it is draining too.
    pub leaving: bool,
}

/// A queue, as the catalog wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// Its Raft group; never that of another queue, not even of an earlier one of the same name.
    pub group: GroupId,
    /// Its settings.
    pub settings: Settings,
    /// The nodes that hold it and vote, in order of their ids.
    pub replicas: Vec<NodeId>,
    /// The nodes that follow it without a vote, in order of their ids.
    pub observers: Vec<NodeId>,
    /// The nodes that held it before and may still be members of its group, in order of their ids.
    pub leaving: Vec<NodeId>,
    /// Index of the entry that last said where it is to be; 0 = it was not moved since it was created.
    pub moved: u64,
    /// Its group's members are not yet known to be those.
    pub is_moving: bool,
    /// The timeline that replicas have to be on to belong to it, 0 if it was never recovered. Earlier ones are of
    /// before.
    pub timeline: u64,
    /// Its only voter is yet to take it over in this timeline; until then the others keep what they have.
    pub is_recovering: bool,
    /// Where its timelines began, as far as they did: at most [`Queue::FORKS_MAX`], the earliest first.
    pub forks: Vec<Fork>,
    /// As many voters it is to have again; 0 = those that it has.
    pub voters_wanted: u8,
    /// The one of them that should lead when all are well.
    pub preferred_leader: NodeId,
    /// When it was created.
    pub created_at: Millis,
}

/// Where a timeline of a queue began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Which one, from 1.
    pub timeline: u64,
    /// Its first log index: what earlier ones had from there on is lost.
    pub from: u64,
}

impl Queue {
    /// Most forks that are remembered.
    pub const FORKS_MAX: usize = 64;

    /// Whether it has these settings and as many voters.
    pub(super) fn is_as(&self, settings: &Settings, replicas: u8) -> bool {
        self.settings.same_as(settings) && self.replicas.len() == usize::from(replicas)
    }

    /// The nodes that hold a replica of it, or are to, or may still.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().chain(&self.observers).chain(&self.leaving).copied()
    }

    /// The nodes that are to hold it.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().chain(&self.observers).copied()
    }
}
