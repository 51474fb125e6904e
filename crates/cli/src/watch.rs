//! `--watch`: the same listing again and again.

use std::time::Duration;

use crate::failure::Failure;

/// Shows it once; with `every`, until Ctrl-C, with that pause in between.
pub async fn repeat(
    every: Option<Duration>,
    mut show: impl AsyncFnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        show().await?;
        let Some(pause) = every else { return Ok(()) };
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}
