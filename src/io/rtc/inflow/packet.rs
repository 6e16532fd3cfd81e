//! SCTP packets as far as they are judged before the engine gets them.

use std::ops::Range;

/// SCTP's common header, where its parts are, and that of a chunk and of a parameter (RFC 9260 §3.1, §3.2, §3.2.1).
const HEADER_BYTES: usize = 12;
const SOURCE_PORT_AT: usize = 0;
const DESTINATION_PORT_AT: usize = 2;
const TAG_AT: usize = 4;
const CHECKSUM: Range<usize> = 8..12;
const CHUNK_HEADER_BYTES: usize = 4;

/// In a DATA chunk: this piece is the first or the last of its message, or of one that may overtake others; and the protocol of messages about the opening of
/// channels (RFC 9260 §3.3.1, RFC 8832 §8.1).
const BEGINS: u8 = 2;
const ENDS: u8 = 1;
const UNORDERED: u8 = 4;
const DCEP: u32 = 50;

/// Those messages, by their first byte, and how long they are at least (RFC 8832 §5).
const CHANNEL_ACK: u8 = 2;
const CHANNEL_OPEN: u8 = 3;
const CHANNEL_OPEN_BYTES: usize = 12;

/// Up to the user's data of a DATA chunk, the blocks of a SACK, the parameters of an INIT (RFC 9260 §3.3).
const DATA_HEADER_BYTES: usize = 16;
const SACK_HEADER_BYTES: usize = 16;
const INIT_HEADER_BYTES: usize = 20;

/// In a packet that begins with an INIT, an INIT ACK or a SACK: how many bytes may be sent (RFC 9260 §3.3.2, §3.3.4).
const WINDOW: Range<usize> = 20..24;

/// Parameters (RFC 9260 §3.3.5; RFC 6525 §4.1, §4.4; RFC 3758 §3.1; RFC 4895 §3.3).
const HEARTBEAT_INFO: u16 = 1;
const OUTGOING_RESET: u16 = 13;
const RESET_RESPONSE: u16 = 16;
const FORWARD_TSN_SUPPORTED: u16 = 0xc000;
const HMAC_ALGORITHMS: u16 = 0x8004;

/// The kinds of chunks that the engine (rtc-sctp 0.21) understands (RFC 9260 §3.2, RFC 6525 §3.1, RFC 3758 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Init,
    Sack,
    Heartbeat,
    /// ABORT or ERROR: the engine looks at nothing behind it.
    Last,
    /// COOKIE ECHO: the association is the one that it was made for.
    Cookie,
    /// What has nothing but its header or a serial number in it.
    Plain,
    Reconfig,
    ForwardTsn,
}

/// A chunk with its header, without its padding.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    pub(super) kind: Kind,
    bytes: &'a [u8],
}

/// Something about a packet that no honest peer sends, or that the engine does not understand.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The verification tag of a packet whose checksum and ports are right (RFC 9260 §3.1, §6.8); `None` otherwise: the engine drops
/// those.
pub(super) fn tag_of(packet: &[u8]) -> Option<u32> {
    let header = packet.get(..HEADER_BYTES)?;
    let has_ports = u16_at(header, SOURCE_PORT_AT) != 0 && u16_at(header, DESTINATION_PORT_AT) != 0;
    let is_sound = has_ports && header[CHECKSUM] == checksum(packet).to_le_bytes();
    is_sound.then(|| u32_at(header, TAG_AT))
}

/// The window that a packet tells at its beginning, in bytes.
pub(super) fn window_of(packet: &[u8]) -> Option<u32> {
    let first = chunks(packet).next()?.ok()?;
    matches!(first.kind, Kind::Init | Kind::Sack).then(|| first.window_bytes())
}

/// Has a packet tell another window.
pub(super) fn set_window(packet: &mut [u8], bytes: u32) {
    let Some(window) = packet.get_mut(WINDOW) else { return };
    window.copy_from_slice(&bytes.to_be_bytes());
    seal(packet);
}

/// Writes the checksum into a packet that has a header.
pub(super) fn seal(packet: &mut [u8]) {
    let right = checksum(packet).to_le_bytes();
    packet[CHECKSUM].copy_from_slice(&right);
}

/// CRC-32C over the packet as if the field for it were zero (RFC 9260 §6.8), of a packet that has a header.
fn checksum(packet: &[u8]) -> u32 {
    let before = crc32c::crc32c(&packet[..CHECKSUM.start]);
    let field = crc32c::crc32c_append(before, &[0; 4]);
    crc32c::crc32c_append(field, &packet[CHECKSUM.end..])
}

/// The chunks of a packet, and an error for what is not as long as its parts say: the engine goes on behind those.
pub(super) fn chunks(packet: &[u8]) -> impl Iterator<Item = Result<Chunk<'_>, Malformed>> {
    let mut rest = packet.get(HEADER_BYTES..);
    std::iter::from_fn(move || {
        let Some(before) = rest.take() else { return Some(Err(Malformed)) };
        rest = Some(&[]);
        if before.is_empty() {
            return None;
        }
        let Some(chunk) = Chunk::first_of(before) else { return Some(Err(Malformed)) };
        if chunk.kind != Kind::Last {
            rest = before.get(chunk.bytes.len().next_multiple_of(4)..).or(Some(&[]));
        }
        Some(Ok(chunk))
    })
}

impl<'a> Chunk<'a> {
    fn first_of(rest: &'a [u8]) -> Option<Self> {
        let header = rest.get(..CHUNK_HEADER_BYTES)?;
        let len = usize::from(u16_at(header, 2));
        let bytes = rest.get(..len).filter(|bytes| bytes.len() >= CHUNK_HEADER_BYTES)?;
        let parts = |at| 4 * usize::from(u16_at(bytes, at));
        let (kind, is_whole) = match header[0] {
            0 => (Kind::Data, len >= DATA_HEADER_BYTES && is_sound_about_channels(bytes)),
            1 | 2 => (
                Kind::Init,
                len >= INIT_HEADER_BYTES && has_whole_parameters(&bytes[INIT_HEADER_BYTES..], fits_init),
            ),
            3 => (
                Kind::Sack,
                len >= SACK_HEADER_BYTES
                    && len == SACK_HEADER_BYTES + parts(12) + parts(14)
                    && are_apart(&bytes[SACK_HEADER_BYTES..][..parts(12)]),
            ),
            4 => (
                Kind::Heartbeat,
                has_whole_parameters(&bytes[CHUNK_HEADER_BYTES..], |kind, _| kind == HEARTBEAT_INFO),
            ),
            6 | 9 => (Kind::Last, true),
            7 => (Kind::Plain, len == 8),
            8 | 11 | 14 => (Kind::Plain, len == CHUNK_HEADER_BYTES),
            10 => (Kind::Cookie, true),
            130 => (Kind::Reconfig, has_whole_parameters(&bytes[CHUNK_HEADER_BYTES..], fits_reconfig)),
            192 => (Kind::ForwardTsn, len >= 8 && len.is_multiple_of(4)),
            _ => return None,
        };
        is_whole.then_some(Self { kind, bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Of a DATA chunk its serial number, of a SACK and a FORWARD-TSN the one up to which all has come or is given up.
    pub(super) fn tsn(&self) -> u32 {
        u32_at(self.bytes, 4)
    }

    /// Of an INIT and an INIT ACK: the verification tag of the packets that are to come back.
    pub(super) fn initiate_tag(&self) -> u32 {
        u32_at(self.bytes, 4)
    }

    /// Of a DATA chunk.
    pub(super) fn stream(&self) -> u16 {
        u16_at(self.bytes, 8)
    }

    /// Of a DATA chunk: whether a message ends in it.
    pub(super) fn ends(&self) -> bool {
        self.bytes[1] & ENDS != 0
    }

    /// Of a DATA chunk: whether it is part of a message that may overtake others, and not all of it.
    pub(super) fn is_unordered_part(&self) -> bool {
        self.bytes[1] & UNORDERED != 0 && self.bytes[1] & (BEGINS | ENDS) != BEGINS | ENDS
    }

    /// Of a DATA chunk: whether it is a whole message about the opening of a channel, and none of the user's.
    pub(super) fn is_about_channels(&self) -> bool {
        self.bytes[1] & (BEGINS | ENDS) == BEGINS | ENDS && u32_at(self.bytes, 12) == DCEP
    }

    /// Of a SACK, an INIT or an INIT ACK: how many bytes may be sent.
    pub(super) fn window_bytes(&self) -> u32 {
        u32_at(self.bytes, 8)
    }

    /// Of a SACK: what is there after the first that is missing, from first to last, as distances from the one before it.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        let blocks =
            self.bytes[SACK_HEADER_BYTES..].chunks_exact(4).take(usize::from(u16_at(self.bytes, 12)));
        blocks.map(|block| (u16_at(block, 0).into(), u16_at(block, 2).into()))
    }

    /// Whether it asks for streams to be reset.
    pub(super) fn resets_streams(&self) -> bool {
        self.kind == Kind::Reconfig && self.resets().next().is_some()
    }

    /// Of a RECONFIG: up to which piece all must have come before streams are reset, for each such request.
    pub(super) fn resets(&self) -> impl Iterator<Item = u32> + use<'a> {
        let requests = parameters(&self.bytes[CHUNK_HEADER_BYTES..]).map_while(Result::ok);
        requests.filter(|bytes| u16_at(bytes, 0) == OUTGOING_RESET).map(|bytes| u32_at(bytes, 12))
    }
}

/// Whether a DATA chunk is no message about channels, or a whole one that the engine can read: it ends with the connection otherwise,
/// and says so on the terminal.
fn is_sound_about_channels(bytes: &[u8]) -> bool {
    if u32_at(bytes, 12) != DCEP {
        return true;
    }
    let is_whole = bytes[1] & (BEGINS | ENDS) == BEGINS | ENDS;
    is_whole
        && match &bytes[DATA_HEADER_BYTES..] {
            [CHANNEL_ACK, ..] => true,
            [CHANNEL_OPEN, rest @ ..] => rest.len() + 1 >= CHANNEL_OPEN_BYTES,
            _ => false,
        }
}

/// Whether blocks of a SACK follow each other. The engine goes through each from its first to its last.
fn are_apart(blocks: &[u8]) -> bool {
    let mut before = 0;
    blocks.chunks_exact(4).all(|block| {
        let (first, last) = (u16_at(block, 0), u16_at(block, 2));
        before < first && first <= last && std::mem::replace(&mut before, last) < last
    })
}

/// With their headers, without their padding.
fn parameters(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let before = std::mem::take(&mut rest);
        if before.is_empty() {
            return None;
        }
        let len = before.get(2..CHUNK_HEADER_BYTES).map(|len| usize::from(u16_at(len, 0)));
        let parameter = len.filter(|len| *len >= CHUNK_HEADER_BYTES).and_then(|len| before.get(..len));
        rest = parameter.and_then(|it| before.get(it.len().next_multiple_of(4)..)).unwrap_or_default();
        Some(parameter.ok_or(Malformed))
    })
}

fn has_whole_parameters(bytes: &[u8], fits: impl Fn(u16, usize) -> bool) -> bool {
    let is_whole = |it: Result<&[u8], Malformed>| it.is_ok_and(|it| fits(u16_at(it, 0), it.len()));
    !bytes.is_empty() && parameters(bytes).all(is_whole)
}

/// Whether the engine takes a parameter for as long as it says it is.
fn fits_init(kind: u16, len: usize) -> bool {
    match kind {
        OUTGOING_RESET | RESET_RESPONSE => false,
        FORWARD_TSN_SUPPORTED => len == CHUNK_HEADER_BYTES,
        HMAC_ALGORITHMS => len.is_multiple_of(2),
        _ => true,
    }
}

fn fits_reconfig(kind: u16, len: usize) -> bool {
    match kind {
        OUTGOING_RESET => len >= 16 && len.is_multiple_of(2),
        RESET_RESPONSE => len == 12,
        _ => false,
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

    /// The verification tag of all packets here, but for those that begin with an INIT.
    pub(in super::super) const TAG: u32 = 77;

    pub(in super::super) fn packet(chunks: &[Vec<u8>]) -> Vec<u8> {
        let begins = chunks.first().is_some_and(|chunk| chunk.first() == Some(&1));
        packet_with_tag(if begins { 0 } else { TAG }, chunks)
    }

    pub(in super::super) fn packet_with_tag(tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = [&[0x13, 0x88, 0x13, 0x88][..], &tag.to_be_bytes(), &[0; 4]].concat();
        for chunk in chunks {
            packet.extend(chunk);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        seal(&mut packet);
        packet
    }

    pub(in super::super) fn init(tag: u32) -> Vec<u8> {
        chunk(1, 0, &[&tag.to_be_bytes()[..], &[1; 12], &parameter(0x8008, &[130])].concat())
    }

    pub(in super::super) fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let len = (CHUNK_HEADER_BYTES + body.len()) as u16;
        [&[kind, flags], &len.to_be_bytes()[..], body].concat()
    }

    pub(in super::super) fn data(tsn: u32, ends: bool, len: usize) -> Vec<u8> {
        chunk(0, u8::from(ends), &[&tsn.to_be_bytes()[..], &[0; 8], &vec![7; len]].concat())
    }

    /// A piece of a message that may overtake others.
    pub(in super::super) fn unordered(tsn: u32, begins: bool, ends: bool) -> Vec<u8> {
        let mut piece = data(tsn, ends, 9);
        piece[1] |= UNORDERED | if begins { BEGINS } else { 0 };
        piece
    }

    pub(in super::super) fn cookie() -> Vec<u8> {
        chunk(10, 0, &[5; 33])
    }

    pub(in super::super) fn sack(cumulative: u32, blocks: &[(u16, u16)], duplicates: u16) -> Vec<u8> {
        let mut body = [cumulative.to_be_bytes(), [0; 4]].concat();
        body.extend((blocks.len() as u16).to_be_bytes());
        body.extend(duplicates.to_be_bytes());
        body.extend(
            blocks.iter().flat_map(|(first, last)| [first.to_be_bytes(), last.to_be_bytes()].concat()),
        );
        body.resize(body.len() + 4 * usize::from(duplicates), 0);
        chunk(3, 0, &body)
    }

    pub(in super::super) fn parameter(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = (CHUNK_HEADER_BYTES + body.len()) as u16;
        [&kind.to_be_bytes(), &len.to_be_bytes(), body].concat()
    }

    pub(in super::super) fn heartbeat() -> Vec<u8> {
        chunk(4, 0, &parameter(HEARTBEAT_INFO, &[9; 8]))
    }

    /// A request to reset one stream when all up to there has come.
    pub(in super::super) fn reconfig(last_tsn: u32) -> Vec<u8> {
        let body = [&[0; 8], &last_tsn.to_be_bytes()[..], &[0, 3]].concat();
        chunk(130, 0, &parameter(OUTGOING_RESET, &body))
    }

    pub(in super::super) fn forward(tsn: u32) -> Vec<u8> {
        chunk(192, 0, &[tsn.to_be_bytes(), [0, 1, 0, 9]].concat())
    }

    fn kinds(chunks_of_it: &[Vec<u8>]) -> Result<Vec<Kind>, Malformed> {
        chunks(&packet(chunks_of_it)).map(|chunk| chunk.map(|chunk| chunk.kind)).collect()
    }

    #[test]
    fn what_honest_peers_send_is_understood() {
        let extensions = parameter(0x8008, &[130, 192, 64]);
        let padded = [extensions, vec![0], parameter(FORWARD_TSN_SUPPORTED, &[])].concat();
        let init = [&[1; 16][..], &padded].concat();
        assert_eq!(kinds(&[chunk(1, 0, &init)]), Ok(vec![Kind::Init]));
        let cookie = chunk(10, 0, &[5; 33]);
        assert_eq!(kinds(&[cookie, data(1, true, 7)]), Ok(vec![Kind::Cookie, Kind::Data]));
        assert_eq!(kinds(&[sack(1, &[(2, 3)], 1), data(9, false, 0)]), Ok(vec![Kind::Sack, Kind::Data]));
        assert_eq!(kinds(&[heartbeat(), forward(9)]), Ok(vec![Kind::Heartbeat, Kind::ForwardTsn]));
        assert_eq!(kinds(&[chunk(11, 0, &[]), chunk(7, 0, &[0; 4])]), Ok(vec![Kind::Plain; 2]));
        let response = parameter(RESET_RESPONSE, &[0; 8]);
        let both = [response, parameter(OUTGOING_RESET, &[0; 12])].concat();
        assert_eq!(kinds(&[chunk(130, 0, &both)]), Ok(vec![Kind::Reconfig]));
        assert_eq!(
            kinds(&[chunk(6, 0, &[1, 2, 3]), vec![0xff; 40]]),
            Ok(vec![Kind::Last]),
            "nothing follows an ABORT"
        );
        assert_eq!(kinds(&[]), Ok(vec![]));
    }

    #[test]
    fn packets_that_were_changed_on_the_way_have_no_tag() {
        let whole = packet(&[data(1, true, 9)]);
        assert_eq!(tag_of(&whole), Some(TAG));
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(tag_of(&changed), None, "byte {at}");
        }
        let mut nowhere = whole;
        nowhere[2..4].fill(0);
        seal(&mut nowhere);
        assert_eq!(tag_of(&nowhere), None);
        assert_eq!(tag_of(&[0; 11]), None);
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa, "RFC 3720 §B.4");
    }

    #[test]
    fn acknowledgements_name_each_piece_once() {
        let is_fine = |blocks: &[(u16, u16)]| kinds(&[sack(1, blocks, 1)]) == Ok(vec![Kind::Sack]);
        assert!(is_fine(&[(2, 2), (4, 9), (11, u16::MAX)]));
        for wrong in [&[(2, 9), (2, 9)][..], &[(2, 9), (9, 11)], &[(4, 5), (2, 2)], &[(0, 3)], &[(3, 2)]] {
            assert!(!is_fine(wrong), "{wrong:?}");
        }
    }

    /// Behind the last part that it understands the engine would find something else.
    #[test]
    fn what_is_longer_than_its_parts_is_malformed() {
        let hidden = data(5, false, 984);
        let mut long = sack(1, &[], 0);
        long.extend(&hidden);
        let len = (long.len() as u16).to_be_bytes();
        long[2..4].copy_from_slice(&len);
        let beat = chunk(4, 0, &[&parameter(HEARTBEAT_INFO, &[])[..], &hidden].concat());
        let supported = parameter(FORWARD_TSN_SUPPORTED, &hidden);
        let init = chunk(2, 0, &[&[1; 16][..], &supported].concat());
        let response = chunk(130, 0, &parameter(RESET_RESPONSE, &[0; 16]));
        let acknowledged = chunk(11, 0, &hidden);
        for hiding in
            [long, beat, init, response, acknowledged, chunk(192, 0, &[0; 6]), chunk(64, 0, &hidden)]
        {
            assert_eq!(kinds(&[hiding]), Err(Malformed));
        }
        assert_eq!(kinds(&[vec![0; 40]]), Err(Malformed), "chunks of no length");
        assert_eq!(kinds(&[vec![0xff; 40]]), Err(Malformed), "one beyond the end");
        assert_eq!(kinds(&[vec![0; 3]]), Err(Malformed));
        assert!(chunks(&[0; 11]).any(|chunk| chunk.is_err()), "no header");
    }

    /// At others the engine ends, and says so on the terminal.
    #[test]
    fn messages_about_channels_are_whole_and_of_two_kinds() {
        let about = |flags: u8, message: &[u8]| {
            kinds(&[chunk(0, flags, &[&[0; 8], &DCEP.to_be_bytes()[..], message].concat())]).is_ok()
        };
        let open = [&[CHANNEL_OPEN][..], &[0; 11]].concat();
        assert!(about(3, &open) && about(3, &[CHANNEL_ACK]) && about(7, &open));
        for (flags, wrong) in
            [(3, &[][..]), (3, &[0]), (3, &[1]), (3, &open[..11]), (2, &open), (1, &open), (0, &open)]
        {
            assert!(!about(flags, wrong), "{flags} {wrong:?}");
        }
    }

    #[test]
    fn another_window_can_be_told() {
        for told in [init(TAG), sack(9, &[(2, 3)], 0)] {
            let mut packet = packet(&[told, data(1, true, 9)]);
            set_window(&mut packet, 0x0102_0304);
            assert_eq!((window_of(&packet), tag_of(&packet).is_some()), (Some(0x0102_0304), true));
        }
        assert_eq!(window_of(&packet(&[data(1, true, 9)])), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_taken_apart(
            kind in prop_oneof![0..15_u8, Just(130), Just(192), any::<u8>()],
            body in prop::collection::vec(prop_oneof![0..20_u8, any::<u8>()], 0..60),
            rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            for chunk in chunks(&packet(&[chunk(kind, 3, &body), rest])).flatten() {
                let parts = match chunk.kind {
                    Kind::Data => usize::from(chunk.ends()) + usize::from(chunk.is_about_channels()),
                    Kind::Sack => chunk.blocks().count(),
                    Kind::Reconfig => chunk.resets().count(),
                    Kind::ForwardTsn => usize::from(chunk.tsn() == 0),
                    Kind::Init | Kind::Heartbeat | Kind::Last | Kind::Cookie | Kind::Plain => 0,
                };
                prop_assert!(parts <= chunk.len());
            }
        }
    }
}
