//! Secrets of a room, looked for everywhere that they must not be.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use fast_rtc_swarm::wire::{Invite, RoomId, RoomKey, Secret, invite::ServerUrl};
use serde_json::json;

use crate::process::{PATIENCE, Process, swarm_command};

const TOKEN: &str = "correct-horse-battery-staple";
const LINE: &str = "the password is swordfish";

fn swarm(name: &str, args: &[&str], invite: Option<&str>) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swarm"));
    // More specific directives than one's own are the way around a limit on logs.
    let log = "trace,tungstenite::handshake::client=trace,tungstenite::protocol=trace";
    command.args(args).env("SWARM_LOG", log).env_remove("SWARM_TOKEN").env_remove("SWARM_INVITE");
    if let Some(invite) = invite {
        command.env("SWARM_INVITE", invite);
    }
    Process::start(name, &mut command)
}

#[test]
fn secrets_are_in_no_log_and_in_no_list_of_processes() {
    let folder = tempfile::tempdir().expect("a folder for the token");
    let token_file = folder.path().join("token.txt");
    fs::write(&token_file, TOKEN).expect("it is ours");
    let token_path = token_file.to_str().expect("a plain path");
    let mut serve =
        swarm("serve", &["serve", "--listen", "127.0.0.1:0", "--token-file", token_path, "--json"], None);
    let listening = serve.wait_event("listening");
    let url = listening["url"].as_str().expect("a URL");

    let key = RoomKey::from_random(*b"sixteen bytes...");
    let server = ServerUrl::parse(url).expect("what serve prints is an address");
    let room = RoomId::new("attic").expect("an id");
    let invite =
        Invite::new(server, room, Some(Secret::new(TOKEN)), Some(key.clone())).expect("sound").reveal();
    let mut ada = swarm("ada", &["join", "--json", "--name", "ada"], Some(&invite));
    ada.wait_event("ready");
    let mut bob = swarm("bob", &["join", "--json", "--name", "bob"], Some(&invite));
    ada.wait_event("open");
    bob.wait_event("open");
    ada.command(&json!({ "cmd": "say", "text": LINE }));
    let heard = bob.wait_event("message");
    assert_eq!(heard["text"], LINE);

    ada.command(&json!({ "cmd": "code" }));
    let open = ada.wait_event("code");
    let code = open["code"].as_str().expect("a code");
    let mut carol = swarm("carol", &["join", "--json", "--name", "carol", url, code], None);
    carol.wait_event("open");
    let (_, words) = code.split_once('-').expect("a number, then the words");

    let secrets = [TOKEN, key.to_text().expose(), LINE].map(str::to_owned);
    for process in [&serve, &ada, &bob] {
        let arguments = process.command_line();
        assert!(!secrets.iter().any(|secret| arguments.contains(secret)), "{arguments}");
    }
    let secrets: Vec<String> = secrets.into_iter().chain([words.to_owned()]).collect();
    serve.signal("TERM");
    for member in [&mut ada, &mut bob, &mut carol] {
        member.command(&json!({ "cmd": "quit" }));
    }
    assert!(listening["token"].is_null(), "a token that was given is not repeated: {listening}");
    for (name, process) in [("serve", serve), ("ada", ada), ("bob", bob), ("carol", carol)] {
        let (_, log) = process.end();
        assert!(log.contains("DEBUG"), "{name} logs all it may: {log}");
        for secret in &secrets {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{name} logs a secret");
        }
    }
}

#[test]
fn a_server_says_its_token_only_if_it_drew_it() {
    let folder = tempfile::tempdir().expect("a folder for the token");
    let token_file = folder.path().join("token.txt");
    fs::write(&token_file, TOKEN).expect("it is ours");
    let token_path = token_file.to_str().expect("a plain path");
    let first_line = |args: &[&str], token: Option<&str>| {
        let mut command = swarm_command(&[&["serve", "--listen", "127.0.0.1:0"], args].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(token) = token {
            command.env("SWARM_TOKEN", token);
        }
        let mut serve = command.spawn().expect("it starts");
        let mut line = String::new();
        let out = serve.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("text");
        serve.kill().expect("it runs");
        serve.wait().expect("it is ours");
        line
    };
    for (args, token) in
        [(&["--token-file", token_path][..], None), (&["--token", TOKEN], None), (&[], Some(TOKEN))]
    {
        let line = first_line(args, token);
        assert!(line.starts_with("ws://127.0.0.1:") && !line.contains("token"), "{args:?}: {line}");
    }
    let line = first_line(&[], None);
    assert!(line.contains("/?token="), "nobody else knows it: {line}");
    let line = first_line(&["--json"], None);
    assert!(line.contains(r#""token":""#), "{line}");
}

/// What a server hears from somebody who has a token of `SWARM_URL` at hand and joins the server's room. It refuses.
fn heard(url: impl FnOnce(&str) -> String) -> (String, Process) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = format!("ws://{}", listener.local_addr().expect("bound"));
    let mut command = swarm_command(&["join", "--json", &format!("{server}/attic")]);
    let process =
        Process::start("mallory's guest", command.env("SWARM_TOKEN", TOKEN).env("SWARM_URL", url(&server)));
    let (mut stream, _) = listener.accept().expect("it comes");
    stream.set_read_timeout(Some(PATIENCE)).expect("a span");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        request.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").expect("it listens");
    (String::from_utf8(request).expect("text"), process)
}

#[test]
fn the_server_of_an_invite_does_not_get_the_token_of_another() {
    let (request, mut guest) = heard(|_| "ws://127.0.0.1:1".to_owned());
    assert!(!request.contains(TOKEN) && !request.to_lowercase().contains("authorization"), "{request}");
    let error = guest.wait_event("error");
    let message = error["message"].as_str().expect("a sentence");
    assert!(message.contains("SWARM_TOKEN is for the server of --url"), "{message}");
    assert_eq!(guest.end().0.code(), Some(3));

    let (request, _guest) = heard(str::to_owned);
    assert!(request.contains(&format!("Bearer {TOKEN}")), "{request}");
}
