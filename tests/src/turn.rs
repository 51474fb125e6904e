//! Whose turn it is: a test with a load wants the machine for itself, the others go side by side.
//!
//! The turn is a lock on a file beside the test's executable, so it holds for test runners that give each
//! test a process of its own as well as for those that give it a thread.

use std::fs::File;
use std::pin::pin;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// Runs a test by itself: no other test of this crate runs meanwhile. Waiting for the turn does not count
/// towards `limit`.
///
/// # Panics
/// When the test does, or takes longer than `limit`; its nodes then show the end of their logs.
pub fn alone(limit: Duration, test: impl Future<Output = ()>) {
    run(FlockOperation::LockExclusive, limit, test);
}

/// Runs a test beside others of its kind.
///
/// # Panics
/// As [`alone`].
pub fn beside_others(limit: Duration, test: impl Future<Output = ()>) {
    run(FlockOperation::LockShared, limit, test);
}

fn run(turn: FlockOperation, limit: Duration, test: impl Future<Output = ()>) {
    let held = take(turn);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(async {
        let mut test = pin!(test);
        if tokio::time::timeout(limit, &mut test).await.is_err() {
            // While `test` is still there: its cluster is dropped by this panic and shows its logs.
            panic!("the test took longer than {limit:?}");
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(held);
}

fn take(turn: FlockOperation) -> File {
    let test = std::env::current_exe().expect("the test knows its own path");
    let file = File::create(test.with_file_name("quorate-tests.turn")).expect("make the lock file");
    flock(&file, turn).expect("wait for the turn");
    file
}
