//! Which files of a repository make up a model.

use crate::answers::ListedFile;
use crate::local::{belongs, is_document};

/// Shown of a repository's models in an error.
const SHOWN_MAX: usize = 30;
/// What is taken where a repository has one model in several encodings: the usual compromise of size and quality.
const USUAL_ENCODING: &str = "q4_k_m";
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// The files to fetch.
#[derive(Debug)]
pub(super) struct Selection<'l> {
    /// The GGUF file that is the model, if it is one.
    pub(super) gguf: Option<&'l ListedFile>,
    /// The index that names further files, with the weights.
    pub(super) index: Option<&'l ListedFile>,
    /// All that is known to be needed, in the order to fetch: small files first.
    pub(super) files: Vec<&'l ListedFile>,
}

/// Picks `wanted`, or else what a model needs. The error says why that cannot be done.
pub(super) fn select<'l>(files: &'l [ListedFile], wanted: Option<&str>) -> Result<Selection<'l>, String> {
    let find = |path: &str| files.iter().find(|file| file.path == path);
    let has_config = find("config.json").is_some();
    let index = find(WEIGHTS_INDEX);
    let selection = match (wanted, find(WEIGHTS)) {
        (Some(wanted), _) => of_gguf(files, named_gguf(files, wanted)?),
        (None, Some(weights)) if has_config => {
            Selection { gguf: None, index: None, files: of_folder(files, Some(weights)) }
        }
        (None, None) if has_config && index.is_some() => Selection { gguf: None, index, files: of_folder(files, None) },
        (None, _) => of_gguf(files, only_gguf(files)?),
    };
    Ok(selection)
}

fn of_gguf<'l>(files: &'l [ListedFile], gguf: &'l ListedFile) -> Selection<'l> {
    let mut chosen: Vec<_> = files.iter().filter(|file| !file.path.contains('/') && is_document(&file.path)).collect();
    chosen.push(gguf);
    Selection { gguf: Some(gguf), index: None, files: chosen }
}

/// The files beside the weights: those of the top, and those of modules as sentence-transformers numbers them.
fn of_folder<'l>(files: &'l [ListedFile], weights: Option<&'l ListedFile>) -> Vec<&'l ListedFile> {
    let is_module = |folder: &str| folder.starts_with(|c: char| c.is_ascii_digit()) && folder.contains('_');
    let mut chosen: Vec<_> = files
        .iter()
        .filter(|file| match file.path.split_once('/') {
            None => belongs(&file.path) && !file.path.ends_with(".safetensors") && file.path != WEIGHTS_INDEX,
            Some((folder, name)) => is_module(folder) && !name.contains('/') && belongs(name),
        })
        .collect();
    chosen.extend(weights);
    chosen
}

fn named_gguf<'l>(files: &'l [ListedFile], wanted: &str) -> Result<&'l ListedFile, String> {
    if !is_gguf(wanted) {
        return Err(format!("`{wanted}` is no GGUF file; leave it out to get the whole model"));
    }
    let found = files.iter().find(|file| file.path == wanted);
    let found = found.ok_or_else(|| match models(files).as_slice() {
        [] => format!("it has no file `{wanted}`, nor any other in GGUF"),
        known => format!("it has no file `{wanted}`; there are {}", shown(known)),
    })?;
    if is_part(wanted) {
        return Err(format!("`{wanted}` is one part of a model in several files, which cannot be read yet"));
    }
    Ok(found)
}

fn only_gguf(files: &[ListedFile]) -> Result<&ListedFile, String> {
    let known = models(files);
    if let [only] = known.as_slice() {
        return Ok(only);
    }
    let usual: Vec<_> = known.iter().filter(|file| file.path.to_ascii_lowercase().contains(USUAL_ENCODING)).collect();
    match (known.is_empty(), usual.as_slice()) {
        (true, _) => Err("it holds neither safetensors with a config.json nor a whole GGUF file".to_owned()),
        (false, [only]) => Ok(only),
        (false, _) => Err(format!("it holds several models; add one to the reference: {}", shown(&known))),
    }
}

/// The GGUF files that are models by themselves: no part of one, and not what reads images for one.
fn models(files: &[ListedFile]) -> Vec<&ListedFile> {
    let is_projector = |path: &str| path.to_ascii_lowercase().contains("mmproj");
    files.iter().filter(|file| is_gguf(&file.path) && !is_part(&file.path) && !is_projector(&file.path)).collect()
}

fn is_gguf(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".gguf")
}

/// `model-00001-of-00003.gguf`.
fn is_part(path: &str) -> bool {
    let stem = &path[..path.len() - ".gguf".len()];
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    stem.rsplit_once("-of-").is_some_and(|(before, count)| {
        is_number(count) && before.rsplit_once('-').is_some_and(|(_, number)| is_number(number))
    })
}

fn shown(files: &[&ListedFile]) -> String {
    let names: Vec<_> = files.iter().take(SHOWN_MAX).map(|file| format!("/{}", file.path)).collect();
    let rest = files.len() - names.len();
    if rest == 0 { names.join(", ") } else { format!("{}, and {rest} more", names.join(", ")) }
}
