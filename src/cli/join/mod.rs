//! `swarm join`: chat, with three faces.

pub mod commands;
pub mod editor;
pub mod json;
pub mod pipe;
pub mod repl;
