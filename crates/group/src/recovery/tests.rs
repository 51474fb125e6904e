//! A replica takes its group over, whatever its log and checkpoint look like, and those that were given up do not
//! get through to it. The shipped log and Raft run on a simulated disk.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, stream};
use quorate_machine::Machine;
use quorate_machine::queue::Queue;
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;
use quorate_storage::{Options, SimDisk, SimMeta};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::handle::{EffectsAt, Handle, Spec, StartError, Timing};
use crate::network::{AppendLink, LinkError, Peers};
use crate::types::{SnapshotMeta, log_id};
use crate::volumes::Volumes;
use crate::wire;

const GROUP: u64 = 1;
const ME: u64 = 3;
const SOON: Duration = Duration::from_secs(20);

/// Nobody else is there.
struct Nobody;

fn unreachable(node: u64) -> LinkError {
    LinkError { node, reason: "lost for ever".into() }
}

impl Peers for Nobody {
    fn call(&self, node: u64, _: u64, _: Body) -> BoxFuture<'_, Result<Body, LinkError>> {
        std::future::ready(Err(unreachable(node))).boxed()
    }

    fn open(&self, node: u64, _: u64) -> BoxFuture<'_, Result<Box<dyn AppendLink>, LinkError>> {
        std::future::ready(Err(unreachable(node))).boxed()
    }

    fn is_there(&self, _: u64) -> bool {
        false
    }

    fn until_there(&self, _: u64) -> BoxFuture<'_, ()> {
        std::future::pending().boxed()
    }

    fn snapshot(
        &self,
        node: u64,
        _: BoxStream<'static, pb::SnapshotChunk>,
    ) -> BoxFuture<'_, Result<pb::SnapshotAnswer, LinkError>> {
        std::future::ready(Err(unreachable(node))).boxed()
    }
}

struct Node {
    disk: SimDisk,
    state: SimMeta,
    log: Log,
    meta: Arc<dyn Meta>,
    writer: std::thread::JoinHandle<()>,
}

impl Node {
    fn new() -> Self {
        Self::open(SimDisk::new(1), SimMeta::new(1))
    }

    fn open(disk: SimDisk, state: SimMeta) -> Self {
        let opened = Log::open(Arc::new(disk.clone()), Options::default());
        let (log, writer) = opened.expect("the log opens");
        let writer = std::thread::spawn(move || writer.run());
        Self { meta: Arc::new(state.clone()), disk, state, log, writer }
    }

    /// The power fails: what was not flushed is gone.
    fn again(self) -> Self {
        self.disk.power_loss();
        self.state.power_loss();
        self.log.close();
        let _ = self.writer.join();
        Self::open(self.disk.reopen(), self.state.reopen())
    }

    fn replica(&self) -> ReplicaLog {
        ReplicaLog::new(self.log.clone(), ME, GROUP)
    }

    async fn append(&self, term: u64, entries: impl IntoIterator<Item = (u64, Bytes)>) {
        let entries = entries.into_iter();
        let entries = entries.map(|(index, payload)| Entry { index, term, payload }).collect();
        durable(|done| self.log.append(GroupId(GROUP), entries, done)).await.expect("appended");
    }

    /// Blank ones.
    async fn append_some(&self, term: u64, indexes: RangeInclusive<u64>) {
        self.append(term, indexes.map(|index| (index, Bytes::new()))).await;
    }

    async fn vote(&self, term: u64, node: u64) {
        self.replica().save_vote(&Vote::new_committed(term, node)).await.expect("saved");
    }

    async fn commit(&self, term: u64, index: u64) {
        let mut bytes = bytes::BytesMut::new();
        codec::put_log_id(Some(&log_id(term, index)), &mut bytes);
        self.log.save_committed(GroupId(GROUP), bytes.freeze());
        // It rides with what follows.
        self.vote(term, 1).await;
    }

    async fn checkpoint(&self, term: u64, index: u64, members: Membership) {
        let checkpoint = Checkpoint {
            meta: SnapshotMeta {
                last_log_id: Some(log_id(term, index)),
                last_membership: StoredMembership::new(Some(log_id(term, index)), members),
            },
            state: Queue::new().snapshot().into(),
        };
        let checkpoints = Checkpoints::new(self.meta.clone(), GROUP);
        checkpoints.save(&checkpoint, Vec::new(), &self.replica()).await.expect("saved");
    }

    async fn take_over(&self, timeline: u64) -> Result<Position, RecoverError> {
        take_over(&self.log, &self.meta, ME, GROUP, timeline, None).await
    }

    async fn stored(&self) -> Stored {
        stored(&self.log, &self.meta, GROUP).await.expect("it can be read")
    }

    fn spec(&self) -> Spec {
        Spec {
            group: GROUP,
            node: ME,
            log: self.log.clone(),
            meta: self.meta.clone(),
            peers: Arc::new(Nobody),
            timing: Timing::default(),
            volumes: Volumes::default(),
            effects: EffectsAt::Leader,
            rests: false,
        }
    }

    async fn start(&self) -> Handle<Queue> {
        let (handle, mut events) = Handle::start(self.spec()).await.expect("it starts");
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        handle
    }

    /// Opens the replica, which must lead alone and commit everything up to `index` and what leaders begin with.
    async fn leads_with(&self, index: u64, timeline: u64) -> Handle<Queue> {
        let handle = self.start().await;
        let leads = async {
            while !handle.leadership().leads || handle.replica().applied() <= index {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let leads = tokio::time::timeout(SOON, leads).await;
        leads.unwrap_or_else(|_| panic!("it does not lead: {:?}", handle.leadership()));
        assert_eq!(timeline_of(handle.leadership().term), timeline);
        let members = handle.members();
        assert_eq!((members.voters, members.all), (vec![[ME].into()], [ME].into()));
        handle
    }
}

fn members(voters: &[&[u64]], all: &[u64]) -> Membership {
    let voters = voters.iter().map(|set| set.iter().copied().collect()).collect();
    let all: BTreeMap<u64, EmptyNode> = all.iter().map(|node| (*node, EmptyNode {})).collect();
    Membership::new(voters, all).expect("a membership")
}

fn entry_of(members: Membership) -> Bytes {
    codec::encode_payload(&EntryPayload::Membership(members))
}

/// One of three: what it has up to 9, of which 6 are known to be committed.
async fn one_of_three() -> Node {
    let node = Node::new();
    node.vote(1, 1).await;
    node.append(1, [(0, entry_of(members(&[&[1, 2, 3]], &[1, 2, 3])))]).await;
    node.append_some(1, 1..=5).await;
    node.append_some(2, 6..=9).await;
    node.commit(2, 6).await;
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_leads_alone_with_all_that_it_has() {
    let node = one_of_three().await;
    let before = node.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!before.leadership().leads, "it needs another");
    before.shutdown().await;
    let had = node.stored().await;
    assert_eq!(had.last, Some(Position { term: 2, index: 9 }));
    assert_eq!(had.members.map(|members| members.voters), Some(vec![[1, 2, 3].into()]));
    let taken = node.take_over(1).await.expect("taken over");
    assert_eq!(taken, Position { term: 1 << 32, index: 10 });
    let node = node.again();
    let stored = node.stored().await;
    assert_eq!((stored.last, stored.timeline()), (Some(taken), 1));
    assert_eq!(began_at(&node.log, GROUP), Some(10));
    for index in 0..=9 {
        assert!(node.log.term_of(GroupId(GROUP), index).is_some(), "entry {index} is kept");
    }
    node.leads_with(10, 1).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_that_were_being_changed_do_not_stop_it() {
    let node = one_of_three().await;
    let joint = members(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3, 4, 5]);
    node.append(2, [(10, entry_of(joint))]).await;
    node.append_some(2, 11..=12).await;
    let taken = node.take_over(1).await.expect("taken over");
    assert_eq!(taken.index, 13);
    node.again().leads_with(13, 1).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_becomes_the_only_voter() {
    let node = Node::new();
    node.vote(4, 1).await;
    node.append(1, [(0, entry_of(members(&[&[1, 2, 4]], &[1, 2, ME, 4])))]).await;
    node.append_some(4, 1..=3).await;
    node.take_over(1).await.expect("taken over");
    node.again().leads_with(4, 1).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_which_only_a_checkpoint_is_left_is_enough() {
    let node = one_of_three().await;
    node.checkpoint(2, 9, members(&[&[1, 2, 3]], &[1, 2, 3])).await;
    durable(|done| node.log.purge(GroupId(GROUP), (9, 2), done)).await.expect("purged");
    let had = node.stored().await;
    assert_eq!(had.last, Some(Position { term: 2, index: 9 }));
    assert_eq!(had.members.map(|members| members.all), Some([1, 2, 3].into()));
    let taken = node.take_over(1).await.expect("taken over");
    assert_eq!(taken.index, 10);
    node.again().leads_with(10, 1).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_the_log_was_not_cut_to_counts_and_what_contradicts_it_goes() {
    let three = || members(&[&[1, 2, 3]], &[1, 2, 3]);
    for (term, index) in [(3, 20), (3, 7)] {
        let node = one_of_three().await;
        node.checkpoint(term, index, three()).await;
        assert_eq!(node.stored().await.last, Some(Position { term, index }));
        let taken = node.take_over(1).await.expect("taken over");
        assert_eq!(taken, Position { term: 1 << 32, index: index + 1 });
        let node = node.again();
        assert_eq!(node.log.state(GroupId(GROUP)).expect("known").purged, Some((index, term)));
        node.leads_with(index + 1, 1).await.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_had_more_than_it_has_may_lead_again() {
    let node = one_of_three().await;
    let checkpoints = Checkpoints::new(node.meta.clone(), GROUP);
    forget_but_vote(&node.replica(), &checkpoints, 0).await.expect("left");
    node.append(1, [(0, entry_of(members(&[&[1, 2, 3]], &[1, 2, 3])))]).await;
    node.append_some(1, 1..=3).await;
    assert_eq!(node.replica().had(), Some((2, 9)));
    node.take_over(1).await.expect("taken over");
    let node = node.again();
    assert_eq!(node.replica().had(), None);
    node.leads_with(4, 1).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_the_middle_is_gone_on_from() {
    let node = one_of_three().await;
    // The entry is there, the vote is not.
    let alone = entry_of(members(&[&[ME]], &[ME]));
    node.append(first_term(1), [(10, alone)]).await;
    let node = node.again();
    assert_eq!(stored_timeline(&node.log, GROUP), Some(0), "not done yet");
    assert_eq!(latest_timeline(&node.log, GROUP), Some(1));
    let refused = Handle::<Queue>::start(node.spec()).await.err();
    assert!(matches!(refused, Some(StartError::RecoveryCutOff { group: GROUP })), "{refused:?}");
    let taken = node.take_over(1).await.expect("taken over");
    assert_eq!(taken, Position { term: 1 << 32, index: 10 }, "it is not entered twice");
    let node = node.again();
    assert_eq!(stored_timeline(&node.log, GROUP), Some(1));
    // And once more, when it was done.
    assert_eq!(node.take_over(1).await.expect("taken over"), taken);
    node.leads_with(10, 1).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_nothing_takes_nothing_over() {
    let node = Node::new();
    assert!(matches!(node.take_over(1).await, Err(RecoverError::Nothing { group: GROUP })));
    node.vote(5, 2).await;
    assert!(matches!(node.take_over(1).await, Err(RecoverError::Nothing { .. })));
    assert_eq!(stored_timeline(&node.log, GROUP), Some(0), "nothing was changed");
    let node = one_of_three().await;
    for timeline in [0, 1 << 32] {
        assert!(matches!(node.take_over(timeline).await, Err(RecoverError::TooOften { .. })));
    }
    assert_eq!(node.stored().await.last, Some(Position { term: 2, index: 9 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_to_be_forgotten_at_the_next_start_takes_over_with_all_that_it_has() {
    let node = one_of_three().await;
    node.checkpoint(2, 6, members(&[&[1, 2, 3]], &[1, 2, 3])).await;
    let marked =
        async |node: &Node| leaves_at_start(&node.log, &node.meta, GROUP).await.expect("a look");
    assert_eq!(marked(&node).await, None);
    leave_timeline_at_start(&node.meta, GROUP, 1).await.expect("marked");
    let node = node.again();
    assert_eq!(marked(&node).await, Some(1));
    let taken = node.take_over(2).await.expect("taken over");
    assert_eq!(taken, Position { term: 2 << 32, index: 10 });
    let node = node.again();
    assert_eq!(marked(&node).await, None, "it is not forgotten any more");
    node.leads_with(10, 2).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_lost_its_log_already_takes_nothing_over_with_the_checkpoint_that_is_left() {
    let node = one_of_three().await;
    node.checkpoint(2, 6, members(&[&[1, 2, 3]], &[1, 2, 3])).await;
    leave_timeline_at_start(&node.meta, GROUP, 1).await.expect("marked");
    node.replica().reset().await.expect("reset");
    let node = node.again();
    assert_eq!(leaves_at_start(&node.log, &node.meta, GROUP).await.expect("a look"), None);
    assert!(matches!(node.take_over(2).await, Err(RecoverError::Nothing { .. })));
    assert_eq!(node.replica().timeline(), 1, "it has left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_snapshot_that_no_log_was_cut_to_yet_is_enough_to_take_over_with() {
    let node = Node::new();
    node.checkpoint(2, 6, members(&[&[1, 2, 3]], &[1, 2, 3])).await;
    let taken = node.take_over(1).await.expect("taken over");
    assert_eq!(taken, Position { term: 1 << 32, index: 7 });
    node.again().leads_with(7, 1).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_that_was_cut_off_behind_the_membership_is_entered_by_the_next_try() {
    let node = one_of_three().await;
    // The first of the two entries is there, the other and the vote are not.
    let alone = entry_of(members(&[&[ME]], &[ME]));
    node.append(first_term(1), [(10, alone)]).await;
    let node = node.again();
    let note = async || {
        let note = Some(Bytes::from_static(b"note"));
        take_over(&node.log, &node.meta, ME, GROUP, 1, note).await.expect("taken over")
    };
    assert_eq!(note().await, Position { term: 1 << 32, index: 11 });
    assert_eq!(note().await, Position { term: 1 << 32, index: 11 }, "it is not entered twice");
    let entries = node.replica().read(11..12, 1).await.expect("read");
    assert_eq!(entries[0].payload, Bytes::from_static(b"note"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_of_what_was_recovered_is_of_a_later_timeline() {
    let node = one_of_three().await;
    node.take_over(1).await.expect("taken over");
    let leader = node.leads_with(10, 1).await;
    let last = leader.last_index();
    leader.shutdown().await;
    let taken = node.take_over(2).await.expect("taken over");
    assert!(taken.term == 2 << 32 && taken.index > last, "{taken:?}");
    node.again().leads_with(taken.index, 2).await.shutdown().await;
}

/// Answers of a running replica to what another one, which votes in `term`, asks.
async fn answers(handle: &Handle<Queue>, term: u64) -> [Body; 3] {
    let vote = |committed| {
        Some(wire::vote_to(&match committed {
            true => Vote::new_committed(term, 1),
            false => Vote::new(term, 1),
        }))
    };
    let last = Some(pb::LogId { term, index: 1_000 });
    let request = pb::VoteRequest { vote: vote(false), last, leadership_transfer: true };
    let append =
        pb::AppendRequest { vote: vote(true), prev: None, committed: None, entries: Vec::new() };
    let replica = handle.replica();
    let voted = replica.answer(Body::Vote(request)).await;
    let appended = replica.answer(Body::Append(append.clone())).await;
    let mut appends = replica.answer_appends(stream::iter([append]));
    let streamed = appends.next().await.unwrap_or(Body::Failed("ended".into()));
    [voted, appended, streamed]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_before_gets_neither_a_vote_nor_the_term_to_stand_with() {
    let node = one_of_three().await;
    node.take_over(1).await.expect("taken over");
    let leader = node.leads_with(10, 1).await;
    for body in answers(&leader, 7).await {
        assert!(matches!(body, Body::Failed(_)), "{body:?}");
    }
    assert!(leader.leadership().leads);
    assert_eq!(leader.replica().superseded(), None);
    leader.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_before_follows_a_later_timeline_only_without_its_log() {
    let node = one_of_three().await;
    let old = node.start().await;
    for body in answers(&old, (1 << 32) + 5).await {
        assert!(matches!(body, Body::Failed(_)), "{body:?}");
    }
    assert_eq!(old.replica().superseded(), Some(1), "it has heard of the other");
    // Raft tells of it a moment after it was started.
    for _ in 0..200 {
        if old.last_index() == 9 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(old.last_index(), 9, "and keeps what it has");
    old.shutdown().await;
    leave_timeline_at_start(&node.meta, GROUP, 1).await.expect("marked");
    let node = node.again();
    let new = node.start().await;
    assert_eq!((new.last_index(), new.replica().timeline()), (0, 1));
    for body in answers(&new, 7).await {
        assert!(matches!(body, Body::Failed(_)), "it is not of before any more: {body:?}");
    }
    let [voted, appended, streamed] = answers(&new, (1 << 32) + 5).await;
    assert!(matches!(voted, Body::Voted(_)), "{voted:?}");
    assert!(matches!(appended, Body::Appended(_)), "{appended:?}");
    assert!(matches!(streamed, Body::Appended(_)), "{streamed:?}");
    new.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_the_log_is_given_up_leaves_nothing_of_before_in_the_new_timeline() {
    let node = one_of_three().await;
    node.checkpoint(2, 6, members(&[&[1, 2, 3]], &[1, 2, 3])).await;
    leave_timeline_at_start(&node.meta, GROUP, 3).await.expect("marked");
    node.replica().reset().await.expect("reset");
    // Here the node ends: the log is gone, vote and checkpoint are of before.
    let node = node.again();
    assert_eq!(stored_timeline(&node.log, GROUP), Some(0));
    let replica = node.start().await;
    assert_eq!((replica.last_index(), replica.replica().timeline()), (0, 3));
    replica.shutdown().await;
    let had = node.replica().had();
    assert_eq!(had, Some((2, 9)), "what it had is known still");
}
