//! Queues: create, show, empty, remove.

use std::time::Duration;

use quorate_machine::catalog::{self, CreateQueue, QueueName};
use quorate_machine::queue::{Command, Offset, RETRY_MAX_MS_DEFAULT, Reply, Settings};
use quorate_machine::{Millis, NodeId};
use quorate_proto::v1::purge_queue_request::Before;
use quorate_proto::{reason, v1};
use tonic::{Request, Response, Status};

use super::Services;
use super::pattern::Pattern;
use crate::member::{BEHAVIOUR_VERSION, FILTERS_VERSION, Member};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place, forwarded, hops, passed_on, queue_name};

pub(super) const PAGE_DEFAULT: u32 = 1_000;
pub(super) const PAGE_MAX: u32 = 10_000;
/// Time between two looks whether a new queue has a leader.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(crate) fn settings_of(wanted: &v1::QueueSettings) -> Settings {
    let limit = |limit: u64| (limit > 0).then_some(limit);
    let or = |value: u32, default: u32| if value > 0 { value } else { default };
    let default = Settings::default();
    Settings {
        max_messages: limit(wanted.max_messages),
        max_bytes: limit(wanted.max_bytes),
        max_deliveries: wanted.max_deliveries,
        lease_ms: or(wanted.lease_ms, default.lease_ms),
        session_grace_ms: or(wanted.session_grace_ms, default.session_grace_ms),
        dedup_age_ms: limit(wanted.dedup_age_ms.into()).unwrap_or(default.dedup_age_ms),
        min_in_sync: u8::try_from(wanted.min_in_sync).unwrap_or(u8::MAX),
        in_sync_lag_ms: or(wanted.in_sync_lag_ms, default.in_sync_lag_ms),
        retain_ms: limit(wanted.retain_ms),
        retain_bytes: limit(wanted.retain_bytes),
        ttl_ms: limit(wanted.ttl_ms),
        drop_head: wanted.overflow() == v1::Overflow::DropHead,
        priorities: wanted.priorities,
        single_active: wanted.single_active,
        retry_ms: wanted.retry_ms,
        // Said or left out, the default is the same setting.
        retry_max_ms: match wanted.retry_max_ms {
            max if max == RETRY_MAX_MS_DEFAULT.max(wanted.retry_ms) => 0,
            max => max,
        },
        // One that is no name was refused.
        dead_letter: QueueName::parse(&wanted.dead_letter).ok(),
        message_id_window: or(wanted.message_id_window, default.message_id_window),
        filter_header: Some(wanted.filter_header.clone()).filter(|name| !name.is_empty()),
        ..default
    }
}

pub(super) fn settings_to(settings: &Settings, replicas: usize) -> v1::QueueSettings {
    v1::QueueSettings {
        replicas: replicas as u32,
        max_messages: settings.max_messages.unwrap_or(0),
        max_bytes: settings.max_bytes.unwrap_or(0),
        max_deliveries: settings.max_deliveries,
        lease_ms: settings.lease_ms,
        session_grace_ms: settings.session_grace_ms,
        dedup_age_ms: settings.dedup_age_ms.min(u32::MAX.into()) as u32,
        min_in_sync: settings.in_sync_needed(replicas) as u32,
        in_sync_lag_ms: settings.in_sync_lag_ms,
        retain_ms: settings.retain_ms.unwrap_or(0),
        retain_bytes: settings.retain_bytes.unwrap_or(0),
        ttl_ms: settings.ttl_ms.unwrap_or(0),
        overflow: match settings.drop_head {
            true => v1::Overflow::DropHead.into(),
            false => v1::Overflow::Reject.into(),
        },
        priorities: settings.priorities,
        single_active: settings.single_active,
        retry_ms: settings.retry_ms,
        retry_max_ms: if settings.retry_ms > 0 { settings.retry_max_ms() } else { 0 },
        dead_letter: settings.dead_letter.as_ref().map_or("", QueueName::as_str).into(),
        message_id_window: settings.message_id_window,
        filter_header: settings.filter_header.clone().unwrap_or_default(),
    }
}

pub(crate) fn check_settings(settings: &v1::QueueSettings) -> Result<(), Refusal> {
    const LEASE_MS_MIN: u32 = 100;
    let max = quorate_machine::queue::LEASE_MS_MAX;
    if settings.lease_ms != 0 && !(LEASE_MS_MIN..=max).contains(&settings.lease_ms) {
        return Err(Refusal::invalid(format!(
            "`lease_ms` must be within {LEASE_MS_MIN} and {max}"
        )));
    }
    if settings.session_grace_ms > max {
        return Err(Refusal::invalid(format!("`session_grace_ms` is at most {max}")));
    }
    if !matches!(settings.replicas, 0 | 1 | 3 | 5) {
        let message = format!("a queue has 1, 3 or 5 replicas, not {}", settings.replicas);
        return Err(Refusal::invalid(message));
    }
    if settings.replicas > 0 && settings.min_in_sync > settings.replicas {
        return Err(Refusal::invalid(format!(
            "`min_in_sync` is {}, more than the {} replicas: no publish that asks for all of them could \
             be confirmed",
            settings.min_in_sync, settings.replicas
        )));
    }
    if v1::Overflow::try_from(settings.overflow).is_err() {
        let message = format!("overflow {} is not known to this node", settings.overflow);
        return Err(Refusal::new(reason::UNSUPPORTED_VERSION, message));
    }
    if !settings.dead_letter.is_empty() {
        let name = queue_name(&settings.dead_letter)?;
        if name.is_shard() {
            return Err(catalog::Rejection::ShardedDeadLetter { name }.into());
        }
    }
    let max = quorate_machine::queue::IN_SYNC_LAG_MS_MAX;
    if settings.in_sync_lag_ms > max {
        return Err(Refusal::invalid(format!("`in_sync_lag_ms` is at most {max}")));
    }
    let max = quorate_machine::queue::MESSAGE_IDS_MAX;
    if settings.message_id_window > max {
        return Err(Refusal::invalid(format!("`message_id_window` is at most {max}")));
    }
    let max = quorate_machine::queue::FILTER_HEADER_BYTES_MAX;
    if settings.filter_header.len() > max {
        let message = format!("`filter_header` is a key of headers: at most {max} bytes");
        return Err(Refusal::invalid(message));
    }
    if !settings.filter_header.is_empty() && settings.single_active {
        return Err(Refusal::invalid(
            "`filter_header` is not for a queue with `single_active`: the one consumer that is handed messages is \
             to take all of them",
        ));
    }
    check_retries(settings)
}

fn check_retries(settings: &v1::QueueSettings) -> Result<(), Refusal> {
    let v1::QueueSettings { retry_ms, retry_max_ms, .. } = *settings;
    let max = quorate_machine::queue::RETRY_MS_MAX;
    if retry_ms > max || retry_max_ms > max {
        return Err(Refusal::invalid(format!("`retry_ms` and `retry_max_ms` are at most {max}")));
    }
    if retry_max_ms > 0 && retry_ms == 0 {
        return Err(Refusal::invalid(
            "`retry_max_ms` is the longest of the delays that begin with `retry_ms`; give that too",
        ));
    }
    if retry_max_ms > 0 && retry_max_ms < retry_ms {
        return Err(Refusal::invalid(format!(
            "`retry_max_ms` is {retry_max_ms}, less than the first delay, `retry_ms` = {retry_ms}"
        )));
    }
    Ok(())
}

impl Member {
    /// A queue as this node knows it: counts and consumers from its own replica, if it has one.
    pub(super) fn describe(&self, queue: &catalog::Queue) -> v1::QueueDescription {
        let local = self.queues.get(queue.group.0);
        let mut description = v1::QueueDescription {
            name: queue.name.as_str().into(),
            settings: Some(settings_to(&queue.settings, queue.replicas.len())),
            group_id: queue.group.0,
            replicas: queue.holders().map(|node| self.replica(node.0, None)).collect(),
            moving: queue.is_moving,
            placement: queue.moved,
            ..Default::default()
        };
        if let Some(local) = local {
            self.describe_local(&local, &mut description);
        }
        for replica in &mut description.replicas {
            replica.leaving = queue.leaving.contains(&NodeId(replica.node_id));
            if queue.observers.contains(&NodeId(replica.node_id)) {
                replica.role = v1::ReplicaRole::Observer.into();
            }
        }
        description
    }

    fn replica(&self, node: u64, leader: Option<u64>) -> v1::Replica {
        let role = match leader {
            Some(leader) if leader == node => v1::ReplicaRole::Leader,
            Some(_) => v1::ReplicaRole::Follower,
            None => v1::ReplicaRole::Unspecified,
        };
        v1::Replica {
            node_id: node,
            address: self.address_of(node).unwrap_or_default(),
            role: role.into(),
            matched_index: 0,
            lag: 0,
            zone: self
                .catalog
                .read(|catalog| catalog.node(NodeId(node)).map(|node| node.zone.clone()))
                .unwrap_or_default(),
            leaving: false,
        }
    }

    fn describe_local(&self, local: &Queue, description: &mut v1::QueueDescription) {
        let leadership = local.handle.leadership();
        description.leader =
            leadership.leader.and_then(|leader| self.leader(leader, leadership.term));
        let progress = local.handle.progress();
        for replica in &mut description.replicas {
            *replica = self.replica(replica.node_id, leadership.leader);
            if let Some(seen) = progress.iter().find(|seen| seen.node == replica.node_id) {
                replica.matched_index = seen.matched.unwrap_or(0);
                replica.lag = seen.lag;
                if !seen.voter {
                    replica.role = v1::ReplicaRole::Observer.into();
                }
            }
        }
        let (stats, version) =
            local.handle.read(|machine| (machine.stats(), machine.settings().version));
        description.settings_version = Some(version);
        description.counts = Some(v1::QueueCounts {
            published: stats.published,
            ready: stats.ready,
            leased: stats.leased,
            delayed: stats.delayed,
            blocked: stats.blocked,
            acked: stats.acked,
            rejected: stats.rejected,
            exhausted: stats.exhausted,
            purged: stats.purged,
            bytes: stats.bytes,
            first_offset: stats.first_offset.0,
            next_offset: stats.next_offset.0,
            retained: stats.retained,
            retained_bytes: stats.retained_bytes,
            first_readable_offset: stats.first_readable.0,
            expired: stats.expired,
            dropped: stats.dropped,
            dead: stats.dead,
            dead_lettered: stats.dead_lettered,
            replayed: stats.replayed,
        });
        description.paused = stats.paused;
        description.dead_letters_wait = local.stuck().unwrap_or_default();
        let consumers = stats.consumers.into_iter();
        description.consumers =
            consumers.map(|it| self.consumer(it, &description.replicas)).collect();
    }

    pub(super) fn known(&self, name: &QueueName) -> Option<catalog::Queue> {
        self.catalog.read(|catalog| catalog.queue(name).cloned())
    }

    async fn create(
        &self,
        request: v1::CreateQueueRequest,
    ) -> Result<v1::CreateQueueResponse, Refusal> {
        let name = queue_name(&request.name)?;
        let wanted = self.wanted_queue(name.clone(), request.settings.unwrap_or_default(), 1)?;
        let command = catalog::Command::CreateQueue(wanted);
        let created = match self.propose_catalog(command).await? {
            catalog::Reply::Created { .. } => true,
            catalog::Reply::Rejected(catalog::Rejection::QueueExists {
                same_settings: true,
                ..
            }) => false,
            catalog::Reply::Rejected(rejection) => return Err(rejection.into()),
            _ => return Err(Refusal::unknown_outcome()),
        };
        let queue = self.wait_for_leader(&name).await?;
        Ok(v1::CreateQueueResponse { queue: Some(queue), created })
    }

    /// Whether all nodes know what settings ask for.
    pub(super) fn expect_settings_known(&self, settings: &Settings) -> Result<(), Refusal> {
        if settings.filter_header.is_some() {
            self.expect_known(FILTERS_VERSION, "a header to filter by")?;
        }
        match settings.are_numbered() {
            true => self.expect_known(BEHAVIOUR_VERSION, "these settings"),
            false => Ok(()),
        }
    }

    /// What the catalog is asked for to make a queue, or `count` of them as shards of one.
    pub(super) fn wanted_queue(
        &self,
        name: QueueName,
        wanted: v1::QueueSettings,
        count: usize,
    ) -> Result<CreateQueue, Refusal> {
        // A node that does not know of shards would stop at such a name.
        if name.is_shard() {
            return Err(catalog::Rejection::ShardName.into());
        }
        self.expect_settings_known(&settings_of(&wanted))?;
        let (nodes, queues) = self.catalog.read(|catalog| {
            let nodes: Vec<_> = catalog.nodes().map(|node| node.id).collect();
            (nodes, catalog.queues().len())
        });
        // The founders are registered one by one: for a moment there are fewer.
        let missing = |peer: &crate::config::Peer| {
            let removed = |id| self.catalog.read(|catalog| catalog.is_removed(NodeId(id)));
            !nodes.iter().any(|node| node.0 == peer.id) && !removed(peer.id)
        };
        if queues == 0 && self.config.peers.iter().any(missing) {
            return Err(Refusal::no_quorum("found the cluster"));
        }
        let limit = self.config.limits.max_queues as usize;
        let is_there = self.known(&name).is_some() || self.sharded(name.as_str()).is_some();
        if queues + count > limit && !is_there {
            let message =
                format!("the cluster has {queues} queues, as many as limits.max_queues allows");
            return Err(Refusal::new(reason::QUOTA_EXCEEDED, message));
        }
        let candidates: Vec<_> =
            nodes.iter().copied().filter(|node| self.is_there(*node)).collect();
        let default = if nodes.len() < 3 { 1 } else { 3 };
        let replicas = if wanted.replicas == 0 { default } else { wanted.replicas };
        let wanted = v1::QueueSettings { replicas, ..wanted };
        check_settings(&wanted)?;
        let (settings, replicas) = (settings_of(&wanted), replicas as u8);
        Ok(CreateQueue { name, settings, replicas, candidates })
    }

    pub(super) async fn wait_for_leader(
        &self,
        name: &QueueName,
    ) -> Result<v1::QueueDescription, Refusal> {
        let look = async {
            loop {
                let Some(queue) = self.known(name) else {
                    return Err(Refusal::queue_not_found(name.as_str()));
                };
                let mut description = self.describe(&queue);
                if description.leader.is_none() && self.queues.get(queue.group.0).is_none() {
                    description.leader = self.locate(name.as_str(), 0).await.ok();
                }
                if description.leader.is_some() {
                    return Ok(description);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let limit = self.config.limits.request_timeout();
        match tokio::time::timeout(limit, look).await {
            Ok(found) => found,
            Err(_) => Err(Refusal::no_quorum(&format!("elect a leader of queue `{name}`"))),
        }
    }

    async fn delete(&self, request: v1::DeleteQueueRequest) -> Result<(), Refusal> {
        let name = queue_name(&request.name)?;
        if let Some((of, _)) = name.sharded() {
            return Err(match self.known(&name) {
                Some(_) => catalog::Rejection::IsShard { of }.into(),
                None => Refusal::queue_not_found(name.as_str()),
            });
        }
        let command = catalog::Command::DeleteQueue { name: name.clone() };
        match self.propose_catalog(command).await? {
            catalog::Reply::Deleted { .. } => Ok(()),
            catalog::Reply::Rejected(catalog::Rejection::NotFound) => {
                Err(Refusal::queue_not_found(name.as_str()))
            }
            catalog::Reply::Rejected(rejection) => Err(rejection.into()),
            _ => Err(Refusal::unknown_outcome()),
        }
    }

    pub(crate) async fn propose_catalog(
        &self,
        command: catalog::Command,
    ) -> Result<catalog::Reply, Refusal> {
        let limit = self.config.limits.request_timeout();
        match tokio::time::timeout(limit, self.catalog.propose(command)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Refusal::no_quorum("write the catalog")),
        }
    }
}

/// What a listing has.
enum Listed {
    Queue(Box<catalog::Queue>),
    Sharded(catalog::Sharded),
}

impl Listed {
    fn name(&self) -> &QueueName {
        match self {
            Self::Queue(queue) => &queue.name,
            Self::Sharded(sharded) => &sharded.name,
        }
    }
}

type Client = v1::admin_service_client::AdminServiceClient<tonic::transport::Channel>;

impl Services {
    pub(super) fn admin(&self, node: u64) -> Result<Client, Status> {
        Ok(Client::new(self.node.channel(node)?))
    }

    /// The queue's description at its leader, wherever that is.
    pub(super) async fn describe_at_leader(
        &self,
        name: &str,
        hops: u32,
    ) -> Result<v1::QueueDescription, Status> {
        match self.node.place(name, hops).await? {
            Place::Here(queue) => {
                let known = self.node.known(&queue.name);
                let known = known.ok_or_else(|| Refusal::queue_not_found(name))?;
                Ok(self.node.describe(&known))
            }
            Place::There(node) => {
                let request = v1::DescribeQueueRequest { name: name.into() };
                let answer = self.admin(node)?.describe_queue(forwarded(request, hops)).await;
                let answer = answer.map_err(passed_on)?;
                answer.into_inner().queue.ok_or_else(|| Refusal::unknown_outcome().into())
            }
        }
    }
}

#[tonic::async_trait]
impl v1::admin_service_server::AdminService for Services {
    async fn create_queue(
        &self,
        request: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        let hops = hops(request.metadata());
        if let Some(node) = self.node.catalog_place(hops).await? {
            return self
                .admin(node)?
                .create_queue(forwarded(request.into_inner(), hops))
                .await
                .map_err(passed_on);
        }
        Ok(Response::new(self.node.create(request.into_inner()).await?))
    }

    async fn describe_queue(
        &self,
        request: Request<v1::DescribeQueueRequest>,
    ) -> Result<Response<v1::DescribeQueueResponse>, Status> {
        let hops = hops(request.metadata());
        let name = request.into_inner().name;
        let queue = match self.node.sharded(&name) {
            Some(sharded) => self.describe_shards(&sharded).await,
            None => self.describe_at_leader(&name, hops).await?,
        };
        Ok(Response::new(v1::DescribeQueueResponse { queue: Some(queue) }))
    }

    async fn update_queue(
        &self,
        request: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        self.queue_updated(request).await
    }

    async fn list_queues(
        &self,
        request: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let request = request.into_inner();
        let size =
            if request.page_size == 0 { PAGE_DEFAULT } else { request.page_size.min(PAGE_MAX) };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(queue_name(token)?),
        };
        let pattern = Pattern::of(&request.pattern)?;
        let wanted = |queue: &&catalog::Queue| pattern.matches(queue.name.as_str());
        let most = size as usize + 1;
        let mut page: Vec<Listed> = self.node.catalog.read(|catalog| {
            let queues: Vec<_> = match &after {
                None => catalog.queues().filter(wanted).take(most).cloned().collect(),
                Some(after) => {
                    catalog.queues_after(after).filter(wanted).take(most).cloned().collect()
                }
            };
            let sharded = catalog.all_sharded().filter(|sharded| {
                pattern.matches(sharded.name.as_str())
                    && after.as_ref().is_none_or(|after| sharded.name > *after)
            });
            let sharded = sharded.take(most).cloned().map(Listed::Sharded);
            let queues = queues.into_iter().map(|queue| Listed::Queue(Box::new(queue)));
            queues.chain(sharded).collect()
        });
        page.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        let more = page.len() > size as usize;
        page.truncate(size as usize);
        let next_page_token = match page.last() {
            Some(last) if more => last.name().as_str().to_string(),
            _ => String::new(),
        };
        let described = |listed: &Listed| match listed {
            Listed::Queue(queue) => self.node.describe(queue),
            Listed::Sharded(sharded) => self.node.describe_sharded(sharded),
        };
        let queues = page.iter().map(described).collect();
        Ok(Response::new(v1::ListQueuesResponse { queues, next_page_token }))
    }

    async fn purge_queue(
        &self,
        request: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        if let Some(sharded) = self.node.sharded(&request.name) {
            return self.shards_purged(&sharded, &request).await;
        }
        let queue = match self.node.place(&request.name, hops).await? {
            Place::Here(queue) => queue,
            Place::There(node) => {
                return self
                    .admin(node)?
                    .purge_queue(forwarded(request, hops))
                    .await
                    .map_err(passed_on);
            }
        };
        let before = queue.handle.read(|machine| match request.before {
            None => None,
            Some(Before::BeforeOffset(offset)) => Some(Offset(offset)),
            Some(Before::BeforeTimeMs(time)) => Some(machine.offset_at(Millis(time))),
        });
        if before.is_some() {
            self.node.expect_known(BEHAVIOUR_VERSION, "purges before an offset")?;
        }
        let command = before.map_or(Command::Purge, |before| Command::PurgeBefore { before });
        let limit = self.node.config.limits.request_timeout();
        match tokio::time::timeout(limit, queue.handle.propose(command)).await {
            Ok(Ok(Reply::Purged { count })) => {
                let end = queue.handle.read(|machine| machine.next_offset());
                let next_offset = before.map_or(end, |before| before.min(end)).0;
                let shards = Vec::new();
                Ok(Response::new(v1::PurgeQueueResponse { purged: count, next_offset, shards }))
            }
            Ok(Ok(_)) => Err(Refusal::unknown_outcome().into()),
            Ok(Err(error)) => Err(self.node.redirect(&queue, error).into()),
            // It is in the log, and may be committed yet.
            Err(_) => Err(Refusal::unknown_outcome().into()),
        }
    }

    async fn verify_receipts(
        &self,
        request: Request<v1::VerifyReceiptsRequest>,
    ) -> Result<Response<v1::VerifyReceiptsResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        match self.node.place(&request.name, hops).await? {
            Place::Here(queue) => {
                let answer = self.node.verify(&queue, &request.receipts).await?;
                Ok(Response::new(answer))
            }
            Place::There(node) => {
                self.admin(node)?.verify_receipts(forwarded(request, hops)).await.map_err(passed_on)
            }
        }
    }

    async fn create_slot(
        &self,
        request: Request<v1::CreateSlotRequest>,
    ) -> Result<Response<v1::CreateSlotResponse>, Status> {
        self.slot_created(request).await
    }

    async fn advance_slot(
        &self,
        request: Request<v1::AdvanceSlotRequest>,
    ) -> Result<Response<v1::AdvanceSlotResponse>, Status> {
        self.slot_advanced(request).await
    }

    async fn list_slots(
        &self,
        request: Request<v1::ListSlotsRequest>,
    ) -> Result<Response<v1::ListSlotsResponse>, Status> {
        self.slots_listed(request).await
    }

    async fn drop_slot(
        &self,
        request: Request<v1::DropSlotRequest>,
    ) -> Result<Response<v1::DropSlotResponse>, Status> {
        self.slot_dropped(request).await
    }

    async fn explain_placement(
        &self,
        request: Request<v1::ExplainPlacementRequest>,
    ) -> Result<Response<v1::ExplainPlacementResponse>, Status> {
        let hops = hops(request.metadata());
        Ok(Response::new(self.node.explain_placement(&request.into_inner(), hops).await?))
    }

    async fn explain_message(
        &self,
        request: Request<v1::ExplainMessageRequest>,
    ) -> Result<Response<v1::ExplainMessageResponse>, Status> {
        self.message_explained(request).await
    }

    async fn list_consumers(
        &self,
        request: Request<v1::ListConsumersRequest>,
    ) -> Result<Response<v1::ListConsumersResponse>, Status> {
        self.consumers_listed(request).await
    }

    async fn control_consumer(
        &self,
        request: Request<v1::ControlConsumerRequest>,
    ) -> Result<Response<v1::ControlConsumerResponse>, Status> {
        self.consumers_controlled(request).await
    }

    async fn create_sharded_queue(
        &self,
        request: Request<v1::CreateShardedQueueRequest>,
    ) -> Result<Response<v1::CreateShardedQueueResponse>, Status> {
        self.sharded_created(request).await
    }

    async fn get_shards(
        &self,
        request: Request<v1::GetShardsRequest>,
    ) -> Result<Response<v1::GetShardsResponse>, Status> {
        self.shards_told(request).await
    }

    async fn seek_consumers(
        &self,
        request: Request<v1::SeekConsumersRequest>,
    ) -> Result<Response<v1::SeekConsumersResponse>, Status> {
        self.consumers_sought(request).await
    }

    async fn delete_queue(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        let hops = hops(request.metadata());
        if let Some(node) = self.node.catalog_place(hops).await? {
            return self
                .admin(node)?
                .delete_queue(forwarded(request.into_inner(), hops))
                .await
                .map_err(passed_on);
        }
        let request = request.into_inner();
        if request.if_empty {
            let counts = match self.node.sharded(&request.name) {
                Some(sharded) => self
                    .describe_shards(&sharded)
                    .await
                    .counts
                    .ok_or_else(|| Refusal::no_quorum("see whether every shard is empty"))?,
                None => self.describe_at_leader(&request.name, 0).await?.counts.unwrap_or_default(),
            };
            let waiting = counts.ready + counts.delayed + counts.blocked;
            let held = waiting + counts.leased + counts.dead;
            if held > 0 {
                let message = format!("queue `{}` holds {held} messages", request.name);
                return Err(Refusal::new(reason::QUEUE_NOT_EMPTY, message).into());
            }
        }
        self.node.delete(request).await?;
        Ok(Response::new(v1::DeleteQueueResponse {}))
    }
}
