//! From a repository to a model in the store.

use super::select::{Selection, select};
use super::{DEFAULT_ENDPOINT, HuggingFace, HuggingFaceName};
use crate::HubError;
use crate::answers::{Checksum, ListedFile, parse_weight_index};
use crate::download::{Download, Transfer};
use crate::http::Network;
use crate::hub::{Hub, Naming, Pulled, must_be};
use crate::local::facts_of;
use crate::progress::{Status, Watch};
use crate::reference::Source;
use freehold_store::{Ingest, NewFile, NewModel, StoredBlob};
use std::fs;

/// Indexes of the largest models have some 10 MB.
const INDEX_LIMIT_BYTES: u64 = 32 << 20;

impl Hub {
    /// Pulls what a repository's model needs, all of one commit.
    pub(crate) fn pull_repository(
        &self,
        wanted: &HuggingFaceName,
        ingest: &Ingest<'_>,
        naming: Naming<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Pulled, HubError> {
        let name = naming.name;
        let service = match self.hugging_face(wanted) {
            Err(error @ HubError::Offline { .. }) => return self.stored(wanted, naming, watch)?.ok_or(error),
            service => service?,
        };
        let label = format!("hf:{wanted}");
        let go_on = &mut || watch(&Status::resolving(&label));
        let commit = service.commit(wanted, go_on)?;
        let listed = service.files(wanted, &commit, go_on)?;
        let selection = select(&listed, wanted.file.as_deref()).map_err(|reason| wanted.refused(reason))?;
        let pinned = HuggingFaceName {
            revision: Some(commit),
            file: selection.gguf.map(|file| file.path.clone()),
            ..wanted.clone()
        };
        let origin = Source::HuggingFace(pinned.clone());
        if let Some(model) = self.present(naming, &origin, watch)? {
            return Ok(Pulled { model, was_present: true });
        }
        let repository = Repository { service: &service, ingest, name: &pinned };
        let files = repository.fetch(self, &selection, &listed, name, watch)?;
        let paths = files.iter().map(|file| (file.path.clone(), self.store().blob_path(&file.digest))).collect();
        let mut facts = facts_of(paths, &origin.to_string())?;
        facts.title = facts.title.or_else(|| pinned.repository.rsplit('/').next().map(str::to_owned));
        // The address that people know, whatever mirror the bytes came from.
        facts.upstream_url = Some(format!("{DEFAULT_ENDPOINT}/{}", pinned.repository));
        facts.revision = pinned.revision;
        let new_model = NewModel { facts, files };
        must_be(naming.expected, new_model.digest()?, name)?;
        let model = ingest.publish(name, &new_model, &origin.to_string())?;
        Ok(Pulled { model, was_present: false })
    }

    /// What the store has of a repository, where nobody is to be asked.
    fn stored(
        &self,
        wanted: &HuggingFaceName,
        naming: Naming<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Pulled>, HubError> {
        let source = Source::HuggingFace(wanted.clone());
        let Some(model) = self.store().resolve(naming.name).ok().filter(|model| source.is_met_by(model)) else {
            return Ok(None);
        };
        must_be(naming.expected, model.digest, naming.name)?;
        Ok(self.is_sound(&model, watch)?.then_some(Pulled { model, was_present: true }))
    }

    /// The hub to ask for `name`.
    pub(crate) fn hugging_face(&self, name: &HuggingFaceName) -> Result<HuggingFace, HubError> {
        let options = self.options();
        if options.hugging_face_offline {
            return Err(HubError::Offline { reference: format!("hf:{name}") });
        }
        let network = Network::from_environment(options);
        HuggingFace::new(&options.hugging_face_endpoint, options.hugging_face_token.as_ref(), &network)
    }
}

/// A commit of a repository, on its way into the store.
struct Repository<'a> {
    service: &'a HuggingFace,
    ingest: &'a Ingest<'a>,
    /// With the commit.
    name: &'a HuggingFaceName,
}

impl Repository<'_> {
    fn fetch(
        &self,
        hub: &Hub,
        selection: &Selection<'_>,
        listed: &[ListedFile],
        label: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<NewFile>, HubError> {
        let mut files = Vec::new();
        let mut needed = selection.files.clone();
        if let Some(index) = selection.index {
            if index.size_bytes > INDEX_LIMIT_BYTES {
                return Err(self.name.refused(format!("`{}` is larger than any index", index.path)));
            }
            let mut transfer = Transfer::new(label, Some(index.size_bytes), watch);
            let blob = self.file(index, &mut transfer)?;
            let path = hub.store().blob_path(&blob.digest);
            for shard in parse_weight_index(&fs::read(&path).map_err(HubError::io(&path))?)? {
                let file = listed.iter().find(|file| file.path == shard);
                needed.push(file.ok_or_else(|| {
                    self.name.refused(format!("its index names `{shard}`, which is not among its files"))
                })?);
            }
            files.push(NewFile { path: index.path.clone(), digest: blob.digest, size_bytes: blob.size_bytes });
        }
        let total = needed.iter().map(|file| file.size_bytes).fold(0, u64::saturating_add);
        let mut transfer = Transfer::new(label, Some(total), watch);
        for file in needed {
            let blob = self.file(file, &mut transfer)?;
            files.push(NewFile { path: file.path.clone(), digest: blob.digest, size_bytes: blob.size_bytes });
        }
        Ok(files)
    }

    fn file(&self, file: &ListedFile, transfer: &mut Transfer<'_, '_>) -> Result<StoredBlob, HubError> {
        let commit = self.name.revision.as_deref().unwrap_or_default();
        match file.checksum {
            Checksum::Sha256(digest) => {
                let url = self.service.file_url(self.name, commit, &file.path);
                let resource = self.service.resource(&url, Some(file.size_bytes));
                let download = Download { http: self.service.http(), ingest: self.ingest, resource, what: &file.path };
                download.blob(digest, transfer).map_err(|error| self.service.explain(self.name, error))
            }
            Checksum::GitBlob(_) => {
                let bytes = self.service.git_file(self.name, commit, file, &mut || transfer.downloading(0))?;
                transfer.finished(bytes.len() as u64);
                Ok(self.ingest.put_bytes(&bytes)?)
            }
        }
    }
}
