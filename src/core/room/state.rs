//! What a room knows: its members, the links between them, and the one fact about each pair.

use std::collections::BTreeMap;
use std::time::Instant;

use super::accounts::Doing;
use super::member::{Member, MemberKey};
use super::relay::Budget;
use super::{Output, Reason, SocketId, Turn};
use crate::wire::signal::{ErrorCode, OfferSignal};
use crate::wire::{Candidate, LinkId, RoomId, Sdp, Secret, ServerSignal, UserId};

#[derive(Debug)]
pub(super) struct Room {
    pub(super) id: RoomId,
    pub(super) members: BTreeMap<MemberKey, Member>,
    pub(super) users: BTreeMap<UserId, MemberKey>,
    pub(super) links: BTreeMap<LinkId, Link>,
    pub(super) pairs: BTreeMap<PairKey, Pair>,
    pub(super) budgets: BTreeMap<(MemberKey, MemberKey), Budget>,
    /// How often the first gave up the second, since it last asked for it.
    pub(super) given_up: BTreeMap<(MemberKey, MemberKey), u32>,
    pub(super) next_member: u64,
}

/// What became of a request to enter.
#[derive(Debug)]
pub(super) enum Entry {
    Entered(MemberKey),
    TookOver { member: MemberKey, old_socket: Option<SocketId> },
    Refused(Refusal),
}

/// Why a message was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: &'static str,
}

impl Refusal {
    pub(super) const fn not_allowed(message: &'static str) -> Self {
        Self { code: ErrorCode::NotAllowed, message }
    }

    pub(super) const fn limit(message: &'static str) -> Self {
        Self { code: ErrorCode::LimitExceeded, message }
    }
}

/// An offer, before and after somebody took it.
#[derive(Debug)]
pub(super) enum Link {
    /// In its owner's pool.
    Offered(Offered),
    /// Between two members.
    Taken(Taken),
}

#[derive(Debug)]
pub(super) struct Offered {
    pub(super) owner: MemberKey,
    pub(super) sdp: Sdp,
    pub(super) candidates: Vec<Option<Candidate>>,
}

#[derive(Debug)]
pub(super) struct Taken {
    pub(super) owner: MemberKey,
    pub(super) taker: MemberKey,
    /// Whose offer waits for an answer.
    pub(super) unanswered: Option<MemberKey>,
    /// When the taker was given the offer.
    pub(super) since: Instant,
    /// What is still missing before the pair counts as linked.
    pub(super) claim: Option<Claim>,
}

#[derive(Debug)]
pub(super) struct Claim {
    pub(super) until: Instant,
    pub(super) answered: bool,
    pub(super) owner_seen: bool,
}

impl Taken {
    /// The other end, if `member` is one of the two.
    pub(super) fn other_end(&self, member: MemberKey) -> Option<MemberKey> {
        if member == self.owner {
            Some(self.taker)
        } else if member == self.taker {
            Some(self.owner)
        } else {
            None
        }
    }
}

/// Two members, in the order of joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PairKey {
    older: MemberKey,
    newer: MemberKey,
}

impl PairKey {
    /// The other of the two, if `member` is one of them.
    pub(super) fn other(self, member: MemberKey) -> Option<MemberKey> {
        if member == self.older {
            Some(self.newer)
        } else if member == self.newer {
            Some(self.older)
        } else {
            None
        }
    }

    pub(super) fn of(a: MemberKey, b: MemberKey) -> Self {
        Self { older: a.min(b), newer: a.max(b) }
    }
}

/// The one fact about two members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pair {
    /// The other member is to get an offer of `owner`. `tries` claims failed before. `paid` tells who has paid for the hand-out.
    Waiting { owner: MemberKey, tries: u32, paid: Option<Doing> },
    /// An offer was handed out; [`Taken::claim`] tells whether the link stands.
    Linked { link: LinkId, tries: u32 },
    /// Both said that they are connected, over a link that this server never saw.
    Theirs,
    /// One of the two gave up for good the link that was made at `since`. They stay apart until one of them asks.
    Apart { since: Instant },
}

impl Room {
    pub(super) fn new(id: RoomId) -> Self {
        Self {
            id,
            members: BTreeMap::new(),
            users: BTreeMap::new(),
            links: BTreeMap::new(),
            pairs: BTreeMap::new(),
            budgets: BTreeMap::new(),
            given_up: BTreeMap::new(),
            next_member: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_user(&self, member: MemberKey, user: &UserId) -> bool {
        self.users.get(user) == Some(&member)
    }

    pub(super) fn bring_secret(&mut self, member: MemberKey, secret: Option<Secret>) {
        if let (Some(member), Some(secret)) = (self.members.get_mut(&member), secret) {
            member.bring(secret);
        }
    }

    /// How many offers are unclaimed and how many links there are.
    pub(super) fn count_links(&self) -> (usize, usize) {
        let offers = self.members.values().map(|member| member.pool.len()).sum();
        (offers, self.links.len() - offers)
    }

    pub(super) fn others(&self, member: MemberKey) -> Vec<MemberKey> {
        self.members.keys().copied().filter(|other| *other != member).collect()
    }

    pub(super) fn is_awake(&self, member: MemberKey) -> bool {
        self.members.get(&member).is_some_and(Member::is_awake)
    }

    pub(super) fn send(&self, to: MemberKey, signal: ServerSignal, turn: &mut Turn<'_>) {
        if let Some(socket) = self.members.get(&to).and_then(Member::socket) {
            turn.effects.send(socket, signal);
        }
    }

    pub(super) fn ping(&self, to: MemberKey, turn: &mut Turn<'_>) {
        if let Some(socket) = self.members.get(&to).and_then(Member::socket) {
            turn.effects.outputs.push_back(Output::Ping(socket));
        }
    }

    /// Hands out offers of `owner` while there are both an offer and somebody who waits, then asks for more.
    pub(super) fn serve(&mut self, owner: MemberKey, turn: &mut Turn<'_>) {
        while self.is_awake(owner) {
            let Some((taker, link)) = self.next_claim(owner, turn) else { break };
            self.hand_out(owner, taker, link, turn);
        }
        self.request_offers(owner, turn);
    }

    /// The oldest offer, and the first who waits and can be sent so much. Who can't goes on waiting, and is looked at again when
    /// the owner is due with offers, at the latest.
    fn next_claim(&mut self, owner: MemberKey, turn: &Turn<'_>) -> Option<(MemberKey, LinkId)> {
        let Some(Link::Offered(offer)) = self.links.get(self.members.get(&owner)?.pool.front()?) else {
            return None;
        };
        let len_bytes = offer.len_bytes();
        let mut nth = 0;
        loop {
            let taker = *self.members.get(&owner)?.waiting.get(nth)?;
            if self.charge_relay(owner, taker, len_bytes, turn).is_ok() {
                let member = self.members.get_mut(&owner)?;
                member.waiting.remove(nth);
                return Some((taker, member.pool.pop_front()?));
            }
            nth += 1;
        }
    }

    fn hand_out(&mut self, owner: MemberKey, taker: MemberKey, id: LinkId, turn: &mut Turn<'_>) {
        let pair = PairKey::of(owner, taker);
        let (tries, paid) = match self.pairs.get(&pair) {
            Some(Pair::Waiting { tries, paid, .. }) => (*tries, *paid),
            Some(Pair::Linked { .. } | Pair::Theirs | Pair::Apart { .. }) | None => (0, None),
        };
        self.credit(pair, paid, turn);
        let until = turn.now + turn.limits.claim_timeout * (1 << tries.min(3));
        let claim = Claim { until, answered: false, owner_seen: false };
        let taken = Taken { owner, taker, unanswered: Some(owner), since: turn.now, claim: Some(claim) };
        let Some(Link::Offered(offer)) = self.links.insert(id.clone(), Link::Taken(taken)) else { return };
        self.pairs.insert(pair, Pair::Linked { link: id.clone(), tries: tries.saturating_add(1) });
        turn.effects.deadlines.set(until, self.claim_reason(&id));
        turn.effects.counters.claimed += 1;
        self.announce_claim(owner, taker, id, offer, turn);
    }

    fn announce_claim(
        &mut self,
        owner: MemberKey,
        taker: MemberKey,
        id: LinkId,
        offer: Offered,
        turn: &mut Turn<'_>,
    ) {
        let Some(taker_user) = self.members.get(&taker).map(|member| member.user.clone()) else { return };
        let Some(member) = self.members.get_mut(&owner) else { return };
        let owner_user = member.user.clone();
        let unsure_already = !member.unseen_claims.is_empty();
        member.unseen_claims.insert(id.clone());
        member.kept.remove(offer.kept_bytes());
        let candidates = offer.candidates.into_iter().map(|candidate| OfferSignal::Candidate { candidate });
        let signals = std::iter::once(OfferSignal::Offer { sdp: offer.sdp }).chain(candidates).collect();
        self.send(taker, ServerSignal::Accept { id: id.clone(), user_id: owner_user, signals }, turn);
        self.send(owner, ServerSignal::OfferAccepted { id, user_id: taker_user }, turn);
        if !unsure_already {
            self.ping(owner, turn);
        }
    }

    /// Asks for as many offers as are waited for, and one for the next newcomer.
    pub(super) fn request_offers(&mut self, owner: MemberKey, turn: &mut Turn<'_>) {
        let reason = self.offers_reason(owner);
        let Some(member) = self.members.get_mut(&owner) else { return };
        if let Some(until) = member.owed_until.filter(|_| member.waiting.is_empty() || !member.is_awake()) {
            turn.effects.deadlines.cancel(until, reason.clone());
            member.owed_until = None;
        }
        let Some(socket) = member.socket().filter(|_| member.is_awake()) else { return };
        let wanted = (member.waiting.len() + 1).min(turn.limits.offers_per_member);
        let missing = wanted.saturating_sub(member.pool.len() + member.owed);
        member.owed += missing;
        for _ in 0..missing {
            turn.effects.send(socket, ServerSignal::OfferRequest);
        }
        if member.owed_until.is_none() && !member.waiting.is_empty() {
            let until = turn.now + turn.limits.claim_timeout;
            member.owed_until = Some(until);
            turn.effects.deadlines.set(until, reason);
        }
    }

    /// Puts the pair back to the start: `taker` is to get an offer of `owner`.
    pub(super) fn wait(
        &mut self,
        owner: MemberKey,
        taker: MemberKey,
        tries: u32,
        paid: Option<Doing>,
        place: Queue,
    ) {
        self.pairs.insert(PairKey::of(owner, taker), Pair::Waiting { owner, tries, paid });
        self.unlist_both(owner, taker);
        let taker_awake = self.is_awake(taker);
        let Some(member) = self.members.get_mut(&owner).filter(|_| taker_awake) else { return };
        match place {
            Queue::First => member.waiting.push_front(taker),
            Queue::Last => member.waiting.push_back(taker),
        }
    }

    /// What they said they had is no longer so.
    fn unlist_both(&mut self, a: MemberKey, b: MemberKey) {
        let user = |key: &MemberKey| self.members.get(key).map(|member| member.user.clone());
        let (Some(user_a), Some(user_b)) = (user(&a), user(&b)) else { return };
        if let Some(member) = self.members.get_mut(&a) {
            member.unlist(&user_b);
        }
        if let Some(member) = self.members.get_mut(&b) {
            member.unlist(&user_a);
        }
    }

    /// Forgets a link that was taken, whatever its state.
    pub(super) fn drop_taken(&mut self, id: &LinkId, turn: &mut Turn<'_>) {
        let Some(Link::Taken(taken)) = self.links.remove(id) else { return };
        if let Some(claim) = taken.claim {
            turn.effects.deadlines.cancel(claim.until, self.claim_reason(id));
        }
        if let Some(owner) = self.members.get_mut(&taken.owner) {
            owner.unseen_claims.remove(id);
        }
    }

    /// Forgets the member's unclaimed offers. Returns their ids.
    pub(super) fn drop_pool(&mut self, member: MemberKey) -> Vec<LinkId> {
        let Some(member) = self.members.get_mut(&member) else { return Vec::new() };
        let pool = std::mem::take(&mut member.pool);
        for id in &pool {
            if let Some(Link::Offered(offer)) = self.links.remove(id) {
                member.kept.remove(offer.kept_bytes());
            }
        }
        pool.into()
    }

    /// The link is answered and its owner is alive: the pair is linked.
    pub(super) fn confirm(&mut self, id: &LinkId, turn: &mut Turn<'_>) {
        let Some(Link::Taken(taken)) = self.links.get_mut(id) else { return };
        let pair = PairKey::of(taken.owner, taken.taker);
        let Some(claim) = taken.claim.take_if(|claim| claim.answered && claim.owner_seen) else { return };
        turn.effects.deadlines.cancel(claim.until, self.claim_reason(id));
        self.pairs.insert(pair, Pair::Linked { link: id.clone(), tries: 0 });
    }

    pub(super) fn claim_reason(&self, link: &LinkId) -> Reason {
        Reason::Claim { room: self.id.clone(), link: link.clone() }
    }

    pub(super) fn offers_reason(&self, member: MemberKey) -> Reason {
        Reason::Offers { room: self.id.clone(), member }
    }

    pub(super) fn grace_reason(&self, member: MemberKey) -> Reason {
        Reason::Grace { room: self.id.clone(), member }
    }
}

/// Where in a waiting list.
#[derive(Debug, Clone, Copy)]
pub(super) enum Queue {
    /// Before everyone: had an offer already that came to nothing.
    First,
    /// Behind everyone.
    Last,
}

impl Offered {
    /// What is passed on with it.
    pub(super) fn len_bytes(&self) -> usize {
        self.sdp.as_str().len() + self.candidates.iter().map(candidate_len_bytes).sum::<usize>()
    }

    /// What it takes to keep it.
    pub(super) fn kept_bytes(&self) -> usize {
        self.sdp.as_str().len() + self.candidates.iter().map(candidate_kept_bytes).sum::<usize>()
    }
}

pub(super) fn candidate_len_bytes(candidate: &Option<Candidate>) -> usize {
    candidate.as_ref().map_or(0, Candidate::len_bytes)
}

/// The end of candidates says nothing, and takes its place all the same.
pub(super) fn candidate_kept_bytes(candidate: &Option<Candidate>) -> usize {
    size_of::<Option<Candidate>>() + candidate_len_bytes(candidate)
}

/// Of a candidate that came before its offer.
pub(super) fn early_kept_bytes(id: &LinkId, candidate: &Option<Candidate>) -> usize {
    id.as_str().len() + candidate_kept_bytes(candidate)
}
