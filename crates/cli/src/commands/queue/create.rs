//! `quorate queue create NAME`.

use std::io::Write;
use std::time::Duration;

use quorate_client::QueueSettings;

use crate::args::{Format, Global};
use crate::commands::queue::describe;
use crate::failure::Failure;
use crate::{session, units};

/// Options of `queue create`; what is left out gets the cluster's default.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// 1 to 128 characters of A-Z a-z 0-9 . _ -, starting with a letter or digit.
    name: String,
    #[command(flatten)]
    sharding: Sharding,
    #[command(flatten)]
    options: Options,
}

/// Into how much a queue is divided, as `queue create` and the files of `apply` have it.
#[derive(Debug, Default, clap::Args)]
pub struct Sharding {
    /// Spread the queue over so many shards, 2 to 64, each replicated on its own; limits are those of one shard. It cannot
    /// be changed later.
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
}

/// Settings of a queue, as `queue create`, `queue update` and the files of `apply` have them. 0 is the default of
/// each.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Copies on different nodes: 1, 3 or 5; default 3, or 1 in a cluster of fewer than three nodes.
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// Most messages held; see --overflow for a publish beyond.
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// Most bytes held, e.g. 10GiB; see --overflow for a publish beyond.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    max_bytes: Option<u64>,
    /// A message returned after this many deliveries leaves the queue.
    #[arg(long, value_name = "N")]
    max_deliveries: Option<u32>,
    /// How long a consumer may hold a message; default 30s.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    lease: Option<Duration>,
    /// How long a consumer that lost its connection keeps its messages; default 10s.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    session_grace: Option<Duration>,
    /// How long a silent producer's sequence is remembered, and a message id; default 10m.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    dedup_age: Option<Duration>,
    /// Replicas in sync, the leader among them, that a publish with `--ack all` needs; default a majority.
    #[arg(long, value_name = "N")]
    min_in_sync: Option<u32>,
    /// A replica is in sync while what it lacks is no older than this; default 2s, at most 8s.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    in_sync_lag: Option<Duration>,
    /// Keep settled messages for readers until they are so old, e.g. 7d.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    retain: Option<Duration>,
    /// Keep settled messages for readers up to so many bytes, e.g. 10GiB; the oldest go first.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    retain_bytes: Option<u64>,
    /// Hand messages to one consumer at a time; the others stand by to take over.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    single_active: Option<bool>,
    /// How long a message waits that comes back, e.g. 1s; doubled each time, half of it jitter. Without it, it is ready at
    /// once.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    retry: Option<Duration>,
    /// The longest that it waits; default 5m. Not without --retry.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    retry_max: Option<Duration>,
    /// Messages that nobody takes within this time leave the queue, e.g. 1h.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    ttl: Option<Duration>,
    /// What becomes of a publish beyond a limit; default reject.
    #[arg(long, value_name = "WHAT", value_enum)]
    overflow: Option<Overflow>,
    /// Messages may have priorities, 0 to 9; the highest are delivered first.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    priorities: Option<bool>,
    /// Move messages that are rejected, delivered --max-deliveries times, or expired to this queue, which is there
    /// already; "" drops them, which is the default.
    #[arg(long, value_name = "QUEUE")]
    dead_letter: Option<String>,
    /// Most message ids remembered, the oldest are forgotten first; default 65,536, at most 131,072.
    #[arg(long, value_name = "N")]
    message_id_window: Option<u32>,
    /// Let consumers filter by the value of this header of the messages; "" for none, which is the default. Not with
    /// --single-active.
    #[arg(long, value_name = "KEY")]
    filter_header: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Overflow {
    /// It is refused.
    #[default]
    Reject,
    /// The oldest ready messages of the lowest priority make room for it.
    DropHead,
}

impl Options {
    /// The settings; those that were not given are at 0.
    pub fn settings(&self) -> Result<QueueSettings, Failure> {
        Ok(QueueSettings {
            replicas: self.replicas.unwrap_or_default(),
            max_messages: self.max_messages.unwrap_or_default(),
            max_bytes: self.max_bytes.unwrap_or_default(),
            max_deliveries: self.max_deliveries.unwrap_or_default(),
            lease_ms: millis("--lease", self.lease)?,
            session_grace_ms: millis("--session-grace", self.session_grace)?,
            dedup_age_ms: millis("--dedup-age", self.dedup_age)?,
            min_in_sync: self.min_in_sync.unwrap_or_default(),
            in_sync_lag_ms: millis("--in-sync-lag", self.in_sync_lag)?,
            retain_ms: self.retain.map_or(0, millis_of_retention),
            retain_bytes: self.retain_bytes.unwrap_or_default(),
            ttl_ms: self.ttl.map_or(0, millis_of_retention),
            overflow: match self.overflow.unwrap_or_default() {
                Overflow::Reject => quorate_client::Overflow::Reject.into(),
                Overflow::DropHead => quorate_client::Overflow::DropHead.into(),
            },
            priorities: self.priorities.unwrap_or_default(),
            retry_ms: millis("--retry", self.retry)?,
            retry_max_ms: millis("--retry-max", self.retry_max)?,
            single_active: self.single_active.unwrap_or_default(),
            dead_letter: self.dead_letter.clone().unwrap_or_default(),
            message_id_window: self.message_id_window.unwrap_or_default(),
            filter_header: self.filter_header.clone().unwrap_or_default(),
        })
    }

    /// Names of the fields that were given.
    pub fn fields(&self) -> Vec<&'static str> {
        // An option that is missing here does not compile.
        let Self {
            replicas,
            max_messages,
            max_bytes,
            max_deliveries,
            lease,
            session_grace,
            dedup_age,
            min_in_sync,
            in_sync_lag,
            retain,
            retain_bytes,
            ttl,
            overflow,
            priorities,
            retry,
            retry_max,
            single_active,
            dead_letter,
            message_id_window,
            filter_header,
        } = self;
        let given = [
            ("replicas", replicas.is_some()),
            ("max_messages", max_messages.is_some()),
            ("max_bytes", max_bytes.is_some()),
            ("max_deliveries", max_deliveries.is_some()),
            ("lease_ms", lease.is_some()),
            ("session_grace_ms", session_grace.is_some()),
            ("dedup_age_ms", dedup_age.is_some()),
            ("min_in_sync", min_in_sync.is_some()),
            ("in_sync_lag_ms", in_sync_lag.is_some()),
            ("retain_ms", retain.is_some()),
            ("retain_bytes", retain_bytes.is_some()),
            ("ttl_ms", ttl.is_some()),
            ("overflow", overflow.is_some()),
            ("priorities", priorities.is_some()),
            ("retry_ms", retry.is_some()),
            ("retry_max_ms", retry_max.is_some()),
            ("single_active", single_active.is_some()),
            ("dead_letter", dead_letter.is_some()),
            ("message_id_window", message_id_window.is_some()),
            ("filter_header", filter_header.is_some()),
        ];
        given.into_iter().filter_map(|(name, is_given)| is_given.then_some(name)).collect()
    }
}

fn millis_of_retention(age: Duration) -> u64 {
    match age.is_zero() {
        true => 0,
        false => age.as_millis().max(1) as u64,
    }
}

/// 0 means "the default" to the cluster, so a span that only rounds to 0 is refused.
fn millis(option: &str, value: Option<Duration>) -> Result<u32, Failure> {
    let Some(value) = value.filter(|value| !value.is_zero()) else { return Ok(0) };
    match u32::try_from(value.as_millis()) {
        Ok(millis) if millis > 0 => Ok(millis),
        _ => Err(Failure::usage(format!("{option}: from 1ms to 49 days"))),
    }
}

/// Creates the queue and shows it.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    if args.options.retry_max.is_some() && args.options.retry.is_none() {
        return Err(Failure::usage("--retry-max: not without --retry"));
    }
    let settings = args.options.settings()?;
    let client = session::connect(global).await?;
    let created = match args.sharding.shards {
        Some(shards) => {
            let creating = client.create_sharded_queue(args.name.as_str(), shards, settings);
            session::within(global, "create queue", creating).await?
        }
        None => {
            let creating = client.create_queue(args.name.as_str(), settings);
            session::within(global, "create queue", creating).await?
        }
    };
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            let mut line = describe::json(&created.queue);
            line["created"] = created.created.into();
            writeln!(out, "{line}")?;
        }
        Format::Table if created.created => writeln!(out, "queue {} is created", args.name)?,
        Format::Table => writeln!(out, "queue {} exists already, with these settings", args.name)?,
    }
    Ok(())
}
