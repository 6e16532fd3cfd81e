//! Arguments with a syntax of their own: rates, ICE servers, what to do with files that are there already.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::config::read_secret;
use crate::core::transfer::ConflictPolicy;
use crate::io::rtc::IceServer;

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

impl From<Arrival> for ConflictPolicy {
    fn from(arrival: Arrival) -> Self {
        match arrival {
            Arrival::Rename => Self::Rename,
            Arrival::Skip => Self::Skip,
            Arrival::Overwrite => Self::Overwrite,
        }
    }
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
