//! A set of piece numbers.

use std::fmt;

/// Which of a transfer's pieces.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl PieceSet {
    /// No piece out of `len`.
    pub fn none(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    /// All of `len` pieces.
    pub fn all(len: u32) -> Self {
        let mut set = Self { words: vec![u64::MAX; len.div_ceil(64) as usize], len, count: len };
        if let Some(last) = set.words.last_mut() {
            *last >>= (64 - len % 64) % 64;
        }
        set
    }

    /// How many pieces the transfer has.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// How many pieces are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no piece is in the set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every piece is in the set.
    pub fn is_all(&self) -> bool {
        self.count == self.len
    }

    /// Whether `piece` is in the set; `false` for one that the transfer does not have.
    pub fn contains(&self, piece: u32) -> bool {
        piece < self.len && self.words[piece as usize / 64] >> (piece % 64) & 1 == 1
    }

    /// Puts a piece in; says whether that changed the set. A piece that the transfer does not have changes nothing.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.len || self.contains(piece) {
            return false;
        }
        self.words[piece as usize / 64] |= 1 << (piece % 64);
        self.count += 1;
        true
    }

    /// Takes a piece out; says whether that changed the set.
    pub fn remove(&mut self, piece: u32) -> bool {
        if !self.contains(piece) {
            return false;
        }
        self.words[piece as usize / 64] &= !(1 << (piece % 64));
        self.count -= 1;
        true
    }

    /// The pieces, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(index, word)| ones(*word).map(move |bit| index as u32 * 64 + bit))
    }

    /// Sixty-four pieces as one word, the lowest piece in the lowest bit; zero beyond the end.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// The pieces that are in both, from a word on and around; what is in one only takes a 64th of a step.
    pub fn common(&self, other: &Self, from: usize) -> impl Iterator<Item = u32> {
        let words = self.word_count();
        (0..words)
            .map(move |step| (from + step) % words)
            .flat_map(|at| ones(self.word(at) & other.word(at)).map(move |bit| at as u32 * 64 + bit))
    }

    /// How many words there are.
    pub fn word_count(&self) -> usize {
        self.words.len()
    }
}

/// The positions of the ones in a word.
pub fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

impl Extend<u32> for PieceSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, pieces: I) {
        pieces.into_iter().for_each(|piece| {
            self.insert(piece);
        });
    }
}

impl fmt::Debug for PieceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pieces", self.count, self.len)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_pieces_are_as_many_as_there_are() {
        for len in [0, 1, 63, 64, 65, 128, 1000] {
            let all = PieceSet::all(len);
            assert_eq!((all.iter().count() as u32, all.is_all()), (len, true));
            assert!(!all.contains(len));
        }
    }

    proptest! {
        #[test]
        fn a_piece_set_is_a_set(len in 0u32..300, steps in prop::collection::vec((any::<bool>(), 0u32..320), 0..200)) {
            let (mut ours, mut theirs) = (PieceSet::none(len), BTreeSet::new());
            for (put, piece) in steps {
                if put {
                    prop_assert_eq!(ours.insert(piece), piece < len && theirs.insert(piece));
                } else {
                    prop_assert_eq!(ours.remove(piece), theirs.remove(&piece));
                }
            }
            prop_assert_eq!(ours.count() as usize, theirs.len());
            prop_assert!(ours.iter().eq(theirs.iter().copied()));
        }
    }
}
