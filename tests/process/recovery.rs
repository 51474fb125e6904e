//! A majority is lost for ever: of a queue, and of the catalog.
//!
//! The survivor is killed first, while the others confirm more, so that it is known what only those had. What waited in
//! the sockets of a paused one would reach it later.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{Client, ClusterStatus, Message, Producer, QueueSettings};
use quorate_tests::process::{Ended, Server, run};
use quorate_tests::{Cluster, ports, turn};

use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";
/// Messages that all replicas have, and that only the lost ones have.
const ALL_HAVE: usize = 40;
const FEW_HAVE: usize = 30;

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The program with addresses of the nodes that it may ask.
async fn quorate(args: &[&str], servers: &[String]) -> Ended {
    run(&[args, &["--timeout", "20s", "--server", &servers.join(",")]].concat(), SOON).await
}

/// Recovers with the loss accepted. Nodes that are gone for a moment only are not given up: it is tried again.
async fn recover(what: &str, servers: &[String]) -> Ended {
    let begun = Instant::now();
    loop {
        let ended = quorate(&["cluster", "recover", what, "--accept-loss"], servers).await;
        if !ended.err.contains("is gone for") || begun.elapsed() > SOON {
            return ended;
        }
        assert_eq!(ended.code, Some(4), "{}\n{}", ended.out, ended.err);
        println!("{}", ended.err);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A cluster whose catalog has all nodes as voters. While it is founded it may go through fewer, and does not outlive two
/// of those.
async fn whole(nodes: u64) -> Cluster {
    let cluster = Cluster::start(nodes).await;
    // Voters are looked at once a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let all: BTreeSet<u64> = cluster.ids().into_iter().collect();
    let all = format!("step=Vote({all:?})");
    until("the catalog has its voters", async || {
        let logs: String = cluster.ids().into_iter().map(|id| cluster.log(id)).collect();
        let last = logs.lines().rfind(|line| line.contains("step=Vote("));
        last.is_none_or(|last| last.contains(&all))
    })
    .await;
    cluster
}

async fn voters(client: &Client) -> Option<BTreeSet<u64>> {
    let described = client.describe_queue(QUEUE).await.ok()?;
    let is_settled = !described.moving && described.counts.is_some();
    is_settled.then(|| described.replicas.iter().map(|replica| replica.node_id).collect())
}

async fn confirmed(producer: &Producer, body: &str) -> bool {
    match producer.send(Message::new(body.to_owned())).await {
        Ok(pending) => pending.await.is_ok(),
        Err(_) => false,
    }
}

/// Publishes with the program, and appends its receipts to a file.
async fn publish(cluster: &Cluster, name: &str, messages: usize, receipts: &Path) {
    use std::io::Write;
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(receipts).expect("a file");
    for n in 0..messages {
        let body = format!("{name} {n}");
        let args = ["publish", QUEUE, &body, "-o", "json"];
        let published = quorate(&args, &cluster.addresses()).await;
        assert_eq!(published.code, Some(0), "{}", published.err);
        file.write_all(published.out.as_bytes()).expect("write");
    }
}

/// The bodies that a reader of the queue sees.
async fn read(client: &Client) -> Vec<String> {
    let mut reader = client.reader(QUEUE).linearizable().build();
    let mut bodies = Vec::new();
    while let Some(read) = reader.next().await {
        bodies.push(String::from_utf8_lossy(&read.expect("read").body).into_owned());
    }
    bodies
}

fn count(bodies: &[String], name: &str) -> usize {
    bodies.iter().filter(|body| body.starts_with(name)).count()
}

/// A queue of three replicas in a cluster of five nodes whose survivor has less than the two others, which are
/// dead.
struct Lost {
    cluster: Cluster,
    survivor: u64,
    lost: Vec<u64>,
    /// Nodes that run.
    servers: Vec<String>,
    receipts: tempfile::TempPath,
    /// It has sent messages that are lost, and goes on.
    producer: Producer,
}

async fn lost_majority() -> Lost {
    let mut cluster = whole(5).await;
    let settings = QueueSettings { retain_ms: 3_600_000, ..Default::default() };
    let client = cluster.queue_with(QUEUE, settings).await;
    let receipts = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
    publish(&cluster, "all", ALL_HAVE, &receipts).await;
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    assert!(confirmed(&producer, "of a producer").await);
    let held = voters(&client).await.expect("placed");
    let leader = cluster.leader_of(QUEUE).await;
    let survivor = *held.iter().find(|id| **id != leader).expect("a follower");
    // It has them all.
    let direct = Client::connect([cluster.address(survivor)]).await.expect("connect");
    assert_eq!(count(&read(&direct).await, "all"), ALL_HAVE);
    cluster.kill9(survivor);
    publish(&cluster, "few", FEW_HAVE, &receipts).await;
    for n in 0..FEW_HAVE {
        assert!(confirmed(&producer, &format!("few of a producer {n}")).await);
    }
    let lost: Vec<u64> = held.into_iter().filter(|id| *id != survivor).collect();
    lost.iter().for_each(|node| cluster.kill9(*node));
    cluster.start_node(survivor);
    let ids = cluster.ids().into_iter().filter(|id| !lost.contains(id));
    let servers: Vec<String> = ids.map(|id| cluster.address(id)).collect();
    until("the catalog is led", async || {
        cluster.status(survivor).await.is_some_and(|status| {
            let up = status.nodes.iter().filter(|node| node.reachable).count();
            status.catalog_leader.is_some() && up == 3
        })
    })
    .await;
    // A leader of the catalog notices that nodes are gone when it looks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Lost { cluster, survivor, lost, servers, receipts, producer }
}

#[test]
fn a_queue_that_lost_its_majority_is_recovered_with_what_the_survivor_has_and_verify_names_the_rest()
 {
    turn::alone(HEAVY, async {
        let Lost { cluster: _cluster, survivor, lost, servers, receipts, producer } =
            lost_majority().await;
        let shown = quorate(&["cluster", "recover", QUEUE], &servers).await;
        shown.refused_with(7, &["nothing was changed", "--accept-loss"]);
        println!("{}", shown.out);
        let row = |node: u64| {
            let row = shown
                .out
                .lines()
                .find(|line| line.split_whitespace().next() == Some(node.to_string().as_str()));
            row.expect("the node is shown").to_owned()
        };
        assert!(row(survivor).contains("would go on"), "{}", shown.out);
        assert!(shown.err.contains("--accept-loss --at-least 1:"), "{}", shown.err);
        let too_little = ["cluster", "recover", QUEUE, "--accept-loss", "--at-least", "1:1000000"];
        quorate(&too_little, &servers).await.refused_with(4, &["NO_SURVIVOR", "index 1000000"]);
        assert!(lost.iter().all(|node| row(*node).contains("gone for")), "{}", shown.out);
        let recovered = recover(QUEUE, &servers).await;
        assert_eq!(recovered.code, Some(0), "{}\n{}", recovered.out, recovered.err);
        println!("{}", recovered.out);

        let path = receipts.display().to_string();
        let verified = quorate(&["verify", &path, "-o", "json"], &servers).await;
        assert_eq!(verified.code, Some(1), "{}\n{}", verified.out, verified.err);
        println!("{}", verified.err.lines().last().unwrap_or_default());
        let lost_receipts = verified.out.matches("\"LOST\"").count();
        println!("{}", verified.out.lines().last().unwrap_or_default());
        let client = Client::connect(servers.clone()).await.expect("connect");
        let bodies = read(&client).await;
        assert_eq!((count(&bodies, "all"), count(&bodies, "few")), (ALL_HAVE, 0));
        assert_eq!(lost_receipts, FEW_HAVE, "{}", verified.out);

        // It gets three replicas again by itself, of the nodes that are there, and goes on.
        until("three voters", async || {
            voters(&client).await.is_some_and(|voters| voters.len() == 3)
        })
        .await;
        let now = voters(&client).await.expect("placed");
        assert!(now.contains(&survivor) && lost.iter().all(|node| !now.contains(node)), "{now:?}");
        for n in 0..20 {
            assert!(confirmed(&producer, &format!("new {n}")).await);
        }
        assert_eq!(count(&read(&client).await, "new"), 20);
        let again = quorate(&["cluster", "recover", QUEUE, "--accept-loss"], &servers).await;
        again.refused_with(6, &["HAS_QUORUM", "nothing to recover"]);
        // Nodes that are gone for ever are taken out.
        for node in &lost {
            let removed = quorate(&["cluster", "remove-node", &node.to_string()], &servers).await;
            assert_eq!(removed.code, Some(0), "{}", removed.err);
        }
    });
}

#[test]
fn recover_changes_nothing_without_accept_loss_and_refuses_where_there_is_a_majority() {
    turn::alone(HEAVY, async {
        let mut cluster = whole(5).await;
        let client = cluster.queue(QUEUE).await;
        let single = QueueSettings { replicas: 1, ..Default::default() };
        client.create_queue("single", single).await.expect("create");
        let all = cluster.addresses();
        quorate(&["cluster", "recover", QUEUE], &all).await.refused_with(6, &["HAS_QUORUM"]);
        quorate(&["cluster", "recover", "nothing"], &all)
            .await
            .refused_with(5, &["QUEUE_NOT_FOUND"]);
        let none = quorate(&["cluster", "recover", "--all", "--accept-loss"], &all).await;
        assert_eq!(none.code, Some(0), "{}", none.err);
        assert!(none.out.contains("no queue has lost"), "{}", none.out);

        let producer = client.producer(QUEUE).build().await.expect("a producer");
        assert!(confirmed(&producer, "one").await);
        let held = voters(&client).await.expect("placed");
        let leader = cluster.leader_of(QUEUE).await;
        let holds_single = cluster.leader_of("single").await;
        // One of three is no majority lost.
        let mut gone: Vec<u64> = held.iter().copied().filter(|id| *id != leader).collect();
        if let Some(at) = gone.iter().position(|id| *id == holds_single) {
            gone.swap(0, at);
        }
        cluster.kill9(gone[0]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let left: Vec<String> = cluster
            .ids()
            .into_iter()
            .filter(|id| !gone.contains(id))
            .map(|id| cluster.address(id))
            .collect();
        quorate(&["cluster", "recover", QUEUE, "--accept-loss"], &left)
            .await
            .refused_with(6, &["HAS_QUORUM"]);
        cluster.kill9(gone[1]);
        tokio::time::sleep(Duration::from_secs(4)).await;
        for _ in 0..2 {
            let shown = quorate(&["cluster", "recover", "--all"], &left).await;
            shown.refused_with(7, &["nothing was changed"]);
            println!("{}", shown.out);
            assert!(shown.out.contains(&format!("queue {QUEUE}")), "{}", shown.out);
            assert!(shown.out.contains("has all that it confirmed"), "{}", shown.out);
        }
        // All is as it was: with one of them back there is a majority, of the old members.
        cluster.start_node(gone[1]);
        until("the queue is led again", async || confirmed(&producer, "two").await).await;
        assert_eq!(voters(&client).await.expect("placed"), held);
        quorate(&["cluster", "recover", QUEUE], &left).await.refused_with(6, &["HAS_QUORUM"]);
        if gone[0] != holds_single {
            cluster.start_node(gone[0]);
            until("it is up", async || cluster.status(gone[0]).await.is_some()).await;
            cluster.kill9(holds_single);
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        let left: Vec<String> = cluster
            .ids()
            .into_iter()
            .filter(|id| *id != holds_single)
            .map(|id| cluster.address(id))
            .collect();
        quorate(&["cluster", "recover", "single", "--accept-loss"], &left)
            .await
            .refused_with(4, &["NO_SURVIVOR"]);
    });
}

#[test]
fn a_node_that_was_given_up_and_comes_back_does_not_bring_its_past_with_it() {
    turn::alone(HEAVY, async {
        let Lost { mut cluster, survivor, lost, servers, producer, .. } = lost_majority().await;
        let recovered = recover("--all", &servers).await;
        assert_eq!(recovered.code, Some(0), "{}\n{}", recovered.out, recovered.err);
        let client = Client::connect(servers.clone()).await.expect("connect");
        for n in 0..10 {
            assert!(confirmed(&producer, &format!("new {n}")).await);
        }
        // A majority of the old members, with a longer log and a catalog of before.
        lost.iter().for_each(|node| cluster.start_node(*node));
        for n in 10..60 {
            assert!(confirmed(&producer, &format!("new {n}")).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for node in &lost {
            until("it lets its past go", async || {
                let log = cluster.log(*node);
                log.contains("was recovered without this node") || log.contains("has moved away")
            })
            .await;
        }
        until("three voters", async || {
            voters(&client).await.is_some_and(|voters| voters.len() == 3)
        })
        .await;
        for node in lost.iter().chain([&survivor]) {
            let near = Client::connect([cluster.address(*node)]).await.expect("connect");
            let bodies = read(&near).await;
            let counts = (count(&bodies, "all"), count(&bodies, "few"), count(&bodies, "new"));
            assert_eq!(counts, (ALL_HAVE, 0, 60), "node {node}");
        }
        // They are as good as others: the queue lives on with them alone.
        let change = quorate_client::ChangeReplicasRequest {
            voters: lost.clone(),
            remove: voters(&client)
                .await
                .expect("placed")
                .into_iter()
                .filter(|id| !lost.contains(id) && *id != survivor)
                .collect(),
            ..Default::default()
        };
        client.change_replicas(QUEUE, change).await.expect("change");
        let expected: BTreeSet<u64> = lost.iter().copied().chain([survivor]).collect();
        until("it has moved to them", async || voters(&client).await.as_ref() == Some(&expected))
            .await;
        cluster.kill9(survivor);
        until("confirmed without the survivor", async || confirmed(&producer, "last").await).await;
        let bodies = read(&client).await;
        assert_eq!((count(&bodies, "all"), count(&bodies, "few")), (ALL_HAVE, 0));
    });
}

/// A cluster of three nodes of which one is left, which has taken the catalog over and runs.
async fn taken_over() -> (Cluster, u64) {
    let mut cluster = whole(3).await;
    let settings = QueueSettings { retain_ms: 3_600_000, ..Default::default() };
    let client = cluster.queue_with(QUEUE, settings).await;
    client.create_queue("other", QueueSettings::default()).await.expect("create");
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    for n in 0..ALL_HAVE {
        assert!(confirmed(&producer, &format!("all {n}")).await);
    }
    let leader = cluster.leader_of(QUEUE).await;
    let survivor = cluster.ids().into_iter().find(|id| *id != leader).expect("a follower");
    let direct = Client::connect([cluster.address(survivor)]).await.expect("connect");
    until("the survivor has all", async || count(&read(&direct).await, "all") == ALL_HAVE).await;
    let data = cluster.data(survivor).display().to_string();
    let catalog = ["cluster", "recover", "--catalog", "--data", &data];
    run(&catalog, SOON).await.refused_with(3, &["DIRECTORY_IN_USE"]);
    cluster.kill9(survivor);
    // Only the two others know of this queue and these messages.
    client
        .create_queue("late", QueueSettings { replicas: 1, ..Default::default() })
        .await
        .expect("create");
    for n in 0..FEW_HAVE {
        assert!(confirmed(&producer, &format!("few {n}")).await);
    }
    cluster.ids().into_iter().filter(|id| *id != survivor).for_each(|id| cluster.kill9(id));
    let shown = run(&catalog, SOON).await;
    shown.refused_with(7, &["nothing was changed"]);
    println!("{}", shown.out);
    assert!(shown.out.contains(QUEUE), "{}", shown.out);
    let taken = run(&[&catalog[..], &["--accept-loss"]].concat(), SOON).await;
    assert_eq!(taken.code, Some(0), "{}", taken.err);
    println!("{}", taken.out.lines().last().unwrap_or_default());
    cluster.start_node(survivor);
    until("it leads the catalog", async || {
        cluster.status(survivor).await.is_some_and(|status| {
            status.catalog_leader.is_some_and(|leader| leader.node_id == survivor)
        })
    })
    .await;
    let servers = [cluster.address(survivor)];
    let recovered = recover("--all", &servers).await;
    assert_eq!(recovered.code, Some(0), "{}\n{}", recovered.out, recovered.err);
    (cluster, survivor)
}

#[test]
fn one_node_of_three_takes_the_cluster_over_when_the_others_are_lost_for_ever() {
    turn::alone(HEAVY, async {
        let (mut cluster, survivor) = taken_over().await;
        let servers = [cluster.address(survivor)];
        let client = Client::connect(servers.clone()).await.expect("connect");
        let bodies = read(&client).await;
        assert_eq!((count(&bodies, "all"), count(&bodies, "few")), (ALL_HAVE, 0));
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        assert!(confirmed(&producer, "new 0").await);
        for node in cluster.ids().into_iter().filter(|id| *id != survivor) {
            let removed = quorate(&["cluster", "remove-node", &node.to_string()], &servers).await;
            assert_eq!(removed.code, Some(0), "{}", removed.err);
        }
        // Two new nodes: the queue gets its three replicas back, and so does the catalog.
        let mut joined = Vec::new();
        for n in 0..2 {
            let data = cluster.data(1).with_file_name(format!("new-{n}"));
            let (address, path) = (ports::free().to_string(), data.display().to_string());
            let join = ["cluster", "join", "--data", &path, "--address", &address];
            let asked = quorate(&join, &servers).await;
            assert_eq!(asked.code, Some(0), "{}", asked.err);
            let args = ["--data", &path, "--listen", &address].map(str::to_owned);
            let log = data.with_extension("log");
            joined.push((Server::start(&args, &log), address));
        }
        for queue in [QUEUE, "other"] {
            until("three voters", async || {
                let described = client.describe_queue(queue).await;
                described.is_ok_and(|queue| !queue.moving && queue.replicas.len() == 3)
            })
            .await;
        }
        let id = survivor.to_string();
        let near = Client::connect([joined[0].1.clone()]).await.expect("connect");
        let is_whole = |status: &ClusterStatus| {
            status.nodes.len() == 3 && status.nodes.iter().all(|node| node.reachable)
        };
        until("three nodes", async || near.status().await.is_ok_and(|status| is_whole(&status)))
            .await;
        // The catalog's voters follow within seconds; with three the survivor can go too.
        let both = [joined[0].1.clone(), joined[1].1.clone()];
        until("the survivor is not needed", async || {
            tokio::time::sleep(Duration::from_secs(2)).await;
            quorate(&["cluster", "transfer-leader", QUEUE], &both).await;
            true
        })
        .await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.kill9(survivor);
        let client = Client::connect(both.clone()).await.expect("connect");
        until("a queue is created without it", async || {
            let settings = QueueSettings { replicas: 1, ..Default::default() };
            client.create_queue("newest", settings).await.is_ok()
        })
        .await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        until("confirmed without it", async || confirmed(&producer, "new 1").await).await;
        let bodies = read(&client).await;
        assert_eq!((count(&bodies, "all"), count(&bodies, "new")), (ALL_HAVE, 2), "node {id}");
    });
}

#[test]
fn nodes_of_before_a_catalog_was_recovered_take_it_from_there() {
    turn::alone(HEAVY, async {
        let (mut cluster, survivor) = taken_over().await;
        let servers = [cluster.address(survivor)];
        let client = Client::connect(servers).await.expect("connect");
        let old: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != survivor).collect();
        // They are a majority of the catalog's old members and of the queues', until they hear of the other.
        old.iter().for_each(|node| cluster.start_node(*node));
        for node in &old {
            until("it stops", async || !cluster.is_running(*node).await).await;
            assert!(cluster.log(*node).contains("the catalog was recovered on another node"));
            cluster.kill9(*node);
            cluster.start_node(*node);
        }
        until("all are there", async || {
            let mut all = true;
            for node in cluster.ids() {
                let status = cluster.status(node).await;
                all &= status.is_some_and(|status| {
                    let leads = status.catalog_leader.is_some();
                    leads && status.nodes.iter().filter(|node| node.reachable).count() == 3
                });
            }
            all
        })
        .await;
        until("three voters", async || {
            voters(&client).await.is_some_and(|voters| voters.len() == 3)
        })
        .await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        assert!(confirmed(&producer, "new").await);
        for node in cluster.ids() {
            assert!(cluster.is_running(node).await, "node {node} runs");
            let near = Client::connect([cluster.address(node)]).await.expect("connect");
            let bodies = read(&near).await;
            let counts = (count(&bodies, "all"), count(&bodies, "few"), count(&bodies, "new"));
            assert_eq!(counts, (ALL_HAVE, 0, 1), "node {node}");
            assert!(near.describe_queue("late").await.is_err(), "a queue that was lost");
        }
        // The group of the queue that was lost is not given again.
        let settings = QueueSettings { replicas: 3, ..Default::default() };
        client.create_queue("newest", settings).await.expect("create");
        let group = client.describe_queue("newest").await.expect("describe").group_id;
        assert!(group > 1_000, "group {group}");
    });
}

/// The catalog goes on with a node that does not run, and what it knew before the loss is there again.
async fn recover_catalog(cluster: &mut Cluster, node: u64) {
    let data = cluster.data(node).display().to_string();
    let catalog = ["cluster", "recover", "--catalog", "--data", &data];
    let shown = run(&catalog, SOON).await;
    shown.refused_with(7, &["nothing was changed"]);
    assert!(shown.out.contains(QUEUE), "{}", shown.out);
    let taken = run(&[&catalog[..], &["--accept-loss"]].concat(), SOON).await;
    assert_eq!(taken.code, Some(0), "{}\n{}", taken.out, taken.err);
    cluster.start_node(node);
    until("it leads the catalog", async || {
        cluster.status(node).await.is_some_and(|status| {
            status.catalog_leader.is_some_and(|leader| leader.node_id == node)
        })
    })
    .await;
    let recovered = recover("--all", &[cluster.address(node)]).await;
    assert_eq!(recovered.code, Some(0), "{}\n{}", recovered.out, recovered.err);
}

/// The node that the catalog was recovered on is lost too, after another one was told to take the catalog from there.
async fn lost_again(is_started_between: bool) {
    let (mut cluster, survivor) = taken_over().await;
    let next = cluster.ids().into_iter().find(|id| *id != survivor).expect("another node");
    cluster.start_node(next);
    until("it stops", async || !cluster.is_running(next).await).await;
    assert!(cluster.log(next).contains("the catalog was recovered on another node"));
    cluster.kill9(next);
    cluster.kill9(survivor);
    if is_started_between {
        cluster.start_node(next);
        until("it does not start without the other", async || !cluster.is_running(next).await)
            .await;
        assert!(cluster.log(next).contains("What this node has of the catalog is kept"));
        cluster.kill9(next);
    }
    recover_catalog(&mut cluster, next).await;
    let client = Client::connect([cluster.address(next)]).await.expect("connect");
    let bodies = read(&client).await;
    assert_eq!((count(&bodies, "all"), count(&bodies, "few")), (ALL_HAVE, FEW_HAVE));
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    assert!(confirmed(&producer, "new").await);
    // It is not told once more to take the catalog from elsewhere.
    cluster.kill9(next);
    cluster.start_node(next);
    until("it confirms after a start", async || confirmed(&producer, "new").await).await;
}

#[test]
fn a_node_that_was_to_take_the_catalog_from_another_still_has_its_own_when_that_one_is_lost() {
    turn::alone(HEAVY, lost_again(false));
}

#[test]
fn a_node_keeps_its_catalog_until_the_recovered_one_answers_also_when_it_is_started_again() {
    turn::alone(HEAVY, lost_again(true));
}

/// The timeline that a confirmed message is of.
async fn timeline(producer: &Producer, body: &str) -> u64 {
    let sent = producer.send(Message::new(body.to_owned())).await.expect("sent");
    sent.await.expect("confirmed").position.term >> 32
}

#[test]
fn a_catalog_from_before_a_queue_was_recovered_does_not_give_its_timeline_again() {
    turn::alone(HEAVY, async {
        let mut cluster = whole(5).await;
        let settings = QueueSettings { retain_ms: 3_600_000, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for n in 0..ALL_HAVE {
            assert!(confirmed(&producer, &format!("all {n}")).await);
        }
        let held: Vec<u64> = voters(&client).await.expect("placed").into_iter().collect();
        for node in &held {
            let direct = Client::connect([cluster.address(*node)]).await.expect("connect");
            assert_eq!(count(&read(&direct).await, "all"), ALL_HAVE);
        }
        let (first, second) = (held[0], held[1]);
        let rest: Vec<u64> =
            cluster.ids().into_iter().filter(|id| *id != first && *id != second).collect();
        [first, second].into_iter().for_each(|node| cluster.kill9(node));
        let servers: Vec<String> = rest.iter().map(|id| cluster.address(*id)).collect();
        until("the catalog is led", async || {
            cluster.status(rest[0]).await.is_some_and(|status| status.catalog_leader.is_some())
        })
        .await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let recovered = recover(QUEUE, &servers).await;
        assert_eq!(recovered.code, Some(0), "{}\n{}", recovered.out, recovered.err);
        let client = Client::connect(servers).await.expect("connect");
        until("three voters", async || {
            voters(&client).await.is_some_and(|voters| voters.len() == 3)
        })
        .await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let before = timeline(&producer, "second").await;
        for n in 1..FEW_HAVE {
            assert!(confirmed(&producer, &format!("second {n}")).await);
        }
        rest.iter().for_each(|node| cluster.kill9(*node));

        // It knows of no recovery of the queue.
        recover_catalog(&mut cluster, first).await;
        let client = Client::connect([cluster.address(first)]).await.expect("connect");
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        assert!(timeline(&producer, "third").await > before, "timeline {before} once more");
        for n in 1..FEW_HAVE {
            assert!(confirmed(&producer, &format!("third {n}")).await);
        }
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != first).collect();
        others.iter().for_each(|node| cluster.start_node(*node));
        for node in &others {
            until("it stops", async || !cluster.is_running(*node).await).await;
            cluster.kill9(*node);
            cluster.start_node(*node);
        }
        until("three voters", async || {
            voters(&client).await.is_some_and(|voters| voters.len() == 3)
        })
        .await;
        let counts = |bodies: &[String]| {
            (count(bodies, "all"), count(bodies, "second"), count(bodies, "third"))
        };
        for node in cluster.ids() {
            until("it is up", async || cluster.status(node).await.is_some()).await;
            let near = Client::connect([cluster.address(node)]).await.expect("connect");
            assert_eq!(counts(&read(&near).await), (ALL_HAVE, 0, FEW_HAVE), "node {node}");
        }
        cluster.kill9(first);
        cluster.start_node(first);
        until("confirmed after a start", async || confirmed(&producer, "last").await).await;
        assert_eq!(counts(&read(&client).await), (ALL_HAVE, 0, FEW_HAVE));
    });
}

#[test]
fn replicas_that_stood_still_while_they_were_given_up_confirm_nothing_of_before() {
    turn::alone(HEAVY, async {
        let mut cluster = whole(5).await;
        let settings = QueueSettings { retain_ms: 3_600_000, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for n in 0..ALL_HAVE {
            assert!(confirmed(&producer, &format!("all {n}")).await);
        }
        let held = voters(&client).await.expect("placed");
        let leader = cluster.leader_of(QUEUE).await;
        let survivor = *held.iter().find(|id| **id != leader).expect("a follower");
        let direct = Client::connect([cluster.address(survivor)]).await.expect("connect");
        until("the survivor has all", async || count(&read(&direct).await, "all") == ALL_HAVE)
            .await;
        // A majority of the voters, with the leader among them: they need nobody else to confirm.
        let still: Vec<u64> = held.into_iter().filter(|id| *id != survivor).collect();
        still.iter().for_each(|node| cluster.pause(*node));
        let ids = cluster.ids().into_iter().filter(|id| !still.contains(id));
        let servers: Vec<String> = ids.map(|id| cluster.address(id)).collect();
        tokio::time::sleep(Duration::from_secs(8)).await;
        let recovered = recover(QUEUE, &servers).await;
        assert_eq!(recovered.code, Some(0), "{}\n{}", recovered.out, recovered.err);
        let client = Client::connect(servers).await.expect("connect");
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        assert!(timeline(&producer, "new").await > 0);

        still.iter().for_each(|node| cluster.resume(*node));
        let asked = still.iter().map(|node| {
            let address = cluster.address(*node);
            tokio::spawn(async move {
                let begun = Instant::now();
                let mut terms = Vec::new();
                while begun.elapsed() < Duration::from_secs(5) {
                    let near = Client::builder()
                        .addresses([address.clone()])
                        .connect_timeout(Duration::from_millis(500))
                        .request_timeout(Duration::from_secs(2));
                    let Ok(near) = near.connect().await else { continue };
                    let Ok(producer) = near.producer(QUEUE).build().await else { continue };
                    let Ok(sent) = producer.send(Message::new("woken")).await else { continue };
                    // The old leader would take it, and get nobody to confirm it.
                    let answered = tokio::time::timeout(SOON / 2, sent).await;
                    if let Ok(receipt) = answered.expect("an answer, in time") {
                        terms.push(receipt.position.term);
                    }
                }
                terms
            })
        });
        let mut confirmed = 0;
        for asked in asked.collect::<Vec<_>>() {
            for term in asked.await.expect("asked") {
                assert!(term >> 32 > 0, "confirmed in term {term}, of before");
                confirmed += 1;
            }
        }
        println!("{confirmed} confirmed through nodes that woke up");
        until("all of them are there", async || {
            let bodies = read(&client).await;
            count(&bodies, "all") == ALL_HAVE && count(&bodies, "woken") >= confirmed
        })
        .await;
    });
}
