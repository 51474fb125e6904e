//! The persisted form of the catalog's commands.
//!
//! ```text
//! command   = version u8 | kind u8 | fields            integers little-endian
//! 1 Bootstrap      cluster id u128
//! 2 RegisterNode   id u64 | incarnation u128 | address text | zone text | version u32 | replace u8
//! 3 CreateQueue    name text | settings | replicas u8 | candidates u16 | candidate u64 ...
//! 4 DeleteQueue    name text
//! 5 UpdateQueue    name text | settings
//! 6 Tick   7 LeaderChanged  node u64
//! 8 DrainNode      id u64 | draining u8
//! 9 PlaceQueue     group u64 | moved u64 | voters u8 | node u64 ... | observers u8 | node u64 ...
//! 10 QueuePlaced   group u64 | moved u64
//! 11 RemoveNode    id u64
//! 12 RetireNode    id u64
//! 13 RecoverQueue  group u64 | moved u64 | survivor u64 | timeline u64
//! 14 QueueTookOver group u64 | moved u64 | from u64
//! 15 CatalogRecovered
//! 16 SetTopic      name text | version u64 | routes u16 | route ...
//! 17 DeleteTopic   name text
//! 18 CreateSharded shards u16 | as CreateQueue
//! route            queue text | pattern text | headers u8 | (key text | value text) ...
//! text             length u32 | UTF-8
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::command::{Command, CreateQueue, PlaceQueue, RegisterNode};
use super::names::QueueName;
use super::sharded::CreateSharded;
use super::topics::Route;
use super::{GroupId, NODES_MAX};
use crate::NodeId;
use crate::queue::Settings;
use crate::wire::{self, DecodeError};

/// Version of the command encoding.
const VERSION: u8 = 1;

const BOOTSTRAP: u8 = 1;
const REGISTER_NODE: u8 = 2;
const CREATE_QUEUE: u8 = 3;
const DELETE_QUEUE: u8 = 4;
const UPDATE_QUEUE: u8 = 5;
const TICK: u8 = 6;
const LEADER_CHANGED: u8 = 7;
const DRAIN_NODE: u8 = 8;
const PLACE_QUEUE: u8 = 9;
const QUEUE_PLACED: u8 = 10;
const REMOVE_NODE: u8 = 11;
const RETIRE_NODE: u8 = 12;
const RECOVER_QUEUE: u8 = 13;
const QUEUE_TOOK_OVER: u8 = 14;
const CATALOG_RECOVERED: u8 = 15;
const SET_TOPIC: u8 = 16;
const DELETE_TOPIC: u8 = 17;
const CREATE_SHARDED: u8 = 18;

/// Appends a command.
pub(super) fn encode(command: &Command, out: &mut BytesMut) {
    out.put_u8(VERSION);
    match command {
        Command::Bootstrap { cluster_id } => {
            out.put_u8(BOOTSTRAP);
            out.put_u128_le(*cluster_id);
        }
        Command::RegisterNode(register) => encode_register(register, out),
        Command::CreateQueue(create) => {
            out.put_u8(CREATE_QUEUE);
            encode_create(create, out);
        }
        Command::CreateSharded(CreateSharded { shards, queue }) => {
            out.put_u8(CREATE_SHARDED);
            out.put_u16_le(*shards);
            encode_create(queue, out);
        }
        Command::DeleteQueue { name } => {
            out.put_u8(DELETE_QUEUE);
            wire::put_bytes(out, name.as_str().as_bytes());
        }
        Command::UpdateQueue { name, settings } => {
            out.put_u8(UPDATE_QUEUE);
            wire::put_bytes(out, name.as_str().as_bytes());
            settings.encode(out);
        }
        Command::Tick => out.put_u8(TICK),
        Command::LeaderChanged { node } => {
            out.put_u8(LEADER_CHANGED);
            out.put_u64_le(node.0);
        }
        Command::DrainNode { id, draining } => {
            out.put_u8(DRAIN_NODE);
            out.put_u64_le(id.0);
            out.put_u8(u8::from(*draining));
        }
        Command::PlaceQueue(place) => {
            out.put_u8(PLACE_QUEUE);
            out.put_u64_le(place.group.0);
            out.put_u64_le(place.moved);
            encode_nodes(&place.replicas, out);
            encode_nodes(&place.observers, out);
        }
        Command::QueuePlaced { group, moved } => {
            out.put_u8(QUEUE_PLACED);
            out.put_u64_le(group.0);
            out.put_u64_le(*moved);
        }
        Command::RemoveNode { id } => {
            out.put_u8(REMOVE_NODE);
            out.put_u64_le(id.0);
        }
        Command::RetireNode { id } => {
            out.put_u8(RETIRE_NODE);
            out.put_u64_le(id.0);
        }
        Command::RecoverQueue { group, moved, survivor, timeline } => {
            out.put_u8(RECOVER_QUEUE);
            out.put_u64_le(group.0);
            out.put_u64_le(*moved);
            out.put_u64_le(survivor.0);
            out.put_u64_le(*timeline);
        }
        Command::QueueTookOver { group, moved, from } => {
            out.put_u8(QUEUE_TOOK_OVER);
            out.put_u64_le(group.0);
            out.put_u64_le(*moved);
            out.put_u64_le(*from);
        }
        Command::CatalogRecovered => out.put_u8(CATALOG_RECOVERED),
        Command::SetTopic { name, version, routes } => {
            out.put_u8(SET_TOPIC);
            wire::put_bytes(out, name.as_str().as_bytes());
            out.put_u64_le(*version);
            out.put_u16_le(u16::try_from(routes.len()).expect("a topic has few routes"));
            routes.iter().for_each(|route| route.encode(out));
        }
        Command::DeleteTopic { name } => {
            out.put_u8(DELETE_TOPIC);
            wire::put_bytes(out, name.as_str().as_bytes());
        }
    }
}

fn encode_register(register: &RegisterNode, out: &mut BytesMut) {
    out.put_u8(REGISTER_NODE);
    out.put_u64_le(register.id.0);
    out.put_u128_le(register.incarnation);
    wire::put_bytes(out, register.address.as_bytes());
    wire::put_bytes(out, register.zone.as_bytes());
    out.put_u32_le(register.version);
    out.put_u8(u8::from(register.replace));
}

fn encode_create(create: &CreateQueue, out: &mut BytesMut) {
    wire::put_bytes(out, create.name.as_str().as_bytes());
    create.settings.encode(out);
    out.put_u8(create.replicas);
    let candidates = &create.candidates;
    out.put_u16_le(u16::try_from(candidates.len()).expect("a cluster has at most NODES_MAX nodes"));
    for candidate in candidates {
        out.put_u64_le(candidate.0);
    }
}

/// Reads a whole command.
pub(super) fn decode(buf: &mut Bytes) -> Result<Command, DecodeError> {
    wire::expect_version(buf, "catalog command", VERSION)?;
    let command = match wire::u8(buf)? {
        BOOTSTRAP => Command::Bootstrap { cluster_id: wire::u128(buf)? },
        REGISTER_NODE => Command::RegisterNode(decode_register(buf)?),
        CREATE_QUEUE => Command::CreateQueue(decode_create(buf)?),
        DELETE_QUEUE => Command::DeleteQueue { name: name(buf)? },
        UPDATE_QUEUE => Command::UpdateQueue { name: name(buf)?, settings: Settings::decode(buf)? },
        TICK => Command::Tick,
        LEADER_CHANGED => Command::LeaderChanged { node: NodeId(wire::u64(buf)?) },
        DRAIN_NODE => Command::DrainNode {
            id: NodeId(wire::u64(buf)?),
            draining: wire::flag(buf, "draining flag")?,
        },
        PLACE_QUEUE => Command::PlaceQueue(PlaceQueue {
            group: GroupId(wire::u64(buf)?),
            moved: wire::u64(buf)?,
            replicas: decode_nodes(buf, "voters", PlaceQueue::VOTERS_MAX)?,
            observers: decode_nodes(buf, "observers", PlaceQueue::OBSERVERS_MAX)?,
        }),
        QUEUE_PLACED => {
            Command::QueuePlaced { group: GroupId(wire::u64(buf)?), moved: wire::u64(buf)? }
        }
        REMOVE_NODE => Command::RemoveNode { id: NodeId(wire::u64(buf)?) },
        RETIRE_NODE => Command::RetireNode { id: NodeId(wire::u64(buf)?) },
        RECOVER_QUEUE => Command::RecoverQueue {
            group: GroupId(wire::u64(buf)?),
            moved: wire::u64(buf)?,
            survivor: NodeId(wire::u64(buf)?),
            timeline: wire::u64(buf)?,
        },
        QUEUE_TOOK_OVER => Command::QueueTookOver {
            group: GroupId(wire::u64(buf)?),
            moved: wire::u64(buf)?,
            from: wire::u64(buf)?,
        },
        CATALOG_RECOVERED => Command::CatalogRecovered,
        SET_TOPIC => {
            let (name, version, count) = (name(buf)?, wire::u64(buf)?, wire::u16(buf)?);
            let routes = (0..count).map(|_| Route::decode(buf)).collect::<Result<_, _>>()?;
            Command::SetTopic { name, version, routes }
        }
        DELETE_TOPIC => Command::DeleteTopic { name: name(buf)? },
        CREATE_SHARDED => Command::CreateSharded(CreateSharded {
            shards: wire::u16(buf)?,
            queue: decode_create(buf)?,
        }),
        kind => return Err(DecodeError::UnknownKind { what: "catalog command", kind }),
    };
    wire::expect_end(buf)?;
    Ok(command)
}

fn encode_nodes(nodes: &[NodeId], out: &mut BytesMut) {
    out.put_u8(u8::try_from(nodes.len()).expect("a queue has few replicas"));
    for node in nodes {
        out.put_u64_le(node.0);
    }
}

fn decode_nodes(
    buf: &mut impl Buf,
    what: &'static str,
    limit: usize,
) -> Result<Vec<NodeId>, DecodeError> {
    let count = wire::u8(buf)?;
    if usize::from(count) > limit {
        return Err(DecodeError::TooLong { what, length: count.into(), limit: limit as u64 });
    }
    (0..count).map(|_| wire::u64(buf).map(NodeId)).collect()
}

/// Reads the name of a queue.
pub(super) fn name(buf: &mut impl Buf) -> Result<QueueName, DecodeError> {
    let name = wire::string(buf, "queue name", QueueName::LENGTH_MAX)?;
    QueueName::parse(&name)
        .map_err(|_| DecodeError::Invalid { what: "queue name", why: "it breaks the name rules" })
}

fn decode_register(buf: &mut impl Buf) -> Result<RegisterNode, DecodeError> {
    Ok(RegisterNode {
        id: NodeId(wire::u64(buf)?),
        incarnation: wire::u128(buf)?,
        address: wire::string(buf, "address", RegisterNode::ADDRESS_BYTES_MAX)?,
        zone: wire::string(buf, "zone", RegisterNode::ZONE_BYTES_MAX)?,
        version: wire::u32(buf)?,
        replace: wire::flag(buf, "replace flag")?,
    })
}

fn decode_create(buf: &mut impl Buf) -> Result<CreateQueue, DecodeError> {
    let name = name(buf)?;
    let settings = Settings::decode(buf)?;
    let replicas = wire::u8(buf)?;
    let count = wire::u16(buf)?;
    if u32::from(count) > NODES_MAX {
        let (length, limit) = (count.into(), NODES_MAX.into());
        return Err(DecodeError::TooLong { what: "candidates", length, limit });
    }
    let candidates = (0..count).map(|_| wire::u64(buf).map(NodeId)).collect::<Result<_, _>>()?;
    Ok(CreateQueue { name, settings, replicas, candidates })
}
