//! The node's own log: lines on standard error, for people or for programs.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Starts logging; `level` is a level (`info`) or a filter by module (`info,quorate_broker=debug`).
pub fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter_of(level)).map_err(|error| {
        Failure::usage(format!("--log-level {level}: {error}"))
            .cure("error, warn, info, debug, trace, or a filter like info,quorate_broker=debug")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            builder.with_ansi(std::io::stderr().is_terminal()).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Crates below us that tell at `info`, and in each failover at `warn`, what only helps at `debug`.
const CHATTY: [&str; 6] = ["openraft", "h2", "hyper", "hyper_util", "tonic", "tower"];

/// A bare level means ours: what lies below is quieter. A filter is taken as it is.
fn filter_of(level: &str) -> String {
    let quieter = match level {
        "info" => "error",
        "debug" => "info",
        "trace" => "debug",
        _ => return level.to_owned(),
    };
    let below = CHATTY.iter().map(|name| format!(",{name}={quieter}"));
    std::iter::once(level.to_owned()).chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_quietens_what_lies_below() {
        assert!(filter_of("info").starts_with("info,openraft=error,"));
        assert_eq!(filter_of("error"), "error");
        assert_eq!(filter_of("warn,quorate_broker=trace"), "warn,quorate_broker=trace");
        assert!(EnvFilter::try_new(filter_of("trace")).is_ok());
    }
}
