//! What must not be done twice at the same time to one transfer.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::wire::TransferId;

/// Transfers that a thread is at.
#[derive(Debug, Default)]
pub(super) struct OneByOne {
    busy: Mutex<BTreeSet<TransferId>>,
    freed: Condvar,
}

/// A transfer is this thread's until this is dropped.
pub(super) struct Alone<'a> {
    all: &'a OneByOne,
    transfer: TransferId,
}

impl OneByOne {
    /// Waits until no other thread is at the transfer.
    pub(super) fn alone(&self, transfer: TransferId) -> Alone<'_> {
        // The set is whole whatever panicked while it was locked.
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let is_busy = |busy: &mut BTreeSet<TransferId>| busy.contains(&transfer);
        let mut busy = self.freed.wait_while(busy, is_busy).unwrap_or_else(PoisonError::into_inner);
        busy.insert(transfer);
        Alone { all: self, transfer }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.all.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.transfer);
        self.all.freed.notify_all();
    }
}
