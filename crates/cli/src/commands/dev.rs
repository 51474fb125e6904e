//! `quorate dev`: a cluster on this machine, for development.
//!
//! Each node is a process of its own, so it can be killed, paused and inspected like a real one. The data
//! directory remembers how many nodes there are and on which ports, because the cluster does too:
//! ```text
//! quorate-dev/
//!   dev.toml        nodes, first port, whether the cluster was founded
//!   node-1/ …       data of each node
//!   node-1.log …    what each node writes
//! ```
//! A node that ends is started again. While the cluster is new, a node that does not come up ends the whole:
//! founding needs all of them. Later one that cannot run is told of, and the others go on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use quorate_client::Client;
use serde::{Deserialize, Serialize};

use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::nodes::{self, Node, Nodes};
use crate::stop::Stop;
use crate::table::Table;
use crate::units;

/// Options of `dev`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C stops all nodes and keeps the data; the same command goes on with it."
)]
pub struct Args {
    /// Number of nodes, 1 to 5; default 3, or what the directory holds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=5))]
    nodes: Option<u16>,
    /// Where data and logs are kept.
    #[arg(long, value_name = "DIR", default_value = "./quorate-dev")]
    data: PathBuf,
    /// Port of the first node, the others follow it; default 7101, or what the directory holds.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port: Option<u16>,
}

/// How long a node that died stays down; twice as long each time that it fails again soon after its start.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// The longest that it stays down.
const RESTART_AFTER_MAX: Duration = Duration::from_secs(60);
/// A node that ends by itself within this time of its start has failed to run.
const SOON: Duration = Duration::from_secs(10);
/// How long the first election may take before we say that something is wrong.
const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// What `dev.toml` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    nodes: u16,
    port: u16,
    /// Whether all nodes have been up together once; until then a node that does not come up ends the start.
    #[serde(default)]
    founded: bool,
}

const SHAPE_FILE: &str = "dev.toml";
const DEFAULT_SHAPE: Shape = Shape { nodes: 3, port: 7101, founded: false };

/// Runs the cluster until Ctrl-C.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let shape = settle_shape(&args)?;
    let list: Vec<Node> = (0..shape.nodes)
        .map(|index| Node::new(u64::from(index) + 1, shape.port + index, &args.data))
        .collect();
    for node in &list {
        nodes::port_is_free(node.address.port()).map_err(|error| port_taken(node, &error))?;
    }
    // Only now: a start that found its ports taken leaves no directory that insists on them.
    keep_shape(shape, &args.data)?;
    let mut nodes = Nodes::new(list)?;
    let outcome = supervise(&mut nodes, &mut stop, &args, shape, global.output).await;
    let killed = nodes.stop_all().await;
    outcome?;
    match killed {
        0 => eprintln!("all nodes have stopped; the data stays in {}", args.data.display()),
        n => eprintln!("{n} of the nodes did not stop in time and were killed"),
    }
    Ok(())
}

/// What the directory holds decides; a wish that contradicts it is an error, not a different cluster.
fn settle_shape(args: &Args) -> Result<Shape, Failure> {
    let file = args.data.join(SHAPE_FILE);
    let Ok(text) = std::fs::read_to_string(&file) else {
        return Ok(Shape {
            nodes: args.nodes.unwrap_or(DEFAULT_SHAPE.nodes),
            port: args.port.unwrap_or(DEFAULT_SHAPE.port),
            founded: false,
        });
    };
    let kept: Shape = toml::from_str(&text).map_err(|error| {
        Failure::new(Exit::CannotStart, format!("read {}: {error}", file.display()))
    })?;
    let nodes_differ = args.nodes.is_some_and(|nodes| nodes != kept.nodes);
    if nodes_differ || args.port.is_some_and(|port| port != kept.port) {
        let (data, nodes, port) = (args.data.display(), kept.nodes, kept.port);
        let what = format!("{data} holds a cluster of {nodes} nodes at port {port}");
        return Err(Failure::new(Exit::CannotStart, what)
            .cure("leave --nodes and --port out to go on with it, or name another --data"));
    }
    Ok(kept)
}

fn keep_shape(shape: Shape, data: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::CannotStart, format!("write to {}: {error}", data.display()))
            .cure("a directory that can be written, with --data")
    };
    let text = toml::to_string(&shape).map_err(|error| failed(&error))?;
    std::fs::create_dir_all(data).map_err(|error| failed(&error))?;
    std::fs::write(data.join(SHAPE_FILE), text).map_err(|error| failed(&error))
}

fn port_taken(node: &Node, error: &std::io::Error) -> Failure {
    let port = node.address.port();
    let what = format!("node {} cannot listen on 127.0.0.1:{port}: {error}", node.id);
    Failure::new(Exit::CannotStart, what).cure(format!(
        "stop the program that uses port {port} (another `quorate dev`?), \
         or start a new cluster with --port and another --data"
    ))
}

async fn supervise(
    nodes: &mut Nodes,
    stop: &mut Stop,
    args: &Args,
    shape: Shape,
    output: Format,
) -> Result<(), Failure> {
    let started = Instant::now();
    nodes.start_all()?;
    print_nodes(nodes, output)?;
    let mut watches = vec![Watch::new(started); nodes.list().len()];
    let mut is_up = false;
    let mut leader = pin!(wait_for_leader(nodes.addresses()));
    loop {
        let next = watches.iter().filter_map(|watch| watch.start_at).min();
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            () = sleep_until(next) => start_due(nodes, &mut watches, output)?,
            (index, status) = nodes.ended() => {
                if !shape.founded && !is_up {
                    return Err(died_at_start(&nodes.list()[index], status));
                }
                let pause = watches[index].ended(status, Instant::now());
                if nodes.running().is_empty() && watches.iter().all(Watch::fails) {
                    return Err(died_at_start(&nodes.list()[index], status));
                }
                say(output, &told_of_end(&nodes.list()[index], status, pause))?;
                if !is_up {
                    // Those that are left may be a majority.
                    leader.set(wait_for_leader(nodes.running()));
                }
            }
            found = &mut leader, if !is_up => match found {
                Ok(leader) => {
                    is_up = true;
                    keep_shape(Shape { founded: true, ..shape }, &args.data)?;
                    let took = units::duration(started.elapsed());
                    say(output, &format!("cluster is up after {took}, led by node {leader}; Ctrl-C stops it"))?;
                }
                Err(failure) if !shape.founded => return Err(failure),
                Err(_) => {
                    say(output, "the nodes that run have not found together yet; look into their logs")?;
                    leader.set(wait_for_leader(nodes.running()));
                }
            },
        }
    }
}

/// What is known of a node's runs: whether it is down, and whether it keeps failing.
#[derive(Debug, Clone)]
struct Watch {
    started: Instant,
    /// When it is started again, while it is down.
    start_at: Option<Instant>,
    /// How often in a row it ended by itself soon after its start.
    failures: u32,
}

impl Watch {
    fn new(started: Instant) -> Watch {
        Watch { started, start_at: None, failures: 0 }
    }

    /// It has ended; returns how long it stays down.
    fn ended(&mut self, status: ExitStatus, now: Instant) -> Duration {
        let failed = status.code().is_some() && now - self.started < SOON;
        self.failures = if failed { self.failures + 1 } else { 0 };
        let doublings = self.failures.saturating_sub(1).min(8);
        let pause = (RESTART_AFTER * 2_u32.pow(doublings)).min(RESTART_AFTER_MAX);
        self.start_at = Some(now + pause);
        pause
    }

    /// It is down because it cannot run, not because someone has killed it.
    fn fails(&self) -> bool {
        self.start_at.is_some() && self.failures > 0
    }
}

fn start_due(nodes: &mut Nodes, watches: &mut [Watch], output: Format) -> Result<(), Failure> {
    let now = Instant::now();
    for (index, watch) in watches.iter_mut().enumerate() {
        if watch.start_at.is_some_and(|at| at <= now) {
            nodes.start(index)?;
            (watch.started, watch.start_at) = (now, None);
            let pid = nodes.pid(index).unwrap_or_default();
            say(output, &format!("node {} is started again, pid {pid}", nodes.list()[index].id))?;
        }
    }
    Ok(())
}

/// A node that was killed has nothing to say; one that ended by itself has said why.
fn told_of_end(node: &Node, status: ExitStatus, pause: Duration) -> String {
    let end = nodes::describe_end(status);
    let words = match status.code() {
        Some(_) => format!(":\n    {}\n  the others go on;", node.last_words()),
        None => ";".to_owned(),
    };
    format!("node {} {end}{words} it is started again in {} s", node.id, pause.as_secs())
}

fn died_at_start(node: &Node, status: ExitStatus) -> Failure {
    let end = nodes::describe_end(status);
    let what = format!("node {} {end}:\n    {}", node.id, node.last_words());
    Failure::new(Exit::CannotStart, what).cure(format!("the whole log is {}", node.log.display()))
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Asks until the catalog has a leader that reaches all nodes; says who it is.
pub async fn wait_for_leader(addresses: Vec<String>) -> Result<u64, Failure> {
    const ASK_EVERY: Duration = Duration::from_millis(100);
    let started = Instant::now();
    while started.elapsed() < LEADER_LIMIT {
        let builder = Client::builder()
            .addresses(addresses.iter().cloned())
            .connect_timeout(Duration::from_secs(1))
            .request_timeout(Duration::from_secs(2));
        if let Ok(client) = builder.connect().await
            && let Ok(status) = client.status().await
            && let Some(leader) = status.catalog_leader
            && let reachable = status.nodes.iter().filter(|node| node.reachable)
            && reachable.clone().count() >= addresses.len()
            // One that has died is named as the leader until another one is elected.
            && reachable.clone().any(|node| node.node_id == leader.node_id)
        {
            return Ok(leader.node_id);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Err(Failure::new(
        Exit::Unavailable,
        format!("the nodes have not found together in {LEADER_LIMIT:?}"),
    )
    .reason("NO_QUORUM")
    .cure("look into the nodes' logs"))
}

fn print_nodes(nodes: &Nodes, output: Format) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if output == Format::Json {
        for (index, node) in nodes.list().iter().enumerate() {
            let line = serde_json::json!({
                "node": node.id, "address": node.address.to_string(), "pid": nodes.pid(index),
                "data": display(&node.data), "log": display(&node.log),
            });
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    let mut table = Table::new(&[">node", "address", ">pid", "data", "log"]);
    for (index, node) in nodes.list().iter().enumerate() {
        let pid = nodes.pid(index).map(|pid| pid.to_string()).unwrap_or_default();
        let (data, log) = (display(&node.data), display(&node.log));
        table.row([node.id.to_string(), node.address.to_string(), pid, data, log]);
    }
    write!(out, "{table}")?;
    Ok(())
}

fn say(output: Format, line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match output {
        Format::Table => writeln!(out, "{line}")?,
        Format::Json => writeln!(out, "{}", serde_json::json!({ "event": line }))?,
    }
    Ok(())
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(data: &Path, nodes: Option<u16>, port: Option<u16>) -> Args {
        Args { nodes, data: data.to_owned(), port }
    }

    #[test]
    fn a_directory_keeps_its_shape_and_refuses_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("dev");
        let first = settle_shape(&args(&data, Some(5), Some(9000))).expect("new");
        keep_shape(first, &data).expect("write it down");
        assert_eq!(first, Shape { nodes: 5, port: 9000, founded: false });
        assert_eq!(settle_shape(&args(&data, None, None)).expect("goes on"), first);
        assert_eq!(settle_shape(&args(&data, Some(5), None)).expect("same wish"), first);
        let failure = settle_shape(&args(&data, Some(3), None)).expect_err("other wish");
        assert_eq!(failure.exit(), Exit::CannotStart);
        assert!(failure.to_string().contains("5 nodes at port 9000"), "{failure}");
    }

    #[test]
    fn a_node_that_keeps_failing_is_started_ever_more_rarely() {
        use std::os::unix::process::ExitStatusExt;
        let (code_3, killed) = (ExitStatus::from_raw(3 << 8), ExitStatus::from_raw(9));
        let begun = Instant::now();
        let mut watch = Watch::new(begun);
        let pauses = [(); 7].map(|()| watch.ended(code_3, begun).as_secs());
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        assert!(watch.fails());
        assert_eq!(watch.ended(killed, begun), RESTART_AFTER);
        assert!(!watch.fails(), "someone has killed it");
        watch.ended(code_3, begun + SOON);
        assert!(!watch.fails(), "it has run");
    }
}
