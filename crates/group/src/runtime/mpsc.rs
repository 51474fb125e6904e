//! Channels that take little while they are empty.
//!
//! tokio's allocate room for 32 messages from the start and keep it; openraft's messages have some
//! 100 to 300 bytes, and it opens a handful of channels for each replica: 20 KB of room that an idle
//! queue never uses. With each message in a box the room is for 32 pointers, and the price is one
//! allocation a message, of which a batch of entries needs a few.

use std::future::Future;

use openraft_rt::{
    Mpsc, MpscReceiver, MpscSender, MpscWeakSender, OptionalSend, SendError, TryRecvError,
};
use tokio::sync::mpsc;

/// The channel's kind, as openraft asks for it.
pub struct BoxedMpsc;

/// The sending end.
pub struct Sender<T>(mpsc::Sender<Box<T>>);

/// The receiving end.
pub struct Receiver<T>(mpsc::Receiver<Box<T>>);

/// A sending end that does not keep the channel open.
pub struct WeakSender<T>(mpsc::WeakSender<Box<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Mpsc for BoxedMpsc {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::channel(buffer);
        (Sender(sender), Receiver(receiver))
    }
}

impl<T: OptionalSend> MpscSender<BoxedMpsc, T> for Sender<T> {
    fn send(&self, message: T) -> impl Future<Output = Result<(), SendError<T>>> + OptionalSend {
        let message = Box::new(message);
        async move { self.0.send(message).await.map_err(|refused| SendError(*refused.0)) }
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}

impl<T: OptionalSend> MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await.map(|message| *message)
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map(|message| *message).map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T: OptionalSend> MpscWeakSender<BoxedMpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}
