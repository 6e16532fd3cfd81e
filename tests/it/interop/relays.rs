//! A TURN server that others wrote (coturn), and those who see nothing of each other but what it passes on.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::process::{PATIENCE, Process, swarm};

/// The header of a STUN question (RFC 8489 §5).
const BINDING_REQUEST: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// coturn for the user `ada`, at an address of its own: all of 127/8 is this machine.
fn turn() -> (Process, SocketAddr) {
    static NUMBER: AtomicU8 = AtomicU8::new(64);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = SocketAddr::from(([127, NUMBER.fetch_add(1, Ordering::Relaxed), high, low], 3478));
    let ip = address.ip().to_string();
    let mut command = Command::new("turnserver");
    command
        .args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--no-rfc5780", "--allow-loopback-peers"])
        .args(["--lt-cred-mech", "--realm", "swarm", "--user", "ada:secret", "--simple-log"])
        .args(["--log-file", "stdout", "--pidfile", "", "--userdb", ""])
        .args(["--listening-ip", &ip, "--relay-ip", &ip, "--listening-port", "3478"]);
    let server = Process::start("turnserver", &mut command);
    answers(address);
    (server, address)
}

fn answers(server: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
    let deadline = Instant::now() + PATIENCE;
    let mut answer = [0; 512];
    loop {
        let _ = socket.send_to(&BINDING_REQUEST, server);
        if matches!(socket.recv_from(&mut answer), Ok((_, from)) if from == server) {
            return;
        }
        assert!(Instant::now() < deadline, "the TURN server does not answer");
    }
}

#[test]
#[ignore = "needs coturn: scripts/test interop"]
fn where_only_the_relay_leads_to_each_other_lines_and_files_go_through_it() {
    let (_turn, address) = turn();
    let server = format!("turn:ada:secret@{address}");
    let relayed = ["--json", "--relay-only", "--ice-server", &server];
    let mut ann = swarm("ann", &[&["join", "--name", "ann"], &relayed[..]].concat());
    let invite = ann.wait_event("invite")["invite"].as_str().expect("an invite").to_owned();
    let mut bob = swarm("bob", &[&["join", "--name", "bob", &invite], &relayed[..]].concat());
    for peer in [&mut ann, &mut bob] {
        peer.wait_event("open");
    }
    ann.command(&json!({ "cmd": "say", "text": "through the relay" }));
    bob.wait("the line", |said| said["event"] == "message" && said["text"] == "through the relay");
    ann.command(&json!({ "cmd": "peers" }));
    let peers = ann.wait_event("peers");
    assert_eq!(peers["peers"][0]["path"]["kind"], "relayed", "{peers}");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("film.bin");
    std::fs::write(&file, b"swarm".repeat(1 << 20)).expect("it is ours");
    let out = folder.path().join("out");
    let target = out.to_str().expect("a plain path");
    let receive = ["recv", &invite, "--yes", "--out", target, "--name", "cyd"];
    let mut cyd = swarm("cyd", &[&receive, &relayed[..]].concat());
    cyd.wait_event("open");
    ann.command(&json!({ "cmd": "send", "paths": [file] }));
    cyd.wait_event("done");
    assert!(std::fs::read(out.join("film.bin")).expect("it arrived") == b"swarm".repeat(1 << 20));
}

#[test]
#[ignore = "needs coturn: scripts/test interop"]
fn a_wrong_password_for_the_relay_is_told_of() {
    let (_turn, address) = turn();
    let server = format!("turn:ada:wrong@{address}");
    let mut ann = swarm("ann", &["join", "--json", "--relay-only", "--ice-server", &server]);
    let trouble = ann.wait_event("ice_server");
    assert_eq!((&trouble["reason"], &trouble["code"]), (&json!("refused"), &json!(401)), "{trouble}");
}
