//! A room with any mixture of members in it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::process::Process;

/// What a member runs, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An original in Node; these share a process.
    Node(Generation),
    /// An original in a process of its own, so that it can be stopped and killed.
    Alone(Generation),
    /// An original in a tab of Chromium.
    Tab(Generation),
}

/// Of the published library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// 0.0.3.
    First,
    /// 0.4.1.
    Second,
}

/// How an original speaks to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// Each signal in `{"type":"WRTC_SIGNAL","signal":…}`.
    pub wrapped: bool,
    /// Offer and candidates before `init`.
    pub late_init: bool,
}

/// What members see of each other.
#[derive(Debug, Clone, Copy)]
pub enum Sight<'a> {
    Opened(&'a str),
    Closed(&'a str),
    Text(&'a str, &'a str),
    /// From whom, and how many bytes of the pattern.
    Bytes(&'a str, usize),
}

/// A server and its members.
pub struct Scene {
    pub server: Process,
    pub url: String,
    processes: Vec<Process>,
    node: Option<usize>,
    browser: Option<usize>,
    members: BTreeMap<String, Member>,
}

struct Member {
    kind: Kind,
    process: usize,
}

const ROOM: &str = "lobby";

impl Scene {
    /// Over the minimal server, which knows the second generation only.
    pub fn with_minimal_server() -> Self {
        let mut server = driver("server", &["server.js"]);
        let url = text(&server.wait_event("listening")["url"]);
        Self { server, url, processes: vec![], node: None, browser: None, members: BTreeMap::new() }
    }

    /// Starts a member, and does not wait for it.
    pub fn join(&mut self, id: &str, kind: Kind) {
        self.join_as(id, kind, Manner::default());
    }

    pub fn join_as(&mut self, id: &str, kind: Kind, manner: Manner) {
        let process = self.process_for(id, kind);
        self.members.insert(id.into(), Member { kind, process });
        let generation = match kind.generation() {
            Generation::First => 1,
            Generation::Second => 2,
        };
        self.processes[process].command(&json!({
            "cmd": "start", "peer": id, "id": id, "generation": generation,
            "url": format!("{}/{ROOM}", self.url), "room": ROOM,
            "wrapped": manner.wrapped, "lateInit": manner.late_init,
        }));
    }

    /// Gives one command to an original's driver; its `peer` is filled in.
    pub fn command(&mut self, id: &str, mut command: Value) {
        command["peer"] = id.into();
        self.process_of(id).command(&command);
    }

    pub fn say(&mut self, id: &str, line: &str) {
        self.command(id, json!({ "cmd": "send", "text": line }));
    }

    pub fn send_bytes(&mut self, id: &str, len: usize) {
        self.command(id, json!({ "cmd": "sendBytes", "len": len }));
    }

    /// Waits until this member has seen it.
    pub fn sees(&mut self, id: &str, sight: Sight<'_>) {
        let what = format!("{sight} at {id}");
        self.process_of(id).wait(&what, |said| said["peer"] == id && sight.is_told_by(said));
    }

    /// Waits until every member except `not` has seen it.
    pub fn others_see(&mut self, not: &str, sight: Sight<'_>) {
        for id in self.ids() {
            if id != not {
                self.sees(&id, sight);
            }
        }
    }

    /// Waits until each member has an open channel to each other one.
    pub fn everyone_meets(&mut self) {
        for id in self.ids() {
            self.others_see(&id, Sight::Opened(&id));
        }
    }

    /// Everyone says a line, and everyone else hears it.
    pub fn everyone_is_heard(&mut self, line: &str) {
        for id in self.ids() {
            self.say(&id, line);
        }
        for id in self.ids() {
            self.others_see(&id, Sight::Text(&id, line));
        }
    }

    /// What this member's driver told of it so far.
    pub fn told<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Value> {
        self.processes[self.members[id].process].said().filter(move |said| said["peer"] == id)
    }

    /// The member is here no more; nobody is told by this.
    pub fn forget(&mut self, id: &str) {
        self.members.remove(id);
    }

    pub fn ids(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    pub fn process_of(&mut self, id: &str) -> &mut Process {
        &mut self.processes[self.members[id].process]
    }

    fn process_for(&mut self, id: &str, kind: Kind) -> usize {
        let shared = match kind {
            Kind::Node(_) => self.node,
            Kind::Tab(_) => self.browser,
            Kind::Alone(_) => None,
        };
        if let Some(process) = shared {
            return process;
        }
        let process = self.processes.len();
        match kind {
            Kind::Node(_) => {
                self.processes.push(driver("node", &["node.js"]));
                self.node = Some(process);
            }
            Kind::Tab(_) => {
                self.processes.push(driver("browser", &["browser.js"]));
                self.browser = Some(process);
            }
            Kind::Alone(_) => self.processes.push(driver(id, &["node.js"])),
        }
        self.processes[process].wait_event("up");
        process
    }
}

impl Kind {
    fn generation(self) -> Generation {
        match self {
            Self::Node(generation) | Self::Alone(generation) | Self::Tab(generation) => generation,
        }
    }
}

impl Sight<'_> {
    fn is_told_by(self, said: &Value) -> bool {
        match self {
            Self::Opened(from) => said["event"] == "open" && said["from"] == from,
            Self::Closed(from) => said["event"] == "close" && said["from"] == from,
            Self::Text(from, line) => said["event"] == "data" && said["from"] == from && said["text"] == line,
            Self::Bytes(from, len) => {
                said["event"] == "data" && said["from"] == from && said["sha256"] == sha256_hex(&pattern(len))
            }
        }
    }
}

impl fmt::Display for Sight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A program of `tests/interop/`.
pub fn driver(name: &str, args: &[&str]) -> Process {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    assert!(
        folder.join("node_modules").is_dir(),
        "tests/interop/node_modules is missing: run `scripts/test setup`"
    );
    Process::start(name, Command::new("node").args(args).current_dir(folder))
}

/// The bytes that the drivers send.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + (i >> 8) * 17) as u8).collect()
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").into()
}
