//! What the command line means: arguments, environment and defaults, resolved once.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::wire::text::Name;

/// The longest invite, token or list of ICE servers that is read from a file, in bytes.
const SECRET_FILE_MAX_BYTES: u64 = 64 * 1024;

/// What to do with a received file whose name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrival {
    /// Give the new file a number
    Rename,
    /// Leave the old file and do without the new one
    Skip,
    /// Replace the old file
    Overwrite,
}

/// A limit in bytes a second, at least 1 KiB/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = anyhow::Error;

    /// `500K`, `10M`, `1.5MiB`, `20Mbit`: bytes a second, or bits where it says so.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let text = text.trim().trim_end_matches("/s");
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: f64 = number.parse().ok().context("a rate is a number and a unit: 500K, 10M, 20Mbit")?;
        let bytes = number * unit_bytes(unit.trim())?;
        if !(1024.0..1e15).contains(&bytes) {
            bail!("a rate is at least 1 KiB a second");
        }
        Ok(Self(bytes as u64))
    }
}

fn unit_bytes(unit: &str) -> anyhow::Result<f64> {
    let lower = unit.to_ascii_lowercase();
    let (prefix, per_byte) = match (lower.strip_suffix("bit"), lower.strip_suffix('b')) {
        (Some(prefix), _) => (prefix, 8.0),
        (None, Some(prefix)) => (prefix, 1.0),
        (None, None) => (lower.as_str(), 1.0),
    };
    let factor = match prefix {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        _ => bail!("'{unit}' is no unit of rate: K, M, G, KiB, MiB, GiB, Kbit, Mbit, Gbit"),
    };
    Ok(factor / per_byte)
}

/// A STUN or TURN server (RFC 7064, RFC 7065), with the credentials that the URIs themselves have no place for.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:host:port` or `turn:host:port?transport=udp`.
    pub url: String,
    /// Empty for STUN.
    pub username: String,
    /// Empty for STUN.
    pub credential: String,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IceServer({})", self.url)
    }
}

impl FromStr for IceServer {
    type Err = anyhow::Error;

    /// `stun:HOST[:PORT]`, `turn:USER:PASSWORD@HOST[:PORT][?transport=udp]`, or `@FILE` with one of these in it.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(path) = text.strip_prefix('@') {
            return read_secret(Path::new(path))?.parse();
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            bail!("an ICE server begins with stun: or turn:");
        };
        let (credentials, host) =
            rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        if host.is_empty() || host.starts_with(':') || host.contains('/') {
            bail!("an ICE server is stun:HOST[:PORT] or turn:USER:PASSWORD@HOST[:PORT]");
        }
        let url = format!("{scheme}:{host}");
        match (scheme, credentials.map(|both| both.split_once(':'))) {
            ("stun" | "stuns", None) => Ok(Self { url, username: String::new(), credential: String::new() }),
            ("stun" | "stuns", Some(_)) => bail!("a STUN server takes no user and password"),
            ("turn" | "turns", Some(Some((user, password)))) if !user.is_empty() => {
                Ok(Self { url, username: user.to_owned(), credential: password.to_owned() })
            }
            ("turn" | "turns", _) => bail!("a TURN server needs both: turn:USER:PASSWORD@{host}"),
            _ => bail!("an ICE server begins with stun: or turn:"),
        }
    }
}

/// What the user is called: as told, else the user's name, else `peer`.
pub fn own_name(told: Option<&str>) -> Result<Name, super::exit::Failure> {
    use super::exit::{Exit, OrExit};
    if let Some(told) = told {
        return told.parse::<Name>().or_exit(Exit::Usage);
    }
    let user = ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name = user.and_then(|user| Name::from_remote(&user));
    Ok(name.unwrap_or_else(|| "peer".parse().expect("`peer` is a name")))
}

/// A secret from a file: its first line that is not empty.
pub fn read_secret(path: &Path) -> anyhow::Result<String> {
    let shown = || format!("can't read {}", path.display());
    let file = fs::File::open(path).with_context(shown)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, SECRET_FILE_MAX_BYTES), &mut text)
        .with_context(shown)?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map(str::to_owned).with_context(|| format!("{} is empty", path.display()))
}

/// A secret that the user types or pipes in.
pub fn ask_secret(prompt: &str) -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        let mut editor = rustyline::DefaultEditor::new()?;
        return Ok(editor.readline(prompt)?.trim().to_owned());
    }
    let mut line = String::new();
    io::Read::take(io::stdin().lock(), SECRET_FILE_MAX_BYTES).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        let parsed =
            ["2000", "500K", "1.5MiB", "20Mbit", "10 MB/s"].map(|text| text.parse::<Rate>().expect(text).0);
        assert_eq!(parsed, [2000, 500_000, 1_572_864, 2_500_000, 10_000_000]);
        for wrong in ["", "fast", "10X", "-1M", "0", "1", "1e99M"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ice_servers_have_credentials_where_they_need_them() {
        let stun: IceServer = "stun:stun.example.org:3478".parse().expect("stun");
        assert_eq!((stun.url.as_str(), stun.username.as_str()), ("stun:stun.example.org:3478", ""));
        let turn: IceServer = "turn:ada:p@ss:w@turn.example.org?transport=udp".parse().expect("turn");
        assert_eq!(turn.url, "turn:turn.example.org?transport=udp");
        assert_eq!((turn.username.as_str(), turn.credential.as_str()), ("ada", "p@ss:w"));
        assert_eq!(format!("{turn:?}"), "IceServer(turn:turn.example.org?transport=udp)");
        for wrong in
            ["", "stun", "stun:", "http://x", "turn:host", "turn:user@host", "stun:a:b@host", "turn::p@h"]
        {
            assert!(wrong.parse::<IceServer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_the_first_line_with_something_in_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        fs::write(&path, "\n  s3cret \nmore\n").expect("written");
        assert_eq!(read_secret(&path).expect("readable"), "s3cret");
        fs::write(&path, "\n\n").expect("written");
        assert!(read_secret(&path).is_err());
    }
}
