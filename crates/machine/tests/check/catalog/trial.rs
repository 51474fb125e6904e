//! One sequence: three catalogs apply the encoded log, and are compared after every entry. The
//! leader is never restored, the follower is now and then, the reference says what is right.

use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_machine::catalog::{
    Catalog, Change, Command, Effect, GroupId, Queue, Rejection, Reply, Sharded,
};
use quorate_machine::{At, EntryBuilder, Machine, Millis, NodeId, decode_entry};

use super::Tally;
use super::op::{Entry, queue_name};
use super::reference::Reference;

pub struct Trial<'a> {
    leader: Catalog,
    follower: Catalog,
    reference: Reference,
    index: u64,
    now: u64,
    tally: &'a mut Tally,
}

impl<'a> Trial<'a> {
    pub fn new(tally: &'a mut Tally) -> Self {
        let (leader, follower) = (Catalog::new(), Catalog::new());
        Self { leader, follower, reference: Reference::default(), index: 0, now: 1_000, tally }
    }

    /// Applies an entry everywhere and compares what comes of it; the states, if wanted.
    pub fn step(&mut self, entry: &Entry, compare: bool) {
        self.index += 1;
        self.now = self.now.saturating_add_signed(entry.after_ms);
        if entry.restore {
            self.follower = Catalog::restore(&self.follower.snapshot()).unwrap();
            self.tally.add("restores", 1);
        }
        let mut builder = EntryBuilder::new();
        let topics = self.reference.topics.iter();
        let versions = topics.map(|topic| (topic.name.clone(), topic.version)).collect();
        let wanted: Vec<Command> = entry.ops.iter().map(|op| op.command(&versions)).collect();
        for command in &wanted {
            builder.push_command::<Catalog>(command);
        }
        self.apply(builder.freeze(Millis(self.now)), &wanted);
        if compare {
            self.check_state();
        }
    }

    fn apply(&mut self, payload: Bytes, wanted: &[Command]) {
        let (now, commands) = decode_entry(payload).unwrap();
        let at = At { index: self.index, now };
        for ((ordinal, bytes), wanted) in (0..).zip(commands).zip(wanted) {
            let command = Catalog::decode(&mut bytes.unwrap()).unwrap();
            assert_eq!(command, *wanted, "a command comes back as it was written");
            let (expected, change) = self.reference.apply(self.index, now.0, &command);
            let (mut effects, mut follower_effects) = (Vec::new(), Vec::new());
            let reply = self.leader.apply(at, ordinal, command.clone(), &mut effects);
            let same = self.follower.apply(at, ordinal, command, &mut follower_effects);
            assert_eq!(reply, expected, "reply to {wanted:?}");
            assert_eq!(reply, same, "a restored replica replies alike");
            let expected: Vec<Effect> = change.clone().into_iter().map(Effect::Changed).collect();
            assert_eq!(effects, expected, "changes told by {wanted:?}");
            assert_eq!(effects, follower_effects, "a restored replica tells the same");
            self.count(&reply, change.as_ref());
        }
        let mut effects = Vec::new();
        self.reference.now = self.reference.now.max(now.0);
        self.leader.finish(at, &mut effects);
        self.follower.finish(at, &mut effects);
        assert_eq!(effects, [], "nothing is told at the end of an entry");
    }

    fn check_state(&self) {
        let (leader, reference) = (&self.leader, &self.reference);
        assert_eq!(leader.hash(), self.follower.hash(), "replicas have the same state");
        assert_eq!(leader.cluster_id(), reference.cluster_id);
        assert!(leader.nodes().eq(&reference.nodes), "nodes");
        assert!(leader.queues().eq(&reference.queues), "queues");
        assert!(leader.topics().eq(&reference.topics), "topics");
        let sharded = leader.all_sharded().map(|it| (it.name.clone(), it.shards.len() as u16));
        let expected: BTreeSet<_> = reference.sharded.iter().cloned().collect();
        assert!(sharded.eq(expected), "sharded queues");
        leader.all_sharded().for_each(|sharded| self.check_shards(sharded));
        let versions = reference.nodes.iter().map(|node| node.version);
        assert_eq!(leader.min_version(), versions.min(), "what every node can apply");
        let given = reference.groups.iter().map(|group| group.0);
        for number in given.flat_map(|given| given..given + 3).chain([0, 1]) {
            let group = GroupId(number);
            let queue = reference.queues.iter().find(|queue| queue.group == group);
            assert_eq!(leader.by_group(group), queue, "the queue of a group");
            let deleted = reference.groups.contains(&group) && queue.is_none();
            assert_eq!(leader.is_deleted(group), deleted, "a group whose data can go");
        }
        let moving: BTreeSet<_> = leader.moving().map(|queue| queue.group).collect();
        let expected = reference.queues.iter().filter(|queue| queue.is_moving);
        assert_eq!(moving, expected.map(|queue| queue.group).collect(), "queues that move");
        for node in 0..12 {
            let removed = reference.removed.contains(&NodeId(node));
            assert_eq!(leader.is_removed(NodeId(node)), removed, "nodes that were removed");
        }
        assert!(leader.node(leader.next_node()).is_none(), "the next node is new");
        assert!(!leader.is_removed(leader.next_node()), "and was never there");
        let middle = queue_name(1);
        let after = reference.queues.iter().filter(|queue| queue.name > middle);
        assert!(leader.queues_after(&middle).eq(after), "the queues after a name");
        leader.queues().for_each(|queue| self.check_placement(queue));
    }

    /// What holds of the shards of a queue, whatever was done to them.
    fn check_shards(&self, sharded: &Sharded) {
        let shards: Vec<&Queue> = self.leader.shards_of(sharded).collect();
        assert_eq!(shards.len(), sharded.shards.len(), "every shard is there");
        assert!(shards.iter().all(|shard| shard.settings == shards[0].settings), "all are alike");
        assert!(self.leader.queue(&sharded.name).is_none(), "the name is not that of a queue too");
    }

    /// What holds of any placement, however it is chosen.
    fn check_placement(&self, queue: &Queue) {
        let nodes: BTreeSet<_> = queue.replicas.iter().collect();
        let holders: BTreeSet<_> = queue.holders().collect();
        assert_eq!(holders.len(), queue.holders().count(), "a node holds one replica of a queue");
        assert!([1, 3, 5].contains(&nodes.len()), "as many as are offered");
        assert!(nodes.contains(&queue.preferred_leader), "the leader is one of them");
        let known = |node| self.leader.node(node).is_some();
        assert!(holders.iter().all(|&node| known(node)), "replicas are on known nodes");
    }

    fn count(&mut self, reply: &Reply, change: Option<&Change>) {
        self.tally.add("commands", 1);
        self.tally.add("changes", change.is_some().into());
        self.tally.add("sharded", matches!(change, Some(Change::Sharded { .. })).into());
        let event = match reply {
            Reply::Done => "done",
            Reply::Created { .. } => "created",
            Reply::Deleted { .. } => "deleted",
            Reply::Updated { .. } => "updated",
            Reply::Placed { .. } => "placed",
            Reply::TopicSet { .. } => "topics set",
            Reply::Rejected(Rejection::NoDeadLetterQueue { .. }) => "no dead-letter queue",
            Reply::Rejected(Rejection::DeadLetterCycle { .. }) => "circles",
            Reply::Rejected(Rejection::IsDeadLetterQueue { .. }) => "dead-letter queues",
            Reply::Rejected(Rejection::IsShard { .. }) => "shards alone",
            Reply::Rejected(_) => "refused",
        };
        self.tally.add(event, 1);
    }
}
