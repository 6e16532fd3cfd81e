//! The keys that minted tokens are signed and checked with.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

use super::{AUDIENCE, Claims};
use crate::wire::Secret;

/// Why a text is no key, or a key can't sign.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Neither PEM nor one of our own HS256 keys.
    #[error("this is no token key: `swarm token --new-key` makes one")]
    Unknown,
    /// RFC 7518 §3.2: a key as long as the hash, at least.
    #[error("an HS256 key needs at least {HS256_MIN_BYTES} bytes, this one has {0}")]
    TooShort(usize),
    /// Not an Ed25519 key in PKCS #8 or SubjectPublicKeyInfo form.
    #[error("this is no Ed25519 key in PEM form")]
    NotEd25519,
    /// A public key only checks.
    #[error("this is a public key: minting needs the private one")]
    PublicOnly,
    /// The key could not be used.
    #[error("the key could not be used")]
    Failed(#[source] jsonwebtoken::errors::Error),
    /// The system's randomness failed.
    #[error("the system could not make a key")]
    Generate,
}

const HS256_MIN_BYTES: usize = 32;
const HS256_PREFIX: &str = "hs256:";
const PRIVATE_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";

/// What stands before the 32 bytes of an Ed25519 public key in DER (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key: HS256 (one secret on both sides) or Ed25519 (the server needs only the public half).
pub struct TokenKey {
    kid: String,
    algorithm: Algorithm,
    check: DecodingKey,
    sign: Option<EncodingKey>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKey({})", self.kid)
    }
}

/// Both halves of a new Ed25519 key, as PEM.
#[derive(Debug)]
pub struct KeyTexts {
    /// Mints.
    pub private: Secret,
    /// Checks.
    pub public: Secret,
}

impl TokenKey {
    /// Parses a key file: `hs256:` and base64url, or an Ed25519 key in PEM form (PKCS #8 or SubjectPublicKeyInfo).
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if let Some(encoded) = text.strip_prefix(HS256_PREFIX) {
            let secret = URL_SAFE_NO_PAD.decode(encoded.trim()).map_err(|_| KeyError::Unknown)?;
            return Self::from_secret(&secret);
        }
        if let Some(der) = from_pem(text, PRIVATE_LABEL) {
            return Self::from_private(&der);
        }
        let der = from_pem(text, PUBLIC_LABEL).ok_or(KeyError::Unknown)?;
        let public = der.strip_prefix(&ED25519_SPKI_PREFIX).filter(|key| key.len() == 32);
        Ok(Self::from_public(public.ok_or(KeyError::NotEd25519)?, None))
    }

    fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < HS256_MIN_BYTES {
            return Err(KeyError::TooShort(secret.len()));
        }
        Ok(Self {
            kid: kid_of(secret),
            algorithm: Algorithm::HS256,
            check: DecodingKey::from_secret(secret),
            sign: Some(EncodingKey::from_secret(secret)),
        })
    }

    fn from_private(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyError::NotEd25519)?;
        Ok(Self::from_public(pair.public_key().as_ref(), Some(EncodingKey::from_ed_der(der))))
    }

    fn from_public(public: &[u8], sign: Option<EncodingKey>) -> Self {
        Self {
            kid: kid_of(public),
            algorithm: Algorithm::EdDSA,
            check: DecodingKey::from_ed_der(public),
            sign,
        }
    }

    /// The text of an HS256 key of these random bytes.
    pub fn hs256_text(random: [u8; HS256_MIN_BYTES]) -> Secret {
        Secret::new(format!("{HS256_PREFIX}{}\n", URL_SAFE_NO_PAD.encode(random)))
    }

    /// A new Ed25519 key, from the system's randomness.
    pub fn generate_ed25519() -> Result<KeyTexts, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
        let private = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        let public = [&ED25519_SPKI_PREFIX, pair.public_key().as_ref()].concat();
        Ok(KeyTexts {
            private: Secret::new(to_pem(private.as_ref(), PRIVATE_LABEL)),
            public: Secret::new(to_pem(&public, PUBLIC_LABEL)),
        })
    }

    /// The key's name in tokens, made from the key: after a rotation the server knows which one to check with.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Signs a token.
    pub fn mint(&self, claims: &Claims) -> Result<Secret, KeyError> {
        let key = self.sign.as_ref().ok_or(KeyError::PublicOnly)?;
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, key).map(Secret::new).map_err(KeyError::Failed)
    }

    /// What a token says, if this key signed it. The times in it are the caller's to judge.
    pub(super) fn verify(&self, token: &str) -> Option<Claims> {
        let mut validation = Validation::new(self.algorithm);
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "aud"]);
        validation.set_audience(&[AUDIENCE]);
        jsonwebtoken::decode(token, &self.check, &validation).ok().map(|data| data.claims)
    }
}

/// The key a token names.
pub(super) fn select<'a>(keys: &'a [TokenKey], token: &str) -> Option<&'a TokenKey> {
    let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
    keys.iter().find(|key| key.kid == kid)
}

fn kid_of(key: &[u8]) -> String {
    let hash = blake3::derive_key("fast-rtc-swarm token key id", key);
    URL_SAFE_NO_PAD.encode(&hash[..6])
}

fn to_pem(der: &[u8], label: &str) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn from_pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let body = text.split_once(&format!("-----BEGIN {label}-----"))?.1;
    let body = body.split_once(&format!("-----END {label}-----"))?.0;
    let joined: String = body.split_whitespace().collect();
    STANDARD.decode(joined).ok()
}
