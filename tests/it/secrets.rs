//! Secrets of a room, looked for everywhere that they must not be.

use std::fs;
use std::process::Command;

use fast_rtc_swarm::wire::{Invite, RoomId, RoomKey, Secret, invite::ServerUrl};
use serde_json::json;

use crate::process::Process;

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
    for (name, process) in [("serve", serve), ("ada", ada), ("bob", bob), ("carol", carol)] {
        let (_, log) = process.end();
        assert!(log.contains("DEBUG"), "{name} logs all it may: {log}");
        for secret in &secrets {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{name} logs a secret");
        }
    }
}
