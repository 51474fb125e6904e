//! `quorate bench`: each scenario runs to its end and gives its figures; nothing stays behind, also when it fails.
//!
//! Figures depend on the machine, so they are only compared with what no machine could contradict.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate_tests::process::{Ended, Server, run};
use quorate_tests::{Cluster, turn};
use serde_json::Value;
use tempfile::TempDir;

use crate::{HEAVY, LIGHT, SOON};

/// Runs a scenario on a cluster of its own; returns the object on the last line.
async fn bench(args: &[&str]) -> Value {
    let directory = tempfile::tempdir().expect("a directory");
    let data = path(directory.path());
    let args = [&["bench"], args, &["--data", &data, "--output", "json"]].concat();
    let report = report(&run(&args, HEAVY).await);
    assert_eq!(report["scenario"], args[1], "{report}");
    assert!(is_empty(directory.path()), "data was left behind");
    report
}

fn report(ended: &Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    let last = ended.out.lines().last().expect("a line");
    println!("{last}");
    serde_json::from_str(last).expect("JSON")
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("list").next().is_none()
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {report}"))
}

fn assert_positive(report: &Value, fields: &[&str]) {
    for field in fields {
        assert!(number(report, field) > 0.0, "{field} in {report}");
    }
}

/// What every scenario with a cluster of its own tells.
fn assert_disk_and_memory(report: &Value) {
    for probe in ["raw_disk_us", "raw_disk_log_us"] {
        assert!(report[probe]["p50"].as_u64() <= report[probe]["p99"].as_u64(), "{report}");
    }
    assert_positive(report, &["rss_mb"]);
    assert!(report["rss_mb_by_node"].as_object().is_some_and(|nodes| nodes.len() >= 2), "{report}");
}

/// What every scenario with a load tells.
fn assert_load(report: &Value) {
    assert_disk_and_memory(report);
    assert_positive(report, &["messages_per_s", "node_cpu_s_per_million"]);
    let latency = ["p50", "p99", "p999", "max"].map(|name| report["latency_us"][name].as_u64());
    assert!(latency[0] > Some(0) && latency.is_sorted(), "{report}");
    // Each of three replicas has it on disk.
    assert!(number(report, "disk_bytes_per_payload_byte") > 0.0, "{report}");
}

#[test]
fn bench_publish_measures_a_closed_loop_and_draws_it() {
    turn::alone(HEAVY, async {
        let directory = tempfile::tempdir().expect("a directory");
        let svg = directory.path().join("latency.svg");
        let args =
            ["publish", "--seconds", "1", "--producers", "4", "--queues", "2", "--size", "2k"];
        let report = bench(&[&args[..], &["--plot", &path(&svg)]].concat()).await;
        assert_load(&report);
        assert_eq!((&report["queues"], &report["size"]), (&2.into(), &2048.into()));
        let svg = fs::read_to_string(svg).expect("the picture");
        assert!(svg.starts_with("<svg") && svg.contains("p99"), "{svg}");
    });
}

#[test]
fn bench_latency_measures_an_open_loop_and_one_in_flight() {
    turn::alone(HEAVY, async {
        let report = bench(&["latency", "--rate", "200", "--seconds", "1"]).await;
        assert_load(&report);
        assert!(number(&report, "messages_per_s") <= 200.5, "{report}");
        assert_load(&bench(&["latency", "--rate", "0", "--seconds", "1"]).await);
    });
}

#[test]
fn bench_e2e_measures_delivery_at_a_rate_and_at_full_speed() {
    turn::alone(HEAVY, async {
        let report = bench(&["e2e", "--rate", "200", "--seconds", "1", "--consumers", "2"]).await;
        assert_load(&report);
        assert!(number(&report, "messages_per_s") <= 200.5, "{report}");
        let report = bench(&["e2e", "--rate", "0", "--seconds", "1", "--producers", "2"]).await;
        assert_load(&report);
    });
}

#[test]
fn bench_backlog_is_published_survives_a_restart_and_drains() {
    turn::alone(HEAVY, async {
        let report = bench(&["backlog", "--messages", "5000", "--restart"]).await;
        assert_disk_and_memory(&report);
        assert_positive(&report, &["messages_per_s", "publish_per_s", "restart_s"]);
        assert_positive(&report, &["publish_last_per_s", "drain_first_per_s"]);
        assert!(number(&report, "restart_serves_s") <= number(&report, "restart_s"), "{report}");
        assert!(number(&report, "disk_bytes_per_payload_byte") >= 1.0, "{report}");
    });
}

#[test]
fn bench_later_tells_memory_and_lateness_and_that_nothing_came_early() {
    turn::alone(HEAVY, async {
        let times = ["--after", "10s", "--over", "2s"];
        for more in [&[][..], &["--shuffled"], &["--memory-only"]] {
            let report = bench(&[&["later", "--messages", "500"], &times[..], more].concat()).await;
            assert_disk_and_memory(&report);
            assert_positive(&report, &["publish_per_s"]);
            let waits = more != ["--memory-only"];
            assert_eq!(report.get("late_us").is_some(), waits, "{report}");
            assert!(!waits || number(&report, "within_20_ms") <= 1.0, "{report}");
        }
    });
}

#[test]
fn bench_later_that_is_not_published_in_time_says_what_to_change() {
    turn::alone(HEAVY, async {
        let directory = tempfile::tempdir().expect("a directory");
        let data = path(directory.path());
        let args = ["bench", "later", "--after", "1ms", "--data", &data];
        run(&args, HEAVY).await.refused_with(1, &["publishing took", "--after with more time"]);
    });
}

#[test]
fn bench_disturb_measures_before_during_and_after_each_fault() {
    turn::alone(HEAVY, async {
        for fault in ["slow-consumer", "paused-follower", "full-follower", "stopped-follower"] {
            let args = ["disturb", "--rounds", "1", "--seconds", "1", "--rate", "200"];
            let report =
                bench(&[&args[..], &["--missed", "2000", "--fault", fault]].concat()).await;
            assert_disk_and_memory(&report);
            assert_positive(&report, &["disturbed_p99_ratio", "recovering_p99_ratio"]);
            for phase in ["undisturbed_us", "disturbed_us", "recovering_us"] {
                assert!(report[phase]["p50"].as_u64() > Some(0), "{phase} in {report}");
            }
            let catches_up = report["caught_up_s"].as_f64().is_some_and(|seconds| seconds > 0.0);
            assert_eq!(catches_up, fault != "slow-consumer", "{report}");
        }
    });
}

#[test]
fn bench_failover_loses_and_doubles_nothing_whatever_the_fault() {
    turn::alone(HEAVY, async {
        for (fault, client_on) in [("kill", "leader"), ("stop", "survivor")] {
            let args = ["failover", "--rate", "200", "--seconds", "2"];
            let how = ["--fault", fault, "--client-on", client_on];
            let report = bench(&[&args[..], &how].concat()).await;
            assert_load(&report);
            assert_eq!(
                (&report["lost"], &report["duplicates"]),
                (&0.into(), &0.into()),
                "{report}"
            );
            assert_eq!(report["confirmed"], 600, "{report}");
            assert_positive(&report, &["longest_gap_ms"]);
            // A message that is due once the stall has begun waits for less: two come each 10 ms.
            let worst = number(&report["latency_us"], "max") / 1000.0 * 1.1 + 10.0;
            assert!(worst > number(&report, "longest_gap_ms"), "stalls count: {report}");
        }
    });
}

#[test]
fn bench_idle_restarts_with_all_queues() {
    turn::alone(HEAVY, async {
        let report = bench(&["idle", "--queues", "10", "--seconds", "1"]).await;
        assert_disk_and_memory(&report);
        assert_positive(&report, &["creation_s", "restart_s", "restart_all_led_s"]);
        assert!(number(&report, "cpu_percent") >= 0.0, "{report}");
    });
}

#[test]
fn bench_startup_starts_new_and_again() {
    turn::alone(HEAVY, async {
        let report = bench(&["startup", "--runs", "2", "--messages", "1000"]).await;
        assert_disk_and_memory(&report);
        assert_positive(&report, &["start_s", "restart_s"]);
        assert_eq!(report["start_s_runs"].as_array().map(Vec::len), Some(2), "{report}");
    });
}

#[test]
fn bench_on_a_running_cluster_leaves_it_as_it_was() {
    turn::alone(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue("orders").await;
        let servers = cluster.addresses().join(",");
        let common = ["--connect", "--server", &servers, "--output", "json"];
        for args in [
            &["publish", "--seconds", "1"][..],
            &["backlog", "--messages", "1000"],
            &["idle", "--queues", "3", "--seconds", "1"],
        ] {
            let report = report(&run(&[&["bench"], args, &common].concat(), HEAVY).await);
            assert_positive(&report, &["rss_mb"]);
            assert!(report.get("restart_s").is_none(), "{report}");
        }
        let left = client.list_queues().await.expect("list queues");
        let names: Vec<&str> = left.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["orders"]);
    });
}

#[test]
fn bench_tells_what_it_cannot_do() {
    turn::beside_others(LIGHT, async {
        for (args, words) in [
            (&["publish", "--queues", "9", "--producers", "8"][..], "9 queues for 8 producers"),
            (&["publish", "--size", "5"], "16 bytes"),
            (&["publish", "--plot", "/no/such/directory/x.svg"], "--plot"),
            (&["failover", "--connect"], "--connect"),
            (&["backlog", "--restart", "--connect"], "--connect"),
            (&["startup", "--runs", "0"], "--runs"),
        ] {
            run(&[&["bench"], args].concat(), SOON).await.refused_with(2, &[words]);
        }
        let args = ["bench", "publish", "--connect", "--server", "127.0.0.1:1"];
        run(&args, SOON).await.refused_with(4, &["could not be reached"]);
    });
}

/// A long run on a cluster of its own, once its nodes are under load.
struct Running {
    program: Server,
    directory: TempDir,
    log: TempDir,
    nodes: Vec<u32>,
}

impl Running {
    async fn start() -> Self {
        let (directory, log) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir());
        let log = log.expect("a directory");
        let data = path(directory.path());
        let args = ["publish", "--seconds", "600", "--data", &data].map(str::to_owned);
        let program = Server::start_command("bench", &args, &log.path().join("log"));
        let begun = Instant::now();
        let mut running = Self { program, directory, log, nodes: Vec::new() };
        while running.nodes.len() < 3 && begun.elapsed() < SOON {
            tokio::time::sleep(Duration::from_millis(100)).await;
            running.nodes = processes_with(&data, running.program.id());
        }
        assert_eq!(running.nodes.len(), 3, "{}", running.said());
        running
    }

    async fn ended(&mut self) -> Option<i32> {
        let status = self.program.ended_within(SOON).await;
        status.unwrap_or_else(|| panic!("it goes on:\n{}", self.said())).code()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).unwrap_or_default()
    }

    fn assert_no_node_is_left(&self) {
        let left = processes_with(&path(self.directory.path()), self.program.id());
        assert!(left.is_empty(), "{left:?} are left");
    }
}

/// Processes with this text in their arguments, without the one given.
fn processes_with(text: &str, without: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("list processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(text)
    };
    pids.filter(|pid| *pid != without).filter(has).collect()
}

#[test]
fn bench_whose_node_dies_says_so_and_stops_the_others() {
    turn::alone(HEAVY, async {
        let mut running = Running::start().await;
        // Under load: founding is over.
        tokio::time::sleep(Duration::from_secs(3)).await;
        quorate_tests::process::kill9(running.nodes[0]);
        assert_eq!(running.ended().await, Some(1), "{}", running.said());
        let said = running.said();
        assert!(said.contains("was killed (signal 9)") && said.contains("are kept in"), "{said}");
        running.assert_no_node_is_left();
    });
}

#[test]
fn bench_that_is_interrupted_leaves_nothing() {
    turn::alone(HEAVY, async {
        let mut running = Running::start().await;
        running.program.terminate();
        assert_eq!(running.ended().await, Some(1), "{}", running.said());
        assert!(running.said().contains("interrupted"), "{}", running.said());
        running.assert_no_node_is_left();
        assert!(is_empty(running.directory.path()), "data was left behind");
    });
}
