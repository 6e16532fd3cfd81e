//! `swarm`: a full mesh of WebRTC peers in two signaling round trips.
//!
//! Imports point one way:
//!
//! ```text
//! wire  <-  core  <-  { io, node }  <-  cli
//! ```
//!
//! * [`wire`] turns everything that arrives from outside into types, once, within limits.
//! * [`core`](mod@core) holds the pure machines: no tokio, no sockets, no clock and no randomness of their own.
//! * `io` holds the shells that carry a machine's outputs to the network and the disk and its inputs back.
//! * `node` is the peer's only event loop.
//! * `cli` is one file a command, the terminal, the exit codes.

#[doc(hidden)]
pub mod cli;
pub mod core;
pub mod io;
pub mod node;
mod swarm;
pub mod wire;

pub use swarm::{CloseReason, Message, PeerInfo, Swarm, SwarmConfig, SwarmError, SwarmEvent};
