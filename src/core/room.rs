//! The signaling server's machine: rooms, their members, and who gets whose offer.
//!
//! Every member leaves an offer here for the next newcomer to take, so that a newcomer is connected to everyone in
//! two round trips. For each pair of members the machine holds exactly one of three facts (`docs/protocol.md`):
//!
//! ```text
//!              an offer of the owner is there           answered, and the owner was seen
//!   Waiting ---------------------------------> Claimed ---------------------------------> Linked
//!      ^                                          |                                          |
//!      +------- no answer, no sign of life, -------+---------- `want`, or a reconnect --------+
//!                     socket lost                             without the link in `have`
//! ```
//!
//! The member who was there first owns the offer; the newcomer answers it. Who pays for what they say then is in `accounts`.

mod absent;
mod accounts;
mod addresses;
mod api;
mod deadlines;
mod kept;
mod limits;
mod member;
mod presence;
#[cfg(test)]
mod properties;
mod relay;
mod routing;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::core::access::Grant;
use crate::core::network::ClientAddress;
use crate::wire::secret::Secret;
use crate::wire::signal::ErrorCode;
use crate::wire::{ClientSignal, Init, RoomId, ServerSignal};

pub use api::{CloseReason, Counters, Input, Output, SocketId, Stats};
pub use deadlines::Reason;
pub use limits::{Limits, Rate};
pub use member::MemberKey;

use absent::Absent;
use addresses::{Addresses, Reception};
use deadlines::Deadlines;
use kept::{Kept, KeptForAll};
use limits::{Bucket, MESSAGES_OF_CLAIM, PRICE_OF_REQUEST, price_of_entry};
use member::Kind;
use presence::Newcomer;
use state::{Entry, Room};

/// The length of a resume secret that a client may bring: 128 random bits in base64url are 22 characters.
const RESUME_SECRET_BYTES: std::ops::RangeInclusive<usize> = 22..=64;

/// What the machine's parts write to: messages out, deadlines, counts.
#[derive(Debug, Default)]
struct Effects {
    outputs: VecDeque<Output>,
    deadlines: Deadlines,
    absent: Absent,
    kept: KeptForAll,
    counters: Counters,
}

/// One input's surroundings: what the parts of the machine read and write while they take it.
struct Turn<'a> {
    now: Instant,
    limits: &'a Limits,
    addresses: &'a mut Addresses,
    effects: &'a mut Effects,
}

impl Effects {
    fn send(&mut self, socket: SocketId, signal: ServerSignal) {
        self.outputs.push_back(Output::Send { socket, signal });
    }

    fn refuse(&mut self, socket: SocketId, code: ErrorCode, message: impl Into<String>) {
        self.counters.refused += 1;
        self.send(socket, ServerSignal::SignalError { code: Some(code), message: message.into() });
    }
}

#[derive(Debug)]
struct Socket {
    address: ClientAddress,
    grant: Grant,
    bucket: Bucket,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Not in a room, and closed if that is still so then. Offers and candidates that come before `init` wait here.
    Outside { until: Instant, early: Vec<ClientSignal>, kept: Kept },
    /// A member.
    Inside { room: RoomId, member: MemberKey },
}

/// All rooms of a server.
#[derive(Debug)]
pub struct Rooms {
    limits: Limits,
    random: StdRng,
    rooms: BTreeMap<RoomId, Room>,
    sockets: BTreeMap<SocketId, Socket>,
    /// Sockets that were let go and are not closed yet. Until they are, they hold memory and so go on counting.
    leaving: BTreeMap<SocketId, (ClientAddress, Reception)>,
    addresses: Addresses,
    effects: Effects,
}

impl Rooms {
    /// A server without rooms. `seed` must come from the system's randomness: the resume secrets are drawn from it.
    pub fn new(limits: Limits, seed: [u8; 32]) -> Self {
        Self {
            limits,
            random: StdRng::from_seed(seed),
            rooms: BTreeMap::new(),
            sockets: BTreeMap::new(),
            leaving: BTreeMap::new(),
            addresses: Addresses::default(),
            effects: Effects::default(),
        }
    }

    /// Takes one input. Drain [`Rooms::poll`] before the next.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Connected { socket, address, grant } => self.handle_connected(now, socket, address, grant),
            Input::Signal { socket, signal } => {
                if self.charge_signal(now, socket, &signal) {
                    self.handle_seen(now, socket);
                    self.handle_signal(now, socket, signal);
                }
            }
            Input::Invalid { socket, code, message } => {
                if self.charge_message(now, socket) {
                    self.handle_seen(now, socket);
                    self.effects.refuse(socket, code, message);
                }
            }
            Input::Seen(socket) => {
                if self.charge_socket(now, socket) {
                    self.handle_seen(now, socket);
                }
            }
            Input::GivenUp(socket) => self.let_go(now, socket),
            Input::Lost(socket) => self.handle_lost(now, socket),
            Input::Shutdown => self.handle_shutdown(),
        }
    }

    /// The next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.effects.outputs.pop_front()?;
        if let Output::Send {
            socket,
            signal: ServerSignal::OfferAccepted { .. } | ServerSignal::Offer { .. },
        } = &output
            && let Some(receiver) = self.sockets.get_mut(socket)
        {
            receiver.bucket.give(self.limits.messages(), MESSAGES_OF_CLAIM);
        }
        Some(output)
    }

    /// When [`Rooms::handle_timeout`] has something to do, and what.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        self.effects.deadlines.first()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(reason) = self.effects.deadlines.pop_due(now) {
            match reason {
                Reason::Init { socket } => {
                    let message = "no `init` for too long: connect again and send it first";
                    self.refuse_and_close(now, socket, ErrorCode::LimitExceeded, message);
                }
                Reason::Claim { room, link } => {
                    self.in_room(now, &room, |room, turn| room.handle_claim_timeout(&link, turn));
                }
                Reason::Offers { room, member } => {
                    self.in_room(now, &room, |room, turn| room.handle_offers_timeout(member, turn));
                }
                Reason::Grace { room, member } => {
                    self.in_room(now, &room, |room, turn| room.expire(member, turn));
                }
            }
        }
    }

    /// What the server holds and has done.
    pub fn stats(&self) -> Stats {
        let rooms = self.rooms.values();
        let (members, offers, links) = rooms.fold((0, 0, 0), |(members, offers, links), room| {
            let (room_offers, room_links) = room.count_links();
            (members + room.len(), offers + room_offers, links + room_links)
        });
        Stats {
            rooms: self.rooms.len(),
            members,
            sockets: self.sockets.len(),
            offers,
            links,
            counters: self.effects.counters,
        }
    }

    fn handle_connected(&mut self, now: Instant, socket: SocketId, address: ClientAddress, grant: Grant) {
        let reception = self.addresses.opened(now, address, &self.limits);
        let reason = match reception {
            Reception::LetIn => {
                let bucket = Bucket::full(now, self.limits.messages());
                let place = self.outside(now, socket);
                self.sockets.insert(socket, Socket { address, grant, bucket, place });
                return;
            }
            Reception::TurnedAway => {
                let most = self.limits.sockets_per_address;
                let message = format!("too many connections from one address, at most {most} are allowed");
                self.effects.refuse(socket, ErrorCode::LimitExceeded, message);
                self.leaving.insert(socket, (address, reception));
                CloseReason::Refused(ErrorCode::LimitExceeded)
            }
            Reception::Ignored => CloseReason::Crowded,
        };
        self.effects.outputs.push_back(Output::Close { socket, reason });
    }

    fn outside(&mut self, now: Instant, socket: SocketId) -> Place {
        let until = now + self.limits.init_timeout;
        self.effects.deadlines.set(until, Reason::Init { socket });
        Place::Outside { until, early: Vec::new(), kept: self.effects.kept.nothing() }
    }

    fn handle_signal(&mut self, now: Instant, socket: SocketId, signal: ClientSignal) {
        let Some(known) = self.sockets.get_mut(&socket) else { return };
        match (&mut known.place, signal) {
            (_, ClientSignal::Init(init)) => self.handle_init(now, socket, init),
            (Place::Outside { early, kept, .. }, ClientSignal::Close) => {
                early.clear();
                kept.clear();
            }
            (
                Place::Outside { .. },
                ClientSignal::Want { .. } | ClientSignal::Withdraw { .. } | ClientSignal::Leave { .. },
            ) => {
                self.effects.refuse(socket, ErrorCode::NotAllowed, "enter a room first: send `init`");
            }
            (Place::Outside { .. }, signal) => self.keep_early(socket, signal),
            (Place::Inside { room, member }, signal) => {
                let (room, member) = (room.clone(), *member);
                self.handle_member_signal(now, socket, &room, member, signal);
            }
        }
    }

    fn handle_member_signal(
        &mut self,
        now: Instant,
        socket: SocketId,
        room_id: &RoomId,
        member: MemberKey,
        signal: ClientSignal,
    ) {
        let leaves = signal == ClientSignal::Close;
        let outcome = self.in_room(now, room_id, |room, turn| match signal {
            ClientSignal::Offer { id, sdp } => room.handle_offer(member, id, sdp, turn),
            ClientSignal::Answer { id, sdp } => room.handle_answer(member, id, sdp, turn),
            ClientSignal::Candidate { id, candidate } => room.handle_candidate(member, id, candidate, turn),
            ClientSignal::Want { user_id } => room.handle_want(member, user_id, turn),
            ClientSignal::Withdraw { id } => room.handle_withdraw(member, &id, turn),
            ClientSignal::Leave { id } => room.handle_leave(member, id, turn),
            ClientSignal::Close => {
                room.close(member, turn);
                Ok(())
            }
            ClientSignal::Init(_) => Ok(()),
        });
        if leaves {
            let place = self.outside(now, socket);
            if let Some(known) = self.sockets.get_mut(&socket) {
                known.place = place;
            }
        }
        if let Some(Err(refusal)) = outcome {
            self.effects.refuse(socket, refusal.code, refusal.message);
        }
    }

    /// Does something in a room, if there is such a room, and frees the room if it is empty then.
    fn in_room<T>(
        &mut self,
        now: Instant,
        room_id: &RoomId,
        act: impl FnOnce(&mut Room, &mut Turn<'_>) -> T,
    ) -> Option<T> {
        let room = self.rooms.get_mut(room_id)?;
        let Self { limits, addresses, effects, .. } = self;
        let mut turn = Turn { now, limits, addresses, effects };
        let result = act(room, &mut turn);
        if room.len() == 0 {
            self.rooms.remove(room_id);
        }
        Some(result)
    }

    /// An offer or a candidate can overtake `init`, which the published libraries send on a timer.
    fn keep_early(&mut self, socket: SocketId, signal: ClientSignal) {
        let Some(known) = self.sockets.get_mut(&socket) else { return };
        let Place::Outside { early, kept, .. } = &mut known.place else { return };
        if early.len() >= self.limits.early_signals || !kept.add(early_signal_bytes(&signal), &self.limits) {
            let message = "too many messages before `init`: send `init` first";
            self.effects.refuse(socket, ErrorCode::LimitExceeded, message);
            return;
        }
        early.push(signal);
    }

    fn handle_init(&mut self, now: Instant, socket: SocketId, init: Init) {
        let Some(known) = self.sockets.get(&socket) else { return };
        if let Place::Inside { room, member } = &known.place {
            let (room, member) = (room.clone(), *member);
            return self.handle_init_again(now, socket, &room, member, init);
        }
        if !known.grant.allows(&init.room_id) {
            let message = "the token does not open this room: ask for one that does";
            return self.refuse_and_close(now, socket, ErrorCode::Forbidden, message);
        }
        if !self.rooms.contains_key(&init.room_id) && self.rooms.len() >= self.limits.rooms {
            let message = "the server has as many rooms as it may: try again later";
            return self.refuse_and_close(now, socket, ErrorCode::TooManyRooms, message);
        }
        let address = known.address;
        let message = "too many entries from one address: wait a moment";
        if !self.charge_address(now, socket, PRICE_OF_REQUEST, message) {
            return;
        }
        let price = price_of_entry(self.rooms.get(&init.room_id).map_or(0, Room::len));
        if self.addresses.can_pay(now, address, price, &self.limits) {
            self.enter(now, socket, init, price);
        } else {
            self.refuse_and_close(now, socket, ErrorCode::LimitExceeded, message);
        }
    }

    /// `init` came with the URL and comes again as a message, which alone may bring a secret; or it is another one.
    fn handle_init_again(
        &mut self,
        now: Instant,
        socket: SocketId,
        room_id: &RoomId,
        member: MemberKey,
        init: Init,
    ) {
        let secret = init.resume.filter(has_secret_length);
        let same = *room_id == init.room_id
            && self.in_room(now, room_id, |room, _| room.is_user(member, &init.user_id)) == Some(true);
        if same {
            self.in_room(now, room_id, |room, _| room.bring_secret(member, secret));
        } else {
            let message = "this connection is a member already: send `close` first, or open another";
            self.effects.refuse(socket, ErrorCode::NotAllowed, message);
        }
    }

    /// The address can pay the price, and does if the room lets its client in: a room that is full, or an id that is taken, must
    /// not use up what others behind the same address need.
    fn enter(&mut self, now: Instant, socket: SocketId, init: Init, price: u64) {
        let Init { user_id, room_id, have, resume } = init;
        let kind = match have {
            Some(have) => {
                let secret = self.choose_secret(resume.as_ref());
                Kind::ours(have, secret, self.limits.members_per_room)
            }
            None => Kind::Original,
        };
        let Some(address) = self.sockets.get(&socket).map(|known| known.address) else { return };
        let newcomer = Newcomer { socket, address, user: user_id, kind, resume };
        self.rooms.entry(room_id.clone()).or_insert_with(|| Room::new(room_id.clone()));
        let Some(entry) = self.in_room(now, &room_id, |room, turn| room.enter(newcomer, turn)) else {
            return;
        };
        let member = match entry {
            Entry::Entered(member) => member,
            Entry::TookOver { member, old_socket } => {
                if let Some(socket) = old_socket {
                    self.forget(socket);
                    self.effects.outputs.push_back(Output::Close { socket, reason: CloseReason::Replaced });
                }
                member
            }
            Entry::Refused(refusal) => {
                return self.refuse_and_close(now, socket, refusal.code, refusal.message);
            }
        };
        self.addresses.charge(now, address, price, &self.limits);
        let Some(known) = self.sockets.get_mut(&socket) else { return };
        let place = Place::Inside { room: room_id.clone(), member };
        let Place::Outside { until, early, .. } = std::mem::replace(&mut known.place, place) else { return };
        self.effects.deadlines.cancel(until, Reason::Init { socket });
        self.in_room(now, &room_id, |room, turn| room.meet_everyone(member, turn));
        for signal in early {
            self.handle_member_signal(now, socket, &room_id, member, signal);
        }
    }

    /// A newcomer may bring its own secret: then it can come back even if the welcome was lost on its way.
    fn choose_secret(&mut self, brought: Option<&Secret>) -> Secret {
        match brought.filter(|secret| has_secret_length(secret)) {
            Some(secret) => secret.clone(),
            None => self.draw_secret(),
        }
    }

    fn draw_secret(&mut self) -> Secret {
        let mut bytes = [0; 16];
        self.random.fill_bytes(&mut bytes);
        Secret::new(URL_SAFE_NO_PAD.encode(bytes))
    }

    fn handle_seen(&mut self, now: Instant, socket: SocketId) {
        let Some(Socket { place: Place::Inside { room, member }, .. }) = self.sockets.get(&socket) else {
            return;
        };
        let (room, member) = (room.clone(), *member);
        self.in_room(now, &room, |room, turn| room.handle_seen(member, turn));
    }

    /// Whoever spoke on the socket is away now; the socket itself counts until [`Input::Lost`]. An address keeps as many places
    /// without a socket as it may have sockets.
    fn let_go(&mut self, now: Instant, socket: SocketId) {
        let Some(known) = self.forget(socket) else { return };
        let Place::Inside { room, member } = known.place else { return };
        self.in_room(now, &room, |room, turn| room.handle_lost(member, turn));
        let at_most = self.limits.sockets_per_address;
        if let Some((room, member)) = self.effects.absent.oldest_beyond(known.address, at_most) {
            self.in_room(now, &room, |room, turn| room.expire(member, turn));
        }
    }

    fn handle_lost(&mut self, now: Instant, socket: SocketId) {
        self.let_go(now, socket);
        if let Some((address, reception)) = self.leaving.remove(&socket) {
            self.addresses.closed(now, address, reception, &self.limits);
        }
    }

    fn handle_shutdown(&mut self) {
        for socket in std::mem::take(&mut self.sockets).into_keys() {
            let message = "the server is shutting down, come back in a moment";
            self.effects.refuse(socket, ErrorCode::ShuttingDown, message);
            self.effects.outputs.push_back(Output::Close { socket, reason: CloseReason::ShuttingDown });
        }
        self.leaving.clear();
        self.addresses.clear();
        self.rooms.clear();
        self.effects.deadlines = Deadlines::default();
        self.effects.absent = Absent::default();
    }

    fn refuse_and_close(
        &mut self,
        now: Instant,
        socket: SocketId,
        code: ErrorCode,
        message: impl Into<String>,
    ) {
        self.effects.refuse(socket, code, message);
        self.effects.outputs.push_back(Output::Close { socket, reason: CloseReason::Refused(code) });
        self.let_go(now, socket);
    }

    fn forget(&mut self, socket: SocketId) -> Option<Socket> {
        let known = self.sockets.remove(&socket)?;
        if let Place::Outside { until, .. } = known.place {
            self.effects.deadlines.cancel(until, Reason::Init { socket });
        }
        self.leaving.insert(socket, (known.address, Reception::LetIn));
        Some(known)
    }
}

fn has_secret_length(secret: &Secret) -> bool {
    RESUME_SECRET_BYTES.contains(&secret.expose().len())
}

/// What it takes to keep a message that came before `init`.
fn early_signal_bytes(signal: &ClientSignal) -> usize {
    size_of::<ClientSignal>() + signal.len_bytes()
}
