//! Sharded queues: created at the catalog's leader, described and changed shard by shard, and published to without the SDK.
//!
//! ```text
//!  publish orders, key k ──► this node: XXH64(k) mod 3 ──► publish orders@2 ──► that shard's leader
//!  purge orders ───────────► orders@0, orders@1, orders@2, side by side ──► what became of it at each
//! ```
//! Streams are not taken apart here: the SDK opens one for each shard. A shard is a queue, and all that is done to a queue is
//! done to it by its name.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_machine::catalog::{self, CreateSharded, QueueName, Sharded};
use quorate_machine::planted::{self, Bug};
use quorate_proto::v1::admin_service_server::AdminService;
use quorate_proto::v1::purge_queue_request::Before;
use quorate_proto::{reason, sharding, v1};
use tonic::{Request, Response, Status};

use super::Services;
use super::topics::failure_of;
use crate::member::{Member, SHARDS_VERSION};
use crate::refusal::Refusal;
use crate::routing::{forwarded, hops, passed_on, queue_name};

/// Longest wait for a shard that is asked with others: one without a leader does not keep the answers of the others back.
const SHARD_WAIT: Duration = Duration::from_secs(2);

/// The shard of a request's keys.
pub(super) struct Routed {
    pub shard: QueueName,
    /// Of the list of shards that they were spread over.
    pub generation: u64,
}

impl Member {
    /// The sharded queue of that name, if this node's catalog has it.
    pub(crate) fn sharded(&self, name: &str) -> Option<Sharded> {
        let name = QueueName::parse(name).ok()?;
        self.catalog.read(|catalog| catalog.sharded(&name).cloned())
    }

    /// There is no queue of that name, or not one but several.
    pub(crate) fn no_queue(&self, name: &QueueName) -> Refusal {
        match self.catalog.read(|catalog| catalog.sharded(name).cloned()) {
            Some(sharded) => Refusal::sharded(&sharded),
            None => Refusal::queue_not_found(name.as_str()),
        }
    }

    /// Refuses who spreads keys by other shards than there are. Asked where the shard is led: that node knows its queue.
    pub(super) fn check_generation(
        &self,
        shard: &QueueName,
        generation: u64,
    ) -> Result<(), Refusal> {
        let Some((of, _)) = shard.sharded().filter(|_| generation > 0) else { return Ok(()) };
        let present = self.catalog.read(|catalog| Some(catalog.sharded(&of)?.generation));
        let Some(present) = present.filter(|&present| present != generation) else { return Ok(()) };
        Err(other_shards(&of, present, generation))
    }

    /// The same of a request that a node has routed by its keys, whose catalog may be behind as well as this one's: by
    /// the next attempt it is not.
    pub(super) fn check_routed(&self, shard: &QueueName, generation: u64) -> Result<(), Refusal> {
        self.check_generation(shard, generation).map_err(|_| not_informed(shard))
    }

    fn shards_of(&self, sharded: &Sharded) -> Vec<catalog::Queue> {
        self.catalog.read(|catalog| catalog.shards_of(sharded).cloned().collect())
    }

    /// A sharded queue as this node knows it, for listings.
    pub(super) fn describe_sharded(&self, sharded: &Sharded) -> v1::QueueDescription {
        let shards = self.shards_of(sharded);
        summed(sharded, &shards.iter().map(|shard| self.describe(shard)).collect::<Vec<_>>())
    }

    async fn create_sharded(
        &self,
        request: &v1::CreateShardedQueueRequest,
    ) -> Result<bool, Refusal> {
        let name = queue_name(&request.name)?;
        self.expect_known(SHARDS_VERSION, "sharded queues")?;
        let range = u32::from(catalog::SHARDS_MIN)..=u32::from(catalog::SHARDS_MAX);
        if !range.contains(&request.shards) {
            let (min, max) = range.into_inner();
            let message =
                format!("a sharded queue has {min} to {max} shards, not {}", request.shards);
            return Err(Refusal::invalid(message));
        }
        let shards = request.shards as u16;
        let wanted = request.settings.clone().unwrap_or_default();
        let queue = self.wanted_queue(name, wanted, shards.into())?;
        let command = catalog::Command::CreateSharded(CreateSharded { queue, shards });
        match self.propose_catalog(command).await? {
            catalog::Reply::Created { .. } => Ok(true),
            catalog::Reply::Rejected(catalog::Rejection::QueueExists {
                same_settings: true,
                ..
            }) => Ok(false),
            catalog::Reply::Rejected(rejection) => Err(rejection.into()),
            _ => Err(Refusal::unknown_outcome()),
        }
    }

    /// Of which shard a request's messages are.
    fn shard_for(
        &self,
        sharded: &Sharded,
        request: &v1::PublishRequest,
    ) -> Result<Routed, Refusal> {
        let shards: Vec<QueueName> = sharded.names().collect();
        let name = &sharded.name;
        if request.producer.is_some() || request.expected_next_offset.is_some() {
            return Err(Refusal::invalid(format!(
                "sequences and offsets are those of one shard: publish with `producer` or `expected_next_offset` to \
                 {}, or with the SDK, which numbers each shard's messages",
                listed(&shards)
            )));
        }
        let place = match place_of(request, shards.len())? {
            Some(place) if planted::is(Bug::StrayFromShard) => (place + 1) % shards.len(),
            Some(place) => place,
            None => self.turns.fetch_add(1, Ordering::Relaxed) % shards.len(),
        };
        tracing::trace!(node = self.id(), queue = %name, place, "publish to a shard");
        Ok(Routed { shard: shards[place].clone(), generation: sharded.generation })
    }
}

/// Why keys spread by a list of shards are not taken where another one is known.
fn other_shards(of: &QueueName, present: u64, generation: u64) -> Refusal {
    if generation > present {
        return not_informed(of);
    }
    let message = format!(
        "queue `{of}` was created again, with other shards: open a new producer, which spreads keys over those"
    );
    Refusal::new(reason::SHARDS_CHANGED, message).with("sharded_queue", of)
}

/// Nothing is wrong with the request: some node's catalog is behind.
fn not_informed(of: &QueueName) -> Refusal {
    let message = format!(
        "queue `{of}` was created again, and not all nodes know its present shards yet; retry"
    );
    Refusal { message, ..Refusal::not_leader(None) }
}

/// The place of the shard that all keys of a request have in common; none if it has no key.
fn place_of(request: &v1::PublishRequest, shards: usize) -> Result<Option<usize>, Refusal> {
    if request.shard_key.len() > sharding::SHARD_KEY_BYTES_MAX {
        return Err(Refusal::invalid(format!(
            "`shard_key` has at most {} bytes",
            sharding::SHARD_KEY_BYTES_MAX
        )));
    }
    let keys = request.messages.iter().map(|message| message.group_key.as_str());
    let runs = request.properties.iter();
    let keyed: u64 =
        runs.clone().filter(|run| !run.group_key.is_empty()).map(|run| u64::from(run.count)).sum();
    // Messages of a frame that no properties speak of have no key.
    let plain = request.frame.as_ref().is_some_and(|frame| u64::from(frame.count) > keyed);
    let keys = keys.chain(runs.map(|run| run.group_key.as_str())).chain(plain.then_some(""));
    let mut found: Option<(usize, &str)> = None;
    for key in keys {
        let key = if key.is_empty() { request.shard_key.as_str() } else { key };
        if key.is_empty() {
            continue;
        }
        let place = sharding::place(key.as_bytes(), shards);
        match found {
            Some((first, with)) if first != place => {
                return Err(Refusal::invalid(format!(
                    "a request's messages enter together, in one shard; those with the keys {with:?} and {key:?} are of \
                     different ones, so nothing was published: publish them one by one"
                )));
            }
            _ => found = Some((place, key)),
        }
    }
    let by_id = Some(request.message_id.as_bytes()).filter(|id| !id.is_empty());
    // Published again under its id, it has to come to where it is.
    Ok(found.map(|(place, _)| place).or(by_id.map(|id| sharding::place(id, shards))))
}

/// The names of shards, all of them if they are few.
fn listed(shards: &[QueueName]) -> String {
    match shards {
        [first, .., last] if shards.len() > 8 => format!("{first} to {last}"),
        _ => shards.iter().map(QueueName::as_str).collect::<Vec<_>>().join(", "),
    }
}

impl Refusal {
    pub(crate) fn sharded(sharded: &Sharded) -> Self {
        let shards: Vec<QueueName> = sharded.names().collect();
        let message = format!(
            "queue `{}` is sharded, and this call is for one queue: publish and consume with the SDK, which does so shard \
             by shard, or name a shard: {}",
            sharded.name,
            listed(&shards)
        );
        Self::new(reason::SHARDED_QUEUE, message)
            .with("queue", &sharded.name)
            .with("shards", shards.len())
            .with("first_shard", &shards[0])
    }
}

/// A sharded queue, from the descriptions of its shards.
fn summed(sharded: &Sharded, shards: &[v1::QueueDescription]) -> v1::QueueDescription {
    let mut sessions: BTreeMap<&[u8], v1::ConsumerDescription> = BTreeMap::new();
    for consumer in shards.iter().flat_map(|shard| &shard.consumers) {
        match sessions.get_mut(&consumer.session[..]) {
            None => drop(sessions.insert(&consumer.session, consumer.clone())),
            Some(known) => {
                known.prefetch += consumer.prefetch;
                known.leased += consumer.leased;
                known.connected |= consumer.connected;
                known.active |= consumer.active;
                known.paused &= consumer.paused;
            }
        }
    }
    let counts: Option<Vec<v1::QueueCounts>> = shards.iter().map(|shard| shard.counts).collect();
    let stuck = shards.iter().find(|shard| !shard.dead_letters_wait.is_empty());
    v1::QueueDescription {
        name: sharded.name.as_str().into(),
        settings: shards.first().and_then(|shard| shard.settings.clone()),
        counts: counts.map(|counts| counts.into_iter().fold(Default::default(), added)),
        consumers: sessions.into_values().collect(),
        moving: shards.iter().any(|shard| shard.moving),
        settings_version: shards
            .iter()
            .map(|shard| shard.settings_version)
            .min()
            .unwrap_or_default(),
        dead_letters_wait: stuck
            .map(|shard| format!("{}: {}", shard.name, shard.dead_letters_wait))
            .unwrap_or_default(),
        paused: shards.iter().all(|shard| shard.paused),
        sharding: Some(sharding_of(sharded)),
        ..Default::default()
    }
}

fn sharding_of(sharded: &Sharded) -> v1::Sharding {
    v1::Sharding {
        generation: sharded.generation,
        hash: sharded.hash.name().into(),
        shards: sharded.names().map(|name| name.as_str().to_owned()).collect(),
    }
}

fn added(sum: v1::QueueCounts, of: v1::QueueCounts) -> v1::QueueCounts {
    v1::QueueCounts {
        published: sum.published + of.published,
        ready: sum.ready + of.ready,
        leased: sum.leased + of.leased,
        delayed: sum.delayed + of.delayed,
        acked: sum.acked + of.acked,
        rejected: sum.rejected + of.rejected,
        exhausted: sum.exhausted + of.exhausted,
        purged: sum.purged + of.purged,
        bytes: sum.bytes + of.bytes,
        // Offsets are those of one shard.
        first_offset: 0,
        next_offset: 0,
        retained: sum.retained + of.retained,
        retained_bytes: sum.retained_bytes + of.retained_bytes,
        first_readable_offset: 0,
        expired: sum.expired + of.expired,
        dropped: sum.dropped + of.dropped,
        blocked: sum.blocked + of.blocked,
        dead: sum.dead + of.dead,
        dead_lettered: sum.dead_lettered + of.dead_lettered,
        replayed: sum.replayed + of.replayed,
    }
}

impl Services {
    /// A sharded queue as the leaders of its shards have it.
    pub(super) async fn describe_shards(&self, sharded: &Sharded) -> v1::QueueDescription {
        let known = self.node.shards_of(sharded);
        let asked = known.iter().map(|shard| async move {
            let described = self.describe_at_leader(shard.name.as_str(), 0);
            match tokio::time::timeout(SHARD_WAIT, described).await {
                Ok(Ok(described)) => described,
                // Its replica here may be behind, and what it takes for the leader be gone.
                _ => v1::QueueDescription {
                    leader: None,
                    counts: None,
                    settings_version: None,
                    consumers: Vec::new(),
                    ..self.node.describe(shard)
                },
            }
        });
        let shards = join_all(asked).await;
        v1::QueueDescription { shards: shards.clone(), ..summed(sharded, &shards) }
    }

    pub(super) async fn sharded_created(
        &self,
        request: Request<v1::CreateShardedQueueRequest>,
    ) -> Result<Response<v1::CreateShardedQueueResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        if let Some(node) = self.node.catalog_place(hops).await? {
            let request = forwarded(request, hops);
            return self.admin(node)?.create_sharded_queue(request).await.map_err(passed_on);
        }
        let created = self.node.create_sharded(&request).await?;
        let sharded = self.node.sharded(&request.name).ok_or_else(Refusal::unknown_outcome)?;
        let names: Vec<QueueName> = sharded.names().collect();
        let led = join_all(names.iter().map(|name| self.node.wait_for_leader(name))).await;
        led.into_iter().collect::<Result<Vec<_>, _>>()?;
        let queue = Some(self.describe_shards(&sharded).await);
        Ok(Response::new(v1::CreateShardedQueueResponse { queue, created }))
    }

    pub(super) async fn shards_told(
        &self,
        request: Request<v1::GetShardsRequest>,
    ) -> Result<Response<v1::GetShardsResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let name = queue_name(&request.name)?;
        if let Some(sharded) = self.node.sharded(&request.name) {
            let sharding = Some(sharding_of(&sharded));
            return Ok(Response::new(v1::GetShardsResponse { sharding }));
        }
        // This node's catalog may be behind: its leader's is not.
        match self.node.catalog_place(hops).await? {
            Some(node) if hops == 0 => {
                self.admin(node)?.get_shards(forwarded(request, hops)).await.map_err(passed_on)
            }
            _ => {
                let message = format!("there is no sharded queue `{name}`");
                let refusal = Refusal::new(reason::QUEUE_NOT_FOUND, message);
                Err(refusal.with("queue", name).into())
            }
        }
    }

    pub(super) async fn shards_purged(
        &self,
        sharded: &Sharded,
        request: &v1::PurgeQueueRequest,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        if matches!(request.before, Some(Before::BeforeOffset(_))) {
            let mut refusal = Refusal::sharded(sharded);
            refusal.message = format!("an offset is one of a shard's; {}", refusal.message);
            return Err(refusal.into());
        }
        let purge = |shard: QueueName| async move {
            let request = v1::PurgeQueueRequest { name: shard.as_str().into(), ..request.clone() };
            let answer = AdminService::purge_queue(self, Request::new(request)).await?;
            Ok(answer.into_inner().purged)
        };
        let shards = at_each(sharded, purge).await?;
        let purged = shards.iter().map(|shard| shard.count).sum();
        Ok(Response::new(v1::PurgeQueueResponse { purged, next_offset: 0, shards }))
    }

    pub(super) async fn shards_controlled(
        &self,
        sharded: &Sharded,
        request: &v1::ControlConsumerRequest,
    ) -> Result<Response<v1::ControlConsumerResponse>, Status> {
        let control = |shard: QueueName| async move {
            let queue = shard.as_str().to_owned();
            let request = v1::ControlConsumerRequest { queue, ..request.clone() };
            let answer = AdminService::control_consumer(self, Request::new(request)).await?;
            Ok(answer.into_inner().consumers.into())
        };
        let mut shards = at_each(sharded, control).await?;
        for shard in &mut shards {
            // It is at others: that is no failure of this one.
            shard.failure.take_if(|failure| failure.reason == reason::CONSUMER_NOT_FOUND);
        }
        let consumers: u64 = shards.iter().map(|shard| shard.count).sum();
        let consumers = u32::try_from(consumers).unwrap_or(u32::MAX);
        Ok(Response::new(v1::ControlConsumerResponse { consumers, shards }))
    }

    /// The queue that a request is to be published to: the shard of its key, if it names a sharded queue.
    pub(super) fn shard_to_publish_to(
        &self,
        request: &v1::PublishRequest,
    ) -> Result<Option<Routed>, Refusal> {
        match self.node.sharded(&request.queue) {
            Some(sharded) => self.node.shard_for(&sharded, request).map(Some),
            None => Ok(None),
        }
    }
}

/// Asks each shard, all at a time; what became of it there. An error only if it was done at none: the one that says most. One
/// after which it may be done comes before one after which it may be asked for again, and that a consumer is not there says
/// nothing while another shard could not be asked.
async fn at_each<F>(
    sharded: &Sharded,
    ask: impl Fn(QueueName) -> F,
) -> Result<Vec<v1::ShardOutcome>, Status>
where
    F: Future<Output = Result<u64, Status>>,
{
    let asked = sharded.names().map(|shard| {
        let answer = ask(shard.clone());
        async move {
            match tokio::time::timeout(SHARD_WAIT, answer).await {
                Ok(answer) => (shard, answer),
                Err(_) => {
                    let doing = format!("do that at shard `{shard}` (it may still be done)");
                    (shard, Err(Refusal::no_quorum(&doing).into()))
                }
            }
        }
    });
    let answers = join_all(asked).await;
    let weight = |failure: &v1::Failure| match failure.reason.as_str() {
        reason::UNKNOWN_OUTCOME | reason::NO_QUORUM => 2,
        reason::CONSUMER_NOT_FOUND => 0,
        _ => 1,
    };
    let mut told: Option<(i32, Status)> = None;
    let mut outcomes = Vec::with_capacity(answers.len());
    for (shard, answer) in answers {
        let (count, failure) = match answer {
            Ok(count) => (count, None),
            Err(status) => {
                let failure = failure_of(&status);
                let weight = weight(&failure);
                if told.as_ref().is_none_or(|(most, _)| weight > *most) {
                    told = Some((weight, status));
                }
                (0, Some(failure))
            }
        };
        outcomes.push(v1::ShardOutcome { shard: shard.as_str().into(), count, failure });
    }
    match told {
        Some((_, status)) if outcomes.iter().all(|outcome| outcome.failure.is_some()) => {
            Err(status)
        }
        _ => Ok(outcomes),
    }
}

#[cfg(test)]
mod tests {
    use quorate_machine::Millis;
    use quorate_machine::catalog::ShardHash;

    use super::*;

    fn message(group_key: &str) -> v1::Message {
        v1::Message { group_key: group_key.into(), ..Default::default() }
    }

    #[test]
    fn a_request_is_of_the_shard_that_all_its_keys_have_in_common() {
        // "a" and "order 7" are at 2 and 0 of 3, "customer-1042" at 2.
        let request = |keys: &[&str], shard_key: &str| v1::PublishRequest {
            messages: keys.iter().map(|key| message(key)).collect(),
            shard_key: shard_key.into(),
            ..Default::default()
        };
        assert_eq!(place_of(&request(&["a", "customer-1042", ""], ""), 3).unwrap(), Some(2));
        assert_eq!(place_of(&request(&["a"], "order 7"), 3).unwrap(), Some(2));
        assert_eq!(place_of(&request(&["", ""], "order 7"), 3).unwrap(), Some(0));
        assert_eq!(place_of(&request(&["", ""], ""), 3).unwrap(), None);
        assert!(place_of(&request(&["a", "order 7"], ""), 3).is_err());
        assert!(place_of(&request(&["a", ""], "order 7"), 3).is_err());
        let named = v1::PublishRequest { message_id: "a".into(), ..request(&[""], "") };
        assert_eq!(place_of(&named, 3).unwrap(), Some(2));
        let run = |count, key: &str| v1::Properties {
            count,
            group_key: key.into(),
            ..Default::default()
        };
        let framed = |properties| v1::PublishRequest {
            frame: Some(v1::Frame { count: 3, ..Default::default() }),
            properties,
            shard_key: "order 7".into(),
            ..Default::default()
        };
        assert_eq!(place_of(&framed(vec![run(3, "a")]), 3).unwrap(), Some(2));
        assert_eq!(place_of(&framed(vec![]), 3).unwrap(), Some(0));
        assert!(place_of(&framed(vec![run(2, "a"), run(1, "")]), 3).is_err());
    }

    fn orders() -> Sharded {
        Sharded {
            name: QueueName::parse("orders").unwrap(),
            generation: 3,
            hash: ShardHash::Xxh64,
            shards: vec![0, 1],
            created_at: Millis(0),
        }
    }

    #[test]
    fn who_knows_newer_shards_than_this_node_is_to_retry_and_who_knows_older_ones_is_not() {
        let of = QueueName::parse("orders").unwrap();
        assert_eq!(other_shards(&of, 3, 2).reason, reason::SHARDS_CHANGED);
        assert_eq!(other_shards(&of, 3, 4).reason, reason::NOT_LEADER);
    }

    #[tokio::test]
    async fn a_shard_that_could_not_be_asked_comes_before_one_that_has_no_such_consumer() {
        let absent = || Status::from(Refusal::new(reason::CONSUMER_NOT_FOUND, "no such consumer"));
        let orders = orders();
        for silent in [0, 1] {
            let outcome = at_each(&orders, |shard| async move {
                match shard.sharded() {
                    Some((_, number)) if number == silent => Err(Refusal::no_quorum("ask").into()),
                    _ => Err(absent()),
                }
            });
            assert_eq!(failure_of(&outcome.await.unwrap_err()).reason, reason::NO_QUORUM);
        }
        let outcome = at_each(&orders, |_| async move { Err(absent()) });
        assert_eq!(failure_of(&outcome.await.unwrap_err()).reason, reason::CONSUMER_NOT_FOUND);
    }

    #[test]
    fn sums_are_known_if_those_of_all_shards_are() {
        let sharded = orders();
        let shard = |ready| v1::QueueDescription {
            counts: Some(v1::QueueCounts { ready, next_offset: 9, ..Default::default() }),
            ..Default::default()
        };
        let sum = summed(&sharded, &[shard(3), shard(4)]).counts.unwrap();
        assert_eq!((sum.ready, sum.next_offset), (7, 0));
        assert_eq!(summed(&sharded, &[shard(3), v1::QueueDescription::default()]).counts, None);
    }
}
