//! One-time codes, end to end: the real program at a guarded server, and what strangers can do at that server's door.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fast_rtc_swarm::core::access::Access;
use fast_rtc_swarm::core::code::relay::Limits;
use fast_rtc_swarm::core::code::{Member as MemberEnd, Newcomer};
use fast_rtc_swarm::io::ws::client::code::{CodeFailure, OpenCode, open, redeem};
use fast_rtc_swarm::io::ws::client::{ConnectConfig, ConnectError, Trust};
use fast_rtc_swarm::io::ws::server::{Server, ServerConfig};
use fast_rtc_swarm::wire::code::{ClientCode, Code, CodeOver, Passed, ServerCode};
use fast_rtc_swarm::wire::{Invite, Secret};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, accept_async, connect_async};

use crate::process::{Process, swarm, swarm_command};

const TOKEN: &str = "correct-horse-battery-staple";

/// A code with the same number and other words.
fn other_words(code: &str) -> String {
    let number = code.split('-').next().expect("a number is in front");
    let wrong = format!("{number}-zebra-zoo");
    assert_ne!(wrong, code, "one in four million");
    wrong
}

struct Member {
    _serve: Process,
    ada: Process,
    url: String,
}

/// A member in a room with a key at a server with a token, both real programs.
fn member(args: &[&str]) -> Member {
    let mut command = swarm_command(&["serve", "--listen", "127.0.0.1:0", "--json"]);
    let mut serve = Process::start("serve", command.env("SWARM_TOKEN", TOKEN));
    let url = serve.wait_event("listening")["url"].as_str().expect("a URL").to_owned();
    let fixed = ["join", "--json", "--keep", "--name", "ada", "--url", &url];
    let mut command = swarm_command(&[&fixed[..], args].concat());
    let mut ada = Process::start("ada", command.env("SWARM_TOKEN", TOKEN));
    ada.wait_event("ready");
    Member { _serve: serve, ada, url }
}

impl Member {
    fn news(&mut self, state: &str) -> Value {
        self.ada.wait(state, |said| said["event"] == "code" && said["state"] == state)
    }

    fn open_code(&mut self) -> String {
        let open = self.news("open");
        assert_eq!((open["server"].as_str(), &open["secs"]), (Some(self.url.as_str()), &json!(600)));
        open["code"].as_str().expect("a code").to_owned()
    }
}

/// Runs a newcomer who fails. Returns the exit code and what is said.
fn refused(url: &str, code: &str) -> (Option<i32>, String) {
    let (status, said) = swarm("eve", &["join", "--json", url, code]).end();
    (status.code(), said)
}

#[test]
fn a_newcomer_with_the_code_joins_as_if_it_had_the_invite() {
    let mut member = member(&["--code"]);
    let code = member.open_code();
    let mut bob = swarm("bob", &["join", "--json", "--keep", "--name", "bob", &member.url, &code]);
    assert_eq!(bob.wait_event("ready")["room"], member.ada.wait_event("invite")["room"]);
    assert_eq!(bob.wait_event("open")["peer"]["verified"], true);
    assert_eq!(member.ada.wait_event("open")["peer"]["name"], "bob");
    assert_eq!(member.news("used")["code"], code.as_str());

    let (exit, said) = refused(&member.url, &code);
    assert_eq!(exit, Some(3), "{said}");
    assert!(said.contains("no code of that number"), "it works once: {said}");
}

#[test]
fn a_wrong_code_is_refused_told_and_burnt() {
    let mut member = member(&[]);
    member.ada.command(&json!({ "cmd": "code", "ref": "first" }));
    let code = member.open_code();
    let mut eve = swarm("eve", &["join", "--json", &member.url, &other_words(&code)]);
    assert_eq!(eve.wait_event("error")["code"], "refused");
    assert_eq!(eve.wait_event("end")["exit"], 3);
    let (status, said) = eve.end();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("the code was wrong"), "{said}");
    let wrong = member.news("wrong");
    assert_eq!((wrong["code"].as_str(), &wrong["ref"]), (Some(code.as_str()), &json!("first")));

    let (exit, said) = refused(&member.url, &code);
    assert_eq!((exit, said.contains("no code of that number")), (Some(3), true), "burnt: {said}");

    member.ada.command(&json!({ "cmd": "code" }));
    let next = member.open_code();
    let mut bob = swarm("bob", &["join", "--json", "--url", &member.url, &next]);
    bob.wait_event("ready");
    member.news("used");
}

#[test]
fn a_misspelt_code_is_not_tried() {
    let mut member = member(&["--code"]);
    let code = member.open_code();
    let number = code.split('-').next().expect("a number");
    let (exit, said) = refused(&member.url, &format!("{number}-gitar-zoo"));
    assert_eq!(exit, Some(2), "{said}");
    assert!(said.contains("the 1. word of the code is not one of the list"), "{said}");
    // Nor is a good one, if something else is wrong.
    let (status, said) = swarm("eve", &["join", &member.url, &code, "--room", "attic"]).end();
    assert_eq!(status.code(), Some(2), "{said}");
    let (status, said) = swarm("eve", &["join", &code]).end();
    assert_eq!((status.code(), said.contains("say at which server")), (Some(2), true), "{said}");
    let mut bob = swarm("bob", &["join", "--json", &member.url, &code]);
    bob.wait_event("ready");
}

#[test]
fn a_file_goes_to_whoever_has_the_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = folder.path().join("film.bin");
    std::fs::write(&film, b"a short film").expect("written");
    let film = film.to_str().expect("a plain path");
    let mut ada = swarm("ada", &["send", "--json", "--code", film]);
    let open = ada.wait("a code", |said| said["event"] == "code" && said["state"] == "open");
    let [server, code] = ["server", "code"].map(|field| open[field].as_str().expect("a text"));
    let out = folder.path().join("inbox");
    std::fs::create_dir(&out).expect("a folder");
    let out_path = out.to_str().expect("a plain path");
    let bob = swarm("bob", &["recv", "--yes", "--out", out_path, server, code]);
    assert!(ada.end().0.success());
    let (status, said) = bob.end();
    assert!(status.success(), "{said}");
    assert_eq!(std::fs::read(out.join("film.bin")).expect("it is there"), b"a short film");
}

/// A newcomer with a token of its own in a file, and a code that brings an invite to a room at `target` without one.
async fn newcomer_with_a_token_file(server: SocketAddr, target: SocketAddr) -> Process {
    let code = opened(server).await;
    let typed = code.code().reveal();
    let invite = Invite::parse(&format!("ws://{target}/attic")).expect("sound");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut file, TOKEN.as_bytes()).expect("written");
    let url = format!("ws://{server}");
    let path = file.path().to_str().expect("a plain path");
    let bob = swarm("bob", &["join", "--json", &url, &typed, "--token-file", path]);
    code.hand_over(&invite).await.expect("the newcomer has it");
    // The file is read when the invite is here.
    tokio::task::spawn_blocking(move || {
        let mut bob = bob;
        bob.wait("the server", |said| said["event"] == "ready" || said["event"] == "error");
        drop(file);
        bob
    })
    .await
    .expect("no panic")
}

#[tokio::test]
async fn with_a_code_a_token_file_is_for_the_server_that_was_typed() {
    let server = serve(Limits::default(), guarded()).await;
    let bob = newcomer_with_a_token_file(server, server).await;
    assert!(bob.said().any(|said| said["event"] == "ready"), "the token is for this server");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let target = listener.local_addr().expect("bound");
    let hearing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("it comes");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a request"));
        }
        let refusal = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refusal).await.expect("it listens");
        String::from_utf8(request).expect("text")
    });
    let guest = newcomer_with_a_token_file(server, target).await;
    let request = hearing.await.expect("no panic");
    assert!(!request.contains(TOKEN) && !request.to_lowercase().contains("authorization"), "{request}");
    let error = guest.said().find(|said| said["event"] == "error").expect("it is told");
    assert!(error["message"].as_str().is_some_and(|message| message.contains("--token-file")), "{error}");
}

/// The rest at a server in this process, where time can be short.
async fn serve(limits: Limits, access: Access) -> SocketAddr {
    let mut config = ServerConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), access);
    config.codes = limits;
    let server = Server::bind(config).await.expect("a free port");
    let address = server.local_addr();
    tokio::spawn(server.run(std::future::pending()));
    address
}

fn guarded() -> Access {
    Access::Guarded { tokens: vec![Secret::new(TOKEN)], keys: Vec::new() }
}

fn connect(address: SocketAddr, token: Option<&str>) -> ConnectConfig {
    // Newcomers come through a reverse proxy that put something in front.
    let path = if token.is_some() { ".code" } else { "swarm/.code" };
    let url = format!("ws://{address}/{path}");
    ConnectConfig { url, token: token.map(Secret::new), trust: Trust::none(), wrapped: false, init: None }
}

fn invite() -> Invite {
    Invite::parse("ws://h:7700/attic?token=secret").expect("sound")
}

async fn opened(address: SocketAddr) -> OpenCode {
    open(&connect(address, Some(TOKEN))).await.expect("a member may")
}

type Raw = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn stranger(address: SocketAddr) -> Raw {
    connect_async(format!("ws://{address}/.code")).await.expect("strangers may come this far").0
}

async fn hear(socket: &mut Raw) -> Option<ServerCode> {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => ServerCode::parse(&text),
        _ => None,
    }
}

fn text(message: &ClientCode) -> Message {
    Message::Text(message.to_text().into())
}

#[tokio::test]
async fn a_code_that_nobody_used_expires() {
    let limits = Limits { lifetime: Duration::from_millis(300), ..Limits::default() };
    let address = serve(limits, guarded()).await;
    let result = opened(address).await.hand_over(&invite()).await;
    assert!(matches!(result, Err(CodeFailure::Expired)), "{result:?}");
    // What the server does is seen on a socket that does not close itself.
    let url = format!("ws://{address}/.code?token={TOKEN}");
    let mut member = connect_async(url).await.expect("a member may").0;
    member.send(text(&ClientCode::CodeOpen)).await.expect("sent");
    let Some(ServerCode::CodeOpened { number, .. }) = hear(&mut member).await else { panic!("a number") };
    assert_eq!(hear(&mut member).await, Some(ServerCode::CodeOver { reason: CodeOver::Expired }));
    let code = Code::from_random(number, rand::random());
    let result = redeem(&connect(address, None), &code).await;
    assert!(matches!(result, Err(CodeFailure::Unknown)), "{result:?}");
}

#[tokio::test]
async fn whoever_has_no_token_can_do_nothing_but_claim() {
    let address = serve(Limits::default(), guarded()).await;
    for token in [None, Some("another")] {
        let result = open(&connect(address, token)).await;
        assert!(matches!(result, Err(CodeFailure::Connect(ConnectError::TokenRefused))), "{result:?}");
    }
    // No room, no member, no offer behind this door.
    for message in [r#"{"type":"init","userId":"eve","roomId":"attic"}"#, "hello", r#"{"type":"codeRefuse"}"#]
    {
        let mut socket = stranger(address).await;
        socket.send(Message::text(message)).await.expect("sent");
        let over = ServerCode::CodeOver { reason: CodeOver::Malformed };
        assert_eq!(hear(&mut socket).await, Some(over), "{message}");
        assert_eq!(hear(&mut socket).await, None);
    }
}

#[tokio::test]
async fn a_claim_without_a_proof_burns_the_code_and_learns_nothing() {
    let address = serve(Limits::default(), guarded()).await;
    let code = opened(address).await;
    let secret = code.code().clone();
    let member = tokio::spawn(async move { code.hand_over(&invite()).await });

    // A point that anybody can make: half an exchange under another code.
    let guess: Code = "1-zebra-zoo".parse().expect("a code");
    let (_, claim) = Newcomer::new(&guess, [1; 32]);
    let mut socket = stranger(address).await;
    let claim = ClientCode::CodeClaim { number: secret.number(), message: Passed::new(claim) };
    socket.send(text(&claim)).await.expect("sent");
    let Some(ServerCode::CodePass { message }) = hear(&mut socket).await else { panic!("no answer") };
    assert_eq!(message.bytes().len(), 33, "a point, which is as good as random, and nothing else");
    drop(socket);

    let told = member.await.expect("no panic");
    assert!(matches!(told, Err(CodeFailure::Left)), "{told:?}");
    let result = redeem(&connect(address, None), &secret).await;
    assert!(matches!(result, Err(CodeFailure::Unknown)), "{result:?}");
}

#[tokio::test]
async fn strangers_run_out_of_claims() {
    let address = serve(Limits { claims_burst: 2, ..Limits::default() }, guarded()).await;
    let code = opened(address).await;
    let free = if u16::from(code.code().number()) == 1 { "2-zebra-zoo" } else { "1-zebra-zoo" };
    let free: Code = free.parse().expect("a code");
    for _ in 0..2 {
        let result = redeem(&connect(address, None), &free).await;
        assert!(matches!(result, Err(CodeFailure::Unknown)), "{result:?}");
    }
    let result = redeem(&connect(address, None), &free).await;
    assert!(matches!(result, Err(CodeFailure::Limit)), "{result:?}");
}

#[tokio::test]
async fn a_web_page_can_not_burn_codes() {
    let address = serve(Limits::default(), Access::Open).await;
    let mut request = format!("ws://{address}/.code").into_client_request().expect("an address");
    request.headers_mut().insert("origin", "http://localhost".parse().expect("a header"));
    let Err(Error::Http(response)) = connect_async(request).await else { panic!("it was let in") };
    assert_eq!(response.status(), 403);
}

/// Between a member and a newcomer who have the same code, a server that knows the words by their number only and tries
/// its luck with each end.
#[tokio::test]
async fn a_server_that_guesses_is_told_no_by_both_ends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let config = connect(address, None);
    let code_is = open(&config);
    let number = "7-guitar-bacon".parse::<Code>().expect("a code").number();
    let guess: Code = "7-zebra-zoo".parse().expect("a code");
    let opening = async {
        let (stream, _) = listener.accept().await.expect("the member comes");
        let mut member = accept_async(stream).await.expect("it upgrades");
        member.next().await.expect("open").expect("open");
        let opened = ServerCode::CodeOpened { number, secs: 600 }.to_text();
        member.send(Message::text(opened)).await.expect("sent");
        member
    };
    let (code, mut member) = tokio::join!(code_is, opening);
    let code = code.expect("a number was given");
    let truth = code.code().clone();
    assert_ne!(truth, guess, "one in four million");

    // The newcomer, to whom the server plays the member.
    let connecting = connect(address, None);
    let newcomer_end = redeem(&connecting, &truth);
    let as_member = async {
        let (stream, _) = listener.accept().await.expect("the newcomer comes");
        let mut newcomer = accept_async(stream).await.expect("it upgrades");
        let Some(ClientCode::CodeClaim { message, .. }) = said(&mut newcomer).await else {
            panic!("no claim")
        };
        let role = MemberEnd::new(&guess, [1; 32]);
        let (doubting, answer) = role.answer(message.bytes()).expect("a claim");
        newcomer.send(passing(answer)).await.expect("sent");
        let Some(ClientCode::CodePass { message }) = said(&mut newcomer).await else { panic!("no proof") };
        let result = doubting.hand_over(message.bytes(), &invite());
        assert!(result.is_err(), "the guess was wrong");
        newcomer.send(passing(vec![0; 100])).await.expect("sent");
        assert_eq!(said(&mut newcomer).await, Some(ClientCode::CodeRefuse));
        message
    };
    let (result, proof) = tokio::join!(newcomer_end, as_member);
    assert!(matches!(result, Err(CodeFailure::Wrong)), "{result:?}");

    // The member, to whom it plays the newcomer, with the proof that it was given as its second try.
    let given = invite();
    let member_end = code.hand_over(&given);
    let as_newcomer = async {
        let (_, claim) = Newcomer::new(&guess, [2; 32]);
        member.send(passing(claim)).await.expect("sent");
        let Some(ClientCode::CodePass { .. }) = said(&mut member).await else { panic!("no answer") };
        member.send(passing(proof.bytes().to_vec())).await.expect("sent");
        assert_eq!(said(&mut member).await, Some(ClientCode::CodeRefuse), "and no invite");
    };
    let (result, ()) = tokio::join!(member_end, as_newcomer);
    assert!(matches!(result, Err(CodeFailure::Wrong)), "{result:?}");
}

/// What a newcomer's program ends with when a server claims to be the member, and says `last` once it has the newcomer's proof,
/// or instead of the member's answer to the claim; `None` hangs up.
async fn ending(code: &str, has_proof: bool, last: Option<String>) -> (Option<i32>, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let url = format!("ws://{}", listener.local_addr().expect("bound"));
    let code = code.to_owned();
    let newcomer = tokio::task::spawn_blocking(move || refused(&url, &code));
    let (stream, _) = listener.accept().await.expect("the newcomer comes");
    let mut socket = accept_async(stream).await.expect("it upgrades");
    let Some(ClientCode::CodeClaim { message, .. }) = said(&mut socket).await else { panic!("no claim") };
    if has_proof {
        let guess = "7-zebra-zoo".parse().expect("a code");
        let (_, answer) = MemberEnd::new(&guess, [1; 32]).answer(message.bytes()).expect("a claim");
        socket.send(passing(answer)).await.expect("sent");
        assert!(matches!(said(&mut socket).await, Some(ClientCode::CodePass { .. })), "no proof");
    }
    if let Some(last) = last {
        socket.send(Message::text(last)).await.expect("sent");
        while socket.next().await.is_some_and(|heard| heard.is_ok()) {}
    }
    drop(socket);
    newcomer.await.expect("no panic")
}

fn over(reason: CodeOver) -> Option<String> {
    Some(ServerCode::CodeOver { reason }.to_text())
}

#[tokio::test]
async fn whatever_ends_a_newcomers_attempt_after_its_proof_the_code_is_spent() {
    // A server whose guess was wrong would rather have the same code typed again.
    let reasons = [
        CodeOver::Limit,
        CodeOver::Forbidden,
        CodeOver::ShuttingDown,
        CodeOver::Unknown,
        CodeOver::Expired,
        CodeOver::Left,
        CodeOver::TooSlow,
        CodeOver::Wrong,
        CodeOver::Malformed,
    ];
    let garbage = Some("{}".to_owned());
    for last in [None, garbage].into_iter().chain(reasons.map(over)) {
        let shown = format!("{last:?}");
        let (exit, said) = ending("7-guitar-bacon", true, last).await;
        assert_eq!(exit, Some(3), "{shown}: {said}");
        assert!(said.contains("ask for another"), "{shown}: {said}");
    }
}

#[tokio::test]
async fn a_claim_that_was_not_taken_spends_no_code_and_a_line_that_breaks_after_it_does() {
    let (exit, said) = ending("7-guitar-bacon", false, over(CodeOver::Limit)).await;
    assert_eq!((exit, said.contains("wait a minute")), (Some(3), true), "{said}");
    for last in [None, over(CodeOver::ShuttingDown)] {
        let (exit, said) = ending("7-guitar-bacon", false, last).await;
        assert_eq!((exit, said.contains("the code is spent")), (Some(3), true), "{said}");
    }
}

async fn said(socket: &mut WebSocketStream<TcpStream>) -> Option<ClientCode> {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => ClientCode::parse(&text),
        _ => None,
    }
}

fn passing(message: Vec<u8>) -> Message {
    Message::text(ServerCode::CodePass { message: Passed::new(message) }.to_text())
}

#[tokio::test]
async fn a_code_expires_even_if_the_server_keeps_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let config = connect(listener.local_addr().expect("bound"), None);
    for (secs, kept) in [(0, 0), (u64::MAX, 600)] {
        let server = async {
            let (stream, _) = listener.accept().await.expect("the member comes");
            let mut member = accept_async(stream).await.expect("it upgrades");
            member.next().await.expect("open").expect("open");
            let number = "7-guitar-bacon".parse::<Code>().expect("a code").number();
            let opened = ServerCode::CodeOpened { number, secs }.to_text();
            member.send(Message::text(opened)).await.expect("sent");
            member
        };
        let (code, mut member) = tokio::join!(open(&config), server);
        let code = code.expect("a number was given");
        assert_eq!(code.lifetime(), Duration::from_secs(kept));
        if kept == 0 {
            let (_, claim) = Newcomer::new(code.code(), [1; 32]);
            member.send(passing(claim)).await.expect("sent");
            let result = code.hand_over(&invite()).await;
            assert!(matches!(result, Err(CodeFailure::Expired)), "{result:?}");
        }
    }
}

/// Servers of the published kind, and ours of before, take the path for a room.
#[tokio::test]
async fn a_server_without_codes_is_told_from_a_wrong_code() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let old = tokio::spawn(async move {
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.expect("somebody comes");
            let mut socket = accept_async(stream).await.expect("it upgrades");
            socket.next().await.expect("a message").expect("a message");
            let unknown =
                r#"{"type":"signal_error","code":"unknown_type","message":"this server does not know"}"#;
            socket.send(Message::text(unknown)).await.expect("sent");
        }
    });
    let result = open(&connect(address, None)).await;
    assert!(matches!(result, Err(CodeFailure::NoCodes)), "{result:?}");
    let result = redeem(&connect(address, None), &"7-guitar-bacon".parse().expect("a code")).await;
    assert!(matches!(result, Err(CodeFailure::NoCodes)), "{result:?}");
    old.await.expect("no panic");
}
