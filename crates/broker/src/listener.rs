//! The node's socket. In simulation the address alone: a simulated server binds when it serves.

use std::net::SocketAddr;

use tonic::transport::server::Router;

use crate::server::StartError;
use crate::shutdown::Shutdown;

/// A bound socket, from which the server can be started more than once.
pub(crate) struct Listener {
    #[cfg(not(madsim))]
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl Listener {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(not(madsim))]
impl Listener {
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let bind = || {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|source| StartError::Listen { address, source })
    }

    /// Serves until it is said to stop.
    pub(crate) fn serve(
        &self,
        router: Router,
        stop: Shutdown,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let socket = self.socket.try_clone();
        async move {
            let socket = tokio::net::TcpListener::from_std(socket.map_err(|e| e.to_string())?)
                .map_err(|error| error.to_string())?;
            let incoming =
                tonic::transport::server::TcpIncoming::from(socket).with_nodelay(Some(true));
            let served =
                router.serve_with_incoming_shutdown(incoming, async move { stop.said().await });
            served.await.map_err(|error| error.to_string())
        }
    }
}

#[cfg(madsim)]
impl Listener {
    #[allow(clippy::unnecessary_wraps, reason = "the real one can fail")]
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, StartError> {
        Ok(Self { address })
    }

    /// Serves until it is said to stop.
    pub(crate) fn serve(
        &self,
        router: Router,
        stop: Shutdown,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let address = self.address;
        async move {
            let served = router.serve_with_shutdown(address, async move { stop.said().await });
            served.await.map_err(|error| error.to_string())
        }
    }
}
