//! The catalog as bytes: what a checkpoint keeps, and what the state hash is of.
//!
//! ```text
//! snapshot = version u8 | cluster id? u128 | now | groups | node* | queue* | checksum u64
//! x*       = count | x ...           integers are varints, but ids of 128 bits
//! node     = id | incarnation u128 | address | zone | version | draining u8
//! queue    = name | group | settings | replica* | preferred leader | created at
//! ```

use bytes::BufMut;

use super::command::{Node, Queue, RegisterNode};
use super::{Catalog, GroupId, codec};
use crate::digest::digest;
use crate::queue::Settings;
use crate::wire::{
    self, DecodeError, SnapshotError, ascending, counter, item_count, put_varint, varint, varint32,
};
use crate::{Millis, NodeId};

/// Version of the snapshot layout. In version 1 no node is draining; it is written while none is.
const VERSION: u8 = 2;

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
    if version >= 2 && !catalog.nodes.values().any(|node| node.draining) {
        return Err(SnapshotError::Inconsistent("the newer form says something new"));
    }
    for _ in 0..item_count(&mut rest, 58)? {
        let queue = read_queue(&mut rest)?;
        ascending(catalog.queues.last_key_value().map(|(last, _)| last), &queue.name, "queue")?;
        if queue.group.0 == 0 || queue.group.0 > catalog.groups {
            return Err(SnapshotError::Inconsistent("a group was given before it is used"));
        }
        catalog.insert(queue);
    }
    wire::expect_end(&rest)?;
    if catalog.queues.len() != catalog.by_group.len() {
        return Err(SnapshotError::Inconsistent("every queue has a group of its own"));
    }
    Ok(catalog)
}

fn state(catalog: &Catalog) -> Vec<u8> {
    let is_old = !catalog.nodes.values().any(|node| node.draining);
    let mut out = vec![if is_old { 1 } else { VERSION }];
    wire::put_option(&mut out, catalog.cluster_id, |out, id| out.put_u128_le(id));
    put_varint(&mut out, catalog.now.0);
    put_varint(&mut out, catalog.groups);
    put_varint(&mut out, catalog.nodes.len() as u64);
    for node in catalog.nodes.values() {
        write_node(&mut out, node, is_old);
    }
    put_varint(&mut out, catalog.queues.len() as u64);
    for queue in catalog.queues.values() {
        write_queue(&mut out, queue);
    }
    out
}

fn write_node(out: &mut Vec<u8>, node: &Node, is_old: bool) {
    put_varint(out, node.id.0);
    out.put_u128_le(node.incarnation);
    wire::put_bytes(out, node.address.as_bytes());
    wire::put_bytes(out, node.zone.as_bytes());
    put_varint(out, node.version.into());
    if !is_old {
        out.put_u8(u8::from(node.draining));
    }
}

fn read_node(buf: &mut &[u8], version: u8) -> Result<Node, DecodeError> {
    Ok(Node {
        id: NodeId(varint(buf)?),
        incarnation: wire::u128(buf)?,
        address: wire::string(buf, "address", RegisterNode::ADDRESS_BYTES_MAX)?,
        zone: wire::string(buf, "zone", RegisterNode::ZONE_BYTES_MAX)?,
        version: varint32(buf)?,
        draining: version >= 2 && wire::flag(buf, "draining flag")?,
    })
}

fn write_queue(out: &mut Vec<u8>, queue: &Queue) {
    wire::put_bytes(out, queue.name.as_str().as_bytes());
    put_varint(out, queue.group.0);
    queue.settings.encode(out);
    put_varint(out, queue.replicas.len() as u64);
    for node in &queue.replicas {
        put_varint(out, node.0);
    }
    put_varint(out, queue.preferred_leader.0);
    put_varint(out, queue.created_at.0);
}

fn read_queue(buf: &mut &[u8]) -> Result<Queue, DecodeError> {
    let name = codec::name(buf)?;
    let group = GroupId(varint(buf)?);
    let settings = Settings::decode(buf)?;
    wire::check_counter(settings.version, "settings version")?;
    let replicas =
        (0..item_count(buf, 1)?).map(|_| varint(buf).map(NodeId)).collect::<Result<Vec<_>, _>>()?;
    Ok(Queue {
        name,
        group,
        settings,
        replicas,
        preferred_leader: NodeId(varint(buf)?),
        created_at: Millis(varint(buf)?),
    })
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
