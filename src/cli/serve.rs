//! `swarm serve`: the signaling server.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, ValueHint};
use serde_json::json;

use super::config::read_secret;
use super::exit::{Exit, Failure, OrExit as _};
use super::json::VERSION;
use super::room::outward_address;
use super::signals::Signals;
use super::term::{eprint_line, print_line};
use super::values::SECONDS_MAX;
use crate::core::access::{Access, TokenKey};
use crate::core::network::{Network, TrustedProxies};
use crate::core::room::Limits;
use crate::io::open_files;
use crate::io::ws::server::{Server, ServerConfig, tls_config};
use crate::wire::Secret;

/// Where the server listens if nothing is said: this machine only.
const DEFAULT_LISTEN: &str = "127.0.0.1:7700";

/// A token shorter than this can be guessed.
const TOKEN_MIN_CHARS: usize = 16;

/// The environment variable with the access token.
const TOKEN_VARIABLE: &str = "SWARM_TOKEN";

/// `swarm serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swarm serve                            for this machine; prints the URL with a fresh token
  swarm serve --listen 0.0.0.0:7700 --cert cert.pem --key key.pem --token-file token.txt
  swarm serve --token-key public.pem --origin https://app.example   for tokens of `swarm token`
  swarm join --url ws://127.0.0.1:7700 --room den   (the token in SWARM_TOKEN)

GET /healthz answers ok; GET /metrics has figures for Prometheus and wants the token. Everything is in memory: a
restart closes no connection between peers, and they find each other again here.

A client takes one open file. For thousands of them raise the hard limit (LimitNOFILE= of systemd, ulimit -Hn).")]
pub struct ServeArgs {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_LISTEN)]
    pub listen: String,

    /// Let in whoever knows this token; other users of this machine can read it here, so better use the file or
    /// SWARM_TOKEN [default: a new one]
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["token_file", "open"])]
    pub token: Option<String>,

    /// Read the token from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "open")]
    pub token_file: Option<PathBuf>,

    /// Let in whoever has a token that `swarm token` minted with this key (may be given again, to change keys)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "open")]
    pub token_key: Vec<PathBuf>,

    /// Let everybody in, without a token
    #[arg(long)]
    pub open: bool,

    /// Let web pages of this origin in, and of no other that is not named (may be given again) [default: all, with
    /// the token]
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Vec<String>,

    /// Count clients behind this reverse proxy, an address or a network such as 10.0.0.0/8, by what it says in
    /// X-Forwarded-For or Forwarded (may be given again) [default: believe nobody]
    #[arg(long, value_name = "ADDR[/BITS]")]
    pub trust_proxy: Vec<Network>,

    /// The certificate chain, PEM: makes it wss://
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "key")]
    pub cert: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "cert")]
    pub key: Option<PathBuf>,

    /// Say where it listens as one JSON object (docs/json.md)
    #[arg(long)]
    pub json: bool,

    /// What a room and a client may take.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// The limits that operators change; the others have sound values.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Members of a room; for more than 100 behind one address --max-burst must grow, too
    #[arg(long, value_name = "N", default_value_t = Limits::default().members_per_room)]
    pub max_members: usize,

    /// Rooms
    #[arg(long, value_name = "N", default_value_t = Limits::default().rooms)]
    pub max_rooms: usize,

    /// Connections from one address
    #[arg(long, value_name = "N", default_value_t = Limits::default().sockets_per_address)]
    pub max_per_address: usize,

    /// Messages a second from one client, in the long run; all clients of an address have ten times as many
    #[arg(long, value_name = "N", default_value_t = Limits::default().messages_per_sec)]
    pub max_rate: u32,

    /// Messages at once from one client; joining a full room of 100 takes about 600. All clients of an address have 128
    /// times as many; entering a room takes 50 of those, and 10 for each member there
    #[arg(long, value_name = "N", default_value_t = Limits::default().messages_burst)]
    pub max_burst: u32,

    /// Unclaimed offers of one member
    #[arg(long, value_name = "N", default_value_t = Limits::default().offers_per_member)]
    pub max_offers: usize,

    /// How long the place of a member without connection is kept, 30 days at most
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().grace.as_secs(),
        value_parser = clap::value_parser!(u64).range(..=SECONDS_MAX))]
    pub grace: u64,
}

impl LimitArgs {
    fn resolve(&self) -> Limits {
        Limits {
            members_per_room: self.max_members,
            rooms: self.max_rooms,
            sockets_per_address: self.max_per_address,
            messages_per_sec: self.max_rate,
            messages_burst: self.max_burst,
            offers_per_member: self.max_offers,
            grace: Duration::from_secs(self.grace),
            ..Limits::default()
        }
    }
}

/// Serves until it is told to stop; a second signal stops it at once.
pub async fn run(args: ServeArgs) -> Result<Exit, Failure> {
    let listen = resolve(&args.listen).or_exit(Exit::Usage)?;
    let (access, token) = access(&args)?;
    open_files::raise();
    let mut config = ServerConfig::new(listen, access);
    config.limits = args.limits.resolve();
    config.capacity = config.capacity.with_address_max(config.limits.sockets_per_address);
    config.origins = (!args.origin.is_empty()).then(|| args.origin.clone());
    config.proxies = TrustedProxies(args.trust_proxy.clone());
    if let (Some(certificate), Some(key)) = (&args.cert, &args.key) {
        config.tls = Some(tls_config(certificate, key).or_exit(Exit::Usage)?);
    }
    let server = Server::bind(config).await.map_err(|error| explain_bind(&args.listen, error))?;
    let signals = Signals::listen(|| {})?;
    announce(&args, server.local_addr(), token.as_ref())?;
    server.run(signals.next()).await;
    Ok(Exit::Done)
}

fn resolve(listen: &str) -> anyhow::Result<SocketAddr> {
    let shape = || format!("--listen {listen}: it should look like {DEFAULT_LISTEN} or 0.0.0.0:7700");
    listen.to_socket_addrs().with_context(shape)?.next().with_context(shape)
}

fn explain_bind(listen: &str, error: io::Error) -> Failure {
    const NEXT_STEPS: [(io::ErrorKind, &str); 3] = [
        (
            io::ErrorKind::AddrInUse,
            "another program has this port: take another one, or 0 for any that is free",
        ),
        (io::ErrorKind::PermissionDenied, "ports below 1024 are the system's: take a higher one"),
        (io::ErrorKind::AddrNotAvailable, "this machine does not have that address"),
    ];
    let known = NEXT_STEPS.into_iter().find(|(kind, _)| *kind == error.kind());
    let next = known.map_or("take another address with --listen", |(_, next)| next);
    Failure::from(anyhow!(error).context(format!("can't listen on {listen} ({next})")))
}

/// Whom to let in, and the token if it was drawn here. One that was given is not repeated: what a service says is in its log.
fn access(args: &ServeArgs) -> Result<(Access, Option<Secret>), Failure> {
    if args.open {
        return Ok((Access::Open, None));
    }
    let keys = args.token_key.iter().map(|path| read_key(path)).collect::<anyhow::Result<Vec<_>>>();
    let keys = keys.or_exit(Exit::Usage)?;
    let given = given_token(args).or_exit(Exit::Usage)?;
    if given.as_ref().is_some_and(|token| token.expose().len() < TOKEN_MIN_CHARS) {
        eprint_line("swarm: warning: the token is short enough to be guessed");
    }
    let drawn = (given.is_none() && keys.is_empty())
        .then(|| Secret::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>())));
    let tokens = given.iter().chain(&drawn).cloned().collect();
    Ok((Access::Guarded { tokens, keys }, drawn))
}

fn given_token(args: &ServeArgs) -> anyhow::Result<Option<Secret>> {
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => read_secret(path)?,
        (None, None) => match std::env::var(TOKEN_VARIABLE) {
            Ok(token) => token.trim().to_owned(),
            Err(_) => return Ok(None),
        },
    };
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(anyhow!("a token is made of letters, digits and marks of ASCII, without spaces"));
    }
    Ok(Some(Secret::new(token)))
}

pub(super) fn read_key(path: &std::path::Path) -> anyhow::Result<TokenKey> {
    let shown = || format!("can't use the token key in {}", path.display());
    let text = Secret::new(std::fs::read_to_string(path).with_context(shown)?);
    TokenKey::parse(text.expose()).with_context(shown)
}

/// Says where the server is: one line on stdout for people and scripts, the rest on stderr.
fn announce(args: &ServeArgs, address: SocketAddr, token: Option<&Secret>) -> Result<(), Failure> {
    let scheme = if args.cert.is_some() { "wss" } else { "ws" };
    let reachable = SocketAddr::new(outward_address(address.ip()), address.port());
    let url = format!("{scheme}://{reachable}");
    let token = token.map(Secret::expose);
    if args.json {
        let line = json!({ "event": "listening", "version": VERSION, "url": url, "token": token });
        print_line(&line.to_string())?;
    } else {
        print_line(&token.map_or_else(|| url.clone(), |token| format!("{url}/?token={token}")))?;
        hint(args, address, &url);
    }
    if args.open {
        eprint_line("swarm: warning: --open lets in everybody who can reach this address");
    }
    if args.cert.is_none() && !address.ip().is_loopback() {
        eprint_line("swarm: warning: without --cert and --key the token can be read on the way");
    }
    Ok(())
}

fn hint(args: &ServeArgs, address: SocketAddr, url: &str) {
    let secret = if args.open { "" } else { "  (with the token in SWARM_TOKEN)" };
    eprint_line(&format!("join a room here:   swarm join --url {url} --room NAME{secret}"));
    if address.ip().is_loopback() {
        let port = address.port();
        eprint_line(&format!(
            "for other machines: swarm serve --listen 0.0.0.0:{port}, with --cert and --key or behind a TLS proxy"
        ));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(words: &[&str]) -> Result<ServeArgs, clap::Error> {
        Line::try_parse_from([&["swarm"], words].concat()).map(|line| line.serve)
    }

    #[test]
    fn a_server_is_guarded_unless_it_is_said_to_be_open() {
        let (access, token) = access(&parse(&[]).expect("good")).expect("good");
        assert!(matches!(access, Access::Guarded { .. }));
        assert!(token.is_some_and(|token| token.expose().len() >= 22), "128 bits at least");
        let (access, token) = super::access(&parse(&["--open"]).expect("good")).expect("good");
        assert!(matches!(access, Access::Open) && token.is_none());
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [
            &["--open", "--token", "x"][..],
            &["--open", "--token-file", "x"],
            &["--open", "--token-key", "x"],
            &["--token", "x", "--token-file", "x"],
            &["--cert", "x"],
            &["--key", "x"],
            &["--max-members", "many"],
            &["--grace", "2592001"],
            &["--grace", "18446744073709551615"],
            &["--trust-proxy", "everybody"],
            &["--trust-proxy", "10.0.0.0/33"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn limits_are_flags() {
        let args = parse(&["--max-members", "7", "--grace", "5"]).expect("good");
        let limits = args.limits.resolve();
        assert_eq!(
            limits,
            Limits { members_per_room: 7, grace: Duration::from_secs(5), ..Limits::default() }
        );
    }

    #[test]
    fn an_address_that_is_none_is_explained() {
        for wrong in ["", "7700", "host", "127.0.0.1:http", "127.0.0.1:99999"] {
            assert!(resolve(wrong).is_err(), "{wrong}");
        }
        assert_eq!(resolve("[::1]:0").expect("good"), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)));
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused() {
        for wrong in ["", "a b", "zoë", "a\nb"] {
            let args = ServeArgs { token: Some(wrong.into()), ..parse(&[]).expect("good") };
            assert!(access(&args).is_err(), "{wrong:?}");
        }
    }
}
