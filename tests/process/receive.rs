//! Messages taken a batch a call, without a stream: what is handed out, what is waited for, and that leases outlive
//! whoever received them and whoever led.

use std::time::{Duration, Instant};

use quorate_client::{Message, QueueSettings, SettleError, Settlement, reason};
use quorate_proto::v1;
use quorate_proto::v1::consumer_service_client::ConsumerServiceClient;
use quorate_tests::process::run;
use quorate_tests::{Cluster, raw, turn};
use tonic::Status;

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "scripts";

#[test]
fn a_batch_is_received_from_any_node_and_its_leases_outlive_the_leader() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        // Shorter than the leases: a session with a stream would have lost its messages by then.
        let settings = QueueSettings { session_grace_ms: 200, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for n in 0..30 {
            let message = Message::new(n.to_string()).header("n", n.to_string());
            producer.publish(message).await.expect("published");
        }
        let puller = client.pull_consumer(QUEUE).name("script").lease(Duration::from_secs(60));
        let first = puller.receive(10, Duration::ZERO).await.expect("received");
        assert_eq!(first.len(), 10);
        for (n, message) in first.iter().enumerate() {
            assert_eq!((message.held.offset, message.attempt), (n as u64, 1));
            assert_eq!(message.body, n.to_string());
            assert_eq!(message.headers, [("n".to_owned(), n.to_string().into())]);
        }
        let described = client.describe_queue(QUEUE).await.expect("described");
        assert_eq!(described.counts.expect("counts").leased, 10, "and none ahead");
        assert_eq!(described.consumers[0].name, "script");

        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        // Another program settles them, by their names.
        let other = client.pull_consumer(QUEUE);
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        for message in &first[..5] {
            let held = message.held.to_string().parse().expect("a name");
            other.settle(held, Settlement::Ack).await.expect("still leased");
        }
        let second = other.receive(1_000, Duration::from_secs(5)).await.expect("received");
        let offsets: Vec<u64> = second.iter().map(|message| message.held.offset).collect();
        assert_eq!(offsets, (10..30).collect::<Vec<_>>(), "those that nobody holds");
        let nack = Settlement::Nack(None);
        puller.settle(first[7].held, nack).await.expect("given back");
        let again = puller.receive(5, Duration::from_secs(5)).await.expect("received");
        assert_eq!((again.len(), again[0].held.offset, again[0].attempt), (1, 7, 2));
        let lost = puller.settle(first[7].held, Settlement::Ack).await;
        assert_eq!(lost, Err(SettleError::LeaseLost), "under the token before");
        puller
            .settle(again[0].held, Settlement::Extend(Duration::from_secs(90)))
            .await
            .expect("extended");
        puller.settle(again[0].held, Settlement::Reject).await.expect("rejected");
    });
}

#[test]
fn a_call_waits_for_the_first_message_and_a_lease_that_ends_gives_its_message_back() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
        let puller = client.pull_consumer(QUEUE).lease(Duration::from_millis(300));
        assert_eq!(puller.receive(1, Duration::ZERO).await.expect("none"), []);
        let begun = Instant::now();
        assert_eq!(puller.receive(1, Duration::from_millis(2_500)).await.expect("none"), []);
        assert!(begun.elapsed() >= Duration::from_millis(2_500), "it waited");
        let waiting = tokio::spawn({
            let puller = puller.clone();
            async move { puller.receive(10, Duration::from_secs(30)).await.expect("received") }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        producer.publish(Message::new("a")).await.expect("published");
        let got = waiting.await.expect("no panic");
        assert_eq!((got.len(), &got[0].body[..]), (1, &b"a"[..]));
        // What comes after is not for who waits no more.
        producer.publish(Message::new("b")).await.expect("published");
        let again = puller.receive(10, Duration::from_secs(10)).await.expect("received");
        assert_eq!((again.len(), &again[0].body[..]), (1, &b"b"[..]));
        let back = puller.receive(10, Duration::from_secs(10)).await.expect("received");
        assert_eq!((back[0].held.offset, back[0].attempt), (0, 2), "its lease has ended");
        let held = client.describe_queue(QUEUE).await.expect("described").counts.expect("counts");
        assert_eq!(held.delayed + held.ready + held.leased, 2);
    });
}

#[test]
fn what_an_answer_has_no_room_for_goes_back_at_once_and_is_not_charged() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let settings = QueueSettings { max_deliveries: 2, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for n in 0..8u8 {
            producer.publish(Message::new(vec![n; 900 * 1024])).await.expect("published");
        }
        // Far more often than the queue delivers a message that is charged.
        for call in 0..4 {
            let puller = client.pull_consumer(QUEUE);
            let got = puller.receive(100, Duration::from_secs(5)).await.expect("received");
            let offsets: Vec<_> = got.iter().map(|message| message.held.offset).collect();
            assert_eq!(offsets, [0, 1, 2], "call {call}: 3 MiB, and the lowest first");
            let deadline = Instant::now() + Duration::from_secs(10);
            let counts = loop {
                let described = client.describe_queue(QUEUE).await.expect("described");
                let counts = described.counts.expect("counts");
                if counts.leased == 3 {
                    break counts;
                }
                assert!(Instant::now() < deadline, "{counts:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            assert_eq!((counts.ready, counts.exhausted), (5, 0));
            for message in got {
                assert_eq!(message.attempt, 1);
                puller.settle(message.held, Settlement::PutBack).await.expect("put back");
            }
        }
    });
}

#[test]
fn a_caller_that_goes_away_leaves_nobody_behind_that_waits() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
        let puller = client.pull_consumer(QUEUE);
        let gone = tokio::time::timeout(
            Duration::from_millis(500),
            puller.receive(1, Duration::from_secs(60)),
        );
        assert!(gone.await.is_err());
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let described = client.describe_queue(QUEUE).await.expect("described");
            if described.consumers.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{:?}", described.consumers);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn what_makes_no_sense_is_refused_and_the_command_line_receives_and_settles() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
        let mut raw_client = ConsumerServiceClient::new(raw::channel(&cluster.address(1)));
        let request = |change: &dyn Fn(&mut v1::ReceiveRequest)| {
            let mut request = v1::ReceiveRequest { queue: QUEUE.into(), ..Default::default() };
            change(&mut request);
            request
        };
        for (change, why) in [
            (&(|r: &mut v1::ReceiveRequest| r.max_messages = 1_001) as &dyn Fn(&mut _), "1000"),
            (&|r: &mut v1::ReceiveRequest| r.wait_ms = 60_001, "60000"),
            (&|r: &mut v1::ReceiveRequest| r.lease_ms = 1, "lease_ms"),
            (&|r: &mut v1::ReceiveRequest| r.session = vec![1; 15].into(), "session"),
            (&|r: &mut v1::ReceiveRequest| r.name = "n".repeat(129), "name"),
        ] {
            let status: Status = raw_client.receive(request(change)).await.expect_err("refused");
            assert_eq!(raw::reason(&status), reason::INVALID_ARGUMENT, "{status}");
            assert!(status.message().contains(why), "{status}");
        }
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for body in ["one", "two", "three"] {
            producer.publish(Message::new(body)).await.expect("published");
        }
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let taken = quorate(&["receive", QUEUE, "-n", "2", "-o", "json"]).await;
        assert_eq!(taken.code, Some(0), "{}", taken.err);
        let taken: Vec<serde_json::Value> =
            taken.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let bodies: Vec<_> = taken.iter().map(|message| message["body"].as_str()).collect();
        assert_eq!(bodies, [Some("one"), Some("two")]);
        let held: Vec<_> = taken.iter().map(|m| m["held"].as_str().expect("a name")).collect();
        let settled = quorate(&["settle", QUEUE, held[0], held[1]]).await;
        assert_eq!(settled.out, "offset 0 is acknowledged\noffset 1 is acknowledged\n");
        let again = quorate(&["settle", QUEUE, held[0]]).await;
        assert_ne!(again.code, Some(0));
        assert!(again.err.contains("LEASE_LOST"), "{}", again.err);
        let wrong = quorate(&["settle", QUEUE, "0.1"]).await;
        assert!(wrong.err.contains("SESSION.TOKEN.OFFSET"), "{}", wrong.err);
        let third = quorate(&["receive", QUEUE, "--ack", "--wait", "5s"]).await;
        assert_eq!((third.code, third.out.as_str()), (Some(0), "three\n"), "{}", third.err);
        let none = quorate(&["receive", QUEUE]).await;
        assert_eq!((none.code, none.out.as_str()), (Some(0), ""), "{}", none.err);
        let counts = client.describe_queue(QUEUE).await.expect("described").counts.expect("counts");
        assert_eq!((counts.acked, counts.ready + counts.leased), (3, 0));
    });
}
