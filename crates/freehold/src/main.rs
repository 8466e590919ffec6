//! The `freehold` binary: arguments, wiring, output. What it does is in the other crates.

// `println!` panics where the reader of the output has gone.
#![warn(clippy::print_stdout)]

mod chat;
mod cli;
mod commands;
mod home;
mod models;
mod output;

use clap::Parser as _;
use std::process::ExitCode;

/// Exit codes: 0 it worked, 1 it failed, 2 it was called wrongly (also clap's own).
const FAILED: u8 = 1;
const CALLED_WRONGLY: u8 = 2;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            ExitCode::from(if error.is::<output::UsageError>() { CALLED_WRONGLY } else { FAILED })
        }
    }
}
