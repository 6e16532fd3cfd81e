//! What is fuzzed, and what must hold whatever comes in.
//!
//! One function a target. `cargo fuzz run NAME` feeds it what a search finds; `tests/it/corpus.rs` replays the committed
//! corpus on every test run. The machines are driven by scripts in text, so that a corpus can be read and written by hand.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

#[path = "transfers.rs"]
mod transfers;

use bytes::Bytes;
use fast_rtc_swarm::core::access::Grant;
use fast_rtc_swarm::core::chat;
use fast_rtc_swarm::core::code::relay::{self, Relay, Standing};
use fast_rtc_swarm::core::code::{Member, Newcomer};
use fast_rtc_swarm::core::link::{Identity, PeerKind};
use fast_rtc_swarm::core::network::ClientAddress;
use fast_rtc_swarm::core::peer::{
    Channel, Fingerprint, LinkKey, Payload, PeerClosed, PeerCommand, PeerEvent,
};
use fast_rtc_swarm::core::{mesh, room};
use fast_rtc_swarm::wire::code::{ClientCode, Code, ServerCode};
use fast_rtc_swarm::wire::control::Control;
use fast_rtc_swarm::wire::dialect::{ClientDialect, ServerDialect};
use fast_rtc_swarm::wire::frame::Frame;
use fast_rtc_swarm::wire::limits::{CHANNEL_MESSAGE_MAX_BYTES, NAME_MAX_CHARS};
use fast_rtc_swarm::wire::manifest::Manifest;
use fast_rtc_swarm::wire::path::SafePath;
use fast_rtc_swarm::wire::text::{self, Name};
use fast_rtc_swarm::wire::{ClientSignal, Invite, RoomId, RoomKey, Sdp, UserId};

/// Takes any bytes and panics where something that must hold does not.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 13] = [
    ("client_signal", client_signal),
    ("server_signal", server_signal),
    ("control", control),
    ("chat_line", chat_line),
    ("invite", invite),
    ("sdp", sdp),
    ("frame", frame),
    ("manifest", manifest),
    ("path_and_text", path_and_text),
    ("room", room),
    ("code", code),
    ("mesh", mesh),
    ("transfers", transfers::run),
];

/// The server's end of a socket: a line a message, so that the second may depend on the first.
pub fn client_signal(data: &[u8]) {
    let mut dialect = ServerDialect::new(RoomId::new("attic").expect("an id"));
    for line in String::from_utf8_lossy(data).lines() {
        match dialect.parse(line) {
            Ok(signals) => assert!(signals.len() <= 2),
            Err(error) => assert!(error.message.chars().count() <= 250, "{}", error.message),
        }
    }
}

/// Our peer's end of it.
pub fn server_signal(data: &[u8]) {
    let mut dialect = ClientDialect::new(false);
    for line in String::from_utf8_lossy(data).lines() {
        if let Ok(signal) = dialect.parse(line) {
            let again = serde_json::to_string(&signal).expect("our own types serialise");
            assert_eq!(dialect.parse(&again).as_ref(), Ok(&signal));
        }
    }
}

pub fn control(data: &[u8]) {
    if let Ok(control) = Control::parse(&String::from_utf8_lossy(data)) {
        assert_eq!(Control::parse(&control.to_text()).expect("our own text"), control);
    }
}

/// A line survives the channel and stays within its messages' limit.
pub fn chat_line(data: &[u8]) {
    let line = String::from_utf8_lossy(data);
    let mut heard = String::new();
    for message in chat::messages(&line) {
        assert!(message.len() <= CHANNEL_MESSAGE_MAX_BYTES && !message.starts_with("@fast"));
        match chat::parse(PeerKind::Swarm, &message) {
            chat::FastMessage::Line(line) => heard.push_str(&line),
            chat::FastMessage::Close | chat::FastMessage::Internal => panic!("a line became {message:?}"),
        }
    }
    assert_eq!(heard, line);
    chat::parse(PeerKind::Original, &line);
}

pub fn invite(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Invite::parse(&text) {
        Ok(invite) => {
            for shown in [invite.reveal(), invite.reveal_words()] {
                assert_eq!(Invite::parse(&shown).as_ref(), Ok(&invite));
            }
            assert!(!invite.server_url().contains(['?', '#']), "the token and the key stay behind");
        }
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

pub fn sdp(data: &[u8]) {
    if let Ok(sdp) = Sdp::new(String::from_utf8_lossy(data)) {
        let marked = sdp.with_marker();
        assert_eq!(marked.with_marker(), marked);
    }
}

pub fn frame(data: &[u8]) {
    if let Ok(frame) = Frame::parse(Bytes::copy_from_slice(data)) {
        assert_eq!(Frame::parse(frame.encode()).as_ref(), Ok(&frame));
    }
}

/// A manifest that is accepted is canonical, and its pieces cover its files.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else { return };
    assert_eq!(manifest.to_bytes(), data);
    let mut bytes = 0;
    for piece in 0..manifest.piece_count() {
        let span = manifest.span(piece);
        assert!(
            span.len > 0
                && span.offset + u64::from(span.len) <= manifest.entries()[span.entry as usize].size()
        );
        bytes += u64::from(span.len);
    }
    assert_eq!(bytes, manifest.total_bytes());
}

pub fn path_and_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(path) = SafePath::parse(&text) {
        let relative = std::path::Path::new(path.as_str());
        let is_plain = |part| matches!(part, std::path::Component::Normal(_));
        assert!(relative.components().all(is_plain), "{path}");
    }
    let line = text::line(&text, 100);
    assert!(line.chars().count() <= 100 && !line.chars().any(char::is_control), "{line:?}");
    assert_eq!(text::line(&line, 100), line);
    if let Some(name) = Name::from_remote(&text) {
        assert!(
            name.as_str().chars().count() <= NAME_MAX_CHARS && !name.as_str().chars().any(char::is_control)
        );
    }
}

/// A script for the server:
///
/// ```text
/// +3        socket 3 connects      3 {"type":…}   socket 3 says something
/// -3        socket 3 breaks off    ~500           so many milliseconds pass
/// ```
///
/// Whatever was said, nothing is left once everyone is gone and the grace has passed.
pub fn room(data: &[u8]) {
    let mut rooms = room::Rooms::new(room::Limits::default(), [7; 32]);
    let mut dialects: BTreeMap<u64, ServerDialect> = BTreeMap::new();
    let mut now = Instant::now();
    for line in String::from_utf8_lossy(data).lines() {
        let (head, rest) = line.split_at(line.floor_char_boundary(1));
        match head {
            "+" => {
                let no = socket_no(rest);
                if let std::collections::btree_map::Entry::Vacant(vacant) = dialects.entry(no) {
                    vacant.insert(ServerDialect::new(RoomId::new("attic").expect("an id")));
                    let address = ClientAddress::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
                    let socket = room::SocketId(no);
                    rooms.handle(now, room::Input::Connected { socket, address, grant: Grant::EveryRoom });
                }
            }
            "-" => {
                let no = socket_no(rest);
                if dialects.remove(&no).is_some() {
                    rooms.handle(now, room::Input::Lost(room::SocketId(no)));
                }
            }
            "~" => {
                now += millis(rest);
                rooms.handle_timeout(now);
            }
            digit => say(&mut rooms, &mut dialects, now, digit, rest),
        }
        drain_rooms(&mut rooms, &mut dialects);
    }
    for no in dialects.into_keys() {
        rooms.handle(now, room::Input::Lost(room::SocketId(no)));
    }
    now += Duration::from_secs(3600);
    rooms.handle_timeout(now);
    drain_rooms(&mut rooms, &mut BTreeMap::new());
    let stats = rooms.stats();
    let left = (stats.rooms, stats.members, stats.sockets, stats.offers, stats.links);
    assert_eq!((left, rooms.poll_timeout()), ((0, 0, 0, 0, 0), None));
}

fn socket_no(text: &str) -> u64 {
    text.bytes().next().map_or(0, |byte| u64::from(byte % 8))
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.trim().parse::<u64>().unwrap_or(1).min(600_000))
}

fn say(
    rooms: &mut room::Rooms,
    dialects: &mut BTreeMap<u64, ServerDialect>,
    now: Instant,
    digit: &str,
    text: &str,
) {
    let no = socket_no(digit);
    let Some(dialect) = dialects.get_mut(&no) else { return };
    let socket = room::SocketId(no);
    match dialect.parse(text.trim()) {
        Ok(signals) => {
            for signal in signals {
                rooms.handle(now, room::Input::Signal { socket, signal });
            }
        }
        Err(error) => {
            rooms.handle(now, room::Input::Invalid { socket, code: error.code, message: error.message })
        }
    }
}

/// Every answer goes to a socket that is there and can be written in its dialect.
fn drain_rooms(rooms: &mut room::Rooms, dialects: &mut BTreeMap<u64, ServerDialect>) {
    while let Some(output) = rooms.poll() {
        match output {
            room::Output::Send { socket, signal } => {
                dialects.get_mut(&socket.0).map(|dialect| dialect.write(&signal));
            }
            room::Output::Ping(_) => {}
            room::Output::Close { socket, .. } => drop(dialects.remove(&socket.0)),
        }
    }
}

/// A script for one-time codes, in the letters of [`room`]; `*3` connects socket 3 with a token. Both ends of a code of their own hear each
/// line, too, and what is typed as a code is what is shown.
pub fn code(data: &[u8]) {
    let mut relay = Relay::new(relay::Limits::default(), [7; 32]);
    let mut sockets: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut fresh, mut now) = (0, Instant::now());
    for line in String::from_utf8_lossy(data).lines() {
        let (head, rest) = line.split_at(line.floor_char_boundary(1));
        match head {
            "+" | "*" => {
                fresh += 1;
                let standing = if head == "*" { Standing::Member } else { Standing::Stranger };
                if let std::collections::btree_map::Entry::Vacant(vacant) = sockets.entry(socket_no(rest)) {
                    let socket = room::SocketId(*vacant.insert(fresh));
                    let address = ClientAddress::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
                    relay.handle(now, relay::Input::Connected { socket, address, standing });
                }
            }
            "-" => {
                if let Some(socket) = sockets.remove(&socket_no(rest)) {
                    relay.handle(now, relay::Input::Lost(room::SocketId(socket)));
                }
            }
            "~" => {
                now += millis(rest);
                relay.handle_timeout(now);
            }
            digit => {
                let message = ClientCode::parse(rest.trim());
                hear_code(rest.trim(), message.as_ref());
                if let Some(socket) = sockets.get(&socket_no(digit)) {
                    relay.handle(now, relay::Input::Message(room::SocketId(*socket), message));
                }
            }
        }
        drain_relay(&mut relay, &mut sockets);
    }
    now += Duration::from_secs(3600);
    relay.handle_timeout(now);
    drain_relay(&mut relay, &mut sockets);
    assert!(sockets.is_empty() && relay.poll_timeout().is_none(), "every socket has a deadline");
}

/// Nothing that comes in without knowledge of the words opens anything.
fn hear_code(text: &str, message: Option<&ClientCode>) {
    if let Ok(code) = Code::parse(text) {
        assert_eq!(Code::parse(&code.reveal()), Ok(code));
    }
    if let Some(ServerCode::CodePass { message }) = ServerCode::parse(text) {
        assert_eq!(
            ServerCode::parse(&ServerCode::CodePass { message: message.clone() }.to_text()),
            Some(ServerCode::CodePass { message })
        );
    }
    let Some(ClientCode::CodePass { message } | ClientCode::CodeClaim { message, .. }) = message else {
        return;
    };
    let code: Code = "7-guitar-bacon".parse().expect("a code");
    if let Ok((member, _)) = Member::new(&code, [1; 32]).answer(message.bytes()) {
        let invite = "ws://h/attic".parse().expect("an invite");
        assert!(member.hand_over(message.bytes(), &invite).is_err());
    }
    if let Ok((newcomer, _)) = Newcomer::new(&code, [2; 32]).0.prove(message.bytes()) {
        assert!(newcomer.receive(message.bytes()).is_err());
    }
}

fn drain_relay(relay: &mut Relay, sockets: &mut BTreeMap<u64, u64>) {
    while let Some(output) = relay.poll() {
        match output {
            relay::Output::Send(_, message) => assert!(ServerCode::parse(&message.to_text()).is_some()),
            relay::Output::Close(closed) => sockets.retain(|_, socket| *socket != closed.0),
        }
    }
}

/// A script for a peer in a room with a key, by somebody who does not have it:
///
/// ```text
/// {"type":…}   the server says something (OFFER in it stands for the last offer's id)
/// ~500         so many milliseconds pass
/// ^            the socket opens              v        the socket breaks off
/// ! text       the user says something       3d       connection 3 has its description
/// 3c           … is connected                3o 3k 3b its channels open: fast, control, bulk
/// 3t text      … says a string               3j text  … a control message
/// 3y text      … a bulk frame                3n text  … a candidate
/// 3x           … is closed
/// ```
///
/// Nothing is shown of anyone, nothing the user said goes out, and nothing is left after a close.
pub fn mesh(data: &[u8]) {
    const MAX_PEERS: usize = 4;
    const OFFERS_MAX: usize = 32;
    let mut now = Instant::now();
    let identity = Identity {
        me: UserId::new("me").expect("an id"),
        name: "Me".into(),
        room: RoomId::new("attic").expect("an id"),
        key: Some(RoomKey::from_random([7; 16])),
        allow_unverified: false,
    };
    let mut mesh =
        mesh::Mesh::new(now, mesh::Config { identity, peer_buffer: 1, max_peers: MAX_PEERS, seed: [7; 32] });
    let mut server = ClientDialect::new(false);
    let mut offer = String::from("none");
    for line in String::from_utf8_lossy(data).lines() {
        if let Some(rest) = line.strip_prefix('~') {
            now += millis(rest);
            mesh.handle_timeout(now);
        } else if let Some(input) = mesh_input(&mut server, &line.replace("OFFER", &offer)) {
            mesh.handle(now, input);
        }
        drain_mesh(&mut mesh, &mut offer);
        // Connected or coming up, waiting at the server, and withdrawn but perhaps taken.
        let held = mesh.held();
        assert!(
            held.links <= MAX_PEERS + 2 * OFFERS_MAX && held.wants <= 1024 && held.timers <= 2048,
            "{held:?}"
        );
    }
    mesh.handle(now, mesh::Input::Close);
    drain_mesh(&mut mesh, &mut offer);
    assert_eq!((mesh.held().links, mesh.poll_timeout()), (0, None));
}

fn mesh_input(server: &mut ClientDialect, line: &str) -> Option<mesh::Input> {
    let (head, rest) = line.split_at_checked(1)?;
    match head {
        "{" => server.parse(line).ok().map(mesh::Input::Signal),
        "^" => Some(mesh::Input::SignalingUp),
        "v" => Some(mesh::Input::SignalingDown),
        "!" => Some(mesh::Input::Say { text: format!("secret {rest}"), to: mesh::To::Everyone }),
        digit => {
            let key = LinkKey(digit.parse().ok()?);
            peer_event(rest).map(|event| mesh::Input::Peer(key, event))
        }
    }
}

fn peer_event(text: &str) -> Option<PeerEvent> {
    let (kind, rest) = text.split_at_checked(1)?;
    let rest = rest.trim_start();
    let message = |channel, payload| Some(PeerEvent::Message { channel, payload });
    match kind {
        "d" => Some(PeerEvent::Description(Sdp::new("v=0\r\nm=application 9\r\n").ok()?.with_marker())),
        "c" => Some(PeerEvent::Connected { local: Fingerprint([1; 32]), remote: Fingerprint([2; 32]) }),
        "o" => Some(PeerEvent::ChannelOpen(Channel::Fast)),
        "k" => Some(PeerEvent::ChannelOpen(Channel::Control)),
        "b" => Some(PeerEvent::ChannelOpen(Channel::Bulk)),
        "t" => message(Channel::Fast, Payload::Text(rest.into())),
        "j" => message(Channel::Control, Payload::Text(rest.into())),
        "y" => message(Channel::Bulk, Payload::Binary(Bytes::copy_from_slice(rest.as_bytes()))),
        "n" => Some(PeerEvent::Candidate(serde_json::from_str(rest).ok()?)),
        "x" => Some(PeerEvent::Closed(PeerClosed::Remote)),
        _ => None,
    }
}

fn drain_mesh(mesh: &mut mesh::Mesh, offer: &mut String) {
    while let Some(output) = mesh.poll() {
        match output {
            mesh::Output::Signal(ClientSignal::Offer { id, .. }) => *offer = id.to_string(),
            mesh::Output::Signal(_) => {}
            mesh::Output::Peer(_, PeerCommand::Send { channel, payload }) => {
                assert_eq!(channel, Channel::Control, "nothing but a hello goes to strangers");
                let Payload::Text(text) = payload else { panic!("control messages are text") };
                assert!(!text.contains("secret"), "{text}");
            }
            mesh::Output::Peer(_, _) => {}
            mesh::Output::Event(
                event @ (mesh::Event::Opened { .. }
                | mesh::Event::Closed { .. }
                | mesh::Event::Text { .. }
                | mesh::Event::Data { .. }
                | mesh::Event::Renamed { .. }
                | mesh::Event::Transfer { .. }
                | mesh::Event::Bulk { .. }
                | mesh::Event::Writable { .. }
                | mesh::Event::BulkLost { .. }
                | mesh::Event::Path { .. }),
            ) => panic!("somebody without the key was shown: {event:?}"),
            mesh::Output::Event(
                mesh::Event::Welcome { .. } | mesh::Event::Failed { .. } | mesh::Event::Refused { .. },
            ) => {}
        }
    }
}
