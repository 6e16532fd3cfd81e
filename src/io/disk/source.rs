//! Files that are sent, where they are.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::failed;
use crate::core::transfer::DiskError;
use crate::wire::manifest::Manifest;

/// A file or folder as it was when it was hashed, in the manifest's order.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) mtime: Option<SystemTime>,
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Source {
    manifest: Arc<Manifest>,
    files: Vec<SourceFile>,
    /// The file read last: pieces are mostly asked in order.
    last: Mutex<Option<(u32, Arc<File>)>>,
    /// Standard input, kept until the end.
    _spool: Option<tempfile::NamedTempFile>,
}

impl Source {
    pub(super) fn new(
        manifest: Arc<Manifest>,
        files: Vec<SourceFile>,
        spool: Option<tempfile::NamedTempFile>,
    ) -> Self {
        Self { manifest, files, last: Mutex::default(), _spool: spool }
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn path(&self, piece: u32) -> PathBuf {
        self.files[self.manifest.span(piece).entry as usize].path.clone()
    }

    /// The file of a piece, which must be as it was when it was hashed.
    pub(super) fn open(&self, piece: u32) -> Result<Arc<File>, DiskError> {
        let entry = self.manifest.span(piece).entry;
        let source = &self.files[entry as usize];
        let file = self.cached(entry)?;
        let metadata = file.metadata().map_err(|error| failed(&source.path, &error))?;
        if metadata.len() != source.size || metadata.modified().ok() != source.mtime {
            return Err(DiskError::Changed { path: source.path.clone() });
        }
        Ok(file)
    }

    fn cached(&self, entry: u32) -> Result<Arc<File>, DiskError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, file)) = &*last
            && *of == entry
        {
            return Ok(file.clone());
        }
        let path = &self.files[entry as usize].path;
        let file = Arc::new(File::open(path).map_err(|error| failed(path, &error))?);
        *last = Some((entry, file.clone()));
        Ok(file)
    }
}
