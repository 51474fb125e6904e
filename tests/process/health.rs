//! `grpc.health.v1`: what a node says of itself, its services and its queues.

use std::time::{Duration, Instant};

use quorate_client::reason;
use quorate_tests::{Cluster, Plan, raw, turn};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::{LIGHT, SOON};

const QUEUE: &str = "orders";
const SERVICES: [&str; 5] = [
    "quorate.v1.QueueService",
    "quorate.v1.ConsumerService",
    "quorate.v1.ReaderService",
    "quorate.v1.AdminService",
    "quorate.v1.ClusterService",
];

#[test]
fn health_tells_of_the_node_its_services_and_the_queues_that_it_leads() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        cluster.queue(QUEUE).await;
        let leader = cluster.leader_of(QUEUE).await;
        for node in cluster.ids() {
            for service in [&[""], &SERVICES[..]].concat() {
                becomes(&cluster, node, service, ServingStatus::Serving).await;
            }
            let leads = match node == leader {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            becomes(&cluster, node, "queue/orders", leads).await;
            for unknown in ["quorate.v1.NoService", "orders", "queue/", "queue/nowhere", "queue/-"]
            {
                let told = status_of(&cluster, node, unknown).await;
                assert_eq!(told, Err(Code::NotFound), "{unknown:?}");
            }
        }
        // A node that is drained is taken out by load balancers before it stops: it leads nothing then.
        let client = cluster.client().await;
        client.drain_node(leader, true).await.expect("drain");
        becomes(&cluster, leader, "queue/orders", ServingStatus::NotServing).await;
        for service in SERVICES {
            becomes(&cluster, leader, service, ServingStatus::NotServing).await;
        }
        becomes(&cluster, leader, "", ServingStatus::Serving).await;
    });
}

#[test]
fn watching_a_queue_tells_of_changes_only_and_follows_the_leader_over_its_death() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let leader = cluster.leader_of(QUEUE).await;
        let mut watched = Vec::new();
        for node in cluster.ids() {
            watched
                .push((node, Watched::open(&cluster, node, "queue/orders").await.expect("watch")));
        }
        for (node, watched) in &mut watched {
            let leads = match *node == leader {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            assert_eq!(watched.next().await, Some(leads), "node {node}");
            assert!(watched.is_silent_for(Duration::from_secs(1)).await, "nothing has changed");
        }
        let dies = watched.iter().position(|(node, _)| *node == leader).expect("it is watched");
        let (_, mut at_leader) = watched.remove(dies);
        cluster.kill9(leader);
        let killed = Instant::now();
        assert_eq!(at_leader.next().await, None, "the stream breaks");
        let next = cluster.leader_of(QUEUE).await;
        let heir = watched.iter_mut().find(|(node, _)| *node == next).expect("it is watched");
        assert_eq!(heir.1.next().await, Some(ServingStatus::Serving));
        println!("SERVING at the next leader {:?} after kill -9", killed.elapsed());
        let other = watched.iter_mut().find(|(node, _)| *node != next).expect("it is watched");
        assert!(other.1.is_silent_for(Duration::from_secs(1)).await, "it does not lead as before");
        // One that is stopped in order says so first.
        let mut at_node = Watched::open(&cluster, next, "").await.expect("watch");
        assert_eq!(at_node.next().await, Some(ServingStatus::Serving));
        cluster.stop(next).await;
        assert_eq!(at_node.next().await, Some(ServingStatus::NotServing));
        drop(client);
    });
}

#[test]
fn watching_an_unknown_queue_goes_on_until_it_is_made_and_deleted() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(1).await;
        let mut watched = Watched::open(&cluster, 1, "queue/later").await.expect("watch");
        assert_eq!(watched.next().await, Some(ServingStatus::ServiceUnknown));
        let client = cluster.queue("later").await;
        // Known before it is led, perhaps.
        let mut then = watched.next().await;
        if then == Some(ServingStatus::NotServing) {
            then = watched.next().await;
        }
        assert_eq!(then, Some(ServingStatus::Serving));
        client.delete_queue("later", true).await.expect("delete");
        assert_eq!(watched.next().await, Some(ServingStatus::ServiceUnknown));
    });
}

#[test]
fn watches_are_streams_of_the_nodes_budget() {
    turn::beside_others(LIGHT, async {
        let cluster = Plan::of(1).set("limits.max_streams=2").start().await;
        let mut first = Watched::open(&cluster, 1, "").await.expect("watch");
        let second = Watched::open(&cluster, 1, "queue/nowhere").await.expect("watch");
        let refused = Watched::open(&cluster, 1, "").await.expect_err("there are two");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(raw::reason(&refused), reason::RESOURCE_EXHAUSTED);
        assert_eq!(first.next().await, Some(ServingStatus::Serving));
        drop(second);
        let begun = Instant::now();
        while let Err(status) = Watched::open(&cluster, 1, "").await {
            assert!(begun.elapsed() < SOON, "an ended watch is still counted: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn a_node_without_majority_does_not_say_that_it_serves_whether_it_led_or_not() {
    turn::beside_others(LIGHT, async {
        for led in [true, false] {
            let mut cluster = Cluster::start(3).await;
            let status = cluster.status(1).await.expect("node 1 answers");
            let leader = status.catalog_leader.expect("a leader").node_id;
            let left = cluster.ids().into_iter().find(|id| (*id == leader) == led).expect("a node");
            becomes(&cluster, left, "", ServingStatus::Serving).await;
            for other in cluster.ids().into_iter().filter(|id| *id != left) {
                cluster.kill9(other);
            }
            becomes(&cluster, left, "", ServingStatus::NotServing).await;
        }
    });
}

/// A watch of one name at one node.
#[derive(Debug)]
struct Watched(Streaming<HealthCheckResponse>);

impl Watched {
    async fn open(cluster: &Cluster, node: u64, service: &str) -> Result<Self, Status> {
        // Without a time limit, which would end the stream.
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address(node)));
        let mut health = HealthClient::new(endpoint.expect("an address").connect_lazy());
        let request = HealthCheckRequest { service: service.to_owned() };
        health.watch(request).await.map(|answer| Self(answer.into_inner()))
    }

    /// The next status; `None` if the stream breaks or ends.
    async fn next(&mut self) -> Option<ServingStatus> {
        let told = tokio::time::timeout(SOON, self.0.message()).await.expect("in time");
        told.ok().flatten().map(|told| told.status())
    }

    async fn is_silent_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.0.message()).await.is_err()
    }
}

/// Until a node says so of a name.
pub(crate) async fn becomes(cluster: &Cluster, node: u64, name: &str, wanted: ServingStatus) {
    let begun = Instant::now();
    loop {
        let told = status_of(cluster, node, name).await;
        if told == Ok(wanted) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "node {node} says {told:?} of {name:?}, not {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn status_of(cluster: &Cluster, node: u64, name: &str) -> Result<ServingStatus, Code> {
    let mut health: HealthClient<Channel> = HealthClient::new(raw::channel(&cluster.address(node)));
    let answer = health.check(HealthCheckRequest { service: name.to_owned() }).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}
