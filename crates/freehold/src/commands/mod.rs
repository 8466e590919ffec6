//! One file per command.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod import;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod logits;
pub(crate) mod perplexity;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod quantize;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod scrub;
pub(crate) mod show;
pub(crate) mod tokenize;
pub(crate) mod up;

use crate::cli::{Cli, Command};
use crate::home::Home;
use anyhow::Result;

/// Runs the command that was called.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let home = || Home::find(cli.home);
    match cli.command {
        Command::Up(options) => options.run(&home()?, cli.json),
        Command::Run(options) => options.run(&home()?, cli.json),
        Command::Pull(options) => options.run(&home()?, cli.json),
        Command::Push(options) => options.run(&home()?, cli.json),
        Command::Import(options) => options.run(&home()?, cli.json),
        Command::List(options) => options.run(&home()?, cli.json),
        Command::Show(options) => options.run(&home()?, cli.json),
        Command::Rm(options) => options.run(&home()?, cli.json),
        Command::Scrub(options) => options.run(&home()?, cli.json),
        Command::Key(command) => command.run(&home()?, cli.json),
        Command::Convert(options) => options.run(&home()?, cli.json),
        Command::Quantize(options) => options.run(&home()?, cli.json),
        Command::Tokenize(options) => options.run(&home()?, cli.json),
        Command::Logits(options) => options.run(&home()?, cli.json),
        Command::Perplexity(options) => options.run(&home()?, cli.json),
        Command::Bench(options) => options.run(&home()?, cli.json),
        Command::Completions(options) => options.run(),
    }
}
