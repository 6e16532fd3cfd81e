//! Binary messages of the bulk channel.
//!
//! ```text
//! byte  0       1        9        13       17
//!       | kind  | short  | piece  | offset | content …
//! ```
//!
//! Numbers are big-endian. `short` is the beginning of the transfer's id.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the content.
pub const HEADER_BYTES: usize = 17;

/// The largest frame: one that every stack carries in one message and that does not hold up a line of chat for long.
pub const FRAME_MAX_BYTES: usize = 64 * 1024;

/// The most content in one frame.
pub const CONTENT_MAX_BYTES: usize = FRAME_MAX_BYTES - HEADER_BYTES;

/// The first byte.
const PIECE: u8 = 1;
const MANIFEST: u8 = 2;

/// What the content belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameKind {
    /// A piece; `offset` counts from the piece's beginning.
    Piece {
        /// Which.
        piece: u32,
    },
    /// The manifest; `offset` counts from its beginning.
    Manifest,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The first eight bytes of the transfer's id.
    pub short: [u8; 8],
    /// What the content belongs to.
    pub kind: FrameKind,
    /// Where in it the content stands, in bytes.
    pub offset: u32,
    /// At least one byte, at most [`CONTENT_MAX_BYTES`].
    pub content: Bytes,
}

/// Whether a frame may arrive before others that were sent earlier. Pieces may; a manifest is put together in order.
pub fn may_overtake(frame: &[u8]) -> bool {
    frame.first() == Some(&PIECE)
}

/// The bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than a header and one byte, or longer than [`FRAME_MAX_BYTES`].
    #[error("a frame has 18 to {FRAME_MAX_BYTES} bytes, this one has {0}")]
    Length(usize),
    /// A kind this version does not know.
    #[error("frames of kind {0} are unknown")]
    Kind(u8),
    /// The content would end beyond what `offset` can count.
    #[error("the frame ends beyond its piece")]
    Offset,
}

impl Frame {
    /// Parses a frame without copying its content.
    pub fn parse(bytes: Bytes) -> Result<Self, FrameError> {
        if bytes.len() <= HEADER_BYTES || bytes.len() > FRAME_MAX_BYTES {
            return Err(FrameError::Length(bytes.len()));
        }
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let kind = match bytes[0] {
            PIECE => FrameKind::Piece { piece: number(9) },
            MANIFEST => FrameKind::Manifest,
            other => return Err(FrameError::Kind(other)),
        };
        let offset = number(13);
        let content = bytes.slice(HEADER_BYTES..);
        offset.checked_add(content.len() as u32).ok_or(FrameError::Offset)?;
        Ok(Self { short: bytes[1..9].try_into().expect("eight bytes"), kind, offset, content })
    }

    /// The frame as bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + self.content.len());
        bytes.put_slice(&header(self.short, self.kind, self.offset));
        bytes.put_slice(&self.content);
        bytes.freeze()
    }
}

/// The first [`HEADER_BYTES`] of a frame, for those who read content straight into its place.
pub fn header(short: [u8; 8], kind: FrameKind, offset: u32) -> [u8; HEADER_BYTES] {
    let (code, piece) = match kind {
        FrameKind::Piece { piece } => (1, piece),
        FrameKind::Manifest => (2, 0),
    };
    let mut header = [0; HEADER_BYTES];
    header[0] = code;
    header[1..9].copy_from_slice(&short);
    header[9..13].copy_from_slice(&piece.to_be_bytes());
    header[13..17].copy_from_slice(&offset.to_be_bytes());
    header
}

/// Cuts `len` bytes into as few even parts of at most `max` bytes as there can be: their offsets and lengths.
pub fn cut(len: u32, max: u32) -> impl Iterator<Item = (u32, u32)> {
    let max = max.clamp(1, CONTENT_MAX_BYTES as u32);
    let step = len.div_ceil(len.div_ceil(max).max(1)).max(1);
    (0..len).step_by(step as usize).map(move |offset| (offset, step.min(len - offset)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_has_a_fixed_layout() {
        let frame = Frame {
            short: *b"transfer",
            kind: FrameKind::Piece { piece: 258 },
            offset: 65_536,
            content: Bytes::from_static(b"hello"),
        };
        let bytes = frame.encode();
        assert_eq!(&bytes[..], b"\x01transfer\0\0\x01\x02\0\x01\0\0hello");
        assert_eq!(Frame::parse(bytes), Ok(frame));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(Frame::parse(Bytes::from_static(&[1; 17])), Err(FrameError::Length(17)));
        assert_eq!(
            Frame::parse(vec![1; FRAME_MAX_BYTES + 1].into()),
            Err(FrameError::Length(FRAME_MAX_BYTES + 1))
        );
        assert_eq!(Frame::parse(Bytes::from_static(&[9; 20])), Err(FrameError::Kind(9)));
        let mut beyond = vec![1; 20];
        beyond[13..17].fill(0xff);
        assert_eq!(Frame::parse(beyond.into()), Err(FrameError::Offset));
    }

    #[test]
    fn a_piece_is_cut_evenly() {
        assert_eq!(cut(10, 4).collect::<Vec<_>>(), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(cut(256 * 1024, u32::MAX).map(|(_, len)| len).max(), Some(52_429));
        assert_eq!(cut(0, 4).count(), 0);
    }

    proptest! {
        #[test]
        fn cuts_cover_a_piece_once(len in 0u32..5_000_000, max in 1u32..100_000) {
            let mut end = 0;
            for (offset, part) in cut(len, max) {
                prop_assert_eq!(offset, end);
                prop_assert!(part >= 1 && part <= max && part as usize <= CONTENT_MAX_BYTES);
                end += part;
            }
            prop_assert_eq!(end, len);
        }

        #[test]
        fn any_bytes_are_a_frame_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = Frame::parse(bytes.clone().into()) {
                let again = Frame::parse(frame.encode()).expect("its own bytes");
                prop_assert_eq!(again, frame);
            }
        }
    }
}
