//! DTLS records, as far as they are judged before the engine gets them.
//!
//! Whoever reaches a socket can send records in the clear, at any time. The engine (rtc-dtls 0.21) believes a ChangeCipherSpec of any
//! epoch and takes nothing of the peer's any more, goes down its stack by one step for each fragment of a handshake message, and keeps
//! fragments and records of later epochs without a bound. So what is in the clear comes in as long as nothing could be deciphered, in the shape
//! and number that handshakes have.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Content types (RFC 5246 §6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// The headers of a record and of a part of a handshake message (RFC 6347 §4.1, §4.2.2).
const HEADER_BYTES: usize = 13;
const PART_HEADER_BYTES: usize = 12;

/// The header of application data of an epoch that never comes, so that DTLS discards it silently (RFC 6347 §4.1): content type,
/// version, epoch, sequence number, and length, here of a record of one byte.
pub(super) const FORGOTTEN_HEADER: [u8; HEADER_BYTES] = [23, 0xfe, 0xfd, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1];

/// A handshake: messages of so many bytes with numbers below this one, and all parts of them with those that are sent again within the ten
/// seconds there are. Ours and those of browsers have ten messages of 2 KB at the most.
const MESSAGE_MAX_BYTES: usize = 16 * 1024;
const MESSAGES_MAX: u16 = 16;
const PARTS_MAX: usize = 256;
const PARTS_MAX_BYTES: usize = 64 * 1024;

/// What is enciphered of it: the Finished message, and so often.
const FINISHED_MAX_BYTES: usize = 64;
const FINISHED_MAX: usize = 32;

/// What the engine keeps of what it cannot decipher yet, and what each record costs besides. Enough for what a peer says first.
const EARLY_MAX_BYTES: usize = 1024 * 1024;
const EARLY_RECORD_BYTES: usize = 64;

/// What came on one connection before it was up.
#[derive(Debug, Default)]
pub(super) struct Records {
    parts: AtomicUsize,
    part_bytes: AtomicUsize,
    finished: AtomicUsize,
    early_bytes: AtomicUsize,
}

impl Records {
    /// Has the engine discard those records of a datagram that it must not get. `is_up`: something of the peer's was deciphered.
    pub(super) fn sift(&self, datagram: &mut [u8], is_up: bool) {
        let mut rest = datagram;
        while let Some(len) = record_len(rest) {
            let (record, after) = rest.split_at_mut(len);
            if !self.admits(record, is_up) {
                forget(record);
            }
            rest = after;
        }
        forget(rest);
    }

    fn admits(&self, record: &[u8], is_up: bool) -> bool {
        let epoch = u16::from_be_bytes([record[3], record[4]]);
        match (record[0], epoch) {
            (HANDSHAKE, 0) => !is_up && self.admits_parts(&record[HEADER_BYTES..]),
            (ALERT, 0) => !is_up,
            (CHANGE_CIPHER_SPEC, 0) => !is_up && self.is_not_too_early(record),
            (ALERT | HANDSHAKE | APPLICATION_DATA, 1) => is_up || self.is_not_too_early(record),
            _ => false,
        }
    }

    /// Whether a record of the handshake that could be deciphered may come in.
    pub(super) fn admits_enciphered(&self, text: &[u8]) -> bool {
        let is_whole = text.len() <= FINISHED_MAX_BYTES
            && first_part(text).is_some_and(|(bytes, is_whole)| is_whole && bytes == text.len());
        is_whole && take(&self.finished, 1, FINISHED_MAX)
    }

    fn admits_parts(&self, body: &[u8]) -> bool {
        let (mut rest, mut parts) = (body, 0);
        while !rest.is_empty() {
            // Of what stands behind a part the engine makes a part of the same message.
            let Some((bytes, _)) =
                first_part(rest).filter(|(bytes, is_whole)| *is_whole || *bytes == rest.len())
            else {
                return false;
            };
            rest = &rest[bytes..];
            parts += 1;
        }
        take(&self.parts, parts, PARTS_MAX) && take(&self.part_bytes, body.len(), PARTS_MAX_BYTES)
    }

    fn is_not_too_early(&self, record: &[u8]) -> bool {
        let cost = record.len() + EARLY_RECORD_BYTES;
        take(&self.early_bytes, cost, EARLY_MAX_BYTES)
    }
}

/// Counts so many more, if no more than `max` are counted then.
fn take(count: &AtomicUsize, more: usize, max: usize) -> bool {
    let add = |count: usize| count.checked_add(more).filter(|sum| *sum <= max);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}

/// How long the first record is, if it is whole.
fn record_len(datagram: &[u8]) -> Option<usize> {
    let header = datagram.get(..HEADER_BYTES)?;
    let len = HEADER_BYTES + usize::from(u16::from_be_bytes([header[11], header[12]]));
    (len <= datagram.len()).then_some(len)
}

/// How long the first part of a handshake message is with its header, and whether it is all of it; `None` if no handshake has such a one.
fn first_part(bytes: &[u8]) -> Option<(usize, bool)> {
    let header = bytes.get(..PART_HEADER_BYTES)?;
    let u24_at = |at: usize| {
        usize::from(header[at]) << 16 | usize::from(header[at + 1]) << 8 | usize::from(header[at + 2])
    };
    let (message_len, from, len) = (u24_at(1), u24_at(6), u24_at(9));
    let is_sound = message_len <= MESSAGE_MAX_BYTES
        && u16::from_be_bytes([header[4], header[5]]) < MESSAGES_MAX
        && from + len <= message_len
        && (len > 0 || message_len == 0)
        && PART_HEADER_BYTES + len <= bytes.len();
    is_sound.then_some((PART_HEADER_BYTES + len, len == message_len))
}

/// Makes one record of it that DTLS discards, or, if there is too little for that, one that is too short.
pub(super) fn forget(bytes: &mut [u8]) {
    match bytes.split_at_mut_checked(HEADER_BYTES) {
        Some((header, rest)) => {
            header.copy_from_slice(&FORGOTTEN_HEADER);
            header[11..].copy_from_slice(&u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
        None => bytes.fill(APPLICATION_DATA),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, epoch: u16, body: &[u8]) -> Vec<u8> {
        let header = [&[kind, 0xfe, 0xfd][..], &epoch.to_be_bytes(), &[0, 0, 0, 0, 0, 9]].concat();
        [&header, &(body.len() as u16).to_be_bytes()[..], body].concat()
    }

    /// So many bytes from this one on of a message of that length.
    fn part(number: u16, message_len: usize, from: usize, len: usize) -> Vec<u8> {
        let u24 = |number: usize| number.to_be_bytes()[5..].to_vec();
        [vec![11], u24(message_len), number.to_be_bytes().to_vec(), u24(from), u24(len), vec![7; len]]
            .concat()
    }

    fn hello() -> Vec<u8> {
        record(HANDSHAKE, 0, &part(0, 200, 0, 200))
    }

    /// What is left for the engine of a datagram with these records.
    fn left(records: &Records, is_up: bool, sent: &[Vec<u8>]) -> Vec<bool> {
        let mut datagram = sent.concat();
        records.sift(&mut datagram, is_up);
        let mut at = 0;
        let is_left = |record: &Vec<u8>| {
            at += record.len();
            datagram[at - record.len()..at] == **record
        };
        sent.iter().map(is_left).collect()
    }

    #[test]
    fn a_handshake_comes_in_before_anything_could_be_deciphered_and_not_after_it() {
        let finished = record(HANDSHAKE, 1, &[7; 40]);
        let last = [hello(), record(CHANGE_CIPHER_SPEC, 0, &[1]), finished];
        assert_eq!(left(&Records::default(), false, &last), [true; 3]);
        assert_eq!(
            left(&Records::default(), true, &last),
            [false, false, true],
            "what is sent again is enciphered"
        );
        let rest =
            [record(ALERT, 0, &[2, 40]), record(ALERT, 1, &[7; 30]), record(APPLICATION_DATA, 1, &[7; 60])];
        assert_eq!(left(&Records::default(), false, &rest), [true; 3]);
        assert_eq!(left(&Records::default(), true, &rest), [false, true, true]);
    }

    /// With the first the engine would take every record of the peer's for an old one.
    #[test]
    fn there_is_one_epoch_in_the_clear_and_one_that_is_not() {
        let wrong = [
            record(CHANGE_CIPHER_SPEC, 1, &[1]),
            record(APPLICATION_DATA, 2, &[7; 60]),
            record(HANDSHAKE, 2, &part(0, 20, 0, 20)),
            record(APPLICATION_DATA, 0, &[7; 60]),
            record(24, 1, &[7; 60]),
        ];
        for is_up in [false, true] {
            assert_eq!(left(&Records::default(), is_up, &wrong), [false; 5]);
        }
    }

    /// The engine goes down its stack by a step for each.
    #[test]
    fn parts_of_handshake_messages_are_sound_and_few() {
        let comes_in =
            |body: &[u8]| left(&Records::default(), false, &[record(HANDSHAKE, 0, body)]) == [true];
        assert!(comes_in(&part(3, 900, 300, 300)));
        assert!(comes_in(&part(3, 0, 0, 0)), "a message may be empty");
        assert!(comes_in(&[part(3, 90, 0, 90), part(4, 900, 0, 200)].concat()));
        assert!(
            !comes_in(&[part(4, 900, 0, 200), part(3, 90, 0, 90)].concat()),
            "the engine would not see two"
        );
        for wrong in [part(3, 5, 2, 0), part(3, 300, 200, 101), part(MESSAGES_MAX, 9, 0, 9), vec![7; 11]] {
            assert!(!comes_in(&wrong));
        }
        assert!(!comes_in(&part(3, MESSAGE_MAX_BYTES + 1, 0, 9)));
        assert!(!comes_in(&part(3, 90, 0, 90)[..50]));
        let records = Records::default();
        let comes_in = |body: &[u8]| left(&records, false, &[record(HANDSHAKE, 0, body)]) == [true];
        assert_eq!((0..1000).filter(|at| comes_in(&part(3, 2000, *at, 1))).count(), PARTS_MAX);
        let records = Records::default();
        let comes_in = |body: &[u8]| left(&records, false, &[record(HANDSHAKE, 0, body)]) == [true];
        assert_eq!((0..1000).filter(|_| comes_in(&part(3, 1012, 0, 1012))).count(), PARTS_MAX_BYTES / 1024);
    }

    #[test]
    fn what_is_enciphered_of_a_handshake_is_its_end() {
        let records = Records::default();
        assert!(!records.admits_enciphered(&part(7, 60, 0, 60)), "too long");
        assert!(!records.admits_enciphered(&part(7, 12, 0, 6)), "not all of it");
        assert!(!records.admits_enciphered(&[part(7, 12, 0, 12), vec![0]].concat()));
        assert!(!records.admits_enciphered(&[]));
        assert_eq!((0..100).filter(|_| records.admits_enciphered(&part(7, 12, 0, 12))).count(), FINISHED_MAX);
    }

    #[test]
    fn too_much_that_cannot_be_deciphered_yet_is_forgotten() {
        let early = [record(APPLICATION_DATA, 1, &[7; 1400]), record(CHANGE_CIPHER_SPEC, 0, &[1])];
        for early in early {
            let records = Records::default();
            let places = EARLY_MAX_BYTES / (early.len() + EARLY_RECORD_BYTES);
            let comes_in = || left(&records, false, &[hello(), early.clone()])[1];
            assert_eq!((0..2 * places).filter(|_| comes_in()).count(), places, "beside others, too");
            assert_eq!(left(&records, false, &[hello(), early]), [false; 2], "hellos have a bound, too");
            assert_eq!(left(&records, true, &[record(APPLICATION_DATA, 1, &[7; 60])]), [true]);
        }
    }

    #[test]
    fn what_is_no_whole_record_is_forgotten() {
        let mut datagram = [hello(), vec![22; 9]].concat();
        Records::default().sift(&mut datagram, false);
        assert_eq!((&datagram[..hello().len()], &datagram[hello().len()..]), (&hello()[..], &[23; 9][..]));
        let mut cut = hello()[..100].to_vec();
        Records::default().sift(&mut cut, false);
        assert_eq!((&cut[..11], record_len(&cut)), (&FORGOTTEN_HEADER[..11], Some(100)));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_sifted(
            bytes in prop::collection::vec(prop_oneof![Just(0), Just(22), any::<u8>()], 0..200),
            is_up in any::<bool>(),
        ) {
            let mut datagram = bytes.clone();
            Records::default().sift(&mut datagram, is_up);
            prop_assert_eq!(datagram.len(), bytes.len());
            Records::default().admits_enciphered(&bytes);
        }
    }
}
