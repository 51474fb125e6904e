//! `quorate cluster status`.

use std::io::Write;

use quorate_client::ClusterStatus;
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;
use crate::table::{Facts, Table};
use crate::units;

/// Shows the cluster as the answering node sees it.
pub async fn run(global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let status = session::within(global, "ask for the status", client.status()).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(out, "{}", json(&status))?,
        Format::Table => write!(out, "{}", text(&status))?,
    }
    Ok(())
}

fn text(status: &ClusterStatus) -> String {
    let mut facts = Facts::default();
    let leader = status.catalog_leader.as_ref();
    let leader = leader.map(|leader| format!("node {} (term {})", leader.node_id, leader.term));
    let leaderless = match status.queues_without_leader {
        0 => String::new(),
        n => format!(", {} without a leader", units::count(n)),
    };
    facts
        .fact("cluster", &status.cluster_id)
        .fact("seen from", format!("node {}", status.node_id))
        .fact("catalog led by", leader.unwrap_or("none: no majority of nodes is up".to_owned()))
        .fact("queues", format!("{}{leaderless}", units::count(status.queues)));
    let headers = [
        ">node",
        "address",
        "zone",
        "state",
        ">leads",
        ">replicas",
        ">lag",
        ">disk free",
        ">pid",
        "version",
    ];
    let mut table = Table::new(&headers);
    for node in &status.nodes {
        let state = match (node.reachable, node.disk_full, node.leaving, node.draining) {
            (false, _, true, _) => "unreachable, leaving",
            (false, _, false, _) => "unreachable",
            (true, true, _, _) => "disk full",
            (true, false, true, _) => "leaving",
            (true, false, false, true) => "draining",
            (true, false, false, false) => "up",
        };
        let up = |figure: String| if node.reachable { figure } else { String::new() };
        table.row([
            node.node_id.to_string(),
            node.address.clone(),
            node.zone.clone(),
            state.to_owned(),
            units::count(node.leaders),
            units::count(node.replicas),
            units::count(node.lag),
            up(units::bytes(node.disk_free_bytes)),
            up(node.process_id.to_string()),
            node.version.clone(),
        ]);
    }
    format!("{facts}\n{table}")
}

fn json(status: &ClusterStatus) -> Value {
    json!({
        "cluster_id": status.cluster_id,
        "node_id": status.node_id,
        "catalog_leader": status.catalog_leader.as_ref().map(|leader| json!({
            "node_id": leader.node_id, "address": leader.address, "term": leader.term,
        })),
        "queues": status.queues,
        "queues_without_leader": status.queues_without_leader,
        "nodes": status.nodes.iter().map(|node| json!({
            "node_id": node.node_id, "address": node.address, "zone": node.zone,
            "reachable": node.reachable, "replicas": node.replicas, "leaders": node.leaders,
            "version": node.version, "disk_full": node.disk_full,
            "disk_free_bytes": node.disk_free_bytes, "process_id": node.process_id,
            "lag": node.lag, "draining": node.draining, "leaving": node.leaving,
        })).collect::<Vec<_>>(),
    })
}
