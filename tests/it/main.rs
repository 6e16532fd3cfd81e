//! The integration tests, in one binary.

mod interop;
mod mesh_sim;
mod process;
mod rtc;
mod sim;
mod swarm;
mod signaling;
mod sim;
