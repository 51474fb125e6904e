//! Takes messages from a queue until it has been empty for two seconds, one at a time.
//!
//! `cargo run -p quorate-examples --example consume [QUEUE]`

use std::time::Duration;

use futures_util::StreamExt;
use quorate_client::Client;

const IDLE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let queue = std::env::args().nth(1).unwrap_or("orders".to_owned());
    let client = Client::connect(servers()).await?;
    let mut consumer = client.consumer(queue).name("example").build().await?;
    let mut taken = 0;
    while let Ok(Some(delivery)) = tokio::time::timeout(IDLE, consumer.next()).await {
        let delivery = delivery?;
        println!("{}: {}", delivery.offset, String::from_utf8_lossy(&delivery.body));
        // Does not wait: acks that gather while one request is under way share the next. `ack().await`
        // tells whether it was confirmed.
        delivery.ack_later();
        taken += 1;
    }
    // Waits for the acks under way.
    consumer.close().await;
    println!("{taken} messages taken");
    Ok(())
}

fn servers() -> Vec<String> {
    let servers = std::env::var("QUORATE_SERVER");
    let servers = servers.unwrap_or("127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103".to_owned());
    servers.split(',').map(str::to_owned).collect()
}
