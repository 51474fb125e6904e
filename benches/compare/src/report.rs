//! Medians over rounds, and how they are shown.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::scenario::{Metric, Scenario};
use crate::system::Kind;

/// One system's runs of a scenario.
#[derive(Debug)]
pub struct Row {
    pub kind: Kind,
    pub runs: Vec<Result<Vec<Metric>, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Summary {
    median: f64,
    least: f64,
    most: f64,
}

impl Row {
    /// `None` unless a run has succeeded and measured it.
    fn summary(&self, name: &str) -> Option<Summary> {
        let runs = self.runs.iter().filter_map(|run| run.as_ref().ok());
        let mut values: Vec<f64> = runs
            .filter_map(|metrics| metrics.iter().find(|metric| metric.name == name))
            .map(|metric| metric.value)
            .collect();
        values.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Summary { median, least, most })
    }

    fn failures(&self) -> Vec<&str> {
        self.runs.iter().filter_map(|run| run.as_ref().err()).map(String::as_str).collect()
    }
}

/// Names of what was measured, in order.
fn metrics(rows: &[Row]) -> Vec<&'static str> {
    let mut names = Vec::new();
    let runs = rows.iter().flat_map(|row| row.runs.iter().flatten());
    for metric in runs.flatten() {
        if !names.contains(&metric.name) {
            names.push(metric.name);
        }
    }
    names
}

fn ratio(rows: &[Row], row: &Row, name: &str) -> Option<f64> {
    let ours = rows.iter().find(|row| row.kind == Kind::Quorate)?.summary(name)?.median;
    let theirs = row.summary(name)?.median;
    (row.kind != Kind::Quorate && theirs != 0.0 && name != "queues").then(|| ours / theirs)
}

/// A table: one line a system, one column a metric; `(x2.5)` is Quorate's value divided by this one.
pub fn table(scenario: &Scenario, rows: &[Row], disk: &[(f64, f64)]) -> String {
    let names = metrics(rows);
    let mut lines = vec![vec!["system".to_owned()]];
    lines[0].extend(names.iter().map(|name| (*name).to_owned()));
    lines[0].push("confirmed when".to_owned());
    for row in rows {
        let mut line = vec![row.kind.name().to_owned()];
        line.extend(names.iter().map(|name| cell(rows, row, name)));
        let mut last = row.kind.confirms_when().to_owned();
        if let Some(failure) = row.failures().first() {
            let of = row.runs.len();
            last = format!("failed: {failure} ({} of {of} runs)", row.failures().len());
        }
        line.push(last);
        lines.push(line);
    }
    let mut out = format!("\n{}: {}\n", scenario.name, scenario.about);
    let columns = lines[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    let probes: Vec<String> =
        disk.iter().map(|(p50, p99)| format!("{p50:.2} / {p99:.2}")).collect();
    let _ = writeln!(out, "disk, 4 KB append + fdatasync, p50 / p99 ms: {}", probes.join(", "));
    out
}

fn cell(rows: &[Row], row: &Row, name: &str) -> String {
    let Some(Summary { median, least, most }) = row.summary(name) else {
        return "-".to_owned();
    };
    let mut text = number(median);
    if row.runs.len() > 1 && number(least) != number(most) {
        let _ = write!(text, " [{}-{}]", number(least), number(most));
    }
    if let Some(ratio) = ratio(rows, row, name) {
        let _ = write!(text, " (x{})", number(ratio));
    }
    text
}

/// Three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// One line of JSON a system.
pub fn json(scenario: &Scenario, rows: &[Row], disk: &[(f64, f64)]) -> Vec<Value> {
    let names = metrics(rows);
    let line = |row: &Row| {
        let measured = names.iter().filter_map(|name| {
            let Summary { median, least, most } = row.summary(name)?;
            let ratio = ratio(rows, row, name);
            let value = json!({ "median": median, "min": least, "max": most,
                "quorate_ratio": ratio });
            Some(((*name).to_owned(), value))
        });
        json!({
            "scenario": scenario.name, "about": scenario.about, "system": row.kind.name(),
            "confirmed_when": row.kind.confirms_when(), "runs": row.runs.len(),
            "failures": row.failures(), "metrics": measured.collect::<serde_json::Map<_, _>>(),
            "disk_ms": disk.iter().map(|(p50, p99)| json!({ "p50": p50, "p99": p99 }))
                .collect::<Vec<_>>(),
        })
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: Kind, values: &[f64]) -> Row {
        let run = |value: &f64| Ok(vec![Metric { name: "k msg/s", value: *value }]);
        Row { kind, runs: values.iter().map(run).collect() }
    }

    #[test]
    fn medians_and_ratios() {
        let rows = [row(Kind::Quorate, &[90.0, 30.0, 60.0]), row(Kind::Jetstream, &[20.0, 40.0])];
        let summary = rows[1].summary("k msg/s");
        assert_eq!(summary, Some(Summary { median: 30.0, least: 20.0, most: 40.0 }));
        assert_eq!(ratio(&rows, &rows[1], "k msg/s"), Some(2.0));
        assert_eq!(ratio(&rows, &rows[0], "k msg/s"), None);
        assert_eq!(cell(&rows, &rows[1], "k msg/s"), "30.0 [20.0-40.0] (x2.00)");
    }

    #[test]
    fn a_failed_run_is_told_and_the_others_count() {
        let mut failing = row(Kind::Rabbitmq, &[5.0]);
        failing.runs.push(Err("start: no".to_owned()));
        let text = table(&crate::scenario::ALL[0], &[failing], &[(0.3, 0.4)]);
        assert!(text.contains("failed: start: no (1 of 2 runs)"), "{text}");
        assert!(text.contains("5.00"), "{text}");
    }
}
