//! Bugs planted one after the other, each until a run catches it.

use quorate_machine::planted::{self, Bug};

use crate::options::Sweep;
use crate::run::Report;
use crate::scenarios::{leader_back_before_it_is_missed, replica_that_left_comes_back};
use crate::sweep::first_failure;

/// Random faults find most; what needs one thing at one moment has a scenario of its own.
fn scenario_of(bug: Bug, options: &Sweep) -> String {
    match bug {
        Bug::WrongLeaderRestore if options.scenario == "random" => {
            leader_back_before_it_is_missed::NAME.to_owned()
        }
        Bug::ForgetWhatItHad if options.scenario == "random" => {
            replica_that_left_comes_back::NAME.to_owned()
        }
        _ => options.scenario.clone(),
    }
}

/// Plants each bug, or the named one, and runs seeds until one fails. True if each is caught within
/// so many seeds.
///
/// # Errors
/// When there is no such bug, or the options make no sense.
pub fn planted(name: Option<&str>, within: u64, options: &Sweep) -> Result<bool, String> {
    let bugs: Vec<Bug> =
        Bug::ALL.into_iter().filter(|bug| name.is_none_or(|name| name == bug.name())).collect();
    if bugs.is_empty() {
        let names: Vec<&str> = Bug::ALL.into_iter().map(Bug::name).collect();
        return Err(format!("there is no bug of that name; there are {}", names.join(", ")));
    }
    // A planted bug may well make something panic: that is a way to be caught.
    std::panic::set_hook(Box::new(|_| {}));
    println!("| planted bug | caught by seed | of | what caught it |\n|---|---|---|---|");
    let mut all = true;
    for bug in bugs {
        planted::plant(Some(bug));
        let options = Sweep { scenario: scenario_of(bug, options), ..options.clone() };
        let caught: Option<Report> = first_failure(&options, within)?;
        planted::plant(None);
        let name = bug.name();
        match caught {
            Some(report) => {
                let what: String = report.failure.unwrap_or_default().chars().take(110).collect();
                println!("| `{name}` | {} | {within} | {what} |", report.seed);
            }
            None => {
                all = false;
                println!("| `{name}` | **not caught** | {within} | |");
            }
        }
    }
    Ok(all)
}
