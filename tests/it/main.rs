//! The integration tests, in one binary.

mod interop;
mod mesh_sim;
mod process;
mod rtc;
mod signaling;
mod sim;
mod sim;
mod swarm;
