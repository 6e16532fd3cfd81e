//! Files on disk: carries out the operations of [`crate::core::transfer`] on blocking threads.
//!
//! ```text
//! target/.swarm-0123456789abcdef.part/   made at acceptance, locked while in use, removed at the end
//!     000000  000003 …                   one sparse file for each that is fetched, named by its place in the manifest
//! target/name …                          appears complete, under its final name, or not at all
//! ```
//!
//! The part files are their own journal. Whatever happens to the process or the machine, they hold pieces or holes or
//! rubbish; resuming hashes what is there against the manifest and keeps what is right. At the end: data durable, then the
//! renames, then the folders durable.
//!
//! Folders below the target are opened one name at a time and never through a link, and everything is done relative to the
//! open folder; a link put in the way at any moment is an error, not a way out.

mod folder;
mod one_by_one;
mod part_folders;
mod received;
mod recent;
mod scan;
mod source;
mod target;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, mpsc};

use crate::core::transfer::{DiskDone, DiskError, DiskJob, DiskOp, OpId};
use crate::wire::TransferId;
use crate::wire::frame::{self, FrameKind, HEADER_BYTES};
use crate::wire::manifest::{Manifest, PieceHasher};
use one_by_one::OneByOne;
use part_folders::PartFolders;
use received::Received;
use recent::Recent;
use source::Source;
use target::Destination;

/// Pieces that are read or written at the same time. Each thread that does keeps memory for itself: with two, a sender of 1 GiB has
/// 69 to 72 MiB (`scripts/bench memory`).
const PIECES_AT_ONCE: usize = 2;

/// Carries out disk operations on tokio's blocking threads and sends their answers.
#[derive(Debug, Clone)]
pub struct Disk {
    stores: Arc<Stores>,
    done: mpsc::Sender<(OpId, DiskDone)>,
    pieces: Arc<Semaphore>,
}

impl Disk {
    /// A disk that answers on `done`. Pieces wait until the answers about those before them have been taken.
    pub fn new(done: mpsc::Sender<(OpId, DiskDone)>) -> Self {
        Self {
            stores: Arc::new(Stores::new(io::stdout())),
            done,
            pieces: Arc::new(Semaphore::new(PIECES_AT_ONCE)),
        }
    }

    /// Starts an operation. Must be called in a tokio runtime.
    pub fn submit(&self, op: DiskOp) {
        if let DiskJob::Close { transfer } = op.job {
            self.stores.close(transfer);
            return;
        }
        // From here on closing it keeps it from being opened.
        let turn = self.stores.admit(&op.job);
        let (stores, done, pieces) = (self.stores.clone(), self.done.clone(), self.pieces.clone());
        tokio::spawn(async move {
            let place = match op.job {
                DiskJob::Read { .. } | DiskJob::Write { .. } => pieces.acquire_owned().await.ok(),
                // Some of these may take for ever.
                DiskJob::Scan { .. }
                | DiskJob::Free { .. }
                | DiskJob::Open { .. }
                | DiskJob::Emit { .. }
                | DiskJob::Finish { .. }
                | DiskJob::Close { .. } => None,
            };
            tokio::task::spawn_blocking(move || {
                let _place = place;
                // Nobody listens any more when the node has ended.
                let answer =
                    stores.run_admitted(turn, op.job, |scanning| drop(done.blocking_send((op.id, scanning))));
                drop(done.blocking_send((op.id, answer)));
            });
        });
    }
}

/// Where the files of each transfer are. [`Disk`] without the threads.
pub struct Stores {
    stores: Mutex<BTreeMap<TransferId, Store>>,
    /// Whoever opens what was closed while it was opened waits until it is: parts are locked meanwhile.
    opening: OneByOne,
    turns: AtomicU64,
    part_folders: Arc<PartFolders>,
    recent: Recent,
    stdout: Mutex<Box<dyn Write + Send>>,
}

#[derive(Debug, Clone)]
enum Store {
    /// Being opened, in this turn.
    Opening(u64),
    Source(Arc<Source>),
    Destination(Arc<Destination>),
    Received(Arc<Received>),
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// No transfers; streams are written to `stdout`.
    pub fn new(stdout: impl Write + Send + 'static) -> Self {
        Self {
            stores: Mutex::default(),
            opening: OneByOne::default(),
            turns: AtomicU64::new(0),
            part_folders: Arc::default(),
            recent: Recent::default(),
            stdout: Mutex::new(Box::new(stdout)),
        }
    }

    /// Carries out one operation, on this thread. [`DiskJob::Close`] is answered, too, for what it is worth.
    pub fn run(&self, job: DiskJob, progress: impl FnMut(DiskDone)) -> DiskDone {
        self.run_admitted(self.admit(&job), job, progress)
    }

    /// Takes down, in the order in which operations are given, what is about to be opened.
    fn admit(&self, job: &DiskJob) -> u64 {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        if let DiskJob::Open { transfer, .. } = job {
            self.lock().insert(*transfer, Store::Opening(turn));
        }
        turn
    }

    fn run_admitted(&self, turn: u64, job: DiskJob, progress: impl FnMut(DiskDone)) -> DiskDone {
        self.try_run(turn, job, progress).unwrap_or_else(DiskDone::Failed)
    }

    fn try_run(
        &self,
        turn: u64,
        job: DiskJob,
        progress: impl FnMut(DiskDone),
    ) -> Result<DiskDone, DiskError> {
        Ok(match job {
            DiskJob::Scan { paths, options } => {
                let (scanned, source) = scan::scan(&paths, &options, progress)?;
                let id = Manifest::id_of(&scanned.bytes);
                // What is scanned again may be elsewhere now.
                self.recent.forget(id);
                self.lock().insert(id, Store::Source(Arc::new(source)));
                DiskDone::Scanned(scanned)
            }
            DiskJob::Free { target } => DiskDone::Free(target::free_bytes(&target)),
            DiskJob::Open { transfer, manifest, target, conflict } => {
                let _alone = self.opening.alone(transfer);
                drop(self.still_opening(transfer, turn)?);
                match Destination::open(transfer, manifest, &target, conflict, &self.part_folders)? {
                    target::Attempt::InTheWay(conflicts) => DiskDone::Conflicts(conflicts),
                    target::Attempt::Open(destination, opened) => {
                        *self.still_opening(transfer, turn)?.get_mut(&transfer).expect("it was looked at") =
                            Store::Destination(destination);
                        DiskDone::Opened(opened)
                    }
                }
            }
            DiskJob::Read { transfer, piece, frame_bytes } => {
                let header = |offset| frame::header(transfer.short(), FrameKind::Piece { piece }, offset);
                DiskDone::Frames(self.read(transfer, piece, frame_bytes, header)?)
            }
            DiskJob::Write { transfer, piece, parts } => {
                DiskDone::Written(self.destination(transfer)?.write(piece, &parts)?)
            }
            DiskJob::Emit { transfer, piece } => {
                let frames = self.read(transfer, piece, u32::MAX, |_| [0; HEADER_BYTES])?;
                let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
                let mut write = || {
                    frames.iter().try_for_each(|frame| stdout.write_all(&frame[HEADER_BYTES..]))?;
                    stdout.flush()
                };
                write().map_err(|error| failed(Path::new("standard output"), &error))?;
                DiskDone::Emitted
            }
            DiskJob::Finish { transfer } => {
                let (summary, received) = self.destination(transfer)?.finish()?;
                // It may have been closed meanwhile.
                if let Some(store) = self.lock().get_mut(&transfer) {
                    *store = Store::Received(Arc::new(received));
                }
                DiskDone::Finished(summary)
            }
            DiskJob::Close { transfer } => {
                self.close(transfer);
                DiskDone::Emitted
            }
        })
    }

    fn close(&self, transfer: TransferId) {
        self.recent.forget(transfer);
        self.lock().remove(&transfer);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TransferId, Store>> {
        // The map is whole whatever panicked while it was locked.
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stores, if this transfer has not been closed since it was to be opened in this turn.
    fn still_opening(
        &self,
        transfer: TransferId,
        turn: u64,
    ) -> Result<MutexGuard<'_, BTreeMap<TransferId, Store>>, DiskError> {
        let stores = self.lock();
        match stores.get(&transfer) {
            Some(Store::Opening(current)) if *current == turn => Ok(stores),
            Some(Store::Opening(_) | Store::Source(_) | Store::Destination(_) | Store::Received(_))
            | None => Err(closed()),
        }
    }

    fn store(&self, transfer: TransferId) -> Result<Store, DiskError> {
        self.lock().get(&transfer).cloned().ok_or_else(closed)
    }

    fn destination(&self, transfer: TransferId) -> Result<Arc<Destination>, DiskError> {
        match self.store(transfer)? {
            Store::Destination(destination) => Ok(destination),
            Store::Opening(_) | Store::Source(_) | Store::Received(_) => Err(closed()),
        }
    }

    fn read(
        &self,
        transfer: TransferId,
        piece: u32,
        frame_bytes: u32,
        header: impl Fn(u32) -> [u8; HEADER_BYTES],
    ) -> Result<Vec<Bytes>, DiskError> {
        let store = self.store(transfer)?;
        let (manifest, opened, path) = match &store {
            Store::Opening(_) => return Err(closed()),
            Store::Source(source) => {
                (source.manifest(), source.open(transfer, piece, &self.recent)?, source.path(piece))
            }
            Store::Destination(destination) => {
                (destination.manifest(), destination.open_to_read(piece)?, destination.path(piece))
            }
            Store::Received(received) => {
                (received.manifest(), Arc::new(received.open(piece)?), received.path(piece))
            }
        };
        let frames =
            read_frames(manifest, piece, frame_bytes, &opened, header).map_err(|e| failed(&path, &e))?;
        frames.ok_or(DiskError::Changed { path })
    }
}

/// Reads a piece straight into frames; `None` if it is not what the manifest says.
fn read_frames(
    manifest: &Manifest,
    piece: u32,
    frame_bytes: u32,
    file: &std::fs::File,
    header: impl Fn(u32) -> [u8; HEADER_BYTES],
) -> io::Result<Option<Vec<Bytes>>> {
    let span = manifest.span(piece);
    let parts: Vec<(u32, u32)> = frame::cut(span.len, frame_bytes).collect();
    let mut buffer = BytesMut::zeroed(span.len as usize + parts.len() * HEADER_BYTES);
    let mut hasher = PieceHasher::new(&span);
    let mut frames = Vec::with_capacity(parts.len());
    for (offset, len) in parts {
        let mut frame = buffer.split_to(HEADER_BYTES + len as usize);
        frame[..HEADER_BYTES].copy_from_slice(&header(offset));
        match folder::read_exact_at(file, &mut frame[HEADER_BYTES..], span.offset + u64::from(offset)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        hasher.update(&frame[HEADER_BYTES..]);
        frames.push(frame.freeze());
    }
    Ok((hasher.finish() == manifest.hash(piece)).then_some(frames))
}

/// What the system says, in our words.
fn failed(path: &Path, error: &io::Error) -> DiskError {
    let path = path.to_owned();
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound {
        return DiskError::NotFound { path };
    }
    if kind == io::ErrorKind::PermissionDenied {
        return DiskError::Denied { path };
    }
    if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return DiskError::Full { needed_bytes: 0 };
    }
    DiskError::Io { path, message: error.to_string() }
}

fn closed() -> DiskError {
    DiskError::Io { path: PathBuf::new(), message: "the transfer is closed".to_owned() }
}
