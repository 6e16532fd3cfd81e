//! How much a peer has sent, and whether too much of it lies in the engine.
//!
//! SCTP's window holds a peer back that sends more than is read. There is a gap in it: a piece that comes in its turn is
//! taken while there is nothing to read (rtc-sctp 0.21), and of a message that never ends nothing can ever be read. So what came
//! in, as far as the engine may have kept it, is compared with what came out.
//!
//! It is counted where it is deciphered: a socket reads what anybody sends to it, and strangers must not be able to have a
//! connection closed. From there the engine's own ciphers do the work.

mod packet;
mod seen;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use webrtc::peer_connection::crypto::{
    ActiveKeyExchange, AeadAlgorithm, AeadCipher, BlockCipherAlgorithm, CryptoAlgorithm, CryptoError,
    HashAlgorithm, HmacAlgorithm, KeyExchangeAlgorithm, Mac, PublicKey, RTCCrypto, RTCCryptoProvider,
    RTCRandom, SignatureScheme, SigningKey, StreamCipher, StreamCipherAlgorithm,
};

use self::packet::{set_window, window_of};
use self::seen::{Acknowledged, RECORD_BYTES, Seen};
use super::records::{ALERT, APPLICATION_DATA, HANDSHAKE};
use super::runtime::Pulse;
use crate::core::allowance::Allowance;

/// What may be kept in the engine beyond what came out of it: four of the largest windows.
const UNREAD_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// So many messages may wait in the engine to be read; a peer is told from three quarters on that there is no room. What comes in spite of
/// it is dropped like a packet that got lost, and sent again. The engine loses those that are 32,768 ahead of the one to be read next
/// (rtc-sctp 0.21: stream sequence numbers have 16 bits), and nothing behind them is ever read.
const UNREAD_MAX_MESSAGES: u64 = 16 * 1024;
const SHUT_MESSAGES: u64 = 12 * 1024;
const ENGINE_MAX_MESSAGES: u64 = 28 * 1024;

/// What the engine takes beyond the window that a peer is told, for the packets that come where there is no room: so many of them each
/// time. Without them a peer that waits for a user who pauses would wait for ever: SCTP gives up on a piece that was refused for half
/// a minute (rtc-sctp 0.21: T3 stops after five retransmissions, until something new is acknowledged). The second one is new to it, and
/// tells it how long the way takes, so that it does not ask less and less often. This lasts for two hours, or for a quarter
/// of one where many tiny messages are in each packet.
pub(super) const RESERVE_BYTES: u32 = 2 * 1024 * 1024;
const TRICKLE_PACKETS: u32 = 2;
const TRICKLE_EVERY: Duration = Duration::from_secs(10);

/// From so many unread messages on the socket is not read for a moment, until no more than so many are left: where all are read
/// soon, nothing is dropped.
const HOLD_MESSAGES: u64 = 8 * 1024;
const RESUME_MESSAGES: u64 = 4 * 1024;

/// So many are on their way from SCTP's queue to their reader, as a rule: up to 4,300 were seen.
const PIPELINE_MESSAGES: u64 = RESUME_MESSAGES;

/// So many requests to reset streams at once, then one in this time. The engine remembers those it has not carried out.
const RESETS_BURST: u32 = 64;
const RESET_EVERY: Duration = Duration::from_secs(1);

/// Where a cipher is told of a record's content type (RFC 5246 §6.2.3.3).
const CONTENT_TYPE_AT: usize = 8;

/// For each message that came out this is allowed, and of the bytes a sixteenth more, for headers and for pieces that come twice
/// before the first was acknowledged.
const MESSAGE_BYTES: u64 = RECORD_BYTES + 64;

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
    fn worth_bytes(self) -> u64 {
        self.bytes + self.bytes / 16 + MESSAGE_BYTES * self.messages
    }
}

/// What came in on one connection.
#[derive(Debug)]
pub(super) struct Inflow {
    received_bytes: AtomicU64,
    look_at_bytes: AtomicU64,
    pulse: Arc<Pulse>,
    /// Set as long as the reader keeps up.
    may_hold: AtomicBool,
    arrived_messages: AtomicU64,
    taken_messages: AtomicU64,
    /// Those that nobody will read any more, as far as the window shows it.
    forgotten_messages: AtomicU64,
    window_bytes: AtomicU32,
    /// How many messages had been taken when the peer was told that there is no room; none has the highest number.
    shut_at: AtomicU64,
    trickle: Mutex<Trickle>,
    seen: Mutex<Seen>,
    resets: Mutex<Allowance>,
    /// The peer has closed the connection, which the engine does not know yet.
    is_over: AtomicBool,
    over: Notify,
    all_read: Notify,
    /// Told when a user has not read for so long that nothing more can be taken.
    pub(super) starved: Notify,
    /// Told when it is time for [`Inflow::is_excessive`].
    pub(super) suspicious: Notify,
}

impl Inflow {
    pub(super) fn new(pulse: Arc<Pulse>) -> Self {
        Self {
            received_bytes: AtomicU64::new(0),
            look_at_bytes: AtomicU64::new(UNREAD_MAX_BYTES),
            pulse,
            may_hold: AtomicBool::new(true),
            arrived_messages: AtomicU64::new(0),
            taken_messages: AtomicU64::new(0),
            forgotten_messages: AtomicU64::new(0),
            window_bytes: AtomicU32::new(0),
            shut_at: AtomicU64::new(u64::MAX),
            trickle: Mutex::default(),
            starved: Notify::new(),
            seen: Mutex::default(),
            resets: Mutex::new(Allowance::new(RESETS_BURST, RESET_EVERY)),
            is_over: AtomicBool::new(false),
            over: Notify::new(),
            all_read: Notify::new(),
            suspicious: Notify::new(),
        }
    }

    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Whether `received` bytes were too many. `delivered` must have been looked up after them.
    pub(super) fn is_excessive(&self, received: u64, delivered: Delivered) -> bool {
        let allowed = UNREAD_MAX_BYTES + delivered.worth_bytes();
        let next = allowed.max(received + LOOK_EVERY_BYTES);
        self.look_at_bytes.store(next, Ordering::Relaxed);
        if self.received_bytes() >= next {
            self.suspicious.notify_one();
        }
        received > allowed
    }

    /// One of the messages was read.
    pub(super) fn note_taken(&self) {
        self.taken_messages.fetch_add(1, Ordering::Relaxed);
        if self.waiting_messages() <= RESUME_MESSAGES && !self.may_hold.swap(true, Ordering::Relaxed) {
            self.pulse.release();
        }
        if self.is_over.load(Ordering::Acquire) && self.unread_messages() == 0 {
            self.all_read.notify_one();
        }
    }

    /// Waits for the end of the connection, if it was kept from the engine.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    /// Whether the connection's end was kept from the engine.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Waits until all is read that came before such an end.
    pub(super) async fn all_read(&self) {
        if !self.is_over() {
            std::future::pending::<()>().await;
        }
        while self.unread_messages() > 0 {
            self.all_read.notified().await;
        }
    }

    /// The connection's end must wait as long as anything is unread: the engine forgets that with the connection. Whoever reads
    /// is told instead.
    fn may_end(&self) -> bool {
        if self.unread_messages() == 0 {
            return true;
        }
        if !self.is_over.swap(true, Ordering::AcqRel) {
            self.over.notify_one();
        }
        false
    }

    /// How many messages were read.
    pub(super) fn taken_messages(&self) -> u64 {
        self.taken_messages.load(Ordering::Relaxed)
    }

    fn unread_messages(&self) -> u64 {
        let arrived = self.arrived_messages.load(Ordering::Relaxed);
        arrived.saturating_sub(self.taken_messages())
    }

    /// Those of them that may still be read.
    fn waiting_messages(&self) -> u64 {
        self.unread_messages().saturating_sub(self.forgotten_messages.load(Ordering::Relaxed))
    }

    /// The engine sends this packet. The peer is told of a smaller window.
    fn note_sent(&self, packet: &mut [u8]) {
        let mut seen = self.seen.lock().expect("nothing panics under it");
        if let Some(acknowledged) = seen.note_sent(packet) {
            self.note_acknowledged(acknowledged);
        }
        drop(seen);
        let Some(window_bytes) = window_of(packet) else { return };
        let is_full = self.waiting_messages() >= SHUT_MESSAGES;
        let told_bytes = if is_full { 0 } else { window_bytes.saturating_sub(RESERVE_BYTES) };
        set_window(packet, told_bytes);
        // Whoever is told so for the number of messages may have sent some before it knew; for these there is a place.
        let taken = self.taken_messages.load(Ordering::Relaxed);
        let is_shut = window_bytes <= RESERVE_BYTES;
        self.shut_at.store(if is_shut { taken } else { u64::MAX }, Ordering::Relaxed);
        if window_bytes == 0 {
            self.starved.notify_one();
        }
    }

    fn note_acknowledged(&self, Acknowledged { window_bytes, is_all }: Acknowledged) {
        // The widest window there ever was is the whole one: of what it has the engine holds nothing that was not read.
        if self.window_bytes.fetch_max(window_bytes, Ordering::Relaxed) <= window_bytes && is_all {
            let forgotten = self.waiting_messages().saturating_sub(PIPELINE_MESSAGES);
            self.forgotten_messages.fetch_add(forgotten, Ordering::Relaxed);
        }
    }

    /// Whether the engine may have this packet; it is noted then.
    fn admits(&self, packet: &[u8]) -> bool {
        let mut seen = self.seen.lock().expect("nothing panics under it");
        let Some(news) = seen.judge(packet) else { return false };
        if news.ends && !self.may_end() {
            return false;
        }
        let waiting = self.waiting_messages();
        let is_crowded = news.messages > 0 && waiting >= UNREAD_MAX_MESSAGES;
        if news.messages > 0 && waiting >= ENGINE_MAX_MESSAGES {
            self.starved.notify_one();
            return false;
        }
        if (is_crowded || news.goes_on && self.is_shut()) && !self.trickles(Instant::now()) {
            return false;
        }
        if news.resets && !self.resets.lock().expect("nothing panics under it").take(Instant::now()) {
            return false;
        }
        seen.note_received(packet);
        drop(seen);
        self.arrived_messages.fetch_add(news.messages, Ordering::Relaxed);
        if waiting + news.messages >= HOLD_MESSAGES && self.may_hold.swap(false, Ordering::Relaxed) {
            self.pulse.hold();
        }
        self.add(news.bytes);
        true
    }

    /// Whether there was no room when the peer was told last, and nothing has been read since.
    fn is_shut(&self) -> bool {
        self.shut_at.load(Ordering::Relaxed) == self.taken_messages.load(Ordering::Relaxed)
    }

    fn trickles(&self, now: Instant) -> bool {
        self.trickle.lock().expect("nothing panics under it").take(now)
    }

    fn add(&self, bytes: u64) {
        let before = self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        let look_at = self.look_at_bytes.load(Ordering::Relaxed);
        if before < look_at && before + bytes >= look_at {
            self.suspicious.notify_one();
        }
    }
}

/// How much is let in where there is no room.
#[derive(Debug, Default)]
struct Trickle {
    since: Option<Instant>,
    left: u32,
}

impl Trickle {
    fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= TRICKLE_EVERY) {
            *self = Self { since: Some(now), left: TRICKLE_PACKETS };
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
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
        if aad.get(CONTENT_TYPE_AT) == Some(&APPLICATION_DATA) {
            self.inflow.note_sent(text);
        }
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
        self.inflow.pulse.note_deciphered();
        let is_admitted = match aad.get(CONTENT_TYPE_AT) {
            Some(&APPLICATION_DATA) => self.inflow.admits(text),
            Some(&ALERT) => self.inflow.may_end(),
            Some(&HANDSHAKE) => self.inflow.pulse.records.admits_enciphered(text),
            Some(_) | None => false,
        };
        if is_admitted { Ok(()) } else { Err(CryptoError::AuthenticationFailed) }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::packet::tests::{TAG, chunk, data, init, packet, sack};
    use super::*;

    /// The window that the peer is told when the engine tells this one.
    fn tell(inflow: &Inflow, cumulative: u32, window_bytes: u32) -> u32 {
        let mut told = packet(&[sack(cumulative, &[], 0)]);
        set_window(&mut told, window_bytes);
        inflow.note_sent(&mut told);
        window_of(&told).expect("it is an acknowledgement")
    }

    const WINDOW_BYTES: u32 = 2 * RESERVE_BYTES;

    /// As if that had been used up just now.
    fn without_trickle(inflow: Inflow) -> Inflow {
        while inflow.trickles(Instant::now()) {}
        inflow
    }

    fn inflow() -> Inflow {
        let inflow = Inflow::new(Arc::default());
        inflow.note_sent(&mut packet(&[init(TAG)]));
        inflow
    }

    #[test]
    fn a_message_that_never_ends_is_found_out() {
        let inflow = inflow();
        inflow.add(UNREAD_MAX_BYTES + 1);
        assert!(inflow.is_excessive(inflow.received_bytes(), Delivered::default()));
    }

    /// Whether a peer could go on like this for ever: messages of so many bytes in pieces of so many at most, each sent so often.
    fn is_in_balance(len: usize, piece_max: usize, times: impl Fn(u32) -> u32) -> bool {
        let inflow = inflow();
        let (mut delivered, mut tsn) = (Delivered::default(), 0_u32);
        for _ in 0..100 {
            let mut left = len;
            while {
                let piece = left.min(piece_max);
                left -= piece;
                let received = packet(&[sack(9, &[(2, 9), (12, 12)], 0), data(tsn, left == 0, piece)]);
                for _ in 0..times(tsn) {
                    assert!(inflow.admits(&received));
                    tell(&inflow, tsn, WINDOW_BYTES);
                }
                tsn += 1;
                left > 0
            } {}
            inflow.note_taken();
            delivered.bytes += len as u64;
            delivered.messages += 1;
        }
        inflow.received_bytes() <= delivered.worth_bytes()
    }

    #[test]
    fn honest_peers_are_never_cut_off_whatever_they_send() {
        let (once, often) = (|_| 1, |tsn| 1 + tsn % 3);
        assert!(is_in_balance(1, 1200, often), "one byte a message");
        assert!(is_in_balance(0, 1200, once), "nothing a message");
        assert!(is_in_balance(64 * 1024, 1150, often), "pieces of files");
        assert!(is_in_balance(256 * 1024, 1100, often), "the largest messages");
        assert!(is_in_balance(2000, 1100, often), "two pieces a message");
        assert!(!is_in_balance(16 * 1024, 16, once), "nobody sends in such small pieces");
    }

    /// Like a network that loses them, which SCTP knows how to live with.
    #[tokio::test]
    async fn messages_that_are_too_far_ahead_of_their_reader_are_not_admitted() {
        let inflow = without_trickle(inflow());
        let message = |tsn| packet(&[data(tsn, true, 1)]);
        let max = UNREAD_MAX_MESSAGES as u32;
        assert!((0..max).all(|tsn| inflow.admits(&message(tsn))));
        assert!(!inflow.admits(&message(max)), "one too many");
        assert!(inflow.admits(&message(7)), "one that came before");
        assert!(inflow.admits(&packet(&[data(max, false, 900)])), "a piece of a message that goes on");
        assert!(inflow.admits(&packet(&[sack(1, &[], 0)])));
        inflow.note_taken();
        assert!(inflow.admits(&message(max + 1)));
        assert!(!inflow.admits(&message(max + 2)));
    }

    #[tokio::test]
    async fn a_peer_is_told_of_less_room_than_there_is() {
        let inflow = inflow();
        assert_eq!(tell(&inflow, 0, WINDOW_BYTES), WINDOW_BYTES - RESERVE_BYTES);
        assert_eq!(tell(&inflow, 0, RESERVE_BYTES), 0);
        assert_eq!(tell(&inflow, 0, RESERVE_BYTES - 1), 0);
        assert!(inflow.starved.notified().now_or_never().is_none());
        tell(&inflow, 0, 0);
        assert!(inflow.starved.notified().now_or_never().is_some(), "nothing more can be taken");
        tell(&inflow, 0, WINDOW_BYTES);
        assert!((1..=SHUT_MESSAGES as u32).all(|tsn| inflow.admits(&packet(&[data(tsn, true, 1)]))));
        assert_eq!(tell(&inflow, 0, WINDOW_BYTES), 0, "many short messages are unread");
        let on_their_way = SHUT_MESSAGES as u32 + 1..=UNREAD_MAX_MESSAGES as u32 - 1;
        assert!(on_their_way.clone().all(|tsn| inflow.admits(&packet(&[data(tsn, true, 1)]))));
        on_their_way.for_each(|_| inflow.note_taken());
        inflow.note_taken();
        assert_eq!(tell(&inflow, 0, WINDOW_BYTES), WINDOW_BYTES - RESERVE_BYTES);
    }

    /// SCTP gives up on a piece that is refused for half a minute (rtc-sctp 0.21).
    #[test]
    fn where_there_is_no_room_a_peer_is_not_refused_for_long() {
        let inflow = inflow();
        let next = |tsn| packet(&[data(tsn, true, 9)]);
        tell(&inflow, 0, RESERVE_BYTES + 1);
        assert!(inflow.admits(&next(1)));
        assert!(inflow.admits(&next(3)));
        tell(&inflow, 1, RESERVE_BYTES);
        assert_eq!(
            (4..8).map(|tsn| inflow.admits(&next(tsn))).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert!(inflow.admits(&next(2)), "what is missing among the others makes room");
        inflow.note_taken();
        assert!(inflow.admits(&next(6)), "there is room again, although the peer does not know yet");
        let (now, mut trickle) = (Instant::now(), Trickle::default());
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut taken = |seconds| (0..4).filter(|_| trickle.take(after(seconds))).count();
        assert_eq!([0, 9, 10, 15, 40].map(&mut taken), [2, 0, 2, 0, 2]);
    }

    #[tokio::test]
    async fn the_engine_is_never_given_more_messages_than_it_can_tell_apart() {
        let inflow = inflow();
        inflow.arrived_messages.store(ENGINE_MAX_MESSAGES, Ordering::Relaxed);
        assert!(!inflow.admits(&packet(&[data(1, true, 1)])));
        assert!(inflow.starved.notified().now_or_never().is_some());
        assert!(inflow.admits(&packet(&[sack(1, &[], 0)])));
    }

    #[tokio::test]
    async fn the_socket_is_not_read_while_too_much_is_unread() {
        let inflow = inflow();
        let pulse = Arc::clone(&inflow.pulse);
        for tsn in 0..HOLD_MESSAGES as u32 {
            assert!(!pulse.is_held());
            inflow.admits(&packet(&[data(tsn, true, 1)]));
        }
        assert!(pulse.is_held());
        for _ in RESUME_MESSAGES..HOLD_MESSAGES {
            assert!(pulse.is_held());
            inflow.note_taken();
        }
        assert!(!pulse.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_for_long() {
        let inflow = inflow();
        for tsn in 0..2 * HOLD_MESSAGES as u32 {
            inflow.admits(&packet(&[data(tsn, true, 1)]));
        }
        assert!(inflow.pulse.is_held());
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(!inflow.pulse.is_held());
        inflow.admits(&packet(&[data(u32::MAX, true, 1)]));
        assert!(!inflow.pulse.is_held(), "not again before something is read");
    }

    #[tokio::test]
    async fn the_end_waits_until_all_is_read() {
        let inflow = inflow();
        let abort = packet(&[chunk(6, 0, &[])]);
        assert!(inflow.admits(&abort), "nothing is unread");
        inflow.admits(&packet(&[data(1, true, 9), data(2, true, 9)]));
        assert!(!inflow.admits(&abort));
        assert!(!inflow.may_end(), "the end of DTLS neither");
        inflow.over().await;
        inflow.note_taken();
        assert!(inflow.all_read().now_or_never().is_none());
        inflow.note_taken();
        inflow.all_read().await;
        assert!(inflow.admits(&abort));
    }

    /// Messages of channels that were closed meanwhile are never read.
    #[tokio::test]
    async fn a_window_that_is_open_again_shows_that_nothing_is_unread() {
        let inflow = without_trickle(inflow());
        let acknowledge = |tsn: u32, short: u32| tell(&inflow, tsn, WINDOW_BYTES - short);
        acknowledge(0, 0);
        let max = UNREAD_MAX_MESSAGES as u32;
        assert!((1..=max).all(|tsn| inflow.admits(&packet(&[data(tsn, true, 1)]))));
        acknowledge(max - 1, 0);
        assert!(!inflow.admits(&packet(&[data(max + 1, true, 1)])), "it knows nothing of the last one yet");
        acknowledge(max, 1);
        assert!(!inflow.admits(&packet(&[data(max + 1, true, 1)])));
        acknowledge(max, 0);
        assert!(inflow.admits(&packet(&[data(max + 1, true, 1)])));
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
        let inflow = inflow();
        let is_asked = || inflow.suspicious.notified().now_or_never().is_some();
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
