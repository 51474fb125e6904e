//! `quorate queue peek NAME`: a page of messages, nothing taken.

use std::io::Write;
use std::time::SystemTime;

use futures_util::StreamExt;
use quorate_client::{Headers, ReadMessage};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::message;
use crate::session;
use crate::table::Table;
use crate::units;

/// Options of `queue peek`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing is consumed: messages are neither leased nor counted as delivered. Settled messages are \
shown too, where the queue retains them. `quorate read` prints whole bodies, and follows."
)]
pub struct Args {
    /// The queue.
    name: String,
    /// Begin at this offset, or the first after it that can be read; the first of the queue unless given.
    #[arg(long, value_name = "OFFSET", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// Show at most so many messages.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    count: u64,
}

/// Longest text of a cell of the table, in characters.
const CELL_CHARS_MAX: usize = 100;

/// Shows messages.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let reader = client.reader(args.name.as_str()).from_offset(args.from).limit(args.count);
    // What was confirmed before is shown, as by the leader.
    let mut reader = reader.linearizable().build();
    let doing = format!("peek into {:?}", args.name);
    let mut table = Table::new(&[">offset", ">age", "headers", "body"]);
    let mut shown = 0;
    while let Some(read) = reader.next().await {
        let ReadMessage { offset, published_at, headers, body } =
            read.map_err(|error| session::failure(&doing, &error))?;
        shown += 1;
        if global.output == Format::Json {
            let since = published_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let published_ms = since.as_millis() as u64;
            let facts = [("offset", offset.into()), ("published_at_ms", published_ms.into())];
            message::print(global.output, facts, &headers, &body)?;
            continue;
        }
        let age = SystemTime::now().duration_since(published_at).unwrap_or_default();
        let cells = [offset.to_string(), units::duration(age), named(&headers), cell(&text(&body))];
        table.row(cells);
    }
    session::within(global, &doing, reader.close()).await?;
    let mut out = std::io::stdout().lock();
    match (global.output, shown) {
        (Format::Json, _) => {}
        (Format::Table, 0) => {
            writeln!(out, "queue {} has nothing to show from offset {} on", args.name, args.from)?;
        }
        (Format::Table, _) => write!(out, "{table}")?,
    }
    Ok(())
}

fn named(headers: &Headers) -> String {
    let named = headers.iter().map(|(key, value)| format!("{key}={}", text(&value)));
    cell(&named.collect::<Vec<_>>().join(" "))
}

/// Text as it is; other bytes in base64.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", message::base64(bytes)),
    }
}

/// On one line, and no longer than a table bears.
fn cell(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let mut cell: String = text.chars().take(CELL_CHARS_MAX).map(shown).collect();
    if text.chars().nth(CELL_CHARS_MAX).is_some() {
        cell.push('…');
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_line_and_says_that_it_was_cut() {
        assert_eq!(cell("two\nlines\t"), "two lines ");
        assert_eq!(cell(&"é".repeat(100)), "é".repeat(100));
        assert_eq!(cell(&"é".repeat(101)), format!("{}…", "é".repeat(100)));
        assert_eq!(text(&[0xff]), "base64:/w==");
    }
}
