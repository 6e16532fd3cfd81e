//! One input, the exact outputs, then nothing more.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::core::link::{Deadline, Identity, OFFER_MAX_AGE, PROBE_TIMEOUT, WITHDRAWN_GRACE};
use crate::core::peer::{Channel, Fingerprint, PeerClosed, PeerCommand, PeerEvent};
use crate::wire::signal::{ErrorCode, OfferSignal};
use crate::wire::{Init, RoomId, RoomKey, Sdp, ServerSignal};

const FIRST: LinkKey = LinkKey(1);

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a good id")
}

fn id(text: &str) -> LinkId {
    LinkId::new(text).expect("a good id")
}

fn ours() -> Sdp {
    Sdp::new("v=0\r\n").expect("short").with_marker()
}

fn original() -> Sdp {
    Sdp::new("v=0\r\n").expect("short")
}

fn candidate(kind: &str) -> Option<Candidate> {
    Some(Candidate {
        candidate: format!("candidate:1 1 udp 1 192.0.2.1 9 typ {kind}"),
        sdp_mid: Some("0".into()),
        sdp_m_line_index: Some(0),
        username_fragment: None,
    })
}

/// The mesh of `me`, with its first offer made.
struct Peer {
    now: Instant,
    mesh: Mesh,
}

impl Peer {
    fn new() -> Self {
        Self::with(None, 200)
    }

    fn with(key: Option<RoomKey>, max_peers: usize) -> Self {
        let room = RoomId::new("den").expect("a good id");
        let identity = Identity { me: user("me"), name: "me".into(), room, key, allow_unverified: false };
        let now = Instant::now();
        let mesh = Mesh::new(now, Config { identity, peer_buffer: 1, max_peers, seed: [1; 32] });
        let mut peer = Self { now, mesh };
        assert_eq!(peer.drain(), [create(FIRST)]);
        peer
    }

    /// In a room of a server that knows our extensions, with its first offer in the pool.
    fn inside() -> Self {
        let mut peer = Self::new();
        peer.enter();
        peer
    }

    fn enter(&mut self) {
        self.feed(Input::SignalingUp);
        self.signal(ServerSignal::Welcome { resume: Secret::new("secret"), members: 0 });
        self.link(FIRST, PeerEvent::Description(ours()));
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.mesh.handle(self.now, input);
        self.drain()
    }

    fn signal(&mut self, signal: ServerSignal) -> Vec<Output> {
        self.feed(Input::Signal(signal))
    }

    fn link(&mut self, key: LinkKey, event: PeerEvent) -> Vec<Output> {
        self.feed(Input::Peer(key, event))
    }

    fn accept(&mut self, link: &str, from: &str, sdp: Sdp) -> Vec<Output> {
        let signals = vec![OfferSignal::Offer { sdp }];
        self.signal(ServerSignal::Accept { id: id(link), user_id: user(from), signals })
    }

    /// Takes an offer of `from`, who runs our program. Returns the link's number.
    fn accepting(&mut self, link: &str, from: &str) -> LinkKey {
        let outputs = self.accept(link, from, ours());
        let [Output::Peer(key, PeerCommand::AcceptOffer { .. })] = outputs[..] else { panic!("{outputs:?}") };
        key
    }

    fn hears(&mut self, key: LinkKey, control: &Control) -> Vec<Output> {
        let payload = Payload::Text(control.to_text());
        self.link(key, PeerEvent::Message { channel: Channel::Control, payload })
    }

    fn comes_up(&mut self, key: LinkKey) -> Vec<Output> {
        self.comes_up_as(key, 2)
    }

    /// With this certificate.
    fn comes_up_as(&mut self, key: LinkKey, certificate: u8) -> Vec<Output> {
        let (local, remote) = (Fingerprint([1; 32]), Fingerprint([certificate; 32]));
        self.link(key, PeerEvent::Connected { local, remote });
        self.link(key, PeerEvent::ChannelOpen(Channel::Control));
        self.link(key, PeerEvent::ChannelOpen(Channel::Fast));
        self.hears(key, &Control::Hello { version: 1, name: "you".into(), proof: None })
    }

    /// A ready link to `with`, who runs our program.
    fn ready(&mut self, link: &str, with: &str) -> LinkKey {
        let key = self.accepting(link, with);
        assert_eq!(self.comes_up(key), [opened(with)]);
        key
    }

    fn ready_original(&mut self, link: &str, with: &str) -> LinkKey {
        let outputs = self.accept(link, with, original());
        let [Output::Peer(key, _)] = outputs[..] else { panic!("{outputs:?}") };
        self.link(key, PeerEvent::ChannelOpen(Channel::Fast));
        key
    }

    /// Goes to the next deadline, which must be for this.
    fn wait(&mut self, reason: &Reason) -> Vec<Output> {
        let (at, next) = self.mesh.poll_timeout().expect("something is due");
        assert_eq!(&next, reason);
        self.pass(at - self.now)
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.mesh.handle_timeout(self.now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.mesh.poll()).collect()
    }
}

fn create(key: LinkKey) -> Output {
    Output::Peer(key, PeerCommand::CreateOffer)
}

fn close(key: LinkKey) -> Output {
    Output::Peer(key, PeerCommand::Close)
}

fn bye(key: LinkKey, reason: &str) -> Output {
    let payload = Payload::Text(Control::Bye { reason: reason.into() }.to_text());
    Output::Peer(key, PeerCommand::Send { channel: Channel::Control, payload })
}

fn opened(peer: &str) -> Output {
    let kind = PeerKind::Swarm;
    Output::Event(Event::Opened { peer: user(peer), kind, verified: false, name: "you".into() })
}

fn closed(peer: &str, reason: CloseReason) -> Output {
    Output::Event(Event::Closed { peer: user(peer), reason })
}

fn failed(peer: &str, reason: CloseReason) -> Output {
    Output::Event(Event::Failed { peer: user(peer), reason, untold: 0 })
}

fn want(peer: &str) -> Output {
    Output::Signal(ClientSignal::Want { user_id: user(peer) })
}

/// The link's name in the first signal about it.
fn named(outputs: &[Output]) -> LinkId {
    let name = outputs.iter().find_map(|output| match output {
        Output::Signal(signal) => signal.link_id().cloned(),
        Output::Peer(..) | Output::Event(_) => None,
    });
    name.expect("a signal about a link")
}

#[test]
fn init_comes_first_and_then_what_was_kept() {
    let mut peer = Peer::new();
    assert_eq!(peer.link(FIRST, PeerEvent::Description(ours())), []);
    assert_eq!(peer.link(FIRST, PeerEvent::Candidate(None)), []);
    let outputs = peer.feed(Input::SignalingUp);
    let [Output::Signal(ClientSignal::Init(Init { user_id, have, resume, .. })), rest @ ..] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((user_id, have), (&user("me"), &Some(Vec::new())));
    assert!(resume.as_ref().is_some_and(|secret| secret.expose().len() >= 22));
    let name = named(rest);
    assert_eq!(
        rest,
        [
            Output::Signal(ClientSignal::Offer { id: name.clone(), sdp: ours() }),
            Output::Signal(ClientSignal::Candidate { id: name, candidate: None }),
        ]
    );
}

#[test]
fn the_secret_of_the_last_welcome_is_used() {
    let mut peer = Peer::inside();
    for _ in 0..2 {
        peer.feed(Input::SignalingDown);
        let outputs = peer.feed(Input::SignalingUp);
        let resumes = |output: &Output| matches!(output, Output::Signal(ClientSignal::Init(Init { resume, .. })) if resume.as_ref().map(Secret::expose) == Some("secret"));
        assert!(resumes(&outputs[0]), "{outputs:?}");
    }
}

#[test]
fn after_a_claim_the_server_asks_for_the_next_offer() {
    let mut peer = Peer::new();
    peer.feed(Input::SignalingUp);
    let name = named(&peer.link(FIRST, PeerEvent::Description(ours())));
    assert_eq!(peer.signal(ServerSignal::OfferAccepted { id: name, user_id: user("you") }), []);
    assert_eq!(peer.signal(ServerSignal::OfferRequest), [create(LinkKey(2))]);
}

#[test]
fn a_flood_of_offer_requests_is_bounded() {
    let mut peer = Peer::inside();
    for _ in 0..1_000 {
        peer.signal(ServerSignal::OfferRequest);
    }
    assert_eq!(peer.mesh.held().links, 32);
}

#[test]
fn offers_that_may_not_be_made_yet_are_made_later() {
    let mut peer = Peer::with(None, 50);
    peer.enter();
    let made = |outputs: Vec<Output>| -> Vec<LinkKey> {
        let created = |output| match output {
            Output::Peer(key, PeerCommand::CreateOffer) => Some(key),
            Output::Peer(..) | Output::Signal(_) | Output::Event(_) => None,
        };
        outputs.into_iter().filter_map(created).collect()
    };
    // Somebody takes each offer and gives it up: so many may be made at once.
    for _ in 0..128 {
        let [key] = made(peer.signal(ServerSignal::OfferRequest))[..] else { panic!("it may be made") };
        let name = named(&peer.link(key, PeerEvent::Description(ours())));
        peer.signal(ServerSignal::OfferAccepted { id: name.clone(), user_id: user("you") });
        peer.signal(ServerSignal::LeaveSwarm { id: name });
    }
    for _ in 0..100 {
        assert_eq!(peer.signal(ServerSignal::OfferRequest), []);
    }
    let mut made_in_a_second = || made(peer.pass(Duration::from_secs(1))).len();
    assert_eq!([(); 3].map(|()| made_in_a_second()), [20, 11, 0], "as many as there is room for");
}

#[test]
fn an_offer_that_may_not_be_taken_yet_is_asked_for_again() {
    let mut peer = Peer::with(None, 50);
    peer.enter();
    for n in 0..128 {
        peer.accept(&format!("x{n}"), "mallory", ours());
    }
    let outputs = peer.accept("y", "you", ours());
    assert_eq!(outputs, [Output::Signal(ClientSignal::Leave { id: id("y") })]);
    assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
    peer.accepting("z", "you");
}

#[test]
fn an_old_offer_is_withdrawn_where_that_is_understood() {
    let mut peer = Peer::new();
    peer.feed(Input::SignalingUp);
    let name = named(&peer.link(FIRST, PeerEvent::Description(ours())));
    peer.link(FIRST, PeerEvent::Candidate(candidate("srflx")));
    assert_eq!(peer.pass(OFFER_MAX_AGE), [], "a server of the second generation would go on handing it out");
    let outputs = peer.signal(ServerSignal::Welcome { resume: Secret::new("secret"), members: 0 });
    let withdraw = Output::Signal(ClientSignal::Withdraw { id: name });
    assert_eq!(outputs, [withdraw, Output::Event(Event::Welcome { members: 0 })]);
    assert_eq!(peer.signal(ServerSignal::OfferRequest), [create(LinkKey(2))]);
    assert_eq!(peer.pass(WITHDRAWN_GRACE), [close(FIRST)]);
    assert_eq!(peer.mesh.held().links, 1);
}

#[test]
fn an_old_offer_that_the_server_never_saw_is_made_anew() {
    let mut peer = Peer::new();
    peer.link(FIRST, PeerEvent::Description(ours()));
    peer.link(FIRST, PeerEvent::Candidate(candidate("srflx")));
    assert_eq!(peer.mesh.held().unsent, 2);
    assert_eq!(peer.pass(OFFER_MAX_AGE), [close(FIRST), create(LinkKey(2))]);
    assert_eq!(peer.mesh.held().unsent, 0);
}

#[test]
fn a_withdrawn_offer_that_was_taken_meanwhile_becomes_a_link() {
    let mut peer = Peer::inside();
    peer.link(FIRST, PeerEvent::Candidate(candidate("srflx")));
    let name = named(&peer.pass(OFFER_MAX_AGE));
    assert_eq!(peer.signal(ServerSignal::OfferAccepted { id: name.clone(), user_id: user("you") }), []);
    let outputs = peer.signal(ServerSignal::Answer { id: name, sdp: ours() });
    assert_eq!(outputs[0], Output::Peer(FIRST, PeerCommand::AcceptAnswer { sdp: ours() }));
}

#[test]
fn an_offer_that_breaks_is_made_again_after_a_pause() {
    let mut peer = Peer::inside();
    let broken = peer.link(FIRST, PeerEvent::Closed(PeerClosed::Failed));
    assert!(matches!(broken[..], [Output::Signal(ClientSignal::Withdraw { .. })]));
    assert_eq!(peer.signal(ServerSignal::OfferRequest), [], "not before the pause is over");
    assert_eq!(peer.wait(&Reason::Refill), [create(LinkKey(2))]);
}

#[test]
fn a_newer_link_replaces_the_older_when_it_is_ready() {
    let mut peer = Peer::inside();
    let older = peer.ready("x", "you");
    let newer = peer.accepting("y", "you");
    assert_eq!(peer.mesh.ready_peers().count(), 1);
    assert_eq!(
        peer.comes_up(newer),
        [bye(older, "replaced"), close(older), closed("you", CloseReason::Replaced), opened("you")]
    );
    assert_eq!(peer.mesh.held().links, 2);
}

/// Everybody who may enter the room may call himself so, as soon as the server has forgotten the first.
#[test]
fn another_process_does_not_get_the_place_of_a_peer_that_is_there() {
    let mut peer = Peer::inside();
    let older = peer.ready("x", "you");
    let newer = peer.accepting("y", "you");
    let outputs = peer.comes_up_as(newer, 3);
    let [probe, refused @ ..] = &outputs[..] else { panic!("{outputs:?}") };
    let Output::Peer(_, PeerCommand::Send { payload: Payload::Text(probe), .. }) = probe else {
        panic!("{probe:?}")
    };
    let Ok(Control::Probe { nonce }) = Control::parse(probe) else { panic!("{probe}") };
    assert_eq!(refused, [bye(newer, "closed"), close(newer), failed("you", CloseReason::TakenId)]);
    assert_eq!(peer.hears(older, &Control::Alive { nonce }), []);
    assert_eq!(peer.pass(PROBE_TIMEOUT), []);
    assert_eq!(peer.mesh.ready_link(&user("you")), Some(older));
}

#[test]
fn another_process_gets_the_place_of_a_peer_that_is_gone() {
    let mut peer = Peer::inside();
    let older = peer.ready("x", "you");
    let newer = peer.accepting("y", "you");
    peer.comes_up_as(newer, 3);
    peer.feed(Input::Peer(older, PeerEvent::Disconnected));
    assert_eq!(
        peer.pass(PROBE_TIMEOUT),
        [bye(older, "closed"), close(older), closed("you", CloseReason::Lost)]
    );
    assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
    let third = peer.accepting("z", "you");
    assert_eq!(peer.comes_up_as(third, 3), [opened("you")]);
}

#[test]
fn an_attempt_is_given_up_for_the_next() {
    let mut peer = Peer::inside();
    let first = peer.accepting("x", "you");
    let outputs = peer.accept("y", "you", ours());
    assert_eq!(outputs[0], close(first));
    assert!(matches!(outputs[1..], [Output::Peer(_, PeerCommand::AcceptOffer { .. })]));
    assert_eq!(peer.mesh.held().members, 1);
}

#[test]
fn a_peer_that_says_goodbye_is_not_asked_for() {
    let mut peer = Peer::inside();
    let key = peer.ready("x", "you");
    assert_eq!(peer.hears(key, &Control::Bye { reason: "left".into() }), []);
    let outputs = peer.link(key, PeerEvent::Closed(PeerClosed::Remote));
    assert_eq!(outputs, [closed("you", CloseReason::Left)]);
    assert_eq!(peer.mesh.held().wants, 0);
    assert_eq!(peer.mesh.held().members, 0);
}

#[test]
fn a_lost_peer_is_asked_for_ever_more_seldom_and_then_no_more() {
    let mut peer = Peer::inside();
    let key = peer.ready("x", "you");
    peer.pass(Duration::from_secs(2));
    let outputs = peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    assert_eq!(outputs, [closed("you", CloseReason::Lost)]);
    let mut last = Duration::ZERO;
    for _ in 0..8 {
        let before = peer.now;
        assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
        assert!(peer.now - before > last, "each pause is longer than the last");
        last = peer.now - before;
    }
    assert!(matches!(peer.mesh.poll_timeout(), Some((_, Reason::Link(_, Deadline::OfferAge)))));
}

#[test]
fn links_that_break_as_soon_as_they_are_ready_are_not_asked_for_for_ever() {
    let mut peer = Peer::inside();
    let mut wants = 0;
    for round in 0..40 {
        let key = peer.ready(&format!("x{round}"), "you");
        peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
        if peer.mesh.poll_timeout().is_some_and(|(_, reason)| reason == Reason::Want(user("you"))) {
            peer.wait(&Reason::Want(user("you")));
            wants += 1;
        }
    }
    assert_eq!(wants, 8);
}

/// One forged packet in the clear ends a handshake, so that is no proof of anything; but it may be what it looks like.
#[test]
fn a_handshake_that_fails_is_told_of_once_and_tried_again() {
    let mut peer = Peer::inside();
    let fails = |peer: &mut Peer, round: usize| {
        let key = peer.accepting(&format!("x{round}"), "you");
        peer.link(key, PeerEvent::Closed(PeerClosed::DtlsFailed))
    };
    assert_eq!(fails(&mut peer, 0), [failed("you", CloseReason::KeyMismatch)]);
    for round in 1..=8 {
        assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
        assert_eq!(fails(&mut peer, round), []);
    }
    assert!(matches!(peer.mesh.poll_timeout(), Some((_, Reason::Link(_, Deadline::OfferAge)))));
    assert_eq!(fails(&mut peer, 9), [], "people know already");
    let key = peer.ready("x10", "you");
    peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    assert_eq!(fails(&mut peer, 11), [failed("you", CloseReason::KeyMismatch)], "it worked meanwhile");
    peer.enter();
    peer.drain();
    assert_eq!(fails(&mut peer, 12), [failed("you", CloseReason::KeyMismatch)]);
}

#[test]
fn a_handshake_that_failed_once_leads_to_a_link_and_a_wrong_proof_never() {
    let mut peer = Peer::with(Some(RoomKey::from_random([7; 16])), 8);
    peer.enter();
    let key = peer.accepting("x", "you");
    let outputs = peer.link(key, PeerEvent::Closed(PeerClosed::DtlsFailed));
    assert_eq!(outputs, [failed("you", CloseReason::KeyMismatch)]);
    assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
    let key = peer.accepting("y", "you");
    assert_eq!(
        peer.comes_up(key).last(),
        Some(&failed("you", CloseReason::KeyMismatch)),
        "told, whatever was"
    );
    assert_eq!(peer.mesh.held().wants, 0);
}

#[test]
fn a_link_that_held_is_asked_for_from_the_start() {
    let mut peer = Peer::inside();
    for round in 0..20 {
        let key = peer.ready(&format!("x{round}"), "you");
        peer.pass(Duration::from_secs(11));
        peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
        let (at, reason) = peer.mesh.poll_timeout().expect("a want");
        assert_eq!(reason, Reason::Want(user("you")));
        assert!(at - peer.now < Duration::from_secs(1));
    }
}

#[test]
fn while_the_server_is_away_nobody_is_asked_for_and_have_says_who_is_there() {
    let mut peer = Peer::inside();
    let (stays, breaks) = (peer.ready("x", "stays"), peer.ready("y", "breaks"));
    let unanswered = peer.accepting("z", "underway");
    assert_eq!(peer.feed(Input::SignalingDown), [close(FIRST), create(LinkKey(5))]);
    peer.link(breaks, PeerEvent::Closed(PeerClosed::IceFailed));
    assert_eq!((peer.mesh.held().wants, peer.mesh.held().unsent), (0, 0));
    let outputs = peer.feed(Input::SignalingUp);
    let [Output::Signal(ClientSignal::Init(Init { have: Some(have), .. }))] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(have, &[user("stays"), user("underway")]);
    assert!(peer.mesh.links.contains_key(&stays) && peer.mesh.links.contains_key(&unanswered));
}

#[test]
fn a_server_that_wants_a_working_link_closed_is_not_believed() {
    let mut peer = Peer::inside();
    let key = peer.ready("x", "you");
    let probe = Payload::Text(Control::Probe { nonce: 1 }.to_text());
    assert_eq!(
        peer.signal(ServerSignal::LeaveSwarm { id: id("x") }),
        [Output::Peer(key, PeerCommand::Send { channel: Channel::Control, payload: probe })]
    );
    assert_eq!(peer.hears(key, &Control::Alive { nonce: 1 }), []);
    assert_eq!(peer.mesh.ready_peers().count(), 1);
}

#[test]
fn a_peer_that_is_gone_is_found_out_by_a_probe() {
    let mut peer = Peer::inside();
    let key = peer.ready("x", "you");
    assert_eq!(peer.signal(ServerSignal::Gone { user_id: user("you") }).len(), 1);
    assert_eq!(peer.signal(ServerSignal::Gone { user_id: user("you") }), [], "once is enough");
    assert_eq!(peer.signal(ServerSignal::Gone { user_id: user("nobody") }), []);
    peer.feed(Input::Peer(key, PeerEvent::Disconnected));
    assert_eq!(peer.pass(PROBE_TIMEOUT), [bye(key, "closed"), close(key), closed("you", CloseReason::Lost)]);
}

#[test]
fn an_original_that_left_is_closed_on_the_servers_word() {
    let mut peer = Peer::inside();
    let key = peer.ready_original("x", "you");
    let outputs = peer.signal(ServerSignal::LeaveSwarm { id: id("x") });
    assert_eq!(outputs, [close(key), closed("you", CloseReason::Left)]);
    assert_eq!(peer.mesh.held().wants, 0);
}

#[test]
fn an_attempt_given_back_is_asked_for_again() {
    let mut peer = Peer::inside();
    let key = peer.accepting("x", "you");
    assert_eq!(peer.signal(ServerSignal::LeaveSwarm { id: id("x") }), [close(key)]);
    assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
}

/// R31.
#[test]
fn nobody_is_asked_for_so_soon_that_the_server_refuses() {
    let mut peer = Peer::inside();
    let key = peer.accepting("x", "you");
    let claimed_at = peer.now;
    peer.pass(Duration::from_millis(100));
    assert_eq!(peer.signal(ServerSignal::LeaveSwarm { id: id("x") }), [close(key)]);
    assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
    let waited = (peer.now - claimed_at).as_millis();
    assert!((2_000..=2_250).contains(&waited), "{waited} ms");

    let key = peer.accepting("y", "you");
    let claimed_at = peer.now;
    peer.pass(Duration::from_secs(15));
    peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
    assert!(peer.now - claimed_at <= Duration::from_millis(16_500), "the second delay, and half of it");
}

/// The server that answers so, after a first question: it hears no second one, nor any other of our extensions.
fn is_asked_once(code: Option<ErrorCode>, message: &str, told: &[Output]) {
    let mut peer = Peer::with(Some(RoomKey::from_random([7; 16])), 200);
    peer.feed(Input::SignalingUp);
    peer.link(FIRST, PeerEvent::Description(ours()));
    for name in ["one", "two"] {
        let key = peer.accepting(name, name);
        peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    }
    let (at, _) = peer.mesh.poll_timeout().expect("two are missed");
    assert!(matches!(peer.pass(at - peer.now)[..], [Output::Signal(ClientSignal::Want { .. })]));
    assert_eq!(peer.signal(ServerSignal::SignalError { code, message: message.into() }), told);
    assert_eq!(peer.mesh.held().wants, 0);
    let key = peer.accepting("three", "three");
    peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    assert!(matches!(peer.mesh.poll_timeout(), Some((_, Reason::Link(FIRST, Deadline::OfferAge)))));
    let is_signal = |output: &Output| matches!(output, Output::Signal(_));
    assert!(!peer.accept("x", "original", original()).iter().any(is_signal), "no `leave`");
    assert!(!peer.pass(OFFER_MAX_AGE).iter().any(is_signal), "no `withdraw`");

    // Another socket may lead to another server.
    peer.feed(Input::SignalingDown);
    peer.feed(Input::SignalingUp);
    let key = peer.accepting("four", "four");
    peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    assert_eq!(peer.wait(&Reason::Want(user("four"))), [want("four")]);
}

#[test]
fn a_server_that_does_not_know_a_question_is_asked_once() {
    is_asked_once(Some(ErrorCode::UnknownType), "what?", &[]);
    let refused = |code, message: &str| Output::Event(Event::Refused { code, message: message.into() });
    is_asked_once(None, "unknown type want", &[refused(None, "unknown type want")]);
    let other = Some(ErrorCode::Other);
    is_asked_once(other, "no such type: 'want'", &[refused(other, "no such type: 'want'")]);
}

#[test]
fn a_server_that_knows_our_extensions_may_speak_of_them() {
    let mut peer = Peer::inside();
    let key = peer.accepting("x", "you");
    peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    let (code, message) = (Some(ErrorCode::LimitExceeded), "don't want so often".to_owned());
    let refused = Output::Event(Event::Refused { code, message: message.clone() });
    assert_eq!(peer.signal(ServerSignal::SignalError { code, message }), [refused]);
    assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
}

#[test]
fn a_server_that_refuses_without_end_is_heard_now_and_then() {
    let mut peer = Peer::inside();
    let mut refuse = |times: usize, after: Duration| -> Vec<String> {
        peer.pass(after);
        let refusal = || ServerSignal::SignalError { code: Some(ErrorCode::Other), message: "no".into() };
        let outputs = (0..times).flat_map(|_| peer.signal(refusal()));
        outputs
            .map(|output| {
                let Output::Event(Event::Refused { message, .. }) = output else { panic!("{output:?}") };
                message
            })
            .collect()
    };
    assert_eq!(refuse(1000, Duration::ZERO), ["no"; 16]);
    assert_eq!(refuse(1000, Duration::from_secs(2)), ["no (and 984 more before it)", "no"]);
    assert_eq!(refuse(1, Duration::from_secs(1)), ["no (and 998 more before it)"]);
    assert_eq!(refuse(1, Duration::from_secs(1)), ["no"]);
}

#[test]
fn an_original_that_offers_in_a_room_with_a_key_is_refused_and_told_of() {
    let mut peer = Peer::with(Some(RoomKey::from_random([7; 16])), 200);
    peer.enter();
    assert_eq!(
        peer.accept("x", "you", original()),
        [
            Output::Signal(ClientSignal::Leave { id: id("x") }),
            close(LinkKey(2)),
            failed("you", CloseReason::Unverified),
        ]
    );
    assert_eq!((peer.mesh.held().members, peer.mesh.held().wants), (0, 0));
}

#[test]
fn a_full_mesh_declines_newcomers_but_not_its_own_peers() {
    let mut peer = Peer::with(None, 1);
    peer.enter();
    peer.ready("x", "you");
    let declined = Output::Signal(ClientSignal::Leave { id: id("y") });
    assert_eq!(peer.accept("y", "other", ours()), [declined]);
    let outputs = peer.signal(ServerSignal::OfferRequest);
    let [Output::Peer(key, PeerCommand::CreateOffer)] = outputs[..] else { panic!("{outputs:?}") };
    let name = named(&peer.link(key, PeerEvent::Description(ours())));
    assert_eq!(
        peer.signal(ServerSignal::OfferAccepted { id: name.clone(), user_id: user("other") }),
        [Output::Signal(ClientSignal::Leave { id: name }), close(key)]
    );
    peer.accepting("z", "you");
}

#[test]
fn early_candidates_wait_for_their_offer_and_are_bounded() {
    let mut peer = Peer::inside();
    for no in 0..1_000 {
        let candidate = candidate("host");
        assert_eq!(peer.signal(ServerSignal::Candidate { id: id(&format!("x{no}")), candidate }), []);
    }
    assert_eq!(peer.mesh.held().orphans, 16);
    for _ in 0..1_000 {
        peer.signal(ServerSignal::Candidate { id: id("x999"), candidate: None });
    }
    let outputs = peer.accept("x999", "you", ours());
    assert_eq!(outputs.len(), 1 + 64);
    assert_eq!(outputs[1], Output::Peer(LinkKey(2), PeerCommand::AddCandidate(candidate("host"))));
    assert_eq!(peer.mesh.held().orphans, 15);
}

#[test]
fn signals_about_unknown_or_wrong_connections_change_nothing() {
    let mut peer = Peer::inside();
    let name = peer.mesh.links[&FIRST].id().clone();
    let nonsense = [
        ServerSignal::Answer { id: id("x"), sdp: ours() },
        ServerSignal::OfferAccepted { id: id("x"), user_id: user("you") },
        ServerSignal::LeaveSwarm { id: id("x") },
        ServerSignal::Offer { id: id("x"), sdp: ours() },
        ServerSignal::Accept { id: id("x"), user_id: user("you"), signals: Vec::new() },
        // An offer of ourselves, an offer with the name of one of ours, our own offer taken by ourselves.
        ServerSignal::Accept {
            id: id("x"),
            user_id: user("me"),
            signals: vec![OfferSignal::Offer { sdp: ours() }],
        },
        ServerSignal::Accept {
            id: name.clone(),
            user_id: user("you"),
            signals: vec![OfferSignal::Offer { sdp: ours() }],
        },
        ServerSignal::OfferAccepted { id: name, user_id: user("me") },
    ];
    let before = peer.mesh.held();
    for signal in nonsense {
        assert_eq!(peer.signal(signal), []);
    }
    assert_eq!(peer.mesh.held(), before);
    assert_eq!(peer.link(LinkKey(99), PeerEvent::ChannelOpen(Channel::Fast)), []);
}

#[test]
fn a_flood_of_offers_from_one_member_leaves_one_attempt() {
    let mut peer = Peer::inside();
    for no in 0..500 {
        peer.accept(&format!("x{no}"), "you", ours());
    }
    assert_eq!((peer.mesh.held().links, peer.mesh.held().members), (2, 1));
}

#[test]
fn a_flood_of_members_is_bounded_by_max_peers() {
    let mut peer = Peer::with(None, 10);
    peer.enter();
    for no in 0..500 {
        peer.accept(&format!("x{no}"), &format!("you{no}"), ours());
        peer.signal(ServerSignal::LeaveSwarm { id: id(&format!("x{no}")) });
        peer.accept(&format!("y{no}"), &format!("you{no}"), ours());
    }
    assert_eq!((peer.mesh.held().links, peer.mesh.held().members), (11, 10));
    assert!(peer.mesh.held().wants <= 1_024);
}

#[test]
fn a_line_goes_to_every_ready_peer_in_the_form_it_understands() {
    let mut peer = Peer::inside();
    let (ours, original) = (peer.ready("x", "a"), peer.ready_original("y", "b"));
    peer.accepting("z", "not-ready");
    let text = |key, channel, text: String| {
        Output::Peer(key, PeerCommand::Send { channel, payload: Payload::Text(text) })
    };
    assert_eq!(
        peer.feed(Input::Say { text: "hi".into(), to: To::Everyone }),
        [text(ours, Channel::Fast, "hi".into()), text(original, Channel::Fast, "hi".into())]
    );
    let direct = Control::Direct { text: "psst".into() }.to_text();
    assert_eq!(
        peer.feed(Input::Say { text: "psst".into(), to: To::Peers(vec![user("a"), user("b"), user("c")]) }),
        [text(ours, Channel::Control, direct), text(original, Channel::Fast, "psst".into())]
    );
    let bytes = Bytes::from_static(b"x");
    assert_eq!(peer.feed(Input::Bulk { to: user("b"), frame: bytes }), [], "an original has no such channel");
}

#[test]
fn leaving_closes_everything_and_nothing_follows() {
    let mut peer = Peer::inside();
    let key = peer.ready("x", "you");
    let attempt = peer.accepting("y", "other");
    assert_eq!(
        peer.feed(Input::Close),
        [
            Output::Signal(ClientSignal::Close),
            close(FIRST),
            bye(key, "left"),
            close(key),
            closed("you", CloseReason::Local),
            close(attempt),
        ]
    );
    assert_eq!(peer.mesh.poll_timeout(), None);
    assert_eq!(peer.accept("z", "late", ours()), []);
    assert_eq!(peer.signal(ServerSignal::OfferRequest), []);
    assert_eq!(peer.feed(Input::SignalingDown), []);
    assert_eq!(peer.feed(Input::SignalingUp), []);
    assert_eq!(peer.link(key, PeerEvent::Closed(PeerClosed::Local)), []);
    let nothing = Held { links: 0, stripes: 0, members: 0, wants: 0, orphans: 0, unsent: 0, timers: 0 };
    assert_eq!(peer.mesh.held(), nothing);
}

#[test]
fn a_socket_that_opens_while_another_is_believed_in_starts_anew() {
    let mut peer = Peer::inside();
    let outputs = peer.feed(Input::SignalingUp);
    assert_eq!(outputs[..2], [close(FIRST), create(LinkKey(2))]);
    assert!(matches!(outputs[2..], [Output::Signal(ClientSignal::Init(_))]));
}

fn is_want(output: &Output) -> bool {
    matches!(output, Output::Signal(ClientSignal::Want { .. }))
}

#[test]
fn members_that_give_every_link_up_are_asked_for_in_bounded_number() {
    let mut peer = Peer::inside();
    let mut asked = 0;
    for n in 0..600 {
        let name = format!("m{n}");
        peer.accept(&name, &name, ours());
        peer.signal(ServerSignal::LeaveSwarm { id: id(&name) });
        asked += peer.pass(Duration::from_millis(100)).iter().filter(|output| is_want(output)).count();
    }
    assert!((180..=188).contains(&asked), "128, and one a second: {asked}");
}

#[test]
fn a_link_that_broke_does_not_wait_for_those_that_never_come_up() {
    let mut peer = Peer::inside();
    let key = peer.ready("x", "you");
    for n in 0..64 {
        let name = format!("m{n}");
        let key = peer.accepting(&name, &name);
        peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    }
    let asked: usize = (0..100)
        .map(|_| peer.pass(Duration::from_millis(100)).iter().filter(|output| is_want(output)).count())
        .sum();
    assert!((64..=75).contains(&asked), "each once, and few of them again: {asked}");
    peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    assert!(peer.pass(Duration::from_millis(750)).contains(&want("you")));
}

#[test]
fn a_link_that_held_is_asked_for_however_many_came_and_left_meanwhile() {
    for strangers in [300, 1_300] {
        let mut peer = Peer::inside();
        let key = peer.ready("x", "you");
        peer.pass(Duration::from_secs(10));
        for n in 0..strangers {
            let name = format!("m{n}");
            peer.accept(&name, &name, ours());
            peer.signal(ServerSignal::LeaveSwarm { id: id(&name) });
            for output in peer.pass(Duration::from_millis(50)) {
                if let Output::Signal(ClientSignal::Want { user_id }) = output {
                    peer.signal(ServerSignal::Gone { user_id });
                }
            }
        }
        peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
        let outputs = peer.pass(Duration::from_millis(750));
        assert!(outputs.contains(&want("you")), "after {strangers}: {outputs:?}");
    }
}

#[test]
fn who_is_gone_when_it_is_asked_for_is_forgotten() {
    let mut peer = Peer::inside();
    let key = peer.accepting("x", "you");
    peer.link(key, PeerEvent::Closed(PeerClosed::IceFailed));
    peer.signal(ServerSignal::Gone { user_id: user("you") });
    assert_eq!(peer.mesh.held().wants, 1, "it may come back with its socket, and was not asked for yet");
    assert_eq!(peer.wait(&Reason::Want(user("you"))), [want("you")]);
    peer.signal(ServerSignal::Gone { user_id: user("you") });
    assert_eq!(peer.mesh.held().wants, 0);
    assert!(matches!(peer.mesh.poll_timeout(), Some((_, Reason::Link(_, Deadline::OfferAge)))));
}

#[test]
fn of_too_many_that_are_asked_for_those_give_way_that_were_asked_for_most() {
    let mut peer = Peer::inside();
    let gives_up = |peer: &mut Peer, name: &str| {
        peer.accept(name, name, ours());
        peer.signal(ServerSignal::LeaveSwarm { id: id(name) });
        peer.pass(Duration::from_millis(50))
    };
    for n in 0..1_100 {
        gives_up(&mut peer, &format!("m{n}"));
    }
    assert_eq!(peer.mesh.held().wants, 1_024);
    let was_known = peer.mesh.wants.keys().cloned().collect::<BTreeSet<_>>();
    let most = peer.mesh.wants.values().map(|want| want.tries).max();
    gives_up(&mut peer, "you");
    let (user, wants) = (user("you"), &peer.mesh.wants);
    assert!(wants.contains_key(&user) && wants.len() == 1_024);
    assert_eq!(was_known.iter().filter(|peer| !wants.contains_key(*peer)).count(), 1);
    assert!(most > Some(0));
}

#[test]
fn failures_without_end_are_heard_now_and_then_and_none_hides_behind_those_of_another_kind() {
    let mut peer = Peer::with(Some(RoomKey::from_random([7; 16])), 200);
    peer.enter();
    let (mut told, mut untold_before, mut last) = (0, 0, 0);
    for n in 0..1_000 {
        let name = format!("m{n}");
        for output in peer.accept(&name, &name, original()) {
            if let Output::Event(Event::Failed { reason, untold, .. }) = output {
                assert_eq!(reason, CloseReason::Unverified);
                told += 1;
                untold_before += untold;
                last = n;
            }
        }
        if n == 500 {
            let key = peer.accepting("x", "you");
            let outputs = peer.link(key, PeerEvent::Closed(PeerClosed::DtlsFailed));
            assert!(outputs.contains(&failed("you", CloseReason::KeyMismatch)), "{outputs:?}");
        }
        peer.pass(Duration::from_millis(60));
    }
    assert!((70..=76).contains(&told), "16, and one a second: {told}");
    assert_eq!(told + untold_before, last + 1, "and each is counted");
}
