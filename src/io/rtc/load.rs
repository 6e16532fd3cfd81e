//! What one connection still has to send, counted where it is handed over and where it leaves.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::core::peer::{Channel, Payload};
use crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;

/// The most that may wait in front of one connection's channels. Whoever exceeds it talks to a peer that does not
/// listen: the connection is closed.
const WAITING_MAX_BYTES: usize = 16 * 1024 * 1024;

/// What a waiting message costs besides its bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// Shared by the driver's handle, the connection's task and its writers.
#[derive(Debug, Default)]
pub(super) struct Load {
    waiting_bytes: AtomicUsize,
    waiting_bulk_bytes: AtomicUsize,
    is_refused: AtomicBool,
    refused: Notify,
    bulk_sent: AtomicU64,
    bulk_written: AtomicU64,
    /// Told when bulk data was sent or acknowledged.
    pub(super) bulk_moved: Notify,
}

impl Load {
    /// Counts a message in. `false`: it is too large or too much is waiting; the connection is to be closed.
    pub(super) fn accept(&self, channel: Channel, payload: &Payload) -> bool {
        let len = payload.len_bytes();
        let cost = len + MESSAGE_OVERHEAD_BYTES;
        let waiting = self.waiting_bytes.fetch_add(cost, Ordering::Relaxed) + cost;
        if len > CHANNEL_MESSAGE_MAX_BYTES || waiting > WAITING_MAX_BYTES {
            self.is_refused.store(true, Ordering::Release);
            self.refused.notify_one();
            return false;
        }
        if channel == Channel::Bulk {
            self.waiting_bulk_bytes.fetch_add(cost, Ordering::Relaxed);
            self.bulk_sent.fetch_add(len as u64, Ordering::Relaxed);
            self.bulk_moved.notify_one();
        }
        true
    }

    /// What waits, each message with its overhead.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// What waits and is no bulk data.
    pub(super) fn waiting_said_bytes(&self) -> usize {
        self.waiting_bytes().saturating_sub(self.waiting_bulk_bytes.load(Ordering::Relaxed))
    }

    /// Counts a message out: the engine has it now.
    pub(super) fn written(&self, channel: Channel, len: usize) {
        let cost = len + MESSAGE_OVERHEAD_BYTES;
        self.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
        if channel == Channel::Bulk {
            self.waiting_bulk_bytes.fetch_sub(cost, Ordering::Relaxed);
            self.bulk_written.fetch_add(len as u64, Ordering::Relaxed);
        }
    }

    /// Bulk bytes handed over, and how many of them the engine has taken.
    pub(super) fn bulk_bytes(&self) -> (u64, u64) {
        (self.bulk_sent.load(Ordering::Relaxed), self.bulk_written.load(Ordering::Relaxed))
    }

    /// Returns once a message was refused.
    pub(super) async fn refused(&self) {
        while !self.is_refused.load(Ordering::Acquire) {
            self.refused.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn binary(len: usize) -> Payload {
        Payload::Binary(Bytes::from(vec![0; len]))
    }

    #[test]
    fn what_waits_is_bounded_and_what_was_written_no_longer_counts() {
        let load = Load::default();
        let message = binary(CHANNEL_MESSAGE_MAX_BYTES);
        let fitting = WAITING_MAX_BYTES / (CHANNEL_MESSAGE_MAX_BYTES + MESSAGE_OVERHEAD_BYTES);
        for _ in 0..fitting {
            assert!(load.accept(Channel::Fast, &message));
        }
        load.written(Channel::Fast, message.len_bytes());
        assert!(load.accept(Channel::Bulk, &message));
        let said = (fitting - 1) * (CHANNEL_MESSAGE_MAX_BYTES + MESSAGE_OVERHEAD_BYTES);
        assert_eq!(load.waiting_said_bytes(), said);
        assert!(!load.accept(Channel::Fast, &message));
    }

    #[test]
    fn a_message_over_the_limit_is_refused() {
        assert!(!Load::default().accept(Channel::Bulk, &binary(CHANNEL_MESSAGE_MAX_BYTES + 1)));
    }
}
