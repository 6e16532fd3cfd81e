//! The integration tests, in one binary.

mod cli;
mod interop;
mod mesh_sim;
mod process;
mod rtc;
mod scene;
mod sim;
mod swarm;
mod signaling;
mod sim;
mod sim;
mod signaling;
mod sim;
mod swarm;
