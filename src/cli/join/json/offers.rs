//! What was offered to a script, by whom and in which words: what its `accept` can mean.

use std::collections::{BTreeMap, VecDeque};

use crate::core::transfer::OfferInfo;
use crate::wire::{TransferId, UserId};

/// Transfers remembered, the first ones out.
const TRANSFERS_MAX: usize = 1024;

/// Peers remembered for each, the first in the order of their ids out: more than a room has.
const PEERS_MAX: usize = 256;

/// What of an offer a script repeats when it accepts it.
#[derive(Debug, Default)]
pub struct Words {
    /// The id of whoever offers it.
    pub from: Option<String>,
    /// What it is called.
    pub name: Option<String>,
    /// How many files it has.
    pub files: Option<u32>,
    /// How many folders.
    pub folders: Option<u32>,
    /// How many of these are outermost.
    pub roots: Option<u32>,
    /// How much is in them.
    pub bytes: Option<u64>,
}

/// All offers that were printed.
#[derive(Debug, Default)]
pub struct Offers {
    told: BTreeMap<TransferId, Told>,
    order: VecDeque<TransferId>,
}

/// What was said of one transfer.
#[derive(Debug)]
struct Told {
    first: OfferInfo,
    /// Whether anybody ever said something else than the first.
    is_reworded: bool,
    /// The last words of each who offered it, and how many were said before.
    words: BTreeMap<UserId, (u64, OfferInfo)>,
    said: u64,
}

/// An `accept` that does not say enough, or not what was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousError {
    /// Whoever reads one offer may answer when the next one stands in its place.
    #[error("this was offered in different words: repeat the name and bytes that are meant")]
    Reworded,
    /// Several fit.
    #[error("several offers fit: repeat files, folders, roots and from, too")]
    Several,
    /// None fits.
    #[error("nobody offers it in those words")]
    Other,
}

impl Offers {
    /// An offer is printed.
    pub fn tell(&mut self, from: &UserId, offer: &OfferInfo) {
        let told = self.told.entry(offer.transfer).or_insert_with(|| {
            self.order.push_back(offer.transfer);
            Told { first: offer.clone(), is_reworded: false, words: BTreeMap::new(), said: 0 }
        });
        told.is_reworded |= !told.first.says_the_same(offer);
        // Who repeats itself keeps its place, and who changes its words does not.
        let place = told.words.get(from).filter(|(_, before)| before.says_the_same(offer));
        let place = place.map_or(told.said, |(place, _)| *place);
        told.words.insert(from.clone(), (place, offer.clone()));
        told.said += 1;
        if told.words.len() > PEERS_MAX {
            told.words.pop_first();
        }
        if self.order.len() > TRANSFERS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.told.remove(&oldest);
        }
    }

    /// Whose offer an `accept` means, in which words: of those who say the same, whoever was first.
    pub fn meant(
        &self,
        transfer: &TransferId,
        words: &Words,
    ) -> Result<(&UserId, &OfferInfo), AmbiguousError> {
        let told = self.told.get(transfer).ok_or(AmbiguousError::Other)?;
        if told.is_reworded && (words.name.is_none() || words.bytes.is_none()) {
            return Err(AmbiguousError::Reworded);
        }
        let fitting = || told.words.iter().filter(|(from, (_, offer))| fits(words, from, offer));
        let first = fitting().min_by_key(|(_, (place, _))| *place);
        let (from, (_, offer)) = first.ok_or(AmbiguousError::Other)?;
        if fitting().any(|(_, (_, other))| !other.says_the_same(offer)) {
            return Err(AmbiguousError::Several);
        }
        Ok((from, offer))
    }
}

fn fits(words: &Words, from: &UserId, offer: &OfferInfo) -> bool {
    words.from.as_deref().is_none_or(|meant| meant == from.as_str())
        && words.name.as_ref().is_none_or(|name| *name == offer.name)
        && words.files.is_none_or(|files| files == offer.files)
        && words.folders.is_none_or(|folders| folders == offer.folders)
        && words.roots.is_none_or(|roots| roots == offer.roots)
        && words.bytes.is_none_or(|bytes| bytes == offer.bytes)
}
