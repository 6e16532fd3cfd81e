//! The pure machines. Time and randomness are arguments; nothing here knows tokio, a socket or a clock.
//!
//! Every machine has the same four methods, and is driven the same way: mutate once, then drain.
//!
//! ```text
//! machine.handle(now, input);                      // or machine.handle_timeout(now)
//! while let Some(output) = machine.poll() { … }    // carry each output out, in order
//! let wake_at = machine.poll_timeout();            // Option<(Instant, Reason)>
//! ```
//!
//! `poll_timeout` is exact once the outputs are drained: `None` means that nothing will ever happen here without
//! another input.

pub mod access;
pub mod allowance;
pub mod auth;
pub mod backoff;
pub mod chat;
pub mod code;
pub mod link;
pub mod mesh;
pub mod network;
pub mod peer;
pub mod room;
pub mod stripes;
pub mod timers;
pub mod transfer;
