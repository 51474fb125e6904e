//! One node's machine: starts the shipped broker on it, again and again, on a directory that
//! survives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use madsim::rand::{Rng, thread_rng};
use madsim::task::NodeId;
use quorate_broker::{Config, Home, Node};
use quorate_storage::SimDir;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::Cluster;
use crate::events::{Event, Record};

/// What a node's process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is down, and stays so until it is started.
    Down,
    /// It opens its state.
    Starting,
    /// It serves.
    Running,
    /// It refused to start, and said why.
    Refused(String),
    /// It stopped for a failure, and said which.
    Failed(String),
}

pub(super) struct Host {
    node: u64,
    machine: NodeId,
    state: Arc<State>,
}

struct State {
    node: u64,
    record: Record,
    config: Config,
    dir: Mutex<SimDir>,
    status: Mutex<(Status, Instant)>,
    stop: Notify,
    stopped: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn now(&self, status: Status) {
        let does = match &status {
            Status::Down => "is down".to_owned(),
            Status::Starting => "starts".to_owned(),
            Status::Running => "serves".to_owned(),
            Status::Refused(reason) => format!("refuses to start: {reason}"),
            Status::Failed(reason) => format!("fails: {reason}"),
        };
        *lock(&self.status) = (status, Instant::now());
        self.record.tell(Event::Node { node: self.node, does: &does });
    }

    /// The process has ended: what it still holds of its directory is dead.
    fn end_boot(&self, status: Status) {
        let mut dir = lock(&self.dir);
        *dir = dir.kill();
        drop(dir);
        self.now(status);
    }
}

async fn main(state: Arc<State>) {
    // What was asked of an earlier process does not concern this one.
    let _ = state.stop.notified().now_or_never();
    state.now(Status::Starting);
    let home = Home::from(lock(&state.dir).clone());
    let node = match Node::start_at(home, state.config.clone()).await {
        Ok(node) => node,
        Err(error) => return state.end_boot(Status::Refused(error.to_string())),
    };
    state.now(Status::Running);
    tokio::select! {
        biased;
        reason = node.failed() => state.end_boot(Status::Failed(reason)),
        () = state.stop.notified() => {
            node.shutdown().await;
            state.end_boot(Status::Down);
            state.stopped.notify_one();
        }
    }
}

impl Host {
    pub(super) fn start(cluster: &Cluster, node: u64, config: Config, dir: SimDir) -> Arc<Host> {
        let state = Arc::new(State {
            node,
            record: cluster.record().clone(),
            config,
            dir: Mutex::new(dir),
            status: Mutex::new((Status::Starting, Instant::now())),
            stop: Notify::new(),
            stopped: Notify::new(),
        });
        let (own, runtime) = (state.clone(), cluster.runtime());
        let machine = runtime.create_node().name(format!("node {node}"));
        let machine = machine.ip(super::address(node).ip()).init(move || main(own.clone())).build();
        Arc::new(Host { node, machine: machine.id(), state })
    }

    pub(super) fn machine(&self) -> NodeId {
        self.machine
    }

    pub(super) fn status(&self) -> Status {
        lock(&self.state.status).0.clone()
    }

    fn since(&self) -> Instant {
        lock(&self.state.status).1
    }

    pub(super) fn dir(&self) -> SimDir {
        lock(&self.state.dir).clone()
    }

    pub(super) fn kill(&self, cluster: &Cluster) {
        self.state.end_boot(Status::Down);
        cluster.runtime().kill(self.machine());
    }

    pub(super) fn lose_power(&self, cluster: &Cluster) {
        let mut dir = lock(&self.state.dir);
        *dir = dir.power_loss();
        drop(dir);
        self.state.now(Status::Down);
        cluster.runtime().kill(self.machine());
    }

    pub(super) fn wipe(&self) {
        assert!(self.status() == Status::Down, "node {} runs", self.node);
        *lock(&self.state.dir) = SimDir::new(thread_rng().r#gen());
    }

    pub(super) fn restart(&self, cluster: &Cluster) {
        // One that ended by itself still holds its sockets.
        cluster.runtime().kill(self.machine());
        cluster.runtime().restart(self.machine());
    }

    /// Kills it if it does not end in time.
    pub(super) async fn shut_down(&self, cluster: &Cluster) {
        if self.status() == Status::Running {
            self.state.stop.notify_one();
            if timeout(Duration::from_secs(15), self.state.stopped.notified()).await.is_ok() {
                return;
            }
        }
        self.kill(cluster);
    }
}

/// What a service manager does: starts nodes again that have failed or refused to start.
pub(super) async fn keep_running(cluster: Cluster) {
    loop {
        sleep(Duration::from_millis(200)).await;
        let hosts: Vec<Arc<Host>> = cluster.hosts().values().cloned().collect();
        for host in hosts {
            let ended = matches!(host.status(), Status::Refused(_) | Status::Failed(_));
            let pause = Duration::from_millis(thread_rng().gen_range(500..1_500));
            if ended && host.since().elapsed() > pause {
                host.restart(&cluster);
            }
        }
    }
}
