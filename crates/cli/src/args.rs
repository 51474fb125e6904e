//! The command line: global options and the list of commands.
//!
//! Each command's own options stand beside its code in `commands/`.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::commands::{
    apply, bench, cluster, completions, consume, consumer, demo, dev, log, publish, queue, read,
    receive, server, settle, sim, slot, topic, verify,
};
use crate::units;

/// Nodes of `quorate dev`, then a single `quorate server`: what runs on a developer's machine.
pub const DEFAULT_SERVERS: &str = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103,127.0.0.1:7100";

/// A message queue that keeps what it confirmed.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 node could not start, \
4 cluster unreachable or without majority, 5 not found, 6 refused, 7 loss not accepted.")]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Nodes to find the cluster by, host:port; repeat it or separate by commas. One that answers is enough.
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',')]
    #[arg(env = "QUORATE_SERVER", default_value = DEFAULT_SERVERS, hide_default_value = true)]
    #[arg(help_heading = "Global options")]
    pub server: Vec<String>,
    /// How results are printed: aligned columns, or JSON for programs.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    #[arg(help_heading = "Global options")]
    pub output: Format,
    /// How long a request may take, e.g. 500ms, 5s, 2m; a bare number is seconds.
    #[arg(long, global = true, value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = units::parse_duration, help_heading = "Global options")]
    pub timeout: Duration,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// JSON for programs; several results are one object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node.
    Server(Box<server::Args>),
    /// Run a three-node cluster on this machine, for development.
    Dev(dev::Args),
    /// Show on real processes that a killed leader loses nothing that was confirmed.
    Demo(demo::Args),
    /// Measure a cluster: throughput, latency, failover, what it costs.
    #[command(subcommand)]
    Bench(Box<bench::Command>),
    /// Publish messages to a queue.
    Publish(publish::Args),
    /// Compare receipts with what the cluster has.
    Verify(verify::Args),
    /// Look at a queue's messages without taking them.
    Read(read::Args),
    /// Take messages from a queue.
    Consume(consume::Args),
    /// Take one batch of messages and hold them, to settle them by `settle`.
    Receive(receive::Args),
    /// Acknowledge what `receive` has taken, give it back, or hold it longer.
    Settle(settle::Args),
    /// Create, show, empty and remove queues.
    #[command(subcommand)]
    Queue(queue::Command),
    /// Show, pause, resume and end those that take messages from a queue.
    #[command(subcommand)]
    Consumer(consumer::Command),
    /// Make the queues of a cluster what a file says.
    Apply(apply::Args),
    /// Create, move, show and remove slots: read positions that keep what they need.
    #[command(subcommand)]
    Slot(slot::Command),
    /// Create, bind, show and remove topics, and publish to them: one message to several queues.
    #[command(subcommand)]
    Topic(topic::Command),
    /// Show the cluster, add nodes.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Look into the log of a node that does not run: show, verify, export, replay.
    #[command(subcommand)]
    Log(Box<log::Command>),
    /// Search simulated runs of the broker for one that breaks a promise.
    Sim(Box<sim::Args>),
    /// Print a completion script for a shell.
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn servers_are_repeated_or_listed_before_or_behind_the_command() {
        let args = ["quorate", "--server", "a:1,b:2", "queue", "list", "--server", "c:3"];
        // A global option given behind the command replaces the one before it, as clap defines it.
        assert_eq!(Args::parse_from(args).global.server, ["c:3"]);
        let args = ["quorate", "queue", "list", "--server", "a:1", "--server", "b:2,c:3"];
        assert_eq!(Args::parse_from(args).global.server, ["a:1", "b:2", "c:3"]);
    }

    #[test]
    fn the_default_servers_are_those_of_dev_and_of_a_single_node() {
        let args = Args::parse_from(["quorate", "cluster", "status"]);
        assert_eq!(args.global.server.len(), 4);
        assert_eq!(args.global.output, Format::Table);
        assert_eq!(args.global.timeout, Duration::from_secs(10));
    }

    #[test]
    fn wrong_usage_ends_with_code_2() {
        for wrong in [
            vec!["quorate"],
            vec!["quorate", "queue"],
            vec!["quorate", "publish"],
            vec!["quorate", "--timeout", "soon", "queue", "list"],
            vec!["quorate", "-o", "xml", "queue", "list"],
            vec!["quorate", "queue", "create", "orders", "--replicas", "many"],
            vec!["quorate", "consume", "orders", "--count", "1", "--follow"],
        ] {
            let error = Args::try_parse_from(&wrong).expect_err(&wrong.join(" "));
            assert_eq!(error.exit_code(), 2, "{}", wrong.join(" "));
        }
    }
}
