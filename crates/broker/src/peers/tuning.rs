//! How the HTTP/2 connections between nodes are set up, on both ends.
//!
//! Large frames matter most, since one frame is one system call; then windows that hold what is
//! under way, and no Nagle. Pings every second make a silent peer noticed in three.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

use super::CONNECT_TIME_MAX;

/// Largest message between nodes, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 256 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A server whose settings suit connections between nodes.
#[must_use]
pub(crate) fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
}

/// The connecting end.
pub(super) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let uri = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    Ok(tuned(Endpoint::from_shared(uri)?)
        .connect_timeout(CONNECT_TIME_MAX)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true))
}

#[cfg(not(madsim))]
fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint.max_frame_size(FRAME_BYTES_MAX)
}

// The simulated transport has no frames.
#[cfg(madsim)]
fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
}
