//! Whoever floods costs the others bounded memory, and what they kept is given up with the connection.

use std::time::Duration;

use fast_rtc_swarm::core::link::CloseReason;
use fast_rtc_swarm::core::mesh::{Event, Input};
use fast_rtc_swarm::core::peer::{Channel, Payload, PeerCommand, PeerEvent};
use fast_rtc_swarm::wire::control::Control;
use fast_rtc_swarm::wire::limits::CANDIDATES_MAX;
use fast_rtc_swarm::wire::manifest::{Manifest, ManifestError};
use fast_rtc_swarm::wire::{Candidate, ClientSignal, LinkId, ServerSignal};

use super::lies::{
    ADA_CERTIFICATE, BOB_CERTIFICATE, EVE_CERTIFICATE, MAX_PEERS, Member, Server, Who, our_sdp, user,
};

fn link_id(no: usize) -> LinkId {
    LinkId::new(format!("link-{no}")).expect("an id")
}

fn candidate() -> Option<Candidate> {
    let candidate = "candidate:1 1 udp 2113937151 192.0.2.1 9 typ host".into();
    Some(Candidate { candidate, sdp_mid: None, sdp_m_line_index: Some(0), username_fragment: None })
}

fn line(text: &str) -> PeerEvent {
    PeerEvent::Message { channel: Channel::Fast, payload: Payload::Text(text.into()) }
}

/// Ada and Bob, connected, with what was told on the way forgotten; and Ada's connection.
fn friends() -> (Member, Member) {
    let (mut ada, mut bob) = (Member::new(Who::ada()), Member::new(Who::bob()));
    Server::honest().introduce(&mut ada, &mut bob);
    for member in [&mut ada, &mut bob] {
        assert_eq!(member.opened().len(), 1);
        member.told.clear();
        member.commands.clear();
        member.signals.clear();
    }
    (ada, bob)
}

#[test]
fn a_server_that_asks_for_offers_without_end_gets_a_bounded_number() {
    let mut ada = Member::new(Who::ada());
    for _ in 0..1000 {
        ada.hear(Input::Signal(ServerSignal::OfferRequest));
    }
    assert_eq!(ada.mesh.held().links, 32);
}

#[test]
fn a_server_that_invents_members_costs_a_bounded_number_of_connections() {
    let mut ada = Member::new(Who::ada());
    let waiting = ada.mesh.held().links;
    for no in 0..1000 {
        ada.accept(&link_id(no), &user(&format!("nobody-{no}")), our_sdp());
    }
    assert_eq!(ada.mesh.held().links, MAX_PEERS + waiting);
    let refused = ada.signals.iter().filter(|signal| matches!(signal, ClientSignal::Leave { .. })).count();
    assert_eq!(refused, 1000 - MAX_PEERS);
}

/// Each invented member that was lost again is asked for again, for a while: but only so many of them.
#[test]
fn members_that_come_and_go_are_missed_in_bounded_number() {
    let mut ada = Member::new(Who::ada());
    for no in 0..3000 {
        ada.now += Duration::from_millis(50);
        ada.accept(&link_id(no), &user(&format!("nobody-{no}")), our_sdp());
        ada.hear(Input::Signal(ServerSignal::LeaveSwarm { id: link_id(no) }));
    }
    assert_eq!(ada.mesh.held().wants, 1024);
}

/// A connection takes longer to make and to close than a server takes to ask for both.
#[test]
fn a_server_that_has_connections_made_and_ended_gets_a_bounded_number() {
    let mut ada = Member::new(Who::ada());
    for no in 0..10_000 {
        ada.now += Duration::from_millis(1);
        ada.accept(&link_id(no), &user("nobody"), our_sdp());
        ada.hear(Input::Signal(ServerSignal::LeaveSwarm { id: link_id(no) }));
    }
    let made = ada.commands.iter().filter(|(_, command)| matches!(command, PeerCommand::AcceptOffer { .. }));
    assert_eq!(made.count(), 128 + 199, "at once, and one each 50 ms of ten seconds");
}

#[test]
fn a_server_that_has_offers_made_and_ended_gets_a_bounded_number() {
    let mut ada = Member::new(Who::ada());
    let mut made = 0;
    for _ in 0..10_000 {
        ada.now += Duration::from_millis(1);
        ada.mesh.handle_timeout(ada.now);
        ada.hear(Input::Signal(ServerSignal::OfferRequest));
        while ada.commands.iter().any(|(_, command)| *command == PeerCommand::CreateOffer) {
            let (_, id) = ada.offer();
            made += 1;
            ada.hear(Input::Signal(ServerSignal::OfferAccepted { id: id.clone(), user_id: user("nobody") }));
            ada.hear(Input::Signal(ServerSignal::LeaveSwarm { id }));
        }
        ada.commands.clear();
    }
    assert!((100..400).contains(&made), "{made} connections in ten seconds");
}

#[test]
fn thousands_of_candidates_for_a_connection_are_cut_off() {
    let mut bob = Member::new(Who::bob());
    let key = bob.accept(&link_id(1), &user("ada"), our_sdp()).expect("taken");
    for _ in 0..10_000 {
        bob.hear(Input::Signal(ServerSignal::Candidate { id: link_id(1), candidate: candidate() }));
    }
    let added = |(of, command): &&_| *of == key && matches!(command, PeerCommand::AddCandidate(_));
    assert_eq!(bob.commands.iter().filter(added).count(), CANDIDATES_MAX);
}

#[test]
fn candidates_for_connections_that_never_come_are_forgotten() {
    let mut bob = Member::new(Who::bob());
    for no in 0..1000 {
        for _ in 0..3 {
            bob.hear(Input::Signal(ServerSignal::Candidate { id: link_id(no), candidate: candidate() }));
        }
    }
    let mut kept = |no| {
        bob.commands.clear();
        bob.accept(&link_id(no), &user("ada"), our_sdp());
        bob.commands.iter().filter(|(_, command)| matches!(command, PeerCommand::AddCandidate(_))).count()
    };
    assert_eq!((kept(0), kept(500), kept(999)), (0, 0, 3));
}

#[test]
fn what_comes_before_the_hello_waits_for_the_proof() {
    let (mut ada, mut bob) = (Member::new(Who::ada()), Member::new(Who::bob()));
    let (at_ada, id) = ada.offer();
    let at_bob = bob.accept(&id, &user("ada"), our_sdp()).expect("taken");
    ada.accepted(&id, &user("bob"), our_sdp());
    ada.connected(at_ada, BOB_CERTIFICATE);
    bob.connected(at_bob, ADA_CERTIFICATE);
    let hello = bob.take_hello(at_bob);
    ada.peer(at_ada, line("this overtook the hello"));
    assert!(ada.told.is_empty());
    ada.control(at_ada, &hello);
    ada.peer(at_ada, line("and this did not"));
    let lines: Vec<&str> = ada.lines();
    assert_eq!(lines, ["this overtook the hello", "and this did not"]);
}

#[test]
fn what_comes_before_the_hello_is_bounded_and_dies_with_the_link() {
    for (message, times) in [("", 20_000), (&*"x".repeat(100_000), 20)] {
        let mut ada = Member::new(Who::ada());
        let (at_ada, id) = ada.offer();
        ada.accepted(&id, &user("eve"), our_sdp());
        ada.connected(at_ada, EVE_CERTIFICATE);
        for _ in 0..times {
            ada.peer(at_ada, line(message));
        }
        ada.was_only_told("eve", CloseReason::Misbehaved);
    }
}

#[test]
fn a_malformed_control_message_ends_the_link_as_misbehaving() {
    let hostile =
        ["", "{", "[]", r#"{"type":"hello"}"#, r#"{"type":"probe","nonce":-1}"#, &"[".repeat(60_000)];
    for text in hostile.iter().map(|text| (*text).to_owned()).chain(["x".repeat(100_000)]) {
        let (mut ada, _) = friends();
        let at_ada = ada.ready_link("bob");
        let payload = Payload::Text(text.clone());
        ada.peer(at_ada, PeerEvent::Message { channel: Channel::Control, payload });
        let closed = [Event::Closed { peer: user("bob"), reason: CloseReason::Misbehaved }];
        assert_eq!(ada.told, closed, "{}", &text[..text.len().min(40)]);
    }
}

#[test]
fn a_member_who_is_ignored_is_not_heard() {
    let (mut ada, _) = friends();
    let at_ada = ada.ready_link("bob");
    ada.hear(Input::Ignore { peer: user("bob"), ignored: true });
    ada.peer(at_ada, line("buy my coins"));
    ada.control(at_ada, &Control::Direct { text: "buy my coins".into() });
    ada.control(at_ada, &Control::Transfer { message: serde_json::json!({}) });
    ada.control(at_ada, &Control::Name { name: "buy my coins".into() });
    let payload = Payload::Binary(vec![0; 1000].into());
    ada.peer(at_ada, PeerEvent::Message { channel: Channel::Fast, payload: payload.clone() });
    ada.peer(at_ada, PeerEvent::Message { channel: Channel::Bulk, payload });
    assert!(ada.told.is_empty(), "{:?}", ada.told);
    ada.hear(Input::Ignore { peer: user("bob"), ignored: false });
    ada.peer(at_ada, line("sorry"));
    assert_eq!(ada.lines(), ["sorry"]);
}

/// Folders, each as deep as may be, in an outermost one of so many.
fn deep_manifest(roots: u32, folders_in_each: u32) -> Vec<u8> {
    let deep = format!("/{}", "b".repeat(14)).repeat(62);
    let mut bytes = b"SWM1\x12".to_vec();
    bytes.extend((roots * folders_in_each).to_be_bytes());
    for (root, no) in (0..roots).flat_map(|root| (0..folders_in_each).map(move |no| (root, no))) {
        let path = format!("{root:08}{deep}/{no:08}");
        bytes.push(0);
        bytes.extend(u16::try_from(path.len()).expect("short").to_be_bytes());
        bytes.extend(path.as_bytes());
        bytes.extend(0i64.to_be_bytes());
    }
    bytes
}

/// A manifest whose every path is as deep as it may be is checked in time and memory of about its size: it once took minutes
/// and a gigabyte. So many folders that are not listed would be made for it that it is refused.
#[test]
fn a_manifest_of_deep_paths_is_checked_at_once() {
    let manifest = Manifest::parse(&deep_manifest(1_000, 30)).expect("sound");
    assert_eq!(manifest.entries().len(), 30_000);
    assert_eq!(Manifest::parse(&deep_manifest(30_000, 1)), Err(ManifestError::Folders));
}
