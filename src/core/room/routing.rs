//! Offers, answers and candidates: from their sender to the pool, or to the other end of the link, and to nobody else.

use std::time::Instant;

use super::Turn;
use super::limits::Limits;
use super::member::{Member, MemberKey};
use super::state::{
    Link, Offered, Pair, PairKey, Queue, Refusal, Room, candidate_kept_bytes, candidate_len_bytes,
    early_kept_bytes,
};
use crate::wire::{Candidate, LinkId, Sdp, ServerSignal, UserId};

impl Room {
    /// A new offer for the pool, or one that renegotiates a link.
    pub(super) fn handle_offer(
        &mut self,
        sender: MemberKey,
        id: LinkId,
        sdp: Sdp,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        match self.links.get_mut(&id) {
            None => self.pool_offer(sender, id, sdp, turn),
            Some(Link::Offered(offer)) if offer.owner == sender => {
                let Some(member) = self.members.get_mut(&sender) else { return Ok(()) };
                if !member.kept.replace(offer.kept_bytes(), sdp.as_str().len(), turn.limits) {
                    return Err(TOO_MANY_OFFERS);
                }
                (offer.sdp, offer.candidates) = (sdp, Vec::new());
                self.serve(sender, turn);
                Ok(())
            }
            Some(Link::Offered(_)) => Err(NOT_YOURS),
            Some(Link::Taken(_)) => self.renegotiate(sender, id, sdp, turn),
        }
    }

    fn renegotiate(
        &mut self,
        sender: MemberKey,
        id: LinkId,
        sdp: Sdp,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let Some(Link::Taken(taken)) = self.links.get(&id) else { return Err(NO_SUCH_LINK) };
        let to = taken.other_end(sender).ok_or(NOT_YOURS)?;
        if taken.unanswered == Some(to) {
            return Err(Refusal::not_allowed("answer the other side's offer first"));
        }
        self.charge_relay(sender, to, sdp.as_str().len(), turn)?;
        self.pay_for_renegotiation(sender, to, turn)?;
        if let Some(Link::Taken(taken)) = self.links.get_mut(&id) {
            taken.unanswered = Some(sender);
        }
        self.relay(to, ServerSignal::Offer { id, sdp }, turn);
        Ok(())
    }

    fn pool_offer(
        &mut self,
        owner: MemberKey,
        id: LinkId,
        sdp: Sdp,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let Some(member) = self.members.get_mut(&owner) else { return Ok(()) };
        if member.pool.len() >= turn.limits.offers_per_member
            || !member.kept.add(sdp.as_str().len(), turn.limits)
        {
            return Err(TOO_MANY_OFFERS);
        }
        member.owed = member.owed.saturating_sub(1);
        member.pool.push_back(id.clone());
        let own = member.take_early(&id);
        self.links.insert(id.clone(), Link::Offered(Offered { owner, sdp, candidates: Vec::new() }));
        let kept = own.into_iter().try_for_each(|candidate| self.pool_candidate(&id, candidate, turn));
        self.serve(owner, turn);
        kept
    }

    /// The answer to the offer that is open, from the end it was made to.
    pub(super) fn handle_answer(
        &mut self,
        sender: MemberKey,
        id: LinkId,
        sdp: Sdp,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let Some(Link::Taken(taken)) = self.links.get(&id) else { return Err(NO_SUCH_LINK) };
        let to = taken.other_end(sender).ok_or(NOT_YOURS)?;
        if taken.unanswered != Some(to) {
            return Err(Refusal::not_allowed("there is no offer to answer on this connection"));
        }
        self.charge_relay(sender, to, sdp.as_str().len(), turn)?;
        if let Some(Link::Taken(taken)) = self.links.get_mut(&id) {
            taken.unanswered = None;
            taken.claim.iter_mut().for_each(|claim| claim.answered = true);
        }
        self.confirm(&id, turn);
        self.relay(to, ServerSignal::Answer { id, sdp }, turn);
        Ok(())
    }

    /// A candidate: kept with its offer, relayed to the other end, or kept until its offer comes.
    pub(super) fn handle_candidate(
        &mut self,
        sender: MemberKey,
        id: LinkId,
        candidate: Option<Candidate>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        match self.links.get(&id) {
            Some(Link::Offered(offer)) if offer.owner == sender => self.pool_candidate(&id, candidate, turn),
            Some(Link::Offered(_)) => Err(NOT_YOURS),
            Some(Link::Taken(taken)) => {
                let to = taken.other_end(sender).ok_or(NOT_YOURS)?;
                self.charge_relay(sender, to, candidate_len_bytes(&candidate), turn)?;
                self.relay(to, ServerSignal::Candidate { id, candidate }, turn);
                Ok(())
            }
            None => {
                let Some(member) = self.members.get_mut(&sender) else { return Ok(()) };
                member.keep_early(id, candidate, turn.limits)
            }
        }
    }

    fn pool_candidate(
        &mut self,
        id: &LinkId,
        candidate: Option<Candidate>,
        turn: &Turn<'_>,
    ) -> Result<(), Refusal> {
        let Some(Link::Offered(offer)) = self.links.get_mut(id) else { return Ok(()) };
        let Some(member) = self.members.get_mut(&offer.owner) else { return Ok(()) };
        if offer.candidates.len() >= turn.limits.candidates_per_offer
            || offer.len_bytes() + candidate_len_bytes(&candidate) > turn.limits.bytes_per_offer
            || !member.kept.add(candidate_kept_bytes(&candidate), turn.limits)
        {
            return Err(TOO_MANY_CANDIDATES);
        }
        offer.candidates.push(candidate);
        Ok(())
    }

    /// One offer of that member, to repair a hole in the mesh.
    pub(super) fn handle_want(
        &mut self,
        sender: MemberKey,
        user: UserId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let Some(owner) = self.users.get(&user).copied() else {
            self.send(sender, ServerSignal::Gone { user_id: user }, turn);
            return Ok(());
        };
        if owner == sender {
            return Err(Refusal::not_allowed("nobody is connected to itself"));
        }
        let pair = self.pairs.get(&PairKey::of(owner, sender)).cloned();
        match &pair {
            Some(Pair::Waiting { .. }) => return Ok(()),
            Some(Pair::Linked { link, .. }) => {
                let Some(Link::Taken(taken)) = self.links.get(link) else { return Ok(()) };
                if taken.claim.is_some() {
                    return Ok(());
                }
                turn.check_want(taken.since)?;
            }
            Some(Pair::Apart { since }) => {
                turn.check_want(*since)?;
                let rest = self.rest_of_given_up(sender, owner, turn);
                if rest.is_some_and(|rest| turn.now.saturating_duration_since(*since) < rest) {
                    return Ok(());
                }
            }
            Some(Pair::Theirs) | None => {}
        }
        let paid = self.pay_for_want(sender, turn)?;
        if let Some(Pair::Linked { link, .. }) = pair {
            self.drop_taken(&link, turn);
            self.send(owner, ServerSignal::LeaveSwarm { id: link }, turn);
        }
        self.given_up.remove(&(sender, owner));
        self.wait(owner, sender, 0, Some(paid), Queue::Last);
        self.serve(owner, turn);
        Ok(())
    }

    /// Takes an offer out of its owner's pool. One that was taken meanwhile stays: its taker is on the way.
    pub(super) fn handle_withdraw(
        &mut self,
        sender: MemberKey,
        id: &LinkId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let Some(Link::Offered(offer)) = self.links.get(id) else { return Ok(()) };
        if offer.owner != sender {
            return Err(NOT_YOURS);
        }
        let kept_bytes = offer.kept_bytes();
        self.links.remove(id);
        if let Some(member) = self.members.get_mut(&sender) {
            member.pool.retain(|pooled| pooled != id);
            member.kept.remove(kept_bytes);
        }
        self.serve(sender, turn);
        Ok(())
    }

    /// Ends a connection that one end will not have, and keeps the pair apart until one of them asks.
    pub(super) fn handle_leave(
        &mut self,
        sender: MemberKey,
        id: LinkId,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let Some(Link::Taken(taken)) = self.links.get(&id) else { return Ok(()) };
        let other = taken.other_end(sender).ok_or(NOT_YOURS)?;
        let since = taken.since;
        self.drop_taken(&id, turn);
        self.give_up(sender, other);
        self.pairs.insert(PairKey::of(sender, other), Pair::Apart { since });
        self.send(other, ServerSignal::LeaveSwarm { id }, turn);
        Ok(())
    }
}

impl Member {
    /// Keeps a candidate until its offer comes, in place of older ones.
    fn keep_early(
        &mut self,
        id: LinkId,
        candidate: Option<Candidate>,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let kept_bytes = early_kept_bytes(&id, &candidate);
        while self.early.len() >= limits.candidates_per_offer || !self.kept.add(kept_bytes, limits) {
            let Some((id, candidate)) = self.early.pop_front() else { return Err(TOO_MANY_CANDIDATES) };
            self.kept.remove(early_kept_bytes(&id, &candidate));
        }
        self.early.push_back((id, candidate));
        Ok(())
    }

    /// The candidates that came before this offer.
    fn take_early(&mut self, offer: &LinkId) -> Vec<Option<Candidate>> {
        let early = std::mem::take(&mut self.early).into_iter();
        let (own, rest): (Vec<_>, Vec<_>) = early.partition(|(link, _)| link == offer);
        self.early = rest.into();
        own.iter().for_each(|(id, candidate)| self.kept.remove(early_kept_bytes(id, candidate)));
        own.into_iter().map(|(_, candidate)| candidate).collect()
    }
}

impl Turn<'_> {
    /// Every `want` costs the other member an offer: no pair may ask for them faster than this.
    fn check_want(&self, linked_at: Instant) -> Result<(), Refusal> {
        if self.now.saturating_duration_since(linked_at) < self.limits.want_interval {
            return Err(Refusal::limit("the connection to this member is new: wait a moment"));
        }
        Ok(())
    }
}

const NOT_YOURS: Refusal = Refusal::not_allowed("this connection is between other members");
const TOO_MANY_OFFERS: Refusal = Refusal::limit("too many offers: wait until the server asks for one");
const TOO_MANY_CANDIDATES: Refusal = Refusal::limit("too many candidates for one offer");
const NO_SUCH_LINK: Refusal = Refusal::not_allowed("there is no such connection, or not any more");
