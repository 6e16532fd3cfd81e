//! The library with a cipher that changes what it sends and hears: SCTP as no honest peer speaks it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use webrtc::peer_connection::SettingEngineBuilder;
use webrtc::peer_connection::crypto::{
    ActiveKeyExchange, AeadAlgorithm, AeadCipher, CryptoAlgorithm, CryptoError, HashAlgorithm, HmacAlgorithm,
    KeyExchangeAlgorithm, Mac, PublicKey, RTCCrypto, RTCCryptoProvider, RTCRandom, SignatureScheme,
    SigningKey, default_provider,
};

use super::stranger::Stranger;
use super::{Channel, Peer, text};

struct Forger(Arc<dyn RTCCryptoProvider>);

impl RTCCryptoProvider for Forger {
    fn name(&self) -> &'static str {
        "forger"
    }

    fn crypto(&self) -> &dyn RTCCrypto {
        self
    }

    fn random(&self) -> &dyn RTCRandom {
        self.0.random()
    }
}

impl RTCCrypto for Forger {
    fn supports(&self, algorithm: CryptoAlgorithm) -> bool {
        self.0.crypto().supports(algorithm)
    }

    fn new_aead(&self, algorithm: AeadAlgorithm, key: &[u8]) -> Result<Box<dyn AeadCipher>, CryptoError> {
        Ok(Box::new(Endless { inner: self.0.crypto().new_aead(algorithm, key)?, has_begun: false }))
    }

    fn hash(&self, algorithm: HashAlgorithm, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.0.crypto().hash(algorithm, data)
    }

    fn new_hmac(&self, algorithm: HmacAlgorithm, key: &[u8]) -> Result<Box<dyn Mac>, CryptoError> {
        self.0.crypto().new_hmac(algorithm, key)
    }

    fn start_key_exchange(
        &self,
        algorithm: KeyExchangeAlgorithm,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        self.0.crypto().start_key_exchange(algorithm)
    }

    fn generate_signing_key(&self, scheme: SignatureScheme) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.0.crypto().generate_signing_key(scheme)
    }

    fn import_signing_key(
        &self,
        scheme: SignatureScheme,
        der: &[u8],
    ) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.0.crypto().import_signing_key(scheme, der)
    }

    fn verify_signature(
        &self,
        scheme: SignatureScheme,
        key: PublicKey<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        self.0.crypto().verify_signature(scheme, key, message, signature)
    }
}

/// SCTP's chunks and flags (RFC 9260 §3.3.1, §3.3.4).
const DATA: u8 = 0;
const SACK: u8 = 3;
const BEGINS: u8 = 2;
const ENDS: u8 = 1;

/// Everything from the first long message on is one message that ends again and again and never began, and the other end's window is
/// always open.
struct Endless {
    inner: Box<dyn AeadCipher>,
    has_begun: bool,
}

impl AeadCipher for Endless {
    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn seal_in_place(
        &mut self,
        nonce: &[u8],
        aad: &[u8],
        packet: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), CryptoError> {
        change(packet, |kind, chunk| {
            let is_fragment = kind == DATA && chunk[1] & (BEGINS | ENDS) != BEGINS | ENDS;
            if is_fragment || self.has_begun && kind == DATA {
                chunk[1] &= !BEGINS;
                // One message: the OPEN and "before" were numbers 0 and 1 of the stream.
                chunk[10..12].copy_from_slice(&[0, 2]);
                self.has_begun = true;
            }
        });
        self.inner.seal_in_place(nonce, aad, packet, tag)
    }

    fn open_in_place(
        &mut self,
        nonce: &[u8],
        aad: &[u8],
        packet: &mut [u8],
        tag: &[u8],
    ) -> Result<(), CryptoError> {
        self.inner.open_in_place(nonce, aad, packet, tag)?;
        change(packet, |kind, chunk| {
            if kind == SACK {
                chunk[8..12].copy_from_slice(&(1_u32 << 20).to_be_bytes());
            }
        });
        Ok(())
    }
}

/// Changes the chunks of a packet, if it is one, and its checksum with them.
fn change(packet: &mut [u8], mut change: impl FnMut(u8, &mut [u8])) {
    if packet.len() < 28 || packet[..4] != [0x13, 0x88, 0x13, 0x88] {
        return;
    }
    let mut at = 12;
    while at + 16 <= packet.len() {
        let len = usize::from(u16::from_be_bytes([packet[at + 2], packet[at + 3]])).max(4);
        change(packet[at], &mut packet[at..]);
        at += len.next_multiple_of(4);
    }
    packet[8..12].fill(0);
    let sum = crc32c(packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
}

fn crc32c(bytes: &[u8]) -> u32 {
    static TABLE: std::sync::LazyLock<[u32; 256]> = std::sync::LazyLock::new(|| {
        std::array::from_fn(|n| {
            (0..8).fold(n as u32, |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 })
        })
    });
    let table = &*TABLE;
    !bytes.iter().fold(!0, |sum: u32, byte| sum >> 8 ^ table[usize::from(sum as u8 ^ byte)])
}

/// Of such a message there is nothing to read, and the engine takes what comes in its turn (rtc-sctp 0.21).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_a_message_without_an_end_is_not_listened_to() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283, "RFC 3720 §B.4 and everybody else");
    let mut peer = Peer::new();
    let crypto = Arc::new(Forger(default_provider().expect("cryptography")));
    let settings = SettingEngineBuilder::new().with_crypto_provider(crypto).build();
    let stranger = Stranger::with(settings, &mut peer, &["fast"]).await;
    peer.opened(Channel::Fast).await;
    stranger.send(0, "before").await;
    assert_eq!(peer.message().await, (Channel::Fast, text("before")));
    let part = "x".repeat(60_000);
    let parts = 500;
    for _ in 0..parts {
        stranger.send(0, &part).await;
    }
    let mut before = usize::MAX;
    while stranger.outstanding_bytes(0).await < before {
        before = stranger.outstanding_bytes(0).await;
        sleep(Duration::from_secs(3)).await;
    }
    let taken_bytes = parts * part.len() - before;
    assert!((64 << 10..8 << 20).contains(&taken_bytes), "{taken_bytes} bytes were taken: more than a window");
    let heard = peer.said.iter().filter(|event| matches!(event, super::PeerEvent::Message { .. }));
    assert_eq!(heard.count(), 0, "it never began");
}
