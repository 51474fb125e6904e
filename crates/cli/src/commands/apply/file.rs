//! The file that says what queues there are to be.
//!
//! ```toml
//! [queue.orders]
//! replicas = 3
//! max-bytes = "10GiB"
//! lease = "1m"
//! ```
//!
//! A table for each queue; its keys are the options of `quorate queue create`, its values what those take. Each is
//! given to the parser of the options, so what the command line knows the file knows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use toml::de::{DeTable, DeValue};

use crate::commands::queue::create::{Options, Sharding};
use crate::exit::Exit;
use crate::failure::Failure;

/// What is said of each queue, by its name.
pub type Queues = BTreeMap<String, Wanted>;

/// What is said of a queue.
#[derive(Debug, Default)]
pub struct Wanted {
    pub options: Options,
    /// Into how many shards it is divided.
    pub shards: Option<u32>,
}

/// Options of one queue, without a command before them.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Parsed {
    #[command(flatten)]
    sharding: Sharding,
    #[command(flatten)]
    options: Options,
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Queues, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Failed, format!("read {}: {error}", path.display())))?;
    parse(&text, &path.display().to_string())
}

/// A mistake, and where it is.
struct Mistake {
    at: Range<usize>,
    what: String,
    cure: Option<String>,
}

fn mistake(at: Range<usize>, what: impl Into<String>) -> Mistake {
    Mistake { at, what: what.into(), cure: None }
}

fn parse(text: &str, name: &str) -> Result<Queues, Failure> {
    queues_of(text).map_err(|Mistake { at, what, cure }| {
        let line = 1 + text[..at.start.min(text.len())].matches('\n').count();
        let failure = Failure::usage(format!("{name}:{line}: {what}"));
        failure.cure(cure.unwrap_or_else(|| "correct that line; nothing was changed".to_owned()))
    })
}

fn queues_of(text: &str) -> Result<Queues, Mistake> {
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().unwrap_or_default();
        mistake(at, error.message().lines().collect::<Vec<_>>().join(" "))
    })?;
    let mut queues = Queues::new();
    for (key, value) in document.get_ref().iter() {
        let tables = match value.get_ref() {
            DeValue::Table(tables) if key.get_ref() == "queue" => tables,
            _ => {
                let what = format!("`{}` is not known", key.get_ref());
                let cure = Some("each queue has a table [queue.NAME]".to_owned());
                return Err(Mistake { cure, ..mistake(key.span(), what) });
            }
        };
        for (queue, settings) in tables.iter() {
            let DeValue::Table(settings) = settings.get_ref() else {
                let what = format!("`{}` is no table", queue.get_ref());
                let cure = Some("each queue has a table [queue.NAME]".to_owned());
                return Err(Mistake { cure, ..mistake(queue.span(), what) });
            };
            queues.insert(queue.get_ref().to_string(), options_of(settings)?);
        }
    }
    Ok(queues)
}

fn options_of(settings: &DeTable) -> Result<Wanted, Mistake> {
    let mut arguments = Vec::new();
    for (key, value) in settings.iter() {
        let Some(text) = text_of(value.get_ref()) else {
            let what = format!("`{}` is a text, a whole number, true or false", key.get_ref());
            return Err(mistake(value.span(), what));
        };
        let argument = format!("--{}={text}", key.get_ref());
        // One by one, so that a mistake has its line.
        if let Err(error) = Parsed::try_parse_from([&argument]) {
            return Err(explained(&error, key.get_ref(), key.span()));
        }
        arguments.push(argument);
    }
    let parsed = Parsed::try_parse_from(&arguments);
    let parsed = parsed.map_err(|error| explained(&error, "queue", 0..0))?;
    Ok(Wanted { options: parsed.options, shards: parsed.sharding.shards })
}

/// A value as it would be written on the command line.
fn text_of(value: &DeValue) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(number.to_string())
        }
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// What the parser of the options says, in words of the file.
fn explained(error: &clap::Error, key: &str, at: Range<usize>) -> Mistake {
    if error.kind() != ErrorKind::UnknownArgument {
        let text = error.to_string();
        let why = text.lines().next().unwrap_or_default();
        let why = why.trim_start_matches("error: ");
        return mistake(at, format!("`{key}`: {why}"));
    }
    let similar = match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(similar)) => Some(similar.clone()),
        Some(ContextValue::Strings(similar)) => similar.first().cloned(),
        _ => None,
    };
    let cure = match similar {
        Some(similar) => format!("did you mean `{}`?", similar.trim_start_matches('-')),
        None => "`quorate queue create --help` shows the settings; leave out the --".to_owned(),
    };
    Mistake { cure: Some(cure), ..mistake(at, format!("`{key}` is no setting of a queue")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text, "queues.toml").expect_err(text).to_string()
    }

    #[test]
    fn settings_have_the_names_and_units_of_the_options() {
        let text = "[queue.orders]\nreplicas = 3\nmax-bytes = \"10GiB\"\nlease = \"1m\"\n\n[queue.'mail.eu']\nshards = 4\n";
        let queues = parse(text, "queues.toml").expect("good");
        assert_eq!(queues.keys().collect::<Vec<_>>(), ["mail.eu", "orders"]);
        let settings = queues["orders"].options.settings().expect("good");
        assert_eq!(
            (settings.replicas, settings.max_bytes, settings.lease_ms),
            (3, 10 << 30, 60_000)
        );
        assert_eq!(queues["orders"].options.fields(), ["replicas", "max_bytes", "lease_ms"]);
        assert_eq!((queues["orders"].shards, queues["mail.eu"].shards), (None, Some(4)));
        assert!(queues["mail.eu"].options.fields().is_empty());
        assert!(parse("", "queues.toml").expect("nothing is good").is_empty());
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_was_meant() {
        let typo = refused("[queue.orders]\n\nmax-byte = 5\n");
        assert!(typo.contains("queues.toml:3: `max-byte` is no setting"), "{typo}");
        assert!(typo.contains("did you mean `max-bytes`?"), "{typo}");
        let unit = refused("[queue.orders]\nreplicas = 1\nlease = \"5 parsecs\"\n");
        assert!(unit.contains("queues.toml:3: `lease`") && unit.contains("time span"), "{unit}");
        let table = refused("[queues.orders]\n");
        assert!(table.contains("queues.toml:1: `queues` is not known"), "{table}");
        assert!(table.contains("[queue.NAME]"), "{table}");
        let shape = refused("[queue]\norders = 5\n");
        assert!(shape.contains("queues.toml:2: `orders` is no table"), "{shape}");
        let value = refused("[queue.orders]\nreplicas = [3]\n");
        assert!(value.contains("queues.toml:2:"), "{value}");
        let twice = refused("[queue.orders]\nreplicas = 3\nreplicas = 5\n");
        assert!(twice.contains("queues.toml:3:"), "{twice}");
        let syntax = refused("[queue.orders\n");
        assert!(syntax.contains("queues.toml:1:"), "{syntax}");
    }
}
