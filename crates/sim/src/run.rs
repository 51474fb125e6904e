//! One seed: a runtime of its own on a thread of its own, so that nothing but the seed decides.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use madsim::runtime::Runtime;
use quorate_group::sim::World;

use crate::events::{Counters, Record};
use crate::scenarios::{Plan, Scenario};
use crate::trace::Trace;
use crate::world::Cluster;

/// What to run.
#[derive(Clone)]
pub struct Run {
    /// Everything follows from it.
    pub seed: u64,
    /// What happens.
    pub scenario: &'static Scenario,
    /// Nodes and time.
    pub plan: Plan,
    /// Keep the trace's text.
    pub keep_trace: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The scenario.
    pub scenario: &'static str,
    /// Which invariant did not hold, or what panicked.
    pub failure: Option<String>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Figures.
    pub counters: Counters,
    /// Time in the simulated world.
    pub simulated: Duration,
    /// Time that it took.
    pub took: Duration,
    /// Digest and number of lines of the trace.
    pub digest: (u64, u64),
    /// The last lines of the trace, if it failed.
    pub last_lines: Vec<String>,
    /// The trace, if it was to be kept.
    pub trace: Option<String>,
}

/// No run takes longer, in the simulated world.
const TIME_LIMIT: Duration = Duration::from_secs(1_200);

/// Runs one seed.
///
/// # Panics
/// When no thread can be had.
#[must_use]
pub fn run(run: &Run) -> Report {
    let own = run.clone();
    let thread = std::thread::Builder::new().name(format!("seed {}", run.seed));
    let thread = thread.stack_size(8 << 20).spawn(move || on_this_thread(&own));
    thread.expect("start a thread").join().unwrap_or_else(|panic| Report {
        seed: run.seed,
        failure: Some(message_of(panic.as_ref())),
        ..Report::default()
    })
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_else(|| "of unknown content".to_owned()))
}

fn runtime(seed: u64) -> Runtime {
    let mut config = madsim::Config::default();
    config.net.send_latency = crate::world::LATENCY;
    let mut runtime = Runtime::with_seed_and_config(seed, config);
    runtime.add_simulator::<World>();
    runtime.set_time_limit(TIME_LIMIT);
    runtime
}

fn on_this_thread(run: &Run) -> Report {
    let started = Instant::now();
    let record = Record::new(Trace::new(run.keep_trace));
    let runtime = runtime(run.seed);
    let _tracing = run.keep_trace.then(|| crate::trace::log_into(record.clone()));
    let simulated = std::sync::Arc::new(std::sync::Mutex::new(Duration::ZERO));
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let clock = simulated.clone();
        runtime.block_on(async {
            let scenario = (run.scenario.run)(run.plan.clone(), record.clone());
            let machine = madsim::runtime::Handle::current().create_node().name("scenario").build();
            let outcome = tokio::select! {
                biased;
                () = record.violated() => Ok(()),
                outcome = machine.spawn(scenario) => {
                    outcome.unwrap_or_else(|error| Err(error.to_string()))
                }
            };
            match outcome {
                Ok(()) => record.finish(),
                Err(reason) => record.violate(reason),
            }
            *clock.lock().expect("no panic while held") =
                madsim::time::TimeHandle::current().elapsed();
            end_all_machines().await;
        });
    }));
    let panicked = ran.err().map(|panic| message_of(panic.as_ref()));
    let failure = record.violation().or(panicked);
    let (digest, last_lines, trace) = record.with_trace(|trace| {
        let last = if failure.is_some() { trace.last() } else { Vec::new() };
        ((trace.digest(), trace.lines()), last, trace.take_text())
    });
    let simulated = *simulated.lock().expect("no panic while held");
    // Tasks that are dropped outside of the runtime may look for it: let them go within.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(runtime)));
    Report {
        seed: run.seed,
        scenario: run.scenario.name,
        failure,
        faults: record.faults(),
        counters: record.counters(),
        simulated,
        took: started.elapsed(),
        digest,
        last_lines,
        trace,
    }
}

/// Tasks that wait for each other would keep a run in memory for ever: they are dropped with their
/// machines.
async fn end_all_machines() {
    for machine in World::current().machines() {
        madsim::runtime::Handle::current().kill(machine);
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Tests an application against a simulated cluster of three nodes, once for each seed.
///
/// `test` runs on a machine of its own in the simulated network; it connects with
/// [`Cluster::client`], spawns what it likes with `tokio::spawn`, and does to the cluster what it
/// likes. Time is simulated: sleeping costs nothing. All that the test does must come from the seed
/// too, so it takes time, tasks and randomness from `tokio` (the package `madsim-tokio`) and
/// `madsim`, and no threads.
///
/// # Panics
/// When the test panics, or an invariant of the cluster does not hold; the message names the seed,
/// and the same seed does the same again.
pub fn simulate<T, F>(seeds: RangeInclusive<u64>, test: T)
where
    T: Fn(Cluster) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    for seed in seeds {
        let test = test.clone();
        let thread = std::thread::Builder::new().name(format!("seed {seed}"));
        let thread = thread.stack_size(8 << 20).spawn(move || one_test(seed, test));
        let outcome = thread.expect("start a thread").join();
        let failure = match outcome {
            Ok(None) => continue,
            Ok(Some(violation)) => violation,
            Err(panic) => message_of(panic.as_ref()),
        };
        panic!("seed {seed}: {failure}\nto see it again: simulate({seed}..={seed}, …)");
    }
}

fn one_test<T, F>(seed: u64, test: T) -> Option<String>
where
    T: Fn(Cluster) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let record = Record::new(Trace::new(false));
    let told = record.clone();
    runtime(seed).block_on(async move {
        let cluster = Cluster::start(3, record.clone());
        let application = cluster.client_machine("application");
        let done = application.spawn(test(cluster));
        tokio::select! {
            biased;
            () = record.violated() => {}
            done = done => done.expect("the test's task was not cancelled"),
        }
        end_all_machines().await;
    });
    told.violation()
}
