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

#[derive(Debug, Default)]
struct Moved {
    handed_over: AtomicU64,
    taken: AtomicU64,
}

/// Shared by the driver's handle, the connection's task and its writers.
#[derive(Debug, Default)]
pub(super) struct Load {
    waiting_bytes: AtomicUsize,
    is_refused: AtomicBool,
    refused: Notify,
    /// Of each channel, what was handed over and what the engine has taken of it.
    moved: [Moved; 3],
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
        self.moved[channel as usize].handed_over.fetch_add(len as u64, Ordering::Relaxed);
        if channel == Channel::Bulk {
            self.bulk_moved.notify_one();
        }
        true
    }

    /// What waits, each message with its overhead.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Counts a message out: the engine has it now.
    pub(super) fn written(&self, channel: Channel, len: usize) {
        self.waiting_bytes.fetch_sub(len + MESSAGE_OVERHEAD_BYTES, Ordering::Relaxed);
        self.moved[channel as usize].taken.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// Bytes handed over for a channel, and how many of them the engine has taken.
    pub(super) fn moved_bytes(&self, channel: Channel) -> (u64, u64) {
        let Moved { handed_over, taken } = &self.moved[channel as usize];
        (handed_over.load(Ordering::Relaxed), taken.load(Ordering::Relaxed))
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
        let len = message.len_bytes() as u64;
        assert_eq!(load.moved_bytes(Channel::Fast), (fitting as u64 * len, len));
        assert_eq!(load.moved_bytes(Channel::Bulk), (len, 0));
        assert!(!load.accept(Channel::Fast, &message));
    }

    #[test]
    fn a_message_over_the_limit_is_refused() {
        assert!(!Load::default().accept(Channel::Bulk, &binary(CHANNEL_MESSAGE_MAX_BYTES + 1)));
    }
}
