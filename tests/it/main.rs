//! The integration tests, in one binary.

mod chaos;
mod help;
mod interop;
mod mesh_sim;
mod process;
mod rtc;
mod signaling;
mod sim;
mod swarm;
