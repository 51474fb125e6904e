//! What is served over plain HTTP, at the port of gRPC: metrics for Prometheus, and health for load balancers
//! that do not speak `grpc.health.v1`; both judge by [`health`](crate::health).
//!
//! | path | 200 if | else |
//! |---|---|---|
//! | `/health/live` | the program answers and has not failed | 503 |
//! | `/health/ready` | it can serve: the catalog has a majority, the node is neither ending nor being drained | 503 |
//! | `/health/leader/{queue}` | this node leads the queue and serves it | 503, or 404 for no such queue |
//! | `/metrics` | always; `?queue=NAME` (repeatable) or `?queues=all` for figures of queues | |

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::health::{Led, Standing, led};
use crate::member::Member;
use crate::metrics::{self, Wanted};

type Told = (StatusCode, String);

pub(crate) fn routes(member: &Arc<Member>) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/health/leader/{queue}", get(leader))
        .route("/metrics", get(scrape))
        .with_state(member.clone())
}

/// A call of gRPC that nobody serves is told so as gRPC does; any other path is not there. (To a load balancer, tonic's
/// own answer to a mistyped health path would be 200.)
pub(crate) async fn not_found(headers: HeaderMap) -> Response {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    match kind.is_some_and(|kind| kind.starts_with("application/grpc")) {
        true => tonic::Status::unimplemented("no such service or method").into_http(),
        false => {
            (StatusCode::NOT_FOUND, "not here: /health/... and /metrics are\n").into_response()
        }
    }
}

fn told(is_so: bool, yes: &str, no: String) -> Told {
    match is_so {
        true => (StatusCode::OK, format!("{yes}\n")),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("{no}\n")),
    }
}

async fn live(State(member): State<Arc<Member>>) -> Told {
    let failure = member.failure.get();
    told(failure.is_none(), "live", format!("failed: {}", failure.unwrap_or_default()))
}

async fn ready(State(member): State<Arc<Member>>) -> Told {
    let why_not = Standing::of(&member).why_not_ready();
    told(why_not.is_none(), "ready", format!("not ready: {}", why_not.unwrap_or_default()))
}

async fn leader(State(member): State<Arc<Member>>, Path(queue): Path<String>) -> Told {
    let Some(led) = led(&member, &queue) else {
        return (StatusCode::NOT_FOUND, format!("there is no queue {queue}\n"));
    };
    let elsewhere = match led {
        Led::Here => None,
        Led::Elsewhere(leader) => leader.and_then(|node| Some((node, member.address_of(node)?))),
    };
    let who = match elsewhere {
        Some((node, address)) => format!("node {node} at {address} leads"),
        None => "this node does not lead, and knows of no leader".to_owned(),
    };
    told(led == Led::Here, "leads", who)
}

async fn scrape(State(member): State<Arc<Member>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut wanted = Wanted::Aggregates;
    for part in query.as_deref().unwrap_or_default().split('&') {
        match part.split_once('=') {
            Some(("queues", "all")) => wanted = Wanted::AllQueues,
            Some(("queue", name)) => wanted.add(name),
            _ => {}
        }
    }
    ([(CONTENT_TYPE, TYPE)], metrics::of(&member, &wanted).await)
}
