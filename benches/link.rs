//! What one connection costs and carries: two processes, signaling over a pipe.
//!
//! ```text
//! cargo bench --bench link                      everything, over loopback
//! cargo bench --bench link -- open --times 50   from the answer to the open channel
//! cargo bench --bench link -- bulk --mib 1024   throughput of the bulk channel
//! cargo bench --bench link -- chat --mib 256    the delay of chat lines while bulk flows
//! cargo bench --bench link -- many --links 100  memory and CPU of many connections
//! ```
//!
//! `--via 'CMD…'` starts the other process through a command, such as `ip netns exec h2`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a benchmark waits for one event among many")]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser;
use fast_rtc_swarm::core::peer::{Channel, LinkKey, Payload, PeerCommand, PeerEvent};
use fast_rtc_swarm::io::rtc::{RtcConfig, RtcDriver};
use fast_rtc_swarm::wire::{Candidate, Sdp};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

#[derive(Parser)]
struct Args {
    /// What to measure: `open`, `bulk`, `chat`, `many`; everything if not given. `peer` is the other process.
    what: Option<String>,
    /// Connections made one after another by `open`.
    #[arg(long, default_value_t = 20)]
    times: u64,
    /// How much `bulk` and `chat` send.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// The size of a bulk message.
    #[arg(long, default_value_t = 64 * 1024)]
    message: usize,
    /// How many connections `many` makes.
    #[arg(long, default_value_t = 100)]
    links: u64,
    /// How long `many` leaves them idle.
    #[arg(long, default_value_t = 10)]
    idle_secs: u64,
    /// The SCTP packet size.
    #[arg(long)]
    mtu: Option<u32>,
    /// Starts the other process through this command.
    #[arg(long, default_value = "")]
    via: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn config(&self) -> RtcConfig {
        let mut config = RtcConfig::default();
        config.sctp_mtu_bytes = self.mtu.unwrap_or(config.sctp_mtu_bytes);
        config
    }
}

/// One line between the two processes.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Offer { key: u64, sdp: Sdp },
    Answer { key: u64, sdp: Sdp },
    Candidate { key: u64, candidate: Option<Candidate> },
    AskUsage,
    Usage(Usage),
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Usage {
    cpu_secs: f64,
    rss_kib: u64,
}

impl Usage {
    fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let after_name = stat.rsplit_once(')').context("a process name")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(Self { cpu_secs: ticks / 100.0, rss_kib: rss.trim().trim_end_matches(" kB").parse()? })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match args.what.as_deref() {
        None => {
            open(&args).await?;
            bulk(&args).await?;
            chat(&args).await?;
            many(&args).await
        }
        Some("open") => open(&args).await,
        Some("bulk") => bulk(&args).await,
        Some("chat") => chat(&args).await,
        Some("many") => many(&args).await,
        Some("peer") => peer(&args).await,
        Some(other) => bail!("nothing is called {other}"),
    }
}

/// The other process: answers every offer, returns text, swallows binary.
async fn peer(args: &Args) -> Result<()> {
    let (mut driver, mut events) = RtcDriver::new(args.config())?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                match serde_json::from_str(&line)? {
                    Line::Offer { key, sdp } => driver.command(LinkKey(key), PeerCommand::AcceptOffer { sdp }),
                    Line::Candidate { key, candidate } => {
                        driver.command(LinkKey(key), PeerCommand::AddCandidate(candidate));
                    }
                    Line::AskUsage => write(&mut out, &Line::Usage(Usage::now()?)).await?,
                    Line::Answer { .. } | Line::Usage(_) => bail!("not for us"),
                }
            }
            Some((LinkKey(key), event)) = events.recv() => match event {
                PeerEvent::Description(sdp) => write(&mut out, &Line::Answer { key, sdp }).await?,
                PeerEvent::Candidate(candidate) => write(&mut out, &Line::Candidate { key, candidate }).await?,
                PeerEvent::Message { channel, payload: payload @ Payload::Text(_) } => {
                    driver.command(LinkKey(key), PeerCommand::Send { channel, payload });
                }
                _ => {}
            },
        }
    }
}

async fn write(out: &mut (impl AsyncWrite + Unpin), line: &Line) -> Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    out.write_all(text.as_bytes()).await?;
    out.flush().await?;
    Ok(())
}

/// This process: the offerer, with the other one at its side.
struct Bench {
    driver: RtcDriver,
    events: mpsc::Receiver<(LinkKey, PeerEvent)>,
    to_peer: ChildStdin,
    from_peer: Lines<BufReader<ChildStdout>>,
    answered: BTreeMap<u64, Instant>,
    usage: Option<Usage>,
    _peer: Child,
}

impl Bench {
    fn start(args: &Args) -> Result<Self> {
        let (driver, events) = RtcDriver::new(args.config())?;
        let mut words: Vec<String> = args.via.split_whitespace().map(str::to_owned).collect();
        words.push(std::env::current_exe()?.to_string_lossy().into_owned());
        words.push("peer".to_owned());
        if let Some(mtu) = args.mtu {
            words.extend(["--mtu".to_owned(), mtu.to_string()]);
        }
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let to_peer = child.stdin.take().context("a pipe")?;
        let from_peer = BufReader::new(child.stdout.take().context("a pipe")?).lines();
        Ok(Self { driver, events, to_peer, from_peer, answered: BTreeMap::new(), usage: None, _peer: child })
    }

    /// Carries signaling until an event comes that is none.
    async fn next(&mut self) -> Result<(u64, PeerEvent)> {
        loop {
            tokio::select! {
                Some((LinkKey(key), event)) = self.events.recv() => match event {
                    PeerEvent::Description(sdp) => write(&mut self.to_peer, &Line::Offer { key, sdp }).await?,
                    PeerEvent::Candidate(candidate) => {
                        write(&mut self.to_peer, &Line::Candidate { key, candidate }).await?;
                    }
                    PeerEvent::Closed(reason) => bail!("connection {key} closed: {reason:?}"),
                    event => return Ok((key, event)),
                },
                line = self.from_peer.next_line() => {
                    let line = line?.context("the other process ended")?;
                    self.hear(serde_json::from_str(&line)?)?;
                    if self.usage.is_some() {
                        return Ok((0, PeerEvent::Reconnected));
                    }
                }
            }
        }
    }

    fn hear(&mut self, line: Line) -> Result<()> {
        match line {
            Line::Answer { key, sdp } => {
                self.answered.insert(key, Instant::now());
                self.driver.command(LinkKey(key), PeerCommand::AcceptAnswer { sdp });
            }
            Line::Candidate { key, candidate } => {
                self.driver.command(LinkKey(key), PeerCommand::AddCandidate(candidate));
            }
            Line::Usage(usage) => self.usage = Some(usage),
            Line::Offer { .. } | Line::AskUsage => bail!("not for us"),
        }
        Ok(())
    }

    async fn until(&mut self, key: u64, wanted: impl Fn(&PeerEvent) -> bool) -> Result<PeerEvent> {
        loop {
            let (from, event) = self.next().await?;
            if from == key && wanted(&event) {
                return Ok(event);
            }
        }
    }

    async fn open(&mut self, key: u64) -> Result<()> {
        self.driver.command(LinkKey(key), PeerCommand::CreateOffer);
        self.until(key, |event| *event == PeerEvent::ChannelOpen(Channel::Fast)).await?;
        Ok(())
    }

    fn say(&mut self, key: u64, channel: Channel, payload: Payload) {
        self.driver.command(LinkKey(key), PeerCommand::Send { channel, payload });
    }

    /// Ours and the other process's.
    async fn usage(&mut self) -> Result<(Usage, Usage)> {
        write(&mut self.to_peer, &Line::AskUsage).await?;
        while self.usage.is_none() {
            self.next().await?;
        }
        Ok((Usage::now()?, self.usage.take().context("just seen")?))
    }
}

async fn open(args: &Args) -> Result<()> {
    let mut bench = Bench::start(args)?;
    let mut millis = Vec::new();
    let (before, before_peer) = bench.usage().await?;
    for key in 1..=args.times {
        bench.open(key).await?;
        millis.push(bench.answered[&key].elapsed().as_secs_f64() * 1e3);
    }
    let (after, after_peer) = bench.usage().await?;
    millis.sort_by(f64::total_cmp);
    let cpu = after.cpu_secs - before.cpu_secs + after_peer.cpu_secs - before_peer.cpu_secs;
    println!(
        "open: answer to open channel, ms: median {:.1}, min {:.1}, max {:.1} ({} connections); CPU {:.2} ms each, both ends",
        millis[millis.len() / 2],
        millis[0],
        millis[millis.len() - 1],
        millis.len(),
        cpu * 1e3 / args.times as f64,
    );
    Ok(())
}

/// Sends `total` bytes of bulk; `between` is called about once a window.
async fn send_bulk(
    bench: &mut Bench,
    args: &Args,
    total: u64,
    mut on_event: impl FnMut(&mut Bench, &PeerEvent),
) -> Result<f64> {
    bench.driver.command(LinkKey(1), PeerCommand::OpenChannel(Channel::Bulk));
    let frame = Bytes::from(vec![7; args.message]);
    let mut sent = 0;
    let mut started = None;
    let mut room = 0_i64;
    loop {
        let (_, event) = bench.next().await?;
        on_event(bench, &event);
        let PeerEvent::Writable { bytes } = event else { continue };
        room += bytes as i64;
        let started = *started.get_or_insert_with(Instant::now);
        if sent >= total {
            return Ok(total as f64 / started.elapsed().as_secs_f64());
        }
        while room > 0 && sent < total {
            bench.say(1, Channel::Bulk, Payload::Binary(frame.clone()));
            sent += frame.len() as u64;
            room -= frame.len() as i64;
        }
    }
}

async fn bulk(args: &Args) -> Result<()> {
    let mut bench = Bench::start(args)?;
    bench.open(1).await?;
    let (before, before_peer) = bench.usage().await?;
    let rate = send_bulk(&mut bench, args, args.mib << 20, |_, _| {}).await?;
    let (after, after_peer) = bench.usage().await?;
    let gib = args.mib as f64 / 1024.0;
    println!(
        "bulk: {:.1} MB/s ({} MiB in messages of {} bytes); CPU s per GiB: {:.2} sender, {:.2} receiver; RSS {} and {} KiB",
        rate / 1e6,
        args.mib,
        args.message,
        (after.cpu_secs - before.cpu_secs) / gib,
        (after_peer.cpu_secs - before_peer.cpu_secs) / gib,
        after.rss_kib,
        after_peer.rss_kib,
    );
    Ok(())
}

/// A line goes out whenever the last one came back; the other process returns them.
async fn chat(args: &Args) -> Result<()> {
    let mut bench = Bench::start(args)?;
    bench.open(1).await?;
    bench.say(1, Channel::Fast, Payload::Text("ping".to_owned()));
    let mut asked = Instant::now();
    let mut millis = Vec::new();
    let rate = send_bulk(&mut bench, args, args.mib << 20, |bench, event| {
        if matches!(event, PeerEvent::Message { .. }) {
            millis.push(asked.elapsed().as_secs_f64() * 1e3);
            asked = Instant::now();
            bench.say(1, Channel::Fast, Payload::Text("ping".to_owned()));
        }
    })
    .await?;
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| millis.get((millis.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    println!(
        "chat: there and back beside {:.2} MB/s of bulk, ms: median {:.1}, 99th percentile {:.1} ({} lines)",
        rate / 1e6,
        at(0.5),
        at(0.99),
        millis.len(),
    );
    Ok(())
}

async fn many(args: &Args) -> Result<()> {
    let mut bench = Bench::start(args)?;
    let (empty, empty_peer) = bench.usage().await?;
    let started = Instant::now();
    (1..=args.links).for_each(|key| bench.driver.command(LinkKey(key), PeerCommand::CreateOffer));
    let mut left = args.links;
    while left > 0 {
        let (_, event) = bench.next().await?;
        left -= u64::from(event == PeerEvent::ChannelOpen(Channel::Fast));
    }
    let elapsed = started.elapsed();
    let (full, full_peer) = bench.usage().await?;
    let idle = tokio::time::Instant::now() + Duration::from_secs(args.idle_secs);
    while let Ok(event) = tokio::time::timeout_at(idle, bench.next()).await {
        event?;
    }
    let (rested, _) = bench.usage().await?;
    let each = |before: Usage, after: Usage| (after.rss_kib - before.rss_kib) as f64 / args.links as f64;
    println!(
        "many: {} connections in {:.2} s; CPU {:.2} ms each, both ends; RSS {:.0} and {:.0} KiB each; idle {:.2} % of a core",
        args.links,
        elapsed.as_secs_f64(),
        (full.cpu_secs - empty.cpu_secs + full_peer.cpu_secs - empty_peer.cpu_secs) * 1e3 / args.links as f64,
        each(empty, full),
        each(empty_peer, full_peer),
        (rested.cpu_secs - full.cpu_secs) * 100.0 / args.idle_secs as f64,
    );
    Ok(())
}
