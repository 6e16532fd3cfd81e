//! The peer's only event loop, and what the faces say to it and hear from it.

pub mod api;
