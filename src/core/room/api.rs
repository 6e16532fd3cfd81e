//! What goes into the room machine and what comes out.

use crate::core::access::Grant;
use crate::core::network::ClientAddress;
use crate::wire::signal::ErrorCode;
use crate::wire::{ClientSignal, ServerSignal};

/// A socket, numbered by the shell; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// What happens to the server.
#[derive(Debug, Clone)]
pub enum Input {
    /// A socket was opened.
    Connected {
        /// Its number.
        socket: SocketId,
        /// Where it comes from.
        address: ClientAddress,
        /// What its token allows.
        grant: Grant,
    },
    /// A message of a client, parsed.
    Signal {
        /// From which socket.
        socket: SocketId,
        /// The message.
        signal: ClientSignal,
    },
    /// A message of a client that could not be parsed.
    Invalid {
        /// From which socket.
        socket: SocketId,
        /// Why: malformed, of an unknown type, too large or not a client's to send.
        code: ErrorCode,
        /// One sentence for people.
        message: String,
    },
    /// Any frame or pong arrived: the client's program is running. A [`Input::Signal`] says so too.
    Seen(SocketId),
    /// Nothing is read from the socket any more and nothing written to it. It counts against its address until
    /// [`Input::Lost`].
    GivenUp(SocketId),
    /// The socket is closed or broke off, and nothing is left of it. Comes once for each socket.
    Lost(SocketId),
    /// The server is about to stop: everyone is told and let go.
    Shutdown,
}

/// What the server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Sends a message.
    Send {
        /// To which socket.
        socket: SocketId,
        /// The message.
        signal: ServerSignal,
    },
    /// Sends a WebSocket ping, to learn whether the client's program is running.
    Ping(SocketId),
    /// Closes the socket after what was sent to it. All that the machine still knows of it is that it counts against
    /// its address, until [`Input::Lost`].
    Close {
        /// Which socket.
        socket: SocketId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why the server closes a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client was refused; a `signal_error` with the same code went before.
    Refused(ErrorCode),
    /// The same member came back on a newer socket.
    Replaced,
    /// One of so many at once from the same address that it is not worth a word.
    Crowded,
    /// The server stops.
    ShuttingDown,
}

/// What the server holds and has done, for operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rooms with at least one member.
    pub rooms: usize,
    /// Members, those within their grace included.
    pub members: usize,
    /// Sockets that are served.
    pub sockets: usize,
    /// Offers waiting to be taken.
    pub offers: usize,
    /// Links between members, answered or not.
    pub links: usize,
    /// Since the start.
    pub counters: Counters,
}

/// What the server has done since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Members who entered.
    pub joined: u64,
    /// Members who took their place back.
    pub resumed: u64,
    /// Messages of clients.
    pub received: u64,
    /// Offers handed to newcomers.
    pub claimed: u64,
    /// Claims that brought no link and were given back.
    pub given_back: u64,
    /// Answers, candidates and renegotiations passed from one member to another.
    pub relayed: u64,
    /// Messages refused.
    pub refused: u64,
}
