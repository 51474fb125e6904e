//! Questions and answers: a request names the queue that its answer goes to, and an id by which the caller knows
//! which question it answers.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example request_reply
//! ```
//! It asks twenty questions at a time, checks the answers, and prints:
//! ```text
//! created squares-1795749000000-4711 and squares-replies-1795749000000-4711
//! 20 questions asked at a time, 20 right answers
//! 12 * 12 = 144
//! ```
//! Both ways are queues, so a question is not lost with the server that has it, and an answer waits for its caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use quorate_client::{
    Batch, Client, Consumer, Error, Job, JobError, Message, Producer, QueueSettings, reason,
};
use quorate_examples::{servers, unique};
use tokio::sync::oneshot;

const REPLY_TO: &str = "reply-to";
const CORRELATION_ID: &str = "correlation-id";
/// How long an answer is waited for. A question that is older is not worth the work.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let (questions, replies) = (unique("squares"), unique("squares-replies"));
    client.create_queue(&questions, QueueSettings::default()).await?;
    client.create_queue(&replies, QueueSettings::default()).await?;
    println!("created {questions} and {replies}");

    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(client.clone(), questions.clone(), stopped));
    let caller = Caller::new(&client, &questions, &replies).await?;

    let asking = (1..=20u64).map(|n| caller.call(n.to_string()));
    let answers = try_join_all(asking).await?;
    for (n, answer) in (1..=20u64).zip(&answers) {
        assert_eq!(answer, &(n * n).to_string(), "the answer to question {n}, and no other");
    }
    println!("20 questions asked at a time, {} right answers", answers.len());
    println!("12 * 12 = {}", answers[11]);

    drop(stop);
    server.await??;
    drop(caller);
    for queue in [questions, replies] {
        client.delete_queue(&queue, false).await?;
    }
    Ok(())
}

/// The server: a worker whose handler publishes the answer before its question is acknowledged.
async fn serve(
    client: Client,
    questions: String,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    // A producer for each queue that answers go to.
    let producers = Arc::<tokio::sync::Mutex<HashMap<String, Arc<Producer>>>>::default();
    let answering = client.clone();
    let handler = move |job: Job| {
        let (client, producers) = (answering.clone(), Arc::clone(&producers));
        async move {
            let header = |key| job.headers.text(key).ok_or_else(|| JobError::reject("no header"));
            let (reply_to, id) = (header(REPLY_TO)?, header(CORRELATION_ID)?);
            let number: u64 = std::str::from_utf8(&job.body)?.parse().map_err(JobError::reject)?;
            let producer = {
                let mut producers = producers.lock().await;
                if !producers.contains_key(&reply_to) {
                    let producer = client.producer(&reply_to).build().await.map_err(hopeless)?;
                    producers.insert(reply_to.clone(), Arc::new(producer));
                }
                Arc::clone(&producers[&reply_to])
            };
            let answer = Message::new((number * number).to_string());
            let answer = answer.header(CORRELATION_ID, id.clone());
            // A question may be handled twice, if the server dies before it is acknowledged. Under the id of the
            // question the answer enters once.
            producer.publish_batch(Batch::from(answer).id(id)).await?;
            Ok::<(), JobError>(())
        }
    };
    let stop = async { drop(stopped.await) };
    client.worker(questions, handler).concurrency(8).run_until(stop).await?;
    Ok(())
}

/// Without its queue, an answer has nowhere to go, and the question is not tried again.
fn hopeless(error: Error) -> JobError {
    match error.reason() {
        Some(reason::QUEUE_NOT_FOUND) => JobError::reject(error),
        _ => JobError::retry(error),
    }
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<String>>>>;

/// The caller: one queue for all of its answers, and whoever waits for them by their ids.
struct Caller {
    questions: Producer,
    reply_to: String,
    waiting: Waiting,
}

impl Caller {
    async fn new(client: &Client, questions: &str, reply_to: &str) -> anyhow::Result<Self> {
        let answers = client.consumer(reply_to).name("caller").build().await?;
        let waiting = Waiting::default();
        tokio::spawn(hand_out(answers, Arc::clone(&waiting)));
        let questions = client.producer(questions).build().await?;
        Ok(Self { questions, reply_to: reply_to.to_owned(), waiting })
    }

    async fn call(&self, question: String) -> anyhow::Result<String> {
        let id = format!("{}/{question}", self.reply_to);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().expect("no panic while it is held").insert(id.clone(), answer);
        let message = Message::new(question)
            .header(REPLY_TO, self.reply_to.clone())
            .header(CORRELATION_ID, id.clone())
            .ttl(PATIENCE);
        self.questions.publish(message).await?;
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        self.waiting.lock().expect("no panic while it is held").remove(&id);
        answered.context("no answer in time")?.context("the answers have ended")
    }
}

/// Gives answers to whoever waits for them. One that nobody waits for any more is let go.
async fn hand_out(mut answers: Consumer, waiting: Waiting) {
    while let Some(Ok(answer)) = answers.next().await {
        let id = answer.headers.text(CORRELATION_ID).unwrap_or_default();
        let waiter = waiting.lock().expect("no panic while it is held").remove(&id);
        if let Some(waiter) = waiter {
            let _ = waiter.send(String::from_utf8_lossy(&answer.body).into_owned());
        }
        answer.ack_later();
    }
}
