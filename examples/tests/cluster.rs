//! Every example on a cluster of three real nodes: twice in a row, and while nodes are killed.
//!
//! An example checks what it shows and ends with code 0. These tests start the programs that cargo has built beside
//! them (`cargo test` and `cargo nextest run` build the examples of a package with its tests), and show what an example
//! printed if it fails.

#![cfg(not(madsim))]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_tests::{Cluster, turn};

/// Time limit of a test; it ends one that hangs, and measures nothing.
const LIMIT: Duration = Duration::from_secs(240);
/// Longest time for one example to end.
const PATIENCE: Duration = Duration::from_secs(90);
/// Nodes killed while the examples run.
const KILLS: usize = 6;
/// Between two looks at a program.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs with `--cfg madsim`, by `cargo xtask sim`; built as here it only says so.
const SIMULATED: &str = "simulated_worker";

/// A test for each example, and the list of all.
macro_rules! examples {
    ($($name:ident)*) => {
        const EXAMPLES: &[&str] = &[$(stringify!($name)),*];

        mod runs_twice_in_a_row {
            $(#[test]
            fn $name() {
                super::run_twice(stringify!($name));
            })*
        }
    };
}

examples! {
    bulk delayed_jobs exactly_once fan_out hello ordered_groups outbox replay request_reply
    retries_and_dead_letters traced work_queue
}

#[test]
fn no_example_is_left_out() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = std::fs::read_dir(directory).expect("the examples");
    let there: BTreeSet<String> = files
        .map(|file| file.expect("a file").path().with_extension(""))
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    let run = EXAMPLES.iter().copied().chain([SIMULATED]).map(str::to_owned);
    assert_eq!(run.collect::<BTreeSet<_>>(), there, "add it to `examples!` in tests/cluster.rs");

    let list = include_str!("../src/lib.rs");
    for name in there {
        assert!(list.contains(&format!("| `{name}` |")), "{name} is not in the list of src/lib.rs");
    }
}

#[test]
fn each_holds_while_nodes_are_killed_and_started_again() {
    turn::alone(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let servers = cluster.addresses();
        let mut running: Vec<_> =
            EXAMPLES.iter().map(|name| Example::start(name, &servers)).collect();
        let mut runs = 0;
        for node in cluster.ids().into_iter().cycle().take(KILLS) {
            cluster.kill9(node);
            runs += go_on(&mut running, &servers, Duration::from_millis(500)).await;
            cluster.start_node(node);
            cluster.ready().await;
            runs += go_on(&mut running, &servers, Duration::from_millis(1_000)).await;
        }
        for example in &mut running {
            runs += example.run_to_the_end(&servers).await;
        }
        println!("{runs} runs of {} examples, {KILLS} nodes killed", EXAMPLES.len());
    });
}

/// Looks at examples for so long, and starts those again that have ended. Says how many have ended well.
async fn go_on(running: &mut [Example], servers: &[String], period: Duration) -> usize {
    let begun = Instant::now();
    let mut runs = 0;
    while begun.elapsed() < period {
        tokio::time::sleep(LOOK_EVERY).await;
        for example in running.iter_mut() {
            let ended = example.ended();
            runs += usize::from(ended == Some(Ended::Well));
            if ended.is_some() {
                *example = Example::start(example.name, servers);
            }
        }
    }
    runs
}

fn run_twice(name: &str) {
    turn::beside_others(LIMIT, async {
        let cluster = Cluster::start(3).await;
        for _ in 0..2 {
            let mut example = Example::start(name, &cluster.addresses());
            example.run_to_the_end(&cluster.addresses()).await;
            println!("{}", example.said());
        }
        let left: Vec<_> = cluster.client().await.list_queues().await.expect("listed");
        let left: Vec<_> = left.into_iter().map(|queue| queue.name).collect();
        assert!(left.is_empty(), "{name} leaves queues behind: {left:?}");
    });
}

/// How an example has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    /// While a node is down, no queue of three replicas can be made, which is said before anything else.
    NotBegun,
}

/// An example that runs. Killed when dropped.
struct Example {
    name: &'static str,
    child: Child,
    out: tempfile::TempPath,
    begun: Instant,
}

impl Example {
    fn start(name: &str, servers: &[String]) -> Self {
        let name = EXAMPLES.iter().find(|known| **known == name).expect("an example");
        let out = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
        let file = File::options().append(true).open(&out).expect("open it");
        let mut command = Command::new(program(name));
        command.env("QUORATE_SERVER", servers.join(",")).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("share it")).stderr(file);
        let child = command.spawn().expect("start the example");
        Self { name, child, out, begun: Instant::now() }
    }

    /// Waits until it has ended well; starts it again if it has not begun.
    async fn run_to_the_end(&mut self, servers: &[String]) -> usize {
        loop {
            match self.ended() {
                Some(Ended::Well) => return 1,
                Some(Ended::NotBegun) => *self = Self::start(self.name, servers),
                None => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How it has ended, which has to be with code 0 and in time.
    fn ended(&mut self) -> Option<Ended> {
        let ended = self.child.try_wait().expect("look at it");
        let (name, said) = (self.name, self.said());
        match ended {
            None => {
                assert!(self.begun.elapsed() < PATIENCE, "{name} does not end:\n{said}");
                None
            }
            Some(status) if status.success() => Some(Ended::Well),
            Some(_) if said.starts_with("Error: ") && said.contains("(NOT_ENOUGH_NODES)") => {
                Some(Ended::NotBegun)
            }
            Some(status) => panic!("{name} ended with {status}:\n{said}"),
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).expect("read it")).into_owned()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// target/debug/examples/NAME, beside target/debug/deps/this-test.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    let profile = test.ancestors().nth(2).expect("two levels below the target directory");
    let program = profile.join("examples").join(name);
    assert!(
        program.is_file(),
        "{} is not built: run `cargo build --package quorate-examples --examples` first",
        program.display()
    );
    program
}
