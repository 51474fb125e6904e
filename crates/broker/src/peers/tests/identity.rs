//! Who is let in, and what callers of a node that cannot be reached are told.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_group::Peers;
use quorate_proto::internal as pb;
use quorate_proto::internal::peer_client::PeerClient;
use quorate_proto::internal::rpc::Body;

use super::cluster::{PULSE, Scripted, append, myself, serve, within};
use super::relay::Relay;
use crate::peers::{Addresses, Connections, Myself, OUTSTANDING_BYTES_MAX};

fn vote() -> Body {
    Body::Vote(pb::VoteRequest::default())
}

async fn connected_to(address: impl ToString, node: u64) -> Connections {
    let addresses = Addresses::default();
    addresses.set(node, address.to_string());
    Connections::new(myself(1), addresses, PULSE).0
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_and_told_why() {
    let (address, _server) = serve(Scripted::new(myself(2))).await;
    let addresses = Addresses::default();
    addresses.set(2, address.to_string());
    let stranger = Myself { cluster_id: "other".into(), ..myself(1) };
    let (connections, _) = Connections::new(stranger, addresses, PULSE);
    let error = connections.call(2, 7, vote()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "reach node 2: node 1 belongs to cluster \"other\", this one to \"test\": correct its peers"
    );
    let head = pb::snapshot_chunk::Chunk::Head(pb::SnapshotHead::default());
    let chunks = futures_util::stream::iter([pb::SnapshotChunk { chunk: Some(head) }]).boxed();
    let error = connections.snapshot(2, chunks).await.unwrap_err();
    assert!(error.reason.contains("correct its peers"), "{error}");
    assert!(!connections.reachable(2));
}

#[tokio::test]
async fn an_address_that_belongs_to_another_node_is_noticed() {
    let (address, _server) = serve(Scripted::new(myself(3))).await;
    let connections = connected_to(address, 2).await;
    let error = connections.call(2, 7, vote()).await.unwrap_err();
    assert_eq!(error.reason, format!("{address} is node 3: correct the address of node 2"));
}

#[tokio::test]
async fn calls_to_an_unreachable_node_fail_fast() {
    let unused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let connections = connected_to(unused, 2).await;
    let since = Instant::now();
    for _ in 0..10 {
        let error = connections.call(2, 7, vote()).await.unwrap_err();
        assert!(error.reason.contains("refused"), "{error}");
        assert!(connections.open(2, 7).await.is_err());
    }
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let error = connections.call(3, 7, vote()).await.unwrap_err();
    assert_eq!(error.reason, "its address is not known to this node");
    assert!(connections.channel(3).is_err());
}

#[tokio::test]
async fn a_group_that_is_not_here_is_said_so() {
    let (address, _server) = serve(Scripted::new(myself(2))).await;
    let connections = connected_to(address, 2).await;
    let answer = connections.call(2, 7, vote()).await.unwrap();
    assert_eq!(answer, Body::Failed("no replica of group 7 here".into()));
    let mut link = connections.open(2, 7).await.unwrap();
    link.sender()(Body::StreamAppend(append(10))).await.unwrap();
    assert_eq!(link.next().await, Some(Body::Failed("no replica of group 7 here".into())));
    assert!(connections.reachable(2));
}

#[tokio::test]
async fn other_services_share_the_connection() {
    let (address, _server) = serve(Scripted::new(myself(2))).await;
    let relay = Relay::to(address).await;
    let connections = connected_to(relay.address, 2).await;
    connections.call(2, 7, vote()).await.unwrap();
    let mut client = PeerClient::new(connections.channel(2).unwrap());
    let identity = client.identify(pb::IdentifyRequest {}).await.unwrap().into_inner();
    assert_eq!(identity.node_id, 2);
    assert_eq!(relay.accepted(), 1);
}

#[tokio::test]
async fn a_cut_connection_ends_calls_and_links_and_is_made_again() {
    let (address, _server) = serve(Scripted::new(myself(2))).await;
    let relay = Relay::to(address).await;
    let connections = connected_to(relay.address, 2).await;
    let mut link = connections.open(2, 7).await.unwrap();
    let send = link.sender();
    relay.refuse(true);
    let since = Instant::now();
    assert_eq!(link.next().await, None);
    assert!(since.elapsed() < Duration::from_secs(1));
    assert_eq!(send(Body::StreamAppend(append(10))).await, None);
    assert!(connections.call(2, 7, vote()).await.is_err());
    assert!(!connections.reachable(2));
    relay.refuse(false);
    within("a new connection", || async { connections.call(2, 7, vote()).await.ok() }).await;
    assert!(connections.reachable(2));
}

#[tokio::test]
async fn close_fails_what_waits_and_all_that_comes_later() {
    let (address, _server) = serve(Scripted::new(myself(2))).await;
    let connections = connected_to(address, 2).await;
    let mut link = connections.open(2, 7).await.unwrap();
    connections.close().await;
    assert_eq!(link.next().await, None);
    let error = connections.call(2, 7, vote()).await.unwrap_err();
    assert_eq!(error.reason, "this node has closed its connections");
    assert!(connections.channel(2).is_err());
}

#[tokio::test]
async fn a_sender_waits_while_too_much_is_unanswered() {
    // Accepts connections and answers nothing but the Hello: appends to a stream whose reader waits.
    let (address, _server) = serve(Scripted::new(myself(2))).await;
    let connections = connected_to(address, 2).await;
    let mut links = Vec::new();
    let mut sent = 0;
    for group in 0.. {
        let link = connections.open(2, group).await.unwrap();
        let send = link.sender();
        let mut own = 0;
        // Answers are not read, so they do not free the windows.
        while let Ok(Some(())) = tokio::time::timeout(
            Duration::from_millis(100),
            send(Body::StreamAppend(append(1 << 20))),
        )
        .await
        {
            own += 1;
        }
        links.push(link);
        sent += own;
        assert!(own <= 4, "a link has its own window: {own}");
        if own == 0 {
            break;
        }
    }
    assert!((20..=OUTSTANDING_BYTES_MAX >> 20).contains(&sent), "{sent}");
    // What a link held is given back when it ends.
    let mut last = links.pop().unwrap();
    links.clear();
    last.sender()(Body::StreamAppend(append(10))).await.unwrap();
    assert!(matches!(last.next().await, Some(Body::Failed(_))));
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_the_connection_stays() {
    let (address, _server) = serve(Scripted::new(myself(2))).await;
    let connections = connected_to(address, 2).await;
    let mut link = connections.open(2, 7).await.unwrap();
    assert_eq!(link.sender()(Body::StreamAppend(append(64 << 20))).await, None);
    let Some(Body::Failed(reason)) = link.next().await else { panic!("no refusal") };
    assert!(reason.contains("beyond the limit"), "{reason}");
    let error = connections.call(2, 7, Body::Append(append(64 << 20))).await.unwrap_err();
    assert!(error.reason.contains("beyond the limit"), "{error}");
    assert!(connections.reachable(2));
}
