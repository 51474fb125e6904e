//! Topics: routes are set at the catalog's leader; messages are routed by the node that is asked, as its catalog has it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_machine::catalog::{self, Pattern, QueueName, Rejection, Route, Subject, Topic};
use quorate_machine::planted::{self, Bug};
use quorate_proto::v1::queue_service_server::QueueService;
use quorate_proto::{reason, v1};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use super::Services;
use super::publisher::condition_of;
use crate::member::{BEHAVIOUR_VERSION, Member};
use crate::refusal::Refusal;
use crate::routing::{forwarded, hops, passed_on, queue_name};

/// Header that a message gets by being published to a topic.
const SUBJECT: &str = "quorate-subject";
/// Pause before a queue is asked again that has no leader for the moment.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Longest wait for the queues of one publish: one without a majority does not keep the answers of the others back until
/// the client gives up.
const QUEUES_WAIT: Duration = Duration::from_secs(3);
const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1_000;

/// The routes that a request asks for.
pub(crate) fn routes_of(routes: Vec<v1::Route>) -> Result<Vec<Route>, Refusal> {
    if routes.len() > catalog::ROUTES_MAX as usize {
        return Err(Refusal::invalid(format!(
            "a topic has at most {} routes",
            catalog::ROUTES_MAX
        )));
    }
    routes.into_iter().map(route_of).collect()
}

fn route_of(route: v1::Route) -> Result<Route, Refusal> {
    let subject = Pattern::parse(&route.subject)
        .map_err(|error| Refusal::invalid(format!("pattern {:?}: {error}", route.subject)))?;
    let fits = |(key, value): (&String, &String)| {
        (1..=Route::KEY_BYTES_MAX).contains(&key.len()) && value.len() <= Route::VALUE_BYTES_MAX
    };
    if route.headers.len() > Route::HEADERS_MAX || !route.headers.iter().all(fits) {
        return Err(Refusal::invalid(format!(
            "a route has at most {} headers, with keys of 1 to {} bytes and values of at most {}",
            Route::HEADERS_MAX,
            Route::KEY_BYTES_MAX,
            Route::VALUE_BYTES_MAX
        )));
    }
    let headers = route.headers.into_iter().collect();
    Ok(Route { queue: queue_name(&route.queue)?, subject, headers })
}

fn topic_name(name: &str) -> Result<QueueName, Refusal> {
    let name = queue_name(name)?;
    match name.is_shard() {
        true => Err(Refusal::invalid("a topic's name has no '@': that is for shards of queues")),
        false => Ok(name),
    }
}

fn topic_not_found(name: &str) -> Refusal {
    let message =
        format!("there is no topic `{name}`; create it with `quorate topic create {name}`");
    Refusal::new(reason::TOPIC_NOT_FOUND, message).with("topic", name)
}

fn refused(name: &QueueName, rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::TopicNotFound => topic_not_found(name.as_str()),
        Rejection::UnknownQueue { name } => Refusal::queue_not_found(name.as_str()),
        Rejection::TopicChanged { version } => {
            let message = match version {
                0 => format!("there is no topic `{name}` any more, or not yet; look again"),
                _ => format!("topic `{name}` was changed meanwhile; look at its routes again"),
            };
            Refusal::new(reason::TOPIC_CHANGED, message).with("version", version)
        }
        Rejection::TooManyTopics { limit } => {
            let message = format!("the cluster has {limit} topics, the most it can have");
            Refusal::new(reason::QUOTA_EXCEEDED, message).with("limit", "topics").with("max", limit)
        }
        rejection => rejection.into(),
    }
}

/// A call that failed at one of several queues, as the others' answers have to be told too.
pub(super) fn failure_of(status: &Status) -> v1::Failure {
    let (reason, metadata) = match status.get_details_error_info() {
        Some(info) => (info.reason, info.metadata),
        None => (reason::UNKNOWN_OUTCOME.to_owned(), Default::default()),
    };
    let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    v1::Failure {
        reason,
        message: status.message().to_owned(),
        retry_after_ms: retry.map_or(0, |after| after.as_millis() as u32),
        leader: None,
        metadata,
    }
}

/// Messages by the queue that they go to, each by its place in the request.
type Routed = BTreeMap<QueueName, Vec<u32>>;

fn routed(
    topic: &Topic,
    subject: &Subject,
    messages: &[v1::Message],
    allow_unrouted: bool,
) -> Result<Routed, Refusal> {
    let mut routed = Routed::new();
    for (at, message) in (0..).zip(messages) {
        let find = |key: &str| message.headers.iter().find(|header| header.key == key);
        if find(SUBJECT).is_some() {
            return Err(Refusal::invalid(format!("a message gets `{SUBJECT}` from its topic")));
        }
        let header = |key: &str| find(key).map(|header| &header.value[..]);
        let mut goes_nowhere = true;
        for queue in topic.queues(subject, header) {
            routed.entry(queue.clone()).or_default().push(at);
            goes_nowhere = false;
        }
        if goes_nowhere && !allow_unrouted {
            let message = format!(
                "no route of topic `{}` takes message {at} with subject `{subject}`, so nothing was published; \
                 add a route, or allow that it goes nowhere",
                topic.name
            );
            return Err(Refusal::new(reason::NO_ROUTE, message).with("message", at));
        }
    }
    Ok(routed)
}

impl Services {
    async fn outcome(
        &self,
        queue: QueueName,
        messages: Vec<u32>,
        request: &v1::PublishToTopicRequest,
        until: Instant,
    ) -> v1::TopicOutcome {
        let torn = planted::is(Bug::TearTopicPart) && messages.len() > 1;
        let publish = v1::PublishRequest {
            queue: queue.as_str().to_owned(),
            messages: messages[usize::from(torn)..]
                .iter()
                .map(|&at| request.messages[at as usize].clone())
                .collect(),
            ack: request.ack,
            message_id: request.message_id.clone(),
            ..Default::default()
        };
        use v1::topic_outcome::Outcome;
        let outcome = loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = QueueService::publish(self, Request::new(publish.clone()));
            let failure = match tokio::time::timeout(left, answer).await {
                Ok(Ok(answer)) => {
                    break Outcome::Receipt(answer.into_inner().receipt.unwrap_or_default());
                }
                Ok(Err(status)) => failure_of(&status),
                Err(_) => break Outcome::Failure(failure_of(&Refusal::unknown_outcome().into())),
            };
            // Nothing has entered; the queue has another leader in a moment.
            if failure.reason != reason::NOT_LEADER || Instant::now() >= until {
                break Outcome::Failure(failure);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        };
        let queue = queue.as_str().to_owned();
        v1::TopicOutcome { queue, messages, outcome: Some(outcome) }
    }

    fn topics(
        &self,
        node: u64,
    ) -> Result<v1::topic_service_client::TopicServiceClient<tonic::transport::Channel>, Status>
    {
        let client = v1::topic_service_client::TopicServiceClient::new(self.node.channel(node)?);
        Ok(client.max_decoding_message_size(crate::peers::MESSAGE_BYTES_MAX))
    }
}

impl Member {
    fn topic(&self, name: &QueueName) -> Option<Topic> {
        self.catalog.read(|catalog| catalog.topic(name).cloned())
    }
}

#[tonic::async_trait]
impl v1::topic_service_server::TopicService for Services {
    async fn publish_to_topic(
        &self,
        request: Request<v1::PublishToTopicRequest>,
    ) -> Result<Response<v1::PublishToTopicResponse>, Status> {
        let hops = hops(request.metadata());
        let _permit = self.node.budget.stream()?;
        let mut request = request.into_inner();
        let name = queue_name(&request.topic)?;
        let subject = Subject::parse(&request.subject)
            .map_err(|error| Refusal::invalid(format!("subject {:?}: {error}", request.subject)))?;
        if request.messages.is_empty() {
            return Err(Refusal::invalid("there are no `messages`").into());
        }
        if !request.message_id.is_empty() {
            self.node.expect_known(BEHAVIOUR_VERSION, "message ids")?;
            condition_of(&request.message_id, None)?;
        }
        let Some(topic) = self.node.topic(&name) else {
            // This node's catalog may be behind: its leader's is not.
            return match self.node.catalog_place(hops).await? {
                Some(node) if hops == 0 => {
                    let forwarded = forwarded(request, hops);
                    self.topics(node)?.publish_to_topic(forwarded).await.map_err(passed_on)
                }
                _ => Err(topic_not_found(&request.topic).into()),
            };
        };
        let routed = routed(&topic, &subject, &request.messages, request.allow_unrouted)?;
        for message in &mut request.messages {
            let value = Bytes::copy_from_slice(subject.as_str().as_bytes());
            message.headers.push(v1::Header { key: SUBJECT.to_owned(), value });
        }
        let until = Instant::now() + QUEUES_WAIT.min(self.node.config.limits.request_timeout());
        let each = routed.into_iter().map(|(queue, at)| self.outcome(queue, at, &request, until));
        let outcomes = join_all(each).await;
        let version = topic.version;
        Ok(Response::new(v1::PublishToTopicResponse { outcomes, version }))
    }

    async fn set_topic(
        &self,
        request: Request<v1::SetTopicRequest>,
    ) -> Result<Response<v1::SetTopicResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let (name, routes) = (topic_name(&request.name)?, routes_of(request.routes.clone())?);
        if let Some(node) = self.node.catalog_place(hops).await? {
            let forwarded = forwarded(request, hops);
            return self.topics(node)?.set_topic(forwarded).await.map_err(passed_on);
        }
        self.node.expect_known(BEHAVIOUR_VERSION, "topics")?;
        // A node that does not know of shards would stop at their names.
        let shards = routes.iter().map(|route| &route.queue).filter(|queue| queue.is_shard());
        if let Some(shard) = shards.into_iter().find(|shard| self.node.known(shard).is_none()) {
            return Err(Refusal::queue_not_found(shard.as_str()).into());
        }
        let (version, set) = (request.version, name.clone());
        let command = catalog::Command::SetTopic { name: set, version, routes };
        match self.node.propose_catalog(command).await? {
            catalog::Reply::TopicSet { version } => {
                Ok(Response::new(v1::SetTopicResponse { version }))
            }
            catalog::Reply::Rejected(rejection) => Err(refused(&name, rejection).into()),
            _ => Err(Refusal::unknown_outcome().into()),
        }
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let name = topic_name(&request.name)?;
        if let Some(node) = self.node.catalog_place(hops).await? {
            let forwarded = forwarded(request, hops);
            return self.topics(node)?.delete_topic(forwarded).await.map_err(passed_on);
        }
        self.node.expect_known(BEHAVIOUR_VERSION, "topics")?;
        let command = catalog::Command::DeleteTopic { name: name.clone() };
        match self.node.propose_catalog(command).await? {
            catalog::Reply::Done => Ok(Response::new(v1::DeleteTopicResponse {})),
            catalog::Reply::Rejected(rejection) => Err(refused(&name, rejection).into()),
            _ => Err(Refusal::unknown_outcome().into()),
        }
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let v1::ListTopicsRequest { after, limit } = request.into_inner();
        if limit > PAGE_MAX {
            return Err(Refusal::invalid(format!("`limit` is at most {PAGE_MAX}")).into());
        }
        let limit = if limit == 0 { PAGE_DEFAULT } else { limit } as usize;
        let topics = self.node.catalog.read(|catalog| {
            let later = catalog.topics().filter(|topic| topic.name.as_str() > after.as_str());
            later.take(limit).map(described).collect()
        });
        Ok(Response::new(v1::ListTopicsResponse { topics }))
    }
}

fn described(topic: &Topic) -> v1::Topic {
    let route = |route: &Route| v1::Route {
        queue: route.queue.as_str().to_owned(),
        subject: route.subject.as_str().to_owned(),
        headers: route.headers.clone().into_iter().collect(),
    };
    v1::Topic {
        name: topic.name.as_str().to_owned(),
        version: topic.version,
        routes: topic.routes.iter().map(route).collect(),
    }
}
