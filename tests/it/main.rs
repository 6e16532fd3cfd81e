//! The integration tests, in one binary.

mod cli;
mod interop;
mod mesh_sim;
mod process;
mod scene;
mod sim;
mod rtc;
