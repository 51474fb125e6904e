//! Consumers that filter by a header: who is handed what, what is refused, and what becomes of filters when the header
//! changes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use quorate_client::{
    Client, Consumer, DeliveryObstacle, Error, Message, MessagePlace, QueueSettings, Settlement,
    reason,
};
use quorate_tests::process::run;
use quorate_tests::{Cluster, raw, turn};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";

fn by_region() -> QueueSettings {
    QueueSettings { filter_header: "region".to_owned(), ..Default::default() }
}

async fn publish(client: &Client, regions: &[&str]) {
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    for (n, region) in regions.iter().enumerate() {
        let message = Message::new(n.to_string());
        let message = match *region {
            "" => message,
            region => message.header("region", region.to_owned()),
        };
        producer.publish(message).await.expect("confirmed");
    }
}

async fn consumer(client: &Client, values: &[&str]) -> Consumer {
    let building = client.consumer(QUEUE).name(values.join("+")).filter(values.iter().copied());
    building.build().await.expect("a consumer")
}

/// Takes and acknowledges so many: by offset, the region of each.
async fn take(consumer: &mut Consumer, count: usize) -> BTreeMap<u64, String> {
    let mut taken = BTreeMap::new();
    while taken.len() < count {
        let next = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
        let delivery = next.expect("goes on").expect("a message");
        let region = delivery.headers.get("region").unwrap_or_default();
        taken.insert(delivery.offset, String::from_utf8_lossy(&region).into_owned());
        // A leader that was killed may have had it done: then the offset comes no more, or once again.
        let _ = delivery.ack().await;
    }
    taken
}

async fn is_idle(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(Duration::from_millis(400), consumer.next()).await.is_err()
}

#[test]
fn each_consumer_is_handed_what_it_filters_for_and_the_rest_waits_whoever_leads() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, by_region()).await;
        let mut eu = consumer(&client, &["eu"]).await;
        let mut other = consumer(&client, &["us", "asia"]).await;
        let mut regions = ["eu", "us", "", "asia", "moon", "eu"].repeat(20);
        publish(&client, &regions).await;
        let (mut of_eu, mut of_other) = (take(&mut eu, 25).await, take(&mut other, 25).await);
        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        publish(&client, &regions).await;
        regions.extend(regions.clone());
        while of_eu.len() < 80 {
            of_eu.extend(take(&mut eu, 1).await);
        }
        while of_other.len() < 80 {
            of_other.extend(take(&mut other, 1).await);
        }
        assert!(of_eu.values().all(|region| region == "eu"), "{of_eu:?}");
        assert!(of_other.values().all(|region| region == "us" || region == "asia"));
        assert!(is_idle(&mut eu).await && is_idle(&mut other).await, "the rest is not for them");
        let counts = client.describe_queue(QUEUE).await.expect("described").counts;
        assert_eq!(counts.expect("counts").ready, 80, "what nobody filters for, and has no region");
        let mut any = client.consumer(QUEUE).build().await.expect("a consumer");
        let rest = take(&mut any, 80).await;
        assert!(rest.values().all(|region| region.is_empty() || region == "moon"), "{rest:?}");
        assert_eq!(rest.len() + of_eu.len() + of_other.len(), regions.len());
        cluster.start_node(leader);
    });
}

#[test]
fn a_call_that_receives_filters_too_and_so_do_the_commands() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, by_region()).await;
        publish(&client, &["eu", "us", "eu", ""]).await;
        let puller = client.pull_consumer(QUEUE).filter(["us"]);
        let got = puller.receive(10, Duration::from_secs(5)).await.expect("received");
        assert_eq!(got.iter().map(|of| of.held.offset).collect::<Vec<_>>(), [1]);
        puller.settle(got[0].held, Settlement::Ack).await.expect("acknowledged");
        let none = puller.receive(10, Duration::from_millis(300)).await.expect("received");
        assert_eq!(none, [], "no other has it");
        let server = cluster.addresses().join(",");
        let receive = ["receive", QUEUE, "--filter", "mars", "--filter", "eu", "-n", "1", "--ack"];
        let shown = run(&[&receive[..], &["--server", &server]].concat(), SOON).await;
        assert_eq!((shown.code, shown.out.trim()), (Some(0), "0"), "{}", shown.err);
        let consume = ["consume", QUEUE, "--filter", "eu", "-n", "1", "--server", &server];
        let shown = run(&consume, SOON).await;
        assert_eq!((shown.code, shown.out.trim()), (Some(0), "2"), "{}", shown.err);
        let shown = run(&["queue", "describe", QUEUE, "--server", &server], SOON).await;
        assert!(shown.out.contains("header region"), "{}", shown.out);
    });
}

#[test]
fn who_filters_is_shown_and_why_a_message_waits_for_somebody_else() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue_with(QUEUE, by_region()).await;
        let _eu = consumer(&client, &["eu", "us"]).await;
        publish(&client, &["moon"]).await;
        let explained = client.explain_message(QUEUE, 0).await.expect("explained");
        let Some(MessagePlace::Ready(ready)) = explained.place else { panic!("{explained:?}") };
        assert_eq!(ready.obstacles, [DeliveryObstacle::FilteredOut as i32]);
        assert_eq!((ready.consumers, ready.consumers_filtered), (1, 1));
        let server = cluster.addresses().join(",");
        let args = ["queue", "explain", QUEUE, "0", "--server", &server];
        let text = run(&args, SOON).await.out;
        assert!(text.contains("a filter that it does not pass"), "{text}");
        let args = ["consumer", "describe", QUEUE, "eu+us", "--server", &server];
        let text = run(&args, SOON).await.out;
        assert!(text.contains(r#""eu", "us""#), "{text}");
    });
}

#[test]
fn what_cannot_be_filtered_is_refused_with_a_cure_and_a_header_that_changes_ends_who_filters() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let refused = |error: Error| match error {
            Error::Refused(refusal) => (refusal.reason.clone(), refusal.to_string()),
            error => panic!("{error:?}"),
        };
        let building = client.consumer(QUEUE).filter(["eu"]).build();
        let (why, text) = refused(building.await.expect_err("nothing to filter by"));
        assert_eq!(why, reason::INVALID_ARGUMENT);
        assert!(text.contains("--filter-header"), "{text}");
        let receiving = client.pull_consumer(QUEUE).filter(["eu"]);
        let receiving = receiving.receive(1, Duration::ZERO).await;
        assert_eq!(refused(receiving.expect_err("the same")).0, reason::INVALID_ARGUMENT);
        let many = client.consumer(QUEUE).filter((0..17).map(|n| n.to_string())).build().await;
        assert!(matches!(many.expect_err("too many"), Error::Invalid(_)));
        // A client that does not look is told by the server.
        let attach = raw::attach(QUEUE, &raw::session(), 5);
        let filter = (0..17).map(|n| n.to_string()).collect();
        let attach = quorate_proto::v1::Attach { filter, ..attach };
        let told = raw::RawConsumer::attach(&cluster.address(1), attach).await;
        assert_eq!(raw::reason(&told.expect_err("too many")), reason::INVALID_ARGUMENT);

        let both = QueueSettings { single_active: true, ..by_region() };
        let (why, text) = refused(client.create_queue("both", both).await.expect_err("refused"));
        assert_eq!(why, reason::INVALID_ARGUMENT);
        assert!(text.contains("single_active"), "{text}");

        let server = cluster.addresses().join(",");
        let update = async |header: &str| {
            let args =
                ["queue", "update", QUEUE, "--filter-header", header, "--server", server.as_str()];
            let shown = run(&args, SOON).await;
            assert_eq!(shown.code, Some(0), "{}", shown.err);
        };
        publish(&client, &["eu"]).await;
        update("region").await;
        publish(&client, &["eu", "us"]).await;
        let mut eu = consumer(&client, &["eu"]).await;
        let taken = take(&mut eu, 1).await;
        assert_eq!(taken.into_keys().collect::<Vec<_>>(), [1], "not what came before the header");
        update("country").await;
        let ended = tokio::time::timeout(SOON, eu.next()).await.expect("in time");
        let error = ended.expect("an error").expect_err("ended").to_string();
        assert!(error.contains(reason::FILTER_CHANGED), "{error}");
        let mut any = client.consumer(QUEUE).build().await.expect("a consumer");
        assert_eq!(take(&mut any, 2).await.into_keys().collect::<Vec<_>>(), [0, 2]);
    });
}

#[test]
fn a_sharded_queue_is_filtered_in_all_its_shards() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        client.create_sharded_queue(QUEUE, 3, by_region()).await.expect("created");
        publish(&client, &["eu", "us"].repeat(30)).await;
        let mut eu = consumer(&client, &["eu"]).await;
        let mut regions = Vec::new();
        for _ in 0..30 {
            let next = tokio::time::timeout(SOON, eu.next()).await.expect("in time");
            let delivery = next.expect("goes on").expect("a message");
            regions.push(delivery.headers.get("region").unwrap_or_default());
            delivery.ack().await.expect("acknowledged");
        }
        assert!(regions.iter().all(|region| region == "eu"), "{regions:?}");
        assert!(is_idle(&mut eu).await, "the others are not for it");
    });
}
