//! The question before data goes, shared by all verbs that destroy some.

use std::io::{IsTerminal, Write};

use crate::exit::Exit;
use crate::failure::Failure;

/// Options of every verb that destroys data.
#[derive(Debug, clap::Args)]
pub struct Consent {
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Say what would go, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Asks `question` on the terminal; without a terminal, only `--yes` is consent.
pub fn consent(args: &Consent, question: &str) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{question} Nobody can be asked: standard input is no terminal"
        ))
        .cure("--yes to go ahead, --dry-run to see what would go"));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "not confirmed; nothing was changed")),
    }
}
