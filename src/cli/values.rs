//! Arguments with a syntax of their own: sizes, rates, ICE servers, what to do with files that are there already.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::config::read_secret;
use super::exit::{Exit, Failure};
use crate::core::transfer::ConflictPolicy;
use crate::io::rtc::IceServer;

/// The longest time that is an argument: 30 days. The clock takes no more than it can count to.
pub const SECONDS_MAX: u64 = 30 * 24 * 60 * 60;

/// What to do with a received file whose name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrival {
    /// Ask, once for all files of a transfer
    Ask,
    /// Give the new file a number
    Rename,
    /// Leave the old file and do without the new one
    Skip,
    /// Replace the old file
    Overwrite,
}

impl Arrival {
    /// What is said where asking is wanted and nobody can be asked.
    pub fn nobody_to_ask() -> Failure {
        let message =
            "nobody can be asked here about files in the way: say --on-conflict rename, skip or overwrite";
        Failure::new(Exit::Usage, message)
    }
}

impl From<Arrival> for ConflictPolicy {
    fn from(arrival: Arrival) -> Self {
        match arrival {
            Arrival::Ask => Self::Ask,
            Arrival::Rename => Self::Rename,
            Arrival::Skip => Self::Skip,
            Arrival::Overwrite => Self::Overwrite,
        }
    }
}

/// The answer to whoever asks what to do with files in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// Gives the new files numbers.
    Rename,
    /// Leaves the old files and does without the new ones.
    Skip,
    /// Replaces the old files.
    Overwrite,
}

/// Not one of the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("say rename, skip or overwrite")]
pub struct ResolutionError;

impl FromStr for Resolution {
    type Err = ResolutionError;

    /// The word or its first letter.
    fn from_str(text: &str) -> Result<Self, ResolutionError> {
        match text.to_lowercase().as_str() {
            "r" | "rename" => Ok(Self::Rename),
            "s" | "skip" => Ok(Self::Skip),
            "o" | "overwrite" => Ok(Self::Overwrite),
            _ => Err(ResolutionError),
        }
    }
}

impl From<Resolution> for ConflictPolicy {
    fn from(resolution: Resolution) -> Self {
        match resolution {
            Resolution::Rename => Self::Rename,
            Resolution::Skip => Self::Skip,
            Resolution::Overwrite => Self::Overwrite,
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = anyhow::Error;

    /// `1000`, `500K`, `1.5GiB`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (number, unit) = quantity(text).context("a size is a number and a unit: 500K, 20M, 1.5GiB")?;
        let prefix = unit.strip_suffix('b').unwrap_or(&unit);
        let factor = factor(prefix).with_context(|| format!("'{unit}' is no unit of size: {PREFIXES}"))?;
        let bytes = number * factor;
        if bytes >= 1e18 {
            bail!("a size is less than that");
        }
        Ok(Self(bytes as u64))
    }
}

/// A limit in bytes a second, at least 1 KiB/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = anyhow::Error;

    /// `500K`, `10M`, `1.5MiB`, `20Mbit`: bytes a second, or bits where it says so.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (number, unit) = quantity(text.trim().trim_end_matches("/s"))
            .context("a rate is a number and a unit: 500K, 10M, 20Mbit")?;
        let (prefix, per_byte) = match (unit.strip_suffix("bit"), unit.strip_suffix('b')) {
            (Some(prefix), _) => (prefix, 8.0),
            (None, Some(prefix)) => (prefix, 1.0),
            (None, None) => (unit.as_str(), 1.0),
        };
        let factor = factor(prefix)
            .with_context(|| format!("'{unit}' is no unit of rate: {PREFIXES}, Kbit, Mbit, Gbit"))?;
        let bytes = number * factor / per_byte;
        if !(1024.0..1e15).contains(&bytes) {
            bail!("a rate is at least 1 KiB a second");
        }
        Ok(Self(bytes as u64))
    }
}

const PREFIXES: &str = "K, M, G, T, KiB, MiB, GiB, TiB";

/// A number and its unit, in lower case.
fn quantity(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    Some((number.parse().ok()?, unit.trim().to_ascii_lowercase()))
}

fn factor(prefix: &str) -> Option<f64> {
    let (letter, base) = match prefix.strip_suffix('i') {
        Some(letter) => (letter, 1024.0_f64),
        None => (prefix, 1000.0),
    };
    match letter {
        "" => prefix.is_empty().then_some(1.0),
        "k" => Some(base),
        "m" => Some(base.powi(2)),
        "g" => Some(base.powi(3)),
        "t" => Some(base.powi(4)),
        _ => None,
    }
}

/// A STUN or TURN server (RFC 7064, RFC 7065), with the credentials that the URIs themselves have no place for:
/// `stun:HOST[:PORT]`, `turn:USER:PASSWORD@HOST[:PORT][?transport=udp]`, or `@FILE` with one of these in it.
pub fn ice_server(text: &str) -> anyhow::Result<IceServer> {
    if let Some(path) = text.strip_prefix('@') {
        let text = read_secret(Path::new(path))?;
        return if text.starts_with('@') { bail!("{path} holds no ICE server") } else { ice_server(&text) };
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        bail!("an ICE server begins with stun: or turn:");
    };
    let (credentials, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
    if host.is_empty() || host.starts_with(':') || host.contains('/') {
        bail!("an ICE server is stun:HOST[:PORT] or turn:USER:PASSWORD@HOST[:PORT]");
    }
    let urls = vec![format!("{scheme}:{host}")];
    match (scheme, credentials.map(|both| both.split_once(':'))) {
        ("stun", None) => Ok(IceServer { urls, username: None, credential: None }),
        ("stun", Some(_)) => bail!("a STUN server takes no user and password"),
        ("turn", Some(Some((user, password)))) if !user.is_empty() => {
            Ok(IceServer { urls, username: Some(user.to_owned()), credential: Some(password.to_owned()) })
        }
        ("turn", _) => bail!("a TURN server needs both: turn:USER:PASSWORD@{host}"),
        ("stuns" | "turns", _) => bail!("{scheme}: is not supported: TURN goes over UDP here, turn:"),
        _ => bail!("an ICE server begins with stun: or turn:"),
    }
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
    fn sizes_have_units() {
        let parsed = ["0", "2000", "500K", "1.5MiB", "2 GB", "100g", "1TiB"]
            .map(|text| text.parse::<Size>().expect(text).0);
        assert_eq!(parsed, [0, 2000, 500_000, 1_572_864, 2_000_000_000, 100_000_000_000, 1 << 40]);
        for wrong in ["", "big", "10X", "-1M", "20Mbit", "1i", "1e99", "9999999999T"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ice_servers_have_credentials_where_they_need_them() {
        let stun = ice_server("stun:stun.example.org:3478").expect("stun");
        assert_eq!((stun.urls, stun.username), (vec!["stun:stun.example.org:3478".to_owned()], None));
        let turn = ice_server("turn:ada:p@ss:w@turn.example.org?transport=udp").expect("turn");
        assert_eq!(turn.urls, ["turn:turn.example.org?transport=udp"]);
        assert_eq!((turn.username.as_deref(), turn.credential.as_deref()), (Some("ada"), Some("p@ss:w")));
        for wrong in
            ["", "stun", "stun:", "http://x", "turn:host", "turn:user@host", "stun:a:b@host", "turn::p@h"]
        {
            assert!(ice_server(wrong).is_err(), "{wrong}");
        }
    }
}
