//! One member of a room, and the key that stands for it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::SocketId;
use super::kept::Kept;
use crate::core::network::ClientAddress;
use crate::wire::secret::Secret;
use crate::wire::{Candidate, LinkId, UserId};

/// A member, numbered in the order of joining. A member who comes back within its grace keeps its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub(super) u64);

#[derive(Debug)]
pub(super) struct Member {
    pub(super) user: UserId,
    pub(super) kind: Kind,
    /// Where its socket is connected from, or was.
    pub(super) address: ClientAddress,
    pub(super) presence: Presence,
    /// Unclaimed offers, oldest first.
    pub(super) pool: VecDeque<LinkId>,
    /// Bytes of the pool and of early candidates.
    pub(super) kept: Kept,
    /// Offers asked for that have not come.
    pub(super) owed: usize,
    /// When they are asked for again. Set while somebody waits.
    pub(super) owed_until: Option<Instant>,
    /// Members who are here and awake and wait for an offer of this one, first come, first served.
    pub(super) waiting: VecDeque<MemberKey>,
    /// Claims of this member's offers since which nothing was heard from it.
    pub(super) unseen_claims: BTreeSet<LinkId>,
    /// Candidates that came before their offer, oldest first.
    pub(super) early: VecDeque<(LinkId, Option<Candidate>)>,
}

impl Member {
    pub(super) fn new(
        user: UserId,
        kind: Kind,
        address: ClientAddress,
        socket: SocketId,
        kept: Kept,
        now: Instant,
    ) -> Self {
        Self {
            user,
            kind,
            address,
            presence: Presence::Here { socket, awake: true, seen: now },
            pool: VecDeque::new(),
            kept,
            owed: UNPROMPTED_OFFERS,
            owed_until: None,
            waiting: VecDeque::new(),
            unseen_claims: BTreeSet::new(),
            early: VecDeque::new(),
        }
    }

    pub(super) fn socket(&self) -> Option<SocketId> {
        match self.presence {
            Presence::Here { socket, .. } => Some(socket),
            Presence::Away { .. } => None,
        }
    }

    /// Whether the member can be expected to answer or to be offered to.
    pub(super) fn is_awake(&self) -> bool {
        match self.presence {
            Presence::Here { awake, .. } => awake,
            Presence::Away { .. } => false,
        }
    }

    pub(super) fn seen_since(&self, then: Instant) -> bool {
        match self.presence {
            Presence::Here { seen, .. } => seen > then,
            Presence::Away { .. } => false,
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        match self.kind {
            Kind::Ours { .. } => true,
            Kind::Original => false,
        }
    }

    /// Whether a secret is this member's.
    pub(super) fn knows(&self, claimed: &Secret) -> bool {
        match &self.kind {
            Kind::Ours { resume, brought, .. } => resume == claimed || brought.as_ref() == Some(claimed),
            Kind::Original => false,
        }
    }

    /// Takes a secret that the member brought after it was welcomed.
    pub(super) fn bring(&mut self, secret: Secret) {
        match &mut self.kind {
            Kind::Ours { brought, .. } => *brought = Some(secret),
            Kind::Original => {}
        }
    }

    pub(super) fn lists(&self, user: &UserId) -> bool {
        match &self.kind {
            Kind::Ours { have, .. } => have.contains(user),
            Kind::Original => false,
        }
    }

    pub(super) fn unlist(&mut self, user: &UserId) {
        match &mut self.kind {
            Kind::Ours { have, .. } => {
                have.remove(user);
            }
            Kind::Original => {}
        }
    }
}

/// Every client makes one offer when it starts, without being asked.
pub(super) const UNPROMPTED_OFFERS: usize = 1;

#[derive(Debug)]
pub(super) enum Presence {
    /// Has a socket. `awake` is false from a claim without a sign of life until the next one.
    Here { socket: SocketId, awake: bool, seen: Instant },
    /// Lost its socket; keeps its place until then.
    Away { until: Instant },
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Understands our extensions. `have` are the members it says it is connected to.
    /// With either secret the member comes back: the one it was welcomed with, or one that it brought later.
    Ours { have: BTreeSet<UserId>, resume: Secret, brought: Option<Secret> },
    /// A published library.
    Original,
}

impl Kind {
    pub(super) fn ours(have: Vec<UserId>, resume: Secret, at_most: usize) -> Self {
        Self::Ours { have: have.into_iter().take(at_most).collect(), resume, brought: None }
    }
}
