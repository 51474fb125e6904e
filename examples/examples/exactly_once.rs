//! The effect of each message once: a consumer that writes down how far it is in the transaction of what the message
//! does, and is killed with kill -9 again and again.
//!
//! ```text
//!  queue ──► delivery ──► transaction: the position moves on by one, and the booking ──► SQLite ──► ack
//!                                      does it not, the booking was made before
//! ```
//! A queue delivers at least once: what a consumer had that died before its ack is delivered again. The position in
//! the database tells what is done already. It is enough where messages come in order, as they do in this queue with
//! one active consumer. Consumers that share a queue write down each offset instead, for as long as one of them may
//! hang before it goes on.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example exactly_once
//! ```
//! The consumer is a process of its own, killed between transaction and ack. It prints:
//! ```text
//! created bookings-1795749000000-4711 with 70 bookings
//! consumer 1:
//!   | booked 20
//!   | not acknowledged yet
//! killed it: 20 bookings are done
//! consumer 2:
//!   | offset 19 comes again, in delivery 2: it was booked before
//!   | booked 20
//!   | not acknowledged yet
//! killed it: 40 bookings are done
//! ...
//! 70 bookings, each once: the balance is 2485
//! ```

use anyhow::{Context, bail};
use futures_util::StreamExt;
use quorate_client::{Client, Message, QueueSettings};
use quorate_examples::{run_again, servers, unique};
use rusqlite::{Connection, params};

const BOOKINGS: i64 = 70;
/// Bookings of a consumer before it is killed.
const EACH: i64 = 20;
/// A consumer prints this between transaction and ack, and is killed.
const BETWEEN: &str = "not acknowledged yet";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["consume", database, queue] => consume(database, queue).await,
        _ => run().await,
    }
}

async fn run() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue = unique("bookings");
    let settings = QueueSettings {
        single_active: true,
        // What a consumer had that died goes to the next one after this time.
        session_grace_ms: 500,
        ..Default::default()
    };
    let created = client.create_queue(&queue, settings).await?;
    let producer = client.producer(&queue).build().await?;
    for amount in 1..=BOOKINGS {
        producer.publish(Message::new(amount.to_string())).await?;
    }
    println!("created {queue} with {BOOKINGS} bookings");

    let directory = tempfile::tempdir()?;
    let path = directory.path().join("bank.db").display().to_string();
    let database = Connection::open(&path)?;
    database.execute_batch(
        "CREATE TABLE account (balance INTEGER NOT NULL, bookings INTEGER NOT NULL);
         CREATE TABLE position (queue INTEGER PRIMARY KEY, next INTEGER NOT NULL);
         INSERT INTO account VALUES (0, 0);",
    )?;
    // A queue of the same name that is made anew counts from 0 again, and has another number.
    let queue_id = i64::try_from(created.queue.group_id)?;
    database.execute("INSERT INTO position VALUES (?1, 0)", [queue_id])?;

    let (mut done, mut again) = (0, 0);
    for consumer in 1.. {
        println!("consumer {consumer}:");
        let (said, _) = run_again(&["consume", &path, &queue], Some(BETWEEN))?;
        again += said.matches("comes again").count();
        let before = done;
        done = number(&database, "bookings")?;
        if done == BOOKINGS {
            break;
        }
        assert_eq!(done, before + EACH, "each goes on where the one before it was killed");
        println!("killed it: {done} bookings are done");
    }
    let balance = number(&database, "balance")?;
    assert_eq!(balance, (1..=BOOKINGS).sum(), "each booking has had its effect once");
    assert!(again > 0, "what was not acknowledged comes again");
    println!("{BOOKINGS} bookings, each once: the balance is {balance}");
    client.delete_queue(&queue, false).await?;
    Ok(())
}

/// The consumer. It ends when all is done; a real one would go on.
async fn consume(database: &str, queue: &str) -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue_id = i64::try_from(client.describe_queue(queue).await?.group_id)?;
    let mut database = Connection::open(database)?;
    let mut consumer = client.consumer(queue).name("bookings").build().await?;
    let mut booked = 0;
    while number(&database, "bookings")? < BOOKINGS {
        let delivery = consumer.next().await.context("the consumer has ended")??;
        let (offset, attempt) = (delivery.offset, delivery.attempt);
        let amount: i64 = std::str::from_utf8(&delivery.body)?.parse()?;
        if book(&mut database, queue_id, i64::try_from(offset)?, amount)? {
            booked += 1;
        } else {
            println!("offset {offset} comes again, in delivery {attempt}: it was booked before");
        }
        if booked == EACH {
            println!("booked {booked}\n{BETWEEN}");
            std::future::pending::<()>().await;
        }
        if let Err(error) = delivery.ack().await {
            println!("offset {offset} may come again: {error}");
        }
    }
    println!("booked {booked}");
    consumer.close().await;
    Ok(())
}

/// Makes the booking and moves the position on, both or neither. False if that was done before.
fn book(
    database: &mut Connection,
    queue_id: i64,
    offset: i64,
    amount: i64,
) -> anyhow::Result<bool> {
    let transaction = database.transaction()?;
    let next: i64 =
        transaction.query_row("SELECT next FROM position WHERE queue = ?1", [queue_id], |row| {
            row.get(0)
        })?;
    if offset < next {
        return Ok(false);
    }
    if offset > next {
        bail!("offset {offset} has come before {next}: the position does not tell what is done");
    }
    let move_on = "UPDATE position SET next = ?2 WHERE queue = ?1";
    transaction.execute(move_on, params![queue_id, offset + 1])?;
    let book = "UPDATE account SET balance = balance + ?1, bookings = bookings + 1";
    transaction.execute(book, [amount])?;
    transaction.commit()?;
    Ok(true)
}

fn number(database: &Connection, column: &str) -> rusqlite::Result<i64> {
    database.query_row(&format!("SELECT {column} FROM account"), [], |row| row.get(0))
}
