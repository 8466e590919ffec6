//! Looking for damage that nobody has met yet: every blob hashed again, whatever is known about it.

use crate::StoreError;
use crate::disk;
use crate::ingest::Ingest;
use crate::lock;
use crate::store::{Store, find};
use freehold_base::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;

/// What a scrub found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scrubbed {
    /// Blobs that were looked at.
    pub blobs: u64,
    /// Bytes that were hashed.
    pub bytes: u64,
    /// What is wrong, by digest.
    pub faults: Vec<Fault>,
}

/// A blob that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Its name.
    pub digest: Digest,
    /// What is wrong with it.
    pub kind: FaultKind,
    /// Who needs it, as [`Entry::label`](crate::Entry::label) calls them; nobody, if it is empty.
    pub needed_by: Vec<String>,
}

/// What is wrong with a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// It is not there.
    Missing,
    /// Its bytes hash to something else.
    Damaged,
    /// The system cannot read it, for this reason.
    Unreadable(String),
}

impl Store {
    /// Hashes every blob, or those of one model (`model` as in [`Store::resolve`]). Nothing is deleted meanwhile, in any
    /// process. `progress` hears the bytes done and how many there are.
    ///
    /// What a damaged manifest names is not known, so a model with one may lack more than is reported.
    ///
    /// # Errors
    /// There is no such model; index.json cannot be read; cancelled; I/O on anything but a blob.
    pub fn scrub(
        &self,
        model: Option<&str>,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Scrubbed, StoreError> {
        let _in_use = lock::shared(&self.use_lock())?;
        let index = self.read_index()?;
        let chosen = model.map(|reference| find(&index, reference)).transpose()?;
        let mut needed_by: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        for descriptor in &index.manifests {
            let mut reached = BTreeSet::new();
            // A manifest that cannot be read is among what is reached.
            self.reach(descriptor, &mut reached).ok();
            if chosen.is_some_and(|chosen| chosen.digest == descriptor.digest) {
                wanted.extend(&reached);
            }
            for digest in reached {
                needed_by.entry(digest).or_default().insert(descriptor.label());
            }
        }
        if chosen.is_none() {
            wanted.extend(needed_by.keys());
            wanted.extend(self.stored_digests()?);
        }
        let size = |digest| fs::metadata(self.blob_path(digest)).map_or(0, |metadata| metadata.len());
        let total = wanted.iter().map(size).fold(0, u64::saturating_add);
        let mut scrubbed = Scrubbed { blobs: wanted.len() as u64, bytes: 0, faults: Vec::new() };
        let mut before = 0u64;
        for digest in wanted {
            let mut done = before;
            let verified = self.verify_blob(&digest, &mut |bytes| {
                done = before.saturating_add(bytes);
                progress(done, total)
            });
            scrubbed.bytes = scrubbed.bytes.saturating_add(done - before);
            before = done;
            let kind = match verified {
                Ok(_) => continue,
                Err(StoreError::MissingBlob { .. }) => FaultKind::Missing,
                Err(StoreError::Damaged { .. }) => FaultKind::Damaged,
                Err(StoreError::Io { error, .. }) => {
                    self.forget_verified(&digest)?;
                    FaultKind::Unreadable(error.to_string())
                }
                Err(error) => return Err(error),
            };
            let needed_by = needed_by.remove(&digest).unwrap_or_default().into_iter().collect();
            scrubbed.faults.push(Fault { digest, kind, needed_by });
        }
        Ok(scrubbed)
    }
}

impl Ingest<'_> {
    /// Takes a damaged blob's name away, so that nobody reads it. Its bytes stay until the blob is whole again, or until
    /// the next clean-up. Nothing happens if it is found whole, or is not there.
    ///
    /// # Errors
    /// The blob cannot be read, and then it stays: that may pass, and proves nothing about its bytes. Cancelled by
    /// `progress`, which hears the bytes hashed; I/O.
    pub fn set_aside(
        &self,
        digest: &Digest,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        // Whoever writes this blob has the lock, and may have replaced it since it was found damaged.
        let lock = self.blob_lock(digest);
        let _lock = lock::exclusive_with(&lock, &mut || progress(0))?;
        match self.store.verify_blob(digest, progress) {
            Ok(_) | Err(StoreError::MissingBlob { .. }) => {}
            Err(StoreError::Damaged { .. }) => self.store.move_aside(digest)?,
            Err(error) => return Err(error),
        }
        disk::remove_file(&lock)
    }
}
