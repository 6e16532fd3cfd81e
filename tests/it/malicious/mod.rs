//! A signaling server that lies, and members who flood.
//!
//! [`lies`] lets two meshes meet through a server that changes one thing at a time, without any network.
//! [`disk`] puts links in the way of files.
//! [`floods`] sends too much of everything.
//! [`middle`] really ends DTLS on both sides with our own driver and passes everything on.
//! [`stolen`] shows a certificate of somebody else.

mod disk;
mod floods;
mod lies;
mod middle;
mod stolen;
