//! `quorate queue list`.

use std::io::Write;

use crate::args::{Format, Global};
use crate::commands::queue::describe;
use crate::failure::Failure;
use crate::session;
use crate::table::Table;
use crate::units;

/// Options of `queue list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only queues of this name; `*` stands for any characters, `?` for one. Quote it for the shell.
    pattern: Option<String>,
}

/// Lists queues in order of name.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let pattern = args.pattern.as_deref().unwrap_or_default();
    let queues = session::within(global, "list queues", client.find_queues(pattern)).await?;
    let mut out = std::io::stdout().lock();
    if global.output == Format::Json {
        for queue in &queues {
            writeln!(out, "{}", describe::json(queue))?;
        }
        return Ok(());
    }
    let headers = [
        "queue",
        ">ready",
        ">leased",
        ">delayed",
        ">dead",
        ">size",
        ">consumers",
        ">replicas",
        ">leader",
    ];
    let mut table = Table::new(&headers);
    for queue in &queues {
        let counts = queue.counts.as_ref();
        let count = |figure: Option<u64>| figure.map_or("?".to_owned(), units::count);
        table.row([
            queue.name.clone(),
            count(counts.map(|counts| counts.ready)),
            count(counts.map(|counts| counts.leased)),
            count(counts.map(|counts| counts.delayed)),
            count(counts.map(|counts| counts.dead)),
            counts.map_or("?".to_owned(), |counts| units::bytes(counts.bytes)),
            queue.consumers.len().to_string(),
            match queue.sharding {
                Some(_) => "-".to_owned(),
                None => queue.replicas.len().to_string(),
            },
            match &queue.sharding {
                Some(sharding) => format!("{} shards", sharding.shards.len()),
                None => queue
                    .leader
                    .as_ref()
                    .map_or("none".to_owned(), |leader| leader.node_id.to_string()),
            },
        ]);
    }
    write!(out, "{table}")?;
    Ok(())
}
