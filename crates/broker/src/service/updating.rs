//! Changing settings of a queue while it is used.
//!
//! ```text
//! request ─► catalog's leader ─► UpdateQueue ─► every node's catalog
//!                 │                                  │ the reconciler where the queue is led
//!                 │                                  ▼
//!                 └─ waits ◄── settings version ── Configure ─► every replica of the queue
//! ```
//!
//! The fields that were not named are those that the catalog has: one update at a time reads, merges and writes.

use std::time::Duration;

use quorate_machine::catalog::{self, QueueName};
use quorate_machine::queue::Settings;
use quorate_proto::settings::{self, Field};
use quorate_proto::v1;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Services;
use super::admin::{check_settings, settings_of, settings_to};
use crate::member::Member;
use crate::refusal::Refusal;
use crate::routing::{forwarded, hops, passed_on, queue_name};

/// Time between two looks whether the queue's leader has the settings.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longest wait for it: a client would take a node for silent that answers much later.
const EFFECTIVE_WITHIN: Duration = Duration::from_secs(3);

/// An update that may be made.
struct Update {
    before: v1::QueueSettings,
    after: v1::QueueSettings,
    /// What the catalog is to have.
    settings: Settings,
}

impl Services {
    pub(super) async fn queue_updated(
        &self,
        request: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        let hops = hops(request.metadata());
        if let Some(node) = self.node.catalog_place(hops).await? {
            let request = forwarded(request.into_inner(), hops);
            return self.admin(node)?.update_queue(request).await.map_err(passed_on);
        }
        let request = request.into_inner();
        let name = queue_name(&request.name)?;
        let (update, version) = self.node.update(&name, &request).await?;
        let changed = settings::differing(&update.before, &update.after);
        let (queue, effective) = match (version, self.node.sharded(name.as_str())) {
            (Some(version), Some(sharded)) => {
                self.wait_until_all_effective(&sharded, version).await
            }
            (Some(version), None) => self.wait_until_effective(&name, version).await?,
            (None, Some(sharded)) => {
                let queue = self.node.describe_sharded(&sharded);
                let settings = Some(update.after);
                (v1::QueueDescription { settings, ..queue }, changed.is_empty())
            }
            (None, None) => (self.queue_as(&name, update.after)?, changed.is_empty()),
        };
        Ok(Response::new(v1::UpdateQueueResponse {
            before: Some(update.before),
            queue: Some(queue),
            changed: changed.iter().map(|field| field.name.to_owned()).collect(),
            effective,
        }))
    }

    /// The queue as this node knows it, with these settings.
    fn queue_as(
        &self,
        name: &QueueName,
        settings: v1::QueueSettings,
    ) -> Result<v1::QueueDescription, Refusal> {
        let known = self.node.known(name).ok_or_else(|| Refusal::queue_not_found(name.as_str()))?;
        Ok(v1::QueueDescription { settings: Some(settings), ..self.node.describe(&known) })
    }

    /// Waits until the queue's leader goes by settings of this version; whether it does in time.
    async fn wait_until_effective(
        &self,
        name: &QueueName,
        version: u64,
    ) -> Result<(v1::QueueDescription, bool), Refusal> {
        let look = async {
            loop {
                if let Ok(queue) = self.describe_at_leader(name.as_str(), 0).await
                    && queue.settings_version >= Some(version)
                {
                    return queue;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let limit = self.effective_within();
        if let Ok(queue) = tokio::time::timeout(limit, look).await {
            return Ok((queue, true));
        }
        let known = self.node.known(name).ok_or_else(|| Refusal::queue_not_found(name.as_str()))?;
        Ok((self.node.describe(&known), false))
    }

    /// The same for all shards of a queue.
    async fn wait_until_all_effective(
        &self,
        sharded: &catalog::Sharded,
        version: u64,
    ) -> (v1::QueueDescription, bool) {
        let look = async {
            loop {
                let queue = self.describe_shards(sharded).await;
                if queue.settings_version >= Some(version) {
                    return queue;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        match tokio::time::timeout(self.effective_within(), look).await {
            Ok(queue) => (queue, true),
            Err(_) => (self.node.describe_sharded(sharded), false),
        }
    }

    fn effective_within(&self) -> Duration {
        self.node.config.limits.request_timeout().min(EFFECTIVE_WITHIN)
    }
}

impl Member {
    /// Makes an update, unless it is a dry run or changes nothing; the version of the settings if the catalog has
    /// been asked to change them.
    async fn update(
        &self,
        name: &QueueName,
        request: &v1::UpdateQueueRequest,
    ) -> Result<(Update, Option<u64>), Refusal> {
        if let Some((of, _)) = name.sharded().filter(|_| self.known(name).is_some()) {
            return Err(catalog::Rejection::IsShard { of }.into());
        }
        // A leader that is new to the office has to have applied the updates of the one before.
        let alone_and_informed = async {
            let alone = self.updating.lock().await;
            (alone, self.catalog.complete_as_of(Instant::now()).await)
        };
        let limit = self.config.limits.request_timeout();
        let _alone = match tokio::time::timeout(limit, alone_and_informed).await {
            Ok((alone, Ok(_))) => alone,
            Ok((_, Err(_))) | Err(_) => return Err(Refusal::no_quorum("read the catalog")),
        };
        // The shards of a queue have the same settings.
        let known = self.catalog.read(|catalog| match catalog.sharded(name) {
            // While replicas move, the voters of one may be fewer: all that is set has to hold of it too.
            Some(sharded) => {
                catalog.shards_of(sharded).min_by_key(|shard| shard.replicas.len()).cloned()
            }
            None => catalog.queue(name).cloned(),
        });
        let known = known.ok_or_else(|| Refusal::queue_not_found(name.as_str()))?;
        let update = update_of(&known, request)?;
        self.expect_settings_known(&update.settings)?;
        self.catalog.read(|catalog| catalog.check_dead_letter(name, &update.settings))?;
        let is_new = !settings::differing(&update.before, &update.after).is_empty();
        if request.dry_run || !is_new {
            return Ok((update, None));
        }
        let (name, settings) = (name.clone(), update.settings.clone());
        match self.propose_catalog(catalog::Command::UpdateQueue { name, settings }).await? {
            catalog::Reply::Updated { version, .. } => Ok((update, Some(version))),
            catalog::Reply::Rejected(rejection) => Err(rejection.into()),
            _ => Err(Refusal::unknown_outcome()),
        }
    }
}

/// The settings that a queue is to have, if they make sense.
fn update_of(known: &catalog::Queue, request: &v1::UpdateQueueRequest) -> Result<Update, Refusal> {
    let replicas = known.replicas.len();
    let before = settings_to(&known.settings, replicas);
    // What is left at its default stays so, should the replicas change.
    let min_in_sync = known.settings.min_in_sync.into();
    let retry_max_ms = known.settings.retry_max_ms;
    let base = v1::QueueSettings { min_in_sync, retry_max_ms, ..before.clone() };
    let merged = merged(base, request)?;
    let Settings { dedup_window, version, .. } = known.settings;
    let settings = Settings { dedup_window, version, ..settings_of(&merged) };
    Ok(Update { before, after: settings_to(&settings, replicas), settings })
}

/// Settings with the fields of a request in the place of those that were there, if they make sense.
pub(crate) fn merged(
    mut settings: v1::QueueSettings,
    request: &v1::UpdateQueueRequest,
) -> Result<v1::QueueSettings, Refusal> {
    let replicas = settings.replicas;
    let wanted = request.settings.clone().unwrap_or_default();
    for field in fields_of(request)? {
        field.copy(&wanted, &mut settings);
    }
    if settings.replicas != replicas {
        return Err(Refusal::invalid(format!(
            "queue `{}` has {replicas} replicas, and settings do not change that; use `quorate queue replica`",
            request.name
        )));
    }
    // Without retries there is no longest delay; whoever gives one all the same is told.
    if settings.retry_ms == 0 && !request.fields.iter().any(|field| field == "retry_max_ms") {
        settings.retry_max_ms = 0;
    }
    check_settings(&settings)?;
    Ok(settings)
}

fn fields_of(request: &v1::UpdateQueueRequest) -> Result<Vec<Field>, Refusal> {
    if request.fields.is_empty() {
        return Err(Refusal::invalid("`fields` names the settings to change, at least one"));
    }
    let known = |name: &String| {
        settings::field(name)
            .ok_or_else(|| Refusal::invalid(format!("`{name}` is no field of the settings")))
    };
    request.fields.iter().map(known).collect()
}
