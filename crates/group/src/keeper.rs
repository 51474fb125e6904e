//! The group's housekeeper: tells the owner when leadership changes, lets time pass in the machine,
//! and has checkpoints made and old entries purged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft_rt::WatchReceiver;
use quorate_machine::Machine;
use tokio::sync::mpsc;

use crate::applier::Event;
use crate::clock::Clock;
use crate::handle::Handle;
use crate::state_machine::Gauges;
use crate::types::Raft;

/// Time between two attempts to let time pass, when the first did not move the deadline.
const TICK_RETRY: Duration = Duration::from_millis(100);
/// Longest sleep; a deadline further away is looked at again then.
const NAP_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Keeper<M: Machine> {
    pub(crate) handle: Handle<M>,
    pub(crate) raft: Raft,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) leading: Arc<AtomicBool>,
    pub(crate) clock: Clock,
    pub(crate) events: mpsc::UnboundedSender<Event<M::Effect>>,
}

impl<M: Machine> Keeper<M> {
    /// Runs until Raft stops.
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        let mut state = self.raft.metrics();
        let mut led_term = None;
        let mut asked_at = None;
        loop {
            let running = state.borrow_watched().running_state.clone();
            if let Err(fatal) = running {
                let stopped = matches!(fatal, openraft::error::Fatal::Stopped);
                if !stopped {
                    let _ = self.events.send(Event::Failed(fatal.to_string()));
                }
                return;
            }
            let now = metrics.borrow_and_update().clone();
            self.follow_leadership(&mut led_term, &now).await;
            self.keep_checkpoints(&mut asked_at).await;
            let nap = self.tick().await;
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
    ) {
        let leads = now.state == ServerState::Leader && now.vote.committed;
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
        self.leading.store(true, Ordering::Release);
        // Applied before anything that this leader's owner proposes for a consumer.
        match self.handle.propose(M::leader_changed(self.handle.node())).await {
            Ok(_) => {
                *led_term = Some(term);
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

    /// Proposes a tick if a deadline is due; returns how long nothing is.
    async fn tick(&self) -> Duration {
        if !self.leading.load(Ordering::Acquire) {
            return NAP_MAX;
        }
        let deadline = self.gauges.deadline_ms.load(Ordering::Acquire);
        let wait = deadline.saturating_sub(self.clock.now_ms());
        if wait > 0 {
            return Duration::from_millis(wait).min(NAP_MAX);
        }
        if self.handle.propose(M::tick()).await.is_ok()
            && self.gauges.deadline_ms.load(Ordering::Acquire) != deadline
        {
            return Duration::ZERO;
        }
        TICK_RETRY
    }

    async fn keep_checkpoints(&self, asked_at: &mut Option<u64>) {
        let checkpointed = self.gauges.checkpointed.load(Ordering::Acquire);
        if self.gauges.checkpoint_due() && *asked_at != Some(checkpointed) {
            *asked_at = Some(checkpointed);
            let _ = self.raft.trigger().snapshot().await;
        }
        let floor = {
            let metrics = self.raft.metrics();
            let purged = metrics.borrow_watched().purged;
            purged.map_or(0, |id| id.index)
        };
        let upto = self.gauges.purge_point();
        if upto > floor {
            let _ = self.raft.trigger().purge_log(upto).await;
        }
    }
}
