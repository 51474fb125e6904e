//! A trace collector: takes what nodes send, and keeps it to be looked at.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_proto::otlp::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use quorate_proto::otlp::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use quorate_proto::otlp::common::v1::{KeyValue, any_value::Value};
use quorate_proto::otlp::trace::v1::Span;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use crate::cluster::LOOK_EVERY;
use crate::ports;

type Spans = Arc<Mutex<Vec<Seen>>>;

/// A span, and the node that told it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Id of the node.
    pub node: u64,
    /// The span as it was sent.
    pub span: Span,
}

/// Serves on loopback until it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
    serving: JoinHandle<()>,
}

impl Collector {
    /// Begins to serve.
    ///
    /// # Panics
    /// When the port is taken meanwhile.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(ports::free())
    }

    /// Begins to serve at an address.
    ///
    /// # Panics
    /// When it is taken.
    #[must_use]
    pub fn start_at(address: SocketAddr) -> Self {
        let spans = Spans::default();
        let service = TraceServiceServer::new(Taking(spans.clone()));
        let serving = tonic::transport::Server::builder().add_service(service).serve(address);
        let serving = tokio::spawn(async move { serving.await.expect("serve") });
        Self { address, spans, serving }
    }

    /// As a node's `telemetry.endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has come so far.
    ///
    /// # Panics
    /// When the server has.
    #[must_use]
    pub fn spans(&self) -> Vec<Seen> {
        self.spans.lock().expect("no panic while held").clone()
    }

    /// Waits until so many spans have come.
    ///
    /// # Panics
    /// When they do not come in time; tells those that have.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Vec<Seen> {
        let begun = Instant::now();
        loop {
            let spans = self.spans();
            if spans.len() >= count {
                return spans;
            }
            let came = spans.len();
            assert!(begun.elapsed() < limit, "{came} of {count} spans came:\n{}", tree(&spans));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Taking(Spans);

#[tonic::async_trait]
impl TraceService for Taking {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for told in request.into_inner().resource_spans {
            let resource = told.resource.unwrap_or_default().attributes;
            let node = value(&resource, "quorate.node").expect("the node tells its id");
            let node = node.parse().expect("a number");
            let spans = told.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let mut all = self.0.lock().expect("no panic while held");
            all.extend(spans.map(|span| Seen { node, span }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The value of an attribute as text; lists by commas.
#[must_use]
pub fn value(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    text(found.value.as_ref()?.value.as_ref()?)
}

fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        Value::ArrayValue(list) => {
            let values = list.values.iter().filter_map(|value| text(value.value.as_ref()?));
            values.collect::<Vec<_>>().join(",")
        }
        _ => return None,
    })
}

/// The spans as a person would look at them: each below its parent, with its times since the first.
#[must_use]
pub fn tree(spans: &[Seen]) -> String {
    let mut below: BTreeMap<&[u8], Vec<&Seen>> = BTreeMap::new();
    for seen in spans {
        below.entry(&seen.span.parent_span_id).or_default().push(seen);
    }
    let ours: Vec<&[u8]> = spans.iter().map(|seen| seen.span.span_id.as_ref()).collect();
    let first = spans.iter().map(|seen| seen.span.start_time_unix_nano).min().unwrap_or(0);
    let mut lines = String::new();
    for (parent, _) in below.iter().filter(|(parent, _)| !ours.contains(parent)) {
        let trace = below[parent][0].span.trace_id.iter().map(|byte| format!("{byte:02x}"));
        let _ = writeln!(lines, "trace {}", trace.collect::<String>());
        write_below(&mut lines, &below, parent, first, 1);
    }
    lines
}

fn write_below(
    lines: &mut String,
    below: &BTreeMap<&[u8], Vec<&Seen>>,
    parent: &[u8],
    first: u64,
    depth: usize,
) {
    let mut spans = below.get(parent).cloned().unwrap_or_default();
    spans.sort_by_key(|seen| seen.span.start_time_unix_nano);
    for Seen { node, span } in spans {
        let ms = |at: u64| at.saturating_sub(first) as f64 / 1e6;
        let (start, end) = (ms(span.start_time_unix_nano), ms(span.end_time_unix_nano));
        let indent = "  ".repeat(depth);
        let _ = write!(lines, "{indent}{} {start:.3}..{end:.3} ms, node {node}", span.name);
        for event in &span.events {
            let _ = write!(lines, ", {} {:.3}", event.name, ms(event.time_unix_nano));
        }
        for attribute in span.attributes.iter().skip(4) {
            let value = attribute.value.as_ref().and_then(|value| text(value.value.as_ref()?));
            let _ = write!(lines, ", {}={}", attribute.key, value.unwrap_or_default());
        }
        let status = span.status.as_ref().map(|status| format!(" FAILED: {}", status.message));
        let _ = writeln!(lines, "{}", status.unwrap_or_default());
        write_below(lines, below, &span.span_id, first, depth + 1);
    }
}
