//! The integration tests, in one binary.

mod cli;
mod interop;
mod process;
mod scene;
