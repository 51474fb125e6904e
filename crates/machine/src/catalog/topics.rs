//! Topics: names under which a message is published to several queues.
//!
//! A topic holds nothing. It says which queues a message goes to, by its subject and its headers; each of them takes it
//! in or refuses it by itself.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};

use super::command::{Rejection, Reply};
use super::names::QueueName;
use super::subjects::{Pattern, Subject};
use super::{Catalog, Done};
use crate::wire::{self, DecodeError};
use crate::{At, Millis};

/// Most topics of a cluster.
pub const TOPICS_MAX: u32 = 1_000;

/// Most routes of a topic.
pub const ROUTES_MAX: u32 = 256;

/// Most bytes of a topic's routes: they are a part of every checkpoint of the catalog.
pub const ROUTES_BYTES_MAX: u32 = 32 * 1024;

/// A name that messages are published to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name; a queue may have the same.
    pub name: QueueName,
    /// Index of the entry that last changed it.
    pub version: u64,
    /// Where messages go, in order.
    pub routes: Vec<Route>,
    /// When it was made.
    pub created_at: Millis,
}

impl Topic {
    /// The queues that a message goes to, each once, by name.
    pub fn queues<'a>(
        &'a self,
        subject: &'a Subject,
        header: impl Fn(&str) -> Option<&'a [u8]> + 'a,
    ) -> impl Iterator<Item = &'a QueueName> {
        // Routes are in order of their queues.
        let taking = self.routes.iter().filter(move |route| route.takes(subject, &header));
        let mut last = None;
        taking.map(|route| &route.queue).filter(move |queue| last.replace(*queue) != Some(*queue))
    }
}

/// Some of a topic's messages go to a queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The queue.
    pub queue: QueueName,
    /// The subjects of those messages.
    pub subject: Pattern,
    /// Headers that they all have, with these values; at most [`Route::HEADERS_MAX`].
    pub headers: BTreeMap<String, String>,
}

impl Route {
    /// Most headers of a route.
    pub const HEADERS_MAX: usize = 16;
    /// The longest key of a header, in bytes.
    pub const KEY_BYTES_MAX: usize = 256;
    /// The longest value of a header, in bytes.
    pub const VALUE_BYTES_MAX: usize = 1_024;

    fn takes<'a>(&self, subject: &Subject, header: &impl Fn(&str) -> Option<&'a [u8]>) -> bool {
        let has = |(key, value): (&String, &String)| header(key) == Some(value.as_bytes());
        self.subject.takes(subject) && self.headers.iter().all(has)
    }

    fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(key, value)| key.len() + value.len() + 8);
        self.queue.as_str().len() + self.subject.as_str().len() + 10 + headers.sum::<usize>()
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        wire::put_bytes(out, self.queue.as_str().as_bytes());
        wire::put_bytes(out, self.subject.as_str().as_bytes());
        out.put_u8(self.headers.len() as u8);
        for (key, value) in &self.headers {
            wire::put_bytes(out, key.as_bytes());
            wire::put_bytes(out, value.as_bytes());
        }
    }

    pub(super) fn decode(buf: &mut impl Buf) -> Result<Self, DecodeError> {
        let queue = super::codec::name(buf)?;
        let subject = wire::string(buf, "pattern", Subject::BYTES_MAX)?;
        let subject = Pattern::parse(&subject)
            .map_err(|_| DecodeError::Invalid { what: "pattern", why: "no route may have it" })?;
        let mut headers = BTreeMap::new();
        for _ in 0..wire::u8(buf)? {
            let key = wire::string(buf, "header key", Self::KEY_BYTES_MAX)?;
            let last = headers.last_key_value().map(|(last, _)| last);
            wire::ascending(last, &key, "header of a route")?;
            headers.insert(key, wire::string(buf, "header value", Self::VALUE_BYTES_MAX)?);
        }
        if headers.len() > Self::HEADERS_MAX {
            return Err(DecodeError::Invalid { what: "route", why: "it has too many headers" });
        }
        Ok(Self { queue, subject, headers })
    }
}

impl Catalog {
    /// The topic of that name.
    #[must_use]
    pub fn topic(&self, name: &QueueName) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.topics.values()
    }

    /// Replaces a topic's routes, decided on when it had `version`; 0 makes it.
    pub(super) fn set_topic(
        &mut self,
        at: At,
        name: QueueName,
        version: u64,
        mut routes: Vec<Route>,
    ) -> Result<Done, Rejection> {
        routes.sort_unstable();
        routes.dedup();
        let known = self.topics.get(&name);
        if let Some(known) = known.filter(|known| known.routes == routes) {
            return Ok((Reply::TopicSet { version: known.version }, None));
        }
        let present = known.map_or(0, |known| known.version);
        if present != version {
            return Err(Rejection::TopicChanged { version: present });
        }
        if known.is_none() && self.topics.len() >= TOPICS_MAX as usize {
            return Err(Rejection::TooManyTopics { limit: TOPICS_MAX });
        }
        let bytes: usize = routes.iter().map(Route::bytes).sum();
        if routes.len() > ROUTES_MAX as usize || bytes > ROUTES_BYTES_MAX as usize {
            return Err(Rejection::TooManyRoutes { limit: ROUTES_MAX, bytes: ROUTES_BYTES_MAX });
        }
        if let Some(route) = routes.iter().find(|route| self.sharded.contains_key(&route.queue)) {
            return Err(Rejection::ShardedRoute { name: route.queue.clone() });
        }
        if let Some(route) = routes.iter().find(|route| !self.queues.contains_key(&route.queue)) {
            return Err(Rejection::UnknownQueue { name: route.queue.clone() });
        }
        let created_at = known.map_or(self.now, |known| known.created_at);
        let version = at.index.max(present + 1);
        self.topics.insert(name.clone(), Topic { name, version, routes, created_at });
        Ok((Reply::TopicSet { version }, None))
    }

    pub(super) fn delete_topic(&mut self, name: &QueueName) -> Result<Done, Rejection> {
        match self.topics.remove(name) {
            Some(_) => Ok((Reply::Done, None)),
            None => Err(Rejection::TopicNotFound),
        }
    }

    /// What led to a queue that is no more leads nowhere.
    pub(super) fn forget_routes(&mut self, at: At, queue: &QueueName) {
        for topic in self.topics.values_mut() {
            let before = topic.routes.len();
            topic.routes.retain(|route| route.queue != *queue);
            if topic.routes.len() < before {
                topic.version = at.index.max(topic.version + 1);
            }
        }
    }
}
