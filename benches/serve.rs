//! What a signaling server costs: `cargo bench --bench serve`.
//!
//! The server is the real program in a process of its own; its CPU time and memory are what Linux says of it. The clients are
//! as thin as can be, since they share the machine. Loopback only, and bounded.

#![allow(clippy::print_stdout, missing_docs)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const CONNECTS: usize = 10_000;
const CONNECTS_AT_ONCE: usize = 64;
const IDLE: usize = 3_000;
const PAIRS: usize = 100;
const SIGNALS_PER_PAIR: usize = 3_000;
/// Signals that are written in one go, as a browser that gathers candidates would.
const SIGNALS_AT_ONCE: usize = 10;
/// Signals under way from one end to the other: more would only measure the queues.
const WINDOW: usize = 500;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        measure_connects().await;
        measure_idle().await;
        measure_relay().await;
    });
}

async fn measure_connects() {
    let server = Server::start();
    let cpu = server.cpu();
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for worker in 0..CONNECTS_AT_ONCE {
        let address = server.address.clone();
        clients.spawn(async move {
            for n in (worker..CONNECTS).step_by(CONNECTS_AT_ONCE) {
                let mut client = Client::connect(&address).await;
                client.join(&format!("room-{n}"), "alice").await;
            }
        });
    }
    clients.join_all().await;
    let (elapsed, cpu) = (started.elapsed(), server.cpu() - cpu);
    println!(
        "connects: {:.0}/s (TCP, upgrade, init, welcome); {:.0} us of the server's CPU each",
        rate(CONNECTS, elapsed),
        cpu.as_secs_f64() * 1e6 / CONNECTS as f64
    );
}

async fn measure_idle() {
    let server = Server::start();
    // The first clients pay for what is made once.
    let mut clients = Vec::new();
    for n in 0..100 {
        clients.push(Client::member(&server.address, &format!("room-{n}"), "warm").await);
    }
    let before = server.rss_bytes();
    for n in 0..IDLE {
        clients
            .push(Client::member(&server.address, &format!("room-{}", n / 10), &format!("user-{n}")).await);
    }
    let after = server.rss_bytes();
    let (cpu, pause) = (server.cpu(), Duration::from_secs(5));
    tokio::time::sleep(pause).await;
    println!(
        "idle: {:.1} KiB RSS a socket, joined, {} of them; {:.2} % of a core",
        (after - before) as f64 / 1024.0 / IDLE as f64,
        IDLE,
        (server.cpu() - cpu).as_secs_f64() * 100.0 / pause.as_secs_f64()
    );
}

async fn measure_relay() {
    let server = Server::start();
    let mut pairs = Vec::new();
    for n in 0..PAIRS {
        let room = format!("room-{n}");
        let mut alice = Client::member(&server.address, &room, "alice").await;
        alice.say(r#"{"type":"offer","id":"L","sdp":"v=0"}"#).await;
        let mut bob = Client::member(&server.address, &room, "bob").await;
        bob.hear("accept").await;
        bob.say(r#"{"type":"answer","id":"L","sdp":"v=0"}"#).await;
        alice.hear("answer").await;
        pairs.push((alice, bob));
    }
    let cpu = server.cpu();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (mut alice, mut bob) in pairs {
        let candidate = concat!(
            r#"{"type":"candidate","id":"L","candidate":{"candidate":"candidate:1 1 udp 2130706431 "#,
            r#"192.0.2.1 50000 typ host generation 0 ufrag abcd network-id 1","sdpMid":"0","sdpMLineIndex":0}}"#
        );
        let batch = frame(candidate).repeat(SIGNALS_AT_ONCE);
        let window = Arc::new(Semaphore::new(WINDOW));
        let arrived = window.clone();
        tasks.spawn(async move {
            for _ in 0..SIGNALS_PER_PAIR / SIGNALS_AT_ONCE {
                window.acquire_many(SIGNALS_AT_ONCE as u32).await.expect("never closed").forget();
                alice.stream.write_all(&batch).await.expect("written");
            }
            alice
        });
        tasks.spawn(async move {
            for _ in 0..SIGNALS_PER_PAIR {
                bob.hear("candidate").await;
                arrived.add_permits(1);
            }
            bob
        });
    }
    // The clients stay until everything has arrived.
    let clients = tasks.join_all().await;
    let (elapsed, cpu) = (started.elapsed(), server.cpu() - cpu);
    let signals = PAIRS * SIGNALS_PER_PAIR;
    println!(
        "relay: {:.0} signals/s among {PAIRS} pairs; {:.1} us of the server's CPU each",
        rate(signals, elapsed),
        cpu.as_secs_f64() * 1e6 / signals as f64
    );
    drop(clients);
}

fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_swarm"))
            .args(["serve", "--listen", "127.0.0.1:0", "--open"])
            .args(["--max-per-address", "1000000", "--max-rooms", "1000000"])
            .args(["--max-rate", "1000000", "--max-burst", "1000000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program is built");
        let stdout = process.stdout.take().expect("piped");
        let url = BufReader::new(stdout).lines().next().expect("a line").expect("text");
        let address = url.trim_start_matches("ws://").to_owned();
        Self { process, address }
    }

    fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.process.id())).expect("Linux")
    }

    /// User and system time, in ticks of 10 ms (proc(5), `stat`, fields 14 and 15).
    fn cpu(&self) -> Duration {
        let stat = self.proc_file("stat");
        let fields: Vec<_> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks = |field: &str| field.parse::<u64>().expect("a number");
        Duration::from_millis(10 * (ticks(fields[11]) + ticks(fields[12])))
    }

    fn rss_bytes(&self) -> u64 {
        let pages = self.proc_file("statm").split(' ').nth(1).map(str::to_owned).expect("fields");
        pages.parse::<u64>().expect("a number") * 4096
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
    }
}

struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    async fn connect(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("the server is there");
        stream.set_nodelay(true).expect("a socket");
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut client = Self { stream, unread: Vec::new() };
        loop {
            client.read().await;
            if let Some(end) = client.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                assert!(client.unread.starts_with(b"HTTP/1.1 101"), "an upgrade");
                client.unread.drain(..end + 4);
                return client;
            }
        }
    }

    async fn member(address: &str, room: &str, user: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.join(room, user).await;
        client
    }

    async fn join(&mut self, room: &str, user: &str) {
        self.say(&format!(r#"{{"type":"init","userId":"{user}","roomId":"{room}","have":[]}}"#)).await;
        self.hear("welcome").await;
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(&frame(text)).await.expect("written");
    }

    async fn read(&mut self) {
        let read = self.stream.read_buf(&mut self.unread).await.expect("readable");
        assert!(read > 0, "the server closed");
    }

    /// Reads messages until one of this type. A server's frame is unmasked (RFC 6455 §5.2).
    async fn hear(&mut self, kind: &str) {
        let prefix = format!(r#"{{"type":"{kind}""#);
        loop {
            while let Some((start, end)) = self.whole_frame() {
                let is_it = self.unread[start..end].starts_with(prefix.as_bytes());
                self.unread.drain(..end);
                if is_it {
                    return;
                }
            }
            self.read().await;
        }
    }

    fn whole_frame(&self) -> Option<(usize, usize)> {
        let (start, len) = match *self.unread.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes([*self.unread.get(2)?, *self.unread.get(3)?]))),
            len => (2, usize::from(len)),
        };
        (self.unread.len() >= start + len).then_some((start, start + len))
    }
}

/// A masked text frame, with a mask of zeros, of at most 65,535 bytes.
fn frame(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("short");
    let mut frame = vec![0x81];
    match u8::try_from(len) {
        Ok(short) if short < 126 => frame.push(0x80 | short),
        Ok(_) | Err(_) => {
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}
