//! `swarm token`: makes token keys, and mints tokens that expire, for operators who let others in by program.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum, ValueHint};

use super::exit::{Exit, Failure, OrExit as _};
use super::serve::read_key;
use super::term::{eprint_line, print_line};
use crate::core::access::{Claims, TokenKey};
use crate::wire::{RoomId, Secret};

/// `swarm token`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swarm token --new-key eddsa --key mint.pem     makes mint.pem (keep it) and mint.pem.pub (for the server)
  swarm serve --token-key mint.pem.pub
  swarm token --key mint.pem --room den --for 2h prints a token that opens den for two hours
To change keys: give the server both, mint with the new one, take the old one away when its tokens are over.")]
pub struct TokenArgs {
    /// The key to mint with, or the file to write with --new-key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: PathBuf,

    /// Make a key instead of a token
    #[arg(long, value_name = "KIND", conflicts_with_all = ["room", "every_room", "lifetime"])]
    pub new_key: Option<KeyKind>,

    /// The room that the token opens
    #[arg(long, value_name = "ROOM", required_unless_present_any = ["every_room", "new_key"])]
    pub room: Option<RoomName>,

    /// The token opens every room, and /metrics
    #[arg(long, conflicts_with = "room")]
    pub every_room: bool,

    /// How long it lasts: 90s, 15m, 2h, 7d
    #[arg(long = "for", value_name = "TIME", default_value = "1h")]
    pub lifetime: Lifetime,
}

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// Ed25519: the server needs only the public half, and can't mint
    Eddsa,
    /// HS256: one secret on both sides
    Hs256,
}

/// A room, as typed.
#[derive(Debug, Clone)]
pub struct RoomName(RoomId);

impl FromStr for RoomName {
    type Err = crate::wire::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        RoomId::new(text).map(Self)
    }
}

/// A time with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(Duration);

impl FromStr for Lifetime {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let shape = "a time is a number and a unit: 90s, 15m, 2h, 7d";
        let split = text.find(|c: char| !c.is_ascii_digit()).context(shape)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().ok().context(shape)?;
        let unit_secs: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => bail!(shape),
        };
        let secs = number.checked_mul(unit_secs).filter(|secs| *secs > 0).context(shape)?;
        Ok(Self(Duration::from_secs(secs)))
    }
}

/// Makes a key or mints a token.
pub fn run(args: &TokenArgs) -> Result<Exit, Failure> {
    match args.new_key {
        Some(KeyKind::Eddsa) => make_ed25519(&args.key),
        Some(KeyKind::Hs256) => make_hs256(&args.key),
        None => mint(args),
    }
}

fn make_ed25519(path: &Path) -> Result<Exit, Failure> {
    let texts = TokenKey::generate_ed25519()?;
    let public = public_path(path);
    write_new(path, &texts.private)?;
    write_new(&public, &texts.public)?;
    eprint_line(&format!("made {} to mint with; give {} to swarm serve", path.display(), public.display()));
    Ok(Exit::Done)
}

fn make_hs256(path: &Path) -> Result<Exit, Failure> {
    write_new(path, &TokenKey::hs256_text(rand::random()))?;
    eprint_line(&format!("made {}: mint with it, and give it to swarm serve", path.display()));
    Ok(Exit::Done)
}

fn mint(args: &TokenArgs) -> Result<Exit, Failure> {
    let key = read_key(&args.key).or_exit(Exit::Usage)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("this machine's clock is not set")?;
    let end = now.checked_add(args.lifetime.0).context("the token would outlive the calendar")?;
    let room = args.room.as_ref().map(|room| room.0.clone());
    let token = key.mint(&Claims::new(room, end.as_secs())).or_exit(Exit::Usage)?;
    print_line(token.expose())?;
    Ok(Exit::Done)
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Writes a file that only its owner can read, and no file that is there already.
fn write_new(path: &Path, text: &Secret) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return anyhow!("{} is there already: keys are never replaced", path.display());
        }
        anyhow!(error).context(format!("can't write {}", path.display()))
    })?;
    file.write_all(text.expose().as_bytes()).with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let parsed = ["90s", "15m", "2h", "7d"].map(|text| text.parse::<Lifetime>().expect(text).0.as_secs());
        assert_eq!(parsed, [90, 900, 7_200, 604_800]);
        for wrong in ["", "90", "s", "0s", "1w", "-1h", "99999999999999999999d", "18446744073709551615d"] {
            assert!(wrong.parse::<Lifetime>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_kinds_of_keys_are_written_once_and_usable() {
        let folder = tempfile::tempdir().expect("a folder");
        let (hs256, eddsa) = (folder.path().join("h"), folder.path().join("e"));
        make_hs256(&hs256).expect("written");
        make_ed25519(&eddsa).expect("written");
        for path in [&hs256, &eddsa, &public_path(&eddsa)] {
            read_key(path).expect("usable");
        }
        let error = make_hs256(&hs256).expect_err("it is there").to_string();
        assert!(error.ends_with("is there already: keys are never replaced"), "{error}");
    }
}
