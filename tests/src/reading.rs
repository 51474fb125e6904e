//! Looking at the messages of a queue, whose bodies are numbers.

use futures_util::StreamExt;
use quorate_client::{Client, ReadMessage};

/// All that is readable now, in order.
pub async fn read(client: &Client, queue: &str) -> Vec<ReadMessage> {
    let mut reader = client.reader(queue).linearizable().build();
    let mut read = Vec::new();
    while let Some(message) = reader.next().await {
        read.push(message.expect("read"));
    }
    read
}

/// A header's value, if the message has it.
#[must_use]
pub fn header(message: &ReadMessage, key: &str) -> Option<String> {
    let value = message.headers.get(key)?;
    Some(String::from_utf8(value.to_vec()).expect("text"))
}

/// The number that the body is.
#[must_use]
pub fn number(message: &ReadMessage) -> u64 {
    std::str::from_utf8(&message.body).expect("text").parse().expect("a number")
}
