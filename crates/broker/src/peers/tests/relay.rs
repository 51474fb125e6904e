//! A relay in front of a node, so that its connections can be cut and refused.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};

use crate::peers::{AbortOnDrop, lock};

#[derive(Default)]
struct Shared {
    connections: Vec<AbortOnDrop>,
    accepted: usize,
    refusing: bool,
}

pub(super) struct Relay {
    pub(super) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    _task: AbortOnDrop,
}

impl Relay {
    pub(super) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let accepting = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let mut shared = lock(&accepting);
                if shared.refusing {
                    continue;
                }
                shared.accepted += 1;
                shared.connections.push(AbortOnDrop(tokio::spawn(pass(socket, target))));
            }
        });
        Self { address, shared, _task: AbortOnDrop(task) }
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        lock(&self.shared).connections.clear();
    }

    /// While set, connections are closed as soon as they are made.
    pub(super) fn refuse(&self, refusing: bool) {
        lock(&self.shared).refusing = refusing;
        self.cut();
    }

    pub(super) fn accepted(&self) -> usize {
        lock(&self.shared).accepted
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}
