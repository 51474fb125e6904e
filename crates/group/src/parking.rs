//! Parking: a replica of an idle group, fully replicated, has no timers and costs nothing. Neither has
//! one that rests: it was just opened, and nobody has said anything to it yet.
//!
//! ```text
//!  leader:    Awake ── idle, all match: stop ticks, ask each replica to park ──► Parked
//!               ▲            refused, or anything happened meanwhile              │
//!               └──── command, message, a replica's node came or went, not ───────┘
//!                     confirmed at the renewal
//!  follower:  Awake ── asked by its leader, has and applied all of its log ─────► Parked
//!               ▲                                                                 │
//!               └──── message of the group, the leader's node was lost, the time ─┘
//!                     it was asked for is over
//! ```
//!
//! While it is parked, that the leader lives is a matter between nodes: a follower stays parked, and
//! refuses pre-votes for others, only while the leader's *node* is heard of. A node that starts again has
//! no leader of before among its replicas: its connection broke when it ended, so the voters that it led
//! are awake by then, and one that asks for votes itself wakes those that took it for their leader.
//! Should a replica be parked under a leader that has forgotten it all the same, it wakes by itself: a
//! leader renews what it asked for, and what is not renewed ends.
//!
//! A replica that was opened with a history *rests* until it is asked for a vote, refuses one that is
//! only sounded out, hears of a leader, is wanted by a client, or wins a majority for itself when its node asks it to: after a start, thousands
//! of timers that ran out while the node was still opening the others would all ask at once.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{RaftMetrics, ServerState};
use openraft_rt::WatchReceiver;
use tokio::time::Instant;

use crate::handle::Timing;
use crate::state_machine::Gauges;
use crate::types::{Raft, Types, Vote};

/// A leader asks again after so many times the idleness that made it park.
const RENEW: u32 = 40;
/// After a refusal the next attempt waits twice as long, so many times.
const DOUBLINGS_MAX: u32 = 5;
/// Idle heartbeats after which a leader that nobody has used yet parks.
const UNUSED: u32 = 1;
/// A follower that was not asked again for so many renewals wakes.
const RENEWALS_MISSED: u32 = 3;

pub(crate) struct Parking {
    #[cfg_attr(not(madsim), allow(dead_code, reason = "a simulated world is told where it is"))]
    group: u64,
    raft: Raft,
    timing: Timing,
    state: Mutex<State>,
    /// Its bell rings when the replica wakes.
    gauges: Arc<Gauges>,
}

struct State {
    /// Counts what has happened: an attempt to park fails if anything does.
    events: u64,
    active_at: Instant,
    /// When a leader of another node was last heard of.
    heard_at: Option<Instant>,
    /// Attempts in a row that a replica refused.
    refusals: u32,
    /// What waits for the timers to go on; see [`Parking::hold`].
    holds: usize,
    woken_at: Instant,
    /// It was parked, and as a leader has not been answered since: Raft takes no entry from it.
    unanswered: bool,
    /// The timers are stopped: parked, or about to be, or resting.
    stopped: bool,
    /// Under which vote it rests.
    resting: Option<Vote>,
    /// It leads, and has got no command but those that came with that.
    unused: bool,
    parked: Option<Parked>,
}

struct Parked {
    /// Under whom.
    vote: Vote,
    /// When it has to be renewed.
    until: Instant,
}

/// An attempt of a leader to park: fails if anything happens before it is done.
pub(crate) struct Attempt {
    events: u64,
}

/// See [`Parking::hold`].
pub(crate) struct Hold(Arc<Parking>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.holds -= 1;
        state.active_at = Instant::now();
    }
}

/// Whether a majority has answered the leader since `begun`, or it does not lead, or is alone.
fn answered_since(metrics: &RaftMetrics<Types>, begun: Instant) -> bool {
    let acked = metrics.last_quorum_acked.as_ref().map(|at| openraft::Instant::elapsed(&**at));
    let alone = metrics.membership_config.voter_ids().count() == 1;
    metrics.state != ServerState::Leader || alone || acked.is_some_and(|age| age <= begun.elapsed())
}

/// What is to be done next about parking.
pub(crate) enum Next {
    /// Nothing for so long.
    Wait(Duration),
    /// The group has been idle for long enough, or the parked leader must ask again.
    Ask,
    /// The time that the replica was asked to park for is over.
    Overdue,
}

impl Parking {
    /// `resting`: Raft was started without its timers, from this vote.
    pub(crate) fn new(
        group: u64,
        raft: Raft,
        timing: Timing,
        gauges: Arc<Gauges>,
        resting: Option<Vote>,
    ) -> Self {
        let now = Instant::now();
        let state = State {
            events: 0,
            active_at: now,
            holds: 0,
            heard_at: None,
            refusals: 0,
            woken_at: now,
            unanswered: false,
            stopped: resting.is_some(),
            resting,
            unused: false,
            parked: None,
        };
        let parking = Self { group, raft, timing, state: Mutex::new(state), gauges };
        parking.tell(false);
        parking
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn renewal(&self) -> Duration {
        self.timing.park_after.unwrap_or_default() * RENEW
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.lock().parked.is_some()
    }

    pub(crate) fn settle(&self) {
        self.lock().unused = true;
    }

    pub(crate) fn is_resting(&self) -> bool {
        self.lock().resting.is_some()
    }

    /// How long it has been awake; `None` while it is parked.
    pub(crate) fn awake_for(&self) -> Option<Duration> {
        let state = self.lock();
        state.parked.is_none().then(|| state.woken_at.elapsed())
    }

    /// Something happened in the group: it is not idle, and awake.
    pub(crate) fn touch(&self) {
        let mut state = self.lock();
        state.events += 1;
        state.active_at = Instant::now();
        self.wake(&mut state);
    }

    /// The same, and waits until a leader that was parked may write again: its lease ran out meanwhile,
    /// and a round of heartbeats renews it. Gives up after an election timeout; Raft then refuses.
    pub(crate) async fn awake(&self) {
        self.touch();
        {
            let mut state = self.lock();
            state.unused = false;
            if !state.unanswered {
                return;
            }
        }
        let begun = Instant::now();
        if self.raft.trigger().heartbeat().await.is_ok() {
            let mut metrics = self.raft.metrics();
            let answered = async {
                while !answered_since(&metrics.borrow_and_update(), begun) {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(self.timing.election_timeout, answered).await;
        }
        self.lock().unanswered = false;
    }

    /// The leader, on another node, has said something that was taken in, and perhaps wakes.
    pub(crate) fn heard(&self, wakes: bool) {
        if wakes || self.is_resting() {
            self.touch();
        }
        self.lock().heard_at = Some(Instant::now());
    }

    /// Whether a leader was heard of within its lease.
    pub(crate) fn heard_lately(&self) -> bool {
        let lease = self.timing.election_timeout * 2 / 3;
        self.lock().heard_at.is_some_and(|at| at.elapsed() < lease)
    }

    /// How long ago a leader was heard of.
    pub(crate) fn heard_ago(&self) -> Option<Duration> {
        self.lock().heard_at.map(|at| at.elapsed())
    }

    /// The nodes of the group are others than those that refused.
    pub(crate) fn hope(&self) {
        self.lock().refusals = 0;
        self.touch();
    }

    /// Keeps the replica awake while it exists: what waits for a round of heartbeats waits for the
    /// timers.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        self.touch();
        self.lock().holds += 1;
        Hold(self.clone())
    }

    fn wake(&self, state: &mut State) {
        if std::mem::take(&mut state.stopped) {
            state.resting = None;
            if state.parked.take().is_some() {
                state.woken_at = Instant::now();
                state.unanswered = true;
                self.tell(false);
            }
            self.raft.runtime_config().tick(true);
            self.gauges.bell.notify_one();
        }
    }

    /// Wakes a replica that follows another vote than the one that it was parked under, or rested.
    pub(crate) fn follow(&self, vote: &Vote) {
        let mut state = self.lock();
        let under = state.parked.as_ref().map(|parked| parked.vote).or(state.resting);
        // Raft tells of no vote at all before it has begun.
        if under.is_some_and(|under| vote.partial_cmp(&under).is_none_or(Ordering::is_gt)) {
            state.events += 1;
            state.active_at = Instant::now();
            self.wake(&mut state);
        }
    }

    pub(crate) fn next(&self, leads: bool) -> Next {
        const LONG: Duration = Duration::from_secs(3_600);
        let Some(park_after) = self.timing.park_after else { return Next::Wait(LONG) };
        let state = self.lock();
        let (due, then) = match &state.parked {
            Some(parked) if leads => (parked.until, Next::Ask),
            Some(parked) => (parked.until, Next::Overdue),
            None if leads && state.holds > 0 => return Next::Wait(park_after),
            None if leads => {
                let doublings = state.refusals.min(DOUBLINGS_MAX);
                let idle = match state.unused {
                    true => park_after.min(self.timing.heartbeat * UNUSED),
                    false => park_after,
                };
                (state.active_at + idle * (1 << doublings), Next::Ask)
            }
            None => return Next::Wait(LONG),
        };
        match due.saturating_duration_since(Instant::now()) {
            Duration::ZERO => then,
            wait => Next::Wait(wait),
        }
    }

    /// Begins to park the leader: its timers stop.
    pub(crate) fn begin(&self) -> Attempt {
        let mut state = self.lock();
        self.stop(&mut state);
        Attempt { events: state.events }
    }

    fn stop(&self, state: &mut State) {
        state.stopped = true;
        self.raft.runtime_config().tick(false);
    }

    /// Parks the leader, or keeps it parked, if nothing has happened since the attempt began.
    pub(crate) fn complete(&self, attempt: &Attempt, vote: Vote) -> bool {
        let mut state = self.lock();
        if state.events != attempt.events || state.holds > 0 {
            return false;
        }
        state.refusals = 0;
        let until = Instant::now() + self.renewal();
        state.parked = Some(Parked { vote, until });
        self.tell(true);
        true
    }

    /// Gives an attempt up: the leader is awake, and idle from now on.
    pub(crate) fn give_up(&self, refused: bool) {
        let mut state = self.lock();
        if refused {
            state.refusals += 1;
        }
        state.active_at = Instant::now();
        self.wake(&mut state);
    }

    /// Parks a follower under its leader's vote.
    pub(crate) fn park(&self, vote: Vote, renewal: Duration) {
        let mut state = self.lock();
        self.stop(&mut state);
        state.resting = None;
        state.parked = Some(Parked { vote, until: Instant::now() + renewal * RENEWALS_MISSED });
        self.tell(true);
    }

    #[cfg(madsim)]
    fn tell(&self, parked: bool) {
        if let Some(observer) = crate::sim::World::current().observer() {
            observer.parked(*self.raft.node_id(), self.group, parked);
        }
    }

    #[cfg(not(madsim))]
    #[allow(clippy::unused_self)]
    fn tell(&self, _parked: bool) {}

    /// For how long a leader asks others to park.
    pub(crate) fn asked_for(&self) -> Duration {
        self.renewal()
    }
}
