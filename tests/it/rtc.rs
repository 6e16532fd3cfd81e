//! The WebRTC driver over real sockets: pairs of peers in one process.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one event among many")]

mod eavesdropper;
mod forger;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use fast_rtc_swarm::core::peer::{Channel, LinkKey, Payload, PeerClosed, PeerCommand, PeerEvent};
use fast_rtc_swarm::io::rtc::{Bind, IceServer, RtcConfig, RtcDriver};
use fast_rtc_swarm::wire::limits::CHANNEL_MESSAGE_MAX_BYTES;
use fast_rtc_swarm::wire::{Candidate, Sdp};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

const LINK: LinkKey = LinkKey(1);

/// Long enough for a loaded machine; nothing here waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(120);

fn loopback() -> RtcConfig {
    RtcConfig { bind: Bind::Addresses(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]), ..RtcConfig::default() }
}

/// One process: a driver and what it said.
struct Peer {
    driver: RtcDriver,
    events: mpsc::Receiver<(LinkKey, PeerEvent)>,
    /// Said, but not yet asked about.
    said: VecDeque<PeerEvent>,
}

impl Peer {
    fn new() -> Self {
        Self::with(loopback())
    }

    fn with(config: RtcConfig) -> Self {
        let (driver, events) = RtcDriver::new(config).expect("WebRTC works here");
        Self { driver, events, said: VecDeque::new() }
    }

    fn ask(&mut self, command: PeerCommand) {
        self.driver.command(LINK, command);
    }

    fn say(&mut self, channel: Channel, payload: Payload) {
        self.ask(PeerCommand::Send { channel, payload });
    }

    async fn next(&mut self) -> PeerEvent {
        let (_, event) = tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .unwrap_or_else(|_| panic!("no event in time; said so far: {:?}", self.said))
            .expect("the driver lives");
        event
    }

    /// The first event that `pick` takes; the others are kept in order.
    async fn wait<T>(&mut self, mut pick: impl FnMut(&PeerEvent) -> Option<T>) -> T {
        for at in 0..self.said.len() {
            if let Some(found) = pick(&self.said[at]) {
                self.said.remove(at);
                return found;
            }
        }
        loop {
            let event = self.next().await;
            match pick(&event) {
                Some(found) => return found,
                None => self.said.push_back(event),
            }
        }
    }

    async fn description(&mut self) -> Sdp {
        self.wait(|event| match event {
            PeerEvent::Description(sdp) => Some(sdp.clone()),
            _ => None,
        })
        .await
    }

    async fn candidates(&mut self) -> Vec<Option<Candidate>> {
        let mut candidates = Vec::new();
        while !matches!(candidates.last(), Some(None)) {
            let next = self.wait(|event| match event {
                PeerEvent::Candidate(candidate) => Some(candidate.clone()),
                _ => None,
            });
            candidates.push(next.await);
        }
        candidates
    }

    async fn opened(&mut self, channel: Channel) {
        self.wait(|event| (*event == PeerEvent::ChannelOpen(channel)).then_some(())).await;
    }

    async fn message(&mut self) -> (Channel, Payload) {
        self.wait(|event| match event {
            PeerEvent::Message { channel, payload } => Some((*channel, payload.clone())),
            _ => None,
        })
        .await
    }

    async fn closed(&mut self) -> PeerClosed {
        self.wait(|event| match event {
            PeerEvent::Closed(reason) => Some(*reason),
            _ => None,
        })
        .await
    }
}

fn text(text: &str) -> Payload {
    Payload::Text(text.to_owned())
}

fn binary(len: usize, seed: u8) -> Payload {
    Payload::Binary(
        (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<u8>>().into(),
    )
}

/// Offer, answer and all candidates, as signaling would carry them.
async fn connect(offerer: &mut Peer, answerer: &mut Peer) -> (Sdp, Sdp) {
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let candidates = offerer.candidates().await;
    answerer.ask(PeerCommand::AcceptOffer { sdp: offer.clone() });
    for candidate in candidates {
        answerer.ask(PeerCommand::AddCandidate(candidate));
    }
    let answer = answerer.description().await;
    offerer.ask(PeerCommand::AcceptAnswer { sdp: answer.clone() });
    for candidate in answerer.candidates().await {
        offerer.ask(PeerCommand::AddCandidate(candidate));
    }
    (offer, answer)
}

async fn pair() -> (Peer, Peer) {
    let (mut offerer, mut answerer) = (Peer::new(), Peer::new());
    connect(&mut offerer, &mut answerer).await;
    offerer.opened(Channel::Fast).await;
    answerer.opened(Channel::Fast).await;
    (offerer, answerer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_cross_both_ways() {
    let (mut offerer, mut answerer) = pair().await;
    let payloads = [
        text("hello"),
        text(""),
        text("grüße 👋"),
        binary(1, 1),
        binary(0, 0),
        binary(16 * 1024, 2),
        binary(CHANNEL_MESSAGE_MAX_BYTES, 3),
        text(&"x".repeat(CHANNEL_MESSAGE_MAX_BYTES)),
    ];
    for payload in payloads {
        offerer.say(Channel::Fast, payload.clone());
        assert_eq!(answerer.message().await, (Channel::Fast, payload.clone()));
        answerer.say(Channel::Fast, payload.clone());
        assert_eq!(offerer.message().await, (Channel::Fast, payload));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_before_anything_else_is_who_the_peer_is() {
    let (mut offerer, mut answerer) = (Peer::new(), Peer::new());
    let (offer, answer) = connect(&mut offerer, &mut answerer).await;
    assert!(offer.has_marker() && offer.as_str().contains("a=setup:actpass"));
    assert!(answer.has_marker() && answer.as_str().contains("a=setup:active"));
    assert!(offer.as_str().contains("a=max-message-size:262144"));
    for (peer, own, other) in [(&mut offerer, &offer, &answer), (&mut answerer, &answer, &offer)] {
        let mut before = Vec::new();
        let (local, remote) = loop {
            match peer.next().await {
                PeerEvent::Connected { local, remote } => break (local, remote),
                event => before.push(event),
            }
        };
        assert!(before.iter().all(|event| matches!(event, PeerEvent::Candidate(_))), "{before:?}");
        assert_eq!(local, peer.driver.fingerprint());
        for (fingerprint, sdp) in [(local, own), (remote, other)] {
            let hex: Vec<String> = fingerprint.0.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(sdp.as_str().to_lowercase().contains(&hex.join(":")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_offerer_opens_control_and_bulk_beside_fast() {
    let (mut offerer, mut answerer) = pair().await;
    for channel in [Channel::Control, Channel::Bulk] {
        offerer.ask(PeerCommand::OpenChannel(channel));
        offerer.opened(channel).await;
        answerer.opened(channel).await;
        offerer.say(channel, text("to"));
        assert_eq!(answerer.message().await, (channel, text("to")));
        answerer.say(channel, text("fro"));
        assert_eq!(offerer.message().await, (channel, text("fro")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidates_are_written_as_browsers_write_them() {
    let mut offerer = Peer::new();
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let candidates = offerer.candidates().await;
    let Some(Some(first)) = candidates.first() else { panic!("no candidate: {candidates:?}") };
    assert!(first.candidate.starts_with("candidate:"));
    assert_eq!((first.sdp_mid.as_deref(), first.sdp_m_line_index), (Some("0"), Some(0)));
    let ufrag = first.username_fragment.as_deref().expect("a username fragment");
    assert!(offer.as_str().contains(&format!("a=ice-ufrag:{ufrag}\r\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_messages_before_a_close_arrive_and_the_close_is_seen() {
    let (mut offerer, mut answerer) = pair().await;
    for n in 0..40 {
        offerer.say(Channel::Fast, binary(64 * 1024, n));
    }
    offerer.say(Channel::Fast, text("bye"));
    offerer.ask(PeerCommand::Close);
    for n in 0..40 {
        assert_eq!(answerer.message().await, (Channel::Fast, binary(64 * 1024, n)));
    }
    assert_eq!(answerer.message().await, (Channel::Fast, text("bye")));
    assert_eq!(answerer.closed().await, PeerClosed::Remote);
    assert_eq!(offerer.closed().await, PeerClosed::Local);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_local_close_nothing_more_is_said() {
    let mut offerer = Peer::new();
    offerer.ask(PeerCommand::CreateOffer);
    offerer.description().await;
    offerer.ask(PeerCommand::Close);
    assert_eq!(offerer.closed().await, PeerClosed::Local);
    let Peer { driver, mut events, .. } = offerer;
    drop(driver);
    assert_eq!(events.recv().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_was_not_announced_is_refused() {
    let (mut offerer, mut answerer) = (Peer::new(), Peer::new());
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let candidates = offerer.candidates().await;
    answerer.ask(PeerCommand::AcceptOffer { sdp: with_other_fingerprint(&offer) });
    candidates.into_iter().for_each(|candidate| answerer.ask(PeerCommand::AddCandidate(candidate)));
    let answer = answerer.description().await;
    offerer.ask(PeerCommand::AcceptAnswer { sdp: answer });
    assert_eq!(answerer.closed().await, PeerClosed::DtlsFailed);
    assert!(!answerer.said.iter().any(|event| matches!(event, PeerEvent::Connected { .. })));
    assert_eq!(offerer.closed().await, PeerClosed::DtlsFailed, "the other end is told, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_another_certificate_is_refused() {
    let (mut offerer, mut answerer) = (Peer::new(), Peer::new());
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let candidates = offerer.candidates().await;
    answerer.ask(PeerCommand::AcceptOffer { sdp: offer });
    candidates.into_iter().for_each(|candidate| answerer.ask(PeerCommand::AddCandidate(candidate)));
    let answer = answerer.description().await;
    offerer.ask(PeerCommand::AcceptAnswer { sdp: with_other_fingerprint(&answer) });
    assert_eq!(offerer.closed().await, PeerClosed::DtlsFailed);
    assert!(!offerer.said.iter().any(|event| matches!(event, PeerEvent::Connected { .. })));
    assert_eq!(answerer.closed().await, PeerClosed::DtlsFailed, "the other end is told, too");
}

/// The description with the first byte of its fingerprint changed.
fn with_other_fingerprint(sdp: &Sdp) -> Sdp {
    let at =
        sdp.as_str().find("a=fingerprint:sha-256 ").expect("a fingerprint") + "a=fingerprint:sha-256 ".len();
    let mut text = sdp.as_str().to_owned();
    let other = if &text[at..at + 2] == "00" { "01" } else { "00" };
    text.replace_range(at..at + 2, other);
    Sdp::new(text).expect("as long as before")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_harms_nobody_else() {
    let mut peer = Peer::new();
    peer.ask(PeerCommand::CreateOffer);
    let offer = peer.description().await;
    let whole = offer.as_str();
    let mut garbage: Vec<String> =
        ["", "v=0", "\0", "v=0\r\nm=application", "hello\nworld", "a=fingerprint:sha-256 zz"]
            .map(str::to_owned)
            .to_vec();
    garbage.extend((0..whole.len()).step_by(17).filter_map(|at| whole.get(..at)).map(str::to_owned));
    garbage.push(whole.replace("a=fingerprint:sha-256", "a=fingerprint:md5"));
    garbage.push(whole.replace("a=ice-pwd", "a=ice-nothing"));
    garbage.push(whole.replace("m=application", "m=audio"));
    for (n, text) in garbage.into_iter().enumerate() {
        let key = LinkKey(100 + n as u64);
        let sdp = Sdp::new(text.clone()).expect("short enough");
        peer.driver.command(key, PeerCommand::AcceptOffer { sdp });
        peer.driver.command(key, PeerCommand::AddCandidate(Some(candidate("candidate:"))));
        peer.driver.command(key, PeerCommand::Close);
        loop {
            let (said_by, event) =
                tokio::time::timeout(PATIENCE, peer.events.recv()).await.expect("in time").expect("alive");
            match event {
                PeerEvent::Closed(PeerClosed::Failed | PeerClosed::Local) if said_by == key => break,
                PeerEvent::Closed(reason) => panic!("{said_by:?} closed: {reason:?} after {text:?}"),
                _ => {}
            }
        }
    }
}

fn candidate(line: &str) -> Candidate {
    Candidate {
        candidate: line.to_owned(),
        sdp_mid: Some("0".to_owned()),
        sdp_m_line_index: Some(0),
        username_fragment: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidates_that_make_no_sense_are_skipped() {
    let (mut offerer, mut answerer) = (Peer::new(), Peer::new());
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let candidates = offerer.candidates().await;
    answerer.ask(PeerCommand::AcceptOffer { sdp: offer });
    let strange = [
        "",
        "candidate:",
        "nonsense",
        "candidate:1 1 udp 1 256.1.1.1 99999 typ host",
        "candidate:1 1 udp 99999999999 10.0.0.1 5 typ host",
        "candidate:1 1 udp 1 10.0.0.1 5 typ wormhole",
        "candidate:1 1 udp 1 0a0b0c0d-1111-4222-8333-444455556666.local 5000 typ host",
        "candidate:1 1 udp 1 ::1 5 typ host raddr",
        "candidate:\u{202e}1 1 udp 1 10.0.0.1 5 typ host",
        "candidate:1 1 tcp 1 127.0.0.1 9 typ host tcptype active",
    ];
    strange.iter().for_each(|line| answerer.ask(PeerCommand::AddCandidate(Some(candidate(line)))));
    candidates.into_iter().for_each(|candidate| answerer.ask(PeerCommand::AddCandidate(candidate)));
    let answer = answerer.description().await;
    offerer.ask(PeerCommand::AcceptAnswer { sdp: answer });
    answerer.opened(Channel::Fast).await;
    offerer.opened(Channel::Fast).await;
}

/// As a published library sends them that waits until it has all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidates_may_all_stand_in_the_description() {
    let (mut offerer, mut answerer) = (Peer::new(), Peer::new());
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let candidates = offerer.candidates().await;
    answerer.ask(PeerCommand::AcceptOffer { sdp: with_lines(&offer, candidates.into_iter().flatten()) });
    let answer = answerer.description().await;
    offerer.ask(PeerCommand::AcceptAnswer { sdp: answer });
    offerer.opened(Channel::Fast).await;
    answerer.opened(Channel::Fast).await;
}

/// Wherever they stand: the engine checks all of them twenty times a second, and whoever is there gets packets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_number_of_candidates_is_tried() {
    let mut sockets = Vec::new();
    for host in 1..=100 {
        sockets.push(UdpSocket::bind((Ipv4Addr::new(127, 0, 1, host), 0)).await.expect("a socket"));
    }
    let candidates: Vec<_> = sockets
        .iter()
        .map(|socket| socket.local_addr().expect("bound"))
        .map(|to| {
            let (ip, port) = (to.ip(), to.port());
            Candidate::of_line(&format!("candidate:{port} 1 udp 2122265343 {ip} {port} typ host"))
        })
        .collect();
    let (mut offerer, mut answerer) = (Peer::new(), Peer::new());
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let (in_it, after_it) = candidates.split_at(50);
    answerer.ask(PeerCommand::AcceptOffer { sdp: with_lines(&offer, in_it.iter().cloned()) });
    for candidate in after_it {
        answerer.ask(PeerCommand::AddCandidate(Some(candidate.clone())));
    }
    let mut buf = [0; 200];
    for _ in 0..5 {
        sockets[55].recv(&mut buf).await.expect("checked again and again");
    }
    let tried = sockets.iter().filter(|socket| socket.try_recv(&mut buf).is_ok()).count();
    assert!((50..=56).contains(&tried), "{tried}");
}

/// A description with these candidates in it.
fn with_lines(sdp: &Sdp, candidates: impl Iterator<Item = Candidate>) -> Sdp {
    let lines: String = candidates.map(|candidate| format!("a={}\r\n", candidate.candidate)).collect();
    Sdp::new(format!("{}{lines}", sdp.as_str())).expect("short enough")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_limit_is_our_error_and_ends_the_link() {
    let (mut offerer, mut answerer) = pair().await;
    offerer.say(Channel::Fast, binary(CHANNEL_MESSAGE_MAX_BYTES + 1, 0));
    assert_eq!(offerer.closed().await, PeerClosed::Failed);
    assert_eq!(answerer.closed().await, PeerClosed::Remote);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_does_not_listen_slows_its_peers_and_can_still_command() {
    let (mut offerer, mut answerer) = (Peer::new(), Peer::with(RtcConfig { event_queue: 4, ..loopback() }));
    connect(&mut offerer, &mut answerer).await;
    offerer.opened(Channel::Fast).await;
    answerer.opened(Channel::Fast).await;
    offerer.ask(PeerCommand::OpenChannel(Channel::Bulk));
    offerer.opened(Channel::Bulk).await;
    // The answerer reads nothing from here on. What the offerer may send without anybody reading is bounded: the
    // engine's queues take about a thousand messages (64 MiB of these), SCTP's window and send buffer 4 MiB each.
    let mut sent = 0_usize;
    let mut room = 0_i64;
    let stalled = Duration::from_secs(3);
    loop {
        while room > 0 && sent < 256 << 20 {
            offerer.say(Channel::Bulk, binary(64 * 1024, 7));
            sent += 64 * 1024;
            room -= 64 * 1024;
        }
        let writable = offerer.wait(|event| match event {
            PeerEvent::Writable { bytes } => Some(*bytes),
            _ => None,
        });
        match tokio::time::timeout(stalled, writable).await {
            Ok(bytes) => room += bytes as i64,
            Err(_) => break,
        }
    }
    assert!(sent < 128 << 20, "{sent} bytes were taken for a consumer that reads nothing");
    answerer.say(Channel::Fast, text("I am still here"));
    assert_eq!(offerer.message().await, (Channel::Fast, text("I am still here")));
    let mut received = 0;
    while received < sent {
        if let (Channel::Bulk, payload) = answerer.message().await {
            assert_eq!(payload, binary(64 * 1024, 7));
            received += payload.len_bytes();
        }
    }
    assert_eq!(received, sent);
}

/// SCTP gives up on a piece that was refused for half a minute (rtc-sctp 0.21), whatever is read after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_pauses_hears_everything_after_it() {
    let stalling = || RtcConfig { event_queue: 4, ..loopback() };
    let (mut offerer, mut answerer) = (Peer::new(), Peer::with(stalling()));
    let (mut chatter, mut listener) = (Peer::new(), Peer::with(stalling()));
    connect(&mut offerer, &mut answerer).await;
    connect(&mut chatter, &mut listener).await;
    offerer.opened(Channel::Fast).await;
    chatter.opened(Channel::Fast).await;
    // More of each than is taken that nobody reads: of the long ones a thousand and SCTP's window, of short ones 16,384.
    let (long, short) = (3_500, 40_000);
    for number in 0..long {
        offerer.say(Channel::Fast, binary(4 * 1024, number as u8));
    }
    for number in 0..short {
        chatter.say(Channel::Fast, text(&number.to_string()));
    }
    tokio::time::sleep(Duration::from_secs(45)).await;
    for number in 0..long {
        assert_eq!(answerer.message().await, (Channel::Fast, binary(4 * 1024, number as u8)));
    }
    for number in 0..short {
        assert_eq!(listener.message().await, (Channel::Fast, text(&number.to_string())));
    }
}

/// What anybody can send who reaches the socket of a connection, or in the name of the peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_can_neither_silence_a_connection_nor_end_the_process() {
    let (mut offerer, mut answerer) = pair().await;
    let path = answerer.wait(|event| match event {
        PeerEvent::Path(path) => Some(path.clone()),
        _ => None,
    });
    let sockets = path.await.local;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let record = |kind: u8, epoch: u16, number: u32, body: &[u8]| {
        let header = [&[kind, 0xfe, 0xfd][..], &epoch.to_be_bytes(), &[0, 0], &number.to_be_bytes()].concat();
        [&header, &(body.len() as u16).to_be_bytes()[..], body].concat()
    };
    // The peer's records would be of an old epoch after that.
    stranger.send_to(&record(20, 1, u32::MAX, &[1]), sockets).await.expect("sent");
    // Each of these parts of a handshake message would be a step down the stack.
    for numbers in (0..40_000_u32).collect::<Vec<_>>().rchunks(50) {
        for message in [6, 7] {
            let parts = numbers.iter().rev().map(|from| {
                let body = [11, 0, 255, 255, 0, message, 0, (from >> 8) as u8, *from as u8, 0, 0, 1];
                record(22, 0, *from, &body)
            });
            stranger.send_to(&parts.collect::<Vec<_>>().concat(), sockets).await.expect("sent");
        }
    }
    for numbers in 0..1000_u32 {
        let rtp = [&[128, 96, 0, 1, 0, 0, 0, 0][..], &numbers.to_be_bytes(), &[7; 16]].concat();
        stranger.send_to(&rtp, sockets).await.expect("sent");
    }
    for number in 0..50 {
        offerer.say(Channel::Fast, text(&number.to_string()));
        assert_eq!(answerer.message().await, (Channel::Fast, text(&number.to_string())));
        answerer.say(Channel::Fast, text("yes"));
        assert_eq!(offerer.message().await, (Channel::Fast, text("yes")));
    }
}

/// The engine hands over 256 messages in a round, and looks for the others only when a packet comes (rtc 0.21).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_short_lines_at_once_arrive_without_another_packet() {
    let (mut offerer, mut answerer) = pair().await;
    let lines = 50_000;
    for line in 0..lines {
        offerer.say(Channel::Fast, text(&line.to_string()));
    }
    // Most of them are to wait in the engine when nothing more is sent.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for line in 0..lines {
        assert_eq!(answerer.message().await, (Channel::Fast, text(&line.to_string())));
    }
}

/// The engine forgets with a connection what nobody has read (rtc 0.21).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_the_end_is_read_after_it() {
    let (mut offerer, mut answerer) = pair().await;
    let lines = 10_000;
    for line in 0..lines {
        offerer.say(Channel::Fast, text(&line.to_string()));
    }
    offerer.ask(PeerCommand::Close);
    assert_eq!(offerer.closed().await, PeerClosed::Local);
    for line in 0..lines {
        assert_eq!(answerer.message().await, (Channel::Fast, text(&line.to_string())));
    }
    assert_eq!(answerer.closed().await, PeerClosed::Remote);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_the_end_is_read_after_it_however_long_that_takes() {
    let (mut offerer, mut answerer) = pair().await;
    let lines = 7_000;
    for line in 0..lines {
        offerer.say(Channel::Fast, text(&line.to_string()));
    }
    offerer.ask(PeerCommand::Close);
    assert_eq!(offerer.closed().await, PeerClosed::Local);
    for line in 0..lines {
        assert_eq!(answerer.message().await, (Channel::Fast, text(&line.to_string())));
        if line % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(answerer.closed().await, PeerClosed::Remote);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_flows_as_long_as_there_is_room() {
    let (mut offerer, mut answerer) = pair().await;
    offerer.ask(PeerCommand::OpenChannel(Channel::Bulk));
    let total = 32 << 20;
    let receiver = tokio::spawn(async move {
        let mut received = 0;
        while received < total {
            if let (Channel::Bulk, payload) = answerer.message().await {
                received += payload.len_bytes();
            }
        }
        received
    });
    let frame = Payload::Binary(Bytes::from(vec![9; 64 * 1024]));
    let (mut sent, mut room) = (0, 0_i64);
    while sent < total {
        let writable = offerer.wait(|event| match event {
            PeerEvent::Writable { bytes } => Some(*bytes),
            _ => None,
        });
        room += writable.await as i64;
        while room > 0 && sent < total {
            offerer.say(Channel::Bulk, frame.clone());
            sent += frame.len_bytes();
            room -= frame.len_bytes() as i64;
        }
    }
    assert_eq!(receiver.await.expect("the receiver ends"), total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_path_and_its_round_trip_can_be_asked_for() {
    let (mut offerer, _answerer) = pair().await;
    offerer.driver.ask_path(LINK);
    let path = offerer
        .wait(|event| match event {
            PeerEvent::Path(path) => Some(path.clone()),
            _ => None,
        })
        .await;
    assert!(path.local.ip().is_loopback() && path.remote.ip().is_loopback(), "{path:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_may_lie_unclaimed_and_still_be_taken() {
    let mut offerer = Peer::new();
    offerer.ask(PeerCommand::CreateOffer);
    let offer = offerer.description().await;
    let candidates = offerer.candidates().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut answerer = Peer::new();
    answerer.ask(PeerCommand::AcceptOffer { sdp: offer });
    candidates.into_iter().for_each(|candidate| answerer.ask(PeerCommand::AddCandidate(candidate)));
    let answer = answerer.description().await;
    offerer.ask(PeerCommand::AcceptAnswer { sdp: answer });
    offerer.opened(Channel::Fast).await;
    answerer.opened(Channel::Fast).await;
}

/// A peer that is not ours: the library by itself, free to misbehave.
mod stranger {
    use std::sync::Arc;

    use webrtc::data_channel::DataChannel;
    use webrtc::peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceCandidateInit,
        RTCSessionDescription, SettingEngine, SettingEngineBuilder,
    };

    use super::{Channel, PATIENCE, Peer, PeerCommand, Sdp};

    struct Silent;

    #[async_trait::async_trait]
    impl PeerConnectionEventHandler for Silent {}

    pub struct Stranger {
        pub pc: Arc<dyn PeerConnection>,
        pub channels: Vec<Arc<dyn DataChannel>>,
    }

    impl Stranger {
        /// Offers a connection with these channels to one of our peers.
        pub async fn offer_to(peer: &mut Peer, labels: &[&str]) -> Self {
            Self::offer_as(peer, labels, str::to_owned).await
        }

        /// The same with a description that says what `change` makes of it.
        pub async fn offer_as(peer: &mut Peer, labels: &[&str], change: fn(&str) -> String) -> Self {
            Self::make(SettingEngineBuilder::new().build(), peer, labels, change).await
        }

        /// The same with other settings.
        pub async fn with(settings: SettingEngine, peer: &mut Peer, labels: &[&str]) -> Self {
            Self::make(settings, peer, labels, str::to_owned).await
        }

        async fn make(
            settings: SettingEngine,
            peer: &mut Peer,
            labels: &[&str],
            change: fn(&str) -> String,
        ) -> Self {
            let pc = PeerConnectionBuilder::new()
                .with_setting_engine(settings)
                .with_handler(Arc::new(Silent))
                .with_udp_addrs(vec!["127.0.0.1:0"])
                .build()
                .await
                .expect("a connection");
            let pc: Arc<dyn PeerConnection> = Arc::new(pc);
            let mut channels = Vec::new();
            for label in labels {
                channels.push(pc.create_data_channel(label, None).await.expect("a channel"));
            }
            let offer = pc.create_offer(None).await.expect("an offer");
            let sdp = Sdp::new(change(&offer.sdp)).expect("short enough");
            pc.set_local_description(offer).await.expect("it is our own");
            peer.ask(PeerCommand::AcceptOffer { sdp });
            let answer = peer.description().await;
            let answer = RTCSessionDescription::answer(answer.as_str().to_owned()).expect("an answer");
            pc.set_remote_description(answer).await.expect("it is good");
            for candidate in peer.candidates().await.into_iter().flatten() {
                let init = RTCIceCandidateInit { candidate: candidate.candidate, ..Default::default() };
                pc.add_ice_candidate(init).await.expect("a good candidate");
            }
            Self { pc, channels }
        }

        /// What of all that was sent on a channel has not been acknowledged.
        pub async fn outstanding_bytes(&self, channel: usize) -> usize {
            self.channels[channel].outstanding_bytes().await.expect("it is open")
        }

        /// Sends on a channel as soon as it is there.
        pub async fn send(&self, channel: usize, text: &str) {
            let sent = async {
                while self.channels[channel].send_text(text).await.is_err() {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, sent).await.expect("the channel opens");
        }
    }

    /// The engine takes messages up to what both ends announced and drops longer ones without a word; here one end does not
    /// keep to what it announced.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_message_longer_than_was_agreed_is_dropped_and_harms_nothing_else() {
        let mut peer = Peer::new();
        let modest = |sdp: &str| sdp.replace("a=max-message-size:65536", "a=max-message-size:1000");
        let stranger = Stranger::offer_as(&mut peer, &["fast"], modest).await;
        peer.opened(Channel::Fast).await;
        for message in ["before", &"x".repeat(2000), "after"] {
            stranger.send(0, message).await;
        }
        assert_eq!(peer.message().await, (Channel::Fast, super::text("before")));
        assert_eq!(peer.message().await, (Channel::Fast, super::text("after")));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_first_channel_of_an_original_is_fast_and_others_are_ignored() {
        let mut peer = Peer::new();
        let mut original = Stranger::offer_to(&mut peer, &["fastRTC"]).await;
        peer.opened(Channel::Fast).await;
        for label in ["swarm", "swarm-bulk", "fast"] {
            original.channels.push(original.pc.create_data_channel(label, None).await.expect("a channel"));
        }
        original.send(0, "hi").await;
        assert_eq!(peer.message().await, (Channel::Fast, super::text("hi")));
        peer.say(Channel::Fast, super::text("hello"));
        let closed = async {
            for channel in &original.channels[1..] {
                while let Some(event) = channel.poll().await {
                    if matches!(event, webrtc::data_channel::DataChannelEvent::OnClose) {
                        break;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("the channels of no use are closed");
        original.pc.close().await.expect("it closes");
        assert_eq!(peer.closed().await, super::PeerClosed::Remote);
        let others = peer.said.iter().filter(|event| matches!(event, super::PeerEvent::ChannelOpen(_)));
        assert_eq!(others.count(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_ends_a_channel_and_goes_on_in_another_is_not_read_without_end() {
        for closes in [false, true] {
            let mut peer = Peer::new();
            let marked = |sdp: &str| Sdp::new(sdp).expect("short").with_marker().as_str().to_owned();
            let stranger = Stranger::offer_as(&mut peer, &["fast", "swarm-bulk"], marked).await;
            peer.opened(Channel::Bulk).await;
            stranger.channels[1].close().await.expect("it closes");
            if closes {
                peer.ask(PeerCommand::Close);
            }
            let goes_on = async {
                loop {
                    let _ = stranger.channels[0].send_text("still here").await;
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            };
            let closed = tokio::select! {
                () = goes_on => unreachable!("it goes on"),
                closed = peer.closed() => closed,
            };
            assert!(closes || closed == super::PeerClosed::Remote, "{closed:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_peer_that_opens_channels_without_end_is_cut_off() {
        let mut peer = Peer::new();
        let labels = ["flood"; 200];
        let flood = Stranger::offer_to(&mut peer, &labels).await;
        assert_eq!(peer.closed().await, super::PeerClosed::Failed);
        flood.pc.close().await.expect("it closes");
    }
}

#[test]
fn a_peer_that_dies_is_missed_within_fifteen_seconds() {
    let dying =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
    let living =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
    let (sdp_to_answerer, offer) = tokio::sync::oneshot::channel();
    let (answer_to_offerer, answer) = tokio::sync::oneshot::channel();
    let (opened, is_open) = tokio::sync::oneshot::channel::<()>();
    dying.spawn(async move {
        let mut answerer = Peer::new();
        let (sdp, candidates): (Sdp, Vec<Option<Candidate>>) = offer.await.expect("an offer");
        answerer.ask(PeerCommand::AcceptOffer { sdp });
        candidates.into_iter().for_each(|candidate| answerer.ask(PeerCommand::AddCandidate(candidate)));
        let described = (answerer.description().await, answerer.candidates().await);
        answer_to_offerer.send(described).expect("the offerer waits");
        answerer.opened(Channel::Fast).await;
        opened.send(()).expect("the offerer waits");
        std::future::pending::<()>().await;
    });
    living.block_on(async {
        let mut offerer = Peer::new();
        offerer.ask(PeerCommand::CreateOffer);
        let described = (offerer.description().await, offerer.candidates().await);
        sdp_to_answerer.send(described).expect("the answerer waits");
        let (sdp, candidates) = answer.await.expect("an answer");
        offerer.ask(PeerCommand::AcceptAnswer { sdp });
        candidates.into_iter().for_each(|candidate| offerer.ask(PeerCommand::AddCandidate(candidate)));
        offerer.opened(Channel::Fast).await;
        is_open.await.expect("both ends are open");
        // Its sockets are closed without a word, as by SIGKILL.
        dying.shutdown_background();
        let died = std::time::Instant::now();
        offerer.wait(|event| (*event == PeerEvent::Disconnected).then_some(())).await;
        let missed = died.elapsed();
        assert_eq!(offerer.closed().await, PeerClosed::IceFailed);
        assert!(missed < Duration::from_secs(8), "missed after {missed:?}");
        assert!(died.elapsed() < Duration::from_secs(15), "given up after {:?}", died.elapsed());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_carries_many_connections() {
    const LINKS: u64 = 40;
    let (mut left, mut right) = (Peer::new(), Peer::new());
    (0..LINKS).for_each(|key| left.driver.command(LinkKey(key), PeerCommand::CreateOffer));
    let mut open = 0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while open < 2 * LINKS {
        let (from_left, (key, event)) = tokio::select! {
            Some(event) = left.events.recv() => (true, event),
            Some(event) = right.events.recv() => (false, event),
            () = tokio::time::sleep_until(deadline) => panic!("{open} ends are open"),
        };
        let other = if from_left { &mut right.driver } else { &mut left.driver };
        match event {
            PeerEvent::Description(sdp) if from_left => other.command(key, PeerCommand::AcceptOffer { sdp }),
            PeerEvent::Description(sdp) => other.command(key, PeerCommand::AcceptAnswer { sdp }),
            PeerEvent::Candidate(candidate) => other.command(key, PeerCommand::AddCandidate(candidate)),
            PeerEvent::ChannelOpen(Channel::Fast) => open += 1,
            PeerEvent::Closed(reason) => panic!("{key:?} closed: {reason:?}"),
            _ => {}
        }
    }
}

/// Its answers are to questions of ours, as those of peers are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stun_server_is_listened_to() {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = server.local_addr().expect("bound");
    let ice_servers = vec![IceServer { urls: vec![format!("stun:{address}")], ..IceServer::default() }];
    let mut peer = Peer::with(RtcConfig { ice_servers, ..loopback() });
    peer.ask(PeerCommand::CreateOffer);
    let answer = async {
        let mut question = [0; 1500];
        loop {
            let (_, from) = server.recv_from(&mut question).await.expect("received");
            // 203.0.113.9, port 1234 (RFC 8489 §14.2).
            let mapped = [0, 0x20, 0, 8, 0, 1, 0x25, 0xc0, 203 ^ 0x21, 0x12, 113 ^ 0xa4, 9 ^ 0x42];
            let answer = [&[1, 1, 0, 12][..], &question[4..20], &mapped].concat();
            server.send_to(&answer, from).await.expect("sent");
        }
    };
    let candidates = tokio::select! {
        candidates = peer.candidates() => candidates,
        () = answer => unreachable!("it answers as long as it is asked"),
    };
    let is_found = |candidate: &Candidate| candidate.candidate.contains("203.0.113.9 1234 typ srflx");
    assert!(candidates.iter().flatten().any(is_found), "{candidates:?}");
}
