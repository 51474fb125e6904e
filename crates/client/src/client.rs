//! [`Client`]: the way in. It knows the nodes; producers and consumers are made from it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::consumer::ConsumerBuilder;
use crate::error::ConnectError;
use crate::nodes::{self, Nodes};
use crate::producer::ProducerBuilder;
use crate::pull_consumer::PullConsumer;
use crate::reader::ReaderBuilder;
use crate::worker::{Job, JobError, Worker};

/// A connection to a cluster. Cloning is cheap: clones share the connections.
///
/// Any node accepts any call, and nodes that die are gone around, so one address is enough to begin with;
/// more make the beginning itself safe.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate_client::Client;
/// let client = Client::connect(["127.0.0.1:7101", "127.0.0.1:7102"]).await?;
/// println!("{} nodes", client.status().await?.nodes.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) nodes: Arc<Nodes>,
}

impl Client {
    /// Connects to the first of the addresses that answers, and learns the other nodes from it. Addresses
    /// are `host:port` or `http://host:port`.
    ///
    /// # Errors
    /// When an address makes no sense, or none answers: each is tried once.
    pub async fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, ConnectError> {
        Self::builder().addresses(addresses).connect().await
    }

    /// A client with other settings than the usual ones.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), quorate_client::ConnectError> {
    /// use std::time::Duration;
    /// let client = quorate_client::Client::builder()
    ///     .addresses(["queue.example:7100"])
    ///     .connect_timeout(Duration::from_millis(500))
    ///     .request_timeout(Duration::from_secs(5))
    ///     .connect()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Begins a producer for a queue.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let producer = client.producer("orders").build().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn producer(&self, queue: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), queue.into())
    }

    /// Begins a reader of a queue.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) {
    /// let reader = client.reader("orders").follow().build();
    /// # }
    /// ```
    pub fn reader(&self, queue: impl Into<String>) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), queue.into())
    }

    /// A worker that runs `handler` over the messages of a queue.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::WorkerError> {
    /// use quorate_client::{Job, JobError};
    /// let handle = |job: Job| async move {
    ///     println!("{:?}", job.body);
    ///     Ok::<(), JobError>(())
    /// };
    /// client.worker("orders", handle).concurrency(8).run().await
    /// # }
    /// ```
    pub fn worker<H, F, E>(&self, queue: impl Into<String>, handler: H) -> Worker<H>
    where
        H: Fn(Job) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<JobError> + Send + 'static,
    {
        Worker::new(self, queue.into(), handler)
    }

    /// Takes messages from a queue a batch at a time, without a stream.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use std::time::Duration;
    /// let messages = client.pull_consumer("orders").receive(10, Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn pull_consumer(&self, queue: impl Into<String>) -> PullConsumer {
        PullConsumer::new(self.clone(), queue.into())
    }

    /// Begins a consumer of a queue.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let consumer = client.consumer("orders").prefetch(32).build().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn consumer(&self, queue: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), queue.into())
    }
}

/// The longest limit: later than any that is meant, and not beyond what a clock can tell.
pub(crate) const LIMIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Settings of a [`Client`]; made by [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `connect`"]
pub struct ClientBuilder {
    addresses: Vec<String>,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
        }
    }
}

impl ClientBuilder {
    /// Adds addresses of nodes, `host:port` or `http://host:port`. At least one is needed.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.addresses.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// How long one node may take to accept a connection, a year at most; 2 s unless set.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit.min(LIMIT_MAX);
        self
    }

    /// How long a call, retries at other nodes included, may take, a year at most; 10 s unless set. Opening a producer or
    /// consumer counts as a call; publishes have a deadline of their own.
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit.min(LIMIT_MAX);
        self
    }

    /// Connects, as [`Client::connect`].
    ///
    /// # Errors
    /// See [`Client::connect`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let mut seeds = Vec::new();
        for address in self.addresses {
            match Address::parse(&address) {
                Ok(seed) if seeds.contains(&seed) => {}
                Ok(seed) => seeds.push(seed),
                Err(why) => return Err(ConnectError::InvalidAddress { address, why }),
            }
        }
        if seeds.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let nodes = Arc::new(Nodes::new(seeds.clone(), self.connect_timeout, self.request_timeout));
        let limit = self.connect_timeout.max(self.request_timeout / 4);
        let mut tried = Vec::new();
        for seed in seeds {
            match nodes.attempt(&seed, limit, &nodes::get_status).await {
                Ok(status) => {
                    nodes.learn(status.nodes.iter().map(|node| &node.address));
                    return Ok(Client { nodes });
                }
                Err(fault) => {
                    nodes.failed(&seed, &fault);
                    tried.push((seed.to_string(), fault.message()));
                }
            }
        }
        Err(ConnectError::Unreachable { tried })
    }
}
