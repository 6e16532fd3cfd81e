//! The one integration test binary.

mod rtc;
