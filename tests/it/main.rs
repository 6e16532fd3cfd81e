//! The integration tests, in one binary.

mod chaos;
mod cli;
mod interop;
mod mesh_sim;
mod process;
mod rtc;
mod scene;
mod signaling;
mod sim;
mod swarm;
