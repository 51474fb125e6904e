//! Topics: one message to several queues, by subject and headers, with an answer for each; over the death of a node,
//! and with one of the queues full.

use std::collections::BTreeSet;

use quorate_client::{Client, Message, QueueSettings, Route, reason};
use quorate_tests::process::run;
use quorate_tests::{Cluster, turn};

use crate::{HEAVY, LIGHT, SOON};

const TOPIC: &str = "orders";

async fn held(client: &Client, queue: &str) -> Vec<(String, Option<String>)> {
    let puller = client.pull_consumer(queue);
    let messages = puller.receive(1_000, std::time::Duration::ZERO).await.expect("received");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let subject = |headers: &[(String, bytes::Bytes)]| {
        headers.iter().find(|(key, _)| key == "quorate-subject").map(|(_, value)| text(value))
    };
    messages.iter().map(|message| (text(&message.body), subject(&message.headers))).collect()
}

#[test]
fn a_message_goes_to_each_queue_that_a_route_leads_to_and_the_answer_names_them() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue_with("all", QueueSettings::default()).await;
        for queue in ["eu", "paid"] {
            client.create_queue(queue, QueueSettings::default()).await.expect("created");
        }
        let small = QueueSettings { max_messages: 1, ..Default::default() };
        client.create_queue("small", small).await.expect("created");
        let routes = vec![
            Route::new("all", "orders.>"),
            Route::new("all", "orders.*.eu"),
            Route::new("eu", "orders.*.eu").header("kind", "real"),
            Route::new("paid", "orders.paid.*"),
        ];
        let version = client.set_topic(TOPIC, 0, routes.clone()).await.expect("set");
        assert_eq!(client.set_topic(TOPIC, 0, routes.clone()).await.expect("the same"), version);
        let late = client.set_topic(TOPIC, 0, vec![]).await.expect_err("decided on nothing");
        assert_eq!(late.reason(), Some(reason::TOPIC_CHANGED));

        let topic = client.topic(TOPIC);
        let batch = vec![
            Message::new("one").header("kind", "real"),
            Message::new("two").header("kind", "test"),
        ];
        // Any node routes: the one that is asked may know of the topic a moment later.
        let delivered = topic.publish("orders.paid.eu", batch).await.expect("published");
        assert!(delivered.is_complete(), "{delivered:?}");
        let named: Vec<_> =
            delivered.outcomes.iter().map(|o| (o.queue.as_str(), o.messages.as_slice())).collect();
        assert_eq!(named, [("all", &[0, 1][..]), ("eu", &[0][..]), ("paid", &[0, 1][..])]);
        let sole =
            topic.publish("orders.made.us", vec![Message::new("three")]).await.expect("published");
        assert_eq!(sole.outcomes.len(), 1);

        let nowhere =
            topic.publish("users.made", vec![Message::new("x")]).await.expect_err("no route");
        assert_eq!(nowhere.reason(), Some(reason::NO_ROUTE));
        let lenient = topic.clone().allow_unrouted();
        let allowed = lenient.publish("users.made", vec![Message::new("x")]).await;
        assert_eq!(allowed.expect("let go of").outcomes, []);

        // One of the queues refuses: the others have it, and the answer says so.
        let version = client
            .set_topic(TOPIC, version, vec![Route::new("all", ">"), Route::new("small", ">")])
            .await
            .expect("set");
        let all_know = async {
            loop {
                let mut knows = 0;
                for id in cluster.ids() {
                    let near = Client::connect([cluster.address(id)]).await.expect("connected");
                    let topics = near.list_topics().await.expect("listed");
                    knows += usize::from(topics.iter().any(|topic| topic.version == version));
                }
                if knows == 3 {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, all_know).await.expect("all nodes know");
        let two = vec![Message::new("four"), Message::new("five")];
        let partly = topic.publish("anything", two).await.expect("published");
        assert!(!partly.is_complete());
        let failed = partly.outcomes.iter().find(|o| o.queue == "small").expect("an outcome");
        assert_eq!(failed.receipt.as_ref().expect_err("full").reason, reason::QUEUE_FULL);

        // Under an id it enters once at each, however often it is published.
        let named = topic.clone().message_id("order 7");
        let mut receipts = Vec::new();
        for _ in 0..2 {
            let both = named.publish("anything", vec![Message::new("six")]).await.expect("routed");
            let of = both.outcomes.into_iter().map(|outcome| outcome.receipt.expect("it is taken"));
            receipts.push(of.map(|it| (it.first_offset, it.duplicate)).collect::<Vec<_>>());
        }
        assert_eq!(receipts[0].len(), 2);
        for (first, again) in receipts[0].iter().zip(&receipts[1]) {
            assert_eq!((first.1, again), (false, &(first.0, true)));
        }
        let other = named.publish("anything", vec![Message::new("7"), Message::new("8")]).await;
        for outcome in other.expect("routed").outcomes {
            let refusal = outcome.receipt.expect_err("another batch of this id");
            assert_eq!(refusal.reason, reason::MESSAGE_ID_CONFLICT);
        }

        let leader = cluster.leader_of("all").await;
        cluster.kill9(leader);
        let mut confirmed = BTreeSet::new();
        for n in 0..20 {
            let body = format!("late {n}");
            let topic = topic.clone().message_id(body.clone());
            let routed = topic.publish("anything", vec![Message::new(body.clone())]).await;
            let outcomes = routed.expect("a node answers").outcomes;
            if outcomes.iter().any(|o| o.queue == "all" && o.receipt.is_ok()) {
                confirmed.insert(body);
            } else {
                // No leader yet: the others answer at once, as the queue that is full does.
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
        assert!(confirmed.len() > 10, "{confirmed:?}");
        let all = held(&client, "all").await;
        let subject = |subject: &str| Some(subject.to_owned());
        assert_eq!(all[0], ("one".to_owned(), subject("orders.paid.eu")));
        assert_eq!(all[2], ("three".to_owned(), subject("orders.made.us")));
        let bodies: BTreeSet<_> = all.iter().map(|(body, _)| body.clone()).collect();
        assert!(confirmed.is_subset(&bodies), "{confirmed:?} of {bodies:?}");
        assert_eq!(held(&client, "eu").await, [("one".to_owned(), subject("orders.paid.eu"))]);
        assert_eq!(held(&client, "paid").await.len(), 2);

        // Routes to a queue that is deleted go with it.
        client.delete_queue("small", false).await.expect("deleted");
        let topics = client.list_topics().await.expect("listed");
        assert_eq!(topics[0].routes, [Route::new("all", ">")]);
        client.delete_topic(TOPIC).await.expect("deleted");
        let gone = client.delete_topic(TOPIC).await.expect_err("it is gone");
        assert_eq!(gone.reason(), Some(reason::TOPIC_NOT_FOUND));
    });
}

#[test]
fn a_queue_that_nobody_leads_keeps_the_answers_of_the_others_back_no_longer_than_a_client_waits() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue("all").await;
        let alone = QueueSettings { replicas: 1, ..Default::default() };
        client.create_queue("alone", alone).await.expect("created");
        let routes = vec![Route::new("all", ">"), Route::new("alone", ">")];
        client.set_topic(TOPIC, 0, routes).await.expect("set");
        let topic = client.topic(TOPIC);
        let published = async || topic.publish("a", vec![Message::new("x")]).await;
        assert!(published().await.expect("published").is_complete());

        cluster.kill9(cluster.leader_of("alone").await);
        cluster.leader_of("all").await;
        let partly = published().await.expect("an answer, though not of all");
        let of = |queue: &str| partly.outcomes.iter().find(|of| of.queue == queue);
        assert!(of("all").expect("named").receipt.is_ok(), "{partly:?}");
        assert!(of("alone").expect("named").receipt.is_err(), "{partly:?}");
        assert_eq!(held(&client, "all").await.len(), 2, "each entered once");
    });
}

#[test]
fn the_command_line_binds_and_publishes_and_says_what_is_wrong() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let _client = cluster.queue("billing").await;
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let unknown = quorate(&["topic", "publish", TOPIC, "a", "x"]).await;
        assert!(unknown.err.contains("TOPIC_NOT_FOUND"), "{}", unknown.err);
        for wrong in [["orders..eu", "empty"], ["orders.>.eu", "`>`"], ["orders.a*", "`*`"]] {
            let refused = quorate(&["topic", "bind", TOPIC, "billing", wrong[0]]).await;
            assert!(refused.err.contains(wrong[1]), "{}", refused.err);
        }
        let missing = quorate(&["topic", "bind", TOPIC, "nobody", ">"]).await;
        assert!(missing.err.contains("QUEUE_NOT_FOUND"), "{}", missing.err);
        let bound =
            quorate(&["topic", "bind", TOPIC, "billing", "orders.*", "-H", "paid=yes"]).await;
        assert_eq!(bound.code, Some(0), "{}", bound.err);
        let listed = quorate(&["topic", "list"]).await;
        assert!(
            listed.out.contains("orders.*") && listed.out.contains("paid=yes"),
            "{}",
            listed.out
        );
        let publish = ["topic", "publish", TOPIC, "orders.7", "x"];
        let published = quorate(&[&publish[..], &["-H", "paid=yes"]].concat()).await;
        assert_eq!(
            (published.code, published.out.as_str()),
            (Some(0), "billing: 1 from offset 0\n")
        );
        let unrouted = quorate(&publish).await;
        assert!(unrouted.err.contains("NO_ROUTE"), "{}", unrouted.err);
        let unbound =
            quorate(&["topic", "unbind", TOPIC, "billing", "orders.*", "-H", "paid=yes"]).await;
        assert_eq!(unbound.code, Some(0), "{}", unbound.err);
        let again = quorate(&["topic", "unbind", TOPIC, "billing", "orders.*"]).await;
        assert!(again.err.contains("has no route"), "{}", again.err);
    });
}
