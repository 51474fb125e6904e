//! `quorate queue explain NAME`: why its replicas are where they are; with an offset, where that message is (`message`).

mod message;

use std::io::Write;
use std::time::Duration;

use quorate_client::{
    PlacedNode, PlacedRole, PlacementExplanation, PlacementFinding, PlacementFindingKind,
    PlacementReason, PlacementStep, PreferredLeaderReason,
};
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;
use crate::table::{Facts, Table};
use crate::units;

/// Options of `queue explain`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With an offset: where that message is and why nobody gets it, from the queue's leader with a majority \
behind it, or from the replica of some node, marked so.\n\nWithout one: placement. It chooses one node after the other: of those that are there and neither drained nor leaving, one \
in the zone that the queue uses least so far, then the one that carries the fewest replicas, then the lowest id. The rules are \
asked again now: this tells what holds today, no history is kept. others, leads: replicas of other queues that the \
node carries, and of how many of them it is the preferred leader."
)]
pub struct Args {
    /// The queue.
    name: String,
    /// A message of it.
    offset: Option<u64>,
}

/// Explains one queue, or one message.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    if let Some(offset) = args.offset {
        return message::run(&args.name, offset, global).await;
    }
    let client = session::connect(global).await?;
    let asking = client.explain_placement(args.name.as_str());
    let explained = session::within(global, "explain the placement", asking).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(out, "{}", json(&explained))?,
        Format::Table => write!(out, "{}", text(&explained))?,
    }
    Ok(())
}

fn list(nodes: &[u64]) -> String {
    nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn voters(explained: &PlacementExplanation) -> Vec<u64> {
    let voters = explained.nodes.iter().filter(|node| node.role() == PlacedRole::Voter);
    voters.map(|node| node.node_id).collect()
}

fn text(explained: &PlacementExplanation) -> String {
    let voters = voters(explained);
    let anew = match &explained.anew {
        anew if anew.is_empty() => format!(
            "could not be made: fewer than {} nodes are there that take replicas",
            voters.len()
        ),
        anew if *anew == voters => format!("{}: where it is", list(anew)),
        anew => list(anew),
    };
    let mut facts = Facts::default();
    facts
        .fact("queue", &explained.name)
        .fact("seen from", format!("node {}", explained.node_id))
        .fact("voters on", list(&voters))
        .fact("made now, on", anew)
        .fact("leader", leader(explained));
    match explained.placement {
        0 => facts.fact("placed", "by the rules, when it was created"),
        _ => facts.fact(
            "placed",
            "anew since it was created: by an operator, or for a node that was lost or left",
        ),
    };
    if explained.moving {
        facts.fact("moves", step(explained));
    }
    let mut table = Table::new(&[">node", "zone", "role", "state", ">others", ">leads", "why"]);
    for node in &explained.nodes {
        table.row([
            node.node_id.to_string(),
            node.zone.clone(),
            role(node).to_owned(),
            state(node),
            units::count(node.replicas),
            units::count(node.leaders),
            why(node),
        ]);
    }
    let mut text = format!("{facts}\n{table}");
    for finding in &explained.findings {
        text.push_str(&format!("\n{}", found(finding, &explained.name)));
    }
    if !explained.findings.is_empty() {
        text.push('\n');
    }
    text
}

fn role(node: &PlacedNode) -> &'static str {
    match node.role() {
        PlacedRole::Voter => "voter",
        PlacedRole::Observer => "observer",
        PlacedRole::Leaving => "goes",
        PlacedRole::None | PlacedRole::Unspecified => "-",
    }
}

fn state(node: &PlacedNode) -> String {
    let away = match node.away_ms {
        Some(ms) => format!("away {}", units::duration(Duration::from_millis(ms))),
        None => "away".to_owned(),
    };
    let duty = match (node.leaving, node.draining) {
        (true, _) => Some("leaving"),
        (false, true) => Some("draining"),
        (false, false) => None,
    };
    match (node.reachable, duty) {
        (true, None) => "up".to_owned(),
        (true, Some(duty)) => duty.to_owned(),
        (false, None) => away,
        (false, Some(duty)) => format!("{away}, {duty}"),
    }
}

fn why(node: &PlacedNode) -> String {
    let others = list(&node.others);
    let holds = node.role() == PlacedRole::Voter;
    match node.reason() {
        PlacementReason::Chosen => {
            let zone = match node.in_zone {
                0 => "its zone has no other replica of the queue".to_owned(),
                n => format!("its zone has {n} already, and no other has fewer"),
            };
            let would = if holds { "" } else { "would be " };
            format!(
                "{would}chosen as no. {}: {zone}, and of those it carries the fewest",
                node.pick
            )
        }
        PlacementReason::Stays if others.is_empty() => "stays where it is".to_owned(),
        PlacementReason::Stays => {
            format!("stays where it is; made now, the queue would be on {others} rather")
        }
        PlacementReason::ByOperator => "an operator named it: no rule places observers".to_owned(),
        PlacementReason::Goes => "held the queue; goes when the members are changed".to_owned(),
        PlacementReason::NotThere => "not there".to_owned(),
        PlacementReason::LeavesCluster => "leaves the cluster, and gets nothing".to_owned(),
        PlacementReason::Drained => "drained: only where there are too few others".to_owned(),
        PlacementReason::ZoneUsed => format!("its zone has a replica already, on {others}"),
        PlacementReason::MoreLoaded => {
            format!("carries more than {others} with {}", units::count(node.others_replicas))
        }
        PlacementReason::HigherId => format!("as good as {others}, which has the lower id"),
        PlacementReason::TooFewNodes => "too few nodes are there to choose from".to_owned(),
        PlacementReason::Unspecified => {
            "the server gives a reason that this program does not know".to_owned()
        }
    }
}

fn leader(explained: &PlacementExplanation) -> String {
    let preferred = explained.preferred_leader;
    let why = match explained.preferred_leader_reason() {
        PreferredLeaderReason::Fewest => "of the voters, preferred leader of the fewest".to_owned(),
        PreferredLeaderReason::Stays => {
            format!("chosen before; now it would be {}", explained.rather_leader)
        }
        PreferredLeaderReason::Drained => {
            format!("drained, until `quorate cluster undrain {preferred}`")
        }
        PreferredLeaderReason::Unspecified => "for an unknown reason".to_owned(),
    };
    let drained = explained.preferred_leader_reason() == PreferredLeaderReason::Drained;
    let away = explained.nodes.iter().any(|node| node.node_id == preferred && !node.reachable);
    match explained.leader.as_ref().map(|leader| leader.node_id) {
        None => format!("none; preferred is node {preferred} ({why})"),
        Some(leader) if leader == preferred => format!("node {leader}, the preferred one ({why})"),
        Some(leader) if away => {
            format!("node {leader}; preferred is node {preferred}, which is not there")
        }
        Some(leader) if drained => format!("node {leader}; preferred is node {preferred} ({why})"),
        Some(leader) => format!(
            "node {leader}, by an election or a hand-over; preferred is node {preferred} ({why}): `quorate \
             cluster balance` gives it back"
        ),
    }
}

fn step(explained: &PlacementExplanation) -> String {
    let nodes = list(&explained.step_nodes);
    match explained.step() {
        PlacementStep::Wait if nodes.is_empty() => "a change waits for its majority".to_owned(),
        PlacementStep::Wait => format!("waits until {nodes} have caught up or are back"),
        PlacementStep::Add => format!("{nodes} is added"),
        PlacementStep::HandOver => format!("the leader hands over to {nodes}"),
        PlacementStep::Vote => format!("{nodes} become the voters"),
        PlacementStep::Remove => format!("{nodes} is let go"),
        PlacementStep::Done => "done; the catalog is being told".to_owned(),
        PlacementStep::Unspecified => "its leader did not say what it waits for".to_owned(),
    }
}

/// What is wrong, and what mends it.
fn found(finding: &PlacementFinding, queue: &str) -> String {
    let (node, to) = (finding.node_id, finding.to);
    match finding.kind() {
        PlacementFindingKind::ZoneCrowded => format!(
            "the zone of node {node} has more voters than it should, that of node {to} could take one:\n  \
             quorate queue replica replace {queue} --from {node} --to {to}"
        ),
        PlacementFindingKind::NotThere if to == 0 => format!(
            "node {node} is not there, and no other can take its place: bring it back, or add a node:\n  \
             quorate cluster join --data DIR --address HOST:PORT"
        ),
        PlacementFindingKind::NotThere => format!(
            "node {node} is not there; once it is gone for raft.replace_after_ms, node {to} takes its place; at once:\n  \
             quorate queue replica replace {queue} --from {node} --to {to}"
        ),
        PlacementFindingKind::LeavesCluster if to == 0 => format!(
            "node {node} is to leave, and no other can take its place: add a node:\n  quorate cluster join \
             --data DIR --address HOST:PORT"
        ),
        PlacementFindingKind::LeavesCluster => {
            format!("node {node} is to leave; node {to} takes its place by itself")
        }
        PlacementFindingKind::NoMajority => {
            "most of the voters are not there: nothing is confirmed, and the queue cannot be moved: bring \
             them back"
                .to_owned()
        }
        PlacementFindingKind::Unspecified => {
            "the server has found something that this program does not know".to_owned()
        }
    }
}

/// The name of a value of the API without what its kind is called: `ZONE_USED`.
fn short(name: &str, kind: &str) -> String {
    name.strip_prefix(kind).unwrap_or(name).to_lowercase()
}

fn json(explained: &PlacementExplanation) -> Value {
    let node = |node: &PlacedNode| {
        json!({
            "node_id": node.node_id, "zone": node.zone,
            "role": short(node.role().as_str_name(), "PLACED_ROLE_"),
            "reachable": node.reachable, "away_ms": node.away_ms, "draining": node.draining,
            "leaving": node.leaving, "replicas": node.replicas, "leaders": node.leaders,
            "reason": short(node.reason().as_str_name(), "PLACEMENT_REASON_"),
            "pick": node.pick, "in_zone": node.in_zone, "others": node.others,
            "others_replicas": node.others_replicas, "why": why(node),
        })
    };
    let finding = |finding: &PlacementFinding| {
        json!({
            "kind": short(finding.kind().as_str_name(), "PLACEMENT_FINDING_KIND_"),
            "node_id": finding.node_id, "to": finding.to,
            "message": found(finding, &explained.name),
        })
    };
    json!({
        "name": explained.name, "node_id": explained.node_id, "voters": voters(explained),
        "anew": explained.anew,
        "leader": explained.leader.as_ref().map(|leader| leader.node_id),
        "preferred_leader": explained.preferred_leader,
        "preferred_leader_reason":
            short(explained.preferred_leader_reason().as_str_name(), "PREFERRED_LEADER_REASON_"),
        "rather_leader": explained.rather_leader,
        "moving": explained.moving, "placement": explained.placement,
        "step": short(explained.step().as_str_name(), "PLACEMENT_STEP_"),
        "step_nodes": explained.step_nodes,
        "nodes": explained.nodes.iter().map(node).collect::<Vec<_>>(),
        "findings": explained.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_broken_comes_with_the_command_that_mends_it() {
        let mut finding = PlacementFinding { node_id: 2, to: 5, ..Default::default() };
        finding.set_kind(PlacementFindingKind::ZoneCrowded);
        let told = found(&finding, "orders");
        assert!(told.ends_with("quorate queue replica replace orders --from 2 --to 5"), "{told}");
        finding.set_kind(PlacementFindingKind::NotThere);
        assert!(found(&finding, "orders").contains("raft.replace_after_ms"));
        finding.to = 0;
        assert!(found(&finding, "orders").contains("cluster join"), "nobody can");
    }

    #[test]
    fn a_leader_elsewhere_is_given_back_unless_the_preferred_one_is_drained() {
        let leader = quorate_client::Leader { node_id: 2, ..Default::default() };
        let mut explained = PlacementExplanation {
            leader: Some(leader),
            preferred_leader: 1,
            ..Default::default()
        };
        explained.set_preferred_leader_reason(PreferredLeaderReason::Fewest);
        assert!(super::leader(&explained).contains("cluster balance"));
        explained.set_preferred_leader_reason(PreferredLeaderReason::Drained);
        assert!(super::leader(&explained).contains("undrain 1"));
        assert!(!super::leader(&explained).contains("balance"));
        let away = PlacedNode { node_id: 1, reachable: false, ..Default::default() };
        explained.nodes.push(away);
        assert!(super::leader(&explained).contains("which is not there"));
        explained.preferred_leader = 2;
        explained.set_preferred_leader_reason(PreferredLeaderReason::Fewest);
        assert!(super::leader(&explained).contains("the preferred one"));
    }
}
