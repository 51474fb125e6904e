//! Sends spans to the collector, a batch at a time, from a task of its own.
//!
//! A collector that is away is told in the log once; the batch under way is kept and tried again ever more rarely, and
//! what no longer fits behind it is dropped. One that refuses a batch for good loses that batch.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use quorate_proto::otlp::collector::trace::v1::trace_service_client::TraceServiceClient;
use quorate_proto::otlp::common::v1::InstrumentationScope;
use quorate_proto::otlp::resource::v1::Resource;
use quorate_proto::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span};
use quorate_storage::Identity;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Stats;
use super::span::{SCHEMA_URL, number, text};
use crate::config::{ConfigError, TelemetryConfig};
use crate::shutdown::Shutdown;

/// Spans of one request, at most.
const BATCH: usize = 512;
/// How long spans are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(200);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// Pauses while the collector does not take spans.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A collector that comes and goes is told this often, at most.
const TELL_EVERY: Duration = Duration::from_secs(300);
/// What is left of the time to send what waits, when the node ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Exporter {
    client: TraceServiceClient<Channel>,
    endpoint: String,
    resource: Resource,
    stats: Arc<Stats>,
    ending: Shutdown,
    /// When the log was last told that the collector does not take spans.
    told: Option<Instant>,
    failing: bool,
}

impl Exporter {
    pub(super) fn new(
        config: &TelemetryConfig,
        identity: &Identity,
        stats: Arc<Stats>,
        ending: Shutdown,
    ) -> Result<Self, ConfigError> {
        let endpoint = config.endpoint.clone();
        let channel = Endpoint::from_shared(endpoint.clone()).map_err(|error| ConfigError {
            setting: "telemetry.endpoint",
            reason: format!("`{endpoint}`: {error}"),
        })?;
        let channel = channel.connect_timeout(CONNECT_LIMIT).timeout(EXPORT_LIMIT).connect_lazy();
        let (cluster, node) = (&identity.cluster_id, identity.node_id);
        let attributes = vec![
            text("service.name", "quorate"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", format!("{cluster}/{node}")),
            text("quorate.cluster", cluster.as_str()),
            number("quorate.node", node),
        ];
        Ok(Self {
            client: TraceServiceClient::new(channel),
            endpoint,
            resource: Resource { attributes, ..Resource::default() },
            stats,
            ending,
            told: None,
            failing: false,
        })
    }

    /// Runs until the node ends.
    pub(super) async fn run(mut self, mut waiting: mpsc::Receiver<Span>) {
        tracing::info!(endpoint = self.endpoint, "sampled messages are traced to a collector");
        let ending = self.ending.clone();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = ending.said() => break,
                received = waiting.recv_many(&mut batch, BATCH) => if received == 0 {
                    // A node that did not come to start has none to send.
                    return;
                },
            }
            if batch.len() < BATCH {
                tokio::select! {
                    biased;
                    () = ending.said() => break,
                    () = tokio::time::sleep(GATHER) => {}
                }
                take_waiting(&mut waiting, &mut batch);
            }
            tokio::select! {
                biased;
                () = ending.said() => break,
                () = self.send(&batch) => batch.clear(),
            }
        }
        // One attempt each: a collector that is away does not hold the node.
        let rest = async {
            loop {
                take_waiting(&mut waiting, &mut batch);
                if batch.is_empty() || self.attempt(&batch).await.is_err() {
                    return;
                }
                batch.clear();
            }
        };
        let _ = tokio::time::timeout(CLOSE_LIMIT, rest).await;
    }

    /// Tries until the collector has taken it or refused it for good.
    async fn send(&mut self, spans: &[Span]) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.attempt(spans).await {
                Ok(()) => return self.reached(),
                Err(status) => {
                    self.failed(&status);
                    if !may_succeed_later(&status) {
                        self.stats.refused.add(spans.len() as u64);
                        return;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&mut self, spans: &[Span]) -> Result<(), Status> {
        let scope = InstrumentationScope {
            name: "quorate".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        let scope_spans =
            ScopeSpans { scope: Some(scope), spans: spans.to_vec(), schema_url: SCHEMA_URL.into() };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            schema_url: SCHEMA_URL.into(),
        };
        let request = ExportTraceServiceRequest { resource_spans: vec![resource_spans] };
        let response = self.client.export(request).await?.into_inner();
        let refused = response.partial_success.map_or(0, |partial| partial.rejected_spans);
        let refused = u64::try_from(refused).unwrap_or(0).min(spans.len() as u64);
        self.stats.refused.add(refused);
        self.stats.exported.add(spans.len() as u64 - refused);
        Ok(())
    }

    fn reached(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(endpoint = self.endpoint, "the collector takes spans again");
        }
    }

    fn failed(&mut self, status: &Status) {
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) && !self.failing {
            return;
        }
        if !std::mem::replace(&mut self.failing, true) {
            self.told = Some(Instant::now());
            tracing::warn!(
                endpoint = self.endpoint,
                error = %cause(status),
                "the collector does not take spans: they are dropped and counted \
                 (quorate_spans_dropped_total) until it does; it has to speak OTLP over gRPC, usually at port 4317"
            );
        }
    }
}

fn take_waiting(waiting: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
    while batch.len() < BATCH
        && let Ok(span) = waiting.try_recv()
    {
        batch.push(span);
    }
}

/// By the protocol's list, or since the collector has not said it: its connection broke. What is too much for it
/// (`ResourceExhausted`) is the same batch when it is sent again.
fn may_succeed_later(status: &Status) -> bool {
    let broke = std::error::Error::source(status).is_some();
    broke
        || matches!(
            status.code(),
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        )
}

/// What is at the bottom of it: the words above say "transport error".
fn cause(status: &Status) -> String {
    let mut words = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !words.contains(&text) {
            words.push_str(&format!(": {text}"));
        }
        source = cause.source();
    }
    words
}
