//! The settings of a node: where each may come from, and which wins.
//!
//! ```text
//! default  <  --config FILE (TOML)  <  QUORATE_* variables  <  flags
//! ```
//! The sources are laid over one another as TOML tables and read into the broker's `Config` once, so every
//! setting the broker has is reachable from all of them without a list of fields here. An error names the
//! source it comes from.

use std::path::{Path, PathBuf};

use quorate_broker::Config;
use toml::{Table, Value};

use crate::exit::Exit;
use crate::failure::Failure;

/// Tables of the configuration file whose fields have variables: `QUORATE_RAFT_HEARTBEAT_MS`.
const SECTIONS: [&str; 4] = ["limits", "storage", "raft", "telemetry"];

/// OpenTelemetry's own variables for the collector's address, the more particular one last. Ours wins.
const COLLECTOR: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// What stands beside the file: variables as the process got them, and what the flags say.
#[derive(Debug, Default)]
pub struct Sources {
    /// The configuration file, if one is named.
    pub file: Option<PathBuf>,
    /// All environment variables; those of sections are picked out by name.
    pub variables: Vec<(String, String)>,
    /// `--set section.key=value`, in order.
    pub assignments: Vec<String>,
    /// Top-level settings from flags (or their variables, which the argument parser has resolved).
    pub flags: Table,
}

/// Lays the sources over one another and validates the result.
pub fn resolve(sources: Sources) -> Result<Config, Failure> {
    let mut table = match &sources.file {
        Some(path) => read_file(path)?,
        None => Table::new(),
    };
    for standard in COLLECTOR {
        let given = sources.variables.iter().find(|(name, _)| name == standard);
        // By their definition an empty one is as good as none.
        if let Some((_, endpoint)) = given.filter(|(_, value)| !value.is_empty()) {
            let endpoint = Value::String(endpoint.clone());
            table = overlay(table, nested("telemetry", "endpoint", endpoint));
        }
    }
    for (name, value) in &sources.variables {
        if let Some((section, key)) = section_variable(name) {
            let layer = nested(&section, &key, scalar(value));
            table = checked(overlay(table, layer), &format!("variable {name}"))?;
        }
    }
    for assignment in &sources.assignments {
        let layer = parse_assignment(assignment)?;
        table = checked(overlay(table, layer), &format!("--set {assignment}"))?;
    }
    let table = overlay(table, sources.flags);
    let config: Config = table.try_into().map_err(|error: toml::de::Error| {
        Failure::new(Exit::CannotStart, format!("command line: {}", one_line(error.message())))
    })?;
    config.validate().map_err(|error| {
        let place = sources.file.as_ref().map(|path| format!("{}: ", path.display()));
        Failure::new(Exit::CannotStart, format!("{}{error}", place.unwrap_or_default()))
            .reason("INVALID_CONFIGURATION")
    })?;
    Ok(config)
}

/// Reads the file by itself first, so that its errors carry its line.
fn read_file(path: &Path) -> Result<Table, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Exit::CannotStart, format!("read {}: {error}", path.display()))
            .cure("name an existing file with --config, or leave it out to run with the defaults")
    })?;
    let in_file = |error: toml::de::Error| {
        let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        let what = one_line(error.message());
        Failure::new(Exit::CannotStart, format!("{}{line}: {what}", path.display()))
            .reason("INVALID_CONFIGURATION")
            .cure("correct that line, or remove it to get the default")
    };
    toml::from_str::<Config>(&text).map_err(in_file)?;
    toml::from_str::<Table>(&text).map_err(in_file)
}

/// Reads the whole again after each layer: an unknown name is then reported with the layer that brought it.
fn checked(table: Table, source: &str) -> Result<Table, Failure> {
    match table.clone().try_into::<Config>() {
        Ok(_) => Ok(table),
        Err(error) => {
            Err(Failure::new(Exit::CannotStart, format!("{source}: {}", one_line(error.message())))
                .reason("INVALID_CONFIGURATION"))
        }
    }
}

/// `QUORATE_RAFT_HEARTBEAT_MS` is `heartbeat_ms` in `[raft]`.
fn section_variable(name: &str) -> Option<(String, String)> {
    let rest = name.strip_prefix("QUORATE_")?.to_ascii_lowercase();
    SECTIONS.iter().find_map(|section| {
        let key = rest.strip_prefix(section)?.strip_prefix('_')?;
        (!key.is_empty()).then(|| ((*section).to_owned(), key.to_owned()))
    })
}

fn parse_assignment(text: &str) -> Result<Table, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "--set {text}: write section.key=value, with a section of {SECTIONS:?}"
        ))
        .cure("--set raft.heartbeat_ms=250")
    };
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let (section, key) = name.trim().split_once('.').ok_or_else(wrong)?;
    if !SECTIONS.contains(&section) || key.is_empty() {
        return Err(wrong());
    }
    Ok(nested(section, key, scalar(value.trim())))
}

fn nested(section: &str, key: &str, value: Value) -> Table {
    let inner = Table::from_iter([(key.to_owned(), value)]);
    Table::from_iter([(section.to_owned(), Value::Table(inner))])
}

/// A number, a truth value, or else text.
fn scalar(text: &str) -> Value {
    if let Ok(number) = text.replace('_', "").parse::<i64>() {
        return Value::Integer(number);
    }
    if let Ok(number) = text.parse::<f64>() {
        return Value::Float(number);
    }
    match text {
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        other => Value::String(other.to_owned()),
    }
}

/// `upper` wins; tables are merged, everything else is replaced.
fn overlay(mut lower: Table, upper: Table) -> Table {
    for (key, value) in upper {
        let merged = match (lower.remove(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => Value::Table(overlay(below, above)),
            (_, value) => value,
        };
        lower.insert(key, merged);
    }
    lower
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("create a file");
        file.write_all(text.as_bytes()).expect("write the file");
        file
    }

    fn sources(file: Option<&tempfile::NamedTempFile>) -> Sources {
        Sources { file: file.map(|file| file.path().to_owned()), ..Sources::default() }
    }

    fn variable(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn flag_wins_over_variable_over_file_over_default() {
        let default = resolve(Sources::default()).expect("defaults are valid").raft.heartbeat_ms;
        let named = file("[raft]\nheartbeat_ms = 101\n");
        let mut all = sources(Some(&named));
        assert_ne!(default, 101);
        assert_eq!(resolve(all).expect("file").raft.heartbeat_ms, 101);

        all = sources(Some(&named));
        all.variables = vec![variable("QUORATE_RAFT_HEARTBEAT_MS", "102")];
        assert_eq!(resolve(all).expect("variable").raft.heartbeat_ms, 102);

        all = sources(Some(&named));
        all.variables = vec![variable("QUORATE_RAFT_HEARTBEAT_MS", "102")];
        all.assignments = vec!["raft.heartbeat_ms=103".to_owned()];
        assert_eq!(resolve(all).expect("flag").raft.heartbeat_ms, 103);
    }

    #[test]
    fn a_top_level_flag_wins_over_the_file_and_leaves_the_rest_of_it() {
        let named = file("zone = \"from-file\"\ndata = \"/from/file\"\n");
        let mut all = sources(Some(&named));
        all.flags.insert("zone".to_owned(), Value::String("from-flag".to_owned()));
        let config = resolve(all).expect("valid");
        assert_eq!(config.zone, "from-flag");
        assert_eq!(config.data, PathBuf::from("/from/file"));
    }

    #[test]
    fn an_unknown_setting_names_the_file_and_its_line() {
        let named = file("zone = \"a\"\n\nheart_beat = 5\n");
        let failure = resolve(sources(Some(&named))).expect_err("unknown setting");
        let text = failure.to_string();
        assert!(text.contains(&format!("{}:3", named.path().display())), "{text}");
        assert!(text.contains("heart_beat"), "{text}");
        assert_eq!(failure.exit(), Exit::CannotStart);
    }

    #[test]
    fn an_unknown_variable_of_a_section_is_named() {
        let variables = vec![variable("QUORATE_RAFT_HEART_BEAT", "5"), variable("PATH", "/bin")];
        let all = Sources { variables, ..Sources::default() };
        let text = resolve(all).expect_err("unknown variable").to_string();
        assert!(text.contains("QUORATE_RAFT_HEART_BEAT"), "{text}");
    }

    #[test]
    fn a_collector_may_be_named_by_the_standard_variable_and_ours_wins() {
        let named = file("[telemetry]\nendpoint = \"http://file:4317\"\n");
        let endpoint = |variables: &[(&str, &str)]| {
            let mut all = sources(Some(&named));
            all.variables = variables.iter().map(|(name, value)| variable(name, value)).collect();
            resolve(all).expect("valid").telemetry.endpoint
        };
        let ours = ("QUORATE_TELEMETRY_ENDPOINT", "");
        let any = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://any:4317");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317");
        assert_eq!(endpoint(&[]), "http://file:4317");
        assert_eq!(endpoint(&[(any.0, "")]), "http://file:4317");
        assert_eq!(endpoint(&[any]), "http://any:4317");
        assert_eq!(endpoint(&[traces, any]), "http://traces:4317");
        assert_eq!(endpoint(&[ours, traces, any]), "");

        let mut all = sources(None);
        all.variables = vec![variable(any.0, "http://any:4318/v1/traces")];
        let text = resolve(all).expect_err("no address").to_string();
        assert!(text.contains("telemetry.endpoint") && text.contains(any.0), "{text}");
    }

    #[test]
    fn a_missing_file_is_named_with_a_cure() {
        let all = Sources { file: Some("/no/such/quorate.toml".into()), ..Sources::default() };
        let text = resolve(all).expect_err("missing file").to_string();
        assert!(text.contains("/no/such/quorate.toml") && text.contains("try:"), "{text}");
    }

    #[test]
    fn an_assignment_needs_a_section_and_a_value() {
        for wrong in ["heartbeat_ms=1", "raft.heartbeat_ms", "zone.x=1", "raft.=1"] {
            let failure = parse_assignment(wrong).expect_err(wrong);
            assert_eq!(failure.exit(), Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn variables_of_commands_are_no_settings() {
        for other in ["QUORATE_SERVER", "QUORATE_DATA", "QUORATE_RAFT_", "RAFT_HEARTBEAT_MS"] {
            assert_eq!(section_variable(other), None, "{other}");
        }
    }

    /// The example for deployments, with its defaults no longer commented out.
    fn example() -> String {
        let text = include_str!("../../../deploy/quorate.toml");
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(char::is_alphabetic) => setting,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_file_shows_the_defaults() {
        let shown: Config = toml::from_str(&example()).expect("the example is valid");
        assert_eq!(format!("{shown:#?}"), format!("{:#?}", Config::default()));
    }

    #[test]
    fn the_example_file_shows_every_setting() {
        let example = example();
        let all = format!("{:#?}", Config::default());
        // The last field is none of a file.
        let (settings, _) = all.split_once("volumes: ").expect("the field");
        let names =
            settings.lines().filter_map(|line| line.trim().split_once(':')).map(|(name, _)| name);
        for name in names {
            let shown = [format!("{name} ="), format!("# {name} ="), format!("[{name}]")];
            assert!(
                example.lines().any(|line| shown.iter().any(|form| line.starts_with(form))),
                "deploy/quorate.toml does not show {name}"
            );
        }
    }
}
