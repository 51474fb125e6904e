//! RabbitMQ: three brokers and an epmd of our own, quorum queues.
//!
//! The brokers find together by `classic_config` without the random delay that it has for large clusters.
//! Clients connect to the node that leads the queue, which is the one at which it was declared.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::{Cluster, Confirm, Entry, NODES, Setup};
use crate::node::{Node, free_ports};

/// How long a connection may take before the next node is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// A channel that was refused a message is replaced, but not before it is this old.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

/// The cluster.
pub struct Nodes {
    nodes: Vec<Node>,
    _epmd: Node,
    ports: Vec<u16>,
    /// Where each queue was declared.
    leaders: Mutex<HashMap<String, usize>>,
    control: PathBuf,
    environment: Vec<(String, String)>,
}

impl Nodes {
    pub fn start(setup: &Setup, directory: &Path) -> Result<Nodes> {
        let ports = free_ports(2 * NODES + 1)?;
        let (epmd_port, ports) = (ports[0], &ports[1..]);
        let names: Vec<String> = (1..=NODES).map(|id| format!("compare-{id}@localhost")).collect();
        let environment = vec![
            // Erlang reads its cookie there.
            ("HOME".to_owned(), directory.display().to_string()),
            ("ERL_EPMD_PORT".to_owned(), epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS".to_owned(), "127.0.0.1".to_owned()),
            ("RABBITMQ_CONF_ENV_FILE".to_owned(), "/dev/null".to_owned()),
        ];
        write_cookie(directory)?;
        let mut config = String::from(
            "cluster_formation.peer_discovery_backend = classic_config\n\
             cluster_formation.randomized_startup_delay_range.min = 0\n\
             cluster_formation.randomized_startup_delay_range.max = 0\n",
        );
        for (name, id) in names.iter().zip(1..) {
            config.push_str(&format!("cluster_formation.classic_config.nodes.{id} = {name}\n"));
        }
        std::fs::write(directory.join("rabbitmq.conf"), config).context("write rabbitmq.conf")?;
        std::fs::write(directory.join("plugins"), "[].\n").context("write the list of plugins")?;
        let mut epmd = Command::new("epmd");
        epmd.args(["-port", &epmd_port.to_string()]).envs(environment.clone());
        let epmd = Node::spawn("epmd", directory, &mut epmd)?;
        let mut nodes = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let home = directory.join(format!("node-{}", index + 1));
            let mut command = Command::new(setup.rabbitmq_bin.join("rabbitmq-server"));
            command.envs(environment.clone());
            command.env("RABBITMQ_NODENAME", name);
            command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
            command.env("RABBITMQ_NODE_PORT", ports[index].to_string());
            command.env("RABBITMQ_DIST_PORT", ports[NODES + index].to_string());
            command.env("RABBITMQ_MNESIA_BASE", home.join("mnesia"));
            command.env("RABBITMQ_LOG_BASE", home.join("log"));
            command.env("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq.conf"));
            command.env("RABBITMQ_ADVANCED_CONFIG_FILE", "/dev/null");
            command.env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("plugins"));
            command.env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
            );
            // The script then becomes the broker's process instead of waiting for it.
            command.env("RABBITMQ_ALLOW_INPUT", "true");
            let name = format!("node-{}", index + 1);
            nodes.push(Node::spawn(&name, directory, &mut command)?);
        }
        Ok(Nodes {
            nodes,
            _epmd: epmd,
            ports: ports[..NODES].to_vec(),
            leaders: Mutex::default(),
            control: setup.rabbitmq_bin.join("rabbitmqctl"),
            environment,
        })
    }

    /// Queues are spread over the nodes by the number that ends their names.
    fn home(&self, queue: &str) -> usize {
        let digits = queue.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse::<usize>().unwrap_or(0) % NODES
    }

    fn declared_at(&self, queue: &str) -> Result<usize> {
        let leaders = self.leaders.lock().expect("nobody panics with it");
        leaders.get(queue).copied().context("no such queue")
    }
}

fn write_cookie(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let cookie = directory.join(".erlang.cookie");
    std::fs::write(&cookie, "QUORATECOMPARE").context("write the Erlang cookie")?;
    std::fs::set_permissions(&cookie, std::fs::Permissions::from_mode(0o400))
        .context("protect the Erlang cookie")
}

async fn open(port: u16) -> Result<(Connection, Channel)> {
    let opening = async {
        let uri = format!("amqp://127.0.0.1:{port}/%2f");
        let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        anyhow::Ok((connection, channel))
    };
    tokio::time::timeout(CONNECT_LIMIT, opening).await.context("connect in time")?
}

impl Cluster for Nodes {
    fn nodes(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }

    fn create_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let home = self.home(queue);
            if self.leaders.lock().expect("nobody panics with it").is_empty() {
                // Members are chosen among the nodes that run: all must have come up.
                for port in &self.ports {
                    open(*port).await?;
                }
            }
            let (_connection, channel) = open(self.ports[home]).await?;
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            let size = AMQPValue::LongInt(NODES as i32);
            arguments.insert("x-quorum-initial-group-size".into(), size);
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), options, arguments).await?;
            let mut leaders = self.leaders.lock().expect("nobody panics with it");
            leaders.insert(queue.to_owned(), home);
            Ok(())
        })
    }

    fn leader<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async move { self.declared_at(queue) })
    }

    fn producer<'a>(
        &'a self,
        queue: &'a str,
        _window: usize,
        entry: Entry,
    ) -> BoxFuture<'a, Result<super::Producer>> {
        Box::pin(async move {
            let leader = self.declared_at(queue)?;
            let next = if entry == Entry::Leader { leader } else { leader + 1 };
            let mut producer = Producer {
                queue: queue.to_owned(),
                ports: self.ports.clone(),
                next,
                open: None,
                opened_at: Instant::now(),
                refused: Arc::default(),
            };
            producer.connect().await?;
            Ok(super::Producer::RabbitMq(producer))
        })
    }

    fn consumer<'a>(
        &'a self,
        queue: &'a str,
        prefetch: u16,
    ) -> BoxFuture<'a, Result<super::Consumer>> {
        Box::pin(async move {
            let (connection, channel) = open(self.ports[self.declared_at(queue)?]).await?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            let deliveries =
                channel.basic_consume(queue.into(), "".into(), options, <_>::default()).await?;
            Ok(super::Consumer::RabbitMq(Box::new(Consumer {
                _connection: connection,
                channel,
                deliveries,
                last: None,
                most: prefetch.into(),
            })))
        })
    }

    fn verify(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let mut command = tokio::process::Command::new(&self.control);
            command.args(["-n", "compare-1@localhost", "eval"]).envs(self.environment.clone());
            command.arg("length(rabbit_nodes:all_running()).").kill_on_drop(true);
            let output = command.output().await.context("ask rabbitmqctl")?;
            let text = String::from_utf8_lossy(&output.stdout);
            match text.trim().parse::<usize>() {
                Ok(NODES) => Ok(()),
                _ => bail!("not a cluster of three: {}", text.trim()),
            }
        })
    }
}

/// Publisher confirms on one channel. The client library does not go on to another node by itself, so
/// the producer does. It also replaces a channel that refuses: one whose first publish finds the queue
/// without a leader goes on refusing when there is one again.
#[derive(Debug)]
pub struct Producer {
    queue: String,
    ports: Vec<u16>,
    /// Node of the next attempt to connect.
    next: usize,
    open: Option<(Connection, Channel)>,
    opened_at: Instant,
    /// Set by a confirmation of this channel that is a refusal.
    refused: Arc<AtomicBool>,
}

impl Producer {
    async fn connect(&mut self) -> Result<()> {
        let port = self.ports[self.next % self.ports.len()];
        self.next += 1;
        let (connection, channel) = open(port).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        self.open = Some((connection, channel));
        self.opened_at = Instant::now();
        self.refused = Arc::default();
        Ok(())
    }

    pub async fn send(&mut self, body: Bytes) -> Result<Confirm> {
        let is_refusing = self.refused.load(Ordering::Relaxed);
        if self.open.is_none() || is_refusing && self.opened_at.elapsed() >= REOPEN_AFTER {
            self.connect().await?;
        }
        let (_, channel) = self.open.as_ref().context("not connected")?;
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default().with_delivery_mode(2);
        let queue = self.queue.as_str().into();
        let sent = channel.basic_publish("".into(), queue, options, &body, properties).await;
        if sent.is_err() {
            self.open = None;
        }
        Ok(Confirm::RabbitMq(sent?, Arc::clone(&self.refused)))
    }
}

/// One acknowledgement for all messages received together.
pub struct Consumer {
    _connection: Connection,
    channel: Channel,
    deliveries: lapin::Consumer,
    last: Option<lapin::message::Delivery>,
    most: usize,
}

impl Consumer {
    pub async fn receive(&mut self, bodies: &mut Vec<Bytes>) -> Result<()> {
        let mut next = self.deliveries.next().await;
        while let Some(delivery) = next {
            let mut delivery = delivery?;
            bodies.push(Bytes::from(std::mem::take(&mut delivery.data)));
            self.last = Some(delivery);
            if bodies.len() >= self.most {
                return Ok(());
            }
            match self.deliveries.next().now_or_never() {
                Some(more) => next = more,
                None => return Ok(()),
            }
        }
        bail!("the consumer has ended")
    }

    pub async fn ack(&mut self) -> Result<()> {
        if let Some(last) = self.last.take() {
            last.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
        Ok(())
    }

    pub async fn finish(mut self) -> Result<()> {
        self.ack().await?;
        // Answered once the acknowledgements before it have been taken.
        Ok(self.channel.close(200, "done".into()).await?)
    }
}
