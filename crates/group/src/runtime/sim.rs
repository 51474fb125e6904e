//! openraft's runtime on madsim, so that a run follows from its seed alone.
//!
//! tokio's channels are wakers and queues without time or randomness of their own, and serve here too;
//! its watch does not (see [`watch`](super::watch)).

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use madsim::rand::RngCore;
use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMutex, TokioOneshot};

use super::mpsc::BoxedMpsc;
use super::watch::OrderedWatch;
use crate::sim::World;

/// madsim's tasks, timers and random numbers. Timers follow the clock of the node that sets them,
/// which may drift.
#[derive(Debug)]
pub struct Runtime;

/// A task that was cancelled, or panicked.
#[derive(Debug)]
pub struct JoinError(madsim::task::JoinError);

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Waits for a task.
pub struct JoinHandle<T>(madsim::task::JoinHandle<T>);

impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(JoinError)
    }
}

/// The time was over.
#[derive(Debug)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is over")
    }
}

/// A future with a limit.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Pin<Box<madsim::time::Sleep>>,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        self.sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    }
}

/// The world's random numbers, for the version of `rand` that openraft asks for.
pub struct Random;

impl rand::TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(madsim::rand::thread_rng().next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(madsim::rand::thread_rng().next_u64())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        madsim::rand::thread_rng().fill_bytes(out);
        Ok(())
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = madsim::time::Sleep;
    // madsim answers the system call behind it.
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, F: Future<Output = R> + OptionalSend> = Timeout<F>;
    type ThreadLocalRng = Random;
    type Mpsc = BoxedMpsc;
    type Watch = OrderedWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        JoinHandle(madsim::task::spawn(future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        madsim::time::sleep(World::current().timer(duration))
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        Self::sleep(deadline.saturating_duration_since(madsim::time::Instant::now()))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), sleep: Box::pin(Self::sleep(duration)) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), sleep: Box::pin(Self::sleep_until(deadline)) }
    }

    fn is_panic(error: &JoinError) -> bool {
        error.0.is_panic()
    }

    fn thread_rng() -> Random {
        Random
    }

    fn new(_threads: usize) -> Self {
        Runtime
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        madsim::runtime::Runtime::new().block_on(future)
    }

    // The default starts a thread, which madsim refuses.
    fn spawn_blocking<F, T>(run: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(run()))
    }
}
