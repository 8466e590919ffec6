//! What goes into a model's matrices on a text, for an encoder to know which errors count.

use crate::evaluate::{EvaluateError, Pass, Windows, check};
use freehold_formats::ImportanceMatrix;
use freehold_kernels::{Compute, KvType};
use freehold_model::{Model, Workspace};

/// Runs the model over a text and sums up what goes into each column of the matrices of its layers. `dataset` is what the
/// text is called. `None` if it has not one window's worth of tokens.
///
/// `progress` gets windows done and their number.
///
/// # Errors
/// As [`crate::evaluate`], for windows of `context` tokens; also if a sum overflows.
pub fn calibrate(
    model: &Model,
    compute: &Compute,
    kv_type: KvType,
    windows: Windows<'_>,
    dataset: &str,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<ImportanceMatrix>, EvaluateError> {
    check(model, windows.tokens, windows.context)?;
    if windows.count() == 0 {
        return Ok(None);
    }
    let mut pass = Pass::new(model, compute, kv_type, windows.context, Workspace::collecting())?;
    for (index, window) in windows.iter().enumerate() {
        pass.begin(&window.input)?;
        progress(index + 1, windows.count());
    }
    let tensors = pass.workspace.importance().map_err(|_| EvaluateError::Overflowed)?;
    let [chunks, size] = [windows.count(), windows.context].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    Ok(Some(ImportanceMatrix::new(tensors, vec![dataset.to_owned()], chunks, size)))
}
