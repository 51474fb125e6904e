//! Slots: they keep what a working queue would forget, for as long as they may, and say so when they could not.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use quorate_client::{
    Client, Error, Message, Producer, QueueSettings, ReadError, Reader, SlotDescription,
    SlotSettings, SlotStart, SlotState, reason,
};
use quorate_proto::v1;
use quorate_proto::v1::admin_service_client::AdminServiceClient;
use quorate_tests::process::run;
use quorate_tests::{Cluster, Plan, raw, turn};

use crate::beside::{figure, get};
use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";
const SLOT: &str = "archive";
const MIB: u64 = 1 << 20;

async fn publish(producer: &Producer, from: u64, to: u64) {
    let mut sent = Vec::new();
    for n in from..to {
        sent.push(producer.send(Message::new(n.to_string())).await.expect("send"));
    }
    for pending in sent {
        pending.await.expect("confirmed");
    }
}

/// Publishes in steps, since what enters together goes together, and settles all.
async fn publish_and_settle(client: &Client, producer: &Producer, from: u64, to: u64) {
    for first in (from..to).step_by(10) {
        publish(producer, first, to.min(first + 10)).await;
    }
    let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
    for _ in from..to {
        consumer.next().await.expect("goes on").expect("a delivery").ack().await.expect("acked");
    }
    consumer.close().await;
}

async fn slot(client: &Client) -> SlotDescription {
    let slots = client.list_slots(QUEUE).await.expect("list");
    slots.into_iter().find(|slot| slot.slot == SLOT).expect("the slot is there")
}

/// The next messages, which must be those from `from` on.
async fn read(reader: &mut Reader, from: u64, to: u64) {
    for offset in from..to {
        let message = reader.next().await.expect("goes on").expect("a message");
        assert_eq!(message.offset, offset, "no gap and no repetition");
        assert_eq!(message.body, offset.to_string());
    }
}

#[test]
fn a_slot_keeps_what_a_working_queue_forgets_and_its_reader_gets_every_message_whoever_dies() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let created = client.create_slot(QUEUE, SLOT, SlotSettings::default()).await;
        assert!(created.expect("created").created);
        publish_and_settle(&client, &producer, 0, 200).await;
        let kept = slot(&client).await;
        assert_eq!((kept.position, kept.state()), (0, SlotState::Extended), "{kept:?}");
        assert_eq!((kept.lag_messages, kept.max_retained_bytes), (200, 1 << 30));
        assert!(kept.retained_bytes > 0);

        let mut reader = client.reader(QUEUE).slot(SLOT).follow().build();
        read(&mut reader, 0, 100).await;
        reader.confirm(99).expect("taken");
        reader.confirm(100).expect_err("it has not been shown");
        let mut next = 100;
        for _ in 0..2 {
            let leader = cluster.leader_of(QUEUE).await;
            cluster.kill9(leader);
            publish_and_settle(&client, &producer, next + 100, next + 150).await;
            read(&mut reader, next, next + 50).await;
            reader.confirm(next + 49).expect("taken");
            reader.flush().await.expect("moved");
            next += 50;
            assert_eq!(slot(&client).await.position, next);
            cluster.start_node(leader);
            cluster.ready().await;
        }
        // Read and not confirmed: shown again.
        read(&mut reader, 200, 250).await;
        reader.confirm(219).expect("taken");
        reader.close().await.expect("moved");
        producer.close().await;

        for node in cluster.ids() {
            cluster.kill9(node);
        }
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        cluster.ready().await;
        let client = cluster.client().await;
        let mut reader = client.reader(QUEUE).slot(SLOT).build();
        read(&mut reader, 220, 300).await;
        assert!(reader.next().await.is_none(), "it ends with the queue");
        reader.confirm(299).expect("taken");
        // Dropping it moves the slot too.
        drop(reader);
        let begun = Instant::now();
        while slot(&client).await.position < 300 {
            assert!(begun.elapsed() < SOON, "the slot is not moved");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let done = slot(&client).await;
        assert_eq!((done.retained_bytes, done.state()), (0, SlotState::Reserved));
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert_eq!((counts.retained, counts.first_readable_offset), (0, 300), "nothing is left");
    });
}

#[test]
fn a_slot_that_lags_pins_disk_up_to_its_bound_and_is_then_lost_and_says_so() {
    const BOUND: u64 = 32 * MIB;
    const SEGMENT: u64 = 8 * MIB;
    const BODY: usize = 64 << 10;
    turn::alone(HEAVY, async {
        let plan = Plan::of(1).set(&format!("storage.segment_bytes={SEGMENT}"));
        let cluster = plan.start().await;
        let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
        let address = cluster.address(1);
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        let live = async || {
            let (_, metrics) = get(&address, "/metrics").await;
            (figure(&metrics, "quorate_log_live_bytes") as u64, metrics)
        };
        let mut churn = async |bytes: u64| {
            let mut sent = Vec::new();
            for _ in 0..bytes / BODY as u64 {
                sent.push(producer.send(Message::new(vec![7; BODY])).await.expect("send"));
            }
            for pending in sent {
                pending.await.expect("confirmed");
                let delivery = consumer.next().await.expect("goes on").expect("a delivery");
                delivery.ack().await.expect("acked");
            }
        };
        // What the log needs without a slot: for checkpoints, and for replicas that are behind.
        let mut usual = 0;
        for _ in 0..20 {
            churn(4 * MIB).await;
            usual = usual.max(live().await.0);
        }
        let settings =
            SlotSettings { from: SlotStart::Next, max_retained_bytes: BOUND, max_idle: None };
        let created = client.create_slot(QUEUE, SLOT, settings).await.expect("created");
        let (mut most, mut most_kept) = (0, 0);
        let begun = Instant::now();
        let lost = loop {
            churn(4 * MIB).await;
            let at = slot(&client).await;
            if at.state() == SlotState::Lost {
                break at;
            }
            assert_eq!(at.state(), SlotState::Extended, "{at:?}");
            assert!(at.retained_bytes <= BOUND, "{at:?}");
            let (live, metrics) = live().await;
            assert_eq!(figure(&metrics, "quorate_slots_retained_bytes") as u64, at.retained_bytes);
            (most, most_kept) = (most.max(live), most_kept.max(at.retained_bytes));
            assert!(begun.elapsed() < SOON, "{at:?} is never lost");
        };
        println!(
            "usual {} MiB; the slot kept {} MiB of {}; the log needed {} MiB",
            usual / MIB,
            most_kept / MIB,
            BOUND / MIB,
            most / MIB
        );
        assert!(most_kept + 5 * MIB > BOUND, "it kept what it may: {most_kept}");
        assert!(most >= most_kept, "what it keeps is in the log: {most}");
        assert!(most <= usual + BOUND + SEGMENT, "{most} of {usual} + {BOUND} + {SEGMENT}");
        assert_eq!(lost.lost_from, Some(created.slot.position), "{lost:?}");
        assert_eq!(lost.retained_bytes, 0);

        // It says so to who reads, moves, and looks.
        let mut reader = client.reader(QUEUE).slot(SLOT).build();
        let Some(Err(ReadError::Refused(refusal))) = reader.next().await else {
            panic!("a lost slot is read");
        };
        assert_eq!(refusal.reason, reason::SLOT_LOST);
        assert_eq!(refusal.metadata["lost_from"], created.slot.position.to_string());
        let moved = client.advance_slot(QUEUE, SLOT, created.slot.position + 1).await;
        assert_eq!(moved.expect_err("lost").reason(), Some(reason::SLOT_LOST));
        let (_, metrics) = live().await;
        assert!(metrics.contains("quorate_slots{state=\"lost\"} 1.0"), "{metrics}");
        // And the disk is given back.
        let begun = Instant::now();
        while live().await.0 > usual + SEGMENT {
            churn(MIB).await;
            assert!(begun.elapsed() < SOON, "{} bytes are still live", live().await.0);
        }
        client.drop_slot(QUEUE, SLOT).await.expect("dropped");
        let again = SlotSettings { max_retained_bytes: BOUND, ..SlotSettings::default() };
        let again = client.create_slot(QUEUE, SLOT, again).await.expect("created anew");
        assert!(again.created && again.slot.state() == SlotState::Reserved, "{again:?}");
    });
}

#[test]
fn a_purge_takes_from_a_slot_what_it_needs_and_one_reader_at_a_time_uses_it() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        publish_and_settle(&client, &producer, 0, 30).await;
        client.create_slot(QUEUE, SLOT, SlotSettings::default()).await.expect("created");
        assert_eq!(slot(&client).await.position, 30, "what was forgotten before is not promised");
        publish_and_settle(&client, &producer, 30, 60).await;
        let mut reader = client.reader(QUEUE).slot(SLOT).build();
        read(&mut reader, 30, 40).await;
        // Somebody else goes further.
        let others: Vec<_> =
            client.reader(QUEUE).slot(SLOT).build().try_collect().await.expect("read");
        assert_eq!(others.len(), 30);
        client.advance_slot(QUEUE, SLOT, 50).await.expect("moved");
        reader.confirm(39).expect("taken");
        let moved = reader.flush().await.expect_err("it is beyond");
        assert_eq!(moved.reason(), Some(reason::SLOT_MOVED), "{moved}");
        assert!(matches!(reader.confirm(39), Err(Error::Refused(_))), "it stays so");
        let mut behind = client.reader(QUEUE).slot(SLOT).from_offset(45).build();
        let refused = behind.next().await.expect("an answer").expect_err("it is beyond");
        assert_eq!(refused.reason(), Some(reason::SLOT_MOVED));

        client.purge_queue(QUEUE).await.expect("purged");
        let lost = slot(&client).await;
        assert_eq!((lost.state(), lost.lost_from), (SlotState::Lost, Some(50)));
        let refused = client.reader(QUEUE).slot(SLOT).build().next().await;
        let refused = refused.expect("an answer").expect_err("lost");
        assert_eq!(refused.reason(), Some(reason::SLOT_LOST), "{refused}");
    });
}

#[test]
fn a_confirm_that_comes_late_does_not_move_another_slot_of_the_name() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        for anew in ["slot", "queue"] {
            let client = cluster.queue(QUEUE).await;
            let producer = client.producer(QUEUE).build().await.expect("a producer");
            publish(&producer, 0, 10).await;
            client.create_slot(QUEUE, SLOT, SlotSettings::default()).await.expect("a slot");
            let mut reader = client.reader(QUEUE).slot(SLOT).build();
            read(&mut reader, 0, 10).await;
            if anew == "queue" {
                client.delete_queue(QUEUE, false).await.expect("delete");
                client.create_queue(QUEUE, QueueSettings::default()).await.expect("create");
                let producer = client.producer(QUEUE).build().await.expect("a producer");
                publish(&producer, 0, 10).await;
            } else {
                client.drop_slot(QUEUE, SLOT).await.expect("drop");
            }
            client.create_slot(QUEUE, SLOT, SlotSettings::default()).await.expect("a slot");
            reader.confirm(7).expect("it was read");
            let refused = match reader.flush().await.expect_err("the slot that it read is gone") {
                Error::Refused(refusal) => refusal.reason,
                other => panic!("{other:?}"),
            };
            assert!([reason::SLOT_NOT_FOUND, reason::QUEUE_NOT_FOUND].contains(&&*refused));
            assert_eq!(slot(&client).await.position, 0, "the new {anew} has a slot of its own");
            client.delete_queue(QUEUE, false).await.expect("delete");
        }
    });
}

#[test]
fn a_program_that_knows_less_than_the_cluster_uses_does_not_join() {
    turn::beside_others(LIGHT, async {
        use v1::cluster_service_client::ClusterServiceClient;
        let cluster = Cluster::start(3).await;
        let mut client = ClusterServiceClient::new(raw::channel(&cluster.address(1)));
        let join = v1::JoinClusterRequest {
            address: "127.0.0.1:1".into(),
            incarnation: 1,
            commands_version: 1,
            ..Default::default()
        };
        let refused = client.join_cluster(join).await.expect_err("an old program");
        assert_eq!(raw::reason(&refused), reason::UNSUPPORTED_VERSION);
    });
}

#[test]
fn any_node_takes_the_calls_about_slots_and_refuses_what_makes_no_sense() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        cluster.queue(QUEUE).await;
        let create = |slot: &str| v1::CreateSlotRequest {
            queue: QUEUE.into(),
            slot: slot.into(),
            ..Default::default()
        };
        for (node, address) in cluster.addresses().into_iter().enumerate() {
            let mut admin = AdminServiceClient::new(raw::channel(&address));
            let slot = format!("slot-{node}");
            let made = admin.create_slot(create(&slot)).await.expect("created").into_inner();
            let again = admin.create_slot(create(&slot)).await.expect("the same").into_inner();
            assert!(made.created && !again.created && made.slot == again.slot);
            let other = v1::CreateSlotRequest { max_idle_ms: 5, ..create(&slot) };
            let refused = admin.create_slot(other).await.expect_err("other parameters");
            assert_eq!(raw::reason(&refused), reason::SLOT_EXISTS);
            let far = v1::create_slot_request::From::Offset(7);
            let far = v1::CreateSlotRequest { from: Some(far), ..create("far") };
            let refused = admin.create_slot(far).await.expect_err("beyond the end");
            assert_eq!(raw::reason(&refused), reason::INVALID_ARGUMENT);
            let refused = admin.create_slot(create("no/name")).await.expect_err("a bad name");
            assert_eq!(raw::reason(&refused), reason::INVALID_ARGUMENT);
            let (queue, nobody) = (QUEUE.to_owned(), "nobody".to_owned());
            let advance = v1::AdvanceSlotRequest { queue, slot: nobody, ..Default::default() };
            let refused = admin.advance_slot(advance).await.expect_err("unknown");
            assert_eq!(raw::reason(&refused), reason::SLOT_NOT_FOUND);
            let (queue, slot) = (QUEUE.to_owned(), slot.clone());
            let advance = v1::AdvanceSlotRequest { queue, slot, offset: 1, ..Default::default() };
            let refused = admin.advance_slot(advance).await.expect_err("beyond the end");
            assert_eq!(raw::reason(&refused), reason::INVALID_ARGUMENT);
            let list = v1::ListSlotsRequest { queue: QUEUE.into() };
            let slots = admin.list_slots(list).await.expect("list").into_inner().slots;
            assert_eq!(slots.len(), node + 1);
        }
        let mut admin = AdminServiceClient::new(raw::channel(&cluster.address(1)));
        for n in 3..64 {
            admin.create_slot(create(&format!("slot-{n}"))).await.expect("created");
        }
        let refused = admin.create_slot(create("one-more")).await.expect_err("too many");
        assert_eq!(raw::reason(&refused), reason::QUOTA_EXCEEDED);
        let (queue, slot) = (QUEUE.to_owned(), "slot-63".to_owned());
        admin.drop_slot(v1::DropSlotRequest { queue, slot }).await.expect("dropped");
        admin.create_slot(create("one-more")).await.expect("there is room");
    });
}

#[test]
fn the_command_line_makes_reads_moves_lists_and_drops_slots() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let done = async |args: &[&str], out: &str| {
            let ended = quorate(args).await;
            assert_eq!((ended.code, ended.out.as_str()), (Some(0), out), "{}", ended.err);
        };
        let create = ["slot", "create", QUEUE, SLOT, "--max-retained", "10MiB"];
        done(&create, "slot archive is created at 0\n").await;
        publish_and_settle(&client, &producer, 0, 25).await;
        done(&create, "slot archive exists already, with these parameters: at 0, extended\n").await;
        quorate(&["slot", "create", QUEUE, SLOT]).await.refused_with(6, &["SLOT_EXISTS", "drop"]);

        let read = ["read", QUEUE, "--slot", SLOT, "-n", "3"];
        done(&read, "0\n1\n2\n").await;
        done(&read, "3\n4\n5\n").await;
        done(&["slot", "advance", QUEUE, SLOT, "22"], "slot archive is at 22\n").await;
        quorate(&["slot", "advance", QUEUE, SLOT, "5"]).await.refused_with(6, &["SLOT_MOVED"]);
        quorate(&["slot", "advance", QUEUE, SLOT, "26"]).await.refused_with(6, &["25"]);
        done(&["read", QUEUE, "--slot", SLOT], "22\n23\n24\n").await;
        let listed = quorate(&["slot", "list", QUEUE]).await;
        let row: Vec<&str> = listed.out.lines().nth(1).expect("a row").split_whitespace().collect();
        let bound = ["10.0", "MiB"];
        let expected = [QUEUE, SLOT, "reserved", "25", "0", "0", "B", bound[0], bound[1], "-", "-"];
        assert_eq!(row, expected, "{}", listed.out);
        let listed = quorate(&["slot", "list", "-o", "json"]).await;
        let line: serde_json::Value = serde_json::from_str(&listed.out).expect("a line of JSON");
        assert_eq!(
            (line["position"].as_u64(), line["state"].as_str()),
            (Some(25), Some("reserved"))
        );

        quorate(&["read", QUEUE, "--slot", "nobody"]).await.refused_with(5, &["SLOT_NOT_FOUND"]);
        quorate(&["read", QUEUE, "--slot", SLOT, "--next"]).await.refused_with(2, &["--slot"]);
        quorate(&["slot", "drop", QUEUE, "nobody"]).await.refused_with(5, &["SLOT_NOT_FOUND"]);
        quorate(&["slot", "drop", QUEUE, SLOT]).await.refused_with(2, &["--yes"]);
        done(&["slot", "drop", QUEUE, SLOT, "--yes"], "slot archive is removed\n").await;
        assert_eq!(client.list_slots(QUEUE).await.expect("list"), []);
    });
}
