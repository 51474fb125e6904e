//! Redis streams: a primary and two replicas with append-only files.
//!
//! A publish is XADD, confirmed by `WAIT 1`. WAIT holds its connection up, so messages go in pipelines of
//! half a window that end with a WAIT; two are under way, so that the server always has the next one.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use redis::{AsyncConnectionConfig, Client, Pipeline};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Cluster, Confirm, Entry, NODES, Setup};
use crate::node::{Node, free_ports};

const GROUP: &str = "compare";
/// A replica that has not answered by then fails the publish.
const WAIT_MS: u32 = 5_000;

/// The cluster.
pub struct Nodes {
    nodes: Vec<Node>,
    port: u16,
}

impl Nodes {
    pub fn start(setup: &Setup, directory: &Path, fsync: &str) -> Result<Nodes> {
        let ports = free_ports(NODES)?;
        let mut nodes = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let name = format!("node-{}", index + 1);
            let data = directory.join(&name);
            std::fs::create_dir(&data)?;
            let mut command = Command::new(&setup.redis_server);
            command
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .arg("--dir")
                .arg(data);
            command.args(["--appendonly", "yes", "--appendfsync", fsync, "--save", ""]);
            command.args(["--repl-diskless-sync-delay", "0"]);
            if index > 0 {
                command.args(["--replicaof", &format!("127.0.0.1 {}", ports[0])]);
            }
            nodes.push(Node::spawn(&name, directory, &mut command)?);
        }
        Ok(Nodes { nodes, port: ports[0] })
    }

    async fn connect(&self) -> Result<MultiplexedConnection> {
        let client = Client::open(format!("redis://127.0.0.1:{}/", self.port))?;
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(Some(std::time::Duration::from_secs(2)));
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

impl Cluster for Nodes {
    fn nodes(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }

    fn create_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut connection = self.connect().await?;
            let mut create = redis::cmd("XGROUP");
            create.arg("CREATE").arg(queue).arg(GROUP).arg("0").arg("MKSTREAM");
            let created: Result<(), _> = create.query_async(&mut connection).await;
            match created {
                Err(error) if error.code() == Some("BUSYGROUP") => {}
                other => other?,
            }
            let mut wait = redis::cmd("WAIT");
            wait.arg(1).arg(100);
            match wait.query_async::<usize>(&mut connection).await? {
                0 => bail!("no replica has answered"),
                _ => Ok(()),
            }
        })
    }

    fn leader<'a>(&'a self, _queue: &'a str) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async { Ok(0) })
    }

    fn producer<'a>(
        &'a self,
        queue: &'a str,
        window: usize,
        _entry: Entry,
    ) -> BoxFuture<'a, Result<super::Producer>> {
        Box::pin(async move {
            let connection = self.connect().await?;
            let (messages, taken) = mpsc::unbounded_channel();
            let most = window.div_ceil(2).min(1024);
            tokio::spawn(publish(connection, queue.to_owned(), most, taken));
            Ok(super::Producer::Redis(Producer(messages)))
        })
    }

    fn consumer<'a>(
        &'a self,
        queue: &'a str,
        prefetch: u16,
    ) -> BoxFuture<'a, Result<super::Consumer>> {
        Box::pin(async move {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("consumer-{}", NEXT.fetch_add(1, Ordering::Relaxed));
            let connection = self.connect().await?;
            let queue = queue.to_owned();
            Ok(super::Consumer::Redis(Consumer {
                connection,
                queue,
                name,
                prefetch,
                held: Vec::new(),
                acked: Vec::new(),
            }))
        })
    }

    fn verify(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let mut wait = redis::cmd("WAIT");
            wait.arg(NODES - 1).arg(5_000);
            // A replica counts once it has taken a write of this connection.
            let mut connection = self.connect().await?;
            let _: () = redis::cmd("SET").arg("v").arg(1).query_async(&mut connection).await?;
            match wait.query_async::<usize>(&mut connection).await? {
                replicas if replicas + 1 == NODES => Ok(()),
                replicas => bail!("{replicas} replicas"),
            }
        })
    }
}

type Queued = (Bytes, oneshot::Sender<Result<(), String>>);

/// Hands messages to the task that makes pipelines of them.
#[derive(Debug)]
pub struct Producer(mpsc::UnboundedSender<Queued>);

impl Producer {
    pub fn send(&mut self, body: Bytes) -> Result<Confirm> {
        let (waiter, outcome) = oneshot::channel();
        if self.0.send((body, waiter)).is_err() {
            bail!("the producer has ended");
        }
        Ok(Confirm::Redis(outcome))
    }
}

async fn publish(
    connection: MultiplexedConnection,
    queue: String,
    most: usize,
    mut taken: mpsc::UnboundedReceiver<Queued>,
) {
    let under_way = Arc::new(Semaphore::new(2));
    loop {
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
        let mut batch: Vec<Queued> = Vec::with_capacity(most);
        if taken.recv_many(&mut batch, most).await == 0 {
            return;
        }
        let mut pipeline = Pipeline::with_capacity(batch.len() + 1);
        for (body, _) in &batch {
            pipeline.cmd("XADD").arg(&queue).arg("*").arg("m").arg(body.as_ref()).ignore();
        }
        pipeline.cmd("WAIT").arg(1).arg(WAIT_MS);
        let mut connection = connection.clone();
        tokio::spawn(async move {
            let outcome = match pipeline.query_async::<(usize,)>(&mut connection).await {
                Ok((0,)) => Err("no replica has confirmed".to_owned()),
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            drop(permit);
            for (_, waiter) in batch {
                let _ = waiter.send(outcome.clone());
            }
        });
    }
}

/// A member of a consumer group; acknowledgements of a batch are one XACK, sent with the next read.
pub struct Consumer {
    connection: MultiplexedConnection,
    queue: String,
    name: String,
    prefetch: u16,
    held: Vec<String>,
    acked: Vec<String>,
}

impl Consumer {
    pub async fn receive(&mut self, bodies: &mut Vec<Bytes>) -> Result<()> {
        let mut pipeline = Pipeline::with_capacity(2);
        if !self.acked.is_empty() {
            pipeline.cmd("XACK").arg(&self.queue).arg(GROUP).arg(&self.acked).ignore();
        }
        pipeline.cmd("XREADGROUP").arg("GROUP").arg(GROUP).arg(&self.name);
        pipeline.arg("COUNT").arg(self.prefetch).arg("BLOCK").arg(0);
        pipeline.arg("STREAMS").arg(&self.queue).arg(">");
        let (reply,): (StreamReadReply,) = pipeline.query_async(&mut self.connection).await?;
        self.acked.clear();
        for mut entry in reply.keys.into_iter().flat_map(|key| key.ids) {
            if let Some(redis::Value::BulkString(body)) = entry.map.remove("m") {
                bodies.push(body.into());
            }
            self.held.push(entry.id);
        }
        Ok(())
    }

    pub fn ack(&mut self) {
        self.acked.append(&mut self.held);
    }

    pub async fn finish(mut self) -> Result<()> {
        self.ack();
        if self.acked.is_empty() {
            return Ok(());
        }
        let mut ack = redis::cmd("XACK");
        ack.arg(&self.queue).arg(GROUP).arg(&self.acked);
        let _: usize = ack.query_async(&mut self.connection).await?;
        Ok(())
    }
}
