//! What travels: signaling messages, channel messages, invites and names.
//!
//! Everything from outside is parsed here, once, into types that carry their limits with them.

pub mod candidate;
pub mod control;
pub mod dialect;
pub mod ids;
pub mod limits;
pub mod sdp;
pub mod signal;

pub use candidate::Candidate;
pub use ids::{IdError, LinkId, RoomId, UserId};
pub use sdp::Sdp;
pub use signal::{ClientSignal, Init, ServerSignal};
