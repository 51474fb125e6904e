//! A test of an application against a simulated cluster: it finds the bug of a worker that acknowledges a
//! message before it has done its work.
//!
//! ```text
//! RUSTFLAGS="--cfg madsim" cargo run --profile sim -p quorate-examples \
//!     --example simulated_worker --target-dir target/sim
//! ```
//! Time, network and disks are simulated, and everything follows from a seed: a run of some seconds takes some
//! milliseconds, and a seed that fails fails the same way again.

#[cfg(not(madsim))]
fn main() {
    println!("This example runs in the simulated world: build it with RUSTFLAGS=\"--cfg madsim\",");
    println!("as the comment at its top says.");
}

#[cfg(madsim)]
fn main() {
    simulated::main();
}

#[cfg(madsim)]
mod simulated {
    use std::collections::BTreeSet;
    use std::panic::catch_unwind;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use futures_util::StreamExt;
    use quorate_client::{Message, QueueSettings};
    use quorate_sim::{Cluster, simulate};
    use tokio::time::sleep;

    /// What the application keeps, and survives its crashes: a database, say.
    type Database = Arc<Mutex<BTreeSet<Vec<u8>>>>;

    /// The application. A careless worker acknowledges first: if it dies in between, the message is
    /// gone and its work is not done.
    async fn worker(cluster: Cluster, database: Database, careless: bool) {
        let client = cluster.client().await;
        let mut orders = client.consumer("orders").prefetch(4).build().await.expect("attach");
        while let Some(Ok(delivery)) = orders.next().await {
            let order = delivery.body.to_vec();
            if careless {
                let _ = delivery.ack().await;
                work(order, &database).await;
            } else {
                work(order, &database).await;
                let _ = delivery.ack().await;
            }
        }
    }

    async fn work(order: Vec<u8>, database: &Database) {
        sleep(Duration::from_millis(20)).await;
        database.lock().expect("no panic while held").insert(order);
    }

    /// The test: fifty orders, a worker that is killed now and then; in the end all work is done.
    async fn every_order_is_worked_on(cluster: Cluster, careless: bool) {
        let client = cluster.client().await;
        let leases = QueueSettings { lease_ms: 1_000, session_grace_ms: 500, ..Default::default() };
        client.create_queue("orders", leases).await.expect("create the queue");
        let database = Database::default();
        let (there, kept) = (cluster.clone(), database.clone());
        let program = move || worker(there.clone(), kept.clone(), careless);
        let machine = cluster.machine("worker", program);
        let producer = client.producer("orders").build().await.expect("open a producer");
        for order in 0..50 {
            producer.publish(Message::new(format!("order {order}"))).await.expect("publish");
            if order % 10 == 9 {
                machine.kill();
                sleep(Duration::from_millis(100)).await;
                machine.start_again();
            }
        }
        let mut left = u64::MAX;
        while left > 0 {
            sleep(Duration::from_millis(200)).await;
            let queue = client.describe_queue("orders").await.expect("describe the queue");
            left = queue.counts.map_or(0, |counts| counts.ready + counts.leased);
        }
        sleep(Duration::from_secs(1)).await;
        let done = database.lock().expect("no panic while held").len();
        assert_eq!(done, 50, "orders were acknowledged, but never worked on");
    }

    pub fn main() {
        println!("a worker that acknowledges first:");
        let found = catch_unwind(|| {
            simulate(1..=20, |cluster| every_order_is_worked_on(cluster, true));
        });
        assert!(found.is_err(), "the bug was not found");
        println!("\na worker that acknowledges what is done:");
        simulate(1..=20, |cluster| every_order_is_worked_on(cluster, false));
        println!("20 seeds: every order was worked on, however often the worker was killed");
    }
}
