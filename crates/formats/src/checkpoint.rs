//! A model's files, whichever container they are in.

use crate::error::{Error, Result};
use crate::gguf::{self, Gguf};
use crate::hugging_face::{self, HuggingFaceFolder};
use crate::tensor::TensorView;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// An opened model.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// One GGUF file.
    Gguf(Gguf),
    /// A folder in Hugging Face's style.
    HuggingFace(Box<HuggingFaceFolder>),
}

impl Checkpoint {
    /// Opens the GGUF file or the Hugging Face style folder at `path`; which it is, its content decides.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it is neither, and the errors of the two containers.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        if kind.is_dir() {
            return Ok(Self::HuggingFace(Box::new(HuggingFaceFolder::open(path)?)));
        }
        if kind.is_file() && is_gguf(path)? {
            return Ok(Self::Gguf(Gguf::open(path)?));
        }
        Err(Error::Checkpoint {
            path: path.to_owned(),
            problem: "it is neither a GGUF file nor a folder".into(),
            remedy: "Give a GGUF file, or the folder that holds config.json and model.safetensors",
        })
    }

    /// Opens files that are named here and may lie anywhere, as those of a store do: the one that is GGUF by its
    /// content, else a folder in Hugging Face's style if `config.json` is among them.
    ///
    /// # Errors
    /// [`Error::Files`] where the files are neither, and the errors of the two containers.
    pub fn open_files(files: BTreeMap<String, PathBuf>) -> Result<Self> {
        let mut gguf_files = Vec::new();
        for (name, path) in &files {
            if is_gguf(path)? {
                gguf_files.push((name.clone(), path.clone()));
            }
        }
        match gguf_files.as_slice() {
            [(_, path)] => Ok(Self::Gguf(Gguf::open(path)?)),
            [] if files.contains_key(hugging_face::CONFIG) => {
                Ok(Self::HuggingFace(Box::new(HuggingFaceFolder::open_files(files)?)))
            }
            [] => Err(Error::Files {
                problem: "neither a GGUF file nor config.json is among the model's files".into(),
                remedy: "Import a GGUF file, or the folder that holds config.json and model.safetensors",
            }),
            [(first, _), (second, _), ..] => Err(Error::Files {
                problem: format!("both `{first}` and `{second}` are GGUF files"),
                remedy: "Import each as a model of its own",
            }),
        }
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> Box<dyn ExactSizeIterator<Item = TensorView<'_>> + '_> {
        match self {
            Self::Gguf(gguf) => Box::new(gguf.tensors()),
            Self::HuggingFace(folder) => Box::new(folder.weights().tensors()),
        }
    }

    /// The tensor called `name` in the file.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        match self {
            Self::Gguf(gguf) => gguf.tensor(name),
            Self::HuggingFace(folder) => folder.weights().tensor(name),
        }
    }

    /// Gives the memory that bytes of a tensor take back to the system, once they have been used. They may be read again.
    pub fn release(&self, bytes: &[u8]) {
        let files = match self {
            Self::Gguf(gguf) => gguf.files(),
            Self::HuggingFace(folder) => folder.weights().files(),
        };
        files.iter().for_each(|file| file.release(bytes));
    }

    /// The chat template, if the model has one.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the metadata key is not a string.
    pub fn chat_template(&self) -> Result<Option<&str>> {
        match self {
            Self::Gguf(gguf) => gguf.metadata().optional_str("tokenizer.chat_template"),
            Self::HuggingFace(folder) => Ok(folder.chat_template()),
        }
    }
}

fn is_gguf(path: &Path) -> Result<bool> {
    let mut magic = [0; gguf::MAGIC.len()];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) => Ok(magic == gguf::MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}
