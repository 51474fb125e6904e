//! Commands come back as they were written, and nothing else does any harm.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use quorate_machine::catalog::{self, Catalog, QueueName};
use quorate_machine::queue::{
    Again, Attach, Attachment, Command, Condition, Control, CreateSlot, MessageId, Offset,
    Producer, ProducerId, Properties, Publish, PublishMoved, Queue, Receive, Session, Settings,
    SettleItem, SettleKind, SlotName, SlotStart, Target, Token, body,
};
use quorate_machine::{Machine, Millis, NodeId};

fn settings() -> impl Strategy<Value = Settings> {
    let limit = || prop::option::of(1..u64::MAX);
    (limit(), limit(), any::<[u32; 4]>(), any::<[u64; 2]>()).prop_map(
        |(max_messages, max_bytes, words, longs)| Settings {
            max_messages,
            max_bytes,
            max_deliveries: words[0],
            lease_ms: words[1],
            session_grace_ms: words[2],
            dedup_window: words[3],
            dedup_age_ms: longs[0],
            min_in_sync: words[0] as u8,
            in_sync_lag_ms: words[1],
            retain_ms: max_messages,
            retain_bytes: max_bytes,
            single_active: words[2].is_multiple_of(2),
            ttl_ms: max_bytes,
            drop_head: words[1].is_multiple_of(2),
            priorities: words[0].is_multiple_of(2),
            retry_ms: words[2] / 3,
            retry_max_ms: words[3] / 5,
            dead_letter: words[3].is_multiple_of(2).then(|| QueueName::parse("dead").unwrap()),
            message_id_window: words[3],
            filter_header: words[0].is_multiple_of(3).then(|| "région".to_owned()),
            version: longs[1],
        },
    )
}

fn properties() -> impl Strategy<Value = Properties> {
    let time = || prop::option::of(any::<u64>().prop_map(Millis));
    let hashes = (any::<Option<u64>>(), any::<Option<u64>>());
    (any::<u32>(), time(), time(), any::<u8>(), hashes).prop_map(
        |(count, due, expires, priority, (group, tag))| Properties {
            count,
            due,
            expires,
            priority,
            group,
            tag,
        },
    )
}

fn publishes() -> impl Strategy<Value = Publish> {
    let producer = (prop::collection::vec(any::<u8>(), 1..=ProducerId::BYTES_MAX), any::<u32>())
        .prop_map(|(id, epoch)| Producer {
            id: ProducerId::new(id).unwrap(),
            epoch,
            sequence: u64::from(epoch) << 20,
        });
    let properties = prop::collection::vec(properties(), 0..4);
    let id = prop::option::of("[a-zé]{1,64}".prop_map(|id| MessageId::new(&id).unwrap()));
    let condition = (id, prop::option::of(any::<u64>().prop_map(Offset)));
    let named = (prop::option::of(producer), condition);
    (named, any::<u32>(), any::<u8>(), properties, any::<Vec<u8>>()).prop_map(
        |((producer, (message_id, expected_next)), count, layout, properties, frame)| Publish {
            producer,
            condition: Condition::of(message_id, expected_next),
            count,
            layout,
            properties,
            frame: frame.into(),
        },
    )
}

fn attaches() -> impl Strategy<Value = Attach> {
    let wishes = (any::<Option<u32>>(), prop::collection::vec(".{0,60}", 0..4));
    (any::<u128>(), any::<u64>(), ".{0,60}", any::<u32>(), wishes).prop_map(
        |(session, node, name, prefetch, (lease_ms, filter))| Attach {
            session: Session(session),
            node: NodeId(node),
            name,
            prefetch,
            lease_ms,
            tells_starts: prefetch % 2 == 1,
            filter,
        },
    )
}

fn items() -> impl Strategy<Value = SettleItem> {
    let kind = prop_oneof![
        Just(SettleKind::Ack),
        any::<u32>().prop_map(|delay_ms| SettleKind::Nack { delay_ms }),
        Just(SettleKind::Reject),
        any::<u32>().prop_map(|lease_ms| SettleKind::Extend { lease_ms }),
        Just(SettleKind::Return),
        Just(SettleKind::Start),
    ];
    (kind, any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(kind, token, first, count)| {
        SettleItem { kind, token: Token(token), first: Offset(first), count }
    })
}

fn commands() -> impl Strategy<Value = Command> {
    let session = || (any::<u128>(), any::<u64>()).prop_map(|(s, a)| (Session(s), Attachment(a)));
    prop_oneof![
        settings().prop_map(|settings| Command::Configure(Box::new(settings))),
        publishes().prop_map(Command::Publish),
        attaches().prop_map(Command::Attach),
        (attaches(), any::<u32>()).prop_map(|(attach, wait_ms)| {
            let Attach { session, node, name, prefetch: count, lease_ms, filter, .. } = attach;
            Command::Receive(Receive { session, node, name, count, lease_ms, wait_ms, filter })
        }),
        session().prop_map(|(session, attachment)| Command::Detach { session, attachment }),
        session().prop_map(|(session, attachment)| Command::Disconnect { session, attachment }),
        (any::<u128>(), prop::collection::vec(items(), 0..20))
            .prop_map(|(session, items)| Command::Settle { session: Session(session), items }),
        Just(Command::Tick),
        Just(Command::Purge),
        any::<u64>().prop_map(|before| Command::PurgeBefore { before: Offset(before) }),
        (any::<u64>(), prop::collection::vec((any::<u64>(), properties()), 0..9)).prop_map(
            |(to, again)| {
                let again = again.into_iter();
                let again = again.map(|(first, of)| Again { first: Offset(first), of });
                Command::Seek { to: Offset(to), again: again.collect() }
            }
        ),
        any::<u64>().prop_map(Queue::leader_changed),
        (slot_names(), any::<[u64; 3]>(), 0..3u8).prop_map(|(name, words, from)| {
            let from = match from {
                0 => SlotStart::First,
                1 => SlotStart::Next,
                _ => SlotStart::Offset(Offset(words[0])),
            };
            let [_, max_retained_bytes, max_idle_ms] = words;
            Command::CreateSlot(CreateSlot { name, from, max_retained_bytes, max_idle_ms })
        }),
        (slot_names(), any::<[u64; 2]>()).prop_map(|(name, [made_at, to])| {
            Command::AdvanceSlot { name, made_at, to: Offset(to) }
        }),
        slot_names().prop_map(|name| Command::DropSlot { name }),
        controls(),
        (any::<[u64; 3]>(), any::<u32>(), any::<u8>(), any::<Vec<u8>>()).prop_map(
            |([source, timeline, first], count, layout, frame)| {
                let frame = frame.into();
                let moved = PublishMoved { source, timeline, first, count, layout, frame };
                Command::PublishMoved(moved)
            }
        ),
        any::<u64>().prop_map(|to| Command::Moved { to }),
    ]
}

fn controls() -> impl Strategy<Value = Command> {
    let target = prop_oneof![
        any::<u128>().prop_map(|session| Target::Session(Session(session))),
        ".{0,60}".prop_map(Target::Named),
        Just(Target::Everyone),
    ];
    let what = prop_oneof![Just(Control::Pause), Just(Control::Resume), Just(Control::Kick)];
    (target, what).prop_map(|(target, what)| Command::ControlConsumer { target, what })
}

fn slot_names() -> impl Strategy<Value = SlotName> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,127}".prop_map(|name| SlotName::parse(&name).unwrap())
}

fn catalog_commands() -> impl Strategy<Value = catalog::Command> {
    use catalog::{
        Command, CreateQueue, CreateSharded, GroupId, Pattern, PlaceQueue, RegisterNode, Route,
    };
    let name = || {
        "[A-Za-z0-9][A-Za-z0-9._-]{0,121}(@[1-9][0-9]{0,3})?"
            .prop_map(|name| QueueName::parse(&name).unwrap())
    };
    let register = (any::<u64>(), any::<u128>(), ".{0,40}", ".{0,20}", any::<u32>(), any::<bool>());
    let create = || {
        let fields = (name(), settings(), any::<u8>(), prop::collection::vec(any::<u64>(), 0..9));
        fields.prop_map(|(name, settings, replicas, candidates)| {
            let candidates = candidates.into_iter().map(NodeId).collect();
            CreateQueue { name, settings, replicas, candidates }
        })
    };
    let headers = prop::collection::btree_map(".{0,20}", ".{0,20}", 0..4);
    let route = (name(), "[a-z]{1,9}[.][*]", headers).prop_map(|(queue, subject, headers)| Route {
        queue,
        subject: Pattern::parse(&subject).unwrap(),
        headers,
    });
    let nodes = |most: usize| prop::collection::vec(any::<u64>(), 0..=most);
    prop_oneof![
        any::<u128>().prop_map(|cluster_id| Command::Bootstrap { cluster_id }),
        register.prop_map(|(id, incarnation, address, zone, version, replace)| {
            let id = NodeId(id);
            Command::RegisterNode(RegisterNode { id, incarnation, address, zone, version, replace })
        }),
        create().prop_map(Command::CreateQueue),
        (create(), any::<u16>())
            .prop_map(|(queue, shards)| Command::CreateSharded(CreateSharded { queue, shards })),
        name().prop_map(|name| Command::DeleteQueue { name }),
        (any::<u64>(), any::<bool>())
            .prop_map(|(id, draining)| Command::DrainNode { id: NodeId(id), draining }),
        (any::<u64>(), any::<u64>(), nodes(5), nodes(16)).prop_map(
            |(group, moved, replicas, observers)| Command::PlaceQueue(PlaceQueue {
                group: GroupId(group),
                moved,
                replicas: replicas.into_iter().map(NodeId).collect(),
                observers: observers.into_iter().map(NodeId).collect(),
            })
        ),
        (any::<u64>(), any::<u64>())
            .prop_map(|(group, moved)| Command::QueuePlaced { group: GroupId(group), moved }),
        any::<u64>().prop_map(|id| Command::RemoveNode { id: NodeId(id) }),
        any::<u64>().prop_map(|id| Command::RetireNode { id: NodeId(id) }),
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(group, moved, survivor, timeline)| Command::RecoverQueue {
                group: GroupId(group),
                moved,
                survivor: NodeId(survivor),
                timeline,
            }
        ),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(group, moved, from)| {
            Command::QueueTookOver { group: GroupId(group), moved, from }
        }),
        Just(Command::CatalogRecovered),
        (name(), any::<u64>(), prop::collection::vec(route, 0..4))
            .prop_map(|(name, version, routes)| Command::SetTopic { name, version, routes }),
        name().prop_map(|name| Command::DeleteTopic { name }),
        (name(), settings()).prop_map(|(name, settings)| Command::UpdateQueue { name, settings }),
        Just(Command::Tick),
        any::<u64>().prop_map(Catalog::leader_changed),
    ]
}

fn encoded<M: Machine>(command: &M::Command) -> Bytes {
    let mut out = BytesMut::new();
    M::encode(command, &mut out);
    out.freeze()
}

proptest! {
    #[test]
    fn queue_commands_come_back(command in commands()) {
        let bytes = encoded::<Queue>(&command);
        prop_assert_eq!(Queue::decode(&mut bytes.clone()).unwrap(), command);
        for cut in 0..bytes.len() {
            prop_assert!(Queue::decode(&mut bytes.slice(..cut)).is_err());
        }
    }

    #[test]
    fn catalog_commands_come_back(command in catalog_commands()) {
        let bytes = encoded::<Catalog>(&command);
        prop_assert_eq!(Catalog::decode(&mut bytes.clone()).unwrap(), command);
        for cut in 0..bytes.len() {
            prop_assert!(Catalog::decode(&mut bytes.slice(..cut)).is_err());
        }
    }

    #[test]
    fn changed_commands_never_panic(
        command in commands(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut bytes = encoded::<Queue>(&command).to_vec();
        *at.get_mut(&mut bytes) = byte;
        let _ = Queue::decode(&mut bytes.into());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, kind in 0..22u8) {
        let command = [&[1, kind], bytes.as_slice()].concat();
        let _ = Queue::decode(&mut command.clone().into());
        let _ = Catalog::decode(&mut command.into());
        let _ = Catalog::restore(&bytes);
        let _ = body(&bytes.into(), 0, 0, 3);
    }
}

#[test]
fn settings_of_version_1_are_those_of_today_with_the_defaults_of_what_came_since() {
    let settings = Settings { lease_ms: 7, version: 3, ..Settings::default() };
    let old = encoded::<Queue>(&Command::Configure(Box::new(settings.clone())));
    assert_eq!(old[2], 1, "what says nothing new is written as before");
    let read = Queue::decode(&mut old.clone()).unwrap();
    assert_eq!(read, Command::Configure(Box::new(settings.clone())));
    let new =
        encoded::<Queue>(&Command::Configure(Box::new(Settings { min_in_sync: 1, ..settings })));
    assert_eq!((new[2], new.len() - old.len()), (2, 1 + 4 + 8 + 8));
}

#[test]
fn a_publish_without_id_and_condition_has_its_older_form_only() {
    let plain = Publish::plain(1, Bytes::from_static(&[2, 0, 0, 0, 0, 0]));
    let condition = Condition::of(Some(MessageId::new("a").unwrap()), None);
    let named = Publish { condition, ..plain.clone() };
    assert_eq!(encoded::<Queue>(&Command::Publish(plain))[..2], [1, 2]);
    let mut bytes = encoded::<Queue>(&Command::Publish(named)).to_vec();
    assert_eq!(bytes[..9], [1, 14, 0, 1, 1, 0, 0, 0, b'a']);
    // The same without the id.
    bytes.splice(3..9, [0]);
    assert!(Queue::decode(&mut bytes.into()).is_err());
}

#[test]
fn a_decoded_frame_shares_the_memory_of_its_entry() {
    let frame = Bytes::from_static(b"some messages");
    let bytes = encoded::<Queue>(&Command::Publish(Publish::plain(1, frame)));
    let Command::Publish(decoded) = Queue::decode(&mut bytes.clone()).unwrap() else {
        panic!("it was a publish");
    };
    assert!(bytes.as_ptr_range().contains(&decoded.frame.as_ptr()));
}

#[test]
fn an_ack_or_reject_with_an_argument_is_refused() {
    for kind in [SettleKind::Ack, SettleKind::Reject] {
        let item = SettleItem { kind, token: Token(1), first: Offset(2), count: 3 };
        let mut bytes =
            encoded::<Queue>(&Command::Settle { session: Session(7), items: vec![item] }).to_vec();
        // Version, kind, session, count, kind of the item.
        bytes[2 + 16 + 4 + 1] = 1;
        assert!(Queue::decode(&mut bytes.into()).is_err(), "{kind:?}");
    }
}

#[test]
fn a_slot_that_begins_at_an_end_names_no_offset() {
    let name = SlotName::parse("s").unwrap();
    let from = SlotStart::Next;
    let create = CreateSlot { name, from, max_retained_bytes: 1, max_idle_ms: 2 };
    let mut bytes = encoded::<Queue>(&Command::CreateSlot(create)).to_vec();
    // Version, kind, name, kind of the start.
    bytes[2 + 4 + 1 + 1] = 1;
    assert!(Queue::decode(&mut bytes.into()).is_err());
}
