//! `quorate consumer …`: who takes messages from a queue, a file for each verb.

mod control;
mod describe;
mod list;
mod seek;

use clap::Subcommand;
use quorate_client::{ConsumerControl, ConsumerDescription, Consumers};
use serde_json::{Value, json};

use crate::args::Global;
use crate::commands::queue::describe::role;
use crate::failure::Failure;
use crate::table::Table;
use crate::units;

/// Verbs of `consumer`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the consumers of a queue, those that are waited for included.
    List(list::Args),
    /// Show the consumers of a name, or the one of a session.
    Describe(describe::Args),
    /// Hand them nothing more until they are resumed; they keep what they have.
    Pause(control::Args),
    /// Hand them messages again.
    Resume(control::Args),
    /// Set all consumers of a queue back to what has been settled, or forward beyond what has not.
    Seek(seek::Args),
    /// End them at once: what they have goes to others, and they do not come back by themselves.
    Kick(control::Args),
}

/// Runs one verb.
pub async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(&args, global).await,
        Command::Describe(args) => describe::run(&args, global).await,
        Command::Pause(args) => control::run(&args, ConsumerControl::Pause, global).await,
        Command::Resume(args) => control::run(&args, ConsumerControl::Resume, global).await,
        Command::Seek(args) => seek::run(&args, global).await,
        Command::Kick(args) => control::run(&args, ConsumerControl::Kick, global).await,
    }
}

/// Whom a word means: a session, if it is 32 hexadecimal digits, otherwise all of the name.
fn who(word: &str) -> Consumers {
    match u128::from_str_radix(word, 16) {
        Ok(session) if word.len() == 32 => Consumers::Session(session.to_be_bytes()),
        _ => Consumers::Named(word.to_owned()),
    }
}

fn session(consumer: &ConsumerDescription) -> String {
    consumer.session.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn state(consumer: &ConsumerDescription) -> &'static str {
    match (consumer.connected, consumer.paused, consumer.active) {
        (true, false, false) => "connected",
        (true, false, true) => "active",
        (true, true, _) => "paused",
        (false, false, false) => "waited for",
        (false, false, true) => "waited for, active",
        (false, true, _) => "waited for, paused",
    }
}

/// Consumers as a table.
pub fn table(consumers: &[ConsumerDescription]) -> Table {
    let headers = ["consumer", "session", ">node", "zone", "role", ">leased", ">prefetch", "state"];
    let mut table = Table::new(&headers);
    for consumer in consumers {
        table.row([
            consumer.name.clone(),
            session(consumer),
            consumer.node_id.to_string(),
            consumer.zone.clone(),
            role(consumer.role()).to_owned(),
            units::count(consumer.leased.into()),
            units::count(consumer.prefetch.into()),
            state(consumer).to_owned(),
        ]);
    }
    table
}

/// A consumer as JSON, by the names of the API.
pub fn json(consumer: &ConsumerDescription) -> Value {
    json!({
        "name": consumer.name, "session": session(consumer), "node_id": consumer.node_id,
        "zone": consumer.zone, "role": role(consumer.role()), "prefetch": consumer.prefetch,
        "leased": consumer.leased, "connected": consumer.connected, "active": consumer.active,
        "paused": consumer.paused, "tells_starts": consumer.tells_starts,
        "filter": consumer.filter,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_two_hexadecimal_digits_are_a_session_and_all_else_a_name() {
        let digits = "000102030405060708090a0b0c0d0e0f";
        let bytes: [u8; 16] = std::array::from_fn(|at| at as u8);
        assert_eq!(who(digits), Consumers::Session(bytes));
        for name in ["billing", "00ff", &digits[1..], ""] {
            assert_eq!(who(name), Consumers::Named(name.to_owned()));
        }
    }
}
