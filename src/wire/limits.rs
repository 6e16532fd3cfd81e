//! The sizes this program accepts from others. Each constant names where its value comes from.

/// The largest signaling message, in bytes of UTF-8 text.
///
/// An SDP offer of a data-only connection is about 500 bytes and a full set of candidates a few
/// kilobytes; 64 KiB leaves room for a member's `have` list in a room of a thousand.
pub const SIGNAL_MAX_BYTES: usize = 64 * 1024;

/// The most members that are read of a `have` list: ten rooms of the largest size that is advised.
pub const HAVE_MAX: usize = 1024;

/// The largest message a client takes from its server: an `accept` repeats an offer and all its candidates.
pub const SERVER_SIGNAL_MAX_BYTES: usize = 4 * SIGNAL_MAX_BYTES;

/// The longest sentence of a server about what it refuses that a client keeps, in bytes.
pub const SIGNAL_ERROR_MAX_BYTES: usize = 1024;

/// The largest session description, in bytes. Data-only descriptions are well under 2 KiB.
pub const SDP_MAX_BYTES: usize = 16 * 1024;

/// The largest candidate line, in bytes. RFC 8839 §5.1 lines with a full set of extensions stay below 400.
pub const CANDIDATE_MAX_BYTES: usize = 1024;

/// The most candidates kept for one offer or queued for one connection.
pub const CANDIDATES_MAX: usize = 64;

/// The longest user, room or connection id, in bytes. A UUID has 36.
pub const ID_MAX_BYTES: usize = 128;

/// The longest nickname, in characters.
pub const NAME_MAX_CHARS: usize = 32;

/// The largest message on a data channel, in bytes: the published libraries announce
/// `a=max-message-size:262144` and close the channel on anything longer.
pub const CHANNEL_MESSAGE_MAX_BYTES: usize = 262_144;

/// The largest control message, in bytes. A manifest that does not fit is sent in parts.
pub const CONTROL_MAX_BYTES: usize = 64 * 1024;
