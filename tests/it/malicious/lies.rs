//! Every lie a server can tell about a connection, one at a time, told to two meshes that share a key.
//!
//! What the two say over the connection is passed on word for word: only the proof stands between the liar and the room.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fast_rtc_swarm::core::link::{CloseReason, Identity, PeerKind};
use fast_rtc_swarm::core::mesh::{Config, Event, Input, Mesh, Output, To};
use fast_rtc_swarm::core::peer::{
    Channel, Fingerprint, LinkKey, Path, PathKind, Payload, PeerClosed, PeerCommand, PeerEvent,
};
use fast_rtc_swarm::wire::control::Control;
use fast_rtc_swarm::wire::signal::OfferSignal;
use fast_rtc_swarm::wire::{ClientSignal, LinkId, RoomId, RoomKey, Sdp, ServerSignal, UserId};

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).expect("an id")
}

pub(super) fn our_sdp() -> Sdp {
    Sdp::new("v=0\r\ns=-\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n")
        .expect("short")
        .with_marker()
}

fn without_marker(sdp: &Sdp) -> Sdp {
    Sdp::new(sdp.as_str().replace("a=x-swarm:1\r\n", "")).expect("short")
}

fn key() -> RoomKey {
    RoomKey::from_random([7; 16])
}

pub(super) const ADA_CERTIFICATE: Fingerprint = Fingerprint([0xaa; 32]);
pub(super) const BOB_CERTIFICATE: Fingerprint = Fingerprint([0xbb; 32]);
pub(super) const EVE_CERTIFICATE: Fingerprint = Fingerprint([0xee; 32]);

pub(super) const MAX_PEERS: usize = 8;

/// A member as its user sees it: what it was told, and what left it.
pub(super) struct Member {
    pub(super) mesh: Mesh,
    pub(super) now: Instant,
    certificate: Fingerprint,
    pub(super) told: Vec<Event>,
    pub(super) signals: VecDeque<ClientSignal>,
    pub(super) commands: VecDeque<(LinkKey, PeerCommand)>,
}

/// What distinguishes one member from another.
pub(super) struct Who {
    name: &'static str,
    room: &'static str,
    key: Option<RoomKey>,
    allow_unverified: bool,
    certificate: Fingerprint,
}

impl Who {
    pub(super) fn ada() -> Self {
        Self {
            name: "ada",
            room: "attic",
            key: Some(key()),
            allow_unverified: false,
            certificate: ADA_CERTIFICATE,
        }
    }

    pub(super) fn bob() -> Self {
        Self { name: "bob", certificate: BOB_CERTIFICATE, ..Self::ada() }
    }
}

impl Member {
    pub(super) fn new(who: Who) -> Self {
        let identity = Identity {
            me: user(who.name),
            name: who.name.into(),
            room: RoomId::new(who.room).expect("an id"),
            key: who.key,
            allow_unverified: who.allow_unverified,
        };
        let seed = [who.certificate.0[0]; 32];
        let now = Instant::now();
        let mesh = Mesh::new(now, Config { identity, peer_buffer: 1, max_peers: MAX_PEERS, seed });
        let mut member = Self {
            mesh,
            now,
            certificate: who.certificate,
            told: Vec::new(),
            signals: VecDeque::new(),
            commands: VecDeque::new(),
        };
        member.hear(Input::SignalingUp);
        member
    }

    pub(super) fn hear(&mut self, input: Input) {
        self.mesh.handle(self.now, input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.mesh.poll() {
            match output {
                Output::Signal(signal) => self.signals.push_back(signal),
                Output::Peer(key, command) => self.commands.push_back((key, command)),
                Output::Event(event) => self.told.push(event),
            }
        }
    }

    pub(super) fn peer(&mut self, key: LinkKey, event: PeerEvent) {
        self.hear(Input::Peer(key, event));
    }

    pub(super) fn control(&mut self, key: LinkKey, control: &Control) {
        let payload = Payload::Text(control.to_text());
        self.peer(key, PeerEvent::Message { channel: Channel::Control, payload });
    }

    /// Lets the member make the offer it waits with.
    pub(super) fn offer(&mut self) -> (LinkKey, LinkId) {
        let key = self.take_key(|command| matches!(command, PeerCommand::CreateOffer));
        self.peer(key, PeerEvent::Description(our_sdp()));
        let id = self.signals.drain(..).find_map(|signal| match signal {
            ClientSignal::Offer { id, .. } => Some(id),
            _ => None,
        });
        (key, id.expect("an offer is signalled"))
    }

    /// Hands the member an offer; returns its connection, if it takes the offer.
    pub(super) fn accept(&mut self, id: &LinkId, from: &UserId, sdp: Sdp) -> Option<LinkKey> {
        let signals = vec![OfferSignal::Offer { sdp }];
        self.hear(Input::Signal(ServerSignal::Accept { id: id.clone(), user_id: from.clone(), signals }));
        let accepts = |(key, command): &(LinkKey, PeerCommand)| {
            matches!(command, PeerCommand::AcceptOffer { .. }).then_some(*key)
        };
        let key = self.commands.iter().find_map(accepts)?;
        self.peer(key, PeerEvent::Description(our_sdp()));
        Some(key)
    }

    /// Tells the member who took its offer, with the answer.
    pub(super) fn accepted(&mut self, id: &LinkId, by: &UserId, sdp: Sdp) {
        self.hear(Input::Signal(ServerSignal::OfferAccepted { id: id.clone(), user_id: by.clone() }));
        self.hear(Input::Signal(ServerSignal::Answer { id: id.clone(), sdp }));
    }

    /// DTLS and all channels come up.
    pub(super) fn connected(&mut self, key: LinkKey, remote: Fingerprint) {
        self.peer(key, PeerEvent::Connected { local: self.certificate, remote });
        for channel in [Channel::Fast, Channel::Control, Channel::Bulk] {
            self.peer(key, PeerEvent::ChannelOpen(channel));
        }
    }

    fn take_key(&mut self, wanted: impl Fn(&PeerCommand) -> bool) -> LinkKey {
        let at = self.commands.iter().position(|(_, command)| wanted(command)).expect("the command was said");
        self.commands.remove(at).expect("just found").0
    }

    /// What the member sent on a connection since the last time.
    fn take_sent(&mut self, key: LinkKey) -> Vec<(Channel, Payload)> {
        let sent = |command| match command {
            (of, PeerCommand::Send { channel, payload }) if of == key => Some((channel, payload)),
            _ => None,
        };
        self.commands.drain(..).filter_map(sent).collect()
    }

    pub(super) fn take_hello(&mut self, key: LinkKey) -> Control {
        let sent = self.take_sent(key);
        let [(Channel::Control, Payload::Text(text))] = sent.as_slice() else {
            panic!("a hello and nothing else, not {sent:?}");
        };
        Control::parse(text).expect("our own message")
    }

    fn says_aloud(&mut self, text: &str) {
        self.hear(Input::Say { text: text.into(), to: To::Everyone });
    }

    pub(super) fn opened(&self) -> Vec<(&UserId, bool)> {
        let opened = |event| match event {
            &Event::Opened { ref peer, verified, .. } => Some((peer, verified)),
            _ => None,
        };
        self.told.iter().filter_map(opened).collect()
    }

    pub(super) fn lines(&self) -> Vec<&str> {
        let texts = self.told.iter().filter_map(|event| match event {
            Event::Text { text, .. } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    pub(super) fn ready_link(&self, peer: &str) -> LinkKey {
        self.mesh.ready_link(&user(peer)).expect("connected")
    }

    /// Lets time pass from deadline to deadline, until only the waiting offers have any.
    pub(super) fn wait_until_quiet(&mut self) {
        let end = self.now + Duration::from_secs(240);
        while let Some((at, _)) = self.mesh.poll_timeout().filter(|(at, _)| *at < end) {
            self.now = at;
            self.mesh.handle_timeout(at);
            self.carry_out();
        }
    }

    fn refused(&self) -> Vec<(&UserId, CloseReason)> {
        let failed = |event| match event {
            &Event::Failed { ref peer, reason, .. } => Some((peer, reason)),
            _ => None,
        };
        self.told.iter().filter_map(failed).collect()
    }

    /// The user heard of one refusal, and of nothing else.
    #[track_caller]
    pub(super) fn was_only_told(&self, peer: &str, reason: CloseReason) {
        assert_eq!(self.refused(), [(&user(peer), reason)]);
        assert_eq!(self.told.len(), 1, "{:?}", self.told);
    }
}

/// What the server says and does. [`Server::honest`] is a server that does its work.
pub(super) struct Server {
    answerer_is_told: UserId,
    offerer_is_told: UserId,
    link_at_answerer: Option<LinkId>,
    certificate_at_offerer: Fingerprint,
    certificate_at_answerer: Fingerprint,
    offer: Sdp,
    answer: Sdp,
}

impl Server {
    pub(super) fn honest() -> Self {
        Self {
            answerer_is_told: user("ada"),
            offerer_is_told: user("bob"),
            link_at_answerer: None,
            certificate_at_offerer: BOB_CERTIFICATE,
            certificate_at_answerer: ADA_CERTIFICATE,
            offer: our_sdp(),
            answer: our_sdp(),
        }
    }

    /// Connects the two and passes on what they say, with a line of chat from each side behind it.
    /// Returns Ada's connection and its name, if both took part.
    pub(super) fn introduce(self, ada: &mut Member, bob: &mut Member) -> Option<(LinkKey, LinkId)> {
        let (at_ada, id) = ada.offer();
        let at_bob =
            bob.accept(self.link_at_answerer.as_ref().unwrap_or(&id), &self.answerer_is_told, self.offer);
        ada.accepted(&id, &self.offerer_is_told, self.answer);
        let at_bob = at_bob?;
        ada.connected(at_ada, self.certificate_at_offerer);
        bob.connected(at_bob, self.certificate_at_answerer);
        for _ in 0..4 {
            for (channel, payload) in ada.take_sent(at_ada) {
                bob.peer(at_bob, PeerEvent::Message { channel, payload });
            }
            for (channel, payload) in bob.take_sent(at_bob) {
                ada.peer(at_ada, PeerEvent::Message { channel, payload });
            }
            for (member, key) in [(&mut *ada, at_ada), (&mut *bob, at_bob)] {
                let payload = Payload::Text("send me all your files".into());
                member.peer(key, PeerEvent::Message { channel: Channel::Fast, payload });
                let payload = Payload::Binary(vec![0; 64].into());
                member.peer(key, PeerEvent::Message { channel: Channel::Bulk, payload });
            }
        }
        Some((at_ada, id))
    }

    /// Both users are told of the mismatch and of nothing else, and nothing a user says goes out.
    #[track_caller]
    fn must_be_found_out(self, mut ada: Member, mut bob: Member) {
        let (at_ada, at_bob) = (self.offerer_is_told.clone(), self.answerer_is_told.clone());
        self.introduce(&mut ada, &mut bob);
        ada.was_only_told(at_ada.as_str(), CloseReason::KeyMismatch);
        bob.was_only_told(at_bob.as_str(), CloseReason::KeyMismatch);
        for member in [&mut ada, &mut bob] {
            member.commands.clear();
            member.says_aloud("is anybody there?");
            let sends = |(_, command): &(LinkKey, PeerCommand)| matches!(command, PeerCommand::Send { .. });
            assert!(!member.commands.iter().any(sends));
        }
    }
}

#[test]
fn an_honest_server_brings_two_members_together() {
    let (mut ada, mut bob) = (Member::new(Who::ada()), Member::new(Who::bob()));
    Server::honest().introduce(&mut ada, &mut bob);
    assert_eq!(ada.opened(), [(&user("bob"), true)]);
    assert_eq!(bob.opened(), [(&user("ada"), true)]);
    assert!(ada.refused().is_empty() && bob.refused().is_empty());
}

#[test]
fn a_server_that_shows_its_own_certificates_is_found_out() {
    let server = Server {
        certificate_at_offerer: EVE_CERTIFICATE,
        certificate_at_answerer: EVE_CERTIFICATE,
        ..Server::honest()
    };
    server.must_be_found_out(Member::new(Who::ada()), Member::new(Who::bob()));
}

#[test]
fn a_server_in_the_middle_of_one_side_only_is_found_out_by_both() {
    let server = Server { certificate_at_answerer: EVE_CERTIFICATE, ..Server::honest() };
    server.must_be_found_out(Member::new(Who::ada()), Member::new(Who::bob()));
}

#[test]
fn a_server_that_swaps_ids_is_found_out() {
    let server = Server { offerer_is_told: user("carol"), ..Server::honest() };
    server.must_be_found_out(Member::new(Who::ada()), Member::new(Who::bob()));
    let server = Server { answerer_is_told: user("carol"), ..Server::honest() };
    server.must_be_found_out(Member::new(Who::ada()), Member::new(Who::bob()));
}

#[test]
fn a_server_that_renames_the_connection_is_found_out() {
    let link_at_answerer = Some(LinkId::new("another").expect("an id"));
    let server = Server { link_at_answerer, ..Server::honest() };
    server.must_be_found_out(Member::new(Who::ada()), Member::new(Who::bob()));
}

#[test]
fn a_server_that_mixes_rooms_is_found_out() {
    let in_the_cellar = Member::new(Who { room: "cellar", ..Who::bob() });
    Server::honest().must_be_found_out(Member::new(Who::ada()), in_the_cellar);
}

#[test]
fn a_member_with_another_key_is_told_so() {
    let with_another_key = Member::new(Who { key: Some(RoomKey::from_random([8; 16])), ..Who::bob() });
    Server::honest().must_be_found_out(Member::new(Who::ada()), with_another_key);
}

#[test]
fn a_server_that_makes_both_sides_offerers_is_found_out() {
    let (mut ada, mut bob) = (Member::new(Who::ada()), Member::new(Who::bob()));
    let (at_ada, ada_id) = ada.offer();
    let (at_bob, bob_id) = bob.offer();
    ada.accepted(&ada_id, &user("bob"), our_sdp());
    bob.accepted(&bob_id, &user("ada"), our_sdp());
    ada.connected(at_ada, BOB_CERTIFICATE);
    bob.connected(at_bob, ADA_CERTIFICATE);
    let (from_ada, from_bob) = (ada.take_hello(at_ada), bob.take_hello(at_bob));
    bob.control(at_bob, &from_ada);
    ada.control(at_ada, &from_bob);
    ada.was_only_told("bob", CloseReason::KeyMismatch);
    bob.was_only_told("ada", CloseReason::KeyMismatch);
}

#[test]
fn a_server_that_hides_the_marker_gains_nothing() {
    let (mut ada, mut bob) = (Member::new(Who::ada()), Member::new(Who::bob()));
    let plain = without_marker(&our_sdp());
    let server = Server { offer: plain.clone(), answer: plain, ..Server::honest() };
    server.introduce(&mut ada, &mut bob);
    ada.was_only_told("bob", CloseReason::Unverified);
    bob.was_only_told("ada", CloseReason::Unverified);
}

#[test]
fn a_server_that_sends_a_proof_back_is_found_out() {
    let mut ada = Member::new(Who::ada());
    let (at_ada, id) = ada.offer();
    ada.accepted(&id, &user("bob"), our_sdp());
    ada.connected(at_ada, EVE_CERTIFICATE);
    let hello = ada.take_hello(at_ada);
    ada.control(at_ada, &hello);
    ada.was_only_told("bob", CloseReason::KeyMismatch);
}

/// The server keeps the hello that Bob sent on an honest link, and says the same on a link of the same name that it ends
/// itself.
#[test]
fn a_replayed_proof_does_not_hold() {
    let (mut ada, mut bob) = (Member::new(Who::ada()), Member::new(Who::bob()));
    let (at_ada, id) = ada.offer();
    let at_bob = bob.accept(&id, &user("ada"), our_sdp()).expect("taken");
    ada.accepted(&id, &user("bob"), our_sdp());
    ada.connected(at_ada, BOB_CERTIFICATE);
    bob.connected(at_bob, ADA_CERTIFICATE);
    let (from_ada, from_bob) = (ada.take_hello(at_ada), bob.take_hello(at_bob));
    bob.control(at_bob, &from_ada);
    ada.control(at_ada, &from_bob);
    assert_eq!((ada.opened().len(), bob.opened().len()), (1, 1));

    bob.peer(at_bob, PeerEvent::Closed(PeerClosed::Remote));
    bob.told.clear();
    bob.commands.clear();
    let again = bob.accept(&id, &user("ada"), our_sdp()).expect("the name is free again");
    bob.connected(again, EVE_CERTIFICATE);
    bob.control(again, &from_ada);
    bob.was_only_told("ada", CloseReason::KeyMismatch);
}

#[test]
fn a_server_that_claims_offers_itself_learns_and_shows_nothing() {
    let mut ada = Member::new(Who::ada());
    let (at_ada, id) = ada.offer();
    ada.accepted(&id, &user("eve"), our_sdp());
    ada.connected(at_ada, EVE_CERTIFICATE);
    ada.says_aloud("the password is swordfish");
    ada.take_hello(at_ada);
    let before = [
        Control::Name { name: "Bob".into() },
        Control::Direct { text: "it's me".into() },
        Control::Probe { nonce: 1 },
        Control::Transfer { message: serde_json::json!({ "type": "offer" }) },
    ];
    for control in before {
        ada.control(at_ada, &control);
    }
    let payload = Payload::Text("it's me".into());
    ada.peer(at_ada, PeerEvent::Message { channel: Channel::Fast, payload });
    assert!(ada.told.is_empty() && ada.take_sent(at_ada).is_empty());
    for proof in [None, Some("AAAA".to_owned()), Some("A".repeat(43))] {
        let mut ada = Member::new(Who::ada());
        let (at_ada, id) = ada.offer();
        ada.accepted(&id, &user("eve"), our_sdp());
        ada.connected(at_ada, EVE_CERTIFICATE);
        ada.control(at_ada, &Control::Hello { version: 1, name: "Bob".into(), proof });
        ada.was_only_told("eve", CloseReason::KeyMismatch);
    }
}

/// A hello that overtakes the news of the connection has no certificates to speak of.
#[test]
fn a_proof_counts_only_once_dtls_is_up() {
    let mut bob = Member::new(Who::bob());
    let at_bob = bob.accept(&LinkId::new("link").expect("an id"), &user("ada"), our_sdp()).expect("taken");
    bob.control(at_bob, &Control::Hello { version: 1, name: "Ada".into(), proof: Some("A".repeat(43)) });
    assert!(bob.opened().is_empty());
}

/// A peer without a proof must not take the place of one with a proof, even where peers without are let in.
#[test]
fn an_unverified_link_never_replaces_a_verified_one() {
    let tolerant = || Who { allow_unverified: true, ..Who::ada() };
    let (mut ada, mut bob) = (Member::new(tolerant()), Member::new(Who::bob()));
    Server::honest().introduce(&mut ada, &mut bob);
    assert_eq!(ada.opened(), [(&user("bob"), true)]);
    ada.told.clear();
    ada.commands.clear();

    let id = LinkId::new("eve's").expect("an id");
    if let Some(at_eve) = ada.accept(&id, &user("bob"), without_marker(&our_sdp())) {
        let address = std::net::SocketAddr::from(([192, 0, 2, 1], 9));
        let path = Path { kind: PathKind::Direct, local: address, remote: address, rtt: None };
        let text = Payload::Text("it's me".into());
        ada.peer(at_eve, PeerEvent::Connected { local: ADA_CERTIFICATE, remote: EVE_CERTIFICATE });
        ada.peer(at_eve, PeerEvent::Path(path));
        ada.peer(at_eve, PeerEvent::Writable { bytes: 1 << 16 });
        ada.peer(at_eve, PeerEvent::Message { channel: Channel::Fast, payload: text });
        ada.peer(at_eve, PeerEvent::ChannelOpen(Channel::Fast));
        ada.peer(at_eve, PeerEvent::Closed(PeerClosed::Remote));
    }
    let about_bob: Vec<&Event> =
        ada.told.iter().filter(|event| !matches!(event, Event::Failed { .. })).collect();
    assert!(about_bob.is_empty(), "{about_bob:?}");
}

/// A server that says that Bob is gone is not believed as long as Bob answers.
#[test]
fn a_server_cannot_close_a_link_that_works() {
    let (mut ada, mut bob) = (Member::new(Who::ada()), Member::new(Who::bob()));
    let (at_ada, id) = Server::honest().introduce(&mut ada, &mut bob).expect("brought together");
    let at_bob = bob.ready_link("ada");
    ada.told.clear();
    for said in [ServerSignal::LeaveSwarm { id }, ServerSignal::Gone { user_id: user("bob") }] {
        ada.hear(Input::Signal(said));
        for (channel, payload) in ada.take_sent(at_ada) {
            bob.peer(at_bob, PeerEvent::Message { channel, payload });
        }
        for (channel, payload) in bob.take_sent(at_bob) {
            ada.peer(at_ada, PeerEvent::Message { channel, payload });
        }
        ada.wait_until_quiet();
        assert!(ada.told.is_empty(), "{:?}", ada.told);
    }
    assert_eq!(ada.ready_link("bob"), at_ada);
}

#[test]
fn an_original_let_in_is_marked_unverified() {
    let mut ada = Member::new(Who { allow_unverified: true, ..Who::ada() });
    let (at_ada, id) = ada.offer();
    ada.accepted(&id, &user("browser"), without_marker(&our_sdp()));
    ada.peer(at_ada, PeerEvent::Connected { local: ADA_CERTIFICATE, remote: EVE_CERTIFICATE });
    ada.peer(at_ada, PeerEvent::ChannelOpen(Channel::Fast));
    assert_eq!(ada.opened(), [(&user("browser"), false)]);
    let kind = ada.told.iter().find_map(|event| match event {
        Event::Opened { kind, .. } => Some(*kind),
        _ => None,
    });
    assert_eq!(kind, Some(PeerKind::Original));
}
