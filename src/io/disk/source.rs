//! Files that are sent, where they are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::failed;
use super::folder::{Folder, Found, open_file};
use super::recent::Recent;
use crate::core::transfer::DiskError;
use crate::wire::TransferId;
use crate::wire::manifest::{EntryKind, Manifest};

/// Whether what a link points at is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// Links are the user's own, or wanted.
    Followed,
    /// A link that stands where there was none is not followed: whoever else may write there could put one in the way
    /// between the walk and the reading, and it could lead to any file of the user.
    Refused,
}

/// A path that the user gave.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    /// At the path itself.
    itself: Links,
    /// Below it.
    below: Links,
}

impl Root {
    /// If the path is a link, what it points at is meant.
    pub(super) fn new(path: &Path, below: Links) -> Self {
        // A slash at the end would follow a link, too.
        let path: PathBuf = path.components().collect();
        let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
        let itself = if is_link { Links::Followed } else { below };
        Self { path, itself, below }
    }

    fn folder(&self) -> Result<Folder, DiskError> {
        match self.itself {
            Links::Followed => Folder::open(&self.path),
            Links::Refused => Folder::open_unlinked(&self.path),
        }
    }
}

/// A file or folder as it was when it was walked, in the manifest's order.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) root: Arc<Root>,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) mtime: Option<SystemTime>,
}

impl SourceFile {
    /// Opens the file, which must be as it was when it was walked.
    pub(super) fn open(&self, opener: &mut Opener) -> Result<File, DiskError> {
        let file = opener.open(self)?;
        self.check(&file)?;
        Ok(file)
    }

    pub(super) fn check(&self, file: &File) -> Result<(), DiskError> {
        let metadata = file.metadata().map_err(|error| failed(&self.path, &error))?;
        let same = metadata.len() == self.size && metadata.modified().ok() == self.mtime;
        if same { Ok(()) } else { Err(self.changed()) }
    }

    pub(super) fn changed(&self) -> DiskError {
        DiskError::Changed { path: self.path.clone() }
    }
}

/// Opens what was walked, and remembers the folder it was in: mostly the next is in the same.
#[derive(Debug, Default)]
pub(super) struct Opener {
    last: Option<(PathBuf, Folder)>,
}

impl Opener {
    fn open(&mut self, source: &SourceFile) -> Result<File, DiskError> {
        let SourceFile { root, path, .. } = source;
        if *path == root.path {
            return open_file(path, root.itself);
        }
        if root.below == Links::Followed {
            return open_file(path, root.below);
        }
        let (folder, name) = self.around(source)?;
        match folder.find(name)? {
            Found::File { .. } | Found::Nothing => folder.read(name),
            Found::Folder | Found::Other => Err(source.changed()),
        }
    }

    /// Looks whether something below a root is still what it was, without opening it.
    pub(super) fn check(&mut self, source: &SourceFile, kind: EntryKind) -> Result<(), DiskError> {
        if source.path == source.root.path || source.root.below == Links::Followed {
            return Ok(());
        }
        let (folder, name) = self.around(source)?;
        let same = match (kind, folder.find(name)?) {
            (EntryKind::Folder, Found::Folder) => true,
            (EntryKind::File { size, .. }, Found::File { size: now }) => now == size,
            (_, Found::Nothing | Found::File { .. } | Found::Folder | Found::Other) => false,
        };
        if same { Ok(()) } else { Err(source.changed()) }
    }

    /// The folder that something below a root is in, and its name there.
    fn around<'a>(&mut self, source: &'a SourceFile) -> Result<(&Folder, &'a str), DiskError> {
        let around = source.path.parent().expect("it is below its root");
        if self.last.as_ref().is_none_or(|(path, _)| path != around) {
            let inside = around.strip_prefix(&source.root.path).expect("it is below its root");
            let folder = source.root.folder().and_then(|root| root.descend(inside.iter().map(unicode)));
            let folder = match folder {
                Ok(Some(folder)) => folder,
                Ok(None) | Err(DiskError::NotAFolder { .. }) => return Err(source.changed()),
                Err(error) => return Err(error),
            };
            self.last = Some((around.to_owned(), folder));
        }
        let (_, folder) = self.last.as_ref().expect("it is open now");
        Ok((folder, unicode(source.path.file_name().expect("it is below its root"))))
    }
}

fn unicode(name: &std::ffi::OsStr) -> &str {
    name.to_str().expect("the walk leaves no other names")
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Source {
    manifest: Arc<Manifest>,
    files: Vec<SourceFile>,
    /// Standard input, kept until the end.
    _spool: Option<tempfile::NamedTempFile>,
}

impl Source {
    pub(super) fn new(
        manifest: Arc<Manifest>,
        files: Vec<SourceFile>,
        spool: Option<tempfile::NamedTempFile>,
    ) -> Self {
        Self { manifest, files, _spool: spool }
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn path(&self, piece: u32) -> PathBuf {
        self.files[self.manifest.span(piece).entry as usize].path.clone()
    }

    /// The file of a piece, which must be as it was when it was hashed.
    pub(super) fn open(
        &self,
        transfer: TransferId,
        piece: u32,
        recent: &Recent,
    ) -> Result<Arc<File>, DiskError> {
        let entry = self.manifest.span(piece).entry;
        let source = &self.files[entry as usize];
        let file = recent.open(transfer, entry, || source.open(&mut Opener::default()))?;
        source.check(&file)?;
        Ok(file)
    }
}
