//! Who pays for what others have to say.
//!
//! Every message is paid by the address of its sender. But a hand-out, an offer of one member given to another, makes both of them
//! speak: one answers, one makes the next offer, both send candidates. Whoever could bring that about for nothing could use up the
//! allowance of everybody who shares an address with its victims. So a hand-out has a price, [`PRICE_OF_OFFER`], and this is the rule:
//!
//! 1. **It is paid, in advance, by the address of whose doing it is** ([`Doing`]), and it belongs to the pair until the hand-out comes:
//!    - by whoever *enters* or comes back, for each member that it meets ([`price_of_entry`](super::limits::price_of_entry)). Where
//!      the other end had paid already and waits, that stands.
//!    - by whoever *asks* (`want`), if that has an effect. Who can't pay is refused, before anything has happened.
//!    - for a claim that came to nothing, by the end that *failed* it: the taker that did not answer in time, or the owner that was
//!      not seen. Where both failed it, or a socket was lost, nobody pays: whoever comes back pays for that.
//! 2. **It is given to the other end's address, when the hand-out comes**, as credit that is spent on offers, answers and candidates
//!    only, and before the address's own allowance; at most as much of it is kept as an address may say at once. Whom nobody paid for
//!    gets nothing. What is not handed out stays paid.
//! 3. **Who gave another up can not be made to go on doing so**: the other's next `want` has no effect for a while that doubles each
//!    time. That it was given up gives the other nothing back: whoever gave up has said its words, and a `leave` besides. How much such
//!    members can make others ask is bounded there: our client asks once a second in the long run.
//! 4. **An offer on a connection** (a renegotiation) makes its other end answer, with all candidates anew if it restarts ICE. It has the
//!    same price, which its sender pays and the other end's address is given at once. So whoever adds a stream pays for 11 messages for
//!    each peer; those behind its own address can say them.
//!
//! It follows that nothing is ever given that was not paid; that an address which only answers and offers when it is asked to loses
//! nothing by it, while that takes no more messages than the price; and that nobody gains anything but words by what others do.
//! `an_address_that_only_answers_never_loses_and_none_ever_gains` tries it.

use std::time::Duration;

use super::limits::PRICE_OF_OFFER;
use super::member::MemberKey;
use super::state::{PairKey, Refusal, Room, Taken};
use super::{Instant, Rooms, SocketId, Turn};
use crate::core::network::ClientAddress;
use crate::wire::ClientSignal;
use crate::wire::signal::ErrorCode;

/// Who caused a hand-out, and how. Its address has paid for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It entered, or came back.
    Entry(MemberKey),
    /// It asked for the other.
    Want(MemberKey),
    /// The claim before came to nothing because of it.
    Failure(MemberKey),
}

impl Doing {
    fn member(self) -> MemberKey {
        match self {
            Self::Entry(member) | Self::Want(member) | Self::Failure(member) => member,
        }
    }
}

impl Rooms {
    /// Takes one message from the allowances of the socket and of its address.
    pub(super) fn charge_message(&mut self, now: Instant, socket: SocketId) -> bool {
        self.effects.counters.received += u64::from(self.sockets.contains_key(&socket));
        self.charge_socket(now, socket) && self.charge_address(now, socket, 1, TOO_MANY_MESSAGES)
    }

    /// Likewise; if it is about a connection, others may have paid for it.
    pub(super) fn charge_signal(&mut self, now: Instant, socket: SocketId, signal: &ClientSignal) -> bool {
        if !is_word(signal) {
            return self.charge_message(now, socket);
        }
        self.effects.counters.received += u64::from(self.sockets.contains_key(&socket));
        self.charge_socket(now, socket)
            && self.charge(now, socket, TOO_MANY_MESSAGES, |rooms, address| {
                rooms.addresses.charge_word(now, address, &rooms.limits)
            })
    }

    /// A socket whose address has nothing left is closed.
    pub(super) fn charge_address(
        &mut self,
        now: Instant,
        socket: SocketId,
        messages: u64,
        refusal: &str,
    ) -> bool {
        self.charge(now, socket, refusal, |rooms, address| {
            rooms.addresses.charge(now, address, messages, &rooms.limits)
        })
    }

    fn charge(
        &mut self,
        now: Instant,
        socket: SocketId,
        refusal: &str,
        take: impl FnOnce(&mut Self, ClientAddress) -> bool,
    ) -> bool {
        let Some(address) = self.sockets.get(&socket).map(|known| known.address) else { return false };
        if take(self, address) {
            return true;
        }
        self.refuse_and_close(now, socket, ErrorCode::LimitExceeded, refusal);
        false
    }

    /// Takes one message from the socket's own allowance; a socket that has none left is closed. Signs of life take no more than
    /// that: members who only listen stay, whatever others do behind the same address.
    pub(super) fn charge_socket(&mut self, now: Instant, socket: SocketId) -> bool {
        let Some(known) = self.sockets.get_mut(&socket) else { return false };
        if known.bucket.take(now, self.limits.messages(), 1) {
            return true;
        }
        self.refuse_and_close(now, socket, ErrorCode::LimitExceeded, "too many messages a second, slow down");
        false
    }
}

impl Room {
    /// Takes the price of a hand-out from the member's address. Whether it could pay.
    fn pay(&self, member: MemberKey, turn: &mut Turn<'_>) -> bool {
        let Some(address) = self.address(member) else { return false };
        turn.addresses.charge(turn.now, address, PRICE_OF_OFFER, turn.limits)
    }

    /// The member asks for another, and pays for it.
    pub(super) fn pay_for_want(&self, asker: MemberKey, turn: &mut Turn<'_>) -> Result<Doing, Refusal> {
        match self.pay(asker, turn) {
            true => Ok(Doing::Want(asker)),
            false => Err(Refusal::limit("too many requests from one address, slow down")),
        }
    }

    /// The member makes another offer on a connection that there is: it pays for what the other end says then.
    pub(super) fn pay_for_renegotiation(
        &self,
        from: MemberKey,
        to: MemberKey,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        if !self.pay(from, turn) {
            return Err(Refusal::limit("too many offers from one address, slow down"));
        }
        self.give(to, turn);
        Ok(())
    }

    /// A claim was not answered, or its owner not seen, in time: whoever it failed with pays for the next.
    pub(super) fn pay_for_failure(&self, taken: &Taken, turn: &mut Turn<'_>) -> Option<Doing> {
        let claim = taken.claim.as_ref()?;
        let at_fault = match (claim.answered, claim.owner_seen) {
            (true, false) => taken.owner,
            (false, true) => taken.taker,
            (true, true) | (false, false) => return None,
        };
        self.pay(at_fault, turn).then_some(Doing::Failure(at_fault))
    }

    /// The hand-out is there: what was paid for it is for the words of the other end.
    pub(super) fn credit(&self, pair: PairKey, paid: Option<Doing>, turn: &mut Turn<'_>) {
        if let Some(other) = paid.and_then(|doing| pair.other(doing.member())) {
            self.give(other, turn);
        }
    }

    /// What was paid is for the words of this member.
    fn give(&self, member: MemberKey, turn: &mut Turn<'_>) {
        if let Some(address) = self.address(member) {
            turn.addresses.add_credit(address, PRICE_OF_OFFER, turn.limits);
        }
    }

    /// One end gives the connection up.
    pub(super) fn give_up(&mut self, by: MemberKey, other: MemberKey) {
        let times = self.given_up.entry((by, other)).or_default();
        *times = times.saturating_add(1);
    }

    /// How long after the last hand-out the member can't bring about another to this one, who gave it up.
    pub(super) fn rest_of_given_up(
        &self,
        asker: MemberKey,
        wanted: MemberKey,
        turn: &Turn<'_>,
    ) -> Option<Duration> {
        let times = *self.given_up.get(&(wanted, asker))?;
        Some(turn.limits.claim_timeout * (1 << times.saturating_sub(1).min(3)))
    }

    fn address(&self, member: MemberKey) -> Option<ClientAddress> {
        self.members.get(&member).map(|member| member.address)
    }
}

/// Whether it is one of the messages that a hand-out or a renegotiation makes others say.
fn is_word(signal: &ClientSignal) -> bool {
    match signal {
        ClientSignal::Offer { .. } | ClientSignal::Answer { .. } | ClientSignal::Candidate { .. } => true,
        ClientSignal::Init(_)
        | ClientSignal::Want { .. }
        | ClientSignal::Withdraw { .. }
        | ClientSignal::Leave { .. }
        | ClientSignal::Close => false,
    }
}

const TOO_MANY_MESSAGES: &str = "too many messages from one address, slow down";
