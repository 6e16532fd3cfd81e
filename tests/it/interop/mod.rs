//! The published libraries, unmodified, against our server, our peer and each other. `tests/interop/` holds their drivers.
//!
//! These tests need Node.js, the npm packages and Chromium; a plain `cargo test` ignores them, `scripts/test interop`
//! installs what they need and runs them.

mod doors;
mod hostile;
mod originals;
mod ours;
