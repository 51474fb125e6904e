//! The catalog: which nodes there are, which queues there are to be, and on which nodes.
//!
//! It is the state of group 0. It does nothing by itself: each node compares itself with the
//! catalog, at every [`Effect::Changed`], and starts or stops what differs. Settings go to a queue
//! through a [`crate::queue::Command::Configure`], with the version that the catalog gave them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};

use crate::queue::Settings;
use crate::wire::{DecodeError, SnapshotError};
use crate::{At, Machine, Millis, NodeId};

mod codec;
mod command;
mod dead_letters;
mod explain;
mod moves;
mod names;
mod placement;
mod recovery;
mod sharded;
mod snapshot;
mod subjects;
mod topics;

pub use command::{
    Change, Command, CreateQueue, Effect, Fork, Node, PlaceQueue, Queue, RegisterNode, Rejection,
    Reply,
};
pub use explain::{Explained, Explanation, Finding, LeaderReason, Reason, Role};
pub use names::{QueueName, QueueNameError};
pub use sharded::{CreateSharded, SHARDS_MAX, SHARDS_MIN, ShardHash, Sharded};
pub use subjects::{Pattern, Subject, SubjectError};
pub use topics::{ROUTES_BYTES_MAX, ROUTES_MAX, Route, TOPICS_MAX, Topic};

/// Most nodes of a cluster.
pub const NODES_MAX: u32 = 1_000;

/// Most queues of a cluster.
pub const QUEUES_MAX: u32 = 100_000;

/// A Raft group: 0 is the catalog's own, queues count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The catalog's own group.
    pub const CATALOG: Self = Self(0);
}

/// State of the catalog.
#[derive(Debug, Default)]
pub struct Catalog {
    cluster_id: Option<u128>,
    now: Millis,
    /// Groups given so far.
    groups: u64,
    /// How many were given each time that the catalog was recovered, what follows was skipped; and the index of the
    /// entry that says so.
    recovered_at: BTreeMap<u64, u64>,
    nodes: BTreeMap<NodeId, Node>,
    /// Ids of nodes that were removed: they are not given again.
    removed: BTreeSet<NodeId>,
    queues: BTreeMap<QueueName, Queue>,
    by_group: BTreeMap<GroupId, QueueName>,
    /// The queues that are moving.
    moving: BTreeSet<GroupId>,
    loads: placement::Loads,
    topics: BTreeMap<QueueName, Topic>,
    sharded: BTreeMap<QueueName, Sharded>,
}

impl Catalog {
    /// Id of the cluster, once it is bootstrapped.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u128> {
        self.cluster_id
    }

    /// The queue of that name.
    #[must_use]
    pub fn queue(&self, name: &QueueName) -> Option<&Queue> {
        self.queues.get(name)
    }

    /// All queues, by name.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = &Queue> {
        self.queues.values()
    }

    /// The queues whose names come after `name`, by name; for listing in pages.
    pub fn queues_after(&self, name: &QueueName) -> impl Iterator<Item = &Queue> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.queues.range((Excluded(name), Unbounded)).map(|(_, queue)| queue)
    }

    /// The queue that a group belongs to.
    #[must_use]
    pub fn by_group(&self, group: GroupId) -> Option<&Queue> {
        self.queues.get(self.by_group.get(&group)?)
    }

    /// Whether a group was once given to a queue that has been deleted since: its data can go.
    #[must_use]
    pub fn is_deleted(&self, group: GroupId) -> bool {
        let given = (1..=self.groups).contains(&group.0) && !self.is_forgotten(group);
        given && !self.by_group.contains_key(&group)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// Whether a node was taken out of the cluster.
    #[must_use]
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.contains(&id)
    }

    /// Whether no queue has a replica on a node, is to have one there, or may have one still.
    #[must_use]
    pub fn holds_nothing(&self, id: NodeId) -> bool {
        self.loads.replicas(id) == 0
    }

    /// The id for the next node that joins.
    #[must_use]
    pub fn next_node(&self) -> NodeId {
        let last = self.nodes.last_key_value().map(|(id, _)| id);
        NodeId(last.max(self.removed.last()).map_or(1, |last| last.0 + 1))
    }

    /// The queues that are not yet known to be where they are to be, by group.
    pub fn moving(&self) -> impl ExactSizeIterator<Item = &Queue> {
        self.moving.iter().map(|group| &self.queues[&self.by_group[group]])
    }

    /// The newest command set that every node can apply; none without nodes.
    #[must_use]
    pub fn min_version(&self) -> Option<u32> {
        self.nodes.values().map(|node| node.version).min()
    }

    fn bootstrap(&mut self, cluster_id: u128) -> Result<Done, Rejection> {
        if let Some(cluster_id) = self.cluster_id {
            return Err(Rejection::AlreadyBootstrapped { cluster_id });
        }
        self.cluster_id = Some(cluster_id);
        Ok((Reply::Done, Some(Change::Bootstrapped)))
    }

    fn register(&mut self, register: RegisterNode) -> Result<Done, Rejection> {
        let RegisterNode { id, incarnation, address, zone, version, replace } = register;
        if self.removed.contains(&id) {
            return Err(Rejection::NodeRemoved { id });
        }
        let known = self.nodes.get(&id);
        if known.is_none() && self.nodes.len() >= NODES_MAX as usize {
            return Err(Rejection::TooManyNodes { limit: NODES_MAX });
        }
        if let Some(known) = known.filter(|known| known.incarnation != incarnation && !replace) {
            return Err(Rejection::IncarnationMismatch { id, known: known.incarnation });
        }
        let draining = known.is_some_and(|known| known.draining);
        let leaving = known.is_some_and(|known| known.leaving);
        let node = Node { id, incarnation, address, zone, version, draining, leaving };
        let is_news = known != Some(&node);
        self.nodes.insert(id, node);
        Ok((Reply::Done, is_news.then_some(Change::Node(id))))
    }

    fn drain(&mut self, id: NodeId, draining: bool) -> Result<Done, Rejection> {
        let node = self.nodes.get_mut(&id).ok_or(Rejection::UnknownNode { id })?;
        let before = (node.draining, node.leaving);
        node.draining = draining;
        node.leaving &= draining;
        let is_news = before != (node.draining, node.leaving);
        Ok((Reply::Done, is_news.then_some(Change::Node(id))))
    }

    fn create(&mut self, at: At, create: CreateQueue) -> Result<Done, Rejection> {
        let CreateQueue { name, settings, replicas, candidates } = create;
        if name.is_shard() {
            return Err(Rejection::ShardName);
        }
        if let Some(known) = self.sharded.get(&name) {
            let group = self.first_group(known);
            return Err(Rejection::QueueExists { same_settings: false, group });
        }
        if let Some(known) = self.queues.get(&name) {
            let same_settings = known.is_as(&settings, replicas);
            return Err(Rejection::QueueExists { same_settings, group: known.group });
        }
        self.check_new(&name, &settings, replicas, 1)?;
        let placement = self.place(&candidates, replicas)?;
        let group = self.begin(at, name.clone(), settings, placement);
        Ok((Reply::Created { group }, Some(Change::QueueCreated { name, group })))
    }

    /// Whether so many queues may be made with these settings.
    fn check_new(
        &self,
        name: &QueueName,
        settings: &Settings,
        replicas: u8,
        count: usize,
    ) -> Result<(), Rejection> {
        if !matches!(replicas, 1 | 3 | 5) {
            return Err(Rejection::InvalidReplicas { replicas });
        }
        if self.queues.len() + count > QUEUES_MAX as usize {
            return Err(Rejection::TooManyQueues { limit: QUEUES_MAX });
        }
        self.check_dead_letter(name, settings)
    }

    /// A queue that was found to be all right begins.
    fn begin(
        &mut self,
        at: At,
        name: QueueName,
        settings: Settings,
        placement: placement::Placement,
    ) -> GroupId {
        self.groups += 1;
        let group = GroupId(self.groups);
        self.insert(Queue {
            name,
            group,
            settings: Settings { version: at.index, ..settings },
            replicas: placement.replicas,
            observers: Vec::new(),
            leaving: Vec::new(),
            moved: 0,
            is_moving: false,
            timeline: 0,
            is_recovering: false,
            forks: Vec::new(),
            voters_wanted: 0,
            preferred_leader: placement.preferred_leader,
            created_at: self.now,
        });
        group
    }

    fn place(
        &self,
        candidates: &[NodeId],
        replicas: u8,
    ) -> Result<placement::Placement, Rejection> {
        let mut candidates = candidates.to_vec();
        candidates.sort_unstable();
        candidates.dedup();
        let known = candidates.iter().filter_map(|id| self.nodes.get(id));
        let known: Vec<&Node> = known.filter(|node| !node.leaving).collect();
        self.loads
            .place(&known, replicas.into())
            .ok_or(Rejection::NotEnoughNodes { have: known.len() as u32, need: replicas.into() })
    }

    fn insert(&mut self, queue: Queue) {
        self.loads.add(&queue);
        self.by_group.insert(queue.group, queue.name.clone());
        if queue.is_moving {
            self.moving.insert(queue.group);
        }
        self.queues.insert(queue.name.clone(), queue);
    }

    fn delete(&mut self, at: At, name: QueueName) -> Result<Done, Rejection> {
        if self.sharded.contains_key(&name) {
            return self.delete_sharded(at, name);
        }
        self.check_no_dead_letter(&name)?;
        self.check_no_shard(&name)?;
        let group = self.end(at, &name).ok_or(Rejection::NotFound)?;
        Ok((Reply::Deleted { group }, Some(Change::QueueDeleted { name, group })))
    }

    /// A queue is no more.
    fn end(&mut self, at: At, name: &QueueName) -> Option<GroupId> {
        let queue = self.queues.remove(name)?;
        self.loads.remove(&queue);
        self.by_group.remove(&queue.group);
        self.moving.remove(&queue.group);
        self.forget_routes(at, name);
        Some(queue.group)
    }

    fn update(&mut self, at: At, name: QueueName, settings: Settings) -> Result<Done, Rejection> {
        if self.sharded.contains_key(&name) {
            return self.update_sharded(at, name, settings);
        }
        self.check_no_shard(&name)?;
        let queue = self.queues.get(&name).ok_or(Rejection::NotFound)?;
        let group = queue.group;
        if queue.settings.same_as(&settings) {
            let version = queue.settings.version;
            return Ok((Reply::Updated { group, version }, None));
        }
        self.check_dead_letter(&name, &settings)?;
        let queue = self.queues.get_mut(&name).ok_or(Rejection::NotFound)?;
        // Two updates of one entry must differ in version too.
        let version = at.index.max(queue.settings.version + 1);
        queue.settings = Settings { version, ..settings };
        let change = Change::QueueUpdated { name, group };
        Ok((Reply::Updated { group, version }, Some(change)))
    }
}

/// Outcome of a command that was not refused.
type Done = (Reply, Option<Change>);

impl Machine for Catalog {
    type Command = Command;
    type Reply = Reply;
    type Effect = Effect;

    fn new() -> Self {
        Self::default()
    }

    fn apply(
        &mut self,
        at: At,
        _ordinal: u32,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        self.now = self.now.max(at.now);
        let outcome = match command {
            Command::Bootstrap { cluster_id } => self.bootstrap(cluster_id),
            Command::RegisterNode(register) => self.register(register),
            Command::CreateQueue(create) => self.create(at, create),
            Command::DeleteQueue { name } => self.delete(at, name),
            Command::UpdateQueue { name, settings } => self.update(at, name, settings),
            Command::DrainNode { id, draining } => self.drain(id, draining),
            Command::PlaceQueue(place) => self.place_queue(at, place),
            Command::QueuePlaced { group, moved } => self.queue_placed(group, moved),
            Command::RemoveNode { id } => self.remove_node(id),
            Command::RetireNode { id } => self.retire_node(id),
            Command::RecoverQueue { group, moved, survivor, timeline } => {
                self.recover_queue(at, group, moved, survivor, timeline)
            }
            Command::QueueTookOver { group, moved, from } => self.took_over(group, moved, from),
            Command::CatalogRecovered => self.recovered(at),
            Command::SetTopic { name, version, routes } => {
                self.set_topic(at, name, version, routes)
            }
            Command::DeleteTopic { name } => self.delete_topic(&name),
            Command::CreateSharded(create) => self.create_sharded(at, create),
            Command::Tick | Command::LeaderChanged { node: _ } => Ok((Reply::Done, None)),
        };
        match outcome {
            Ok((reply, change)) => {
                effects.extend(change.map(Effect::Changed));
                reply
            }
            Err(rejection) => Reply::Rejected(rejection),
        }
    }

    fn finish(&mut self, at: At, _effects: &mut Vec<Effect>) {
        self.now = self.now.max(at.now);
        assert_eq!(self.queues.len(), self.by_group.len(), "every queue has a group of its own");
    }

    fn encode(command: &Command, out: &mut BytesMut) {
        codec::encode(command, out);
    }

    fn decode(bytes: &mut Bytes) -> Result<Command, DecodeError> {
        codec::decode(bytes)
    }

    fn snapshot(&self) -> Vec<u8> {
        snapshot::write(self)
    }

    fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        snapshot::read(bytes)
    }

    /// Nothing: all of the catalog is in its snapshot.
    fn live(&self) -> Vec<RangeInclusive<u64>> {
        Vec::new()
    }

    fn hash(&self) -> u64 {
        snapshot::hash(self)
    }

    /// Never: nothing here depends on time.
    fn now(&self) -> Millis {
        self.now
    }

    fn next_deadline(&self) -> Option<Millis> {
        None
    }

    fn tick() -> Command {
        Command::Tick
    }

    fn leader_changed(node: u64) -> Command {
        Command::LeaderChanged { node: NodeId(node) }
    }

    /// Nothing: nodes compare themselves with the whole catalog when they start.
    fn outstanding(&self, _effects: &mut Vec<Effect>) {}
}
