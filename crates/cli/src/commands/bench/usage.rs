//! What processes have used, as the kernel counts it (`/proc`), and what a measured span has taken of that.
//!
//! Processor time comes in ticks of 10 ms, bytes written are those that went to a device, so past the page
//! cache too. Pre-written log segments count: they are part of what a message costs.

use std::fs;
use std::time::Duration;

/// What one process has used since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    cpu: Duration,
    written_bytes: u64,
}

impl Usage {
    /// `None` if there is no such process, or it is not ours to look at.
    fn of(pid: u32) -> Option<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        Some(Usage { cpu: cpu(&stat)?, written_bytes: field(&io, "write_bytes:")? })
    }

    fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }

    fn and(self, other: Usage) -> Usage {
        Usage { cpu: self.cpu + other.cpu, written_bytes: self.written_bytes + other.written_bytes }
    }
}

/// User and system time, the 14th and 15th field; the second one is a name that may hold anything in brackets.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most that it has been since the process began.
pub fn resident_peak_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(field(&status, name)? * 1024)
}

/// Whether the process is one of `quorate`, so that a number that another machine has told is not taken for it.
pub fn is_quorate(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "quorate")
}

/// Measures from `start` to `finish`.
#[derive(Debug)]
pub struct Meter {
    client: Option<Usage>,
    /// `None` if the nodes are not on this machine.
    nodes: Option<Vec<(u32, Usage)>>,
    ended: Usage,
}

impl Meter {
    /// Begins to measure these nodes and this process.
    pub fn start(nodes: Option<&[u32]>) -> Meter {
        let usage = |pid: &u32| Some((*pid, Usage::of(*pid)?));
        let nodes = nodes.and_then(|pids| pids.iter().map(usage).collect());
        Meter { client: Usage::of(std::process::id()), nodes, ended: Usage::default() }
    }

    /// This node is about to be killed: what it has used until now counts.
    pub fn node_ends(&mut self, pid: u32) {
        let Some(nodes) = &mut self.nodes else { return };
        if let Some(at) = nodes.iter().position(|(node, _)| *node == pid) {
            let (_, before) = nodes.swap_remove(at);
            let used = Usage::of(pid).unwrap_or(before).since(before);
            self.ended = self.ended.and(used);
        }
    }

    /// What was used.
    pub fn finish(self) -> Cost {
        let client_cpu = self
            .client
            .and_then(|before| Usage::of(std::process::id()).map(|usage| usage.since(before).cpu));
        let nodes = self.nodes.map(|nodes| {
            let used =
                nodes.iter().filter_map(|(pid, before)| Some(Usage::of(*pid)?.since(*before)));
            used.fold(self.ended, Usage::and)
        });
        Cost {
            client_cpu,
            node_cpu: nodes.map(|usage| usage.cpu),
            written_bytes: nodes.map(|usage| usage.written_bytes),
        }
    }
}

/// What a measured span took; `None` is what could not be seen from here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Processor time of this process.
    pub client_cpu: Option<Duration>,
    /// Processor time of all nodes.
    pub node_cpu: Option<Duration>,
    /// Written to devices by all nodes.
    pub written_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_brackets() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 9 0 5 6 7";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu(stat), Some(Duration::from_secs_f64(200.0 / ticks)));
        assert_eq!(cpu("7 (a) S 1"), None);
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let io = "rchar: 5\nwrite_bytes: 8192\ncancelled_write_bytes: 3\n";
        assert_eq!(field(io, "write_bytes:"), Some(8192));
        assert_eq!(field("VmRSS:\t  123 kB\n", "VmRSS:"), Some(123));
        assert_eq!(field(io, "VmRSS:"), None);
    }

    #[test]
    fn this_process_can_be_measured_and_one_that_is_not_cannot() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).is_some_and(|bytes| bytes > 100_000));
        assert!(resident_peak_bytes(pid) >= resident_bytes(pid));
        assert!(Meter::start(Some(&[std::process::id()])).finish().written_bytes.is_some());
        assert!(Meter::start(Some(&[u32::MAX])).finish().node_cpu.is_none());
        assert!(Meter::start(None).finish().node_cpu.is_none());
    }
}
