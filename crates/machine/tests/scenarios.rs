//! Scenarios in readable scripts, beside the machines: `src/*/testscripts/*.txt`.
//!
//! A script is blocks of commands and, below `----`, what they gave; a blank line ends a block.
//! A line is one log entry; `;` separates the commands of an entry. The grammar of the commands is
//! that of `script/queue.rs` and `script/catalog.rs`. `UPDATE_GOLDEN=1 cargo test` rewrites the
//! expectations, for a reviewer to read in the diff.

use std::fs;
use std::path::{Path, PathBuf};

mod script;

use script::Runner;

#[test]
fn queue_scenarios_give_what_they_say() {
    run_all("src/queue/testscripts", script::queue::Script::new);
}

#[test]
fn catalog_scenarios_give_what_they_say() {
    run_all("src/catalog/testscripts", script::catalog::Script::new);
}

fn run_all<R: Runner>(directory: &str, new: impl Fn() -> R) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut scripts: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let failed: Vec<String> =
        scripts.iter().filter_map(|path| run_script(path, &mut new()).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Runs a script and gives the lines that differ, if any do.
fn run_script(path: &Path, runner: &mut impl Runner) -> Result<(), String> {
    let expected = fs::read_to_string(path).unwrap();
    let mut actual = String::new();
    for block in expected.split("\n\n") {
        let commands = block.split("----").next().unwrap_or_default().trim();
        let mut output = String::new();
        for line in commands.lines() {
            actual += &format!("{line}\n");
            if !line.starts_with('#') {
                runner.line(line, &mut output);
            }
        }
        if !commands.is_empty() {
            let is_comment = commands.lines().all(|line| line.starts_with('#'));
            actual += &if is_comment { "\n".to_owned() } else { format!("----\n{output}\n") };
        }
    }
    let actual = format!("{}\n", actual.trim_end());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, &actual).unwrap();
        return Ok(());
    }
    let differs = expected.lines().zip(actual.lines()).position(|(left, right)| left != right);
    match differs {
        None if expected.lines().count() == actual.lines().count() => Ok(()),
        at => Err(difference(path, &expected, &actual, at.unwrap_or_default())),
    }
}

fn difference(path: &Path, expected: &str, actual: &str, at: usize) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
    format!("{name}:{}:\n  expected {}\n  actual   {}", at + 1, line(expected), line(actual))
}
