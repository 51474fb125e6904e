//! NATS JetStream: three `nats-server` processes, streams with three replicas on files.
//!
//! Clients connect to the node that leads the stream, which spares each message a hop; a NATS client does
//! not find it by itself, so this is the best that an application could do.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context as JetStream};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};

use super::{Cluster, Confirm, Entry, NODES, Setup};
use crate::node::{Node, free_ports};

/// How long a publish may stay without an answer before it counts as failed.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// The cluster.
pub struct Nodes {
    nodes: Vec<Node>,
    addresses: Vec<String>,
    retention: RetentionPolicy,
}

impl Nodes {
    pub fn start(setup: &Setup, directory: &Path, sync_always: bool) -> Result<Nodes> {
        let ports = free_ports(2 * NODES)?;
        let (client_ports, route_ports) = ports.split_at(NODES);
        let routes: Vec<String> =
            route_ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let sync = if sync_always { "sync_interval: always" } else { "" };
        let mut nodes = Vec::new();
        for index in 0..NODES {
            let name = format!("node-{}", index + 1);
            let store = directory.join(&name);
            let config = format!(
                "server_name: {name}\nlisten: 127.0.0.1:{}\n\
                 jetstream {{ store_dir: \"{}\"\n {sync} }}\n\
                 cluster {{ name: compare\n listen: 127.0.0.1:{}\n routes: [{}] }}\n",
                client_ports[index],
                store.display(),
                route_ports[index],
                routes.join(", "),
            );
            let file = directory.join(format!("{name}.conf"));
            std::fs::write(&file, config).context("write a node's settings")?;
            let mut command = Command::new(&setup.nats_server);
            command.arg("--config").arg(file);
            nodes.push(Node::spawn(&name, directory, &mut command)?);
        }
        let addresses = client_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let retention = match setup.keep_acked {
            true => RetentionPolicy::Limits,
            false => RetentionPolicy::WorkQueue,
        };
        Ok(Nodes { nodes, addresses, retention })
    }

    /// Connects to the node at `first`; the others are known for later.
    async fn connect(&self, first: usize, window: usize) -> Result<JetStream> {
        let addresses: Vec<async_nats::ServerAddr> = (first..first + NODES)
            .map(|index| self.addresses[index % NODES].parse())
            .collect::<Result<_, _>>()?;
        let options = ConnectOptions::new()
            .retain_servers_order()
            .client_capacity(2 * window.max(1024))
            .reconnect_delay_callback(|_| Duration::from_millis(20))
            .connection_timeout(Duration::from_secs(2));
        let client = options.connect(addresses).await?;
        // The harness keeps the window; the library's own limit stays out of the way.
        Ok(ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .max_ack_inflight(2 * window.max(1024))
            .build(client))
    }
}

impl Cluster for Nodes {
    fn nodes(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }

    fn create_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let config = Config {
                name: queue.to_owned(),
                subjects: vec![queue.to_owned()],
                num_replicas: NODES,
                storage: StorageType::File,
                retention: self.retention,
                ..Config::default()
            };
            self.connect(0, 1).await?.create_stream(config).await?;
            Ok(())
        })
    }

    fn leader<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async move {
            let stream = self.connect(0, 1).await?.get_stream(queue).await?;
            let cluster = stream.cached_info().cluster.as_ref().context("no cluster")?;
            let leader = cluster.leader.as_deref().context("the stream has no leader")?;
            let id = leader.strip_prefix("node-").and_then(|id| id.parse::<usize>().ok());
            Ok(id.context("a leader's name")? - 1)
        })
    }

    fn producer<'a>(
        &'a self,
        queue: &'a str,
        window: usize,
        entry: Entry,
    ) -> BoxFuture<'a, Result<super::Producer>> {
        Box::pin(async move {
            let leader = self.leader(queue).await?;
            let first = if entry == Entry::Leader { leader } else { leader + 1 };
            let context = self.connect(first, window).await?;
            Ok(super::Producer::JetStream(Producer { context, subject: queue.to_owned().into() }))
        })
    }

    fn consumer<'a>(
        &'a self,
        queue: &'a str,
        prefetch: u16,
    ) -> BoxFuture<'a, Result<super::Consumer>> {
        Box::pin(async move {
            let leader = self.leader(queue).await?;
            let stream = self.connect(leader, 1).await?.get_stream(queue).await?;
            let config = pull::Config {
                durable_name: Some("compare".to_owned()),
                ack_policy: AckPolicy::Explicit,
                max_ack_pending: prefetch.into(),
                ..pull::Config::default()
            };
            let consumer = stream.get_or_create_consumer("compare", config).await?;
            let pull = consumer.stream().max_messages_per_batch(prefetch.into());
            let messages = pull.messages().await?;
            let most = prefetch.into();
            let consumer = Consumer { messages, held: Vec::new(), most };
            Ok(super::Consumer::JetStream(Box::new(consumer)))
        })
    }

    fn verify(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let name = "verify";
            self.create_queue(name).await?;
            let context = self.connect(0, 1).await?;
            let stream = context.get_stream(name).await?;
            let cluster = stream.cached_info().cluster.as_ref().context("no cluster")?;
            if cluster.replicas.len() + 1 != NODES {
                bail!("a stream has {} replicas", cluster.replicas.len() + 1);
            }
            context.delete_stream(name).await?;
            Ok(())
        })
    }
}

/// Publishes without waiting; the acknowledgement is a future of the library.
#[derive(Debug)]
pub struct Producer {
    context: JetStream,
    subject: async_nats::Subject,
}

impl Producer {
    pub async fn send(&mut self, body: Bytes) -> Result<Confirm> {
        let ack = self.context.publish(self.subject.clone(), body).await?;
        Ok(Confirm::Boxed(Box::pin(async move {
            ack.await?;
            Ok(())
        })))
    }
}

/// A durable pull consumer. A work queue demands explicit acknowledgements, one a message.
pub struct Consumer {
    messages: pull::Stream,
    held: Vec<jetstream::Message>,
    most: usize,
}

impl Consumer {
    pub async fn receive(&mut self, bodies: &mut Vec<Bytes>) -> Result<()> {
        let mut next = self.messages.next().await;
        while let Some(message) = next {
            let message = message?;
            bodies.push(message.payload.clone());
            self.held.push(message);
            if bodies.len() >= self.most {
                return Ok(());
            }
            match self.messages.next().now_or_never() {
                Some(more) => next = more,
                None => return Ok(()),
            }
        }
        bail!("the consumer has ended")
    }

    pub async fn ack(&mut self) -> Result<()> {
        for message in self.held.drain(..) {
            message.ack().await.map_err(anyhow::Error::from_boxed)?;
        }
        Ok(())
    }

    pub async fn finish(mut self) -> Result<()> {
        let last = self.held.pop();
        self.ack().await?;
        if let Some(last) = last {
            last.double_ack().await.map_err(anyhow::Error::from_boxed)?;
        }
        Ok(())
    }
}
