//! The signaling server and the peer's end of it, over real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use fast_rtc_swarm::core::access::{Access, Claims, TokenKey};
use fast_rtc_swarm::core::network::TrustedProxies;
use fast_rtc_swarm::io::ws::client::{
    ConnectConfig, ConnectError, Lost, SignalReceiver, SignalSender, Trust, connect,
};
use fast_rtc_swarm::io::ws::server::{Monitor, Server, ServerConfig, Timeouts, tls_config};
use fast_rtc_swarm::wire::signal::{ErrorCode, OfferSignal};
use fast_rtc_swarm::wire::{ClientSignal, Init, LinkId, RoomId, Sdp, Secret, ServerSignal, UserId};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

/// Longer than anything here takes; a test that needs it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Running {
    pub address: SocketAddr,
    monitor: Monitor,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

pub async fn serve(change: impl FnOnce(&mut ServerConfig)) -> Running {
    let mut config = ServerConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Access::Open);
    change(&mut config);
    let server = Server::bind(config).await.expect("a free port");
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, monitor) = (server.local_addr(), server.monitor());
    let task = tokio::spawn(server.run(async { drop(stopped.await) }));
    Running { address, monitor, stop, task }
}

impl Running {
    pub fn config(&self) -> ConnectConfig {
        ConnectConfig {
            url: format!("ws://{}/den", self.address),
            token: None,
            trust: Trust::none(),
            wrapped: false,
            init: None,
        }
    }

    pub async fn join(&self, name: &str) -> Peer {
        let (sender, receiver) = connect(&self.config()).await.expect("the server is there");
        let mut peer = Peer { sender, receiver };
        peer.say(ClientSignal::Init(init(name)));
        assert!(matches!(peer.hear().await, ServerSignal::Welcome { .. }));
        peer
    }

    pub async fn raw(&self, path: &str) -> Raw {
        let url = format!("ws://{}{path}", self.address);
        let (stream, _) = tokio_tungstenite::connect_async(url).await.expect("the server is there");
        Raw(stream)
    }
}

pub struct Peer {
    sender: SignalSender,
    receiver: SignalReceiver,
}

impl Peer {
    fn say(&self, signal: ClientSignal) {
        self.sender.send(signal).expect("the connection is open");
    }

    async fn hear(&mut self) -> ServerSignal {
        self.next().await.expect("the connection is open")
    }

    async fn next(&mut self) -> Result<ServerSignal, Lost> {
        tokio::time::timeout(PATIENCE, self.receiver.recv()).await.expect("in time")
    }
}

/// A client that says exactly what it is told to.
pub struct Raw(tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>);

impl Raw {
    async fn say(&mut self, text: impl Into<String>) {
        self.0.send(Message::Text(text.into().into())).await.expect("the connection is open");
    }

    async fn next(&mut self) -> Option<Message> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("in time");
            let message = next?.ok()?;
            if !message.is_ping() && !message.is_pong() {
                return Some(message);
            }
        }
    }

    async fn hear(&mut self) -> serde_json::Value {
        let message = self.next().await.expect("the connection is open");
        serde_json::from_str(message.to_text().expect("text")).expect("JSON")
    }
}

pub fn init(name: &str) -> Init {
    Init {
        user_id: UserId::new(name).expect("a good id"),
        room_id: RoomId::new("den").expect("a good id"),
        have: Some(Vec::new()),
        resume: None,
    }
}

fn code_of(signal: &ServerSignal) -> Option<ErrorCode> {
    let ServerSignal::SignalError { code, .. } = signal else { return None };
    *code
}

fn offer(id: &str) -> ClientSignal {
    ClientSignal::Offer { id: LinkId::new(id).expect("a good id"), sdp: sdp() }
}

fn sdp() -> Sdp {
    Sdp::new("v=0\r\n").expect("short enough")
}

#[tokio::test]
async fn an_offer_finds_its_way_to_a_newcomer_and_the_answer_back() {
    let server = serve(|_| {}).await;
    let mut alice = server.join("alice").await;
    alice.say(offer("a1"));
    let mut bob = server.join("bob").await;
    let id = LinkId::new("a1").expect("a good id");
    let accept = ServerSignal::Accept {
        id: id.clone(),
        user_id: UserId::new("alice").expect("a good id"),
        signals: vec![OfferSignal::Offer { sdp: sdp() }],
    };
    assert_eq!(bob.hear().await, accept);
    bob.say(ClientSignal::Answer { id: id.clone(), sdp: sdp() });
    assert!(matches!(alice.hear().await, ServerSignal::OfferAccepted { .. }));
    assert_eq!(alice.hear().await, ServerSignal::OfferRequest);
    assert_eq!(alice.hear().await, ServerSignal::Answer { id, sdp: sdp() });
}

/// The server writes in batches; where one ends nothing may be lost.
#[tokio::test]
async fn a_burst_arrives_whole_and_in_order() {
    let server = serve(|config| config.limits.relayed_messages.burst = 1_001).await;
    let mut alice = server.join("alice").await;
    alice.say(offer("a1"));
    let mut bob = server.join("bob").await;
    let id = LinkId::new("a1").expect("a good id");
    assert!(matches!(bob.hear().await, ServerSignal::Accept { .. }));
    bob.say(ClientSignal::Answer { id: id.clone(), sdp: sdp() });
    while !matches!(alice.hear().await, ServerSignal::Answer { .. }) {}
    let candidate = |n: usize| {
        let text = format!(r#"{{"candidate":"candidate:{n}"}}"#);
        Some(serde_json::from_str(&text).expect("a candidate"))
    };
    for n in 0..1_000 {
        alice.say(ClientSignal::Candidate { id: id.clone(), candidate: candidate(n) });
    }
    for n in 0..1_000 {
        assert_eq!(bob.hear().await, ServerSignal::Candidate { id: id.clone(), candidate: candidate(n) });
    }
}

#[tokio::test]
async fn a_fresh_init_may_ride_on_the_url() {
    let server = serve(|_| {}).await;
    let config = ConnectConfig { init: Some(init("alice")), ..server.config() };
    let (sender, receiver) = connect(&config).await.expect("the server is there");
    let mut alice = Peer { sender, receiver };
    assert!(matches!(alice.hear().await, ServerSignal::Welcome { .. }));
    alice.say(ClientSignal::Init(init("alice")));
    alice.say(ClientSignal::Want { user_id: UserId::new("nobody").expect("a good id") });
    assert!(matches!(alice.hear().await, ServerSignal::Gone { .. }), "the second init said nothing new");
}

#[tokio::test]
async fn both_generations_and_our_peer_share_a_room() {
    let server = serve(|_| {}).await;
    let mut first = server.raw("/den").await;
    first.say(r#"{"type":"init","sdp":"F","offerId":"f1","from":"first"}"#).await;
    let mut second = server.raw("/den").await;
    second.say(r#"{"type":"WRTC_SIGNAL","signal":{"type":"init","userId":"second","roomId":""}}"#).await;
    let accept = second.hear().await;
    assert_eq!(accept["signal"]["userId"], "first");
    assert_eq!(accept["signal"]["signals"][0]["sdp"], "F");
    let accepted = first.hear().await;
    assert_eq!((&accepted["type"], &accepted["from"]), (&"offerAccepted".into(), &"second".into()));

    let mut ours = server.join("ours").await;
    first.say(r#"{"type":"offer","sdp":"F2","offerId":"f2"}"#).await;
    let ServerSignal::Accept { id, user_id, .. } = ours.hear().await else { panic!("an accept") };
    assert_eq!(user_id.as_str(), "first");
    ours.say(ClientSignal::Answer { id, sdp: sdp() });
    loop {
        let message = first.hear().await;
        if message["type"] == "answer" {
            assert_eq!(message["from"], "ours");
            break;
        }
    }
}

#[tokio::test]
async fn a_guarded_server_wants_its_token() {
    let key = TokenKey::parse(TokenKey::hs256_text([5; 32]).expose()).expect("our own text");
    let minted = |room: &str| {
        let room = RoomId::new(room).expect("a good id");
        key.mint(&Claims::new(Some(room), u64::MAX)).expect("a secret key")
    };
    let (den, attic) = (minted("den"), minted("attic"));
    let tokens = vec![Secret::new("s3cret")];
    let server = serve(|config| config.access = Access::Guarded { tokens, keys: vec![key] }).await;
    let with = |token: Option<Secret>| ConnectConfig { token, ..server.config() };
    for refused in [None, Some(Secret::new("guess"))] {
        assert!(matches!(connect(&with(refused)).await, Err(ConnectError::TokenRefused)));
    }
    for (token, code) in [(Secret::new("s3cret"), None), (den, None), (attic, Some(ErrorCode::Forbidden))] {
        let (sender, receiver) = connect(&with(Some(token))).await.expect("let in");
        let mut peer = Peer { sender, receiver };
        peer.say(ClientSignal::Init(init("alice")));
        let heard = peer.hear().await;
        assert_eq!(code_of(&heard), code, "{heard:?}");
        if code.is_none() {
            peer.say(ClientSignal::Close);
        }
    }
    let mut browser = server.raw("/den?token=s3cret").await;
    browser.say(r#"{"type":"init","userId":"browser","roomId":""}"#).await;
    browser.say(r#"{"type":"dance"}"#).await;
    assert_eq!(browser.hear().await["code"], "unknown_type");
}

#[tokio::test]
async fn a_web_page_of_another_origin_is_turned_away() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let server = serve(|config| config.origins = Some(vec!["https://good.example".into()])).await;
    for (origin, allowed) in [("https://good.example", true), ("https://evil.example", false)] {
        let mut request = format!("ws://{}/den", server.address).into_client_request().expect("a URL");
        request.headers_mut().insert("origin", origin.parse().expect("a header"));
        let connected = tokio_tungstenite::connect_async(request).await;
        assert_eq!(connected.is_ok(), allowed, "{origin}");
    }
    server.join("no-browser").await;
}

/// A client that comes through a reverse proxy on this machine, or says that it does.
async fn forwarded(server: &Running, header: (&'static str, &str)) -> Raw {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let mut request = format!("ws://{}/den", server.address).into_client_request().expect("a good URL");
    request.headers_mut().insert(header.0, header.1.parse().expect("a good value"));
    let (stream, _) = tokio_tungstenite::connect_async(request).await.expect("the server is there");
    Raw(stream)
}

async fn is_let_in(client: &mut Raw, name: &str) -> bool {
    client.say(serde_json::to_string(&ClientSignal::Init(init(name))).expect("JSON")).await;
    client.hear().await["type"] == "welcome"
}

#[tokio::test]
async fn clients_of_a_trusted_proxy_are_counted_one_by_one() {
    let server = serve(|config| {
        config.limits.sockets_per_address = 1;
        config.proxies = TrustedProxies(vec!["127.0.0.0/8".parse().expect("a network")]);
    })
    .await;
    let mut ada = forwarded(&server, ("x-forwarded-for", "203.0.113.1")).await;
    let mut bob = forwarded(&server, ("forwarded", "for=203.0.113.2")).await;
    assert!(is_let_in(&mut ada, "ada").await && is_let_in(&mut bob, "bob").await);
    let mut again = forwarded(&server, ("x-forwarded-for", "198.51.100.9, 203.0.113.1")).await;
    assert_eq!(again.hear().await["code"], "limit_exceeded", "what stands before the last hop is made up");
}

#[tokio::test]
async fn who_is_no_trusted_proxy_can_not_choose_an_address() {
    let server = serve(|config| config.limits.sockets_per_address = 1).await;
    let mut ada = forwarded(&server, ("x-forwarded-for", "203.0.113.1")).await;
    assert!(is_let_in(&mut ada, "ada").await);
    for header in [("x-forwarded-for", "203.0.113.2"), ("forwarded", "for=203.0.113.3")] {
        let mut again = forwarded(&server, header).await;
        assert_eq!(again.hear().await["code"], "limit_exceeded");
    }
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the server is there");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    answer
}

#[tokio::test]
async fn probes_live_beside_the_sockets() {
    let tokens = vec![Secret::new("s3cret")];
    let server = serve(|config| config.access = Access::Guarded { tokens, keys: vec![] }).await;
    assert!(get(server.address, "/healthz", "").await.starts_with("HTTP/1.1 200"));
    assert!(get(server.address, "/den", "").await.contains("signaling server"));
    assert!(get(server.address, "/metrics", "").await.starts_with("HTTP/1.1 401"));
    let metrics = get(server.address, "/metrics", "authorization: Bearer s3cret\r\n").await;
    assert!(metrics.contains("swarm_sockets 0\n"), "{metrics}");
}

#[tokio::test]
async fn garbage_gets_an_error_and_harms_nobody() {
    let server = serve(|_| {}).await;
    let mut alice = server.join("alice").await;
    let mut vandal = server.raw("/den").await;
    for (text, code) in [("nonsense", "malformed"), (r#"{"type":"accept","id":"x"}"#, "not_allowed")] {
        vandal.say(text).await;
        assert_eq!(vandal.hear().await["code"], code);
    }
    vandal.0.send(Message::Binary(vec![0; 9].into())).await.expect("sent");
    assert_eq!(vandal.hear().await["code"], "malformed");
    vandal.say("x".repeat(70_000)).await;
    assert_eq!(vandal.hear().await["code"], "limit_exceeded");
    vandal.say("x".repeat(1_000_000)).await;
    let Some(Message::Close(Some(frame))) = vandal.next().await else { panic!("closed with a reason") };
    assert_eq!(u16::from(frame.code), 1009);
    alice.say(ClientSignal::Want { user_id: UserId::new("nobody").expect("a good id") });
    assert!(matches!(alice.hear().await, ServerSignal::Gone { .. }));
}

#[tokio::test]
async fn a_server_that_stops_says_so_and_is_gone() {
    let server = serve(|_| {}).await;
    let mut alice = server.join("alice").await;
    server.stop.send(()).expect("it is running");
    assert_eq!(code_of(&alice.hear().await), Some(ErrorCode::ShuttingDown));
    assert_eq!(alice.next().await, Err(Lost::ServerClosed { code: 1012 }));
    tokio::time::timeout(PATIENCE, server.task).await.expect("in time").expect("no panic");
    assert!(matches!(
        connect(&ConnectConfig {
            url: format!("ws://{}/den", server.address),
            token: None,
            trust: Trust::none(),
            wrapped: false,
            init: None,
        })
        .await,
        Err(ConnectError::Unreachable { .. })
    ));
}

#[tokio::test]
async fn a_member_whose_client_is_gone_leaves_no_socket_behind() {
    let server = serve(|_| {}).await;
    let alice = server.join("alice").await;
    let mut bob = server.join("bob").await;
    drop(alice);
    let gone = UserId::new("alice").expect("a good id");
    assert_eq!(bob.hear().await, ServerSignal::Gone { user_id: gone });
    assert_eq!(server.monitor.stats().sockets, 1);
}

#[tokio::test]
async fn whatever_answers_is_told_from_a_signaling_server() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let web = tokio::spawn(async move {
        for answer in ["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "SSH-2.0-x\r\n"] {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut buffer = [0; 4_096];
            let _ = stream.read(&mut buffer).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    });
    let config = ConnectConfig {
        url: format!("ws://{address}/den"),
        token: None,
        trust: Trust::none(),
        wrapped: false,
        init: None,
    };
    assert!(matches!(connect(&config).await, Err(ConnectError::NotASignalingServer { .. })));
    assert!(matches!(connect(&config).await, Err(ConnectError::NotWebSocket { .. })));
    web.await.expect("no panic");
    for url in ["", "den", "http://host/den", "ws://"] {
        let config = ConnectConfig { url: url.into(), ..config.clone() };
        assert!(matches!(connect(&config).await, Err(ConnectError::BadUrl(_))), "{url}");
    }
}

fn write_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).expect("written");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
}

#[tokio::test]
async fn wss_trusts_whom_it_is_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    write_certificate(folder.path());
    let certificate = folder.path().join("cert.pem");
    let tls = tls_config(&certificate, &folder.path().join("key.pem")).expect("a good pair");
    let server = serve(|config| config.tls = Some(tls)).await;
    let config = |trust: Trust| ConnectConfig {
        url: format!("wss://localhost:{}/den", server.address.port()),
        trust,
        init: Some(init("alice")),
        ..server.config()
    };
    let stranger = connect(&config(Trust::system(None).expect("readable"))).await;
    assert!(matches!(stranger, Err(ConnectError::Tls { .. })), "{stranger:?}");
    let trusted = config(Trust::system(Some(&certificate)).expect("readable"));
    let (sender, receiver) = connect(&trusted).await.expect("trusted");
    let mut alice = Peer { sender, receiver };
    assert!(matches!(alice.hear().await, ServerSignal::Welcome { .. }));
    let plain = connect(&server.config()).await;
    assert!(plain.is_err(), "no TLS: {plain:?}");
}

#[tokio::test]
async fn a_slow_loris_is_cut_off() {
    let handshake = Duration::from_millis(50);
    let server = serve(|config| config.timeouts = Timeouts { handshake, ..Timeouts::default() }).await;
    let mut loris = TcpStream::connect(server.address).await.expect("the server is there");
    loris.write_all(b"GET /den HTTP/1.1\r\nhost: x\r\n").await.expect("written");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, loris.read_to_end(&mut answer)).await.expect("in time");
    assert!(read.is_err() || !answer.starts_with(b"HTTP/1.1 101"), "no upgrade");
}

/// R8.
#[tokio::test]
async fn a_client_that_answers_no_ping_is_gone() {
    let timeouts = Timeouts {
        ping_after: Duration::from_millis(50),
        gone_after: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let server = serve(|config| config.timeouts = timeouts).await;
    let mut alice = server.join("alice").await;
    // Nothing reads from this socket, so nothing answers a ping.
    let mut frozen = server.raw("/den").await;
    frozen.say(r#"{"type":"init","userId":"frozen","roomId":"den","have":[]}"#).await;
    let frozen_id = UserId::new("frozen").expect("a good id");
    while alice.hear().await != (ServerSignal::Gone { user_id: frozen_id.clone() }) {}
    assert_eq!(server.monitor.stats().sockets, 1);
}
