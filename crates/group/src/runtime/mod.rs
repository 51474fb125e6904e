//! Where openraft's tasks and timers, and what may block, run: on tokio in production, on madsim's
//! tasks, time and randomness in simulation.

use std::io;

mod mpsc;
mod watch;

#[cfg(not(madsim))]
mod tokio;
#[cfg(not(madsim))]
pub use self::tokio::Runtime;

#[cfg(madsim)]
mod sim;
#[cfg(madsim)]
pub use sim::Runtime;

/// Runs what may wait for the device.
#[cfg(not(madsim))]
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    ::tokio::task::spawn_blocking(run).await.map_err(io::Error::other)?
}

/// Runs what may wait for the device: the simulated one does not.
#[cfg(madsim)]
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    run()
}
