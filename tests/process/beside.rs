//! What stands beside a cluster: load balancers and monitoring, with the configurations that are shipped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use quorate_client::QueueSettings;
use quorate_tests::{Cluster, Load, ports, raw, turn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// A program of the system; `None` if it is not there, which in CI is a failure.
fn program(name: &str) -> Option<Command> {
    let dirs = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "{name} is not installed");
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found.map(Command::new)
}

/// Plain HTTP/1.1: the status and the body.
pub async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or_else(|| panic!("no answer: {answer}")), body.to_owned())
}

/// Asks until it is told this.
async fn until(address: &str, path: &str, status: u16, words: &str) {
    let begun = Instant::now();
    loop {
        let told = get(address, path).await;
        if told.0 == status && told.1.contains(words) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{path}: {told:?}, not {status} {words}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn figure(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
}

#[test]
fn health_tells_who_lives_is_ready_and_leads() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let leader = cluster.leader_of(QUEUE).await;
        for node in cluster.ids() {
            let address = cluster.address(node);
            assert_eq!(get(&address, "/health/live").await.0, 200);
            assert_eq!(get(&address, "/health/ready").await.0, 200);
            let (leads, elsewhere) = ("leads\n".to_owned(), format!("node {leader} at"));
            let told = if node == leader { leads } else { elsewhere };
            let status = if node == leader { 200 } else { 503 };
            until(&address, "/health/leader/orders", status, &told).await;
            assert_eq!(get(&address, "/health/leader/nowhere").await.0, 404);
            for mistyped in ["/health", "/healthz", "/health/leader/", "/"] {
                assert_eq!(get(&address, mistyped).await.0, 404, "{mistyped}");
            }
        }
        let drained = cluster.address(leader);
        client.drain_node(leader, true).await.expect("drain");
        until(&drained, "/health/ready", 503, "not ready: it is being drained").await;
        client.drain_node(leader, false).await.expect("undrain");
        // Without a majority nobody is ready, and the one that is left lives.
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        others.iter().for_each(|id| cluster.kill9(*id));
        until(&drained, "/health/ready", 503, "not ready: the catalog").await;
        assert_eq!(get(&drained, "/health/live").await.0, 200);
    });
}

#[test]
fn metrics_count_what_happens_and_name_queues_only_on_request() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let settings = QueueSettings { retain_bytes: 1 << 20, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let load = Load::start(&client, QUEUE, 2, 1);
        load.confirmed_more(300, SOON).await;
        let leader = cluster.leader_of(QUEUE).await;
        let address = cluster.address(leader);
        let (status, metrics) = get(&address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(figure(&metrics, "quorate_published_messages_total") >= 300.0);
        assert!(figure(&metrics, "quorate_log_flushes_total") > 0.0);
        assert_eq!(figure(&metrics, "quorate_ready"), 1.0);
        assert!(!metrics.contains(QUEUE), "no figure of a single queue unless asked for");
        let (_, named) = get(&address, "/metrics?queue=orders").await;
        let name = "quorate_queue_published_messages_total";
        assert!(named.contains(&format!("{name}{{queue=\"orders\"}}")), "{named}");
        // The lag of one that is away grows with the time.
        cluster.kill9(cluster.follower_of(QUEUE).await);
        let away = Instant::now();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (_, metrics) = get(&address, "/metrics").await;
        let (lag, at_most) =
            (figure(&metrics, "quorate_replication_lag_seconds"), away.elapsed().as_secs_f64());
        println!("lag {lag} s after {at_most} s");
        assert!(lag > 2.0 && lag <= at_most + 1.0, "{lag} after {at_most}");
        assert!(metrics.contains("quorate_replicas{state=\"away\"} 1"), "{metrics}");
        load.finish(SOON).await;
    });
}

#[test]
fn the_alerts_that_are_shipped_come_when_they_are_caused_and_not_before() {
    let Some(mut promtool) = program("promtool") else { return };
    let rules = deploy().join("prometheus");
    promtool.args(["test", "rules", "alerts_test.yml"]).current_dir(rules);
    let ended = promtool.output().expect("run promtool");
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(ended.status.success(), "{said}");
}

#[test]
fn behind_the_shipped_haproxy_a_client_that_knows_one_address_works_while_nodes_die_in_turn() {
    let Some(mut haproxy) = program("haproxy") else { return };
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        cluster.queue(QUEUE).await;
        let dir = tempfile::tempdir().expect("a directory");
        let front: SocketAddr = ports::free();
        let shipped = std::fs::read_to_string(deploy().join("haproxy/haproxy.cfg"));
        let mut config = shipped.expect("the shipped configuration");
        config = config.replace("127.0.0.1:7000", &front.to_string());
        for node in cluster.ids() {
            config = config.replace(&format!("127.0.0.1:710{node}"), &cluster.address(node));
        }
        let path = dir.path().join("haproxy.cfg");
        std::fs::write(&path, config).expect("write the configuration");
        haproxy.arg("-db").arg("-f").arg(&path).stdin(Stdio::null());
        let child = haproxy.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = Killed(child.expect("start haproxy"));

        let front = front.to_string();
        let mut sequence = 0;
        let mut publish = async |upto: u64| {
            while sequence < upto {
                publish_once(&front, sequence).await;
                sequence += 1;
            }
        };
        publish(20).await;
        for (round, node) in (1..).zip(cluster.ids()) {
            cluster.kill9(node);
            publish(20 + round * 40).await;
            cluster.start_node(node);
            cluster.ready().await;
        }
        let counts = cluster.client().await.describe_queue(QUEUE).await.expect("describe");
        assert_eq!(counts.counts.expect("counts").published, 140, "each message once");
        assert!(child.0.try_wait().expect("look").is_none(), "haproxy runs still");
    });
}

/// Publishes one message, again and again as a simple client would: connections break with their node.
async fn publish_once(address: &str, sequence: u64) {
    let begun = Instant::now();
    loop {
        let producer = Some(("behind-the-proxy", sequence));
        match raw::publish(address, QUEUE, sequence.to_string(), producer).await {
            Ok(receipt) => return assert_eq!(receipt.first_offset, sequence),
            Err(status) => assert!(begun.elapsed() < SOON, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process that ends with its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
