//! What faces ask about files, in the node's words.

use std::path::PathBuf;

use super::values::Resolution;
use crate::core::transfer::{AcceptScope, Audience, OfferInfo, SendToken, SourceOptions, TransferCommand};
use crate::node::api::{Command, To};
use crate::wire::{TransferId, UserId};

/// Takes this offer of this peer, in these words, and no other.
pub fn accept(from: &UserId, offer: &OfferInfo) -> Command {
    let (from, offer) = (from.clone(), offer.clone());
    Command::Transfer(TransferCommand::Accept { from, offer, scope: AcceptScope::Once })
}

/// Declines an offer, whoever makes it, or stops a transfer.
pub fn reject(transfer: TransferId) -> Command {
    Command::Transfer(TransferCommand::Reject { transfer })
}

/// Declines an offer because nobody said that this peer's are taken. Somebody else may offer the same.
pub fn reject_from(from: &UserId, transfer: TransferId) -> Command {
    Command::Transfer(TransferCommand::RejectFrom { transfer, from: from.clone() })
}

/// Says no to the offer that a person was shown. They are asked about the next one who makes it.
pub fn pass(from: &UserId, transfer: TransferId) -> Command {
    Command::Transfer(TransferCommand::Pass { transfer, from: from.clone() })
}

/// Says what to do with the files in a transfer's way.
pub fn resolve(transfer: TransferId, resolution: Resolution) -> Command {
    Command::Transfer(TransferCommand::Resolve { transfer, conflict: resolution.into() })
}

/// Offers files.
pub fn send(token: SendToken, paths: Vec<PathBuf>, to: To, options: SourceOptions) -> Command {
    let audience = match to {
        To::Everyone => Audience::Everyone,
        To::Peers(peers) => Audience::Peers(peers.into_iter().collect()),
    };
    Command::Transfer(TransferCommand::Send { token, paths, options, audience })
}

/// Gives each request to send a token of its own.
#[derive(Debug, Default)]
pub struct Tokens(u64);

impl Tokens {
    /// One that was not given before.
    pub fn fresh(&mut self) -> SendToken {
        self.0 += 1;
        SendToken(self.0)
    }
}
