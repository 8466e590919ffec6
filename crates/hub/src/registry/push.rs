//! From the store to a registry.

use super::{Access, MANIFEST_MEDIA_TYPE, REFUSAL_LIMIT_BYTES, Registry, RegistryName, SENDING, Version};
use crate::HubError;
use crate::http::{Answer, host, stopped};
use crate::hub::Hub;
use crate::progress::{Status, Watch};
use freehold_base::Digest;
use freehold_store::parse_manifest;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use url::Url;

/// Sent in one request, so that a slow connection still shows progress and can be stopped. Registries that set a least
/// size for pieces ask for no more than this.
const PIECE_BYTES: u64 = 8 << 20;

/// A model that was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// Where it is now, by its digest.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes that the registry did not have.
    pub bytes_sent: u64,
}

impl Hub {
    /// Sends a model of the store to a registry: `oci://HOST/NAME[:TAG]`. Its bytes are verified first; what the registry
    /// has is not sent again.
    ///
    /// # Errors
    /// The model is not there or damaged; the registry cannot be reached or refuses; `watch` stopped it.
    pub fn push(&self, model: &str, target: &str, watch: &mut Watch<'_>) -> Result<Pushed, HubError> {
        let target = RegistryName::parse(target)?;
        // Held to the end, so that nothing is cleaned away before it is sent.
        let _in_use = self.store().ingest()?;
        let model = self.store().resolve(model)?;
        if let Version::Digest(digest) = target.version
            && digest != model.digest
        {
            return Err(target.refused(format!("the model is {}: give a tag, or that digest", model.digest)));
        }
        let (label, checked) = (model.label(), model.size_bytes());
        self.store().files(&model, &mut |bytes| watch(&Status::checking(&label, bytes, Some(checked))))?;
        let manifest = self.store().manifest(&model)?;
        let blobs = parse_manifest(&manifest)?;
        self.store().verify_blob(&blobs.config.digest, &mut |_| watch(&Status::resolving(&label)))?;
        let files = blobs.files.iter().map(|file| (file.digest, file.size_bytes));
        let needed: Vec<_> = files.chain([(blobs.config.digest, blobs.config.size_bytes)]).collect();
        let total = needed.iter().map(|(_, size)| *size).fold(0, u64::saturating_add);
        let mut registry = Registry::new(&target, Access::Push, self.options())?;
        let (mut done, mut bytes_sent) = (0u64, 0u64);
        for (digest, size_bytes) in needed {
            let mut progress = |bytes: u64| watch(&Status::uploading(&label, done.saturating_add(bytes), Some(total)));
            stopped(progress(0))?;
            if !registry.has_blob(&digest, &mut progress)? {
                registry.send_blob(&digest, size_bytes, &self.store().blob_path(&digest), &mut progress)?;
                bytes_sent = bytes_sent.saturating_add(size_bytes);
            }
            done = done.saturating_add(size_bytes);
        }
        registry.send_manifest(&manifest, &model.digest, &mut |_| watch(&Status::resolving(&label)))?;
        Ok(Pushed { reference: target.pinned(model.digest).to_string(), digest: model.digest, bytes_sent })
    }
}

/// Hears of the bytes of the present blob.
type Progress<'p> = dyn FnMut(u64) -> std::ops::ControlFlow<()> + 'p;

impl Registry<'_> {
    fn has_blob(&mut self, digest: &Digest, progress: &mut Progress<'_>) -> Result<bool, HubError> {
        let url = self.url("blobs", &digest.to_string());
        let answer = self.ask(&Method::HEAD, &url, REFUSAL_LIMIT_BYTES, &mut || progress(0), &|request| request)?;
        match answer.status {
            404 => Ok(false),
            _ => answer.success().map(|_| true).map_err(|error| self.explain(error)),
        }
    }

    fn send_blob(
        &mut self,
        digest: &Digest,
        size_bytes: u64,
        path: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<(), HubError> {
        let begin = self.url("blobs", "uploads/");
        let answer = self.send(&Method::POST, &begin, &[], &[], progress)?;
        let mut upload = self.location(&answer, &begin)?;
        let file = File::open(path).map_err(HubError::io(path))?;
        let mut piece = Vec::new();
        let read = |piece: &mut Vec<u8>| {
            piece.clear();
            (&file).take(PIECE_BYTES).read_to_end(piece).map_err(HubError::io(path))
        };
        read(&mut piece)?;
        let mut sent = 0u64;
        // What fits into one piece goes with the closing request.
        if size_bytes > PIECE_BYTES {
            while !piece.is_empty() {
                let next = sent + piece.len() as u64;
                let range = format!("{sent}-{}", next - 1);
                let answer =
                    self.send(&Method::PATCH, &upload, &piece, &[(CONTENT_RANGE, &range)], &mut |_| progress(sent))?;
                upload = self.location(&answer, &upload)?;
                sent = next;
                stopped(progress(sent))?;
                read(&mut piece)?;
            }
        }
        upload.query_pairs_mut().append_pair("digest", &digest.to_string());
        self.send(&Method::PUT, &upload, &piece, &[], &mut |_| progress(sent))?;
        Ok(())
    }

    fn send_manifest(&mut self, manifest: &[u8], digest: &Digest, progress: &mut Progress<'_>) -> Result<(), HubError> {
        let url = self.url("manifests", &self.name.version.to_string());
        let headers = [(CONTENT_TYPE, MANIFEST_MEDIA_TYPE)];
        let answer = self.send(&Method::PUT, &url, manifest, &headers, progress)?;
        let stored = answer.header("Docker-Content-Digest").and_then(|text| text.parse::<Digest>().ok());
        match stored {
            Some(stored) if stored != *digest => Err(HubError::Answer {
                what: "the digest of the manifest",
                reason: format!("it was to be {digest} and is {stored}"),
            }),
            _ => Ok(()),
        }
    }

    fn send(
        &mut self,
        method: &Method,
        url: &Url,
        body: &[u8],
        headers: &[(reqwest::header::HeaderName, &str)],
        progress: &mut Progress<'_>,
    ) -> Result<Answer, HubError> {
        let answer = self.ask(method, url, REFUSAL_LIMIT_BYTES, &mut || progress(0), &|request| {
            let kind = headers.iter().all(|(name, _)| *name != CONTENT_TYPE).then_some("application/octet-stream");
            let request = request.timeout(SENDING).header(CONTENT_LENGTH, body.len()).body(body.to_vec());
            let request = kind.into_iter().fold(request, |request, kind| request.header(CONTENT_TYPE, kind));
            headers.iter().fold(request, |request, (name, value)| request.header(name, *value))
        });
        let answer = answer.map_err(|error| match error {
            HubError::BrokenOff { reason, .. } => self.name.refused(format!(
                "the connection broke off ({reason}); run the same command once more, whole files that arrived are not sent again"
            )),
            other => other,
        })?;
        let answer = answer.success().map_err(|error| self.explain(error))?;
        // Any web server says 200, and a redirect may have made a question of what was to be written.
        match answer.status {
            201 | 202 | 204 => Ok(answer),
            status => Err(self.name.refused(format!(
                "{} answered {status} to what was sent there, as no registry does: check the host",
                host(&self.base)
            ))),
        }
    }

    /// Where to go on with an upload.
    fn location(&self, answer: &Answer, from: &Url) -> Result<Url, HubError> {
        let wrong = |reason: &str| HubError::Answer { what: "the place to upload to", reason: reason.to_owned() };
        let location = answer.header("location").ok_or_else(|| wrong("there is none"))?;
        let url = from.join(location).map_err(|_| wrong("it is no address"))?;
        if url.origin() == self.base.origin() { Ok(url) } else { Err(wrong("it lies on another server")) }
    }
}
