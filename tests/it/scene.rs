//! A server and rooms with any mixture of members in them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::process::{Process, swarm, swarm_command};

/// What a member runs, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An original in Node; a few of them share a process.
    Node(Generation),
    /// An original in a process of its own, so that it can be stopped and killed.
    Alone(Generation),
    /// An original in a tab of Chromium.
    Tab(Generation),
    /// `swarm join --json`.
    Ours,
}

/// Of the published library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// 0.0.3.
    First = 1,
    /// 0.4.1.
    Second = 2,
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
    /// A line from somebody.
    Line(&'a str, &'a str),
    /// So many bytes of the pattern from somebody.
    Bytes(&'a str, usize),
}

/// How newcomers arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Each when those before are all connected.
    OneByOne,
    /// Without waiting for anybody.
    AllAtOnce,
}

/// With 56 connections in a process (8 peers in a room of 8, 4 in a room of 16) `@roamhq/wrtc` now and then stands still for half
/// a minute on a busy machine. Its peers are given up meanwhile, and the originals never come back to each other.
const PEERS_PER_NODE: usize = 2;

/// A server and the members of one room at a time.
pub struct Scene {
    pub server: Process,
    pub url: String,
    /// The server's token.
    pub token: Option<String>,
    room: u32,
    processes: Vec<Process>,
    /// The Node process that is not full yet, and how many peers it has.
    node: Option<(usize, usize)>,
    browser: Option<usize>,
    members: BTreeMap<String, Member>,
}

struct Member {
    kind: Kind,
    /// An index into `processes`.
    process: usize,
    /// What others know it by: the name for an original, what it was given for one of ours.
    id: Option<String>,
}

impl Scene {
    /// Over `swarm serve`, open to everyone.
    pub fn new() -> Self {
        Self::with_server(swarm("serve", &["serve", "--listen", "127.0.0.1:0", "--open", "--json"]))
    }

    /// Over the minimal server, which knows the second generation only.
    pub fn with_minimal_server(args: &[&str]) -> Self {
        Self::with_server(driver("server", &[&["server.js"], args].concat()))
    }

    /// Over any server that prints `listening {url}`.
    pub fn with_server(mut server: Process) -> Self {
        let url = text(&server.wait_event("listening")["url"]);
        let url = url.trim_end_matches('/').into();
        Self {
            server,
            url,
            token: None,
            room: 0,
            processes: vec![],
            node: None,
            browser: None,
            members: BTreeMap::new(),
        }
    }

    /// Uses this browser for tabs.
    pub fn use_browser(&mut self, browser: Process) {
        self.browser = Some(self.processes.len());
        self.processes.push(browser);
    }

    /// Starts a member, and does not wait for it.
    pub fn join(&mut self, name: &str, kind: Kind) {
        match kind {
            Kind::Ours => self.join_ours(name, &[]),
            Kind::Node(_) | Kind::Alone(_) | Kind::Tab(_) => self.join_as(name, kind, Manner::default()),
        }
    }

    /// Starts an original that speaks in this manner.
    pub fn join_as(&mut self, name: &str, kind: Kind, manner: Manner) {
        self.join_under(name, name, kind, manner);
    }

    /// Starts an original whose id is not its name.
    pub fn join_under(&mut self, id: &str, name: &str, kind: Kind, manner: Manner) {
        let (generation, process) = match kind {
            Kind::Node(generation) => (generation, self.node_process()),
            Kind::Tab(generation) => (generation, self.browser_process()),
            Kind::Alone(generation) => (generation, self.add(up(driver(name, &["node.js"])))),
            Kind::Ours => panic!("our peers have no manners"),
        };
        self.members.insert(name.into(), Member { kind, process, id: Some(id.into()) });
        let start = json!({
            "cmd": "start", "id": id, "generation": generation as u8, "url": self.room_url(), "room": self.room_name(),
            "wrapped": manner.wrapped, "lateInit": manner.late_init,
        });
        self.command(name, start);
    }

    /// Starts `swarm join --json` with further arguments.
    pub fn join_ours(&mut self, name: &str, args: &[&str]) {
        let (url, room) = (self.url.clone(), self.room_name());
        let fixed = ["join", "--json", "--url", &url, "--room", &room, "--name", name];
        let mut command = swarm_command(&[&fixed, args].concat());
        command.envs(self.token.iter().map(|token| ("SWARM_TOKEN", token)));
        let process = self.add(Process::start(name, &mut command));
        self.members.insert(name.into(), Member { kind: Kind::Ours, process, id: None });
    }

    /// Starts these members, all of them connected to all at the end.
    pub fn gather(&mut self, members: &[(&str, Kind)], arrival: Arrival) {
        for (name, kind) in members {
            self.join(name, *kind);
            if arrival == Arrival::OneByOne {
                self.meets_everyone(name);
            }
        }
        if arrival == Arrival::AllAtOnce {
            self.everyone_meets();
        }
    }

    /// Gives one command to an original's driver.
    pub fn command(&mut self, name: &str, mut command: Value) {
        command["peer"] = self.handle(name).into();
        self.process(name).command(&command);
    }

    /// Says a line to everyone.
    pub fn say(&mut self, name: &str, line: &str) {
        if self.members[name].kind == Kind::Ours {
            self.process(name).command(&json!({ "cmd": "say", "text": line }));
        } else {
            self.command(name, json!({ "cmd": "send", "text": line }));
        }
    }

    /// Sends so many bytes of the pattern to everyone.
    pub fn send_bytes(&mut self, name: &str, len: usize) {
        if self.members[name].kind == Kind::Ours {
            let base64 = STANDARD.encode(pattern(len));
            self.process(name).command(&json!({ "cmd": "data", "base64": base64 }));
        } else {
            self.command(name, json!({ "cmd": "sendBytes", "len": len }));
        }
    }

    /// Lets a member leave as its users do: `close()` and the end of the socket, a closed tab, `quit`.
    pub fn leave(&mut self, name: &str) {
        match self.members[name].kind {
            Kind::Ours => self.process(name).command(&json!({ "cmd": "quit" })),
            Kind::Tab(_) => self.command(name, json!({ "cmd": "closeTab" })),
            Kind::Node(_) | Kind::Alone(_) => {
                self.command(name, json!({ "cmd": "close" }));
                self.command(name, json!({ "cmd": "hangUp" }));
            }
        }
    }

    /// A member is here no more; whoever asks for everyone does not mean it. Its process goes on if it still runs.
    pub fn forget(&mut self, name: &str) {
        self.members.remove(name);
    }

    /// Everyone leaves; whoever comes now comes into another room.
    pub fn next_room(&mut self) {
        for name in self.names() {
            self.leave(&name);
        }
        self.members.clear();
        self.node = None;
        self.room += 1;
    }

    /// Waits until this member has seen it.
    pub fn sees(&mut self, name: &str, sight: Sight<'_>) {
        let whom = self.id(sight.whom());
        let what = format!("{sight:?} at {name}");
        let (kind, handle) = (self.members[name].kind, self.handle(name));
        self.process(name).wait(&what, |said| match kind {
            Kind::Ours => sight.is_told_by_ours(&whom, said),
            Kind::Node(_) | Kind::Alone(_) | Kind::Tab(_) => {
                said["peer"] == handle && sight.is_told_by_original(&whom, said)
            }
        });
    }

    /// Waits until everyone else has seen it.
    pub fn others_see(&mut self, sight: Sight<'_>) {
        for name in self.names() {
            if name != sight.whom() {
                self.sees(&name, sight);
            }
        }
    }

    /// Waits until each member has an open channel to each other one.
    pub fn everyone_meets(&mut self) {
        for name in self.names() {
            self.others_see(Sight::Opened(&name));
        }
    }

    /// Waits until a newcomer and everyone else have an open channel to each other.
    pub fn meets_everyone(&mut self, newcomer: &str) {
        self.others_see(Sight::Opened(newcomer));
        for name in self.names() {
            if name != newcomer {
                self.sees(newcomer, Sight::Opened(&name));
            }
        }
    }

    /// Everyone says a line, and everyone else hears it.
    pub fn everyone_is_heard(&mut self, line: &str) {
        for name in self.names() {
            self.say(&name, line);
        }
        for name in self.names() {
            self.others_see(Sight::Line(&name, line));
        }
    }

    /// Waits for a signaling message of this type at an original.
    pub fn is_signalled(&mut self, name: &str, signal: &str) -> Value {
        let handle = self.handle(name);
        let is_it =
            |said: &Value| said["peer"] == handle && said["event"] == "signal" && said["type"] == signal;
        self.process(name).wait(&format!("{signal} at {name}"), is_it)
    }

    /// Waits until an original's socket is closed before the swarm was made.
    pub fn is_shut_out(&mut self, name: &str) {
        let handle = self.handle(name);
        let end = |said: &Value| said["peer"] == handle && said["event"] == "socketClosed";
        self.process(name).wait(&format!("closed door for {name}"), end);
        let told = self.told(name);
        assert!(told.iter().all(|said| said["event"] != "connected"), "{name} was let in: {told:?}");
    }

    /// What an original's driver told of it so far.
    pub fn told(&mut self, name: &str) -> Vec<Value> {
        let handle = self.handle(name);
        self.process(name).said().filter(|said| said["peer"] == handle).cloned().collect()
    }

    /// Who is here.
    pub fn names(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    /// Who is here and runs one of the published libraries.
    pub fn originals(&self) -> Vec<String> {
        let originals = self.members.iter().filter(|(_, member)| member.kind != Kind::Ours);
        originals.map(|(name, _)| name.clone()).collect()
    }

    /// The id by which others know a member.
    pub fn id(&mut self, name: &str) -> String {
        if let Some(id) = &self.members[name].id {
            return id.clone();
        }
        let id = text(&self.process(name).wait_event("ready")["id"]);
        self.members.get_mut(name).expect("it was just there").id = Some(id.clone());
        id
    }

    /// The process in which a member runs.
    pub fn process(&mut self, name: &str) -> &mut Process {
        let process = self.members[name].process;
        &mut self.processes[process]
    }

    /// Where originals connect to. The first generation can name a room in no other way.
    pub fn room_url(&self) -> String {
        let token = self.token.as_ref().map_or(String::new(), |token| format!("?token={token}"));
        format!("{}/{}{token}", self.url, self.room_name())
    }

    /// The room that members join now.
    pub fn room_name(&self) -> String {
        format!("room-{}", self.room)
    }

    /// What a driver calls its peer. Names come again in other rooms.
    fn handle(&self, name: &str) -> String {
        format!("{name}@{}", self.room)
    }

    fn node_process(&mut self) -> usize {
        let (process, peers) = self.node.unwrap_or_else(|| (self.add(up(driver("node", &["node.js"]))), 0));
        self.node = (peers + 1 < PEERS_PER_NODE).then_some((process, peers + 1));
        process
    }

    fn browser_process(&mut self) -> usize {
        let process = self.browser.unwrap_or_else(|| self.add(browser(&[]).0));
        *self.browser.insert(process)
    }

    fn add(&mut self, process: Process) -> usize {
        self.processes.push(process);
        self.processes.len() - 1
    }
}

/// A test that failed waiting for one program often failed because of another.
impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.processes.iter_mut().chain([&mut self.server]) {
                eprintln!("{}", process.report());
            }
        }
    }
}

impl<'a> Sight<'a> {
    fn whom(self) -> &'a str {
        match self {
            Self::Opened(name) | Self::Closed(name) | Self::Line(name, _) | Self::Bytes(name, _) => name,
        }
    }

    fn is_told_by_original(self, id: &str, said: &Value) -> bool {
        said["from"] == id
            && match self {
                Self::Opened(_) => said["event"] == "open",
                Self::Closed(_) => said["event"] == "close",
                Self::Line(_, line) => said["event"] == "data" && said["text"] == line,
                Self::Bytes(_, len) => {
                    said["event"] == "data"
                        && said["len"] == len
                        && said["sha256"] == sha256_hex(&pattern(len))
                }
            }
    }

    fn is_told_by_ours(self, id: &str, said: &Value) -> bool {
        match self {
            Self::Opened(_) => said["event"] == "open" && said["peer"]["id"] == id,
            Self::Closed(_) => said["event"] == "close" && said["peer"]["id"] == id,
            Self::Line(_, line) => {
                said["event"] == "message" && said["from"]["id"] == id && said["text"] == line
            }
            Self::Bytes(_, len) => {
                let blake3 = || blake3::hash(&pattern(len)).to_hex();
                said["event"] == "data"
                    && said["from"]["id"] == id
                    && said["len"] == len
                    && said["blake3"] == blake3().as_str()
            }
        }
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

/// A browser, and the origin of its pages.
pub fn browser(args: &[&str]) -> (Process, String) {
    let mut browser = driver("browser", &[&["browser.js"], args].concat());
    let up = browser.wait_event("up");
    browser.signal_group(up["group"].as_u64().expect("a process group"));
    (browser, text(&up["origin"]))
}

fn up(mut driver: Process) -> Process {
    driver.wait_event("up");
    driver
}

/// The bytes that the drivers send.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + (i >> 8) * 17) as u8).collect()
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).into()
}
