//! One input, the exact outputs, then nothing more.

mod accounts;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::wire::signal::OfferSignal;
use crate::wire::{Candidate, LinkId, Sdp, UserId};

fn address() -> ClientAddress {
    ClientAddress::of(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn elsewhere() -> ClientAddress {
    ClientAddress::of(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)))
}

struct Server {
    rooms: Rooms,
    now: Instant,
}

impl Server {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self { rooms: Rooms::new(limits, [7; 32]), now: Instant::now() }
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.rooms.handle(self.now, input);
        std::iter::from_fn(|| self.rooms.poll()).collect()
    }

    fn connect(&mut self, socket: u64) -> Vec<Output> {
        self.connect_from(address(), socket)
    }

    fn connect_from(&mut self, address: ClientAddress, socket: u64) -> Vec<Output> {
        let socket = SocketId(socket);
        self.feed(Input::Connected { socket, address, grant: Grant::EveryRoom })
    }

    fn say(&mut self, socket: u64, signal: ClientSignal) -> Vec<Output> {
        self.feed(Input::Signal { socket: SocketId(socket), signal })
    }

    fn lose(&mut self, socket: u64) -> Vec<Output> {
        self.feed(Input::Lost(SocketId(socket)))
    }

    fn seen(&mut self, socket: u64) -> Vec<Output> {
        self.feed(Input::Seen(SocketId(socket)))
    }

    /// Goes to the next deadline, which must be this far away.
    fn wait(&mut self, expected: Duration) -> Vec<Output> {
        let (at, _) = self.rooms.poll_timeout().expect("something is due");
        assert_eq!(at - self.now, expected);
        self.pass(expected)
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.rooms.handle_timeout(self.now);
        std::iter::from_fn(|| self.rooms.poll()).collect()
    }

    fn is_quiet(&self) -> bool {
        self.rooms.poll_timeout().is_none()
    }

    /// An original with one offer in the pool, named after it.
    fn original(&mut self, socket: u64, name: &str) {
        self.connect(socket);
        self.say(socket, init(name));
        self.say(socket, offer(&format!("{name}-1")));
    }

    /// One of our peers, likewise. Returns its resume secret.
    fn ours(&mut self, socket: u64, name: &str) -> String {
        self.connect(socket);
        let outputs = self.say(socket, init_with(name, &[], None));
        self.say(socket, offer(&format!("{name}-1")));
        let welcome = outputs.into_iter().find_map(|output| {
            let Output::Send { signal: ServerSignal::Welcome { resume, .. }, .. } = output else {
                return None;
            };
            Some(resume.expose().to_owned())
        });
        welcome.expect("our peers are welcomed")
    }

    /// `alice` on socket 1 and `bob` on 2, linked by `alice-1`; both have an offer in the pool.
    fn linked_pair(&mut self) -> (String, String) {
        let alice = self.ours(1, "alice");
        let bob = self.ours(2, "bob");
        self.say(1, offer("alice-2"));
        self.say(2, answer("alice-1"));
        assert!(self.is_quiet());
        (alice, bob)
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a good id")
}

fn link(id: &str) -> LinkId {
    LinkId::new(id).expect("a good id")
}

fn sdp() -> Sdp {
    Sdp::new("v=0").expect("short")
}

fn init_in(room: &str, name: &str) -> ClientSignal {
    let room_id = RoomId::new(room).expect("a good id");
    ClientSignal::Init(Init { user_id: user(name), room_id, have: None, resume: None })
}

fn init(name: &str) -> ClientSignal {
    init_in("den", name)
}

fn init_with(name: &str, have: &[&str], resume: Option<&str>) -> ClientSignal {
    ClientSignal::Init(Init {
        user_id: user(name),
        room_id: RoomId::new("den").expect("a good id"),
        have: Some(have.iter().map(|name| user(name)).collect()),
        resume: resume.map(Secret::new),
    })
}

fn offer(id: &str) -> ClientSignal {
    ClientSignal::Offer { id: link(id), sdp: sdp() }
}

fn answer(id: &str) -> ClientSignal {
    ClientSignal::Answer { id: link(id), sdp: sdp() }
}

fn want(name: &str) -> ClientSignal {
    ClientSignal::Want { user_id: user(name) }
}

fn a_candidate(line: &str) -> Option<Candidate> {
    Some(Candidate {
        candidate: line.into(),
        sdp_mid: Some("0".into()),
        sdp_m_line_index: Some(0),
        username_fragment: None,
    })
}

fn candidate(id: &str, line: &str) -> ClientSignal {
    ClientSignal::Candidate { id: link(id), candidate: a_candidate(line) }
}

fn send(socket: u64, signal: ServerSignal) -> Output {
    Output::Send { socket: SocketId(socket), signal }
}

fn accept(socket: u64, id: &str, from: &str, candidates: &[&str]) -> Output {
    let mut signals = vec![OfferSignal::Offer { sdp: sdp() }];
    signals.extend(candidates.iter().map(|line| OfferSignal::Candidate { candidate: a_candidate(line) }));
    send(socket, ServerSignal::Accept { id: link(id), user_id: user(from), signals })
}

fn accepted(socket: u64, id: &str, by: &str) -> Output {
    send(socket, ServerSignal::OfferAccepted { id: link(id), user_id: user(by) })
}

fn request(socket: u64) -> Output {
    send(socket, ServerSignal::OfferRequest)
}

fn ping(socket: u64) -> Output {
    Output::Ping(SocketId(socket))
}

fn leave(socket: u64, id: &str) -> Output {
    send(socket, ServerSignal::LeaveSwarm { id: link(id) })
}

fn gone(socket: u64, name: &str) -> Output {
    send(socket, ServerSignal::Gone { user_id: user(name) })
}

fn welcome(socket: u64, resume: &str, members: usize) -> Output {
    send(socket, ServerSignal::Welcome { resume: Secret::new(resume), members })
}

fn code_of(outputs: &[Output]) -> Option<ErrorCode> {
    outputs.iter().find_map(|output| {
        let Output::Send { signal: ServerSignal::SignalError { code, .. }, .. } = output else { return None };
        *code
    })
}

fn closed(socket: u64, code: ErrorCode) -> Output {
    Output::Close { socket: SocketId(socket), reason: CloseReason::Refused(code) }
}

/// R20.
#[test]
fn a_newcomer_takes_one_offer_of_every_member() {
    let mut server = Server::new();
    server.original(1, "alice");
    server.connect(2);
    assert_eq!(
        server.say(2, init("bob")),
        [accept(2, "alice-1", "alice", &[]), accepted(1, "alice-1", "bob"), ping(1), request(1)]
    );
    assert_eq!(server.say(2, offer("bob-1")), []);
    assert_eq!(server.say(1, offer("alice-2")), []);
    assert_eq!(
        server.say(2, answer("alice-1")),
        [send(1, ServerSignal::Answer { id: link("alice-1"), sdp: sdp() })]
    );
    assert!(server.is_quiet());

    server.connect(3);
    assert_eq!(
        server.say(3, init("carol")),
        [
            accept(3, "alice-2", "alice", &[]),
            accepted(1, "alice-2", "carol"),
            ping(1),
            request(1),
            accept(3, "bob-1", "bob", &[]),
            accepted(2, "bob-1", "carol"),
            ping(2),
            request(2),
        ]
    );
}

/// R23, R24.
#[test]
fn candidates_go_with_the_offer_and_then_to_the_other_end() {
    let mut server = Server::new();
    server.original(1, "alice");
    assert_eq!(server.say(1, candidate("alice-1", "one")), []);
    server.connect(2);
    assert_eq!(server.say(2, init("bob"))[0], accept(2, "alice-1", "alice", &["one"]));
    let relayed = |socket, line| {
        send(socket, ServerSignal::Candidate { id: link("alice-1"), candidate: a_candidate(line) })
    };
    assert_eq!(server.say(1, candidate("alice-1", "two")), [relayed(2, "two")]);
    assert_eq!(server.say(2, candidate("alice-1", "three")), [relayed(1, "three")]);
}

/// Defect 1 of the originals.
#[test]
fn a_socket_that_never_says_init_harms_nobody() {
    let mut server = Server::new();
    server.connect(9);
    server.original(1, "alice");
    server.connect(2);
    assert_eq!(server.say(2, init("bob")).len(), 4);
}

/// Defect 2. R21.
#[test]
fn the_waiting_list_is_first_come_first_served_and_forgets_who_left() {
    let mut server = Server::new();
    server.connect(1);
    server.say(1, init("alice"));
    for (socket, name) in [(2, "bob"), (3, "carol"), (4, "dave")] {
        server.connect(socket);
        server.say(socket, init(name));
    }
    server.say(2, ClientSignal::Close);
    let first = server.say(1, offer("alice-1"));
    assert_eq!(first[..2], [accept(3, "alice-1", "alice", &[]), accepted(1, "alice-1", "carol")]);
    let second = server.say(1, offer("alice-2"));
    assert_eq!(second[..2], [accept(4, "alice-2", "alice", &[]), accepted(1, "alice-2", "dave")]);
    assert_eq!(server.say(1, offer("alice-3")), []);
}

/// Defect 3. R16.
#[test]
fn a_duplicate_id_is_refused_to_the_newcomer_and_the_owner_keeps_everything() {
    let mut server = Server::new();
    server.linked_pair();
    server.connect(3);
    let outputs = server.say(3, init("alice"));
    assert_eq!(code_of(&outputs), Some(ErrorCode::DuplicateId));
    assert_eq!(outputs[1..], [closed(3, ErrorCode::DuplicateId)]);
    let relayed = server.say(2, candidate("alice-1", "still"));
    assert_eq!(relayed.len(), 1);
    assert_eq!(server.rooms.stats().members, 2);
}

/// Defect 4. R15.
#[test]
fn an_offer_that_overtakes_init_is_kept() {
    let mut server = Server::new();
    server.original(1, "alice");
    server.connect(2);
    assert_eq!(server.say(2, offer("bob-1")), []);
    assert_eq!(server.say(2, candidate("bob-1", "one")), []);
    server.say(2, init("bob"));
    server.connect(3);
    let outputs = server.say(3, init("carol"));
    assert!(outputs.contains(&accept(3, "bob-1", "bob", &["one"])));
}

/// Defect 5. R24.
#[test]
fn no_message_reaches_another_room_or_another_pair() {
    let mut server = Server::new();
    server.linked_pair();
    server.connect(3);
    server.say(3, init_in("attic", "carol"));
    assert_eq!(code_of(&server.say(3, answer("alice-1"))), Some(ErrorCode::NotAllowed));
    assert_eq!(server.say(3, candidate("alice-1", "x")), []);
    assert_eq!(server.say(3, want("alice")), [gone(3, "alice")]);
    server.original(4, "dave");
    let forged = server.say(4, candidate("alice-1", "x"));
    assert_eq!((forged.len(), code_of(&forged)), (1, Some(ErrorCode::NotAllowed)));
    let forged = server.say(4, offer("alice-1"));
    assert_eq!((forged.len(), code_of(&forged)), (1, Some(ErrorCode::NotAllowed)));
}

/// Defect 7. R25, R26.
#[test]
fn a_frozen_owner_is_given_up_and_served_when_it_wakes() {
    let mut server = Server::new();
    server.original(1, "alice");
    server.connect(2);
    server.say(2, init("bob"));
    server.pass(Duration::from_millis(1));
    server.say(2, answer("alice-1"));
    assert_eq!(server.wait(Duration::from_millis(9_999)), [leave(2, "alice-1"), leave(1, "alice-1")]);
    assert!(server.is_quiet());

    server.connect(3);
    let to_carol = server.say(3, init("carol"));
    assert_eq!(to_carol, [request(2)], "nothing of the frozen member");

    let woken = server.seen(1);
    assert_eq!(woken, [request(1), request(1)]);
    assert_eq!(
        server.say(1, offer("alice-2")),
        [accept(2, "alice-2", "alice", &[]), accepted(1, "alice-2", "bob"), ping(1)]
    );
}

/// Defect 8. R23.
#[test]
fn a_candidate_that_overtakes_its_offer_is_kept() {
    let mut server = Server::new();
    server.connect(1);
    server.say(1, init("alice"));
    assert_eq!(server.say(1, candidate("alice-1", "early")), []);
    server.say(1, offer("alice-1"));
    server.connect(2);
    assert_eq!(server.say(2, init("bob"))[0], accept(2, "alice-1", "alice", &["early"]));
}

/// R27, R30.
#[test]
fn a_lost_socket_closes_no_link() {
    let mut server = Server::new();
    let (_, resume) = server.linked_pair();
    assert_eq!(server.lose(2), [gone(1, "bob")]);
    server.connect(3);
    assert_eq!(server.say(3, init_with("bob", &["alice"], Some(&resume))), [welcome(3, &resume, 1)]);
    assert!(server.is_quiet());
    assert_eq!(server.say(3, candidate("alice-1", "again")).len(), 1);
}

/// R17.
#[test]
fn a_half_dead_socket_gives_way_to_its_owner() {
    let mut server = Server::new();
    let (_, resume) = server.linked_pair();
    server.connect(3);
    assert_eq!(
        server.say(3, init_with("bob", &["alice"], Some(&resume))),
        [Output::Close { socket: SocketId(2), reason: CloseReason::Replaced }, welcome(3, &resume, 1),]
    );
    assert_eq!(server.lose(2), []);
}

/// R17.
#[test]
fn a_newcomer_whose_welcome_was_lost_comes_back_with_the_secret_it_brought() {
    let mut server = Server::new();
    let secret = "chosen-by-bob-22-bytes";
    server.connect(1);
    assert_eq!(server.say(1, init_with("bob", &[], Some(secret))), [welcome(1, secret, 0)]);
    server.connect(2);
    assert_eq!(
        server.say(2, init_with("bob", &[], Some(secret))),
        [Output::Close { socket: SocketId(1), reason: CloseReason::Replaced }, welcome(2, secret, 0)]
    );
}

#[test]
fn a_secret_too_short_to_be_one_is_not_taken() {
    let mut server = Server::new();
    server.connect(1);
    let outputs = server.say(1, init_with("bob", &[], Some("1234")));
    assert!(!outputs.contains(&welcome(1, "1234", 0)));
    server.connect(2);
    assert!(server.say(2, init_with("bob", &[], Some("1234"))).contains(&Output::Close {
        socket: SocketId(2),
        reason: CloseReason::Refused(ErrorCode::DuplicateId)
    }));
}

/// R17.
#[test]
fn an_impostor_cannot_resume() {
    let mut server = Server::new();
    server.linked_pair();
    server.lose(2);
    server.connect(3);
    let outputs = server.say(3, init_with("bob", &["alice"], Some("guess")));
    assert_eq!(code_of(&outputs), Some(ErrorCode::DuplicateId));
    assert_eq!(outputs[1..], [closed(3, ErrorCode::DuplicateId)]);
}

/// R28.
#[test]
fn a_member_who_stays_away_is_given_up_after_its_grace() {
    let mut server = Server::new();
    server.linked_pair();
    server.connect(3);
    server.say(3, init("carol"));
    server.say(3, answer("alice-2"));
    server.say(3, answer("bob-1"));
    server.say(1, offer("alice-3"));
    server.seen(2);
    assert_eq!(server.lose(2), [gone(1, "bob")]);
    assert_eq!(server.wait(Duration::from_secs(30)), [leave(3, "bob-1"), gone(1, "bob")]);
    assert!(server.is_quiet());
    server.connect(4);
    assert_eq!(code_of(&server.say(4, init("bob"))), None);
}

/// R28.
#[test]
fn close_tells_everybody_at_once_and_frees_the_place() {
    let mut server = Server::new();
    server.linked_pair();
    assert_eq!(server.say(2, ClientSignal::Close), [leave(1, "alice-1")]);
    assert_eq!(server.lose(2), []);
    assert!(server.is_quiet());
    assert_eq!(server.rooms.stats().members, 1);
}

/// R29.
#[test]
fn an_original_that_reloads_is_not_locked_out() {
    let mut server = Server::new();
    server.original(1, "alice");
    server.original(2, "bob");
    server.say(1, offer("alice-2"));
    server.say(2, answer("alice-1"));
    server.lose(2);
    server.connect(3);
    assert_eq!(
        server.say(3, init("bob")),
        [
            leave(1, "alice-1"),
            accept(3, "alice-2", "alice", &[]),
            accepted(1, "alice-2", "bob"),
            ping(1),
            request(1),
        ]
    );
}

/// R30.
#[test]
fn after_a_restart_of_the_server_links_that_both_ends_list_are_kept() {
    let mut server = Server::new();
    server.connect(1);
    server.say(1, init_with("alice", &["bob"], Some("from the server before")));
    server.connect(2);
    let outputs = server.say(2, init_with("bob", &["alice"], Some("from the server before")));
    assert_eq!(outputs.len(), 1, "a welcome and no offer: {outputs:?}");
    server.connect(3);
    let outputs = server.say(3, init_with("carol", &["alice"], None));
    assert!(outputs.contains(&request(1)), "alice does not list carol: {outputs:?}");
}

/// R30.
#[test]
fn a_member_who_comes_back_without_a_link_gets_a_new_one() {
    let mut server = Server::new();
    let (_, resume) = server.linked_pair();
    server.lose(2);
    server.connect(3);
    assert_eq!(
        server.say(3, init_with("bob", &[], Some(&resume))),
        [
            welcome(3, &resume, 1),
            leave(1, "alice-1"),
            leave(3, "alice-1"),
            accept(3, "alice-2", "alice", &[]),
            accepted(1, "alice-2", "bob"),
            ping(1),
            request(1),
        ]
    );
}

/// R31.
#[test]
fn want_replaces_a_link_but_not_one_that_is_being_made() {
    let mut server = Server::new();
    server.linked_pair();
    assert_eq!(code_of(&server.say(2, want("alice"))), Some(ErrorCode::LimitExceeded));
    server.pass(Duration::from_secs(2));
    assert_eq!(
        server.say(2, want("alice")),
        [
            leave(1, "alice-1"),
            accept(2, "alice-2", "alice", &[]),
            accepted(1, "alice-2", "bob"),
            ping(1),
            request(1),
        ]
    );
    assert_eq!(server.say(2, want("alice")), []);
    assert_eq!(server.say(1, want("bob")), []);
}

/// R27.
#[test]
fn a_claim_is_given_back_when_its_taker_disappears() {
    let mut server = Server::new();
    server.ours(1, "alice");
    server.ours(2, "bob");
    assert_eq!(server.lose(2), [leave(1, "alice-1"), gone(1, "bob")]);
    assert_eq!(server.wait(Duration::from_secs(30)), [gone(1, "bob")]);
    assert!(server.is_quiet());
}

/// R25, R26.
#[test]
fn a_taker_who_answers_nothing_is_tried_again_ever_more_slowly() {
    let mut server = Server::new();
    server.original(1, "alice");
    server.original(2, "bob");
    server.say(1, offer("alice-2"));
    server.seen(2);
    assert_eq!(server.wait(Duration::from_secs(10)), [ping(2), leave(2, "alice-1"), leave(1, "alice-1")]);
    assert!(server.is_quiet(), "a silent taker is left alone");
    let again = server.seen(2);
    assert_eq!(
        again,
        [
            leave(2, "bob-1"),
            accept(2, "alice-2", "alice", &[]),
            accepted(1, "alice-2", "bob"),
            ping(1),
            request(1),
            request(2),
        ]
    );
    server.say(1, offer("alice-3"));
    assert_eq!(server.rooms.poll_timeout().map(|(at, _)| at - server.now), Some(Duration::from_secs(20)));
}

/// R22.
#[test]
fn an_offer_that_does_not_come_is_asked_for_again() {
    let mut server = Server::new();
    server.connect(1);
    server.say(1, init("alice"));
    server.connect(2);
    assert_eq!(server.say(2, init("bob")), [request(1)]);
    assert_eq!(
        server.wait(Duration::from_secs(10)),
        [request(1), request(1)],
        "the unasked one did not come, either"
    );
}

/// R22.
#[test]
fn what_was_asked_for_on_behalf_of_those_who_left_keeps_nobody_waiting() {
    let mut server = Server::new();
    server.connect(1);
    server.say(1, init("alice"));
    let mut asked = 0;
    for socket in 2..33 {
        server.connect(socket);
        let outputs = server.say(socket, init(&format!("guest-{socket}")));
        asked += outputs.iter().filter(|output| **output == request(1)).count();
    }
    assert_eq!(asked, 31, "32 at a time, and one was to come unasked");
    for socket in 2..33 {
        server.say(socket, ClientSignal::Close);
    }
    server.pass(Duration::from_secs(60));
    server.connect(33);
    assert_eq!(server.say(33, init("bob")), [], "they may be on their way");
    assert_eq!(server.wait(Duration::from_secs(10)), [request(1), request(1)]);
    assert_eq!(server.say(1, offer("alice-1"))[0], accept(33, "alice-1", "alice", &[]));
}

/// R18.
#[test]
fn init_again_with_the_same_ids_changes_nothing() {
    let mut server = Server::new();
    server.original(1, "alice");
    assert_eq!(server.say(1, init("alice")), []);
    assert_eq!(code_of(&server.say(1, init("bob"))), Some(ErrorCode::NotAllowed));
}

/// R24.
#[test]
fn either_end_may_renegotiate_but_only_answer_what_is_open() {
    let mut server = Server::new();
    server.linked_pair();
    assert_eq!(code_of(&server.say(2, answer("alice-1"))), Some(ErrorCode::NotAllowed));
    assert_eq!(
        server.say(2, offer("alice-1")),
        [send(1, ServerSignal::Offer { id: link("alice-1"), sdp: sdp() })]
    );
    assert_eq!(code_of(&server.say(1, offer("alice-1"))), Some(ErrorCode::NotAllowed));
    assert_eq!(
        server.say(1, answer("alice-1")),
        [send(2, ServerSignal::Answer { id: link("alice-1"), sdp: sdp() })]
    );
}

/// R33.
#[test]
fn every_limit_has_its_error() {
    let limits = Limits {
        members_per_room: 2,
        rooms: 1,
        sockets_per_address: 4,
        offers_per_member: 1,
        candidates_per_offer: 1,
        early_signals: 1,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    server.original(1, "alice");
    assert_eq!(code_of(&server.say(1, offer("alice-2"))), Some(ErrorCode::LimitExceeded));
    assert_eq!(server.say(1, candidate("alice-1", "one")), []);
    assert_eq!(code_of(&server.say(1, candidate("alice-1", "two"))), Some(ErrorCode::LimitExceeded));

    server.connect(2);
    server.say(2, offer("bob-1"));
    assert_eq!(code_of(&server.say(2, offer("bob-2"))), Some(ErrorCode::LimitExceeded));
    let outputs = server.say(2, init_in("attic", "bob"));
    assert_eq!(outputs[1..], [closed(2, ErrorCode::TooManyRooms)]);

    server.original(3, "carol");
    server.connect(4);
    assert_eq!(server.say(4, init("dave"))[1..], [closed(4, ErrorCode::RoomFull)]);
    for socket in [2, 4] {
        server.lose(socket);
    }
    for socket in 5..7 {
        assert_eq!(server.connect(socket), []);
    }
    assert_eq!(server.connect(7)[1..], [closed(7, ErrorCode::LimitExceeded)]);
}

/// R33.
#[test]
fn a_flood_is_cut_off_and_others_go_on() {
    let limits = Limits { messages_per_sec: 10, messages_burst: 3, ..Limits::default() };
    let mut server = Server::with(limits);
    server.original(1, "alice");
    server.connect(2);
    server.say(2, init("bob"));
    server.say(2, offer("bob-1"));
    server.say(2, answer("alice-1"));
    let outputs = server.say(2, candidate("alice-1", "x"));
    assert_eq!(code_of(&outputs), Some(ErrorCode::LimitExceeded));
    assert_eq!(outputs[1], closed(2, ErrorCode::LimitExceeded));
    assert_eq!(server.say(2, candidate("alice-1", "x")), []);
    server.pass(Duration::from_millis(100));
    assert_eq!(server.say(1, offer("alice-2")), []);
}

/// R33, R35.
#[test]
fn a_token_for_one_room_opens_no_other() {
    let mut server = Server::new();
    let grant = Grant::Room(RoomId::new("attic").expect("a good id"));
    server.feed(Input::Connected { socket: SocketId(1), address: address(), grant });
    assert_eq!(server.say(1, init("alice"))[1..], [closed(1, ErrorCode::Forbidden)]);
}

/// R33.
#[test]
fn a_socket_that_was_let_go_counts_until_it_is_closed() {
    let mut server = Server::with(Limits { sockets_per_address: 2, ..Limits::default() });
    let (_, resume) = server.linked_pair();
    let is_refused = |outputs: &[Output]| code_of(outputs) == Some(ErrorCode::LimitExceeded);
    assert_eq!(server.feed(Input::GivenUp(SocketId(2))), [gone(1, "bob")]);
    assert_eq!(server.feed(Input::GivenUp(SocketId(2))), []);
    assert!(is_refused(&server.connect(3)));
    assert_eq!(server.lose(2), []);
    assert_eq!(server.connect(4), []);
    assert_eq!(server.say(4, init_with("bob", &["alice"], Some(&resume))), [welcome(4, &resume, 1)]);
    server.lose(1);
    server.connect(5);
    let replaced = Output::Close { socket: SocketId(4), reason: CloseReason::Replaced };
    assert_eq!(server.say(5, init_with("bob", &["alice"], Some(&resume)))[0], replaced);
    assert!(is_refused(&server.connect(6)), "the one that was replaced is not closed yet");
    server.lose(4);
    assert_eq!(server.connect(7), []);
}

#[test]
fn sockets_that_are_turned_away_are_bounded_too_and_keep_nobody_out() {
    let mut server = Server::with(Limits { sockets_per_address: 1, ..Limits::default() });
    server.connect(1);
    assert_eq!(server.connect(2)[1..], [closed(2, ErrorCode::LimitExceeded)]);
    let crowded = Output::Close { socket: SocketId(3), reason: CloseReason::Crowded };
    assert_eq!(server.connect(3), [crowded]);
    server.lose(3);
    server.lose(1);
    assert_eq!(server.connect(4), []);
    for socket in [2, 4] {
        server.lose(socket);
    }
    assert_eq!(server.rooms.addresses.len(), 0);
}

#[test]
fn a_shutdown_tells_everybody_and_leaves_nothing() {
    let mut server = Server::new();
    server.linked_pair();
    let outputs = server.feed(Input::Shutdown);
    assert_eq!(code_of(&outputs), Some(ErrorCode::ShuttingDown));
    let closes = outputs.iter().filter(|output| matches!(output, Output::Close { .. })).count();
    assert_eq!(closes, 2);
    assert_eq!(server.rooms.stats(), Stats { counters: server.rooms.stats().counters, ..Stats::default() });
    assert!(server.is_quiet());
}

/// R34.
#[test]
fn nothing_is_left_of_a_room_that_everybody_left() {
    let mut server = Server::new();
    server.linked_pair();
    server.say(1, ClientSignal::Close);
    server.say(2, ClientSignal::Close);
    server.lose(1);
    server.lose(2);
    let stats = server.rooms.stats();
    assert_eq!((stats.rooms, stats.members, stats.offers, stats.links), (0, 0, 0, 0));
    assert!(server.is_quiet());
}

/// R31, R32.
#[test]
fn leaving_and_asking_again_costs_the_other_member_one_offer_in_a_while() {
    let mut server = Server::new();
    server.linked_pair();
    let id = link("alice-1");
    assert_eq!(server.say(2, ClientSignal::Leave { id }), [leave(1, "alice-1")]);
    assert_eq!(code_of(&server.say(2, want("alice"))), Some(ErrorCode::LimitExceeded));
    server.pass(Duration::from_secs(2));
    assert_eq!(server.say(2, want("alice"))[0], accept(2, "alice-2", "alice", &[]));
}

#[test]
fn an_offer_that_is_withdrawn_is_handed_to_nobody() {
    let mut server = Server::new();
    server.original(1, "alice");
    assert_eq!(server.say(1, ClientSignal::Withdraw { id: link("alice-1") }), [request(1)]);
    server.say(1, offer("alice-2"));
    server.connect(2);
    assert_eq!(server.say(2, init("bob"))[0], accept(2, "alice-2", "alice", &[]));
    assert_eq!(server.say(1, ClientSignal::Withdraw { id: link("alice-2") }), []);
    assert_eq!(code_of(&server.say(2, ClientSignal::Withdraw { id: link("alice-2") })), None);
}

/// Defect 10: the originals look through everything for every message.
#[test]
fn a_pair_costs_the_same_number_of_messages_in_a_room_of_any_size() {
    const MEMBERS: usize = 60;
    let mut server = Server::new();
    let mut todo = VecDeque::new();
    let mut outputs = 0;
    for n in 0..MEMBERS {
        server.connect(n as u64);
        todo.extend(server.say(n as u64, init(&format!("user-{n}"))));
        todo.extend(server.say(n as u64, offer(&format!("first-{n}"))));
    }
    while let Some(output) = todo.pop_front() {
        outputs += 1;
        let Output::Send { socket: SocketId(socket), signal } = output else { continue };
        match signal {
            ServerSignal::Accept { id, .. } => {
                let answer = ClientSignal::Answer { id, sdp: sdp() };
                todo.extend(server.say(socket, answer));
            }
            ServerSignal::OfferRequest => todo.extend(server.say(socket, offer(&format!("more-{outputs}")))),
            ServerSignal::OfferAccepted { .. }
            | ServerSignal::Offer { .. }
            | ServerSignal::Answer { .. }
            | ServerSignal::Candidate { .. }
            | ServerSignal::LeaveSwarm { .. }
            | ServerSignal::Welcome { .. }
            | ServerSignal::Gone { .. }
            | ServerSignal::SignalError { .. } => {}
        }
    }
    let pairs = MEMBERS * (MEMBERS - 1) / 2;
    assert_eq!(server.rooms.stats().links, pairs);
    assert!(outputs <= 5 * pairs, "accept, offerAccepted, ping, offerRequest, answer: {outputs} for {pairs}");
}

/// R6, R17.
#[test]
fn a_secret_that_comes_after_the_url_opens_the_way_back_too() {
    let mut server = Server::new();
    let secret = "chosen-by-bob-22-bytes";
    server.ours(1, "bob");
    assert_eq!(server.say(1, init_with("bob", &[], Some(secret))), []);
    server.connect(2);
    let outputs = server.say(2, init_with("bob", &[], Some(secret)));
    assert_eq!(outputs[0], Output::Close { socket: SocketId(1), reason: CloseReason::Replaced });
    assert_eq!(code_of(&outputs), None);
}

fn long_offer(id: &str) -> ClientSignal {
    ClientSignal::Offer { id: link(id), sdp: Sdp::new("x".repeat(16 * 1024)).expect("short enough") }
}

/// R23.
#[test]
fn an_offer_that_is_made_again_gets_no_more_room_than_a_new_one() {
    let mut server = Server::with(Limits { bytes_per_socket: 20 * 1024, ..Limits::default() });
    server.original(1, "alice");
    assert_eq!(server.say(1, long_offer("alice-2")), []);
    assert_eq!(code_of(&server.say(1, long_offer("alice-1"))), Some(ErrorCode::LimitExceeded));
    assert_eq!(server.say(1, long_offer("alice-2")), [], "in its own place");
    server.connect(2);
    assert_eq!(
        server.say(2, init("bob"))[0],
        accept(2, "alice-1", "alice", &[]),
        "what was refused changed nothing"
    );
}

/// R23.
#[test]
fn an_offer_and_its_candidates_are_bounded_in_bytes_and_still_handed_out() {
    let mut server = Server::with(Limits { bytes_per_offer: 16, ..Limits::default() });
    server.connect(1);
    server.say(1, init("alice"));
    server.connect(2);
    server.say(2, init("bob"));
    for line in ["candidate-1", "candidate-2"] {
        assert_eq!(server.say(1, candidate("alice-1", line)), []);
    }
    let outputs = server.say(1, offer("alice-1"));
    assert_eq!(outputs[0], accept(2, "alice-1", "alice", &["candidate-1"]));
    assert_eq!(code_of(&outputs), Some(ErrorCode::LimitExceeded));
}

/// R34.
#[test]
fn what_says_nothing_weighs_something_while_it_is_kept() {
    let mut server = Server::new();
    server.connect(1);
    let end = |id: &str| ClientSignal::Candidate { id: link(id), candidate: None };
    assert_eq!(server.say(1, end("alice-1")), []);
    assert!(server.rooms.effects.kept.bytes() > 64, "{}", server.rooms.effects.kept.bytes());
    server.say(1, init("alice"));
    let no_sdp = || Sdp::new("").expect("short enough");
    let mut kept = 0;
    for no in 1..=5 {
        let id = format!("alice-{no}");
        server.say(1, ClientSignal::Offer { id: link(&id), sdp: no_sdp() });
        for _ in 0..63 {
            server.say(1, end(&id));
        }
        let before = std::mem::replace(&mut kept, server.rooms.effects.kept.bytes());
        assert!(kept - before >= 63 * size_of::<Option<Candidate>>(), "{kept} after {before}");
    }
    server.connect(2);
    let outputs = server.say(2, init("bob"));
    let Some(Output::Send { signal, .. }) = outputs.first() else { panic!("{outputs:?}") };
    assert!(signal.len_bytes() > 64 * size_of::<Option<Candidate>>(), "in the queue, too");
}

/// R24.
#[test]
fn two_negotiations_of_the_largest_size_are_relayed_at_once() {
    let mut server = Server::new();
    server.original(1, "alice");
    server.original(2, "bob");
    let sdp = || Sdp::new("x".repeat(16 * 1024)).expect("short enough");
    let line = "x".repeat(1_023);
    let mut relayed = |socket: u64, signal: ClientSignal| {
        let outputs = server.say(socket, signal);
        assert_eq!(code_of(&outputs), None);
        assert!(!outputs.is_empty());
    };
    let long = |socket: u64| match socket {
        1 => ClientSignal::Answer { id: link("alice-1"), sdp: sdp() },
        _ => ClientSignal::Offer { id: link("alice-1"), sdp: sdp() },
    };
    relayed(2, ClientSignal::Answer { id: link("alice-1"), sdp: sdp() });
    for again in [None, Some([2, 1])] {
        for socket in again.into_iter().flatten() {
            relayed(socket, long(socket));
        }
        for socket in [1, 2] {
            for _ in 0..64 {
                relayed(socket, candidate("alice-1", &line));
            }
            relayed(socket, ClientSignal::Candidate { id: link("alice-1"), candidate: None });
        }
    }
}

/// R24.
#[test]
fn one_member_can_not_fill_the_queue_of_another() {
    let mut server = Server::new();
    server.linked_pair();
    let mut relay_all = |signal: &dyn Fn() -> ClientSignal| {
        let mut bytes = 0;
        for count in 0..1_000 {
            let outputs = server.say(2, signal());
            if code_of(&outputs) == Some(ErrorCode::LimitExceeded) {
                return (count, bytes);
            }
            let [Output::Send { socket: SocketId(1), signal }] = &outputs[..] else { panic!("{outputs:?}") };
            bytes += signal.len_bytes();
        }
        panic!("it never ends")
    };
    let limits = Limits::default();
    let (_, bytes) = relay_all(&|| long_offer("alice-1"));
    assert!(bytes <= limits.relayed_bytes.burst as usize);
    let (count, _) = relay_all(&|| candidate("alice-1", "x"));
    assert!(count < limits.relayed_messages.burst);

    // Another link of the same two is no way around it, and neither is being away for a moment.
    server.pass(Duration::from_secs(2));
    server.say(2, want("alice"));
    server.say(2, answer("alice-2"));
    let mut refused = false;
    for _ in 0..limits.relayed_messages.per_sec * 2 {
        refused |= code_of(&server.say(2, candidate("alice-2", "x"))) == Some(ErrorCode::LimitExceeded);
    }
    assert!(refused);

    // The other direction, and other members, are not touched.
    assert_eq!(server.say(1, candidate("alice-2", "x")).len(), 1);
    server.pass(Duration::from_secs(60));
    assert_eq!(code_of(&server.say(2, long_offer("alice-2"))), None, "what was used up comes back");
}

/// R33.
#[test]
fn a_new_connection_brings_no_new_messages() {
    let mut server = Server::with(Limits { messages_per_sec: 1, messages_burst: 4, ..Limits::default() });
    server.connect_from(elsewhere(), 0);
    let mut said = 0;
    let refused = (1..1_000).find(|socket| {
        server.connect(*socket);
        let refused = (0..4).any(|_| {
            said += 1;
            code_of(&server.say(*socket, want("bob"))) == Some(ErrorCode::LimitExceeded)
        });
        server.lose(*socket);
        refused
    });
    assert_eq!((refused, said), (Some(129), 4 * 128 + 1));
    assert_eq!(code_of(&server.say(0, want("bob"))), Some(ErrorCode::NotAllowed), "others go on");
    server.pass(Duration::from_secs(1));
    server.connect(200);
    assert_eq!(code_of(&server.say(200, want("bob"))), Some(ErrorCode::NotAllowed), "and so does who waited");
}

/// R33.
#[test]
fn whoever_enters_and_leaves_without_end_is_cut_off() {
    let mut server = Server::with(Limits { messages_per_sec: 10, messages_burst: 10, ..Limits::default() });
    server.connect_from(elsewhere(), 0);
    server.say(0, init("alice"));
    let refused = (1..1_000).find(|socket| {
        server.connect(*socket);
        let outputs = server.say(*socket, init("bob"));
        server.lose(*socket);
        code_of(&outputs) == Some(ErrorCode::LimitExceeded)
    });
    // At first there is only alice, then the place that bob left, too: 61 + 17 * 71 <= 128 * 10.
    assert_eq!(refused, Some(19));
    server.connect_from(elsewhere(), 1_000);
    assert_eq!(code_of(&server.say(1_000, init("carol"))), None);
    server.pass(Duration::from_secs(1));
    server.connect(1_001);
    assert_eq!(code_of(&server.say(1_001, init("bob"))), None);
}

/// R33.
#[test]
fn pings_are_counted_like_messages() {
    let mut server = Server::with(Limits { messages_burst: 3, ..Limits::default() });
    server.connect(1);
    server.say(1, init("alice"));
    assert_eq!([server.seen(1), server.seen(1)], [[], []]);
    assert_eq!(server.seen(1)[1..], [closed(1, ErrorCode::LimitExceeded)]);
}

/// R33.
#[test]
fn members_who_only_listen_stay_whatever_others_do_behind_their_address() {
    let limits =
        Limits { messages_per_sec: 1, messages_burst: 4, sockets_per_address: 1_000, ..Limits::default() };
    let mut server = Server::with(limits);
    server.connect(0);
    server.say(0, init("alice"));
    let refused = (1..1_000).find(|socket| {
        server.connect(*socket);
        code_of(&server.say(*socket, want("bob"))) == Some(ErrorCode::LimitExceeded)
    });
    assert!(refused.is_some());
    assert_eq!(server.seen(0), []);
    assert_eq!(server.rooms.stats().members, 1);
}

/// R33.
#[test]
fn a_hundred_members_of_one_address_may_join_at_once() {
    const MEMBERS: u64 = 100;
    const CANDIDATES: usize = 15;
    let mut server = Server::new();
    let mut todo = VecDeque::new();
    let mut made = 0;
    for n in 0..MEMBERS {
        server.connect(n);
        todo.extend(server.say(n, init_with(&format!("user-{n}"), &[], None)));
        todo.extend(server.say(n, offer(&format!("first-{n}"))));
    }
    while let Some(output) = todo.pop_front() {
        let Output::Send { socket: SocketId(socket), signal } = output else { continue };
        let (id, answers) = match signal {
            ServerSignal::Accept { id, .. } => (id, true),
            ServerSignal::OfferAccepted { id, .. } => (id, false),
            ServerSignal::OfferRequest => {
                made += 1;
                todo.extend(server.say(socket, offer(&format!("more-{made}"))));
                continue;
            }
            ServerSignal::SignalError { message, .. } => panic!("{message}"),
            ServerSignal::Offer { .. }
            | ServerSignal::Answer { .. }
            | ServerSignal::Candidate { .. }
            | ServerSignal::LeaveSwarm { .. }
            | ServerSignal::Welcome { .. }
            | ServerSignal::Gone { .. } => continue,
        };
        if answers {
            todo.extend(server.say(socket, answer(id.as_str())));
        }
        for _ in 0..CANDIDATES {
            todo.extend(server.say(socket, candidate(id.as_str(), "x")));
        }
    }
    assert_eq!(server.rooms.stats().links as u64, MEMBERS * (MEMBERS - 1) / 2);
}

/// R27.
#[test]
fn an_address_keeps_as_many_places_without_a_socket_as_it_may_have_sockets() {
    let mut server = Server::with(Limits { sockets_per_address: 2, ..Limits::default() });
    server.connect_from(elsewhere(), 0);
    server.say(0, init_in("room-9", "carol"));
    server.lose(0);
    for socket in 1..=4 {
        server.connect(socket);
        server.say(socket, init_in(&format!("room-{socket}"), "bob"));
        server.pass(Duration::from_secs(1));
        server.lose(socket);
    }
    let rooms: Vec<_> = server.rooms.rooms.keys().map(RoomId::as_str).collect();
    assert_eq!(rooms, ["room-3", "room-4", "room-9"], "the latest of each address");
}

/// R27.
#[test]
fn whoever_comes_back_has_no_place_without_a_socket() {
    let mut server = Server::with(Limits { sockets_per_address: 1, ..Limits::default() });
    let resume = server.ours(1, "alice");
    server.lose(1);
    server.connect_from(elsewhere(), 2);
    assert_eq!(server.say(2, init_with("alice", &[], Some(&resume)))[0], welcome(2, &resume, 0));
    server.original(3, "bob");
    server.lose(3);
    assert_eq!(server.rooms.stats().members, 2);
    server.lose(2);
    assert_eq!(server.rooms.stats().members, 2, "each of another address");
}

/// R24.
#[test]
fn whoever_comes_back_without_end_can_not_fill_the_queue_of_another_with_offers() {
    let mut server = Server::new();
    let secret = server.ours(1, "alice");
    server.say(1, ClientSignal::Withdraw { id: link("alice-1") });
    server.original(2, "bob");
    let accepts = (10..110).filter(|socket| {
        let mut outputs = server.connect(*socket);
        outputs.extend(server.say(*socket, init_with("alice", &[], Some(&secret))));
        outputs.extend(server.say(*socket, long_offer(&format!("alice-{socket}"))));
        server.lose(*socket - 1);
        outputs.contains(&accepted(*socket, &format!("alice-{socket}"), "bob"))
    });
    let burst = Limits::default().relayed_bytes.burst as usize;
    assert_eq!(accepts.count(), burst / (16 * 1024));
}

/// R24.
#[test]
fn an_offer_for_which_too_much_was_sent_goes_out_when_there_is_enough_again() {
    let relayed_bytes = Rate { per_sec: 2_048, burst: 16 * 1_024 };
    let mut server = Server::with(Limits { relayed_bytes, ..Limits::default() });
    server.original(1, "alice");
    server.say(1, long_offer("alice-2"));
    server.connect(2);
    server.say(2, init("bob"));
    server.say(2, answer("alice-1"));
    server.pass(Duration::from_secs(2));
    for _ in 0..16 {
        server.say(1, candidate("alice-1", &"x".repeat(1_023)));
    }
    let held_back = server.say(2, want("alice"));
    assert_eq!(held_back, [leave(1, "alice-1"), request(1)]);

    server.connect(3);
    let to_carol = server.say(3, init("carol"));
    assert!(
        to_carol.contains(&accepted(1, "alice-2", "carol")),
        "others need not wait for bob: {to_carol:?}"
    );
    server.say(3, answer("alice-2"));
    assert_eq!(server.say(1, long_offer("alice-3")), []);
    let outputs = server.wait(Duration::from_secs(10));
    assert!(outputs.contains(&accepted(1, "alice-3", "bob")), "{outputs:?}");
}

/// R15.
#[test]
fn whoever_does_not_say_init_is_let_go() {
    let mut server = Server::new();
    server.connect(1);
    let outputs = server.wait(Duration::from_secs(30));
    assert_eq!(code_of(&outputs), Some(ErrorCode::LimitExceeded));
    assert_eq!(outputs[1..], [closed(1, ErrorCode::LimitExceeded)]);
    assert!(server.is_quiet());
    server.connect(2);
    server.say(2, init("bob"));
    assert!(server.is_quiet(), "whoever says it stays");
    server.say(2, ClientSignal::Close);
    assert_eq!(server.wait(Duration::from_secs(30))[1..], [closed(2, ErrorCode::LimitExceeded)]);
}

/// R34.
#[test]
fn what_is_kept_for_all_sockets_together_is_bounded() {
    let mut server = Server::with(Limits { bytes_of_all: 100 * 1024, ..Limits::default() });
    let is_full = |outputs: &[Output]| code_of(outputs) == Some(ErrorCode::LimitExceeded);
    let fill = |server: &mut Server, socket: u64| {
        (0..15).position(|n| is_full(&server.say(socket, long_offer(&format!("{socket}-{n}")))))
    };
    server.connect(1);
    assert_eq!(fill(&mut server, 1), Some(7), "what it has before there is much of it, it keeps");
    server.connect(2);
    assert_eq!(fill(&mut server, 2), Some(1), "32 KiB with its name");
    server.connect(3);
    server.say(3, init("carol"));
    assert_eq!(fill(&mut server, 3), Some(2));
    for _ in 0..64 {
        server.say(3, candidate("carol", &"x".repeat(1_000)));
    }
    let early_bytes = |server: &Server| server.rooms.effects.kept.bytes() - 10 * 16 * 1024;
    assert!(early_bytes(&server) < 1024, "no candidate without an offer besides");
    server.say(1, ClientSignal::Close);
    server.lose(2);
    assert_eq!(server.rooms.effects.kept.bytes(), 2 * 16 * 1024);
    assert_eq!(server.say(3, candidate("carol", &"x".repeat(1_000))), []);
    assert!(
        server.rooms.effects.kept.bytes() > 2 * 16 * 1024 + 1_000,
        "candidates without an offer count, too"
    );
    assert_eq!(fill(&mut server, 3), Some(7), "there is place again");
}

/// R33.
#[test]
fn whoever_is_not_let_in_does_not_pay_for_the_members_it_did_not_meet() {
    let limits =
        Limits { members_per_room: 20, messages_per_sec: 1, messages_burst: 10, ..Limits::default() };
    let mut server = Server::with(limits);
    for socket in 0..20 {
        server.connect_from(elsewhere(), socket);
        server.say(socket, init_in("den", &format!("user-{socket}")));
        server.pass(Duration::from_secs(30));
    }
    let refusals = (20..).map(|socket| {
        server.connect(socket);
        let outputs = server.say(socket, init("user-7"));
        server.lose(socket);
        code_of(&outputs)
    });
    let full = refusals.take_while(|code| *code == Some(ErrorCode::DuplicateId)).count();
    assert_eq!(full, 21, "20 * 51 + (51 + 20 * 10) <= 128 * 10");
}

/// R33.
#[test]
fn whoever_comes_and_goes_without_end_costs_nobody_the_socket() {
    const CANDIDATES: usize = 16;
    let mut server = Server::new();
    server.ours(1, "alice");
    server.connect_from(elsewhere(), 2);
    let (mut wanted, mut made) = (0, 0);
    for tick in 0..12_000 {
        server.now += Duration::from_millis(10);
        let mut outputs = Vec::new();
        if tick % 4 == 0 {
            outputs.extend(server.say(2, init("mallory")));
            outputs.extend(server.say(2, ClientSignal::Close));
        }
        // Our client makes no more than twenty offers a second.
        if tick % 5 == 0 && wanted > 0 {
            (wanted, made) = (wanted - 1, made + 1);
            let id = format!("more-{made}");
            outputs.extend(server.say(1, offer(&id)));
            for _ in 0..CANDIDATES {
                outputs.extend(server.say(1, candidate(&id, "x")));
            }
        }
        for output in outputs {
            match output {
                Output::Ping(SocketId(1)) => assert_eq!(server.seen(1), []),
                Output::Close { socket, .. } => panic!("{socket:?} is closed after {tick} ticks"),
                Output::Send { socket: SocketId(1), signal: ServerSignal::OfferRequest } => wanted += 1,
                Output::Send { .. } | Output::Ping(_) => {}
            }
        }
    }
    assert!(made > 2_000, "{made} offers were taken");
}

/// R33.
#[test]
fn whoever_takes_back_its_own_offers_is_given_nothing_for_the_next() {
    let mut server = Server::with(Limits { messages_per_sec: 1, messages_burst: 6, ..Limits::default() });
    server.original(1, "alice");
    for n in 1..3 {
        let id = link(&format!("alice-{n}"));
        assert_eq!(server.say(1, ClientSignal::Withdraw { id }), [request(1)]);
        assert_eq!(server.say(1, offer(&format!("alice-{}", n + 1))), []);
    }
    let id = link("alice-3");
    assert_eq!(server.say(1, ClientSignal::Withdraw { id })[1..], [closed(1, ErrorCode::LimitExceeded)]);
}
