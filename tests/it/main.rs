//! The integration tests, in one binary.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one event among many")]
#![allow(clippy::print_stderr, reason = "what a failing test says helps to find out why")]

mod chaos;
mod cli;
mod codes;
mod corpus;
mod door;
mod help;
mod interop;
mod live;
mod malicious;
mod mesh_sim;
mod process;
mod rtc;
mod scene;
mod secrets;
mod signaling;
mod sim;
mod stripes;
mod swarm;
#[cfg(unix)]
mod terminal;
mod threat_model;
mod transfers;
