//! A cluster of fake nodes in this process, over real gRPC: what they do is scripted by the test.
//!
//! Nodes share one queue that deduplicates as the real one does. A node runs on a runtime of its own, so
//! that killing it breaks its connections as the death of a process does.

mod admin;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::poll_fn;
use quorate_proto::v1::admin_service_server::AdminServiceServer;
use quorate_proto::v1::cluster_service_server::ClusterServiceServer;
use quorate_proto::v1::consume_response::Response as Answer;
use quorate_proto::v1::consumer_service_server::{ConsumerService, ConsumerServiceServer};
use quorate_proto::v1::publish_stream_request::Request as PublishAsk;
use quorate_proto::v1::publish_stream_response::Response as PublishAnswer;
use quorate_proto::v1::queue_service_server::{QueueService, QueueServiceServer};
use quorate_proto::{frame, reason, v1};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

pub const QUEUE: &str = "orders";

/// What happens to the next batch that arrives anywhere.
#[derive(Clone, Debug)]
pub enum Script {
    Take,
    /// The stream breaks before the batch is looked at.
    BreakBefore,
    /// The batch enters; the stream breaks before the receipt.
    BreakAfter,
    /// The batch is answered by this failure and does not enter.
    Fail(&'static str),
    /// Another node is made the leader; the batch is answered by NOT_LEADER with a hint.
    Move(usize),
    /// The batch enters, and is answered by NO_QUORUM.
    Unsure,
    /// The batch is not answered.
    Silence,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Default)]
pub enum Fate {
    #[default]
    Answered,
    /// After this time.
    Slow(Duration),
    /// The call breaks when it is done.
    Lost,
    /// This is the answer.
    Refused(&'static str),
}

impl Fate {
    async fn befall(self) -> Result<(), Status> {
        match self {
            Fate::Answered => Ok(()),
            Fate::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Fate::Lost => Err(Status::unavailable("scripted break")),
            Fate::Refused(reason) => Err(refusal(reason)),
        }
    }
}

#[derive(Default)]
pub struct Queue {
    pub bodies: Vec<String>,
    pub scripts: VecDeque<Script>,
    /// Messages of each batch that arrived.
    pub batches: Vec<u32>,
    /// (epoch, sequence) of each batch that arrived.
    pub arrived: Vec<(u32, u64)>,
    /// Nodes at which streams were opened.
    pub opened: Vec<usize>,
    pub leader: usize,
    pub deleted: bool,
    /// Seeks that arrived: whether only to look.
    pub seeks: Vec<bool>,
    /// What becomes of them.
    pub seeking: Fate,
    /// Purges that arrived: whether of all.
    pub purges: Vec<bool>,
    /// What becomes of them.
    pub purging: Fate,
    /// Where the one slot is; none once it was dropped.
    pub slot: Option<u64>,
    /// No majority: a leader is waited for in vain, and queues are not described.
    pub leaderless: bool,
    pub max_message_bytes: u64,
    /// Of consumers that name none; 0 = 30 s.
    pub lease_ms: u32,
    /// Raft group and timeline; 0 as of an older server.
    pub log: (u64, u64),
    producers: BTreeMap<String, Known>,
}

#[derive(Default)]
struct Known {
    epoch: u32,
    next: u64,
    runs: Vec<(u64, u64, u32)>,
}

impl Queue {
    fn enter(&mut self, producer: &v1::Producer, batch: &v1::PublishBatch) -> PublishAnswer {
        let frame = batch.frame.clone().unwrap_or_default();
        self.arrived.push((producer.epoch, batch.sequence));
        let is_new = !self.producers.contains_key(&producer.id);
        let known = self.producers.entry(producer.id.clone()).or_default();
        if producer.epoch < known.epoch {
            return failure(batch.id, reason::PRODUCER_FENCED, None);
        }
        if producer.epoch > known.epoch {
            *known = Known { epoch: producer.epoch, ..Known::default() };
        }
        if is_new {
            known.next = batch.sequence;
        }
        if batch.sequence < known.next {
            let run = known.runs.iter().find(|(sequence, _, _)| *sequence == batch.sequence);
            let Some((_, first_offset, count)) = run.copied() else {
                return failure(batch.id, reason::SEQUENCE_CONFLICT, None);
            };
            return receipt(
                batch.id,
                v1::Receipt { first_offset, count, duplicate: true, ..<_>::default() },
            );
        }
        if batch.sequence > known.next {
            return failure(batch.id, reason::OUT_OF_ORDER, None);
        }
        let first_offset = self.bodies.len() as u64;
        known.runs.push((batch.sequence, first_offset, frame.count));
        known.next += u64::from(frame.count);
        for message in frame::messages(&frame).expect("a readable frame") {
            self.bodies.push(String::from_utf8_lossy(&message.body).into_owned());
        }
        receipt(batch.id, v1::Receipt { first_offset, count: frame.count, ..<_>::default() })
    }
}

fn receipt(id: u64, receipt: v1::Receipt) -> PublishAnswer {
    PublishAnswer::Receipt(v1::PublishReceipt { id, receipt: Some(receipt) })
}

fn failure(id: u64, reason: &str, leader: Option<v1::Leader>) -> PublishAnswer {
    let message = format!("scripted {reason}");
    let failure = v1::Failure { reason: reason.into(), message, leader, ..Default::default() };
    PublishAnswer::Failure(v1::PublishFailure { id, failure: Some(failure) })
}

pub fn refusal(reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, reason::DOMAIN, []);
    Status::with_error_details(Code::FailedPrecondition, format!("scripted {reason}"), details)
}

/// A consumer's stream, in the hands of the test.
pub struct Session {
    pub node: usize,
    pub attach: v1::Attach,
    pub requests: Streaming<v1::ConsumeRequest>,
    answers: mpsc::UnboundedSender<Result<v1::ConsumeResponse, Status>>,
}

impl Session {
    pub fn answer(&self, answer: Answer) {
        let _ = self.answers.send(Ok(v1::ConsumeResponse { response: Some(answer) }));
    }

    /// Delivers messages whose bodies are their offsets.
    pub fn deliver(&self, token: u64, first_offset: u64, count: u64, attempt: u32) {
        let mut frame = frame::FrameBuilder::new();
        for offset in first_offset..first_offset + count {
            frame.push(&[("n", offset.to_string())], offset.to_string().as_bytes()).unwrap();
        }
        let frame = Some(frame.finish());
        self.answer(Answer::Delivery(v1::Delivery { token, first_offset, attempt, frame }));
    }

    /// Ends the stream with a reason.
    pub fn end(self, reason: &str) {
        let _ = self.answers.send(Err(refusal(reason)));
    }

    /// Breaks the stream.
    pub fn break_off(self) {
        let _ = self.answers.send(Err(Status::unavailable("scripted break")));
    }

    pub async fn request(&mut self) -> Option<v1::consume_request::Request> {
        let limit = Duration::from_secs(10);
        let request =
            tokio::time::timeout(limit, self.requests.message()).await.expect("a request");
        request.ok().flatten().and_then(|request| request.request)
    }

    /// The next settle, not yet answered.
    pub async fn settle(&mut self) -> v1::Settle {
        match self.request().await {
            Some(v1::consume_request::Request::Settle(settle)) => settle,
            other => panic!("not a settle: {other:?}"),
        }
    }

    pub fn confirm(&self, settle: &v1::Settle) {
        self.answer(Answer::Settled(v1::Settled { id: settle.id, ..Default::default() }));
    }
}

pub struct Cluster {
    pub queue: Arc<Mutex<Queue>>,
    pub addresses: Vec<SocketAddr>,
    pub sessions: mpsc::UnboundedReceiver<Session>,
    /// Set free what `gate` holds.
    pub gate: Arc<Gate>,
    nodes: Vec<Option<Runtime>>,
}

/// Holds answers to batches back while it is shut.
#[derive(Default)]
pub struct Gate {
    shut: Mutex<bool>,
    opened: Notify,
}

impl Gate {
    pub fn shut(&self) {
        *self.shut.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.shut.lock().unwrap() = false;
        self.opened.notify_waiters();
    }

    async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if !*self.shut.lock().unwrap() {
                return;
            }
            opened.await;
        }
    }
}

#[derive(Clone)]
struct Node {
    number: usize,
    queue: Arc<Mutex<Queue>>,
    addresses: Vec<SocketAddr>,
    sessions: mpsc::UnboundedSender<Session>,
    gate: Arc<Gate>,
}

impl Cluster {
    pub fn start(nodes: usize) -> Self {
        let queue = Queue { max_message_bytes: 1 << 20, ..Queue::default() };
        let queue = Arc::new(Mutex::new(queue));
        let bind = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners: Vec<_> = (0..nodes).map(bind).collect();
        let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let (session, sessions) = mpsc::unbounded_channel();
        let gate = Arc::new(Gate::default());
        let start = |(number, listener): (usize, std::net::TcpListener)| {
            let node = Node {
                number,
                queue: queue.clone(),
                addresses: addresses.clone(),
                sessions: session.clone(),
                gate: gate.clone(),
            };
            Some(node.start(listener))
        };
        let nodes = listeners.into_iter().enumerate().map(start).collect();
        Self { queue, addresses, sessions, gate, nodes }
    }

    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap()
    }

    pub fn script(&self, scripts: impl IntoIterator<Item = Script>) {
        self.queue().scripts.extend(scripts);
    }

    pub fn address(&self, node: usize) -> String {
        self.addresses[node].to_string()
    }

    pub async fn client(&self) -> quorate_client::Client {
        let addresses = self.addresses.iter().map(ToString::to_string);
        quorate_client::Client::connect(addresses).await.expect("connect")
    }

    pub fn kill(&mut self, node: usize) {
        if let Some(runtime) = self.nodes[node].take() {
            runtime.shutdown_background();
        }
    }

    pub async fn session(&mut self) -> Session {
        let limit = Duration::from_secs(10);
        let session = tokio::time::timeout(limit, self.sessions.recv()).await;
        session.expect("a consumer attaches").expect("the cluster runs")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            self.kill(node);
        }
    }
}

impl Node {
    fn start(self, listener: std::net::TcpListener) -> Runtime {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            tonic::transport::Server::builder()
                .add_service(QueueServiceServer::new(self.clone()))
                .add_service(ConsumerServiceServer::new(self.clone()))
                .add_service(AdminServiceServer::new(self.clone()))
                .add_service(ClusterServiceServer::new(self))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        runtime
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap()
    }

    fn leader(&self) -> v1::Leader {
        let leader = self.queue().leader;
        v1::Leader {
            node_id: leader as u64 + 1,
            address: self.addresses[leader].to_string(),
            term: 1,
        }
    }

    fn exists(&self, queue: &str) -> Result<(), Status> {
        if queue == QUEUE && !self.queue().deleted {
            Ok(())
        } else {
            Err(refusal(reason::QUEUE_NOT_FOUND))
        }
    }

    /// Handles one batch; `None` breaks the stream, no answer is silence.
    fn batch(
        &self,
        producer: &v1::Producer,
        batch: &v1::PublishBatch,
    ) -> Option<Vec<PublishAnswer>> {
        let script = self.queue().scripts.pop_front().unwrap_or(Script::Take);
        let count = batch.frame.as_ref().map_or(0, |frame| frame.count);
        self.queue().batches.push(count);
        Some(vec![match script {
            Script::Take => self.queue().enter(producer, batch),
            Script::BreakBefore => return None,
            Script::BreakAfter => {
                self.queue().enter(producer, batch);
                return None;
            }
            Script::Unsure => {
                self.queue().enter(producer, batch);
                failure(batch.id, reason::NO_QUORUM, None)
            }
            Script::Fail(reason) => failure(batch.id, reason, None),
            Script::Move(leader) => {
                self.queue().leader = leader;
                failure(batch.id, reason::NOT_LEADER, Some(self.leader()))
            }
            Script::Silence => return Some(Vec::new()),
        }])
    }

    async fn serve_publishes(
        self,
        mut requests: Streaming<v1::PublishStreamRequest>,
        answers: mpsc::UnboundedSender<Result<v1::PublishStreamResponse, Status>>,
    ) -> Result<(), Status> {
        let answer = |response| {
            let _ = answers.send(Ok(v1::PublishStreamResponse { response: Some(response) }));
        };
        let mut producer = v1::Producer::default();
        while let Some(request) = requests.message().await? {
            match request.request {
                Some(PublishAsk::Open(open)) => {
                    self.exists(&open.queue)?;
                    self.queue().opened.push(self.number);
                    producer = open.producer.unwrap_or_default();
                    let max_message_bytes = self.queue().max_message_bytes;
                    answer(PublishAnswer::Opened(v1::PublishOpened {
                        leader: Some(self.leader()),
                        max_message_bytes,
                        max_frame_bytes: 1 << 20,
                    }));
                }
                Some(PublishAsk::Batch(batch)) => {
                    self.gate.pass().await;
                    let Some(given) = self.batch(&producer, &batch) else {
                        return Err(Status::unavailable("scripted break"));
                    };
                    given.into_iter().for_each(&answer);
                }
                None => return Err(refusal(reason::INVALID_ARGUMENT)),
            }
        }
        Ok(())
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T: Send + 'static>(
    mut queued: mpsc::UnboundedReceiver<Result<T, Status>>,
) -> Answers<T> {
    Box::pin(poll_fn(move |context| queued.poll_recv(context)))
}

#[tonic::async_trait]
impl QueueService for Node {
    async fn publish(
        &self,
        _: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("publish"))
    }

    type PublishStreamStream = Answers<v1::PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (answer, queued) = mpsc::unbounded_channel();
        let serving = self.clone().serve_publishes(request.into_inner(), answer.clone());
        tokio::spawn(async move {
            if let Err(status) = serving.await {
                let _ = answer.send(Err(status));
            }
        });
        Ok(Response::new(answers(queued)))
    }
}

#[tonic::async_trait]
impl ConsumerService for Node {
    async fn receive(
        &self,
        _: Request<v1::ReceiveRequest>,
    ) -> Result<Response<v1::ReceiveResponse>, Status> {
        Err(refusal(reason::UNSUPPORTED_VERSION))
    }

    async fn settle(
        &self,
        _: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        Err(refusal(reason::UNSUPPORTED_VERSION))
    }

    type ConsumeStream = Answers<v1::ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let mut requests = request.into_inner();
        let Some(v1::ConsumeRequest {
            request: Some(v1::consume_request::Request::Attach(attach)),
        }) = requests.message().await?
        else {
            return Err(refusal(reason::INVALID_ARGUMENT));
        };
        self.exists(&attach.queue)?;
        let (sender, queued) = mpsc::unbounded_channel();
        let leases = [attach.lease_ms, self.queue().lease_ms, 30_000];
        let lease_ms = leases.into_iter().find(|&lease_ms| lease_ms > 0).unwrap_or_default();
        let session = Session { node: self.number, attach, requests, answers: sender };
        let leader = Some(self.leader());
        // Whoever has this name is at a queue that counts deliveries.
        let tell_starts = session.attach.tells_starts && session.attach.name == "telling";
        let (group, timeline) = self.queue().log;
        let (may_return, rest) = (tell_starts, v1::Attached { group, timeline, ..<_>::default() });
        let attached = v1::Attached { leader, lease_ms, tell_starts, may_return, ..rest };
        session.answer(Answer::Attached(attached));
        let _ = self.sessions.send(session);
        Ok(Response::new(answers(queued)))
    }
}
