//! The program at a terminal.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::swarm_command;

#[test]
fn whoever_ends_the_program_by_two_signals_has_the_terminal_as_it_was() {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
    let cooked = tcgetattr(&slave).expect("settings");
    let terminal = || Stdio::from(slave.try_clone().expect("another one"));
    let mut command = swarm_command(&["join", "--no-history", "--name", "me"]);
    command.env("TERM", "xterm").stdin(terminal()).stdout(terminal()).stderr(terminal());
    let mut child = command.spawn().expect("it starts");
    wait_for_prompt(master);
    assert!(!is_cooked(&slave), "a line is being typed");

    let pid = Pid::from_child(&child);
    // Stopped, it gets both at once.
    for signal in [Signal::STOP, Signal::TERM, Signal::HUP, Signal::CONT] {
        kill_process(pid, signal).expect("it runs");
    }
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let local = |flags: LocalFlags| flags & (LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
    let settings = tcgetattr(&slave).expect("settings");
    assert_eq!(local(settings.local_flags), local(cooked.local_flags));
}

fn is_cooked(terminal: &impl AsFd) -> bool {
    tcgetattr(terminal).expect("settings").local_flags.contains(LocalFlags::ICANON)
}

/// Reads until the prompt stands there, and goes on in the background: a terminal that nobody reads stops the program.
fn wait_for_prompt(master: OwnedFd) {
    let mut master = std::fs::File::from(master);
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&shown).contains("me> ") {
        let len = master.read(&mut buffer).expect("the program shows something");
        shown.extend_from_slice(&buffer[..len]);
    }
    std::thread::spawn(move || while master.read(&mut buffer).is_ok_and(|len| len > 0) {});
}
