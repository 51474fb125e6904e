//! The machines against their references: random logs with proptest, many more with a generator
//! that is faster, and every short one. What they have in common is in `check`.

use proptest::prelude::*;
use quorate_machine::queue::{Control, Settings, SettleKind};

mod check;
use check::catalog::Catalog;
use check::queue::op::{Condition, Entry, From, Kind, Names, Numbered, Op, Pick, Target, Whom};
use check::queue::{Queue, alphabet, dead_letter, scenes, settings};
use check::{Figures, Rng, Subject, Tally, campaign, exhaustive};

fn kinds() -> impl Strategy<Value = SettleKind> {
    prop_oneof![
        4 => Just(SettleKind::Ack),
        2 => prop_oneof![Just(0u32), 1..300u32].prop_map(|delay_ms| SettleKind::Nack { delay_ms }),
        1 => Just(SettleKind::Reject),
        1 => (0..400u32).prop_map(|lease_ms| SettleKind::Extend { lease_ms }),
        1 => Just(SettleKind::Return),
        2 => Just(SettleKind::Start),
    ]
}

fn picks() -> impl Strategy<Value = Vec<Pick>> {
    let target = prop_oneof![
        8 => Just(Target::Held),
        1 => Just(Target::Handed),
        1 => Just(Target::Stale),
        1 => Just(Target::Any),
    ];
    let pick = (kinds(), target, any::<u16>(), 0..9u32)
        .prop_map(|(kind, target, at, count)| Pick { kind, target, at, count });
    prop::collection::vec(pick, 1..4)
}

fn limits() -> impl Strategy<Value = Settings> {
    (prop::option::of(1..60u64), prop::option::of(1..4000u64), 0..4u32, prop::option::of(1..900u64))
        .prop_map(|(max_messages, max_bytes, max_deliveries, retain)| Settings {
            max_messages,
            max_bytes,
            max_deliveries,
            retry_ms: max_deliveries * 40,
            dead_letter: (max_deliveries > 1).then(dead_letter),
            retain_ms: retain.filter(|retain| retain % 2 == 0),
            retain_bytes: retain,
            single_active: max_deliveries == 2,
            ttl_ms: max_messages.map(|max| max * 10),
            drop_head: retain.is_some(),
            priorities: max_bytes.is_none_or(|max| max % 4 > 0),
            filter_header: (max_deliveries != 3).then(|| "region".to_owned()),
            ..settings()
        })
}

fn controls() -> impl Strategy<Value = Control> {
    prop_oneof![1 => Just(Control::Pause), 2 => Just(Control::Resume), 1 => Just(Control::Kick)]
}

fn conditions() -> impl Strategy<Value = Condition> {
    let id = prop_oneof![3 => Just(None), 1 => (0..3u8).prop_map(Some)];
    let expected = prop_oneof![3 => Just(None), 1 => (-1..2i64).prop_map(Some)];
    (id, expected).prop_map(|(id, expected)| Condition { id, expected })
}

fn ops() -> impl Strategy<Value = Op> {
    let numbered = (
        0..2u8,
        prop_oneof![9 => Just(0u32), 1 => 0..3u32],
        prop_oneof![6 => Just(0i64), 2 => -12..3i64],
    )
        .prop_map(|(id, epoch, shift)| Numbered { id, epoch, shift });
    let stale = || prop::bool::weighted(0.3);
    let time = || prop_oneof![2 => Just(0u64), 1 => 1..300u64];
    let kind =
        (time(), time(), prop_oneof![2 => Just(0u8), 1 => 0..10u8], 0..3u8, 0..3u8).prop_map(
            |(delay, ttl, priority, group, value)| Kind { delay, ttl, priority, group, value },
        );
    let kinds = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(kind, 1..4),
    ];
    prop_oneof![
        8 => (1..9u32, 0..40usize, prop::option::of(numbered), kinds, conditions()).prop_map(
            |(count, padding, producer, kinds, condition)| {
                Op::Publish { count, padding, producer, kinds, condition }
            }),
        1 => (-1..9i64).prop_map(|back| Op::PurgeBefore { back }),
        2 => (-1..20i64, prop::bool::weighted(0.2)).prop_map(|(back, all)| {
            let names = if all { Names::All } else { Names::Settled };
            Op::Seek { back, names }
        }),
        4 => (0..4u8, 1..4u64, 1..12u32, prop::option::of(50..300u32), 0..8u8).prop_map(
            |(session, node, prefetch, lease_ms, bits)| {
                let (tells, filter) = (bits & 1 == 1, bits & 6);
                Op::Attach { session, node, prefetch, lease_ms, tells, filter }
            }),
        1 => (0..4u8, stale()).prop_map(|(session, stale)| Op::Detach { session, stale }),
        1 => (0..4u8, stale()).prop_map(|(session, stale)| Op::Disconnect { session, stale }),
        10 => (0..4u8, picks()).prop_map(|(session, picks)| Op::Settle { session, picks }),
        1 => (limits(), stale()).prop_map(|(settings, stale)| Op::Configure { settings, stale }),
        1 => Just(Op::Tick),
        1 => prop::bool::weighted(0.2).prop_map(|purge| if purge { Op::Purge } else { Op::Tick }),
        1 => (0..3u8, prop::sample::select(vec![0, 100, 500, 10_000]), prop::sample::select(vec![0, 0, 100]))
            .prop_map(|(slot, max_retained_bytes, max_idle_ms)| {
                let from = From::First;
                Op::CreateSlot { slot, from, max_retained_bytes, max_idle_ms }
            }),
        1 => (0..5u8, controls()).prop_map(|(session, what)| {
            let everyone = session == 4;
            let target = if everyone { Whom::Everyone } else { Whom::Session(session) };
            Op::Control { target, what }
        }),
        2 => (0..3u8, -1..9i64).prop_map(|(slot, by)| Op::AdvanceSlot { slot, by }),
        1 => stale().prop_map(|change| if change { Op::LeaderChanged } else { Op::Tick }),
        1 => (0..2u8, 0..3u64, -3..2i64, 0..4u32).prop_map(|(source, timeline, shift, count)| {
            Op::PublishMoved { source, timeline, shift, count, padding: 3 }
        }),
        2 => (-1..9i64).prop_map(|by| Op::Moved { by }),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let after = prop_oneof![4 => 0..20i64, 1 => 50..400i64, 1 => -50..0i64];
    let entry = (after, prop::bool::weighted(0.2), prop::collection::vec(ops(), 0..6))
        .prop_map(|(after_ms, restore, ops)| Entry { after_ms, restore, ops });
    prop::collection::vec(entry, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_behaves_like_the_reference(entries in entries()) {
        Queue::run(&entries, 0, &mut Tally::default());
    }
}

/// A letter of a behaviour that meets few others: sequences with it are short ones, as the number of those of three grows
/// with the cube of the letters.
fn is_apart(entry: &Entry) -> bool {
    entry.ops.iter().any(|op| match op {
        Op::Publish { condition, .. } => condition.id.is_some() || condition.expected.is_some(),
        Op::Receive { session, .. } | Op::Settle { session, .. } => *session == 3,
        Op::Control { .. } | Op::PublishMoved { .. } | Op::Seek { .. } => true,
        _ => false,
    })
}

#[test]
fn every_short_log_of_a_queue_is_as_the_reference_says() {
    let mut figures = Figures::default();
    let all = alphabet();
    let core: Vec<Entry> = all.iter().filter(|letter| !is_apart(letter)).cloned().collect();
    for (name, scene) in scenes() {
        let more = exhaustive::run::<Queue>(&scene, &all, 2);
        figures.add(&more.unwrap_or_else(|failure| panic!("{failure}")));
        if name != "leases" {
            continue;
        }
        let more = exhaustive::run::<Queue>(&scene, &core, 3);
        figures.add(&more.unwrap_or_else(|failure| panic!("{failure}")));
    }
    println!("{figures}");
    happened(&figures, &["duplicates", "redeliveries", "lost", "exhausted", "purged", "refused"]);
    happened(&figures, &["expired", "dropped"]);
}

#[test]
fn random_logs_of_a_queue_are_as_the_reference_says() {
    let figures = random::<Queue>(12_000);
    happened(&figures, &["duplicates", "redeliveries", "lost", "exhausted", "purged", "refused"]);
    happened(&figures, &["expired", "dropped", "notices", "resumed", "restores", "settled"]);
    happened(&figures, &["slots", "slots moved", "slots reserved", "slots extended"]);
    happened(&figures, &["slots unreserved", "slots lost", "blocked", "stood by", "took over"]);
    happened(&figures, &["receivers paused", "paused out of line", "groups backed off"]);
    happened(&figures, &["groups uncharged"]);
    happened(&figures, &["controlled", "backed off", "uncharged", "charged after all"]);
    happened(&figures, &["dead", "dead of age", "moved", "moved again", "moved in part"]);
    happened(&figures, &["ids repeated", "id conflicts", "conditions met", "unexpected offsets"]);
    happened(&figures, &["purged before"]);
    happened(&figures, &["replayed", "skipped", "stepped back", "nothing kept to seek"]);
    happened(&figures, &["forgotten places", "no room to seek", "no room to seek, bytes"]);
    happened(&figures, &["explained blocked", "explained dead", "explained gone"]);
    happened(&figures, &["queue paused in the way", "no consumer in the way", "credit in the way"]);
    happened(&figures, &["consumers away in the way", "consumers paused in the way"]);
    happened(&figures, &["active one in the way", "others in the way"]);
    happened(&figures, &["filtered", "filters refused", "filters ended", "filters in the way"]);
    happened(&figures, &["streams outdated"]);
}

#[test]
fn random_logs_of_a_catalog_are_as_the_reference_says() {
    let figures = random::<Catalog>(6_000);
    happened(&figures, &["created", "deleted", "updated", "refused", "restores"]);
    happened(&figures, &["no dead-letter queue", "circles", "dead-letter queues"]);
    happened(&figures, &["sharded", "shards alone"]);
}

fn random<S: Subject>(sequences: u64) -> Figures {
    let figures = campaign::run::<S>(1, 0..sequences);
    let figures = figures.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{}: {figures}\n{}", S::NAME, figures.tally);
    figures
}

/// A check in which something never happens does not check it.
fn happened(figures: &Figures, events: &[&str]) {
    for event in events {
        assert!(figures.tally.of(event) > 0, "no {event} in {}", figures.tally);
    }
}

/// A machine that fails at a 7, should a 3 have come before.
struct Broken;

impl Subject for Broken {
    const NAME: &'static str = "broken";
    type Step = u64;

    fn random(rng: &mut Rng) -> Vec<u64> {
        (0..20).map(|_| rng.below(10)).collect()
    }

    fn run(steps: &[u64], _known: usize, _tally: &mut Tally) {
        let three = steps.iter().position(|step| *step == 3).unwrap_or(steps.len());
        assert!(!steps[three..].contains(&7), "a 7 after a 3");
    }

    fn simpler(_step: &u64) -> Vec<u64> {
        Vec::new()
    }
}

#[test]
fn a_failure_is_short_and_its_seed_leads_back_to_it() {
    let failure = campaign::run::<Broken>(1, 0..1_000).unwrap_err();
    assert_eq!(failure.steps, ["3", "7"]);
    assert!(failure.message.contains("a 7 after a 3"));
    let (_, seed) = failure.again.split_once("broken --replay ").unwrap();
    let again = campaign::replay::<Broken>(seed.parse().unwrap()).unwrap_err();
    assert_eq!(again.message, failure.message);
}

#[test]
fn every_short_log_finds_the_shortest_failure() {
    let alphabet: Vec<u64> = (0..10).collect();
    let failure = exhaustive::run::<Broken>(&[], &alphabet, 2).unwrap_err();
    assert_eq!(failure.steps, ["3", "7"]);
    assert_eq!(failure.sequences, 38);
}
