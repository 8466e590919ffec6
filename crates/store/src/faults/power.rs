//! What a power cut leaves: what was made durable, and any part of the rest.

use crate::disk::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files and directories are told apart by their number in the file system, whatever they are called.
type Inode = u64;
type Names = BTreeMap<OsString, Inode>;

/// What of a directory would survive a power cut for certain.
pub(super) struct Durable {
    root: Inode,
    /// Everything that was ever there, kept open so that its number is not given to another.
    open: BTreeMap<Inode, File>,
    bytes: BTreeMap<Inode, Vec<u8>>,
    names: BTreeMap<Inode, (PathBuf, Names)>,
}

/// What becomes of bytes that are not durable.
#[derive(Clone, Copy, Debug)]
enum Bytes {
    /// They are all there.
    Kept,
    /// They are gone.
    Lost,
    /// Half of them is there.
    Torn,
    /// The file has its length, with zeros in their place.
    Zeros,
}

/// A directory after a power cut.
#[derive(Default)]
pub(super) struct Remains {
    directories: Vec<PathBuf>,
    /// Each with all its names, its bytes, and its time of change.
    files: BTreeMap<Inode, (Vec<PathBuf>, Vec<u8>, SystemTime)>,
}

impl Durable {
    /// Takes all that is below `root` for durable.
    pub(super) fn new(root: &Path) -> Self {
        let mut durable = Self { root: 0, open: BTreeMap::new(), bytes: BTreeMap::new(), names: BTreeMap::new() };
        durable.root = durable.take(root);
        durable
    }

    fn take(&mut self, path: &Path) -> Inode {
        let file = File::open(path).unwrap();
        let metadata = file.metadata().unwrap();
        let inode = metadata.ino();
        if self.open.insert(inode, file).is_none() {
            if metadata.is_dir() {
                for name in present_names(path).into_keys() {
                    self.take(&path.join(name));
                }
                self.names.insert(inode, (path.to_owned(), present_names(path)));
            } else {
                self.bytes.insert(inode, fs::read(path).unwrap());
            }
        }
        inode
    }

    /// Makes a change and keeps account of it.
    pub(super) fn change<T>(&mut self, change: &Change<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let made = make()?;
        match change {
            Change::Create(path) => {
                self.take(path);
            }
            Change::Sync(path) => {
                let inode = fs::metadata(path)?.ino();
                if let Some((_, names)) = self.names.get_mut(&inode) {
                    *names = present_names(path);
                } else {
                    self.bytes.insert(inode, fs::read(path)?);
                }
            }
            Change::Write(..) | Change::Other => {}
        }
        Ok(made)
    }

    /// Everything that a power cut now may leave. A directory's latest names are there or not, all together.
    pub(super) fn power_cuts(&self) -> Vec<Remains> {
        let unsettled: Vec<Inode> = self
            .names
            .iter()
            .filter(|(_, (path, names))| present_names(path) != *names)
            .map(|(inode, _)| *inode)
            .collect();
        let mut cuts = Vec::new();
        for choice in 0..1u32 << unsettled.len() {
            let chosen = |position: &usize| choice >> position & 1 == 1;
            let latest: BTreeSet<Inode> = (0..unsettled.len()).filter(chosen).map(|at| unsettled[at]).collect();
            for bytes in [Bytes::Kept, Bytes::Lost, Bytes::Torn, Bytes::Zeros] {
                let mut remains = Remains::default();
                self.collect(self.root, Path::new(""), &latest, bytes, &mut remains);
                cuts.push(remains);
            }
        }
        cuts
    }

    fn collect(&self, inode: Inode, path: &Path, latest: &BTreeSet<Inode>, bytes: Bytes, remains: &mut Remains) {
        if let Some((real, durable)) = self.names.get(&inode) {
            remains.directories.push(path.to_owned());
            let names = if latest.contains(&inode) { present_names(real) } else { durable.clone() };
            for (name, child) in names {
                self.collect(child, &path.join(name), latest, bytes, remains);
            }
            return;
        }
        if let Some((paths, ..)) = remains.files.get_mut(&inode) {
            return paths.push(path.to_owned());
        }
        let changed = self.open[&inode].metadata().unwrap().modified().unwrap();
        remains.files.insert(inode, (vec![path.to_owned()], self.surviving(inode, bytes), changed));
    }

    fn surviving(&self, inode: Inode, bytes: Bytes) -> Vec<u8> {
        let (file, durable) = (&self.open[&inode], &self.bytes[&inode]);
        let mut present = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut present, 0).unwrap();
        let settled = present.iter().zip(durable).take_while(|(present, durable)| present == durable).count();
        match bytes {
            Bytes::Kept => {}
            Bytes::Lost => present.clone_from(durable),
            Bytes::Torn => present.truncate(settled + (present.len() - settled) / 2),
            Bytes::Zeros => present[settled..].fill(0),
        }
        present
    }
}

impl Remains {
    /// What tells it from others. The times of change that the store notes differ each time and tell nothing.
    pub(super) fn key(&self) -> BTreeMap<Vec<PathBuf>, Vec<u8>> {
        let mut key: BTreeMap<_, _> = self.directories.iter().map(|path| (vec![path.clone()], Vec::new())).collect();
        for (paths, bytes, _) in self.files.values() {
            let is_note = paths[0].components().any(|part| part.as_os_str() == "verified");
            key.insert(paths.clone(), if is_note { vec![u8::from(bytes.ends_with(b"\n"))] } else { bytes.clone() });
        }
        key
    }

    /// Makes it a directory on disk.
    pub(super) fn write_to(&self, root: &Path) {
        for directory in &self.directories {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (paths, bytes, changed) in self.files.values() {
            let first = root.join(&paths[0]);
            fs::write(&first, bytes).unwrap();
            File::options().write(true).open(&first).unwrap().set_modified(*changed).unwrap();
            for other in &paths[1..] {
                fs::hard_link(&first, root.join(other)).unwrap();
            }
        }
    }
}

fn present_names(directory: &Path) -> Names {
    let Ok(entries) = fs::read_dir(directory) else { return Names::new() };
    entries.map(|entry| entry.unwrap()).map(|entry| (entry.file_name(), entry.ino())).collect()
}
