//! Files that are sent, where they are.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::failed;
use super::recent::Recent;
use crate::core::transfer::DiskError;
use crate::wire::TransferId;
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
        let SourceFile { path, size, mtime } = &self.files[entry as usize];
        let file = recent.open(transfer, entry, || File::open(path).map_err(|error| failed(path, &error)))?;
        let metadata = file.metadata().map_err(|error| failed(path, &error))?;
        if metadata.len() != *size || metadata.modified().ok() != *mtime {
            return Err(DiskError::Changed { path: path.clone() });
        }
        Ok(file)
    }
}
