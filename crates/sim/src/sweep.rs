//! Many runs, several at a time, and what came of them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::options::Sweep;
use crate::run::{Report, Run, run};
use crate::scenarios::{self, Plan, Scenario};

/// Sums over runs.
#[derive(Default)]
struct Sums {
    runs: BTreeMap<&'static str, (u64, u64)>,
    faults: BTreeMap<&'static str, u64>,
    confirmed: u64,
    delivered: u64,
    read: u64,
    acked: u64,
    elections: u64,
    node_failures: u64,
    simulated: Duration,
    busy: Duration,
    failures: Vec<Report>,
}

impl Sums {
    fn add(&mut self, report: Report) {
        let runs = self.runs.entry(report.scenario).or_default();
        runs.0 += 1;
        runs.1 += u64::from(report.failure.is_some());
        for (kind, count) in &report.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.confirmed += report.counters.confirmed;
        self.delivered += report.counters.delivered;
        self.read += report.counters.read;
        self.acked += report.counters.acked;
        self.elections += report.counters.elections;
        self.node_failures += report.counters.node_failures;
        self.simulated += report.simulated;
        self.busy += report.took;
        if report.failure.is_some() {
            self.failures.push(report);
        }
    }
}

/// The scenarios that a name stands for.
///
/// # Errors
/// When there is none of that name.
fn scenarios_of(name: &str) -> Result<Vec<&'static Scenario>, String> {
    match name {
        "all" => Ok(scenarios::NAMED.to_vec()),
        name => scenarios::find(name)
            .map(|scenario| vec![scenario])
            .ok_or_else(|| format!("there is no scenario `{name}`; `scenarios` lists them")),
    }
}

fn jobs(options: &Sweep) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    options.jobs.unwrap_or(cores).max(1)
}

fn plan(options: &Sweep) -> Plan {
    Plan { nodes: options.nodes.into(), time: Duration::from_secs(options.seconds) }
}

/// The command that runs a seed again.
#[must_use]
pub fn replay_command(report: &Report, options: &Sweep) -> String {
    format!(
        "cargo xtask sim --seeds {seed} --scenario {} --nodes {} --seconds {} --trace sim-{seed}.txt",
        report.scenario,
        options.nodes,
        options.seconds,
        seed = report.seed,
    )
}

/// Runs all seeds of a sweep. True if nothing failed.
///
/// # Errors
/// When the options make no sense.
pub fn sweep(options: &Sweep) -> Result<bool, String> {
    let scenarios = scenarios_of(&options.scenario)?;
    if options.trace.is_some() && (options.seeds.0.clone().count() > 1 || scenarios.len() > 1) {
        return Err("--trace is for one seed of one scenario".to_owned());
    }
    let started = Instant::now();
    let until = options.minutes.map(|minutes| started + Duration::from_secs_f64(minutes * 60.0));
    let seeds = options.seeds.0.clone();
    let bar = progress(seeds.clone().count() as u64 * scenarios.len() as u64, until.is_some());
    let sums = Mutex::new(Sums::default());
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..jobs(options) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let scenario = scenarios[number as usize % scenarios.len()];
                    let seed = *seeds.start() + number / scenarios.len() as u64;
                    let over = match until {
                        Some(until) => Instant::now() >= until,
                        None => seed > *seeds.end(),
                    };
                    if over {
                        return;
                    }
                    let keep_trace = options.trace.is_some();
                    let report = run(&Run { seed, scenario, plan: plan(options), keep_trace });
                    bar.inc(1);
                    if report.failure.is_some() {
                        bar.suspend(|| print_failure(&report, options));
                    }
                    if let (Some(path), Some(trace)) = (&options.trace, &report.trace) {
                        match std::fs::write(path, trace) {
                            Ok(()) => println!("trace of seed {seed}: {}", path.display()),
                            Err(error) => eprintln!("write {}: {error}", path.display()),
                        }
                    }
                    let mut sums = sums.lock().expect("no panic while held");
                    sums.add(Report { trace: None, ..report });
                    // One failure is enough to look at; some more show whether it is one kind.
                    if sums.failures.len() >= 10 {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let sums = sums.into_inner().expect("no panic while held");
    print_summary(&sums, started.elapsed(), options);
    Ok(sums.failures.is_empty())
}

/// The lowest of `within` seeds, from the first of the options on, whose run fails.
///
/// # Errors
/// When the options make no sense.
#[cfg(feature = "planted")]
pub(crate) fn first_failure(options: &Sweep, within: u64) -> Result<Option<Report>, String> {
    let scenario = *scenarios_of(&options.scenario)?.first().ok_or("no scenario")?;
    let first = *options.seeds.0.start();
    let next = AtomicU64::new(first);
    let failed: Mutex<Option<Report>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs(options) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let found = failed.lock().expect("no panic while held").is_some();
                    if found || seed >= first + within {
                        return;
                    }
                    let report =
                        run(&Run { seed, scenario, plan: plan(options), keep_trace: false });
                    let mut failed = failed.lock().expect("no panic while held");
                    let earlier = failed.as_ref().is_none_or(|other| seed < other.seed);
                    if report.failure.is_some() && earlier {
                        *failed = Some(report);
                    }
                }
            });
        }
    });
    Ok(failed.into_inner().expect("no panic while held"))
}

fn progress(runs: u64, by_time: bool) -> ProgressBar {
    let bar = if by_time { ProgressBar::no_length() } else { ProgressBar::new(runs) };
    let style = "{elapsed_precise} {wide_bar} {pos}/{len} runs, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

fn print_failure(report: &Report, options: &Sweep) {
    println!("\nFAILED seed {} in `{}`", report.seed, report.scenario);
    println!("  {}", report.failure.as_deref().unwrap_or_default());
    println!("  the last of {} lines of its trace:", report.digest.1);
    for line in report.last_lines.iter().rev().take(12).rev() {
        println!("    {}", line.chars().take(220).collect::<String>());
    }
    println!("  to run it again: {}\n", replay_command(report, options));
}

fn print_summary(sums: &Sums, wall: Duration, options: &Sweep) {
    let runs: u64 = sums.runs.values().map(|(runs, _)| runs).sum();
    println!("{:<44} {:>8} {:>8}", "scenario", "runs", "failed");
    for (name, (runs, failed)) in &sums.runs {
        println!("{name:<44} {runs:>8} {failed:>8}");
    }
    if !sums.faults.is_empty() {
        println!("\n{:<44} {:>8}", "fault", "times");
        for (kind, count) in &sums.faults {
            println!("{kind:<44} {count:>8}");
        }
    }
    let simulated = sums.simulated.as_secs_f64();
    let speed = simulated / sums.busy.as_secs_f64().max(0.001);
    let a_minute = runs as f64 * 60.0 / wall.as_secs_f64().max(0.001);
    println!(
        "\n{} messages confirmed, {} delivered, {} read, {} acked; {} elections, {} node starts refused or \
         failed",
        sums.confirmed, sums.delivered, sums.read, sums.acked, sums.elections, sums.node_failures
    );
    println!(
        "{simulated:.0} simulated seconds in {:.0} s: {speed:.0} a second and core, {a_minute:.1} \
         seeds a minute",
        wall.as_secs_f64()
    );
    for report in &sums.failures {
        println!("FAILED {}: {}", report.seed, report.failure.as_deref().unwrap_or_default());
        println!("  {}", replay_command(report, options));
    }
    if options.json {
        let failed: u64 = sums.runs.values().map(|(_, failed)| failed).sum();
        println!(
            "{{\"runs\":{runs},\"failed\":{failed},\"confirmed\":{},\"elections\":{},\
             \"simulated_s\":{simulated:.0},\"simulated_per_core_s\":{speed:.1},\
             \"seeds_per_minute\":{a_minute:.1}}}",
            sums.confirmed, sums.elections
        );
    }
}

/// Set for the second process of [`determinism`].
const CHILD: &str = "QUORATE_SIM_SECOND_PROCESS";

/// Runs each seed twice in this process and once in another, and compares the traces byte by byte
/// (with the other process, by their digests). True if all are equal.
///
/// # Errors
/// When the options make no sense, or the other process cannot be started.
pub fn determinism(options: &Sweep) -> Result<bool, String> {
    let scenarios = scenarios_of(&options.scenario)?;
    let child = std::env::var_os(CHILD).is_some();
    let (mut equal, mut lines, mut digests) = (true, 0, String::new());
    for seed in options.seeds.0.clone() {
        for scenario in &scenarios {
            let again = || run(&Run { seed, scenario, plan: plan(options), keep_trace: true });
            let one = again();
            let text = one.trace.as_deref().unwrap_or_default();
            digests += &format!("{seed} {} {:016x} {}\n", scenario.name, one.digest.0, text.len());
            lines += one.digest.1;
            if child {
                continue;
            }
            let other = again();
            if one.trace != other.trace {
                equal = false;
                println!(
                    "seed {seed} of `{}` differs: {}",
                    scenario.name,
                    difference(&one, &other)
                );
            }
        }
    }
    if child {
        print!("{digests}");
        return Ok(true);
    }
    let there = digests_of_another_process()?;
    if there != digests {
        equal = false;
        println!("another process has other traces:\n{there}here:\n{digests}");
    }
    let count = options.seeds.0.clone().count() * scenarios.len();
    println!(
        "{count} runs, each twice in this process and once in another, {lines} lines: {}",
        if equal { "all equal to the byte" } else { "NOT all equal" }
    );
    Ok(equal)
}

fn digests_of_another_process() -> Result<String, String> {
    let text = |error: std::io::Error| format!("start another process: {error}");
    let program = std::env::current_exe().map_err(text)?;
    let mut command = std::process::Command::new(program);
    let output =
        command.args(std::env::args_os().skip(1)).env(CHILD, "1").output().map_err(text)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn difference(one: &Report, other: &Report) -> String {
    let (one, other) = (one.trace.as_deref(), other.trace.as_deref());
    let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
    let pairs = one.lines().zip(other.lines()).enumerate();
    for (number, (a, b)) in pairs {
        if a != b {
            return format!("line {}:\n  {a}\n  {b}", number + 1);
        }
    }
    "one ends before the other".to_owned()
}
