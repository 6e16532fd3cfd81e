//! The exchange of one transfer's pieces with the others who take part, once the manifest is here.
//!
//! [`download`](super::download) asks and takes, [`reveal`](super::reveal) shows what we have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::download::WINDOW_MAX_BYTES;
use super::pieces::{PieceSet, ones};
use super::rate::Meter;
use crate::wire::UserId;
use crate::wire::limits::CONTROL_MAX_BYTES;
use crate::wire::manifest::Manifest;

/// The first window of requests to a peer, and how much of what we have it is shown ahead, in bytes.
pub(super) const WINDOW_START_BYTES: u64 = 512 * 1024;

/// What every piece counts besides its bytes: what it costs to ask, to read and to write it.
const PIECE_OVERHEAD_BYTES: u64 = 256;

/// Bytes nobody asked for that are let pass, besides those of requests taken back.
const STRAY_MAX_BYTES: u64 = 1024 * 1024;

/// With those, however many requests were taken back: more is not on its way.
const FORGIVEN_MAX_BYTES: u64 = 2 * WINDOW_MAX_BYTES;

/// What a peer may ask for besides the whole twice: requests taken back, pieces that got lost with a link.
const SLACK_BYTES: u64 = 64 * 1024 * 1024;

/// A transfer of whose missing pieces nobody has shown or owed one for so long is taken for one that nobody here has the rest
/// of. Who says that it has everything has longer: it shows nothing to those who are behind with passing on what they have.
const QUIET: Duration = Duration::from_secs(30);
const QUIET_ALTHOUGH_COMPLETE: Duration = Duration::from_secs(120);

/// What the first answer to a peer counts among its requests, for it may leave, and join or offer again: the longest there is.
pub(super) const JOIN_BYTES: u64 = CONTROL_MAX_BYTES as u64;

/// How far we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Pieces are missing.
    Downloading,
    /// All pieces are verified; the files get their names.
    Finishing,
    /// Everything is in place.
    Complete,
}

/// In which order pieces are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// What fewest have first.
    Rarest,
    /// From the beginning, for a stream.
    Sequential,
}

/// One transfer's pieces: ours and everybody's.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) manifest: Arc<Manifest>,
    /// The manifest's canonical bytes, for those who accept.
    pub(super) manifest_bytes: Bytes,
    pub(super) phase: Phase,
    pub(super) order: Order,
    /// Verified and on disk.
    pub(super) have: PieceSet,
    pub(super) have_bytes: u64,
    /// Wanted and asked from nobody.
    pub(super) missing: PieceSet,
    /// Wanted and not verified, in pieces and bytes.
    pub(super) left: u32,
    pub(super) left_bytes: u64,
    /// Asked for.
    pub(super) fetching: BTreeMap<u32, Fetching>,
    /// The same as a set.
    pub(super) under_way: PieceSet,
    /// Complete, at the disk, and from whom.
    pub(super) writing: BTreeMap<u32, UserId>,
    pub(super) writing_bytes: u64,
    /// How many members have each piece.
    pub(super) copies: Vec<u16>,
    /// How many members have each piece or were shown that we have it.
    pub(super) spread: Vec<u16>,
    /// Where the search for pieces nobody was shown goes on.
    pub(super) fresh_from: u32,
    /// Read for somebody at least once.
    pub(super) served: PieceSet,
    /// Verified since the last announcement.
    pub(super) unannounced: Vec<u32>,
    pub(super) announced_at: Option<Instant>,
    pub(super) members: BTreeMap<UserId, Member>,
    /// What was read for each peer, and what answers to its joining count, in bytes, as long as it is connected: leaving a
    /// transfer and joining it again does not make it less.
    pub(super) taken_bytes: BTreeMap<UserId, u64>,
    /// Content bytes received and verified, and from whom.
    pub(super) down: Meter,
    pub(super) up: Meter,
    pub(super) from_origin_bytes: u64,
    pub(super) from_others_bytes: u64,
    pub(super) skipped_files: usize,
    /// Whether nobody here has the rest. Not any more once a piece is asked for.
    pub(super) stalled: bool,
    /// What was here when that was last told.
    pub(super) stalled_with_bytes: Option<u64>,
    /// Since when nothing is asked for and nothing is at the disk, although pieces are missing.
    pub(super) quiet_since: Option<Instant>,
    /// The next piece for standard output.
    pub(super) emit: Option<Emit>,
}

/// How far standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Emit {
    pub(super) next: u32,
    pub(super) busy: bool,
}

/// Another peer's part in the transfer.
#[derive(Debug)]
pub(super) struct Member {
    /// What it says it has.
    pub(super) has: PieceSet,
    pub(super) has_bytes: u64,
    /// How fast that grows.
    pub(super) gained: Meter,
    /// Bytes that it has and no other member that lacks something.
    pub(super) sole_bytes: u64,
    /// What we told it that we have.
    pub(super) shown: PieceSet,
    /// What of that it has neither asked for nor got elsewhere.
    pub(super) open: PieceSet,
    pub(super) open_bytes: u64,
    pub(super) lookahead_bytes: u64,
    /// For how long it was behind, and when that was looked at.
    pub(super) behind_for: Duration,
    pub(super) owed_at: Option<Instant>,
    /// When it was last shown something.
    pub(super) shown_at: Option<Instant>,
    /// What we asked it for.
    pub(super) asked: BTreeMap<u32, Asked>,
    pub(super) asked_bytes: u64,
    pub(super) window_bytes: u64,
    /// The shortest time a request took.
    pub(super) quickest: Option<Duration>,
    /// How long requests take on the average, and how far they are from it (as SRTT and RTTVAR, RFC 6298 §2).
    pub(super) mean_took: Duration,
    pub(super) scatter: Duration,
    /// What all requests answered so far cost, and how much of that it answers a second.
    pub(super) answered_bytes: u64,
    pub(super) answer_bps: f64,
    /// When it last answered a request, or was asked while nothing was outstanding.
    pub(super) heard_at: Instant,
    /// When it was last looked for late pieces that it has, if there was none.
    pub(super) looked_at: Option<Instant>,
    /// Where it is looked for next, in words of 64 pieces.
    pub(super) look_from: usize,
    /// When it was last asked to show more.
    pub(super) nudged_at: Option<Instant>,
    /// When it last asked that of us.
    pub(super) nudged_us_at: Option<Instant>,
    /// How often requests were taken back because nothing came, since the last piece that did.
    pub(super) silences: u32,
    /// Does not answer: asked for one piece now and then, and taken for one that has nothing.
    pub(super) rests: bool,
    /// Not asked before then, because it said that it is busy or did not answer.
    pub(super) retry_at: Option<Instant>,
    /// What may still come although nothing is asked for, because we took requests back.
    pub(super) forgiven_bytes: u64,
    /// Takes part: told of what we get.
    pub(super) joined: bool,
    /// Says that it has everything, also what it has not shown.
    pub(super) complete: bool,
    /// Has everything in place and confirmed it.
    pub(super) done: bool,
    pub(super) down: Meter,
    pub(super) up: Meter,
    /// The most that it took from us a second.
    pub(super) best_up_bps: u64,
    /// How fast it asks.
    pub(super) wanted: Meter,
}

/// A piece that is asked for.
#[derive(Debug)]
pub(super) struct Fetching {
    /// How many peers were asked.
    pub(super) asked: u32,
    /// When the first was.
    pub(super) since: Instant,
}

/// A request of ours under way.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) at: Instant,
    /// What the member had answered then.
    pub(super) answered_bytes: u64,
    /// What came, by offset.
    pub(super) parts: BTreeMap<u32, Bytes>,
    pub(super) got: u32,
}

impl Member {
    /// Whether it takes part and lacks something.
    pub(super) fn is_taking(&self) -> bool {
        self.joined && !self.done && !self.complete
    }

    fn new(now: Instant, pieces: u32, piece_bytes: u32) -> Self {
        let window = WINDOW_START_BYTES.max(2 * u64::from(piece_bytes));
        Self {
            has: PieceSet::none(pieces),
            has_bytes: 0,
            gained: Meter::default(),
            sole_bytes: 0,
            shown: PieceSet::none(pieces),
            open: PieceSet::none(pieces),
            open_bytes: 0,
            lookahead_bytes: 4 * window,
            behind_for: Duration::ZERO,
            owed_at: None,
            shown_at: None,
            asked: BTreeMap::new(),
            asked_bytes: 0,
            window_bytes: window,
            quickest: None,
            mean_took: Duration::ZERO,
            scatter: Duration::ZERO,
            answered_bytes: 0,
            answer_bps: 0.0,
            heard_at: now,
            looked_at: None,
            look_from: 0,
            nudged_at: None,
            nudged_us_at: None,
            silences: 0,
            rests: false,
            retry_at: None,
            forgiven_bytes: STRAY_MAX_BYTES,
            joined: false,
            complete: false,
            done: false,
            down: Meter::default(),
            up: Meter::default(),
            best_up_bps: 0,
            wanted: Meter::default(),
        }
    }
}

impl Exchange {
    /// An exchange of which we have everything.
    pub(super) fn complete(manifest: Arc<Manifest>, manifest_bytes: Bytes) -> Self {
        let have = PieceSet::all(manifest.piece_count());
        Self { phase: Phase::Complete, ..Self::new(manifest, manifest_bytes, have, Order::Rarest) }
    }

    /// An exchange of which we have some. Nothing is wanted until [`Exchange::want_all_but`].
    pub(super) fn new(manifest: Arc<Manifest>, manifest_bytes: Bytes, have: PieceSet, order: Order) -> Self {
        let pieces = manifest.piece_count();
        let have_bytes = have.iter().map(|piece| u64::from(manifest.piece_len(piece))).sum();
        Self {
            manifest,
            manifest_bytes,
            phase: Phase::Downloading,
            order,
            have,
            have_bytes,
            missing: PieceSet::none(pieces),
            left: 0,
            left_bytes: 0,
            fetching: BTreeMap::new(),
            under_way: PieceSet::none(pieces),
            writing: BTreeMap::new(),
            writing_bytes: 0,
            copies: vec![0; pieces as usize],
            spread: vec![0; pieces as usize],
            fresh_from: 0,
            served: PieceSet::none(pieces),
            unannounced: Vec::new(),
            announced_at: None,
            members: BTreeMap::new(),
            taken_bytes: BTreeMap::new(),
            down: Meter::default(),
            up: Meter::default(),
            from_origin_bytes: 0,
            from_others_bytes: 0,
            skipped_files: 0,
            stalled: false,
            stalled_with_bytes: None,
            quiet_since: None,
            emit: None,
        }
    }

    /// Wants every piece that is neither here nor `unwanted`.
    pub(super) fn want_all_but(&mut self, unwanted: &PieceSet) {
        for piece in 0..self.manifest.piece_count() {
            if !self.have.contains(piece) && !unwanted.contains(piece) && self.missing.insert(piece) {
                self.left += 1;
                self.left_bytes += self.len(piece);
            }
        }
    }

    pub(super) fn len(&self, piece: u32) -> u64 {
        self.manifest.piece_len(piece).into()
    }

    /// What a piece counts against windows and budgets.
    pub(super) fn cost(&self, piece: u32) -> u64 {
        self.len(piece) + PIECE_OVERHEAD_BYTES
    }

    /// Takes down that so much is done for a peer. `false` if that is much more than there is.
    pub(super) fn allow(&mut self, peer: &UserId, bytes: u64) -> bool {
        let limit = 2 * self.manifest.total_bytes() + 4 * self.manifest_bytes.len() as u64 + SLACK_BYTES;
        let taken = self.taken_bytes.entry(peer.clone()).or_default();
        *taken = taken.saturating_add(bytes);
        *taken <= limit
    }

    /// Whether a peer may take part from now on, if it does not yet, by whatever it says.
    pub(super) fn admit(&mut self, now: Instant, peer: &UserId) -> bool {
        if self.members.contains_key(peer) {
            return true;
        }
        self.member(now, peer);
        self.allow(peer, JOIN_BYTES)
    }

    /// Bytes asked for or at the disk, which may be in memory at the same time.
    pub(super) fn in_flight_bytes(&self) -> u64 {
        self.writing_bytes + self.members.values().map(|member| member.asked_bytes).sum::<u64>()
    }

    /// The member, made if it is new.
    pub(super) fn member(&mut self, now: Instant, peer: &UserId) -> &mut Member {
        let (pieces, piece_bytes) = (self.manifest.piece_count(), self.manifest.piece_bytes());
        self.members.entry(peer.clone()).or_insert_with(|| Member::new(now, pieces, piece_bytes))
    }

    /// Takes note that `peer` has a piece. Says whether that is new.
    pub(super) fn note_has(&mut self, now: Instant, peer: &UserId, piece: u32) -> bool {
        let Some(member) = self.members.get_mut(peer) else { return false };
        if !member.has.insert(piece) {
            return false;
        }
        let len = u64::from(self.manifest.piece_len(piece));
        member.has_bytes += len;
        member.gained.add(now, len);
        self.copies[piece as usize] += 1;
        let copies = self.copies[piece as usize];
        if copies == 1 {
            member.sole_bytes += len;
        }
        if member.shown.contains(piece) {
            if member.open.remove(piece) {
                member.open_bytes -= len;
            }
        } else {
            self.spread[piece as usize] += 1;
        }
        if copies == 2 {
            let mut owners =
                self.members.iter_mut().filter(|(id, member)| *id != peer && member.has.contains(piece));
            if let Some((_, owner)) = owners.next() {
                owner.sole_bytes -= len;
            }
        }
        true
    }

    /// Forgets a peer: what it has, and what we asked it for, which is missing again.
    pub(super) fn remove(&mut self, peer: &UserId) -> Option<Member> {
        self.take_back(peer);
        let member = self.members.remove(peer)?;
        for piece in member.has.iter() {
            self.copies[piece as usize] -= 1;
            self.spread[piece as usize] -= 1;
            if self.copies[piece as usize] == 1 {
                let len = self.len(piece);
                let mut owners = self.members.values_mut().filter(|member| member.has.contains(piece));
                owners.next().expect("one member has it").sole_bytes += len;
            }
        }
        for piece in member.shown.iter().filter(|piece| !member.has.contains(*piece)) {
            self.spread[piece as usize] -= 1;
        }
        self.fresh_from = 0;
        Some(member)
    }

    /// Takes back all requests to a peer. Returns the pieces.
    pub(super) fn take_back(&mut self, peer: &UserId) -> Vec<u32> {
        let Some(member) = self.members.get_mut(peer) else { return Vec::new() };
        let pieces: Vec<u32> = member.asked.keys().copied().collect();
        pieces.iter().for_each(|piece| self.unask(peer, *piece));
        pieces
    }

    /// Takes one request back; the piece is missing again unless another peer was asked for it, too, or it is here.
    pub(super) fn unask(&mut self, peer: &UserId, piece: u32) {
        let (cost, len) = (self.cost(piece), self.len(piece));
        let Some(member) = self.members.get_mut(peer) else { return };
        if member.asked.remove(&piece).is_none() {
            return;
        }
        member.asked_bytes -= cost;
        member.forgiven_bytes = (member.forgiven_bytes + len).min(FORGIVEN_MAX_BYTES);
        self.release(piece);
    }

    /// One peer fewer is asked for a piece.
    pub(super) fn release(&mut self, piece: u32) {
        let Some(fetching) = self.fetching.get_mut(&piece) else { return };
        fetching.asked -= 1;
        if fetching.asked > 0 {
            return;
        }
        self.fetching.remove(&piece);
        self.under_way.remove(piece);
        if !self.have.contains(piece) && !self.writing.contains_key(&piece) {
            self.missing.insert(piece);
        }
    }

    /// Whether everything that is not here yet can be had from the members.
    pub(super) fn is_obtainable(&self) -> bool {
        self.is_said() || self.nowhere().next().is_none()
    }

    /// What is missing and nobody has shown who answers.
    fn nowhere(&self) -> impl Iterator<Item = u32> {
        let shown = |at| self.awake().fold(0, |shown, member| shown | member.has.word(at));
        (0..self.missing.word_count())
            .map(|at| (at, self.missing.word(at)))
            .filter(|(_, missing)| *missing != 0)
            .flat_map(move |(at, missing)| ones(missing & !shown(at)).map(move |bit| at as u32 * 64 + bit))
    }

    /// Whether somebody says that it has everything, and answers.
    pub(super) fn is_said(&self) -> bool {
        self.awake().any(|member| member.complete)
    }

    fn awake(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.rests)
    }

    /// A peer that rested answers again.
    pub(super) fn wake(&mut self, peer: &UserId) {
        let Some(member) = self.members.get_mut(peer).filter(|member| member.rests) else { return };
        (member.rests, member.retry_at) = (false, None);
        (self.stalled, self.quiet_since) = (false, None);
    }

    /// Whether pieces are missing, and nobody owes us one or has shown one.
    pub(super) fn is_dead(&self) -> bool {
        let is_shown = |member: &Member| {
            (0..self.missing.word_count()).any(|at| self.missing.word(at) & member.has.word(at) != 0)
        };
        self.fetching.is_empty() && !self.missing.is_empty() && !self.awake().any(is_shown)
    }

    /// Whether that has been so for long. Looked at closely once in [`QUIET`].
    pub(super) fn is_dead_for_long(&mut self, now: Instant) -> bool {
        if !self.fetching.is_empty() || !self.writing.is_empty() || self.missing.is_empty() {
            self.quiet_since = None;
            return false;
        }
        let since = *self.quiet_since.get_or_insert(now);
        let patience = if self.is_said() { QUIET_ALTHOUGH_COMPLETE } else { QUIET };
        if now.saturating_duration_since(since) < patience {
            return false;
        }
        self.quiet_since = None;
        self.is_dead()
    }

    /// Bytes that are not here and that no member has shown.
    pub(super) fn unobtainable_bytes(&self) -> u64 {
        self.nowhere().map(|piece| self.len(piece)).sum()
    }
}
