//! The published libraries, unmodified, against our server, our peer and each other, and a TURN server. `tests/interop/` holds the
//! drivers of the libraries.
//!
//! These tests need Node.js, the npm packages, Chromium and coturn; a plain `cargo test` ignores them, `scripts/test interop`
//! installs what they need and runs them.

mod doors;
mod hostile;
mod originals;
mod ours;
mod relays;
