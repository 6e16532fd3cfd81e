//! What the program says of itself: help texts as snapshots, completions and manual pages, and how it ends when the command
//! line is wrong. `UPDATE_HELP=1 cargo test` writes the snapshots anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn swarm(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swarm"));
    for variable in ["SWARM_INVITE", "SWARM_URL", "SWARM_TOKEN", "SWARM_NAME"] {
        command.env_remove(variable);
    }
    command.args(arguments).env("COLUMNS", "100").env("NO_COLOR", "1").output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it writes UTF-8")
}

#[test]
fn help_texts_are_as_they_were() {
    for command in ["", "join", "send", "recv", "serve", "token", "completions", "man"] {
        let name = if command.is_empty() { "swarm" } else { command };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/help").join(format!("{name}.txt"));
        let arguments: Vec<&str> =
            [command, "-h"].into_iter().filter(|argument| !argument.is_empty()).collect();
        let said = text(&swarm(&arguments).stdout);
        if std::env::var_os("UPDATE_HELP").is_some() {
            fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
            fs::write(&path, &said).expect("written");
        }
        let expected = fs::read_to_string(&path).expect("a snapshot");
        assert_eq!(said, expected, "swarm {command} -h");
    }
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&swarm(&["completions", shell]).stdout);
        for command in ["join", "send", "recv", "serve", "token"] {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
    assert!(text(&swarm(&["man"]).stdout).starts_with(".ie"), "a page in roff");
    let folder = tempfile::tempdir().expect("a folder");
    let written = swarm(&["man", "--dir", folder.path().to_str().expect("UTF-8")]);
    assert!(written.status.success());
    for page in ["swarm.1", "swarm-join.1", "swarm-send.1", "swarm-recv.1", "swarm-serve.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_to_do() {
    let cases: [(&[&str], &str); 9] = [
        (&["join", "http://h/r"], "write ws:// instead"),
        (&["join", "ws://h/r", "--room", "x"], "leave --room out"),
        (&["join", "--name", "a<b"], "a name can't contain '<'"),
        (&["join", "@/nowhere/invite"], "can't read /nowhere/invite"),
        (&["join", "--out", "-"], "swarm recv -o -"),
        (&["send", "ws://h/r"], "there is nothing to send"),
        (&["recv", "ws://h/r"], "--yes or --accept-from"),
        (&["recv", "ws://h/r", "--yes", "--json", "-o", "-"], "both want stdout"),
        (&["join", "--relay-only"], "needs a TURN server"),
    ];
    for (arguments, expected) in cases {
        let output = swarm(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("swarm: ") && said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn a_server_that_is_not_there_ends_with_4() {
    // A port that was free a moment ago.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let output = swarm(&["join", &format!("ws://127.0.0.1:{port}/attic")]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.starts_with("swarm: can't reach the server: "), "{said}");
}

#[test]
fn a_closed_stdout_is_success() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .args(["completions", "zsh"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}
