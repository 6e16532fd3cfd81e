//! The integration tests, in one binary.

mod chaos;
mod interop;
mod mesh_sim;
mod process;
mod rtc;
mod signaling;
mod sim;
mod swarm;
