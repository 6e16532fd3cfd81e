//! What travels: signaling messages, channel messages, invites and names.
//!
//! Everything from outside is parsed here, once, into types that carry their limits with them.

pub mod candidate;
pub mod code;
pub mod control;
pub mod dialect;
pub mod frame;
pub mod ids;
pub mod invite;
pub mod key;
pub mod limits;
pub mod manifest;
pub mod path;
pub mod sdp;
pub mod secret;
pub mod signal;
pub mod text;
pub mod transfer;
pub mod transfer_id;

pub use candidate::Candidate;
pub use ids::{IdError, LinkId, RoomId, UserId};
pub use invite::{Invite, ServerUrl};

pub use key::RoomKey;
pub use sdp::Sdp;
pub use secret::Secret;
pub use signal::{ClientSignal, Init, ServerSignal};
pub use transfer_id::TransferId;
