//! What a transfer holds: paths, sizes, and a hash for every piece.
//!
//! ```text
//! "SWM1" | log2(piece bytes): u8 | entries: u32 | entry … | piece hash: 32 bytes …
//! entry = kind: u8 | path bytes: u16 | path | mtime: i64 seconds | (files only) size: u64
//! ```
//!
//! Numbers are big-endian; entries stand in the order of their paths' bytes; there is one hash for each piece of each file,
//! in that order, and nothing after them. So a content has one manifest only, whose own BLAKE3 hash is the [`TransferId`].
//!
//! Files are cut into pieces one by one. The hash of a piece is its node in the BLAKE3 tree of its file: of a file of one
//! piece the file's hash, else the chaining value of the subtree. Hence the file's hash follows from its pieces' hashes.

use std::collections::{BTreeMap, BTreeSet};

use blake3::hazmat::{self, HasherExt, Mode};

use super::TransferId;
use super::path::{PathError, SafePath, fold};

/// The most files and folders of one transfer.
pub const ENTRIES_MAX: u32 = 100_000;

/// The most pieces of one transfer: 2 TiB in the largest pieces.
pub const PIECES_MAX: u32 = 1 << 19;

/// The longest manifest, in bytes.
pub const MANIFEST_MAX_BYTES: u32 = 32 * 1024 * 1024;

/// The smallest pieces, as a power of two: 256 KiB.
pub const PIECE_LOG2_MIN: u8 = 18;

/// The largest pieces, as a power of two: 4 MiB.
pub const PIECE_LOG2_MAX: u8 = 22;

/// Up to so many pieces the smallest size is kept: enough for many receivers to hold different ones.
const PIECES_AIM: u64 = 2048;

const MAGIC: &[u8; 4] = b"SWM1";
/// A folder with the shortest path.
const ENTRY_MIN_BYTES: usize = 1 + 2 + 1 + 8;
const HASH_BYTES: usize = 32;

/// The hash of a piece: its node in the BLAKE3 tree of its file.
pub type PieceHash = [u8; HASH_BYTES];

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where, inside the folder that receives.
    pub path: SafePath,
    /// What.
    pub kind: EntryKind,
    /// When its content was last changed, in seconds since 1970.
    pub mtime: i64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder; only those that would not be made for a file's sake need to be listed.
    Folder,
    /// A file.
    File {
        /// Its length in bytes.
        size: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
}

impl Entry {
    /// Bytes of content.
    pub fn size(&self) -> u64 {
        match self.kind {
            EntryKind::Folder => 0,
            EntryKind::File { size, .. } => size,
        }
    }
}

/// Where a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The index of its file among the entries.
    pub entry: u32,
    /// Where in the file it begins.
    pub offset: u64,
    /// Its bytes, at least one.
    pub len: u32,
    /// Whether it is the whole file.
    pub whole: bool,
}

/// The content of a transfer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
    piece_log2: u8,
    hashes: Vec<PieceHash>,
    /// For each entry the number of its first piece; one more at the end.
    first_piece: Vec<u32>,
    total_bytes: u64,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It ends too early, goes on too long, or does not begin like one.
    #[error("it is malformed")]
    Malformed,
    /// More than [`MANIFEST_MAX_BYTES`].
    #[error("it has at most {MANIFEST_MAX_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// More than [`ENTRIES_MAX`], or more than its bytes can hold.
    #[error("a transfer has 1 to {ENTRIES_MAX} files and folders, this one says {0}")]
    Entries(u64),
    /// More than [`ENTRIES_MAX`] with the folders that are not listed, and are made for the sake of what is in them.
    #[error("with the folders that its paths need it has more than {ENTRIES_MAX} files and folders")]
    Folders,
    /// More than [`PIECES_MAX`].
    #[error("a transfer has at most {PIECES_MAX} pieces, this one has {0}")]
    Pieces(u64),
    /// The hashes are not as many as the sizes say.
    #[error("its sizes need {expected} hashes, and it has {found}")]
    Hashes {
        /// As the sizes say.
        expected: u64,
        /// As there are.
        found: u64,
    },
    /// A piece size out of range.
    #[error("pieces of 2^{0} bytes are not allowed")]
    PieceSize(u8),
    /// The sizes add up to more than can be counted.
    #[error("its sizes add up to more than can be counted")]
    Overflow,
    /// A path is refused.
    #[error("a path in it is refused: {0}")]
    Path(#[from] PathError),
    /// A path is not Unicode.
    #[error("a path in it is not Unicode")]
    NotUnicode,
    /// The paths are not in order, or one stands there twice.
    #[error("{0} is not in its place or stands there twice")]
    Order(SafePath),
    /// Two paths are the same file on a system that ignores case.
    #[error("{0} and another path are the same file on some systems")]
    Twin(SafePath),
    /// A hidden file or folder beside one that is not: people would be asked about the other only.
    #[error(
        "{0} is hidden and would not be seen beside the others; send it by itself, or the folder around it"
    )]
    Hidden(SafePath),
    /// A file stands where a folder is needed.
    #[error("{0} is a file and a folder at once")]
    Overlap(SafePath),
}

/// The size of pieces for so much content, as a power of two.
pub fn piece_log2_for(total_bytes: u64) -> u8 {
    (PIECE_LOG2_MIN..PIECE_LOG2_MAX).find(|log2| total_bytes >> log2 <= PIECES_AIM).unwrap_or(PIECE_LOG2_MAX)
}

/// How many pieces a file of `size` bytes has.
pub fn pieces_of(size: u64, piece_log2: u8) -> u64 {
    size.div_ceil(1 << piece_log2)
}

impl Manifest {
    /// Puts a manifest together from entries in any order and the hashes of each file's pieces, as [`PieceHasher`] makes them.
    pub fn new(piece_log2: u8, mut files: Vec<(Entry, Vec<PieceHash>)>) -> Result<Self, ManifestError> {
        files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        let hashes = files.iter().flat_map(|(_, hashes)| hashes.iter().copied()).collect();
        Self::check(piece_log2, files.into_iter().map(|(entry, _)| entry).collect(), hashes)
    }

    /// Parses the canonical bytes. Nothing is allocated that the bytes do not pay for.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_MAX_BYTES as usize {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let mut reader = Reader(bytes);
        if reader.take(4)? != MAGIC {
            return Err(ManifestError::Malformed);
        }
        let [piece_log2] = reader.array()?;
        let count = u32::from_be_bytes(reader.array()?);
        if count > ENTRIES_MAX || count as usize > reader.0.len() / ENTRY_MIN_BYTES {
            return Err(ManifestError::Entries(count.into()));
        }
        let entries = (0..count).map(|_| reader.entry()).collect::<Result<Vec<_>, _>>()?;
        let (hashes, rest) = reader.0.as_chunks::<HASH_BYTES>();
        if !rest.is_empty() {
            return Err(ManifestError::Malformed);
        }
        Self::check(piece_log2, entries, hashes.to_vec())
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let paths: usize = self.entries.iter().map(|entry| entry.path.as_str().len() + 19).sum();
        let mut bytes = Vec::with_capacity(9 + paths + self.hashes.len() * HASH_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.push(self.piece_log2);
        bytes.extend_from_slice(&(self.entries.len() as u32).to_be_bytes());
        for entry in &self.entries {
            write_entry(&mut bytes, entry);
        }
        bytes.extend_from_slice(self.hashes.as_flattened());
        bytes
    }

    /// The transfer's name: BLAKE3 of the canonical bytes.
    pub fn id_of(bytes: &[u8]) -> TransferId {
        TransferId(*blake3::hash(bytes).as_bytes())
    }

    /// Files and folders, in the order of their paths.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many files there are.
    pub fn file_count(&self) -> u32 {
        self.entries.iter().filter(|entry| entry.kind != EntryKind::Folder).count() as u32
    }

    /// Bytes of content.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> u32 {
        self.hashes.len() as u32
    }

    /// The most bytes a piece has.
    pub fn piece_bytes(&self) -> u32 {
        1 << self.piece_log2
    }

    /// The pieces of an entry.
    pub fn pieces(&self, entry: u32) -> std::ops::Range<u32> {
        self.first_piece[entry as usize]..self.first_piece[entry as usize + 1]
    }

    /// Where a piece is. Panics for a piece that is not there; numbers from outside are checked with
    /// [`Manifest::piece_count`] first.
    pub fn span(&self, piece: u32) -> Span {
        assert!(piece < self.piece_count(), "piece {piece} of {}", self.piece_count());
        let entry = self.first_piece.partition_point(|first| *first <= piece) as u32 - 1;
        let pieces = self.pieces(entry);
        let offset = u64::from(piece - pieces.start) << self.piece_log2;
        let len = (self.entries[entry as usize].size() - offset).min(self.piece_bytes().into()) as u32;
        Span { entry, offset, len, whole: pieces.len() == 1 }
    }

    /// Bytes of a piece.
    pub fn piece_len(&self, piece: u32) -> u32 {
        self.span(piece).len
    }

    /// The hash of a piece.
    pub fn hash(&self, piece: u32) -> PieceHash {
        self.hashes[piece as usize]
    }

    /// Whether `parts`, in order, are the content of a piece.
    pub fn verify<'a>(&self, piece: u32, parts: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let mut hasher = PieceHasher::new(&self.span(piece));
        parts.into_iter().for_each(|part| hasher.update(part));
        // A hash of public content is no secret: nothing is learned from how long the comparison takes.
        hasher.finish() == self.hashes[piece as usize]
    }

    /// BLAKE3 of a file, from the hashes of its pieces.
    pub fn file_hash(&self, entry: u32) -> [u8; 32] {
        let pieces = self.pieces(entry);
        match &self.hashes[pieces.start as usize..pieces.end as usize] {
            [] => *blake3::hash(b"").as_bytes(),
            [whole] => *whole,
            several => {
                let (left, right) = several.split_at(left_len(several.len()));
                *hazmat::merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes()
            }
        }
    }

    /// What people call it: the outermost name that everything is in, else the first name.
    pub fn name(&self) -> &str {
        self.entries[0].path.first()
    }

    /// How many outermost files and folders there are.
    pub fn root_count(&self) -> u32 {
        // `a-b` stands between `a` and `a/b`.
        self.entries.iter().map(|entry| entry.path.first()).collect::<BTreeSet<_>>().len() as u32
    }

    fn check(piece_log2: u8, entries: Vec<Entry>, hashes: Vec<PieceHash>) -> Result<Self, ManifestError> {
        if !(PIECE_LOG2_MIN..=PIECE_LOG2_MAX).contains(&piece_log2) {
            return Err(ManifestError::PieceSize(piece_log2));
        }
        if entries.is_empty() || entries.len() > ENTRIES_MAX as usize {
            return Err(ManifestError::Entries(entries.len() as u64));
        }
        check_paths(&entries)?;
        let mut total_bytes = 0u64;
        let mut pieces = 0u64;
        let mut first_piece = vec![0];
        for entry in &entries {
            total_bytes = total_bytes.checked_add(entry.size()).ok_or(ManifestError::Overflow)?;
            pieces += pieces_of(entry.size(), piece_log2);
            if pieces > PIECES_MAX.into() {
                return Err(ManifestError::Pieces(pieces));
            }
            first_piece.push(pieces as u32);
        }
        if pieces != hashes.len() as u64 {
            return Err(ManifestError::Hashes { expected: pieces, found: hashes.len() as u64 });
        }
        Ok(Self { entries, piece_log2, hashes, first_piece, total_bytes })
    }
}

/// Order, twins, files that are folders at once, and how many folders it takes.
///
/// What is in a folder stands together in the order of the paths, so only the folders around the current path are kept: the
/// cost is that of the paths' bytes, however deep they are.
fn check_paths(entries: &[Entry]) -> Result<(), ManifestError> {
    for pair in entries.windows(2) {
        if pair[0].path >= pair[1].path {
            return Err(ManifestError::Order(pair[1].path.clone()));
        }
    }
    // The first is what a transfer is called.
    let is_hidden = |entry: &Entry| entry.path.as_str().starts_with('.');
    if let Some(hidden) = entries.iter().find(|entry| is_hidden(entry))
        && !entries.first().is_some_and(is_hidden)
    {
        return Err(ManifestError::Hidden(hidden.path.clone()));
    }
    let mut unlisted = 0;
    let mut open = vec![OpenFolder { prefix: "", names: BTreeMap::new() }];
    for entry in entries {
        let path = entry.path.as_str();
        while open.last().is_some_and(|folder| !path.starts_with(folder.prefix)) {
            open.pop();
        }
        while let Some(folder) = open.last_mut() {
            let rest = &path[folder.prefix.len()..];
            let (name, is_last) = rest.split_once('/').map_or((rest, true), |(name, _)| (name, false));
            let is_file = is_last && entry.kind != EntryKind::Folder;
            let found = *folder.names.entry(fold(name)).or_insert_with(|| {
                // One that is listed stands before what is in it.
                unlisted += usize::from(!is_last);
                (name, is_file)
            });
            if entries.len() + unlisted > ENTRIES_MAX as usize {
                return Err(ManifestError::Folders);
            }
            match found {
                (spelling, _) if spelling != name => return Err(ManifestError::Twin(entry.path.clone())),
                _ if is_last => break,
                (_, true) => return Err(ManifestError::Overlap(entry.path.clone())),
                (_, false) => {}
            }
            let prefix = &path[..folder.prefix.len() + name.len() + 1];
            open.push(OpenFolder { prefix, names: BTreeMap::new() });
        }
    }
    Ok(())
}

/// A folder around the path that is looked at.
struct OpenFolder<'a> {
    /// Its path with a slash behind it; nothing for the outermost.
    prefix: &'a str,
    /// Folded name -> its one spelling, and whether it is a file.
    names: BTreeMap<String, (&'a str, bool)>,
}

/// Hashes one piece.
pub struct PieceHasher {
    hasher: blake3::Hasher,
    whole: bool,
}

impl PieceHasher {
    /// For the piece at `span`.
    pub fn new(span: &Span) -> Self {
        let mut hasher = blake3::Hasher::new();
        if !span.whole {
            hasher.set_input_offset(span.offset);
        }
        Self { hasher, whole: span.whole }
    }

    /// Takes more of the content.
    pub fn update(&mut self, part: &[u8]) {
        self.hasher.update(part);
    }

    /// The hash. At least one byte must have been taken, and not more than the span's.
    pub fn finish(&self) -> PieceHash {
        if self.whole { *self.hasher.finalize().as_bytes() } else { self.hasher.finalize_non_root() }
    }
}

/// The left subtree of BLAKE3 holds the largest power of two of chunks below the whole; pieces are powers of two of chunks.
fn left_len(pieces: usize) -> usize {
    pieces.next_power_of_two() / 2
}

fn merge(hashes: &[PieceHash]) -> PieceHash {
    match hashes {
        [one] => *one,
        several => {
            let (left, right) = several.split_at(left_len(several.len()));
            hazmat::merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

const KIND_FOLDER: u8 = 0;
const KIND_FILE: u8 = 1;
const KIND_EXECUTABLE: u8 = 2;

fn write_entry(bytes: &mut Vec<u8>, entry: &Entry) {
    let path = entry.path.as_str();
    bytes.push(match entry.kind {
        EntryKind::Folder => KIND_FOLDER,
        EntryKind::File { executable: false, .. } => KIND_FILE,
        EntryKind::File { executable: true, .. } => KIND_EXECUTABLE,
    });
    bytes.extend_from_slice(&(path.len() as u16).to_be_bytes());
    bytes.extend_from_slice(path.as_bytes());
    bytes.extend_from_slice(&entry.mtime.to_be_bytes());
    if let EntryKind::File { size, .. } = entry.kind {
        bytes.extend_from_slice(&size.to_be_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ManifestError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(ManifestError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were asked for"))
    }

    fn entry(&mut self) -> Result<Entry, ManifestError> {
        let [kind] = self.array()?;
        let path_len = u16::from_be_bytes(self.array()?);
        let path = std::str::from_utf8(self.take(path_len.into())?).map_err(|_| ManifestError::NotUnicode)?;
        let path = SafePath::parse(path)?;
        let mtime = i64::from_be_bytes(self.array()?);
        let kind = match kind {
            KIND_FOLDER => EntryKind::Folder,
            KIND_FILE | KIND_EXECUTABLE => EntryKind::File {
                size: u64::from_be_bytes(self.array()?),
                executable: kind == KIND_EXECUTABLE,
            },
            _ => return Err(ManifestError::Malformed),
        };
        Ok(Entry { path, kind, mtime })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str]) -> Result<(), ManifestError> {
        let entry = |path: &&str| {
            let (path, kind) = match path.strip_suffix('/') {
                Some(folder) => (folder, EntryKind::Folder),
                None => (*path, EntryKind::File { size: 0, executable: false }),
            };
            Entry { path: SafePath::parse(path).expect(path), kind, mtime: 0 }
        };
        check_paths(&paths.iter().map(entry).collect::<Vec<_>>())
    }

    fn path(text: &str) -> SafePath {
        SafePath::parse(text).expect(text)
    }

    #[test]
    fn names_may_be_the_same_in_other_folders() {
        assert_eq!(check(&["a", "a-b", "b/A/x", "b/B/A", "b/B/a2", "c/A", "d/", "d/e/", "d/e/f"]), Ok(()));
    }

    #[test]
    fn one_file_has_one_path_whatever_the_case() {
        assert_eq!(check(&["A", "a"]), Err(ManifestError::Twin(path("a"))));
        assert_eq!(check(&["x/A/b", "x/a/c"]), Err(ManifestError::Twin(path("x/a/c"))));
        assert_eq!(check(&["x/A", "x/A-b", "x/a/c"]), Err(ManifestError::Twin(path("x/a/c"))));
        assert_eq!(check(&["STRASSE/a", "straße/b"]), Err(ManifestError::Twin(path("straße/b"))));
    }

    #[test]
    fn nothing_is_a_file_and_a_folder_at_once() {
        assert_eq!(check(&["a", "a-b", "a/b"]), Err(ManifestError::Overlap(path("a/b"))));
        assert_eq!(check(&["x/y/a", "x/y/a/b/c"]), Err(ManifestError::Overlap(path("x/y/a/b/c"))));
    }

    #[test]
    fn nothing_hidden_arrives_under_the_name_of_something_else() {
        assert_eq!(
            check(&["(photos)", ".ssh/authorized_keys"]),
            Err(ManifestError::Hidden(path(".ssh/authorized_keys")))
        );
        for sound in [&[".env", "main.rs"][..], &[".env"], &["photos/.hidden"], &["(a)", "b"]] {
            assert_eq!(check(sound), Ok(()), "{sound:?}");
        }
    }

    #[test]
    fn folders_that_are_not_listed_count_like_those_that_are() {
        let deep = |number: u32| format!("{number:05}/{}x", "d/".repeat(62));
        let files = |count: u32| (0..count).map(deep).collect::<Vec<_>>();
        let check_all = |paths: &[String]| check(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        // A file and 63 folders each.
        let most = ENTRIES_MAX / 64;
        assert_eq!(check_all(&files(most)), Ok(()));
        assert_eq!(check_all(&files(most + 1)), Err(ManifestError::Folders));
        let listed: Vec<String> =
            (0..ENTRIES_MAX / 2).flat_map(|n| [format!("{n:05}/"), format!("{n:05}/x")]).collect();
        assert_eq!(check_all(&listed), Ok(()), "a listed folder counts once");
    }

    #[test]
    fn paths_stand_in_order_and_once() {
        assert_eq!(check(&["b", "a"]), Err(ManifestError::Order(path("a"))));
        assert_eq!(check(&["a", "a"]), Err(ManifestError::Order(path("a"))));
    }
}
