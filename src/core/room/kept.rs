//! How many bytes of offers and candidates are kept, for each socket and for all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::limits::Limits;

/// What is kept for all sockets.
#[derive(Debug, Default)]
pub(super) struct KeptForAll(Arc<AtomicUsize>);

/// What is kept for one socket or member. Counts until it is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: usize,
    for_all: Arc<AtomicUsize>,
}

impl KeptForAll {
    /// Nothing so far, for one more.
    pub(super) fn nothing(&self) -> Kept {
        Kept { bytes: 0, for_all: self.0.clone() }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Kept {
    /// Counts so many bytes more, if they may be kept.
    pub(super) fn add(&mut self, len_bytes: usize, limits: &Limits) -> bool {
        self.replace(0, len_bytes, limits)
    }

    /// Counts so many bytes instead of others, if they may be kept.
    pub(super) fn replace(&mut self, old_bytes: usize, new_bytes: usize, limits: &Limits) -> bool {
        let is_crowded = self.for_all.load(Ordering::Relaxed) > limits.bytes_of_all;
        let max = if is_crowded { limits.bytes_per_socket / 8 } else { limits.bytes_per_socket };
        let may_be_kept = self.bytes.saturating_sub(old_bytes) + new_bytes <= max;
        if may_be_kept {
            self.remove(old_bytes);
            self.bytes += new_bytes;
            self.for_all.fetch_add(new_bytes, Ordering::Relaxed);
        }
        may_be_kept
    }

    pub(super) fn remove(&mut self, len_bytes: usize) {
        let removed = len_bytes.min(self.bytes);
        self.bytes -= removed;
        self.for_all.fetch_sub(removed, Ordering::Relaxed);
    }

    pub(super) fn clear(&mut self) {
        self.remove(self.bytes);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.clear();
    }
}
