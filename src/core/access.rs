//! Who may enter: what a presented token grants. The time is an argument, like everywhere in `core`.

mod key;

use serde::{Deserialize, Serialize};

use crate::wire::{RoomId, Secret};

pub use key::{KeyError, TokenKey};

/// The audience of our tokens, so that one minted for another service with the same key opens nothing here.
const AUDIENCE: &str = "swarm";

/// The rooms a client may enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Every room: the server's own token, an open server, or a minted token without a room.
    EveryRoom,
    /// One room: a minted token.
    Room(RoomId),
}

impl Grant {
    /// Whether the client may enter the room.
    pub fn allows(&self, room: &RoomId) -> bool {
        match self {
            Self::EveryRoom => true,
            Self::Room(only) => only == room,
        }
    }
}

/// What a minted token says (RFC 7519 §4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The only room it opens; every room without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomId>,
    /// The second of the Unix epoch at which it ends.
    pub exp: u64,
    /// The second from which on it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    aud: String,
}

impl Claims {
    /// A token for one room, or for all, that ends at `exp` (seconds of the Unix epoch).
    pub fn new(room: Option<RoomId>, exp: u64) -> Self {
        Self { room, exp, nbf: None, aud: AUDIENCE.into() }
    }
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token was presented.
    #[error("this server needs a token: put it into the `Authorization: Bearer` header or into `?token=`")]
    Missing,
    /// The token is none of this server's.
    #[error("the token is not one of this server's")]
    Wrong,
    /// The token is over.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// The token does not count yet.
    #[error("the token is not valid yet")]
    TooEarly,
}

/// How a server decides whom to let in.
#[derive(Debug)]
pub enum Access {
    /// Lets everybody in.
    Open,
    /// Wants a token.
    Guarded {
        /// The server's own tokens: each opens every room.
        tokens: Vec<Secret>,
        /// The keys of minted tokens.
        keys: Vec<TokenKey>,
    },
}

impl Access {
    /// Decides about a presented token at `unix_now` (seconds of the Unix epoch).
    pub fn admit(&self, presented: Option<&Secret>, unix_now: u64) -> Result<Grant, Denied> {
        let Self::Guarded { tokens, keys } = self else { return Ok(Grant::EveryRoom) };
        let presented = presented.ok_or(Denied::Missing)?;
        // Every token is compared, so that the time tells nothing about which one was close.
        let known = tokens.iter().fold(false, |known, token| known | (token == presented));
        if known {
            return Ok(Grant::EveryRoom);
        }
        let key = key::select(keys, presented.expose()).ok_or(Denied::Wrong)?;
        let claims = key.verify(presented.expose()).ok_or(Denied::Wrong)?;
        if claims.exp <= unix_now {
            return Err(Denied::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf > unix_now) {
            return Err(Denied::TooEarly);
        }
        Ok(claims.room.map_or(Grant::EveryRoom, Grant::Room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn room(name: &str) -> RoomId {
        RoomId::new(name).expect("a good id")
    }

    fn admit(access: &Access, token: &str) -> Result<Grant, Denied> {
        access.admit(Some(&Secret::new(token)), NOW)
    }

    fn hs256(byte: u8) -> TokenKey {
        TokenKey::parse(TokenKey::hs256_text([byte; 32]).expose()).expect("our own text")
    }

    fn ed25519() -> (TokenKey, TokenKey) {
        let texts = TokenKey::generate_ed25519().expect("the system has randomness");
        let parse = |text: &Secret| TokenKey::parse(text.expose()).expect("our own text");
        (parse(&texts.private), parse(&texts.public))
    }

    #[test]
    fn an_open_server_lets_everybody_in() {
        assert_eq!(Access::Open.admit(None, NOW), Ok(Grant::EveryRoom));
    }

    #[test]
    fn a_guarded_server_wants_its_own_token() {
        let access = Access::Guarded { tokens: vec![Secret::new("one"), Secret::new("two")], keys: vec![] };
        assert_eq!(access.admit(None, NOW), Err(Denied::Missing));
        assert_eq!(admit(&access, ""), Err(Denied::Wrong));
        assert_eq!(admit(&access, "on"), Err(Denied::Wrong));
        assert_eq!(admit(&access, "one"), Ok(Grant::EveryRoom));
        assert_eq!(admit(&access, "two"), Ok(Grant::EveryRoom));
    }

    #[test]
    fn a_minted_token_opens_its_room_until_it_ends() {
        let (private, public) = ed25519();
        for (minter, checker) in [(hs256(1), hs256(1)), (private, public)] {
            let access = Access::Guarded { tokens: vec![], keys: vec![hs256(9), checker] };
            let mint = |claims: Claims| minter.mint(&claims).expect("a private key").expose().to_owned();
            let token = mint(Claims::new(Some(room("den")), NOW + 1));
            assert_eq!(admit(&access, &token), Ok(Grant::Room(room("den"))));
            assert_eq!(admit(&access, &mint(Claims::new(None, NOW + 1))), Ok(Grant::EveryRoom));
            assert_eq!(admit(&access, &mint(Claims::new(None, NOW))), Err(Denied::Expired));
            let later = Claims { nbf: Some(NOW + 1), ..Claims::new(None, NOW + 9) };
            assert_eq!(admit(&access, &mint(later)), Err(Denied::TooEarly));
            let elsewhere = Claims { aud: "shop".into(), ..Claims::new(None, NOW + 9) };
            assert_eq!(admit(&access, &mint(elsewhere)), Err(Denied::Wrong));
        }
    }

    #[test]
    fn a_token_of_a_retired_key_opens_nothing() {
        let token = hs256(1).mint(&Claims::new(None, NOW + 9)).expect("a private key");
        let access = Access::Guarded { tokens: vec![], keys: vec![hs256(2)] };
        assert_eq!(admit(&access, token.expose()), Err(Denied::Wrong));
    }

    #[test]
    fn a_public_key_is_no_secret_to_sign_with() {
        let (_, public) = ed25519();
        assert!(matches!(public.mint(&Claims::new(None, NOW)), Err(KeyError::PublicOnly)));
    }

    /// RFC 8725 §2.1: `alg: none`, and a public key taken for a shared secret.
    #[test]
    fn the_token_does_not_choose_how_it_is_checked() {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let (_, public) = ed25519();
        let kid = public.kid().to_owned();
        let access = Access::Guarded { tokens: vec![], keys: vec![public] };
        let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{},"aud":"swarm"}}"#, NOW + 9));
        for algorithm in ["none", "HS256"] {
            let header = format!(r#"{{"alg":"{algorithm}","kid":"{kid}"}}"#);
            let token = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header));
            assert_eq!(admit(&access, &token), Err(Denied::Wrong), "{algorithm}");
        }
    }
}
