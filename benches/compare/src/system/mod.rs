//! The systems under test behind one interface.
//!
//! ```text
//! Cluster (boxed, cold) ── start, create_queue, leader ──► nodes
//!    ├── Producer (enum, hot) ── send ──► Confirm, a future
//!    └── Consumer (enum, hot) ── receive a batch, ack it, finish
//! ```
//! What is called for each message is an enum, not a boxed trait, so that the harness costs every system
//! the same few nanoseconds.

mod jetstream;
mod quorate;
mod rabbitmq;
mod redis;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::node::{Node, Usage};

/// Nodes of every system.
pub const NODES: usize = 3;

/// A system with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Quorate, default settings.
    Quorate,
    /// JetStream with `sync_interval: always`.
    Jetstream,
    /// JetStream, default settings.
    JetstreamDefault,
    /// RabbitMQ quorum queues, default settings.
    Rabbitmq,
    /// Redis streams, `appendfsync everysec`.
    RedisEverysec,
    /// Redis streams, `appendfsync always`.
    RedisAlways,
}

impl Kind {
    /// All of them, in the order in which they are run.
    pub const ALL: [Kind; 6] = [
        Kind::Quorate,
        Kind::Jetstream,
        Kind::JetstreamDefault,
        Kind::Rabbitmq,
        Kind::RedisEverysec,
        Kind::RedisAlways,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Quorate => "quorate",
            Kind::Jetstream => "jetstream",
            Kind::JetstreamDefault => "jetstream-default",
            Kind::Rabbitmq => "rabbitmq",
            Kind::RedisEverysec => "redis-everysec",
            Kind::RedisAlways => "redis-always",
        }
    }

    /// How long an attempt to use a starting system may take before it is made anew: a JetStream request
    /// that comes before the first election is never answered.
    pub fn attempt_limit(self) -> Duration {
        match self {
            Kind::Jetstream | Kind::JetstreamDefault => Duration::from_millis(300),
            _ => Duration::from_secs(20),
        }
    }

    /// What has happened to a message when its confirmation arrives.
    pub fn confirms_when(self) -> &'static str {
        match self {
            Kind::Quorate => "fdatasync on 2 of 3 nodes",
            Kind::Jetstream => "fsync on 2 of 3 nodes (sync_interval: always)",
            Kind::JetstreamDefault => "page cache of 2 of 3 nodes; fsync every 2 minutes",
            Kind::Rabbitmq => "fsync on 2 of 3 nodes (quorum queue)",
            Kind::RedisEverysec => {
                "memory of the primary and 1 replica (WAIT 1); fsync each second"
            }
            Kind::RedisAlways => {
                "fsync on the primary (appendfsync always), memory of 1 replica (WAIT 1)"
            }
        }
    }
}

/// What starting a system needs to know.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The `quorate` program.
    pub quorate: PathBuf,
    /// The `nats-server` program.
    pub nats_server: PathBuf,
    /// The `redis-server` program.
    pub redis_server: PathBuf,
    /// RabbitMQ's directory of scripts.
    pub rabbitmq_bin: PathBuf,
    /// Whether JetStream keeps acknowledged messages (limits) or removes them (work queue).
    pub keep_acked: bool,
}

/// Where a client connects first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// At the node that leads the queue.
    Leader,
    /// At a node that does not.
    Follower,
}

/// A running cluster; its nodes are killed when it is dropped.
pub trait Cluster: Send + Sync {
    /// The processes that are measured.
    fn nodes(&mut self) -> &mut Vec<Node>;
    /// Makes a queue with three replicas; done once it takes messages.
    fn create_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Index of the node that leads a queue.
    fn leader<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<usize>>;
    /// A producer on a connection of its own, with at most `window` messages unconfirmed.
    fn producer<'a>(
        &'a self,
        queue: &'a str,
        window: usize,
        entry: Entry,
    ) -> BoxFuture<'a, Result<Producer>>;
    /// A consumer on a connection of its own, with at most `prefetch` messages unacknowledged.
    fn consumer<'a>(&'a self, queue: &'a str, prefetch: u16) -> BoxFuture<'a, Result<Consumer>>;
    /// Fails if the cluster is not one of three nodes; not part of any measured time.
    fn verify(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// Starts a system in an empty directory; returns as soon as its processes run.
pub fn start(kind: Kind, setup: &Setup, directory: &Path) -> Result<Box<dyn Cluster>> {
    Ok(match kind {
        Kind::Quorate => Box::new(quorate::Nodes::start(setup, directory)?),
        Kind::Jetstream => Box::new(jetstream::Nodes::start(setup, directory, true)?),
        Kind::JetstreamDefault => Box::new(jetstream::Nodes::start(setup, directory, false)?),
        Kind::Rabbitmq => Box::new(rabbitmq::Nodes::start(setup, directory)?),
        Kind::RedisEverysec => Box::new(redis::Nodes::start(setup, directory, "everysec")?),
        Kind::RedisAlways => Box::new(redis::Nodes::start(setup, directory, "always")?),
    })
}

/// What the cluster's nodes have used.
pub fn usage(cluster: &mut dyn Cluster) -> Result<Usage> {
    Usage::of(cluster.nodes())
}

/// Publishes to one queue.
#[derive(Debug)]
pub enum Producer {
    /// See [`quorate`].
    Quorate(quorate::Producer),
    /// See [`jetstream`].
    JetStream(jetstream::Producer),
    /// See [`rabbitmq`].
    RabbitMq(rabbitmq::Producer),
    /// See [`redis`].
    Redis(redis::Producer),
}

impl Producer {
    /// Hands a message to the client library.
    pub async fn send(&mut self, body: Bytes) -> Result<Confirm> {
        match self {
            Producer::Quorate(producer) => producer.send(body).await,
            Producer::JetStream(producer) => producer.send(body).await,
            Producer::RabbitMq(producer) => producer.send(body).await,
            Producer::Redis(producer) => producer.send(body),
        }
    }
}

/// Resolves when the system has confirmed a message.
pub enum Confirm {
    /// A receipt.
    Quorate(quorate_client::Pending),
    /// A future that its library boxes, or a failure known at once.
    Boxed(BoxFuture<'static, Result<()>>),
    /// A publisher confirm, and what tells its producer of a refusal.
    RabbitMq(lapin::PublisherConfirm, Arc<AtomicBool>),
    /// The answer of a pipeline that ends with WAIT.
    Redis(tokio::sync::oneshot::Receiver<Result<(), String>>),
}

impl Future for Confirm {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut *self {
            Confirm::Quorate(pending) => {
                Pin::new(pending).poll(context).map(|outcome| Ok(outcome.map(drop)?))
            }
            Confirm::Boxed(future) => future.as_mut().poll(context),
            Confirm::RabbitMq(confirm, refused) => {
                let outcome = std::task::ready!(Pin::new(confirm).poll(context))?;
                if outcome == lapin::Confirmation::Ack(None) {
                    return Poll::Ready(Ok(()));
                }
                refused.store(true, Ordering::Relaxed);
                Poll::Ready(Err(anyhow::anyhow!("not confirmed: {outcome:?}")))
            }
            Confirm::Redis(answer) => Pin::new(answer).poll(context).map(|answer| match answer {
                Ok(outcome) => outcome.map_err(anyhow::Error::msg),
                Err(_) => anyhow::bail!("the producer has ended"),
            }),
        }
    }
}

/// Takes messages from one queue.
pub enum Consumer {
    /// See [`quorate`].
    Quorate(quorate::Consumer),
    /// See [`jetstream`].
    JetStream(Box<jetstream::Consumer>),
    /// See [`rabbitmq`].
    RabbitMq(Box<rabbitmq::Consumer>),
    /// See [`redis`].
    Redis(redis::Consumer),
}

impl Consumer {
    /// Waits for a message, and adds it and those that are there already.
    pub async fn receive(&mut self, bodies: &mut Vec<Bytes>) -> Result<()> {
        match self {
            Consumer::Quorate(consumer) => consumer.receive(bodies).await,
            Consumer::JetStream(consumer) => consumer.receive(bodies).await,
            Consumer::RabbitMq(consumer) => consumer.receive(bodies).await,
            Consumer::Redis(consumer) => consumer.receive(bodies).await,
        }
    }

    /// Acknowledges what was received, in the way that costs its system least.
    pub async fn ack(&mut self) -> Result<()> {
        match self {
            Consumer::Quorate(consumer) => consumer.ack(),
            Consumer::JetStream(consumer) => consumer.ack().await?,
            Consumer::RabbitMq(consumer) => consumer.ack().await?,
            Consumer::Redis(consumer) => consumer.ack(),
        }
        Ok(())
    }

    /// Acknowledges the rest and waits until the system has taken every acknowledgement.
    pub async fn finish(self) -> Result<()> {
        match self {
            Consumer::Quorate(consumer) => consumer.finish().await,
            Consumer::JetStream(consumer) => consumer.finish().await,
            Consumer::RabbitMq(consumer) => consumer.finish().await,
            Consumer::Redis(consumer) => consumer.finish().await,
        }
    }
}
