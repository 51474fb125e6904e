//! One `quorate` process that runs until it is told otherwise, and one that is waited for.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::binary;

/// A running `quorate server`. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The node ends when this closes: even a test that is killed leaves no node behind.
    _stdin: Option<ChildStdin>,
    paused: bool,
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error, to which the log goes as well.
    pub err: String,
}

impl Ended {
    /// Asserts the exit code, and that each of `words` was said on standard error.
    ///
    /// # Panics
    /// When it is not so.
    pub fn refused_with(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        let last = self.err.find("error: ").map_or("", |at| &self.err[at..]);
        for word in words {
            assert!(last.contains(word), "{word:?} is missing in the error message:\n{}", self.err);
        }
    }
}

impl Server {
    /// Starts a node with the given arguments of `quorate server`; all it says is appended to `log`.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn start(args: &[String], log: &Path) -> Self {
        Self::start_command("server", &[&["--exit-with-stdin".to_owned()], args].concat(), log)
    }

    /// Starts another command that runs until it is told otherwise.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn start_command(name: &str, args: &[String], log: &Path) -> Self {
        let out = OpenOptions::new().create(true).append(true).open(log).expect("open the log");
        let err = out.try_clone().expect("share the log");
        let mut command = command();
        command.arg(name).args(args);
        command.stdin(Stdio::piped()).stdout(out).stderr(err);
        let mut child = command.spawn().expect("start the node");
        let stdin = child.stdin.take();
        Self { child, _stdin: stdin, paused: false }
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and reaps it.
    pub fn kill9(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    /// Whether it was paused and not resumed.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// SIGTERM.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end, at most `limit`.
    pub async fn ended_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if begun.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a child has a process id"), signal).expect("signal our own child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// kill -9 of a process that is not a child of ours: a node that the program under test has started.
///
/// # Panics
/// When there is no such process.
pub fn kill9(id: u32) {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("kill a node");
}

/// The program, without settings of the environment that the tests run in.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(binary::path());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program until it ends by itself.
///
/// # Panics
/// When it has not ended after `limit`.
pub async fn run(args: &[&str], limit: Duration) -> Ended {
    let dir = tempfile::tempdir().expect("a directory");
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let mut command = command();
    command.args(args).stdin(Stdio::null());
    command.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
    let child = command.spawn().expect("start the program");
    let mut server = Server { child, _stdin: None, paused: false };
    let status = server.ended_within(limit).await;
    let (out, err) = (text(&out), text(&err));
    match status {
        Some(status) => Ended { code: status.code(), out, err },
        None => panic!("`quorate {}` has not ended after {limit:?}:\n{out}\n{err}", args.join(" ")),
    }
}

fn text(path: &PathBuf) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.expect("read what the program said");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether this test may mount, and no permission stops it.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
