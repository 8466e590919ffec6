//! Bringing blobs and models in.
//!
//! A blob under way is a file in `ingest/`, locked by its writer. It survives the writer's end and the next one goes on
//! from it; nothing is believed about it, so its bytes are hashed again. Beside it lie the marks of finished pieces,
//! for blobs put together from several downloads.

use crate::StoreError;
use crate::disk::{self, hash, remove_file, replace, sync_directory};
use crate::error::io_error;
use crate::lock;
use crate::manifest::{Descriptor, MANIFEST_MEDIA_TYPE, NAME_ANNOTATION, SOURCE_ANNOTATION, validate_name};
use crate::model::{Model, NewModel, parse_manifest};
use crate::store::{Store, write_index};
use freehold_base::{Digest, Hasher};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Room that a download must leave on the disk, for index.json and the like.
const SPARE_BYTES: u64 = 1 << 20;

/// Leave to add to the store. While one lives, in any process, cleaning deletes nothing: what has been brought in but
/// is not yet named by a manifest is safe.
pub struct Ingest<'a> {
    pub(crate) store: &'a Store,
    _in_use: File,
}

/// What is to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The blob with this digest.
    Blob(Digest),
    /// A blob whose digest is found out by writing it. The text says where it comes from; who writes from the same
    /// place goes on after the finished pieces. Other bytes are dropped, for nothing could tell that they are damaged.
    Unknown(String),
    /// A file that is needed only for a while, such as an archive.
    Scratch(Digest),
}

/// What to do with bytes that an earlier writer left.
#[derive(Clone, Copy, Debug)]
pub enum Resume<'a> {
    /// Go on after the last byte.
    Bytes,
    /// Go on after the last finished piece. The pieces are told apart by these labels, given in order.
    Pieces(&'a [String]),
}

/// Where a writer begins.
#[expect(clippy::large_enum_variant, reason = "one per blob, taken apart at once")]
pub enum Start<'a> {
    /// The blob is in the store already.
    Present(StoredBlob),
    /// It is to be written.
    Writer(BlobWriter<'a>),
}

/// A blob in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredBlob {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

/// Writes one blob, hashing as it goes. Dropping it keeps what was written for the next writer.
pub struct BlobWriter<'a> {
    store: &'a Store,
    target: Target,
    size_bytes: Option<u64>,
    stem: PathBuf,
    part: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
    pieces: Vec<(u64, String)>,
    _lock: File,
}

/// A verified [`Target::Scratch`] file, locked for its owner. Dropping it keeps the file.
pub struct Scratch {
    /// The file, at its beginning.
    pub file: File,
    path: PathBuf,
    stem: PathBuf,
    _lock: File,
}

/// A lock from [`Ingest::lock`]; dropping it lets the next one in.
pub struct IngestLock {
    path: PathBuf,
    _file: File,
}

impl Drop for IngestLock {
    fn drop(&mut self) {
        // Who waits notices that the name is gone and makes it anew. If it stays, a clean-up removes it.
        remove_file(&self.path).ok();
    }
}

impl<'a> Ingest<'a> {
    pub(crate) fn new(store: &'a Store) -> Result<Self, StoreError> {
        Ok(Self { store, _in_use: lock::shared(&store.use_lock())? })
    }

    /// Begins to write a blob, or finds it present. `size_bytes` is what it must have, where known. `progress` hears
    /// how many bytes there are while another process writes the same blob, and while what is there is hashed again.
    ///
    /// # Errors
    /// Cancelled by `progress`; I/O.
    pub fn writer(
        &self,
        target: &Target,
        size_bytes: Option<u64>,
        resume: Resume<'_>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Start<'a>, StoreError> {
        match self.present(target, progress) {
            Ok(None) | Err(StoreError::Damaged { .. }) => {}
            Ok(Some(blob)) => return Ok(Start::Present(blob)),
            Err(error) => return Err(error),
        }
        let stem = self.stem(target);
        let part = stem.with_extension("part");
        let lock = lock::exclusive_with(&stem.with_extension("lock"), &mut || {
            progress(fs::metadata(&part).map_or(0, |metadata| metadata.len()))
        })?;
        // Whoever held the lock may have finished the blob, or replaced a damaged one.
        match self.present(target, progress) {
            Ok(None) => {}
            Ok(Some(blob)) => return Ok(Start::Present(blob)),
            Err(StoreError::Damaged { digest, .. }) => self.store.move_aside(&digest)?,
            Err(error) => return Err(error),
        }
        let file = disk::open(&part)?;
        let mut writer = BlobWriter {
            store: self.store,
            target: target.clone(),
            size_bytes,
            stem,
            part,
            file,
            hasher: Hasher::new(),
            length: 0,
            pieces: Vec::new(),
            _lock: lock,
        };
        writer.resume(resume, progress)?;
        Ok(Start::Writer(writer))
    }

    fn stem(&self, target: &Target) -> PathBuf {
        self.store.ingest_directory().join(match target {
            Target::Blob(digest) => digest.hex(),
            Target::Unknown(origin) => format!("from-{}", Digest::of(origin.as_bytes()).hex()),
            Target::Scratch(digest) => format!("scratch-{}", digest.hex()),
        })
    }

    /// The lock of whoever writes the blob.
    pub(crate) fn blob_lock(&self, digest: &Digest) -> PathBuf {
        self.stem(&Target::Blob(*digest)).with_extension("lock")
    }

    /// The blob, if it is there.
    fn present(
        &self,
        target: &Target,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<StoredBlob>, StoreError> {
        match target {
            Target::Blob(digest) if self.store.has(digest) => {
                let size_bytes = self.store.verify_if_changed(digest, progress)?;
                Ok(Some(StoredBlob { digest: *digest, size_bytes }))
            }
            _ => Ok(None),
        }
    }

    /// Waits for a lock that is named by any text, so that work with a result that is not known by its digest is done
    /// once. `waiting` is asked again and again whether to go on.
    ///
    /// # Errors
    /// Cancelled by `waiting`; I/O.
    pub fn lock(&self, text: &str, waiting: &mut dyn FnMut() -> ControlFlow<()>) -> Result<IngestLock, StoreError> {
        let name = format!("work-{}.lock", Digest::of(text.as_bytes()).hex());
        let path = self.store.ingest_directory().join(name);
        Ok(IngestLock { _file: lock::exclusive_with(&path, waiting)?, path })
    }

    /// Puts a small blob.
    ///
    /// # Errors
    /// I/O.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<StoredBlob, StoreError> {
        let target = Target::Blob(Digest::of(bytes));
        let mut quiet = |_| ControlFlow::Continue(());
        match self.writer(&target, Some(bytes.len() as u64), Resume::Bytes, &mut quiet)? {
            Start::Present(blob) => Ok(blob),
            Start::Writer(mut writer) => {
                writer.restart()?;
                writer.write(bytes)?;
                writer.commit()
            }
        }
    }

    /// Takes over a file from elsewhere on this machine: a hard link where the file system allows it, else a copy. Its
    /// bytes are hashed; `expected` is the digest they must have, where known.
    ///
    /// A link shares its bytes with the original, so a later change there shows here; it is noticed at the next use.
    ///
    /// # Errors
    /// The content is wrong; cancelled by `progress`, which hears the bytes hashed; I/O.
    pub fn adopt_file(
        &self,
        source: &Path,
        expected: Option<Digest>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<StoredBlob, StoreError> {
        // Snapshots in Hugging Face's cache are symbolic links; a link to a link would not survive the cache.
        let source = &fs::canonicalize(source).map_err(io_error("find", source))?;
        let mut original = File::open(source).map_err(io_error("open", source))?;
        let size_bytes = original.metadata().map_err(io_error("read", source))?.len();
        let digest = match expected {
            Some(digest) => digest,
            None => hash(&mut original, source, None, progress)?.0.finish(),
        };
        let mut writer = match self.writer(&Target::Blob(digest), Some(size_bytes), Resume::Pieces(&[]), progress)? {
            Start::Present(blob) => return Ok(blob),
            Start::Writer(writer) => writer,
        };
        // Under a name of its own, for a part may be truncated and this is the user's file.
        let link = writer.stem.with_extension("link");
        remove_file(&link)?;
        let modified = || fs::metadata(source).and_then(|metadata| metadata.modified()).ok();
        let before = modified();
        let is_link = disk::hard_link(source, &link).is_ok();
        if is_link {
            remove_file(&writer.part)?;
            writer.file = File::open(&link).map_err(io_error("open", &link))?;
            writer.part = link;
            (writer.hasher, writer.length) = hash(&mut writer.file, &writer.part, None, progress)?;
        } else {
            writer.reserve(size_bytes)?;
            original.seek(SeekFrom::Start(0)).map_err(io_error("read", source))?;
            disk::for_each_chunk(&mut original, source, None, |bytes, done| {
                if progress(done).is_break() {
                    return Err(StoreError::Cancelled);
                }
                writer.write(bytes)
            })?;
        }
        let blob = writer.commit().map_err(|error| match error {
            StoreError::WrongDigest { expected, got, .. } => {
                StoreError::WrongDigest { what: source.display().to_string(), expected, got }
            }
            other => other,
        })?;
        // The original was written to since its bytes were read.
        if is_link && before != modified() {
            self.store.forget_verified(&blob.digest)?;
        }
        Ok(blob)
    }

    /// Names a model whose blobs are all there. A model that had the name loses it. `source` says where this copy came
    /// from.
    ///
    /// # Errors
    /// The name or a file's path is not allowed; a blob is missing; I/O.
    pub fn publish(&self, name: &str, model: &NewModel, source: &str) -> Result<Model, StoreError> {
        validate_name(name)?;
        let documents = model.documents()?;
        self.put_bytes(&documents.config)?;
        self.publish_manifest(name, &documents.manifest, source)
    }

    /// [`Ingest::publish`] for a model that has a manifest already, which is kept as it is, and with it its digest. Its
    /// configuration must be there like its files.
    ///
    /// # Errors
    /// It is no manifest of a model, and those of [`Ingest::publish`].
    pub fn publish_manifest(&self, name: &str, manifest: &[u8], source: &str) -> Result<Model, StoreError> {
        validate_name(name)?;
        let blobs = parse_manifest(manifest)?;
        let needed = blobs.files.iter().map(|file| (file.path.as_str(), file.digest, file.size_bytes));
        for (what, digest, size_bytes) in
            needed.chain([("the configuration", blobs.config.digest, blobs.config.size_bytes)])
        {
            if !fs::metadata(self.store.blob_path(&digest)).is_ok_and(|there| there.len() == size_bytes) {
                return Err(StoreError::MissingBlob { digest, needed_by: format!("{what} of {name}") });
            }
        }
        let manifest = self.put_bytes(manifest)?;
        let descriptor = Descriptor::new(MANIFEST_MEDIA_TYPE, manifest.digest, manifest.size_bytes)
            .with_annotation(NAME_ANNOTATION, name)
            .with_annotation(SOURCE_ANNOTATION, source);
        // Read before it has a name, so that nothing is named that cannot be read.
        let model = self.store.model(&descriptor)?;
        let _index_lock = lock::exclusive(&self.store.index_lock())?;
        let mut index = self.store.read_index()?;
        index.manifests.retain(|entry| entry.name() != Some(name));
        index.manifests.push(descriptor);
        write_index(self.store, &index)?;
        Ok(model)
    }
}

impl BlobWriter<'_> {
    /// Bytes that are there.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Finished pieces that are there, of those named in [`Resume::Pieces`].
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Whether the bytes that are there are the whole blob, as far as its digest tells.
    pub fn is_whole(&self) -> bool {
        match self.target {
            Target::Blob(expected) | Target::Scratch(expected) => self.hasher.clone().finish() == expected,
            Target::Unknown(_) => false,
        }
    }

    /// Fails now, rather than later, if the disk cannot hold a blob of `size_bytes`.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`].
    pub fn reserve(&self, size_bytes: u64) -> Result<(), StoreError> {
        let needed = size_bytes.saturating_sub(self.length);
        match disk::free_bytes(&self.part) {
            Some(free) if free < needed.saturating_add(SPARE_BYTES) && needed > 0 => Err(StoreError::DiskFull {
                path: self.store.root().to_owned(),
                needed_bytes: Some(needed),
                free_bytes: Some(free),
            }),
            _ => Ok(()),
        }
    }

    /// Appends.
    ///
    /// # Errors
    /// More bytes than the blob has, which are then all dropped; a full disk; I/O.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let length = self.length.saturating_add(bytes.len() as u64);
        if let Some(size) = self.size_bytes
            && length > size
        {
            self.restart()?;
            return Err(StoreError::WrongSize { what: self.what(), expected: size, got: length });
        }
        if let Err(error) = disk::write(&self.file, &self.part, bytes) {
            // How much of it arrived is unknown; what was hashed is what counts. Whoever resumes hashes what is there.
            disk::truncate(&self.file, &self.part, self.length).ok();
            self.file.seek(SeekFrom::Start(self.length)).ok();
            return Err(match error {
                StoreError::DiskFull { free_bytes, .. } => StoreError::DiskFull {
                    path: self.store.root().to_owned(),
                    needed_bytes: self.size_bytes.map(|size| size - self.length),
                    free_bytes,
                },
                other => other,
            });
        }
        self.hasher.update(bytes);
        self.length = length;
        Ok(())
    }

    /// Marks the end of a piece, so that a later writer need not fetch it again.
    ///
    /// # Errors
    /// I/O.
    pub fn finish_piece(&mut self, label: &str) -> Result<(), StoreError> {
        // The bytes must reach the disk before the mark that vouches for them.
        self.sync()?;
        self.pieces.push((self.length, label.replace(['\n', '\r'], " ")));
        let mut text = String::new();
        for (end, label) in &self.pieces {
            writeln!(text, "{end} {label}").expect("writing to a String cannot fail");
        }
        replace(&self.stem.with_extension("marks"), &self.stem.with_extension("marks-new"), text.as_bytes())
    }

    /// Drops all bytes and begins anew.
    ///
    /// # Errors
    /// I/O.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        remove_file(&self.stem.with_extension("marks"))?;
        self.pieces.clear();
        self.rewind(0, &mut |_| ControlFlow::Continue(()))
    }

    /// Verifies the bytes, makes them durable, and gives the blob its name.
    ///
    /// # Errors
    /// Too few bytes, which are kept; the wrong digest, after which they are dropped; I/O.
    pub fn commit(mut self) -> Result<StoredBlob, StoreError> {
        let digest = self.verify()?;
        self.sync()?;
        let path = self.store.blob_path(&digest);
        disk::rename(&self.part, &path)?;
        sync_directory(&self.store.blobs_directory())?;
        self.store.note_verified(&digest, disk::stamp(&path, &digest));
        remove_file(&self.store.aside_path(&digest))?;
        // Others who wait on this lock find the blob present, so the lock's name is no longer needed.
        self.remove_traces()?;
        Ok(StoredBlob { digest, size_bytes: self.length })
    }

    /// Verifies the bytes and hands them over as a file that is removed after use.
    ///
    /// # Errors
    /// As [`BlobWriter::commit`].
    pub fn into_scratch(mut self) -> Result<Scratch, StoreError> {
        self.verify()?;
        self.file.seek(SeekFrom::Start(0)).map_err(io_error("read", &self.part))?;
        Ok(Scratch { file: self.file, path: self.part, stem: self.stem, _lock: self._lock })
    }

    fn verify(&mut self) -> Result<Digest, StoreError> {
        if let Some(size) = self.size_bytes
            && size != self.length
        {
            return Err(StoreError::WrongSize { what: self.what(), expected: size, got: self.length });
        }
        let got = self.hasher.clone().finish();
        match self.target {
            Target::Blob(expected) | Target::Scratch(expected) if expected != got => {
                remove_file(&self.part)?;
                self.remove_traces()?;
                Err(StoreError::WrongDigest { what: self.what(), expected, got })
            }
            _ => Ok(got),
        }
    }

    fn what(&self) -> String {
        match &self.target {
            Target::Blob(_) => "the file".to_owned(),
            Target::Unknown(origin) => origin.clone(),
            Target::Scratch(_) => "the package".to_owned(),
        }
    }

    fn resume(
        &mut self,
        resume: Resume<'_>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let length = self.file.metadata().map_err(io_error("read", &self.part))?.len();
        let keep = match resume {
            Resume::Bytes if matches!(self.target, Target::Unknown(_)) => 0,
            Resume::Bytes => length,
            Resume::Pieces(labels) => {
                self.pieces = finished_pieces(&self.stem.with_extension("marks"), labels, length);
                self.pieces.last().map_or(0, |(end, _)| *end)
            }
        };
        // More than the blob has: not a part of it.
        let keep = if self.size_bytes.is_some_and(|size| keep > size) { 0 } else { keep };
        if keep == 0 {
            self.pieces.clear();
        }
        self.rewind(keep, progress)
    }

    /// Keeps the first `length` bytes on disk and hashes them.
    fn rewind(&mut self, length: u64, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), StoreError> {
        let there = self.file.metadata().map_err(io_error("read", &self.part))?.len();
        if there > length {
            disk::truncate(&self.file, &self.part, length)?;
        }
        self.file.seek(SeekFrom::Start(0)).map_err(io_error("read", &self.part))?;
        (self.hasher, self.length) = hash(&mut self.file, &self.part, Some(length), progress)?;
        Ok(())
    }

    /// Makes what is written durable. Where that fails the bytes are dropped: the system may have thrown them away and
    /// still show them, and would call them durable when asked again.
    fn sync(&mut self) -> Result<(), StoreError> {
        disk::sync(&self.file, &self.part).inspect_err(|_| {
            self.restart().ok();
        })
    }

    fn remove_traces(&self) -> Result<(), StoreError> {
        remove_file(&self.stem.with_extension("marks"))?;
        remove_file(&self.stem.with_extension("lock"))
    }
}

impl Scratch {
    /// Deletes the file.
    ///
    /// # Errors
    /// I/O.
    pub fn remove(self) -> Result<(), StoreError> {
        remove_file(&self.path)?;
        remove_file(&self.stem.with_extension("lock"))
    }
}

/// The marks of leading pieces that fit `labels` and lie within the file. Marks are hints: what does not fit is dropped,
/// and the digest at the end has the last word.
fn finished_pieces(marks: &Path, labels: &[String], length: u64) -> Vec<(u64, String)> {
    let Ok(bytes) = disk::read_limited(marks, 1 << 20) else { return Vec::new() };
    let text = String::from_utf8_lossy(&bytes);
    let mut previous = 0;
    text.lines()
        .zip(labels)
        .map_while(|(line, label)| {
            let (end, marked) = line.split_once(' ')?;
            let end = end.parse().ok().filter(|end| (previous..=length).contains(end))?;
            previous = end;
            (marked == label.replace(['\n', '\r'], " ")).then(|| (end, marked.to_owned()))
        })
        .collect()
}
