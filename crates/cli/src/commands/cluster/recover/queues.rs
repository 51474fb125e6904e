//! Queues that have lost the majority of their replicas, while the catalog has its own.

use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, Instant};

use quorate_client::{Client, LogPosition, QueueRecovery, RecoverQueuesRequest, SurvivingReplica};
use serde_json::{Value, json};

use super::Args;
use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::table::Table;
use crate::{session, units};

/// Time between two looks whether a queue is led again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let (queues, cut_off) = ask(args, &client, global).await?;
    let is_refused = |queue: &&QueueRecovery| !queue.refused_reason.is_empty();
    let refused: Vec<&QueueRecovery> = queues.iter().filter(is_refused).collect();
    let recovering: Vec<&QueueRecovery> =
        queues.iter().filter(|queue| queue.survivor > 0 && !is_refused(queue)).collect();
    let mut out = std::io::stdout().lock();
    for queue in &queues {
        match global.output {
            Format::Json => writeln!(out, "{}", to_json(queue))?,
            Format::Table => write!(out, "{}", text(queue, args.accept_loss))?,
        }
    }
    if !recovering.is_empty() && global.output == Format::Table {
        writeln!(out, "{ALSO}")?;
    }
    if queues.is_empty() && global.output == Format::Table {
        writeln!(out, "no queue has lost the majority of its replicas")?;
    }
    out.flush()?;
    let is_nothing_left = queues.iter().any(|queue| queue.survivor == 0);
    if is_nothing_left && recovering.is_empty() && refused.is_empty() {
        return Err(Failure::new(Exit::Unavailable, "of none of these queues is anything left")
            .reason("NO_SURVIVOR")
            .cure("start a node that holds them, or delete them: `quorate queue delete`"));
    }
    if !args.accept_loss && !recovering.is_empty() {
        let what = format!("{} can be recovered; nothing was changed", named(recovering.len()));
        let cure = format!(
            "the same with --accept-loss{}, if the nodes that are gone will never be back with their data",
            at_least(&recovering)
        );
        return Err(Failure::new(Exit::LossNotAccepted, what)
            .reason("LOSS_NOT_ACCEPTED")
            .cure(cure));
    }
    if args.accept_loss && !args.no_wait {
        wait(&client, &recovering, global).await?;
        if !recovering.is_empty() && global.output == Format::Table {
            writeln!(
                out,
                "{} again, with what was left. Other replicas follow by themselves, as far as there are nodes; take \
                 those out that are lost: quorate cluster remove-node",
                match recovering.len() {
                    1 => "1 queue is led".to_owned(),
                    many => format!("{} queues are led", units::count(many as u64)),
                }
            )?;
        }
    }
    match refused[..] {
        [] => cut_off.map_or(Ok(()), Err),
        [first, ..] => {
            let what = format!(
                "{} left as before, queue {:?}: {}",
                match refused.len() {
                    1 => "1 queue was".to_owned(),
                    many => format!("{} queues were", units::count(many as u64)),
                },
                first.queue,
                first.refused
            );
            Err(Failure::new(Exit::Unavailable, what).reason(&first.refused_reason).cure(
                "look again, without --accept-loss; the others were recovered, and are not asked for again",
            ))
        }
    }
}

/// The option by which no more is lost than is shown, of one queue.
fn at_least(recovering: &[&QueueRecovery]) -> String {
    let [queue] = recovering else { return String::new() };
    let survives = |replica: &&SurvivingReplica| replica.node_id == queue.survivor;
    let last = queue.replicas.iter().find(survives).and_then(|replica| replica.last.as_ref());
    last.map_or(String::new(), |last| format!(" --at-least {}:{}", last.term, last.index))
}

fn named(queues: usize) -> String {
    match queues {
        1 => "1 queue".to_owned(),
        many => format!("{} queues", units::count(many as u64)),
    }
}

/// What was told, and why not all of it was: what is done has to be shown.
async fn ask(
    args: &Args,
    client: &Client,
    global: &Global,
) -> Result<(Vec<QueueRecovery>, Option<Failure>), Failure> {
    let mut queues = Vec::new();
    let mut after = String::new();
    loop {
        let request = RecoverQueuesRequest {
            queues: args.queues.clone(),
            all: args.all,
            accept_loss: args.accept_loss,
            at_least: args.at_least.map(|at| LogPosition {
                term: at.term,
                index: at.index,
                ..Default::default()
            }),
            after,
        };
        let asked = client.recover_queues(request);
        let part = match session::within(global, "recover queues", asked).await {
            Ok(part) => part,
            Err(failure) if queues.is_empty() => return Err(failure),
            Err(failure) => return Ok((queues, Some(failure))),
        };
        queues.extend(part.queues);
        after = part.next_after;
        if after.is_empty() {
            return Ok((queues, None));
        }
    }
}

async fn wait(client: &Client, queues: &[&QueueRecovery], global: &Global) -> Result<(), Failure> {
    let begun = Instant::now();
    for queue in queues {
        let led = async {
            // Until it has a leader, asking takes as long as calls wait for one.
            while !is_led(client, queue).await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let left = global.timeout.saturating_sub(begun.elapsed());
        if tokio::time::timeout(left, led).await.is_err() {
            let what = format!("queue {:?} is not led yet", queue.queue);
            return Err(Failure::new(Exit::Failed, what).reason("TIMEOUT").cure(
                "it goes on by itself; `quorate queue describe` shows how far it is, and --timeout waits longer",
            ));
        }
    }
    Ok(())
}

async fn is_led(client: &Client, queue: &QueueRecovery) -> bool {
    let described = client.describe_queue(&queue.queue).await;
    described.is_ok_and(|seen| seen.placement >= queue.placement && seen.counts.is_some())
}

fn text(queue: &QueueRecovery, accepted: bool) -> String {
    let mut text = String::new();
    let voters = queue.voters;
    let _ = writeln!(text, "queue {}: no majority of its {voters} voters is left", queue.queue);
    let mut table = Table::new(&[
        ">node",
        "role",
        "state",
        ">term",
        ">last index",
        ">applied",
        ">messages",
        "heard from a leader",
        "",
    ]);
    for replica in &queue.replicas {
        let here = |figure: u64| match replica.last {
            Some(_) => units::count(figure),
            None => "-".to_owned(),
        };
        let survives = replica.node_id == queue.survivor;
        table.row([
            replica.node_id.to_string(),
            if replica.observer { "observer" } else { "voter" }.to_owned(),
            state(replica),
            here(replica.last.as_ref().map_or(0, |at| at.term)),
            here(replica.last.as_ref().map_or(0, |at| at.index)),
            here(replica.applied_index),
            replica.messages.map_or("-".to_owned(), units::count),
            heard(replica),
            match (survives, accepted) {
                (true, true) if !queue.refused_reason.is_empty() => String::new(),
                (true, true) => "goes on".to_owned(),
                (true, false) => "would go on".to_owned(),
                (false, _) => String::new(),
            },
        ]);
    }
    let last = match &queue.refused[..] {
        "" => bound(queue),
        refused => format!("It was left as before: {refused}."),
    };
    let _ = writeln!(text, "{table}{last}\n");
    text
}

fn ago(ms: u64) -> String {
    format!("{} ago", units::duration(Duration::from_millis(ms)))
}

fn state(replica: &SurvivingReplica) -> String {
    match (replica.reachable, replica.gone_ms, &replica.last) {
        (true, _, Some(_)) => "up".to_owned(),
        (true, _, None) => "up, has nothing".to_owned(),
        (false, Some(ms), _) => {
            format!("gone for {}", units::duration(Duration::from_millis(ms)))
        }
        (false, None, _) => "gone".to_owned(),
    }
}

fn heard(replica: &SurvivingReplica) -> String {
    match (replica.led, replica.heard_ms_ago, &replica.last) {
        (true, ..) => "it led".to_owned(),
        (false, Some(ms), _) => ago(ms),
        (false, None, Some(_)) => "not since its start".to_owned(),
        (false, None, None) => "-".to_owned(),
    }
}

/// What else has to be known, once for all of them.
const ALSO: &str = "What was settled since then is delivered again, and offsets and fencing tokens of what is lost are given \
anew. `quorate verify` tells of each receipt whether it still holds. Nodes that are given up do not bring anything \
back: what they have of these queues is not used any more, even if they are started again.\n";

/// What is lost, in words.
fn bound(queue: &QueueRecovery) -> String {
    let Some(survivor) = queue.replicas.iter().find(|seen| seen.node_id == queue.survivor) else {
        return "No replica is left that has anything: start a node that holds one, or delete the queue.".to_owned();
    };
    let node = survivor.node_id;
    let what = match (survivor.led, survivor.heard_ms_ago) {
        (true, _) => format!(
            "Node {node} led, and has all that it confirmed. Lost is what another leader has confirmed since, if \
             there was one"
        ),
        (false, Some(ms)) => format!(
            "Lost is what was confirmed after node {node} heard from the leader for the last time, {}: publishes, \
             settles and moved slots",
            ago(ms)
        ),
        (false, None) => format!(
            "Lost is what was confirmed after node {node} heard from the leader for the last time, publishes, settles \
             and moved slots; when that was is not known, since it was started anew"
        ),
    };
    what + "."
}

fn to_json(queue: &QueueRecovery) -> Value {
    json!({
        "queue": queue.queue, "group": queue.group_id, "voters": queue.voters,
        "survivor": Some(queue.survivor).filter(|node| *node > 0),
        "placement": Some(queue.placement).filter(|placement| *placement > 0),
        "refused": Some(&queue.refused).filter(|refused| !refused.is_empty()),
        "refused_reason": Some(&queue.refused_reason).filter(|reason| !reason.is_empty()),
        "replicas": queue.replicas.iter().map(|replica| json!({
            "node_id": replica.node_id, "observer": replica.observer,
            "reachable": replica.reachable, "gone_ms": replica.gone_ms,
            "last": replica.last.as_ref().map(|at| json!({ "term": at.term, "index": at.index })),
            "applied_index": replica.applied_index, "messages": replica.messages,
            "heard_ms_ago": replica.heard_ms_ago, "led": replica.led,
        })).collect::<Vec<_>>(),
    })
}
