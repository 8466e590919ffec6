//! Bringing back what a model of the store has lost.

use crate::HubError;
use crate::catalogue::CatalogueFile;
use crate::hub::{Hub, Naming};
use crate::local::LocalModel;
use crate::progress::{Status, Watch};
use crate::reference::Source;
use freehold_base::Digest;
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
    /// or else from where the model was fetched. A model stays the one it was, to the digest. Blobs that cannot be read
    /// stay as they are, for that may pass. Gives what became of each model that `faults` name.
    ///
    /// # Errors
    /// A damaged blob cannot be set aside; `watch` stopped it. That a model cannot be repaired is an error of its own.
    pub fn repair(&self, faults: &[Fault], watch: &mut Watch<'_>) -> Result<Vec<Repair>, HubError> {
        // Held to the end, so that nothing is cleaned away between the blobs of one model.
        let ingest = self.store().ingest()?;
        for fault in faults.iter().filter(|fault| fault.kind == FaultKind::Damaged) {
            set_aside(&ingest, &fault.digest, watch)?;
        }
        let mut repairs = Vec::new();
        for entry in self.store().list()? {
            let model = entry.label();
            let faults: Vec<_> = faults.iter().filter(|fault| fault.needed_by.contains(&model)).collect();
            if !faults.is_empty() {
                match self.bring_back(&ingest, &entry, &faults, watch) {
                    Err(HubError::Store(error @ StoreError::Cancelled)) => return Err(error.into()),
                    result => repairs.push(Repair { model, result }),
                }
            }
        }
        Ok(repairs)
    }

    fn bring_back(
        &self,
        ingest: &Ingest<'_>,
        entry: &Entry,
        faults: &[&Fault],
        watch: &mut Watch<'_>,
    ) -> Result<(), HubError> {
        let unreadable = faults.iter().find_map(|fault| match &fault.kind {
            FaultKind::Unreadable(reason) => {
                Some(HubError::Unreadable { path: self.store().blob_path(&fault.digest), reason: reason.clone() })
            }
            FaultKind::Missing | FaultKind::Damaged => None,
        });
        let is_left = |digest: &Digest| {
            faults.iter().any(|fault| fault.digest == *digest && matches!(fault.kind, FaultKind::Unreadable(_)))
        };
        let unreadable = match (unreadable, &entry.model) {
            // It may be the manifest, and then nothing is known of the rest.
            (Some(error), Err(_)) => return Err(error),
            (unreadable, _) => unreadable,
        };
        let model = match &entry.model {
            Ok(model) => model.clone(),
            Err(_) => {
                self.pull_again(entry, watch)?;
                let model = self.store().resolve(&entry.digest.to_string())?;
                // Which files it has is known only now.
                for file in &model.files {
                    set_aside(ingest, &file.digest, watch)?;
                }
                model
            }
        };
        for file in model.files.iter().filter(|file| !self.store().has(&file.digest) && !is_left(&file.digest)) {
            let sources = self.sources_of(file, model.source.as_deref());
            if sources.is_empty() {
                return Err(HubError::NoOrigin { label: model.label() });
            }
            let file =
                CatalogueFile { path: file.path.clone(), size_bytes: file.size_bytes, digest: file.digest, sources };
            self.fetch_from_any(ingest, &model.label(), &file, watch)?;
        }
        unreadable.map_or(Ok(()), Err)
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
        // Another tool may have less of a repository than was pulled of it.
        let cached = self.caches().find(origin).map(|found| found.model.files).unwrap_or_default();
        let cached = cached.into_iter().filter(|file| file.path == path).map(|file| Source::File(file.source));
        // What came from the catalogue may have come from several places. A file's name may hold a space, too.
        let mut places: Vec<String> = Vec::new();
        for part in origin.split(' ') {
            match places.last_mut() {
                Some(place) if matches!(Source::parse(part), Ok(None)) => *place = format!("{place} {part}"),
                _ => places.push(part.to_owned()),
            }
        }
        let places = places.iter().filter_map(|place| Source::parse(place).ok().flatten());
        let sources = places.flat_map(|place| match place {
            Source::HuggingFace(name) if name.file.is_some() => {
                vec![Source::HuggingFace(name.clone().with_file(path)), Source::HuggingFace(name)]
            }
            Source::HuggingFace(name) => vec![Source::HuggingFace(name.with_file(path))],
            Source::File(folder) if folder.is_dir() => vec![Source::File(folder.join(path))],
            other => vec![other],
        });
        cached.chain(sources).collect()
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

/// Sets a blob aside if it is damaged.
fn set_aside(ingest: &Ingest<'_>, digest: &Digest, watch: &mut Watch<'_>) -> Result<(), HubError> {
    let what = digest.to_string();
    Ok(ingest.set_aside(digest, &mut |bytes| watch(&Status::checking(&what, bytes, None)))?)
}
