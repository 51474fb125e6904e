//! A row in a database and a message about it: both or neither, and the message once. The transactional outbox.
//!
//! ```text
//!  transaction: order + outbox row ──► SQLite ──► relay: publish, wait for the receipts, delete the rows ──► queue
//! ```
//! What is to be published is written to a table, in the transaction of what it is about. A relay publishes the rows
//! and deletes those that are confirmed. If it dies between the two, the next one publishes them again; but each goes
//! under an id that follows from its row, and the queue takes an id once.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example outbox
//! ```
//! The relay is a process of its own, and is killed with kill -9 just then. It prints:
//! ```text
//! created orders-1795749000000-4711
//! 10 orders placed, and one that was rolled back
//! first relay:
//!   | 10 published, 0 of them were in the queue already
//!   | not deleted yet
//! killed it: 10 rows are in the outbox still
//! second relay, with 2 more orders:
//!   | 12 published, 10 of them were in the queue already
//! the outbox is empty, and 12 messages are in the queue, one for each order
//! ```

use anyhow::ensure;
use futures_util::StreamExt;
use quorate_client::{Batch, Client, Message, QueueSettings};
use quorate_examples::{run_again, servers, unique};
use rusqlite::Connection;

/// The first relay prints this between publishing and deleting, and is killed.
const BETWEEN: &str = "not deleted yet";
/// Rows that the relay takes at a time.
const ROWS: i64 = 100;
/// How long the queue remembers an id: longer than a relay may be away after it has died.
const REMEMBERED_MS: u32 = 24 * 3_600_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["relay", database, queue, pause] => relay(database, queue, pause == "pause").await,
        _ => run().await,
    }
}

async fn run() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue = unique("orders");
    let settings = QueueSettings { dedup_age_ms: REMEMBERED_MS, ..Default::default() };
    client.create_queue(&queue, settings).await?;
    println!("created {queue}");

    let directory = tempfile::tempdir()?;
    let path = directory.path().join("shop.db").display().to_string();
    let mut database = Connection::open(&path)?;
    database.execute_batch(
        // Without AUTOINCREMENT, SQLite gives the number of a deleted row to another one, whose message would be
        // taken for a retry of the first.
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL);
         CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);",
    )?;
    for n in 0..10 {
        place_order(&mut database, &format!("item {n}"), true)?;
    }
    place_order(&mut database, "an item that is sold out", false)?;
    println!("10 orders placed, and one that was rolled back");

    println!("first relay:");
    let (_, ended) = run_again(&["relay", &path, &queue, "pause"], Some(BETWEEN))?;
    assert!(ended.code().is_none(), "the relay ended by a signal, not by itself: {ended}");
    assert_eq!(count(&database, "outbox")?, 10, "nothing was deleted");
    println!("killed it: 10 rows are in the outbox still");

    for n in 10..12 {
        place_order(&mut database, &format!("item {n}"), true)?;
    }
    println!("second relay, with 2 more orders:");
    let (said, ended) = run_again(&["relay", &path, &queue, "go on"], None)?;
    ensure!(ended.success(), "the relay has failed: {ended}");
    let again: u32 = said.split_whitespace().nth(2).unwrap_or_default().parse()?;
    assert!(again >= 10, "the queue knows what it has from the first relay, not {again} of 10");

    assert_eq!(count(&database, "outbox")?, 0, "the outbox is empty");
    let orders = count(&database, "orders")?;
    let published = held(&client, &queue).await?;
    let expected: Vec<_> = (0..orders).map(|n| format!("ordered: item {n}")).collect();
    assert_eq!(
        published, expected,
        "one message for each order, in order, none for the one that was rolled back"
    );
    println!("the outbox is empty, and {orders} messages are in the queue, one for each order");
    client.delete_queue(&queue, false).await?;
    Ok(())
}

/// The application: it knows of no queue, only of one transaction.
fn place_order(database: &mut Connection, item: &str, in_stock: bool) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    transaction.execute("INSERT INTO orders (item) VALUES (?1)", [item])?;
    let message = format!("ordered: {item}");
    transaction.execute("INSERT INTO outbox (body) VALUES (?1)", [message])?;
    match in_stock {
        true => transaction.commit(),
        false => transaction.rollback(),
    }
}

/// The relay: publishes what is in the outbox, until it is empty. A real one would wait for more.
async fn relay(database: &str, queue: &str, pause: bool) -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let producer = client.producer(queue).build().await?;
    let database = Connection::open(database)?;
    loop {
        let rows = first_rows(&database)?;
        let Some(&(last, _)) = rows.last() else { return Ok(()) };
        let mut sent = Vec::new();
        for (id, body) in &rows {
            let batch = Batch::from(Message::new(body.clone())).id(format!("outbox/{id}"));
            // Does not wait for the receipts: they are all on their way at a time, in order.
            sent.extend(producer.send_batch(batch).await?);
        }
        let mut again = 0;
        for pending in sent {
            // If one fails, nothing is deleted, and the next run begins with the same rows.
            again += usize::from(pending.await?.duplicate);
        }
        println!("{} published, {again} of them were in the queue already", rows.len());
        if pause {
            println!("{BETWEEN}");
            std::future::pending::<()>().await;
        }
        database.execute("DELETE FROM outbox WHERE id <= ?1", [last])?;
    }
}

fn first_rows(database: &Connection) -> rusqlite::Result<Vec<(i64, String)>> {
    let mut query = database.prepare("SELECT id, body FROM outbox ORDER BY id LIMIT ?1")?;
    let rows = query.query_map([ROWS], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn count(database: &Connection, table: &str) -> rusqlite::Result<i64> {
    database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
}

/// What is in the queue, without taking it.
async fn held(client: &Client, queue: &str) -> anyhow::Result<Vec<String>> {
    let mut reader = client.reader(queue).linearizable().build();
    let mut held = Vec::new();
    while let Some(message) = reader.next().await {
        held.push(String::from_utf8_lossy(&message?.body).into_owned());
    }
    Ok(held)
}
