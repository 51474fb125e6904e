//! Programs to read and run, in `examples/`: each shows one thing, checks what it says, and ends by itself.
//!
//! ```text
//! quorate dev                                      in another terminal: three nodes
//! cargo run -p quorate-examples --example hello
//! ```
//! | example | what it shows |
//! |---|---|
//! | `hello` | create a queue, publish, consume, acknowledge |
//! | `bulk` | many messages in flight, each with its receipt; acks that need not be waited for |
//! | `work_queue` | a worker with several jobs at a time that stops in order |
//! | `retries_and_dead_letters` | back-off, a limit of deliveries, the dead-letter queue, and the way back |
//! | `ordered_groups` | one after the other by key, keys side by side |
//! | `delayed_jobs` | messages for later, never early |
//! | `fan_out` | a topic: one message to several queues, by subject and header |
//! | `replay` | messages that were consumed are read again, from an offset and from a time |
//! | `request_reply` | questions and answers over two queues |
//! | `outbox` | a row in a database and a message, both or neither, over a crash |
//! | `exactly_once` | the effect of each message once in a database, over kill -9 |
//! | `traced` | a trace that goes through a queue |
//! | `simulated_worker` | a test of an application against a simulated cluster |
//!
//! All take the nodes' addresses from `QUORATE_SERVER` (comma separated), as the command line does, or those of
//! `quorate dev`. What is in here is not about queues, so that what is in the examples is. `tests/cluster.rs` runs
//! every one of them on three real nodes, and again while nodes are killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Addresses of nodes: `QUORATE_SERVER`, or those of `quorate dev`. One is enough to find the others.
#[must_use]
pub fn servers() -> Vec<String> {
    let servers = std::env::var("QUORATE_SERVER");
    let servers = servers.unwrap_or("127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103".to_owned());
    servers.split(',').map(str::to_owned).collect()
}

/// A name that no earlier run has used, nor one beside this.
#[must_use]
pub fn unique(name: &str) -> String {
    format!("{name}-{}-{}", now_ms(), std::process::id())
}

/// Milliseconds since 1970: what the cluster counts in.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Starts this very program once more as a process of its own, with these arguments, and repeats what it prints. As
/// soon as it prints `kill_at`, it is ended with kill -9.
///
/// # Errors
/// When it cannot be started.
pub fn run_again(args: &[&str], kill_at: Option<&str>) -> std::io::Result<(String, ExitStatus)> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.args(args).stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let line = line?;
        println!("  | {line}");
        said.push_str(&line);
        said.push('\n');
        if kill_at == Some(line.as_str()) {
            child.kill()?;
        }
    }
    Ok((said, child.wait()?))
}
