//! Which way the packets of a connection take.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use webrtc::peer_connection::{
    PeerConnection, RTCIceCandidate, RTCIceCandidateType, RTCStatsReportEntry, StatsSelector,
};

use crate::core::peer::{Path, PathKind};

/// The selected candidate pair, without its round trip.
pub(super) async fn selected(pc: &dyn PeerConnection) -> Option<Path> {
    let ice = pc.sctp().await?.transport().ice_transport();
    let pair = ice.get_selected_candidate_pair().await.ok()??;
    let is_relayed = [pair.local(), pair.remote()].iter().any(|end| end.typ == RTCIceCandidateType::Relay);
    Some(Path {
        kind: if is_relayed { PathKind::Relayed } else { PathKind::Direct },
        local: address(pair.local()),
        remote: address(pair.remote()),
        rtt: None,
    })
}

/// The last round trip ICE measured on the selected pair.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum may grow")]
pub(super) async fn round_trip(pc: &dyn PeerConnection) -> Option<Duration> {
    let report = pc.get_stats(Instant::now(), StatsSelector::None).await;
    report.iter().find_map(|entry| match entry {
        RTCStatsReportEntry::IceCandidatePair(pair)
            if pair.nominated && pair.current_round_trip_time > 0.0 =>
        {
            Duration::try_from_secs_f64(pair.current_round_trip_time).ok()
        }
        _ => None,
    })
}

/// A remote candidate may be known by its `.local` name only; its address is then nobody's business.
fn address(candidate: &RTCIceCandidate) -> SocketAddr {
    let ip = candidate.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    SocketAddr::new(ip, candidate.port)
}
