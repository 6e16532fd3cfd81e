//! What faces may know of each peer: name, path, traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tokio::sync::oneshot;

use super::api::{PeerInfo, PeerKind};
use crate::core::mesh::Mesh;
use crate::core::peer::{LinkKey, Path, PeerCommand, PeerEvent};
use crate::wire::UserId;

#[derive(Default)]
pub(super) struct Roster {
    peers: BTreeMap<UserId, PeerInfo>,
    traffic: BTreeMap<LinkKey, Traffic>,
    questions: Vec<Question>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    sent_bytes: u64,
    received_bytes: u64,
}

/// Somebody wants to know who is here, with fresh round trips.
struct Question {
    reply: oneshot::Sender<Vec<PeerInfo>>,
    missing: BTreeSet<LinkKey>,
    by: Instant,
}

impl Roster {
    pub(super) fn open(&mut self, id: UserId, kind: PeerKind, verified: bool, name: String) -> PeerInfo {
        let info =
            PeerInfo { id: id.clone(), name, verified, kind, path: None, sent_bytes: 0, received_bytes: 0 };
        self.peers.insert(id, info.clone());
        info
    }

    pub(super) fn close(&mut self, id: &UserId) -> Option<PeerInfo> {
        self.peers.remove(id)
    }

    pub(super) fn info(&self, id: &UserId) -> Option<PeerInfo> {
        self.peers.get(id).cloned()
    }

    /// Returns the peer under its new name, and the old name.
    pub(super) fn rename(&mut self, id: &UserId, name: String) -> Option<(PeerInfo, String)> {
        let info = self.peers.get_mut(id)?;
        let old = std::mem::replace(&mut info.name, name);
        Some((info.clone(), old))
    }

    pub(super) fn set_path(&mut self, id: &UserId, path: Path, mesh: &Mesh) {
        if let Some(info) = self.peers.get_mut(id) {
            info.path = Some(path);
        }
        if let Some(link) = mesh.ready_link(id) {
            for question in &mut self.questions {
                question.missing.remove(&link);
            }
            self.answer(mesh, |question| question.missing.is_empty());
        }
    }

    pub(super) fn count_command(&mut self, key: LinkKey, command: &PeerCommand) {
        if let PeerCommand::Send { payload, .. } = command {
            self.traffic.entry(key).or_default().sent_bytes += payload.len_bytes() as u64;
        }
    }

    pub(super) fn count_event(&mut self, key: LinkKey, event: &PeerEvent) {
        match event {
            PeerEvent::Message { payload, .. } => {
                self.traffic.entry(key).or_default().received_bytes += payload.len_bytes() as u64;
            }
            PeerEvent::Description(_)
            | PeerEvent::Candidate(_)
            | PeerEvent::Connected { .. }
            | PeerEvent::ChannelOpen(_)
            | PeerEvent::Writable { .. }
            | PeerEvent::Strain(_)
            | PeerEvent::Path(_)
            | PeerEvent::Disconnected
            | PeerEvent::Reconnected
            | PeerEvent::Closed(_) => {}
        }
    }

    pub(super) fn forget(&mut self, key: LinkKey) {
        self.traffic.remove(&key);
    }

    /// Answers as soon as each of `links` has said its path again, or at `by`.
    pub(super) fn ask(&mut self, reply: oneshot::Sender<Vec<PeerInfo>>, links: Vec<LinkKey>, by: Instant) {
        self.questions.push(Question { reply, missing: links.into_iter().collect(), by });
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.questions.iter().map(|question| question.by).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, mesh: &Mesh) {
        self.answer(mesh, |question| question.by <= now);
    }

    fn answer(&mut self, mesh: &Mesh, is_due: impl Fn(&Question) -> bool) {
        if !self.questions.iter().any(&is_due) {
            return;
        }
        let peers: Vec<PeerInfo> = self.peers.values().map(|info| self.with_traffic(info, mesh)).collect();
        for question in self.questions.extract_if(.., |question| is_due(question)) {
            let _ = question.reply.send(peers.clone());
        }
    }

    fn with_traffic(&self, info: &PeerInfo, mesh: &Mesh) -> PeerInfo {
        let traffic =
            mesh.ready_link(&info.id).and_then(|key| self.traffic.get(&key)).copied().unwrap_or_default();
        PeerInfo { sent_bytes: traffic.sent_bytes, received_bytes: traffic.received_bytes, ..info.clone() }
    }
}
