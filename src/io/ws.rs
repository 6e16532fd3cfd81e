//! WebSockets: the peer's connection to its signaling server, and the server itself.

pub mod client;
pub mod server;
