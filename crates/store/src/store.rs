//! The directory itself: opening, finding, listing, removing, cleaning.

use crate::StoreError;
use crate::disk::{self, hash, read_limited, remove_file, replace, stamp, sync_directory};
use crate::error::io_error;
use crate::ingest::Ingest;
use crate::lock;
use crate::manifest::{
    Descriptor, INDEX_LIMIT_BYTES, INDEX_MEDIA_TYPE, Index, LAYOUT_VERSION, LayoutMarker, MANIFEST_LIMIT_BYTES,
    MANIFEST_MEDIA_TYPE,
};
use crate::model::{Model, parse, to_json};
use freehold_base::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Manifests of these types are walked when the store looks for blobs in use.
const WALKED_MEDIA_TYPES: [&str; 4] = [
    MANIFEST_MEDIA_TYPE,
    INDEX_MEDIA_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// What to do when it is not known any more which models there are.
const BEGIN_ANEW: &str = "restore it, or remove it and `oci-layout` beside it to begin with an empty store: models \
    that are pulled again then take what is there of their files";

/// A store on disk.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A line of [`Store::list`].
#[derive(Debug)]
pub struct Entry {
    /// The model's name; some entries, made by other tools, have none.
    pub name: Option<String>,
    /// The manifest's digest.
    pub digest: Digest,
    /// The reference that this copy was fetched from.
    pub source: Option<String>,
    /// The model, or why its manifest cannot be read. One bad model does not hide the others.
    pub model: Result<Model, StoreError>,
}

/// What a removal freed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Freed {
    /// Deleted files.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
    /// A pull or a scrub was running, so the blobs stay until the next clean-up.
    pub deferred: bool,
}

impl Entry {
    /// The name, or the digest of an entry without one.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.digest.to_string())
    }
}

impl Store {
    /// Opens the store at `root` and creates it if there is none.
    ///
    /// # Errors
    /// The directory cannot be written, belongs to a layout of another version, or has lost its index.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: root.into() };
        for directory in
            [store.blobs_directory(), store.ingest_directory(), store.verified_directory(), store.root.join("locks")]
        {
            disk::create_directory(&directory)?;
        }
        let marker = store.root.join("oci-layout");
        if !exists(&marker)? {
            let _lock = lock::exclusive(&store.index_lock())?;
            // In this order, so that what is marked as a store has had an index.
            if !exists(&store.index_path())? {
                write_index(&store, &Index::empty())?;
            }
            if !exists(&marker)? {
                let layout = LayoutMarker { image_layout_version: LAYOUT_VERSION.to_owned() };
                replace(&marker, &store.ingest_directory().join("oci-layout-new"), &to_json(&layout))?;
            }
        }
        let malformed = |reason| StoreError::Malformed { path: marker.clone(), reason };
        let layout: LayoutMarker = serde_json::from_slice(&read_limited(&marker, 4096)?)
            .map_err(|error| malformed(format!("as an OCI layout marker: {error}")))?;
        if !layout.image_layout_version.starts_with("1.") {
            return Err(malformed("it is of an OCI layout other than 1; use a newer Freehold".to_owned()));
        }
        // An empty index in its place would have the next clean-up delete every model.
        if !exists(&store.index_path())? {
            return Err(StoreError::Malformed {
                path: store.index_path(),
                reason: format!("it is gone; {BEGIN_ANEW}"),
            });
        }
        Ok(store)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Leave to add blobs and models; waits while the store is being cleaned.
    ///
    /// # Errors
    /// I/O.
    pub fn ingest(&self) -> Result<Ingest<'_>, StoreError> {
        Ingest::new(self)
    }

    /// Whether the blob is there.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Where the blob lies, or would lie. The bytes there are to be trusted only after [`Store::verify_blob`] or
    /// [`Store::files`].
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_directory().join(digest.hex())
    }

    /// Hashes the blob's bytes, whatever is known about them; gives its size. `progress` hears the bytes hashed.
    ///
    /// # Errors
    /// The blob is missing or damaged; cancelled; I/O.
    pub fn verify_blob(
        &self,
        digest: &Digest,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, StoreError> {
        let path = self.blob_path(digest);
        // Taken before the bytes are read: what changes meanwhile shows at the next use.
        let stamp = stamp(&path, digest);
        let mut file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::MissingBlob { digest: *digest, needed_by: "the caller".to_owned() },
            _ => io_error("read", &path)(error),
        })?;
        let (hasher, size_bytes) = hash(&mut file, &path, None, progress)?;
        let got = hasher.finish();
        if got != *digest {
            self.forget_verified(digest)?;
            return Err(StoreError::Damaged { digest: *digest, got });
        }
        self.note_verified(digest, stamp);
        Ok(size_bytes)
    }

    /// [`Store::verify_blob`], unless the blob's size and time of change are those of its last verification.
    pub(crate) fn verify_if_changed(
        &self,
        digest: &Digest,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, StoreError> {
        let path = self.blob_path(digest);
        let known = read_limited(&self.verified_path(digest), 256).ok();
        let now = stamp(&path, digest).map(String::into_bytes);
        if now.is_none() || known != now {
            return self.verify_blob(digest, progress);
        }
        Ok(fs::metadata(&path).map_err(io_error("read", &path))?.len())
    }

    /// Where the model's files lie (name inside the model → blob), their bytes verified; `freehold-formats` opens a
    /// checkpoint from this map. A blob whose size and time of change are those of its last
    /// verification is not hashed again. `progress` hears the bytes done of [`Model::size_bytes`].
    ///
    /// # Errors
    /// A blob is missing or damaged; cancelled; I/O.
    pub fn files(
        &self,
        model: &Model,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<BTreeMap<String, PathBuf>, StoreError> {
        let mut done = 0u64;
        for file in &model.files {
            if !self.has(&file.digest) {
                let needed_by = format!("{} of {}", file.path, model.label());
                return Err(StoreError::MissingBlob { digest: file.digest, needed_by });
            }
            let size = self.verify_if_changed(&file.digest, &mut |bytes| progress(done.saturating_add(bytes)))?;
            if size != file.size_bytes {
                let what = format!("{} of {}", file.path, model.label());
                return Err(StoreError::WrongSize { what, expected: file.size_bytes, got: size });
            }
            done = done.saturating_add(size);
        }
        Ok(model.files.iter().map(|file| (file.path.clone(), self.blob_path(&file.digest))).collect())
    }

    /// All models, by name.
    ///
    /// # Errors
    /// index.json cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<_> = self
            .read_index()?
            .manifests
            .iter()
            .map(|descriptor| Entry {
                name: descriptor.name().map(str::to_owned),
                digest: descriptor.digest,
                source: descriptor.source().map(str::to_owned),
                model: self.model(descriptor),
            })
            .collect();
        entries.sort_by(|a, b| (&a.name, a.digest).cmp(&(&b.name, b.digest)));
        Ok(entries)
    }

    /// Finds a model: `NAME`, `NAME@sha256:…`, or `sha256:` and at least six digits of the manifest's digest.
    ///
    /// # Errors
    /// There is none, or several; the name has another digest; its manifest cannot be read.
    pub fn resolve(&self, reference: &str) -> Result<Model, StoreError> {
        let index = self.read_index()?;
        self.model(find(&index, reference)?)
    }

    /// Takes a model's name away and deletes the blobs that no other model needs. `reference` as in [`Store::resolve`].
    ///
    /// # Errors
    /// There is no such model; I/O.
    pub fn remove(&self, reference: &str) -> Result<Freed, StoreError> {
        let _index_lock = lock::exclusive(&self.index_lock())?;
        let mut index = self.read_index()?;
        let removed = find(&index, reference)?.clone();
        index.manifests.retain(|entry| entry.digest != removed.digest || entry.name() != removed.name());
        // What can no longer be read cannot be freed here; a clean-up finds it.
        let mut candidates = BTreeSet::new();
        let readable = self.reach(&removed, &mut candidates).is_ok();
        write_index(self, &index)?;
        let Some(_use_lock) = lock::try_exclusive(&self.use_lock())? else {
            return Ok(Freed { deferred: true, ..Freed::default() });
        };
        let Ok(reachable) = self.reachable(&index) else {
            return Ok(Freed { deferred: true, ..Freed::default() });
        };
        let mut freed = Freed { deferred: !readable, ..Freed::default() };
        for digest in candidates.difference(&reachable) {
            self.delete_blob(digest, &mut freed)?;
        }
        sync_directory(&self.blobs_directory())?;
        Ok(freed)
    }

    /// Deletes every blob that no manifest needs, what broken-off pulls left, and damaged blobs that were set aside.
    /// Deletes nothing while a pull or a scrub runs.
    ///
    /// # Errors
    /// A manifest cannot be read, or is lost, so that it is unknown what it needs; I/O.
    pub fn clean(&self) -> Result<Freed, StoreError> {
        let _index_lock = lock::exclusive(&self.index_lock())?;
        let Some(_use_lock) = lock::try_exclusive(&self.use_lock())? else {
            return Ok(Freed { deferred: true, ..Freed::default() });
        };
        let reachable = self.reachable(&self.read_index()?)?;
        let mut freed = Freed::default();
        for digest in self.stored_digests()? {
            if !reachable.contains(&digest) {
                self.delete_blob(&digest, &mut freed)?;
            }
        }
        for name in names(&self.ingest_directory())? {
            let path = self.ingest_directory().join(name);
            let size = fs::symlink_metadata(&path).map_err(io_error("read", &path))?;
            if size.is_dir() {
                disk::remove_directory(&path)?;
            } else {
                remove_file(&path)?;
                freed.files += 1;
                freed.bytes = freed.bytes.saturating_add(size.len());
            }
        }
        for name in names(&self.verified_directory())? {
            if !self.blobs_directory().join(&name).exists() {
                remove_file(&self.verified_directory().join(&name))?;
            }
        }
        sync_directory(&self.blobs_directory())?;
        Ok(freed)
    }

    /// A directory for files on their way in that other programs write; emptied by [`Store::clean`].
    pub fn ingest_directory(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn blobs_directory(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    pub(crate) fn index_lock(&self) -> PathBuf {
        self.root.join("locks").join("index")
    }

    pub(crate) fn use_lock(&self) -> PathBuf {
        self.root.join("locks").join("use")
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn verified_directory(&self) -> PathBuf {
        self.root.join("verified")
    }

    fn verified_path(&self, digest: &Digest) -> PathBuf {
        self.verified_directory().join(digest.hex())
    }

    /// Remembers that the blob's bytes were hashed when it had this stamp. A torn or missing note costs one more hashing.
    pub(crate) fn note_verified(&self, digest: &Digest, stamp: Option<String>) {
        if let Some(stamp) = stamp {
            disk::overwrite(&self.verified_path(digest), stamp.as_bytes()).ok();
        }
    }

    pub(crate) fn forget_verified(&self, digest: &Digest) -> Result<(), StoreError> {
        remove_file(&self.verified_path(digest))
    }

    pub(crate) fn read_index(&self) -> Result<Index, StoreError> {
        let path = self.index_path();
        let bytes = read_limited(&path, INDEX_LIMIT_BYTES)?;
        let malformed = |reason| StoreError::Malformed { path: path.clone(), reason };
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(format!("as the store's index: {error}; {BEGIN_ANEW}")))?;
        if index.schema_version != 2 {
            return Err(malformed(format!("schemaVersion is {}, not 2", index.schema_version)));
        }
        Ok(index)
    }

    /// Reads a manifest named by the index. Its bytes are verified: it says which bytes everything else must have.
    fn read_manifest(&self, digest: &Digest, needed_by: &str) -> Result<Vec<u8>, StoreError> {
        if !self.has(digest) {
            return Err(StoreError::MissingBlob { digest: *digest, needed_by: needed_by.to_owned() });
        }
        let bytes = read_limited(&self.blob_path(digest), MANIFEST_LIMIT_BYTES)?;
        let got = Digest::of(&bytes);
        if got != *digest {
            return Err(StoreError::Damaged { digest: *digest, got });
        }
        Ok(bytes)
    }

    /// The bytes of a model's manifest, verified.
    ///
    /// # Errors
    /// The blob is missing or damaged; I/O.
    pub fn manifest(&self, model: &Model) -> Result<Vec<u8>, StoreError> {
        self.read_manifest(&model.digest, &model.label())
    }

    pub(crate) fn model(&self, descriptor: &Descriptor) -> Result<Model, StoreError> {
        let label = descriptor.label();
        let manifest = self.read_manifest(&descriptor.digest, &label)?;
        let (facts, files) =
            parse(&self.blob_path(&descriptor.digest), &manifest, |config| self.read_manifest(config, &label))?;
        Ok(Model {
            name: descriptor.name().map(str::to_owned),
            digest: descriptor.digest,
            facts,
            files,
            source: descriptor.source().map(str::to_owned),
        })
    }

    /// The blobs that are there. Names that are no digest are not ours.
    pub(crate) fn stored_digests(&self) -> Result<Vec<Digest>, StoreError> {
        let digest = |name: String| name.parse::<Digest>().ok().filter(|digest| digest.hex() == name);
        Ok(names(&self.blobs_directory())?.into_iter().filter_map(digest).collect())
    }

    /// Takes a blob's name away and keeps its bytes; the caller holds the blob's lock.
    pub(crate) fn move_aside(&self, digest: &Digest) -> Result<(), StoreError> {
        self.forget_verified(digest)?;
        disk::rename(&self.blob_path(digest), &self.aside_path(digest))?;
        sync_directory(&self.blobs_directory())
    }

    /// Where a damaged blob's bytes are kept.
    pub(crate) fn aside_path(&self, digest: &Digest) -> PathBuf {
        self.ingest_directory().join(format!("damaged-{}", digest.hex()))
    }

    fn delete_blob(&self, digest: &Digest, freed: &mut Freed) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        if let Ok(metadata) = fs::symlink_metadata(&path) {
            remove_file(&path)?;
            self.forget_verified(digest)?;
            freed.files += 1;
            freed.bytes = freed.bytes.saturating_add(metadata.len());
        }
        Ok(())
    }

    fn reachable(&self, index: &Index) -> Result<BTreeSet<Digest>, StoreError> {
        let mut reachable = BTreeSet::new();
        for descriptor in &index.manifests {
            self.reach(descriptor, &mut reachable)?;
        }
        Ok(reachable)
    }

    /// Adds the blob of an entry of the index and all that follow from it. Manifests of other tools count as well. One
    /// that cannot be read does not keep the others from being walked. Those that an index of another tool names need
    /// not be there: it may hold one platform of several.
    pub(crate) fn reach(&self, first: &Descriptor, reachable: &mut BTreeSet<Digest>) -> Result<(), StoreError> {
        let is_walked = |descriptor: &Descriptor| WALKED_MEDIA_TYPES.contains(&descriptor.media_type.as_str());
        let mut result = Ok(());
        if is_walked(first) && !self.has(&first.digest) {
            result = Err(StoreError::MissingBlob { digest: first.digest, needed_by: first.label() });
        }
        let mut open = vec![first.clone()];
        while let Some(descriptor) = open.pop() {
            let new = reachable.insert(descriptor.digest);
            if !new || !is_walked(&descriptor) || !self.has(&descriptor.digest) {
                continue;
            }
            match self.targets(&descriptor) {
                Ok(targets) => open.extend(targets),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// What a manifest or an index refers to.
    fn targets(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>, StoreError> {
        let malformed = |reason| StoreError::Malformed { path: self.blob_path(&descriptor.digest), reason };
        let bytes = self.read_manifest(&descriptor.digest, "the index")?;
        let mut document: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let mut descriptors = Vec::new();
        for field in ["config", "subject", "layers", "manifests", "blobs"] {
            let targets = match document.get_mut(field).map(serde_json::Value::take) {
                Some(serde_json::Value::Array(targets)) => targets,
                Some(target @ serde_json::Value::Object(_)) => vec![target],
                _ => continue,
            };
            for target in targets {
                let target = serde_json::from_value(target).map_err(|error| malformed(format!("{field}: {error}")))?;
                descriptors.push(target);
            }
        }
        Ok(descriptors)
    }
}

/// Whether there is something at the path. That this cannot be told is no "no".
fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(io_error("read", path))
}

/// Replaces index.json; the caller holds the index lock.
pub(crate) fn write_index(store: &Store, index: &Index) -> Result<(), StoreError> {
    replace(&store.index_path(), &store.ingest_directory().join("index-new"), &to_json(index))
}

pub(crate) fn find<'a>(index: &'a Index, reference: &str) -> Result<&'a Descriptor, StoreError> {
    let not_found = || StoreError::NotFound { reference: reference.chars().take(200).collect() };
    if let Some(prefix) = reference.strip_prefix("sha256:") {
        if prefix.len() < 6 {
            return Err(StoreError::Ambiguous { reference: reference.to_owned() });
        }
        let prefix = prefix.to_ascii_lowercase();
        let mut fitting = index.manifests.iter().filter(|entry| entry.digest.hex().starts_with(&prefix));
        let first = fitting.next().ok_or_else(not_found)?;
        // One manifest under two names is still one model.
        if fitting.any(|other| other.digest != first.digest) {
            return Err(StoreError::Ambiguous { reference: reference.to_owned() });
        }
        return Ok(first);
    }
    let (name, pinned) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|_| not_found())?)),
        None => (reference, None),
    };
    let found = index.manifests.iter().find(|entry| entry.name() == Some(name)).ok_or_else(not_found)?;
    match pinned {
        Some(expected) if expected != found.digest => {
            Err(StoreError::OtherDigest { name: name.to_owned(), expected, found: found.digest })
        }
        _ => Ok(found),
    }
}

/// The names in a directory; those that are not UTF-8 are not ours.
fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(io_error("read", directory))? {
        let entry = entry.map_err(io_error("read", directory))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
