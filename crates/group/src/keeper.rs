//! The group's housekeeper: tells the owner when leadership changes, lets time pass in the machine,
//! and has checkpoints made and old entries purged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft_rt::WatchReceiver;
use quorate_machine::Machine;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::applier::Event;
use crate::clock::Clock;
use crate::handle::Handle;
use crate::proposer::ProposeError;
use crate::state_machine::Gauges;
use crate::types::Raft;

/// Time between two attempts to let time pass, when the first did not move the deadline.
const TICK_RETRY: Duration = Duration::from_millis(100);
/// Shortest time between two ticks: what becomes due meanwhile shares the second. One that comes alone waits for nothing.
const TICK_EVERY: Duration = Duration::from_millis(5);
/// Time between two requests for a checkpoint that is due.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The log is not purged for so long after a snapshot was sent: until its receiver is sent the log.
const HOLD_AFTER_SNAPSHOT: Duration = Duration::from_secs(5);
/// Longest wait for one of the keeper's own proposals.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);
/// Longest sleep; a deadline further away is looked at again then.
const NAP_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Keeper<M: Machine> {
    pub(crate) handle: Handle<M>,
    pub(crate) raft: Raft,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) leading: Arc<AtomicBool>,
    pub(crate) clock: Clock,
    /// A leader that no majority has answered for so long counts as cut off.
    pub(crate) cut_off_after: Duration,
    pub(crate) events: mpsc::UnboundedSender<Event<M::Effect>>,
}

impl<M: Machine> Keeper<M> {
    /// Runs until Raft stops.
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        let mut state = self.raft.metrics();
        let mut led_term = None;
        let mut asked_at = Instant::now();
        let (mut pinned_at, mut ticked_at) = (None, None);
        let mut may_lead = false;
        loop {
            let running = state.borrow_watched().running_state.clone();
            if let Err(fatal) = running {
                let stopped = matches!(fatal, openraft::error::Fatal::Stopped);
                if !stopped {
                    let _ = self.events.send(Event::Failed(fatal.to_string()));
                }
                return;
            }
            if !may_lead && self.handle.replica().may_lead() {
                may_lead = true;
                self.raft.runtime_config().elect(true);
            }
            let now = metrics.borrow_and_update().clone();
            self.handle.replica().parking.follow(&now.vote);
            self.follow_leadership(&mut led_term, &now, self.is_cut_off()).await;
            self.keep_checkpoints(&mut asked_at, &mut pinned_at).await;
            let nap = self.tick(asked_at.elapsed(), &mut ticked_at).await;
            let leads = self.leading.load(Ordering::Acquire);
            let nap = nap.min(self.handle.replica().keep_parked(leads).await);
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() {
                    // The core is gone: why is in the other metrics.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    let _ = state.changed().await;
                },
                () = self.gauges.bell.notified() => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    async fn follow_leadership(
        &self,
        led_term: &mut Option<u64>,
        now: &openraft::metrics::RaftServerMetrics<crate::Types>,
        cut_off: bool,
    ) {
        let leads = now.state == ServerState::Leader && now.vote.committed && !cut_off;
        let term = now.vote.leader_id.term;
        if leads == led_term.is_some() && (!leads || *led_term == Some(term)) {
            return;
        }
        if led_term.take().is_some() {
            self.leading.store(false, Ordering::Release);
            let _ = self.events.send(Event::Following);
        }
        if !leads {
            return;
        }
        #[cfg(madsim)]
        if let Some(observer) = crate::sim::World::current().observer() {
            observer.leads(self.handle.node(), self.handle.id(), term);
        }
        self.handle.leads_from_now();
        self.leading.store(true, Ordering::Release);
        // Applied before anything that this leader's owner proposes for a consumer.
        match self.propose(M::leader_changed(self.handle.node())).await {
            Ok(()) => {
                *led_term = Some(term);
                self.handle.replica().parking.settle();
                let _ = self.events.send(Event::Leading { term });
                let mut effects = Vec::new();
                self.handle.read(|machine| machine.outstanding(&mut effects));
                if !effects.is_empty() {
                    let index = self.gauges.applied.load(Ordering::Acquire);
                    let _ = self.events.send(Event::Effects { index, effects });
                }
            }
            Err(error) => {
                self.leading.store(false, Ordering::Release);
                tracing::debug!(group = self.handle.id(), %error, "leadership was short");
                self.gauges.bell.notify_one();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// True for a leader that no majority has answered for longer than another may have been
    /// elected: it goes on by itself once it is answered, or follows the other.
    fn is_cut_off(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let acked = metrics.last_quorum_acked.as_ref().map(|at| openraft::Instant::elapsed(&**at));
        // A parked leader asks nobody, and one that has just woken has not been answered yet.
        let awake_for = self.handle.replica().parking.awake_for();
        metrics.state == ServerState::Leader
            && !alone
            && awake_for.is_some_and(|age| age > self.cut_off_after)
            && acked.is_some_and(|age| age > self.cut_off_after)
    }

    /// Proposes, without waiting for ever.
    async fn propose(&self, command: M::Command) -> Result<(), ProposeError> {
        match tokio::time::timeout(PROPOSE_LIMIT, self.handle.propose(command)).await {
            Ok(outcome) => outcome.map(|_| ()),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Proposes a tick if a deadline is due; returns how long nothing is.
    async fn tick(&self, since_checkpoint: Duration, ticked_at: &mut Option<Instant>) -> Duration {
        let leads = self.leading.load(Ordering::Acquire);
        let nap_max = match self.handle.replica().is_parked() {
            // Whatever else is to be done wakes it.
            true if self.gauges.deadline_ms.load(Ordering::Acquire) != u64::MAX => NAP_MAX,
            true if self.gauges.entries.load(Ordering::Relaxed) == 0 => Duration::MAX,
            true => self.gauges.volumes.checkpoint_age.saturating_sub(since_checkpoint),
            false if leads => NAP_MAX.min(self.cut_off_after),
            false => NAP_MAX,
        };
        if !leads {
            return nap_max;
        }
        let deadline = self.gauges.deadline_ms.load(Ordering::Acquire);
        let due_in = Duration::from_millis(deadline.saturating_sub(self.clock.now_ms()));
        let pause = ticked_at.map_or(Duration::ZERO, |at| TICK_EVERY.saturating_sub(at.elapsed()));
        let wait = due_in.max(pause);
        if !wait.is_zero() {
            return wait.min(nap_max);
        }
        *ticked_at = Some(Instant::now());
        if self.propose(M::tick()).await.is_ok()
            && self.gauges.deadline_ms.load(Ordering::Acquire) != deadline
        {
            return Duration::ZERO;
        }
        TICK_RETRY
    }

    async fn keep_checkpoints(&self, asked_at: &mut Instant, pinned_at: &mut Option<Instant>) {
        // Raft ignores a request while a checkpoint is being made: ask again. One that is due by
        // its age lets go of what was settled since, when nothing more comes.
        let age = asked_at.elapsed();
        let by_age = age >= self.gauges.volumes.checkpoint_age
            && self.gauges.entries.load(Ordering::Relaxed) > 0;
        if by_age || (self.gauges.checkpoint_due() && age >= ASK_EVERY) {
            *asked_at = Instant::now();
            let _ = self.raft.trigger().snapshot().await;
        }
        let floor = {
            let metrics = self.raft.metrics();
            let purged = metrics.borrow_watched().purged;
            purged.map_or(0, |id| id.index)
        };
        // Whoever is being sent a snapshot needs what follows it: were that purged meanwhile, another would have to be
        // sent, and so on for as long as much is published. Raft itself keeps what it is sending of the log.
        if self.handle.replica().log.is_pinned() {
            *pinned_at = Some(Instant::now());
        }
        let is_held = pinned_at.is_some_and(|at| at.elapsed() < HOLD_AFTER_SNAPSHOT);
        let upto = self.gauges.purge_point();
        if upto > floor && !is_held {
            let _ = self.raft.trigger().purge_log(upto).await;
        }
    }
}
