//! Random lives of a server: garbage harms nothing, and obedient clients all end up with exactly one link each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::early_signal_bytes;
use super::member::Presence;
use super::state::{Link, Pair, PairKey, early_kept_bytes};
use super::*;
use crate::wire::{LinkId, Sdp, UserId};

fn address() -> ClientAddress {
    ClientAddress::of(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The same cases every time.
fn config(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(20), failure_persistence: None, ..Config::default() }
}

fn user(n: u8) -> UserId {
    UserId::new(format!("u{n}")).expect("a good id")
}

fn link(n: u64) -> LinkId {
    LinkId::new(format!("l{n}")).expect("a good id")
}

fn room(name: &str) -> RoomId {
    RoomId::new(name).expect("a good id")
}

/// Everything that must hold between two inputs, whatever came before.
fn check(rooms: &Rooms) {
    let mut deadlines = 0;
    let mut absent = 0;
    let mut kept = 0;
    for socket in rooms.sockets.values() {
        let Place::Outside { early, kept: here, .. } = &socket.place else { continue };
        deadlines += 1;
        assert_eq!(here.bytes(), early.iter().map(early_signal_bytes).sum::<usize>());
        kept += here.bytes();
    }
    for room in rooms.rooms.values() {
        assert!(room.len() > 0, "an empty room is kept");
        assert!(room.len() <= rooms.limits.members_per_room);
        assert_eq!(room.users.len(), room.members.len());
        let mut links = 0;
        for (key, member) in &room.members {
            links += member.pool.len();
            assert!(member.pool.len() <= rooms.limits.offers_per_member);
            assert!(member.kept.bytes() <= rooms.limits.bytes_per_socket);
            kept += member.kept.bytes();
            let offers = member.pool.iter().filter_map(|link| room.links.get(link));
            let pool_bytes = offers.map(|link| match link {
                Link::Offered(offer) => offer.kept_bytes(),
                Link::Taken(_) => 0,
            });
            let early_bytes = member.early.iter().map(|(id, candidate)| early_kept_bytes(id, candidate));
            assert_eq!(member.kept.bytes(), pool_bytes.chain(early_bytes).sum::<usize>());
            assert!(member.early.len() <= rooms.limits.candidates_per_offer);
            for link in &member.pool {
                let Some(Link::Offered(offer)) = room.links.get(link) else { panic!("no offer in the pool") };
                assert_eq!(offer.owner, *key);
            }
            let unique: BTreeSet<_> = member.waiting.iter().collect();
            assert_eq!(unique.len(), member.waiting.len(), "waits twice");
            for taker in &member.waiting {
                assert!(room.is_awake(*taker), "an absent member waits");
                let pair = room.pairs.get(&PairKey::of(*key, *taker));
                assert!(matches!(pair, Some(Pair::Waiting { owner, .. }) if owner == key));
            }
            if let Some(Link::Offered(offer)) = member.pool.front().and_then(|id| room.links.get(id))
                && member.is_awake()
            {
                let was_held_back = |taker: &MemberKey| {
                    room.budgets.get(&(*key, *taker)).is_some_and(|budget| budget.lacked(offer.len_bytes()))
                };
                assert!(member.waiting.iter().all(was_held_back), "an offer and nobody gets it");
                assert!(member.waiting.is_empty() || member.owed_until.is_some(), "nobody looks again");
            }
            match member.presence {
                Presence::Here { socket, .. } => assert!(rooms.sockets.contains_key(&socket)),
                Presence::Away { .. } => absent += 1,
            }
            deadlines += usize::from(member.owed_until.is_some());
            assert!(member.owed_until.is_none() || !member.waiting.is_empty());
        }
        for (from, to) in room.budgets.keys() {
            assert!(
                room.members.contains_key(from) && room.members.contains_key(to),
                "a budget of somebody gone"
            );
        }
        let all = room.members.len() * (room.members.len() - 1) / 2;
        assert_eq!(room.pairs.len(), all, "each pair has one fact");
        for pair in room.pairs.values() {
            let Pair::Linked { link, .. } = pair else { continue };
            links += 1;
            let Some(Link::Taken(taken)) = room.links.get(link) else { panic!("a pair without its link") };
            deadlines += usize::from(taken.claim.is_some());
            assert_eq!(room.pairs.get(&PairKey::of(taken.owner, taken.taker)), Some(pair));
        }
        assert_eq!(room.links.len(), links, "a link without its pair");
    }
    assert_eq!(rooms.effects.kept.bytes(), kept, "what is kept for nobody");
    assert!(absent <= rooms.limits.sockets_per_address, "all of them have one address");
    assert_eq!(rooms.effects.absent.len(), absent, "a place of nobody");
    assert_eq!(rooms.effects.deadlines.len(), deadlines + absent, "a timer for something dead");
}

fn room_of(rooms: &Rooms, socket: SocketId) -> Option<RoomId> {
    match &rooms.sockets.get(&socket)?.place {
        Place::Inside { room, .. } => Some(room.clone()),
        Place::Outside { .. } => None,
    }
}

#[derive(Debug, Clone)]
enum Garbage {
    Connect(u64),
    Lose(u64),
    Seen(u64),
    Pass(u64),
    Invalid(u64),
    Init { socket: u64, user: u8, room: u8, have: Option<Vec<u8>>, resume: bool },
    Say { socket: u64, kind: u8, id: u8 },
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let socket = 0..8_u64;
    prop_oneof![
        1 => socket.clone().prop_map(Garbage::Connect),
        1 => socket.clone().prop_map(Garbage::Lose),
        1 => socket.clone().prop_map(Garbage::Seen),
        1 => socket.clone().prop_map(Garbage::Invalid),
        1 => (0..12_000_u64).prop_map(Garbage::Pass),
        3 => (socket.clone(), 0..6_u8, 0..2_u8, proptest::option::of(vec(0..6_u8, 0..4)), any::<bool>())
            .prop_map(|(socket, user, room, have, resume)| Garbage::Init { socket, user, room, have, resume }),
        8 => (socket, 0..8_u8, 0..12_u8).prop_map(|(socket, kind, id)| Garbage::Say { socket, kind, id }),
    ]
}

impl Garbage {
    fn input(&self, secrets: &BTreeMap<UserId, Secret>, said_in: Option<RoomId>) -> Option<Input> {
        Some(match self {
            Self::Connect(n) => {
                Input::Connected { socket: SocketId(*n), address: address(), grant: Grant::EveryRoom }
            }
            Self::Lose(n) => Input::Lost(SocketId(*n)),
            Self::Seen(n) => Input::Seen(SocketId(*n)),
            Self::Invalid(n) => {
                Input::Invalid { socket: SocketId(*n), code: ErrorCode::Malformed, message: "garbage".into() }
            }
            Self::Pass(_) => return None,
            Self::Init { socket, user: name, room: n, have, resume } => {
                let init = Init {
                    user_id: user(*name),
                    room_id: room(&format!("r{n}")),
                    have: have.as_ref().map(|have| have.iter().map(|n| user(*n)).collect()),
                    resume: secrets.get(&user(*name)).filter(|_| *resume).cloned(),
                };
                Input::Signal { socket: SocketId(*socket), signal: ClientSignal::Init(init) }
            }
            Self::Say { socket, kind, id: n } => {
                // The description tells where it was said, so that it is known where it may be heard.
                let sdp = Sdp::new(said_in.map_or_else(String::new, |room| room.to_string())).expect("short");
                let link = link(u64::from(*n));
                let signal = match kind {
                    0 | 1 => ClientSignal::Offer { id: link, sdp },
                    2 => ClientSignal::Answer { id: link, sdp },
                    3 => ClientSignal::Candidate { id: link, candidate: None },
                    4 => ClientSignal::Want { user_id: user(*n) },
                    5 => ClientSignal::Withdraw { id: link },
                    6 => ClientSignal::Leave { id: link },
                    _ => ClientSignal::Close,
                };
                Input::Signal { socket: SocketId(*socket), signal }
            }
        })
    }

    fn socket(&self) -> SocketId {
        SocketId(match self {
            Self::Connect(n) | Self::Lose(n) | Self::Seen(n) | Self::Invalid(n) => *n,
            Self::Init { socket, .. } | Self::Say { socket, .. } => *socket,
            Self::Pass(_) => u64::MAX,
        })
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn garbage_breaks_no_invariant_and_crosses_no_room(steps in vec(garbage(), 0..120)) {
        let limits = Limits { members_per_room: 4, offers_per_member: 3, early_signals: 4, sockets_per_address: 3, ..Limits::default() };
        let mut rooms = Rooms::new(limits, [1; 32]);
        let mut now = Instant::now();
        let mut secrets = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut connected = BTreeSet::new();
        for step in steps {
            // The shell never uses a number twice while it is open.
            if let Garbage::Connect(n) = step && !connected.insert(n) {
                continue;
            }
            if let Garbage::Lose(n) = step {
                connected.remove(&n);
            }
            if let Garbage::Init { socket, user: n, .. } = &step {
                names.insert(SocketId(*socket), user(*n));
            }
            let from = room_of(&rooms, step.socket());
            match step.input(&secrets, from.clone()) {
                Some(input) => rooms.handle(now, input),
                None => {
                    if let Garbage::Pass(millis) = step {
                        now += Duration::from_millis(millis);
                    }
                    rooms.handle_timeout(now);
                }
            }
            let mut closed = Vec::new();
            while let Some(output) = rooms.poll() {
                match output {
                    Output::Send { socket, signal: ServerSignal::Welcome { resume, .. } } => {
                        secrets.insert(names[&socket].clone(), resume);
                    }
                    Output::Send { socket, signal: ServerSignal::Offer { sdp, .. } | ServerSignal::Answer { sdp, .. } } => {
                        let heard_in = room_of(&rooms, socket).map(|room| room.to_string());
                        // What was said before `init` was said in no room.
                        prop_assert!(sdp.as_str().is_empty() || heard_in.as_deref() == Some(sdp.as_str()));
                    }
                    Output::Close { socket, .. } => {
                        connected.remove(&socket.0);
                        closed.push(socket);
                        prop_assert!(!rooms.sockets.contains_key(&socket));
                    }
                    Output::Send { .. } | Output::Ping(_) => {}
                }
            }
            for socket in closed {
                rooms.handle(now, Input::Lost(socket));
            }
            check(&rooms);
        }
    }
}

/// A client that does what it is asked, unless it is frozen.
#[derive(Debug, Default)]
struct Client {
    is_ours: bool,
    socket: Option<SocketId>,
    secret: Option<Secret>,
    frozen: bool,
    inbox: VecDeque<Output>,
    links: BTreeMap<UserId, LinkId>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Join(u8),
    Close(u8),
    Lose(u8),
    Freeze(u8),
    Wake(u8),
    Want(u8, u8),
    Pass(u64),
}

const CLIENTS: u8 = 5;

fn event() -> impl Strategy<Value = Event> {
    let client = 0..CLIENTS;
    prop_oneof![
        4 => client.clone().prop_map(Event::Join),
        1 => client.clone().prop_map(Event::Close),
        2 => client.clone().prop_map(Event::Lose),
        1 => client.clone().prop_map(Event::Freeze),
        1 => client.clone().prop_map(Event::Wake),
        1 => (client.clone(), client).prop_map(|(a, b)| Event::Want(a, b)),
        2 => (0..15_000_u64).prop_map(Event::Pass),
    ]
}

struct World {
    rooms: Rooms,
    now: Instant,
    clients: Vec<Client>,
    /// Links whose answer reached the offerer: they carry data both ways until an end closes them.
    open: BTreeSet<LinkId>,
    made: u64,
}

impl World {
    fn new(ours: &[bool]) -> Self {
        let clients = ours.iter().map(|is_ours| Client { is_ours: *is_ours, ..Client::default() }).collect();
        let rooms = Rooms::new(Limits::default(), [2; 32]);
        Self { rooms, now: Instant::now(), clients, open: BTreeSet::new(), made: 0 }
    }

    fn input(&mut self, input: Input) {
        self.rooms.handle(self.now, input);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(output) = self.rooms.poll() {
            let (Output::Send { socket, .. } | Output::Ping(socket) | Output::Close { socket, .. }) = &output;
            let to = self.clients.iter_mut().find(|client| client.socket == Some(*socket));
            if let Output::Close { socket, .. } = &output {
                self.rooms.handle(self.now, Input::Lost(*socket));
            }
            if let Some(client) = to {
                client.inbox.push_back(output);
            }
        }
        check(&self.rooms);
    }

    fn say(&mut self, n: u8, signal: ClientSignal) {
        if let Some(socket) = self.clients[usize::from(n)].socket {
            self.input(Input::Signal { socket, signal });
        }
    }

    fn offer(&mut self, n: u8) {
        self.made += 1;
        let id = link(self.made);
        self.say(n, ClientSignal::Offer { id, sdp: Sdp::new("").expect("short") });
    }

    /// Closing one end closes the other: it sees the channel close.
    fn close_link(&mut self, link: &LinkId) {
        self.open.remove(link);
        for client in &mut self.clients {
            client.links.retain(|_, other| other != link);
        }
    }

    fn join(&mut self, n: u8) {
        self.made += 1;
        let socket = SocketId(self.made);
        let client = &mut self.clients[usize::from(n)];
        if client.socket.is_some() || client.frozen {
            return;
        }
        client.socket = Some(socket);
        client.inbox.clear();
        let half: Vec<_> = client.links.values().filter(|link| !self.open.contains(*link)).cloned().collect();
        for link in half {
            self.close_link(&link);
        }
        let client = &self.clients[usize::from(n)];
        let init = Init {
            user_id: user(n),
            room_id: room("den"),
            have: client.is_ours.then(|| client.links.keys().cloned().collect()),
            resume: client.secret.clone(),
        };
        self.input(Input::Connected { socket, address: address(), grant: Grant::EveryRoom });
        self.say(n, ClientSignal::Init(init));
        self.offer(n);
    }

    /// An original loses its links with its socket; ours keep them.
    fn lose(&mut self, n: u8) {
        let client = &mut self.clients[usize::from(n)];
        let Some(socket) = client.socket.take() else { return };
        client.inbox.clear();
        if !client.is_ours {
            for link in std::mem::take(&mut client.links).into_values() {
                self.close_link(&link);
            }
        }
        self.input(Input::Lost(socket));
    }

    fn leave(&mut self, n: u8) {
        if self.clients[usize::from(n)].frozen {
            return;
        }
        self.say(n, ClientSignal::Close);
        let links = std::mem::take(&mut self.clients[usize::from(n)].links);
        for link in links.into_values() {
            self.close_link(&link);
        }
        // A place that was given up needs no secret; one that is only away goes on needing it.
        if self.clients[usize::from(n)].socket.is_some() {
            self.clients[usize::from(n)].secret = None;
        }
        self.lose(n);
    }

    fn hear(&mut self, n: u8, output: Output) {
        let client = &mut self.clients[usize::from(n)];
        match output {
            Output::Ping(socket) => self.input(Input::Seen(socket)),
            Output::Close { .. } => client.socket = None,
            Output::Send { signal, .. } => match signal {
                ServerSignal::Accept { id, user_id, .. } => {
                    client.links.insert(user_id, id.clone());
                    self.say(n, ClientSignal::Answer { id, sdp: Sdp::new("").expect("short") });
                }
                ServerSignal::OfferAccepted { id, user_id } => {
                    client.links.insert(user_id, id);
                }
                ServerSignal::Answer { id, .. } if client.links.values().any(|link| *link == id) => {
                    self.open.insert(id);
                }
                ServerSignal::OfferRequest => self.offer(n),
                ServerSignal::LeaveSwarm { id } => self.close_link(&id),
                ServerSignal::Welcome { resume, .. } => client.secret = Some(resume),
                ServerSignal::Answer { .. }
                | ServerSignal::Offer { .. }
                | ServerSignal::Candidate { .. }
                | ServerSignal::Gone { .. } => {}
                ServerSignal::SignalError { code, .. } => {
                    // Late words about links that are gone, and `want`s too soon, are no harm.
                    assert!(
                        matches!(code, Some(ErrorCode::NotAllowed | ErrorCode::LimitExceeded)),
                        "{code:?}"
                    );
                }
            },
        }
    }

    /// Delivers everything to whoever is not frozen.
    fn settle(&mut self) {
        while let Some(n) = (0..CLIENTS).find(|n| {
            let client = &self.clients[usize::from(*n)];
            !client.frozen && !client.inbox.is_empty()
        }) {
            if let Some(output) = self.clients[usize::from(n)].inbox.pop_front() {
                self.hear(n, output);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.rooms.handle_timeout(self.now);
        self.collect();
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Join(n) => self.join(n),
            Event::Close(n) => self.leave(n),
            Event::Lose(n) => self.lose(n),
            Event::Freeze(n) => self.clients[usize::from(n)].frozen = true,
            Event::Wake(n) => self.clients[usize::from(n)].frozen = false,
            Event::Want(a, b)
                if self.clients[usize::from(a)].is_ours && !self.clients[usize::from(a)].frozen =>
            {
                self.say(a, ClientSignal::Want { user_id: user(b) });
            }
            Event::Want(..) => {}
            Event::Pass(millis) => self.pass(Duration::from_millis(millis)),
        }
        self.settle();
    }

    /// Everybody wakes and is back; time passes until nothing more can happen.
    fn calm_down(&mut self) {
        for n in 0..CLIENTS {
            self.apply(Event::Wake(n));
            self.apply(Event::Join(n));
        }
        for _ in 0..1_000 {
            let Some((at, _)) = self.rooms.poll_timeout() else { return };
            let wait = at.saturating_duration_since(self.now);
            self.apply(Event::Pass(u64::try_from(wait.as_millis()).expect("soon") + 1));
        }
        panic!("it never calms down");
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn after_quiet_each_pair_has_exactly_one_link(
        ours in vec(any::<bool>(), usize::from(CLIENTS)),
        events in vec(event(), 0..60),
    ) {
        let mut world = World::new(&ours);
        for event in events {
            world.apply(event);
        }
        world.calm_down();
        for a in 0..CLIENTS {
            let links = &world.clients[usize::from(a)].links;
            for b in (0..CLIENTS).filter(|b| *b != a) {
                let there = world.clients[usize::from(b)].links.get(&user(a));
                prop_assert_eq!(links.get(&user(b)), there, "{} and {} disagree", a, b);
                prop_assert!(there.is_some_and(|link| world.open.contains(link)), "no link between {} and {}", a, b);
            }
            prop_assert_eq!(links.len(), usize::from(CLIENTS) - 1);
        }
        // Pairs that were linked before the server forgot one of them have no link it knows.
        prop_assert!(world.rooms.stats().links <= usize::from(CLIENTS * (CLIENTS - 1) / 2));
    }
}
