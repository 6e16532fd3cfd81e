//! The files that were read last, of all that is sent: pieces are mostly asked in order, and most of what was offered is
//! asked for by nobody most of the time.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::transfer::DiskError;
use crate::wire::TransferId;

/// The most files kept open: more than are read at once, few beside what a process may open.
pub(super) const OPEN_FILES: usize = 32;

/// Open files, the one read last at the end.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<(TransferId, u32, Arc<File>)>>);

impl Recent {
    /// The file of an entry, opened if it is not open.
    pub(super) fn open(
        &self,
        transfer: TransferId,
        entry: u32,
        open: impl FnOnce() -> Result<File, DiskError>,
    ) -> Result<Arc<File>, DiskError> {
        if let Some(file) = self.find(transfer, entry) {
            return Ok(file);
        }
        // Opening may take long; others must not wait for it.
        let file = Arc::new(open()?);
        let mut files = self.lock();
        if files.len() >= OPEN_FILES {
            files.pop_front();
        }
        files.push_back((transfer, entry, file.clone()));
        Ok(file)
    }

    /// Closes the files of a transfer.
    pub(super) fn forget(&self, transfer: TransferId) {
        self.lock().retain(|(of, _, _)| *of != transfer);
    }

    fn find(&self, transfer: TransferId, entry: u32) -> Option<Arc<File>> {
        let mut files = self.lock();
        let at = files.iter().position(|(of, at, _)| (*of, *at) == (transfer, entry))?;
        let found = files.remove(at)?;
        let file = found.2.clone();
        files.push_back(found);
        Some(file)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(TransferId, u32, Arc<File>)>> {
        // The list is whole whatever panicked while it was locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
