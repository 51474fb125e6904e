//! The catalog as bytes: what a checkpoint keeps, and what the state hash is of.
//!
//! ```text
//! snapshot = version u8 | cluster id? u128 | now | groups | node* | removed* | queue* | recovered at*
//!            | topic* | sharded* | checksum u64
//! x*       = count | x ...           integers are varints, but ids of 128 bits
//! node     = id | incarnation u128 | address | zone | version | duty u8
//! duty     = 0 serves | 1 draining | 2 leaving
//! removed  = id                     since version 3
//! fork     = timeline | from
//! recovered at = groups | index    since version 4
//! topic    = name | version | created at | route*      since version 5; route as in the command
//! sharded  = name | generation | hash u8 | created at | shard*      since version 6; shard is its number, hash
//!            1 XXH64
//! queue    = name | group | settings | replica* | preferred leader | created at
//!            | moved | (observer* | leaving* | is moving u8) if moved > 0
//!            | (timeline | is recovering u8 | fork* | voters wanted u8) if moved > 0, since version 4
//! ```

use std::collections::BTreeSet;

use bytes::BufMut;

use super::command::{Fork, Node, PlaceQueue, Queue, RegisterNode};
use super::sharded::{SHARDS_MAX, SHARDS_MIN, ShardHash, Sharded};
use super::topics::{Route, Topic};
use super::{Catalog, GroupId, NODES_MAX, codec};
use crate::digest::digest;
use crate::queue::Settings;
use crate::wire::{
    self, DecodeError, SnapshotError, ascending, counter, item_count, put_varint, varint, varint32,
};
use crate::{Millis, NodeId};

/// Version of the snapshot layout, the oldest that has room for the state is written: in version 1 no node
/// is draining, in version 2 none is leaving or removed, and no queue was moved, in version 3 none was recovered, in
/// version 4 there is no topic, in version 5 no queue is sharded.
const VERSION: u8 = 6;

/// The state with its checksum.
pub(super) fn write(catalog: &Catalog) -> Vec<u8> {
    wire::seal(state(catalog))
}

/// Digest of the state.
pub(super) fn hash(catalog: &Catalog) -> u64 {
    digest(&state(catalog))
}

/// The state that [`write`] wrote.
pub(super) fn read(bytes: &[u8]) -> Result<Catalog, SnapshotError> {
    let (version, mut rest) = wire::unseal(bytes, "catalog snapshot", 1..=VERSION)?;
    let mut catalog = Catalog {
        cluster_id: wire::option(&mut rest, "cluster flag", wire::u128)?,
        now: Millis(varint(&mut rest)?),
        groups: counter(&mut rest, "groups")?,
        ..Catalog::default()
    };
    for _ in 0..item_count(&mut rest, 26)? {
        let node = read_node(&mut rest, version)?;
        ascending(catalog.nodes.last_key_value().map(|(last, _)| last), &node.id, "node")?;
        catalog.nodes.insert(node.id, node);
    }
    if version >= 3 {
        for _ in 0..item_count(&mut rest, 1)? {
            let id = NodeId(counter(&mut rest, "removed node")?);
            ascending(catalog.removed.last(), &id, "removed node")?;
            if catalog.nodes.contains_key(&id) {
                return Err(SnapshotError::Inconsistent("a node that was removed is not there"));
            }
            catalog.removed.insert(id);
        }
    }
    for _ in 0..item_count(&mut rest, 58)? {
        let queue = read_queue(&mut rest, version)?;
        ascending(catalog.queues.last_key_value().map(|(last, _)| last), &queue.name, "queue")?;
        if queue.group.0 == 0 || queue.group.0 > catalog.groups {
            return Err(SnapshotError::Inconsistent("a group was given before it is used"));
        }
        catalog.insert(queue);
    }
    if version >= 4 {
        for _ in 0..item_count(&mut rest, 2)? {
            let groups = counter(&mut rest, "recovered at")?;
            let last = catalog.recovered_at.last_key_value();
            ascending(last.map(|(groups, _)| groups), &groups, "recovered at")?;
            if groups >= catalog.groups {
                return Err(SnapshotError::Inconsistent("groups are skipped by a recovery"));
            }
            let index = counter(&mut rest, "index of a recovery")?;
            catalog.recovered_at.insert(groups, index);
        }
    }
    if version >= 5 {
        read_topics(&mut rest, &mut catalog)?;
    }
    if version >= 6 {
        read_sharded(&mut rest, &mut catalog)?;
    }
    wire::expect_end(&rest)?;
    if catalog.queues.len() != catalog.by_group.len() {
        return Err(SnapshotError::Inconsistent("every queue has a group of its own"));
    }
    let shards: usize = catalog.sharded.values().map(|sharded| sharded.shards.len()).sum();
    if shards != catalog.queues.keys().filter(|name| name.is_shard()).count() {
        return Err(SnapshotError::Inconsistent("every shard belongs to a sharded queue"));
    }
    if version != needed_version(&catalog) {
        return Err(SnapshotError::Inconsistent("the newer form says something new"));
    }
    Ok(catalog)
}

/// The oldest version that has room for the state.
fn needed_version(catalog: &Catalog) -> u8 {
    let any = |what: fn(&Node) -> bool| catalog.nodes.values().any(what);
    let moved = catalog.queues.values().any(|queue| queue.moved > 0);
    let recovered = catalog.queues.values().any(|queue| queue.timeline > 0);
    match () {
        () if !catalog.sharded.is_empty() => 6,
        () if !catalog.topics.is_empty() => 5,
        () if recovered || !catalog.recovered_at.is_empty() => 4,
        () if moved || !catalog.removed.is_empty() || any(|node| node.leaving) => 3,
        () if any(|node| node.draining) => 2,
        () => 1,
    }
}

fn state(catalog: &Catalog) -> Vec<u8> {
    let version = needed_version(catalog);
    let mut out = vec![version];
    wire::put_option(&mut out, catalog.cluster_id, |out, id| out.put_u128_le(id));
    put_varint(&mut out, catalog.now.0);
    put_varint(&mut out, catalog.groups);
    put_varint(&mut out, catalog.nodes.len() as u64);
    for node in catalog.nodes.values() {
        write_node(&mut out, node, version);
    }
    if version >= 3 {
        put_nodes(&mut out, catalog.removed.iter());
    }
    put_varint(&mut out, catalog.queues.len() as u64);
    for queue in catalog.queues.values() {
        write_queue(&mut out, queue, version);
    }
    if version >= 4 {
        put_varint(&mut out, catalog.recovered_at.len() as u64);
        for (groups, index) in &catalog.recovered_at {
            put_varint(&mut out, *groups);
            put_varint(&mut out, *index);
        }
    }
    if version >= 5 {
        put_varint(&mut out, catalog.topics.len() as u64);
        for topic in catalog.topics.values() {
            wire::put_bytes(&mut out, topic.name.as_str().as_bytes());
            put_varint(&mut out, topic.version);
            put_varint(&mut out, topic.created_at.0);
            put_varint(&mut out, topic.routes.len() as u64);
            topic.routes.iter().for_each(|route| route.encode(&mut out));
        }
    }
    if version >= 6 {
        put_varint(&mut out, catalog.sharded.len() as u64);
        catalog.sharded.values().for_each(|sharded| write_sharded(&mut out, sharded));
    }
    out
}

fn write_sharded(out: &mut Vec<u8>, sharded: &Sharded) {
    wire::put_bytes(out, sharded.name.as_str().as_bytes());
    put_varint(out, sharded.generation);
    out.put_u8(match sharded.hash {
        ShardHash::Xxh64 => 1,
    });
    put_varint(out, sharded.created_at.0);
    put_varint(out, sharded.shards.len() as u64);
    sharded.shards.iter().for_each(|shard| put_varint(out, (*shard).into()));
}

fn read_sharded(buf: &mut &[u8], catalog: &mut Catalog) -> Result<(), SnapshotError> {
    for _ in 0..item_count(buf, 8)? {
        let name = codec::name(buf)?;
        ascending(catalog.sharded.last_key_value().map(|(last, _)| last), &name, "sharded queue")?;
        let generation = counter(buf, "generation of shards")?;
        let hash = match wire::u8(buf)? {
            1 => ShardHash::Xxh64,
            kind => return Err(DecodeError::UnknownKind { what: "hash of shards", kind }.into()),
        };
        let created_at = Millis(varint(buf)?);
        let count = item_count(buf, 1)?;
        if !(usize::from(SHARDS_MIN)..=usize::from(SHARDS_MAX)).contains(&count) {
            return Err(SnapshotError::Inconsistent("a sharded queue has a number of shards"));
        }
        let mut shards = Vec::with_capacity(count);
        for _ in 0..count {
            let number = varint(buf)?;
            let shard = u16::try_from(number)
                .map_err(|_| DecodeError::Invalid { what: "shard", why: "it is too high" })?;
            let known = name.shard(shard).is_some_and(|name| catalog.queues.contains_key(&name));
            if !known || shards.contains(&shard) {
                return Err(SnapshotError::Inconsistent("a shard is a queue, and is listed once"));
            }
            shards.push(shard);
        }
        if catalog.queues.contains_key(&name) || generation == 0 {
            return Err(SnapshotError::Inconsistent("a sharded queue has its name alone"));
        }
        let sharded = Sharded { name: name.clone(), generation, hash, shards, created_at };
        catalog.sharded.insert(name, sharded);
    }
    Ok(())
}

fn read_topics(buf: &mut &[u8], catalog: &mut Catalog) -> Result<(), SnapshotError> {
    for _ in 0..item_count(buf, 8)? {
        let name = codec::name(buf)?;
        ascending(catalog.topics.last_key_value().map(|(last, _)| last), &name, "topic")?;
        let (version, created_at) = (counter(buf, "version of a topic")?, Millis(varint(buf)?));
        let mut routes = Vec::new();
        for _ in 0..item_count(buf, 9)? {
            let route = Route::decode(buf)?;
            ascending(routes.last(), &route, "route")?;
            if !catalog.queues.contains_key(&route.queue) {
                return Err(SnapshotError::Inconsistent("a route leads to a queue"));
            }
            routes.push(route);
        }
        catalog.topics.insert(name.clone(), Topic { name, version, routes, created_at });
    }
    Ok(())
}

fn write_node(out: &mut Vec<u8>, node: &Node, version: u8) {
    put_varint(out, node.id.0);
    out.put_u128_le(node.incarnation);
    wire::put_bytes(out, node.address.as_bytes());
    wire::put_bytes(out, node.zone.as_bytes());
    put_varint(out, node.version.into());
    if version >= 2 {
        out.put_u8(u8::from(node.draining) + u8::from(node.leaving));
    }
}

fn put_nodes<'a>(out: &mut Vec<u8>, nodes: impl ExactSizeIterator<Item = &'a NodeId>) {
    put_varint(out, nodes.len() as u64);
    nodes.for_each(|node| put_varint(out, node.0));
}

/// Reads at most `limit` ids.
fn read_nodes(
    buf: &mut &[u8],
    what: &'static str,
    limit: usize,
) -> Result<Vec<NodeId>, DecodeError> {
    let count = item_count(buf, 1)?;
    if count > limit {
        return Err(DecodeError::TooLong { what, length: count as u64, limit: limit as u64 });
    }
    let mut nodes = Vec::with_capacity(count);
    for _ in 0..count {
        let node = NodeId(varint(buf)?);
        ascending(nodes.last(), &node, what)?;
        nodes.push(node);
    }
    Ok(nodes)
}

fn read_node(buf: &mut &[u8], version: u8) -> Result<Node, DecodeError> {
    let mut node = Node {
        id: NodeId(varint(buf)?),
        incarnation: wire::u128(buf)?,
        address: wire::string(buf, "address", RegisterNode::ADDRESS_BYTES_MAX)?,
        zone: wire::string(buf, "zone", RegisterNode::ZONE_BYTES_MAX)?,
        version: varint32(buf)?,
        draining: false,
        leaving: false,
    };
    let duty = if version >= 2 { wire::u8(buf)? } else { 0 };
    (node.draining, node.leaving) = match duty {
        0 => (false, false),
        1 => (true, false),
        2 if version >= 3 => (true, true),
        _ => return Err(DecodeError::Invalid { what: "duty of a node", why: "there is no such" }),
    };
    Ok(node)
}

fn write_queue(out: &mut Vec<u8>, queue: &Queue, version: u8) {
    wire::put_bytes(out, queue.name.as_str().as_bytes());
    put_varint(out, queue.group.0);
    queue.settings.encode(out);
    put_nodes(out, queue.replicas.iter());
    put_varint(out, queue.preferred_leader.0);
    put_varint(out, queue.created_at.0);
    if version >= 3 {
        put_varint(out, queue.moved);
        if queue.moved > 0 {
            put_nodes(out, queue.observers.iter());
            put_nodes(out, queue.leaving.iter());
            out.put_u8(u8::from(queue.is_moving));
            if version >= 4 {
                put_varint(out, queue.timeline);
                out.put_u8(u8::from(queue.is_recovering));
                put_varint(out, queue.forks.len() as u64);
                for fork in &queue.forks {
                    put_varint(out, fork.timeline);
                    put_varint(out, fork.from);
                }
                out.put_u8(queue.voters_wanted);
            }
        }
    }
}

fn read_queue(buf: &mut &[u8], version: u8) -> Result<Queue, SnapshotError> {
    let name = codec::name(buf)?;
    let group = GroupId(varint(buf)?);
    let settings = Settings::decode(buf)?;
    wire::check_counter(settings.version, "settings version")?;
    let replicas = read_nodes(buf, "replicas", PlaceQueue::VOTERS_MAX)?;
    let mut queue = Queue {
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
        preferred_leader: NodeId(varint(buf)?),
        created_at: Millis(varint(buf)?),
    };
    if version >= 3 {
        queue.moved = counter(buf, "moved")?;
    }
    if queue.moved > 0 {
        queue.observers = read_nodes(buf, "observers", PlaceQueue::OBSERVERS_MAX)?;
        queue.leaving = read_nodes(buf, "leaving nodes", NODES_MAX as usize)?;
        queue.is_moving = wire::flag(buf, "moving flag")?;
        if version >= 4 {
            queue.timeline = counter(buf, "timeline")?;
            queue.is_recovering = wire::flag(buf, "recovering flag")?;
            queue.forks = read_forks(buf, queue.timeline)?;
            queue.voters_wanted = wire::u8(buf)?;
        }
    }
    check_recovery(&queue)?;
    check_placement(&queue)?;
    Ok(queue)
}

fn read_forks(buf: &mut &[u8], timelines: u64) -> Result<Vec<Fork>, SnapshotError> {
    let count = item_count(buf, 2)?;
    if count > Queue::FORKS_MAX {
        let (length, limit) = (count as u64, Queue::FORKS_MAX as u64);
        return Err(DecodeError::TooLong { what: "forks", length, limit }.into());
    }
    let mut forks: Vec<Fork> = Vec::with_capacity(count);
    for _ in 0..count {
        let fork = Fork { timeline: varint(buf)?, from: varint(buf)? };
        ascending(forks.last().map(|fork| &fork.timeline), &fork.timeline, "fork")?;
        if !(1..=timelines).contains(&fork.timeline) {
            return Err(SnapshotError::Inconsistent("a timeline that began was made"));
        }
        forks.push(fork);
    }
    Ok(forks)
}

fn check_recovery(queue: &Queue) -> Result<(), SnapshotError> {
    let wanted = usize::from(queue.voters_wanted);
    let lacks = wanted > queue.replicas.len() && wanted <= PlaceQueue::VOTERS_MAX;
    match () {
        () if queue.is_recovering && (queue.replicas.len() != 1 || !queue.is_moving) => {
            Err(SnapshotError::Inconsistent("one replica recovers a queue, and moves it"))
        }
        () if (queue.is_recovering || wanted > 0) && queue.timeline == 0 => {
            Err(SnapshotError::Inconsistent("a queue that was recovered has a timeline"))
        }
        () if wanted > 0 && !lacks => {
            Err(SnapshotError::Inconsistent("voters are wanted where some are missing"))
        }
        () => Ok(()),
    }
}

fn check_placement(queue: &Queue) -> Result<(), SnapshotError> {
    let holders: Vec<NodeId> = queue.holders().collect();
    let distinct: BTreeSet<&NodeId> = holders.iter().collect();
    match () {
        () if !queue.replicas.contains(&queue.preferred_leader) => {
            Err(SnapshotError::Inconsistent("the preferred leader holds the queue"))
        }
        () if distinct.len() != holders.len() => {
            Err(SnapshotError::Inconsistent("a node has one part in a queue"))
        }
        () if !queue.leaving.is_empty() && !queue.is_moving => {
            Err(SnapshotError::Inconsistent("nodes leave a queue while it moves"))
        }
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Machine;

    fn queue(group: u64, version: u64) -> Queue {
        Queue {
            name: super::super::QueueName::parse("orders").unwrap(),
            group: GroupId(group),
            settings: Settings { version, ..Settings::default() },
            replicas: vec![NodeId(1)],
            observers: Vec::new(),
            leaving: Vec::new(),
            moved: 0,
            is_moving: false,
            timeline: 0,
            is_recovering: false,
            forks: Vec::new(),
            voters_wanted: 0,
            preferred_leader: NodeId(1),
            created_at: Millis(0),
        }
    }

    #[test]
    fn numbers_with_which_the_catalog_could_not_go_on_are_refused() {
        const MOST: u64 = (1 << 63) - 1;
        for (groups, version, restored) in
            [(MOST, MOST, true), (MOST + 1, 0, false), (1, MOST + 1, false)]
        {
            let mut catalog = Catalog { groups, ..Catalog::default() };
            catalog.insert(queue(1, version));
            assert_eq!(Catalog::restore(&catalog.snapshot()).is_ok(), restored, "{groups}");
        }
    }

    #[test]
    fn a_queue_that_is_there_twice_is_refused() {
        let mut catalog = Catalog { groups: 2, ..Catalog::default() };
        let mut out = state(&catalog);
        out.pop();
        put_varint(&mut out, 2);
        catalog.insert(queue(1, 0));
        let one = state(&catalog).split_off(out.len());
        let twice = wire::seal([out, one.clone(), one].concat());
        let why = "it is out of order";
        let error = DecodeError::Invalid { what: "queue", why };
        assert_eq!(read(&twice).unwrap_err(), SnapshotError::Decode(error));
    }
}
