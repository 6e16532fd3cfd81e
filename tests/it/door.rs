//! The server's front door: what those may take who have not been let in.

use std::time::Duration;

use fast_rtc_swarm::io::ws::client::code::{CodeFailure, redeem};
use fast_rtc_swarm::io::ws::client::{ConnectConfig, ConnectError, connect};
use fast_rtc_swarm::io::ws::server::{Capacity, Timeouts};
use fast_rtc_swarm::wire::{Secret, UserId};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::signaling::{PATIENCE, Running, init, serve};

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3_600);

const ROOMY: Capacity = Capacity { pending: 64, pending_per_address: 64, sockets: 64, strangers: 64 };

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    answer
}

async fn knock(server: &Running) -> TcpStream {
    TcpStream::connect(server.address).await.expect("the server is there")
}

/// Until it is let in.
async fn keep_trying(config: &ConnectConfig) {
    let trying = async {
        while connect(config).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.expect("there is a place in the end");
}

#[tokio::test]
async fn one_connection_has_one_request() {
    let server = serve(|_| {}).await;
    let mut stream = knock(&server).await;
    let requests = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    stream.write_all(requests.as_bytes()).await.expect("written");
    let mut answers = Vec::new();
    let mut buffer = [0; 4_096];
    // Closing while the second request is unread may reset the connection, after the answer.
    while let Ok(Ok(len_bytes @ 1..)) = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await {
        answers.extend_from_slice(&buffer[..len_bytes]);
    }
    let answers = String::from_utf8(answers).expect("text");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    assert!(answers.contains("connection: close"), "{answers}");
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let server = serve(|_| {}).await;
    let mut stream = knock(&server).await;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-filler: {}\r\n\r\n", "x".repeat(128 * 1024));
    // The server may close before all of it is written, or before its answer is read.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{answer:?}");
}

#[tokio::test]
async fn a_long_token_and_many_cookies_pass() {
    use tungstenite::client::IntoClientRequest as _;
    let server = serve(|_| {}).await;
    let mut request = format!("ws://{}/den", server.address).into_client_request().expect("a URL");
    for (name, len_bytes) in [("authorization", 8 * 1024), ("cookie", 16 * 1024)] {
        let value = format!("Bearer {}", "x".repeat(len_bytes));
        request.headers_mut().insert(name, value.parse().expect("a header"));
    }
    tokio_tungstenite::connect_async(request).await.expect("it is let in");
}

#[tokio::test]
async fn a_long_init_does_not_keep_a_peer_from_connecting() {
    let server = serve(|_| {}).await;
    let mut long = init("alice");
    let ids = (0..1_000).map(|number| UserId::new(format!("{number:0>64}")).expect("a good id"));
    long.have = Some(ids.collect());
    let config = ConnectConfig { init: Some(long), ..server.config() };
    connect(&config).await.expect("it is too long for a URL, and sent as a message");
}

#[tokio::test]
async fn the_oldest_makes_place_for_a_newcomer_and_is_told() {
    let server = serve(|config| {
        config.capacity = Capacity { pending: 2, ..ROOMY };
        config.timeouts = Timeouts { give_way: Duration::ZERO, handshake: FOREVER, ..Timeouts::default() };
    })
    .await;
    let (mut oldest, _second) = (knock(&server).await, knock(&server).await);
    let alice = server.join("alice").await;
    let answer = read_all(&mut oldest).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    drop(alice);
}

/// The whole of `127.0.0.0/8` is this machine on Linux only.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_address_has_so_many_connections_and_others_have_theirs() {
    let server = serve(|config| {
        config.capacity = Capacity { pending_per_address: 2, ..ROOMY };
        config.timeouts = Timeouts { give_way: FOREVER, handshake: FOREVER, ..Timeouts::default() };
    })
    .await;
    let _held = [knock(&server).await, knock(&server).await];
    let answer = read_all(&mut knock(&server).await).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("this machine has it");
    let mut other = socket.connect(server.address).await.expect("the server is there");
    other.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    assert!(read_all(&mut other).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_full_house_behind_one_address_comes_at_the_same_moment() {
    let server = serve(|config| config.capacity = Capacity::of(4_096)).await;
    let mut all_here = Vec::new();
    for _ in 0..256 {
        all_here.push(knock(&server).await);
    }
    let upgrades = all_here.into_iter().map(|stream| {
        let url = format!("ws://{}/den", server.address);
        async move { tokio_tungstenite::client_async(url, stream).await.map(|(socket, _)| socket) }
    });
    let joined = futures_util::future::join_all(upgrades).await;
    assert_eq!(joined.iter().filter(|joined| joined.is_ok()).count(), 256);
}

#[tokio::test]
async fn who_asks_for_nothing_is_told_and_let_go() {
    let handshake = Duration::from_millis(50);
    let server = serve(|config| config.timeouts = Timeouts { handshake, ..Timeouts::default() }).await;
    let answer = read_all(&mut knock(&server).await).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn a_full_server_says_so_and_takes_the_next_when_somebody_has_left() {
    let server = serve(|config| config.capacity = Capacity { sockets: 1, ..ROOMY }).await;
    let alice = server.join("alice").await;
    let refused = connect(&server.config()).await.expect_err("there is no place");
    assert!(matches!(&refused, ConnectError::Busy { status, .. } if status.as_u16() == 503), "{refused}");
    drop(alice);
    keep_trying(&server.config()).await;
}

#[tokio::test]
async fn strangers_with_codes_do_not_take_the_places_of_members() {
    let server = serve(|config| {
        config.access = fast_rtc_swarm::core::access::Access::Guarded {
            tokens: vec![Secret::new("s3cret")],
            keys: Vec::new(),
        };
        config.codes.silence = FOREVER;
        config.capacity = Capacity { strangers: 1, sockets: 1, ..ROOMY };
    })
    .await;
    let _stranger = server.raw("/.code").await;
    let second = tokio_tungstenite::connect_async(format!("ws://{}/.code", server.address)).await;
    let Err(tungstenite::Error::Http(answer)) = second else { panic!("{second:?}") };
    assert_eq!(answer.status().as_u16(), 503);
    let member = ConnectConfig { token: Some(Secret::new("s3cret")), ..server.config() };
    connect(&member).await.expect("members have places of their own");
}

#[tokio::test]
async fn strangers_who_say_nothing_give_way_to_a_newcomer_where_few_files_may_be_open() {
    let server = serve(|config| {
        config.codes.silence = FOREVER;
        config.codes.give_way = Duration::ZERO;
        config.codes.sockets_per_address = 64;
        config.capacity = Capacity { strangers: 4, ..ROOMY };
        config.access = fast_rtc_swarm::core::access::Access::Guarded {
            tokens: vec![Secret::new("s3cret")],
            keys: Vec::new(),
        };
    })
    .await;
    let newcomer = ConnectConfig { url: format!("ws://{}/.code", server.address), ..server.config() };
    let mut silent = Vec::new();
    for _ in 0..3 {
        let (mut socket, _) = tokio_tungstenite::connect_async(&newcomer.url).await.expect("a place");
        socket.send(Message::Ping("".into())).await.expect("sent");
        assert!(matches!(socket.next().await, Some(Ok(Message::Pong(_)))), "it is being served");
        silent.push(socket);
    }
    let result = redeem(&newcomer, &"7-guitar-bacon".parse().expect("a code")).await;
    assert!(matches!(result, Err(CodeFailure::Unknown)), "it is heard: {result:?}");
    let told = tokio::time::timeout(PATIENCE, silent[0].next()).await.expect("in time");
    let told = told.expect("it is told").expect("it is told");
    assert_eq!(told.to_text().expect("text"), r#"{"type":"codeOver","reason":"limit"}"#);
}

#[cfg(target_os = "linux")]
fn limited(limits: &str) -> (crate::process::Process, String) {
    let serve = ["serve", "--open", "--listen", "127.0.0.1:0", "--json"];
    let mut command = crate::process::limited_command(limits, &serve);
    let mut server = crate::process::Process::start("serve", command.env("SWARM_LOG", "warn"));
    let url = server.wait_event("listening")["url"].as_str().expect("a URL").to_owned();
    (server, url)
}

#[cfg(target_os = "linux")]
#[test]
fn the_server_may_open_as_many_files_as_the_system_lets_it() {
    let (server, _) = limited("ulimit -Sn 100 && ulimit -Hn 500");
    assert_eq!(server.open_files_limits(), ["500", "500"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn strangers_can_not_take_all_files_of_a_server_that_has_few() {
    let (server, url) = limited("ulimit -n 128");
    let address = url.trim_start_matches("ws://").to_owned();
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(TcpStream::connect(&address).await.expect("it listens"));
    }
    let config = ConnectConfig {
        url: format!("{url}/den"),
        token: None,
        trust: fast_rtc_swarm::io::ws::client::Trust::none(),
        wrapped: false,
        init: None,
    };
    // Strangers have a second before they give way.
    keep_trying(&config).await;
    server.signal("TERM");
    let (_, stderr) = server.end();
    assert!(!stderr.contains("could not accept"), "{stderr}");
}
