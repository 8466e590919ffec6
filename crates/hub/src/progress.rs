//! Telling the caller how far the work is, and asking whether to go on.

use std::ops::ControlFlow;

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Asking where the bytes are.
    Resolving,
    /// Another process fetches the same file, whose bytes are counted, or what it left is hashed again.
    Waiting,
    /// Hashing files of this machine.
    Checking,
    /// Fetching.
    Downloading,
    /// Sending.
    Uploading,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status<'a> {
    /// What is being done.
    pub stage: Stage,
    /// To which file, package or address.
    pub what: &'a str,
    /// Bytes that are there.
    pub bytes_done: u64,
    /// Bytes that there will be, where known.
    pub bytes_total: Option<u64>,
}

impl<'a> Status<'a> {
    pub(crate) fn resolving(what: &'a str) -> Self {
        Self { stage: Stage::Resolving, what, bytes_done: 0, bytes_total: None }
    }

    pub(crate) fn waiting(what: &'a str, bytes_done: u64, bytes_total: Option<u64>) -> Self {
        Self { stage: Stage::Waiting, what, bytes_done, bytes_total }
    }

    pub(crate) fn checking(what: &'a str, bytes_done: u64, bytes_total: Option<u64>) -> Self {
        Self { stage: Stage::Checking, what, bytes_done, bytes_total }
    }

    pub(crate) fn uploading(what: &'a str, bytes_done: u64, bytes_total: Option<u64>) -> Self {
        Self { stage: Stage::Uploading, what, bytes_done, bytes_total }
    }

    pub(crate) fn downloading(what: &'a str, bytes_done: u64, bytes_total: Option<u64>) -> Self {
        Self { stage: Stage::Downloading, what, bytes_done, bytes_total }
    }
}

/// Hears of progress, several times a second while bytes flow. `Break` stops the work; what has arrived is kept.
pub type Watch<'w> = dyn FnMut(&Status<'_>) -> ControlFlow<()> + 'w;
