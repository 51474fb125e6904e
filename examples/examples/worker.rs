//! A worker that handles several messages at a time, retries what fails, and stops in order on Ctrl-C.
//!
//! `cargo run -p quorate-examples --example worker [QUEUE]`
//!
//! A handler may take longer than a lease: the SDK extends it. If the worker dies, its messages go to another
//! one when their leases end.

use std::time::Duration;

use futures_util::StreamExt;
use quorate_client::{Client, Delivery};
use tokio::task::JoinSet;

const PARALLEL: u32 = 8;
const ATTEMPTS: u32 = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let queue = std::env::args().nth(1).unwrap_or("orders".to_owned());
    let client = Client::connect(servers()).await?;
    // The prefetch bounds how many deliveries, hence handlers, there are at a time.
    let mut consumer = client.consumer(queue).name("worker").prefetch(PARALLEL).build().await?;
    let mut handlers = JoinSet::new();
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            Some(_) = handlers.join_next() => {}
            delivery = consumer.next() => match delivery {
                Some(delivery) => drop(handlers.spawn(handle(delivery?))),
                None => break,
            },
        }
    }
    println!("stopping: {} handlers finish first", handlers.len());
    while handlers.join_next().await.is_some() {}
    consumer.close().await;
    Ok(())
}

async fn handle(delivery: Delivery) {
    let (offset, attempt) = (delivery.offset, delivery.attempt);
    let settled = match work(&delivery.body).await {
        Ok(()) => delivery.ack().await,
        Err(error) if attempt < ATTEMPTS => {
            eprintln!("{offset}: attempt {attempt}: {error}");
            delivery.nack(Some(Duration::from_secs(1) * attempt)).await
        }
        Err(error) => {
            eprintln!("{offset}: given up: {error}");
            delivery.reject().await
        }
    };
    if let Err(error) = settled {
        // The work was done, and may be done again: handlers have to bear that.
        eprintln!("{offset}: {error}");
    }
}

async fn work(body: &[u8]) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    anyhow::ensure!(!body.is_empty(), "the message is empty");
    println!("{}", String::from_utf8_lossy(body));
    Ok(())
}

fn servers() -> Vec<String> {
    let servers = std::env::var("QUORATE_SERVER");
    let servers = servers.unwrap_or("127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103".to_owned());
    servers.split(',').map(str::to_owned).collect()
}
