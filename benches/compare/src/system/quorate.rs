//! Quorate: three `quorate server` processes, default settings.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use quorate_client::{Client, Delivery, Message, QueueSettings};

use super::{Cluster, Confirm, Entry, NODES, Setup};
use crate::node::{Node, free_ports};

/// The cluster.
pub struct Nodes {
    nodes: Vec<Node>,
    addresses: Vec<String>,
}

impl Nodes {
    pub fn start(setup: &Setup, directory: &Path) -> Result<Nodes> {
        let addresses: Vec<String> =
            free_ports(NODES)?.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let peers: Vec<String> =
            addresses.iter().zip(1..).map(|(address, id)| format!("{id}={address}")).collect();
        let mut nodes = Vec::new();
        for (address, id) in addresses.iter().zip(1..) {
            let name = format!("node-{id}");
            let mut command = Command::new(&setup.quorate);
            command.args(["server", "--exit-with-stdin", "--node-id", &id.to_string()]);
            command.args(["--listen", address, "--peer", &peers.join(",")]);
            command.arg("--data").arg(directory.join(&name));
            let variables = std::env::vars().map(|(key, _)| key);
            for key in variables.filter(|key| key.starts_with("QUORATE_")) {
                command.env_remove(key);
            }
            nodes.push(Node::spawn(&name, directory, &mut command)?);
        }
        Ok(Nodes { nodes, addresses })
    }

    async fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.addresses.clone()).await?)
    }

    async fn entry(&self, queue: &str, entry: Entry) -> Result<Client> {
        let leader = self.leader(queue).await?;
        let index = match entry {
            Entry::Leader => leader,
            Entry::Follower => (leader + 1) % NODES,
        };
        Ok(Client::connect([self.addresses[index].clone()]).await?)
    }
}

impl Cluster for Nodes {
    fn nodes(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }

    fn create_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let settings = QueueSettings { replicas: NODES as u32, ..<_>::default() };
            self.client().await?.create_queue(queue, settings).await?;
            Ok(())
        })
    }

    fn leader<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async move {
            let leader = self.client().await?.locate(queue).await?;
            usize::try_from(leader.node_id).ok().and_then(|id| id.checked_sub(1)).context("an id")
        })
    }

    fn producer<'a>(
        &'a self,
        queue: &'a str,
        window: usize,
        entry: Entry,
    ) -> BoxFuture<'a, Result<super::Producer>> {
        Box::pin(async move {
            let client = self.entry(queue, entry).await?;
            let producer = client.producer(queue).in_flight(window).build().await?;
            Ok(super::Producer::Quorate(Producer(producer)))
        })
    }

    fn consumer<'a>(
        &'a self,
        queue: &'a str,
        prefetch: u16,
    ) -> BoxFuture<'a, Result<super::Consumer>> {
        Box::pin(async move {
            let client = self.client().await?;
            let consumer = client.consumer(queue).prefetch(prefetch.into()).build().await?;
            let most = prefetch.into();
            Ok(super::Consumer::Quorate(Consumer { consumer, held: Vec::new(), most }))
        })
    }

    fn verify(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let status = self.client().await?.status().await?;
            match status.nodes.iter().filter(|node| node.reachable).count() {
                NODES => Ok(()),
                other => bail!("{other} nodes are reachable"),
            }
        })
    }
}

/// The SDK batches by itself: what is sent while a batch is under way makes the next.
#[derive(Debug)]
pub struct Producer(quorate_client::Producer);

impl Producer {
    pub async fn send(&mut self, body: Bytes) -> Result<Confirm> {
        Ok(Confirm::Quorate(self.0.send(Message::new(body)).await?))
    }
}

/// `ack_later` lets the SDK settle in ranges; `close` waits for them.
pub struct Consumer {
    consumer: quorate_client::Consumer,
    held: Vec<Delivery>,
    most: usize,
}

impl Consumer {
    pub async fn receive(&mut self, bodies: &mut Vec<Bytes>) -> Result<()> {
        let batch = self.consumer.next_batch(self.most).await;
        if batch.is_empty() {
            bail!("the consumer has ended");
        }
        for delivery in batch {
            let delivery = delivery?;
            bodies.push(delivery.body.clone());
            self.held.push(delivery);
        }
        Ok(())
    }

    pub fn ack(&mut self) {
        self.held.drain(..).for_each(Delivery::ack_later);
    }

    pub async fn finish(mut self) -> Result<()> {
        self.ack();
        self.consumer.close().await;
        Ok(())
    }
}
