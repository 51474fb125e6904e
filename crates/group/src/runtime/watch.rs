//! A watch channel that wakes its receivers in the order in which they came.
//!
//! `tokio::sync::watch` spreads its receivers over eight shards that it chooses by a counter of the whole
//! process: the order of waking differs between two runs of one seed, and each change looks at all
//! eight, though openraft's channels have one to three receivers and change several times an entry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft_rt::watch::{RecvError, SendError};
use openraft_rt::{OptionalSend, OptionalSync, Watch, WatchReceiver, WatchSender};

/// The channel's kind, as openraft asks for it.
pub struct OrderedWatch;

struct Shared<T> {
    value: RwLock<T>,
    state: Mutex<State>,
}

struct State {
    version: u64,
    senders: usize,
    /// Of those that wait, by the id of the wait.
    wakers: Vec<(u64, Waker)>,
    waits: u64,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn value(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let wakers = {
            let mut state = self.state();
            change(&mut state);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// The sending end.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving end, and the version that it has seen.
pub struct Receiver<T>(Arc<Shared<T>>, u64);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        let shared = self.0.clone();
        shared.state().senders += 1;
        Self(shared)
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let last = {
            let mut state = self.0.state();
            state.senders -= 1;
            state.senders == 0
        };
        if last {
            self.0.change(|_| {});
        }
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let state = Mutex::new(State { version: 0, senders: 1, wakers: Vec::new(), waits: 0 });
        let shared = Arc::new(Shared { value: RwLock::new(init), state });
        (Sender(shared.clone()), Receiver(shared, 0))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if Arc::strong_count(&self.0) <= self.0.state().senders {
            return Err(SendError(value));
        }
        *self.0.value.write().unwrap_or_else(PoisonError::into_inner) = value;
        self.0.change(|state| state.version += 1);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = modify(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner));
        if modified {
            self.0.change(|state| state.version += 1);
        }
        modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value()
    }

    fn subscribe(&self) -> Receiver<T> {
        let version = self.0.state().version;
        Receiver(self.0.clone(), version)
    }
}

/// One call of `changed`: given up, it leaves no waker behind. A channel that never changes would
/// gather them.
struct Wait<'a, T> {
    shared: &'a Shared<T>,
    id: Option<u64>,
}

impl<T> Drop for Wait<'_, T> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.state().wakers.retain(|(of, _)| *of != id);
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let Self(shared, seen) = self;
        let mut wait = Wait { shared, id: None };
        std::future::poll_fn(|cx| {
            let mut state = wait.shared.state();
            if state.version != *seen {
                *seen = state.version;
                return Poll::Ready(Ok(()));
            }
            if state.senders == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            let id = *wait.id.get_or_insert_with(|| {
                state.waits += 1;
                state.waits
            });
            match state.wakers.iter_mut().find(|(of, _)| *of == id) {
                Some((_, waker)) => waker.clone_from(cx.waker()),
                None => state.wakers.push((id, cx.waker().clone())),
            }
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        self.1 = self.0.state().version;
        self.0.value()
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn waits_that_are_given_up_leave_nothing_behind() {
        let (sender, mut receiver) = OrderedWatch::channel(0);
        for _ in 0..100 {
            assert!(receiver.changed().now_or_never().is_none());
        }
        assert!(sender.0.state().wakers.is_empty());
    }

    #[tokio::test]
    async fn the_last_sender_that_goes_ends_the_wait_and_no_other_does() {
        let (sender, mut receiver) = OrderedWatch::channel(0);
        let wait = tokio::spawn(async move { receiver.changed().await });
        tokio::task::yield_now().await;
        drop(sender.clone());
        tokio::task::yield_now().await;
        assert_eq!(sender.0.state().wakers.len(), 1, "it still waits, and was not woken");
        drop(sender);
        assert!(wait.await.unwrap().is_err());
    }
}
