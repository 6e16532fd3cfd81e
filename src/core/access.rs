//! What a token allows.

use crate::wire::RoomId;

/// The rooms a client may enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Every room: the server's own token, or an open server.
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
