//! Members come, fall silent, wake, lose their socket, come back and leave.

use super::accounts::Doing;
use super::member::{Kind, Member, MemberKey, Presence, UNPROMPTED_OFFERS};
use super::state::{Entry, Link, Pair, PairKey, Queue, Refusal, Room, early_kept_bytes};
use super::{SocketId, Turn};
use crate::core::network::ClientAddress;
use crate::wire::secret::Secret;
use crate::wire::signal::ErrorCode;
use crate::wire::{LinkId, ServerSignal, UserId};

/// Who wants to enter.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) socket: SocketId,
    pub(super) address: ClientAddress,
    pub(super) user: UserId,
    pub(super) kind: Kind,
    /// The secret of an earlier welcome, as claimed.
    pub(super) resume: Option<Secret>,
}

/// How a member left for good.
#[derive(Debug, Clone, Copy)]
enum Left {
    /// Said `close`.
    Closed,
    /// Its grace passed, or an original came back as somebody new.
    Expired,
}

impl Room {
    /// Lets a member in, or back in. The caller goes on with [`Room::meet_everyone`].
    pub(super) fn enter(&mut self, newcomer: Newcomer, turn: &mut Turn<'_>) -> Entry {
        let Newcomer { socket, address, user, kind, resume } = newcomer;
        if let Some(key) = self.users.get(&user).copied() {
            match self.may_take(key, resume.as_ref()) {
                Claimant::Itself => return self.take_over(key, socket, address, kind, turn),
                Claimant::Successor => self.leave(key, Left::Expired, turn),
                Claimant::Stranger => {
                    let message = "this user id is taken: choose another";
                    return Entry::Refused(Refusal { code: ErrorCode::DuplicateId, message });
                }
            }
        }
        if self.len() >= turn.limits.members_per_room && !self.evict_ghost(turn) {
            let message = "the room is full";
            return Entry::Refused(Refusal { code: ErrorCode::RoomFull, message });
        }
        let key = MemberKey(self.next_member);
        self.next_member += 1;
        self.users.insert(user.clone(), key);
        let kept = turn.effects.kept.nothing();
        self.members.insert(key, Member::new(user, kind, address, socket, kept, turn.now));
        turn.effects.counters.joined += 1;
        Entry::Entered(key)
    }

    fn may_take(&self, key: MemberKey, resume: Option<&Secret>) -> Claimant {
        let Some(member) = self.members.get(&key) else { return Claimant::Successor };
        match &member.kind {
            Kind::Ours { .. } if resume.is_some_and(|claimed| member.knows(claimed)) => Claimant::Itself,
            Kind::Ours { .. } => Claimant::Stranger,
            Kind::Original if member.socket().is_none() => Claimant::Successor,
            Kind::Original => Claimant::Stranger,
        }
    }

    fn take_over(
        &mut self,
        key: MemberKey,
        socket: SocketId,
        address: ClientAddress,
        new_kind: Kind,
        turn: &mut Turn<'_>,
    ) -> Entry {
        let old_socket = self.members.get(&key).and_then(Member::socket);
        if old_socket.is_some() {
            self.detach(key, turn);
        }
        let reason = self.grace_reason(key);
        let Some(member) = self.members.get_mut(&key) else { return Entry::Entered(key) };
        if let Presence::Away { until } = member.presence {
            turn.effects.deadlines.cancel(until, reason);
            turn.effects.absent.remove(member.address, until, &self.id, key);
        }
        member.address = address;
        member.presence = Presence::Here { socket, awake: true, seen: turn.now };
        member.owed = UNPROMPTED_OFFERS;
        if let (Kind::Ours { have, .. }, Kind::Ours { have: new_have, .. }) = (&mut member.kind, new_kind) {
            *have = new_have;
        }
        turn.effects.counters.resumed += 1;
        Entry::TookOver { member: key, old_socket }
    }

    /// Makes place in a full room by giving up the longest absent original: it would come back as somebody new.
    fn evict_ghost(&mut self, turn: &mut Turn<'_>) -> bool {
        let absent = self.members.iter().filter_map(|(key, member)| match (&member.kind, &member.presence) {
            (Kind::Original, Presence::Away { until }) => Some((*until, *key)),
            (Kind::Original, Presence::Here { .. }) | (Kind::Ours { .. }, _) => None,
        });
        let Some((_, ghost)) = absent.min() else { return false };
        self.leave(ghost, Left::Expired, turn);
        true
    }

    /// Welcomes the newcomer and settles how it stands with every other member, in the order of joining.
    pub(super) fn meet_everyone(&mut self, newcomer: MemberKey, turn: &mut Turn<'_>) {
        let others = self.others(newcomer);
        if let Some(Member { kind: Kind::Ours { resume, .. }, .. }) = self.members.get(&newcomer) {
            let welcome = ServerSignal::Welcome { resume: resume.clone(), members: others.len() };
            self.send(newcomer, welcome, turn);
        }
        for other in others {
            self.meet(newcomer, other, turn);
            self.serve(other, turn);
        }
        self.serve(newcomer, turn);
    }

    fn meet(&mut self, newcomer: MemberKey, other: MemberKey, turn: &mut Turn<'_>) {
        let (Some(here), Some(there)) = (self.members.get(&newcomer), self.members.get(&other)) else {
            return;
        };
        let newcomer_has = here.lists(&there.user);
        let both_have = newcomer_has && there.lists(&here.user);
        let pair = PairKey::of(newcomer, other);
        let paid = Some(Doing::Entry(newcomer));
        match self.pairs.get(&pair).cloned() {
            Some(Pair::Linked { .. } | Pair::Theirs) if newcomer_has => {}
            Some(Pair::Linked { link, .. }) => {
                self.drop_taken(&link, turn);
                self.send(other, ServerSignal::LeaveSwarm { id: link.clone() }, turn);
                self.send(newcomer, ServerSignal::LeaveSwarm { id: link }, turn);
                self.wait(other, newcomer, 0, paid, Queue::Last);
            }
            Some(Pair::Theirs | Pair::Apart { .. }) => self.wait(other, newcomer, 0, paid, Queue::Last),
            Some(Pair::Waiting { owner, tries, paid: before }) => {
                self.resume_waiting(newcomer, owner, pair, tries, before.or(paid));
            }
            None if both_have => {
                self.pairs.insert(pair, Pair::Theirs);
            }
            None => self.wait(other, newcomer, 0, paid, Queue::Last),
        }
    }

    /// Who waited before the socket was lost goes on waiting.
    fn resume_waiting(
        &mut self,
        newcomer: MemberKey,
        owner: MemberKey,
        pair: PairKey,
        tries: u32,
        paid: Option<Doing>,
    ) {
        let Some(taker) = pair.other(owner) else { return };
        if owner == newcomer && self.members.get(&owner).is_some_and(|member| member.waiting.contains(&taker))
        {
            self.pairs.insert(pair, Pair::Waiting { owner, tries, paid });
        } else {
            self.wait(owner, taker, tries, paid, Queue::Last);
        }
    }

    /// Something came from the member.
    pub(super) fn handle_seen(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let Presence::Here { awake, seen, .. } = &mut member.presence else { return };
        *seen = turn.now;
        let was_awake = std::mem::replace(awake, true);
        for id in std::mem::take(&mut member.unseen_claims) {
            if let Some(Link::Taken(taken)) = self.links.get_mut(&id)
                && let Some(claim) = &mut taken.claim
            {
                claim.owner_seen = true;
            }
            self.confirm(&id, turn);
        }
        if !was_awake {
            self.wake(key, turn);
        }
    }

    /// A member that had fallen silent is back: its old offers may be as stale as it was.
    fn wake(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        for id in self.drop_pool(key) {
            self.send(key, ServerSignal::LeaveSwarm { id }, turn);
        }
        for other in self.others(key) {
            match self.pairs.get(&PairKey::of(key, other)) {
                Some(Pair::Waiting { owner, tries, paid }) if *owner == other => {
                    self.wait(other, key, *tries, *paid, Queue::Last);
                    self.serve(other, turn);
                }
                Some(Pair::Waiting { .. } | Pair::Linked { .. } | Pair::Theirs | Pair::Apart { .. })
                | None => {}
            }
        }
        self.serve(key, turn);
    }

    /// The member gives no sign of life: nobody is sent to it, and it is sent to nobody, until it does.
    pub(super) fn fall_asleep(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        let reason = self.offers_reason(key);
        let Some(member) = self.members.get_mut(&key) else { return };
        let Presence::Here { awake, .. } = &mut member.presence else { return };
        *awake = false;
        if let Some(until) = member.owed_until.take() {
            turn.effects.deadlines.cancel(until, reason);
        }
        self.stop_waiting(key, turn);
    }

    /// Takes the member out of all waiting lists. The pairs stay as they are.
    fn stop_waiting(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        for other in self.others(key) {
            match self.pairs.get(&PairKey::of(key, other)) {
                Some(Pair::Waiting { owner, .. }) if *owner == other => {}
                Some(Pair::Waiting { .. } | Pair::Linked { .. } | Pair::Theirs | Pair::Apart { .. })
                | None => {
                    continue;
                }
            }
            let reason = self.offers_reason(other);
            let Some(owner) = self.members.get_mut(&other) else { continue };
            owner.waiting.retain(|waiting| *waiting != key);
            if owner.waiting.is_empty()
                && let Some(until) = owner.owed_until.take()
            {
                turn.effects.deadlines.cancel(until, reason);
            }
        }
    }

    /// The member's socket is gone. Its links live on without it, and its place is kept for a while.
    pub(super) fn handle_lost(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        let until = turn.now + turn.limits.grace;
        self.detach(key, turn);
        let reason = self.grace_reason(key);
        let Some(member) = self.members.get_mut(&key) else { return };
        member.presence = Presence::Away { until };
        turn.effects.deadlines.set(until, reason);
        turn.effects.absent.add(member.address, until, &self.id, key);
        let user = member.user.clone();
        self.tell_ours(&user, turn);
    }

    /// Ends everything that hangs on the member's socket: unfinished claims, unclaimed offers, places in queues.
    fn detach(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        let reason = self.offers_reason(key);
        if let Some(member) = self.members.get_mut(&key) {
            member.presence = Presence::Away { until: turn.now };
            member.owed = 0;
            for (id, candidate) in std::mem::take(&mut member.early) {
                member.kept.remove(early_kept_bytes(&id, &candidate));
            }
            if let Some(until) = member.owed_until.take() {
                turn.effects.deadlines.cancel(until, reason);
            }
        }
        self.drop_pool(key);
        self.stop_waiting(key, turn);
        for other in self.others(key) {
            self.give_back_claim(PairKey::of(key, other), None, turn);
        }
    }

    fn give_back_claim(&mut self, pair: PairKey, paid: Option<Doing>, turn: &mut Turn<'_>) {
        let Some(Pair::Linked { link, tries }) = self.pairs.get(&pair).cloned() else { return };
        let Some(Link::Taken(taken)) = self.links.get(&link) else { return };
        let (owner, taker) = (taken.owner, taken.taker);
        if taken.claim.is_none() {
            return;
        }
        self.drop_taken(&link, turn);
        turn.effects.counters.given_back += 1;
        self.send(taker, ServerSignal::LeaveSwarm { id: link.clone() }, turn);
        self.send(owner, ServerSignal::LeaveSwarm { id: link }, turn);
        self.wait(owner, taker, tries, paid, Queue::First);
    }

    /// The claim brought no link in time: it is given back, and tried again with a fresh offer.
    pub(super) fn handle_claim_timeout(&mut self, id: &LinkId, turn: &mut Turn<'_>) {
        let Some(Link::Taken(taken)) = self.links.get(id) else { return };
        let (owner, taker, since) = (taken.owner, taken.taker, taken.since);
        let Some(claim) = &taken.claim else { return };
        let (answered, owner_seen) = (claim.answered, claim.owner_seen);
        let paid = self.pay_for_failure(taken, turn);
        let taker_seen = self.members.get(&taker).is_some_and(|member| member.seen_since(since));
        if !owner_seen {
            self.fall_asleep(owner, turn);
        }
        if !answered && !taker_seen {
            self.fall_asleep(taker, turn);
            self.ping(taker, turn);
        }
        self.give_back_claim(PairKey::of(owner, taker), paid, turn);
        self.serve(owner, turn);
    }

    /// Somebody has waited long for an offer. One that can go out by now does; what was asked for and did not come counts no more,
    /// and is asked for again. It may have been asked for on behalf of many who are gone.
    pub(super) fn handle_offers_timeout(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        let Some(member) = self.members.get_mut(&key) else { return };
        member.owed_until = None;
        member.owed = 0;
        self.serve(key, turn);
    }

    /// The member said `close`.
    pub(super) fn close(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        self.leave(key, Left::Closed, turn);
    }

    /// The member's grace passed.
    pub(super) fn expire(&mut self, key: MemberKey, turn: &mut Turn<'_>) {
        self.leave(key, Left::Expired, turn);
    }

    fn leave(&mut self, key: MemberKey, how: Left, turn: &mut Turn<'_>) {
        self.stop_waiting(key, turn);
        for other in self.others(key) {
            self.forget_pair(key, other);
            match self.pairs.remove(&PairKey::of(key, other)) {
                Some(Pair::Linked { link, .. }) => {
                    self.drop_taken(&link, turn);
                    self.say_left(key, other, Some(link), how, turn);
                }
                Some(Pair::Theirs) => self.say_left(key, other, None, how, turn),
                Some(Pair::Waiting { .. } | Pair::Apart { .. }) | None => {}
            }
        }
        self.drop_pool(key);
        let (offers, grace) = (self.offers_reason(key), self.grace_reason(key));
        let Some(member) = self.members.remove(&key) else { return };
        self.users.remove(&member.user);
        if let Some(until) = member.owed_until {
            turn.effects.deadlines.cancel(until, offers);
        }
        if let Presence::Away { until } = member.presence {
            turn.effects.deadlines.cancel(until, grace);
            turn.effects.absent.remove(member.address, until, &self.id, key);
            self.tell_ours(&member.user, turn);
        }
    }

    /// A member who closed is done with its links; one who only vanished may still hold them, so that our peers
    /// are left to find out by themselves.
    fn say_left(&self, key: MemberKey, to: MemberKey, link: Option<LinkId>, how: Left, turn: &mut Turn<'_>) {
        let (Some(leaver), Some(other)) = (self.members.get(&key), self.members.get(&to)) else { return };
        match (how, link) {
            (Left::Expired, _) if other.is_ours() => {}
            (Left::Closed | Left::Expired, Some(id)) => self.send(to, ServerSignal::LeaveSwarm { id }, turn),
            (Left::Closed | Left::Expired, None) => {
                self.send(to, ServerSignal::Gone { user_id: leaver.user.clone() }, turn);
            }
        }
    }

    /// Tells all members who understand it that this one's socket broke off.
    fn tell_ours(&self, gone: &UserId, turn: &mut Turn<'_>) {
        for socket in self.members.values().filter(|member| member.is_ours()).filter_map(Member::socket) {
            turn.effects.send(socket, ServerSignal::Gone { user_id: gone.clone() });
        }
    }
}

/// Who asks for a user id that is taken.
enum Claimant {
    /// The member itself: it knows the secret.
    Itself,
    /// An original whose socket is gone, or somebody in its place: there is no telling, and originals don't resume.
    Successor,
    /// Somebody else.
    Stranger,
}
