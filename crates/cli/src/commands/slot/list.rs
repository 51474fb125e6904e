//! `quorate slot list [QUEUE]`.

use std::io::Write;
use std::time::Duration;

use quorate_client::{Client, SlotDescription};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::table::Table;
use crate::{session, units, watch};

/// Options of `slot list`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "States: reserved (all that it needs would be kept without it), extended (something is kept only \
because of the slots), unreserved (beyond its bounds: it keeps nothing, and all is still there), lost (something that it \
needed is gone: drop it and create it anew)."
)]
pub struct Args {
    /// Only this queue's; otherwise each queue's leader is asked.
    queue: Option<String>,
    /// Show them again and again, every second unless another time is given, until Ctrl-C.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s")]
    #[arg(value_parser = units::parse_duration)]
    watch: Option<Duration>,
}

/// Lists them once, or until it is interrupted.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    watch::repeat(args.watch, async || {
        let slots = slots(&client, args, global).await?;
        show(&slots, global)
    })
    .await
}

async fn slots(
    client: &Client,
    args: &Args,
    global: &Global,
) -> Result<Vec<SlotDescription>, Failure> {
    let queues = match &args.queue {
        Some(queue) => vec![queue.clone()],
        None => {
            let queues = session::within(global, "list queues", client.list_queues()).await?;
            // A sharded queue has none by itself: its shards are listed too.
            let queues = queues.into_iter().filter(|queue| queue.sharding.is_none());
            queues.map(|queue| queue.name).collect()
        }
    };
    let mut slots = Vec::new();
    for queue in queues {
        slots.extend(session::within(global, "list slots", client.list_slots(queue)).await?);
    }
    Ok(slots)
}

fn show(slots: &[SlotDescription], global: &Global) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            for slot in slots {
                writeln!(out, "{}", super::json(slot))?;
            }
        }
        Format::Table => {
            let headers = [
                "queue",
                "slot",
                "state",
                ">position",
                ">lag",
                ">retained",
                ">max retained",
                ">max idle",
                ">lost from",
            ];
            let mut table = Table::new(&headers);
            slots.iter().for_each(|slot| table.row(row(slot)));
            write!(out, "{table}")?;
        }
    }
    out.flush()?;
    Ok(())
}

fn row(slot: &SlotDescription) -> [String; 9] {
    let idle = match slot.max_idle_ms {
        0 => "-".to_owned(),
        millis => units::duration(Duration::from_millis(millis)),
    };
    [
        slot.queue.clone(),
        slot.slot.clone(),
        super::state(slot).to_owned(),
        slot.position.to_string(),
        units::count(slot.lag_messages),
        units::bytes(slot.retained_bytes),
        units::bytes(slot.max_retained_bytes),
        idle,
        slot.lost_from.map_or("-".to_owned(), |offset| offset.to_string()),
    ]
}
