//! `freehold key`.

use crate::home::Home;
use crate::output;
use anyhow::Result;
use freehold_gateway::AdminKey;
use serde_json::json;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Print the key of this machine's server, making it first if there is none.
    #[command(
        after_help = "Example: curl -H \"Authorization: Bearer $(freehold key show)\" http://127.0.0.1:4114/v1/models"
    )]
    Show,
}

impl Command {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let Self::Show = self;
        let key = AdminKey::load_or_create(&home.key_file())?;
        if json {
            return output::print_json(&json!({ "key": key.reveal() }));
        }
        output::print_line(key.reveal())
    }
}
