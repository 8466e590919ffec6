//! Bringing back what a model of the store has lost.

use crate::HubError;
use crate::catalogue::CatalogueFile;
use crate::hub::{Hub, Naming};
use crate::local::LocalModel;
use crate::progress::{Status, Watch};
use crate::reference::Source;
use freehold_store::{Entry, Fault, FaultKind, Ingest, ModelFile, StoreError};

/// What became of one model.
#[derive(Debug)]
pub struct Repair {
    /// The model, as [`Entry::label`] calls it.
    pub model: String,
    /// Whether it is whole again.
    pub result: Result<(), HubError>,
}

impl Hub {
    /// Sets damaged blobs aside and brings back those that models need: from the catalogue's sources of the same bytes,
    /// or else from where the model was fetched. A model stays the one it was, to the digest. Gives what became of each
    /// model that `faults` name.
    ///
    /// # Errors
    /// A damaged blob cannot be set aside; `watch` stopped it. That a model cannot be repaired is an error of its own.
    pub fn repair(&self, faults: &[Fault], watch: &mut Watch<'_>) -> Result<Vec<Repair>, HubError> {
        // Held to the end, so that nothing is cleaned away between the blobs of one model.
        let ingest = self.store().ingest()?;
        for fault in faults.iter().filter(|fault| fault.kind != FaultKind::Missing) {
            let what = fault.digest.to_string();
            ingest.set_aside(&fault.digest, &mut |bytes| watch(&Status::checking(&what, bytes, None)))?;
        }
        let mut repairs = Vec::new();
        for entry in self.store().list()? {
            let model = entry.label();
            if faults.iter().any(|fault| fault.needed_by.contains(&model)) {
                match self.bring_back(&ingest, &entry, watch) {
                    Err(HubError::Store(error @ StoreError::Cancelled)) => return Err(error.into()),
                    result => repairs.push(Repair { model, result }),
                }
            }
        }
        Ok(repairs)
    }

    fn bring_back(&self, ingest: &Ingest<'_>, entry: &Entry, watch: &mut Watch<'_>) -> Result<(), HubError> {
        let Ok(model) = &entry.model else { return self.pull_again(entry, watch) };
        for file in model.files.iter().filter(|file| !self.store().has(&file.digest)) {
            let sources = self.sources_of(file, model.source.as_deref());
            if sources.is_empty() {
                return Err(HubError::NoOrigin { label: model.label() });
            }
            let file =
                CatalogueFile { path: file.path.clone(), size_bytes: file.size_bytes, digest: file.digest, sources };
            self.fetch_from_any(ingest, &model.label(), &file, watch)?;
        }
        Ok(())
    }

    /// Everywhere that a file may be had from, `origin` last. Its digest tells whether it is the right one.
    fn sources_of(&self, file: &ModelFile, origin: Option<&str>) -> Vec<Source> {
        let known = self.catalogue().models.iter().flat_map(|model| &model.files);
        let known = known.filter(|known| known.digest == file.digest).flat_map(|known| known.sources.clone());
        let mut sources = Vec::new();
        for source in known.chain(origin.map(|origin| self.recorded(origin, &file.path)).unwrap_or_default()) {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources
    }

    /// The file `path` of a model that was fetched from `origin`.
    fn recorded(&self, origin: &str, path: &str) -> Vec<Source> {
        if let Ok(found) = self.caches().find(origin) {
            let files = found.model.files.into_iter().filter(|file| file.path == path);
            return files.map(|file| Source::File(file.source)).collect();
        }
        match Source::parse(origin) {
            Ok(Some(Source::HuggingFace(place))) => vec![Source::HuggingFace(place.with_file(path))],
            Ok(Some(Source::File(place))) if place.is_dir() => vec![Source::File(place.join(path))],
            Ok(Some(source)) => {
                // What came from the catalogue may have come from several places.
                let several = origin.split(' ').map(|part| Source::parse(part).ok().flatten()).collect();
                Option::unwrap_or(several, vec![source])
            }
            _ => Vec::new(),
        }
    }

    /// Makes the model anew whose manifest is lost.
    fn pull_again(&self, entry: &Entry, watch: &mut Watch<'_>) -> Result<(), HubError> {
        let unknown = || HubError::NoOrigin { label: entry.label() };
        let name = entry.name.as_deref().ok_or_else(unknown)?;
        for known in &self.catalogue().models {
            let Some(new_model) = known.to_new_model() else { continue };
            if new_model.digest()? == entry.digest {
                return self.pull_entry(known, &new_model, name, watch).map(drop);
            }
        }
        let origin = entry.source.as_deref().ok_or_else(unknown)?;
        let naming = Naming { name, replaces: false, expected: Some(entry.digest) };
        if let Ok(found) = self.caches().find(origin) {
            match self.adopt(found.model, naming, origin, watch) {
                // What another tool has of a repository may be less than what was pulled of it.
                Err(HubError::Changed { .. }) if Source::parse(origin)?.is_some() => {}
                result => return result.map(drop),
            }
        }
        match Source::parse(origin)? {
            Some(Source::File(path)) => self.adopt(LocalModel::open(&path)?, naming, origin, watch).map(drop),
            Some(source) => self.pull_source(&source, naming, watch).map(drop),
            None => self.caches().find(origin).map(drop),
        }
    }
}
