//! Calls about queues and the cluster, and connecting.

use std::time::{Duration, SystemTime};

use crate::fake::{Cluster, Fate, QUEUE};
use quorate_client::{
    Client, ConnectError, ConsumerControl, Consumers, Error, MessagePlace, PurgeBefore,
    QueueSettings, SeekTo, SlotSettings, Sought, reason,
};

#[tokio::test]
async fn queues_are_created_described_listed_purged_and_deleted() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let created = client.create_queue("new", QueueSettings::default()).await.unwrap();
    assert_eq!((created.queue.name.as_str(), created.created), ("new", true));
    assert_eq!(client.describe_queue(QUEUE).await.unwrap().name, QUEUE);
    let names: Vec<String> =
        client.list_queues().await.unwrap().into_iter().map(|queue| queue.name).collect();
    assert_eq!(names, ["a", "b"], "all pages");
    assert_eq!(client.purge_queue(QUEUE).await.unwrap(), 7);
    assert_eq!(client.status().await.unwrap().nodes.len(), 1);
    assert_eq!(client.locate(QUEUE).await.unwrap().address, cluster.address(0));
}

#[tokio::test]
async fn settings_are_changed_by_name_and_a_purge_tells_where_the_queue_goes_on() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let settings = QueueSettings { max_bytes: 7, ..Default::default() };
    let updated =
        client.update_queue(QUEUE, settings.clone(), &["max_bytes"], false).await.unwrap();
    assert_eq!((updated.changed, updated.effective), (vec!["max_bytes".to_owned()], true));
    assert_eq!(updated.queue.settings.unwrap().max_bytes, 7);
    let dry = client.update_queue(QUEUE, settings, &["max_bytes"], true).await.unwrap();
    assert!(!dry.effective);
    let purged = client.purge_queue_before(QUEUE, PurgeBefore::Offset(9)).await.unwrap();
    assert_eq!(purged, (7, 9));
}

#[tokio::test]
async fn a_purge_of_all_that_may_have_been_done_is_not_done_again() {
    let cluster = Cluster::start(2);
    let addresses = [cluster.address(0), cluster.address(1)];
    let client = Client::builder().addresses(addresses).request_timeout(Duration::from_secs(2));
    let client = client.connect().await.unwrap();
    for purging in [
        Fate::Lost,
        Fate::Refused(reason::UNKNOWN_OUTCOME),
        Fate::Refused(reason::NO_QUORUM),
        Fate::Slow(Duration::from_secs(60)),
    ] {
        cluster.queue().purges.clear();
        cluster.queue().purging = purging;
        let unknown = client.purge_queue(QUEUE).await.unwrap_err();
        assert!(matches!(unknown, Error::UnknownOutcome { .. }), "{purging:?}: {unknown}");
        assert_eq!(cluster.queue().purges, [true], "{purging:?}");
    }
    // Before a place it drops the same however often it is done.
    cluster.queue().purges.clear();
    cluster.queue().purging = Fate::Lost;
    let unknown = client.purge_queue_before(QUEUE, PurgeBefore::Offset(9)).await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownOutcome { .. }), "{unknown}");
    let purges = cluster.queue().purges.clone();
    assert!(purges.len() > 1 && purges.iter().all(|of_all| !of_all), "{purges:?}");
}

#[tokio::test]
async fn a_purge_that_was_not_taken_is_asked_for_again() {
    let cluster = Cluster::start(2);
    let client = cluster.client().await;
    cluster.queue().purging = Fate::Refused(reason::NOT_LEADER);
    let answering = async {
        while cluster.queue().purges.len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.queue().purging = Fate::Answered;
    };
    let (purged, ()) = tokio::join!(client.purge_queue(QUEUE), answering);
    assert_eq!(purged.unwrap(), 7);
}

#[tokio::test]
async fn consumers_are_set_to_a_place_and_a_preview_is_told_apart() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let of = |offset, replayed, skipped| Sought { offset, replayed, skipped };
    let time = SeekTo::Time(SystemTime::UNIX_EPOCH + Duration::from_millis(7));
    for (to, offset, replayed) in
        [(SeekTo::First, 3, 6), (SeekTo::Next, 9, 0), (SeekTo::Offset(5), 5, 4), (time, 7, 0)]
    {
        let sought = client.seek_consumers(QUEUE, to).await.unwrap();
        assert_eq!(sought, of(offset, replayed, 1), "{to:?}");
        let would = client.preview_seek(QUEUE, to).await.unwrap();
        assert_eq!(would, of(offset, replayed, 0), "{to:?}");
    }
    let gone = client.seek_consumers(QUEUE, SeekTo::Offset(2)).await.unwrap_err();
    assert_eq!(gone.reason(), Some(reason::OFFSET_GONE));
}

#[tokio::test]
async fn a_seek_that_may_have_been_done_is_not_done_again_but_looked_at() {
    let cluster = Cluster::start(2);
    let addresses = [cluster.address(0), cluster.address(1)];
    let client = Client::builder().addresses(addresses).request_timeout(Duration::from_secs(2));
    let client = client.connect().await.unwrap();
    for seeking in
        [Fate::Lost, Fate::Refused(reason::UNKNOWN_OUTCOME), Fate::Slow(Duration::from_secs(60))]
    {
        cluster.queue().seeks.clear();
        cluster.queue().seeking = seeking;
        let unknown = client.seek_consumers(QUEUE, SeekTo::Next).await.unwrap_err();
        assert!(matches!(unknown, Error::UnknownOutcome { .. }), "{seeking:?}: {unknown}");
        assert_eq!(cluster.queue().seeks, [false], "{seeking:?}");
    }
    cluster.queue().seeks.clear();
    cluster.queue().seeking = Fate::Lost;
    let unseen = client.preview_seek(QUEUE, SeekTo::Next).await.unwrap_err();
    assert!(matches!(unseen, Error::Unavailable { .. }), "{unseen}");
    let looks = cluster.queue().seeks.clone();
    assert!(looks.len() > 1 && looks.iter().all(|only_looks| *only_looks), "{looks:?}");
}

#[tokio::test]
async fn a_seek_that_was_not_taken_is_asked_for_again() {
    let cluster = Cluster::start(2);
    let client = cluster.client().await;
    cluster.queue().seeking = Fate::Refused(reason::NOT_LEADER);
    let answering = async {
        while cluster.queue().seeks.len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.queue().seeking = Fate::Answered;
    };
    let (sought, ()) = tokio::join!(client.seek_consumers(QUEUE, SeekTo::Offset(5)), answering);
    assert_eq!(sought.unwrap(), Sought { offset: 5, replayed: 4, skipped: 1 });
}

/// Longer than other calls wait for one node.
#[tokio::test]
async fn a_seek_that_reads_for_long_is_waited_for() {
    let cluster = Cluster::start(2);
    let addresses = [cluster.address(0), cluster.address(1)];
    let client = Client::builder().addresses(addresses).request_timeout(Duration::from_secs(60));
    let client = client.connect().await.unwrap();
    cluster.queue().seeking = Fate::Slow(Duration::from_secs(6));
    let sought = client.seek_consumers(QUEUE, SeekTo::Offset(5));
    let would = client.preview_seek(QUEUE, SeekTo::Offset(5));
    let (sought, would) = tokio::join!(sought, would);
    assert_eq!((sought.unwrap().replayed, would.unwrap().replayed), (4, 4));
    assert_eq!(cluster.queue().seeks.len(), 2, "each was asked for once");
}

#[tokio::test]
async fn refusals_are_typed() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let taken = client.create_queue("taken", QueueSettings::default()).await.unwrap_err();
    assert!(matches!(&taken, Error::Refused(_)));
    assert_eq!(taken.reason(), Some(reason::QUEUE_EXISTS));
    let missing = client.delete_queue("missing", false).await.unwrap_err();
    assert_eq!(missing.reason(), Some(reason::QUEUE_NOT_FOUND));
}

#[tokio::test]
async fn a_delete_whose_answer_was_lost_succeeds_on_retry() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    // The fake node deletes and then breaks the call; the retry meets QUEUE_NOT_FOUND.
    client.delete_queue(QUEUE, false).await.expect("it is gone, and we did it");
}

#[tokio::test]
async fn slots_are_made_moved_listed_and_dropped_though_an_answer_is_lost() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let create = || client.create_slot(QUEUE, "archive", SlotSettings::default());
    assert!(create().await.unwrap().created && !create().await.unwrap().created);
    assert_eq!(client.advance_slot(QUEUE, "archive", 7).await.unwrap().position, 7);
    let back = client.advance_slot(QUEUE, "archive", 6).await.unwrap_err();
    assert_eq!(back.reason(), Some(reason::SLOT_MOVED));
    assert_eq!(client.list_slots(QUEUE).await.unwrap()[0].position, 7);
    // The fake node drops it and then breaks the call; the retry meets SLOT_NOT_FOUND.
    client.drop_slot(QUEUE, "archive").await.expect("it is gone, and we did it");
    let gone = client.drop_slot(QUEUE, "archive").await.unwrap_err();
    assert_eq!(gone.reason(), Some(reason::SLOT_NOT_FOUND));
}

#[tokio::test]
async fn one_address_is_enough_and_dead_nodes_are_gone_around() {
    let mut cluster = Cluster::start(3);
    let client = Client::connect([format!("http://{}/", cluster.address(0))]).await.unwrap();
    cluster.kill(0);
    cluster.kill(1);
    assert_eq!(client.status().await.unwrap().node_id, 3);

    let addresses: Vec<String> = (0..3).map(|node| cluster.address(node)).collect();
    let client = Client::connect(addresses).await.expect("the last of the named nodes answers");
    assert_eq!(client.status().await.unwrap().node_id, 3);
}

#[tokio::test]
async fn without_a_majority_the_node_that_answers_is_heard_and_not_the_dead_ones() {
    let mut cluster = Cluster::start(3);
    let addresses: Vec<String> = (0..3).map(|node| cluster.address(node)).collect();
    let client = Client::builder().addresses(addresses).request_timeout(Duration::from_secs(2));
    let client = client.connect().await.expect("all nodes are there");
    cluster.queue().leaderless = true;
    cluster.kill(1);
    cluster.kill(2);
    let told = client.describe_queue(QUEUE).await.unwrap_err();
    assert!(matches!(&told, Error::Unavailable { .. }), "{told}");
    assert_eq!(told.reason(), Some(reason::NO_QUORUM), "{told}");
    // The node waits for a leader longer than we do.
    let silent = client.locate(QUEUE).await.unwrap_err();
    assert_eq!(silent.reason(), Some(reason::NO_QUORUM), "{silent}");
    let silent = client.producer(QUEUE).build().await.unwrap_err();
    assert_eq!(silent.reason(), Some(reason::NO_QUORUM), "{silent}");
}

#[tokio::test]
async fn connecting_says_what_was_tried() {
    let mut cluster = Cluster::start(1);
    cluster.kill(0);
    let unreachable = Client::connect([cluster.address(0)]).await.unwrap_err();
    let ConnectError::Unreachable { tried } = &unreachable else { panic!("{unreachable}") };
    assert_eq!(tried[0].0, cluster.address(0));
    assert!(matches!(
        Client::connect(["nonsense"]).await.unwrap_err(),
        ConnectError::InvalidAddress { .. }
    ));
    let none: [&str; 0] = [];
    assert!(matches!(Client::connect(none).await.unwrap_err(), ConnectError::NoAddress));
}

#[tokio::test]
async fn a_message_is_explained_by_another_node_where_one_cannot() {
    let cluster = Cluster::start(2);
    let client = cluster.client().await;
    let explained = client.explain_message(QUEUE, 7).await.unwrap();
    assert!(matches!(explained.place, Some(MessagePlace::Unpublished(_))), "{explained:?}");
    assert!(explained.confirmed && explained.offset == 7, "{explained:?}");
    let missing = client.explain_message("no-such-queue", 0).await.unwrap_err();
    assert_eq!(missing.reason(), Some(reason::QUEUE_NOT_FOUND));
}

#[tokio::test]
async fn consumers_are_listed_page_by_page_and_controlled() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let list = client.list_consumers(QUEUE, Consumers::All).await.unwrap();
    let names: Vec<&str> = list.consumers.iter().map(|consumer| consumer.name.as_str()).collect();
    assert_eq!((names.as_slice(), list.queue_paused), (["first", "second"].as_slice(), true));
    let control =
        async |which| client.control_consumers(QUEUE, which, ConsumerControl::Pause).await;
    assert_eq!(control(Consumers::All).await.unwrap(), 2);
    assert_eq!(control(Consumers::Session([7; 16])).await.unwrap(), 1);
    let nobody = control(Consumers::Named("nobody".to_owned())).await.unwrap_err();
    assert_eq!(nobody.reason(), Some(reason::CONSUMER_NOT_FOUND));
}
