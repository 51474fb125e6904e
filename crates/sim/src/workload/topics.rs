//! A topic of the workload: it leads what is published to some or all of the queues, by wildcards and by headers. What
//! some queue has not taken is published again, under the same message id.

use std::sync::Arc;
use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use quorate_client::{AckLevel, Client, Message, Route, TopicOutcome};
use tokio::time::{sleep, timeout};

use super::{Queue, Shared, body, producer};
use crate::events::{Event, MessageId};

/// Its name.
pub(super) const TOPIC: &str = "events";
const KIND: &str = "kind";
/// Most times that a publish is made.
const TRIES: u32 = 4;

/// Where subjects lead; `number` tells a queue from the others.
pub(super) fn routes(number: usize, queue: &str) -> [Route; 3] {
    [
        Route::new(queue, "all.>"),
        Route::new(queue, format!("one-{number}.*")),
        Route::new(queue, "some.*.end").header(KIND, kind_of(number)),
    ]
}

fn kind_of(number: usize) -> String {
    format!("kind-{}", number % 2)
}

/// A publish, and what it is to bring to which queue, by the places of its messages.
struct Publish {
    number: u32,
    subject: String,
    messages: Vec<Message>,
    parts: Vec<(Queue, Vec<u32>)>,
}

impl Publish {
    fn random(shared: &Shared, queues: &[(usize, Queue)]) -> Publish {
        let mut random = thread_rng();
        let number = shared.next_producer();
        let count = random.gen_range(1..6);
        let one = queues[random.gen_range(0..queues.len())].0;
        let way = random.gen_range(0..3);
        let subject = match way {
            0 => "all.of.them".to_owned(),
            1 => format!("one-{one}.x"),
            _ => "some.x.end".to_owned(),
        };
        let kinds: Vec<String> = (0..count).map(|_| kind_of(random.gen_range(0..2))).collect();
        let messages = (0..).zip(&kinds).map(|(sequence, kind)| {
            let id = MessageId { producer: number, sequence };
            Message::new(body::make(id, producer::bytes())).header(KIND, kind.clone())
        });
        let messages = messages.collect();
        let is_for = |at: usize, kind: &String| match way {
            0 => true,
            1 => at == one,
            _ => kind_of(at) == *kind,
        };
        let parts = queues.iter().map(|(at, queue)| {
            let places = (0..).zip(&kinds).filter(|&(_, kind)| is_for(*at, kind));
            (queue.clone(), places.map(|(place, _)| place).collect::<Vec<u32>>())
        });
        let parts = parts.filter(|(_, places)| !places.is_empty()).collect();
        Publish { number, subject, messages, parts }
    }

    fn ids(&self, places: &[u32]) -> Vec<MessageId> {
        let id = |sequence: &u32| MessageId { producer: self.number, sequence: *sequence };
        places.iter().map(id).collect()
    }
}

pub(super) async fn run(shared: Arc<Shared>, client: Client) {
    let routed = |queue: &Queue| queue.habits.is_routed();
    let queues = shared.queues.iter().cloned().enumerate();
    let queues: Vec<_> = queues.filter(|(_, queue)| routed(queue)).collect();
    while !shared.is_quiet() && !queues.is_empty() {
        sleep(Duration::from_millis(thread_rng().gen_range(50..1_200))).await;
        let publish = Publish::random(&shared, &queues);
        let record = shared.cluster.record();
        for (queue, places) in &publish.parts {
            let (group, ids) = (queue.group, publish.ids(places));
            record.tell(Event::Part { group, ids: &ids });
            ids.iter().for_each(|id| record.tell(Event::Sent { group, id: *id }));
        }
        bring(&shared, &client, &publish).await;
    }
}

/// Publishes until every queue has its part, or it has been tried often enough.
async fn bring(shared: &Shared, client: &Client, publish: &Publish) {
    let level = if thread_rng().gen_bool(0.2) { AckLevel::All } else { AckLevel::Quorum };
    let topic = client.topic(TOPIC).ack(level).allow_unrouted();
    let topic = topic.message_id(format!("topic-{}", publish.number));
    for _ in 0..TRIES {
        let published = topic.publish(publish.subject.as_str(), publish.messages.clone());
        match timeout(producer::DEADLINE, published).await {
            Ok(Ok(delivered)) => {
                let is_complete = delivered.is_complete();
                judge(shared, publish, &delivered.outcomes);
                if is_complete {
                    return;
                }
            }
            _ => unknown(shared, publish),
        }
        if shared.is_quiet() {
            return;
        }
        sleep(Duration::from_millis(thread_rng().gen_range(0..1_500))).await;
    }
}

fn unknown(shared: &Shared, publish: &Publish) {
    for (queue, places) in &publish.parts {
        let (group, record) = (queue.group, shared.cluster.record());
        publish.ids(places).into_iter().for_each(|id| record.tell(Event::Unknown { group, id }));
    }
}

fn judge(shared: &Shared, publish: &Publish, outcomes: &[TopicOutcome]) {
    let record = shared.cluster.record();
    let told = outcomes.iter().map(|outcome| (outcome.queue.as_str(), &outcome.messages));
    let told: std::collections::BTreeMap<_, _> = told.collect();
    let due = publish.parts.iter().map(|(queue, places)| (queue.name.as_str(), places));
    let due: std::collections::BTreeMap<_, _> = due.collect();
    if told != due {
        let subject = &publish.subject;
        record.violate(format!("topic_parts: {subject} went to {told:?}, not to {due:?}"));
    }
    for outcome in outcomes {
        let part = publish.parts.iter().find(|(queue, _)| queue.name == outcome.queue);
        let Some((queue, places)) = part else { continue };
        let group = queue.group;
        for (at, id) in (0..).zip(publish.ids(places)) {
            match &outcome.receipt {
                Ok(receipt) => record.tell(Event::Confirmed {
                    group,
                    id,
                    offset: Some(receipt.first_offset + at),
                    duplicate: receipt.duplicate,
                    level: receipt.level(),
                    position: receipt.position.unwrap_or_default(),
                }),
                // It is published again.
                Err(_) => record.tell(Event::Unknown { group, id }),
            }
        }
    }
}
