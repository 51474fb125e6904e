//! `quorate queue replica add | remove | replace`: which nodes hold a queue.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Subcommand;
use quorate_client::{ChangeReplicasRequest, Client, QueueDescription, Replica, ReplicaRole};
use serde_json::json;

use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{session, units};

/// Time between two looks whether the replicas are where they are to be.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Verbs of `queue replica`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Have nodes hold the queue; an observer that is named becomes a voter, or with --observer the other way
    /// round. A queue has 1, 3 or 5 voters, so from one to three two are added at once.
    Add(Add),
    /// Have nodes hold the queue no more.
    Remove(Remove),
    /// Have one node take the place of another.
    Replace(Replace),
}

/// Options of `queue replica add`.
#[derive(Debug, clap::Args)]
pub struct Add {
    queue: String,
    /// A node, as `quorate cluster status` shows it; several times for several.
    #[arg(long = "node", value_name = "NODE", required = true)]
    nodes: Vec<u64>,
    /// Follow the queue without a vote: for reads near a node that is far from the others.
    #[arg(long)]
    observer: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// Options of `queue replica remove`.
#[derive(Debug, clap::Args)]
pub struct Remove {
    queue: String,
    /// A node that holds it; several times for several.
    #[arg(long = "node", value_name = "NODE", required = true)]
    nodes: Vec<u64>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Options of `queue replica replace`.
#[derive(Debug, clap::Args)]
pub struct Replace {
    queue: String,
    /// The node that holds it.
    #[arg(long, value_name = "NODE")]
    from: u64,
    /// The node that is to hold it instead.
    #[arg(long, value_name = "NODE")]
    to: u64,
    #[command(flatten)]
    waiting: Waiting,
}

/// What all verbs have in common.
#[derive(Debug, clap::Args)]
pub struct Waiting {
    /// Do not wait until the messages have moved.
    #[arg(long)]
    no_wait: bool,
}

/// Runs one verb.
pub async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut change = ChangeReplicasRequest::default();
    let (queue, waiting) = match command {
        Command::Add(Add { queue, nodes, observer, waiting }) => {
            if observer {
                change.observers = nodes
            } else {
                change.voters = nodes
            }
            (queue, waiting)
        }
        Command::Remove(Remove { queue, nodes, waiting }) => {
            change.remove = nodes;
            (queue, waiting)
        }
        Command::Replace(Replace { queue, from, to, waiting }) => {
            let asking = client.describe_queue(queue.as_str());
            let described = session::within(global, "describe queue", asking).await?;
            let mut replicas = described.replicas.iter();
            // An observer is replaced by an observer.
            let observes = |replica: &Replica| {
                replica.node_id == from && replica.role() == ReplicaRole::Observer
            };
            match replicas.any(observes) {
                true => change.observers = vec![to],
                false => change.voters = vec![to],
            }
            change.remove = vec![from];
            (queue, waiting)
        }
    };
    let changing = client.change_replicas(queue.as_str(), change);
    let placed = session::within(global, "change the replicas", changing).await?;
    let moving = if waiting.no_wait {
        true
    } else {
        !wait(&client, &queue, placed.placement, global).await?
    };
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(
            out,
            "{}",
            json!({ "queue": queue, "voters": placed.voters, "observers": placed.observers,
                "moving": moving })
        )?,
        Format::Table => {
            let verb = if moving { "is moving to" } else { "is on" };
            let observers = match placed.observers.as_slice() {
                [] => String::new(),
                nodes => format!(", observed by {}", list(nodes)),
            };
            writeln!(out, "{queue} {verb} {}{observers}", list(&placed.voters))?;
        }
    }
    Ok(())
}

fn list(nodes: &[u64]) -> String {
    let ids: Vec<String> = nodes.iter().map(u64::to_string).collect();
    format!("node{} {}", if nodes.len() == 1 { "" } else { "s" }, ids.join(", "))
}

/// Waits until the queue is where it is to be; true then.
async fn wait(
    client: &Client,
    queue: &str,
    placement: u64,
    global: &Global,
) -> Result<bool, Failure> {
    let begun = Instant::now();
    loop {
        let asking = client.describe_queue(queue);
        let described = session::within(global, "see how far it is", asking).await?;
        // Who leads the queue may not know of the change yet.
        if !described.moving && described.placement >= placement {
            return Ok(true);
        }
        if begun.elapsed() > global.timeout {
            let what = format!("{queue} is moving still{}", how_far(&described));
            return Err(Failure::new(Exit::Failed, what).reason("TIMEOUT").cure(
                "it goes on by itself; `quorate queue describe` shows how far it is, and --timeout waits longer",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn how_far(queue: &QueueDescription) -> String {
    let lagging = queue.replicas.iter().filter(|replica| replica.lag > 0);
    let lagging: Vec<String> = lagging
        .map(|replica| {
            format!("node {} lacks {} entries", replica.node_id, units::count(replica.lag))
        })
        .collect();
    if lagging.is_empty() { String::new() } else { format!(": {}", lagging.join(", ")) }
}
