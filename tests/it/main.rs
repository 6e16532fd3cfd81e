//! The one integration test binary.

mod rtc;
//! The integration tests, in one binary.

mod interop;
mod process;
