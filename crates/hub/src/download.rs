//! One blob of known digest over HTTP into the store, and the progress of several.

use crate::HubError;
use crate::http::{Http, Resource};
use crate::progress::{Status, Watch};
use freehold_base::Digest;
use freehold_store::{Ingest, Resume, Start, StoreError, StoredBlob, Target};
use std::ops::ControlFlow;

/// How far a model of several files is.
pub(crate) struct Transfer<'t, 'w> {
    label: &'t str,
    bytes_done: u64,
    bytes_total: Option<u64>,
    watch: &'t mut Watch<'w>,
}

impl<'t, 'w> Transfer<'t, 'w> {
    /// Of `bytes_total` bytes, where known. `label` is what the user asked for.
    pub(crate) fn new(label: &'t str, bytes_total: Option<u64>, watch: &'t mut Watch<'w>) -> Self {
        Self { label, bytes_done: 0, bytes_total, watch }
    }

    /// So many bytes of the present file are there.
    pub(crate) fn downloading(&mut self, bytes: u64) -> ControlFlow<()> {
        (self.watch)(&Status::downloading(self.label, self.bytes_done.saturating_add(bytes), self.bytes_total))
    }

    fn waiting(&mut self, bytes: u64) -> ControlFlow<()> {
        (self.watch)(&Status::waiting(self.label, self.bytes_done.saturating_add(bytes), self.bytes_total))
    }

    /// The present file is whole; what follows is the next one.
    pub(crate) fn finished(&mut self, bytes: u64) {
        self.bytes_done = self.bytes_done.saturating_add(bytes);
    }
}

/// Where a blob comes from and goes to.
pub(crate) struct Download<'a> {
    pub(crate) http: &'a Http,
    pub(crate) ingest: &'a Ingest<'a>,
    pub(crate) resource: Resource<'a>,
    /// What errors call it.
    pub(crate) what: &'a str,
}

impl Download<'_> {
    /// Brings in the blob with this digest, from where an earlier pull left it.
    pub(crate) fn blob(&self, digest: Digest, transfer: &mut Transfer<'_, '_>) -> Result<StoredBlob, HubError> {
        let (target, size_bytes) = (Target::Blob(digest), self.resource.size_bytes);
        loop {
            let start = self.ingest.writer(&target, size_bytes, Resume::Bytes, &mut |bytes| transfer.waiting(bytes))?;
            let mut writer = match start {
                Start::Present(blob) => {
                    transfer.finished(blob.size_bytes);
                    return Ok(blob);
                }
                Start::Writer(writer) => writer,
            };
            let resumed = writer.length() > 0;
            if let Some(total) = transfer.bytes_total {
                // For this file and all that follow it.
                writer.reserve(total.saturating_sub(transfer.bytes_done))?;
            }
            self.http
                .download(&self.resource, &mut writer, &mut |done, total| {
                    transfer.bytes_total = transfer.bytes_total.or(total);
                    transfer.downloading(done)
                })
                .map_err(|error| self.named(error))?;
            match writer.commit() {
                Ok(blob) => {
                    transfer.finished(blob.size_bytes);
                    return Ok(blob);
                }
                // What an earlier pull left may have been wrong; it is gone now, so this happens once.
                Err(StoreError::WrongDigest { .. }) if resumed => {}
                Err(error) => return Err(self.named(error.into())),
            }
        }
    }

    fn named(&self, error: HubError) -> HubError {
        let what = format!("`{}`", self.what);
        match error {
            HubError::Store(StoreError::WrongDigest { expected, got, .. }) => {
                StoreError::WrongDigest { what, expected, got }.into()
            }
            HubError::Store(StoreError::WrongSize { expected, got, .. }) => {
                StoreError::WrongSize { what, expected, got }.into()
            }
            other => other,
        }
    }
}
