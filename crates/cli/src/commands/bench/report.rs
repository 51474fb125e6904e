//! The figures of a run: facts for people, one JSON object for programs, filled side by side so that neither
//! has what the other lacks.

use std::io::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::args::Format;
use crate::commands::bench::probe::Probe;
use crate::commands::bench::stage::Stage;
use crate::commands::bench::usage::Cost;
use crate::failure::Failure;
use crate::table::Facts;
use crate::units;

/// What is shown for a figure that cannot be had.
const NOT_HERE: &str = "unknown: the nodes are not on this machine";

/// A report under way.
#[derive(Debug, Default)]
pub struct Report {
    facts: Facts,
    object: Map<String, Value>,
}

impl Report {
    /// A report of this scenario.
    pub fn new(scenario: &str) -> Report {
        let mut report = Report::default();
        report.figure("scenario", "scenario", scenario, scenario);
        report
    }

    /// A figure: its name and value in the object, its label and text in the table.
    pub fn figure(
        &mut self,
        name: &str,
        label: &str,
        value: impl Into<Value>,
        text: impl Into<String>,
    ) {
        self.object.insert(name.to_owned(), value.into());
        self.facts.fact(label, text);
    }

    /// What only the object has: details that would crowd the table.
    pub fn hidden(&mut self, name: &str, value: Value) {
        self.object.insert(name.to_owned(), value);
    }

    /// A parameter that is a count.
    pub fn count(&mut self, name: &str, value: u64) {
        self.figure(name, &name.replace('_', " "), value, units::count(value));
    }

    /// Size of a body.
    pub fn size(&mut self, bytes: u64) {
        self.figure("size", "size", bytes, units::bytes(bytes));
    }

    /// A time in seconds.
    pub fn seconds(&mut self, name: &str, label: &str, value: Duration) {
        self.figure(name, label, round(value.as_secs_f64()), units::duration(value));
    }

    /// Messages by the time they took.
    pub fn rate(&mut self, name: &str, label: &str, messages: u64, took: Duration) {
        let rate = messages as f64 / took.as_secs_f64().max(1e-9);
        self.figure(name, label, round(rate), units::count(rate as u64));
    }

    /// Percentiles of latencies in microseconds.
    pub fn latency(&mut self, latency_us: &Histogram<u64>) {
        self.latency_of("latency_us", "latency", latency_us);
    }

    /// Percentiles of latencies in microseconds, one set of several.
    pub fn latency_of(&mut self, name: &str, label: &str, latency_us: &Histogram<u64>) {
        let at = |quantile| latency_us.value_at_quantile(quantile);
        let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), latency_us.max());
        let value = json!({ "p50": p50, "p99": p99, "p999": p999, "max": max });
        let [p50, p99, p999, max] = [p50, p99, p999, max].map(micros);
        let text = format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}");
        self.figure(name, label, value, text);
    }

    /// Processor time and bytes for this many messages of this size.
    pub fn cost(&mut self, cost: &Cost, messages: u64, size: u64) {
        let millions = messages.max(1) as f64 / 1e6;
        let mut cpu = |name: &str, label: &str, used: Option<Duration>| {
            let seconds = used.map(|used| used.as_secs_f64() / millions);
            let text = seconds.map(|seconds| format!("{seconds:.1} s a million messages"));
            self.optional(name, label, seconds, text);
        };
        cpu("node_cpu_s_per_million", "node CPU", cost.node_cpu);
        cpu("client_cpu_s_per_million", "client CPU", cost.client_cpu);
        let payload = (messages * size).max(1) as f64;
        let written = cost.written_bytes.map(|bytes| bytes as f64 / payload);
        let text = written.map(|ratio| format!("{ratio:.2} bytes a byte of payload, all nodes"));
        self.optional("disk_bytes_per_payload_byte", "written", written, text);
    }

    /// Resident memory of the nodes, as it is now.
    pub fn resident(&mut self, stage: &Stage) {
        self.memory(["rss_mb", "rss_mb_by_node"], "resident", stage.resident_bytes());
    }

    /// The most of it since the nodes began.
    pub fn resident_at_most(&mut self, stage: &Stage) {
        let names = ["rss_peak_mb", "rss_peak_mb_by_node"];
        self.memory(names, "resident at most", stage.resident_peak_bytes());
    }

    fn memory(&mut self, names: [&str; 2], label: &str, nodes: Option<Vec<(u64, u64)>>) {
        let sum: Option<u64> =
            nodes.as_ref().map(|nodes| nodes.iter().map(|(_, bytes)| bytes).sum());
        let text = nodes.as_ref().map(|nodes| {
            let each: Vec<String> = nodes.iter().map(|(_, bytes)| units::bytes(*bytes)).collect();
            format!("{} ({})", units::bytes(sum.unwrap_or_default()), each.join(", "))
        });
        self.optional(names[0], label, sum.map(megabytes), text);
        if let Some(nodes) = nodes {
            let nodes =
                nodes.into_iter().map(|(id, bytes)| (id.to_string(), json!(megabytes(bytes))));
            self.hidden(names[1], Value::Object(nodes.collect()));
        }
    }

    /// What the disk alone takes, if it was measured.
    pub fn disk(&mut self, probe: Option<&Probe>) {
        let Some(probe) = probe else { return };
        let both = [
            ("raw_disk_us", "disk, append + sync", &probe.appended_us),
            ("raw_disk_log_us", "disk, as the log", &probe.logged_us),
        ];
        for (name, label, took_us) in both {
            let (p50, p99) = (took_us.value_at_quantile(0.5), took_us.value_at_quantile(0.99));
            let text = format!("4 KiB: p50 {}, p99 {}", micros(p50), micros(p99));
            self.figure(name, label, json!({ "p50": p50, "p99": p99 }), text);
        }
    }

    /// A figure that may be missing: `null`, and the table says why.
    pub fn optional(&mut self, name: &str, label: &str, value: Option<f64>, text: Option<String>) {
        let text = text.unwrap_or_else(|| NOT_HERE.to_owned());
        self.figure(name, label, value.map(round), text);
    }

    /// Prints it; the object is one line.
    pub fn print(&self, output: Format) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match output {
            Format::Table => write!(out, "{}", self.facts)?,
            Format::Json => writeln!(out, "{}", Value::Object(self.object.clone()))?,
        }
        Ok(())
    }
}

fn micros(value: u64) -> String {
    units::duration(Duration::from_micros(value))
}

fn megabytes(bytes: u64) -> f64 {
    round(bytes as f64 / 1e6)
}

/// Three places are more than any figure here is good for.
pub fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::record;

    #[test]
    fn percentiles_are_those_of_the_histogram() {
        let mut latency_us = record::histogram();
        (1..=1000).for_each(|value| latency_us.record(value).expect("in range"));
        let mut report = Report::new("publish");
        report.latency(&latency_us);
        assert_eq!(
            report.object["latency_us"],
            json!({ "p50": 500, "p99": 990, "p999": 999, "max": 1000 })
        );
        assert_eq!(report.object["scenario"], "publish");
    }

    #[test]
    fn costs_are_by_the_million_and_by_the_byte() {
        let cost = Cost {
            client_cpu: Some(Duration::from_secs(1)),
            node_cpu: Some(Duration::from_secs(3)),
            written_bytes: Some(1_600_000_000),
        };
        let mut report = Report::new("publish");
        report.cost(&cost, 500_000, 1000);
        assert_eq!(report.object["node_cpu_s_per_million"], 6.0);
        assert_eq!(report.object["client_cpu_s_per_million"], 2.0);
        assert_eq!(report.object["disk_bytes_per_payload_byte"], 3.2);
    }

    #[test]
    fn what_cannot_be_seen_is_null_and_said_to_be() {
        let mut report = Report::new("publish");
        report.cost(&Cost::default(), 500_000, 1000);
        assert!(report.object["node_cpu_s_per_million"].is_null());
        assert!(report.facts.to_string().contains(NOT_HERE));
    }
}
