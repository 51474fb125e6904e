//! A way to a node that can be made slow: a TCP relay on loopback that holds back what passes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Chunks that one direction of a connection may hold back; then it stops reading, as a slow link does.
const HELD_MAX: usize = 1024;

/// A relay that runs until it is dropped.
#[derive(Debug)]
pub struct Relay {
    delay_ms: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// Listens at `from` and passes on to `to`, at once until told otherwise.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(from: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(from).await.expect("listen for the relay");
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = delay_ms.clone();
        let task = tokio::spawn(async move {
            // Ends with the relay, and so do the connections in it.
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let delay = delay.clone();
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let ((near_in, near_out), (far_in, far_out)) =
                        (near.into_split(), far.into_split());
                    tokio::join!(
                        pass(near_in, far_out, delay.clone()),
                        pass(far_in, near_out, delay)
                    );
                });
            }
        });
        Self { delay_ms, task }
    }

    /// Holds back everything that comes from now on for so long, in each direction.
    pub fn delay(&self, by: Duration) {
        self.delay_ms.store(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_ms: Arc<AtomicU64>) {
    let (held, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(HELD_MAX);
    let read = async move {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            let at = Instant::now() + Duration::from_millis(delay_ms.load(Ordering::Relaxed));
            if held.send((at, chunk[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, bytes)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
