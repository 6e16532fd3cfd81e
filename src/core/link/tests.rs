//! One input, the exact outputs, then nothing more.

use super::*;
use crate::core::auth::{self, End};
use crate::core::chat;
use crate::core::peer::PathKind;
use crate::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;
use crate::wire::{RoomId, RoomKey};

const ME: Fingerprint = Fingerprint([1; 32]);
const THEM: Fingerprint = Fingerprint([2; 32]);

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a good id")
}

fn id() -> LinkId {
    LinkId::new("link").expect("a good id")
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

fn key() -> RoomKey {
    RoomKey::from_random([7; 16])
}

fn identity(me: &str, key: Option<RoomKey>) -> Identity {
    let room = RoomId::new("den").expect("a good id");
    Identity { me: user(me), name: format!("name-of-{me}"), room, key, allow_unverified: false }
}

/// A link of `me`, to `you`.
struct Side {
    now: Instant,
    identity: Identity,
    link: Link,
}

impl Side {
    fn offerer(key: Option<RoomKey>) -> Self {
        let now = Instant::now();
        let mut side = Self { now, identity: identity("me", key), link: Link::offer(now, LinkKey(1), id()) };
        assert_eq!(side.drain(), [Output::Peer(PeerCommand::CreateOffer)]);
        side
    }

    fn claimed(key: Option<RoomKey>) -> Self {
        let mut side = Self::offerer(key);
        assert_eq!(side.feed(Input::Accepted { peer: user("you") }), []);
        side
    }

    fn answerer(key: Option<RoomKey>, sdp: Sdp) -> Self {
        let (now, identity) = (Instant::now(), identity("me", key));
        let link = Link::answer(now, &identity, LinkKey(1), id(), user("you"), sdp);
        Self { now, identity, link }
    }

    /// Connected with the control channel open and our hello said; `fast` is not open.
    fn connected(key: Option<RoomKey>) -> Self {
        let mut side = Self::answerer(key, ours());
        side.drain();
        side.peer(PeerEvent::Connected { local: ME, remote: THEM });
        side.peer(PeerEvent::ChannelOpen(Channel::Control));
        side
    }

    fn ready(key: Option<RoomKey>) -> Self {
        let mut side = Self::connected(key);
        side.peer(PeerEvent::ChannelOpen(Channel::Fast));
        let hello = side.their_hello();
        side.hears(hello);
        assert!(side.link.is_ready());
        side
    }

    fn ready_original() -> Self {
        let mut side = Self::answerer(None, original());
        side.peer(PeerEvent::Connected { local: ME, remote: THEM });
        side.peer(PeerEvent::ChannelOpen(Channel::Fast));
        assert!(side.link.is_ready());
        side
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.link.handle(self.now, &self.identity, input);
        self.drain()
    }

    fn peer(&mut self, event: PeerEvent) -> Vec<Output> {
        self.feed(Input::Peer(event))
    }

    fn hears(&mut self, control: Control) -> Vec<Output> {
        self.peer(PeerEvent::Message { channel: Channel::Control, payload: Payload::Text(control.to_text()) })
    }

    fn hears_line(&mut self, text: &str) -> Vec<Output> {
        self.peer(PeerEvent::Message { channel: Channel::Fast, payload: Payload::Text(text.into()) })
    }

    /// What an honest `you`, as the offerer, says first.
    fn their_hello(&self) -> Control {
        let prove = |key: &RoomKey| {
            let (you, me) = (user("you"), user("me"));
            let (ours, theirs) = (End { user: &you, fingerprint: THEM }, End { user: &me, fingerprint: ME });
            let link = id();
            let session = auth::Session::new(&self.identity.room, &link, Role::Offerer, ours, theirs);
            session.prove(key, Role::Offerer).to_text()
        };
        Control::Hello { version: 1, name: "you".into(), proof: self.identity.key.as_ref().map(prove) }
    }

    /// Goes to the next deadline, which must be this one.
    fn wait(&mut self, time: Duration, reason: Deadline) -> Vec<Output> {
        assert_eq!(self.link.poll_timeout(), Some((self.now + time, reason)));
        self.now += time;
        self.link.handle_timeout(self.now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.link.poll()).collect()
    }

    fn is_quiet(&self) -> bool {
        self.link.poll_timeout().is_none()
    }
}

fn command(command: PeerCommand) -> Output {
    Output::Peer(command)
}

fn says(control: Control) -> Output {
    command(PeerCommand::Send { channel: Channel::Control, payload: Payload::Text(control.to_text()) })
}

fn bye(reason: &str) -> Output {
    says(Control::Bye { reason: reason.into() })
}

fn closed(reason: CloseReason) -> Output {
    Output::Event(Event::Closed(reason))
}

fn ready(verified: bool) -> Output {
    Output::Event(Event::Ready { kind: PeerKind::Swarm, verified, name: "you".into() })
}

fn line(text: &str) -> Output {
    Output::Event(Event::Text { text: text.into(), direct: false })
}

#[test]
fn an_offer_goes_to_the_server_with_its_candidates() {
    let mut side = Side::offerer(None);
    let offer = Output::Signal(ClientSignal::Offer { id: id(), sdp: ours() });
    assert_eq!(side.peer(PeerEvent::Description(ours())), [offer]);
    for candidate in [candidate("host"), None] {
        let signal = Output::Signal(ClientSignal::Candidate { id: id(), candidate: candidate.clone() });
        assert_eq!(side.peer(PeerEvent::Candidate(candidate)), [signal]);
    }
    assert!(side.link.is_unclaimed());
}

#[test]
fn an_offer_without_a_nat_binding_grows_old_late_and_one_with_it_soon() {
    let mut side = Side::offerer(None);
    side.peer(PeerEvent::Candidate(candidate("host")));
    assert_eq!(side.link.poll_timeout(), Some((side.now + HOST_OFFER_MAX_AGE, Deadline::OfferAge)));
    side.peer(PeerEvent::Candidate(candidate("srflx")));
    assert_eq!(side.wait(OFFER_MAX_AGE, Deadline::OfferAge), [Output::Event(Event::Stale)]);
    assert!(side.is_quiet(), "it stays until it is withdrawn");
}

#[test]
fn a_withdrawn_offer_is_kept_for_those_who_took_it_and_then_closed() {
    let mut side = Side::offerer(None);
    assert_eq!(side.feed(Input::Withdrawn), []);
    assert!(!side.link.is_unclaimed());
    assert_eq!(
        side.wait(WITHDRAWN_GRACE, Deadline::Withdrawn),
        [command(PeerCommand::Close), closed(CloseReason::GivenBack)]
    );
    assert!(side.is_quiet());
}

#[test]
fn a_withdrawn_offer_taken_late_is_a_link_like_any_other() {
    let mut side = Side::offerer(None);
    side.feed(Input::Withdrawn);
    assert_eq!(side.feed(Input::Accepted { peer: user("you") }), []);
    assert_eq!(side.link.poll_timeout(), Some((side.now + ANSWER_TIMEOUT, Deadline::Answer)));
    assert_eq!(side.link.peer(), Some(&user("you")));
}

#[test]
fn a_claim_without_an_answer_is_given_back() {
    let mut side = Side::claimed(None);
    assert_eq!(
        side.wait(ANSWER_TIMEOUT, Deadline::Answer),
        [command(PeerCommand::Close), closed(CloseReason::GivenBack)]
    );
}

#[test]
fn the_answer_starts_the_connection_and_opens_our_channels_towards_ours() {
    let mut side = Side::claimed(None);
    assert_eq!(
        side.feed(Input::Answer(ours())),
        [
            command(PeerCommand::AcceptAnswer { sdp: ours() }),
            command(PeerCommand::OpenChannel(Channel::Control)),
            command(PeerCommand::OpenChannel(Channel::Bulk)),
        ]
    );
    assert_eq!(side.link.poll_timeout(), Some((side.now + CONNECT_TIMEOUT, Deadline::Connect)));
}

#[test]
fn nothing_is_opened_towards_an_original() {
    let mut side = Side::claimed(None);
    let accept = command(PeerCommand::AcceptAnswer { sdp: original() });
    assert_eq!(side.feed(Input::Answer(original())), [accept]);
    assert_eq!(side.feed(Input::Answer(original())), [], "a second answer means nothing");
}

#[test]
fn an_original_is_refused_in_a_room_with_a_key_on_either_side() {
    let refused = [
        Output::Signal(ClientSignal::Leave { id: id() }),
        command(PeerCommand::Close),
        closed(CloseReason::Unverified),
    ];
    let mut side = Side::claimed(Some(key()));
    assert_eq!(side.feed(Input::Answer(original())), refused);
    assert!(side.is_quiet());
    let mut side = Side::answerer(Some(key()), original());
    assert_eq!(side.drain(), refused);
    assert!(side.is_quiet());
}

#[test]
fn an_answer_that_overtakes_the_acceptance_is_kept() {
    let mut side = Side::offerer(None);
    assert_eq!(side.feed(Input::Candidate(None)), []);
    assert_eq!(side.feed(Input::Answer(original())), []);
    assert_eq!(
        side.feed(Input::Accepted { peer: user("you") }),
        [command(PeerCommand::AcceptAnswer { sdp: original() }), command(PeerCommand::AddCandidate(None))]
    );
}

#[test]
fn candidates_wait_for_the_answer_and_are_bounded() {
    let mut side = Side::claimed(None);
    for _ in 0..2 * CANDIDATES_MAX {
        assert_eq!(side.feed(Input::Candidate(candidate("host"))), []);
    }
    let outputs = side.feed(Input::Answer(original()));
    assert_eq!(outputs.len(), 1 + CANDIDATES_MAX);
    assert_eq!(side.feed(Input::Candidate(candidate("host"))), [], "no more than that in all");
}

#[test]
fn an_answerer_answers_and_then_sends_candidates() {
    let mut side = Side::answerer(None, ours());
    assert_eq!(side.drain(), [command(PeerCommand::AcceptOffer { sdp: ours() })]);
    let answer = Output::Signal(ClientSignal::Answer { id: id(), sdp: ours() });
    assert_eq!(side.peer(PeerEvent::Description(ours())), [answer]);
    let add = command(PeerCommand::AddCandidate(candidate("host")));
    assert_eq!(side.feed(Input::Candidate(candidate("host"))), [add]);
    assert_eq!(
        side.wait(CONNECT_TIMEOUT, Deadline::Connect),
        [command(PeerCommand::Close), closed(CloseReason::NoPath)]
    );
}

#[test]
fn an_original_is_ready_with_its_channel() {
    let mut side = Side::answerer(None, original());
    side.peer(PeerEvent::Connected { local: ME, remote: THEM });
    let event = Event::Ready { kind: PeerKind::Original, verified: false, name: String::new() };
    assert_eq!(side.peer(PeerEvent::ChannelOpen(Channel::Fast)), [Output::Event(event)]);
    assert!(side.is_quiet());
}

#[test]
fn one_of_ours_is_ready_with_its_channel_and_a_proof_that_holds() {
    let mut side = Side::connected(Some(key()));
    assert_eq!(side.peer(PeerEvent::ChannelOpen(Channel::Fast)), []);
    assert_eq!(side.link.poll_timeout(), Some((side.now + PROOF_TIMEOUT, Deadline::Proof)));
    let hello = side.their_hello();
    assert_eq!(side.hears(hello), [ready(true)]);
    assert!(side.is_quiet());
}

#[test]
fn the_hello_may_come_before_the_channel() {
    let mut side = Side::connected(Some(key()));
    let hello = side.their_hello();
    assert_eq!(side.hears(hello), []);
    assert_eq!(side.peer(PeerEvent::ChannelOpen(Channel::Fast)), [ready(true)]);
}

#[test]
fn a_wrong_proof_and_none_are_a_key_mismatch() {
    for proof in [None, Some("AAAA".to_owned())] {
        let mut side = Side::connected(Some(key()));
        let hello = Control::Hello { version: 1, name: "you".into(), proof };
        assert_eq!(
            side.hears(hello),
            [bye("key_mismatch"), command(PeerCommand::Close), closed(CloseReason::KeyMismatch)]
        );
    }
}

#[test]
fn our_own_proof_sent_back_is_none() {
    let mut side = Side::answerer(Some(key()), ours());
    side.drain();
    side.peer(PeerEvent::Connected { local: ME, remote: THEM });
    let outputs = side.peer(PeerEvent::ChannelOpen(Channel::Control));
    let [Output::Peer(PeerCommand::Send { payload, .. })] = &outputs[..] else { panic!("{outputs:?}") };
    let echo = PeerEvent::Message { channel: Channel::Control, payload: payload.clone() };
    assert_eq!(side.peer(echo).last(), Some(&closed(CloseReason::KeyMismatch)));
}

#[test]
fn a_peer_that_never_proves_anything_is_lost() {
    let mut side = Side::connected(Some(key()));
    side.peer(PeerEvent::ChannelOpen(Channel::Fast));
    assert_eq!(
        side.wait(PROOF_TIMEOUT, Deadline::Proof),
        [bye("closed"), command(PeerCommand::Close), closed(CloseReason::Lost)]
    );
}

#[test]
fn what_is_said_before_the_proof_is_shown_after_it_in_order() {
    let mut side = Side::connected(Some(key()));
    side.peer(PeerEvent::ChannelOpen(Channel::Fast));
    assert_eq!(side.hears_line("one"), []);
    assert_eq!(side.hears_line("two"), []);
    let hello = side.their_hello();
    assert_eq!(side.hears(hello), [ready(true), line("one"), line("two")]);
}

#[test]
fn what_is_said_before_a_wrong_proof_is_never_shown() {
    let mut side = Side::connected(Some(key()));
    side.peer(PeerEvent::ChannelOpen(Channel::Fast));
    side.hears_line("let me in");
    let hello = Control::Hello { version: 1, name: "you".into(), proof: None };
    assert!(!side.hears(hello).contains(&line("let me in")));
    assert_eq!(side.hears_line("please"), []);
}

#[test]
fn a_stranger_who_talks_too_much_is_cut_off() {
    let mut side = Side::connected(Some(key()));
    side.peer(PeerEvent::ChannelOpen(Channel::Fast));
    let text = "x".repeat(CHANNEL_MESSAGE_MAX_BYTES);
    for _ in 0..3 {
        assert_eq!(side.hears_line(&text), []);
    }
    let cut = [bye("misbehaved"), command(PeerCommand::Close), closed(CloseReason::Misbehaved)];
    assert_eq!(side.hears_line(&text), cut);

    let mut side = Side::connected(Some(key()));
    let empty = std::iter::from_fn(|| Some(side.hears_line(""))).position(|outputs| outputs == cut);
    assert!(empty.is_some_and(|count| count < 20_000), "empty messages count too");
}

#[test]
fn a_probe_before_we_are_ready_is_answered_when_we_are() {
    let mut side = Side::connected(None);
    assert_eq!(side.hears(Control::Probe { nonce: 4 }), [], "before the hello nothing is listened to");
    let hello = side.their_hello();
    side.hears(hello);
    assert_eq!(side.hears(Control::Probe { nonce: 5 }), []);
    assert_eq!(
        side.peer(PeerEvent::ChannelOpen(Channel::Fast)),
        [ready(false), says(Control::Alive { nonce: 5 })]
    );
}

#[test]
fn the_path_and_the_room_of_the_bulk_channel_are_told_once_ready() {
    let mut side = Side::connected(None);
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], 9));
    let path = Path { kind: PathKind::Direct, local: address, remote: address, rtt: None };
    assert_eq!(side.peer(PeerEvent::Path(path.clone())), []);
    assert_eq!(side.peer(PeerEvent::Writable { bytes: 9 }), []);
    let hello = side.their_hello();
    side.hears(hello);
    assert_eq!(
        side.peer(PeerEvent::ChannelOpen(Channel::Fast)),
        [ready(false), Output::Event(Event::Path(path)), Output::Event(Event::Writable(9))]
    );
}

#[test]
fn nothing_is_said_before_ready() {
    let mut side = Side::connected(Some(key()));
    assert_eq!(side.feed(Input::Fast(Payload::Text("secret".into()))), []);
    assert_eq!(side.feed(Input::Control(Control::Direct { text: "secret".into() })), []);
    assert_eq!(side.feed(Input::Bulk(Bytes::from_static(b"secret"))), []);
    assert_eq!(side.feed(Input::Probe { nonce: 1 }), []);
}

#[test]
fn a_probed_peer_that_answers_stays() {
    let mut side = Side::ready(None);
    assert_eq!(side.feed(Input::Probe { nonce: 1 }), [says(Control::Probe { nonce: 1 })]);
    assert_eq!(side.feed(Input::Probe { nonce: 2 }), [], "one question at a time");
    assert_eq!(side.hears(Control::Alive { nonce: 9 }), [], "no answer to the question");
    assert!(!side.is_quiet());
    assert_eq!(side.hears(Control::Alive { nonce: 1 }), []);
    assert!(side.is_quiet());
    assert_eq!(side.feed(Input::Probe { nonce: 3 }), [says(Control::Probe { nonce: 3 })]);
}

#[test]
fn a_probed_peer_that_does_not_answer_is_lost_if_its_path_is_silent_too() {
    let lost = [bye("closed"), command(PeerCommand::Close), closed(CloseReason::Lost)];
    let mut side = Side::ready(None);
    side.feed(Input::Probe { nonce: 1 });
    assert_eq!(side.feed(Input::Peer(PeerEvent::Disconnected)), [], "it may come back");
    assert_eq!(side.wait(PROBE_TIMEOUT, Deadline::Probe), lost);
    let mut side = Side::ready(None);
    side.feed(Input::Peer(PeerEvent::Disconnected));
    side.feed(Input::Probe { nonce: 1 });
    side.feed(Input::Peer(PeerEvent::Reconnected));
    assert_eq!(side.wait(PROBE_TIMEOUT, Deadline::Probe), [], "what it said may have much before it");
    assert!(side.is_quiet());
    assert_eq!(side.feed(Input::Peer(PeerEvent::Disconnected)), lost, "it has been asked");
}

#[test]
fn a_peer_whose_path_is_silent_and_who_was_not_probed_or_has_answered_stays() {
    let mut side = Side::ready(None);
    assert_eq!(side.feed(Input::Peer(PeerEvent::Disconnected)), []);
    side.feed(Input::Peer(PeerEvent::Reconnected));
    side.feed(Input::Probe { nonce: 1 });
    side.wait(PROBE_TIMEOUT, Deadline::Probe);
    assert_eq!(side.hears(Control::Alive { nonce: 1 }), []);
    assert_eq!(side.feed(Input::Peer(PeerEvent::Disconnected)), []);
}

#[test]
fn an_original_is_not_probed_and_knows_no_control() {
    let mut side = Side::ready_original();
    assert_eq!(side.feed(Input::Probe { nonce: 1 }), []);
    assert_eq!(side.feed(Input::Control(Control::Name { name: "x".into() })), []);
    assert_eq!(side.hears(Control::Name { name: "forged".into() }), []);
    assert_eq!(side.hears(Control::Bye { reason: "left".into() }), []);
    assert!(side.is_quiet());
}

#[test]
fn an_original_is_closed_without_a_word_and_may_say_one() {
    let mut side = Side::ready_original();
    assert_eq!(
        side.feed(Input::Close(CloseReason::Local)),
        [command(PeerCommand::Close), closed(CloseReason::Local)]
    );
    let mut side = Side::ready_original();
    assert_eq!(side.hears_line(chat::CLOSE).last(), Some(&closed(CloseReason::Left)));
}

#[test]
fn a_goodbye_ends_the_link_with_its_reason() {
    let reasons = [
        ("left", CloseReason::Left),
        ("replaced", CloseReason::Replaced),
        ("misbehaved", CloseReason::Misbehaved),
        ("key_mismatch", CloseReason::KeyMismatch),
        ("closed", CloseReason::Lost),
        ("a later word", CloseReason::Left),
    ];
    for (word, reason) in reasons {
        let mut side = Side::ready(None);
        assert_eq!(side.hears(Control::Bye { reason: word.into() }), []);
        assert_eq!(side.hears_line("still on its way"), [line("still on its way")]);
        assert_eq!(side.peer(PeerEvent::Closed(PeerClosed::Remote)), [closed(reason)]);
        assert!(side.is_quiet());
    }
}

#[test]
fn a_goodbye_before_the_proof_never_ends_an_attempt_for_good_but_for_another_key() {
    let last = |key: Option<RoomKey>, hello: bool, word: &str| {
        let mut side = Side::connected(key);
        if hello {
            let hello = side.their_hello();
            assert_eq!(side.hears(hello), []);
        }
        side.hears(Control::Bye { reason: word.into() }).pop()
    };
    for word in ["left", "replaced", "misbehaved", "closed", "a later word"] {
        assert_eq!(last(Some(key()), false, word), Some(closed(CloseReason::Lost)), "{word}");
    }
    assert_eq!(last(Some(key()), false, "key_mismatch"), Some(closed(CloseReason::KeyMismatch)));
    assert_eq!(last(Some(key()), true, "left"), Some(closed(CloseReason::Left)), "it is who it says it is");
    assert_eq!(last(None, false, "left"), Some(closed(CloseReason::Left)), "there is nothing to prove");
}

#[test]
fn a_peer_that_says_goodbye_and_stays_is_closed() {
    let mut side = Side::ready(None);
    side.hears(Control::Bye { reason: "left".into() });
    side.now += Duration::from_secs(1);
    side.hears(Control::Bye { reason: "closed".into() });
    assert_eq!(side.feed(Input::Probe { nonce: 1 }), []);
    side.now -= Duration::from_secs(1);
    assert_eq!(
        side.wait(BYE_TIMEOUT, Deadline::Bye),
        [command(PeerCommand::Close), closed(CloseReason::Left)]
    );
}

#[test]
fn what_does_not_belong_on_a_channel_ends_the_link() {
    let garbage = [
        (Channel::Control, Payload::Text("{".into())),
        (Channel::Control, Payload::Binary(Bytes::from_static(b"{}"))),
        (Channel::Bulk, Payload::Text("{}".into())),
    ];
    for (channel, payload) in garbage {
        let mut side = Side::ready(None);
        let outputs = side.peer(PeerEvent::Message { channel, payload });
        assert_eq!(outputs.last(), Some(&closed(CloseReason::Misbehaved)));
    }
}

#[test]
fn the_end_of_the_connection_is_told_by_what_went_before() {
    let cases = [
        (PeerClosed::Remote, CloseReason::Left, CloseReason::NoPath),
        (PeerClosed::IceFailed, CloseReason::Lost, CloseReason::NoPath),
        (PeerClosed::DtlsFailed, CloseReason::KeyMismatch, CloseReason::KeyMismatch),
        (PeerClosed::Failed, CloseReason::Misbehaved, CloseReason::Misbehaved),
    ];
    for (why, when_ready, when_connecting) in cases {
        assert_eq!(Side::ready(None).peer(PeerEvent::Closed(why)), [closed(when_ready)]);
        let mut side = Side::connected(None);
        assert_eq!(side.peer(PeerEvent::Closed(why)), [closed(when_connecting)]);
        assert_eq!(side.link.has_failed_handshake(), why == PeerClosed::DtlsFailed);
    }
}

#[test]
fn after_the_end_nothing_is_heard_or_said() {
    let mut side = Side::ready(None);
    side.feed(Input::Close(CloseReason::Local));
    assert_eq!(side.link.peer(), Some(&user("you")));
    assert_eq!(side.feed(Input::Close(CloseReason::Local)), []);
    assert_eq!(side.peer(PeerEvent::Closed(PeerClosed::Local)), []);
    assert_eq!(side.hears_line("ghost"), []);
    assert_eq!(side.feed(Input::Answer(ours())), []);
    assert_eq!(side.feed(Input::Candidate(None)), []);
    assert_eq!(side.feed(Input::Accepted { peer: user("you") }), []);
    assert_eq!(side.peer(PeerEvent::Description(ours())), []);
    assert_eq!(side.peer(PeerEvent::Candidate(None)), []);
    assert!(side.is_quiet());
}
