//! What the engine may keep of an SCTP packet, judged before the engine sees it.

use std::collections::VecDeque;

/// SCTP's common header, and that of a chunk (RFC 9260 §3.1, §3.2).
const HEADER_BYTES: usize = 12;
const CHUNK_HEADER_BYTES: usize = 4;

/// Kinds of chunks (RFC 9260 §3.2). Of acknowledgements and heartbeats nothing is kept.
const DATA: u8 = 0;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;

/// In a DATA chunk: this piece is the last of its message (RFC 9260 §3.3.1), and the header up to the user's data.
const ENDS: u8 = 1;
const DATA_HEADER_BYTES: usize = 16;
const DCEP: u32 = 50;

/// A SACK's header, up to its gap blocks (RFC 9260 §3.3.4).
const SACK_HEADER_BYTES: usize = 16;

/// What a piece is charged beyond its bytes: about what the engine (rtc-sctp 0.21) needs to keep track of one.
pub(super) const RECORD_BYTES: u64 = 128;

/// Charged so are pieces that are shorter than this, and the last one of a message. An honest peer sends no others of them.
const SHORT_BYTES: usize = 256;

/// Which of the peer's pieces have come. Those that come again are dropped by the engine.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What was acknowledged last: all up to here; `None` before anything was.
    cumulative: Option<u32>,
    /// What was there after it then, from first to last, as distances from it.
    blocks: Vec<(u32, u32)>,
    /// What has come since then, in the order of serial numbers.
    since: VecDeque<u32>,
}

impl Seen {
    /// Notes the acknowledgement that a packet of our own engine begins with, if it does. Returns the window it offers, in bytes.
    pub(super) fn note_sent(&mut self, packet: &[u8]) -> Option<u32> {
        let sack = Chunk::first_of(packet.get(HEADER_BYTES..)?)?;
        if sack.kind != SACK || !sack.is_consistent() {
            return None;
        }
        self.cumulative = Some(u32_at(sack.bytes, 4));
        let blocks =
            sack.bytes[SACK_HEADER_BYTES..].chunks_exact(4).take(usize::from(u16_at(sack.bytes, 12)));
        self.blocks.clear();
        self.blocks.extend(blocks.map(|block| (u16_at(block, 0).into(), u16_at(block, 2).into())));
        self.since.clear();
        Some(u32_at(sack.bytes, 8))
    }

    /// Notes the pieces of a packet that the engine gets.
    pub(super) fn note_received(&mut self, packet: &[u8]) {
        for piece in pieces(packet) {
            let at = self.since.partition_point(|tsn| is_before(*tsn, piece.tsn()));
            if self.since.get(at) != Some(&piece.tsn()) && !self.is_acknowledged(piece.tsn()) {
                self.since.insert(at, piece.tsn());
            }
        }
    }

    fn has(&self, tsn: u32) -> bool {
        let at = self.since.partition_point(|seen| is_before(*seen, tsn));
        self.since.get(at) == Some(&tsn) || self.is_acknowledged(tsn)
    }

    fn is_acknowledged(&self, tsn: u32) -> bool {
        let Some(cumulative) = self.cumulative else { return false };
        let ahead = tsn.wrapping_sub(cumulative);
        let next = self.blocks.partition_point(|(_, last)| *last < ahead);
        !is_before(cumulative, tsn) || self.blocks.get(next).is_some_and(|(first, _)| *first <= ahead)
    }
}

/// Serial numbers (RFC 1982): half of them are ahead.
fn is_before(first: u32, second: u32) -> bool {
    (1..=u32::MAX / 2).contains(&second.wrapping_sub(first))
}

/// What the engine may get out of a packet that it did not have before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    /// How many bytes it may keep. A piece keeps the whole packet it came in.
    pub(super) bytes: u64,
    /// How many of the user's messages end in it.
    pub(super) messages: u64,
}

impl News {
    pub(super) fn of(packet: &[u8], seen: &Seen) -> Self {
        let (mut is_kept, mut records, mut messages) = (false, 0, 0);
        for chunk in chunks(packet) {
            match chunk {
                Ok(piece) if piece.kind == DATA => {
                    if !seen.has(piece.tsn()) {
                        is_kept = true;
                        records += u64::from(piece.ends() || piece.bytes.len() < SHORT_BYTES);
                        messages += u64::from(piece.ends() && !piece.is_about_channels());
                    }
                }
                Ok(_) => {}
                // What the engine makes of the rest is not known: as many pieces as fit into it.
                Err(rest) => {
                    is_kept = true;
                    records += rest.len().div_ceil(DATA_HEADER_BYTES) as u64;
                }
            }
        }
        Self { bytes: if is_kept { packet.len() as u64 + records * RECORD_BYTES } else { 0 }, messages }
    }
}

fn pieces(packet: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    chunks(packet).filter_map(Result::ok).filter(|chunk| chunk.kind == DATA)
}

/// The chunks of a packet, and what follows the last that is understood.
fn chunks(packet: &[u8]) -> impl Iterator<Item = Result<Chunk<'_>, &[u8]>> {
    let mut rest = packet.get(HEADER_BYTES..).unwrap_or_default();
    std::iter::from_fn(move || {
        let before = std::mem::take(&mut rest);
        if before.is_empty() {
            return None;
        }
        let Some(chunk) = Chunk::first_of(before).filter(Chunk::is_consistent) else {
            return Some(Err(before));
        };
        rest = before.get(chunk.bytes.len().next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(chunk))
    })
}

/// A chunk with its header, without its padding.
struct Chunk<'a> {
    kind: u8,
    bytes: &'a [u8],
}

impl<'a> Chunk<'a> {
    fn first_of(rest: &'a [u8]) -> Option<Self> {
        let header = rest.get(..CHUNK_HEADER_BYTES)?;
        let bytes = rest.get(..usize::from(u16_at(header, 2)))?;
        Some(Self { kind: header[0], bytes })
    }

    /// Of a DATA chunk: its serial number.
    fn tsn(&self) -> u32 {
        u32_at(self.bytes, 4)
    }

    /// Of a DATA chunk: whether a message ends in it.
    fn ends(&self) -> bool {
        self.bytes[1] & ENDS != 0
    }

    /// Of a DATA chunk: whether it is about the opening of a channel (RFC 8832 §8.1), and no message.
    fn is_about_channels(&self) -> bool {
        u32_at(self.bytes, 12) == DCEP
    }

    /// Whether it is one of which is known what is kept, and exactly as long as its parts: the engine goes on behind those.
    fn is_consistent(&self) -> bool {
        let len = self.bytes.len();
        match self.kind {
            DATA => len >= DATA_HEADER_BYTES,
            SACK => {
                let parts = |at| 4 * usize::from(u16_at(self.bytes, at));
                len >= SACK_HEADER_BYTES && len == SACK_HEADER_BYTES + parts(12) + parts(14)
            }
            // Its information is a parameter of type 1 (RFC 9260 §3.3.5).
            HEARTBEAT => {
                len >= 2 * CHUNK_HEADER_BYTES
                    && u16_at(self.bytes, 4) == 1
                    && len == CHUNK_HEADER_BYTES + usize::from(u16_at(self.bytes, 6))
            }
            _ => false,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn packet(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        for chunk in chunks {
            packet.extend(chunk);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        packet
    }

    fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let len = (CHUNK_HEADER_BYTES + body.len()) as u16;
        [&[kind, flags], &len.to_be_bytes()[..], body].concat()
    }

    pub(in super::super) fn data(tsn: u32, ends: bool, len: usize) -> Vec<u8> {
        chunk(DATA, u8::from(ends), &[&tsn.to_be_bytes()[..], &[0; 8], &vec![7; len]].concat())
    }

    pub(in super::super) fn sack(cumulative: u32, blocks: &[(u16, u16)], duplicates: u16) -> Vec<u8> {
        let mut body = [cumulative.to_be_bytes(), [0; 4]].concat();
        body.extend((blocks.len() as u16).to_be_bytes());
        body.extend(duplicates.to_be_bytes());
        body.extend(
            blocks.iter().flat_map(|(first, last)| [first.to_be_bytes(), last.to_be_bytes()].concat()),
        );
        body.resize(body.len() + 4 * usize::from(duplicates), 0);
        chunk(SACK, 0, &body)
    }

    fn heartbeat(info: &[u8]) -> Vec<u8> {
        chunk(HEARTBEAT, 0, &chunk(0, 1, info))
    }

    fn kept(chunks: &[Vec<u8>]) -> u64 {
        News::of(&packet(chunks), &Seen::default()).bytes
    }

    fn well_formed_heartbeat() -> Vec<u8> {
        let mut chunk = heartbeat(&[9; 8]);
        chunk[4..6].copy_from_slice(&[0, 1]);
        chunk
    }

    #[test]
    fn of_acknowledgements_and_heartbeats_nothing_is_kept() {
        assert_eq!(kept(&[sack(1, &[(2, 3)], 1)]), 0);
        assert_eq!(kept(&[sack(1, &[], 0), well_formed_heartbeat()]), 0);
        assert_eq!(kept(&[]), 0);
        assert_eq!(News::of(&[], &Seen::default()), News::default());
    }

    #[test]
    fn a_piece_keeps_the_packet_it_came_in() {
        let full = data(1, false, 1000);
        assert_eq!(kept(std::slice::from_ref(&full)), 12 + 16 + 1000);
        assert_eq!(kept(&[data(1, false, 1)]), 12 + 20 + RECORD_BYTES, "a short one has a record of its own");
        assert_eq!(kept(&[data(1, true, 1000)]), 12 + 16 + 1000 + RECORD_BYTES, "and the last of a message");
        let beside = sack(1, &[(9, 9); 200], 0);
        assert_eq!(kept(&[beside, data(1, false, 1)]), 12 + 816 + 20 + RECORD_BYTES);
    }

    #[test]
    fn what_hides_in_an_acknowledgement_is_kept_like_pieces() {
        let hidden = data(5, false, 984);
        let mut long = sack(1, &[], 0);
        long.extend(&hidden);
        let len = (long.len() as u16).to_be_bytes();
        long[2..4].copy_from_slice(&len);
        assert!(kept(&[long]) > 1000);
        let mut beat = well_formed_heartbeat();
        beat[6..8].copy_from_slice(&[0, 4]);
        assert!(kept(&[beat, hidden]) > 1000);
    }

    #[test]
    fn what_makes_no_sense_is_counted_as_the_pieces_that_it_might_be() {
        let kept_bytes = |packet: &[u8]| News::of(packet, &Seen::default()).bytes;
        assert_eq!(kept_bytes(&[0; HEADER_BYTES + 3]), 15 + RECORD_BYTES);
        assert_eq!(kept_bytes(&[0; HEADER_BYTES + 40]), 52 + 3 * RECORD_BYTES, "chunks of no length");
        let beyond = [[0; HEADER_BYTES].as_slice(), &[0xff; 40]].concat();
        assert_eq!(kept_bytes(&beyond), 52 + 3 * RECORD_BYTES, "one beyond the end");
    }

    #[test]
    fn a_piece_that_came_before_is_no_news() {
        let mut seen = Seen::default();
        let window = seen.note_sent(&packet(&[sack(u32::MAX, &[(3, 4), (7, 7)], 2)]));
        assert_eq!(window, Some(0));
        let news = |seen: &Seen| -> Vec<u32> {
            let is_news = |tsn: &u32| News::of(&packet(&[data(*tsn, true, 1)]), seen).messages > 0;
            [u32::MAX - 1, u32::MAX, 0, 1, 2, 3, 4, 5, 6, 7].into_iter().filter(is_news).collect()
        };
        assert_eq!(
            news(&seen),
            [0, 1, 4, 5, 7],
            "after {}, the third, fourth and seventh are there",
            u32::MAX
        );
        seen.note_received(&packet(&[data(5, true, 1), data(0, false, 1)]));
        assert_eq!(news(&seen), [1, 4, 7]);
        let half = News::of(&packet(&[data(2, true, 1), data(4, true, 1)]), &seen);
        assert_eq!(half, News { bytes: 12 + 20 + 20 + RECORD_BYTES, messages: 1 });
        seen.note_sent(&packet(&[sack(0, &[(1, 7)], 0)]));
        assert_eq!((news(&seen), seen.since.len()), (vec![], 0));
    }

    #[test]
    fn messages_are_counted_where_they_end_and_those_about_channels_are_none() {
        let mut open = data(3, true, 20);
        open[12..16].copy_from_slice(&DCEP.to_be_bytes());
        let chunks = [data(1, false, 20), data(2, true, 20), open, data(4, true, 20)];
        assert_eq!(News::of(&packet(&chunks), &Seen::default()).messages, 2);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            ours in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut seen = Seen::default();
            seen.note_sent(&ours);
            let news = News::of(&bytes, &seen);
            prop_assert!(news.bytes <= (bytes.len() as u64 / 4 + 1) * (RECORD_BYTES + 4));
            seen.note_received(&bytes);
            prop_assert_eq!(News::of(&bytes, &seen).messages, 0);
        }

        /// What is known to have come, told by an acknowledgement and by the pieces themselves.
        #[test]
        fn each_piece_is_news_once(tsns in prop::collection::vec(0..40_u32, 1..80), base in any::<u32>()) {
            let (mut seen, mut there) = (Seen::default(), std::collections::BTreeSet::new());
            for tsn in tsns {
                let piece = packet(&[data(base.wrapping_add(tsn), true, 1)]);
                prop_assert_eq!(News::of(&piece, &seen).messages == 1, there.insert(tsn));
                seen.note_received(&piece);
            }
        }
    }
}
