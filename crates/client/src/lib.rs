//! The Rust SDK of Quorate, a replicated message queue.
//!
//! ```text
//!            ┌─ Producer ── task ── window              one batch after the other, each enters once
//!  Client ───┼─ Consumer ── task ── ledger, settles     leases kept over reconnects, settles in ranges
//!    │       ├─ Worker                                 runs a handler over a consumer's messages
//!    │       └─ PullConsumer, and calls about queues and the cluster
//!  nodes ◄── link                                       finds the leader, goes around dead nodes
//! ```
//!
//! Start with [`Client::connect`]. Publishing: [`Client::producer`]. Consuming: [`Client::consumer`], or
//! [`Client::worker`], which runs a function for each message. To several queues: [`Client::topic`]. Reading without
//! taking: [`Client::reader`]. Programs to read are in `examples/` of the repository, from `hello` to an outbox.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use futures_util::StreamExt;
//! use quorate_client::{Client, Message, QueueSettings};
//!
//! let client = Client::connect(["127.0.0.1:7101", "127.0.0.1:7102"]).await?;
//! client.create_queue("orders", QueueSettings::default()).await?;
//!
//! let producer = client.producer("orders").build().await?;
//! let receipt = producer.publish(Message::new("hello").header("lang", "en")).await?;
//! println!("on disk on a majority, at offset {:?}", receipt.offset);
//!
//! let mut consumer = client.consumer("orders").build().await?;
//! if let Some(delivery) = consumer.next().await {
//!     delivery?.ack().await?;
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod admin;
mod backoff;
mod client;
mod consumer;
mod consumers;
mod error;
mod explain;
mod fault;
mod link;
mod message;
mod nodes;
mod producer;
mod pull_consumer;
mod purge;
mod random;
mod reader;
mod replicas;
mod seek;
mod sharding;
mod slots;
mod topic;
mod worker;

pub use admin::{CreatedQueue, UpdatedQueue};
pub use client::{Client, ClientBuilder};
pub use consumer::{Consumer, ConsumerBuilder, Delivery};
pub use consumers::{ConsumerList, Consumers};
pub use error::{ConnectError, ConsumeError, Error, PublishError, ReadError, Refusal, SettleError};
pub use message::Message;
pub use producer::{Batch, Pending, Producer, ProducerBuilder, Receipt};
pub use pull_consumer::{Held, HeldError, PullConsumer, Received, Settlement};
pub use purge::PurgeBefore;
pub use quorate_proto::frame::{FrameError, HeaderIter, Headers};
pub use quorate_proto::v1::blocked_message::Head as BlockingMessage;
pub use quorate_proto::v1::explain_message_response::Place as MessagePlace;
pub use quorate_proto::v1::{
    AckLevel, BlockedMessage, ChangeReplicasRequest, ConsumerControl, ConsumerDescription,
    DeadMessage, DelayedMessage, DeliveryObstacle, ExplainMessageResponse as MessageExplanation,
    ExplainPlacementResponse as PlacementExplanation, GetStatusResponse as ClusterStatus, GoneBy,
    GoneMessage, KeptMessage, Leader, LeasedMessage, LogPosition, MessageFacts, MessageHolder,
    NodeDescription, Overflow, PlacedNode, PlacedRole, PlacementFinding, PlacementFindingKind,
    PlacementReason, PlacementStep, PreferredLeaderReason, QueueCounts, QueueDescription,
    QueueRecovery, QueueReplication, QueueSettings, ReadPosition, ReadyMessage, ReceiptVerdict,
    Receiver, ReceiverState, RecoverQueuesRequest, RecoverQueuesResponse, Replica, ReplicaPresence,
    ReplicaProgress, ReplicaRole, ReplicaState, Sharding, SlotDescription, SlotState,
    SurvivingReplica, WayGone,
};
pub use quorate_proto::{dead_letter, reason, settings};
pub use reader::{ReadMessage, Reader, ReaderBuilder};
pub use seek::{SeekTo, Sought};
pub use slots::{CreatedSlot, SlotSettings, SlotStart};
pub use topic::{Delivered, Route, Topic, TopicDescription, TopicOutcome};
pub use worker::{Job, JobError, Worker, WorkerError};
