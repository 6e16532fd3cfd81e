//! The real program, end to end: several processes on this machine, talking JSON lines.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

#[cfg(target_os = "linux")]
use crate::process::limited_command;
use crate::process::{PATIENCE, Process, swarm, swarm_command};
use crate::scene::{Arrival, Kind, Scene, Sight};

const THREE: [(&str, Kind); 3] = [("ann", Kind::Ours), ("bob", Kind::Ours), ("cyd", Kind::Ours)];

/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn three_peers_chat_and_one_sends_a_file_to_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = folder.path().join("film.bin");
    fs::write(&film, noise(64 << 20)).expect("room for the film");

    let mut scene = Scene::new();
    scene.join("ann", Kind::Ours);
    for name in ["bob", "cyd"] {
        let out = folder.path().join(name);
        fs::create_dir(&out).expect("a folder for each");
        scene.join_ours(name, &["--yes", "--out", path(&out)]);
    }
    scene.everyone_meets();
    scene.everyone_is_heard("hello");

    scene.process("ann").command(&json!({ "cmd": "send", "paths": [path(&film)] }));
    scene.everyone_is_heard("a line passes the file");
    let sent = fs::read(&film).expect("the film");
    for name in ["bob", "cyd"] {
        let done = scene.process(name).wait_event("done");
        assert_eq!(done["bytes"], 64 << 20);
        let got = fs::read(folder.path().join(name).join("film.bin")).expect("it is in its place");
        assert!(got == sent, "{name} got another film");
    }
}

#[test]
fn members_come_and_go_in_every_order() {
    let mut scene = Scene::new();
    for (come, go) in ORDERS.into_iter().zip(ORDERS.into_iter().rev()) {
        scene.gather(&come.map(|i| THREE[i]), Arrival::OneByOne);
        scene.everyone_is_heard("hello");
        for name in go.map(|i| THREE[i].0) {
            scene.leave(name);
            scene.others_see(Sight::Closed(name));
            scene.forget(name);
            scene.everyone_is_heard("good bye");
        }
        scene.next_room();
    }
}

#[test]
fn the_mesh_goes_on_without_its_server_and_heals_with_the_next_one() {
    let address = free_address();
    let serve = || swarm("serve", &["serve", "--listen", &address, "--open", "--json"]);
    let mut scene = Scene::with_server(serve());
    scene.gather(&THREE, Arrival::OneByOne);
    scene.server.signal("KILL");
    for (name, _) in THREE {
        scene
            .process(name)
            .wait("the loss of the server", |said| said["event"] == "signaling" && said["state"] == "down");
    }
    scene.everyone_is_heard("nobody in the middle");

    let mut server = serve();
    server.wait_event("listening");
    scene.server = server;
    scene.join("dan", Kind::Ours);
    scene.meets_everyone("dan");
    scene.everyone_is_heard("all of us");
    for (name, _) in THREE {
        let closed = scene.process(name).said().find(|said| said["event"] == "close");
        assert_eq!(closed, None, "{name} lost a link that worked");
    }
}

#[test]
fn a_killed_peer_is_reported_within_fifteen_seconds() {
    let mut scene = Scene::new();
    scene.gather(&THREE, Arrival::AllAtOnce);
    scene.process("bob").signal("KILL");
    let killed = Instant::now();
    for name in ["ann", "cyd"] {
        scene.sees(name, Sight::Closed("bob"));
    }
    assert!(killed.elapsed() < Duration::from_secs(15), "it took {:?}", killed.elapsed());
}

#[test]
fn a_very_long_line_arrives_whole_in_parts() {
    let mut scene = Scene::new();
    scene.gather(&THREE, Arrival::AllAtOnce);
    for len in [262_143, 262_144, 262_145, 2 << 20] {
        let line: String =
            ("abcdefghijklmnopqrstuvwxyz ".chars().cycle().take(len - 1)).chain(['.']).collect();
        scene.say("ann", &line);
        for name in ["bob", "cyd"] {
            assert!(lines_until(scene.process(name), '.') == line, "{name} did not get {len} bytes whole");
        }
    }
}

/// The texts of messages up to the first that ends in `end`, in one.
fn lines_until(process: &mut Process, end: char) -> String {
    let mut whole = String::new();
    while !whole.ends_with(end) {
        whole += process.wait_event("message")["text"].as_str().expect("a message has a text");
    }
    whole
}

#[test]
fn without_a_terminal_lines_of_stdin_are_said_and_lines_of_others_come_out() {
    let mut scene = Scene::new();
    scene.join("ann", Kind::Ours);
    let (url, room) = (scene.url.clone(), scene.room_name());
    scene.id("ann");
    let mut piped = swarm("piped", &["join", "--url", &url, "--room", &room, "--name", "bob"]);
    piped.write(b"hello\n");
    scene.process("ann").wait("hello", |said| said["event"] == "message" && said["text"] == "hello");
    scene.say("ann", "welcome");
    piped.wait("welcome", |line| *line == "<ann> welcome");
    piped.close_stdin();
    let (status, _) = piped.end();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_stun_or_turn_server_that_is_of_no_use_is_told_of() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port that does not answer");
    let silent = nobody.local_addr().expect("it is bound");
    for (server, why, said) in [
        (silent.to_string(), "silent", "no answer from the STUN or TURN server"),
        ("nowhere.invalid:3478".to_owned(), "unresolved", "can't find the STUN or TURN server"),
    ] {
        let turn = format!("turn:ada:secret@{server}");
        let mut json = swarm("json", &["join", "--json", "--relay-only", "--ice-server", &turn]);
        let trouble = json.wait_event("ice_server");
        assert_eq!((&trouble["server"], &trouble["reason"]), (&json!(server), &json!(why)));
        let mut piped = swarm("piped", &["join", "--keep", "--relay-only", "--ice-server", &turn]);
        piped.wait_for_error(said);
        piped.signal("TERM");
        let (_, log) = piped.end();
        assert!(log.contains(&server) && !log.contains("ERROR"), "{log}");
    }
}

/// Three megabytes of lines, and somebody who takes nothing for a while, or any more.
#[test]
fn what_was_said_before_the_end_of_stdin_arrives_first_or_the_exit_code_says_that_it_did_not() {
    for comes_back in [true, false] {
        let mut scene = Scene::new();
        scene.join("ann", Kind::Ours);
        let (url, room) = (scene.url.clone(), scene.room_name());
        scene.id("ann");
        let mut piped = swarm("piped", &["join", "--url", &url, "--room", &room, "--name", "bob"]);
        piped.write(b"hello\n");
        scene.process("ann").wait("hello", |said| said["event"] == "message" && said["text"] == "hello");
        scene.process("ann").signal("STOP");
        let lines = [&b"x".repeat(1_000)[..], b"\n"].concat().repeat(3_000);
        piped.write(&lines);
        piped.write(b"goodbye\n");
        piped.close_stdin();
        if comes_back {
            std::thread::sleep(Duration::from_millis(2_500));
            scene.process("ann").signal("CONT");
            let is_last = |said: &Value| said["event"] == "message" && said["text"] == "goodbye";
            scene.process("ann").wait("goodbye", is_last);
        }
        let (status, log) = piped.end();
        scene.process("ann").signal("CONT");
        assert_eq!(status.code(), Some(if comes_back { 0 } else { 5 }), "{log}");
        assert_eq!(log.contains("did not arrive"), !comes_back, "{log}");
    }
}

#[test]
fn a_host_that_hears_wrapped_signals_only_is_spoken_to_like_that() {
    let host = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", host.local_addr().expect("it is bound"));
    let (sender, heard) = mpsc::channel();
    thread::spawn(move || {
        let (stream, _) = host.accept().expect("a peer");
        let mut socket = tungstenite::accept(stream).expect("a WebSocket");
        while let Ok(message) = socket.read() {
            if let tungstenite::Message::Text(text) = message {
                // Nobody listens once the test has heard enough.
                let _ = sender.send(text.to_string());
            }
        }
    });
    let _peer = swarm("ann", &["join", "--json", "--url", &url, "--room", "den", "--wrapped"]);
    for expected in ["init", "offer"] {
        let text = heard.recv_timeout(PATIENCE).expect("the peer speaks first");
        let message: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(message["type"], "WRTC_SIGNAL");
        assert_eq!(message["signal"]["type"], expected);
    }
}

#[test]
fn a_wrong_token_is_refused() {
    let serve = ["serve", "--listen", "127.0.0.1:0", "--token", "the-right-one-of-all", "--json"];
    let scene = Scene::with_server(swarm("serve", &serve));
    ends(&["join", &format!("{}/den?token=the-wrong-one", scene.url), "--json"], 3, "token");
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    ends(&["join", "--url", &format!("ws://{}", free_address()), "--room", "r", "--json"], 4, "127.0.0.1");
}

#[test]
fn a_url_that_is_none_is_a_usage_error() {
    ends(&["join", "--url", "not a url", "--room", "den"], 2, "ws://");
    ends(&["join", "gopher://example.org/den"], 2, "ws://");
}

#[test]
fn a_time_that_no_clock_counts_to_is_a_usage_error() {
    let forever = u64::MAX.to_string();
    ends(&["serve", "--open", "--listen", "127.0.0.1:0", "--grace", &forever], 2, "2592000");
    ends(&["recv", "--timeout", &forever], 2, "2592000");
    ends(&["send", file!(), "--timeout", &forever], 2, "2592000");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it is bound").to_string();
    ends(&["serve", "--open", "--listen", &address], 1, &address);
}

#[test]
fn what_can_not_be_sent_is_named() {
    let scene = Scene::new();
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.is_ok_and(|status| status.success()));
    let place = ["--url", &scene.url, "--room", "den"];
    ends(&[&["send", "/nowhere/film.bin"], &place[..]].concat(), 1, "/nowhere/film.bin");
    ends(&[&["send", path(&fifo)], &place[..]].concat(), 1, "nothing to send");
}

#[test]
fn nobody_to_send_to_is_said_in_time() {
    let scene = Scene::new();
    let send = ["send", file!(), "--url", &scene.url, "--room", "den", "--timeout", "1"];
    ends(&send, 1, "nobody came");
}

#[cfg(target_os = "linux")]
#[test]
fn members_may_open_as_many_files_as_the_system_lets_them() {
    let scene = Scene::new();
    for command in [&["join"][..], &["recv", "--yes"], &["send", file!()]] {
        let args = [command, &["--json", "--url", &scene.url, "--room", "den"]].concat();
        let mut limited = limited_command("ulimit -Sn 100 && ulimit -Hn 500", &args);
        let mut member = Process::start(command[0], &mut limited);
        member.wait_event("ready");
        assert_eq!(member.open_files_limits(), ["500", "500"], "{command:?}");
    }
}

#[test]
fn a_full_disk_under_stdout_is_a_failure_and_a_closed_pipe_is_none() {
    let scene = Scene::new();
    let join = ["join", "--json", "--url", &scene.url, "--room", "den"];
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has one");
    let ended = swarm_command(&join).stdin(Stdio::null()).stdout(full).output().expect("it starts");
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("No space left"), "{ended:?}");

    let mut piped = swarm_command(&join);
    let mut piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    drop(piped.stdout.take());
    assert_eq!(piped.wait().expect("it is ours").code(), Some(0));
}

#[test]
fn a_full_disk_under_a_received_file_is_told_to_both_and_can_be_gone_on_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = folder.path().join("film.bin");
    fs::write(&film, noise(16 << 20)).expect("room for the film");
    let scene = Scene::new();
    let place = ["--url", &scene.url, "--room", "den"];
    let send = [&["send", path(&film)], &place[..]].concat();
    let sender = swarm("sender", &send);

    // A file system of its own, in a namespace of its own: a disk that is full whoever asks.
    let out = folder.path().join("out");
    fs::create_dir(&out).expect("a folder for it");
    let recv = format!(
        "mount -t tmpfs -o size=4m tmpfs {out} && exec {program} recv --url {url} --room den --yes --out {out}",
        out = path(&out),
        program = env!("CARGO_BIN_EXE_swarm"),
        url = scene.url,
    );
    let mut command = Command::new("unshare");
    let receiver =
        Process::start("receiver", command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &recv]));
    let (status, stderr) = receiver.end();
    assert_eq!(status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("the disk is full"), "{stderr}");
    let (status, stderr) = sender.end();
    assert_eq!(status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("the disk is full there"), "{stderr}");
}

#[test]
fn what_is_beyond_the_limits_is_declined_and_both_are_told_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let inbox = folder.path().join("inbox");
    fs::create_dir(&inbox).expect("made");
    let write = |name: &str, len: usize| {
        let file = folder.path().join(name);
        fs::write(&file, noise(len)).expect("written");
        file
    };
    let (large, small, other, third) =
        (write("large", 2_001), write("small", 1_000), write("other", 10), write("third", 10));

    let scene = Scene::new();
    let place = ["--url", &scene.url, "--room", "den"];
    let take = ["recv", "--json", "--yes", "--max-size", "2K", "--max-files", "2", "--out", path(&inbox)];
    let mut receiver = swarm("receiver", &[&take[..], &place].concat());
    receiver.wait_event("ready");
    ends(&[&["send", path(&large)], &place[..]].concat(), 3, "large: larger than the receiver takes");
    let failed = receiver.wait_event("failed");
    assert_eq!(failed["reason"], "declined: larger than the receiver takes");
    let many = ["send", path(&small), path(&other), path(&third)];
    ends(&[&many, &place[..]].concat(), 3, "more files than the receiver takes");
    assert_eq!(receiver.wait_event("failed")["reason"], "declined: more files than the receiver takes");
    ends(&[&["send", path(&small)], &place[..]].concat(), 0, "small was delivered");
    let (status, _) = receiver.end();
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_dir(&inbox).expect("a folder").count(), 1, "only one file was taken");
}

#[test]
fn whoever_offers_first_what_somebody_trusted_sends_does_not_have_it_declined() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = folder.path().join("film.bin");
    fs::write(&film, noise(1_000)).expect("written");
    let inbox = |name: &str| {
        let inbox = folder.path().join(name);
        fs::create_dir(&inbox).expect("made");
        inbox
    };
    let (of_bob, ours) = (inbox("bob"), inbox("ours"));

    let scene = Scene::new();
    let place = ["--url", &scene.url, "--room", "den"];
    let stay = ["join", "--json", "--keep", "--yes", "--name", "bob", "--out", path(&of_bob)];
    let mut bob = swarm("bob", &[&stay[..], &place].concat());
    bob.wait_event("ready");
    let send = [&["send", path(&film), "--name", "ada"], &place[..]].concat();
    ends(&send, 0, "film.bin was delivered");
    let take = ["recv", "--json", "--keep", "--accept-from", "ada", "--out", path(&ours)];
    let mut receiver = swarm("receiver", &[&take[..], &place].concat());
    let repeated = receiver.wait_event("offer");
    assert_eq!(repeated["from"]["name"], "bob", "ada has left, and bob offers it in her place");
    ends(&[&send[..], &["--receivers", "2"]].concat(), 0, "film.bin was delivered to all 2");
    assert_eq!(receiver.wait_event("offer")["from"]["name"], "ada");
    receiver.wait_event("done");
    assert_eq!(fs::read(ours.join("film.bin")).expect("it is in its place"), noise(1_000));
}

#[test]
fn files_in_the_way_are_asked_about() {
    let folder = tempfile::tempdir().expect("a folder");
    let (inbox, film) = (folder.path().join("inbox"), folder.path().join("film.bin"));
    fs::create_dir(&inbox).expect("made");
    fs::write(&film, "the new one").expect("written");
    let mut scene = Scene::new();
    scene.join_ours("ann", &["--yes", "--on-conflict", "ask", "--out", path(&inbox)]);
    scene.join("bob", Kind::Ours);
    scene.everyone_meets();
    let names = |inbox: &Path| {
        let mut names: Vec<_> = fs::read_dir(inbox)
            .expect("a folder")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("plain"))
            .collect();
        names.sort();
        names
    };
    let story = [
        ("skip", &["film.bin"][..], "the old one"),
        ("rename", &["film (1).bin", "film.bin"], "the old one"),
        ("overwrite", &["film (1).bin", "film.bin"], "the new one 2"),
    ];
    for (round, (answer, expected, content)) in story.into_iter().enumerate() {
        // Each time it is another transfer.
        fs::write(&film, format!("the new one {round}")).expect("written");
        fs::write(inbox.join("film.bin"), "the old one").expect("written");
        scene.process("bob").command(&json!({ "cmd": "send", "paths": [path(&film)] }));
        let asked = scene.process("ann").wait_event("conflicts");
        assert_eq!((&asked["paths"], &asked["count"]), (&json!(["film.bin"]), &json!(1)));
        let resolve = json!({ "cmd": "resolve", "transfer": asked["transfer"], "conflict": answer });
        scene.process("ann").command(&resolve);
        assert_eq!(scene.process("ann").wait_event("done")["transfer"], asked["transfer"]);
        assert_eq!(names(&inbox), expected, "{answer}");
        assert_eq!(fs::read_to_string(inbox.join("film.bin")).expect("there"), content);
    }
}

#[test]
fn where_nobody_can_be_asked_about_files_in_the_way_that_is_said_at_once() {
    for command in [&["join"][..], &["recv", "--yes"], &["recv", "--yes", "--json"]] {
        let args = [command, &["--on-conflict", "ask", "ws://127.0.0.1:1/den"]].concat();
        ends(&args, 2, "--on-conflict rename, skip or overwrite");
    }
}

/// Runs the program to its end: this exit code, and this in what it says on stderr.
fn ends(args: &[&str], code: i32, reason: &str) {
    let (status, stderr) = swarm("swarm", args).end();
    assert_eq!(status.code(), Some(code), "{args:?} said: {stderr}");
    assert!(stderr.contains(reason), "{args:?} said: {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?} said: {stderr}");
}

/// An address on which nothing listens, and nothing else will: the kernel does not hand it out again soon.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound").to_string()
}

/// Bytes without a pattern, the same each time (xorshift).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
