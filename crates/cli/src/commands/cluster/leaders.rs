//! `quorate cluster transfer-leader | drain | undrain | balance`: who leads on purpose.

use std::io::Write;
use std::time::{Duration, Instant};

use quorate_client::Client;
use serde_json::json;

use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{session, units};

/// Time between two looks whether a drained node leads nothing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks after which a node that does not answer leads nothing: it is down.
const SILENT_LOOKS: u32 = 20;

/// Options of `cluster transfer-leader`.
#[derive(Debug, clap::Args)]
pub struct Transfer {
    /// The queue.
    queue: String,
    /// The node that is to lead it; without it, the replica that has most.
    #[arg(long, value_name = "NODE")]
    to: Option<u64>,
}

/// Options of `cluster drain` and `cluster undrain`.
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// The node's id, as `quorate cluster status` shows it.
    node: u64,
}

/// Hands a queue's leadership over.
pub async fn transfer(args: &Transfer, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let transferring = client.transfer_leader(args.queue.as_str(), args.to);
    let leader = session::within(global, "transfer the leadership", transferring).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(
            out,
            "{}",
            json!({ "queue": args.queue, "node_id": leader.node_id, "address": leader.address,
                "term": leader.term })
        )?,
        Format::Table => {
            writeln!(out, "node {} at {} leads {}", leader.node_id, leader.address, args.queue)?;
        }
    }
    Ok(())
}

/// Drains a node, and waits until it leads nothing.
pub async fn drain(args: &Drain, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    session::within(global, "drain the node", client.drain_node(args.node, true)).await?;
    let begun = Instant::now();
    let mut silent = 0;
    loop {
        let led = match led_by(&client, args.node, global).await? {
            Some(0) => break,
            Some(led) => led,
            None if silent == SILENT_LOOKS => break,
            None => 0,
        };
        silent = if led == 0 { silent + 1 } else { 0 };
        if begun.elapsed() > global.timeout {
            let what = format!("node {} leads {} queues still", args.node, units::count(led));
            return Err(Failure::new(Exit::Failed, what).reason("TIMEOUT").cure(
                "it goes on by itself: a queue stays where no other replica is there to lead it",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    told(
        global,
        args.node,
        true,
        "leads nothing and can be stopped; `cluster undrain` takes it back",
    )
}

/// Takes a drain back.
pub async fn undrain(args: &Drain, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    session::within(global, "undrain the node", client.drain_node(args.node, false)).await?;
    told(global, args.node, false, "may lead again; `cluster balance` gives its queues back")
}

fn told(global: &Global, node: u64, draining: bool, words: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(out, "{}", json!({ "node_id": node, "draining": draining }))?,
        Format::Table => writeln!(out, "node {node} {words}")?,
    }
    Ok(())
}

/// Leaderships of a node; `None` if it does not answer.
async fn led_by(client: &Client, node: u64, global: &Global) -> Result<Option<u64>, Failure> {
    let status = session::within(global, "ask for the status", client.status()).await?;
    let catalog = status.catalog_leader.is_some_and(|leader| leader.node_id == node);
    let node = status.nodes.iter().find(|known| known.node_id == node);
    let node = node.filter(|node| node.reachable);
    Ok(node.map(|node| node.leaders + u64::from(catalog)))
}

/// Gives queues back to their leaders.
pub async fn balance(global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let balanced = session::within(global, "balance", client.balance_leaders()).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            writeln!(out, "{}", json!({ "moved": balanced.moved, "left": balanced.left }))?;
        }
        Format::Table => {
            let (moved, left) = (units::count(balanced.moved), units::count(balanced.left));
            writeln!(out, "{moved} leaderships moved, {left} queues are led elsewhere still")?;
        }
    }
    Ok(())
}
