//! The command line as typed. What it means, with the environment and the defaults, is [`super::config`]'s.

#![allow(rustdoc::broken_intra_doc_links, reason = "these comments are the help texts")]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueHint};

use super::serve::ServeArgs;
use super::token::TokenArgs;
use super::values::{self, Arrival, Rate, Size};
use crate::core::transfer::SourceOptions;
use crate::io::rtc::IceServer;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 failed · 2 usage · 3 refused · 4 server unreachable · 5 incomplete (run again to go on)";

/// Chat and files for everyone in a room, peer to peer.
///
/// Everyone in a room is connected to everyone, directly and encrypted, over WebRTC. `swarm join` starts a room and prints
/// the invite that lets others in.
#[derive(Debug, Parser)]
#[command(name = "swarm", version, styles = STYLES, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Say more on stderr: -v what happens, -vv why, -vvv everything (SWARM_LOG takes finer filters)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// One command a file.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Join a room and chat; without an invite, start a room and print its invite
    Join(Box<JoinArgs>),
    /// Send files and folders to everyone in a room
    Send(Box<SendArgs>),
    /// Receive files from a room
    Recv(Box<RecvArgs>),
    /// Run a signaling server
    Serve(Box<ServeArgs>),
    /// Make a token key, or mint a token that expires
    Token(TokenArgs),
    /// Print the completions of a shell
    #[command(after_help = "Example: swarm completions zsh > ~/.zfunc/_swarm")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = "Example: swarm man | man -l -\n         swarm man --dir ~/.local/share/man/man1")]
    Man {
        /// Write one page for every command into this folder instead
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

/// `swarm join`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swarm join                            start a room; prints the invite for the others
  swarm join 'ws://host:1234/ROOM#KEY'  join it
  swarm join ws://host 7-guitar-bacon   or with a one-time code that a member made
  swarm join @invite.txt --name ada     the invite is in a file, out of sight of other users
  tail -f log | swarm join INVITE       lines of stdin are said, lines of others come out on stdout
  swarm join INVITE --json              one JSON object a line, both ways (docs/json.md)")]
pub struct JoinArgs {
    /// The invite: the text itself, @FILE, or - to be asked for it [env: SWARM_INVITE]
    #[arg(value_name = "INVITE")]
    pub invite: Option<String>,

    /// A one-time code in place of the invite, behind its server's address (or alone, with --url)
    #[arg(value_name = "CODE")]
    pub typed_code: Option<String>,

    /// Speak JSON: events on stdout, commands on stdin, one a line (docs/json.md)
    #[arg(long)]
    pub json: bool,

    /// Do not read or write the history of typed lines
    #[arg(long)]
    pub no_history: bool,

    /// Without a terminal: read stdin once this many peers are here [default: 1; with --json 0]
    #[arg(long, value_name = "N")]
    pub wait: Option<usize>,

    /// Without a terminal: stay when stdin ends, instead of leaving once everything is said
    #[arg(long)]
    pub keep: bool,

    /// Where and as who.
    #[command(flatten)]
    pub room: RoomArgs,

    /// What to do with files that are offered.
    #[command(flatten)]
    pub accept: AcceptArgs,
}

/// `swarm send`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swarm send film.mkv                   start a room, print the invite, wait for a receiver
  swarm send photos/ notes.txt INVITE   send to everyone who is in that room
  swarm send film.mkv --code            likewise, with a one-time code that can be read out
  swarm send film.mkv INVITE --receivers 3 --timeout 600
  tar c . | swarm send - INVITE --to ada")]
pub struct SendArgs {
    /// Files and folders; - is standard input. The last may be the invite [env: SWARM_INVITE], or the last
    /// two a server's address and a one-time code
    #[arg(value_name = "PATH|INVITE", required = true, value_hint = ValueHint::AnyPath)]
    pub paths: Vec<String>,

    /// What of it, and to whom.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Wait until this many have received it [default: those in the room, at least one]
    #[arg(long, value_name = "N")]
    pub receivers: Option<usize>,

    /// Give up when nobody has joined, accepted or taken a byte for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=values::SECONDS_MAX))]
    pub timeout: Option<u64>,

    /// Print events as JSON, one a line (docs/json.md)
    #[arg(long)]
    pub json: bool,

    /// Where and as who.
    #[command(flatten)]
    pub room: RoomArgs,
}

/// What of the paths is sent, and to whom: for `swarm send` and for `/send` in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct SourceArgs {
    /// Only to the peer of this name or id (may be given again)
    #[arg(long, value_name = "NAME")]
    pub to: Vec<String>,

    /// Send what symbolic links point at; otherwise they are left out
    #[arg(long)]
    pub follow: bool,

    /// Leave out what this pattern matches, as in .gitignore: '*.tmp', 'cache/' (may be given again)
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,

    /// Leave out what .gitignore files say
    #[arg(long)]
    pub gitignore: bool,
}

impl SourceArgs {
    /// What of the paths is sent.
    pub fn options(&self) -> SourceOptions {
        SourceOptions { follow_links: self.follow, exclude: self.exclude.clone(), gitignore: self.gitignore }
    }
}

/// `swarm recv`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swarm recv INVITE                     asks before it takes anything
  swarm recv ws://host 7-guitar-bacon   with a one-time code
  swarm recv INVITE --yes --out inbox   takes what comes first, without asking
  swarm recv INVITE --accept-from ada --keep
  swarm recv INVITE -o - | tar x        as a stream; with --keep one file after the other")]
pub struct RecvArgs {
    /// The invite: the text itself, @FILE, or - to be asked for it [env: SWARM_INVITE]
    #[arg(value_name = "INVITE")]
    pub invite: Option<String>,

    /// A one-time code in place of the invite, behind its server's address (or alone, with --url)
    #[arg(value_name = "CODE")]
    pub typed_code: Option<String>,

    /// Stay and go on receiving
    #[arg(long)]
    pub keep: bool,

    /// Give up when nothing was accepted or received for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=values::SECONDS_MAX))]
    pub timeout: Option<u64>,

    /// Print events as JSON, one a line (docs/json.md)
    #[arg(long)]
    pub json: bool,

    /// Where and as who.
    #[command(flatten)]
    pub room: RoomArgs,

    /// What to do with files that are offered.
    #[command(flatten)]
    pub accept: AcceptArgs,
}

/// The consent to files, for every command that can receive.
#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub struct AcceptArgs {
    /// Put received files into this folder; - writes one file to stdout
    #[arg(short, long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,

    /// Accept every offer
    #[arg(long)]
    pub yes: bool,

    /// Accept offers of the verified peer of this name (may be given again)
    #[arg(long, value_name = "NAME")]
    pub accept_from: Vec<String>,

    /// Decline offers larger than this: 500M, 20G
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<Size>,

    /// Decline offers of more files and folders than this
    #[arg(long, value_name = "N")]
    pub max_files: Option<u32>,

    /// What to do when a file of that name is there already
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Arrival::Rename)]
    pub on_conflict: Arrival,
}

/// Where and as who: for every command that enters a room.
#[derive(Debug, Args)]
#[command(next_help_heading = "Room")]
pub struct RoomArgs {
    /// Be called this [default: the user's name]
    #[arg(short, long, value_name = "NAME", env = "SWARM_NAME", hide_env_values = true)]
    pub name: Option<String>,

    /// The server of a room that has no invite [env: SWARM_URL]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,

    /// The room at that server; it has no key, so its members are not verified
    #[arg(long, value_name = "ROOM")]
    pub room: Option<String>,

    /// Read the server's access token from this file; with a code, the token of the server beside it [env: SWARM_TOKEN
    /// has the token itself, for the server of --url]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,

    /// Trust this certificate authority (PEM) for wss
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,

    /// Without an invite: where the server of the new room listens [default: 127.0.0.1:0, this machine only]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// Without an invite: show the new one as a QR code, too
    #[arg(long)]
    pub qr: bool,

    /// Without an invite: give the key of the new one as words, to be read out
    #[arg(long)]
    pub words: bool,

    /// Make a one-time code: a number and two words that let one person in, within 10 minutes
    #[arg(long)]
    pub code: bool,

    /// Let peers in that can't prove the room's key (browsers with the published library); marked as unverified
    #[arg(long)]
    pub allow_unverified: bool,

    /// stun:HOST[:PORT] or turn:USER:PASSWORD@HOST[:PORT] or @FILE (may be given again)
    #[arg(long, value_name = "URL", value_parser = values::ice_server, help_heading = "Network")]
    pub ice_server: Vec<IceServer>,

    /// Connect through TURN servers only, so that peers do not learn this machine's addresses
    #[arg(long, help_heading = "Network")]
    pub relay_only: bool,

    /// Wrap what is said to the server in WRTC_SIGNAL messages, for hosts that hear nothing else
    #[arg(long, help_heading = "Network")]
    pub wrapped: bool,

    /// Send files no faster than this: 500K, 10M (bytes a second), 20Mbit
    #[arg(long, value_name = "RATE", help_heading = "Network")]
    pub up: Option<Rate>,

    /// Receive files no faster than this
    #[arg(long, value_name = "RATE", help_heading = "Network")]
    pub down: Option<Rate>,
}
