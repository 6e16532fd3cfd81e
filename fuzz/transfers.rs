//! The machine of transfers, driven by a script.
//!
//! ```text
//! 3+        peer 3 is ready           3-            … is gone
//! 3 {…}     … says a message of the file protocol (ID in it stands for the transfer's id)
//! 3m 0 99   … sends so many bytes of the manifest, from there on
//! 3p 1 0 9 7   … sends of piece 1, from byte 0 on, nine bytes that are 7
//! 3w 4096   … takes so many bytes more
//! a  r  s   the user accepts, rejects, or sends the same content
//! d  f      the oldest disk operation is done, or fails
//! ~500      so many milliseconds pass
//! ```
//!
//! Nothing is opened or written before the user accepted; only what is on the disk is read from it; what is under way is
//! bounded; and when everyone is gone and the user has rejected it, nothing is left to be done.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use fast_rtc_swarm::core::transfer::{
    AcceptScope, Audience, Config, DiskDone, DiskError, DiskJob, DiskOp, Input, OfferInfo, Opened, Output,
    PieceSet, Scanned, SendToken, SourceOptions, Summary, TransferCommand, TransferEvent, Transfers, Written,
};
use fast_rtc_swarm::wire::frame::{self, CONTENT_MAX_BYTES, Frame, FrameKind};
use fast_rtc_swarm::wire::manifest::{Entry, EntryKind, Manifest, PIECE_LOG2_MIN, PieceHasher, Span};
use fast_rtc_swarm::wire::path::SafePath;
use fast_rtc_swarm::wire::{TransferId, UserId};

/// Three pieces of zeros.
const SIZE: u32 = 600 * 1024;

/// Operations under way: offers that wait ask for free space, the rest is reads and writes.
const OPS_MAX: usize = 1024;

/// Bytes of received pieces at the disk: what the machine asks for at a time, and one piece of each peer.
const WRITING_MAX: usize = 64 * 1024 * 1024;

/// What one input may cause: a message for every peer and every transfer, and then some.
const OUTPUTS_MAX: usize = 20_000;

pub fn run(data: &[u8]) {
    let mut world = World::new();
    for line in String::from_utf8_lossy(data).lines() {
        world.act(line);
        world.drain();
    }
    world.end();
}

fn manifest() -> Arc<Manifest> {
    static MANIFEST: OnceLock<Arc<Manifest>> = OnceLock::new();
    let make = || {
        let path = SafePath::parse("film.mkv").expect("a name");
        let kind = EntryKind::File { size: SIZE.into(), executable: false };
        let hash = |(offset, len): (u32, u32)| {
            let mut hasher = PieceHasher::new(&Span { entry: 0, offset: offset.into(), len, whole: false });
            hasher.update(&vec![0; len as usize]);
            hasher.finish()
        };
        let step = 1 << PIECE_LOG2_MIN;
        let spans = (0..SIZE).step_by(step).map(|offset| (offset, (step as u32).min(SIZE - offset)));
        let entry = Entry { path, kind, mtime: 0 };
        Arc::new(Manifest::new(PIECE_LOG2_MIN, vec![(entry, spans.map(hash).collect())]).expect("sound"))
    };
    MANIFEST.get_or_init(make).clone()
}

struct World {
    machine: Transfers,
    now: Instant,
    manifest: Arc<Manifest>,
    bytes: Bytes,
    id: TransferId,
    ops: VecDeque<DiskOp>,
    accepted: bool,
    /// What was told last.
    offered: Option<(UserId, OfferInfo)>,
    store: Store,
    on_disk: BTreeSet<u32>,
}

/// How the disk knows the transfer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Closed,
    Source,
    Destination,
}

impl World {
    fn new() -> Self {
        let manifest = manifest();
        let bytes = Bytes::from(manifest.to_bytes());
        let config = Config::new(UserId::new("me").expect("an id"), PathBuf::from("/nowhere"));
        Self {
            machine: Transfers::new(config, [7; 32]),
            now: Instant::now(),
            id: Manifest::id_of(&bytes),
            manifest,
            bytes,
            ops: VecDeque::new(),
            accepted: false,
            offered: None,
            store: Store::Closed,
            on_disk: BTreeSet::new(),
        }
    }

    fn act(&mut self, line: &str) {
        let Some((head, rest)) = line.split_at_checked(1) else { return };
        match head {
            "~" => {
                self.now += super::millis(rest);
                self.machine.handle_timeout(self.now);
            }
            "a" => {
                self.accepted = true;
                let (from, offer) = self.offered.clone().unwrap_or_else(|| self.truth());
                self.command(TransferCommand::Accept { from, offer, scope: AcceptScope::Once });
            }
            "r" => self.command(TransferCommand::Reject { transfer: self.id }),
            "s" => self.command(TransferCommand::Send {
                token: SendToken(1),
                paths: vec!["film.mkv".into()],
                options: SourceOptions::default(),
                audience: Audience::Everyone,
            }),
            "d" => self.finish_op(true),
            "f" => self.finish_op(false),
            digit if digit.bytes().all(|byte| byte.is_ascii_digit()) => {
                let peer = UserId::new(format!("p{digit}")).expect("an id");
                if let Some(input) = self.peer_input(peer, rest) {
                    self.machine.handle(self.now, input);
                }
            }
            _ => {}
        }
    }

    /// What an honest peer offers.
    fn truth(&self) -> (UserId, OfferInfo) {
        let from = UserId::new("p1").expect("an id");
        let (transfer, name, origin) = (self.id, self.manifest.name().to_owned(), from.clone());
        let (files, folders, roots, bytes) = (1, 0, 1, SIZE.into());
        (from, OfferInfo { transfer, name, files, folders, roots, bytes, origin })
    }

    fn command(&mut self, command: TransferCommand) {
        self.machine.handle(self.now, Input::Command(command));
    }

    fn peer_input(&self, peer: UserId, text: &str) -> Option<Input> {
        let (kind, rest) = text.split_at_checked(1)?;
        let mut numbers = rest.split_ascii_whitespace().map_while(|number| number.parse::<u32>().ok());
        match kind {
            "+" => Some(Input::PeerReady { peer }),
            "-" => Some(Input::PeerGone { peer }),
            " " => {
                let message = serde_json::from_str(&rest.replace("ID", &self.id.to_string())).ok()?;
                Some(Input::Control { peer, message })
            }
            "w" => Some(Input::Writable { peer, bytes: numbers.next()? as usize }),
            "m" => {
                let (offset, len) = (numbers.next()?, numbers.next()? as usize);
                let from = (offset as usize).min(self.bytes.len());
                let content = self.bytes.slice(from..self.bytes.len().min(from.saturating_add(len)));
                Some(self.bulk(peer, FrameKind::Manifest, offset, content))
            }
            "p" => {
                let (piece, offset) = (numbers.next()?, numbers.next()?);
                let (len, byte) = (numbers.next()? as usize, numbers.next().unwrap_or(0) as u8);
                let content = Bytes::from(vec![byte; len.min(CONTENT_MAX_BYTES)]);
                Some(self.bulk(peer, FrameKind::Piece { piece }, offset, content))
            }
            _ => None,
        }
    }

    fn bulk(&self, peer: UserId, kind: FrameKind, offset: u32, content: Bytes) -> Input {
        let frame = Frame { short: self.id.short(), kind, offset, content }.encode();
        Input::Bulk { peer, frame }
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.machine.poll() {
            outputs += 1;
            if let Output::Event(TransferEvent::Offered { from, offer, .. }) = &output {
                self.offered = Some((from.clone(), offer.clone()));
            }
            if let Output::Disk(op) = output {
                self.check(&op.job);
                match op.job {
                    DiskJob::Close { transfer } if transfer == self.id => self.store = Store::Closed,
                    DiskJob::Close { .. } => {}
                    _ => self.ops.push_back(op),
                }
            }
        }
        assert!(outputs <= OUTPUTS_MAX, "{outputs} outputs of one input");
        let writing = |op: &DiskOp| match &op.job {
            DiskJob::Write { parts, .. } => parts.iter().map(Bytes::len).sum(),
            _ => 0usize,
        };
        assert!(self.ops.iter().map(writing).sum::<usize>() <= WRITING_MAX, "too much is being written");
        // A scan is asked for by the user.
        let ops = self.ops.iter().filter(|op| !matches!(op.job, DiskJob::Scan { .. })).count();
        assert!(ops <= OPS_MAX, "{ops} operations");
    }

    fn check(&self, job: &DiskJob) {
        match job {
            DiskJob::Open { transfer, .. }
            | DiskJob::Write { transfer, .. }
            | DiskJob::Finish { transfer } => {
                assert!(self.accepted && *transfer == self.id, "{job:?} without acceptance");
            }
            DiskJob::Read { transfer, piece, .. } => {
                assert!(*transfer == self.id && self.on_disk.contains(piece), "{job:?} of what is not there");
            }
            DiskJob::Scan { .. } | DiskJob::Free { .. } | DiskJob::Emit { .. } | DiskJob::Close { .. } => {}
        }
    }

    fn finish_op(&mut self, is_good: bool) {
        let Some(DiskOp { id: op, job }) = self.ops.pop_front() else { return };
        let done = if is_good { self.carry_out(job) } else { DiskDone::Failed(DiskError::Nothing) };
        self.machine.handle(self.now, Input::Disk { op, done });
    }

    fn carry_out(&mut self, job: DiskJob) -> DiskDone {
        let pieces = self.manifest.piece_count();
        match job {
            DiskJob::Scan { .. } => {
                self.store = Store::Source;
                self.on_disk.extend(0..pieces);
                let (manifest, bytes) = (self.manifest.clone(), self.bytes.clone());
                DiskDone::Scanned(Scanned { manifest, bytes, left_out: 0 })
            }
            DiskJob::Free { .. } => DiskDone::Free(None),
            DiskJob::Open { .. } => {
                self.store = Store::Destination;
                let mut have = PieceSet::none(pieces);
                have.extend(self.on_disk.iter().copied());
                DiskDone::Opened(Opened { have, unwanted: PieceSet::none(pieces), skipped_files: 0 })
            }
            DiskJob::Read { piece, frame_bytes, .. } => {
                let cut = frame::cut(self.manifest.piece_len(piece), frame_bytes);
                let frames = cut.map(|(offset, len)| {
                    let content = Bytes::from(vec![0; len as usize]);
                    Frame { short: self.id.short(), kind: FrameKind::Piece { piece }, offset, content }
                        .encode()
                });
                DiskDone::Frames(frames.collect())
            }
            DiskJob::Write { .. } | DiskJob::Finish { .. } if self.store != Store::Destination => {
                DiskDone::Failed(DiskError::Nothing)
            }
            DiskJob::Write { piece, parts, .. } => {
                assert!(!self.on_disk.contains(&piece), "piece {piece} is written twice");
                if self.manifest.verify(piece, parts.iter().map(|part| &part[..])) {
                    self.on_disk.insert(piece);
                    DiskDone::Written(Written::Verified)
                } else {
                    DiskDone::Written(Written::WrongHash)
                }
            }
            DiskJob::Emit { .. } | DiskJob::Close { .. } => DiskDone::Emitted,
            DiskJob::Finish { .. } => {
                assert_eq!(self.on_disk.len() as u32, pieces, "finished too early");
                DiskDone::Finished(Summary { path: None })
            }
        }
    }

    fn end(&mut self) {
        for digit in 0..10 {
            self.act(&format!("{digit}-"));
            self.drain();
        }
        while !self.ops.is_empty() {
            self.act("d");
            self.drain();
        }
        self.act("r");
        self.drain();
        while let Some((at, _)) = self.machine.poll_timeout() {
            assert!(at <= self.now + std::time::Duration::from_secs(3600), "something is left to be done");
            self.now = at.max(self.now) + std::time::Duration::from_secs(60);
            self.machine.handle_timeout(self.now);
            self.drain();
        }
    }
}
