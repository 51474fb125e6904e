//! Processes of the systems under test: started here, measured by `/proc`, killed by their own process group.
//!
//! Each node leads a process group of its own, so that what it starts itself (RabbitMQ's helpers) ends with
//! it, and Ctrl-C in a terminal reaches only us. Dropping a node kills it: there is no exit path that leaves
//! one behind, short of `kill -9` of this program.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// One process of a system.
#[derive(Debug)]
pub struct Node {
    /// Shown when it fails.
    pub name: String,
    child: Child,
    // Some nodes stop when it closes: they do not outlive us even by `kill -9`.
    _stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Node {
    /// Starts a process; what it writes goes to `directory/name.log`.
    pub fn spawn(name: &str, directory: &Path, command: &mut Command) -> Result<Node> {
        use std::os::unix::process::CommandExt;
        let log = directory.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let errors = out.try_clone().context("share the log")?;
        command.stdin(Stdio::piped()).stdout(out).stderr(errors).process_group(0);
        let program = command.get_program().to_owned();
        let mut child =
            command.spawn().with_context(|| format!("start {name}: {}", program.display()))?;
        let stdin = child.stdin.take();
        Ok(Node { name: name.to_owned(), child, _stdin: stdin, log })
    }

    /// Fails, with the end of its log, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("ask for a node's state")? {
            None => Ok(()),
            Some(status) => {
                let text = std::fs::read(&self.log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
                let tail = lines[lines.len().saturating_sub(3)..].join(" / ");
                bail!("{} ended ({status}): {tail}", self.name)
            }
        }
    }

    /// Kills it as `kill -9` does, with what it has started, and does not wait.
    pub fn kill(&mut self) {
        // A process that has ended and was waited for may have left its number to another.
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(group) = Pid::from_raw(self.child.id().cast_signed())
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn usage(&self) -> Result<Usage> {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.child.id());
            std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        Usage::parse(&read("stat")?, &read("io")?, &read("status")?)
            .with_context(|| format!("measure {}", self.name))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// What nodes have used since they started, and the memory that they hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Bytes handed to the block layer, or dirtied in the page cache.
    pub written_bytes: f64,
    /// Resident memory.
    pub rss_bytes: f64,
}

impl Usage {
    /// Sum over nodes.
    pub fn of(nodes: &[Node]) -> Result<Usage> {
        nodes.iter().try_fold(Usage::default(), |sum, node| {
            let one = node.usage()?;
            Ok(Usage {
                cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
                written_bytes: sum.written_bytes + one.written_bytes,
                rss_bytes: sum.rss_bytes + one.rss_bytes,
            })
        })
    }

    fn parse(stat: &str, io: &str, status: &str) -> Option<Usage> {
        // The name, in brackets, may hold anything; fields are counted from behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        let line = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        Some(Usage {
            cpu_seconds: ticks / rustix::param::clock_ticks_per_second() as f64,
            written_bytes: line(io, "write_bytes")?,
            rss_bytes: line(status, "VmRSS")? * 1024.0,
        })
    }
}

/// Loopback ports that nothing listens on, below the range that the system gives to outgoing connections.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    const FIRST: u32 = 17_000;
    const LAST: u32 = 32_000;
    let start = FIRST + std::process::id().wrapping_mul(101) % (LAST - FIRST);
    let candidates = (start..LAST).chain(FIRST..start).filter_map(|port| u16::try_from(port).ok());
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let free: Vec<u16> = candidates.filter(is_free).take(count).collect();
    if free.len() < count {
        bail!("no {count} free loopback ports between {FIRST} and {LAST}");
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1 1 1";
        let usage = Usage::parse(stat, "rchar: 1\nwrite_bytes: 4096\n", "VmRSS:\t  12 kB\n")
            .expect("well-formed");
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(usage.cpu_seconds, 300.0 / ticks);
        assert_eq!((usage.written_bytes, usage.rss_bytes), (4096.0, 12288.0));
        assert!(Usage::parse("", "", "").is_none());
    }
}
