//! What becomes of messages that nobody takes: they expire in time and never early, urgent ones go first, and the
//! oldest make room where a queue is full.

use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use quorate_client::{Client, Message, Overflow, PublishError, QueueSettings, reason};
use quorate_proto::v1;
use quorate_proto::v1::queue_service_client::QueueServiceClient;
use quorate_tests::process::run;
use quorate_tests::{Cluster, raw, turn};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "quotes";

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    since.as_millis() as u64
}

async fn counts(client: &Client) -> v1::QueueCounts {
    let queue = client.describe_queue(QUEUE).await.expect("describe");
    queue.counts.expect("the leader knows the counts")
}

/// Waits until the counts are as they should be.
async fn until(client: &Client, what: &str, are: impl Fn(&v1::QueueCounts) -> bool) {
    let begun = Instant::now();
    loop {
        let now = counts(client).await;
        if are(&now) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{what}: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_message_expires_at_its_time_unless_a_consumer_has_it() {
    turn::alone(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
        let mut consumer = client.consumer(QUEUE).prefetch(2).build().await.expect("a consumer");
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let begun = now_ms();
        // Two that are taken at once, and outlive their time with the consumer.
        let held = Message::new("held").ttl(Duration::from_millis(300));
        for _ in 0..2 {
            producer.send(held.clone()).await.expect("sent").await.expect("confirmed");
        }
        let mut taken = Vec::new();
        while taken.len() < 2 {
            let next = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
            taken.push(next.expect("goes on").expect("a delivery"));
        }
        let (mut sent, mut times) = (Vec::new(), Vec::new());
        for n in 0..200u64 {
            // Not in order, each third for later, so that its time counts from then.
            let ttl = 300 + (n * 7_919) % 2_500;
            let delay = if n % 3 == 0 { 400 } else { 0 };
            let message = Message::new("unwanted").ttl(Duration::from_millis(ttl));
            times.push(now_ms() + delay + ttl);
            sent.push(
                producer.send(message.delay(Duration::from_millis(delay))).await.expect("sent"),
            );
        }
        for pending in sent {
            pending.await.expect("confirmed");
        }
        times.sort_unstable();
        let mut looks = 0;
        loop {
            let expired = counts(&client).await.expired as usize;
            let may = times.partition_point(|time| *time <= now_ms());
            assert!(expired <= may, "{expired} have expired, and {may} may have");
            if expired == times.len() {
                break;
            }
            looks += usize::from(expired > 0);
            assert!(now_ms() < begun + 30_000, "{expired} have expired");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(looks > 5, "they expire one after the other");
        println!("the last expired {} ms after its time at most", now_ms() - times[199]);
        // What the consumer has is its own: one is done, the other given back too late.
        let now = counts(&client).await;
        assert_eq!((now.leased, now.ready, now.delayed), (2, 0, 0));
        taken.remove(0).ack().await.expect("acknowledged");
        taken.remove(0).nack(None).await.expect("given back");
        until(&client, "given back", |now| now.acked == 1 && now.expired == 201).await;
        assert_eq!(counts(&client).await.leased, 0);
        consumer.close().await;
    });
}

#[test]
fn a_queue_s_time_to_live_is_kept_by_the_next_leader() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue_with("other", QueueSettings::default()).await;
        let server = cluster.addresses().join(",");
        let quorate = async |args: &[&str]| {
            let ended = run(&[args, &["--server", &server]].concat(), SOON).await;
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            ended.out
        };
        quorate(&["queue", "create", QUEUE, "--ttl", "6s"]).await;
        let mut times = Vec::new();
        for n in 0..20 {
            times.push(now_ms() + 6_000);
            quorate(&["publish", QUEUE, "plain"]).await;
            if n == 0 {
                quorate(&["publish", QUEUE, "brief", "--ttl", "1s"]).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        let taken = quorate(&["consume", QUEUE, "-n", "1"]).await;
        assert!(taken.contains("plain"), "{taken}");
        loop {
            let expired = counts(&client).await.expired as usize;
            // The brief one, and that one of the others was taken.
            let may = times.partition_point(|time| *time <= now_ms());
            assert!(expired <= may + 1, "{expired} have expired, and {may} may have");
            if expired == times.len() {
                break;
            }
            assert!(now_ms() < times[19] + 30_000, "{expired} have expired");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("the last expired {} ms after its time at most", now_ms() - times[19]);
        let shown = quorate(&["queue", "describe", QUEUE]).await;
        let shows = |fact: &str, is: &str| {
            let line = shown.lines().find(|line| line.starts_with(fact));
            line.is_some_and(|line| line.trim_end().ends_with(is))
        };
        assert!(shows("time to live", "6.00 s"), "{shown}");
        assert!(shows("expired", "20"), "{shown}");
    });
}

#[test]
fn urgent_messages_go_first_and_only_where_there_are_priorities() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let settings = QueueSettings { priorities: true, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let mut sent = Vec::new();
        for n in 0..300u64 {
            let priority = (n * 7 % 10) as u8;
            let message = Message::new(priority.to_string()).priority(priority);
            sent.push(producer.send(message).await.expect("sent"));
        }
        for pending in sent {
            pending.await.expect("confirmed");
        }
        let mut consumer = client.consumer(QUEUE).prefetch(10).build().await.expect("a consumer");
        let mut seen = Vec::new();
        while seen.len() < 300 {
            let next = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
            let delivery = next.expect("goes on").expect("a delivery");
            let text = std::str::from_utf8(&delivery.body).expect("text");
            let priority: u8 = text.parse().expect("a priority");
            seen.push((9 - priority, delivery.offset));
            delivery.ack().await.expect("acknowledged");
        }
        assert!(seen.is_sorted(), "the highest first, of it in order: {seen:?}");
        consumer.close().await;

        // Without the setting they are refused, with a word on how to have them; so is one that there is not.
        let plain = "plain";
        client.create_queue(plain, QueueSettings::default()).await.expect("created");
        let producer = client.producer(plain).build().await.expect("a producer");
        let sent = producer.send(Message::new("urgent").priority(1)).await.expect("sent");
        match sent.await {
            Err(PublishError::Refused(refusal)) => {
                assert_eq!(refusal.reason, reason::PRIORITIES_OFF);
                assert!(refusal.message.contains("--priorities"), "{}", refusal.message);
            }
            other => panic!("{other:?}"),
        }
        let mut raw_client = QueueServiceClient::new(raw::channel(&cluster.address(1)));
        let message = v1::Message { priority: 10, ..Default::default() };
        let request = v1::PublishRequest {
            queue: QUEUE.to_owned(),
            messages: vec![message],
            ..Default::default()
        };
        let refused = raw_client.publish(request).await.expect_err("refused");
        assert_eq!(raw::reason(&refused), reason::INVALID_ARGUMENT);
        let server = cluster.addresses().join(",");
        let publish = async |queue: &str| {
            let args = ["publish", queue, "urgent", "--priority", "9", "--server", &server];
            run(&args, SOON).await
        };
        assert_eq!(publish(QUEUE).await.code, Some(0));
        let refused = publish(plain).await;
        assert!(refused.code != Some(0) && refused.err.contains("--priorities"), "{}", refused.err);
    });
}

#[test]
fn the_oldest_make_room_exactly_whoever_leads() {
    const MOST: u64 = 500;
    const ALL: u64 = 8_000;
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let settings = QueueSettings {
            max_messages: MOST,
            overflow: Overflow::DropHead.into(),
            ..Default::default()
        };
        let client = cluster.queue_with(QUEUE, settings).await;
        let publish = || {
            let client = client.clone();
            tokio::spawn(async move {
                let producer = client.producer(QUEUE).build().await.expect("a producer");
                for burst in 0..ALL / 2 / 40 {
                    let mut sent = Vec::new();
                    for n in 0..40 {
                        let message = Message::new(format!("{burst} {n}"));
                        sent.push(producer.send(message).await.expect("sent"));
                    }
                    for pending in sent {
                        pending.await.expect("none is refused");
                    }
                }
            })
        };
        let mut load = vec![publish(), publish()];
        let (mut killed, mut looks) = (false, 0);
        while load.iter().any(|one| !one.is_finished()) {
            // While there is no leader nobody counts.
            let queue = client.describe_queue(QUEUE).await.expect("describe");
            let Some(now) = queue.counts else { continue };
            let held = now.ready + now.leased + now.delayed;
            assert!(held <= MOST, "{held} are held");
            let most_needed = now.published.saturating_sub(MOST);
            assert!(now.dropped >= most_needed, "{now:?}");
            looks += 1;
            if !killed && now.published > ALL / 3 {
                let leader = cluster.leader_of(QUEUE).await;
                cluster.kill9(leader);
                killed = true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for one in load.drain(..) {
            one.await.expect("no panic");
        }
        assert!(killed && looks > 10, "killed: {killed}, {looks} looks");
        let now = counts(&client).await;
        assert_eq!((now.published, now.ready, now.dropped), (ALL, MOST, ALL - MOST));
        assert_eq!(now.first_offset, ALL - MOST, "the oldest are gone");
        // A batch that is larger than the limit drops nothing.
        let messages = vec![v1::Message::default(); MOST as usize + 1];
        let queue = QUEUE.to_owned();
        let request = v1::PublishRequest { queue, messages, ..Default::default() };
        let leader = cluster.leader_of(QUEUE).await;
        let mut raw_client = QueueServiceClient::new(raw::channel(&cluster.address(leader)));
        let refused = raw_client.publish(request).await.expect_err("refused");
        assert_eq!(raw::reason(&refused), reason::QUEUE_FULL);
        assert!(refused.message().contains("can never fit"), "{refused}");
        assert_eq!(counts(&client).await, now);
    });
}
