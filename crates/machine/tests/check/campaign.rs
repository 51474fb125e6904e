//! Many random sequences, each from a seed of its own, so that any of them can be run again alone.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Debug};
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::{Duration, Instant};

use super::{Rng, Tally, shrink::shrink};

/// What is checked.
pub trait Subject {
    /// As the command line names it.
    const NAME: &'static str;

    /// An entry of the log.
    type Step: Clone + Debug;

    fn random(rng: &mut Rng) -> Vec<Self::Step>;

    /// Applies all steps, and panics where the machine is not as the reference says. The states
    /// after the first `known` steps have been compared before, so that can be spared.
    fn run(steps: &[Self::Step], known: usize, tally: &mut Tally);

    /// Steps that do less than this one; each must be smaller by some measure that has an end.
    fn simpler(step: &Self::Step) -> Vec<Self::Step>;
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub sequences: u64,
    pub elapsed: Duration,
    pub tally: Tally,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.sequences += other.sequences;
        self.elapsed += other.elapsed;
        self.tally.merge(&other.tally);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequences, elapsed, tally } = self;
        let seconds = elapsed.as_secs_f64();
        let rate = *sequences as f64 / seconds;
        let commands = tally.of("commands");
        write!(
            formatter,
            "{sequences} sequences, {commands} commands, {seconds:.1} s, {rate:.0} sequences/s"
        )
    }
}

/// A sequence after which machine and reference differ.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How many sequences were run, this one included.
    pub sequences: u64,
    pub message: String,
    /// The sequence, shrunk, a step a line.
    pub steps: Vec<String>,
    pub length_before: usize,
    /// The command that runs it again.
    pub again: String,
}

impl Failure {
    /// Shrinks the sequence. The message is that of the short one.
    pub fn of<S: Subject>(sequences: u64, steps: Vec<S::Step>, again: &str) -> Self {
        let length_before = steps.len();
        let steps = shrink::<S>(steps);
        let message = attempt::<S>(&steps, 0).expect_err("what was shrunk still fails");
        let steps = steps.iter().map(|step| format!("{step:?}")).collect();
        let command = "cargo run --release -p quorate-machine --example check --";
        let again = format!("{command} {} {again}", S::NAME);
        Self { sequences, message, steps, length_before, again }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "sequence {} failed: {}", self.sequences, self.message)?;
        writeln!(formatter, "{} steps, of {}:", self.steps.len(), self.length_before)?;
        for step in &self.steps {
            writeln!(formatter, "  {step}")?;
        }
        write!(formatter, "again: {}", self.again)
    }
}

/// Runs the sequences `range` of all that `seed` gives; ends at the first that fails.
pub fn run<S: Subject>(seed: u64, range: Range<u64>) -> Result<Figures, Box<Failure>> {
    let started = Instant::now();
    let mut tally = Tally::default();
    for n in range.clone() {
        let sequence = Rng::nth_seed(seed, n);
        tally.merge(&replay::<S>(sequence).map_err(|failure| {
            let sequences = n - range.start + 1;
            Box::new(Failure { sequences, ..*failure })
        })?);
    }
    let sequences = range.end - range.start;
    Ok(Figures { sequences, elapsed: started.elapsed(), tally })
}

/// Runs the one sequence of this seed.
pub fn replay<S: Subject>(sequence: u64) -> Result<Tally, Box<Failure>> {
    let steps = S::random(&mut Rng::new(sequence));
    attempt::<S>(&steps, 0)
        .map_err(|_| Box::new(Failure::of::<S>(1, steps, &format!("--replay {sequence}"))))
}

/// Runs a sequence; if it panics, says how.
pub fn attempt<S: Subject>(steps: &[S::Step], known: usize) -> Result<Tally, String> {
    caught(|| {
        let mut tally = Tally::default();
        S::run(steps, known, &mut tally);
        tally
    })
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the panic of this thread to itself; those of other threads are shown as ever.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PANIC.set(info.to_string());
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    outcome.map_err(|_| PANIC.take())
}
