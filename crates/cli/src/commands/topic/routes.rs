//! `quorate topic create`, `bind` and `unbind`: each looks at the topic and sets what is different, again if
//! somebody else was faster.

use std::io::Write;

use quorate_client::{Client, Error, Route, TopicDescription, reason};
use serde_json::json;

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;

/// How often others may be faster.
const TRIES: usize = 10;

/// A route of a topic.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The topic.
    topic: String,
    /// The queue.
    queue: String,
    /// Subjects: words with dots between them; `*` is any one word, `>` at the end one word or more.
    #[arg(default_value = ">")]
    subject: String,
    /// Only messages that have this header with this value; repeatable, then all of them.
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE")]
    #[arg(value_parser = crate::commands::publish::parse_header)]
    headers: Vec<(String, String)>,
}

impl Args {
    fn route(&self) -> Route {
        let route = Route::new(self.queue.as_str(), self.subject.as_str());
        self.headers.iter().fold(route, |route, (key, value)| route.header(key, value))
    }
}

async fn find(client: &Client, name: &str, global: &Global) -> Result<TopicDescription, Failure> {
    let topics = session::within(global, "list topics", client.list_topics()).await?;
    let none = TopicDescription { name: name.to_owned(), version: 0, routes: Vec::new() };
    Ok(topics.into_iter().find(|topic| topic.name == name).unwrap_or(none))
}

async fn change(
    name: &str,
    doing: &str,
    global: &Global,
    change: impl Fn(&mut Vec<Route>) -> Result<(), Failure>,
) -> Result<TopicDescription, Failure> {
    let client = session::connect(global).await?;
    for _ in 1..TRIES {
        let mut topic = find(&client, name, global).await?;
        change(&mut topic.routes)?;
        match client.set_topic(name, topic.version, topic.routes.clone()).await {
            Ok(version) => return Ok(TopicDescription { version, ..topic }),
            Err(Error::Refused(refusal)) if refusal.reason == reason::TOPIC_CHANGED => {}
            Err(error) => return Err(session::failure(doing, &error)),
        }
    }
    let mut topic = find(&client, name, global).await?;
    change(&mut topic.routes)?;
    let setting = client.set_topic(name, topic.version, topic.routes.clone());
    let version = session::within(global, doing, setting).await?;
    Ok(TopicDescription { version, ..topic })
}

fn report(topic: &TopicDescription, what: &str, global: &Global) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            let (routes, version) = (topic.routes.len(), topic.version);
            writeln!(
                out,
                "{}",
                json!({ "topic": topic.name, "version": version, "routes": routes })
            )?;
        }
        Format::Table => writeln!(out, "{what}")?,
    }
    Ok(())
}

/// Makes a topic that leads nowhere yet, if there is none.
pub async fn create(name: String, global: &Global) -> Result<(), Failure> {
    let topic = change(&name, "create topic", global, |_| Ok(())).await?;
    report(&topic, &format!("topic {name} is there, with {} routes", topic.routes.len()), global)
}

/// Adds a route; makes the topic if there is none.
pub async fn bind(args: Args, global: &Global) -> Result<(), Failure> {
    let route = args.route();
    let add = |routes: &mut Vec<Route>| {
        if !routes.contains(&route) {
            routes.push(route.clone());
        }
        Ok(())
    };
    let topic = change(&args.topic, "bind queue", global, add).await?;
    let Args { topic: name, queue, subject, .. } = &args;
    report(&topic, &format!("{subject} of topic {name} goes to queue {queue}"), global)
}

/// Takes a route away.
pub async fn unbind(args: Args, global: &Global) -> Result<(), Failure> {
    let route = args.route();
    let Args { topic: name, queue, subject, .. } = &args;
    let take = |routes: &mut Vec<Route>| {
        let before = routes.len();
        routes.retain(|other| *other != route);
        match routes.len() < before {
            true => Ok(()),
            false => Err(Failure::usage(format!(
                "topic {name} has no route of {subject} to queue {queue} with these headers; `quorate topic list` shows them"
            ))),
        }
    };
    let topic = change(name, "unbind queue", global, take).await?;
    report(&topic, &format!("{subject} of topic {name} goes to queue {queue} no more"), global)
}
