//! What clients do in a run: queues with settings by seed, producers, consumers and an
//! administrator, on client machines of their own, through the SDK.
//!
//! A client machine can be killed and comes back with new producers and sessions; what its old ones
//! had under way stays unknown, as it does to an application.

pub mod body;

mod admin;
mod claims;
mod consumer;
mod habits;
mod named;
mod producer;
mod puller;
mod reader;
mod seeker;
mod shards;
mod slots;
mod topics;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use madsim::task::NodeId;
use quorate_client::{Client, QueueSettings, reason};
use tokio::time::{Instant, sleep};

pub use habits::Habits;

use crate::events::Event;
use crate::world::Cluster;

/// A queue of the workload.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: u64,
    /// What clients do with it.
    pub habits: Habits,
    /// If it is sharded, the groups of its shards, in the order in which keys are spread over them.
    pub shards: Vec<u64>,
}

impl Queue {
    /// The group of a shard, or its own.
    fn group_of(&self, shard: Option<u16>) -> u64 {
        let shard = shard.and_then(|shard| self.shards.get(usize::from(shard)));
        shard.copied().unwrap_or(self.group)
    }
}

/// How much is done.
#[derive(Clone, Debug)]
pub struct Load {
    /// Queues.
    pub queues: usize,
    /// Producers of each queue.
    pub producers: usize,
    /// Consumers of each queue.
    pub consumers: usize,
    /// Mean pause of a producer between two messages.
    pub pause: Duration,
    /// Of a queue without a name here, by seed.
    pub settings: Option<QueueSettings>,
    /// Whether queues without settings here are used in all the ways that there are, by seed: see [`Habits`].
    pub habits: bool,
    /// Group keys that messages have; 0: none has any.
    pub keys: u32,
    /// Of 100 deliveries, how many are not simply acknowledged.
    pub trouble_percent: u32,
    /// Whether producers now and then meet a rival of their name.
    pub rivals: bool,
    /// Whether each client machine has a reader of each queue.
    pub readers: bool,
    /// Mean pause of a reader between two things that it does.
    pub reader_pause: Duration,
    /// Whether each client machine has a slot at each queue.
    pub slots: bool,
    /// Shards of a sharded queue that there is beside the others; 0: there is none.
    pub shards: u32,
    /// Whether the administrator moves leaderships: by transfers, drains and balancing.
    pub moves_leaders: bool,
}

impl Load {
    /// Chosen by the run's seed.
    #[must_use]
    pub fn random() -> Load {
        let mut random = thread_rng();
        Load {
            queues: random.gen_range(1..=3),
            producers: random.gen_range(1..=2),
            consumers: random.gen_range(1..=3),
            pause: Duration::from_millis(random.gen_range(25..=120)),
            settings: None,
            habits: true,
            keys: if random.gen_bool(0.5) { random.gen_range(3..30) } else { 0 },
            trouble_percent: random.gen_range(0..=30),
            rivals: true,
            readers: random.gen_bool(0.7),
            reader_pause: Duration::from_millis(750),
            slots: random.gen_bool(0.5),
            shards: if random.gen_bool(0.3) { random.gen_range(2..=3) } else { 0 },
            moves_leaders: true,
        }
    }
}

fn random_settings() -> QueueSettings {
    let mut random = thread_rng();
    let retry_ms = if random.gen_bool(0.3) { random.gen_range(10..1_000) } else { 0 };
    QueueSettings {
        replicas: 3,
        max_messages: if random.gen_bool(0.15) { random.gen_range(20..200) } else { 0 },
        max_deliveries: if random.gen_bool(0.3) { random.gen_range(2..8) } else { 0 },
        lease_ms: random.gen_range(800..5_000),
        session_grace_ms: random.gen_range(500..4_000),
        min_in_sync: if random.gen_bool(0.2) { 3 } else { 0 },
        in_sync_lag_ms: random.gen_range(100..3_000),
        retain_ms: if random.gen_bool(0.3) { random.gen_range(500..20_000) } else { 0 },
        retain_bytes: if random.gen_bool(0.3) { random.gen_range(1_000..200_000) } else { 0 },
        single_active: random.gen_bool(0.15),
        retry_ms,
        // Short, so that a run's end need not wait for the last attempts.
        retry_max_ms: if retry_ms > 0 { 1_500 } else { 0 },
        ..QueueSettings::default()
    }
}

/// What the tasks of a run share.
pub(crate) struct Shared {
    pub(crate) cluster: Cluster,
    pub(crate) load: Load,
    pub(crate) queues: Vec<Queue>,
    /// No further messages are sent.
    pub(crate) quiet: AtomicBool,
    /// Consumers acknowledge everything at once.
    pub(crate) draining: AtomicBool,
    producers: AtomicU32,
    consumers: AtomicU32,
    readers: AtomicU32,
    seeks: AtomicU32,
    /// A topic leads to the queues.
    has_topic: bool,
    /// A sharded queue beside the others; its shards are among the queues.
    sharded: Option<shards::Sharded>,
    named: Mutex<VecDeque<named::Named>>,
}

impl Shared {
    /// What was published under an id, the oldest first.
    fn named(&self) -> MutexGuard<'_, VecDeque<named::Named>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn next_producer(&self) -> u32 {
        self.producers.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn next_reader(&self) -> u32 {
        self.readers.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn next_seek(&self) -> u32 {
        self.seeks.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn next_consumer(&self) -> u32 {
        self.consumers.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A running workload.
pub struct Workload {
    shared: Arc<Shared>,
    machines: Vec<NodeId>,
}

/// Client machines of a run.
const MACHINES: usize = 2;

impl Workload {
    /// Creates the queues and starts the clients.
    ///
    /// # Errors
    /// When the queues cannot be created while nothing disturbs.
    pub async fn start(cluster: &Cluster, load: Load) -> Result<Workload, String> {
        let load = Load { habits: load.habits && load.settings.is_none(), ..load };
        let setup = cluster.client_machine("setup");
        let (creating, wanted) = (cluster.clone(), load.clone());
        let created = setup.spawn(async move { create_queues(&creating, &wanted).await });
        let (mut queues, has_topic, sharded) =
            created.await.map_err(|error| error.to_string())??;
        queues.extend(sharded.iter().flat_map(|sharded| sharded.shards.clone()));
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            load,
            queues,
            quiet: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            producers: AtomicU32::new(0),
            consumers: AtomicU32::new(0),
            readers: AtomicU32::new(0),
            seeks: AtomicU32::new(0),
            has_topic,
            sharded,
            named: Mutex::default(),
        });
        let mut machines = Vec::new();
        for number in 0..MACHINES {
            let shared = shared.clone();
            let main = move || client_main(shared.clone(), number);
            let name = format!("client {number}");
            machines.push(cluster.client_machine_with(&name, main).id());
        }
        Ok(Workload { shared, machines })
    }

    /// Its queues.
    #[must_use]
    pub fn queues(&self) -> &[Queue] {
        &self.shared.queues
    }

    /// The machines that clients run on.
    #[must_use]
    pub fn machines(&self) -> Vec<NodeId> {
        self.machines.clone()
    }

    /// Ends the producers, and waits until the consumers have emptied the queues.
    ///
    /// # Errors
    /// When a publish is not confirmed, or a queue not empty, within `limit`.
    pub async fn drain(&self, limit: Duration) -> Result<(), String> {
        let cluster = &self.shared.cluster;
        cluster.record().tell(Event::Note("drain"));
        self.shared.quiet.store(true, Ordering::Relaxed);
        self.shared.draining.store(true, Ordering::Relaxed);
        let shared = self.shared.clone();
        let machine = cluster.client_machine("drain");
        let drained = machine.spawn(async move { drain(&shared, limit).await });
        drained.await.map_err(|error| error.to_string())?
    }
}

/// Whatever fails is tried again while the cluster settles.
pub(crate) async fn connect(cluster: &Cluster) -> Client {
    loop {
        match Client::connect(cluster.addresses()).await {
            Ok(client) => return client,
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The queues, whether a topic leads to them, and a sharded one.
async fn create_queues(
    cluster: &Cluster,
    load: &Load,
) -> Result<(Vec<Queue>, bool, Option<shards::Sharded>), String> {
    let client = connect(cluster).await;
    let mut queues = Vec::new();
    let mut last = None;
    if load.habits && thread_rng().gen_bool(0.5) {
        let settings = habits::of_the_dead(random_settings());
        let sought = habits::is_sought(&settings);
        let of_the_dead = Habits { dead_letters: true, sought, ..Habits::default() };
        last = Some(create(cluster, &client, habits::DEAD_LETTERS, settings, of_the_dead).await?);
    }
    for number in 0..load.queues {
        let settings = load.settings.clone().unwrap_or_else(random_settings);
        let (settings, habits) = match load.habits {
            true => habits::random(settings, last.is_some()),
            false => (settings, Habits::default()),
        };
        let name = format!("queue-{number}");
        queues.push(create(cluster, &client, &name, settings, habits).await?);
    }
    // Last, as what it gets comes from the others.
    queues.extend(last);
    let has_topic = load.habits && thread_rng().gen_bool(0.4);
    if has_topic {
        let routed = queues.iter().enumerate().filter(|(_, queue)| queue.habits.is_routed());
        let routes = routed.flat_map(|(number, queue)| topics::routes(number, &queue.name));
        let routes: Vec<_> = routes.collect();
        let mut tries = 0;
        while let Err(error) = client.set_topic(topics::TOPIC, 0, routes.clone()).await {
            if error.reason() == Some(reason::TOPIC_CHANGED) {
                // By an attempt whose answer was lost.
                break;
            }
            if tries == 20 {
                return Err(format!("set the topic: {error}"));
            }
            sleep(Duration::from_millis(250)).await;
            tries += 1;
        }
    }
    let sharded = match load.shards {
        0 => None,
        shards => Some(shards::create(cluster, &client, shards, random_settings()).await?),
    };
    Ok((queues, has_topic, sharded))
}

async fn create(
    cluster: &Cluster,
    client: &Client,
    name: &str,
    settings: QueueSettings,
    habits: Habits,
) -> Result<Queue, String> {
    let mut tries = 0;
    let created = loop {
        match client.create_queue(name, settings.clone()).await {
            Ok(created) => break created,
            Err(error) if tries == 20 => return Err(format!("create {name}: {error}")),
            Err(_) => sleep(Duration::from_millis(250)).await,
        }
        tries += 1;
    };
    let group = created.queue.group_id;
    let what = format!("{name} is group {group}: {settings:?} {habits:?}");
    cluster.record().tell(Event::Note(&what));
    Ok(Queue { name: name.to_owned(), group, habits, shards: Vec::new() })
}

async fn client_main(shared: Arc<Shared>, number: usize) {
    let client = connect(&shared.cluster).await;
    let mut tasks = Vec::new();
    for (at, queue) in shared.queues.iter().enumerate() {
        let mine = |index: usize| (at + index) % MACHINES == number;
        let habits = queue.habits;
        for index in (0..shared.load.producers).filter(|index| mine(*index)) {
            let _ = index;
            if habits.is_published_to() {
                let producer = producer::run(shared.clone(), client.clone(), queue.clone());
                tasks.push(tokio::spawn(producer));
            }
        }
        if habits.claimed {
            tasks.push(tokio::spawn(claims::run(shared.clone(), client.clone(), queue.clone())));
        }
        if habits.named {
            tasks.push(tokio::spawn(named::run(shared.clone(), client.clone(), queue.clone())));
        }
        if habits.pulled {
            tasks.push(tokio::spawn(puller::run(shared.clone(), client.clone(), queue.clone())));
        }
        if habits.sought && mine(0) {
            tasks.push(tokio::spawn(seeker::run(shared.clone(), client.clone(), queue.clone())));
        }
        // A shard's are those of its queue.
        let consumers = if habits.shard { 0 } else { shared.load.consumers };
        // The other machine, so that killing one leaves the other end.
        for _ in (0..consumers).filter(|index| !mine(*index)) {
            tasks.push(tokio::spawn(consumer::run(shared.clone(), client.clone(), queue.clone())));
        }
    }
    for queue in shared.queues.iter().filter(|_| shared.load.readers) {
        tasks.push(tokio::spawn(reader::run(shared.clone(), client.clone(), queue.clone())));
    }
    for queue in shared.queues.iter().filter(|_| shared.load.slots) {
        let slot = slots::run(shared.clone(), client.clone(), queue.clone(), number);
        tasks.push(tokio::spawn(slot));
    }
    if let Some(sharded) = &shared.sharded {
        let (shared, client) = (|| shared.clone(), || client.clone());
        tasks.push(tokio::spawn(shards::produce(shared(), client(), sharded.clone())));
        tasks.push(tokio::spawn(consumer::run(shared(), client(), sharded.whole.clone())));
        if number == 0 {
            tasks.push(tokio::spawn(shards::route(shared(), sharded.clone())));
        }
    }
    if shared.has_topic {
        tasks.push(tokio::spawn(topics::run(shared.clone(), client.clone())));
    }
    if number == 0 {
        tasks.push(tokio::spawn(admin::run(shared.clone(), client.clone())));
    }
    for task in tasks {
        let _ = task.await;
    }
}

async fn drain(shared: &Arc<Shared>, limit: Duration) -> Result<(), String> {
    let until = Instant::now() + limit;
    let client = connect(&shared.cluster).await;
    for queue in &shared.queues {
        // One more of its own: the queue takes messages again.
        producer::one(shared, &client, queue, until).await?;
        // And somebody takes them, whatever became of the others.
        tokio::spawn(consumer::run(shared.clone(), client.clone(), queue.clone()));
    }
    // What producers have under way is decided by then, so that the figures stay as they are.
    sleep(producer::DEADLINE + Duration::from_secs(2)).await;
    for queue in &shared.queues {
        loop {
            let told = match client.describe_queue(queue.name.as_str()).await {
                Ok(description) => {
                    let counts = description.counts.unwrap_or_default();
                    let (group, record) = (queue.group, shared.cluster.record());
                    record.tell(Event::Counted { group, counts: &counts });
                    if counts.ready + counts.leased + counts.delayed + counts.blocked + counts.dead
                        == 0
                    {
                        break;
                    }
                    format!("{counts:?}")
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                return Err(format!(
                    "liveness: {} is not empty after {limit:?}: {told}",
                    queue.name
                ));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}
