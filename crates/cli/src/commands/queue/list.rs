//! `quorate queue list`.

use std::io::Write;

use crate::args::{Format, Global};
use crate::commands::queue::describe;
use crate::failure::Failure;
use crate::session;
use crate::table::Table;
use crate::units;

/// Lists all queues in order of name.
pub async fn run(global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let queues = session::within(global, "list queues", client.list_queues()).await?;
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
            queue.replicas.len().to_string(),
            queue.leader.as_ref().map_or("none".to_owned(), |leader| leader.node_id.to_string()),
        ]);
    }
    write!(out, "{table}")?;
    Ok(())
}
