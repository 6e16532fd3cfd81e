//! What the engine's callbacks and the channels' tasks tell the task of their connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tracing::debug;
use webrtc::data_channel::DataChannel;
use webrtc::peer_connection::{
    PeerConnectionEventHandler, RTCIceConnectionState, RTCIceGatheringState, RTCPeerConnectionIceEvent,
    RTCPeerConnectionState,
};

/// The most channels a peer may ever open on one connection. Our peers open three, the published libraries one.
const REMOTE_CHANNELS_MAX: usize = 16;

/// One thing that happened to a connection.
pub(super) enum Signal {
    /// A local candidate, as a candidate-attribute.
    Candidate(String),
    /// There are no more local candidates.
    Gathered,
    /// ICE is up or down.
    Ice(RTCIceConnectionState),
    /// The connection as a whole.
    State(RTCPeerConnectionState),
    /// The other end opened a channel.
    Channel(Arc<dyn DataChannel>),
    /// One of our channels carries messages now.
    ChannelOpened,
    /// One of our channels is closed.
    ChannelClosed,
    /// The other end broke a rule that costs us memory.
    Violation(&'static str),
    /// The engine's task has ended.
    Stopped,
}

/// The engine's callbacks. They run in its loop and must not wait; what they say is bounded by what the local
/// interfaces, the state machine and [`REMOTE_CHANNELS_MAX`] can produce.
pub(super) struct Reporter {
    signals: mpsc::UnboundedSender<Signal>,
    remote_channels: AtomicUsize,
}

impl Reporter {
    pub(super) fn new(signals: mpsc::UnboundedSender<Signal>) -> Self {
        Self { signals, remote_channels: AtomicUsize::new(0) }
    }

    fn signal(&self, signal: Signal) {
        let _ = self.signals.send(signal);
    }
}

#[async_trait]
impl PeerConnectionEventHandler for Reporter {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        match event.candidate.to_json() {
            Ok(init) if !init.candidate.is_empty() => self.signal(Signal::Candidate(init.candidate)),
            Ok(_) => {}
            Err(error) => debug!(%error, "a local candidate cannot be written down"),
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.signal(Signal::Gathered);
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        self.signal(Signal::Ice(state));
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.signal(Signal::State(state));
    }

    async fn on_data_channel(&self, data_channel: Arc<dyn DataChannel>) {
        match self.remote_channels.fetch_add(1, Ordering::Relaxed) {
            count if count < REMOTE_CHANNELS_MAX => self.signal(Signal::Channel(data_channel)),
            REMOTE_CHANNELS_MAX => self.signal(Signal::Violation("too many channels")),
            _ => {}
        }
    }
}
