//! What the node says, in the words of the schema.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    Done, Event, IceReason, Kind, PathInfo, Peer, PeerProgress, PeerRef, Progress, Reason, Signaling, Travel,
    VERSION, Way,
};
use crate::core::peer::{Path, PathKind};
use crate::core::transfer::{self, Direction, OfferInfo, TransferEvent};
use crate::node::api::{self, CloseReason, IceServerTrouble, IceTrouble, PeerInfo, PeerKind, SignalingState};
use crate::wire::UserId;
use crate::wire::text::Name;

impl From<&PeerInfo> for PeerRef {
    fn from(info: &PeerInfo) -> Self {
        Self { id: info.id.clone(), name: shown(&info.name), verified: info.verified }
    }
}

impl From<&PeerInfo> for Peer {
    fn from(info: &PeerInfo) -> Self {
        let PeerRef { id, name, verified } = info.into();
        let kind = match info.kind {
            PeerKind::Swarm => Kind::Swarm,
            PeerKind::Original => Kind::Original,
        };
        let path = info.path.as_ref().map(PathInfo::from);
        Self {
            id,
            name,
            verified,
            kind,
            path,
            sent_bytes: info.sent_bytes,
            received_bytes: info.received_bytes,
        }
    }
}

impl From<&Path> for PathInfo {
    fn from(path: &Path) -> Self {
        let kind = match path.kind {
            PathKind::Direct => Travel::Direct,
            PathKind::Relayed => Travel::Relayed,
        };
        let rtt_ms = path.rtt.map(|rtt| rounded(rtt.as_secs_f64() * 1e3));
        Self { kind, local: path.local.to_string(), remote: path.remote.to_string(), rtt_ms }
    }
}

impl From<CloseReason> for Reason {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Left => Self::Left,
            CloseReason::Lost => Self::Lost,
            CloseReason::NoPath => Self::NoPath,
            CloseReason::KeyMismatch => Self::KeyMismatch,
            CloseReason::Unverified => Self::Unverified,
            CloseReason::Misbehaved => Self::Misbehaved,
            CloseReason::GivenBack => Self::Server,
            CloseReason::Replaced => Self::Replaced,
            CloseReason::TakenId => Self::TakenId,
            CloseReason::Local => Self::Local,
        }
    }
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Send => Self::Send,
            Direction::Receive => Self::Receive,
        }
    }
}

/// Three decimals: what is measured here is no more exact.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Names are the only texts that are made fit for a screen here too: as they stand, they are compared and typed.
fn shown(name: &str) -> String {
    Name::from_remote(name).map_or_else(String::new, |name| name.to_string())
}

fn signaling(state: &SignalingState) -> Event {
    let plain = |state| Event::Signaling { state, reason: None, retry_secs: None };
    match state {
        SignalingState::Connecting => plain(Signaling::Connecting),
        SignalingState::Up => plain(Signaling::Up),
        SignalingState::Down { reason, retry_in } => Event::Signaling {
            state: Signaling::Down,
            reason: Some(reason.clone()),
            retry_secs: Some(rounded(retry_in.as_secs_f64())),
        },
        SignalingState::Refused { message, .. } => {
            Event::Signaling { state: Signaling::Refused, reason: Some(message.clone()), retry_secs: None }
        }
    }
}

/// What the JSON face keeps between events: who is here, and what it can't learn from an event alone.
#[derive(Debug)]
pub struct Translator {
    own: Name,
    invite: Option<String>,
    peers: BTreeMap<UserId, PeerRef>,
}

impl Translator {
    /// For a peer of this name, which can give out this invite.
    pub fn new(own: Name, invite: Option<String>) -> Self {
        Self { own, invite, peers: BTreeMap::new() }
    }

    /// The event as it is printed; nothing for the end, which the face says itself.
    pub fn event(&mut self, event: &api::Event) -> Option<Event> {
        Some(match event {
            api::Event::Ready { id, room, members } => Event::Ready {
                version: VERSION,
                id: id.clone(),
                name: self.own.to_string(),
                room: room.clone(),
                invite: self.invite.clone(),
                members: *members,
            },
            api::Event::Signaling(state) => signaling(state),
            api::Event::Opened(peer) => {
                self.peers.insert(peer.id.clone(), peer.into());
                Event::Open { peer: peer.into() }
            }
            api::Event::Closed { peer, reason } => {
                self.peers.remove(&peer.id);
                Event::Close { peer: peer.into(), reason: (*reason).into() }
            }
            api::Event::Renamed { peer, old } => {
                self.peers.insert(peer.id.clone(), peer.into());
                Event::Name { peer: peer.into(), old: shown(old) }
            }
            api::Event::Message { from, text, direct } => {
                Event::Message { from: from.into(), text: text.clone(), direct: *direct }
            }
            api::Event::Data { from, bytes } => {
                Event::Data { from: from.into(), len: bytes.len(), blake3: blake3::hash(bytes).to_string() }
            }
            api::Event::Transfer(event) => return self.transfer(event),
            api::Event::PeerFailed { peer, reason, untold } => {
                Event::Refused { peer: peer.clone(), reason: (*reason).into(), more: *untold }
            }
            api::Event::IceServer(IceServerTrouble { server, trouble }) => {
                let (reason, code) = match trouble {
                    IceTrouble::Unresolved => (IceReason::Unresolved, None),
                    IceTrouble::Silent => (IceReason::Silent, None),
                    IceTrouble::Refused(code) => (IceReason::Refused, Some(*code)),
                };
                Event::IceServer { server: server.clone(), reason, code }
            }
            api::Event::Ended(_) => return None,
        })
    }

    /// The offer of ours that is announced when its manifest is made.
    pub fn sending(offer: &OfferInfo, left_out: usize, r#ref: Option<serde_json::Value>) -> Event {
        let OfferInfo { transfer, name, files, bytes, .. } = offer.clone();
        Event::Sending { transfer, name, files, bytes, left_out, r#ref }
    }

    fn peer(&self, id: &UserId) -> PeerRef {
        let unknown = || PeerRef { id: id.clone(), name: String::new(), verified: false };
        self.peers.get(id).cloned().unwrap_or_else(unknown)
    }

    fn transfer(&self, event: &TransferEvent) -> Option<Event> {
        Some(match event.clone() {
            // The rest of what a sender hears of its own files before they are offered comes as the answer to `send`.
            TransferEvent::Preparing { .. } | TransferEvent::NotPrepared { .. } => return None,
            TransferEvent::Prepared { offer, left_out, .. } => Self::sending(&offer, left_out, None),
            TransferEvent::Offered { from, offer, .. } => {
                let OfferInfo { transfer, name, files, folders, roots, bytes, origin } = offer;
                Event::Offer { transfer, from: self.peer(&from), name, files, folders, roots, bytes, origin }
            }
            TransferEvent::Withdrawn { transfer } => Event::Withdrawn { transfer },
            TransferEvent::Accepting { from, offer } => {
                let OfferInfo { transfer, name, files, bytes, .. } = offer;
                Event::Receiving { transfer, from: self.peer(&from), name, files, bytes }
            }
            TransferEvent::Refused { offer, reason, .. } => {
                Event::Failed { transfer: offer.transfer, reason: format!("declined: {reason}") }
            }
            TransferEvent::Accepted { transfer, peer } => {
                Event::Accepted { transfer, peer: self.peer(&peer) }
            }
            TransferEvent::Declined { transfer, peer, reason } => {
                Event::Declined { transfer, peer: self.peer(&peer), reason: reason.to_string() }
            }
            TransferEvent::Conflicts { transfer, paths, count } => {
                let paths = paths.iter().map(|path| path.as_str().to_owned()).collect();
                Event::Conflicts { transfer, paths, count }
            }
            TransferEvent::Resumed { transfer, bytes, total } => Event::Resumed { transfer, bytes, total },
            TransferEvent::Progress(progress) => Event::Progress((&progress).into()),
            TransferEvent::Stalled { transfer, missing_bytes } => Event::Stalled { transfer, missing_bytes },
            TransferEvent::Delivered { transfer, peer, from_origin_bytes, from_others_bytes } => {
                Event::Delivered {
                    transfer,
                    peer: self.peer(&peer),
                    from_sender_bytes: from_origin_bytes,
                    from_others_bytes,
                }
            }
            TransferEvent::Undelivered { transfer, peer, reason } => Event::Undelivered {
                transfer,
                peer: self.peer(&peer),
                reason: reason.map(|reason| reason.to_string()),
            },
            done @ TransferEvent::Done { .. } => return done_event(done),
            TransferEvent::Failed { transfer, reason, .. } => {
                Event::Failed { transfer, reason: reason.to_string() }
            }
            TransferEvent::Silent { transfer, peer } => Event::Silent { transfer, peer: self.peer(&peer) },
            TransferEvent::PeerCutOff { transfer, peer, reason } => {
                Event::Suspect { transfer, peer: self.peer(&peer), reason: reason.to_string() }
            }
        })
    }
}

fn done_event(event: TransferEvent) -> Option<Event> {
    let TransferEvent::Done {
        transfer,
        offer,
        path,
        blake3,
        elapsed,
        from_origin_bytes,
        from_others_bytes,
        skipped,
    } = event
    else {
        return None;
    };
    Some(Event::Done(Done {
        transfer,
        // The folder may be called anything; a string of JSON can't.
        path: path.map(|path| path.to_string_lossy().into_owned()),
        bytes: offer.bytes,
        secs: rounded(elapsed.as_secs_f64()),
        blake3: blake3.map(|hash| blake3::Hash::from_bytes(hash).to_string()),
        from_sender_bytes: from_origin_bytes,
        from_others_bytes,
        skipped,
    }))
}

impl From<&transfer::Progress> for Progress {
    fn from(progress: &transfer::Progress) -> Self {
        let peers = progress.peers.iter().map(|peer| PeerProgress {
            id: peer.peer.clone(),
            has_bytes: peer.has_bytes,
            done: peer.done,
            down_bps: peer.down_bps,
            up_bps: peer.up_bps,
        });
        Self {
            transfer: progress.transfer,
            direction: progress.direction.into(),
            bytes: progress.bytes,
            total: progress.total,
            rate_bps: progress.rate_bps,
            eta_secs: progress.eta.as_ref().map(Duration::as_secs_f64).map(rounded),
            uploaded_bytes: progress.uploaded_bytes,
            peers: peers.collect(),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::cli::json::to_line;
    use crate::wire::TransferId;

    #[test]
    fn a_path_that_is_not_unicode_is_told_as_far_as_it_is() {
        let transfer = TransferId([7; 32]);
        let origin = UserId::new("ada").expect("an id");
        let name = "film.mkv".to_owned();
        let done = TransferEvent::Done {
            transfer,
            offer: OfferInfo { transfer, name, files: 1, folders: 0, roots: 1, bytes: 1, origin },
            path: Some(OsStr::from_bytes(b"in\xffbox/film.mkv").into()),
            blake3: None,
            elapsed: Duration::ZERO,
            from_origin_bytes: 1,
            from_others_bytes: 0,
            skipped: 0,
        };
        let line = to_line(&done_event(done).expect("it is news"));
        assert!(line.contains("\"path\":\"in\u{fffd}box/film.mkv\""), "{line}");
    }
}
