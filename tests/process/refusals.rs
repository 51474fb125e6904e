//! Bad input: each gets its typed reason, at once, and costs nobody else anything.

use std::time::Duration;

use bytes::Bytes;
use quorate_client::{QueueSettings, reason};
use quorate_proto::v1;
use quorate_proto::v1::SettleKind;
use quorate_proto::v1::consume_request::Request;
use quorate_tests::raw::{self, RawConsumer, item};
use quorate_tests::{Cluster, turn};
use tonic::{Code, Status};

use crate::LIGHT;

const QUEUE: &str = "orders";

/// A queue at a single node, with short leases.
async fn one_node() -> (Cluster, String) {
    let cluster = Cluster::start(1).await;
    let settings = QueueSettings { lease_ms: 500, ..Default::default() };
    cluster.queue_with(QUEUE, settings).await;
    let address = cluster.address(1);
    (cluster, address)
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, reason: &str) -> String {
    let status = outcome.expect_err("refused");
    assert_eq!((status.code(), raw::reason(&status).as_str()), (code, reason), "{status:?}");
    assert!(!status.message().is_empty());
    status.message().to_owned()
}

fn invalid<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    refused(outcome, Code::InvalidArgument, reason::INVALID_ARGUMENT)
}

fn admin(address: &str) -> v1::admin_service_client::AdminServiceClient<tonic::transport::Channel> {
    v1::admin_service_client::AdminServiceClient::new(raw::channel(address))
}

fn frame(count: u32, messages: impl Into<Bytes>) -> v1::PublishRequest {
    let frame = v1::Frame { layout: 1, count, messages: messages.into() };
    v1::PublishRequest { queue: QUEUE.to_owned(), frame: Some(frame), ..Default::default() }
}

fn message(key: &str, value: usize) -> v1::PublishRequest {
    let header = v1::Header { key: key.to_owned(), value: vec![1; value].into() };
    let message = v1::Message { body: "body".into(), headers: vec![header], ..<_>::default() };
    v1::PublishRequest { queue: QUEUE.to_owned(), messages: vec![message], ..Default::default() }
}

#[test]
fn an_unknown_queue_is_not_found_by_any_call() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let unknown = |outcome: Result<(), Status>| {
            let said = refused(outcome, Code::NotFound, reason::QUEUE_NOT_FOUND);
            assert!(said.contains("nowhere"), "{said}");
        };
        let name = || "nowhere".to_owned();
        unknown(raw::publish(&address, "nowhere", "x", None).await.map(drop));
        let attach = raw::attach("nowhere", &raw::session(), 1);
        unknown(RawConsumer::attach(&address, attach).await.map(drop));
        let mut admin = admin(&address);
        unknown(admin.describe_queue(v1::DescribeQueueRequest { name: name() }).await.map(drop));
        unknown(
            admin.purge_queue(v1::PurgeQueueRequest { name: name(), before: None }).await.map(drop),
        );
        for if_empty in [false, true] {
            let request = v1::DeleteQueueRequest { name: name(), if_empty };
            unknown(admin.delete_queue(request).await.map(drop));
        }
        let locate = v1::LocateQueueRequest { queue: name() };
        let channel = raw::channel(&address);
        let mut cluster = v1::cluster_service_client::ClusterServiceClient::new(channel);
        unknown(cluster.locate_queue(locate).await.map(drop));
    });
}

#[test]
fn an_unknown_queue_is_not_found_at_every_node_of_a_cluster() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        for address in cluster.addresses() {
            let outcome = raw::publish(&address, "nowhere", "x", None).await;
            refused(outcome, Code::NotFound, reason::QUEUE_NOT_FOUND);
        }
    });
}

#[test]
fn a_name_that_cannot_be_is_invalid() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let long = "x".repeat(129);
        for name in ["", " ", "a b", ".hidden", "-x", "ä", "a/b", "a\0b", &long] {
            let request = v1::CreateQueueRequest { name: name.to_owned(), settings: None };
            invalid(admin(&address).create_queue(request).await);
            invalid(raw::publish(&address, name, "x", None).await);
        }
        let name = "x".repeat(128);
        let request = v1::CreateQueueRequest { name, settings: None };
        admin(&address).create_queue(request).await.expect("128 characters are allowed");
    });
}

#[test]
fn settings_that_cannot_be_are_invalid() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let none = QueueSettings::default();
        for settings in [
            QueueSettings { replicas: 2, ..none.clone() },
            QueueSettings { replicas: 7, ..none.clone() },
            QueueSettings { lease_ms: 99, ..none.clone() },
            QueueSettings { lease_ms: u32::MAX, ..none.clone() },
            QueueSettings { session_grace_ms: u32::MAX, ..none.clone() },
        ] {
            let request = v1::CreateQueueRequest { name: "q".to_owned(), settings: Some(settings) };
            invalid(admin(&address).create_queue(request).await);
        }
    });
}

#[test]
fn a_queue_that_exists_with_other_settings_is_told_apart() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let create = |lease_ms| {
            let settings = Some(QueueSettings { lease_ms, ..Default::default() });
            let request = v1::CreateQueueRequest { name: QUEUE.to_owned(), settings };
            let mut admin = admin(&address);
            async move { admin.create_queue(request).await }
        };
        refused(create(700).await, Code::AlreadyExists, reason::QUEUE_EXISTS);
        let same = create(500).await.expect("the same settings").into_inner();
        assert!(!same.created);
    });
}

#[test]
fn more_replicas_than_nodes_are_refused() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let settings = Some(QueueSettings { replicas: 5, ..Default::default() });
        let request = v1::CreateQueueRequest { name: "wide".to_owned(), settings };
        let outcome = admin(&cluster.address(2)).create_queue(request).await;
        refused(outcome, Code::FailedPrecondition, reason::NOT_ENOUGH_NODES);
    });
}

#[test]
fn a_message_that_is_too_large_is_refused_and_the_largest_is_taken() {
    turn::beside_others(LIGHT, async {
        const LIMIT: usize = 1 << 20;
        let (_cluster, address) = one_node().await;
        let too_large = |outcome: Result<v1::Receipt, Status>| {
            refused(outcome, Code::InvalidArgument, reason::MESSAGE_TOO_LARGE)
        };
        // Two bytes of a message are its count of headers.
        let said = too_large(raw::publish(&address, QUEUE, vec![0; LIMIT - 1], None).await);
        assert!(said.contains("max_message_bytes"), "{said}");
        raw::publish(&address, QUEUE, vec![0; LIMIT - 2], None).await.expect("just small enough");
        let many = v1::Message { body: vec![0; LIMIT / 2].into(), ..<_>::default() };
        let messages = vec![many; 9];
        let request =
            v1::PublishRequest { queue: QUEUE.to_owned(), messages, ..Default::default() };
        let said = too_large(raw::publish_request(&address, request).await);
        assert!(said.contains("max_frame_bytes"), "{said}");
    });
}

#[test]
fn a_request_beyond_every_limit_ends_in_an_error_not_in_memory() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let outcome = raw::publish(&address, QUEUE, vec![0; 80 << 20], None).await;
        let status = outcome.expect_err("refused");
        assert!(matches!(status.code(), Code::OutOfRange | Code::InvalidArgument), "{status:?}");
        raw::publish(&address, QUEUE, "small", None).await.expect("the node goes on");
    });
}

#[test]
fn a_malformed_frame_is_invalid() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let good = [6u8, 0, 0, 0, 0, 0, b'b', b'o', b'd', b'y'];
        let cases: [(u32, Vec<u8>); 8] = [
            (1, vec![]),
            (0, vec![]),
            (0, good.to_vec()),
            (2, good.to_vec()),
            (1, good[..9].to_vec()),
            (1, [255, 255, 255, 255, 0, 0].to_vec()),
            (u32::MAX, good.to_vec()),
            (1, [2, 0, 0, 0, 5, 0].to_vec()),
        ];
        for (count, bytes) in cases {
            let outcome = raw::publish_request(&address, frame(count, bytes.clone())).await;
            let status = outcome.expect_err(&format!("{count} {bytes:?}"));
            let reason = raw::reason(&status);
            let typed = [reason::INVALID_ARGUMENT, reason::MESSAGE_TOO_LARGE];
            assert!(typed.contains(&reason.as_str()), "{count} {bytes:?}: {status:?}");
        }
        let receipt = raw::publish_request(&address, frame(1, good.to_vec())).await;
        assert_eq!(receipt.expect("well-formed").first_offset, 0);
    });
}

#[test]
fn a_malformed_header_is_invalid() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        invalid(raw::publish_request(&address, message("", 1)).await);
        invalid(raw::publish_request(&address, message(&"k".repeat(257), 1)).await);
        let mut many = message("k", 1);
        many.messages[0].headers = vec![many.messages[0].headers[0].clone(); 65];
        invalid(raw::publish_request(&address, many).await);
        // One header whose key is not UTF-8: key length 1, key 0xff, value length 0.
        let bytes = [9u8, 0, 0, 0, 1, 0, 1, 0, 0xff, 0, 0, 0, 0];
        invalid(raw::publish_request(&address, frame(1, bytes.to_vec())).await);
        raw::publish_request(&address, message(&"k".repeat(256), 1))
            .await
            .expect("just short enough");
    });
}

#[test]
fn an_unknown_frame_layout_is_told_as_a_version() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let mut request = frame(1, vec![6u8, 0, 0, 0, 0, 0, b'b', b'o', b'd', b'y']);
        request.frame.as_mut().expect("a frame").layout = 9;
        let outcome = raw::publish_request(&address, request).await;
        refused(outcome, Code::Unimplemented, reason::UNSUPPORTED_VERSION);
    });
}

#[test]
fn messages_and_frame_together_or_neither_are_invalid() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let mut both = message("k", 1);
        both.frame = frame(1, vec![2u8, 0, 0, 0, 0, 0]).frame;
        invalid(raw::publish_request(&address, both).await);
        let neither = v1::PublishRequest { queue: QUEUE.to_owned(), ..Default::default() };
        invalid(raw::publish_request(&address, neither).await);
    });
}

#[test]
fn a_producer_id_that_cannot_be_is_invalid() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        invalid(raw::publish(&address, QUEUE, "x", Some(("", 0))).await);
        invalid(raw::publish(&address, QUEUE, "x", Some((&"p".repeat(129), 0))).await);
    });
}

#[test]
fn a_gap_in_a_producers_sequence_names_the_expected_one() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        raw::publish(&address, QUEUE, "x", Some(("p", 0))).await.expect("the first");
        let outcome = raw::publish(&address, QUEUE, "x", Some(("p", 2))).await;
        refused(outcome, Code::FailedPrecondition, reason::OUT_OF_ORDER);
    });
}

#[test]
fn an_attachment_that_cannot_be_is_invalid() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let good = raw::attach(QUEUE, &raw::session(), 10);
        let with = |change: &dyn Fn(&mut v1::Attach)| {
            let mut attach = good.clone();
            change(&mut attach);
            attach
        };
        let cases = [
            ("no prefetch", with(&|attach| attach.prefetch = 0)),
            ("huge prefetch", with(&|attach| attach.prefetch = 65_536)),
            ("no session", with(&|attach| attach.session = Bytes::new())),
            ("short session", with(&|attach| attach.session = vec![1; 15].into())),
            ("long session", with(&|attach| attach.session = vec![1; 17].into())),
            ("long name", with(&|attach| attach.name = "n".repeat(129))),
            ("short lease", with(&|attach| attach.lease_ms = 99)),
            ("long lease", with(&|attach| attach.lease_ms = 43_200_001)),
        ];
        for (what, attach) in cases {
            let outcome = RawConsumer::attach(&address, attach).await;
            let status = outcome.expect_err(what);
            assert_eq!(raw::reason(&status), reason::INVALID_ARGUMENT, "{what}: {status:?}");
        }
        RawConsumer::attach(&address, good).await.expect("attach");
    });
}

#[test]
fn a_stream_that_does_not_begin_as_it_must_is_invalid() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        for first in [
            Some(Request::Detach(v1::Detach {})),
            Some(Request::Settle(v1::Settle::default())),
            None,
        ] {
            invalid(RawConsumer::open(&address, first).await);
        }
        let batch = v1::publish_stream_request::Request::Batch(v1::PublishBatch::default());
        let first = v1::PublishStreamRequest { request: Some(batch) };
        let channel = raw::channel(&address);
        let mut client = v1::queue_service_client::QueueServiceClient::new(channel);
        invalid(client.publish_stream(futures_util::stream::iter([first])).await);
    });
}

#[test]
fn a_second_attach_in_a_stream_is_refused_and_the_stream_goes_on() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        let attach = raw::attach(QUEUE, &raw::session(), 10);
        let mut consumer = RawConsumer::attach(&address, attach.clone()).await.expect("attach");
        consumer.send(Request::Attach(attach)).await;
        match consumer.answer().await {
            Ok(Some(v1::consume_response::Response::Settled(settled))) => {
                let failure = settled.failure.expect("a failure");
                assert_eq!(failure.reason, reason::INVALID_ARGUMENT);
            }
            other => panic!("a failure was expected, not {other:?}"),
        }
        raw::publish(&address, QUEUE, "x", None).await.expect("publish");
        consumer.delivery().await;
    });
}

#[test]
fn a_settle_that_cannot_be_fails_and_the_stream_goes_on() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        raw::publish(&address, QUEUE, "x", None).await.expect("publish");
        let attach = raw::attach(QUEUE, &raw::session(), 10);
        let mut consumer = RawConsumer::attach(&address, attach).await.expect("attach");
        let delivery = consumer.delivery().await;
        let good = item(SettleKind::Ack, &delivery, 0);
        for wrong in [
            v1::SettleItem { kind: SettleKind::Unspecified.into(), ..good },
            v1::SettleItem { kind: 99, ..good },
            v1::SettleItem { count: 0, ..good },
            v1::SettleItem { kind: SettleKind::Extend.into(), delay_ms: 99, ..good },
            v1::SettleItem { first_offset: u64::MAX, ..good },
        ] {
            let failure = consumer.settle(wrong).await.failure.expect("a failure");
            assert_eq!(failure.reason, reason::INVALID_ARGUMENT, "{wrong:?}: {failure:?}");
        }
        for wrong in [
            v1::SettleItem { token: good.token + 1, ..good },
            v1::SettleItem { first_offset: good.first_offset + 1, ..good },
        ] {
            let settled = consumer.settle(wrong).await;
            let range = v1::OffsetRange { first_offset: wrong.first_offset, count: 1 };
            assert_eq!((settled.lost, settled.failure), (vec![range], None), "{wrong:?}");
        }
        let settled = consumer.settle(good).await;
        assert!(settled.lost.is_empty() && settled.failure.is_none(), "{settled:?}");
    });
}

#[test]
fn a_settle_after_the_lease_ended_is_told_as_lost() {
    turn::beside_others(LIGHT, async {
        let (_cluster, address) = one_node().await;
        raw::publish(&address, QUEUE, "x", None).await.expect("publish");
        let attach = raw::attach(QUEUE, &raw::session(), 1);
        let mut consumer = RawConsumer::attach(&address, attach).await.expect("attach");
        let first = consumer.delivery().await;
        assert_eq!(first.attempt, 1);
        // The lease is 500 ms: the message comes again under another token.
        let again = consumer.delivery().await;
        assert_eq!((again.first_offset, again.attempt), (first.first_offset, 2));
        assert!(again.token > first.token);
        let settled = consumer.settle(item(SettleKind::Ack, &first, 0)).await;
        let lost = v1::OffsetRange { first_offset: first.first_offset, count: 1 };
        assert_eq!((settled.lost, settled.failure), (vec![lost], None));
    });
}

#[test]
fn what_is_no_grpc_does_not_disturb_the_node() {
    turn::beside_others(LIGHT, async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (_cluster, address) = one_node().await;
        for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 100_000], vec![]] {
            let mut socket = tokio::net::TcpStream::connect(&address).await.expect("connect");
            // The node may hang up before all of it is written.
            let _ = socket.write_all(&garbage).await;
            let _ = socket.shutdown().await;
            let mut answer = Vec::new();
            let read = socket.read_to_end(&mut answer);
            let ended = tokio::time::timeout(Duration::from_secs(10), read).await;
            assert!(ended.is_ok(), "the node keeps a connection that says nothing it knows");
        }
        raw::publish(&address, QUEUE, "x", None).await.expect("the node goes on");
    });
}
