//! How much a peer has sent, and whether too much of it lies in the engine.
//!
//! SCTP's window holds a peer back that sends more than is read. There is a gap in it: a piece that comes in its turn is
//! taken while there is nothing to read (rtc-sctp 0.21), and of a message that never ends nothing can ever be read. So what came
//! in is compared with what came out.
//!
//! It is counted where it is deciphered: a socket reads what anybody sends to it, and strangers must not be able to have a
//! connection closed. From there the engine's own ciphers do the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use webrtc::peer_connection::crypto::{
    ActiveKeyExchange, AeadAlgorithm, AeadCipher, BlockCipherAlgorithm, CryptoAlgorithm, CryptoError,
    HashAlgorithm, HmacAlgorithm, KeyExchangeAlgorithm, Mac, PublicKey, RTCCrypto, RTCCryptoProvider,
    RTCRandom, SignatureScheme, SigningKey, StreamCipher, StreamCipherAlgorithm,
};

/// SCTP's common header, and where a chunk says how long it is (RFC 9260 §3.1, §3.2).
const HEADER_BYTES: usize = 12;
const CHUNK_HEADER_BYTES: usize = 4;

/// Chunks of which nothing is kept (RFC 9260 §3.2): SACK, HEARTBEAT and its ACK.
const FLEETING: [u8; 3] = [3, 4, 5];

/// What a peer may have sent, in bytes of chunks, beyond what of it came out of the engine: four of the largest windows. Of
/// what came out a quarter more is allowed, and so much for each message: a chunk of one byte has twenty, and on a bad path
/// some come twice, those whose acknowledgement got lost. One that loses a fifth of all packets in both directions is far
/// from that, since packets that were lost are not counted here.
const UNREAD_MAX_BYTES: u64 = 16 * 1024 * 1024;
const MESSAGE_BYTES: u64 = 64;

/// After a look that found nothing wrong there is no other before so much more has come.
const LOOK_EVERY_BYTES: u64 = 4 * 1024 * 1024;

/// What has come out of the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    bytes: u64,
    messages: u64,
}

impl Delivered {
    /// Takes down what the engine says of all channels. It counts messages in 32 bits, over and over again.
    pub(super) fn count(&mut self, bytes: u64, messages: u32) {
        self.bytes = self.bytes.max(bytes);
        self.messages += u64::from(messages.wrapping_sub(self.messages as u32));
    }

    /// What may have come in for that.
    fn allowed_bytes(self) -> u64 {
        UNREAD_MAX_BYTES + self.bytes + self.bytes / 4 + MESSAGE_BYTES * self.messages
    }
}

/// What came in on one connection.
#[derive(Debug)]
pub(super) struct Inflow {
    received_bytes: AtomicU64,
    look_at_bytes: AtomicU64,
    /// Told when it is time for [`Inflow::is_excessive`].
    pub(super) suspicious: Notify,
}

impl Default for Inflow {
    fn default() -> Self {
        Self {
            received_bytes: AtomicU64::new(0),
            look_at_bytes: AtomicU64::new(Delivered::default().allowed_bytes()),
            suspicious: Notify::new(),
        }
    }
}

impl Inflow {
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Whether `received` bytes were too many. `delivered` must have been looked up after them.
    pub(super) fn is_excessive(&self, received: u64, delivered: Delivered) -> bool {
        let allowed = delivered.allowed_bytes();
        let next = allowed.max(received + LOOK_EVERY_BYTES);
        self.look_at_bytes.store(next, Ordering::Relaxed);
        if self.received_bytes() >= next {
            self.suspicious.notify_one();
        }
        received > allowed
    }

    fn add(&self, bytes: u64) {
        let before = self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        let look_at = self.look_at_bytes.load(Ordering::Relaxed);
        if before < look_at && before + bytes >= look_at {
            self.suspicious.notify_one();
        }
    }
}

/// The bytes of a packet of which the engine may keep something.
fn lasting_bytes(packet: &[u8]) -> u64 {
    let mut lasting = 0;
    let mut rest = packet.get(HEADER_BYTES..).unwrap_or_default();
    while let [kind, _, high, low, ..] = *rest {
        let len = usize::from(u16::from_be_bytes([high, low]));
        let padded = len.max(CHUNK_HEADER_BYTES).next_multiple_of(4).min(rest.len());
        if !FLEETING.contains(&kind) {
            lasting += padded as u64;
        }
        rest = &rest[padded..];
    }
    lasting
}

/// The engine's cryptography, and a look at what it deciphers.
pub(super) struct Watched {
    pub(super) inner: Arc<dyn RTCCryptoProvider>,
    pub(super) inflow: Arc<Inflow>,
}

impl RTCCryptoProvider for Watched {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn crypto(&self) -> &dyn RTCCrypto {
        self
    }

    fn random(&self) -> &dyn RTCRandom {
        self.inner.random()
    }
}

/// CBC is not among it: nobody needs it, and nobody would look there.
impl RTCCrypto for Watched {
    fn supports(&self, algorithm: CryptoAlgorithm) -> bool {
        !matches!(algorithm, CryptoAlgorithm::Cbc(_)) && self.inner.crypto().supports(algorithm)
    }

    fn new_aead(&self, algorithm: AeadAlgorithm, key: &[u8]) -> Result<Box<dyn AeadCipher>, CryptoError> {
        let inner = self.inner.crypto().new_aead(algorithm, key)?;
        Ok(Box::new(WatchedCipher { inner, inflow: Arc::clone(&self.inflow) }))
    }

    fn hash(&self, algorithm: HashAlgorithm, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.inner.crypto().hash(algorithm, data)
    }

    fn block_encrypt(
        &self,
        algorithm: BlockCipherAlgorithm,
        key: &[u8],
        block: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.inner.crypto().block_encrypt(algorithm, key, block)
    }

    fn new_hmac(&self, algorithm: HmacAlgorithm, key: &[u8]) -> Result<Box<dyn Mac>, CryptoError> {
        self.inner.crypto().new_hmac(algorithm, key)
    }

    fn new_stream_cipher(
        &self,
        algorithm: StreamCipherAlgorithm,
        key: &[u8],
    ) -> Result<Box<dyn StreamCipher>, CryptoError> {
        self.inner.crypto().new_stream_cipher(algorithm, key)
    }

    fn start_key_exchange(
        &self,
        algorithm: KeyExchangeAlgorithm,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        self.inner.crypto().start_key_exchange(algorithm)
    }

    fn generate_signing_key(&self, scheme: SignatureScheme) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.inner.crypto().generate_signing_key(scheme)
    }

    fn import_signing_key(
        &self,
        scheme: SignatureScheme,
        pkcs8_der: &[u8],
    ) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.inner.crypto().import_signing_key(scheme, pkcs8_der)
    }

    fn verify_signature(
        &self,
        scheme: SignatureScheme,
        public_key: PublicKey<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        self.inner.crypto().verify_signature(scheme, public_key, message, signature)
    }
}

struct WatchedCipher {
    inner: Box<dyn AeadCipher>,
    inflow: Arc<Inflow>,
}

impl AeadCipher for WatchedCipher {
    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn seal_in_place(
        &mut self,
        nonce: &[u8],
        aad: &[u8],
        text: &mut [u8],
        tag_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.inner.seal_in_place(nonce, aad, text, tag_out)
    }

    fn open_in_place(
        &mut self,
        nonce: &[u8],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8],
    ) -> Result<(), CryptoError> {
        self.inner.open_in_place(nonce, aad, text, tag)?;
        self.inflow.add(lasting_bytes(text));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chunks: &[(u8, usize)]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        for (kind, len) in chunks {
            packet.extend([*kind, 0]);
            packet.extend((*len as u16).to_be_bytes());
            packet.resize(packet.len() - CHUNK_HEADER_BYTES + len.next_multiple_of(4), 0);
        }
        packet
    }

    #[test]
    fn acknowledgements_and_heartbeats_are_not_counted() {
        assert_eq!(lasting_bytes(&packet(&[(3, 40), (4, 20), (5, 20)])), 0);
        assert_eq!(lasting_bytes(&packet(&[(3, 16), (0, 17), (0, 1000)])), 20 + 1000);
    }

    #[test]
    fn what_makes_no_sense_is_counted_as_a_whole_and_ends() {
        assert_eq!(lasting_bytes(&[]), 0);
        assert_eq!(lasting_bytes(&[0; HEADER_BYTES + 3]), 0);
        assert_eq!(lasting_bytes(&[0; HEADER_BYTES + 40]), 40, "chunks of no length");
        assert_eq!(
            lasting_bytes(&[[0; HEADER_BYTES].as_slice(), &[0xff; 40]].concat()),
            40,
            "one beyond the end"
        );
    }

    #[test]
    fn a_message_that_never_ends_is_found_out() {
        let inflow = Inflow::default();
        inflow.add(UNREAD_MAX_BYTES + 1);
        assert!(inflow.is_excessive(inflow.received_bytes(), Delivered::default()));
    }

    /// Chunks as peers really send them: what the engine hands over, and of each chunk how often it comes.
    fn is_cut(messages: u64, len: u64, chunks: u64, twice_in: u64) -> bool {
        let inflow = Inflow::default();
        let mut delivered = Delivered::default();
        let mut cut = false;
        for message in 0..messages {
            let bytes = len.max(1) + 20 * chunks;
            inflow.add(bytes + if message % twice_in == 0 { bytes } else { 0 });
            delivered = Delivered { bytes: delivered.bytes + len, messages: delivered.messages + 1 };
            cut |= inflow.is_excessive(inflow.received_bytes(), delivered);
        }
        cut
    }

    #[test]
    fn honest_peers_are_never_cut_off_whatever_they_send() {
        assert!(!is_cut(4_000_000, 1, 1, 2), "one byte a message, half of them twice");
        assert!(!is_cut(4_000_000, 0, 1, 2), "nothing a message");
        assert!(!is_cut(10_000, 64 * 1024, 60, 5), "pieces of files, a fifth of the chunks twice");
        assert!(!is_cut(3_000, 256 * 1024, 240, 5), "the largest messages");
        assert!(is_cut(10_000, 64 * 1024, 60, 1), "everything twice is nobody's path");
    }

    #[test]
    fn messages_are_counted_on_when_the_engine_begins_anew() {
        let mut delivered = Delivered::default();
        for messages in [7, 7, u32::MAX, 0, 4] {
            delivered.count(1, messages);
        }
        assert_eq!(delivered, Delivered { bytes: 1, messages: (1 << 32) + 4 });
    }

    #[tokio::test]
    async fn a_look_is_asked_for_as_soon_as_there_is_something_to_see_and_not_at_each_packet() {
        let inflow = Inflow::default();
        let is_asked = || futures_util::FutureExt::now_or_never(inflow.suspicious.notified()).is_some();
        inflow.add(UNREAD_MAX_BYTES - 1);
        assert!(!is_asked());
        inflow.add(1);
        assert!(is_asked());
        let half = Delivered { bytes: UNREAD_MAX_BYTES / 2, messages: 1 };
        assert!(!inflow.is_excessive(inflow.received_bytes(), half));
        inflow.add(LOOK_EVERY_BYTES);
        assert!(!is_asked(), "so much more is allowed by now");
        inflow.add(UNREAD_MAX_BYTES / 2);
        assert!(is_asked());
        assert!(inflow.is_excessive(inflow.received_bytes(), half));
    }
}
