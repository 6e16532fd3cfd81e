//! The integration tests, in one binary.

mod interop;
mod malicious;
mod process;
