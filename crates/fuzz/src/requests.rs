//! What comes over the network: protobuf messages of clients and of other nodes. The first byte of
//! the input chooses the message.
//!
//! What is decoded is encoded and decoded again to the same. What the node makes of a request can
//! be proposed: a command that no replica can read back would stop all of them.

use std::fmt::Debug;

use bytes::Bytes;
use prost::Message;
use quorate_broker::fuzz as broker;
use quorate_group::fuzz as group;
use quorate_machine::catalog::{self, Catalog};
use quorate_machine::queue::{
    Command, Offset, Producer, ProducerId, Publish, Queue, Session, SettleItem,
};
use quorate_machine::{Machine, frame};
use quorate_proto::{frame as proto, internal as pb, v1};

use crate::commands::encode;
use crate::frames;
use crate::raft_codec;

pub fn check(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 18 {
        0 => read(data, publish),
        1 => read(data, publish_stream),
        2 => read(data, consume),
        3 => read(data, create),
        4 => read(data, join),
        5 => read(data, |request: v1::DescribeQueueRequest| drop(broker::name(&request.name))),
        6 => read(data, |request: v1::ListQueuesRequest| drop(broker::name(&request.page_token))),
        7 => read(data, |request: v1::PurgeQueueRequest| drop(broker::name(&request.name))),
        8 => read(data, |request: v1::DeleteQueueRequest| drop(broker::name(&request.name))),
        9 => read(data, |request: v1::LocateQueueRequest| drop(broker::name(&request.queue))),
        10 => read(data, |_: v1::GetStatusRequest| ()),
        11 => read(data, |_: v1::PublishStreamResponse| ()),
        12 => read(data, delivery),
        13 => read(data, create_slot),
        14 => read(data, advance_slot),
        15 => read(data, |request: v1::ReadRequest| drop(broker::read(&request))),
        16 => read(data, control),
        _ => read(data, update),
    }
}

pub fn check_peer(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 5 {
        0 => read(data, |envelope: pb::Envelope| {
            envelope.rpcs.iter().filter_map(|rpc| rpc.body.as_ref()).for_each(group::message);
        }),
        1 => read(data, |part: pb::SnapshotChunk| {
            part.chunk.iter().for_each(group::snapshot_chunk);
        }),
        2 => read(data, |_: pb::SnapshotAnswer| ()),
        3 => read(data, |_: pb::IdentifyResponse| ()),
        _ => read(data, |_: pb::WelcomeRequest| ()),
    }
}

fn read<M: Message + Default + Debug + PartialEq>(data: &[u8], and: impl FnOnce(M)) {
    if let Ok(message) = M::decode(Bytes::copy_from_slice(data)) {
        let again = M::decode(message.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&message));
        and(message);
    }
}

fn proposable<M: Machine<Command: Debug + PartialEq>>(command: M::Command) {
    assert_eq!(M::decode(&mut encode::<M>(&command)), Ok(command));
}

fn publish(request: v1::PublishRequest) {
    let sequence = request.sequence;
    let plain = request.frame.is_none();
    let Some(broker::Publish { producer, frame, properties, condition }) = broker::publish(request)
    else {
        return;
    };
    if plain {
        assert!(proto::messages(&frame).is_ok(), "the node's own frame");
    }
    propose_frame(producer, sequence, frame, &properties, condition);
}

fn publish_stream(request: v1::PublishStreamRequest) {
    use v1::publish_stream_request::Request;
    match request.request {
        Some(Request::Open(open)) => drop(broker::producer(open.producer)),
        Some(Request::Batch(batch)) => {
            let frame = batch.frame.unwrap_or_default();
            let condition = broker::condition(&batch.message_id, batch.expected_next_offset);
            let Some(condition) = condition else { return };
            propose_frame(None, batch.sequence, frame, &batch.properties, condition);
        }
        None => {}
    }
}

fn propose_frame(
    producer: Option<(ProducerId, u32)>,
    sequence: u64,
    frame: v1::Frame,
    properties: &[v1::Properties],
    condition: broker::Condition,
) {
    let max = proto::MAX_MESSAGE_BYTES as u32;
    let good =
        frame.layout == proto::LAYOUT && frame::validate(&frame.messages, frame.count, max).is_ok();
    assert_eq!(good, proto::messages(&frame).is_ok(), "the node and the SDK judge alike");
    if good {
        const NOW_MS: u64 = 1_700_000_000_000;
        let Some(properties) = broker::properties(properties, frame.count, NOW_MS) else { return };
        let all: u64 = properties.iter().map(|of| u64::from(of.count)).sum();
        assert!(properties.is_empty() || all == u64::from(frame.count), "each message has some");
        let producer = producer.map(|(id, epoch)| Producer { id, epoch, sequence });
        let plain = Publish::plain(frame.count, frame.messages);
        let publish = Publish { producer, condition, properties, ..plain };
        proposable::<Queue>(Command::Publish(publish));
    }
}

fn consume(request: v1::ConsumeRequest) {
    use v1::consume_request::Request;
    match request.request {
        Some(Request::Attach(attach)) => {
            broker::attach(&attach).into_iter().for_each(|attach| {
                proposable::<Queue>(Command::Attach(attach));
            });
        }
        Some(Request::Settle(settle)) if settle.items.len() <= SettleItem::ITEMS_MAX => {
            let items: Option<Vec<_>> = settle.items.iter().map(broker::settle).collect();
            items.into_iter().for_each(|items| {
                proposable::<Queue>(Command::Settle { session: Session(1), items });
            });
        }
        _ => {}
    }
}

fn update(request: v1::UpdateQueueRequest) {
    if let Some((name, settings)) = broker::update(&request) {
        proposable::<Catalog>(catalog::Command::UpdateQueue { name, settings });
    }
}

fn create(request: v1::CreateQueueRequest) {
    if let Some(create) = broker::create(&request) {
        proposable::<Catalog>(catalog::Command::CreateQueue(create));
    }
}

fn join(request: v1::JoinClusterRequest) {
    if let Some(register) = broker::join(request) {
        proposable::<Catalog>(catalog::Command::RegisterNode(register));
    }
}

fn control(request: v1::ControlConsumerRequest) {
    if let Some((target, what)) = broker::control(&request) {
        proposable::<Queue>(Command::ControlConsumer { target, what });
    }
}

fn create_slot(request: v1::CreateSlotRequest) {
    if let Some(create) = broker::create_slot(&request) {
        proposable::<Queue>(Command::CreateSlot(create));
    }
}

fn advance_slot(request: v1::AdvanceSlotRequest) {
    if let Some(name) = broker::slot_name(&request.slot) {
        let to = Offset(request.offset);
        proposable::<Queue>(Command::AdvanceSlot {
            name: name.clone(),
            made_at: request.made_at,
            to,
        });
        proposable::<Queue>(Command::DropSlot { name });
    }
}

/// What the SDK reads.
fn delivery(response: v1::ConsumeResponse) {
    use v1::consume_response::Response;
    if let Some(Response::Delivery(v1::Delivery { frame: Some(frame), .. })) = response.response
        && let Ok(messages) = proto::messages(&frame)
    {
        assert_eq!(messages.count(), frame.count as usize);
    }
}

fn seed(choice: u8, message: &impl Message) -> Vec<u8> {
    [&[choice], message.encode_to_vec().as_slice()].concat()
}

pub fn seeds() -> Vec<Vec<u8>> {
    use v1::{consume_request, consume_response, publish_stream_request};
    let queue = || "orders".to_owned();
    let frame = || frames::frames().into_iter().nth(2);
    let producer = || Some(v1::Producer { id: "producer".to_owned(), epoch: 3 });
    let header = v1::Header { key: "key".to_owned(), value: b"value".as_slice().into() };
    let message = v1::Message {
        body: b"body".as_slice().into(),
        headers: vec![header],
        delay_ms: 60_000,
        ttl_ms: 500,
        priority: 9,
        group_key: "order 7".to_owned(),
        ..<_>::default()
    };
    let plain = v1::PublishRequest {
        queue: queue(),
        messages: vec![message.clone(), message],
        producer: producer(),
        sequence: 7,
        ..Default::default()
    };
    let named = v1::PublishRequest {
        message_id: "order-7".to_owned(),
        expected_next_offset: Some(0),
        ..plain.clone()
    };
    let framed = v1::PublishRequest { messages: Vec::new(), frame: frame(), ..plain.clone() };
    let open = v1::PublishOpen { queue: queue(), producer: producer(), ..<_>::default() };
    let count = frame().map_or(0, |frame| frame.count);
    let properties = vec![v1::Properties {
        count,
        delay_ms: 70,
        ttl_ms: 1,
        priority: 2,
        group_key: "key".to_owned(),
        ..<_>::default()
    }];
    let batch =
        v1::PublishBatch { id: 1, frame: frame(), sequence: 9, properties, ..<_>::default() };
    let streamed = |request| v1::PublishStreamRequest { request: Some(request) };
    let attach = v1::Attach {
        queue: queue(),
        name: "consumer".to_owned(),
        session: b"sixteen bytes of".as_slice().into(),
        prefetch: 100,
        lease_ms: 5_000,
        max_lag_ms: 700,
        tells_starts: true,
        filter: vec!["eu".to_owned()],
    };
    let item = |kind: v1::SettleKind, delay_ms| v1::SettleItem {
        kind: kind.into(),
        token: 4,
        first_offset: 10,
        count: 3,
        delay_ms,
    };
    let kinds = [
        v1::SettleKind::Ack,
        v1::SettleKind::Nack,
        v1::SettleKind::Extend,
        v1::SettleKind::Return,
        v1::SettleKind::Start,
    ];
    let settle = v1::Settle { id: 1, items: kinds.map(|kind| item(kind, 500)).to_vec() };
    let consume = |request| v1::ConsumeRequest { request: Some(request) };
    let settings = v1::QueueSettings {
        replicas: 3,
        max_messages: 1_000,
        lease_ms: 5_000,
        ttl_ms: 60_000,
        overflow: v1::Overflow::DropHead.into(),
        priorities: true,
        retry_ms: 1_000,
        retry_max_ms: 60_000,
        dead_letter: "dead".to_owned(),
        ..Default::default()
    };
    let create = v1::CreateQueueRequest { name: queue(), settings: Some(settings.clone()) };
    let fields = vec!["max_messages".to_owned(), "message_id_window".to_owned()];
    let update =
        v1::UpdateQueueRequest { name: queue(), settings: Some(settings), fields, dry_run: true };
    let (address, zone) = ("10.0.0.4:7100".to_owned(), "a".to_owned());
    let join = v1::JoinClusterRequest { address, zone, incarnation: 77, commands_version: 2 };
    let delivery = v1::Delivery { token: 4, first_offset: 1, attempt: 1, frame: frame() };
    let delivery = consume_response::Response::Delivery(delivery);
    let slot = "archive".to_owned();
    let make = v1::CreateSlotRequest {
        queue: queue(),
        slot: slot.clone(),
        from: Some(v1::create_slot_request::From::Offset(7)),
        max_retained_bytes: 1 << 30,
        max_idle_ms: 60_000,
    };
    vec![
        seed(0, &plain),
        seed(0, &framed),
        seed(0, &named),
        seed(1, &streamed(publish_stream_request::Request::Open(open))),
        seed(1, &streamed(publish_stream_request::Request::Batch(batch))),
        seed(2, &consume(consume_request::Request::Attach(attach))),
        seed(2, &consume(consume_request::Request::Settle(settle))),
        seed(3, &create),
        seed(4, &join),
        seed(8, &v1::DeleteQueueRequest { name: queue(), if_empty: true }),
        seed(12, &v1::ConsumeResponse { response: Some(delivery) }),
        seed(13, &make),
        seed(
            14,
            &v1::AdvanceSlotRequest {
                queue: queue(),
                slot: slot.clone(),
                offset: 9,
                group_id: 1,
                made_at: 7,
            },
        ),
        seed(17, &update),
        seed(15, &v1::ReadRequest { queue: queue(), slot, follow: true, ..Default::default() }),
        seed(
            16,
            &v1::ControlConsumerRequest {
                queue: queue(),
                target: Some(v1::control_consumer_request::Target::Name("consumer".to_owned())),
                what: v1::ConsumerControl::Kick.into(),
            },
        ),
    ]
}

pub fn peer_seeds() -> Vec<Vec<u8>> {
    use pb::rpc::Body;
    let vote = || Some(pb::Vote { term: 7, node_id: 1, committed: true });
    let id = |index| Some(pb::LogId { term: 7, index });
    let members = raft_codec::membership(&[&[1, 2, 3]], &[1, 2, 3]);
    let entry = |index, payload: &[u8]| pb::Entry {
        id: id(index),
        payload: Bytes::copy_from_slice(payload),
    };
    let entries = vec![
        entry(9, b""),
        entry(10, &[[0xff].as_slice(), &members].concat()),
        entry(11, &[1, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let append = pb::AppendRequest { vote: vote(), prev: id(8), committed: id(8), entries };
    let ask = pb::VoteRequest { vote: vote(), last: id(9), leadership_transfer: false };
    let answer = |kind: pb::append_response::Kind| {
        let answer = pb::AppendResponse { kind: kind.into(), matched: id(9), vote: vote() };
        Body::Appended(answer)
    };
    let bodies = vec![
        Body::Vote(ask),
        Body::PreVote(ask),
        Body::Voted(pb::VoteResponse { vote: vote(), granted: true, last: id(9) }),
        Body::Append(append.clone()),
        Body::StreamAppend(append.clone()),
        answer(pb::append_response::Kind::Success),
        answer(pb::append_response::Kind::Conflict),
        answer(pb::append_response::Kind::HigherVote),
        Body::Transfer(pb::TransferRequest { from: vote(), to: 2, last: id(9) }),
        Body::Failed("no replica of group 3 here".to_owned()),
    ];
    let rpc = |body| pb::Rpc { group: 3, id: 5, body: Some(body) };
    let hello = pb::Hello {
        cluster_id: "c".repeat(32),
        node_id: 1,
        incarnation: 8,
        version: 1,
        ..pb::Hello::default()
    };
    let all = pb::Envelope {
        hello: Some(hello.clone()),
        rpcs: bodies.iter().cloned().map(rpc).collect(),
    };
    let mut seeds = vec![seed(0, &all)];
    for body in bodies {
        seeds.push(seed(0, &pb::Envelope { hello: None, rpcs: vec![rpc(body)] }));
    }
    let head = pb::SnapshotHead {
        hello: Some(hello),
        group: 3,
        vote: vote(),
        last: id(9),
        membership: [raft_codec::id(7, 9), members].concat().into(),
        state: b"state".as_slice().into(),
    };
    let part = |chunk| pb::SnapshotChunk { chunk: Some(chunk) };
    seeds.push(seed(1, &part(pb::snapshot_chunk::Chunk::Head(head))));
    seeds.push(seed(1, &part(pb::snapshot_chunk::Chunk::State(b"more".as_slice().into()))));
    let bodies = pb::Bodies { entries: append.entries };
    seeds.push(seed(1, &part(pb::snapshot_chunk::Chunk::Bodies(bodies))));
    seeds.push(seed(2, &pb::SnapshotAnswer { vote: vote() }));
    seeds
}
