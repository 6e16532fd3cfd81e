//! The folders for parts that are in use, told by what they are and not by what they are called: FAT finds them by short names,
//! too, and file systems that do not tell case apart by several spellings. Nobody else's files go into them.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::folder::{Folder, Identity};
use crate::core::transfer::DiskError;

/// All of this process.
#[derive(Debug, Default)]
pub(super) struct PartFolders(Mutex<BTreeSet<Identity>>);

/// One of them, locked, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    all: Arc<PartFolders>,
    identity: Identity,
    folder: Folder,
}

impl PartFolders {
    /// Opens the folder for parts of this name, made if it is not there.
    pub(super) fn claim(self: &Arc<Self>, root: &Folder, name: &str) -> Result<Claim, DiskError> {
        // Whoever enters it from now on waits until it is known.
        let mut all = self.lock();
        let folder = root.make_private_child(name)?;
        if !folder.lock()? {
            return Err(DiskError::InUse { path: root.path().to_owned() });
        }
        let identity = folder.identity()?;
        all.insert(identity);
        Ok(Claim { all: self.clone(), identity, folder })
    }

    /// The folder, unless it is one of these.
    pub(super) fn keep_out(&self, folder: Folder) -> Result<Folder, DiskError> {
        let identity = folder.identity()?;
        if self.lock().contains(&identity) {
            return Err(DiskError::NotAFolder { path: folder.path().to_owned() });
        }
        Ok(folder)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Identity>> {
        // The set is whole whatever panicked while it was locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// This one and the others.
    pub(super) fn all(&self) -> &PartFolders {
        &self.all
    }
}

impl Deref for Claim {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is open nothing else gets its number.
        self.all.lock().remove(&self.identity);
    }
}
