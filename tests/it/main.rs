//! The integration tests, in one binary.

mod interop;
mod malicious;
mod mesh_sim;
mod process;
mod sim;
