//! A worker that handles several messages at a time, retries what fails, and stops in order on Ctrl-C.
//!
//! `cargo run -p quorate-examples --example worker [QUEUE]`
//!
//! A handler may take longer than a lease: the SDK extends it. If the worker dies, its messages go to another
//! one when their leases end.

use std::time::Duration;

use quorate_client::{Client, Job, JobError};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let queue = std::env::args().nth(1).unwrap_or("orders".to_owned());
    let client = Client::connect(servers()).await?;
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    client.worker(queue, work).concurrency(8).attempts(5).run_until(stop).await?;
    println!("stopped: what was begun is done");
    Ok(())
}

async fn work(job: Job) -> Result<(), JobError> {
    if job.body.is_empty() {
        return Err(JobError::reject("the message is empty"));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    println!("{}: {}", job.offset, String::from_utf8_lossy(&job.body));
    Ok(())
}

fn servers() -> Vec<String> {
    let servers = std::env::var("QUORATE_SERVER");
    let servers = servers.unwrap_or("127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103".to_owned());
    servers.split(',').map(str::to_owned).collect()
}
