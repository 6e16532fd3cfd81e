//! `swarm join`: chat, with three faces.

pub mod commands;
pub mod json;
pub mod pipe;
pub mod repl;
