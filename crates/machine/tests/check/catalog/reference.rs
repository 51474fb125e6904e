//! A catalog that is obviously right: lists, searched from the first to the last, and loads that
//! are counted anew for every queue that is placed.

use std::collections::BTreeSet;

use quorate_machine::catalog::{
    Change, Command, CreateQueue, CreateSharded, Fork, GroupId, Node, PlaceQueue, Queue, QueueName,
    RegisterNode, Rejection, Reply, Route, Topic,
};
use quorate_machine::queue::Settings;
use quorate_machine::{Millis, NodeId};

#[derive(Debug, Default)]
pub struct Reference {
    pub cluster_id: Option<u128>,
    pub now: u64,
    /// By id.
    pub nodes: Vec<Node>,
    pub removed: Vec<NodeId>,
    /// By name.
    pub queues: Vec<Queue>,
    /// Every group that a queue was ever given.
    pub groups: Vec<GroupId>,
    /// Groups that were given before it was recovered, and forgotten.
    pub skipped: u64,
    /// By name.
    pub topics: Vec<Topic>,
    /// Names of sharded queues, and how many shards they have; in no order.
    pub sharded: Vec<(QueueName, u16)>,
}

impl Reference {
    /// What the reply must be, what must be told, and the state after it.
    pub fn apply(&mut self, index: u64, now: u64, command: &Command) -> (Reply, Option<Change>) {
        self.now = self.now.max(now);
        match command {
            Command::Bootstrap { cluster_id } => match self.cluster_id {
                Some(cluster_id) => rejected(Rejection::AlreadyBootstrapped { cluster_id }),
                None => {
                    self.cluster_id = Some(*cluster_id);
                    (Reply::Done, Some(Change::Bootstrapped))
                }
            },
            Command::RegisterNode(register) => self.register(register),
            Command::CreateQueue(create) => self.create(index, create),
            Command::CreateSharded(create) => self.create_sharded(index, create),
            Command::DeleteQueue { name } if self.is_sharded(name) => {
                let group = self.queues[self.find(&nth(name, 0)).unwrap()].group;
                self.sharded.retain(|(known, _)| known != name);
                let gone = |of: &QueueName| of.sharded().is_some_and(|(whole, _)| whole == *name);
                self.queues.retain(|queue| !gone(&queue.name));
                for topic in &mut self.topics {
                    if topic.routes.iter().any(|route| gone(&route.queue)) {
                        // One shard after the other.
                        let of: BTreeSet<_> =
                            topic.routes.iter().map(|route| &route.queue).collect();
                        let times = of.into_iter().filter(|queue| gone(queue)).count() as u64;
                        topic.version = index.max(topic.version + 1) + times - 1;
                        topic.routes.retain(|route| !gone(&route.queue));
                    }
                }
                (Reply::Deleted { group }, Some(Change::Sharded { name: name.clone() }))
            }
            Command::DeleteQueue { name } if name.is_shard() && self.find(name).is_some() => {
                rejected(Rejection::IsShard { of: name.sharded().unwrap().0 })
            }
            Command::DeleteQueue { name } => match self.find(name) {
                Some(_) if self.senders(name).next().is_some() => {
                    let of = self.senders(name).cloned().collect();
                    rejected(Rejection::IsDeadLetterQueue { of })
                }
                Some(at) => {
                    let Queue { name, group, .. } = self.queues.remove(at);
                    for topic in &mut self.topics {
                        if topic.routes.iter().any(|route| route.queue == name) {
                            topic.routes.retain(|route| route.queue != name);
                            topic.version = index.max(topic.version + 1);
                        }
                    }
                    (Reply::Deleted { group }, Some(Change::QueueDeleted { name, group }))
                }
                None => rejected(Rejection::NotFound),
            },
            Command::UpdateQueue { name, settings } => self.update(index, name, settings),
            Command::DrainNode { id, draining } => {
                match self.nodes.iter_mut().find(|node| node.id == *id) {
                    Some(node) if node.draining == *draining && (*draining || !node.leaving) => {
                        (Reply::Done, None)
                    }
                    Some(node) => {
                        node.draining = *draining;
                        node.leaving = node.leaving && *draining;
                        (Reply::Done, Some(Change::Node(*id)))
                    }
                    None => rejected(Rejection::UnknownNode { id: *id }),
                }
            }
            Command::PlaceQueue(place) => self.place(index, place),
            Command::QueuePlaced { group, moved } => {
                match self.queues.iter_mut().find(|queue| queue.group == *group) {
                    None => rejected(Rejection::NotFound),
                    Some(queue) if queue.moved != *moved => {
                        rejected(Rejection::PlacementChanged { moved: queue.moved })
                    }
                    Some(queue) if queue.is_recovering => {
                        rejected(Rejection::Recovering { survivor: queue.replicas[0] })
                    }
                    Some(queue) if !queue.is_moving => (Reply::Done, None),
                    Some(queue) => {
                        queue.is_moving = false;
                        queue.leaving.clear();
                        let name = queue.name.clone();
                        (Reply::Done, Some(Change::QueueMoved { name, group: *group }))
                    }
                }
            }
            Command::RemoveNode { id } => self.remove(*id),
            Command::RetireNode { id } => self.retire(*id),
            Command::RecoverQueue { group, moved, survivor, timeline } => {
                self.recover(index, *group, *moved, *survivor, *timeline)
            }
            Command::QueueTookOver { group, moved, from } => {
                match self.queues.iter_mut().find(|queue| queue.group == *group) {
                    None => rejected(Rejection::NotFound),
                    Some(queue) if queue.moved != *moved => {
                        rejected(Rejection::PlacementChanged { moved: queue.moved })
                    }
                    Some(queue) if !queue.is_recovering => (Reply::Done, None),
                    Some(queue) => {
                        queue.is_recovering = false;
                        queue.forks.push(Fork { timeline: queue.timeline, from: *from });
                        let name = queue.name.clone();
                        (Reply::Done, Some(Change::QueueMoved { name, group: *group }))
                    }
                }
            }
            Command::CatalogRecovered => {
                self.skipped += 1 << 20;
                (Reply::Done, None)
            }
            Command::SetTopic { name, version, routes } => {
                self.set_topic(index, name, *version, routes)
            }
            Command::DeleteTopic { name } => {
                let before = self.topics.len();
                self.topics.retain(|topic| topic.name != *name);
                match self.topics.len() < before {
                    true => (Reply::Done, None),
                    false => rejected(Rejection::TopicNotFound),
                }
            }
            Command::Tick | Command::LeaderChanged { .. } => (Reply::Done, None),
        }
    }

    fn set_topic(
        &mut self,
        index: u64,
        name: &QueueName,
        version: u64,
        routes: &[Route],
    ) -> (Reply, Option<Change>) {
        let routes: BTreeSet<Route> = routes.iter().cloned().collect();
        let routes: Vec<Route> = routes.into_iter().collect();
        let at = self.topics.iter().position(|topic| topic.name == *name);
        let present = at.map_or(0, |at| self.topics[at].version);
        if at.is_some_and(|at| self.topics[at].routes == routes) {
            return (Reply::TopicSet { version: present }, None);
        }
        if present != version {
            return rejected(Rejection::TopicChanged { version: present });
        }
        for route in &routes {
            if self.is_sharded(&route.queue) {
                return rejected(Rejection::ShardedRoute { name: route.queue.clone() });
            }
        }
        for route in &routes {
            if self.find(&route.queue).is_none() {
                return rejected(Rejection::UnknownQueue { name: route.queue.clone() });
            }
        }
        let created_at = at.map_or(Millis(self.now), |at| self.topics[at].created_at);
        let version = index.max(present + 1);
        self.topics.retain(|topic| topic.name != *name);
        self.topics.push(Topic { name: name.clone(), version, routes, created_at });
        self.topics.sort_by(|left, right| left.name.cmp(&right.name));
        (Reply::TopicSet { version }, None)
    }

    fn is_draining(&self, id: NodeId) -> bool {
        self.nodes.iter().any(|node| node.id == id && node.draining)
    }

    fn register(&mut self, register: &RegisterNode) -> (Reply, Option<Change>) {
        let RegisterNode { id, incarnation, address, zone, version, replace } = register.clone();
        let draining = self.is_draining(id);
        if self.removed.contains(&id) {
            return rejected(Rejection::NodeRemoved { id });
        }
        let leaving = self.is_leaving(id);
        let node = Node { id, incarnation, address, zone, version, draining, leaving };
        match self.nodes.iter_mut().find(|known| known.id == id) {
            Some(known) if *known == node => return (Reply::Done, None),
            Some(known) if known.incarnation != incarnation && !replace => {
                let known = known.incarnation;
                return rejected(Rejection::IncarnationMismatch { id, known });
            }
            Some(known) => *known = node,
            None => self.nodes.push(node),
        }
        self.nodes.sort_by_key(|node| node.id);
        (Reply::Done, Some(Change::Node(id)))
    }

    fn create(&mut self, index: u64, create: &CreateQueue) -> (Reply, Option<Change>) {
        let CreateQueue { name, settings, replicas, .. } = create;
        let count = usize::from(*replicas);
        if name.is_shard() {
            return rejected(Rejection::ShardName);
        }
        if self.is_sharded(name) {
            let group = self.queues[self.find(&nth(name, 0)).unwrap()].group;
            return rejected(Rejection::QueueExists { same_settings: false, group });
        }
        if let Some(at) = self.find(name) {
            let known = &self.queues[at];
            let same_settings =
                are_same(&known.settings, settings) && known.replicas.len() == count;
            return rejected(Rejection::QueueExists { same_settings, group: known.group });
        }
        match self.make(index, name.clone(), name, create) {
            Ok(group) => {
                let change = Change::QueueCreated { name: name.clone(), group };
                (Reply::Created { group }, Some(change))
            }
            Err(rejection) => rejected(rejection),
        }
    }

    /// Makes a queue of this name, by itself or as a part of `whole`.
    fn make(
        &mut self,
        index: u64,
        name: QueueName,
        whole: &QueueName,
        create: &CreateQueue,
    ) -> Result<GroupId, Rejection> {
        let CreateQueue { settings, replicas, candidates, .. } = create;
        let count = usize::from(*replicas);
        if ![1, 3, 5].contains(replicas) {
            return Err(Rejection::InvalidReplicas { replicas: *replicas });
        }
        self.check_dead_letter(whole, settings)?;
        let is_candidate = |node: &&Node| candidates.contains(&node.id) && !node.leaving;
        let there: Vec<Node> = self.nodes.iter().filter(is_candidate).cloned().collect();
        if there.len() < count {
            let (have, need) = (there.len() as u32, (*replicas).into());
            return Err(Rejection::NotEnoughNodes { have, need });
        }
        let replicas = self.choose(there, count);
        let preferred_leader = self.who_leads(&replicas);
        let group = GroupId(self.groups.len() as u64 + self.skipped + 1);
        let settings = Settings { version: index, ..settings.clone() };
        let created_at = Millis(self.now);
        let queue = Queue {
            name,
            group,
            settings,
            replicas,
            observers: Vec::new(),
            leaving: Vec::new(),
            moved: 0,
            is_moving: false,
            timeline: 0,
            is_recovering: false,
            forks: Vec::new(),
            voters_wanted: 0,
            preferred_leader,
            created_at,
        };
        assert!(!self.groups.contains(&group), "a group is never used again");
        self.groups.push(group);
        self.queues.push(queue);
        self.queues.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(group)
    }

    /// As many queues, made one after the other, or none.
    fn create_sharded(&mut self, index: u64, create: &CreateSharded) -> (Reply, Option<Change>) {
        let CreateSharded { queue, shards } = create;
        let name = &queue.name;
        if name.is_shard() {
            return rejected(Rejection::ShardName);
        }
        if let Some(at) = self.find(name) {
            let group = self.queues[at].group;
            return rejected(Rejection::QueueExists { same_settings: false, group });
        }
        if self.is_sharded(name) {
            let known = &self.queues[self.find(&nth(name, 0)).unwrap()];
            let group = known.group;
            let count = usize::from(queue.replicas);
            let alike = |queue: &&Queue| queue.replicas.len() == count;
            let same_settings = self.sharded.contains(&(name.clone(), *shards))
                && are_same(&known.settings, &queue.settings)
                && self.shards(name).filter(alike).count() == usize::from(*shards);
            return rejected(Rejection::QueueExists { same_settings, group });
        }
        if !(2..=64).contains(shards) {
            return rejected(Rejection::InvalidShards { shards: *shards });
        }
        let mut group = None;
        for number in 0..*shards {
            // It is refused for what is so of the first, if at all.
            let begun = self.make(index, nth(name, number), name, queue);
            match begun {
                Ok(made) => group = group.or(Some(made)),
                Err(rejection) => return rejected(rejection),
            }
        }
        self.sharded.push((name.clone(), *shards));
        (Reply::Created { group: group.unwrap() }, Some(Change::Sharded { name: name.clone() }))
    }

    fn is_sharded(&self, name: &QueueName) -> bool {
        self.sharded.iter().any(|(known, _)| known == name)
    }

    fn shards<'a>(&'a self, whole: &'a QueueName) -> impl Iterator<Item = &'a Queue> {
        let is_one = |name: &QueueName| name.sharded().is_some_and(|(of, _)| of == *whole);
        self.queues.iter().filter(move |queue| is_one(&queue.name))
    }

    fn senders(&self, to: &QueueName) -> impl Iterator<Item = &QueueName> {
        let sends = |queue: &&Queue| queue.settings.dead_letter.as_ref() == Some(to);
        self.queues.iter().filter(sends).map(|queue| &queue.name)
    }

    /// Follows the dead letters of a queue with these settings for as many steps as there are queues.
    fn check_dead_letter(&self, name: &QueueName, settings: &Settings) -> Result<(), Rejection> {
        let (mut way, mut at) = (vec![name.clone()], settings.dead_letter.clone());
        for _ in 0..=self.queues.len() {
            let Some(target) = at else { return Ok(()) };
            way.push(target.clone());
            if target == *name {
                return Err(Rejection::DeadLetterCycle { way });
            }
            if target.is_shard() || self.is_sharded(&target) {
                return Err(Rejection::ShardedDeadLetter { name: target });
            }
            let Some(found) = self.find(&target) else {
                return Err(Rejection::NoDeadLetterQueue { name: target });
            };
            at = self.queues[found].settings.dead_letter.clone();
        }
        panic!("the dead letters of {name} go round");
    }

    fn place(&mut self, index: u64, place: &PlaceQueue) -> (Reply, Option<Change>) {
        let Some(at) = self.queues.iter().position(|queue| queue.group == place.group) else {
            return rejected(Rejection::NotFound);
        };
        let known = self.queues[at].clone();
        if known.moved != place.moved {
            return rejected(Rejection::PlacementChanged { moved: known.moved });
        }
        if known.is_recovering {
            return rejected(Rejection::Recovering { survivor: known.replicas[0] });
        }
        let distinct = |nodes: &[NodeId]| -> Vec<NodeId> {
            nodes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
        };
        let (replicas, observers) = (distinct(&place.replicas), distinct(&place.observers));
        if ![1, 3, 5].contains(&replicas.len()) {
            return rejected(Rejection::InvalidReplicas { replicas: replicas.len() as u8 });
        }
        if let Some(&id) = replicas.iter().find(|node| observers.contains(node)) {
            return rejected(Rejection::TwoRoles { id });
        }
        let wanted: Vec<NodeId> = [replicas.clone(), observers.clone()].concat();
        let had: Vec<NodeId> = [known.replicas.clone(), known.observers.clone()].concat();
        for &id in wanted.iter().filter(|node| !had.contains(node)) {
            match self.nodes.iter().find(|node| node.id == id) {
                None => return rejected(Rejection::UnknownNode { id }),
                Some(node) if node.leaving => return rejected(Rejection::NodeLeaving { id }),
                Some(_) => {}
            }
        }
        if known.replicas == replicas && known.observers == observers {
            return (Reply::Placed { moved: known.moved }, None);
        }
        let mut leaving = [had, known.leaving.clone()].concat();
        leaving.retain(|node| !wanted.contains(node));
        let others = self.queues.remove(at);
        let preferred_leader = match replicas.contains(&others.preferred_leader) {
            true => others.preferred_leader,
            false => self.who_leads(&replicas),
        };
        let moved = if index > known.moved { index } else { known.moved + 1 };
        let leaving = distinct(&leaving);
        // Until there are enough again, or somebody is content with fewer.
        let still = replicas.len() < usize::from(known.voters_wanted)
            && replicas.len() >= known.replicas.len();
        let queue = Queue {
            voters_wanted: if still { known.voters_wanted } else { 0 },
            replicas,
            observers,
            leaving,
            moved,
            is_moving: true,
            preferred_leader,
            ..others
        };
        let change = Change::QueueMoved { name: queue.name.clone(), group: queue.group };
        self.queues.insert(at, queue);
        (Reply::Placed { moved }, Some(change))
    }

    fn recover(
        &mut self,
        index: u64,
        group: GroupId,
        moved: u64,
        survivor: NodeId,
        timeline: u64,
    ) -> (Reply, Option<Change>) {
        let Some(at) = self.queues.iter().position(|queue| queue.group == group) else {
            return rejected(Rejection::NotFound);
        };
        let known = self.queues[at].clone();
        if known.moved != moved {
            return rejected(Rejection::PlacementChanged { moved: known.moved });
        }
        if !holds(&known, survivor) {
            return rejected(Rejection::NotAReplica { id: survivor });
        }
        if !(known.timeline + 1..).contains(&timeline) {
            return rejected(Rejection::TimelinePassed { timeline: known.timeline });
        }
        let observers: Vec<NodeId> =
            known.observers.iter().copied().filter(|node| *node != survivor).collect();
        let mut leaving = [known.replicas.clone(), known.leaving.clone()].concat();
        leaving.retain(|node| *node != survivor);
        leaving.sort();
        let most = (known.replicas.len() as u8).max(known.voters_wanted);
        let moved = if index > moved { index } else { moved + 1 };
        let name = known.name.clone();
        self.queues[at] = Queue {
            replicas: vec![survivor],
            observers,
            leaving,
            moved,
            is_moving: true,
            timeline,
            is_recovering: true,
            voters_wanted: if most > 1 { most } else { 0 },
            preferred_leader: survivor,
            ..known
        };
        (Reply::Placed { moved }, Some(Change::QueueMoved { name, group }))
    }

    fn remove(&mut self, id: NodeId) -> (Reply, Option<Change>) {
        if self.removed.contains(&id) {
            return (Reply::Done, None);
        }
        if !self.nodes.iter().any(|node| node.id == id) {
            return rejected(Rejection::UnknownNode { id });
        }
        if self.nodes.iter().all(|node| node.id == id || node.leaving) {
            return rejected(Rejection::LastNode { id });
        }
        let node = self.nodes.iter_mut().find(|node| node.id == id).unwrap();
        let change = (!node.leaving).then_some(Change::Node(id));
        (node.draining, node.leaving) = (true, true);
        (Reply::Done, change)
    }

    fn retire(&mut self, id: NodeId) -> (Reply, Option<Change>) {
        if self.removed.contains(&id) {
            return (Reply::Done, None);
        }
        let replicas = self.queues.iter().filter(|queue| holds(queue, id)).count() as u64;
        match self.nodes.iter().position(|node| node.id == id) {
            None => rejected(Rejection::UnknownNode { id }),
            Some(at) if !self.nodes[at].leaving || replicas > 0 => {
                rejected(Rejection::NodeInUse { id, replicas })
            }
            Some(at) => {
                self.nodes.remove(at);
                self.removed.push(id);
                (Reply::Done, Some(Change::Node(id)))
            }
        }
    }

    fn is_leaving(&self, id: NodeId) -> bool {
        self.nodes.iter().any(|node| node.id == id && node.leaving)
    }

    /// One that is not drained, then the one that leads the fewest queues, then the lowest id.
    fn who_leads(&self, replicas: &[NodeId]) -> NodeId {
        let led = |node: NodeId| self.queues.iter().filter(|q| q.preferred_leader == node).count();
        let rank = |node: &&NodeId| (self.is_draining(**node), led(**node), **node);
        *replicas.iter().min_by_key(rank).unwrap()
    }

    /// One by one: one that is not drained, then one in the zone used least by this queue, then the node with the
    /// fewest replicas, then the lowest id.
    fn choose(&self, mut there: Vec<Node>, count: usize) -> Vec<NodeId> {
        let mut chosen: Vec<Node> = Vec::new();
        while chosen.len() < count {
            let rank = |node: &Node| {
                let hosted = self.queues.iter().filter(|q| holds(q, node.id)).count();
                let in_zone = chosen.iter().filter(|other| other.zone == node.zone).count();
                (node.draining, in_zone, hosted, node.id)
            };
            there.sort_by_key(rank);
            chosen.push(there.remove(0));
        }
        let mut replicas: Vec<NodeId> = chosen.iter().map(|node| node.id).collect();
        replicas.sort_unstable();
        replicas
    }

    fn update(
        &mut self,
        index: u64,
        name: &QueueName,
        settings: &Settings,
    ) -> (Reply, Option<Change>) {
        if self.is_sharded(name) {
            return self.update_sharded(index, name, settings);
        }
        let Some(at) = self.find(name) else { return rejected(Rejection::NotFound) };
        if let Some((of, _)) = name.sharded() {
            return rejected(Rejection::IsShard { of });
        }
        let refused = self.check_dead_letter(name, settings);
        let queue = &mut self.queues[at];
        let (name, group, version) = (name.clone(), queue.group, queue.settings.version);
        if are_same(&queue.settings, settings) {
            return (Reply::Updated { group, version }, None);
        }
        if let Err(rejection) = refused {
            return rejected(rejection);
        }
        let version = if index > version { index } else { version + 1 };
        queue.settings = Settings { version, ..settings.clone() };
        (Reply::Updated { group, version }, Some(Change::QueueUpdated { name, group }))
    }

    fn update_sharded(
        &mut self,
        index: u64,
        name: &QueueName,
        settings: &Settings,
    ) -> (Reply, Option<Change>) {
        let first = self.shards(name).find(|queue| queue.name == nth(name, 0)).unwrap();
        let (group, version) = (first.group, first.settings.version);
        if are_same(&first.settings, settings) {
            return (Reply::Updated { group, version }, None);
        }
        if let Err(rejection) = self.check_dead_letter(name, settings) {
            return rejected(rejection);
        }
        let version = if index > version { index } else { version + 1 };
        let is_one = |of: &QueueName| of.sharded().is_some_and(|(whole, _)| whole == *name);
        for queue in self.queues.iter_mut().filter(|queue| is_one(&queue.name)) {
            queue.settings = Settings { version, ..settings.clone() };
        }
        (Reply::Updated { group, version }, Some(Change::Sharded { name: name.clone() }))
    }

    fn find(&self, name: &QueueName) -> Option<usize> {
        self.queues.iter().position(|queue| queue.name == *name)
    }
}

/// A shard's name.
fn nth(whole: &QueueName, number: u16) -> QueueName {
    QueueName::parse(&format!("{whole}@{number}")).unwrap()
}

fn holds(queue: &Queue, node: NodeId) -> bool {
    [&queue.replicas, &queue.observers, &queue.leaving].iter().any(|nodes| nodes.contains(&node))
}

/// But for their versions. In this world settings differ in one limit only.
fn are_same(left: &Settings, right: &Settings) -> bool {
    left.max_messages == right.max_messages && left.dead_letter == right.dead_letter
}

fn rejected(rejection: Rejection) -> (Reply, Option<Change>) {
    (Reply::Rejected(rejection), None)
}
