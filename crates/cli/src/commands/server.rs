//! `quorate server`: one node, until it is told to stop.
//!
//! All of a node's work is in the broker crate; this opens its settings, its log, and listens for signals.
//! ```text
//! SIGTERM, SIGINT, end of standard input (--exit-with-stdin) ──► Node::shutdown ──► exit 0
//! the node itself must stop (a failed flush, a lost identity)  ──► message       ──► exit 1
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;

use clap::builder::BoolishValueParser;
use quorate_broker::{Config, DirError, Node, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use toml::{Table, Value};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging::{self, LogFormat};
use crate::settings::{self, Sources};

/// Options of `server`. Every other setting: configuration file, `QUORATE_SECTION_KEY` or `--set`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Settings come from flags, then QUORATE_* variables, then the file, then defaults.\n\
Settings of [limits], [storage], [raft] and [telemetry] have variables too, e.g. QUORATE_RAFT_HEARTBEAT_MS=250."
)]
pub struct Args {
    /// Configuration file (TOML); every setting is shown in deploy/quorate.toml.
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG")]
    config: Option<PathBuf>,
    /// Directory of the node's data; made if it does not exist.
    #[arg(long, value_name = "DIR", env = "QUORATE_DATA")]
    data: Option<PathBuf>,
    /// Address to listen on; the default is loopback.
    #[arg(long, value_name = "IP:PORT", env = "QUORATE_LISTEN")]
    listen: Option<SocketAddr>,
    /// host:port at which clients and the other nodes reach this one; default: the listen address.
    #[arg(long, value_name = "HOST:PORT", env = "QUORATE_ADVERTISE")]
    advertise: Option<String>,
    /// This node's number in a new cluster; later starts read it from the data directory.
    #[arg(long, value_name = "N", env = "QUORATE_NODE_ID")]
    node_id: Option<u64>,
    /// First nodes of a new cluster, this one included; repeat it or separate by commas.
    #[arg(
        long = "peer",
        value_name = "ID=HOST:PORT",
        env = "QUORATE_PEERS",
        value_delimiter = ','
    )]
    peers: Vec<Peer>,
    /// Failure domain of this node; replicas are spread over zones.
    #[arg(long, value_name = "NAME", env = "QUORATE_ZONE")]
    zone: Option<String>,
    /// Listen beyond loopback without TLS and without authentication.
    #[arg(long, env = "QUORATE_INSECURE", value_name = "BOOL", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    insecure: Option<bool>,
    /// Threads that serve; 0: one a core, divided among the peers on this host.
    #[arg(long, value_name = "N", env = "QUORATE_WORKER_THREADS")]
    worker_threads: Option<u32>,
    /// Any setting of a section, e.g. raft.heartbeat_ms=250; repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", env = "QUORATE_LOG_FORMAT")]
    log_format: LogFormat,
    /// Level, or filter by module like info,quorate_broker=debug.
    #[arg(long, default_value = "info", value_name = "LEVEL", env = "QUORATE_LOG_LEVEL")]
    log_level: String,
    /// Stop when standard input ends, so that a parent that dies takes the node with it.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

/// `ID=HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    id: u64,
    address: String,
}

impl std::str::FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Peer, String> {
        let wrong = || format!("{text:?}: write ID=HOST:PORT, e.g. 1=10.0.0.1:7100");
        let (id, address) = text.split_once('=').ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Peer { id: id.parse().map_err(|_| wrong())?, address: address.to_owned() })
    }
}

impl Args {
    /// The node's settings. To be read once: the file may be a pipe.
    pub fn config(&self) -> Result<Config, Failure> {
        settings::resolve(self.sources())
    }

    fn sources(&self) -> Sources {
        Sources {
            file: self.config.clone(),
            variables: std::env::vars().collect(),
            assignments: self.set.clone(),
            flags: self.flags(),
        }
    }

    /// The top-level settings that were given, by the names they have in the file.
    fn flags(&self) -> Table {
        let text = |text: String| Value::String(text);
        let peers: Vec<Value> = self.peers.iter().map(Peer::value).collect();
        let mut flags = Table::new();
        let given = [
            ("data", self.data.as_ref().map(|path| text(path.display().to_string()))),
            ("listen", self.listen.map(|address| text(address.to_string()))),
            ("advertise", self.advertise.clone().map(text)),
            ("node_id", self.node_id.map(|id| Value::Integer(id as i64))),
            ("zone", self.zone.clone().map(text)),
            ("insecure", self.insecure.map(Value::Boolean)),
            ("worker_threads", self.worker_threads.map(|count| Value::Integer(count.into()))),
            ("peers", (!peers.is_empty()).then_some(Value::Array(peers))),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                flags.insert(name.to_owned(), value);
            }
        }
        flags
    }
}

impl Peer {
    fn value(&self) -> Value {
        let id = ("id".to_owned(), Value::Integer(self.id as i64));
        let address = ("address".to_owned(), Value::String(self.address.clone()));
        Value::Table(Table::from_iter([id, address]))
    }
}

/// Threads to serve with on this machine.
pub fn worker_threads(config: &Config) -> usize {
    config.worker_threads(thread::available_parallelism().map_or(1, usize::from))
}

/// Runs the node; returns once it has stopped.
pub async fn run(args: Args, config: Config) -> Result<(), Failure> {
    logging::start(args.log_format, &args.log_level)?;
    // Signals are caught from here on: one that comes while the node starts is not lost.
    let mut stop = Stop::new(args.exit_with_stdin)?;
    let data = config.data.display().to_string();
    let worker_threads = worker_threads(&config);
    let node = tokio::select! {
        biased;
        why = stop.requested() => {
            tracing::info!(why, "stopped before the start was complete");
            return Ok(());
        }
        started = Node::start(config) => started.map_err(|error| cannot_start(&error, &data))?,
    };
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(address = %node.address(), data, worker_threads, version, "node is up");
    tokio::select! {
        biased;
        why = stop.requested() => tracing::info!(why, "stopping"),
        what = node.failed() => {
            tracing::error!(what, "the node must stop");
            return Err(Failure::new(Exit::Failed, format!("the node had to stop: {what}")));
        }
    }
    tokio::select! {
        biased;
        () = node.shutdown() => tracing::info!("stopped"),
        why = stop.requested() => tracing::warn!(why, "stopping at once"),
    }
    Ok(())
}

fn cannot_start(error: &StartError, data: &str) -> Failure {
    let mut what = format!("could not start: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !what.contains(&cause_text) {
            what.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    let cure = match error {
        StartError::Listen { .. } => {
            "--listen with a free port, or stop the program that uses this one".to_owned()
        }
        StartError::Dir(DirError::Locked { .. }) => {
            "stop the node that runs on this directory, or name another one with --data".to_owned()
        }
        _ => {
            format!(
                "check the settings and the data directory {data}; --log-level debug tells more"
            )
        }
    };
    Failure::new(Exit::CannotStart, what).cure(cure)
}

/// Everything that asks the process to stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    stdin_ended: Option<oneshot::Receiver<()>>,
}

impl Stop {
    fn new(with_stdin: bool) -> Result<Stop, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::CannotStart, format!("listen for signals: {error}"))
            })
        };
        Ok(Stop {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            stdin_ended: with_stdin.then(when_stdin_ends),
        })
    }

    /// Resolves with what asked; each call waits for the next one to ask.
    async fn requested(&mut self) -> &'static str {
        let stdin_ended = async {
            match self.stdin_ended.as_mut() {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = stdin_ended => "standard input ended",
        };
        if why == "standard input ended" {
            self.stdin_ended = None;
        }
        why
    }
}

/// A thread of its own: a blocked read of standard input cannot be cancelled, and must not hold the exit.
fn when_stdin_ends() -> oneshot::Receiver<()> {
    let (ended, when) = oneshot::channel();
    thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    when
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Args {
        Only::parse_from(std::iter::once(&"server").chain(words)).args
    }

    #[test]
    fn peers_are_repeated_or_listed() {
        let args = parse(&["--peer", "1=a:7100,2=b:7100", "--peer", "3=[::1]:7100"]);
        let ids: Vec<u64> = args.peers.iter().map(|peer| peer.id).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(args.peers[2].address, "[::1]:7100");
        for wrong in ["a:7100", "1=a", "x=a:1", "1=:7100", "1=a:port"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn flags_become_settings_by_their_names_in_the_file() {
        let args = parse(&["--data", "/d", "--listen", "127.0.0.1:1", "--node-id", "2"]);
        let config = settings::resolve(Sources { flags: args.flags(), ..Sources::default() });
        let config = config.expect("valid");
        assert_eq!(config.data, PathBuf::from("/d"));
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.node_id, Some(2));
    }

    #[test]
    fn what_is_not_given_is_left_to_the_other_sources() {
        let args = parse(&[]);
        // Variables of the environment the test runs in may set some; none is set by default.
        let names: Vec<String> = args.flags().keys().cloned().collect();
        assert!(
            names
                .iter()
                .all(|name| std::env::var_os(format!("QUORATE_{}", name.to_uppercase())).is_some())
        );
    }

    #[test]
    fn insecure_can_be_said_and_unsaid() {
        assert_eq!(parse(&["--insecure"]).insecure, Some(true));
        assert_eq!(parse(&["--insecure=false"]).insecure, Some(false));
        assert_eq!(parse(&["--insecure=no"]).insecure, Some(false));
    }

    #[test]
    fn the_cure_of_a_failed_start_fits_what_is_in_use() {
        let path = PathBuf::from("/d");
        let locked = StartError::Dir(DirError::Locked { path, pid: Some(7) });
        let failure = cannot_start(&locked, "/d").to_string();
        assert!(failure.contains("in use by process 7") && failure.contains("--data"), "{failure}");
        assert!(!failure.contains("--listen"), "{failure}");
        let source = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let failure = cannot_start(&StartError::Listen { address, source }, "/d").to_string();
        assert!(failure.contains("--listen with a free port"), "{failure}");
    }

    #[test]
    fn listening_beyond_loopback_needs_insecure() {
        let open = |words: &[&str]| {
            settings::resolve(Sources { flags: parse(words).flags(), ..Sources::default() })
        };
        let listen = ["--listen", "0.0.0.0:7100", "--advertise", "node:7100"];
        let failure = open(&listen).expect_err("not loopback");
        assert_eq!(failure.exit(), Exit::CannotStart);
        assert!(failure.to_string().contains("insecure"), "{failure}");
        assert!(open(&[&listen[..], &["--insecure"]].concat()).is_ok());
    }
}
