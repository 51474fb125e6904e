//! What runs the log's writer: a thread in production, in simulation a task that steps it and takes
//! the time that the simulated device needs.

use std::io;

use quorate_storage::{DataDir, Log, Writer};

#[cfg(not(madsim))]
pub(crate) struct LogWriter(std::thread::JoinHandle<()>);

#[cfg(not(madsim))]
impl LogWriter {
    pub(crate) fn start(_: &DataDir, _: &Log, writer: Writer) -> io::Result<Self> {
        let thread = std::thread::Builder::new().name("log-writer".into());
        thread.spawn(move || writer.run()).map(Self)
    }

    /// Waits until it has written all that was queued before the log was closed. False if it has
    /// not ended cleanly.
    pub(crate) async fn ended(self) -> bool {
        matches!(tokio::task::spawn_blocking(move || self.0.join()).await, Ok(Ok(())))
    }
}

#[cfg(madsim)]
pub(crate) struct LogWriter {
    closed: crate::shutdown::Shutdown,
    task: tokio::task::JoinHandle<()>,
}

#[cfg(madsim)]
impl LogWriter {
    #[allow(clippy::unnecessary_wraps, reason = "the real one can fail")]
    pub(crate) fn start(dir: &DataDir, log: &Log, writer: Writer) -> io::Result<Self> {
        let closed = crate::shutdown::Shutdown::default();
        let bell = std::sync::Arc::new(tokio::sync::Notify::new());
        let rung = bell.clone();
        log.on_work(Box::new(move || rung.notify_one()));
        let quorate_storage::Home::Simulated(home) = dir.home() else {
            return Err(io::Error::other("a simulated node needs a simulated directory"));
        };
        let task = tokio::spawn(step(writer, home.disk().clone(), bell, closed.clone()));
        Ok(Self { closed, task })
    }

    /// Waits until it has written all that was queued before.
    pub(crate) async fn ended(self) -> bool {
        self.closed.say();
        self.task.await.is_ok()
    }
}

/// What is queued while a write is under way waits for the next, as with the real device.
#[cfg(madsim)]
async fn step(
    mut writer: Writer,
    disk: quorate_storage::SimDisk,
    bell: std::sync::Arc<tokio::sync::Notify>,
    closed: crate::shutdown::Shutdown,
) {
    /// The upkeep looks around this often.
    const LOOK_AROUND: std::time::Duration = std::time::Duration::from_millis(250);
    loop {
        tokio::select! {
            biased;
            () = bell.notified() => {}
            () = closed.said() => {}
            () = tokio::time::sleep(LOOK_AROUND) => {}
        }
        loop {
            let latency = disk.latency().mul_f64(0.5 + madsim::rand::random::<f64>());
            tokio::time::sleep(latency).await;
            if !writer.step() {
                break;
            }
        }
        if closed.is_said() {
            return;
        }
    }
}
