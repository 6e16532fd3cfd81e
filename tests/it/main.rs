//! The integration tests, in one binary.

mod interop;
mod process;
