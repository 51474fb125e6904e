//! `quorate topic …`: what leads messages to several queues.

mod publish;
mod routes;

use std::io::Write;

use clap::Subcommand;
use quorate_client::TopicDescription;
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;
use crate::table::Table;

/// Verbs of `topic`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a topic, without a route; succeeds if it exists.
    Create {
        /// 1 to 128 characters of A-Z a-z 0-9 . _ -, starting with a letter or digit.
        name: String,
    },
    /// Lead messages of some subjects to a queue.
    Bind(routes::Args),
    /// Take a route away again.
    Unbind(routes::Args),
    /// Show the topics and their routes.
    List,
    /// Publish a message to every queue that a route leads to.
    Publish(publish::Args),
    /// Delete a topic; queues and what they hold stay.
    Delete {
        /// The topic.
        name: String,
    },
}

/// Runs one verb.
pub async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Create { name } => routes::create(name, global).await,
        Command::Bind(args) => routes::bind(args, global).await,
        Command::Unbind(args) => routes::unbind(args, global).await,
        Command::List => list(global).await,
        Command::Publish(args) => publish::run(args, global).await,
        Command::Delete { name } => delete(name, global).await,
    }
}

async fn list(global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let topics = session::within(global, "list topics", client.list_topics()).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => topics.iter().try_for_each(|topic| writeln!(out, "{}", shown(topic)))?,
        Format::Table => {
            let mut table = Table::new(&["topic", "subject", "headers", "queue"]);
            for topic in &topics {
                if topic.routes.is_empty() {
                    table.row([topic.name.as_str(), "-", "-", "-"].map(str::to_owned));
                }
                for route in &topic.routes {
                    let headers: Vec<_> =
                        route.headers.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    let headers = if headers.is_empty() { "-".into() } else { headers.join(" ") };
                    let (name, subject) = (topic.name.clone(), route.subject.clone());
                    table.row([name, subject, headers, route.queue.clone()]);
                }
            }
            write!(out, "{table}")?;
        }
    }
    Ok(())
}

fn shown(topic: &TopicDescription) -> Value {
    let routes: Vec<Value> = topic
        .routes
        .iter()
        .map(|route| {
            json!({ "queue": route.queue, "subject": route.subject, "headers": route.headers })
        })
        .collect();
    json!({ "topic": topic.name, "version": topic.version, "routes": routes })
}

async fn delete(name: String, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    session::within(global, "delete topic", client.delete_topic(name.as_str())).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(out, "{}", json!({ "topic": name, "deleted": true }))?,
        Format::Table => writeln!(out, "topic {name} is deleted")?,
    }
    Ok(())
}
