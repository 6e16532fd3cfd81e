//! The list of files: asked of one holder after the other, sent, and compared with what was offered.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::machine::{TICK, Transfers};
use super::share::{Content, Fetch, Stage};
use super::{CutOffReason, FailReason, Reason};
use crate::wire::frame::{self, Frame, FrameKind};
use crate::wire::manifest::Manifest;
use crate::wire::transfer::TransferMessage;
use crate::wire::{TransferId, UserId};

/// How much of a manifest is sent for one request.
pub(super) const MANIFEST_CHUNK_BYTES: usize = 1024 * 1024;

/// The most that may wait to be sent to a peer while it asks for more of a manifest.
const MANIFEST_AHEAD_BYTES: u64 = 4 * MANIFEST_CHUNK_BYTES as u64;

/// A manifest of which nothing came for so long is asked from another holder, and for twice as long each time that all were asked.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(5);
const SILENT_ROUNDS_MAX: u32 = 3;

/// So is one that comes by the drop: it should be here after this and what its length takes at so many bytes a second. When
/// all holders were asked each has twice as long, so that one of them comes to an end on any path.
const MANIFEST_GRACE: Duration = Duration::from_secs(10);
const MANIFEST_MIN_BPS: u32 = 256 * 1024;
const MANIFEST_ROUNDS_MAX: u32 = 10;

/// A transfer of whose manifest nothing came for so long, from anybody, nor anything else from whoever may be asked, is given up. On
/// a slow path much may come before it; where others say otherwise what it is, after this and twice the time that it may take.
const MANIFEST_GIVE_UP: Duration = Duration::from_secs(120);

/// How long a manifest may take in the first round.
pub(super) fn manifest_patience(manifest_len: u32) -> Duration {
    MANIFEST_GRACE + Duration::from_secs((manifest_len / MANIFEST_MIN_BPS).into())
}

impl Transfers {
    /// Asks one holder for the manifest from the beginning, or a rival, in whose words it is from now on.
    pub(super) fn fetch_from(&mut self, now: Instant, id: TransferId, peer: UserId) {
        self.go_over(now, id, &peer);
        let Some(share) = self.shares.get_mut(&id) else { return };
        self.out.control(&peer, TransferMessage::Accept { id });
        let fetch = match &share.stage {
            Stage::Fetching(fetch) => fetch.again(now, peer),
            Stage::Offered | Stage::Queued | Stage::Opening(_) | Stage::Asking(_) | Stage::Sharing(_) => {
                Fetch::new(now, peer)
            }
        };
        share.stage = Stage::Fetching(fetch);
        self.wake(Reason::Requests, now + TICK);
    }

    /// Asks another holder for the manifest, or a rival who says the same to a person, if the one that was asked has gone, is
    /// silent or slow. Gives up when all were for long, and sooner where somebody else says otherwise what it is.
    pub(super) fn fetch_again(&mut self, now: Instant, id: TransferId) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Stage::Fetching(fetch) = &share.stage else { return };
        // Lists that the same peers were asked for before, and what else is on its way, come first.
        let asked = share.holders.iter().chain(share.likewise()).filter_map(|peer| self.ready.get(peer));
        let came_at = asked.map(|ready| ready.came_at).fold(fetch.came_at, Instant::max);
        if now.saturating_duration_since(came_at) >= MANIFEST_GIVE_UP {
            let rivals = std::mem::take(&mut share.rivals);
            self.fail(id, FailReason::NoManifest);
            return self.hear_rivals(now, rivals);
        }
        let silence = MANIFEST_PATIENCE * 2_u32.pow(fetch.round.min(SILENT_ROUNDS_MAX));
        let is_silent = now.saturating_duration_since(fetch.heard_at) >= silence;
        let patience = manifest_patience(share.manifest_len);
        let is_overdue = now.saturating_duration_since(fetch.began_at) >= MANIFEST_GIVE_UP + 2 * patience;
        if is_overdue && share.rivals.len() > share.likewise().count() {
            return self.hear_others(now, id);
        }
        let patience = patience * 2_u32.pow(fetch.round.min(MANIFEST_ROUNDS_MAX));
        let willing: BTreeSet<&UserId> = share.holders.iter().chain(share.likewise()).collect();
        let is_slow = willing.len() > 1 && now.saturating_duration_since(fetch.asked_at) >= patience;
        let has_gone = fetch.from.as_ref().is_none_or(|from| !share.holders.contains(from));
        if !is_silent && !is_slow && !has_gone {
            return self.wake(Reason::Requests, now + TICK);
        }
        // In turns: two who send nothing must not be asked for ever, one after the other.
        let next = fetch
            .from
            .as_ref()
            .and_then(|from| willing.range::<&UserId, _>((Excluded(from), Unbounded)).next());
        match next.or(willing.first()).map(|next| (*next).clone()) {
            Some(next) if fetch.from.as_ref() == Some(&next) && !fetch.buffer.is_empty() => {
                self.go_on_fetching(now, id, &next);
            }
            Some(next) => self.fetch_from(now, id, next),
            None => {
                if let Stage::Fetching(fetch) = &mut share.stage {
                    fetch.lose();
                }
                self.wake(Reason::Requests, now + TICK);
            }
        }
    }

    /// Asks the only one who has a manifest for the rest of it. On a slow path what is here took long to come.
    fn go_on_fetching(&mut self, now: Instant, id: TransferId, peer: &UserId) {
        let Some(Stage::Fetching(fetch)) = self.shares.get_mut(&id).map(|share| &mut share.stage) else {
            return;
        };
        fetch.round += 1;
        (fetch.asked_at, fetch.heard_at) = (now, now);
        let offset = fetch.buffer.len() as u32;
        self.out.control(peer, TransferMessage::Manifest { id, offset });
        self.wake(Reason::Requests, now + TICK);
    }

    pub(super) fn send_manifest(&mut self, now: Instant, peer: &UserId, id: TransferId, offset: u32) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        if !share.admits(peer) || self.uploads.manifest_bytes(peer) > MANIFEST_AHEAD_BYTES {
            return;
        }
        let Some(exchange) = share.exchange() else { return };
        let bytes = exchange.manifest_bytes.clone();
        let start = (offset as usize).min(bytes.len());
        let chunk = bytes.slice(start..bytes.len().min(start + MANIFEST_CHUNK_BYTES));
        if !exchange.allow(peer, chunk.len() as u64) {
            return self.cut_off(now, Some(id), peer, CutOffReason::EndlessRequests);
        }
        let frames = frame::cut(chunk.len() as u32, u32::MAX).map(|(at, len)| {
            let content = chunk.slice(at as usize..(at + len) as usize);
            Frame { short: id.short(), kind: FrameKind::Manifest, offset: offset + at, content }.encode()
        });
        self.uploads.push_manifest(peer, id, frames.collect());
    }

    /// A part of a manifest arrived.
    pub(super) fn manifest_part(
        &mut self,
        now: Instant,
        peer: &UserId,
        id: TransferId,
        offset: u32,
        mut part: Bytes,
    ) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let Stage::Fetching(fetch) = &mut share.stage else { return };
        if fetch.from.as_ref() != Some(peer) || offset as usize != fetch.buffer.len() {
            return;
        }
        if fetch.buffer.len() + part.len() > share.manifest_len as usize {
            return self.cut_off(now, Some(id), peer, CutOffReason::BadManifest);
        }
        // However it is cut: nothing comes that was not asked for, and charged.
        part.truncate(fetch.asked_len - fetch.buffer.len());
        fetch.buffer.extend_from_slice(&part);
        (fetch.heard_at, fetch.came_at) = (now, now);
        if fetch.buffer.len() == share.manifest_len as usize {
            let bytes = Bytes::from(std::mem::take(&mut fetch.buffer));
            return self.manifest_here(now, peer, id, bytes);
        }
        if fetch.buffer.len() == fetch.asked_len {
            self.ask_for_more(now, peer, id);
        }
    }

    /// Asks for the next part of a manifest, if there is room for it.
    fn ask_for_more(&mut self, now: Instant, peer: &UserId, id: TransferId) {
        let Some(Stage::Fetching(fetch)) = self.shares.get_mut(&id).map(|share| &mut share.stage) else {
            return;
        };
        let offset = fetch.asked_len as u32;
        fetch.asked_len += MANIFEST_CHUNK_BYTES;
        if !self.make_room(now, 0) {
            return self.fail(id, FailReason::NoRoom);
        }
        // It may have been late itself, and have given way.
        if self.shares.contains_key(&id) {
            self.out.control(peer, TransferMessage::Manifest { id, offset });
        }
    }

    fn manifest_here(&mut self, now: Instant, peer: &UserId, id: TransferId, bytes: Bytes) {
        if Manifest::id_of(&bytes) != id {
            return self.cut_off(now, Some(id), peer, CutOffReason::BadManifest);
        }
        // The hash is right, so every holder has these bytes: the transfer itself is hopeless if they are refused.
        let share = self.shares.get_mut(&id).expect("its manifest was being fetched");
        let manifest = match Manifest::parse(&bytes) {
            Ok(manifest) if share.matches(&manifest) => Arc::new(manifest),
            Ok(_) => return self.refuse_manifest(now, id, "it is not what was offered".to_owned()),
            Err(error) => return self.refuse_manifest(now, id, error.to_string()),
        };
        let content = Content { manifest, bytes };
        share.stage = Stage::Opening(content.clone());
        self.open(id, content, self.config.conflict);
    }

    /// All who offered it in these words were wrong, not only the one who sent it.
    pub(super) fn refuse_manifest(&mut self, now: Instant, id: TransferId, reason: String) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let (liars, rivals) = (share.holders.clone(), std::mem::take(&mut share.rivals));
        self.fail(id, FailReason::Manifest(reason));
        for liar in liars {
            self.cut_off(now, Some(id), &liar, CutOffReason::BadManifest);
        }
        self.hear_rivals(now, rivals);
    }
}
