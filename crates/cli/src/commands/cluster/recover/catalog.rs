//! The catalog on a node that does not run: what that knows, and leading the catalog alone with it.

use std::io::Write;
use std::path::Path;

use quorate_broker::{RecoverCatalogError, StartError, recover_catalog};
use quorate_group::Position;
use quorate_group::offline::{CATALOG, Members, Replay};
use quorate_machine::catalog::Catalog;
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::commands::log::{no_history, open, shown, unusable};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::table::{Facts, Table};
use crate::units;

/// What the node has of the catalog.
struct Known {
    cluster: String,
    node: u64,
    last: Option<Position>,
    committed: Option<Position>,
    members: Option<Members>,
    /// It was to take the catalog from another node, on which that was recovered.
    recovered_elsewhere: bool,
    catalog: Catalog,
}

pub(super) async fn run(data: &Path, accept_loss: bool, global: &Global) -> Result<(), Failure> {
    // Closed before anything is written.
    let known = look(data)?;
    let mut out = std::io::stdout().lock();
    if global.output == Format::Table {
        write!(out, "{}", text(&known))?;
        out.flush()?;
    }
    if !accept_loss {
        if global.output == Format::Json {
            writeln!(out, "{}", to_json(&known, None))?;
        }
        let what = "the catalog can be recovered on this node; nothing was changed";
        return Err(Failure::new(Exit::LossNotAccepted, what).reason("LOSS_NOT_ACCEPTED").cure(
            "look at each node that is left, and do it with --accept-loss on the one with the greatest term, then index: \
             on that one only",
        ));
    }
    let recovered = recover_catalog(data).await.map_err(|error| failed(data, &error))?;
    let position = Position { term: recovered.term, index: recovered.index };
    match global.output {
        Format::Json => writeln!(out, "{}", to_json(&known, Some(position)))?,
        Format::Table => writeln!(
            out,
            "node {} leads the catalog alone from its next start on (term {}, index {}). Start it, and after it the \
             other nodes that are left; each of them stops once, and takes the catalog from here when it is started \
             again. Then: quorate cluster recover --all",
            known.node, position.term, position.index
        )?,
    }
    Ok(())
}

fn look(data: &Path) -> Result<Known, Failure> {
    let doing = "read the catalog";
    let opened = open(data)?;
    let stopped = opened.read()?;
    let history = stopped.history(CATALOG, None).map_err(|error| no_history(doing, &error))?;
    let failed = |error| Failure::new(Exit::Failed, format!("{doing}: {error}"));
    let mut replay = Replay::<Catalog>::begin(history.base()).map_err(failed)?;
    for entry in stopped.entries(&history) {
        let entry = entry.map_err(|error| no_history(doing, &error))?;
        replay.apply(&entry).map_err(failed)?;
    }
    let identity = opened.dir.identity().map_err(|error| unusable(data, &error))?;
    let info = stopped.info(CATALOG);
    Ok(Known {
        cluster: identity.cluster_id,
        node: identity.node_id,
        last: info.last.or(replay.position()),
        committed: info.committed,
        members: replay.members().cloned(),
        recovered_elsewhere: stopped.is_leaving(CATALOG),
        catalog: replay.into_machine(),
    })
}

fn failed(data: &Path, error: &RecoverCatalogError) -> Failure {
    match error {
        RecoverCatalogError::Open(StartError::Dir(error)) => unusable(data, error),
        RecoverCatalogError::Open(error) => Failure::new(Exit::CannotStart, error.to_string()),
        error => {
            Failure::new(Exit::Failed, format!("recover the catalog in {}: {error}", shown(data)))
                .cure("nothing is lost by another try on this node")
        }
    }
}

fn at(position: Option<Position>) -> String {
    position.map_or("-".to_owned(), |at| format!("term {}, index {}", at.term, at.index))
}

fn ids(nodes: impl IntoIterator<Item = u64>) -> String {
    nodes.into_iter().map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

fn text(known: &Known) -> String {
    let mut facts = Facts::default();
    let voters = known.members.as_ref().map_or("-".to_owned(), |members| {
        members.voters.iter().map(|set| ids(set.iter().copied())).collect::<Vec<_>>().join("; ")
    });
    let (catalog, node) = (&known.catalog, known.node);
    let here = catalog.queues().filter(|queue| queue.holders().any(|holder| holder.0 == node));
    facts
        .fact("cluster", &known.cluster)
        .fact("node", node.to_string())
        .fact("last entry", at(known.last))
        .fact("committed", at(known.committed))
        .fact("voters of the catalog", voters)
        .fact(
            "queues",
            format!(
                "{}, {} of them with a replica here",
                units::count(catalog.queues().len() as u64),
                units::count(here.count() as u64)
            ),
        );
    if known.recovered_elsewhere {
        facts.fact(
            "recovered elsewhere",
            "yes: this node was to take the catalog from another one. Go on with what is here only if that is lost too, \
             for ever",
        );
    }
    let mut nodes = Table::new(&[">node", "address", "zone", ""]);
    for known in catalog.nodes() {
        let state = match (known.id.0 == node, known.leaving) {
            (true, _) => "this one",
            (false, true) => "leaving",
            (false, false) => "",
        };
        nodes.row([
            known.id.0.to_string(),
            known.address.clone(),
            known.zone.clone(),
            state.to_owned(),
        ]);
    }
    let mut queues = Table::new(&["queue", ">group", "voters", "observers"]);
    for queue in catalog.queues() {
        queues.row([
            queue.name.to_string(),
            queue.group.0.to_string(),
            ids(queue.replicas.iter().map(|node| node.0)),
            ids(queue.observers.iter().map(|node| node.0)),
        ]);
    }
    format!(
        "{facts}\n{nodes}\n{queues}\nLost is what the catalog took in after its last entry here: queues that were created, \
         changed or deleted since, nodes that joined or left, replicas that moved.\n"
    )
}

fn to_json(known: &Known, recovered: Option<Position>) -> Value {
    let position =
        |at: Option<Position>| at.map(|at| json!({ "term": at.term, "index": at.index }));
    json!({
        "cluster_id": known.cluster, "node_id": known.node,
        "last": position(known.last), "committed": position(known.committed),
        "voters": known.members.as_ref().map(|members| &members.voters),
        "recovered": position(recovered),
        "recovered_elsewhere": known.recovered_elsewhere,
        "nodes": known.catalog.nodes().map(|node| json!({
            "node_id": node.id.0, "address": node.address, "zone": node.zone,
            "leaving": node.leaving,
        })).collect::<Vec<_>>(),
        "queues": known.catalog.queues().map(|queue| json!({
            "queue": queue.name.to_string(), "group": queue.group.0,
            "voters": queue.replicas.iter().map(|node| node.0).collect::<Vec<_>>(),
            "observers": queue.observers.iter().map(|node| node.0).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}
