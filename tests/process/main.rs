//! The shipped binary as processes, and what is done to them.

mod ack_levels;
mod any_node;
mod bench;
mod beside;
mod consumers;
mod dead_letters;
mod demo;
mod explaining;
mod faults;
mod fencing;
mod filtering;
mod followers;
mod founding;
mod full_disk;
mod health;
mod later;
mod leaders;
mod leases;
mod limits;
mod log;
mod moving;
mod ordering;
mod placement;
mod publishing;
mod python;
mod readers;
mod receive;
mod receivers;
mod recovery;
mod refusals;
mod replicas;
mod replication;
mod retries;
mod settings;
mod sharded;
mod shell;
mod slots;
mod startup;
mod topics;
mod traces;

use std::time::Duration;

/// Time limit of a test with a load. The machine may be slow and busy: this ends a test that hangs, it
/// does not measure.
const HEAVY: Duration = Duration::from_secs(120);
/// Time limit of any other test.
const LIGHT: Duration = Duration::from_secs(60);
/// Longest wait for one thing to happen under load.
const SOON: Duration = Duration::from_secs(40);

/// Lives until it is killed: a runtime that is shut down is as good as a process, nothing is said any more. What the life
/// ends with is held until then.
fn until_killed<T>(life: impl Future<Output = T> + Send + 'static) {
    let killed = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let held = runtime.block_on(life);
        runtime.shutdown_background();
        drop(held);
    });
    killed.join().expect("no panic");
}
