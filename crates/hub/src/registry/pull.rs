//! From a registry to a model in the store.

use super::{Access, MANIFEST_LIMIT_BYTES, REFUSAL_LIMIT_BYTES, Registry, RegistryName};
use crate::HubError;
use crate::download::{Download, Transfer};
use crate::hub::{Hub, Naming, Pulled, must_be};
use crate::local::facts_of;
use crate::progress::{Status, Watch};
use crate::reference::Source;
use freehold_base::Digest;
use freehold_store::{Ingest, StoredBlob, parse_manifest};
use reqwest::Method;

impl Hub {
    /// Pulls a model in ModelPack form. Its manifest is kept byte for byte, and with it its digest.
    pub(crate) fn pull_from_registry(
        &self,
        wanted: &RegistryName,
        ingest: &Ingest<'_>,
        naming: Naming<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Pulled, HubError> {
        let name = naming.name;
        let label = wanted.to_string();
        let mut registry = Registry::new(wanted, Access::Pull, self.options())?;
        let (digest, manifest) = registry.manifest(&mut || watch(&Status::resolving(&label)))?;
        let origin = Source::Registry(wanted.pinned(digest));
        must_be(naming.expected, digest, name)?;
        if let Some(model) = self.present(naming, &origin, watch)? {
            return Ok(Pulled { model, was_present: true });
        }
        let blobs = parse_manifest(&manifest).map_err(|error| wanted.refused(error.to_string()))?;
        if blobs.config.size_bytes > MANIFEST_LIMIT_BYTES {
            return Err(wanted.refused("its configuration is longer than any"));
        }
        let sizes = blobs.files.iter().map(|file| file.size_bytes);
        let total = sizes.fold(blobs.config.size_bytes, u64::saturating_add);
        let mut transfer = Transfer::new(name, Some(total), watch);
        let config = ("the configuration", blobs.config.digest, blobs.config.size_bytes);
        let files = blobs.files.iter().map(|file| (file.path.as_str(), file.digest, file.size_bytes));
        for (what, digest, size_bytes) in [config].into_iter().chain(files) {
            registry.fetch(ingest, what, digest, Some(size_bytes), &mut transfer)?;
        }
        let paths = blobs.files.iter().map(|file| (file.path.clone(), self.store().blob_path(&file.digest)));
        facts_of(paths.collect(), &label)?;
        let model = ingest.publish_manifest(name, &manifest, &origin.to_string())?;
        Ok(Pulled { model, was_present: false })
    }

    /// Fetches one blob of a model.
    pub(crate) fn fetch_from_registry(
        &self,
        name: &RegistryName,
        ingest: &Ingest<'_>,
        digest: Digest,
        size_bytes: Option<u64>,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<StoredBlob, HubError> {
        let mut registry = Registry::new(name, Access::Pull, self.options())?;
        registry.fetch(ingest, what, digest, size_bytes, &mut Transfer::new(what, size_bytes, watch))
    }
}

impl Registry<'_> {
    fn fetch(
        &mut self,
        ingest: &Ingest<'_>,
        what: &str,
        digest: Digest,
        size_bytes: Option<u64>,
        transfer: &mut Transfer<'_, '_>,
    ) -> Result<StoredBlob, HubError> {
        let url = self.url("blobs", &digest.to_string());
        let mut is_renewed = false;
        loop {
            let resource = self.resource(&url, size_bytes);
            match (Download { http: &self.http, ingest, resource, what }).blob(digest, transfer) {
                Ok(blob) => return Ok(blob),
                // A token that lasted for some files may not last for all.
                Err(HubError::Status { status: 401, .. }) if !is_renewed => {
                    self.ask(&Method::HEAD, &url, REFUSAL_LIMIT_BYTES, &mut || transfer.downloading(0), &|request| {
                        request
                    })?;
                    is_renewed = true;
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
    }
}
