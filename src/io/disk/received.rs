//! What was received completely, to be served to others for as long as they want. Nothing of it is kept open: there may be
//! thousands of transfers, and few open files.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::folder::Folder;
use super::target::{Place, part_file};
use crate::core::transfer::DiskError;
use crate::wire::manifest::Manifest;
use crate::wire::path::SafePath;

/// The files of a complete transfer.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) manifest: Arc<Manifest>,
    pub(super) root: PathBuf,
    pub(super) places: Vec<Place>,
    /// What went to standard output.
    pub(super) spool: Option<Arc<Spool>>,
}

/// The part folder of what goes to standard output: removed with the last one who knows it.
#[derive(Debug)]
pub(super) struct Spool {
    pub(super) root: PathBuf,
    pub(super) name: String,
}

impl Received {
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a piece's file is, for messages.
    pub(super) fn path(&self, piece: u32) -> PathBuf {
        let entry = self.manifest.span(piece).entry;
        match (self.places[entry as usize], &self.spool) {
            (Place::There(name), _) => name.below(&self.root, self.path_of(entry)),
            (Place::Part { .. }, Some(spool)) => spool.root.join(&spool.name).join(part_file(entry)),
            (Place::Folder | Place::Part { .. } | Place::Skipped, _) => {
                self.root.join(self.path_of(entry).as_str())
            }
        }
    }

    /// The file of a piece. What it holds is compared with the manifest whenever it is read, so it may have any name by now.
    pub(super) fn open(&self, piece: u32) -> Result<File, DiskError> {
        let entry = self.manifest.span(piece).entry;
        match (self.places[entry as usize], &self.spool) {
            (Place::There(name), _) => name.open(&Folder::open(&self.root)?, self.path_of(entry)),
            (Place::Part { .. }, Some(spool)) => spool.open()?.read(&part_file(entry)),
            (Place::Folder | Place::Part { .. } | Place::Skipped, _) => {
                Err(DiskError::NotFound { path: self.path(piece) })
            }
        }
    }

    fn path_of(&self, entry: u32) -> &SafePath {
        &self.manifest.entries()[entry as usize].path
    }
}

impl Spool {
    fn open(&self) -> Result<Folder, DiskError> {
        Folder::open(&self.root)?.child(&self.name)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let removed = Folder::open(&self.root)
            .and_then(|root| remove_parts(&root, &root.child(&self.name)?, &self.name));
        if let Err(error) = removed {
            // Nothing can be done about what can't be removed.
            tracing::debug!(%error, "could not remove what went to standard output");
        }
    }
}

/// Removes a part folder and what is in it.
pub(super) fn remove_parts(root: &Folder, parts: &Folder, name: &str) -> Result<(), DiskError> {
    for file in parts.names()? {
        parts.remove_file(&file)?;
    }
    root.remove_folder(name)
}
