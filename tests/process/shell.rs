//! The binary as a shell sees it: exit codes and what goes to which stream, without a cluster.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use quorate_tests::binary;

fn quorate(args: &[&str]) -> Command {
    let mut command = Command::new(binary::path());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    quorate(args).output().expect("the binary starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A loopback port that nothing listens on.
fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    listener.local_addr().expect("its address").to_string()
}

#[test]
fn help_is_code_0_and_wrong_usage_is_code_2() {
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["queue", "create", "--help"]).status.code(), Some(0));
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(run(&["--server", "no port", "queue", "list"]).status.code(), Some(2));
}

#[test]
fn an_unreachable_cluster_is_code_4_with_a_cure_on_stderr() {
    let address = dead_address();
    for command in [
        &["queue", "list"][..],
        &["cluster", "status"],
        &["publish", "orders", "hello"],
        &["consume", "orders"],
        &["queue", "delete", "orders", "--yes"],
    ] {
        let output = run(&[&["--server", &address, "--timeout", "2s"], command].concat());
        assert_eq!(output.status.code(), Some(4), "{command:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{command:?} wrote to standard output");
        let errors = stderr(&output);
        assert!(errors.starts_with("error: "), "{errors}");
        assert!(errors.contains("\n  reason: ") && errors.contains("\n  try: "), "{errors}");
    }
}

#[test]
fn a_wrong_configuration_is_code_3_and_names_file_and_line() {
    let mut file = tempfile::NamedTempFile::new().expect("create a file");
    writeln!(file, "zone = \"a\"\nlisten = 12").expect("write the file");
    let path = file.path().display().to_string();
    let output = run(&["server", "--config", &path]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("{path}:2")), "{}", stderr(&output));
}

#[test]
fn listening_beyond_loopback_without_insecure_is_code_3() {
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().display().to_string();
    let output = run(&["server", "--data", &data, "--listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("insecure"), "{}", stderr(&output));
}

#[test]
fn dev_names_the_port_that_is_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("dev").display().to_string();
    let output = run(&["dev", "--nodes", "1", "--port", &port, "--data", &data]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains(&port), "{}", stderr(&output));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = quorate(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}
