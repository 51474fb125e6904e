//! What fuzzing asks of this crate: how requests of clients are checked, and what they become. The
//! checks are private to the services; `quorate-fuzz` calls them here, and nothing else does.
//!
//! `None` says that the request was refused.

use quorate_machine::catalog::{CreateQueue, QueueName, RegisterNode};
use quorate_machine::queue::{
    Attach, Control, CreateSlot, ProducerId, Properties, Settings, SettleItem, SlotName, Target,
};
use quorate_proto::v1;

use crate::routing::queue_name;
use crate::service::{
    admin, cluster, consumer, consumers, publisher, queue, reader, slots, updating,
};

/// What a request publishes.
pub struct Publish {
    /// Id and epoch, if it names a producer.
    pub producer: Option<(ProducerId, u32)>,
    /// The messages.
    pub frame: v1::Frame,
    /// What sets them apart.
    pub properties: Vec<v1::Properties>,
    /// On what it enters.
    pub condition: Condition,
}

/// A publish in one call.
#[must_use]
pub fn publish(mut request: v1::PublishRequest) -> Option<Publish> {
    let (frame, properties) = queue::frame_of(&mut request).ok()?;
    publisher::check_keys(&frame, &properties).ok()?;
    let condition = condition(&request.message_id, request.expected_next_offset)?;
    let producer = publisher::producer_of(request.producer).ok()?;
    Some(Publish { producer, frame, properties, condition })
}

/// A message id and an expected offset.
pub type Condition = Option<Box<quorate_machine::queue::Condition>>;

/// On what a batch enters.
#[must_use]
pub fn condition(message_id: &str, expected_next: Option<u64>) -> Option<Condition> {
    publisher::condition_of(message_id, expected_next).ok()
}

/// The properties of `count` messages that are published at `now_ms`.
#[must_use]
pub fn properties(
    properties: &[v1::Properties],
    count: u32,
    now_ms: u64,
) -> Option<Vec<Properties>> {
    publisher::properties_of(properties, count, now_ms).ok()
}

/// A producer, as it opens a stream.
#[must_use]
pub fn producer(producer: Option<v1::Producer>) -> Option<Option<(ProducerId, u32)>> {
    publisher::producer_of(producer).ok()
}

/// A consumer that attaches.
#[must_use]
pub fn attach(attach: &v1::Attach) -> Option<Attach> {
    consumer::attach_of(attach, 1).ok()
}

/// One item of a settle.
#[must_use]
pub fn settle(item: &v1::SettleItem) -> Option<SettleItem> {
    consumer::item_of(item).ok()
}

/// A queue to be made.
#[must_use]
pub fn create(request: &v1::CreateQueueRequest) -> Option<CreateQueue> {
    let wanted = request.settings.clone().unwrap_or_default();
    let name = queue_name(&request.name).ok()?;
    admin::check_settings(&wanted).ok()?;
    let settings = admin::settings_of(&wanted);
    Some(CreateQueue { name, settings, replicas: wanted.replicas as u8, candidates: Vec::new() })
}

/// A queue's settings to be changed, from the defaults.
#[must_use]
pub fn update(request: &v1::UpdateQueueRequest) -> Option<(QueueName, Settings)> {
    let name = queue_name(&request.name).ok()?;
    let base = v1::QueueSettings { replicas: 3, ..<_>::default() };
    let settings = updating::merged(base, request).ok()?;
    Some((name, admin::settings_of(&settings)))
}

/// A node that joins.
#[must_use]
pub fn join(request: v1::JoinClusterRequest) -> Option<RegisterNode> {
    cluster::register_of(request, 1).ok()
}

/// Which consumers are to be controlled, and how.
#[must_use]
pub fn control(request: &v1::ControlConsumerRequest) -> Option<(Target, Control)> {
    Some((consumers::target_of(request).ok()?, consumers::control_of(request).ok()?))
}

/// A slot to be made.
#[must_use]
pub fn create_slot(request: &v1::CreateSlotRequest) -> Option<CreateSlot> {
    slots::create_of(request).ok()
}

/// A slot's name, wherever one is given.
#[must_use]
pub fn slot_name(name: &str) -> Option<SlotName> {
    slots::slot_name(name).ok()
}

/// The slot that a reader asks for, if it asks for one, and for what can be had.
#[must_use]
pub fn read(request: &v1::ReadRequest) -> Option<Option<SlotName>> {
    reader::bound_of(request).ok()?;
    reader::slot_of(request).ok()
}

/// A queue's name, wherever one is given.
#[must_use]
pub fn name(name: &str) -> Option<QueueName> {
    queue_name(name).ok()
}
