//! The word that the node is ending, passed down to everything that runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Cheap to clone; once said, said for ever.
#[derive(Clone, Default)]
pub(crate) struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    said: AtomicBool,
    notify: Notify,
}

impl Shutdown {
    pub(crate) fn say(&self) {
        self.inner.said.store(true, Ordering::Release);
        self.inner.notify.notify_waiters();
    }

    pub(crate) fn is_said(&self) -> bool {
        self.inner.said.load(Ordering::Acquire)
    }

    /// Resolves once it is said.
    pub(crate) async fn said(&self) {
        loop {
            let notified = self.inner.notify.notified();
            tokio::pin!(notified);
            // Registered before the look, so that no word is missed between the two.
            notified.as_mut().enable();
            if self.is_said() {
                return;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_before_or_after_hears_it() {
        let shutdown = Shutdown::default();
        let early = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.said().await }
        });
        tokio::task::yield_now().await;
        shutdown.say();
        early.await.unwrap();
        shutdown.said().await;
    }
}
