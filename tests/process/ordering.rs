//! Order by group keys and with one active consumer, however often consumers and leaders die; and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{
    Client, Delivery, FrameError, Message, PublishError, QueueCounts, QueueSettings, reason,
};
use quorate_proto::frame::{FrameBuilder, GROUP_KEY_HEADER};
use quorate_proto::v1;
use quorate_tests::process::run;
use quorate_tests::raw::{self, RawConsumer};
use quorate_tests::{Cluster, turn};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::{LIGHT, SOON};

const GROUPED: &str = "grouped";
const SINGLE: &str = "single";
/// Consumers that are killed.
const KILLS: usize = 500;
/// Time limit of the test that kills them.
const LONG: Duration = Duration::from_secs(240);
const KEYS: u64 = 200;
const MESSAGES: [(&str, u64); 2] = [(GROUPED, 2_000), (SINGLE, 500)];

/// A message under a lease.
type Held = (u64, u64);

/// What the consumers of a queue saw.
#[derive(Default)]
struct Book {
    dead: BTreeSet<usize>,
    /// What is being handled, by key: by whom.
    handling: BTreeMap<String, BTreeMap<Held, usize>>,
    seen: BTreeSet<u64>,
    /// By key, the last message that was handled for the first time.
    furthest: BTreeMap<String, u64>,
    disorder: Vec<String>,
    /// Handled at the same time, though they must not be: a fault unless one of the two had lost its lease.
    together: Vec<(Held, Held)>,
    acked: BTreeSet<Held>,
    redelivered: u64,
}

impl Book {
    /// A consumer begins to handle a message, unless it is dead. Without keys a consumer may handle many at a time.
    fn begins(&mut self, consumer: usize, key: Option<&str>, held: Held) -> bool {
        if self.dead.contains(&consumer) {
            return false;
        }
        let of_key = self.handling.entry(key.unwrap_or_default().to_owned()).or_default();
        let others = of_key.iter().filter(|(_, by)| key.is_some() || **by != consumer);
        self.together.extend(others.map(|(other, _)| (*other, held)));
        of_key.insert(held, consumer);
        if self.seen.insert(held.0) {
            let before = self.furthest.insert(key.unwrap_or_default().to_owned(), held.0);
            if before > Some(held.0) {
                self.disorder.push(format!("{key:?}: {} came first after {before:?}", held.0));
            }
        } else {
            self.redelivered += 1;
        }
        true
    }

    fn ends(&mut self, key: Option<&str>, held: Held) {
        if let Some(of_key) = self.handling.get_mut(key.unwrap_or_default()) {
            of_key.remove(&held);
        }
    }

    fn killed(&mut self, consumer: usize) {
        self.dead.insert(consumer);
        self.handling.values_mut().for_each(|of_key| of_key.retain(|_, by| *by != consumer));
    }

    fn check(&self, queue: &str) {
        let (acked, together) = (&self.acked, &self.together);
        println!(
            "{queue}: {} handled, {} again, {} together under a lease that was lost",
            self.seen.len(),
            self.redelivered,
            together.len()
        );
        assert!(self.disorder.is_empty(), "{queue}: {:?}", self.disorder);
        let both = |(one, other): &&(Held, Held)| acked.contains(one) && acked.contains(other);
        let both: Vec<_> = together.iter().filter(both).collect();
        assert!(both.is_empty(), "{queue}: in flight together and both done: {both:?}");
        assert!(together.len() < 20, "{queue}: {together:?}");
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Book>>);

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("no panic while held")
    }
}

/// A consumer in a runtime of its own, which ends as a process does: without a word.
struct Life {
    queue: &'static str,
    number: usize,
    runtime: Runtime,
    consuming: AbortHandle,
}

impl Life {
    fn begin(queue: &'static str, number: usize, addresses: Vec<String>, shared: Shared) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().expect("a runtime");
        let consuming = runtime.spawn(consume(queue, number, addresses, shared)).abort_handle();
        Self { queue, number, runtime, consuming }
    }

    /// In every third case the consumer is dropped first, in a program that goes on for a moment.
    async fn kill(self, shared: &Shared, nth: usize) {
        shared.book().killed(self.number);
        if nth.is_multiple_of(3) {
            self.consuming.abort();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        self.runtime.shutdown_background();
    }
}

async fn consume(queue: &'static str, number: usize, addresses: Vec<String>, shared: Shared) {
    loop {
        let Ok(client) = Client::connect(addresses.clone()).await else { continue };
        let prefetch = if queue == SINGLE { 6 } else { 2 };
        let Ok(mut consumer) = client.consumer(queue).prefetch(prefetch).build().await else {
            continue;
        };
        while let Some(Ok(delivery)) = consumer.next().await {
            let key = delivery.group_key();
            assert_eq!(key.is_some(), queue == GROUPED, "a consumer sees the key");
            if !shared.book().begins(number, key.as_deref(), (delivery.offset, delivery.token)) {
                return;
            }
            tokio::spawn(handle(delivery, key, shared.clone()));
        }
    }
}

async fn handle(delivery: Delivery, key: Option<String>, shared: Shared) {
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..12))).await;
    let held = (delivery.offset, delivery.token);
    // What comes next may be handed out as soon as the queue knows, and that is before we do.
    shared.book().ends(key.as_deref(), held);
    if key.is_some() && rand::random_ratio(1, 12) {
        let delay = rand::random_ratio(1, 2).then_some(Duration::from_millis(40));
        let _ = delivery.nack(delay).await;
    } else if delivery.ack().await.is_ok() {
        shared.book().acked.insert(held);
    }
}

/// Publishes all messages of a queue while consumers die.
async fn publish(client: Client, queue: &'static str, messages: u64) {
    let producer = client.producer(queue).deadline(SOON).build().await.expect("a producer");
    let mut sent = Vec::new();
    for n in 0..messages {
        let message = Message::new(n.to_string());
        let message = match queue {
            // Some of them one after the other.
            GROUPED => message.group_key(format!("key {}", n / 3 % KEYS)),
            _ => message,
        };
        sent.push(producer.send(message).await.expect("sent"));
        if n % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(20_000 * 20 / messages)).await;
        }
    }
    for pending in sent {
        pending.await.expect("confirmed");
    }
}

async fn counts(client: &Client, queue: &str) -> QueueCounts {
    let described = client.describe_queue(queue).await.expect("describe");
    described.counts.expect("the leader knows the counts")
}

#[test]
fn order_holds_and_nothing_is_stuck_over_500_deaths_of_consumers_and_two_of_leaders() {
    turn::alone(LONG, async {
        let mut cluster = Cluster::start(3).await;
        let settings = QueueSettings { session_grace_ms: 1_000, ..Default::default() };
        let client = cluster.queue_with(GROUPED, settings.clone()).await;
        let single = QueueSettings { single_active: true, ..settings };
        client.create_queue(SINGLE, single).await.expect("created");
        let publishing: Vec<_> = MESSAGES
            .map(|(queue, messages)| tokio::spawn(publish(client.clone(), queue, messages)))
            .into();
        let books: BTreeMap<&str, Shared> =
            MESSAGES.map(|(queue, _)| (queue, Shared::default())).into();
        let addresses = cluster.addresses();
        let begin = |queue: &'static str, number| {
            Life::begin(queue, number, addresses.clone(), books[queue].clone())
        };
        let queues = [GROUPED, GROUPED, GROUPED, GROUPED, GROUPED, SINGLE, SINGLE, SINGLE];
        let mut lives: Vec<Life> =
            queues.into_iter().enumerate().map(|(number, queue)| begin(queue, number)).collect();
        let (begun, mut down) = (Instant::now(), None);
        for nth in 0..KILLS {
            match nth {
                170 | 340 => {
                    let leader = cluster.leader_of(if nth == 170 { GROUPED } else { SINGLE }).await;
                    cluster.kill9(leader);
                    down = Some(leader);
                }
                250 | 420 => cluster.start_node(down.take().expect("one is down")),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(20..80))).await;
            let at = rand::random_range(0..lives.len());
            let next = begin(lives[at].queue, queues.len() + nth);
            let life = std::mem::replace(&mut lives[at], next);
            let shared = &books[life.queue];
            life.kill(shared, nth).await;
        }
        println!("{KILLS} kills in {:?}", begun.elapsed());
        for published in publishing {
            published.await.expect("no panic");
        }
        for (queue, messages) in MESSAGES {
            let begun = Instant::now();
            loop {
                let counts = counts(&client, queue).await;
                if counts.ready + counts.leased + counts.delayed + counts.blocked + counts.dead == 0
                {
                    assert_eq!((counts.published, counts.acked), (messages, messages));
                    break;
                }
                assert!(begun.elapsed() < SOON, "{queue} is stuck: {counts:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        for life in lives {
            let shared = &books[life.queue];
            life.kill(shared, 1).await;
        }
        for (queue, messages) in MESSAGES {
            let book = books[queue].book();
            assert_eq!(book.seen.len() as u64, messages);
            book.check(queue);
        }
    });
}

#[test]
fn a_consumer_that_hangs_with_its_stream_open_is_taken_over_from_and_does_not_come_back_by_itself()
{
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let settings = QueueSettings { single_active: true, lease_ms: 1_000, ..Default::default() };
        let client = cluster.queue_with(SINGLE, settings).await;
        let address = cluster.address(1);
        let attach = async |name: &str| {
            let attach =
                v1::Attach { name: name.to_owned(), ..raw::attach(SINGLE, &raw::session(), 5) };
            RawConsumer::attach(&address, attach).await.expect("attached")
        };
        let (mut hung, mut standby) = (attach("hung").await, attach("standby").await);
        let active = async || {
            let consumers = client.describe_queue(SINGLE).await.expect("describe").consumers;
            let active = consumers.into_iter().filter(|consumer| consumer.active);
            active.map(|consumer| consumer.name).collect::<Vec<_>>()
        };
        assert_eq!(active().await, ["hung"]);
        raw::publish(&address, SINGLE, "first", None).await.expect("published");
        let lost = hung.delivery().await;
        assert!(standby.is_silent_for(Duration::from_millis(300)).await, "two were active");
        // A second lease, which is to outlast the first.
        raw::publish(&address, SINGLE, "second", None).await.expect("published");
        hung.delivery().await;
        let mut taken = Vec::new();
        while taken.len() < 2 {
            let delivery = standby.delivery().await;
            taken.extend(raw::bodies(&delivery));
            let settled = standby.settle(raw::item(v1::SettleKind::Ack, &delivery, 0)).await;
            assert!(settled.lost.is_empty(), "{settled:?}");
        }
        assert_eq!(taken, ["first", "second"]);
        assert_eq!(active().await, ["standby"]);
        let settled = hung.settle(raw::item(v1::SettleKind::Ack, &lost, 0)).await;
        assert_eq!(settled.lost.len(), 1, "its lease was lost");
        raw::publish(&address, SINGLE, "third", None).await.expect("published");
        assert_eq!(raw::bodies(&standby.delivery().await), ["third"]);
        assert!(hung.is_silent_for(Duration::from_millis(300)).await, "two were active");
    });
}

#[test]
fn a_key_is_seen_by_all_who_read_it_and_refused_where_it_makes_no_sense() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(GROUPED).await;
        let address = cluster.address(2);
        let refused = async |request: v1::PublishRequest| {
            let request = v1::PublishRequest { queue: GROUPED.to_owned(), ..request };
            let answer = raw::publish_request(&address, request).await;
            raw::reason(&answer.expect_err("refused"))
        };
        let messages = |message| v1::PublishRequest { messages: vec![message], ..<_>::default() };
        let header = v1::Header { key: GROUP_KEY_HEADER.to_owned(), value: "a".into() };
        let reserved = v1::Message { headers: vec![header], ..<_>::default() };
        let long = v1::Message { group_key: "k".repeat(257), ..<_>::default() };
        for wrong in [reserved, long] {
            assert_eq!(refused(messages(wrong)).await, reason::INVALID_ARGUMENT);
        }
        // The header of a framed message says another key than its properties, or none.
        let framed = |keys: [&str; 2], said: &[(u32, &str)]| {
            let mut frame = FrameBuilder::new();
            keys.iter()
                .for_each(|key| frame.push_keyed::<&str, &[u8]>(&[], key, b"").expect("short"));
            let of = |&(count, key): &(u32, &str)| v1::Properties {
                count,
                group_key: key.to_owned(),
                ..<_>::default()
            };
            let properties = said.iter().map(of).collect();
            v1::PublishRequest { frame: Some(frame.finish()), properties, ..<_>::default() }
        };
        let wrong = [
            framed(["a", "b"], &[(2, "a")]),
            framed(["", ""], &[(2, "a")]),
            framed(["a", "a"], &[(1, "a"), (1, "")]),
        ];
        for wrong in wrong {
            assert_eq!(refused(wrong).await, reason::INVALID_ARGUMENT);
        }
        let producer = client.producer(GROUPED).build().await.expect("a producer");
        let reserved = producer.send(Message::new("").header(GROUP_KEY_HEADER, "a")).await;
        let error = FrameError::ReservedHeader { at: 0 };
        assert!(matches!(reserved, Err(PublishError::Invalid(found)) if found == error));

        let right = framed(["a", "a"], &[(2, "a")]);
        let right = v1::PublishRequest { queue: GROUPED.to_owned(), ..right };
        raw::publish_request(&address, right).await.expect("published");
        let server = cluster.addresses().join(",");
        let quorate = async |args: &[&str]| {
            let ended = run(&[args, &["--server", &server]].concat(), SOON).await;
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            ended.out
        };
        quorate(&["publish", GROUPED, "third", "--group-key", "a"]).await;
        quorate(&["publish", GROUPED, "other", "--group-key", "b"]).await;
        let shown = quorate(&["queue", "describe", GROUPED, "-o", "json"]).await;
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(
            (&shown["counts"]["ready"], &shown["counts"]["blocked"]),
            (&2.into(), &2.into())
        );
        let mut reader = client.reader(GROUPED).from_offset(0).build();
        for key in ["a", "a", "a", "b"] {
            let read = reader.next().await.expect("goes on").expect("a message");
            assert_eq!(read.group_key().as_deref(), Some(key), "a reader sees what is blocked");
        }
        let mut consumer = client.consumer(GROUPED).build().await.expect("a consumer");
        let first = consumer.next().await.expect("goes on").expect("a delivery");
        let other = consumer.next().await.expect("goes on").expect("a delivery");
        assert_eq!((first.offset, first.group_key().as_deref()), (0, Some("a")));
        assert_eq!((other.offset, other.group_key().as_deref()), (3, Some("b")));
        // A retry goes before what is behind it.
        first.nack(None).await.expect("given back");
        for offset in 0..3 {
            let delivery = consumer.next().await.expect("goes on").expect("a delivery");
            assert_eq!(delivery.offset, offset);
            delivery.ack().await.expect("acknowledged");
        }
        other.ack().await.expect("acknowledged");
        consumer.close().await;
        quorate(&["queue", "create", SINGLE, "--single-active"]).await;
        let shown = quorate(&["queue", "describe", SINGLE, "-o", "json"]).await;
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["settings"]["single_active"], true);
    });
}
