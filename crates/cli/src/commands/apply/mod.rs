//! `quorate apply -f FILE`: makes the queues of a cluster what a file says.
//!
//! ```text
//! file ─► queues wanted ─┐
//!                        ├─► plan: + create, ~ update, - remove ─► shown ─► carried out
//! cluster ─► queues had ─┘   (updates are checked by the cluster, without being made)
//! ```
//!
//! A setting that the file leaves out stays as it is. A queue that the file leaves out is left alone, unless `--prune`.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use quorate_client::{Client, QueueDescription, QueueSettings};
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::commands::queue::diff::{self, Change};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::units;
use file::Wanted;

/// Options of `apply`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A file has a table for each queue, with settings by the names of the options of `queue create`:\n\n  \
[queue.orders]\n  replicas = 3\n  max-bytes = \"10GiB\"\n  lease = \"1m\"\n\nWhat it leaves out stays as it is; 0 is the \
default of a setting. A queue with `shards = N` is made with as many; that cannot be changed later."
)]
pub struct Args {
    /// The file.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove the queues that the file does not have, if they are empty.
    #[arg(long)]
    prune: bool,
    /// With --prune: remove them with their messages.
    #[arg(long, requires = "prune")]
    force: bool,
}

/// What is to be done with one queue.
enum Step {
    Create {
        name: String,
        shards: Option<u32>,
        settings: QueueSettings,
        values: Vec<(String, String)>,
    },
    Update {
        name: String,
        settings: QueueSettings,
        fields: Vec<&'static str>,
        changes: Vec<Change>,
    },
    Remove {
        name: String,
        held: Option<u64>,
    },
}

/// Name of the setting that has the name of another queue.
const DEAD_LETTER: &str = "dead_letter";

/// A queue is created behind its dead-letter queue, and removed before it: first all that is created, then what changes,
/// then what goes.
fn in_order(steps: &mut [Step], had: &BTreeMap<String, QueueDescription>) {
    let mut target = BTreeMap::new();
    for (name, queue) in had {
        let to = queue.settings.as_ref().map(|settings| settings.dead_letter.clone());
        target.insert(name.clone(), to.unwrap_or_default());
    }
    for step in steps.iter() {
        if let Step::Create { name, settings, .. } = step {
            target.insert(name.clone(), settings.dead_letter.clone());
        }
    }
    // How many queues come behind one another from it on; a circle, which the cluster refuses, is not followed for ever.
    let behind = |name: &String| {
        let next = |name: &&String| target.get(*name);
        std::iter::successors(Some(name), next).take(target.len() + 1).count()
    };
    steps.sort_by_key(|step| match step {
        Step::Create { name, .. } => (0, behind(name)),
        Step::Update { .. } => (1, 0),
        Step::Remove { name, .. } => (2, usize::MAX - behind(name)),
    });
}

/// Compares, shows and carries out.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let wanted = file::read(&args.file)?;
    if args.prune && wanted.is_empty() {
        let what = format!("{} has no queue, and --prune would remove all", args.file.display());
        return Err(Failure::usage(what).cure("`quorate queue delete` removes a queue"));
    }
    let client = session::connect(global).await?;
    let had = session::within(global, "list queues", client.list_queues()).await?;
    let had: BTreeMap<String, QueueDescription> =
        // Shards come and go with their sharded queue.
        had.into_iter()
            .filter(|queue| !queue.name.contains('@'))
            .map(|queue| (queue.name.clone(), queue))
            .collect();
    let mut steps = Vec::new();
    for (name, Wanted { options, shards }) in &wanted {
        let (settings, fields) = (options.settings()?, options.fields());
        check_shards(name, *shards, had.get(name))?;
        if !had.contains_key(name) {
            let (name, mut values) = (name.clone(), diff::values(&fields, &settings));
            values.extend(shards.map(|shards| ("shards".to_owned(), shards.to_string())));
            steps.push(Step::Create { name, shards: *shards, settings, values });
        } else if !fields.is_empty() {
            let doing = format!("compare queue {name}");
            // The cluster does not know yet what this creates.
            let target = settings.dead_letter.as_str();
            let is_new = wanted.contains_key(target) && !had.contains_key(target);
            let known = fields.iter().copied().filter(|field| !is_new || *field != DEAD_LETTER);
            let known: Vec<_> = known.collect();
            let mut changes = Vec::new();
            if !known.is_empty() {
                let asking = client.update_queue(name.as_str(), settings.clone(), &known, true);
                let compared = session::within(global, &doing, asking).await?;
                let after = compared.queue.settings.unwrap_or_default();
                changes = diff::changes(&compared.changed, &compared.before, &after);
            }
            if is_new {
                let before = had[name].settings.clone().unwrap_or_default();
                changes.extend(diff::changes(&[DEAD_LETTER.to_owned()], &before, &settings));
            }
            if !changes.is_empty() {
                steps.push(Step::Update { name: name.clone(), settings, fields, changes });
            }
        }
    }
    if args.prune {
        for name in had.keys().filter(|name| !wanted.contains_key(*name)) {
            steps.push(removal(&client, name, args.force, global).await?);
        }
    }
    in_order(&mut steps, &had);
    let mut out = std::io::stdout();
    for step in &steps {
        match global.output {
            Format::Json => writeln!(out, "{}", step.json(args.dry_run))?,
            Format::Table => writeln!(out, "{step}")?,
        }
    }
    if !args.dry_run {
        for (done, step) in steps.iter().enumerate() {
            let outcome = carry_out(&client, step, args.force, global).await;
            outcome.map_err(|failure| {
                failure.context(format!("{done} of {} changes were made, then", steps.len()))
            })?;
        }
    }
    if global.output == Format::Table {
        let outcome = match (steps.len(), args.dry_run) {
            (0, _) => "nothing to change: the cluster is as the file says".to_owned(),
            (count, true) => format!("{count} to change; nothing was changed"),
            (count, false) => format!("{count} changed"),
        };
        writeln!(out, "{outcome}")?;
    }
    Ok(())
}

/// Refuses what would divide a queue that is there into other parts.
fn check_shards(
    name: &str,
    wanted: Option<u32>,
    had: Option<&QueueDescription>,
) -> Result<(), Failure> {
    let (Some(wanted), Some(had)) = (wanted, had) else { return Ok(()) };
    let has = had.sharding.as_ref().map_or(0, |sharding| sharding.shards.len());
    if has == wanted as usize {
        return Ok(());
    }
    let has = if has == 0 { "is not sharded".to_owned() } else { format!("has {has} shards") };
    let what = format!("queue {name} {has}, and the file says shards = {wanted}");
    Err(Failure::new(Exit::Refused, what).reason("INVALID_ARGUMENT").cure(
        "the shards of a queue cannot be changed: make one of another name and move over to it; nothing was changed",
    ))
}

/// The removal of a queue, if it may be removed.
async fn removal(
    client: &Client,
    name: &str,
    force: bool,
    global: &Global,
) -> Result<Step, Failure> {
    // What the listing node knows of a queue may be old.
    let asking = client.describe_queue(name);
    let queue = session::within(global, "describe queue", asking).await?;
    let held = queue
        .counts
        .as_ref()
        .map(|counts| counts.ready + counts.leased + counts.delayed + counts.blocked + counts.dead);
    if !force && held != Some(0) {
        let shown = held.map_or("an unknown number of".to_owned(), units::count);
        let what = format!("queue {name} is not in the file and holds {shown} messages");
        return Err(Failure::new(Exit::Refused, what).reason("QUEUE_NOT_EMPTY").cure(
            "consume it first, or --force to remove it with its messages; nothing was changed",
        ));
    }
    Ok(Step::Remove { name: name.to_owned(), held })
}

async fn carry_out(
    client: &Client,
    step: &Step,
    force: bool,
    global: &Global,
) -> Result<(), Failure> {
    match step {
        Step::Create { name, shards: Some(shards), settings, .. } => {
            let creating = client.create_sharded_queue(name.as_str(), *shards, settings.clone());
            session::within(global, &format!("create queue {name}"), creating).await?;
        }
        Step::Create { name, settings, .. } => {
            let creating = client.create_queue(name.as_str(), settings.clone());
            session::within(global, &format!("create queue {name}"), creating).await?;
        }
        Step::Update { name, settings, fields, .. } => {
            let updating = client.update_queue(name.as_str(), settings.clone(), fields, false);
            session::within(global, &format!("update queue {name}"), updating).await?;
        }
        Step::Remove { name, .. } => {
            let deleting = client.delete_queue(name.as_str(), !force);
            session::within(global, &format!("remove queue {name}"), deleting).await?;
        }
    }
    Ok(())
}

impl Step {
    fn json(&self, dry_run: bool) -> Value {
        match self {
            Self::Create { name, values, .. } => {
                let settings: serde_json::Map<String, Value> = values
                    .iter()
                    .map(|(key, value)| (key.clone(), value.as_str().into()))
                    .collect();
                json!({ "queue": name, "action": "create", "settings": settings, "dry_run": dry_run })
            }
            Self::Update { name, changes, .. } => {
                let changes: Vec<Value> = changes.iter().map(Change::json).collect();
                json!({ "queue": name, "action": "update", "changes": changes, "dry_run": dry_run })
            }
            Self::Remove { name, held } => {
                json!({ "queue": name, "action": "remove", "messages": held, "dry_run": dry_run })
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { name, values, .. } => {
                write!(f, "+ {name}")?;
                values.iter().try_for_each(|(key, value)| write!(f, "\n    {key} {value}"))
            }
            Self::Update { name, changes, .. } => {
                write!(f, "~ {name}")?;
                changes.iter().try_for_each(|change| write!(f, "\n    {change}"))
            }
            Self::Remove { name, held: Some(0) } => write!(f, "- {name}"),
            Self::Remove { name, held } => {
                let held = held.map_or("an unknown number of".to_owned(), units::count);
                write!(f, "- {name} with {held} messages")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_created_behind_its_dead_letter_queue_and_removed_before_it() {
        let settings =
            |to: &str| QueueSettings { dead_letter: to.to_owned(), ..QueueSettings::default() };
        let create = |name: &str, to: &str| Step::Create {
            name: name.to_owned(),
            shards: None,
            settings: settings(to),
            values: Vec::new(),
        };
        let remove = |name: &str| Step::Remove { name: name.to_owned(), held: Some(0) };
        let queue = |name: &str, to: &str| {
            let settings = Some(settings(to));
            let name = name.to_owned();
            (name.clone(), QueueDescription { name, settings, ..QueueDescription::default() })
        };
        let had = BTreeMap::from([queue("x", ""), queue("y", "x"), queue("z", "y")]);
        let mut steps = vec![
            remove("x"),
            create("a", "b"),
            remove("y"),
            create("b", "c"),
            remove("z"),
            create("c", ""),
        ];
        in_order(&mut steps, &had);
        let shown: Vec<_> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["+ c", "+ b", "+ a", "- z", "- y", "- x"]);
        let mut circle = vec![create("p", "q"), create("q", "p")];
        in_order(&mut circle, &had);
    }
}
