//! Nodes as processes of their own on this machine, for `dev`, `demo` and `bench`.
//!
//! ```text
//! this process ──spawn──► quorate server --exit-with-stdin   (one a node)
//!      └── holds the other end of each node's standard input: if we die, even by kill -9, it closes,
//!          and the nodes stop by themselves. No orphans, no process groups to hunt.
//! ```
//! A node leaves our process group, so that Ctrl-C reaches us alone and we stop the nodes in order.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::exit::Exit;
use crate::failure::Failure;

/// How long a node may take to hand over and flush before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Settings of the process that must not leak from our environment into every node alike.
const NOT_INHERITED: [&str; 9] = [
    "QUORATE_CONFIG",
    "QUORATE_DATA",
    "QUORATE_LISTEN",
    "QUORATE_ADVERTISE",
    "QUORATE_NODE_ID",
    "QUORATE_PEERS",
    "QUORATE_ZONE",
    "QUORATE_INSECURE",
    "QUORATE_LOG_FORMAT",
];

/// One node: where it listens and what it owns on disk.
#[derive(Debug, Clone)]
pub struct Node {
    pub id: u64,
    pub address: SocketAddr,
    pub data: PathBuf,
    pub log: PathBuf,
}

impl Node {
    /// The node's place under `directory`.
    pub fn new(id: u64, port: u16, directory: &Path) -> Node {
        Node {
            id,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            data: directory.join(format!("node-{id}")),
            log: directory.join(format!("node-{id}.log")),
        }
    }

    /// The end of its log, for an error message.
    pub fn last_words(&self) -> String {
        const TAIL_BYTES: u64 = 2048;
        const TAIL_LINES: usize = 5;
        let read = || {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            std::io::Result::Ok(tail)
        };
        let tail = read().unwrap_or_default();
        let tail = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = tail.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ")
    }
}

/// A cluster of node processes; killed when dropped.
#[derive(Debug)]
pub struct Nodes {
    binary: PathBuf,
    nodes: Vec<Node>,
    children: Vec<Option<Running>>,
}

/// A started node. Its standard input is held apart from the child, because waiting for a child closes the
/// input that it still has, and that would stop the node.
#[derive(Debug)]
struct Running {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Nodes {
    /// Describes the cluster; nothing runs yet.
    pub fn new(nodes: Vec<Node>) -> Result<Nodes, Failure> {
        let binary = std::env::current_exe().map_err(|error| {
            Failure::new(
                Exit::CannotStart,
                format!("find this program to start nodes of it: {error}"),
            )
        })?;
        let children = nodes.iter().map(|_| None).collect();
        Ok(Nodes { binary, nodes, children })
    }

    /// The nodes in order of their numbers.
    pub fn list(&self) -> &[Node] {
        &self.nodes
    }

    /// Addresses of all nodes, as a client takes them.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.to_string()).collect()
    }

    /// Addresses of the nodes that run.
    pub fn running(&self) -> Vec<String> {
        let nodes = self.nodes.iter().zip(&self.children);
        let running = nodes.filter(|(_, child)| child.is_some());
        running.map(|(node, _)| node.address.to_string()).collect()
    }

    /// Place of a node in the list, by its number.
    pub fn index_of(&self, id: u64) -> Result<usize, Failure> {
        let index = self.nodes.iter().position(|node| node.id == id);
        index.ok_or_else(|| {
            Failure::new(Exit::Failed, format!("node {id} leads, but is none of ours"))
        })
    }

    /// Process id of a node; `None` while it is down.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.children[index].as_ref().and_then(|running| running.child.id())
    }

    /// Starts all nodes.
    pub fn start_all(&mut self) -> Result<(), Failure> {
        (0..self.nodes.len()).try_for_each(|index| self.start(index))
    }

    /// Starts one node; what it writes goes to its log file.
    pub fn start(&mut self, index: usize) -> Result<(), Failure> {
        self.start_with(index, &[])
    }

    /// Starts one node with settings of its own, as `QUORATE_*` variables.
    pub fn start_with(&mut self, index: usize, settings: &[(&str, &str)]) -> Result<(), Failure> {
        let node = &self.nodes[index];
        let failed = |doing: &str, error: std::io::Error| {
            Failure::new(Exit::CannotStart, format!("start node {}: {doing}: {error}", node.id))
        };
        let log = OpenOptions::new().create(true).append(true).open(&node.log);
        let log = log.map_err(|error| failed(&format!("open {}", node.log.display()), error))?;
        let errors = log.try_clone().map_err(|error| failed("share the log", error))?;
        let peers: Vec<String> =
            self.nodes.iter().map(|node| format!("{}={}", node.id, node.address)).collect();
        let mut command = Command::new(&self.binary);
        command.arg("server").args(["--exit-with-stdin", "--node-id", &node.id.to_string()]);
        command.args(["--listen", &node.address.to_string()]).arg("--data").arg(&node.data);
        command.args(["--peer", &peers.join(",")]);
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        command.kill_on_drop(true).process_group(0);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command.envs(settings.iter().copied());
        let child = command.spawn();
        let mut child = child.map_err(|error| failed(&self.binary.display().to_string(), error))?;
        let stdin = child.stdin.take();
        self.children[index] = Some(Running { child, _stdin: stdin });
        Ok(())
    }

    /// Kills a node as `kill -9` does; returns once it is gone.
    pub async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        if let Some(mut running) = self.children[index].take() {
            running.child.kill().await.map_err(|error| {
                Failure::new(Exit::Failed, format!("kill node {}: {error}", self.nodes[index].id))
            })?;
        }
        Ok(())
    }

    /// Asks one node to stop and waits; kills it if it has not stopped in time.
    pub async fn stop(&mut self, index: usize) -> Result<(), Failure> {
        let Some(mut running) = self.children[index].take() else { return Ok(()) };
        signal(&running.child, Signal::TERM);
        if tokio::time::timeout(STOP_LIMIT, running.child.wait()).await.is_err() {
            self.children[index] = Some(running);
            self.kill(index).await?;
        }
        Ok(())
    }

    /// Freezes a node: it keeps its connections and answers nothing.
    pub fn pause(&self, index: usize) {
        self.children[index].iter().for_each(|running| signal(&running.child, Signal::STOP));
    }

    /// Lets a frozen node go on.
    pub fn resume(&self, index: usize) {
        self.children[index].iter().for_each(|running| signal(&running.child, Signal::CONT));
    }

    /// Does `work`; a node that ends meanwhile, other than by our hand, ends it with the node's last words.
    pub async fn watch<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            outcome = work => outcome,
            (index, status) = self.ended() => {
                let node = &self.nodes[index];
                let end = describe_end(status);
                let what = format!("node {} {end}:\n    {}", node.id, node.last_words());
                Err(Failure::new(Exit::Failed, what))
            }
        }
    }

    /// Resolves when a running node ends by itself or by someone else's hand. Cancelling it loses nothing.
    pub async fn ended(&mut self) -> (usize, ExitStatus) {
        let ended = {
            let running = self.children.iter_mut().enumerate();
            let mut waits: FuturesUnordered<_> = running
                .filter_map(|(index, running)| running.as_mut().map(|running| (index, running)))
                .map(|(index, running)| async move { (index, running.child.wait().await) })
                .collect();
            waits.next().await
        };
        match ended {
            Some((index, Ok(status))) => {
                self.children[index] = None;
                (index, status)
            }
            // No child runs, or the system cannot say how it is.
            Some((_, Err(_))) | None => std::future::pending().await,
        }
    }

    /// Asks all nodes to stop, waits, and kills what has not stopped in time. Returns how many were killed.
    pub async fn stop_all(&mut self) -> usize {
        for running in self.children.iter().flatten() {
            signal(&running.child, Signal::TERM);
            // One that is frozen would not see it.
            signal(&running.child, Signal::CONT);
        }
        let waits: FuturesUnordered<_> =
            self.children.iter_mut().flatten().map(|running| running.child.wait()).collect();
        let _ = tokio::time::timeout(STOP_LIMIT, waits.collect::<Vec<_>>()).await;
        let mut killed = 0;
        for running in self.children.iter_mut().flatten() {
            if !matches!(running.child.try_wait(), Ok(Some(_))) {
                killed += 1;
                let _ = running.child.kill().await;
            }
        }
        self.children.iter_mut().for_each(|child| *child = None);
        killed
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
    if let Some(pid) = pid {
        // It may have ended in the meantime; the wait that follows tells.
        let _ = kill_process(pid, signal);
    }
}

/// Whether nothing listens on the port; the error is the system's.
pub fn port_is_free(port: u16) -> std::io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// Loopback ports that nothing listens on, below the range that the system gives to outgoing connections:
/// a port out of that range could be taken, while its node is down, by the very connection attempts to it.
pub fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    const FIRST: u32 = 17_000;
    const LAST: u32 = 32_000;
    // Starting at different places, programs that look at the same moment do not meet.
    let start = FIRST + std::process::id().wrapping_mul(101) % (LAST - FIRST);
    let candidates = (start..LAST).chain(FIRST..start).filter_map(|port| u16::try_from(port).ok());
    let free: Vec<u16> =
        candidates.filter(|port| port_is_free(*port).is_ok()).take(count).collect();
    if free.len() < count {
        return Err(Failure::new(
            Exit::CannotStart,
            "no free loopback ports between 17000 and 32000",
        ));
    }
    Ok(free)
}

/// How a process ended, in words.
pub fn describe_end(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(9), _) => "was killed (signal 9)".to_owned(),
        (Some(signal), _) => format!("ended by signal {signal}"),
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_different_and_free() {
        let ports = free_ports(3).expect("three free ports");
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != ports[1] && ports[1] != ports[2]);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0])).expect("bind it");
        assert!(port_is_free(ports[0]).is_err());
        drop(taken);
    }

    #[test]
    fn last_words_are_the_end_of_the_log() {
        let directory = tempfile::tempdir().expect("a directory");
        let node = Node::new(1, 1, directory.path());
        assert_eq!(node.last_words(), "");
        let lines: Vec<String> = (0..1000).map(|line| format!("line {line}")).collect();
        std::fs::write(&node.log, lines.join("\n")).expect("write the log");
        assert!(node.last_words().starts_with("line 995\n"), "{}", node.last_words());
        assert!(node.last_words().ends_with("line 999"));
    }
}
