//! Messages that are published for later: never early, in time, over the death of a leader, and refused if they make
//! no sense.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use quorate_client::{Message, QueueSettings, reason};
use quorate_proto::v1;
use quorate_proto::v1::queue_service_client::QueueServiceClient;
use quorate_tests::process::run;
use quorate_tests::{Cluster, raw, turn};
use tonic::Status;

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "reminders";

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    since.as_millis() as u64
}

#[test]
fn messages_for_later_come_at_their_time_and_once_whoever_dies() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let settings = QueueSettings { session_grace_ms: 30_000, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let mut sent = Vec::new();
        for n in 0..300u64 {
            // Out of order, up to 3 s, some of them at once; the body says when.
            let delay = Duration::from_millis((n * 7_919) % 3_000);
            let due = now_ms() + delay.as_millis() as u64;
            let message = Message::new(due.to_string());
            let message = match n % 3 {
                0 => message.delay(delay),
                1 => message.deliver_at(SystemTime::UNIX_EPOCH + Duration::from_millis(due)),
                _ => Message::new(now_ms().to_string()),
            };
            sent.push(producer.send(message).await.expect("sent"));
        }
        for pending in sent {
            pending.await.expect("confirmed");
        }
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert!(counts.delayed > 100, "{counts:?}");
        let leader = cluster.leader_of(QUEUE).await;
        let mut seen = BTreeMap::new();
        let (mut late, mut acks) = (Vec::new(), Vec::new());
        while seen.len() < 300 {
            if seen.len() == 180 {
                cluster.kill9(leader);
            }
            let taken = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
            let delivery = taken.expect("goes on").expect("a delivery");
            let now = now_ms();
            let due = std::str::from_utf8(&delivery.body).expect("text");
            let due: u64 = due.parse().expect("a time");
            assert!(now >= due, "offset {} is {} ms early", delivery.offset, due - now);
            late.push(now - due);
            *seen.entry(delivery.offset).or_insert(0) += 1;
            acks.push(tokio::spawn(delivery.ack()));
        }
        late.sort_unstable();
        println!("late by {} ms at p50, {} at most, a failover within", late[150], late[299]);
        for ack in acks {
            ack.await.expect("no panic").expect("acknowledged");
        }
        assert!(seen.values().all(|times| *times == 1), "each message once");
        consumer.close().await;
    });
}

#[test]
fn what_makes_no_sense_for_later_is_refused_and_the_command_line_delays() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let _client = cluster.queue(QUEUE).await;
        let address = cluster.address(1);
        let publish = async |request: v1::PublishRequest| {
            let mut client = QueueServiceClient::new(raw::channel(&address));
            let request = v1::PublishRequest { queue: QUEUE.to_owned(), ..request };
            client.publish(request).await.map(|answer| answer.into_inner())
        };
        let refused = |answer: Result<v1::PublishResponse, Status>| {
            raw::reason(&answer.expect_err("refused"))
        };
        let message = |delay_ms, deliver_at_ms| v1::PublishRequest {
            messages: vec![v1::Message { delay_ms, deliver_at_ms, ..Default::default() }],
            ..Default::default()
        };
        let year = 367 * 24 * 3_600_000;
        for wrong in [message(5, now_ms()), message(year, 0), message(0, now_ms() + year)] {
            assert_eq!(refused(publish(wrong).await), reason::INVALID_ARGUMENT);
        }
        // One message of two has properties; and one has more than there is.
        let frame = || {
            let mut frame = quorate_proto::frame::FrameBuilder::new();
            frame.push::<&str, &[u8]>(&[], b"one").expect("short");
            frame.push::<&str, &[u8]>(&[], b"two").expect("short");
            Some(frame.finish())
        };
        for count in [1, 3] {
            let properties = vec![v1::Properties { count, delay_ms: 9, ..Default::default() }];
            let wrong = v1::PublishRequest { frame: frame(), properties, ..Default::default() };
            assert_eq!(refused(publish(wrong).await), reason::INVALID_ARGUMENT);
        }
        // A time that has passed is no delay.
        publish(message(0, 1)).await.expect("published");
        let server = cluster.addresses().join(",");
        let quorate = async |args: &[&str]| {
            let ended = run(&[args, &["--server", &server]].concat(), SOON).await;
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            ended.out
        };
        quorate(&["publish", QUEUE, "later", "--delay", "1h"]).await;
        let begun = now_ms();
        quorate(&["publish", QUEUE, "soon", "--delay", "1500ms"]).await;
        let taken = quorate(&["consume", QUEUE, "-n", "2"]).await;
        assert!(taken.contains("soon") && !taken.contains("later"), "{taken}");
        assert!(now_ms() - begun >= 1_500, "early");
        let shown = quorate(&["queue", "describe", QUEUE, "-o", "json"]).await;
        assert!(shown.contains("\"delayed\":1") || shown.contains("\"delayed\": 1"), "{shown}");
    });
}
