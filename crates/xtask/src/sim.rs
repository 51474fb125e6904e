//! `cargo xtask sim`: builds the program of the simulated world, in a target directory of its own since
//! every crate is compiled for that world, and runs it with the arguments given.

use std::process::Command;

use anyhow::Result;

use crate::{cargo, run as step, target_dir};

const WORLD: &str = "--cfg madsim";

/// Builds, then runs with `args`. `--long` stands for the nightly search.
pub fn run(args: &[String]) -> Result<()> {
    if args.iter().any(|arg| arg == "--long") {
        return long();
    }
    let planted = args.first().is_some_and(|arg| arg == "planted");
    build(planted)?;
    simulate(args.iter().map(String::as_str))
}

/// What fits into a CI run: some of everything, with seeds that no run had before.
pub fn ci() -> Result<()> {
    let mut clippy = cargo();
    clippy.args(["clippy", "--profile", "sim", "--features", "quorate-sim/planted"]);
    for package in ["sim", "broker", "group", "client", "machine", "storage"] {
        clippy.args(["--package", &format!("quorate-{package}")]);
    }
    step(in_world(clippy.args(["--", "-D", "warnings"])))?;
    build(true)?;
    simulate("planted --within 60 --seconds 40".split(' '))?;
    build(false)?;
    simulate("determinism --seeds 1..20 --seconds 10".split(' '))?;
    simulate("--scenario all --seeds 1..3 --seconds 20".split(' '))?;
    let fresh = format!("--seeds {first}..{first} --minutes 4", first = seed_of_this_commit());
    simulate(fresh.split(' '))?;
    examples()
}

/// The nightly search.
fn long() -> Result<()> {
    build(true)?;
    simulate("planted --within 200".split(' '))?;
    build(false)?;
    simulate("determinism --seeds 1..50".split(' '))?;
    simulate("--scenario all --seeds 1..200".split(' '))?;
    let first = seed_of_this_commit();
    let five = format!("--seeds {first}..{first} --nodes 5 --minutes 60");
    simulate(five.split(' '))?;
    simulate(format!("--seeds {first}..{first} --minutes 240").split(' '))
}

/// Tests of applications against the simulated cluster, as the documentation shows them.
fn examples() -> Result<()> {
    let package = ["--profile", "sim", "--package", "quorate-examples"];
    let mut test = cargo();
    step(in_world(test.arg("test").args(package).args(["--test", "simulated"])))?;
    let mut run = cargo();
    step(in_world(run.arg("run").args(package).args(["--example", "simulated_worker"])))
}

fn build(planted: bool) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--profile", "sim", "--package", "quorate-sim"]);
    if planted {
        build.args(["--features", "planted"]);
    }
    step(in_world(&mut build))
}

fn in_world(command: &mut Command) -> &mut Command {
    command.env("RUSTFLAGS", WORLD).env("CARGO_TARGET_DIR", target_dir().join("sim"))
}

fn simulate<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let program = format!("quorate-sim{}", std::env::consts::EXE_SUFFIX);
    let program = target_dir().join("sim").join("sim").join(program);
    // A thread a seed: with an arena each, memory that is free again would not be used again.
    step(Command::new(program).args(args).env("MALLOC_ARENA_MAX", "2"))
}

/// A seed that follows from the commit, so that each is searched where none before it was.
fn seed_of_this_commit() -> u64 {
    let head = Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).output();
    let head = head.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    head.and_then(|head| u64::from_str_radix(head.trim(), 16).ok()).unwrap_or(1)
}
