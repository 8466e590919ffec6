//! From a model reference to something that runs.

use crate::home::Home;
use crate::output::{self, UsageError};
use anyhow::Result;
use freehold_engine::TextModel;
use freehold_formats::Checkpoint;
use freehold_kernels::Compute;
use freehold_model::Model;
use freehold_store as store;
use std::ops::ControlFlow;

/// A model's files, opened.
pub(crate) struct Opened {
    /// What the store knows about it.
    pub(crate) entry: store::Model,
    pub(crate) checkpoint: Checkpoint,
}

/// Opens a model of the store, fetching it first where it is not there and the reference says from where.
pub(crate) fn open(home: &Home, reference: Option<&str>) -> Result<Opened> {
    let hub = home.hub()?;
    let reference = reference.unwrap_or(&hub.catalogue().default);
    let mut progress = output::FetchProgress::new();
    let entry = hub.obtain(reference, &mut |status| progress.show(status))?;
    progress.finish();
    let store = hub.store();
    let bar = output::byte_bar(entry.size_bytes(), format!("Checking {}", entry.label()));
    let files = store.files(&entry, &mut |bytes| {
        bar.set_position(bytes);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    // A GGUF is one file whatever it is called; everything else is a folder.
    let gguf = files.iter().find(|(name, _)| name.ends_with(".gguf")).map(|(_, path)| path.clone());
    let checkpoint = match gguf {
        Some(path) => Checkpoint::open(&path)?,
        None => Checkpoint::open_files(files)?,
    };
    Ok(Opened { entry, checkpoint })
}

/// Weights, packed for the kernels.
pub(crate) fn load(checkpoint: &Checkpoint, name: &str, compute: &Compute) -> Result<Model> {
    let total = checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum();
    let bar = output::byte_bar(total, format!("Loading {name}"));
    let model = Model::load(checkpoint, compute, &mut |bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    Ok(model)
}

impl Opened {
    /// What answers and logits name as their model.
    pub(crate) fn label(&self) -> String {
        self.entry.label()
    }

    /// Its tokenizer and template.
    pub(crate) fn text(&self) -> Result<TextModel> {
        Ok(TextModel::open(&self.checkpoint)?)
    }

    /// Its weights, packed for the kernels.
    pub(crate) fn weights(&self, compute: &Compute) -> Result<Model> {
        load(&self.checkpoint, &self.label(), compute)
    }

    /// Refuses a `--context` that the model was not made for.
    pub(crate) fn check_context(&self, model: &Model, context: usize) -> Result<()> {
        let made_for = model.config().context_length;
        if context > made_for {
            let text =
                format!("{} was made for {made_for} tokens, not {context}: give --context at most that", self.label());
            return Err(UsageError(text).into());
        }
        Ok(())
    }
}
