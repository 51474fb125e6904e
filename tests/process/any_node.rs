//! Any node takes any call, wherever the queue is led.

use futures_util::StreamExt;
use quorate_client::{Client, Message};
use quorate_proto::v1::SettleKind;
use quorate_tests::raw::{self, RawConsumer, item};
use quorate_tests::{Cluster, turn};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";

#[test]
fn every_node_takes_every_call() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        cluster.queue(QUEUE).await;
        let leader = cluster.leader_of(QUEUE).await;
        for (number, address) in cluster.addresses().iter().enumerate() {
            // Without the SDK: nothing follows a hint to the leader.
            let body = format!("at node {}", number + 1);
            let receipt = raw::publish(address, QUEUE, body.clone(), None).await.expect("publish");
            let attach = raw::attach(QUEUE, &raw::session(), 1);
            let mut consumer = RawConsumer::attach(address, attach).await.expect("attach");
            let delivery = consumer.delivery().await;
            assert_eq!(delivery.first_offset, receipt.first_offset);
            assert_eq!(raw::bodies(&delivery), [body]);
            let settled = consumer.settle(item(SettleKind::Ack, &delivery, 0)).await;
            assert!(settled.lost.is_empty() && settled.failure.is_none(), "{settled:?}");
            // With it, and this one address to begin with.
            let client = Client::connect([address.as_str()]).await.expect("connect");
            let queue = client.describe_queue(QUEUE).await.expect("describe");
            assert_eq!(queue.leader.expect("a leader").node_id, leader);
            assert_eq!(queue.counts.expect("counts").acked, number as u64 + 1);
            client
                .create_queue(format!("made-{number}"), Default::default())
                .await
                .expect("create");
            assert_eq!(client.purge_queue(QUEUE).await.expect("purge"), 0);
            client.delete_queue(format!("made-{number}"), true).await.expect("delete");
        }
    });
}

#[test]
fn a_client_that_knows_one_node_survives_the_death_of_that_node() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        cluster.queue(QUEUE).await;
        let known = cluster.leader_of(QUEUE).await;
        let client = Client::connect([cluster.address(known)]).await.expect("connect");
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        producer.publish(Message::new("before")).await.expect("publish");
        consumer.next().await.expect("a delivery").expect("a message").ack().await.expect("ack");
        cluster.kill9(known);
        producer.publish(Message::new("after")).await.expect("publish at another node");
        let delivery = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
        let delivery = delivery.expect("a delivery").expect("a message");
        assert_eq!(delivery.body, "after");
        delivery.ack().await.expect("ack");
    });
}

#[test]
fn a_publish_sent_again_at_another_node_after_the_leaders_death_enters_once() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let leader = cluster.leader_of(QUEUE).await;
        let address = cluster.address(leader);
        let mut receipts = Vec::new();
        for sequence in 0..5 {
            let body = format!("message {sequence}");
            let receipt = raw::publish(&address, QUEUE, body, Some(("shop", sequence))).await;
            receipts.push(receipt.expect("publish"));
        }
        cluster.kill9(leader);
        let other = cluster.ids().into_iter().find(|id| *id != leader).expect("another node");
        let other = cluster.address(other);
        for (sequence, first) in receipts.iter().enumerate().rev() {
            let body = format!("message {sequence}");
            let producer = ("shop", sequence as u64);
            let again = raw::publish_surely(&other, QUEUE, body, producer).await;
            assert_eq!((again.first_offset, again.duplicate), (first.first_offset, true));
            assert!(!first.duplicate);
        }
        let next = raw::publish(&other, QUEUE, "new", Some(("shop", 5))).await.expect("publish");
        assert_eq!((next.first_offset, next.duplicate), (5, false));
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert_eq!(counts.published, 6);
    });
}

#[test]
fn reflection_names_the_services_and_their_files() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(1).await;
        let services = reflect(&cluster, MessageRequest::ListServices(String::new())).await;
        let MessageResponse::ListServicesResponse(services) = services else {
            panic!("a list was expected, not {services:?}");
        };
        let names: Vec<String> = services.service.into_iter().map(|service| service.name).collect();
        for name in [
            "quorate.v1.QueueService",
            "quorate.v1.ConsumerService",
            "quorate.v1.AdminService",
            "quorate.v1.ClusterService",
            "grpc.health.v1.Health",
        ] {
            assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
        }
        let symbol =
            MessageRequest::FileContainingSymbol("quorate.v1.QueueService.Publish".to_owned());
        let file = reflect(&cluster, symbol).await;
        assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{file:?}");
    });
}

async fn reflect(cluster: &Cluster, request: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(raw::channel(&cluster.address(1)));
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let answers = client.server_reflection_info(futures_util::stream::iter([request])).await;
    let answer = answers.expect("reflection").into_inner().message().await.expect("an answer");
    answer.and_then(|answer| answer.message_response).expect("a response")
}
