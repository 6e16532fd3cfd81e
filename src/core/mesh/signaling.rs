//! The server's side of a mesh: entering, offers left for newcomers, offers taken, and what is kept while it is away.

use std::time::Instant;

use super::{Event, Mesh, Output, Signaling, Slot};
use crate::core::link::{self, CloseReason, Identity, Link, PeerKind};
use crate::core::peer::LinkKey;
use crate::wire::limits::CANDIDATES_MAX;
use crate::wire::signal::{ErrorCode, OfferSignal};
use crate::wire::{Candidate, ClientSignal, Init, LinkId, Sdp, ServerSignal, UserId};

/// Most signals kept for the server while it is away. Older ones are dropped first: the links they belong to are found
/// missing and made again.
const UNSENT_SIGNALS_MAX: usize = 1024;

/// Connections whose candidates came before their offer: how many are remembered.
const ORPHANS_MAX: usize = 16;

impl Mesh {
    pub(super) fn handle_signaling_up(&mut self, now: Instant) {
        match self.signaling {
            Signaling::Closed => return,
            Signaling::Entering | Signaling::Welcomed | Signaling::Plain => self.handle_signaling_down(now),
            Signaling::Down => {}
        }
        self.signaling = Signaling::Entering;
        let have = self.underway_peers();
        let resume = Some(self.resume.clone());
        let Identity { me, room, .. } = &self.config.identity;
        let init = Init { user_id: me.clone(), room_id: room.clone(), have: Some(have), resume };
        self.outbox.push_back(Output::Signal(ClientSignal::Init(init)));
        // `have` tells the server which links are missing: it makes them.
        self.forget_wants();
        for signal in std::mem::take(&mut self.unsent) {
            self.outbox.push_back(Output::Signal(signal));
        }
        self.fill_offers(now);
    }

    /// The server forgets a member's offers and open claims with its socket, so they are made anew; links that have both
    /// descriptions do without the server.
    pub(super) fn handle_signaling_down(&mut self, now: Instant) {
        if self.signaling == Signaling::Closed {
            return;
        }
        self.signaling = Signaling::Down;
        self.requested = 0;
        self.forget_wants();
        self.orphans.clear();
        let waits_for_server = |link: &&Link| !link.is_underway();
        let keys: Vec<LinkKey> = self.links.values().filter(waits_for_server).map(Link::key).collect();
        for key in keys {
            self.feed(now, key, link::Input::Close(CloseReason::GivenBack));
        }
        self.fill_offers(now);
    }

    /// Members that need no link from the server: connected, or about to be with both descriptions exchanged.
    fn underway_peers(&self) -> Vec<UserId> {
        let is_underway = |key: LinkKey| self.links.get(&key).is_some_and(Link::is_underway);
        let has_link = |slot: &Slot| slot.ready.or(slot.attempt).is_some_and(is_underway);
        self.slots.iter().filter(|(_, slot)| has_link(slot)).map(|(peer, _)| peer.clone()).collect()
    }

    pub(super) fn handle_signal(&mut self, now: Instant, signal: ServerSignal) {
        if !self.signaling.is_up() {
            return;
        }
        match signal {
            ServerSignal::Accept { id, user_id, signals } => self.handle_accept(now, id, user_id, signals),
            ServerSignal::OfferAccepted { id, user_id } => self.handle_offer_accepted(now, &id, user_id),
            ServerSignal::OfferRequest => self.handle_offer_request(now),
            ServerSignal::Answer { id, sdp } => self.feed_id(now, &id, link::Input::Answer(sdp)),
            ServerSignal::Candidate { id, candidate } => self.handle_candidate(now, id, candidate),
            // Renegotiation is about media, which a data-only peer has none of.
            ServerSignal::Offer { .. } => {}
            ServerSignal::LeaveSwarm { id } => self.handle_leave_swarm(now, &id),
            ServerSignal::Welcome { resume, members } => {
                self.signaling = Signaling::Welcomed;
                self.resume = resume;
                self.withdraw_stale_offers(now);
                self.event(Event::Welcome { members });
            }
            ServerSignal::Gone { user_id } => {
                self.probe(now, &user_id);
                self.forget_gone(&user_id);
            }
            ServerSignal::SignalError { code, message } => self.handle_refusal(now, code, message),
        }
    }

    /// All but our extensions is known to every server, so what one does not know is an extension. Of that nobody need
    /// hear who speaks in codes; a sentence may mean more than it seems to.
    fn handle_refusal(&mut self, now: Instant, code: Option<ErrorCode>, message: String) {
        let is_unknown = code == Some(ErrorCode::UnknownType);
        if is_unknown || (self.signaling == Signaling::Entering && names_an_extension(&message)) {
            self.signaling = Signaling::Plain;
            self.forget_wants();
        }
        if !is_unknown {
            self.tell_refusal(now, code, message);
        }
    }

    fn handle_accept(&mut self, now: Instant, id: LinkId, peer: UserId, signals: Vec<OfferSignal>) {
        if peer == self.config.identity.me || self.by_id.contains_key(&id) {
            return;
        }
        let Some((sdp, mut candidates)) = split_offer(signals) else { return };
        if self.is_full_for(&peer) {
            return self.signal(ClientSignal::Leave { id });
        }
        if !self.made.take(now) {
            self.signal(ClientSignal::Leave { id });
            return self.miss(now, peer);
        }
        candidates.extend(self.adopt_orphans(&id));
        let key = self.next_key();
        let link = Link::answer(now, &self.config.identity, key, id, peer.clone(), sdp);
        self.insert(link);
        self.attempt(now, peer, key);
        self.drain(now, key);
        for candidate in candidates.into_iter().take(CANDIDATES_MAX) {
            self.feed(now, key, link::Input::Candidate(candidate));
        }
    }

    fn handle_offer_accepted(&mut self, now: Instant, id: &LinkId, peer: UserId) {
        let Some(&key) = self.by_id.get(id) else { return };
        if peer == self.config.identity.me || self.links.get(&key).is_none_or(|link| link.peer().is_some()) {
            return;
        }
        if self.is_full_for(&peer) {
            self.signal(ClientSignal::Leave { id: id.clone() });
            return self.feed(now, key, link::Input::Close(CloseReason::GivenBack));
        }
        self.attempt(now, peer.clone(), key);
        self.feed(now, key, link::Input::Accepted { peer });
    }

    /// An offer of `peer` could not be taken for the moment. The server keeps the two apart until one of them asks.
    fn miss(&mut self, now: Instant, peer: UserId) {
        if !self.slots.contains_key(&peer) {
            self.schedule_want(now, peer, Some(now), false);
        }
    }

    fn is_full_for(&self, peer: &UserId) -> bool {
        !self.slots.contains_key(peer) && self.slots.len() >= self.config.max_peers
    }

    /// The link `key` is the one that comes up towards `peer`; an earlier one that did not make it is given up.
    fn attempt(&mut self, now: Instant, peer: UserId, key: LinkKey) {
        self.rest_want(&peer);
        let slot = self.slots.entry(peer).or_default();
        slot.claimed_at = Some(now);
        if let Some(earlier) = slot.attempt.replace(key) {
            self.feed(now, earlier, link::Input::Close(CloseReason::Replaced));
        }
    }

    fn handle_candidate(&mut self, now: Instant, id: LinkId, candidate: Option<Candidate>) {
        if self.by_id.contains_key(&id) {
            return self.feed_id(now, &id, link::Input::Candidate(candidate));
        }
        let known = self.orphans.iter().position(|(orphan, _)| *orphan == id);
        let at = known.unwrap_or_else(|| {
            if self.orphans.len() == ORPHANS_MAX {
                self.orphans.pop_front();
            }
            self.orphans.push_back((id, Vec::new()));
            self.orphans.len() - 1
        });
        let (_, candidates) = &mut self.orphans[at];
        if candidates.len() < CANDIDATES_MAX {
            candidates.push(candidate);
        }
    }

    fn adopt_orphans(&mut self, id: &LinkId) -> Vec<Option<Candidate>> {
        let at = self.orphans.iter().position(|(orphan, _)| orphan == id);
        at.and_then(|at| self.orphans.remove(at)).map(|(_, candidates)| candidates).unwrap_or_default()
    }

    /// The server wants a connection closed. An original that left cannot say so itself; our own peers can, so a working
    /// link to one of them is only probed: the server may be wrong, or lie.
    fn handle_leave_swarm(&mut self, now: Instant, id: &LinkId) {
        let Some(&key) = self.by_id.get(id) else { return };
        let Some(link) = self.links.get(&key) else { return };
        match (link.is_ready(), link.kind()) {
            (true, Some(PeerKind::Swarm)) => self.probe_link(now, key),
            (true, Some(PeerKind::Original) | None) => {
                self.feed(now, key, link::Input::Close(CloseReason::Left))
            }
            (false, _) => self.feed(now, key, link::Input::Close(CloseReason::GivenBack)),
        }
    }

    /// Tells the server, now or when it is back.
    pub(super) fn signal(&mut self, signal: ClientSignal) {
        match self.signaling {
            Signaling::Plain if signal.is_extension() => {}
            Signaling::Entering | Signaling::Welcomed | Signaling::Plain => {
                self.outbox.push_back(Output::Signal(signal));
            }
            Signaling::Down => self.keep_unsent(signal),
            Signaling::Closed => {}
        }
    }

    fn keep_unsent(&mut self, signal: ClientSignal) {
        if let ClientSignal::Withdraw { id } | ClientSignal::Leave { id } = &signal {
            return self.forget_unsent(id);
        }
        if self.unsent.len() == UNSENT_SIGNALS_MAX {
            self.unsent.pop_front();
        }
        self.unsent.push_back(signal);
    }

    pub(super) fn forget_unsent(&mut self, id: &LinkId) {
        self.unsent.retain(|signal| signal.link_id() != Some(id));
    }
}

fn names_an_extension(message: &str) -> bool {
    let mut words = message.split(|c: char| !c.is_alphanumeric());
    words.any(|word| ClientSignal::EXTENSIONS.contains(&word))
}

fn split_offer(signals: Vec<OfferSignal>) -> Option<(Sdp, Vec<Option<Candidate>>)> {
    let mut offer = None;
    let mut candidates = Vec::new();
    for signal in signals {
        match signal {
            OfferSignal::Offer { sdp } => offer = Some(sdp),
            OfferSignal::Candidate { candidate } => candidates.push(candidate),
        }
    }
    offer.map(|sdp| (sdp, candidates))
}
