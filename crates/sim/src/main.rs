//! The program of the simulated world.

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    use clap::Parser;
    let _ = quorate_sim::options::Cli::parse();
    eprintln!("this program was built without the simulated world: run `cargo xtask sim` instead");
    std::process::ExitCode::from(2)
}

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    use clap::Parser;
    use quorate_sim::options::{Cli, Command};
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => quorate_sim::sweep(&cli.sweep),
        Some(Command::Determinism(sweep)) => quorate_sim::determinism(&sweep),
        #[cfg(feature = "planted")]
        Some(Command::Planted { bug, within, sweep }) => {
            quorate_sim::planted(bug.as_deref(), within, &sweep)
        }
        #[cfg(not(feature = "planted"))]
        Some(Command::Planted { .. }) => {
            Err("this build holds no planted bugs: run `cargo xtask sim planted`".to_owned())
        }
        Some(Command::Scenarios) => {
            for scenario in quorate_sim::scenarios::NAMED {
                println!("{:<44} {}", scenario.name, scenario.about);
            }
            Ok(true)
        }
    };
    match outcome {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::from(2)
        }
    }
}
