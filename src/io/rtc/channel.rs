//! One data channel: a task that reads it and a task that writes it.
//!
//! Neither ever holds up the other, the connection's other channels or its commands: a reader waits for the
//! consumer, which is what fills the engine's queues and closes SCTP's window; a writer waits for the network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelMessage};
use webrtc::error::{Error, Result};
use webrtc::peer_connection::PeerConnection;

use super::inflow::Inflow;
use super::load::Load;
use super::pacing::Pacer;
use super::path;
use super::runtime::Pulse;
use super::signal::Signal;
use crate::core::peer::{Channel, LinkKey, Payload, PeerEvent};
use crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;

/// While bulk data waits, its rate is measured at least this often.
const PACE_EVERY: Duration = Duration::from_millis(50);

/// How long a message waits for a channel that the engine is about to open.
const NOT_OPEN_PAUSE: Duration = Duration::from_millis(1);

/// A pause so short in the sending of bulk is part of it: the consumer waits for a slower connection to the same peer.
const LULL_MAX: Duration = Duration::from_millis(200);

/// How often the round trip is looked up while bulk data flows.
const RTT_EVERY: Duration = Duration::from_secs(1);

/// Where the tasks of one channel report to.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) key: LinkKey,
    pub(super) events: mpsc::Sender<(LinkKey, PeerEvent)>,
    pub(super) load: Arc<Load>,
}

impl Outlet {
    /// Waits for the consumer. That nobody listens any more is noticed elsewhere.
    pub(super) async fn say(&self, event: PeerEvent) {
        let _ = self.events.send((self.key, event)).await;
    }
}

/// After so many short messages, and after the last for now, the engine is made to look for more (see [`Pulse::prod`]). It keeps
/// back what is over 256; the window of 4 MiB holds no more than so many long ones.
const PROD_EVERY: usize = 64;
const LONG_BYTES: usize = 16 * 1024;

/// Reports what arrives on one of our channels until it closes.
///
/// A channel carries messages as soon as the association is up: what is sent then travels right behind the OPEN
/// message, and the ACK that the engine waits for is a round trip later (RFC 8832 §6 allows ordered data before it).
pub(super) struct Reader {
    pub(super) channel: Channel,
    pub(super) data_channel: Arc<dyn DataChannel>,
    pub(super) outlet: Outlet,
    pub(super) signals: mpsc::UnboundedSender<Signal>,
    pub(super) associated: watch::Receiver<bool>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) inflow: Arc<Inflow>,
}

impl Reader {
    /// Tells of the channel's opening as soon as something may be sent on it.
    pub(super) async fn run(mut self, opened: oneshot::Sender<()>) {
        let mut opened = Some(opened);
        let mut unprodded = 0;
        loop {
            let event = tokio::select! {
                biased;
                event = self.data_channel.poll() => event,
                () = std::future::ready(()), if unprodded > 0 => {
                    self.pulse.prod();
                    unprodded = 0;
                    continue;
                }
                () = is_up(&mut self.associated), if opened.is_some() => {
                    self.announce(&mut opened).await;
                    continue;
                }
            };
            match event {
                Some(DataChannelEvent::OnOpen) => {
                    self.announce(&mut opened).await;
                    let _ = self.signals.send(Signal::ChannelOpened);
                }
                Some(DataChannelEvent::OnMessage(message))
                    if message.data.len() > CHANNEL_MESSAGE_MAX_BYTES =>
                {
                    let _ = self.signals.send(Signal::Violation("a message over the limit"));
                    return;
                }
                Some(DataChannelEvent::OnMessage(message)) => {
                    unprodded += usize::from(message.data.len() < LONG_BYTES);
                    let payload = payload_of(message);
                    self.outlet.say(PeerEvent::Message { channel: self.channel, payload }).await;
                    self.inflow.note_taken();
                    if unprodded == PROD_EVERY {
                        self.pulse.prod();
                        unprodded = 0;
                    }
                }
                Some(DataChannelEvent::OnBufferedAmountLow) => self.outlet.load.bulk_moved.notify_one(),
                Some(DataChannelEvent::OnClose) | None => break,
                Some(_) => {}
            }
        }
        let _ = self.signals.send(Signal::ChannelClosed);
    }

    /// Once.
    async fn announce(&self, opened: &mut Option<oneshot::Sender<()>>) {
        if let Some(opened) = opened.take() {
            self.outlet.say(PeerEvent::ChannelOpen(self.channel)).await;
            let _ = opened.send(());
        }
    }
}

async fn is_up(associated: &mut watch::Receiver<bool>) {
    if associated.wait_for(|up| *up).await.is_err() {
        std::future::pending().await
    }
}

/// Reads a channel that is none of ours and forgets what comes, so that nothing piles up in the engine.
pub(super) async fn discard(data_channel: Arc<dyn DataChannel>, inflow: Arc<Inflow>) {
    let _ = data_channel.close().await;
    while let Some(event) = data_channel.poll().await {
        if let DataChannelEvent::OnMessage(_) = event {
            inflow.note_taken();
        }
    }
}

/// Gives the engine what is queued for a channel, as fast as the engine takes it.
pub(super) async fn write(
    channel: Channel,
    data_channel: Arc<dyn DataChannel>,
    mut queue: mpsc::UnboundedReceiver<Payload>,
    load: Arc<Load>,
    opened: oneshot::Receiver<()>,
) {
    if opened.await.is_err() {
        return;
    }
    let mut is_first = true;
    while let Some(payload) = queue.recv().await {
        let len = payload.len_bytes();
        let sent = match is_first {
            true => send_first(&*data_channel, payload).await,
            false => send(&*data_channel, payload).await,
        };
        load.written(channel, len);
        if sent.is_err() {
            return;
        }
        is_first = false;
    }
}

async fn send(data_channel: &dyn DataChannel, payload: Payload) -> Result<()> {
    match payload {
        Payload::Text(text) => data_channel.send_text(&text).await,
        Payload::Binary(bytes) => data_channel.send(BytesMut::from(bytes)).await,
    }
}

/// The association is up a moment before the engine has opened its channels on it.
async fn send_first(data_channel: &dyn DataChannel, payload: Payload) -> Result<()> {
    loop {
        match send(data_channel, payload.clone()).await {
            Err(Error::ErrDataChannelNotOpen) => sleep(NOT_OPEN_PAUSE).await,
            sent => return sent,
        }
    }
}

/// Tells the consumer how much bulk data it may send.
pub(super) async fn pace(data_channel: Arc<dyn DataChannel>, pc: Arc<dyn PeerConnection>, outlet: Outlet) {
    let mut pacer = Pacer::new(Instant::now());
    let mut low_water = 0;
    let mut rtt_at: Option<Instant> = None;
    let mut strained_since: Option<Instant> = None;
    while let Ok((sent, drained)) = bulk_progress(&*data_channel, &outlet.load).await {
        let now = Instant::now();
        if let Some(bytes) = pacer.room(now, sent, drained) {
            outlet.say(PeerEvent::Writable { bytes }).await;
        }
        if low_water != pacer.low_water_bytes() {
            low_water = pacer.low_water_bytes();
            let threshold = u32::try_from(low_water).unwrap_or(u32::MAX);
            if data_channel.set_buffered_amount_low_threshold(threshold).await.is_err() {
                return;
            }
        }
        if sent == drained {
            outlet.load.bulk_moved.notified().await;
            if now.elapsed() > LULL_MAX {
                strained_since = None;
            }
            continue;
        }
        if rtt_at.is_none_or(|at| now.saturating_duration_since(at) >= RTT_EVERY) {
            rtt_at = Some(now);
            if let Some(rtt) = path::round_trip(&*pc).await {
                let strain = pacer.set_rtt(rtt);
                let since = *strained_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= RTT_EVERY {
                    outlet.say(PeerEvent::Strain(strain)).await;
                }
            }
        }
        let _ = tokio::time::timeout(PACE_EVERY, outlet.load.bulk_moved.notified()).await;
    }
}

/// Bytes of bulk handed over since the channel opened, and how many of them the other end acknowledged.
async fn bulk_progress(data_channel: &dyn DataChannel, load: &Load) -> Result<(u64, u64)> {
    let outstanding = data_channel.outstanding_bytes().await? as u64;
    let (sent, written) = load.moved_bytes(Channel::Bulk);
    Ok((sent, written.saturating_sub(outstanding).min(sent)))
}

/// Strings are decoded as browsers do (RFC 8831 §6.6 says UTF-8 and nothing about errors).
fn payload_of(message: RTCDataChannelMessage) -> Payload {
    let RTCDataChannelMessage { is_string, data } = message;
    match is_string {
        true => Payload::Text(match String::from_utf8(data.into()) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }),
        false => Payload::Binary(data.freeze()),
    }
}
