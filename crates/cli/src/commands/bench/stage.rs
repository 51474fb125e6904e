//! Where a scenario plays: a cluster of its own that is gone afterwards, or one that runs already.
//!
//! ```text
//! Stage::prepare ─► open: start nodes, probe the disk, connect ─► scenario ─► leave: stop, remove
//!                └► open: connect, find the nodes' processes   ─► scenario ─► leave: delete queues
//! ```
//! `leave` runs however the scenario ended. Queues have random names, so none that exists is ever touched.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use quorate_client::{Client, Message, QueueSettings};
use tempfile::TempDir;

use crate::args::Global;
use crate::commands::bench::probe::{self, Probe};
use crate::commands::bench::usage;
use crate::commands::dev;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::nodes::{self, Node, Nodes};
use crate::session;
use crate::units;

const NODES: u64 = 3;
/// Queues created or deleted at a time.
const CALLS_AT_A_TIME: usize = 16;
/// A call to the cluster, retries included.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Deleting what was made takes at most this long.
const DELETE_LIMIT: Duration = Duration::from_secs(60);
/// How long a cluster may take from its start to a confirm.
const FIRST_CONFIRM_LIMIT: Duration = Duration::from_secs(120);

/// Options of every scenario.
#[derive(Debug, Clone, clap::Args)]
pub struct Own {
    /// Directory on the disk to measure, for the data; what is put there is removed. Default: TMPDIR.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Give up after this long.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = units::parse_duration)]
    pub limit: Duration,
}

/// Options of scenarios that can use a running cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct Site {
    #[command(flatten)]
    pub own: Own,
    /// Use the running cluster that --server names, in queues that are deleted afterwards.
    #[arg(long)]
    pub connect: bool,
}

/// A cluster to play with.
pub struct Stage {
    data: Option<PathBuf>,
    global: Global,
    place: Place,
    client: Option<Client>,
    queues: Vec<String>,
    probe: Option<Probe>,
}

enum Place {
    Own {
        nodes: Nodes,
        directory: TempDir,
    },
    /// Number and process of each node, if they are on this machine.
    Running {
        processes: Option<Vec<(u64, u32)>>,
    },
}

impl Stage {
    /// Nothing is started or connected yet.
    pub fn prepare(own: &Own, connect: bool, global: &Global) -> Result<Stage, Failure> {
        let place = match connect {
            true => Place::Running { processes: None },
            false => new_cluster(own)?,
        };
        let (data, global) = (own.data.clone(), global.clone());
        Ok(Stage { data, global, place, client: None, queues: Vec::new(), probe: None })
    }

    /// Probes the disk, then starts the nodes or connects.
    pub async fn open(&mut self) -> Result<Client, Failure> {
        self.probe().await?;
        let client = match &mut self.place {
            Place::Own { nodes, .. } => {
                nodes.start_all()?;
                let addresses = nodes.addresses();
                nodes.watch(dev::wait_for_leader(addresses.clone())).await?;
                connect(&addresses).await?
            }
            Place::Running { processes } => {
                let client = session::connect(&self.global).await?;
                *processes = processes_here(&client).await?;
                client
            }
        };
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Measures the disk that the nodes write to, where that is known.
    pub async fn probe(&mut self) -> Result<(), Failure> {
        let directory = match &self.place {
            Place::Own { directory, .. } => Some(directory.path().to_owned()),
            Place::Running { .. } => self.data.clone(),
        };
        if let Some(directory) = directory {
            let place = directory.display().to_string();
            let measured = tokio::task::spawn_blocking(move || probe::measure(&directory)).await;
            let measured = measured.map_err(std::io::Error::other).and_then(|measured| measured);
            self.probe = Some(measured.map_err(|error| {
                Failure::new(Exit::CannotStart, format!("measure the disk of {place}: {error}"))
            })?);
        }
        Ok(())
    }

    /// What the disk alone takes, if it was measured.
    pub fn probed(&self) -> Option<&Probe> {
        self.probe.as_ref()
    }

    /// The nodes of a cluster of our own.
    pub fn nodes(&mut self) -> Result<&mut Nodes, Failure> {
        match &mut self.place {
            Place::Own { nodes, .. } => Ok(nodes),
            Place::Running { .. } => {
                Err(Failure::usage("nodes of a running cluster are not stopped or started"))
            }
        }
    }

    /// Does `work`; if one of our nodes ends meanwhile, that is the outcome.
    pub async fn watch<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match &mut self.place {
            Place::Own { nodes, .. } => nodes.watch(work).await,
            Place::Running { .. } => work.await,
        }
    }

    /// Creates queues with random names and three replicas; returns the names.
    pub async fn create_queues(
        &mut self,
        client: &Client,
        count: u64,
    ) -> Result<Vec<String>, Failure> {
        let run = random();
        let names: Vec<String> = (0..count).map(|n| format!("bench-{run:016x}-{n}")).collect();
        // Before they are made: what a failure leaves half done is deleted as well.
        self.queues.extend(names.iter().cloned());
        let created = stream::iter(names.clone())
            .map(Ok)
            .try_for_each_concurrent(CALLS_AT_A_TIME, |name| async move {
                create_queue(client, &name).await
            });
        self.watch(created).await?;
        Ok(names)
    }

    /// Process of each node that runs, by its number; `None` if they are not on this machine.
    pub fn processes(&self) -> Option<Vec<(u64, u32)>> {
        match &self.place {
            Place::Own { nodes, .. } => {
                let pid = |(index, node): (usize, &Node)| Some((node.id, nodes.pid(index)?));
                Some(nodes.list().iter().enumerate().filter_map(pid).collect())
            }
            Place::Running { processes } => processes.clone(),
        }
    }

    /// Their process ids alone.
    pub fn pids(&self) -> Option<Vec<u32>> {
        Some(self.processes()?.into_iter().map(|(_, pid)| pid).collect())
    }

    /// Resident bytes of each node, by its number.
    pub fn resident_bytes(&self) -> Option<Vec<(u64, u64)>> {
        let resident = |(node, pid)| Some((node, usage::resident_bytes(pid)?));
        self.processes()?.into_iter().map(resident).collect()
    }

    /// The most that each has had since it began.
    pub fn resident_peak_bytes(&self) -> Option<Vec<(u64, u64)>> {
        let resident = |(node, pid)| Some((node, usage::resident_peak_bytes(pid)?));
        self.processes()?.into_iter().map(resident).collect()
    }

    /// Starts from nothing again: other nodes on an empty directory.
    pub async fn renew(&mut self, own: &Own) -> Result<(), Failure> {
        self.nodes()?.stop_all().await;
        self.place = new_cluster(own)?;
        Ok(())
    }

    /// Stops the nodes and removes their data, or deletes the queues that were made; with `keep` the data and
    /// logs of our own nodes stay, for whoever wants to know why it failed.
    pub async fn leave(mut self, keep: bool) {
        match self.place {
            Place::Own { mut nodes, directory } => {
                nodes.stop_all().await;
                if keep {
                    let kept = directory.keep();
                    eprintln!("data and logs of the nodes are kept in {}", kept.display());
                }
            }
            Place::Running { .. } => {
                let Some(client) = self.client.take() else { return };
                let client = &client;
                let names = self.queues.iter().map(String::as_str);
                let deleting = stream::iter(names)
                    .for_each_concurrent(CALLS_AT_A_TIME, |name| async move {
                        delete_queue(client, name).await
                    });
                if tokio::time::timeout(DELETE_LIMIT, deleting).await.is_err() {
                    eprintln!(
                        "not all queues were deleted in time: look for bench-... in `quorate queue list`"
                    );
                }
            }
        }
    }
}

fn new_cluster(own: &Own) -> Result<Place, Failure> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("quorate-bench-");
    let directory = match &own.data {
        None => builder.tempdir(),
        Some(data) => std::fs::create_dir_all(data).and_then(|()| builder.tempdir_in(data)),
    };
    let directory = directory.map_err(|error| {
        Failure::new(Exit::CannotStart, format!("make a directory for the data: {error}"))
            .cure("a directory that can be written, with --data")
    })?;
    let ports = nodes::free_ports(NODES as usize)?;
    let list = (1..=NODES).zip(ports).map(|(id, port)| Node::new(id, port, directory.path()));
    let nodes = Nodes::new(list.collect())?;
    Ok(Place::Own { nodes, directory })
}

/// A client that begins with these nodes.
pub async fn connect(addresses: &[String]) -> Result<Client, Failure> {
    let builder = Client::builder().addresses(addresses).request_timeout(CALL_LIMIT);
    builder.connect().await.map_err(|error| session::failure("connect", &error))
}

async fn create_queue(client: &Client, name: &str) -> Result<(), Failure> {
    let settings = QueueSettings { replicas: NODES as u32, ..QueueSettings::default() };
    let created = client.create_queue(name, settings).await;
    created.map(drop).map_err(|error| session::failure("create queue", &error))
}

async fn delete_queue(client: &Client, name: &str) {
    if let Err(error) = client.delete_queue(name, false).await
        && error.reason() != Some(quorate_client::reason::QUEUE_NOT_FOUND)
    {
        eprintln!("{}", session::failure(&format!("delete queue {name:?}"), &error));
    }
}

/// A number that no other run has; the standard library seeds its hashers by the operating system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The nodes' processes, if all of them are on this machine: reachable, at loopback, and of our kind.
async fn processes_here(client: &Client) -> Result<Option<Vec<(u64, u32)>>, Failure> {
    let status = client.status().await;
    let status = status.map_err(|error| session::failure("show the cluster", &error))?;
    let here = |address: &str| {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        matches!(host, "localhost" | "[::1]") || host.starts_with("127.")
    };
    let process = |node: &quorate_client::NodeDescription| {
        let ours = here(&node.address) && usage::is_quorate(node.process_id);
        ours.then_some((node.node_id, node.process_id))
    };
    Ok(status.nodes.iter().map(process).collect())
}

/// Tries until a message to this queue is confirmed, creating the queue if there is none yet; returns the time
/// since `begun`.
pub async fn first_confirm(
    addresses: &[String],
    queue: &str,
    begun: Instant,
) -> Result<Duration, Failure> {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut last = Failure::new(Exit::Unavailable, "the cluster was not asked");
    while begun.elapsed() < FIRST_CONFIRM_LIMIT {
        match confirm(addresses, queue).await {
            Ok(()) => return Ok(begun.elapsed()),
            Err(failure) => last = failure,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(last.context(format!("no confirm within {FIRST_CONFIRM_LIMIT:?}")))
}

async fn confirm(addresses: &[String], queue: &str) -> Result<(), Failure> {
    const ATTEMPT: Duration = Duration::from_secs(5);
    let builder = Client::builder()
        .addresses(addresses)
        .connect_timeout(Duration::from_millis(500))
        .request_timeout(ATTEMPT);
    let client = builder.connect().await.map_err(|error| session::failure("connect", &error))?;
    create_queue(&client, queue).await?;
    let building = client.producer(queue).deadline(ATTEMPT).build();
    let producer = building.await.map_err(|error| session::failure("open producer", &error))?;
    let published = producer.publish(Message::new("first")).await;
    published.map(drop).map_err(|error| session::failure("publish", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_between_runs() {
        assert_ne!(random(), random());
    }

    #[test]
    fn data_goes_into_a_directory_of_its_own_under_the_one_that_was_named() {
        let parent = tempfile::tempdir().expect("a directory");
        let data = parent.path().join("deeper");
        let own = Own { data: Some(data.clone()), limit: Duration::from_secs(1) };
        let place = new_cluster(&own).expect("prepare");
        assert_eq!(std::fs::read_dir(&data).expect("list").count(), 1);
        drop(place);
        assert_eq!(std::fs::read_dir(&data).expect("list").count(), 0);
    }
}
