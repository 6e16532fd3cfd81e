//! `swarm join`: chat, with three faces.

pub mod commands;
pub mod repl;
