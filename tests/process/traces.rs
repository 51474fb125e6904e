//! What a trace collector is told of messages whose producers sample them.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{AckLevel, Client, Consumer, Delivery, Message, QueueSettings, reason};
use quorate_proto::otlp::trace::v1::span::SpanKind;
use quorate_proto::v1;
use quorate_proto::v1::consume_request::Request;
use quorate_tests::collector::{Collector, Seen, tree, value};
use quorate_tests::process::run;
use quorate_tests::raw::{self, RawConsumer};
use quorate_tests::{Cluster, Plan, ports, turn};

use crate::beside::{figure, get};
use crate::{HEAVY, LIGHT};

const QUEUE: &str = "orders";
/// How long spans may take to the collector.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// A header of trace `trace`, from span 1000 and so much, sampled or not.
fn traceparent(trace: u128, sampled: bool) -> String {
    format!("00-{trace:032x}-{:016x}-{:02x}", 1000 + trace, u8::from(sampled))
}

fn message(trace: u128, sampled: bool) -> Message {
    Message::new("body").header("other", "x").header("traceparent", traceparent(trace, sampled))
}

async fn traced(nodes: u64, collector: &str) -> Cluster {
    Plan::of(nodes).set(&format!("telemetry.endpoint={collector}")).start().await
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(TOLD_WITHIN, consumer.next()).await;
    next.expect("in time").expect("no end").expect("a delivery")
}

/// The spans of one trace, in the order in which they began.
fn of(spans: &[Seen], trace: u128) -> Vec<&Seen> {
    let id = trace.to_be_bytes();
    let mut spans: Vec<_> = spans.iter().filter(|seen| seen.span.trace_id == id[..]).collect();
    spans.sort_by_key(|seen| seen.span.start_time_unix_nano);
    spans
}

fn names<'a>(spans: &[&'a Seen]) -> Vec<&'a str> {
    spans.iter().map(|seen| seen.span.name.as_str()).collect()
}

fn attribute(seen: &Seen, key: &str) -> String {
    value(&seen.span.attributes, key).unwrap_or_else(|| panic!("no {key} in {seen:?}"))
}

fn event(seen: &Seen, name: &str) -> u64 {
    let found = seen.span.events.iter().find(|event| event.name == name);
    found.unwrap_or_else(|| panic!("no event {name} in {seen:?}")).time_unix_nano
}

fn error(seen: &Seen) -> Option<String> {
    value(&seen.span.attributes, "error.type")
}

fn is_in_order(times: &[u64]) -> bool {
    times.is_sorted()
}

#[test]
fn a_sampled_message_is_traced_from_publish_to_ack() {
    turn::beside_others(LIGHT, async {
        let collector = Collector::start();
        let cluster = traced(3, &collector.endpoint()).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).ack(AckLevel::All).build().await.expect("build");
        // At different places of batches, beside some that are not to be traced.
        let broken = traceparent(9, true).to_uppercase().replace("00-", "zz-");
        let messages = [
            message(1, true),
            message(2, false),
            Message::new("no header"),
            Message::new("broken").header("traceparent", broken),
            Message::new("twice")
                .header("traceparent", traceparent(8, true))
                .header("traceparent", traceparent(9, true)),
            message(3, true),
        ];
        let mut pending = Vec::new();
        for message in messages {
            pending.push(producer.send(message).await.expect("send"));
        }
        let mut receipts = Vec::new();
        for pending in pending {
            receipts.push(pending.await.expect("a receipt"));
        }
        let mut consumer = client.consumer(QUEUE).name("billing").build().await.expect("build");
        let first = next(&mut consumer).await;
        // It passes through as it was.
        let header = first.headers.get("traceparent").expect("the header");
        assert_eq!(header, traceparent(1, true).as_bytes());
        first.nack(None).await.expect("nack");
        for _ in 0..6 {
            next(&mut consumer).await.ack().await.expect("ack");
        }
        consumer.close().await;

        let spans = collector.wait_for(8, TOLD_WITHIN).await;
        println!("{}", tree(&spans));
        assert_eq!(spans.len(), 8, "{}", tree(&spans));
        let whole = ["publish orders", "deliver orders", "ack orders"];
        let given_back =
            ["publish orders", "deliver orders", "nack orders", "deliver orders", "ack orders"];
        let (one, three) = (of(&spans, 1), of(&spans, 3));
        assert_eq!(names(&one), given_back);
        assert_eq!(names(&three), whole);
        let leader = cluster.leader_of(QUEUE).await;
        for (trace, spans, receipt) in [(1u64, &one, &receipts[0]), (3, &three, &receipts[5])] {
            for seen in spans {
                assert_eq!(attribute(seen, "messaging.system"), "quorate");
                assert_eq!(attribute(seen, "messaging.destination.name"), QUEUE);
                let offset = receipt.offset.expect("at level ALL").to_string();
                assert_eq!(attribute(seen, "messaging.message.id"), offset);
                assert!(seen.span.end_time_unix_nano >= seen.span.start_time_unix_nano);
                assert_eq!((seen.node, error(seen)), (leader, None));
            }
            // What comes in and goes out is below the producer's span; what became of a delivery is below it.
            let parent = (1000 + trace).to_be_bytes();
            assert_eq!(spans[0].span.parent_span_id, parent[..]);
            for pair in spans[1..].chunks_exact(2) {
                assert_eq!(pair[0].span.parent_span_id, parent[..]);
                assert_eq!(pair[1].span.parent_span_id, pair[0].span.span_id);
            }
        }
        let [publish, deliver, ack] = three[..] else { panic!("three") };
        assert!(
            is_in_order(&[
                publish.span.start_time_unix_nano,
                event(publish, "submitted"),
                event(publish, "committed"),
                publish.span.end_time_unix_nano,
                deliver.span.start_time_unix_nano,
                deliver.span.end_time_unix_nano,
                event(ack, "settle received"),
                ack.span.end_time_unix_nano,
            ]),
            "{}",
            tree(&spans)
        );
        assert_eq!(ack.span.start_time_unix_nano, deliver.span.end_time_unix_nano);
        let kinds = [SpanKind::Server, SpanKind::Producer, SpanKind::Internal];
        assert_eq!([publish, deliver, ack].map(|seen| seen.span.kind()), kinds);
        let position = &receipts[5].position;
        assert_eq!(attribute(publish, "quorate.group"), position.group.to_string());
        assert_eq!(attribute(publish, "quorate.index"), position.index.to_string());
        assert_eq!(attribute(publish, "quorate.term"), position.term.to_string());
        assert_eq!(attribute(publish, "quorate.ack_level"), "all");
        assert_eq!(attribute(publish, "quorate.in_sync"), "1,2,3");
        assert_eq!(attribute(deliver, "quorate.consumer"), "billing");
        let attempts = [one[1], one[3]].map(|seen| attribute(seen, "quorate.attempt"));
        assert_eq!(attempts, ["1", "2"]);
    });
}

#[test]
fn what_a_follower_delivers_and_what_becomes_of_it_is_told_by_the_follower() {
    turn::beside_others(LIGHT, async {
        let collector = Collector::start();
        let cluster = traced(3, &collector.endpoint()).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("build");
        producer.publish(message(1, true)).await.expect("a receipt");
        let consumer = client.consumer(QUEUE).max_lag(Duration::from_secs(2)).build();
        let mut consumer = consumer.await.expect("build");
        next(&mut consumer).await.ack().await.expect("ack");
        consumer.close().await;
        let spans = collector.wait_for(3, TOLD_WITHIN).await;
        let one = of(&spans, 1);
        assert_eq!(names(&one), ["publish orders", "deliver orders", "ack orders"]);
        let leader = cluster.leader_of(QUEUE).await;
        assert_eq!(one[0].node, leader);
        assert!(one[1].node != leader && one[2].node == one[1].node, "{}", tree(&spans));
        assert_eq!(one[2].span.parent_span_id, one[1].span.span_id);
        assert_eq!((error(one[1]), error(one[2])), (None, None));
    });
}

async fn full_after_one(client: &Client) {
    let settings = QueueSettings { max_messages: 1, ..Default::default() };
    client.create_queue("small", settings).await.expect("create");
    let producer = client.producer("small").build().await.expect("build");
    producer.publish(Message::new("fills it")).await.expect("publish");
    let refused = producer.publish(message(5, true)).await.expect_err("full");
    assert_eq!(refused.reason(), Some(reason::QUEUE_FULL), "{refused}");
}

#[test]
fn what_goes_wrong_with_a_sampled_message_is_an_error_of_its_span() {
    turn::beside_others(LIGHT, async {
        let collector = Collector::start();
        let cluster = traced(1, &collector.endpoint()).await;
        let client = cluster.queue(QUEUE).await;
        full_after_one(&client).await;
        // One whose lease ends, then one whose consumer dies.
        let producer = client.producer(QUEUE).build().await.expect("build");
        producer.publish(message(6, true)).await.expect("publish");
        let mut attach = raw::attach(QUEUE, &raw::session(), 1);
        attach.lease_ms = 500;
        let mut consumer = RawConsumer::attach(&cluster.address(1), attach).await.expect("attach");
        assert_eq!(consumer.delivery().await.attempt, 1);
        assert_eq!(consumer.delivery().await.attempt, 2);
        drop(consumer);
        let spans = collector.wait_for(6, TOLD_WITHIN).await;
        println!("{}", tree(&spans));
        let [refused] = of(&spans, 5)[..] else { panic!("{}", tree(&spans)) };
        assert_eq!(error(refused).as_deref(), Some(reason::QUEUE_FULL));
        let spans = of(&spans, 6);
        let expired = ["deliver orders", "expire orders"];
        assert_eq!(names(&spans), [&["publish orders"], &expired[..], &expired[..]].concat());
        assert_eq!(error(spans[2]).as_deref(), Some(reason::LEASE_LOST));
        assert_eq!(error(spans[4]).as_deref(), Some("STREAM_ENDED"));
        let held = spans[2].span.end_time_unix_nano - spans[2].span.start_time_unix_nano;
        // The lease begins with its entry, a little before.
        assert!(held >= 450_000_000, "{held} ns");
    });
}

#[test]
fn a_lease_that_ends_unseen_by_its_consumer_is_told() {
    turn::beside_others(LIGHT, async {
        let collector = Collector::start();
        let cluster = traced(1, &collector.endpoint()).await;
        let settings = QueueSettings { max_deliveries: 1, lease_ms: 1_000, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("build");
        for trace in [10, 11] {
            producer.publish(message(trace, true)).await.expect("publish");
        }
        // One is dropped after its only delivery; the other's lease goes on for longer than it began with.
        let attach = raw::attach(QUEUE, &raw::session(), 2);
        let mut consumer = RawConsumer::attach(&cluster.address(1), attach).await.expect("attach");
        let delivery = consumer.delivery().await;
        let extend = v1::SettleItem {
            count: 1,
            first_offset: 1,
            ..raw::item(v1::SettleKind::Extend, &delivery, 4_000)
        };
        consumer.settle(extend).await;
        let spans = collector.wait_for(5, TOLD_WITHIN).await;
        assert_eq!(names(&of(&spans, 11)), ["publish orders", "deliver orders"]);
        let spans = of(&spans, 10);
        assert_eq!(names(&spans), ["publish orders", "deliver orders", "expire orders"]);
        assert_eq!(error(spans[2]).as_deref(), Some(reason::LEASE_LOST));
        // What a consumer gives back as it ends is no fault.
        consumer.send(Request::Detach(v1::Detach {})).await;
        assert!(matches!(consumer.answer().await, Ok(None)), "the stream ends");
        let spans = collector.wait_for(6, TOLD_WITHIN).await;
        let spans = of(&spans, 11);
        assert_eq!(names(&spans), ["publish orders", "deliver orders", "release orders"]);
        assert_eq!(error(spans[2]), None);
    });
}

#[test]
fn spans_beyond_the_rate_are_dropped_and_counted() {
    turn::beside_others(LIGHT, async {
        let collector = Collector::start();
        let few = "telemetry.max_spans_per_second=5";
        let endpoint = format!("telemetry.endpoint={}", collector.endpoint());
        let cluster = Plan::of(1).set(&endpoint).set(few).start().await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("build");
        let begun = Instant::now();
        let mut pending = Vec::new();
        for _ in 0..1_000 {
            pending.push(producer.send(message(12, true)).await.expect("send"));
        }
        for pending in pending {
            pending.await.expect("a receipt");
        }
        let most = 5 + 5 * (begun.elapsed().as_secs() + 1);
        collector.wait_for(5, TOLD_WITHIN).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let came = collector.spans().len() as u64;
        assert!(came <= most, "{came} of at most {most}");
        let (_, metrics) = get(&cluster.address(1), "/metrics").await;
        let dropped = format!("quorate_spans_dropped_total{{reason=\"rate\"}} {}", 1_000 - came);
        assert!(metrics.contains(&dropped), "no {dropped} in\n{metrics}");
    });
}

#[test]
fn an_unreachable_collector_costs_publishes_nothing_and_is_told_once() {
    turn::alone(HEAVY, async {
        // One that refuses connections, and one that takes them and never answers.
        let deaf = TcpListener::bind("127.0.0.1:0").expect("bind");
        for address in [ports::free(), deaf.local_addr().expect("its address")] {
            let every = "telemetry.max_spans_per_second=10000";
            let endpoint = format!("telemetry.endpoint=http://{address}");
            let mut cluster = Plan::of(1).set(&endpoint).set(every).start().await;
            let client = cluster.queue(QUEUE).await;
            let producer = client.producer(QUEUE).build().await.expect("build");
            let begun = Instant::now();
            let told = "the collector does not take spans";
            let mut sent = 0u64;
            let mut longest = Duration::ZERO;
            // Until it is told, and for three times as long as it is tried again at first.
            let mut told_at: Option<Instant> = None;
            while told_at.is_none_or(|told| told.elapsed() < Duration::from_secs(4)) {
                assert!(begun.elapsed() < Duration::from_secs(30), "not told");
                if told_at.is_none() && cluster.log(1).contains(told) {
                    told_at = Some(Instant::now());
                }
                let asked = Instant::now();
                let mut pending = Vec::new();
                for _ in 0..100 {
                    pending.push(producer.send(message(7, true)).await.expect("send"));
                }
                for pending in pending {
                    pending.await.expect("a receipt");
                }
                longest = longest.max(asked.elapsed());
                sent += 100;
            }
            let (_, metrics) = get(&cluster.address(1), "/metrics").await;
            println!("{sent} messages, 100 took {longest:?} at most");
            assert_eq!(figure(&metrics, "quorate_spans_exported_total"), 0.0);
            assert!(metrics.contains("quorate_spans_dropped_total{reason=\"queue\"}"), "{metrics}");
            let dropped: f64 = metrics
                .lines()
                .filter(|line| line.starts_with("quorate_spans_dropped_total"))
                .map(|line| line.split(' ').next_back().unwrap().parse::<f64>().expect("a number"))
                .sum();
            // All but those that wait, in the queue and in the batch that is tried again.
            let waiting = sent as f64 - dropped;
            assert!((0.0..=2048.0 + 512.0).contains(&waiting), "{waiting} wait:\n{metrics}");
            assert!(longest < Duration::from_secs(2), "100 publishes took {longest:?}");
            // The end does not wait for it for long, either.
            let begun = Instant::now();
            cluster.stop(1).await;
            assert!(
                begun.elapsed() < Duration::from_secs(8),
                "stopped after {:?}",
                begun.elapsed()
            );
            assert_eq!(cluster.log(1).matches(told).count(), 1, "{}", cluster.log(1));
        }
    });
}

#[test]
fn a_collector_that_comes_later_gets_what_waits() {
    turn::beside_others(LIGHT, async {
        // Named, and not there yet.
        let address = ports::free();
        let cluster = traced(1, &format!("http://{address}")).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("build");
        producer.publish(message(4, true)).await.expect("publish");
        let begun = Instant::now();
        while !cluster.log(1).contains("the collector does not take spans") {
            assert!(begun.elapsed() < TOLD_WITHIN, "not told");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let collector = Collector::start_at(address);
        let spans = collector.wait_for(1, TOLD_WITHIN).await;
        assert_eq!(names(&of(&spans, 4)), ["publish orders"]);
        assert!(cluster.log(1).contains("takes spans again"));
    });
}

#[test]
fn a_collector_that_cannot_be_is_named_at_the_start() {
    turn::beside_others(LIGHT, async {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data").display().to_string();
        for wrong in ["https://127.0.0.1:4317", "collector", "http://127.0.0.1:4318/v1/traces"] {
            let set = format!("telemetry.endpoint={wrong}");
            let ended = run(&["server", "--data", &data, "--set", &set], TOLD_WITHIN).await;
            assert_eq!(ended.code, Some(3), "{ended:?}");
            assert!(ended.err.contains("`telemetry.endpoint`"), "{ended:?}");
            assert!(ended.err.contains("http://HOST:PORT"), "{ended:?}");
        }
    });
}
