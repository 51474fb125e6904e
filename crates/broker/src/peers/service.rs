//! The serving side of the connections: who may come in, and what is answered at once. The traffic
//! of an accepted stream is next door, in `serving`.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use quorate_proto::internal as pb;
use quorate_proto::internal::peer_server::{Peer, PeerServer};
use tokio::sync::oneshot;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use super::outbox::{Outgoing, outbox};
use super::serving::{NO_ENTRIES, Serving, no_replica};
use super::tuning::{self, MESSAGE_BYTES_MAX};
use super::{AbortOnDrop, CONNECT_TIME_MAX, Directory};

/// Groups that a node may be asked about in one call.
pub const HOLDINGS_MAX: usize = 1_000;

/// Answers the other nodes.
pub struct PeerService {
    directory: Arc<dyn Directory>,
    version: u32,
    process: u64,
    beat: Duration,
}

impl PeerService {
    /// `version` is what this node says in its Hello: the highest version of peer messages and log
    /// commands that it knows. An answering stream that is idle for `beat` says that it is alive.
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>, version: u32, beat: Duration) -> Self {
        let process = crate::random::random() as u64;
        Self { directory, version, process, beat }
    }

    fn hello(&self) -> pb::Hello {
        let identity = self.directory.identify();
        pb::Hello {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            incarnation: identity.incarnation,
            version: self.version,
            process: self.process,
            beat_ms: self.beat.as_millis() as u32,
        }
    }
}

/// This service with its limits.
#[cfg(not(madsim))]
pub(crate) fn served(service: PeerService) -> PeerServer<PeerService> {
    PeerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A server of this service, to which others can be added.
#[must_use]
pub fn router(service: PeerService) -> Router {
    let service = PeerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    tuning::server().add_service(service)
}

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = BoxStream<'static, Result<pb::Envelope, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Envelope>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(CONNECT_TIME_MAX, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello in time"))??;
        let hello = first.and_then(|first| first.hello);
        let hello = hello.ok_or_else(|| Status::invalid_argument("say Hello first"))?;
        self.directory.admit(&hello)?;
        let (answers, outgoing) = outbox(self.beat);
        let (ended_sender, ended) = oneshot::channel();
        let serving = Serving::new(self.directory.clone(), answers, hello);
        let task = tokio::spawn(async move {
            let _ = ended_sender.send(serving.run(incoming).await);
        });
        Ok(Response::new(answers_of(self.hello(), outgoing, AbortOnDrop(task), ended)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotAnswer>, Status> {
        use pb::snapshot_chunk::Chunk;
        let mut chunks = request.into_inner();
        let Some(Chunk::Head(head)) = chunks.message().await?.and_then(|first| first.chunk) else {
            return Err(Status::invalid_argument("a snapshot begins with its head"));
        };
        let hello = head.hello.as_ref();
        let hello = hello.ok_or_else(|| Status::invalid_argument("say Hello first"))?;
        self.directory.admit(hello)?;
        if !self.directory.accepts_entries() {
            return Err(Status::resource_exhausted(NO_ENTRIES));
        }
        let replica = self.directory.replica(head.group);
        let replica = replica.ok_or_else(|| Status::not_found(no_replica(head.group)))?;
        let rest = chunks.map(|chunk| chunk.map_err(|status| status.message().to_owned()));
        replica.install(head, rest).await.map(Response::new).map_err(Status::internal)
    }

    async fn identify(
        &self,
        _: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        Ok(Response::new(self.directory.identify()))
    }

    async fn welcome(
        &self,
        request: Request<pb::WelcomeRequest>,
    ) -> Result<Response<pb::WelcomeResponse>, Status> {
        self.directory.welcome(request.into_inner()).await?;
        Ok(Response::new(pb::WelcomeResponse {}))
    }

    async fn placed(
        &self,
        request: Request<pb::PlacedRequest>,
    ) -> Result<Response<pb::Done>, Status> {
        let request = request.into_inner();
        let hello = request.hello.ok_or_else(|| Status::invalid_argument("say Hello first"))?;
        self.directory.admit(&hello)?;
        self.directory.placed(request.group, request.moved, request.took_over_from).await?;
        Ok(Response::new(pb::Done {}))
    }

    async fn take_moved(
        &self,
        request: Request<pb::TakeMovedRequest>,
    ) -> Result<Response<pb::TakeMovedResponse>, Status> {
        let request = request.into_inner();
        let hello = request.hello.as_ref();
        let hello = hello.ok_or_else(|| Status::invalid_argument("say Hello first"))?;
        self.directory.admit(hello)?;
        let next = self.directory.take_moved(request).await?;
        Ok(Response::new(pb::TakeMovedResponse { next }))
    }

    async fn holdings(
        &self,
        request: Request<pb::HoldingsRequest>,
    ) -> Result<Response<pb::HoldingsResponse>, Status> {
        let request = request.into_inner();
        let hello = request.hello.ok_or_else(|| Status::invalid_argument("say Hello first"))?;
        self.directory.admit(&hello)?;
        if request.groups.len() > HOLDINGS_MAX {
            return Err(Status::invalid_argument(format!("at most {HOLDINGS_MAX} groups a call")));
        }
        Ok(Response::new(self.directory.holdings(request.groups).await?))
    }
}

/// What goes back on an accepted stream. It owns the task that reads the requests, so that this one
/// ends when the connection does.
fn answers_of(
    hello: pb::Hello,
    mut outgoing: Outgoing,
    task: AbortOnDrop,
    mut ended: oneshot::Receiver<Status>,
) -> BoxStream<'static, Result<pb::Envelope, Status>> {
    stream! {
        let _task = task;
        yield Ok(pb::Envelope { hello: Some(hello), rpcs: Vec::new() });
        loop {
            let next = tokio::select! {
                biased;
                status = &mut ended => Err(status),
                next = outgoing.next() => Ok(next),
            };
            match next {
                Ok(Some(envelope)) => yield Ok(envelope),
                Ok(None) | Err(Err(_)) => return,
                Err(Ok(status)) => {
                    yield Err(status);
                    return;
                }
            }
        }
    }
    .boxed()
}
