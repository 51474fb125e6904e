//! The binary `quorate`: command line, settings and wiring. The work is done in `quorate-broker` (nodes) and
//! `quorate-client` (everything that talks to them).
//!
//! ```text
//! args ──► commands/* ──► broker::Node            (server)
//!                   ├───► nodes: child processes  (dev, demo, bench)
//!                   ├───► group::offline          (log: a stopped node's directory)
//!                   └───► session ──► client      (publish, consume, consumer, queue, slot, cluster, demo, bench)
//! every command returns Result<(), Failure>; main prints it and turns it into an exit code (exit.rs)
//! ```

mod allocator;
mod args;
mod commands;
mod exit;
mod failure;
mod logging;
mod message;
mod nodes;
mod session;
mod settings;
mod stop;
mod table;
mod units;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use quorate_broker::Config;

use crate::args::{Args, Command};
use crate::commands::{
    apply, bench, cluster, completions, consume, consumer, demo, dev, log, publish, queue, read,
    receive, server, settle, sim, slot, topic, verify,
};
use crate::exit::Exit;
use crate::failure::Failure;

fn main() -> ExitCode {
    match execute(Args::parse()) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            if !failure.is_quiet() {
                eprintln!("{failure}");
            }
            failure.exit().into()
        }
    }
}

fn execute(args: Args) -> Result<(), Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let mut node = None;
    if let Command::Server(args) = &args.command {
        let config = args.config()?;
        let threads = server::worker_threads(&config);
        allocator::bound_arenas(threads);
        runtime.worker_threads(threads);
        node = Some(config);
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::CannotStart, format!("start the runtime: {error}")))?;
    let outcome = runtime.block_on(run(args, node.unwrap_or_default()));
    // A read of standard input may still be blocked in a thread; it must not hold the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// `node`: the settings of a server.
async fn run(args: Args, node: Config) -> Result<(), Failure> {
    let global = &args.global;
    match args.command {
        Command::Server(args) => server::run(*args, node).await,
        Command::Dev(args) => dev::run(args, global).await,
        Command::Demo(args) => demo::run(args, global).await,
        Command::Bench(command) => bench::run(*command, global).await,
        Command::Publish(args) => publish::run(args, global).await,
        Command::Read(args) => read::run(args, global).await,
        Command::Verify(args) => verify::run(&args, global).await,
        Command::Consume(args) => consume::run(args, global).await,
        Command::Receive(args) => receive::run(args, global).await,
        Command::Settle(args) => settle::run(args, global).await,
        Command::Queue(command) => queue::run(command, global).await,
        Command::Topic(command) => topic::run(command, global).await,
        Command::Consumer(command) => consumer::run(command, global).await,
        Command::Apply(args) => apply::run(args, global).await,
        Command::Slot(command) => slot::run(command, global).await,
        Command::Cluster(command) => cluster::run(command, global).await,
        Command::Log(command) => log::run(&command, global),
        Command::Sim(args) => sim::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}
