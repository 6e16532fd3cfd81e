//! The shells: WebRTC, WebSockets, files. They read, hand over and write out; they decide nothing.

pub mod disk;
pub mod open_files;
pub mod rtc;
pub mod ws;
