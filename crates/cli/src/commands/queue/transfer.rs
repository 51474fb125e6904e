//! Taking messages out of one queue and publishing them to others, once each: what `queue redrive` and `queue move` have
//! in common.
//!
//! ```text
//!  choose (a reader, only by header) ─► take ─► look up ─► publish ─► receipt ─► ack ─► its answer
//!                                         │  priority and time to live,  │          └ not known: asked, or it comes again
//!                                         │  where they go along         └ under an id made of where it was
//!                                         └ not chosen, or not taken there: held, put back untouched at the end
//! ```
//!
//! A message is acknowledged once a majority of the other queue has it, so whoever dies, at whatever moment, it is in
//! one of the two. One that is there and was not acknowledged comes again, to this run or the next: then it is published
//! under the same id, and enters once as long as the other queue remembers that. Those are the last [`AHEAD`] of
//! a run, which fit into any window of ids that is allowed here.

mod known;
mod plan;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::{
    Batch, Client, Consumer, Delivery, Error, Headers, Message, MessagePlace, Producer,
    PublishError, QueueDescription,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::known::{Known, Which};
pub use self::plan::{Filter, Plan, dead_runs_over, filter, matches};
pub use self::room::{Coming, held, makes_room, says_bytes};

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{self, Reasoned};
use crate::units;

/// Messages taken ahead, and sent without a receipt yet.
pub const AHEAD: u32 = 256;
/// Most messages that are passed over to come to others: they are leased meanwhile.
const PASSED_MAX: u64 = 65_000;
/// Most headers that a message may have.
const HEADERS_MAX: usize = 64;
/// Without a message for so long, it is asked whether any is ready.
const DRAINED_AFTER: Duration = Duration::from_secs(2);
/// Time between two questions about a message while there is no leader.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The lowest rate, messages a second.
const RATE_MIN: f64 = 1e-6;
/// Most messages of which it is asked at the end why they did not come, and so many at a time.
const ASKED_MAX: usize = 1_024;
const ASKED_AT_ONCE: usize = 16;
/// Time between two lines about how far it is, where there is no progress bar.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Reads messages a second.
pub fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= RATE_MIN => Ok(rate),
        Ok(rate) if rate > 0.0 => Err(format!("a rate is at least {RATE_MIN}/s, and a number")),
        _ => Err("a rate is a number above 0, e.g. 100/s".to_owned()),
    }
}

/// What sets a message apart that its frame does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    pub priority: u8,
    /// What is left of its own time to live.
    pub ttl: Option<Duration>,
}

/// What a command wants done.
pub trait Errand {
    /// The queue that is emptied.
    fn from(&self) -> &str;
    /// What it is called among the consumers of that queue.
    fn name(&self) -> &'static str;
    /// What ids of messages begin with.
    fn id_prefix(&self) -> &'static str;
    /// How a message is called that is through: "redriven".
    fn done(&self) -> &'static str;
    /// Headers that a message has to have.
    fn filters(&self) -> &[Filter];
    /// Messages a second at most.
    fn rate(&self) -> Option<f64>;
    /// What a message is counted under.
    fn class(&self, headers: &Headers) -> String;
    /// Where a message goes, or why nowhere.
    fn target(&self, headers: &Headers) -> Result<String, String>;
    /// Whether priority and time to live go along.
    fn looks_up(&self) -> bool;
    /// Whether it is still to be seen that a queue does not drop messages for those that are sent to it.
    fn weighs(&self) -> bool;
    /// The option with which fewer messages are sent.
    fn fewer(&self) -> &'static str;
    /// Headers that a message leaves behind,
    fn without(&self) -> &'static [&'static str];
    /// and the one that says where from.
    fn says(&self) -> &'static str;
    /// The message as it is published.
    fn message(&self, delivery: &Delivery, properties: Properties) -> Message;
}

/// Why a queue is not one that messages are sent to, if it remembers too few ids to know those again that are sent twice.
pub fn short_window(queue: &str, window: u32) -> Option<(String, String)> {
    let least = 2 * AHEAD;
    let why = format!(
        "{queue} remembers {window} message ids: after an interruption it would not know again the {least} that may be on \
         their way"
    );
    let cure = format!("`quorate queue update {queue} --message-id-window {least}`, or more");
    (window < least).then_some((why, cure))
}

/// A message with the headers that it had, but for those that it leaves behind, and the one that says where from, for which
/// it may have no room.
pub fn carried(delivery: &Delivery, errand: &impl Errand) -> Message {
    // It says the group key, is refused of who gives it as a header, and counts among them.
    const GROUP_KEY: &str = "quorate-group-key";
    let (without, says) = (errand.without(), errand.says());
    let key = delivery.group_key().unwrap_or_default();
    let room = HEADERS_MAX - usize::from(!key.is_empty());
    let mut message = Message::new(delivery.body.clone()).group_key(key);
    for (key, value) in &delivery.headers {
        if !without.contains(&key) && key != says && key != GROUP_KEY {
            message = message.header(key, value);
        }
    }
    match message.headers().len() < room {
        true => message.header(says, format!("{}/{}", errand.from(), delivery.offset)),
        false => message,
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    Interrupted,
    /// No more came, though there was more when it began.
    Drained,
}

/// Messages of one class.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub sent: u64,
    pub left: u64,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    pub ended: Ended,
    pub total: u64,
    pub by_class: BTreeMap<String, Tally>,
    /// Queues that refused one, and why.
    pub refused: BTreeMap<String, (String, Exit)>,
    /// Messages that are in the other queue and perhaps in this one still.
    pub owed: u64,
}

impl Outcome {
    pub fn sent(&self) -> u64 {
        self.by_class.values().map(|tally| tally.sent).sum()
    }

    pub fn left(&self) -> u64 {
        self.by_class.values().map(|tally| tally.left).sum()
    }

    /// Messages that did not come.
    pub fn missing(&self) -> u64 {
        self.total.saturating_sub(self.sent() + self.left())
    }

    /// Why it is not done, if it is not.
    pub fn failure(&self, from: &str) -> Option<Failure> {
        if self.ended == Ended::Interrupted {
            let what = format!("interrupted after {} of {}", self.sent(), self.total);
            return Some(
                Failure::new(Exit::Failed, what).cure("the same again goes on from there"),
            );
        }
        if let Some((to, (why, exit))) = self.refused.first_key_value() {
            let what = format!("{} messages stay in {from}: {to}: {why}", self.left());
            return Some(Failure::new(*exit, what).cure("the same again once that is mended"));
        }
        let what = format!(
            "{} messages were published and may be in {from} still: there was no answer to their acks",
            self.owed
        );
        if self.owed > 0 {
            let failure = Failure::new(Exit::Unavailable, what);
            return Some(failure.cure("the same again: none of them enters twice"));
        }
        let what = format!(
            "{} messages did not come: consumers may have them or be done with them, or they may wait for their time",
            self.missing()
        );
        let failure = Failure::new(Exit::Failed, what).cure("the same again goes on from there");
        (self.missing() > 0).then_some(failure)
    }
}

/// A message on its way.
enum Sent {
    /// It is in the other queue; whether it has left this one.
    In {
        which: Which,
        class: Option<String>,
        acked: bool,
    },
    Refused(Box<NotTaken>),
}

/// A message that the other queue has refused.
struct NotTaken {
    delivery: Delivery,
    class: String,
    to: String,
    error: PublishError,
}

/// What a message is looked up as; none if it is not leased to this run any more.
type LookedUp = (Delivery, Which, Result<Option<Properties>, (String, Exit)>);

/// A run.
pub struct Work<E> {
    client: Client,
    errand: E,
    plan: Plan,
    consumer: Option<Consumer>,
    /// By the queue that they publish to.
    producers: BTreeMap<String, Producer>,
    refused: BTreeMap<String, (String, Exit)>,
    /// In the order in which they came, which is that in which they are published.
    looked_up: FuturesOrdered<BoxFuture<'static, LookedUp>>,
    under_way: FuturesUnordered<BoxFuture<'static, Sent>>,
    /// Taken and not published; given back at the end, so that they do not come again at once.
    held: Vec<Delivery>,
    known: Known,
    /// How long one answer is waited for.
    patience: Duration,
    by_class: BTreeMap<String, Tally>,
    bar: ProgressBar,
    told: Instant,
    /// When the last one came.
    came: Instant,
    /// When the next may be sent.
    next_at: Instant,
}

impl<E: Errand> Work<E> {
    pub fn new(client: Client, errand: E, plan: Plan) -> Self {
        // Hidden by itself when standard error is no terminal.
        let bar = ProgressBar::new(plan.total);
        let style =
            format!("{} {{bar:32}} {{human_pos}}/{{human_len}}  {{per_sec}}", errand.done());
        if let Ok(style) = ProgressStyle::with_template(&style) {
            bar.set_style(style);
        }
        Self {
            client,
            errand,
            plan,
            consumer: None,
            producers: BTreeMap::new(),
            refused: BTreeMap::new(),
            looked_up: FuturesOrdered::new(),
            under_way: FuturesUnordered::new(),
            held: Vec::new(),
            known: Known::default(),
            patience: DRAINED_AFTER,
            by_class: BTreeMap::new(),
            bar,
            told: Instant::now(),
            came: Instant::now(),
            next_at: Instant::now(),
        }
    }

    /// Takes and publishes until all is through, nothing more comes, or Ctrl-C.
    pub async fn carry_out(mut self, global: &Global) -> Result<(E, Outcome), Failure> {
        self.patience = global.timeout;
        let outcome = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Ok(Ended::Interrupted),
            outcome = self.run(global) => outcome,
        };
        self.finish(global).await;
        if matches!(outcome, Ok(Ended::Drained)) {
            self.forget_settled().await;
        }
        let outcome = Outcome {
            ended: outcome?,
            total: self.plan.total,
            by_class: self.by_class,
            refused: self.refused,
            owed: self.known.owed.len() as u64,
        };
        Ok((self.errand, outcome))
    }

    async fn run(&mut self, global: &Global) -> Result<Ended, Failure> {
        if self.plan.total == 0 {
            return Ok(Ended::Done);
        }
        if self.plan.passed > PASSED_MAX {
            return Err(self.too_many_passed());
        }
        let doing = format!("consume from {:?}", self.errand.from());
        let building = self.client.consumer(self.errand.from()).name(self.errand.name());
        let building = building.prefetch(AHEAD + self.plan.passed as u32).lease(self.plan.lease);
        self.consumer = Some(session::within(global, "open consumer", building.build()).await?);
        self.came = Instant::now();
        let mut is_over = false;
        loop {
            let all_seen = self.known.seen.len() as u64 >= self.plan.total;
            let on_the_way = self.under_way.len() + self.looked_up.len();
            let wants = !is_over && (!all_seen || !self.known.owed.is_empty());
            if !wants && on_the_way == 0 {
                return Ok(if is_over { Ended::Drained } else { Ended::Done });
            }
            let (consumer, next_at) = (&mut self.consumer, self.next_at);
            let next = async {
                sleep_until(next_at).await;
                match consumer {
                    Some(consumer) => timeout(DRAINED_AFTER, consumer.next()).await.map_err(|_| ()),
                    None => Ok(None),
                }
            };
            tokio::select! {
                biased;
                Some(sent) = self.under_way.next(), if !self.under_way.is_empty() => self.settle(sent),
                Some(looked_up) = self.looked_up.next(), if !self.looked_up.is_empty() => {
                    self.send(looked_up).await;
                }
                next = next, if wants && on_the_way < AHEAD as usize => match next {
                    Ok(Some(Ok(delivery))) => self.take(delivery, global),
                    Ok(Some(Err(error))) => return Err(session::failure(&doing, &error)),
                    Ok(None) => is_over = true,
                    Err(()) => is_over = on_the_way == 0 && self.is_drained(global).await,
                },
            }
        }
    }

    fn too_many_passed(&self) -> Failure {
        let (passed, most) = (units::count(self.plan.passed), units::count(PASSED_MAX));
        let what = format!(
            "{passed} messages that stay are before others that are taken, at most {most} can be passed over"
        );
        Failure::new(Exit::Failed, what)
            .cure("take or consume the older ones first, with a lower count or another filter")
    }

    /// Nothing has come for a while: whether nothing is ready either. A queue that changes its leader has more to come.
    async fn is_drained(&self, global: &Global) -> bool {
        if self.came.elapsed() > global.timeout.max(DRAINED_AFTER) {
            return true;
        }
        let describing = self.client.describe_queue(self.errand.from());
        match timeout(DRAINED_AFTER, describing).await {
            Ok(Ok(described)) => described.counts.is_some_and(|counts| counts.ready == 0),
            _ => false,
        }
    }

    /// Looks a message up that is to be published, or keeps it to the end.
    fn take(&mut self, delivery: Delivery, global: &Global) {
        self.came = Instant::now();
        let which = Which::of(delivery.offset, &delivery.headers, &delivery.body);
        if self.known.came(which) {
            // Its lease had ended before its ack was there.
            self.known.is_in(which, false);
            let client = self.client.clone();
            let ack = acked(client, self.errand.from().to_owned(), delivery);
            let again = async move { Sent::In { which, class: None, acked: ack.await } };
            return self.under_way.push(Box::pin(again));
        }
        let seen = &self.known.seen;
        let is_full = seen.len() as u64 >= self.plan.total && !seen.contains(&which);
        // Looked at once more: another message may be at an offset that was chosen.
        let is_meant =
            self.plan.has(which.offset) && matches(self.errand.filters(), &delivery.headers);
        if is_full || !is_meant {
            return self.hold(delivery);
        }
        self.known.seen.insert(which);
        if let Some(rate) = self.errand.rate() {
            // What was not sent in time is not made up for.
            self.next_at = Instant::now() + Duration::from_secs_f64(1.0 / rate);
        }
        let (client, queue) = (self.client.clone(), self.errand.from().to_owned());
        let (looks_up, patience) = (self.errand.looks_up(), global.timeout);
        self.looked_up.push_back(Box::pin(async move {
            let found = match looks_up {
                true => properties(&client, &queue, &delivery, patience).await,
                false => Ok(Some(Properties::default())),
            };
            (delivery, which, found)
        }));
    }

    /// Sends a message on its way.
    async fn send(&mut self, (delivery, which, found): LookedUp) {
        let class = self.errand.class(&delivery.headers);
        let to = match self.errand.target(&delivery.headers) {
            Ok(to) => to,
            Err(why) => return self.leave(delivery, &class, "unknown", why, Exit::Failed),
        };
        if self.refused.contains_key(&to) {
            self.by_class.entry(class).or_default().left += 1;
            return self.hold(delivery);
        }
        let properties = match found {
            Ok(Some(properties)) => properties,
            // Its lease had ended: if it comes again, it is looked at again.
            Ok(None) => {
                self.known.seen.remove(&which);
                return self.hold(delivery);
            }
            Err((why, exit)) => return self.leave(delivery, &class, &to, why, exit),
        };
        let message = self.errand.message(&delivery, properties);
        let batch = Batch::from(message).id(which.id(self.errand.id_prefix(), self.plan.group));
        let sent = match self.producer(&to).await {
            Ok(producer) => producer.send_batch(batch).await.map_err(|e| (e.to_string(), e.exit())),
            Err(why) => Err(why),
        };
        match sent {
            Ok(mut sent) => {
                let pending = sent.pop().expect("a message has a receipt");
                let (client, from) = (self.client.clone(), self.errand.from().to_owned());
                self.under_way.push(Box::pin(async move {
                    if let Err(error) = pending.await {
                        return Sent::Refused(Box::new(NotTaken { delivery, class, to, error }));
                    }
                    let acked = acked(client, from, delivery).await;
                    Sent::In { which, class: Some(class), acked }
                }));
            }
            Err((why, exit)) => self.leave(delivery, &class, &to, why, exit),
        }
    }

    /// One that publishes to a queue which remembers enough ids, and drops nothing for what is sent to it.
    async fn producer(&mut self, to: &str) -> Result<&Producer, (String, Exit)> {
        if !self.producers.contains_key(to) {
            let known = |error: Error| (error.to_string(), error.exit());
            let describing = timeout(self.patience, self.client.describe_queue(to)).await;
            let silent = |_| (format!("{to} could not be described in time"), Exit::Unavailable);
            let described = describing.map_err(silent)?.map_err(known)?;
            let window = described.settings.as_ref().map_or(0, |has| has.message_id_window);
            if let Some((why, cure)) = short_window(to, window) {
                return Err((format!("{why}; {cure}"), Exit::Refused));
            }
            if self.errand.weighs() {
                self.has_room(&described).await?;
            }
            let producer = self.client.producer(to).build().await.map_err(known)?;
            self.producers.insert(to.to_owned(), producer);
        }
        Ok(&self.producers[to])
    }

    /// Nothing has been sent to the queue yet. What comes is read only where not all of it fits, or its bytes count.
    async fn has_room(&self, to: &QueueDescription) -> Result<(), (String, Exit)> {
        let (errand, plan) = (&self.errand, &self.plan);
        let bytes_count = to.settings.as_ref().is_some_and(|has| has.max_bytes > 0);
        let bytes = if bytes_count { u64::MAX } else { 0 };
        let all = Coming { messages: plan.total, bytes };
        let mut lacks = makes_room(to, all, errand.fewer());
        if lacks.as_ref().is_some_and(|it| it.exit == Exit::Refused) {
            let coming = room::coming(&self.client, errand, plan, &to.name).await?;
            lacks = makes_room(to, coming, errand.fewer());
        }
        lacks.map_or(Ok(()), |it| Err((format!("{}; {}", it.what, it.cure), it.exit)))
    }

    fn settle(&mut self, sent: Sent) {
        match sent {
            Sent::In { which, class, acked } => {
                if let Some(class) = class {
                    self.by_class.entry(class).or_default().sent += 1;
                    self.bar.inc(1);
                }
                self.known.is_in(which, acked);
                self.tell();
            }
            Sent::Refused(not_taken) => {
                let NotTaken { delivery, class, to, error } = *not_taken;
                let (why, exit) = (error.to_string(), error.exit());
                self.leave(delivery, &class, &to, why, exit);
            }
        }
    }

    fn leave(&mut self, delivery: Delivery, class: &str, to: &str, why: String, exit: Exit) {
        self.by_class.entry(class.to_owned()).or_default().left += 1;
        self.refused.entry(to.to_owned()).or_insert((why, exit));
        self.hold(delivery);
    }

    /// Without what it takes memory for.
    fn hold(&mut self, mut delivery: Delivery) {
        delivery.body = Bytes::new();
        delivery.headers = Headers::default();
        self.held.push(delivery);
    }

    fn tell(&mut self) {
        if !std::io::stderr().is_terminal() && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let (sent, total) = (self.known.confirmed.len() as u64, self.plan.total);
            eprintln!("{} {} of {}", self.errand.done(), units::count(sent), units::count(total));
        }
    }

    /// Those that were chosen and had been settled long since are not missing. Asks about no more than [`ASKED_MAX`], and no
    /// longer than one answer may take.
    async fn forget_settled(&mut self) {
        let Some(chosen) = self.plan.chosen.as_ref().filter(|_| self.plan.keeps_settled) else {
            return;
        };
        let came: BTreeSet<u64> = self.known.seen.iter().map(|which| which.offset).collect();
        let silent: Vec<u64> =
            chosen.iter().copied().filter(|offset| !came.contains(offset)).collect();
        let ask = |offset: u64| {
            let (client, queue) = (self.client.clone(), self.errand.from().to_owned());
            async move { has_left(&client, &queue, offset).await }
        };
        let asked = silent.iter().copied().take(ASKED_MAX).map(ask);
        let mut answers = futures_util::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        let mut settled = 0;
        let _ = timeout(self.patience, async {
            while let Some(has_left) = answers.next().await {
                settled += u64::from(has_left);
            }
        })
        .await;
        drop(answers);
        self.plan.total = self.plan.total.min(chosen.len() as u64 - settled);
    }

    /// Waits for what is on its way, and gives the rest back untouched.
    async fn finish(&mut self, global: &Global) {
        let settle = async {
            while let Some(sent) = self.under_way.next().await {
                self.settle(sent);
            }
        };
        let _ = timeout(global.timeout, settle).await;
        let mut looked_up = std::mem::take(&mut self.looked_up);
        let not_sent = async {
            while let Some((delivery, ..)) = looked_up.next().await {
                self.hold(delivery);
            }
        };
        let _ = timeout(DRAINED_AFTER, not_sent).await;
        // Nothing was begun with them: their deliveries do not count.
        self.held.drain(..).for_each(Delivery::put_back_later);
        if let Some(consumer) = self.consumer.take() {
            let _ = timeout(global.timeout, consumer.close()).await;
        }
        self.bar.finish_and_clear();
    }
}

/// Acknowledges a message; true if it is known to have left. Where the answer is lost, the queue is asked.
async fn acked(client: Client, queue: String, delivery: Delivery) -> bool {
    let offset = delivery.offset;
    if delivery.ack().await.is_ok() {
        return true;
    }
    has_left(&client, &queue, offset).await
}

/// Whether a message is known not to be held any more.
async fn has_left(client: &Client, queue: &str, offset: u64) -> bool {
    let asked = client.explain_message(queue, offset).await;
    asked.is_ok_and(|it| it.confirmed && matches!(it.place, Some(MessagePlace::Gone(_))))
}

/// What the queue knows of a message beside what its frame says; nothing of one whose lease is over. Asked until a majority stands behind the answer, or the
/// time is over.
async fn properties(
    client: &Client,
    queue: &str,
    delivery: &Delivery,
    patience: Duration,
) -> Result<Option<Properties>, (String, Exit)> {
    let until = Instant::now() + patience;
    loop {
        let why = match client.explain_message(queue, delivery.offset).await {
            Ok(explained) if explained.confirmed => {
                let facts = explained.facts.unwrap_or_default();
                if !is_leased_as(explained.place.as_ref(), delivery.token) {
                    return Ok(None);
                }
                let left = |at: u64| Duration::from_millis(at.saturating_sub(explained.now_ms));
                return Ok(Some(Properties {
                    priority: facts.priority.unwrap_or(0).min(9) as u8,
                    ttl: facts.own_expires_at_ms.map(left),
                }));
            }
            Ok(explained) => (explained.unconfirmed, Exit::Unavailable),
            Err(error) => (error.to_string(), error.exit()),
        };
        if Instant::now() >= until {
            return Err(why);
        }
        sleep(ASK_EVERY).await;
    }
}

/// Whether a message is leased still as it was delivered.
fn is_leased_as(place: Option<&MessagePlace>, token: u64) -> bool {
    matches!(place, Some(MessagePlace::Leased(leased)) if leased.token == token)
}

#[cfg(test)]
mod tests {
    use quorate_client::LeasedMessage;

    use super::*;

    #[test]
    fn a_message_whose_lease_is_not_the_one_that_it_came_with_is_left_alone() {
        let leased =
            |token| MessagePlace::Leased(LeasedMessage { token, ..LeasedMessage::default() });
        assert!(is_leased_as(Some(&leased(5)), 5));
        assert!(!is_leased_as(Some(&leased(6)), 5), "another consumer has it");
        assert!(!is_leased_as(Some(&MessagePlace::Gone(Default::default())), 5));
        assert!(!is_leased_as(Some(&MessagePlace::Ready(Default::default())), 5));
        assert!(!is_leased_as(None, 5));
    }

    #[test]
    fn rates_and_filters_are_read_as_they_are_written() {
        assert_eq!(rate("100/s"), Ok(100.0));
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(rate("1e-6/s"), Ok(1e-6));
        for wrong in ["0/s", "-1/s", "fast", "inf", "nan", "10/m", "1e-20", "9e-7/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(filter("k=v=w"), Ok(("k".to_owned(), "v=w".to_owned())));
        assert!(filter("k").is_err() && filter("=v").is_err());
    }

    #[test]
    fn what_was_published_and_not_acknowledged_is_said_and_can_be_run_again() {
        let mut outcome = Outcome {
            ended: Ended::Done,
            total: 3,
            by_class: BTreeMap::from([(String::new(), Tally { sent: 2, left: 1 })]),
            refused: BTreeMap::new(),
            owed: 0,
        };
        assert!(outcome.failure("a").is_none());
        outcome.total = 4;
        assert!(
            outcome.failure("a").is_some_and(|failure| failure.exit() == Exit::Failed),
            "one is missing"
        );
        outcome.total = 3;
        assert_eq!((outcome.sent(), outcome.left(), outcome.missing()), (2, 1, 0));
        outcome.owed = 1;
        assert!(outcome.failure("a").is_some_and(|failure| failure.exit() == Exit::Unavailable));
        outcome.ended = Ended::Interrupted;
        assert!(outcome.failure("a").is_some_and(|failure| failure.exit() == Exit::Failed));
    }
}
