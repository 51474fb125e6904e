//! `cargo xtask`: what a developer and the CI run, in one place and one order.
//!
//! ```text
//! ci ── fmt --check ── clippy -D warnings ── doc -D warnings ── test
//!                                                               │
//! test ── build the release binary ── workspace tests with QUORATE_BIN set to it
//! bench ── benches/: parts by themselves; a whole cluster is measured by `quorate bench`
//! sim ── build quorate-sim for the simulated world ── run it (sim.rs)
//! ```
//! `ci` ends with the simulation: determinism, planted bugs, every scenario, a sweep of fresh seeds.
//! The cheap checks come first, so that a slip is told within seconds. Steps are plain cargo calls; each is
//! printed before it runs, so it can be repeated by hand.

mod sim;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask <task>

tasks:
  test [ARGS]   unit and integration tests of the workspace, against the release binary;
                ARGS go to the test runner, e.g. a part of a test's name
  ci            format check, clippy, documentation, test, then a part of the simulation
  sim [ARGS]    the simulated world: searches seeds for a run that breaks a promise; ARGS as
                `cargo xtask sim --help` lists them, or --long for the nightly search
  bench [NAME] [ARGS]
                all benchmarks, or the one of that name in benches/benches with ARGS given to it;
                `bench instructions` counts what the hot paths take (needs valgrind)
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let Some((task, rest)) = args.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let outcome = match task.as_str() {
        "test" => test(rest),
        "ci" => ci(),
        "bench" => bench(rest),
        "sim" => sim::run(rest),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        unknown => {
            eprint!("error: there is no task {unknown:?}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ci() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;
    // In the profile of the tests, so that build scripts and macros are compiled once.
    run(cargo().args("clippy --release --workspace --all-targets -- -D warnings".split(' ')))?;
    let mut doc = cargo();
    doc.args("doc --release --workspace --no-deps".split(' '));
    run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    test(&[])?;
    sim::ci()
}

/// The workspace but for the benchmarks, which have no tests: with what they depend on, half of the dependencies would be
/// compiled a second time, with other features than the binary has.
const TESTED: [&str; 4] = ["--release", "--workspace", "--exclude", "quorate-benches"];

/// The process tests in `tests/` start the binary that is shipped, so it is built as it is shipped, once; the
/// tests use the same profile, so that little is compiled twice. The examples are built with the tests, and run by
/// `examples/tests/cluster.rs`.
fn test(args: &[String]) -> Result<()> {
    run(cargo().args(["build", "--release", "--package", "quorate-cli"]))?;
    let binary = target_dir().join("release").join(format!("quorate{}", env::consts::EXE_SUFFIX));
    if !binary.is_file() {
        bail!("{} was not built", binary.display());
    }
    if has_nextest() {
        let mut nextest = cargo();
        nextest.args(["nextest", "run"]).args(TESTED).args(["--no-tests", "pass"]).args(args);
        run(nextest.env("QUORATE_BIN", &binary))?;
        // nextest leaves the examples in the documentation to cargo.
        if args.is_empty() {
            run(cargo().arg("test").args(TESTED).arg("--doc").env("QUORATE_BIN", &binary))?;
        }
        return Ok(());
    }
    run(cargo().arg("test").args(TESTED).args(args).env("QUORATE_BIN", &binary))
}

fn bench(args: &[String]) -> Result<()> {
    let mut bench = cargo();
    bench.args(["bench", "--package", "quorate-benches"]);
    match args.split_first() {
        Some((name, rest)) if !name.starts_with('-') => {
            bench.args(["--bench", name, "--"]).args(rest);
        }
        _ => {
            bench.args(args);
        }
    }
    run(&mut bench)
}

fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    command
}

fn workspace_root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or(here.clone(), PathBuf::from)
}

fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace_root().join(dir),
        None => workspace_root().join("target"),
    }
}

fn has_nextest() -> bool {
    let mut probe = cargo();
    probe.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    eprintln!("xtask: {line}");
    let started = Instant::now();
    let status = command.status().with_context(|| format!("start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    eprintln!("xtask: done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The call as one would type it, settings in front.
fn line_of(command: &Command) -> String {
    let settings = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={:?}", name.to_string_lossy(), value.to_string_lossy()))
    });
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let program = PathBuf::from(command.get_program());
    let program = program.strip_prefix(workspace_root()).unwrap_or(&program);
    let program = match program.file_stem() {
        Some(name) if name == "cargo" => "cargo".to_owned(),
        _ => program.display().to_string(),
    };
    let words: Vec<String> = settings.chain([program]).chain(words).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_printed_as_it_can_be_typed() {
        let mut command = cargo();
        command.args(["doc", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(line_of(&command), "RUSTDOCFLAGS=\"-D warnings\" cargo doc --no-deps");
    }

    #[test]
    fn the_root_is_where_the_workspace_is() {
        let manifest = std::fs::read_to_string(workspace_root().join("Cargo.toml"));
        assert!(manifest.is_ok_and(|text| text.contains("[workspace]")));
    }
}
