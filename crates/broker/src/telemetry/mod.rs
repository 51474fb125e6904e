//! Traces: for messages whose producer samples them, spans of what becomes of them here, told to a collector.
//!
//! ```text
//!  a batch comes   ─► Publishing ─► its receipt, or a refusal ─► publish QUEUE ┐
//!  bodies go out   ─► Deliveries ─────────────────────────────► deliver QUEUE ├─► queue ─► exporter ─► collector
//!                         └──► settled, expired, stream ended ──► ack QUEUE … ┘  bounded
//! ```
//! Which messages: those with a `traceparent` header that is valid and says "sampled". The broker decides nothing
//! itself, keeps nothing of it, and replicates nothing: a node that takes over knows no more than the header.
//!
//! Nothing here waits. Spans beyond the rate, or beyond what the queue holds while the collector is away, are dropped
//! and counted. Simulated nodes have none of this; the form that they have is in `simulated`.

mod deliveries;
mod exporter;
mod publishing;
mod rate;
mod span;
mod traceparent;

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use quorate_proto::otlp::trace::v1::Span;
use quorate_proto::v1;
use quorate_storage::Identity;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{ConfigError, TelemetryConfig};
use crate::counts::Count;
use crate::queue::Queue;
use crate::shutdown::Shutdown;

pub(crate) use deliveries::{Deliveries, Settling};
pub(crate) use publishing::Publishing;
use rate::Rate;
use traceparent::TraceParent;

/// Spans that may wait to be sent. Beyond it they are dropped: some 4 MB.
const SPANS_WAITING_MAX: usize = 2048;

/// `error.type` where a client has gone, beside the reasons of refusals.
const STREAM_ENDED: &str = "STREAM_ENDED";

/// The node's traces, or none.
pub(crate) struct Telemetry(Option<On>);

struct On {
    tracer: Arc<Tracer>,
    exporting: Mutex<Option<JoinHandle<()>>>,
    ending: Shutdown,
}

/// Where spans go.
struct Tracer {
    rate: Mutex<Rate>,
    spans: mpsc::Sender<Span>,
    stats: Arc<Stats>,
}

/// What became of spans since the node started.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Taken by the collector.
    pub(crate) exported: Count,
    /// Beyond the rate.
    pub(crate) beyond_rate: Count,
    /// The queue was full, since the collector was away or slow.
    pub(crate) queue_full: Count,
    /// The collector refused them.
    pub(crate) refused: Count,
}

impl Telemetry {
    /// Starts what sends spans, if a collector is named.
    ///
    /// # Errors
    /// When it is named wrongly.
    pub(crate) fn start(
        config: &TelemetryConfig,
        identity: &Identity,
    ) -> Result<Self, ConfigError> {
        if config.endpoint.is_empty() {
            return Ok(Self(None));
        }
        let (spans, waiting) = mpsc::channel(SPANS_WAITING_MAX);
        let stats = Arc::new(Stats::default());
        let ending = Shutdown::default();
        let exporter = exporter::Exporter::new(config, identity, stats.clone(), ending.clone())?;
        let exporting = Mutex::new(Some(tokio::spawn(exporter.run(waiting))));
        let rate = Mutex::new(Rate::new(config.max_spans_per_second, Instant::now()));
        let tracer = Arc::new(Tracer { rate, spans, stats });
        Ok(Self(Some(On { tracer, exporting, ending })))
    }

    /// A batch has come; what is to be told of it, if any of its messages is sampled.
    pub(crate) fn arrived(&self, queue: &Arc<Queue>, frame: &v1::Frame) -> Option<Box<Publishing>> {
        let on = self.0.as_ref()?;
        Publishing::begin(&on.tracer, queue, frame)
    }

    /// What is to be told of a consumer's deliveries.
    pub(crate) fn deliveries(
        &self,
        queue: &Arc<Queue>,
        attach: &quorate_machine::queue::Attach,
    ) -> Deliveries {
        Deliveries::new(self.0.as_ref().map(|on| &on.tracer), queue, attach)
    }

    /// None if there is no collector.
    pub(crate) fn stats(&self) -> Option<&Stats> {
        self.0.as_ref().map(|on| &*on.tracer.stats)
    }

    /// Sends what waits, as far as the collector takes it soon, and ends.
    pub(crate) async fn close(&self) {
        let Some(on) = &self.0 else { return };
        on.ending.say();
        let exporting = on.exporting.lock().expect("no panic while held").take();
        if let Some(exporting) = exporting {
            let _ = exporting.await;
        }
    }
}

impl Tracer {
    /// How many of so many spans the rate allows; the others count as dropped.
    fn admit(&self, wanted: u32) -> u32 {
        let mut rate = self.rate.lock().expect("no panic while held");
        let admitted = rate.take(Instant::now(), wanted);
        self.stats.beyond_rate.add((wanted - admitted).into());
        admitted
    }

    /// The sampled messages of a frame with their positions in it, as many as the rate allows.
    fn sampled(&self, frame: &[u8]) -> Vec<(u32, TraceParent)> {
        let headers = quorate_machine::frame::header(frame, TraceParent::HEADER);
        let mut found = headers
            .filter_map(|(at, value)| Some((at, TraceParent::parse(value)?)))
            .filter(|(_, parent)| parent.is_sampled());
        let Some(first) = found.next() else { return Vec::new() };
        let most = self.rate.lock().expect("no panic while held").most() as usize;
        let mut sampled = vec![first];
        sampled.extend(found.by_ref().take(most.saturating_sub(1)));
        self.stats.beyond_rate.add(found.count() as u64);
        sampled.truncate(self.admit(sampled.len() as u32) as usize);
        sampled
    }

    fn tell(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.stats.queue_full.add(1);
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
