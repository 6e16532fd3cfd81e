//! The seam in front of the disk: what the machine asks and what it hears back.
//!
//! Each operation is answered once, under its [`OpId`]; [`DiskDone::Scanning`] may come any number of times before the answer.
//! The shell keeps, for each transfer that was scanned or opened, where its files are, until [`DiskJob::Close`].

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::PieceSet;
use super::{ConflictPolicy, TransferId};
use crate::wire::manifest::Manifest;
use crate::wire::path::SafePath;

/// Names an operation until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskOp {
    /// Its name.
    pub id: OpId,
    /// What to do.
    pub job: DiskJob,
}

/// What the disk is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum DiskJob {
    /// Walks and hashes files and folders; `-` is standard input, kept in a temporary file first. Answered by
    /// [`DiskDone::Scanning`] now and then, and [`DiskDone::Scanned`].
    Scan {
        /// What.
        paths: Vec<PathBuf>,
        /// What of it.
        options: SourceOptions,
    },
    /// How many bytes are free where files would go. Answered by [`DiskDone::Free`].
    Free {
        /// Where.
        target: Target,
    },
    /// Finds what is there already, makes the part files. Answered by [`DiskDone::Opened`], or by [`DiskDone::Conflicts`] if
    /// files are in the way and the policy is to ask; then nothing has been written.
    Open {
        /// The transfer.
        transfer: TransferId,
        /// Its content.
        manifest: Arc<Manifest>,
        /// Where it goes.
        target: Target,
        /// What to do with files in the way.
        conflict: ConflictPolicy,
    },
    /// Reads a piece, checks its hash and cuts it into frames. Answered by [`DiskDone::Frames`].
    Read {
        /// The transfer.
        transfer: TransferId,
        /// The piece.
        piece: u32,
        /// The most bytes of content in one frame.
        frame_bytes: u32,
    },
    /// Checks the hash of a received piece and, if right, writes it. Answered by [`DiskDone::Written`].
    Write {
        /// The transfer.
        transfer: TransferId,
        /// The piece.
        piece: u32,
        /// Its content, in order.
        parts: Vec<Bytes>,
    },
    /// Writes a verified piece to standard output. Asked in order, one at a time. Answered by [`DiskDone::Emitted`].
    Emit {
        /// The transfer.
        transfer: TransferId,
        /// The piece.
        piece: u32,
    },
    /// Makes all data durable, then gives the files their final names. Answered by [`DiskDone::Finished`].
    Finish {
        /// The transfer.
        transfer: TransferId,
    },
    /// Forgets the transfer. Part files stay. Not answered.
    Close {
        /// The transfer.
        transfer: TransferId,
    },
}

/// What of the given paths is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceOptions {
    /// Sends what symbolic links point at. Otherwise they are left out.
    pub follow_links: bool,
    /// Leaves out what these globs match, in the syntax of `.gitignore`.
    pub exclude: Vec<String>,
    /// Leaves out what `.gitignore` files say.
    pub gitignore: bool,
}

/// Where accepted files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into this folder.
    Folder(PathBuf),
    /// A single file, to standard output, in order.
    Stdout,
}

/// What the disk says.
#[derive(Debug, Clone, PartialEq)]
pub enum DiskDone {
    /// A scan goes on.
    Scanning {
        /// Bytes hashed.
        bytes: u64,
        /// Bytes found.
        total: u64,
    },
    /// A scan is complete.
    Scanned(Scanned),
    /// Bytes free, if the system says.
    Free(Option<u64>),
    /// Files are in the way.
    Conflicts(Vec<Conflict>),
    /// The part files are there.
    Opened(Opened),
    /// A piece, cut into frames of the bulk channel.
    Frames(Vec<Bytes>),
    /// What became of a received piece.
    Written(Written),
    /// The piece went to standard output.
    Emitted,
    /// Everything is in place.
    Finished(Summary),
    /// It could not be done.
    Failed(DiskError),
}

/// A source, ready to be offered.
#[derive(Debug, Clone, PartialEq)]
pub struct Scanned {
    /// What was found.
    pub manifest: Arc<Manifest>,
    /// The manifest's canonical bytes, whose hash is the transfer's id.
    pub bytes: Bytes,
    /// Paths left out because they are neither files nor folders, or symbolic links not followed.
    pub left_out: usize,
}

/// A file in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Which.
    pub path: SafePath,
}

/// A target, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// Pieces that are on disk and verified.
    pub have: PieceSet,
    /// Pieces of files that are not fetched, because of the conflict policy.
    pub unwanted: PieceSet,
    /// How many files that are.
    pub skipped_files: usize,
}

/// What became of a received piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Verified and written.
    Verified,
    /// Not what the manifest says; nothing was written.
    WrongHash,
}

/// Where a transfer's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The single file or folder received, or the folder that holds what was received; absent for standard output.
    pub path: Option<PathBuf>,
}

/// Why the disk could not do something, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No such file.
    #[error("{path}: no such file or folder")]
    NotFound {
        /// Which.
        path: PathBuf,
    },
    /// No permission.
    #[error("{path}: permission denied")]
    Denied {
        /// Which.
        path: PathBuf,
    },
    /// A source is not as it was when its hash was taken.
    #[error("{path} changed while it was being sent; send it again")]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// The disk is full, or too small for what was accepted.
    #[error("the disk is full{}; free some space and receive it again", missing(*needed_bytes))]
    Full {
        /// What is missing; zero if the system did not say.
        needed_bytes: u64,
    },
    /// A symbolic link or something that is no folder stands where a folder is needed.
    #[error("{path} is not a folder of this transfer; a link is not followed")]
    NotAFolder {
        /// Which.
        path: PathBuf,
    },
    /// The folder for parts belongs to another user of this machine, who could read and change what is put there.
    #[error("{path} belongs to somebody else; receive into a folder of your own")]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// A name can't be sent: it is not Unicode, or receivers would refuse it.
    #[error("{path} can't be sent: {reason}")]
    Name {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is nothing to send.
    #[error("there is nothing to send")]
    Nothing,
    /// More files or bytes than one transfer can have.
    #[error("one transfer can't hold this: {reason}")]
    TooLarge {
        /// Which limit.
        reason: String,
    },
    /// Several files, or none, where standard output takes one.
    #[error("standard output takes one file, not a folder or several; receive into a folder with --output")]
    NotAStream,
    /// Another program receives the same transfer into the same folder.
    #[error("another swarm receives this transfer into {path} already")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Something else.
    #[error("{path}: {message}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        message: String,
    },
}

fn missing(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(" ({bytes} bytes are missing)") }
}
