//! The first generation names users where the second names connections.
//!
//! Each pair of users has one connection, so that a table of the connections this socket was told of translates
//! between the two. The server ends every connection it began, so that the table has the members of the room and, within
//! [`LATE_MAX`], those who left an answer behind that may still come.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::{DialectError, Raw, json, unknown_type};
use crate::wire::signal::{ErrorCode, OfferSignal};
use crate::wire::{Candidate, ClientSignal, Init, LinkId, RoomId, ServerSignal, UserId};

#[derive(Debug, Default)]
pub(super) struct FirstGeneration {
    peers: BTreeMap<UserId, Peer>,
    users: BTreeMap<LinkId, UserId>,
}

#[derive(Debug)]
struct Peer {
    link: LinkId,
    /// Offers of this user that were handed to the client, oldest first. Its answers come in the same order and say
    /// only whom they are for, so that a late answer to an offer given back is not taken for one to its successor.
    unanswered: VecDeque<LinkId>,
}

/// A client that left this many offers of one user unanswered is taken to have dropped all but the last.
const UNANSWERED_MAX: usize = 2;

/// Users kept for the sake of a late answer. Others could come and go without end while a client answers nobody.
const LATE_MAX: usize = 256;

impl FirstGeneration {
    pub(super) fn parse(
        &mut self,
        mut raw: Raw<'_>,
        default_room: &RoomId,
    ) -> Result<Vec<ClientSignal>, DialectError> {
        match raw.kind.as_ref() {
            "init" => {
                let user_id = raw.from.take().ok_or_else(|| DialectError::missing("from"))?;
                let room_id = default_room.clone();
                let init = Init { user_id, room_id, have: None, resume: None };
                Ok(vec![ClientSignal::Init(init), parse_offer(raw)?])
            }
            "offer" => Ok(vec![parse_offer(raw)?]),
            "answer" => {
                let id = self.answered_link(raw.to.as_ref())?;
                Ok(vec![ClientSignal::Answer { id, sdp: raw.take_sdp()? }])
            }
            "candidate" => {
                let id = match raw.offer_id.take() {
                    Some(offer_id) => offer_id,
                    None => self.peer_mut(raw.to.as_ref())?.link.clone(),
                };
                Ok(vec![ClientSignal::Candidate { id, candidate: raw.candidate.take() }])
            }
            "close" => Ok(vec![ClientSignal::Close]),
            _ => Err(unknown_type()),
        }
    }

    fn peer_mut(&mut self, to: Option<&UserId>) -> Result<&mut Peer, DialectError> {
        let to = to.ok_or_else(|| DialectError::missing("to"))?;
        let stranger = "there is no connection to this user";
        self.peers.get_mut(to).ok_or_else(|| DialectError::new(ErrorCode::NotAllowed, stranger))
    }

    fn answered_link(&mut self, to: Option<&UserId>) -> Result<LinkId, DialectError> {
        let peer = self.peer_mut(to)?;
        Ok(peer.unanswered.pop_front().unwrap_or_else(|| peer.link.clone()))
    }

    pub(super) fn write(&mut self, signal: &ServerSignal) -> Option<Value> {
        match signal {
            ServerSignal::Accept { id, user_id, signals } => {
                let peer = self.connect(id, user_id);
                if peer.unanswered.len() >= UNANSWERED_MAX {
                    peer.unanswered.clear();
                }
                peer.unanswered.push_back(id.clone());
                write_offer(user_id, signals)
            }
            ServerSignal::OfferAccepted { id, user_id } => {
                self.connect(id, user_id);
                Some(json!({ "type": "offerAccepted", "id": id, "from": user_id }))
            }
            ServerSignal::OfferRequest => Some(json!({ "type": "offerRequest" })),
            ServerSignal::Answer { id, sdp } => {
                let from = self.users.get(id)?;
                Some(json!({ "type": "answer", "from": from, "sdp": sdp }))
            }
            ServerSignal::Candidate { id, candidate: Some(candidate) } => {
                let from = self.users.get(id)?;
                Some(json!({ "type": "candidate", "from": from, "candidate": candidate }))
            }
            ServerSignal::LeaveSwarm { id } => {
                self.disconnect(id);
                None
            }
            ServerSignal::Candidate { candidate: None, .. }
            | ServerSignal::Offer { .. }
            | ServerSignal::Welcome { .. }
            | ServerSignal::Gone { .. }
            | ServerSignal::SignalError { .. } => None,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.peers.len() + self.users.len()
    }

    fn connect(&mut self, id: &LinkId, user: &UserId) -> &mut Peer {
        self.users.insert(id.clone(), user.clone());
        let fresh = || Peer { link: id.clone(), unanswered: VecDeque::new() };
        let peer = self.peers.entry(user.clone()).or_insert_with(fresh);
        let old = std::mem::replace(&mut peer.link, id.clone());
        if old != *id {
            self.users.remove(&old);
        }
        peer
    }

    /// The user's entry outlives the connection while a late answer may still come, and goes with the next one.
    fn disconnect(&mut self, id: &LinkId) {
        let Some(user) = self.users.remove(id) else { return };
        // Those with a connection are in both tables.
        let is_kept =
            |peer: &Peer| !peer.unanswered.is_empty() && self.peers.len() <= self.users.len() + LATE_MAX;
        if self.peers.get(&user).is_some_and(|peer| peer.link == *id && !is_kept(peer)) {
            self.peers.remove(&user);
        }
    }
}

fn parse_offer(mut raw: Raw<'_>) -> Result<ClientSignal, DialectError> {
    let id = raw.offer_id.take().ok_or_else(|| DialectError::missing("offerId"))?;
    Ok(ClientSignal::Offer { id, sdp: raw.take_sdp()? })
}

fn write_offer(from: &UserId, signals: &[OfferSignal]) -> Option<Value> {
    let sdp = signals.iter().find_map(|signal| match signal {
        OfferSignal::Offer { sdp } => Some(sdp),
        OfferSignal::Candidate { .. } => None,
    })?;
    let candidates: Vec<&Candidate> = signals
        .iter()
        .filter_map(|signal| match signal {
            OfferSignal::Candidate { candidate } => candidate.as_ref(),
            OfferSignal::Offer { .. } => None,
        })
        .collect();
    Some(json!({ "type": "offer", "from": from, "sdp": sdp, "candidates": candidates }))
}
