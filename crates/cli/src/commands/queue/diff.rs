//! What would change in a queue, or has: settings by the names of their options, in values that can be given to them.

use quorate_client::{QueueSettings, settings};
use serde_json::{Value, json};

/// A setting and its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the option.
    pub option: String,
    pub from: String,
    pub to: String,
}

impl Change {
    pub fn json(&self) -> Value {
        json!({ "setting": self.option, "from": self.from, "to": self.to })
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} → {}", self.option, self.from, self.to)
    }
}

/// The settings of these names, with their values before and after.
pub fn changes(names: &[String], before: &QueueSettings, after: &QueueSettings) -> Vec<Change> {
    let change = |name: &String| match settings::field(name) {
        Some(field) => Change {
            option: option(name),
            from: shown(name, &field.value(before)),
            to: shown(name, &field.value(after)),
        },
        // From a newer server.
        None => Change { option: option(name), from: "?".to_owned(), to: "?".to_owned() },
    };
    names.iter().map(change).collect()
}

/// The settings of these names, with their values.
pub fn values(names: &[&str], of: &QueueSettings) -> Vec<(String, String)> {
    let fields = names.iter().filter_map(|name| settings::field(name));
    fields.map(|field| (option(field.name), shown(field.name, &field.value(of)))).collect()
}

/// Name of the option that sets a field.
pub fn option(field: &str) -> String {
    field.trim_end_matches("_ms").replace('_', "-")
}

fn shown(field: &str, value: &str) -> String {
    if let Some(text) = value.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        return if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    }
    if field == "overflow" {
        // As the option has it.
        return if value == "2" { "drop-head" } else { "reject" }.to_owned();
    }
    let Ok(number) = value.parse::<u64>() else { return value.to_owned() };
    match number {
        0 => "none".to_owned(),
        _ if field.ends_with("_ms") => in_units(
            number,
            &[(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")],
        ),
        _ if field.ends_with("_bytes") => in_units(
            number,
            &[(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")],
        ),
        _ => value.to_owned(),
    }
}

/// In the largest unit that it is a whole number of.
fn in_units(number: u64, units: &[(u64, &str)]) -> String {
    let fits = units.iter().find(|(unit, _)| number.is_multiple_of(*unit));
    fits.map_or(number.to_string(), |(unit, name)| format!("{}{name}", number / unit))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{Args as _, Command};

    use super::*;
    use crate::commands::queue::create::Options;
    use crate::units;

    #[test]
    fn every_field_has_the_option_of_its_name_and_every_option_a_field() {
        let command = Options::augment_args(Command::new("queue"));
        let options: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
        let fields: Vec<_> = settings::FIELDS.iter().map(|field| option(field.name)).collect();
        for field in &fields {
            assert!(options.contains(&field.as_str()), "no option --{field}");
        }
        for option in options {
            assert!(fields.iter().any(|field| field == option), "no field of --{option}");
        }
    }

    #[test]
    fn values_are_exact_and_in_the_notation_that_options_take() {
        for (field, value, text) in [
            ("max_bytes", 10 << 30, "10GiB"),
            ("retain_bytes", (10 << 30) + 1, "10737418241"),
            ("max_messages", 1_000_000, "1000000"),
            ("max_messages", 0, "none"),
        ] {
            assert_eq!(shown(field, &u64::to_string(&value)), text);
            assert!(value == 0 || units::parse_bytes(text) == Ok(value));
        }
        for (value, text) in
            [(30_000, "30s"), (1_500, "1500ms"), (604_800_000, "7d"), (90_000, "90s")]
        {
            assert_eq!(shown("lease_ms", &u64::to_string(&value)), text);
            assert_eq!(units::parse_duration(text), Ok(Duration::from_millis(value)));
        }
    }
}
