//! `freehold list`.

use super::pull;
use crate::home::Home;
use crate::output;
use anyhow::Result;
use freehold_base::units::format_bytes;
use serde_json::json;

#[derive(clap::Args)]
#[command(after_help = "Example: freehold list --json")]
pub(crate) struct Options {}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let Self {} = self;
        let hub = home.hub()?;
        let entries = hub.store().list()?;
        let present = |name: &str| entries.iter().any(|entry| entry.name.as_deref() == Some(name));
        let fetchable: Vec<_> = hub.catalogue().models.iter().filter(|model| !present(&model.name)).collect();
        if json {
            let models: Vec<_> = entries
                .iter()
                .map(|entry| match &entry.model {
                    Ok(model) => json!({
                        "name": entry.name,
                        "digest": entry.digest.to_string(),
                        "size_bytes": model.size_bytes(),
                        "licenses": model.facts.licenses,
                    }),
                    Err(error) => {
                        json!({ "name": entry.name, "digest": entry.digest.to_string(), "error": error.to_string() })
                    }
                })
                .collect();
            let catalogue: Vec<_> = fetchable
                .iter()
                .map(|model| {
                    json!({
                        "name": model.name,
                        "size_bytes": model.size_bytes(),
                        "memory_bytes": model.memory_bytes,
                        "untried": model.is_untried,
                        "licenses": model.facts.licenses,
                    })
                })
                .collect();
            return output::print_json(&json!({ "models": models, "catalogue": catalogue }));
        }
        let mut rows = Vec::new();
        for entry in &entries {
            let (size, licence) = match &entry.model {
                Ok(model) => (format_bytes(model.size_bytes()), pull::licences(&model.facts.licenses)),
                Err(error) => (String::new(), format!("unreadable: {error}")),
            };
            let digest: String = entry.digest.to_string().chars().take(19).collect();
            rows.push(vec![entry.name.clone().unwrap_or_default(), size, digest, licence]);
        }
        let is_empty = rows.is_empty();
        if !is_empty {
            output::print_line(&output::table(&["NAME", "SIZE", "DIGEST", "LICENCE"], &rows))?;
        }
        if fetchable.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = fetchable
            .iter()
            .map(|model| {
                let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), format_bytes);
                let tried = if model.is_untried { "not yet" } else { "yes" };
                let licence = pull::licences(&model.facts.licenses);
                vec![
                    model.name.clone(),
                    bytes(model.size_bytes()),
                    bytes(model.memory_bytes),
                    tried.to_owned(),
                    licence,
                ]
            })
            .collect();
        let gap = if is_empty { "" } else { "\n" };
        output::print_line(&format!("{gap}To be fetched with `freehold pull NAME`:"))?;
        output::print_line(&output::table(&["NAME", "SIZE", "MEMORY", "TRIED", "LICENCE"], &rows))
    }
}
