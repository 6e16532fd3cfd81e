//! What a user may choose about WebRTC, and what this program chooses for them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
use webrtc::peer_connection::crypto::RTCCryptoProvider;
use webrtc::peer_connection::{
    RTCCertificate, RTCConfiguration, RTCConfigurationBuilder, RTCIceServer, RTCIceTransportPolicy,
    SettingEngine, SettingEngineBuilder,
};

use super::inflow::RESERVE_BYTES;
use crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;

/// Silence after which a connection counts as disconnected; consent (RFC 7675) is asked for every second.
const DISCONNECTED_AFTER: Duration = Duration::from_secs(4);

/// Further silence after which it is given up. Together they keep "a killed peer is reported within 15 s".
const FAILED_AFTER: Duration = Duration::from_secs(8);

/// How often consent is asked for.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);

/// How long a name that a browser hides an address behind is asked for, once a second.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a candidate pair that has not answered is checked again, and nomination considered (RFC 8445 §14.2
/// paces checks at 50 ms).
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Checks of one pair before it is given up: as many as fit before the connection is. The answerer checks while its
/// answer is still on its way through the server, and nobody replies before it is there.
const CHECKS_MAX: u16 = 240;

/// The SCTP packet size that fits a TURN-relayed IPv6 packet of the minimum MTU
/// (1280 - 40 IPv6 - 8 UDP - 4 ChannelData - 37 DTLS).
const SCTP_MTU_BYTES: u32 = 1191;

/// A STUN or TURN server, with the fields of the W3C `RTCIceServer`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct IceServer {
    /// `stun:host[:port]` and `turn:host[:port]` URLs; TURN over UDP only.
    pub urls: Vec<String>,
    /// The TURN user.
    pub username: Option<String>,
    /// The TURN password.
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    /// Credentials stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// Which local addresses connections use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Bind {
    /// Every usable interface; loopback only where there is nothing else.
    #[default]
    Interfaces,
    /// These addresses only.
    Addresses(Vec<IpAddr>),
}

/// How connections are made: what users of `RTCConfiguration` expect, and where to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtcConfig {
    /// STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// Use relayed candidates only (`iceTransportPolicy: "relay"`).
    pub relay_only: bool,
    /// Which local addresses to use.
    pub bind: Bind,
    /// Whether remote `.local` candidates (RFC 8828) are resolved. Where multicast does not work they are ignored.
    pub mdns: bool,
    /// The packet size of SCTP in bytes. 1191 passes every path; 1400 saves some CPU where the path carries it.
    pub sctp_mtu_bytes: u32,
    /// How many events may wait for the consumer before the network is slowed down.
    pub event_queue: usize,
}

impl Default for RtcConfig {
    fn default() -> Self {
        Self {
            ice_servers: Vec::new(),
            relay_only: false,
            bind: Bind::default(),
            mdns: true,
            sctp_mtu_bytes: SCTP_MTU_BYTES,
            event_queue: 256,
        }
    }
}

impl RtcConfig {
    pub(super) fn peer_connection(&self, certificate: RTCCertificate) -> RTCConfiguration {
        let servers = self.ice_servers.iter().map(|server| RTCIceServer {
            urls: server.urls.clone(),
            username: server.username.clone().unwrap_or_default(),
            credential: server.credential.clone().unwrap_or_default(),
        });
        let policy = match self.relay_only {
            true => RTCIceTransportPolicy::Relay,
            false => RTCIceTransportPolicy::All,
        };
        RTCConfigurationBuilder::default()
            .with_ice_servers(servers.collect())
            .with_ice_transport_policy(policy)
            .with_certificates(vec![certificate])
            .build()
    }

    /// `window_bytes` is the SCTP receive window, `mdns` whether multicast works on this machine.
    pub(super) fn setting_engine(
        &self,
        window_bytes: u32,
        mdns: bool,
        crypto: Arc<dyn RTCCryptoProvider>,
    ) -> SettingEngine {
        let mdns_mode = match mdns {
            true => MulticastDnsMode::QueryOnly,
            false => MulticastDnsMode::Disabled,
        };
        let message_max = u32::try_from(CHANNEL_MESSAGE_MAX_BYTES).expect("256 KiB fit 32 bits");
        SettingEngineBuilder::new()
            .with_ice_timeouts(Some(DISCONNECTED_AFTER), Some(FAILED_AFTER), Some(KEEPALIVE_EVERY))
            .with_ice_connection_attempts(Some(CHECK_EVERY), Some(CHECKS_MAX))
            // The defaults wait up to a second for a better pair than the one that works.
            .with_host_acceptance_min_wait(Some(Duration::ZERO))
            .with_srflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_include_loopback_candidate(true)
            .with_multicast_dns_mode(mdns_mode)
            .with_multicast_dns_timeout(Some(NAME_TIMEOUT))
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(message_max))
            .with_sctp_max_receive_buffer_size(window_bytes + RESERVE_BYTES)
            .with_sctp_mtu(self.sctp_mtu_bytes)
            .with_crypto_provider(crypto)
            .build()
    }
}
